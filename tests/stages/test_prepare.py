"""prepare: the packed pictures are those of the shards, without the test set."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_ops.data import contrast as contrasts
from cxr_ops.data import manifest, shards
from cxr_ops.data.checking.decode import to_square
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network, package
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file, tree_digest
from cxr_ops.records.inputs import Period
from cxr_ops.stages import prepare, split


@pytest.fixture
def divided(workspace: Path, small_params: Params) -> Path:
    """A workspace whose data count as validated, and are split."""
    frame, _ = manifest.read_dataset(workspace / "dataset")
    (workspace / "validate").mkdir()
    (workspace / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    split.run(workspace, small_params)
    return workspace


def test_each_row_is_its_picture(divided: Path, small_params: Params) -> None:
    """Row by row images.npy holds the pictures that Pillow reads from the source, resized; none is of the test set."""
    prepare.run(divided, small_params)
    index = pd.read_csv(divided / "prepare" / "index.csv", dtype={"patient_id": str})
    images = np.load(divided / "prepare" / "images.npy", mmap_mode="r", allow_pickle=False)
    sides = pd.read_csv(divided / "split" / "split.csv", dtype=str)
    assert index["image_id"].tolist() == sides[sides["split"] != "test"]["image_id"].tolist()
    assert images.shape == (len(index), 32, 32)
    for row, image_id in enumerate(index["image_id"]):
        batch = "first" if image_id < "00000021" else "second"
        with Image.open(divided.parent / batch / "images" / image_id) as picture:
            assert np.array_equal(images[row], to_square(np.asarray(picture), 32)), image_id
    truth = pd.read_csv(divided / "validate" / "manifest.csv").set_index("image_id")
    assert index[list(FINDINGS)].to_numpy().tolist() == truth.loc[index["image_id"], list(FINDINGS)].to_numpy().tolist()


@pytest.mark.parametrize("contrast", ["percentile", "equalize", "clahe"])
def test_training_sees_what_the_package_will_see(divided: Path, small_params: Params, contrast: str) -> None:
    """With a contrast, the packed rows are what the contract's own preprocessing makes of the source pixels."""
    settings = small_params.prepare.model_copy(update={"contrast": contrast, "clahe_tiles": 4})
    prepare.run(divided, small_params.model_copy(update={"prepare": settings}))
    index = pd.read_csv(divided / "prepare" / "index.csv")
    images = np.load(divided / "prepare" / "images.npy", mmap_mode="r", allow_pickle=False)
    record = json.loads((divided / "prepare" / "prepare.json").read_bytes())
    assert (record["image_size"], record["contrast"]) == (32, contrasts.terms(settings))
    terms = package.contract(image_size=32, mean=0, std=1.0, training={}, contrast=record["contrast"])
    differ = 0
    for row, image_id in enumerate(index["image_id"]):
        batch = "first" if image_id < "00000021" else "second"
        with Image.open(divided.parent / batch / "images" / image_id) as picture:
            pixels = np.asarray(picture)
        assert np.array_equal(images[row], network.preprocess(pixels, terms)), image_id
        differ += not np.array_equal(images[row], to_square(pixels, 32))
    assert differ > len(index) / 2


def test_retired_patients_are_not_packed(divided: Path, small_params: Params) -> None:
    """A test patient of an earlier period is trained on as little as one of this period."""
    prepare.run(divided, small_params)
    before = tree_digest(divided / "prepare")
    Period(number=2, closed_batches=["first"]).write(divided / "test-period.json")
    split.run(divided, small_params)
    assert "retired" in set(manifest.read_split(divided)["split"])
    prepare.run(divided, small_params)
    assert tree_digest(divided / "prepare") == before


def test_the_record_describes_the_files(divided: Path, small_params: Params) -> None:
    """prepare.json has both digests, and numpy's mean and deviation of the training rows; again, equal bytes."""
    prepare.run(divided, small_params)
    out = divided / "prepare"
    record = json.loads((out / "prepare.json").read_bytes())
    training = np.load(out / "images.npy")[(pd.read_csv(out / "index.csv")["split"] == "train").to_numpy()]
    assert record["files"] == {name: sha256_file(out / name) for name in ("images.npy", "index.csv")}
    assert (record["image_size"], record["rows"]) == (32, len(np.load(out / "images.npy")))
    assert record["train_mean"] == pytest.approx(training.mean(), rel=1e-12)
    assert record["train_std"] == pytest.approx(training.std(), rel=1e-12)
    first = tree_digest(out)
    prepare.run(divided, small_params)
    assert tree_digest(out) == first


def test_altered_bytes_stop_the_stage(divided: Path, small_params: Params) -> None:
    """A picture in a shard that is not the one on record is an error, and no half-made array is left."""
    shard = divided / "dataset" / "first" / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        for member in tar:
            data[member.offset_data + 40] ^= 1
    shard.write_bytes(data)
    with pytest.raises(DataError, match="not those on record"):
        prepare.run(divided, small_params)
    assert not (divided / "prepare").exists()


