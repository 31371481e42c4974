"""Duplicates within a batch and across the data set."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.checking.decode import Inspected
from cxr_ops.data.checking.duplicates import Known, Picture, across, look_up
from cxr_ops.data.index import Index
from cxr_ops.data.sources import nih
from cxr_ops.data.sources.source import Row
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_file

MakeNih = Callable[..., Path]
ENTRIES = "Data_Entry_2017.csv"


def image(folder: Path, name: str) -> Path:
    return folder / "images" / name


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / ENTRIES
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def read(held: Mapping[str, Path]) -> Known:
    """All that a data set holds, by reading every table of it."""
    names, pictures, sexes = {}, {}, {}
    for batch, folder in held.items():
        rows, pixels = (pd.read_csv(folder / name, dtype=str) for name in ("manifest.csv", "pixels.csv"))
        for row in rows.merge(pixels, on="image_id").itertuples():
            names[row.image_id.lower()] = batch
            pictures[row.pixels_sha256] = Picture(row.image_id, row.patient_id, batch)
            sexes[row.patient_id] = row.sex
    return Known(names, pictures, sexes)


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
    other = make_nih("other", patients=6)
    shutil.copy(image(other, "00000003_000.png"), image(other, "00000003_001.png"))  # of one patient, by other labels
    checked = check(nih.read_folder(other), "first", processes=1)
    assert [item.image_id for item in checked.problems] == ["00000003_000.png", "00000003_001.png"]
    assert all("the rows contradict each other" in item.what for item in checked.problems)


def test_the_real_duplicate_is_found(nih_sample: Path) -> None:
    """The release holds one of these pictures twice; it is named, and only its second row is left out."""
    checked = check(nih.read_folder(nih_sample), "sample")
    assert [(item.image_id, item.line) for item in checked.problems] == [("00002658_002.png", 371)]
    assert (len(checked.frame), checked.total) == (1297, 1298)


def test_the_index_finds_what_the_tables_hold(make_nih: MakeNih, tmp_path: Path) -> None:
    """Rows that are held, shown again or contradicted are the same ones by the index as by reading every table."""
    held: dict[str, Path] = {}
    for name, first in (("one", 1), ("two", 7)):
        build(
            tmp_path / name, check(nih.read_folder(make_nih(f"{name}-nih", patients=6, first=first)), name, processes=1)
        )
        held[name] = tmp_path / name
    again = make_nih("again", patients=8, first=5)  # 5 to 10 are held, 11 and 12 partly
    edit(again, "00000012_000.png", "00000099_000.png")
    image(again, "00000012_000.png").rename(image(again, "00000099_000.png"))
    for _ in range(2):  # both images of the patient
        edit(again, ",12,32,F,", ",12,32,M,")
    listing = nih.read_folder(again)
    digests = {name: sha256_file(folder / "batch.json") for name, folder in held.items()}
    with Index(tmp_path / "index.sqlite") as index:
        for name, folder in held.items():
            index.add(digests[name], folder)
        by_index = check(
            listing, "three", known=lambda rows, seen: look_up(rows, seen, index, digests.values()), processes=1
        )
    by_tables = check(listing, "three", known=lambda *_: read(held), processes=1)
    assert [str(item) for item in by_index.problems] == [str(item) for item in by_tables.problems]
    assert {"in the data set and" in item.what for item in by_index.problems} == {True, False}
    assert len(by_index.problems) >= 12


@pytest.mark.parametrize(
    ("name", "owner", "told"),
    [
        ("a.png", "2", "under the patient 1, and the data set holds this picture as b.png under the patient 2"),
        ("a.png", "1", "the data set holds an image of this name, in the batch 'one'"),
        ("c.png", "1", "the data set holds this picture as b.png of the batch 'one'"),
    ],
)
def test_a_held_picture_is_told_by_whom_it_shows_first(name: str, owner: str, told: str) -> None:
    """That a picture stands under another patient is told before that its name is taken: it matters more."""
    row = Row(2, name, "1", (0,) * len(FINDINGS), 40, "F", "PA", Path(name))
    known = Known(names={"a.png": "one"}, pictures={"d": Picture("b.png", owner, "one")})
    ((found, what),) = across([row], {name: Inspected("s", "d", 9, 9, 99)}, known)
    assert found is row
    assert what.startswith(told)
