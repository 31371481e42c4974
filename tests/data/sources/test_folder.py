"""Folders of pictures by class: classes, patients, copies, and the export's own split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from folders import make_folders

from cxr_ops.data.sources import folder as folders
from cxr_ops.data.sources import registry
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

AT = FINDINGS.index("Pneumonia")


def test_classes_become_labels_and_the_rest_is_missing(tmp_path: Path) -> None:
    """PNEUMONIA is 1, NORMAL is 0 for the findings that have a folder, and the other findings are not known."""
    read = folders.read_folder(make_folders(tmp_path))
    assert read.problems == []
    assert read.findings == ("Pneumonia",)
    assert Counter(row.labels[AT] for row in read.rows) == {1: 40, 0: 40}
    assert {label for row in read.rows for at, label in enumerate(row.labels) if at != AT} == {None}
    assert {row.view for row in read.rows} == {"AP"}
    assert Counter(one["cause"] for one in read.attributes.values()) == {"bacteria": 20, "virus": 20}


def test_normal_speaks_of_all_findings_with_a_folder(tmp_path: Path) -> None:
    """With a second class, NORMAL is 0 for both, and a picture of one class says nothing of the other."""
    for place in ("train/Normal/a.png", "train/pleural effusion/b.png", "test/Pneumonia/c.png"):
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).write_bytes(b"")
    read = folders.read_folder(tmp_path)
    at = FINDINGS.index("Effusion")
    assert {row.image_id: (row.labels[at], row.labels[AT]) for row in read.rows} == {
        "a.png": (0, 0),
        "b.png": (1, None),
        "c.png": (None, 1),
    }
    assert {row.view for row in read.rows} == {""}
    assert any("names say nothing of a patient" in note for note in read.notes)
    assert {row.view for row in folders.read_folder(tmp_path, Options(view="PA")).rows} == {"PA"}


def test_patients_are_known_from_names(tmp_path: Path) -> None:
    """A person's bacterial and viral pictures are one patient's, and so are pictures that share an IM number."""
    read = folders.read_folder(make_folders(tmp_path))
    patients = Counter(row.patient_id for row in read.rows)
    assert set(patients.values()) == {2}
    assert patients["person4"] == patients["IM-0003"] == 2
    assert "40 of 80 images are named IM-NNNN" in read.notes[0]


def test_roboflows_copies_are_one_picture(tmp_path: Path) -> None:
    """Augmented copies differ in the hash alone: one of them enters, and the others are counted."""
    plain = folders.read_folder(make_folders(tmp_path / "plain"))
    read = folders.read_folder(make_folders(tmp_path / "copies", copies=True))
    assert sorted(row.patient_id for row in read.rows) == sorted(row.patient_id for row in plain.rows)
    told = "48 files are further copies (Roboflow's ..._jpg.rf.HASH) of 48 pictures, of which one each enters"
    assert told in read.notes


def test_a_copy_that_was_not_augmented_is_preferred(tmp_path: Path) -> None:
    """Copies on two sides are a leak; the one from test enters, since Roboflow augments what it trains on."""
    for place in ("train/PNEUMONIA/a_jpg.rf.00.jpg", "test/PNEUMONIA/a_jpg.rf.11.jpg", "test/NORMAL/b_jpg.rf.22.jpg"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    read = folders.read_folder(tmp_path)
    assert [row.table for row in read.rows] == ["test/PNEUMONIA/a_jpg.rf.11.jpg", "test/NORMAL/b_jpg.rf.22.jpg"]
    assert any(note.startswith("its own split leaks: copies of 1 picture stand on two sides") for note in read.notes)
    with pytest.raises(DataError, match="copies of 1 picture stand on two sides"):
        folders.read_folder(tmp_path, Options(own_split=True))


def test_the_exports_split_is_replaced_unless_one_insists(tmp_path: Path) -> None:
    """Unasked it is a note; insisted on it is kept by patient; where a patient is on two sides it is refused."""
    root = make_folders(tmp_path)
    assert folders.read_folder(root).sides == {}
    kept = folders.read_folder(root, Options(own_split=True)).sides
    assert Counter(kept.values()) == {"train": 24, "validation": 8, "test": 8}
    moved = next((root / "train" / "PNEUMONIA").glob("person0_virus*"))
    moved.rename(root / "test" / "PNEUMONIA" / moved.name)
    notes = folders.read_folder(root).notes
    assert any("it puts 1 of 40 patients on two sides, such as person0 in test and in train" in note for note in notes)
    with pytest.raises(DataError, match="its own split leaks"):
        folders.read_folder(root, Options(own_split=True))


def test_one_name_in_two_folders_is_two_images(tmp_path: Path) -> None:
    """Names that occur twice carry their folders, and each picture is a patient of its own."""
    places = ("test/NORMAL/3.png", "test/PNEUMONIA/3.png", "train/NORMAL/3.png", "train/PNEUMONIA/4.png")
    for place in places:
        put(tmp_path, place)
    read = folders.read_folder(tmp_path)
    assert read.problems == []
    assert [(row.image_id, row.patient_id) for row in read.rows] == [
        ("test-NORMAL-3.png", "test-NORMAL-3"),
        ("test-PNEUMONIA-3.png", "test-PNEUMONIA-3"),
        ("train-NORMAL-3.png", "train-NORMAL-3"),
        ("4.png", "4"),
    ]
    assert not any("further cop" in note for note in read.notes)


def test_a_picture_whose_copies_stand_in_two_classes_is_a_problem(tmp_path: Path) -> None:
    """Roboflow's copies of one picture have one label; the file that they were made from counts as well."""
    for place in ("train/NORMAL/3_png.rf.aa.jpg", "train/PNEUMONIA/3_png.rf.bb.jpg", "test/PNEUMONIA/3.png"):
        put(tmp_path, place)
    read = folders.read_folder(tmp_path)
    assert ["copies of one picture stand in different classes" in str(one) for one in read.problems] == [True]
    assert read.rows == []


