"""What shows a patient, and batches and events without one."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.data import manifest, purging
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.purging import Subject
from cxr_ops.data.sources import nih
from cxr_ops.records.base import sha256_file
from cxr_ops.records.data import Batch, Event

DIGEST = 64 * "c"
ONE = Subject(patient="1", images=["1.png"], sha256=[DIGEST])


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("image_id,label\n1.png,0\n", True),
        ("image_id,label\n11.png,0\nx1.png,0\n1.png2,0\n", False),
        ("the image 1.png.", True),
        ("patient_id,side\n1,train\n", True),
        ("patient_id,age\n2,1\n", False),
        ("image_id,age\nx.png,1\n", False),
        (f'{{"cases": ["{DIGEST[:12]}"]}}', False),
        (f'{{"cases": [{{"picture": "case-{DIGEST[:12]}.png"}}]}}', True),
        (f"<html>case {DIGEST[:12]}</html>", True),
        (f'{{"sha256": "{DIGEST}"}}', True),
        ("", False),
    ],
)
def test_a_file_shows_a_patient_by_ids_and_digests(tmp_path: Path, text: str, shown: bool) -> None:
    """An id is not a part of another one, nor an age; the beginning of a digest shows something on pages alone."""
    path = tmp_path / "file"
    path.write_text(text, encoding="utf-8")
    assert ONE.shown_by(path) is shown


def test_what_crosses_a_border_of_reading_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An id is found wherever it stands in a file that is read in pieces."""
    monkeypatch.setattr(purging, "_PIECE", 8)
    path = tmp_path / "file"
    for at in range(20):
        path.write_bytes(b" " * at + b"1.png" + b" " * 9)
        assert ONE.shown_by(path)
        path.write_bytes(b" " * at + b"11.png" + b" " * 9)
        assert not ONE.shown_by(path)


def test_a_batch_without_a_patient_is_a_batch(make_nih: Callable[..., Path], tmp_path: Path) -> None:
    """Rows, images and boxes of the others stay; the record fits the files; a batch of the patient alone is none."""
    folder = tmp_path / "one"
    record = build(folder, check(nih.read_folder(make_nih(patients=3, first=1)), "one", processes=1))
    before = manifest.read_manifest(folder / "manifest.csv")
    own = before[before["patient_id"] == "1"]
    subject = Subject(patient="1", images=own["image_id"].tolist(), sha256=own["sha256"].tolist())
    assert subject.shown_by(folder / "shard-00000.tar")
    (tmp_path / "out").mkdir()
    made = purging.rewrite_batch(folder, tmp_path / "out" / "one", subject)
    assert made == Batch.read(tmp_path / "out" / "one" / "batch.json")
    assert (made.images, made.patients, made.findings) == (4, 2, record.findings)
    assert made.files == {name: sha256_file(tmp_path / "out" / "one" / name) for name in made.files}
    after, boxes = manifest.read_dataset(tmp_path / "out")
    assert after["image_id"].tolist() == before[before["patient_id"] != "1"]["image_id"].tolist()
    assert boxes.empty
    with tarfile.open(tmp_path / "out" / "one" / "shard-00000.tar") as tar:
        assert sorted(tar.getnames()) == sorted(after["image_id"])
    other = Subject(patient="9", images=["9.png"], sha256=[DIGEST])
    assert purging.rewrite_batch(folder, tmp_path / "same", other) is not None
    assert (tmp_path / "same" / "shard-00000.tar").samefile(folder / "shard-00000.tar")
    alone = tmp_path / "alone"
    build(alone, check(nih.read_folder(make_nih("lone", patients=1, first=1)), "alone", processes=1))
    assert purging.rewrite_batch(alone, tmp_path / "none", subject) is None
    assert not (tmp_path / "none").exists()


def test_an_event_without_a_patient_keeps_its_place() -> None:
    """Ids and labels of the patient go, the reason where it names the patient, and the event stays, even empty."""
    event = Event(name="event.00001", kind="withdraw", by="x", reason="1.png is bad", patients=["1"], images=["1.png"])
    made = purging.rewrite_event(event, ONE)
    assert (made.name, made.patients, made.images, made.reason) == ("event.00001", [], [], "(purged)")
    other = event.model_copy(update={"reason": "11.5 % of 12", "patients": ["2"], "images": ["2.png"]})
    assert purging.rewrite_event(other, ONE) == other
