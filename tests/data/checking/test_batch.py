"""A batch: its pictures decoded, its files written, the same bytes wherever it is built."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_ops.data import manifest
from cxr_ops.data.checking.batch import Checked, build, check
from cxr_ops.data.shards import ShardReader
from cxr_ops.data.sources import nih
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_file, tree_digest
from cxr_ops.records.data import Batch

MakeNih = Callable[..., Path]
ENTRIES = "Data_Entry_2017.csv"


def image(folder: Path, name: str) -> Path:
    return folder / "images" / name


def test_a_batch_holds_what_the_folder_held(make_nih: MakeNih, tmp_path: Path) -> None:
    """The batch's manifest, boxes and shards are the folder's, and batch.json has the digest of each file."""
    folder = make_nih()
    checked = check(nih.read_folder(folder), "first", processes=1)
    record = build(tmp_path / "out" / "first", checked)
    out = tmp_path / "out" / "first"
    assert Batch.read(out / "batch.json") == record
    assert (record.images, record.patients) == (40, 20)
    assert record.files == {path.name: sha256_file(path) for path in out.iterdir() if path.name != "batch.json"}
    frame, boxes = manifest.read_dataset(tmp_path / "out")
    with ShardReader(tmp_path / "out", dict(zip(frame["image_id"], frame["sha256"], strict=True))) as reader:
        for name in frame["image_id"]:
            assert reader.read(name) == image(folder, name).read_bytes()
    assert frame["image_id"].tolist() == sorted(path.name for path in (folder / "images").iterdir())
    assert boxes[["image_id", "finding"]].to_numpy().tolist() == [["00000001_001.png", "Infiltration"]]
    labels = {line.split(",")[0]: line.split(",")[1] for line in (folder / ENTRIES).read_text().splitlines()[1:]}
    for name, *values in frame[["image_id", *FINDINGS]].itertuples(index=False):
        positive = [finding for finding, value in zip(FINDINGS, values, strict=True) if value == 1]
        assert labels[name] == ("|".join(positive) or "No Finding")


def test_the_same_folder_gives_the_same_batch(make_nih: MakeNih, tmp_path: Path) -> None:
    """Built twice, with one process and with two, with the rows in another order, a batch has the same bytes."""
    folder = make_nih()
    build(tmp_path / "1" / "first", check(nih.read_folder(folder), "first", processes=1))
    header, *rows = (folder / ENTRIES).read_text().splitlines()
    (folder / ENTRIES).write_text("\n".join([header, *reversed(rows)]) + "\n")
    build(tmp_path / "2" / "first", check(nih.read_folder(folder), "first", processes=2))
    assert tree_digest(tmp_path / "1") == tree_digest(tmp_path / "2")


TAKEN_IN = """
import resource, sys
from pathlib import Path
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih

folder, out = map(Path, sys.argv[1:])
build(out / "first", check(nih.read_folder(folder), "first", processes=1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_memory_does_not_grow_with_the_batch(make_nih: MakeNih, tmp_path: Path) -> None:
    """Ten times as many pictures are taken in with hardly more memory: none is held for longer than its turn."""
    held, sizes = [], []
    for name, patients in (("few", 20), ("many", 200)):
        folder = make_nih(name, patients=patients, size=512)
        sizes.append(sum(path.stat().st_size for path in (folder / "images").iterdir()))
        command = [sys.executable, "-c", TAKEN_IN, str(folder), str(tmp_path / f"out-{name}")]
        held.append(int(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    assert sizes[1] - sizes[0] > 90e6
    assert held[1] - held[0] < (sizes[1] - sizes[0]) / 4


def test_a_file_that_changes_meanwhile_is_noticed(make_nih: MakeNih, tmp_path: Path) -> None:
    """A picture that is replaced between the check and the writing does not enter."""
    folder = make_nih(patients=2)
    checked = check(nih.read_folder(folder), "first", processes=1)
    other = np.zeros((32, 32), np.uint8)
    cv2.imwrite(str(image(folder, "00000002_001.png")), other)
    with pytest.raises(DataError, match="has changed since"):
        build(tmp_path / "out" / "first", checked)


def test_real_radiographs_enter(nih_originals: Path, tmp_path: Path) -> None:
    """28 files as the NIH released them, 9 of them RGBA, make a batch that reads back whole."""
    checked = check(nih.read_folder(nih_originals), "originals")
    assert checked.problems == []
    build(tmp_path / "originals", checked)
    frame, boxes = manifest.read_dataset(tmp_path)
    assert (len(frame), len(boxes)) == (28, 18)
    assert set(frame["width"]) == set(frame["height"]) == {1024}


def boxed(folder: Path, *rows: str) -> Checked:
    """A folder with these rows in its list of boxes."""
    text = "\n".join(["Image Index,Finding Label,Bbox [x,y,w,h]", *rows]) + "\n"
    (folder / nih.BOXES).write_text(text, encoding="utf-8")
    return check(nih.read_folder(folder), "first", processes=1)


def test_the_scale_of_a_box_list_is_that_of_the_whole_list(make_nih: MakeNih) -> None:
    """Where one box reaches out of a resized picture, every box is refused, those that happen to fit as well."""
    checked = boxed(make_nih(patients=4), "00000001_000.png,Mass,500,400,150,200", "00000002_000.png,Mass,1,1,9,9")
    assert (len(checked.boxes), checked.boxes_left_out, len(checked.frame)) == (0, 2, 8)
    assert [(item.file, item.line) for item in checked.problems] == [(nih.BOXES, None)]
    assert "1 of 2 boxes reaches out of the picture, such as line 2 out of 32 x 32 pixels" in checked.problems[0].what
    assert "those of 1024 x 1024" in checked.problems[0].what


def test_a_box_of_a_refused_picture_is_no_box_of_its_own(make_nih: MakeNih) -> None:
    """A picture that does not decode takes its box along, which is counted once: with the row."""
    folder = make_nih(patients=4)
    image(folder, "00000001_000.png").write_bytes(b"no picture")
    checked = boxed(folder, "00000001_000.png,Mass,1,1,9,9", "00000002_000.png,Mass,1,1,9,9")
    assert (len(checked.boxes), checked.boxes_left_out, len(checked.frame)) == (1, 0, 7)
    assert [item.image_id for item in checked.problems] == ["00000001_000.png"]


def test_boxes_that_fit_resized_pictures_are_taken_and_the_scale_is_told(make_nih: MakeNih) -> None:
    """Boxes inside pictures of another size than the release's are taken, with a note on the scale that was assumed."""
    checked = boxed(make_nih(patients=4), "00000001_000.png,Mass,1,1,9,9", "00000002_000.png,Mass,1,1,31.5,31.9")
    assert (len(checked.boxes), checked.problems) == (2, [])
    assert any("in pixels of the pictures (32 x 32), in which all lie" in note for note in checked.notes)


def test_a_box_that_leaves_a_picture_of_the_releases_size_is_its_own_fault(make_nih: MakeNih) -> None:
    """In pictures of 1024 x 1024 the list's scale is right, and only the box that is wrong is left out."""
    checked = boxed(
        make_nih(patients=1, size=1024), "00000001_000.png,Mass,1000,1,30,9", "00000001_001.png,Mass,500,400,150,200"
    )
    assert (len(checked.boxes), checked.boxes_left_out) == (1, 1)
    assert [(item.line, item.what) for item in checked.problems] == [
        (2, "the box reaches out of the image, which is 1024 x 1024")
    ]
    assert not any("in pixels of the pictures" in note for note in checked.notes)


def test_a_row_may_lack_labels_and_attributes_and_be_a_jpeg(make_nih: MakeNih, tmp_path: Path) -> None:
    """Missing and uncertain labels, another view, no sex or age, and a JPEG pass through a batch as they are."""
    listing = nih.read_folder(make_nih(patients=4))
    row = listing.rows[0]
    picture = row.path.with_suffix(".jpg")
    cv2.imwrite(str(picture), cv2.imread(str(row.path), cv2.IMREAD_GRAYSCALE))
    labels = (None, -1, 1, *[0] * 11)
    odd = replace(row, image_id="b.jpg", path=picture, labels=labels, view="LL", sex="", age=None)
    listing.rows.append(odd)
    build(tmp_path / "first", check(listing, "first", processes=1))
    frame, _ = manifest.read_dataset(tmp_path)
    found = frame[frame["image_id"] == "b.jpg"].iloc[0]
    assert (found["view"], found["sex"]) == ("LL", "")
    assert found[["age", FINDINGS[0]]].isna().all()
    assert found[[FINDINGS[1], FINDINGS[2], FINDINGS[3]]].tolist() == [-1, 1, 0]
    assert np.isnan(manifest.label_array(frame)[frame["image_id"] == "b.jpg"][0, :2]).all()
    with ShardReader(tmp_path) as reader:
        assert reader.read("b.jpg") == picture.read_bytes()