@pytest.mark.parametrize("names", [("scan 1.png", "scan-1.png"), ("b\u00e9.png", "b\u00e8.png"), ("A.png", "a.png")])
def test_two_names_that_give_one_id_are_both_told(tmp_path: Path, names: tuple[str, str]) -> None:
    """None of them enters: the picture of the one must not stand under the label of the other."""
    for name in names:
        put(tmp_path, f"PNEUMONIA/{name}")
    put(tmp_path, "NORMAL/2.png")
    read = folders.read_folder(tmp_path)
    assert sorted(one.file for one in read.problems) == sorted(f"PNEUMONIA/{name}" for name in names)
    assert all("rename one of them" in one.what for one in read.problems)
    assert [row.image_id for row in read.rows] == ["2.png"]


def test_long_names_that_begin_alike_are_different_patients(tmp_path: Path) -> None:
    """An id has up to 64 characters, and the end of a longer name counts."""
    for number in range(5):
        put(tmp_path, f"PNEUMONIA/{'hospital-' * 8}{number}.png")
    ids = {row.patient_id for row in folders.read_folder(tmp_path).rows}
    assert len(ids) == 5
    assert {len(one) for one in ids} == {64}


def put(root: Path, place: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_bytes(b"")


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("train/COVID/a.png", "train/COVID stands for none of the 14 findings"),
        ("train/NORMAL/a.png", "all pictures are normal"),
        ("train/PNEUMONIA/a.txt", "the batch is empty"),
    ],
)
def test_folders_that_label_nothing_are_refused(tmp_path: Path, place: str, why: str) -> None:
    """An unknown class, only normal pictures and no pictures are errors that say what to do."""
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).write_bytes(b"")
    with pytest.raises(DataError, match=why) as caught:
        folders.read_folder(tmp_path)
    assert caught.value.fix


def test_links_are_refused(tmp_path: Path) -> None:
    """A picture or a class folder that is a link may lead anywhere."""
    root = make_folders(tmp_path / "data", patients=10)
    path = next((root / "train" / "NORMAL").iterdir())
    path.rename(tmp_path / "outside.jpeg")
    path.symlink_to(tmp_path / "outside.jpeg")
    assert "a link" in str(folders.read_folder(root).problems[0])
    (root / "test" / "NORMAL").rename(tmp_path / "elsewhere")
    (root / "test" / "NORMAL").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="the folder is a link"):
        folders.read_folder(root)


def test_it_is_recognised(tmp_path: Path) -> None:
    """The kind of the folder is found out by a class folder."""
    kind, why = registry.recognise(make_folders(tmp_path, patients=10))
    assert (kind, why) == ("folder", "test/NORMAL/ is a folder of a class")
