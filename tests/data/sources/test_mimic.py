"""MIMIC-CXR-JPG: labels of studies, images by dicom_id."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from cxr_ops.data.sources import mimic, registry
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

LABELS = (
    "subject_id,study_id,Atelectasis,Cardiomegaly,Consolidation,Edema,Enlarged Cardiomediastinum,Fracture,Lung Lesion,"
    "Lung Opacity,No Finding,Pleural Effusion,Pleural Other,Pneumonia,Pneumothorax,Support Devices\n"
    "10000032,50414267,,,,,,,,,1.0,,,,,\n"
    "10000764,57375967,,,1.0,,,,,,,-1.0,,-1.0,,\n"
    "10000898,50771383,,,,,,,,1.0,,,,,,1.0\n"
)
META = (
    "dicom_id,subject_id,study_id,PerformedProcedureStepDescription,ViewPosition,Rows,Columns\n"
    "02aa804e-bde0afdd,10000032,50414267,CHEST (PA AND LAT),PA,3056,2544\n"
    "174413ec-4ec4c1f7,10000032,50414267,CHEST (PA AND LAT),LATERAL,3056,2544\n"
    "096052b7-d256dc40,10000764,57375967,CHEST (PA AND LAT),AP,2544,3050\n"
    "2a280266-c8bae121,10000898,50771383,CHEST,,2544,3056\n"
    "ffffffff-00000000,10000999,50000000,CHEST,PA,2544,3056\n"
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four images of three patients; the metadata name a fifth, as they do for who has a part of the release."""
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv").write_text(META)
    (tmp_path / "mimic-cxr-2.0.0-chexpert.csv.gz").write_bytes(gzip.compress(LABELS.encode()))
    for line in META.splitlines()[1:5]:
        dicom_id, subject, study, *_ = line.split(",")
        path = tmp_path / f"files/p{subject[:2]}/p{subject}/s{study}/{dicom_id}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def labels(row: object) -> dict[str, int]:
    return {name: value for name, value in zip(FINDINGS, row.labels, strict=True) if value is not None}


def test_images_get_the_labels_of_their_study(folder: Path) -> None:
    """Tables are joined by patient and study; laterals inherit; what is absent or left without a label is counted."""
    read = mimic.read_folder(folder, Options(uncertain={"Pneumonia": "zeros"}))
    assert read.problems == []
    assert [(row.image_id, row.patient_id, row.view) for row in read.rows] == [
        ("02aa804e-bde0afdd.jpg", "p10000032", "PA"),
        ("174413ec-4ec4c1f7.jpg", "p10000032", "LATERAL"),
        ("096052b7-d256dc40.jpg", "p10000764", "AP"),
    ]
    assert labels(read.rows[0]) == labels(read.rows[1]) == dict.fromkeys(mimic.LABELLED, 0)
    assert labels(read.rows[2]) == {"Consolidation": 1, "Effusion": -1, "Pneumonia": 0}
    assert "mimic-cxr-2.0.0-metadata.csv: 1 of 5 images is not here, and left out" in read.notes
    assert "1 of 4 images was left out: none of the labels has a counterpart" in read.notes
    assert registry.recognise(folder) == ("mimic", "mimic-cxr-2.0.0-metadata.csv is here")


def test_people_and_the_own_split_are_joined(folder: Path) -> None:
    """Age and sex come from MIMIC-IV's table where it is here, sides from the release's split where one insists."""
    (folder / "patients.csv").write_text("subject_id,gender,anchor_age\n10000032,F,52\n")
    with pytest.raises(DataError, match=r"mimic-cxr-\.\.\.-split\.csv is missing"):
        mimic.read_folder(folder, Options(own_split=True))
    (folder / "mimic-cxr-2.0.0-split.csv").write_text(
        "dicom_id,study_id,subject_id,split\n02aa804e-bde0afdd,50414267,10000032,train\n"
        "096052b7-d256dc40,57375967,10000764,test\n"
    )
    read = mimic.read_folder(folder, Options(own_split=True))
    assert [(row.age, row.sex) for row in read.rows] == [(52, "F"), (52, "F"), (None, "")]
    assert read.sides == {"p10000032": "train", "p10000764": "test"}


def test_a_study_with_two_sets_of_labels_is_refused(folder: Path) -> None:
    """Which of two rows of one study is right cannot be told; the same row once more is no harm."""
    path = folder / "mimic-cxr-2.0.0-chexpert.csv.gz"
    expected = mimic.read_folder(folder).rows
    text = gzip.decompress(path.read_bytes()).decode()
    row = text.splitlines()[1]
    path.write_bytes(gzip.compress(f"{text}{row}\n".encode()))
    assert mimic.read_folder(folder).rows == expected
    other = row.rpartition(",")[0] + ("," if row[-1] != "," else ",1.0")
    path.write_bytes(gzip.compress(f"{text}{other}\n".encode()))
    with pytest.raises(DataError, match="stands here twice, with other labels"):
        mimic.read_folder(folder)


def test_labels_without_patients_are_refused(folder: Path) -> None:
    """A table of labels that lacks the column of patients is told by its header."""
    path = folder / "mimic-cxr-2.0.0-chexpert.csv.gz"
    text = gzip.decompress(path.read_bytes()).decode()
    path.write_bytes(gzip.compress(text.replace("subject_id", "subject", 1).encode()))
    with pytest.raises(DataError, match="the header lacks 'subject_id'"):
        mimic.read_folder(folder)


def test_what_is_missing_is_told(folder: Path) -> None:
    """Without labels, metadata or images there is no batch."""
    (folder / "mimic-cxr-2.0.0-chexpert.csv.gz").rename(folder / "x.gz")
    with pytest.raises(DataError, match=r"chexpert\.csv is missing, and so is -negbio\.csv"):
        mimic.read_folder(folder)
    (folder / "x.gz").rename(folder / "mimic-cxr-2.0.0-negbio.csv.gz")
    (folder / "files").rename(folder / "elsewhere")
    with pytest.raises(DataError, match="holds none of the images"):
        mimic.read_folder(folder)
    (folder / "mimic-cxr-2.0.0-negbio.csv.gz").write_bytes(b"\x1f\x8b cut")
    with pytest.raises(DataError, match="no gzip, or cut short"):
        mimic.read_folder(folder)
