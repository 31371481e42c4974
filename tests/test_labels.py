"""Tests of cxr_ops.labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ops import labels


def test_order_is_that_of_the_paper(nih_sample) -> None:
    """The 14 names are exactly those that occur in the NIH's own file."""
    lines = (nih_sample / "Data_Entry_2017.csv").read_text().splitlines()[1:]
    seen = {name for line in lines for name in line.split(",")[1].split("|")} - {labels.NO_FINDING}
    assert seen == set(labels.FINDINGS)
    assert len(labels.FINDINGS) == 14


@given(st.lists(st.integers(0, 1), min_size=14, max_size=14))
def test_writing_and_reading_are_inverse(values: list[int]) -> None:
    """What is written as the NIH's column is read back as the same 14 values."""
    assert list(labels.parse_labels(labels.format_labels(values))) == values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Pleural Thickening", "nearest known label is 'Pleural_Thickening'"),
        ("Mass ", "nearest known label is 'Mass'"),
        ("Mass|Mass", "names 'Mass' twice"),
        ("No Finding|Mass", "names a finding as well"),
        ("", "is not one of the 14"),
    ],
)
def test_unknown_or_contradictory_label_is_refused(text: str, said: str) -> None:
    """A label that is unknown, doubled or contradicts another is refused, with the nearest known one."""
    with pytest.raises(labels.UnknownLabelError, match=said):
        labels.parse_labels(text)
