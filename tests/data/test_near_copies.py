"""What near copies mean for a data set."""

from __future__ import annotations

import pandas as pd
import pytest

from cxr_ops.data import manifest, near_copies

FRAME = pd.DataFrame({"image_id": ["a.png", "b.png", "c.png", "d.png"], "patient_id": ["1", "1", "2", "3"]})


def pairs(*rows: tuple[str, str, str]) -> pd.DataFrame:
    """Pairs of two images, with the reason."""
    who = dict(zip(FRAME["image_id"], FRAME["patient_id"], strict=True))
    return pd.DataFrame(
        [(one, who.get(one, "?"), other, who.get(other, "?"), "", "0.99", "", why) for one, other, why in rows],
        columns=list(manifest.COPY_COLUMNS),
    )


@pytest.mark.parametrize(
    ("rows", "pinned", "warned", "failed"),
    [
        ([], {}, (), ()),
        ([("b.png", "a.png", "")], {}, (0, 1), ()),
        ([("c.png", "a.png", "")], {"2": "with:1"}, (0, 2), (0, 2)),
        ([("c.png", "a.png", "one person")], {}, (0, 2), (0, 2)),
        ([("c.png", "a.png", "one person")], {"2": "with:1"}, (0, 2), ()),
        ([("d.png", "a.png", "one person")], {"3": "with:2", "2": "with:1"}, (0, 3), ()),
        ([("c.png", "a.png", "one person")], {"1": "train", "2": "train"}, (0, 2), ()),
        ([("c.png", "a.png", "one person")], {"1": "train", "2": "test"}, (0, 2), (0, 2)),
        ([("c.png", "a.png", "one person")], {"1": "train"}, (0, 2), (0, 2)),
        ([("c.png", "gone.png", "")], {}, (), ()),
    ],
    ids=[
        "none",
        "one patient",
        "no reason",
        "apart",
        "together",
        "in a chain",
        "pinned",
        "pinned apart",
        "half",
        "gone",
    ],
)
def test_patients_of_copies_are_on_one_side_for_a_reason(
    rows: list[tuple[str, str, str]], pinned: dict[str, str], warned: tuple[int, ...], failed: tuple[int, ...]
) -> None:
    """A pair warns; one under two patients fails without a reason, or where a change of the split could part them."""
    warning, critical = near_copies.checks(FRAME, pairs(*rows), pinned)
    assert (warning.severity, warning.passed, warning.rows) == ("warning", not warned, warned)
    assert (critical.severity, critical.passed, critical.rows) == ("critical", not failed, failed)
