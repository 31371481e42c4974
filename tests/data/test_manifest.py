"""The manifest's tables: written in one way, read without guessing."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ops.data import manifest
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_file
from cxr_ops.records.data import Batch


def row(image_id: str, batch: str = "first", age: str = "40", findings: str = "0") -> list[str]:
    return [image_id, "7", "ab" * 32, "nih", batch, "PA", age, "F", "64", "48", *([findings] * 13), ""]


def write(path: Path, rows: list[list[str]], header: tuple[str, ...] = manifest.COLUMNS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([list(header), *rows])
    return path


def write_batch(folder: Path, rows: list[list[str]], images: int | None = None) -> None:
    write(folder / "manifest.csv", rows)
    write(folder / "boxes.csv", [["b.png", "Mass", "1", "2.5", "3", "4"]], manifest.BOX_COLUMNS)
    files = {name: sha256_file(folder / name) for name in ("manifest.csv", "boxes.csv")}
    count = len(rows) if images is None else images
    Batch(name=folder.name, source="nih", images=count, patients=1, files=files).write(folder / "batch.json")


def test_values_keep_their_kind(tmp_path: Path) -> None:
    """Text stays text, numbers are whole, missing values are missing, and each row knows its line."""
    frame = manifest.read_manifest(write(tmp_path / "m.csv", [row("a.png", age=""), row("b.png", findings="1")]))
    assert frame["patient_id"].tolist() == ["7", "7"]
    assert frame["age"].isna().tolist() == [True, False]
    assert frame["width"].tolist() == [64, 64]
    assert frame["line"].tolist() == [2, 3]
    array = manifest.label_array(frame)
    assert array.dtype == np.float32
    assert np.array_equal(array, [[0] * 13 + [np.nan], [1] * 13 + [np.nan]], equal_nan=True)


def test_reading_and_writing_are_inverse(tmp_path: Path) -> None:
    """A manifest that is read and written again has the same bytes."""
    path = write(tmp_path / "m.csv", [row("a.png", age=""), row("b.png", findings="")])
    assert manifest.to_csv(manifest.read_manifest(path), manifest.COLUMNS) == path.read_bytes()


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
def test_rows_are_those_of_the_csv_module(tmp_path: Path, end: str, quoting: int) -> None:
    """With quotes or without, with blank lines and empty fields, rows and lines are as `csv` reads them."""
    lines = [["a", "b", "c"], ["1", "", "3"], [], ["", "", ""], ["x y", "\u00e4", "-1"], [], ["last", "2", "3"]]
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator=end, quoting=quoting).writerows(lines)
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        reader = csv.reader(file, strict=True)
        expected = [(reader.line_num, fields) for fields in reader if fields]
    assert manifest.read_rows(tmp_path / "t.csv") == expected
    (tmp_path / "t.csv").write_text("a,b\n1,2")
    assert manifest.read_rows(tmp_path / "t.csv") == [(1, ["a", "b"]), (2, ["1", "2"])]
    (tmp_path / "t.csv").write_bytes(b"")
    assert manifest.read_rows(tmp_path / "t.csv") == []


@pytest.mark.parametrize("rows", [[], ["a,b"], ["a,b", "c,d"], ["a,b", "", "c,"], [",", "a,b"]])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("last", [True, False])
def test_a_table_is_that_of_the_csv_module(tmp_path: Path, rows: list[str], end: str, last: bool) -> None:
    """Columns are those that the standard library reads, however lines end and with blank ones among them."""
    path = tmp_path / "table.csv"
    path.write_bytes((end.join(["x,y", *rows]) + (end if last else "")).encode())
    with path.open(newline="") as file:
        wanted = [row for row in csv.DictReader(file) if row]
    assert manifest.read_table(path, ("x", "y")).to_dict("records") == wanted


def test_the_first_bad_value_is_told(tmp_path: Path) -> None:
    """Of several wrong values in a column, the one of the first row is named with its line."""
    rows = [row("a.png"), row("b.png", age="forty"), row("c.png", age="x"), row("d.png", age="forty")]
    with pytest.raises(DataError, match="'age' is 'forty', not a whole number") as caught:
        manifest.read_manifest(write(tmp_path / "m.csv", rows))
    assert str(caught.value).count("line 3") == 1


def test_an_uncertain_label_is_missing_and_known_to_be_uncertain(tmp_path: Path) -> None:
    """-1 is no label to train or test on, is told apart from one that is not there, and is written as it was read."""
    path = write(tmp_path / "m.csv", [row("a.png"), row("b.png", findings="-1")])
    frame = manifest.read_manifest(path)
    assert np.isnan(manifest.label_array(frame)).tolist() == [[False] * 13 + [True], [True] * 14]
    assert manifest.uncertain_array(frame).tolist() == [[False] * 14, [True] * 13 + [False]]
    assert manifest.to_csv(frame, manifest.COLUMNS) == path.read_bytes()


@pytest.mark.parametrize(
    ("column", "value"),
    [
        *(("Mass", text) for text in ("1.0", "2", "-2", "-1.0", "nan", " 1")),
        *(("age", "4e1"), ("width", ""), ("height", "6 4")),
    ],
)
def test_no_value_is_guessed(tmp_path: Path, column: str, value: str) -> None:
    """A value that pandas would quietly turn into a number or a NaN is an error with its line."""
    bad = row("b.png")
    bad[manifest.COLUMNS.index(column)] = value
    with pytest.raises(DataError, match=column) as caught:
        manifest.read_manifest(write(tmp_path / "m.csv", [row("a.png"), bad]))
    assert "m.csv, line 3" in str(caught.value)


def test_the_words_na_and_null_are_words(tmp_path: Path) -> None:
    """A patient called NA is a patient, not a missing value."""
    named = row("a.png")
    named[1] = "NA"
    assert manifest.read_manifest(write(tmp_path / "m.csv", [named]))["patient_id"].tolist() == ["NA"]


def test_columns_and_rows_are_complete(tmp_path: Path) -> None:
    """Columns in another order, and a short row, are refused."""
    with pytest.raises(DataError, match="header"):
        manifest.read_manifest(write(tmp_path / "m.csv", [], manifest.COLUMNS[::-1]))
    with pytest.raises(DataError, match="the row has 3 fields, not 24"):
        manifest.read_manifest(write(tmp_path / "m.csv", [row("a.png")[:3]]))


def test_batches_are_joined_in_canonical_order(tmp_path: Path) -> None:
    """Rows stand by batch and image id whatever the order of files; boxes come along."""
    write_batch(tmp_path / "second", [row("c.png", "second"), row("b.png", "second")])
    write_batch(tmp_path / "first", [row("z.png")])
    frame, boxes = manifest.read_dataset(tmp_path)
    assert frame[["batch", "image_id", "line"]].to_numpy().tolist() == [
        ["first", "z.png", 2],
        ["second", "b.png", 3],
        ["second", "c.png", 2],
    ]
    assert boxes[["finding", "x", "y", "w", "h"]].to_numpy().tolist() == [["Mass", 1, 2.5, 3, 4]] * 2


def test_a_batch_must_be_what_its_record_says(tmp_path: Path) -> None:
    """A manifest that was cut at a line end, another count of rows, and another batch's rows are refused."""
    write_batch(tmp_path / "first", [row("a.png"), row("b.png")])
    path = tmp_path / "first" / "manifest.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    with pytest.raises(DataError, match=r"not the file that batch\.json names"):
        manifest.read_dataset(tmp_path)
    write_batch(tmp_path / "first", [row("a.png")], images=2)
    with pytest.raises(DataError, match="2 images"):
        manifest.read_dataset(tmp_path)
    write_batch(tmp_path / "first", [row("a.png", batch="second")])
    with pytest.raises(DataError, match="'first'"):
        manifest.read_dataset(tmp_path)


