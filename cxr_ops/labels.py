"""The 14 findings of ChestX-ray14, in the one order that every array and artifact of this project uses.

Source: Wang et al., "ChestX-ray8", CVPR 2017, and the file `Data_Entry_2017.csv` of the release.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

FINDINGS: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
# A finding that its reader could not decide on, as CheXpert writes it. A finding is 1, 0, this, or missing.
UNCERTAIN = -1
VIEWS: tuple[str, ...] = ("PA", "AP")  # frontal: what is trained on and judged
# Kept in a data set, and neither trained on nor judged, as is an image whose view is missing: lateral with the left or
# the right side at the detector, lateral of either kind, and what is no view of the chest that has a name here.
OTHER_VIEWS: tuple[str, ...] = ("LL", "RL", "LATERAL", "OTHER")
SEXES: tuple[str, ...] = ("F", "M")
# What a source's own split may say of a patient besides train, validation and test: one of the first two, left open.
DEVELOPMENT = "development"

# `BBox_List_2017.csv` writes one finding in another way than `Data_Entry_2017.csv`.
BOX_NAMES: dict[str, str] = {"Infiltrate": "Infiltration"}

_INDEX = {finding: i for i, finding in enumerate(FINDINGS)}


class UnknownLabelError(ValueError):
    """A label that is not one of the 14 findings, or a set of labels that contradicts itself."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word most like `word`, or None when none is alike.

    >>> nearest("Pleural Thickening", FINDINGS)
    'Pleural_Thickening'
    """
    by_key = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.strip().lower(), by_key, n=1, cutoff=0.6)
    return by_key[close[0]] if close else None


def parse_labels(text: str) -> tuple[int, ...]:
    """Read the NIH's `Finding Labels` column: names joined by `|`, or `No Finding`.

    Returns:
        14 values, 1 for a finding that is named and 0 for one that is not, in the order of `FINDINGS`.

    Raises:
        UnknownLabelError: a name that is not a finding (blanks around it included), one named twice, `No Finding`
            beside a finding, or nothing at all.

    >>> sum(parse_labels("Mass|Nodule")), sum(parse_labels("No Finding"))
    (2, 0)
    """
    names = text.split("|")
    if names == [NO_FINDING]:
        return (0,) * len(FINDINGS)
    values = [0] * len(FINDINGS)
    for name in names:
        if name == NO_FINDING:
            raise UnknownLabelError(f"{text!r} says {NO_FINDING!r} and names a finding as well")
        if name not in _INDEX:
            guess = nearest(name, (*FINDINGS, NO_FINDING))
            hint = f"; the nearest known label is {guess!r}" if guess else ""
            raise UnknownLabelError(f"{name!r} is not one of the 14 NIH findings{hint}")
        if values[_INDEX[name]]:
            raise UnknownLabelError(f"{text!r} names {name!r} twice")
        values[_INDEX[name]] = 1
    return tuple(values)


def format_labels(values: Iterable[int]) -> str:
    """Write 14 values as the NIH's `Finding Labels` column; the inverse of `parse_labels`.

    >>> format_labels(parse_labels("Mass|Nodule"))
    'Mass|Nodule'
    """
    present = [finding for finding, value in zip(FINDINGS, values, strict=True) if value]
    return "|".join(present) or NO_FINDING
