"""The RSNA pneumonia challenge: opacities, three classes, and patients of the NIH's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from dicoms import ROOT, dicom, drawn

from cxr_ops.data.checking import isolate
from cxr_ops.data.sources import rsna
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS

IDS = ("0004cfab", "000924cf", "00322d4d")
ROWS = (f"{IDS[0]},,,,,0", f"{IDS[1]},,,,,0", f"{IDS[2]},3.0,4.0,10.0,12.5,1", f"{IDS[2]},20.0,4.0,10.0,12.0,1")
KINDS = ("Normal", "No Lung Opacity / Not Normal", "Lung Opacity", "Lung Opacity")
ONES = Options(uncertain={"Pneumonia": "ones"})


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    # to start processes takes longer than all else in this file; tests of the source `dicom` start them
    monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures with the headers that the challenge's have."""
    root = tmp_path / "rsna"
    (root / rsna.PICTURES).mkdir(parents=True)
    for number, key in enumerate(IDS, 1):
        data = dicom(
            drawn(number, bits=8),
            bits=8,
            uid=f"{ROOT}.{number}",
            PatientName=key,
            PatientID=key,
            PatientAge="51" if number < 3 else "155",
            StudyDate="19010101",
            SeriesDescription="view: PA",
            BodyPartExamined="CHEST",
        )
        (root / rsna.PICTURES / f"{key}.dcm").write_bytes(data)
    (root / rsna.TABLE).write_text("\n".join(["patientId,x,y,width,height,Target", *ROWS]) + "\n")
    kinds = [f"{row.split(',')[0]},{kind}" for row, kind in zip(ROWS, KINDS, strict=True)]
    (root / rsna.CLASSES).write_text("\n".join(["patientId,class", *kinds]) + "\n")
    return root


def labels(row: object) -> dict[str, int | None]:
    return dict(zip(FINDINGS, row.labels, strict=True))  # type: ignore[attr-defined]


def test_an_opacity_is_pneumonia_by_declaration_alone(folder: Path) -> None:
    """Without a word from the user nothing is read; with one, an opacity is pneumonia, uncertain or none."""
    with pytest.raises(SettingsError, match="nobody said whether an opacity"):
        rsna.read_folder(folder)
    for policy, value in (("ones", 1), ("ignore", -1), ("zeros", 0)):
        read = rsna.read_folder(folder, Options(uncertain={"Pneumonia": policy}))
        assert [labels(row)["Pneumonia"] for row in read.rows] == [0, 0, value]
        assert len(read.boxes) == (2 if value == 1 else 0)


def test_normal_says_more_than_not_normal(folder: Path) -> None:
    """A normal picture has none of the findings; of any other, nothing but pneumonia is known."""
    read = rsna.read_folder(folder, ONES)
    assert read.problems == []
    assert set(labels(read.rows[0]).values()) == {0}
    for row in read.rows[1:]:
        assert {value for finding, value in labels(row).items() if finding != "Pneumonia"} == {None}
    (folder / rsna.CLASSES).unlink()
    read = rsna.read_folder(folder, ONES)
    assert labels(read.rows[0])["Mass"] is None
    assert read.findings == ("Pneumonia",)


def test_boxes_are_the_files_own(folder: Path) -> None:
    """Left, top, width and height are taken as they stand."""
    read = rsna.read_folder(folder, ONES)
    assert [(box.image_id, box.finding, box.x, box.y, box.w, box.h) for box in read.boxes] == [
        (f"{IDS[2]}.png", "Pneumonia", 3, 4, 10, 12.5),
        (f"{IDS[2]}.png", "Pneumonia", 20, 4, 10, 12),
    ]


def test_headers_give_age_sex_and_view(folder: Path) -> None:
    """Ages are whole years, those that nobody reaches are missing."""
    assert [(row.age, row.sex, row.view) for row in rsna.read_folder(folder, ONES).rows] == [
        (51, "F", "PA"),
        (51, "F", "PA"),
        (None, "F", "PA"),
    ]


