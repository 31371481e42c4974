"""Ingestion: all or nothing, with every reason."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from cxr_ops.data import manifest
from cxr_ops.data.shards import ShardReader
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import BusyError, DataError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_file, tree_digest
from cxr_ops.records.data import Batch
from cxr_ops.stages import ingest

MakeNih = Callable[..., Path]
ENTRIES = "Data_Entry_2017.csv"


@pytest.fixture
def home(tmp_path: Path, project: Path) -> Home:
    """An installation of its own."""
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})


def image(folder: Path, name: str) -> Path:
    return folder / "images" / name


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / ENTRIES
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def refused(folder: Path, home: Home, **options: object) -> str:
    """The refusal, after which the data set is as it was and nothing is left aside."""
    before = batches.data_revision(home)
    with pytest.raises(DataError) as caught:
        ingest.run(folder, batch="first", home=home, **options)  # type: ignore[arg-type]
    assert batches.data_revision(home) == before
    assert list((home.root / "tmp").glob("ingest-*")) == []
    return str(caught.value)


def test_a_batch_holds_what_the_folder_held(make_nih: MakeNih, tmp_path: Path) -> None:
    """The batch's manifest, boxes and shards are the folder's, and batch.json has the digest of each file."""
    folder = make_nih()
    checked = ingest.check_folder(folder, "first", processes=1)
    record = ingest.build_batch(tmp_path / "out" / "first", checked)
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
    ingest.build_batch(tmp_path / "1" / "first", ingest.check_folder(folder, "first", processes=1))
    header, *rows = (folder / ENTRIES).read_text().splitlines()
    (folder / ENTRIES).write_text("\n".join([header, *reversed(rows)]) + "\n")
    ingest.build_batch(tmp_path / "2" / "first", ingest.check_folder(folder, "first", processes=2))
    assert tree_digest(tmp_path / "1") == tree_digest(tmp_path / "2")


def test_a_batch_enters_once(make_nih: MakeNih, home: Home) -> None:
    """A batch enters the data set; again it changes nothing and says so; its name with other content is refused."""
    folder = make_nih()
    result = ingest.run(folder, batch="first", home=home)
    assert (result.images, result.patients, result.quarantined, result.already) == (40, 20, 0, False)
    assert result.findings["Infiltration"] == (folder / ENTRIES).read_text().count("Infiltration")
    again = ingest.run(folder, batch="first", home=home)
    assert again.already
    assert again.revision == result.revision
    assert "nothing was changed" in str(again)
    edit(folder, ",PA,", ",AP,")
    assert "has a batch 'first' with other content" in refused(folder, home)


def test_what_the_data_set_holds_is_refused(make_nih: MakeNih, home: Home) -> None:
    """An image of a known name, a known picture under a new name, and a patient of another sex are named."""
    first = make_nih("one", patients=10)
    ingest.run(first, batch="zero", home=home)
    second = make_nih("two", patients=12, first=10)  # patient 10 is in both
    shutil.copy(image(first, "00000003_000.png"), image(second, "00000015_000.png"))
    for view in ("PA", "AP"):
        edit(second, f",21,41,M,{view}", f",21,41,F,{view}")
    message = refused(second, home)
    assert "line 2: 00000010_000.png: the data set holds an image of this name, in the batch 'zero'" in message
    assert "00000015_000.png: the data set holds this picture as 00000003_000.png of the batch 'zero'" in message
    result = ingest.run(second, batch="next", home=home, on_bad="quarantine")
    assert (result.images, result.quarantined) == (21, 3)
    third = make_nih("three", patients=3, first=21)
    message = refused(third, home)
    assert "00000021_000.png: the data set holds an image of this name, in the batch 'next'" in message
    assert "the patient is F in the data set and M here" in message


def _altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.unlink(), "the image is missing"),
        (_altered, "checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "cut short"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_bytes(b"<html>503</html>"), "web page"),
        (lambda path: Image.new("P", (32, 32)).save(path, "gif"), "GIF"),
        (lambda path: Image.new("RGB", (32, 32), "red").save(path, "png"), "colours"),
    ],
    ids=["missing", "one byte", "truncated", "empty", "html", "gif", "colour"],
)
def test_a_bad_image_is_named_and_nothing_enters(
    make_nih: MakeNih, home: Home, spoil: Callable[[Path], None], why: str
) -> None:
    """A batch with one bad image is refused with its row and the reason, which stand in the quarantine too."""
    folder = make_nih(patients=4)
    spoil(image(folder, "00000003_000.png"))
    message = refused(folder, home)
    assert "1 problem; nothing was ingested" in message
    assert f"{ENTRIES}, line 6: 00000003_000.png: " in message
    assert why in message
    assert "--on-bad quarantine" in message
    listed = (home.quarantine / "first" / "problems.csv").read_text(encoding="utf-8")
    assert listed.startswith("file,line,image_id,problem\nData_Entry_2017.csv,6,00000003_000.png,")
    assert why in listed


def test_quarantine_leaves_out_the_bad_rows_and_says_so(make_nih: MakeNih, home: Home) -> None:
    """With on_bad=quarantine the good rows enter, and those left out are counted and listed."""
    folder = make_nih()
    _altered(image(folder, "00000003_000.png"))
    image(folder, "00000004_001.png").unlink()
    edit(folder, "Nodule", "Nodul")
    result = ingest.run(folder, batch="first", home=home, on_bad="quarantine")
    assert (result.images, result.quarantined) == (37, 3)
    assert result.problems == home.quarantine / "first" / "problems.csv"
    assert len(result.problems.read_text(encoding="utf-8").splitlines()) == 4
    assert "left out 3 rows" in str(result)
    held = manifest.read_manifest(batches.batch_files(home)["first"] / "manifest.csv")
    assert not {"00000003_000.png", "00000004_001.png"} & set(held["image_id"])
    assert ingest.run(folder, batch="first", home=home, on_bad="quarantine").already


def test_a_picture_twice_is_refused(make_nih: MakeNih, home: Home) -> None:
    """The same file, and the same pixels in another encoding, under two ids are named with both lines."""
    folder = make_nih(patients=6)
    shutil.copy(image(folder, "00000001_000.png"), image(folder, "00000005_000.png"))
    pixels = cv2.imread(str(image(folder, "00000002_000.png")), cv2.IMREAD_GRAYSCALE)
    Image.fromarray(pixels).save(image(folder, "00000006_001.png"), compress_level=0)
    message = refused(folder, home)
    assert "4 problems" in message
    assert "line 2: 00000001_000.png: the same file as 00000005_000.png on line 10" in message
    assert "line 13: 00000006_001.png: the same pixels, in another encoding, as 00000002_000.png on line 4" in message


def test_the_first_of_equal_rows_stays(make_nih: MakeNih) -> None:
    """Of twins that give one patient the same findings only the later one is bad; of others, both."""
    folder = make_nih(patients=6)
    rows = (folder / ENTRIES).read_text().splitlines()
    label = next(row for row in rows if row.startswith("00000003_000")).split(",")[1]
    twin = next(row for row in rows if row.startswith("00000003_001"))
    edit(folder, twin, twin.replace(twin.split(",")[1], label, 1))
    shutil.copy(image(folder, "00000003_000.png"), image(folder, "00000003_001.png"))
    checked = ingest.check_folder(folder, "first", processes=1)
    assert [item.image_id for item in checked.problems] == ["00000003_001.png"]
    assert len(checked.frame) == 11


def test_an_empty_batch_and_only_bad_rows_are_refused(make_nih: MakeNih, home: Home) -> None:
    """No rows are refused, and so are rows of which none is good, whatever is asked for."""
    folder = make_nih(patients=1)
    edit(folder, "00000001_000.png,", "00000001_000.png,X")
    edit(folder, "00000001_001.png,", "00000001_001.png,X")
    assert "2 problems; nothing was ingested" in refused(folder, home, on_bad="quarantine")
    (folder / ENTRIES).write_text((folder / ENTRIES).read_text().splitlines()[0] + "\n")
    assert "the batch is empty" in refused(folder, home, on_bad="quarantine")


def test_many_problems_are_counted(make_nih: MakeNih, home: Home) -> None:
    """The error lists twenty problems and counts the rest; the file in the quarantine has them all."""
    folder = make_nih()
    text = (folder / ENTRIES).read_text().replace(",PA,", ",LL,").replace(",AP,", ",LL,")
    (folder / ENTRIES).write_text(text)
    message = refused(folder, home)
    assert message.count("view position 'LL'") == 20
    assert "and 20 more" in message
    assert len((home.quarantine / "first" / "problems.csv").read_text().splitlines()) == 41


def test_a_batch_without_any_finding_is_refused(make_nih: MakeNih, home: Home) -> None:
    """The expectations that validate runs are run before the batch enters; the page stands in the quarantine."""
    folder = make_nih(patients=4)
    rows = [row.split(",") for row in (folder / ENTRIES).read_text().splitlines()]
    text = "\n".join(",".join([row[0], "No Finding", *row[2:]]) if n else ",".join(row) for n, row in enumerate(rows))
    (folder / ENTRIES).write_text(text + "\n")
    assert "Some image has a finding: the labels are not all negative. Not so" in refused(folder, home)
    assert "00000001" not in (home.quarantine / "first" / "validation.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "NIH 1", "-a", "a--b", "../up", "a" * 64, "a\n"])
def test_a_batch_name_is_checked(make_nih: MakeNih, home: Home, name: str) -> None:
    """A name that is no lower-case slug is refused, and a legal one is proposed."""
    with pytest.raises(SettingsError, match="is not a batch name") as caught:
        ingest.run(make_nih(patients=1), batch=name, home=home)
    assert "--batch " in str(caught.value)


def test_too_little_disk_is_noticed_first(make_nih: MakeNih, home: Home) -> None:
    """Without room for three copies nothing is written, and the message says how much is needed."""
    folder = make_nih(patients=4)
    with pytest.raises(StorageError, match="too little disk: 0 MiB are free"):
        ingest.run(folder, batch="first", home=home, free_bytes=lambda _: 1000)
    assert batches.data_revision(home) is None
    assert list((home.root / "tmp").glob("ingest-*")) == []


def test_a_place_that_cannot_be_written_is_named(make_nih: MakeNih, home: Home) -> None:
    """A file in the place of a folder is a storage error that names it."""
    (home.root / "tmp").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        ingest.run(make_nih(patients=4), batch="first", home=home)
    assert "tmp" in str(caught.value)
    assert batches.data_revision(home) is None


def test_one_ingestion_at_a_time(make_nih: MakeNih, home: Home) -> None:
    """While one is going on, another is refused; what a killed one left aside is removed by the next."""
    folder = make_nih()
    home.locks.mkdir()
    left = home.root / "tmp" / "ingest-killed"
    left.mkdir(parents=True)
    with (home.locks / "ingest").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another ingestion"):
            ingest.run(folder, batch="first", home=home)
        assert left.is_dir()
    (folder / ENTRIES).unlink()
    refused(folder, home)
    assert not left.exists()


def test_a_file_that_changes_meanwhile_is_noticed(make_nih: MakeNih, tmp_path: Path) -> None:
    """A picture that is replaced between the check and the writing does not enter."""
    folder = make_nih(patients=2)
    checked = ingest.check_folder(folder, "first", processes=1)
    other = np.zeros((32, 32), np.uint8)
    cv2.imwrite(str(image(folder, "00000002_001.png")), other)
    with pytest.raises(DataError, match="has changed since"):
        ingest.build_batch(tmp_path / "out" / "first", checked)


def test_real_radiographs_enter(nih_originals: Path, tmp_path: Path) -> None:
    """28 files as the NIH released them, 9 of them RGBA, make a batch that reads back whole."""
    checked = ingest.check_folder(nih_originals, "originals")
    assert checked.problems == []
    ingest.build_batch(tmp_path / "originals", checked)
    frame, boxes = manifest.read_dataset(tmp_path)
    assert (len(frame), len(boxes)) == (28, 18)
    assert set(frame["width"]) == set(frame["height"]) == {1024}


def test_the_real_duplicate_is_found(nih_sample: Path) -> None:
    """The release holds one of these pictures twice; it is named, and only its second row is left out."""
    checked = ingest.check_folder(nih_sample, "sample")
    assert [(item.image_id, item.line) for item in checked.problems] == [("00002658_002.png", 371)]
    assert (len(checked.frame), checked.total) == (1297, 1298)
