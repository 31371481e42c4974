"""What two manifests differ in, held against counts made by hand and by sets."""

from __future__ import annotations

from typing import Any

import pandas as pd

from cxr_ops.data import changes
from cxr_ops.labels import FINDINGS
from cxr_ops.records.data import DataRevision
from cxr_ops.records.validation import Labels

BEFORE, AFTER = DataRevision(revision="a" * 40, batches={"x": "1"}), DataRevision(revision="b" * 40, batches={"y": "2"})


def _row(image_id: str, patient: str, mass: int | None = 0, **more: Any) -> dict[str, Any]:
    facts = {"sha256": image_id, "source": "nih", "batch": "x", "view": "PA", "age": 50, "sex": "F", "width": 9}
    labels = dict.fromkeys(FINDINGS, 0) | {"Mass": mass}
    return {"image_id": image_id, "patient_id": patient, **facts, "height": 9, **labels, "line": 2, **more}


def _frame(*rows: dict[str, Any]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.astype(dict.fromkeys(("age", *FINDINGS), "Int64")) if len(frame) else frame


def test_images_patients_and_labels_are_compared() -> None:
    """Each image is added, removed, changed or the same; a patient may stay while an image goes."""
    before = _frame(
        _row("1", "a"), _row("2", "a", 1), _row("3", "b", None), _row("4", "c", -1), _row("5", "d", 1, age=pd.NA)
    )
    after = _frame(
        _row("2", "a", 0),
        _row("3", "b", 1),
        _row("4", "c", -1, view="AP"),
        _row("5", "d", 1, age=pd.NA),
        _row("6", "e"),
    )
    found = changes.compare(before, after, (BEFORE, AFTER))
    assert (found.images, found.patients, found.kept_patients) == ((5, 5), (4, 5), 4)
    assert (found.added_images, found.removed_images) == (["6"], ["1"])
    assert (found.added_patients, found.removed_patients) == (["e"], [])
    assert found.changed_images == ["2", "3", "4"]
    assert found.changed_columns == {"view": 1}
    assert found.views == {"AP": (0, 1), "PA": (5, 4)}
    mass = found.findings["Mass"]
    assert mass.relabelled == {"1 -> 0": 1, "missing -> 1": 1}
    assert (mass.before, mass.after) == (
        Labels(positive=2, known=3, uncertain=1), Labels(positive=2, known=4, uncertain=1)
    )  # fmt: skip
    assert (mass.before.prevalence, mass.after.prevalence) == (2 / 3, 0.5)
    assert found.findings["Hernia"].relabelled == {}
    assert (found.added_batches, found.removed_batches) == (["y"], ["x"])


def test_the_same_version_differs_in_nothing() -> None:
    """A manifest against itself, missing values among them, has no change."""
    frame = _frame(_row("1", "a", None, age=pd.NA), _row("2", "b", -1))
    found = changes.compare(frame, frame, (BEFORE, BEFORE))
    assert found.added_images == found.removed_images == found.changed_images == []
    assert found.changed_columns == {}
    assert found.kept_patients == 2


def test_a_version_may_hold_nothing() -> None:
    """Against a version without images everything was added, and a prevalence is undefined."""
    frame = _frame(_row("1", "a", 1))
    found = changes.compare(frame.iloc[:0], frame, (BEFORE, AFTER))
    assert (found.images, found.added_images) == ((0, 1), ["1"])
    assert found.findings["Mass"].before.prevalence is None
