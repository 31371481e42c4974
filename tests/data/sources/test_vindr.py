"""VinDr-CXR: votes of three readers, boxes by corners, headers."""

from __future__ import annotations

from pathlib import Path

import pytest
from dicoms import ROOT, dicom, drawn

from cxr_ops.data.checking import batch, isolate
from cxr_ops.data.sources import vindr
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
IDS = ("a" * 32, "b" * 32, "c" * 32)
ROWS = (
    # of the first, two of three see an effusion, one a fibrosis, and one a nodule or mass
    f"{IDS[0]},Pleural effusion,10,R8,1,2,11,22.5",
    f"{IDS[0]},Pleural effusion,10,R9,2,2,12,22",
    f"{IDS[0]},Pulmonary fibrosis,13,R9,3,3,8,8",
    f"{IDS[0]},Nodule/Mass,8,R9,3,3,8,8",
    f"{IDS[0]},No finding,14,R10,,,,",
    # of the second, nobody sees anything
    *(f"{IDS[1]},No finding,14,{reader},,,," for reader in ("R8", "R9", "R10")),
    # of the third, all see a big heart
    *(f"{IDS[2]},Cardiomegaly,3,{reader},4,4,30,30" for reader in ("R1", "R2", "R3")),
)


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    # to start processes takes longer than all else in this file; tests of the source `dicom` start them
    monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Kaggle's layout with three pictures, one of them with an age."""
    root = tmp_path / "vindr"
    (root / "train").mkdir(parents=True)
    for number, key in enumerate(IDS, 1):
        extra = {"PatientAge": "047Y"} if number == 1 else {"PatientAge": "000Y", "PatientSex": None}
        data = dicom(drawn(number), uid=f"{ROOT}.{number}", ViewPosition=None, StudyDate="20180101", **extra)
        (root / "train" / f"{key}.dicom").write_bytes(data)
    (root / "train.csv").write_text("\n".join([HEADER, *ROWS]) + "\n")
    return root


def labels(row: object) -> dict[str, int | None]:
    return dict(zip(FINDINGS, row.labels, strict=True))  # type: ignore[attr-defined]


def test_votes_become_labels(folder: Path) -> None:
    """Most of the readers make 1, fewer make uncertain, none makes 0; what the table does not label is missing."""
    read = vindr.read_folder(folder)
    assert read.problems == []
    first, second, third = (labels(row) for row in read.rows)
    assert (first["Effusion"], first["Fibrosis"], first["Cardiomegaly"]) == (1, -1, 0)
    assert (first["Mass"], first["Nodule"], first["Hernia"], first["Edema"], first["Pneumonia"]) == (None,) * 5
    assert {second[finding] for finding in read.findings} == {0}
    assert third["Cardiomegaly"] == 1
    assert set(read.findings) == set(vindr.CLASSES.values())


def test_uncertain_findings_follow_the_policy(folder: Path) -> None:
    """A finding of one reader becomes 1 where the policy says so, and its box is kept then."""
    read = vindr.read_folder(folder, Options(uncertain={"Fibrosis": "ones"}))
    assert labels(read.rows[0])["Fibrosis"] == 1
    assert "Fibrosis" in {box.finding for box in read.boxes}


def test_boxes_become_the_projects(folder: Path) -> None:
    """Corners become left, top, width and height; boxes of what most did not see are left out and counted."""
    read = vindr.read_folder(folder)
    first = [(box.finding, box.x, box.y, box.w, box.h) for box in read.boxes if box.image_id == f"{IDS[0]}.png"]
    assert first == [("Effusion", 1, 2, 10, 20.5), ("Effusion", 2, 2, 10, 20)]
    assert len(read.boxes) == 5
    assert any("1 box is around findings that most readers did not see" in note for note in read.notes)
    assert any("1 box is of classes without a counterpart: Nodule/Mass (1)" in note for note in read.notes)


def test_headers_say_age_sex_and_view(folder: Path) -> None:
    """Age and sex come from the header, an age of 0 is none; the view is the release's, unless another is said."""
    read = vindr.read_folder(folder)
    assert [(row.age, row.sex, row.view) for row in read.rows] == [(47, "F", "PA"), (None, "", "PA"), (None, "", "PA")]
    assert [row.patient_id for row in read.rows] == list(IDS)
    assert any("each picture counts as a patient of its own" in note for note in read.notes)
    assert {row.view for row in vindr.read_folder(folder, Options(view="AP")).rows} == {"AP"}


