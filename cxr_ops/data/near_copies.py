"""Checks of the near copies that batches came with: see `cxr_ops.data.checking.copies` for how they are found."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from cxr_ops.data import manifest, splits
from cxr_ops.data.validation import Check

SUITE = "near copies"


def read(folders: Iterable[Path]) -> pd.DataFrame:
    """The pairs of near copies of the batches in these folders.

    Returns:
        A frame with `manifest.COPY_COLUMNS`, as text.

    Raises:
        DataError: a file is damaged.
    """
    paths = sorted(path for folder in folders if (path := folder / manifest.COPIES).is_file())
    empty = pd.DataFrame({name: [] for name in manifest.COPY_COLUMNS}, dtype=str)
    return pd.concat([empty, *(manifest.read_table(path, manifest.COPY_COLUMNS) for path in paths)], ignore_index=True)


def checks(frame: pd.DataFrame, pairs: pd.DataFrame, pinned: Mapping[str, str]) -> list[Check]:
    """What near copies mean for a data set.

    A near copy is a warning. Two patients with near copies are a failure unless a person gave a reason and both are on
    one side whatever the settings of the split: one goes with the other, or both are where their sources' own splits
    have them.

    Args:
        frame: the manifest of the data set, as `manifest.read_manifest` gives it.
        pairs: as `read` gives it; pairs of which an image has left the data set do not count.
        pinned: as `manifest.read_sides` gives it.

    Raises:
        DataError: see `splits.leader`.
    """
    rows = {image_id: row for row, image_id in enumerate(frame["image_id"])}
    patients = dict(zip(frame["image_id"], frame["patient_id"], strict=True))
    here = pairs[pairs["image_id"].isin(rows) & pairs["other_id"].isin(rows)]
    apart: set[int] = set()
    two = 0
    for one, other, reason in zip(here["image_id"], here["other_id"], here["reason"], strict=True):
        leaders = {splits.leader(patients[image_id], pinned) for image_id in (one, other)}
        two += patients[one] != patients[other]
        fixed = len({pinned.get(leader) for leader in leaders}) == 1 and leaders <= pinned.keys()
        if patients[one] != patients[other] and not (reason and (len(leaders) == 1 or fixed)):
            apart |= {rows[one], rows[other]}
    return [
        Check(
            suite=SUITE,
            says="No picture is a near copy of another one.",
            severity="warning",
            passed=here.empty,
            rows=tuple(sorted({rows[image_id] for name in ("image_id", "other_id") for image_id in here[name]})),
            found="" if here.empty else f"near copies: {len(here):,}, of them under two patients: {two:,}",
        ),
        Check(
            suite=SUITE,
            says="Patients of near copies under two names are on one side of the split, and a person said why.",
            severity="critical",
            passed=not apart,
            rows=tuple(sorted(apart)),
        ),
    ]
