"""Duplicates within a batch and across the data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from cxr_ops.data.checking.batch import check
from cxr_ops.data.sources import nih

MakeNih = Callable[..., Path]
ENTRIES = "Data_Entry_2017.csv"


def image(folder: Path, name: str) -> Path:
    return folder / "images" / name


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / ENTRIES
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_the_first_of_equal_rows_stays(make_nih: MakeNih) -> None:
    """Of twins that give one patient the same findings only the later one is bad; of others, both."""
    folder = make_nih(patients=6)
    rows = (folder / ENTRIES).read_text().splitlines()
    label = next(row for row in rows if row.startswith("00000003_000")).split(",")[1]
    twin = next(row for row in rows if row.startswith("00000003_001"))
    edit(folder, twin, twin.replace(twin.split(",")[1], label, 1))
    shutil.copy(image(folder, "00000003_000.png"), image(folder, "00000003_001.png"))
    checked = check(nih.read_folder(folder), "first", processes=1)
    assert [item.image_id for item in checked.problems] == ["00000003_001.png"]
    assert len(checked.frame) == 11


def test_the_real_duplicate_is_found(nih_sample: Path) -> None:
    """The release holds one of these pictures twice; it is named, and only its second row is left out."""
    checked = check(nih.read_folder(nih_sample), "sample")
    assert [(item.image_id, item.line) for item in checked.problems] == [("00002658_002.png", 371)]
    assert (len(checked.frame), checked.total) == (1297, 1298)
