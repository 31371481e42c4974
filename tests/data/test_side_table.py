"""Side tables: what more is known of images, for subgroups."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_ops.data import side_table
from cxr_ops.data.sources.source import Row
from cxr_ops.errors import DataError

ROWS = [
    Row(line, f"{name}.png", patient, (), None, "", "PA", Path())
    for line, name, patient in ((2, "a", "1"), (3, "b", "1"), (4, "c", "9"))
]


def write(folder: Path, text: str) -> Path:
    (folder / "more.csv").write_text(text)
    return folder / "more.csv"


def test_it_is_by_image_or_by_patient(tmp_path: Path) -> None:
    """Attributes of a patient are those of all images; what the table does not say is missing, and both are told."""
    by_image = write(tmp_path, "Image Index,Chest Drain,Site\na.png,yes,north\nz.png,no,south\n")
    found, notes = side_table.read(by_image, ROWS)
    assert found == {"a.png": {"chest_drain": "yes", "site": "north"}}
    assert notes == [
        "more.csv says nothing of 2 of 3 images: their attributes are missing",
        "more.csv: 1 of 2 images is not in the batch, and passed over",
    ]
    found, notes = side_table.read(write(tmp_path, "patient_id,scanner\n001,GE\n9,NA\n"), ROWS)
    assert found == {"a.png": {"scanner": "GE"}, "b.png": {"scanner": "GE"}, "c.png": {"scanner": ""}}
    assert notes == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("image_id,patient_id,x\na.png,1,y\n", "has both"),
        ("name,x\na.png,y\n", "has neither"),
        ("image_id\na.png\n", "no column but 'image_id'"),
        ("image_id,sex\na.png,F\n", "the manifest has a column of this name"),
        ("image_id,2nd\na.png,F\n", "it must begin with a letter"),
        ("patient_id,x\n1,y\n01,z\n", "named twice, with other values"),
    ],
)
def test_a_table_that_cannot_be_one_is_refused(tmp_path: Path, text: str, why: str) -> None:
    """What is ambiguous, or would hide a column of the manifest, is an error with its place."""
    with pytest.raises(DataError, match=why):
        side_table.read(write(tmp_path, text), ROWS)


def test_what_tells_people_apart_is_no_attribute() -> None:
    """Long texts and columns of hundreds of values are refused: they identify, and make no groups."""
    side_table.check({f"{n}.png": {"site": str(n % 200)} for n in range(1000)}, "x.csv")
    with pytest.raises(DataError, match="'name' has 201 different values"):
        side_table.check({f"{n}.png": {"name": str(n)} for n in range(201)}, "x.csv")
    with pytest.raises(DataError, match="has more than 60 characters"):
        side_table.check({"a.png": {"note": "x" * 61}}, "x.csv")
