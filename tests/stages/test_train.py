"""The train stage: the same package for the same inputs, whatever happens on the way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cxr_ops.contract import EXIT_STOPPED
from cxr_ops.errors import DataError, SettingsError, StoppedError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import checkpoint, package, training
from cxr_ops.params import Params
from cxr_ops.records import StartingWeights, canonical_json, sha256_bytes, sha256_file, tree_digest
from cxr_ops.stages import train

SETTINGS = {"epochs": 3, "batch_size": 16, "threads": 1, "seed": 5}
PARAMS = Params.check({"train": SETTINGS}, "the test")


def prepare(root: Path, images: int = 64, side: int = 32, unknown: str = "") -> Path:
    """What `prepare` leaves: noise, two images a patient, some labels missing, or uncertain."""
    rng = np.random.default_rng(0)
    folder = root / "prepare"
    folder.mkdir(parents=True)
    np.save(folder / "images.npy", rng.integers(0, 256, (images, side, side), dtype=np.uint8))
    lines = [",".join(["image_id", "patient_id", "split", *FINDINGS])]
    for row in range(images):
        patient = row // 2
        labels = rng.choice(["1", "0", "0", unknown], len(FINDINGS))
        side_of = "validation" if patient % 4 == 3 else "train"
        lines.append(",".join([f"{patient:08d}_{row % 2:03d}.png", str(patient), side_of, *labels]))
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    record(folder)
    return root


def record(folder: Path) -> None:
    files = {name: sha256_file(folder / name) for name in ("images.npy", "index.csv")}
    (folder / "prepare.json").write_bytes(canonical_json({"image_size": 32, "rows": 64, "files": files}))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose training was not interrupted."""
    root = prepare(tmp_path_factory.mktemp("train") / "workspace")
    train.run(root, PARAMS)
    return root


def test_writes_a_package_that_loads_and_says_what_it_is_from(finished: Path) -> None:
    """Package, history and train.json agree; the contract names settings, data and machine; no checkpoint stays."""
    out = finished / "train"
    said = json.loads((out / "train.json").read_bytes())
    model = package.load(out / "package", said["package"])
    assert said["package"] == tree_digest(out / "package")
    assert said["train_images"] == 48
    assert said["validation_images"] == 16
    assert said["patients"] == len(model.patients) == 32
    assert package.patient_key("cxr-ops-1", "7") in model.patients
    origin = model.contract["training"]
    assert origin["settings"] == PARAMS.train.model_dump(mode="json")
    assert origin["data"]["images.npy"] == sha256_bytes((finished / "prepare" / "images.npy").read_bytes())
    assert origin["patient_salt"] == PARAMS.split.salt
    assert origin["split"] == {"salt": "cxr-ops-1", "validation": 0.1, "test": 0.25}
    assert origin["starting_weights"] == StartingWeights(start="none", patients="none").model_dump()
    assert origin["machine"]["threads"] == said["threads"] == 1
    lines = (out / "history.csv").read_text().splitlines()
    assert lines[0] == "epoch,train_loss,validation_loss,validation_auc,learning_rate"
    assert len(lines) == 1 + said["epochs_run"] == 4
    aucs = [float(line.split(",")[3]) for line in lines[1:]]
    assert aucs[said["best_epoch"] - 1] == max(aucs)
    assert not list(finished.rglob("*checkpoint-*"))
    assert str(finished) not in "".join(path.read_text() for path in out.rglob("*.json"))


def test_an_uncertain_label_trains_as_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -1 wherever a label was missing, the training is given the same labels."""
    given = []

    def look(data: training.Data, *_: object, **__: object) -> None:
        given.append(data.truth_RK)
        raise StoppedError("seen enough")

    monkeypatch.setattr(training, "train", look)
    for unknown in ("", "-1"):
        with pytest.raises(StoppedError):
            train.run(prepare(tmp_path / f"workspace{unknown}", unknown=unknown), PARAMS)
    assert np.isnan(given[0]).any()
    assert np.array_equal(*given, equal_nan=True)


def test_weights_of_unknown_origin_are_trained_and_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of weights with nothing declared starts a training, is unknown in the contract, and a line says so."""
    root = prepare(tmp_path / "workspace")
    shutil.copy(finished / "train" / "package" / package.WEIGHTS, root / "own.safetensors")
    one = {**SETTINGS, "epochs": 1, "weights": "own.safetensors"}
    one["weights_sha256"] = sha256_file(root / "own.safetensors")
    train.run(root, Params.check({"train": one}, "the test"))
    assert "own.safetensors: which patients these weights have seen is unknown" in capsys.readouterr().err
    told = package.load(root / "train" / "package").contract["training"]["starting_weights"]
    assert told == {
        "start": "own.safetensors",
        "sha256": one["weights_sha256"],
        "training_data": [],
        "patients": "unknown",
    }


