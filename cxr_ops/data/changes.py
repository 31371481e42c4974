"""What two versions of a data set differ in, by their manifests. Pure: frames in, a record out."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import pandas as pd

from cxr_ops.data import manifest
from cxr_ops.data.validation import count_labels
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.records.data import DataRevision
from cxr_ops.records.versions import Difference, FindingChange

_MISSING: Final = "missing"


def compare(before: pd.DataFrame, after: pd.DataFrame, revisions: tuple[DataRevision, DataRevision]) -> Difference:
    """Compare two versions, image by image; an image is known by its id.

    Args:
        before: manifest of the one, see `manifest.read_manifest`; it may have no rows.
        after: manifest of the other.
        revisions: their data revisions.
    """
    old, new = before.set_index("image_id"), after.set_index("image_id")
    added, removed = new[~new.index.isin(old.index)], old[~old.index.isin(new.index)]
    common = old.index[old.index.isin(new.index)]
    was, now = old.loc[common], new.loc[common]
    columns = [name for name in manifest.COLUMNS if name != "image_id"]
    differ = {name: _differ(was[name], now[name]) for name in columns}
    changed = pd.concat(differ, axis=1).any(axis=1) if len(common) else pd.Series(dtype=bool)
    patients = set(old["patient_id"]), set(new["patient_id"])
    batches = tuple(set(one.batches) for one in revisions)
    return Difference(
        before=revisions[0].revision,
        after=revisions[1].revision,
        images=(len(old), len(new)),
        patients=(len(patients[0]), len(patients[1])),
        kept_patients=len(patients[0] & patients[1]),
        added_batches=sorted(batches[1] - batches[0]),
        removed_batches=sorted(batches[0] - batches[1]),
        added_images=sorted(added.index),
        removed_images=sorted(removed.index),
        changed_images=sorted(common[changed.to_numpy(dtype=bool)]) if len(common) else [],
        added_patients=sorted(patients[1] - patients[0]),
        removed_patients=sorted(patients[0] - patients[1]),
        changed_columns={
            name: int(found.sum()) for name, found in differ.items() if name not in FINDINGS and found.any()
        },
        sources=_counts(old["source"], new["source"]),
        views=_counts(old["view"], new["view"]),
        findings={
            finding: FindingChange(
                before=count_labels(old[finding]),
                after=count_labels(new[finding]),
                added=count_labels(added[finding]),
                removed=count_labels(removed[finding]),
                relabelled=_relabelled(was[finding], now[finding], differ[finding]),
            )
            for finding in FINDINGS
        },
    )


def word(label: Any) -> str:
    """A label in a word.

    >>> [word(label) for label in (1, 0, -1, None)]
    ['1', '0', 'uncertain', 'missing']
    """
    if label is None or pd.isna(label):
        return _MISSING
    return "uncertain" if label == UNCERTAIN else str(int(label))


def _differ(was: pd.Series[Any], now: pd.Series[Any]) -> pd.Series[bool]:
    """Whether two columns with one index differ; two missing values do not."""
    both_missing = was.isna() & now.isna()
    return ~((was == now).fillna(value=False).astype(bool) | both_missing)


def _relabelled(was: pd.Series[Any], now: pd.Series[Any], differ: pd.Series[bool]) -> dict[str, int]:
    pairs = zip(was[differ], now[differ], strict=True)
    return dict(sorted(Counter(f"{word(one)} -> {word(other)}" for one, other in pairs).items()))


def _counts(was: pd.Series[Any], now: pd.Series[Any]) -> dict[str, tuple[int, int]]:
    before, after = was.value_counts(), now.value_counts()
    return {
        str(name): (int(before.get(name, 0)), int(after.get(name, 0))) for name in sorted({*before.index, *after.index})
    }