def test_what_a_batch_states_stands_beside_what_is_there(tmp_path: Path) -> None:
    """A manifest that was cut at the end of a line is seen by its number of rows and by its digest."""
    write_batch(tmp_path / "cut", [row("a.png", "cut"), row("b.png", "cut")])
    write_batch(tmp_path / "good", [row("c.png", "good")])
    path = tmp_path / "cut" / "manifest.csv"
    stated = sha256_file(path)
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    table = manifest.read_stated([tmp_path / "cut", tmp_path / "good"])
    good = sha256_file(tmp_path / "good" / "manifest.csv")
    assert table.to_numpy().tolist() == [["cut", 1, 2, sha256_file(path), stated], ["good", 1, 1, good, good]]


def test_pixels_and_sides_are_read_of_all_batches(tmp_path: Path) -> None:
    """Digests come in the order asked for, "" for none; a patient has every side that some batch gives."""
    write(tmp_path / "one" / manifest.PIXELS, [["a.png", "11"]], manifest.PIXEL_COLUMNS)
    write(tmp_path / "two" / manifest.PIXELS, [["b.png", "22"]], manifest.PIXEL_COLUMNS)
    write(tmp_path / "one" / manifest.SIDES, [["1", "train"], ["2", "test"]], manifest.SIDE_COLUMNS)
    write(tmp_path / "two" / manifest.SIDES, [["1", "test"], ["2", "test"]], manifest.SIDE_COLUMNS)
    folders = [tmp_path / "one", tmp_path / "two", tmp_path / "none"]
    assert manifest.read_pixels(folders, ["b.png", "c.png", "a.png"]).tolist() == ["22", "", "11"]
    assert manifest.all_sides(folders) == {"1": {"train", "test"}, "2": {"test"}}


def test_no_data_set_is_an_error(tmp_path: Path) -> None:
    """An empty folder says how to make a data set."""
    with pytest.raises(DataError, match="no data set") as caught:
        manifest.read_dataset(tmp_path)
    assert "cxr-ops ingest nih" in str(caught.value)


def test_a_split_of_other_images_is_refused(tmp_path: Path) -> None:
    """split.csv must speak of the validated images, in their order."""
    write(tmp_path / "validate" / "manifest.csv", [row("a.png"), row("b.png")])
    columns = ("image_id", "patient_id", "split")
    write(tmp_path / "split" / "split.csv", [["a.png", "7", "test"], ["b.png", "7", "test"]], columns)
    assert manifest.read_split(tmp_path)["split"].tolist() == ["test", "test"]
    write(tmp_path / "split" / "split.csv", [["b.png", "7", "test"], ["a.png", "7", "test"]], columns)
    with pytest.raises(DataError, match="different images"):
        manifest.read_split(tmp_path)


def test_findings_are_in_the_one_order() -> None:
    """The manifest's last 14 columns are the findings in their order."""
    assert manifest.COLUMNS[-14:] == FINDINGS
    assert isinstance(pd.DataFrame(columns=list(manifest.COLUMNS)), pd.DataFrame)
