"""Who is trained on, validated on and tested on: a keyed hash of the patient decides, and nothing else does.

A patient's side depends on the patient id, the salt and the two fractions. Data that arrive later move nobody. A change
of the validation fraction leaves the test set as it is.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, Literal

import pandas as pd

from cxr_ops.labels import FINDINGS
from cxr_ops.records import canonical_json, sha256_bytes

Side = Literal["train", "validation", "test"]
SIDES: Final[tuple[Side, ...]] = ("train", "validation", "test")


def position(patient_id: str, salt: str) -> float:
    """Where a patient stands in [0, 1): the first 53 bits of HMAC-SHA256(salt, patient id), over 2**53.

    >>> position("1", "cxr-ops-1") == position("1", "cxr-ops-1") != position("1", "cxr-ops-2")
    True
    """
    digest = hmac.digest(salt.encode(), patient_id.encode(), hashlib.sha256)
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def side(patient_id: str, *, salt: str, validation: float, test: float) -> Side:
    """The side of a patient: test below `test`, validation in the next `validation`, train above.

    Args:
        patient_id: as in the manifest.
        salt: the public key of the hash.
        validation: expected share of patients in validation, in (0, 1).
        test: expected share of patients in test, in (0, 1).
    """
    where = position(patient_id, salt)
    if where < test:
        return "test"
    return "validation" if where < test + validation else "train"


def test_digest(rows: pd.DataFrame) -> str:
    """SHA-256 over a test set: image ids, image bytes and labels, in any order of rows.

    Args:
        rows: manifest rows; a finding is 1, 0 or missing.
    """
    entries = sorted(
        [image_id, digest, "".join("-" if pd.isna(value) else str(int(value)) for value in labels)]
        for image_id, digest, *labels in rows[["image_id", "sha256", *FINDINGS]].itertuples(index=False)
    )
    return sha256_bytes(canonical_json(entries))


test_digest.__test__ = False  # type: ignore[attr-defined]  # pytest takes a name that begins with test_ for a test