def test_physionets_layout_is_read(folder: Path) -> None:
    """Its tables label edema and emphysema, and pneumonia in a table of its own; the test table is a consensus."""
    (folder / "annotations").mkdir()
    rows = [row.split(",") for row in (HEADER, *ROWS)]
    without_class = [",".join(row[:2] + row[3:]) for row in rows]
    (folder / "annotations" / "annotations_train.csv").write_text("\n".join(without_class) + "\n")
    (folder / "train.csv").unlink()
    readers = {IDS[0]: ("R8", "R9", "R10"), IDS[1]: ("R8", "R9", "R10"), IDS[2]: ("R1", "R2", "R3")}
    votes = [f"{key},{reader},{int(reader in ('R8', 'R9', 'R1'))}" for key in IDS for reader in readers[key]]
    (folder / "annotations" / "image_labels_train.csv").write_text("image_id,rad_id,Pneumonia\n" + "\n".join(votes))
    read = vindr.read_folder(folder)
    assert read.problems == []
    assert {"Edema", "Emphysema", "Pneumonia"} < set(read.findings)
    assert [labels(row)["Pneumonia"] for row in read.rows] == [1, 1, -1]
    assert [labels(row)["Edema"] for row in read.rows] == [0, 0, 0]
    consensus = [",".join(row[:2] + row[4:]) for row in rows if row[1] != "No finding" or row[0] == IDS[1]]
    (folder / "annotations" / "annotations_train.csv").rename(folder / "annotations" / "annotations_test.csv")
    (folder / "annotations" / "annotations_test.csv").write_text("\n".join(consensus) + "\n")
    (folder / "train").rename(folder / "test")
    assert labels(vindr.read_folder(folder).rows[0])["Fibrosis"] == 1


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("1,2,11,22.5", "11,2,1,22.5", "is not two corners in pixels"),
        ("1,2,11,22.5", ",,,", "is not two corners in pixels"),
        ("1,2,11,22.5", "nan,2,1,x", "is not two corners in pixels"),
        ("1,2,11,22.5", "1,2,11", "the row has 7 fields, not 8"),
        ("Pleural effusion", "Pleural_Effusion", "none of VinDr's: 'Pleural effusion' may be meant"),
    ],
)
def test_each_fault_is_named_with_its_line(folder: Path, old: str, new: str, why: str) -> None:
    """A row with a fault takes its image out, and file, line and reason are told."""
    text = (folder / "train.csv").read_text()
    (folder / "train.csv").write_text(text.replace(old, new, 1))
    read = vindr.read_folder(folder)
    assert any(str(one).startswith("train.csv, line 2: ") and why in str(one) for one in read.problems), read.problems


def test_files_and_rows_that_do_not_fit_are_told(folder: Path) -> None:
    """A picture that is missing, refused, unnamed or lateral is told by its file or its row."""
    (folder / "train" / f"{IDS[0]}.dicom").rename(folder / "train" / "other.dicom")
    (folder / "train" / f"{IDS[1]}.dicom").write_bytes(dicom(ViewPosition="LL"))
    (folder / "train" / f"{IDS[2]}.dicom").write_bytes(dicom(PatientName="Roe^Jane"))
    read = vindr.read_folder(folder)
    found = [str(one) for one in read.problems]
    assert len(found) == 4
    assert any(one.startswith("train/other.dicom") and "no row names this file" in one for one in found)
    assert any(one.startswith("train.csv, line 2: ") and "the image is missing" in one for one in found)
    assert any(one.startswith("train.csv, line 7: ") and "the view is 'LL'" in one for one in found)
    assert any(one.startswith("train.csv, line 10: ") and "may name somebody (PatientName)" in one for one in found)
    assert (read.rows, read.total) == ([], 3)


def test_what_is_missing_is_named(folder: Path) -> None:
    """Without a table, its columns, rows or pictures there is no batch."""
    (folder / "train.csv").write_text(HEADER.replace("x_min", "left") + "\n")
    with pytest.raises(DataError, match="there is no column 'x_min'"):
        vindr.read_folder(folder)
    (folder / "train.csv").write_text(HEADER + "\n")
    with pytest.raises(DataError, match="the batch is empty"):
        vindr.read_folder(folder)
    (folder / "train.csv").unlink()
    with pytest.raises(DataError, match=r"none of VinDr's tables"):
        vindr.read_folder(folder)


def test_a_batch_holds_boxes_in_pixels_of_the_file(folder: Path, tmp_path: Path) -> None:
    """Decoded and checked, the batch has the boxes that lie in their pictures; one that reaches out is told."""
    text = (folder / "train.csv").read_text().replace("4,4,30,30", "4,4,300,30", 1)
    (folder / "train.csv").write_text(text)
    checked = batch.check(vindr.read_folder(folder), "first", aside=tmp_path / "aside", processes=1)
    assert (len(checked.frame), len(checked.boxes), checked.boxes_left_out) == (3, 4, 1)
    assert "the box reaches out of the image, which is 36 x 40" in checked.problems[0].what
    assert set(checked.frame["source"]) == {"vindr"}