def test_patients_are_the_nihs_where_the_mapping_is_here(folder: Path) -> None:
    """With the makers' mapping, patients have the NIH's numbers; without it each picture is a patient of its own."""
    read = rsna.read_folder(folder, ONES)
    assert [row.patient_id for row in read.rows] == list(IDS)
    assert any("pictures of the NIH's" in note for note in read.notes)
    names = ("00000123_000.png", "00000123_001.png", "00030805_000.png")
    entries = [{"subset_img_id": key, "img_id": name} for key, name in zip(IDS, names, strict=True)]
    (folder / rsna.MAPPINGS).write_text(json.dumps(entries))
    read = rsna.read_folder(folder, ONES)
    assert [row.patient_id for row in read.rows] == ["123", "123", "30805"]
    (folder / rsna.MAPPINGS).write_text(json.dumps(entries[:2]))
    with pytest.raises(DataError, match=r"1 picture of .* without a picture of the NIH's, first 00322d4d"):
        rsna.read_folder(folder, ONES)
    (folder / rsna.MAPPINGS).write_text("{}")
    with pytest.raises(DataError, match="without a picture of the NIH's"):
        rsna.read_folder(folder, ONES)
    (folder / rsna.MAPPINGS).write_text("[1]")
    with pytest.raises(DataError, match="not the makers'"):
        rsna.read_folder(folder, ONES)


@pytest.mark.parametrize(
    ("file", "line", "old", "new", "why"),
    [
        (rsna.TABLE, 4, "3.0,4.0,10.0", "3.0,4.0,0", "is not left, top, width and height"),
        (rsna.TABLE, 4, "3.0,4.0,10.0", ",,", "is not left, top, width and height"),
        (rsna.TABLE, 4, "12.5,1", "12.5,0", "with Target 0"),
        (rsna.TABLE, 4, "12.5,1", "12.5,2", "Target is '2'"),
        (rsna.TABLE, 5, "12.0,1", "12.0,0", "line 4 says the other Target"),
        (rsna.TABLE, 2, "0004cfab", "../x", "is no id of a picture"),
        (rsna.TABLE, 2, "0004cfab,,,,,0", "0004cfab,,,,0", "fields, not 6"),
        (rsna.CLASSES, 2, "Normal", "Lung Opacity", "is beside Target 0"),
        (rsna.CLASSES, 2, "Normal", "Fine", "the class 'Fine'"),
    ],
)
def test_each_fault_is_named_with_its_line(folder: Path, file: str, line: int, old: str, new: str, why: str) -> None:
    """A row with a fault is told with file and line, and its picture does not enter."""
    text = (folder / file).read_text()
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1))
    read = rsna.read_folder(folder, ONES)
    assert any(str(one).startswith(f"{file}, line {line}: ") and why in str(one) for one in read.problems), (
        read.problems
    )
    assert len(read.rows) < 3


def test_a_name_that_is_not_the_pictures_id_is_refused(folder: Path) -> None:
    """The id of the picture as a name names nobody; any other name does."""
    path = folder / rsna.PICTURES / f"{IDS[0]}.dcm"
    path.write_bytes(dicom(PatientName="Roe^Jane"))
    [problem] = rsna.read_folder(folder, ONES).problems
    assert "may name somebody (PatientName)" in problem.what


def test_files_and_rows_that_do_not_fit_are_told(folder: Path) -> None:
    """A picture without a row, and a row without a picture, are told."""
    (folder / rsna.PICTURES / f"{IDS[0]}.dcm").rename(folder / rsna.PICTURES / "other.dcm")
    found = [str(one) for one in rsna.read_folder(folder, ONES).problems]
    assert len(found) == 2
    assert any("no row names this file" in one for one in found)
    assert any("the image is missing" in one for one in found)


def test_what_is_missing_is_named(folder: Path) -> None:
    """Without a table, its columns or rows there is no batch."""
    (folder / rsna.TABLE).write_text("patientId,x\n")
    with pytest.raises(DataError, match="there is no column 'y'"):
        rsna.read_folder(folder, ONES)
    (folder / rsna.TABLE).write_text("patientId,x,y,width,height,Target\n")
    with pytest.raises(DataError, match="the batch is empty"):
        rsna.read_folder(folder, ONES)
    (folder / rsna.TABLE).unlink()
    with pytest.raises(DataError, match="is missing"):
        rsna.read_folder(folder, ONES)
