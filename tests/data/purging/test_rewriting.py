"""Batches and events without a patient."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.data import manifest
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.purging import rewriting
from cxr_ops.data.purging.subject import Subject
from cxr_ops.data.sources import nih
from cxr_ops.errors import DataError
from cxr_ops.records.base import sha256_file
from cxr_ops.records.data import Batch, Event

DIGEST = 64 * "c"
ONE = Subject(patient="1", images=["1.png"], sha256=[DIGEST])


def test_a_batch_without_a_patient_is_a_batch(make_nih: Callable[..., Path], tmp_path: Path) -> None:
    """Rows, images and boxes of the others stay; the record fits the files; a batch of the patient alone is none."""
    folder = tmp_path / "one"
    record = build(folder, check(nih.read_folder(make_nih(patients=3, first=1)), "one", processes=1))
    before = manifest.read_manifest(folder / "manifest.csv")
    own = before[before["patient_id"] == "1"]
    subject = Subject(patient="1", images=own["image_id"].tolist(), sha256=own["sha256"].tolist())
    assert subject.shown_by(folder / "shard-00000.tar")
    (tmp_path / "out").mkdir()
    made = rewriting.rewrite_batch(folder, tmp_path / "out" / "one", subject)
    assert made == Batch.read(tmp_path / "out" / "one" / "batch.json")
    assert (made.images, made.patients, made.findings) == (4, 2, record.findings)
    assert made.files == {name: sha256_file(tmp_path / "out" / "one" / name) for name in made.files}
    after, boxes = manifest.read_dataset(tmp_path / "out")
    assert after["image_id"].tolist() == before[before["patient_id"] != "1"]["image_id"].tolist()
    assert boxes.empty
    with tarfile.open(tmp_path / "out" / "one" / "shard-00000.tar") as tar:
        assert sorted(tar.getnames()) == sorted(after["image_id"])
    other = Subject(patient="9", images=["9.png"], sha256=[DIGEST])
    assert rewriting.rewrite_batch(folder, tmp_path / "same", other) is not None
    assert (tmp_path / "same" / "shard-00000.tar").samefile(folder / "shard-00000.tar")
    alone = tmp_path / "alone"
    build(alone, check(nih.read_folder(make_nih("lone", patients=1, first=1)), "alone", processes=1))
    assert rewriting.rewrite_batch(alone, tmp_path / "none", subject) is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("attributes.csv", "image_id,drain\n00000002_000.png,as in 00000001_000.png\n", "still shows the patient"),
        ("notes.txt", "nothing of anybody\n", "is no file of a batch, and nobody knows whom it shows"),
    ],
)
def test_what_cannot_be_rewritten_ends_it(
    make_nih: Callable[..., Path], tmp_path: Path, name: str, text: str, why: str
) -> None:
    """A row of another patient that names the patient's image, and a file that nobody knows, are errors."""
    folder = tmp_path / "one"
    record = build(folder, check(nih.read_folder(make_nih(patients=3, first=1)), "one", processes=1))
    (folder / name).write_text(text)
    record.model_copy(update={"files": {**record.files, name: sha256_file(folder / name)}}).write(folder / "batch.json")
    frame = manifest.read_manifest(folder / "manifest.csv")
    own = frame[frame["patient_id"] == "1"]
    subject = Subject(patient="1", images=own["image_id"].tolist(), sha256=own["sha256"].tolist())
    with pytest.raises(DataError, match=f"{name} {why}"):
        rewriting.rewrite_batch(folder, tmp_path / "out", subject)


def test_an_event_without_a_patient_keeps_its_place() -> None:
    """Ids and labels of the patient go, the reason where it names the patient, and the event stays, even empty."""
    event = Event(name="event.00001", kind="withdraw", by="x", reason="1.png is bad", patients=["1"], images=["1.png"])
    made = rewriting.rewrite_event(event, ONE)
    assert (made.name, made.patients, made.images, made.reason) == ("event.00001", [], [], "(purged)")
    other = event.model_copy(update={"reason": "11.5 % of 12", "patients": ["2"], "images": ["2.png"]})
    assert rewriting.rewrite_event(other, ONE) == other
