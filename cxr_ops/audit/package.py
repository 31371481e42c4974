"""A model's package as the record names it: the digest of its files, and the keys that patients have in it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.errors import DataError
from cxr_ops.records.base import tree_digest

PATIENT_DIGITS: Final = 16  # hexadecimal: 64 bits


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


def patient_key(salt: str, patient_id: str) -> str:
    """Name a patient in a package: the first 16 hexadecimal digits of SHA-256(salt, patient id).

    The salt is public, so this hides nobody whose id can be guessed: NIH ids are public numbers. It keeps raw ids out
    of files that travel. Two packages can be compared when they share the salt, which `model.json` records.
    """
    return hashlib.sha256(f"{salt}\0{patient_id}".encode()).hexdigest()[:PATIENT_DIGITS]
