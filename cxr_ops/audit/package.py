"""A model's package as the record names it, and what it says of itself. None of its code runs here.

    weights.safetensors   the network's tensors, float32, nothing that unpickles
    model.json            the contract: findings in order, input, normalisation, intended use, where it comes from
    network.py            the code that builds the network and prepares its input, as it was at training
    patients.txt          keyed hashes of the patients of train and validation, and of those that the champion had seen
                          if training started from it, sorted, one a line

The digest of a package is over the names and bytes of the four. A folder with a fifth file is no package.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import NEWER_FIX, canonical_json, sha256_bytes, tree_digest

WEIGHTS: Final = "weights.safetensors"
CONTRACT: Final = "model.json"
NETWORK: Final = "network.py"
PATIENTS: Final = "patients.txt"

MLMODEL: Final = "MLmodel"
POINTS: Final = "points"  # in MLmodel: finding -> probability from which it is called

NEWEST: Final = 2  # format of a contract
PATIENT_DIGITS: Final = 16  # hexadecimal: 64 bits keep a hundred thousand patients apart


@dataclass(frozen=True, kw_only=True)
class Described:
    """What a package says of its model.

    Attributes:
        folder: where it was read.
        digest: the package's digest.
        contract: `model.json`.
        patients: keyed hashes of the patients that the model was trained or tuned on.
    """

    folder: Path
    digest: str
    contract: dict[str, Any]
    patients: frozenset[str]

    @property
    def trained(self) -> tuple[str, ...]:
        """The findings that the model was trained on, and that alone it scores."""
        return tuple(self.contract.get("trained", self.contract["findings"]))

    @property
    def image_size(self) -> int:
        """Side of the network's input in pixels."""
        return int(self.contract["input"]["image_size"])


@dataclass(frozen=True, kw_only=True)
class Package(Described):
    """A package that was read and checked, all but its weights and its code, of which nothing has run.

    Attributes:
        files: the bytes of each of the four files, by its name.
    """

    files: Mapping[str, bytes]


def read(folder: Path, expected_digest: str | None = None) -> Package:
    """Read a package and check all but its weights and its code, of which nothing is run.

    What was hashed is what is used: every file is read once. Without `expected_digest`, whoever wrote the folder is
    trusted.

    Raises:
        DataError: a file is missing, or one too many is there; the digest is another; the contract is not one of this
            version, or the findings are others or in another order; the list of patients is none.
    """
    check_names(folder)
    return checked({name: (folder / name).read_bytes() for name in PACKAGE_FILES}, folder, expected_digest)


def checked(files: Mapping[str, bytes], folder: Path, expected_digest: str | None = None) -> Package:
    """Check the bytes of a package's four files; see `read`.

    Args:
        files: the bytes of each of the four, by its name.
        folder: where they come from, for errors.
        expected_digest: of the package; None: any.

    Raises:
        DataError: see `read`.
    """
    found = sha256_bytes(canonical_json({name: sha256_bytes(data) for name, data in files.items()}))
    if expected_digest is not None and found != expected_digest:
        raise DataError(
            f"the package is not the one on record: its digest is {found[:12]}, expected {expected_digest[:12]}",
            where=folder,
            fix="fetch the package again: cxr-ops open",
        )
    terms = _read_contract(files[CONTRACT], folder)
    patients = _read_patients(files[PATIENTS], folder)
    return Package(folder=folder, files=files, digest=found, contract=terms, patients=patients)


def is_part(findings: object) -> bool:
    """Whether something is a list of findings, at least one, in the order of `FINDINGS`."""
    if not isinstance(findings, list | tuple) or not findings:
        return False
    return list(findings) == [name for name in FINDINGS if name in findings]


