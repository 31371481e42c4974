"""DICOM files with a table of labels: what is read, and what is found to be wrong."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dicoms import ROOT, data_set, dicom, drawn, written

from cxr_ops.data import manifest
from cxr_ops.data.checking import batch, decode, isolate
from cxr_ops.data.shards import ShardReader
from cxr_ops.data.sources import dicom as source
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.report.batch import rule

HEADER = "SOPInstanceUID,patient_id,Pneumonia,Effusion"


@pytest.fixture
def apart() -> None:
    """For tests in which other processes read the bytes, as they do outside of tests."""


@pytest.fixture(autouse=True)
def _here(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "apart" not in request.fixturenames:  # to start processes takes longer than all else in this file
        monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))


def put(folder: Path, number: int, **others: Any) -> None:
    name = folder / "study" / f"IM{number:04d}"
    name.parent.mkdir(parents=True, exist_ok=True)
    name.write_bytes(dicom(drawn(number), uid=f"{ROOT}.{number}", **others))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures of three patients, and their labels."""
    root = tmp_path / "export"
    for number in range(1, 5):
        put(root, number)
    rows = [f"{ROOT}.1,007,1,0", f"{ROOT}.2,7,,-1", f"{ROOT}.3,a,0,1.0", f"{ROOT}.4,b,0,0"]
    (root / "labels.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    return root


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "labels.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def problems(folder: Path, options: Options | None = None) -> list[str]:
    return [str(one) for one in source.read_folder(folder, options).problems]


def test_table_and_headers_give_rows(folder: Path) -> None:
    """Labels come from the table, age, sex and view from the headers; what nothing says is missing and not 0."""
    read = source.read_folder(folder)
    assert read.problems == []
    assert [(row.image_id, row.patient_id, row.age, row.sex, row.view) for row in read.rows] == [
        (f"{ROOT}.{number}.png", patient, 58, "F", "PA") for number, patient in enumerate(("7", "7", "a", "b"), 1)
    ]
    labels = [dict(zip(FINDINGS, row.labels, strict=True)) for row in read.rows]
    assert [(one["Pneumonia"], one["Effusion"], one["Mass"]) for one in labels] == [
        (1, 0, None),
        (None, -1, None),
        (0, 1, None),
        (0, 0, None),
    ]


def test_a_batch_of_dicom_holds_its_samples_and_the_digests_of_its_files(
    folder: Path, tmp_path: Path, apart: None
) -> None:
    """Built, the batch has 16-bit pictures with the files' samples, and SHA-256 and coding of each file beside them."""
    out = tmp_path / "dataset" / "first"
    checked = batch.check(source.read_folder(folder), "first", aside=tmp_path / "aside", processes=1)
    record = batch.build(out, checked)
    assert checked.problems == []
    frame, _ = manifest.read_dataset(tmp_path / "dataset")
    with ShardReader(tmp_path / "dataset", dict(zip(frame["image_id"], frame["sha256"], strict=True))) as reader:
        for number, name in enumerate(frame["image_id"], 1):
            assert np.array_equal(decode.decode_wide(reader.read(name)), drawn(number))
    origins = pd.read_csv(out / "origins.csv")
    assert origins["image_id"].tolist() == frame["image_id"].tolist()
    files = sorted((folder / "study").iterdir())
    assert origins["origin_sha256"].tolist() == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert set(origins["coding"]) == {"DICOM (uncompressed, MONOCHROME2, 12 bits, no window)"}
    assert record.files["origins.csv"] == hashlib.sha256((out / "origins.csv").read_bytes()).hexdigest()
    assert set(frame["source"]) == {"dicom"}


def test_finding_labels_and_all_columns_are_read(folder: Path) -> None:
    """Names joined by a bar are read, and the table's age, sex and view go where the header says none."""
    put(folder, 4, PatientSex=None, PatientAge=None, ViewPosition=None)
    rows = [f"{ROOT}.{number},{number},Mass|Nodule,61,M,AP" for number in (4,)]
    others = [f"{ROOT}.{number},{number},No Finding,,," for number in (1, 2, 3)]
    header = "SOP Instance UID,PatientID,Finding Labels,PatientAge,PatientSex,ViewPosition"
    (folder / "labels.csv").write_text("\n".join([header, *others, *rows]) + "\n")
    read = source.read_folder(folder)
    assert read.problems == []
    assert (read.rows[3].age, read.rows[3].sex, read.rows[3].view, sum(read.rows[3].labels)) == (61, "M", "AP", 2)
    assert (read.rows[0].age, read.rows[0].sex, sum(read.rows[0].labels)) == (58, "F", 0)


@pytest.mark.parametrize(("name", "meant"), [("Pleural Thickening", "Pleural_Thickening"), ("Nodules", "Nodule")])
def test_a_column_that_is_nearly_a_findings_is_told(folder: Path, name: str, meant: str) -> None:
    """It would be left out, and the finding be missing on every row."""
    text = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join([f"{text[0]},{name}", *(f"{line},0" for line in text[1:])]) + "\n")
    with pytest.raises(DataError, match=f"'{name}' is called as no finding, and '{meant}' may be meant"):
        source.read_folder(folder)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        (f"{ROOT}.3,a", f"{ROOT}.9,a", "no file that can be read has the SOP Instance UID"),
        (f"{ROOT}.3,a", f"{ROOT}.4,a", "2 rows name this image"),
        (f"{ROOT}.3,a", f"{ROOT}.3,a b", "'a b' is not a patient id"),
        (f"{ROOT}.3,a", f"{ROOT}.3,", "nothing says whose image it is"),
        (",0,1.0", ",0,2", "Effusion is '2', which is not 1, 0, -1 or empty"),
        (",0,1.0", ",0", "the row has 3 fields, not 4"),
    ],
)
def test_each_fault_of_a_row_is_named_with_its_line(folder: Path, old: str, new: str, why: str) -> None:
    """A row with a fault is left out, and its file, line and reason are told."""
    edit(folder, old, new)
    found = problems(folder)
    assert any(one.startswith("labels.csv, line 4: ") and why in one for one in found), found
    assert len(source.read_folder(folder).rows) <= 3


