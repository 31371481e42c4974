"""PadChest: names in Python's spelling, 16 bits whose meaning the table tells, years of birth."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from dicoms import drawn

from cxr_ops.data.checking import batch, decode
from cxr_ops.data.sources import padchest
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"
HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,PatientID,PatientBirth,PatientSex_DICOM,Projection,BitsStored_DICOM,"
    "WindowCenter_DICOM,WindowWidth_DICOM,PhotometricInterpretation_DICOM,MethodLabel,Labels"
)
ROWS = (
    "0,1_a.png,0,20140915,P1,1930.0,F,PA,12,,,MONOCHROME2,Physician,\"['pleural effusion', ' pseudonodule', 'COPD']\"",
    "1,1_b.png,0,20140915,P1,1930.0,F,L,12,,,MONOCHROME2,RNN_model,\"['multiple nodules', 'nodule', 'loc basal']\"",
    "2,2_c.png,0,20150101,007,2010,M,AP_horizontal,12,2000,1000,MONOCHROME1,Physician,['normal']",
    '3,3_d.png,0,20150101,P3,,,,12,"[2000, 1]","[1000, 1]",MONOCHROME2,RNN_model,',
    "4,4_e.png,0,20150101,P4,1980,O,COSTAL,12,,,MONOCHROME2,Physician,\"['exclude', 'pneumonia']\"",
    "5,9_z.png,54,20150101,P9,1980,M,PA,12,,,MONOCHROME2,Physician,['normal']",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The release's folder 0, without the others that its table speaks of."""
    root = tmp_path / "padchest"
    (root / "0").mkdir(parents=True)
    for seed, row in enumerate(ROWS[:5]):
        cv2.imwrite(str(root / "0" / row.split(",")[1]), drawn(seed))
    (root / TABLE).write_text("\n".join([HEADER, *ROWS]) + "\n")
    return root


def labels(row: object) -> dict[str, int | None]:
    return dict(zip(FINDINGS, row.labels, strict=True))  # type: ignore[attr-defined]


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / TABLE).read_text()
    assert old in text
    (folder / TABLE).write_text(text.replace(old, new, 1))


def test_whole_names_become_findings(folder: Path) -> None:
    """Names with a counterpart are 1 and all others 0; parts of names count nothing; no labels are missing ones."""
    read = padchest.read_folder(folder)
    assert read.problems == []
    named = [{finding for finding, value in labels(row).items() if value == 1} for row in read.rows]
    assert named == [{"Effusion"}, {"Nodule"}, set(), set(), set()]
    assert [labels(row)["Mass"] for row in read.rows] == [0, 0, 0, None, None]
    assert any("3 labels have no counterpart" in note and "pseudonodule (1)" in note for note in read.notes)
    assert "1 of 6 rows has no labels: all findings of such a row are missing" in read.notes
    assert "1 of 6 rows is marked 'exclude': all findings of such a row are missing" in read.notes
    assert "2 of 6 rows were labelled by a network, not by a radiologist" in read.notes


def test_every_counterpart_is_a_finding() -> None:
    """The table of names leads to each of the 14 findings and to nothing else."""
    assert set(padchest.LABELS.values()) == set(FINDINGS)


def test_people_and_views_are_read(folder: Path) -> None:
    """A birth year gives an age; a lateral view is kept as one; what is not said is missing."""
    read = padchest.read_folder(folder)
    assert [(row.patient_id, row.age, row.sex, row.view) for row in read.rows] == [
        ("P1", 84, "F", "PA"),
        ("P1", 84, "F", "LATERAL"),
        ("7", 5, "M", "AP"),
        ("P3", None, "", ""),
        ("P4", 35, "", "OTHER"),
    ]


def test_rows_of_folders_that_are_not_here_are_counted(folder: Path) -> None:
    """The release's table beside some of its folders is no fault; a picture that lacks in a folder that is here is."""
    read = padchest.read_folder(folder)
    assert "1 of 6 rows is of folders that are not here, and left out" in read.notes
    assert read.total == 5
    (folder / "0" / "2_c.png").unlink()
    [problem] = padchest.read_folder(folder).problems
    assert (problem.line, problem.image_id) == (4, "2_c.png")
    assert "the image is missing" in problem.what