def _read_contract(data: bytes, folder: Path) -> dict[str, Any]:
    where = folder / CONTRACT
    try:
        terms = json.loads(data)
    except ValueError as error:
        raise DataError(f"{CONTRACT} is not JSON: {error}", where=where) from error
    number = terms.get("format") if isinstance(terms, dict) else None
    if isinstance(number, int) and number > NEWEST:
        raise DataError(
            f"{CONTRACT} has format {number}, and this version of cxr-ops reads formats up to {NEWEST}",
            where=where,
            fix=NEWER_FIX,
        )
    if not isinstance(terms, dict) or number not in (1, 2):
        raise DataError(f"{CONTRACT} is not of format 1 or 2", where=where)
    if missing := sorted({"architecture", "findings", "input", "output", "training"} - terms.keys()):
        raise DataError(f"{CONTRACT} lacks {', '.join(missing)}", where=where)
    if terms["findings"] != list(FINDINGS):
        raise DataError("the package names other findings, or in another order, than this version", where=where)
    if ("trained" in terms) != (terms["format"] == 2) or ("trained" in terms and not is_part(terms["trained"])):
        raise DataError("a contract of format 2, and no other, lists the trained findings in their order", where=where)
    side, std = terms["input"].get("image_size"), terms["input"].get("std")
    if not (isinstance(side, int) and side > 0 and isinstance(std, float) and std > 0):
        raise DataError("the input of the contract needs an image_size and a std above 0", where=where)
    return terms


def _read_patients(data: bytes, folder: Path) -> frozenset[str]:
    lines = data.decode("ascii", errors="replace").splitlines()
    plain = all(len(line) == PATIENT_DIGITS and set(line) <= set("0123456789abcdef") for line in lines)
    if not plain or lines != sorted(set(lines)):
        raise DataError(f"{PATIENTS} is not a sorted list of keyed hashes", where=folder / PATIENTS)
    return frozenset(lines)


def digest(folder: Path) -> str:
    """Digest of a package: SHA-256 over the names and SHA-256 of its four files.

    Raises:
        DataError: the folder does not hold the four files and nothing else.
    """
    check_names(folder)
    return tree_digest(folder, PACKAGE_FILES)


def check_names(folder: Path) -> None:
    """See that a folder holds the files of a package and nothing else.

    Raises:
        DataError: it does not; what is missing or should not be there is named.
    """
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            "there is no model package here",
            where=folder,
            fix="cxr-ops stage train --run RUN; in a checkout: dvc repro train",
        ) from error
    names = {entry.name for entry in entries}
    if missing := sorted(set(PACKAGE_FILES) - names):
        raise DataError(f"the package lacks {', '.join(missing)}", where=folder)
    if extra := sorted(names - set(PACKAGE_FILES)):
        raise DataError(f"the package holds what no package holds: {', '.join(extra)}", where=folder)
    for entry in entries:
        if entry.is_symlink() or not entry.is_file():
            raise DataError(f"{entry.name} is not a plain file", where=folder)


def configured(described: bytes, where: object) -> dict[str, Any]:
    """What the model in a signed directory is configured with: its `package`, and its operating points.

    Args:
        described: the bytes of `MLmodel`.
        where: for errors.

    Raises:
        DataError: it is not as this project writes it.
    """
    import yaml

    try:
        found = yaml.safe_load(described)["flavors"]["python_function"]["config"]
        points = found.get(POINTS) or {}
        right = all(name in FINDINGS and float(at) >= 0 for name, at in points.items())
    except (yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{MLMODEL} names no package", where=where) from error
    if not right:
        raise DataError(f"{MLMODEL} has operating points that are none", where=where)
    return dict(found)


def patient_key(salt: str, patient_id: str) -> str:
    """Name a patient in a package: the first 16 hexadecimal digits of SHA-256(salt, patient id).

    The salt is public, so this hides nobody whose id can be guessed: NIH ids are public numbers. It keeps raw ids out
    of files that travel. Two packages can be compared when they share the salt, which `model.json` records.
    """
    return hashlib.sha256(f"{salt}\0{patient_id}".encode()).hexdigest()[:PATIENT_DIGITS]