def test_a_file_that_no_row_names_is_told(folder: Path) -> None:
    """A table that was cut between two rows is betrayed by the files that it no longer names."""
    edit(folder, f"{ROOT}.4,b,0,0\n", "")
    assert problems(folder) == [
        f"study/IM0004: no row names this file, whose SOP Instance UID is {ROOT}.4: the table may have been cut"
    ]


def test_a_file_that_is_refused_is_one_problem(folder: Path) -> None:
    """A header that may name somebody is the problem of its row, which is told with the file and without the name."""
    put(folder, 3, PatientName="Roe^Jane")
    [found] = problems(folder)
    assert found.startswith(
        f"labels.csv, line 4: {ROOT}.3.png: study/IM0003: the header may name somebody (PatientName)"
    )
    assert "Roe" not in found
    assert problems(folder, Options(deidentified=True)) == []


def test_a_damaged_file_is_told_with_its_place(folder: Path) -> None:
    """A file without a header that can be read is a problem of its own, and its row lacks an image."""
    (folder / "study" / "IM0003").write_bytes(b"no dicom")
    found = problems(folder)
    assert len(found) == 2
    assert any(one.startswith("study/IM0003: the file is not DICOM") for one in found)


def test_two_files_of_one_uid_are_told(folder: Path) -> None:
    """A file that is there twice is told with both places."""
    (folder / "again.dcm").write_bytes((folder / "study" / "IM0003").read_bytes())
    assert "2 files have this SOP Instance UID: again.dcm and study/IM0003" in problems(folder)[0]


def test_one_picture_in_two_files_is_not_called_one_file(folder: Path, tmp_path: Path) -> None:
    """Two files with one picture and other headers are told as two files, though they are stored as the same bytes."""
    (folder / "study" / "IM0004").write_bytes(dicom(drawn(3), uid=f"{ROOT}.4"))
    found = batch.check(source.read_folder(folder), "first", aside=tmp_path / "aside", processes=1).problems
    assert [one.what for one in found] == [
        f"the same picture, in another file, as {ROOT}.{other}.png on line {line}, and the rows contradict each other"
        for other, line in ((4, 5), (3, 4))
    ]
    assert rule(found[0].what) == "The same picture as another, in another file"


def test_a_contradiction_of_table_and_header_is_told(folder: Path) -> None:
    """Where table and header say another sex, the row is wrong."""
    edit(folder, HEADER, HEADER + ",sex")
    path = folder / "labels.csv"
    first, *rows = path.read_text().splitlines()
    path.write_text("\n".join([first, rows[0] + ",M", *(row + "," for row in rows[1:])]) + "\n")
    assert "the table says that the sex is M, and the header F" in problems(folder)[0]


def test_links_are_not_followed(folder: Path, tmp_path: Path) -> None:
    """A link in place of a file or a folder is told and not followed."""
    (folder / "study" / "IM0003").rename(tmp_path / "elsewhere")
    (folder / "study" / "IM0003").symlink_to(tmp_path / "elsewhere")
    (folder / "more").symlink_to(tmp_path)
    found = problems(folder)
    assert sum("a link, which may lead anywhere" in one for one in found) == 2


def test_what_is_missing_is_named(folder: Path) -> None:
    """Without files, rows, a table, a column of UIDs or labels there is no batch, and the error says what to do."""
    labels = folder / "labels.csv"
    text = labels.read_text()
    for bad, why in (
        (text.replace("SOPInstanceUID", "uid"), "no column 'SOPInstanceUID'"),
        (text.replace("Pneumonia,Effusion", "a,b"), "no column holds labels"),
        (text.replace("Effusion", "Finding Labels"), "two kinds of columns"),
        (HEADER + "\n", "the batch is empty"),
    ):
        labels.write_text(bad)
        with pytest.raises(DataError, match=why):
            source.read_folder(folder)
    labels.rename(folder / "a.csv")
    (folder / "b.csv").write_text(text)
    with pytest.raises(DataError, match="2 CSV files are here"):
        source.read_folder(folder)
    (folder / "a.csv").unlink()
    assert source.read_folder(folder).table == "b.csv"
    for path in (folder / "study").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no DICOM files"):
        source.read_folder(folder)


def test_pixels_that_do_not_decode_are_the_rows_problem(folder: Path, tmp_path: Path) -> None:
    """A file with a good header and a picture that is cut short is refused when pictures are decoded, by its row."""
    header = data_set(drawn(3), uid=f"{ROOT}.3")
    header.PixelData = header.PixelData[:100]
    (folder / "study" / "IM0003").write_bytes(written(header))
    checked = batch.check(source.read_folder(folder), "first", aside=tmp_path / "aside", processes=1)
    assert [(one.line, len(checked.frame)) for one in checked.problems] == [(4, 3)]
    assert "are needed" in checked.problems[0].what
