"""A model directory as it is served: its signature first, then the bytes that were signed, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_ops.audit import package as packages
from cxr_ops.audit import signature
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.package import Package
from cxr_ops.contract import PACKAGE, PACKAGE_FILES
from cxr_ops.data.receipts import Served, digest_of
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.records.base import sha256_bytes

_PACKAGE: Final = f"artifacts/{PACKAGE}"


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is served.

    Attributes:
        directory: digest of the whole signed directory.
        key: fingerprint of the key that signed it.
        package: its four files in memory; nothing of it has run.
        points: finding -> probability from which it is called.
    """

    directory: str
    key: str
    package: Package
    points: Mapping[str, float]

    def served(self, entries: list[Entry]) -> Served:
        """What its receipts have in common; the ledger's entry is the last that made it champion or decided on it."""
        digest = self.package.digest
        about = [
            entry.digest()
            for kind in ("decision", "promotion")
            for entry in entries
            if entry.kind == kind and (entry.decision if kind == "decision" else entry.promotion).package == digest
        ]
        return Served(
            model=digest,
            preprocessing=digest_of(self.package.contract["input"]),
            operating_points=digest_of(dict(self.points)) if self.points else None,
            ledger_entry=about[-1] if about else None,
        )


def read(folder: Path, keys: Mapping[str, bytes], expected: str | None = None) -> Model:
    """Check the signature over a model directory, and read of it what is served.

    What is used are bytes that were hashed: a file that is exchanged while this reads is found.

    Args:
        folder: the directory, as `cxr-ops model fetch` leaves it.
        keys: the public keys that are believed, by their fingerprints.
        expected: the digest that the directory must have, where a record names one.

    Raises:
        RefusedError: its signature is missing or wrong, or it is not what was signed; see `signature.verify`.
        DataError: what was signed is no model of this project.
    """
    signed = signature.verify(folder, keys, expected)
    try:
        described = (folder / packages.MLMODEL).read_bytes()
    except OSError as error:
        raise DataError(f"the directory holds no {packages.MLMODEL}", where=folder) from error
    package = packages.read(folder / _PACKAGE)
    listed = signature.resources(folder)
    used = {packages.MLMODEL: described, **{f"{_PACKAGE}/{name}": package.files[name] for name in PACKAGE_FILES}}
    if signature.digest(listed) != signed.directory or any(
        sha256_bytes(data) != listed.get(name) for name, data in used.items()
    ):
        raise RefusedError("the model directory was changed while it was read", where=folder, fix="fetch it again")
    config = packages.configured(described, folder / packages.MLMODEL)
    if config.get(PACKAGE) != package.digest:
        raise DataError("MLmodel names another package than stands beside it", where=folder)
    return Model(
        directory=signed.directory, key=signed.key, package=package, points=dict(config.get(packages.POINTS) or {})
    )