def test_grey_is_what_the_table_says(folder: Path, tmp_path: Path) -> None:
    """Bits, window and MONOCHROME1 of the table give the grey that is stored."""
    checked = batch.check(padchest.read_folder(folder), "first", aside=tmp_path / "aside", processes=1)
    assert checked.problems == []
    shown = [decode.decode_grey(checked.paths[name].read_bytes()) for name in checked.frame["image_id"]]
    full = drawn(0) / 4095 * 255
    assert np.abs(shown[0] - full).max() <= 0.5
    windows = [np.interp(drawn(seed), [1500, 2499], [0, 255]) for seed in (2, 3)]
    assert np.abs(shown[2] - (255 - windows[0])).max() <= 0.5
    assert np.abs(shown[3] - windows[1]).max() <= 0.5
    assert set(checked.origins["coding"]) == {"16-bit PNG, 12 bits used", "16-bit PNG, 12 bits used, inverted"}


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("1_b.png", "1_a.png", "2 rows name this image"),
        ("1_b.png", "../b.png", "is not the name of a picture"),
        ("1_b.png", "1_x.png", "the image is missing"),
        ("P1,1930.0,F,L", "P 1,1930.0,F,L", "is not a patient id"),
        ("P1,1930.0,F,L", "P1,1930.0,M,L", "the patient has two sexes"),
        ("\"['multiple nodules', 'nodule', 'loc basal']\"", "__import__('os')", "are no list of names"),
        ("\"['multiple nodules', 'nodule', 'loc basal']\"", '"[1, 2]"', "are no list of names"),
        ("L,12,,,MONOCHROME2", "L,many,,,MONOCHROME2", "BitsStored_DICOM is 'many', not a number"),
        ("L,12,,,MONOCHROME2", "L,inf,,,MONOCHROME2", "BitsStored_DICOM is inf, not 1 to 16"),
        ("L,12,,,MONOCHROME2", "L,NAN,,,MONOCHROME2", "BitsStored_DICOM is nan, not 1 to 16"),
        ("P1,1930.0,F,L", "nan,1930.0,F,L", "nothing says whose image it is"),
        ("L,12,,,MONOCHROME2", "L,12,,,RGB", "does not say which end is white"),
        (",RNN_model,\"['multiple", ",\"['multiple", "fields, not 14"),
    ],
)
def test_each_fault_is_named_with_its_line(folder: Path, old: str, new: str, why: str) -> None:
    """A row with a fault is left out, and its file, line and reason are told."""
    edit(folder, old, new)
    read = padchest.read_folder(folder)
    assert any(str(one).startswith(f"{TABLE}, line 3: ") and why in str(one) for one in read.problems), read.problems
    assert 3 not in {row.line for row in read.rows}


def test_files_that_nobody_named_are_told(folder: Path) -> None:
    """A file without a row, and a second one of the same name, are problems."""
    (folder / "1").mkdir()
    (folder / "1" / "1_a.png").write_bytes(b"")
    (folder / "0" / "new.png").write_bytes(b"")
    found = [str(one) for one in padchest.read_folder(folder).problems]
    assert any(one.startswith("1/1_a.png") and "the second of two files" in one for one in found)
    assert any(one.startswith("0/new.png") and "no row names this file" in one for one in found)


def test_what_is_missing_is_named(folder: Path) -> None:
    """Without the table, its columns or pictures there is no batch."""
    (folder / "PADCHEST_two.csv").write_text("x\n")
    with pytest.raises(DataError, match="are here, and one table"):
        padchest.read_folder(folder)
    (folder / "PADCHEST_two.csv").unlink()
    edit(folder, "Projection", "View")
    with pytest.raises(DataError, match="there is no column 'Projection'"):
        padchest.read_folder(folder)
    edit(folder, "View", "Projection")
    for path in (folder / "0").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="no row of the table is of a picture that is here"):
        padchest.read_folder(folder)
    (folder / TABLE).unlink()
    with pytest.raises(DataError, match="PadChest's table is missing"):
        padchest.read_folder(folder)
