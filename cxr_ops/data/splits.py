"""Who is trained on, validated on and tested on: a keyed hash of the patient decides, and nothing else does.

A patient's side depends on the patient id, the salt and the two fractions. Data that arrive later move nobody. A change
of the validation fraction leaves the test set as it is. When a test period ends, the test patients that it has scored
retire: they are not tested on again, and never trained on.

A batch may come with its source's own split, where a person insisted on it (`sides.csv`): it then has the word on its
patients. There too stands a patient who goes with another one, because a person accepted that both show one picture:
both are then on the side of the other. Only frontal views have a side: a lateral image, or one of unknown view, is kept
in the data set and is not trained on, validated on or tested on.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal

import pandas as pd

from cxr_ops.errors import DataError
from cxr_ops.labels import DEVELOPMENT, FINDINGS, UNCERTAIN, VIEWS
from cxr_ops.records.base import canonical_json, sha256_bytes

Side = Literal["train", "validation", "test"]
SIDES: Final[tuple[Side, ...]] = ("train", "validation", "test")
RETIRED: Final = "retired"  # a test patient of an earlier period: on nobody's side any more
NOT_FRONTAL: Final = "not-frontal"  # an image whose view is lateral or unknown
WITH: Final = "with:"  # before the id of the patient with whom one goes


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


def pinned_side(pin: str, patient_id: str, *, salt: str, validation: float, test: float) -> Side:
    """The side of a patient to whom a source's own split gives one, which is a side or `DEVELOPMENT`.

    Of those in `DEVELOPMENT` the same share is validated on as of all who are not tested on.
    """
    if pin != DEVELOPMENT:
        return next(one for one in SIDES if one == pin)
    # The hash again, over the two sides that are open: whoever it would test on is spread over them.
    where = position(patient_id, salt)
    within = where / test if where < test else (where - test) / (1 - test)
    return "validation" if within < validation / (1 - test) else "train"


def leader(patient_id: str, pinned: Mapping[str, str]) -> str:
    """The patient whose side one has: one's own, or that of the patient with whom one goes, and so on.

    Args:
        patient_id: as in the manifest.
        pinned: as `manifest.read_sides` gives it.

    Raises:
        DataError: they go round in a circle.

    >>> leader("3", {"3": "with:2", "2": "with:1"}), leader("1", {"1": "test"})
    ('1', '1')
    """
    seen = [patient_id]
    while pinned.get(seen[-1], "").startswith(WITH):
        seen.append(pinned[seen[-1]].removeprefix(WITH))
        if seen[-1] in seen[:-1]:
            raise DataError(f"patients go with one another in a circle: {' with '.join(seen)}", where="sides.csv")
    return seen[-1]


def side_of(patient_id: str, pinned: Mapping[str, str], *, salt: str, validation: float, test: float) -> Side:
    """The side of a patient, whatever decides it.

    Args:
        patient_id: as in the manifest.
        pinned: as `manifest.read_sides` gives it.
        salt: see `side`.
        validation: see `side`.
        test: see `side`.

    Raises:
        DataError: see `leader`.
    """
    first = leader(patient_id, pinned)
    if first in pinned:
        return pinned_side(pinned[first], first, salt=salt, validation=validation, test=test)
    return side(first, salt=salt, validation=validation, test=test)


def assign(
    rows: pd.DataFrame,
    *,
    salt: str,
    validation: float,
    test: float,
    closed_batches: Collection[str] = (),
    pinned: Mapping[str, str] | None = None,
    withdrawn: pd.DataFrame | None = None,
) -> pd.Series[Any]:
    """The side of each image: its patient's, or `RETIRED` where that is a test patient of an earlier period.

    Args:
        rows: `patient_id`, `batch` and `view` of each image; without views, all are taken to be frontal.
        salt: see `side`.
        validation: see `side`.
        test: see `side`.
        closed_batches: batches of earlier periods. One image in them retires a test patient with all images.
        pinned: the patients to whom a source's own split gives a side, see `pinned_side`, or who go with another.
        withdrawn: `patient_id` and `batch` of images that are withdrawn: they count among those in closed batches.

    Returns:
        One of `SIDES`, `RETIRED` or, whosever the image is, `NOT_FRONTAL`.

    Raises:
        DataError: see `leader`.
    """
    pins = pinned or {}
    known = {
        patient: side_of(patient, pins, salt=salt, validation=validation, test=test)
        for patient in rows["patient_id"].unique()
    }
    sides: pd.Series[Any] = rows["patient_id"].map(known).astype(object)
    before = scored_before(rows, closed_batches, withdrawn)
    sides = sides.mask((sides == "test") & rows["patient_id"].isin(before), RETIRED)
    return sides if "view" not in rows else sides.where(rows["view"].isin(VIEWS), NOT_FRONTAL)


def scored_before(
    rows: pd.DataFrame, closed_batches: Collection[str], withdrawn: pd.DataFrame | None = None
) -> set[str]:
    """The patients who have, or had, an image in a batch of an earlier period, whatever their side.

    Args:
        rows: `patient_id` and `batch` of each image.
        closed_batches: batches of earlier periods.
        withdrawn: the same columns of images that are withdrawn.
    """
    known = [rows] if withdrawn is None else [rows, withdrawn]
    return {one for part in known for one in part.loc[part["batch"].isin(list(closed_batches)), "patient_id"]}


def test_digest(rows: pd.DataFrame) -> str:
    """SHA-256 over a test set: image ids, image bytes and labels, in any order of rows.

    Args:
        rows: manifest rows. A label is written `1`, `0`, `?` (uncertain) or `-` (missing).
    """
    entries = sorted(
        [image_id, digest, "".join(map(_symbol, labels))]
        for image_id, digest, *labels in rows[["image_id", "sha256", *FINDINGS]].itertuples(index=False)
    )
    return sha256_bytes(canonical_json(entries))


def _symbol(label: Any) -> str:
    if pd.isna(label):
        return "-"
    return "?" if label == UNCERTAIN else str(int(label))


test_digest.__test__ = False  # type: ignore[attr-defined]  # pytest takes a name that begins with test_ for a test
