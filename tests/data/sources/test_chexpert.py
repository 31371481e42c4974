"""CheXpert's three releases: labels, views, patients and what has no counterpart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cxr_ops.data.sources import chexpert, registry
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

HEADER = (
    "Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,"
    "Edema,Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
)
ROWS = (
    ("train/patient00001/study1/view1_frontal.jpg", "Female,68,Frontal,AP,1.0,,,,,,,,,0.0,,,,1.0"),
    ("train/patient00001/study1/view2_lateral.jpg", "Female,68,Lateral,,1.0,,,,,,,,,0.0,,,,1.0"),
    ("train/patient00002/study1/view1_frontal.jpg", "Unknown,0,Frontal,PA,,,,-1.0,1.0,1.0,-1.0,,-1.0,,-1.0,,1.0,"),
    ("train/patient00003/study1/view1_frontal.jpg", "Male,41,Frontal,LL,,,1.0,,,,,,,,1.0,,,"),
    ("valid/patient64541/study1/view1_frontal.jpg", "Male,73,Frontal,AP,,,,1.0,,,,,,,,,,1.0"),
)


def make(root: Path, prefix: str = "CheXpert-v1.0-small/") -> Path:
    for name in ("train", "valid"):
        lines = [f"{prefix}{place},{rest}" for place, rest in ROWS if place.startswith(name)]
        (root / f"{name}.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    for place, _ in ROWS:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).write_bytes(b"")
    return root


def labels(row: object) -> dict[str, int]:
    return {name: value for name, value in zip(FINDINGS, row.labels, strict=True) if value is not None}


def test_a_release_is_read(tmp_path: Path) -> None:
    """Rows of both tables: counterparts under their names, what is blank missing, laterals kept with their view."""
    read = chexpert.read_folder(make(tmp_path))
    assert read.problems == []
    assert [(row.image_id, row.patient_id, row.age, row.sex, row.view) for row in read.rows] == [
        ("train-patient00001-study1-view1_frontal.jpg", "patient00001", 68, "F", "AP"),
        ("train-patient00001-study1-view2_lateral.jpg", "patient00001", 68, "F", "LATERAL"),
        ("train-patient00002-study1-view1_frontal.jpg", "patient00002", None, "", "PA"),
        ("train-patient00003-study1-view1_frontal.jpg", "patient00003", 41, "M", "LL"),
    ]
    assert labels(read.rows[0]) == dict.fromkeys(chexpert.LABELLED, 0)
    assert labels(read.rows[2]) == {"Edema": 1, "Consolidation": -1, "Atelectasis": -1, "Effusion": -1}
    assert labels(read.rows[3]) == {"Cardiomegaly": 1, "Effusion": 1}
    assert read.findings == chexpert.LABELLED
    assert (
        "labels without a counterpart among the 14 findings were dropped: Lung Lesion 1, Lung Opacity 1, Fracture 1, "
        "Support Devices 3 positive images"
    ) in read.notes
    assert "1 of 5 images was left out: none of the labels has a counterpart" in read.notes


def test_uncertain_labels_follow_a_policy_a_finding(tmp_path: Path) -> None:
    """-1 becomes 1 or 0 where that is said, and stays uncertain where it is not."""
    options = Options(uncertain={"Consolidation": "ones", "Effusion": "zeros"})
    row = chexpert.read_folder(make(tmp_path), options).rows[2]
    assert labels(row) == {"Edema": 1, "Consolidation": 1, "Atelectasis": -1, "Effusion": 0}


def test_chexpert_plus_is_read(tmp_path: Path) -> None:
    """Its table names JPEGs where PNGs stand, and its labels come as lines of JSON beside it."""
    (tmp_path / chexpert.PLUS).write_text(
        "path_to_image,frontal_lateral,ap_pa,deid_patient_id,age,sex\n"
        "train/patient42142/study5/view1_frontal.jpg,Frontal,AP,patient42142,85.0,Male\n"
        "train/patient00007/study1/view1_lateral.jpg,Lateral,,patient00007,30.0,Female\n"
    )
    path = tmp_path / "chexbert_labels" / "findings_fixed.json"
    path.parent.mkdir()
    said = [
        {
            "path_to_image": "train/patient42142/study5/view1_frontal.jpg",
            "Edema": -1.0,
            "Pneumonia": None,
            "Fracture": 1,
        },
        {"path_to_image": "train/patient00007/study1/view1_lateral.jpg", "No Finding": 1.0},
    ]
    path.write_text("\n".join(map(json.dumps, said)))
    for place in ("train/patient42142/study5/view1_frontal.png", "train/patient00007/study1/view1_lateral.png"):
        (tmp_path / "PNG" / place).parent.mkdir(parents=True)
        (tmp_path / "PNG" / place).write_bytes(b"")
    assert registry.recognise(tmp_path)[0] == "chexpert"
    read = chexpert.read_folder(tmp_path)
    assert read.problems == []
    assert [(row.image_id, row.age, row.sex, row.view) for row in read.rows] == [
        ("train-patient42142-study5-view1_frontal.png", 85, "M", "AP"),
        ("train-patient00007-study1-view1_lateral.png", 30, "F", "LATERAL"),
    ]
    assert [labels(row) for row in read.rows] == [{"Edema": -1}, dict.fromkeys(chexpert.LABELLED, 0)]
    path.unlink()
    with pytest.raises(DataError, match="the labels are missing"):
        chexpert.read_folder(tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("1.0,,,,,,,,,0.0", "1.0,,,,,,,,,1.0", "'No Finding' is 1, and so is 'Pneumothorax'"),
        ("1.0,,,,,,,,,0.0", "1.0,,,,,,,,,0.5", "Pneumothorax is '0.5', not 1, 0, -1 or nothing"),
        ("Female,68", "Male,68", "the patient has two sexes"),
        ("Female,68", "Woman,68", "the sex 'Woman'"),
        ("Frontal,AP", "Frontal,XX", "AP/PA is 'XX'"),
        ("Female,68", "Female,old", "the age 'old'"),
        ("view1_frontal", "view9_frontal", "the image is missing"),
        ("train/patient00001", "../patient00001", "is not the path of a PNG or JPEG file"),
        ("study1/view1_frontal", "study1/view2_lateral", "named twice"),
    ],
)
def test_each_fault_is_named_with_its_line(tmp_path: Path, old: str, new: str, why: str) -> None:
    """A row with a fault is left out, and its table, line and reason are told."""
    path = make(tmp_path) / "train.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    read = chexpert.read_folder(tmp_path)
    assert any(str(one).startswith("train.csv, line ") and why in str(one) for one in read.problems), read.problems
    assert len(read.rows) < 4


def test_it_is_recognised(tmp_path: Path) -> None:
    """The kind of the folder is found out by its table."""
    assert registry.recognise(make(tmp_path)) == ("chexpert", "train.csv is here, with CheXpert's columns")