# Trains as the stage does, with checkpoints as often as it is told.
CHILD = """
import sys, time
from pathlib import Path
from cxr_ops.errors import StoppedError
from cxr_ops.model import training
from cxr_ops.params import Params
from cxr_ops.stages import train
training.CHECKPOINT_SECONDS = float(sys.argv[3])
try:
    train.run(Path(sys.argv[1]), Params.check({"train": eval(sys.argv[2])}, "the test"))
except StoppedError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def interrupt(root: Path, number: signal.Signals, checkpoint_seconds: float, folder: Path) -> tuple[int, str]:
    """Train in another process, and send it a signal when it first tells how far it is."""
    progress = folder / f"progress-{number.name}"
    environ = {**os.environ, "CXR_PROGRESS": str(progress), "CXR_CHECKPOINTS": str(folder / "checkpoints")}
    command = [sys.executable, "-c", CHILD, str(root), repr(SETTINGS), str(checkpoint_seconds)]
    child = subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True)
    while child.poll() is None:
        if progress.exists():
            child.send_signal(number)
            break
        time.sleep(0.01)
    _, said = child.communicate()
    return child.returncode, said


def test_interrupted_anywhere_it_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by SIGTERM, killed, and gone on with, training gives the package of an uninterrupted one."""
    root = prepare(tmp_path / "workspace")
    # Told first at the end of an epoch's steps: the signal comes in the validation or in the second epoch.
    code, said = interrupt(root, signal.SIGTERM, 100.0, tmp_path)
    assert code == EXIT_STOPPED, said
    assert "run the same command again" in said
    assert not (root / "train" / "package").exists()

    # With a checkpoint after every step it tells of each: the signal comes while one is written or in the next step.
    code, said = interrupt(root, signal.SIGKILL, 0.0, tmp_path)
    assert code == -signal.SIGKILL, said
    assert "goes on after epoch" in said
    assert not (root / "train" / "package").exists()

    monkeypatch.setenv("CXR_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("CXR_PROGRESS", str(tmp_path / "last"))
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
    train.run(root, PARAMS)
    assert tree_digest(root / "train") == tree_digest(finished / "train")
    assert not (tmp_path / "checkpoints").exists()
    told = [json.loads(line) for line in (tmp_path / "last").read_text().splitlines()]
    assert told[-1]["done"] == told[-1]["total"] == 3 * 48
    assert told[0]["stage"] == "train"
    assert told[0]["epochs"] == 3


def test_a_checkpoint_of_other_settings_is_not_used(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed in the same folder of checkpoints starts afresh, and says that it passes over what is there."""
    monkeypatch.setenv("CXR_CHECKPOINTS", str(tmp_path / "checkpoints"))
    root = prepare(tmp_path / "workspace")

    other = Params.check({"train": {**SETTINGS, "epochs": 1, "seed": 6}}, "the test")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove", lambda _folder: None)  # as if killed before the end
        train.run(root, other)
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
    capsys.readouterr()
    train.run(root, PARAMS)
    said = capsys.readouterr().err
    assert "not used" in said
    assert "goes on" not in said
    assert tree_digest(root / "train") == tree_digest(finished / "train")


@pytest.mark.parametrize("name", ["images.npy", "index.csv", "prepare.json"])
def test_refuses_what_prepare_did_not_write(tmp_path: Path, name: str) -> None:
    """A missing file and an altered one end the stage, with the stage to run."""
    root = prepare(tmp_path / "workspace")
    path = root / "prepare" / name
    whole = path.read_bytes()
    path.unlink()
    with pytest.raises(DataError, match=f"{name} is missing"):
        train.run(root, PARAMS)
    if name != "prepare.json":
        path.write_bytes(whole[:-1])
        with pytest.raises(DataError, match="not those that it recorded"):
            train.run(root, PARAMS)


def test_refuses_too_little_to_train_on(tmp_path: Path) -> None:
    """Without images to validate on there is no training, and the error says how many there are."""
    root = prepare(tmp_path / "workspace")
    index = root / "prepare" / "index.csv"
    index.write_text(index.read_text().replace("validation", "train"))
    record(root / "prepare")
    with pytest.raises(DataError, match="64 images to train on and 0 to validate on"):
        train.run(root, PARAMS)


def test_writes_no_model_of_a_training_that_failed(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the loss is no longer a number nothing stands in the stage's folder, not even what stood there before."""
    root = Path(shutil.copytree(finished, tmp_path / "workspace"))
    monkeypatch.setattr(training, "weighted_bce", lambda logits, *_: logits.sum() * float("nan"))
    with pytest.raises(SettingsError, match="no longer a number"):
        train.run(root, PARAMS)
    assert not (root / "train").exists()