def test_too_little_disk_is_noticed_first(divided: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the array nothing is written, and the message says what to change."""
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10, 9, 1))
    with pytest.raises(StorageError, match="MiB are free") as caught:
        prepare.run(divided, small_params)
    assert "prepare.image_size" in str(caught.value)
    assert not (divided / "prepare").exists()


def _rebuilt(root: Path, params: Params, monkeypatch: pytest.MonkeyPatch) -> tuple[str, list[str]]:
    """Digest of the stage's outputs, and the pictures that were decoded for them."""
    decoded: list[str] = []
    real = shards.read_place
    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_place", lambda place: decoded.append(place.image_id) or real(place))
        prepare.run(root, params)
    return tree_digest(root / "prepare"), decoded


def test_of_a_grown_data_set_the_new_pictures_alone_are_decoded(
    divided: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a batch more, its pictures alone are decoded, and the outputs are those of a build from nothing."""
    frame = manifest.read_manifest(divided / "validate" / "manifest.csv")
    whole, decoded = _rebuilt(divided, small_params, monkeypatch)
    trained = pd.read_csv(divided / "prepare" / "index.csv")["image_id"]
    assert decoded == trained.tolist()
    batch_of = dict(zip(frame["image_id"], frame["batch"], strict=True))

    monkeypatch.setenv("CXR_PACKED", str(divided / "elsewhere"))
    first = frame[frame["batch"] == "first"]
    (divided / "validate" / "manifest.csv").write_bytes(manifest.to_csv(first, manifest.COLUMNS))
    split.run(divided, small_params)
    _, decoded = _rebuilt(divided, small_params, monkeypatch)
    assert decoded == [image_id for image_id in trained if batch_of[image_id] == "first"]
    (divided / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    split.run(divided, small_params)
    grown, decoded = _rebuilt(divided, small_params, monkeypatch)
    assert decoded == [image_id for image_id in trained if batch_of[image_id] == "second"]
    assert grown == whole
    assert _rebuilt(divided, small_params, monkeypatch) == (whole, [])


def test_other_settings_decode_all_again(divided: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another size or contrast takes nothing from the rows of before, and going back takes all of them."""
    before, decoded = _rebuilt(divided, small_params, monkeypatch)
    for change in ({"image_size": 48}, {"contrast": "equalize"}):
        settings = small_params.prepare.model_copy(update=change)
        other, again = _rebuilt(divided, small_params.model_copy(update={"prepare": settings}), monkeypatch)
        assert (again, other == before) == (decoded, False)
    assert _rebuilt(divided, small_params, monkeypatch) == (before, [])


def test_pictures_that_change_sides_leave_and_come_back(
    divided: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under a split that moves patients to the test set and back, each array is that of a build from nothing."""
    other = small_params.model_copy(update={"split": small_params.split.model_copy(update={"salt": "another"})})
    for params in (small_params, other, small_params):
        split.run(divided, params)
        extended, _ = _rebuilt(divided, params, monkeypatch)
        tested = set(manifest.read_split(divided).query("split == 'test'")["image_id"])
        assert tested
        assert not tested & set(pd.read_csv(divided / "prepare" / "index.csv")["image_id"])
        with monkeypatch.context() as patch:
            patch.setenv("CXR_PACKED", str(divided / f"empty-{params.split.salt}"))
            shutil.rmtree(divided / f"empty-{params.split.salt}", ignore_errors=True)
            assert _rebuilt(divided, params, monkeypatch)[0] == extended


def test_a_stage_that_was_stopped_goes_on_with_its_rows(
    divided: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error halfway the rows before it are kept, and the outputs are those of a build from nothing."""
    monkeypatch.setenv("CXR_PACKED", str(divided / "elsewhere"))
    whole, decoded = _rebuilt(divided, small_params, monkeypatch)
    shutil.rmtree(divided / "elsewhere")
    monkeypatch.setattr("cxr_ops.data.packed.ROWS", 4)
    monkeypatch.setattr("cxr_ops.data.checking.isolate.processors", lambda: 1)
    bad, real = decoded[10], shards.read_place

    def stopped(place: shards.Place) -> bytes:
        if place.image_id == bad:
            raise DataError("stopped")
        return real(place)

    with monkeypatch.context() as patch:
        patch.setattr(shards, "read_place", stopped)
        with pytest.raises(DataError, match="stopped"):
            prepare.run(divided, small_params)
    assert not (divided / "prepare").exists()
    assert _rebuilt(divided, small_params, monkeypatch) == (whole, decoded[8:])


def test_without_room_rows_are_not_kept(divided: Path, small_params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the disk has room for the array alone, the stage does its work and keeps nothing."""
    whole, decoded = _rebuilt(divided, small_params, monkeypatch)
    monkeypatch.setenv("CXR_PACKED", str(divided / "elsewhere"))
    usage = namedtuple("usage", "total used free")
    needed = len(decoded) * 32 * 32
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 0, 2 * needed - 1))
    assert _rebuilt(divided, small_params, monkeypatch) == (whole, decoded)
    assert not (divided / "elsewhere").exists()
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(10**9, 0, 2 * needed))
    assert _rebuilt(divided, small_params, monkeypatch) == (whole, decoded)
    assert (divided / "elsewhere").exists()
