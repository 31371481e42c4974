"""The train stage: the same package for the same inputs, whatever happens on the way."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
import torch

from cxr_ops.audit.package import patient_key
from cxr_ops.contract import EXIT_FAILED, EXIT_STOPPED
from cxr_ops.data import contrast
from cxr_ops.errors import DataError, SettingsError, StoppedError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import checkpoint, distributed, loss, machine, network, package, pretrained, scoring, training
from cxr_ops.model.step import Data
from cxr_ops.params import Params
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file, tree_digest
from cxr_ops.records.training import Start, StartingWeights
from cxr_ops.stages import train

# All that has a state, or draws: two phases, a plateau, an average, dropout, a sampler, parts, a calibration.
SETTINGS = {
    "epochs": 3,
    "freeze_epochs": 1,
    "frozen_blocks": 1,
    "rate_decay": 0.8,
    "batch_size": 16,
    "accumulate": 2,
    "schedule": "plateau",
    "plateau_patience": 1,
    "clip_norm": 1.0,
    "ema": 0.9,
    "calibrate": "platt",
    "head": "mlp",
    "head_width": 32,
    "dropout": 0.3,
    "sampler": "balanced",
    "augment_noise": 0.05,
    "augment_erase": 0.3,
    "weights": "none",
    "threads": 1,
    "seed": 5,
}


def params(**changes: object) -> Params:
    return Params.check({"prepare": {"image_size": 32}, "train": {**SETTINGS, **changes}}, "the test")


PARAMS = params()


def prepare(root: Path, images: int = 64, side: int = 32, unknown: str = "", ids: str = "") -> Path:
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
        lines.append(",".join([f"{ids}{patient:08d}_{row % 2:03d}.png", f"{ids}{patient}", side_of, *labels]))
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    record(folder)
    return root


def record(folder: Path, **more: object) -> None:
    files = {name: sha256_file(folder / name) for name in ("images.npy", "index.csv")}
    (folder / "prepare.json").write_bytes(
        canonical_json({"image_size": 32, "rows": 64, "train_mean": 0.5, "train_std": 0.25, "files": files, **more})
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose training was not interrupted."""
    root = prepare(tmp_path_factory.mktemp("train") / "workspace")
    began = time.monotonic()
    train.run(root, PARAMS)
    (root / "seconds").write_text(str(time.monotonic() - began))
    return root


# What version 0.1 made of `PARAMS` before its code was put in order, on the kind of processor and with the torch named.
BEFORE = {
    "torch": "2.15.0+cu132",
    "precision": "bf16",
    "weights": "10dbec7fd374cba57c9085c6c9466ac148dea66bb8caee8fac123e5dbcb6c028",
    "history": "2f0975d14c63c82b65230c98a146de60484bdc1f40259362102a95e7060b7a8b",
    "scores": "20e37b35d0462cfbb85e87454bfd82dab53d4ad8a37d38b4f3ea873547f03407",
}
BEFORE_ON = {"amx_bf16", "avx512_bf16", "avx512_fp16", "avx512_vnni"}


def test_weights_and_scores_are_those_of_before(finished: Path) -> None:
    """The same data and settings give, bit for bit, the weights, curves and scores that they gave before the refactor.

    Where a change is meant to move them, it says so first in the changelog, and writes the new digests here.
    """
    given = machine.choose_machine(PARAMS.train)
    if missing := BEFORE_ON - set(machine.processor(given).split()):
        pytest.skip(f"the digests are of another kind of processor: this one lacks {', '.join(sorted(missing))}")
    if (torch.__version__, given.precision) != (BEFORE["torch"], BEFORE["precision"]):
        pytest.skip(f"the digests are of torch {BEFORE['torch']} in {BEFORE['precision']}")
    with machine.reproducible(given):
        pixels = list(np.load(finished / "prepare" / "images.npy"))
        scores = scoring.score(package.load(finished / "train" / "package"), pixels)
    found = {
        "weights": sha256_file(finished / "train" / "package" / package.WEIGHTS),
        "history": sha256_file(finished / "train" / "history.csv"),
        "scores": sha256_bytes(scores.tobytes()),
    }
    assert found == {name: BEFORE[name] for name in found}


def test_writes_a_package_that_loads_and_says_what_it_is_from(finished: Path) -> None:
    """Package, history and train.json agree; the contract names settings, data and machine; no checkpoint stays."""
    out = finished / "train"
    said = json.loads((out / "train.json").read_bytes())
    model = package.load(out / "package", said["package"])
    assert said["package"] == tree_digest(out / "package")
    assert said["train_images"] == 48
    assert said["validation_images"] == 16
    assert said["patients"] == len(model.patients) == 32
    assert patient_key("cxr-ops-1", "7") in model.patients
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


def test_a_finding_without_both_kinds_is_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With no label, or one kind among the training images, a finding gives no loss and is left out of the contract."""
    seen: list[Data] = []
    root = prepare(tmp_path / "workspace")
    index = pd.read_csv(root / "prepare" / "index.csv", dtype={"patient_id": str})
    index["Mass"] = np.nan
    index.loc[index["split"] == "train", "Hernia"] = 0
    index.loc[index["split"] == "validation", "Hernia"] = 1
    index.to_csv(root / "prepare" / "index.csv", index=False)
    record(root / "prepare")
    contracts = []
    monkeypatch.setattr(
        training, "train", lambda data, *_, contract, **__: (seen.append(data), contracts.append(contract), stop())
    )

    with pytest.raises(StoppedError):
        train.run(root, PARAMS)

    untrained = [FINDINGS.index("Mass"), FINDINGS.index("Hernia")]
    assert contracts[0]["trained"] == [name for name in FINDINGS if name not in ("Mass", "Hernia")]
    assert np.isnan(seen[0].truth_RK[:, untrained]).all()
    assert (~np.isnan(np.delete(seen[0].truth_RK, untrained, axis=1))).any(axis=0).all()
    assert "for want of positive or negative images to train on: Mass, Hernia" in capsys.readouterr().err

    index[list(FINDINGS)] = 0
    index.to_csv(root / "prepare" / "index.csv", index=False)
    record(root / "prepare")
    with pytest.raises(DataError, match="no finding has both a positive and a negative image to train on"):
        train.run(root, PARAMS)


def test_an_uncertain_label_trains_as_a_missing_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With -1 wherever a label was missing, the training is given the same labels."""
    given = []

    def look(data: Data, *_: object, **__: object) -> None:
        given.append(data.truth_RK)
        raise StoppedError("seen enough")

    monkeypatch.setattr(training, "train", look)
    for unknown in ("", "-1"):
        with pytest.raises(StoppedError):
            train.run(prepare(tmp_path / f"workspace{unknown}", unknown=unknown), PARAMS)
    assert np.isnan(given[0]).any()
    assert np.array_equal(*given, equal_nan=True)


def test_a_model_of_generated_patients_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract of a model that generated patients trained carries their notice; any other carries none."""
    contracts = []

    def look(*_: object, contract: dict[str, Any], **__: object) -> None:
        contracts.append(contract)
        raise StoppedError("seen enough")

    monkeypatch.setattr(training, "train", look)
    for ids in ("generated-", ""):
        with pytest.raises(StoppedError):
            train.run(prepare(tmp_path / f"workspace{ids}", ids=ids), PARAMS)
    generated, real = (contract["training"] for contract in contracts)
    assert "people who do not exist" in generated["notice"]
    assert real.keys() == generated.keys() - {"notice"}


def test_weights_of_unknown_origin_are_trained_and_told(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of weights with nothing declared starts a training, is unknown in the contract, and a line says so."""
    root = prepare(tmp_path / "workspace")
    shutil.copy(finished / "train" / "package" / package.WEIGHTS, root / "own.safetensors")
    sha256 = sha256_file(root / "own.safetensors")
    train.run(root, params(epochs=1, weights="own.safetensors", weights_sha256=sha256))
    assert "own.safetensors: which patients these weights have seen is unknown" in capsys.readouterr().err
    told = package.load(root / "train" / "package").contract["training"]["starting_weights"]
    assert told == {
        "start": "own.safetensors",
        "sha256": sha256,
        "training_data": [],
        "patients": "unknown",
    }


def test_training_from_the_champion_knows_whom_that_has_seen(finished: Path, tmp_path: Path) -> None:
    """Of the champion's split, its patients are in the new package too, though eight of them have withdrawn since."""
    root = prepare(tmp_path / "workspace", images=48)
    shutil.copytree(finished / "train" / "package", root / "start" / "package")
    champion = package.load(root / "start" / "package")
    Start(asked=True, package=champion.digest).write(root / "start" / "start.json")
    train.run(root, params(epochs=1, freeze_epochs=0, weights="champion"))
    model = package.load(root / "train" / "package")
    assert model.patients == champion.patients
    assert model.contract["training"]["patients"] == 24
    told = StartingWeights(start="champion", sha256=champion.digest, patients="training")
    assert model.contract["training"]["starting_weights"] == told.model_dump()


def test_the_first_of_those_from_the_champion_says_where_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where there is no champion yet, a line says that training starts from the ImageNet weights."""
    imagenet = pretrained.Weights(state={}, origin=StartingWeights(start="imagenet", patients="none"))
    monkeypatch.setattr(pretrained, "read", lambda *_, **__: imagenet)
    monkeypatch.setattr(training, "train", stop)
    with pytest.raises(StoppedError):
        train.run(prepare(tmp_path / "workspace"), params(weights="champion"))
    assert "there is no champion yet: this first training starts from imagenet weights" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "fits"),
    [
        ({"image_size": 64}, False),
        ({"contrast": "equalize"}, False),
        ({"contrast": "clahe", "clahe_clip": 3.0}, False),
        ({"clahe_clip": 3.0}, True),  # says nothing as long as there is no CLAHE
    ],
)
def test_pictures_of_other_settings_are_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict, fits: bool
) -> None:
    """Pictures that prepare made with another size or contrast than params.yaml has now end the stage."""
    root = prepare(tmp_path / "workspace")
    settings = PARAMS.model_copy(update={"prepare": PARAMS.prepare.model_copy(update=changes)})
    monkeypatch.setattr(training, "train", stop)
    with pytest.raises(StoppedError if fits else DataError) as caught:
        train.run(root, settings)
    if not fits:
        assert "prepared with other settings" in caught.value.what
        assert caught.value.fix.startswith("cxr-ops stage prepare --run RUN")


def test_contrast_and_head_reach_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The contract that is trained by has the contrast of prepare and the head of train."""
    root = prepare(tmp_path / "workspace")
    settings = PARAMS.model_copy(update={"prepare": PARAMS.prepare.model_copy(update={"contrast": "clahe"})})
    record(root / "prepare", contrast=contrast.terms(settings.prepare))
    given = {}
    monkeypatch.setattr(training, "train", lambda *_, contract, **__: given.update(contract) or stop())
    with pytest.raises(StoppedError):
        train.run(root, settings)
    assert given["input"]["contrast"] == {"name": "clahe", "clip": 2.0, "tiles": 8}
    assert given["architecture"] == network.architecture("mlp", width=32, dropout=0.3)
    assert given["training"]["prepare"]["contrast"] == "clahe"


def stop(*_: object, **__: object) -> None:
    raise StoppedError("seen enough")


# Trains as the stage does, again and again: each line names how often there is a checkpoint, and each answer is the
# process that trains and, when that has ended, how. It forks, so that torch is imported once.
NURSERY = """
import os, sys
from pathlib import Path
from cxr_ops.errors import StoppedError
from cxr_ops.model import training
from cxr_ops.params import Params
from cxr_ops.stages import train
root, params = Path(sys.argv[1]), Params.model_validate_json(sys.argv[2])
for line in sys.stdin:
    child = os.fork()
    if not child:
        training.CHECKPOINT_SECONDS = float(line)
        try:
            train.run(root, params)
        except StoppedError as error:
            print(error, file=sys.stderr)
            os._exit(error.exit_code)
        os._exit(0)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def learns(progress: Path) -> bool:
    """Whether a training has told of a step; before, it tells of what it reads."""
    return progress.exists() and '"epoch"' in progress.read_text()


class Nursery:
    """Processes that train in a workspace, with their checkpoints, progress and words in a folder beside it."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.words, self.progress = folder / "words", folder / "progress"
        told = {"CXR_PROGRESS": str(self.progress), "CXR_CHECKPOINTS": str(folder / "checkpoints")}
        command = [sys.executable, "-c", NURSERY, str(root), PARAMS.model_dump_json(by_alias=True)]
        with self.words.open("w") as words:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **told, "OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                text=True,
            )

    def start(self, checkpoint_seconds: float) -> int:
        """Start a training, and give its process."""
        self._process.stdin.write(f"{checkpoint_seconds}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def wait(self) -> int:
        """Wait for it to end, and give its exit code."""
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """Let the nursery go, after the last training has ended."""
        self._process.communicate(timeout=60)


def test_stopped_on_request_it_ends_with_the_same_bits(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped by SIGTERM and gone on with, training gives the package of an uninterrupted one."""
    root = prepare(tmp_path / "workspace")
    nursery = Nursery(root, tmp_path)
    child = nursery.start(100.0)
    # Told first at the end of an epoch's steps: the signal comes in the validation or in the second epoch.
    while not learns(nursery.progress):
        time.sleep(0.01)
    os.kill(child, signal.SIGTERM)
    code = nursery.wait()
    nursery.close()
    said = nursery.words.read_text()
    assert code == EXIT_STOPPED, said
    assert "run the same command again" in said
    assert not (root / "train" / "package").exists()

    monkeypatch.setenv("CXR_CHECKPOINTS", str(tmp_path / "checkpoints"))
    monkeypatch.setenv("CXR_PROGRESS", str(tmp_path / "last"))
    assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
    train.run(root, PARAMS)
    assert tree_digest(root / "train") == tree_digest(finished / "train")
    assert not (tmp_path / "checkpoints").exists()
    told = [json.loads(line) for line in (tmp_path / "last").read_text().splitlines()]
    steps = [line for line in told if "epoch" in line]  # the others tell of what comes before and after
    assert steps[-1]["done"] == steps[-1]["total"] == 3 * 48
    assert steps[0]["epochs"] == 3
    assert {line["stage"] for line in told} == {"train"}


def test_killed_at_ten_moments_it_ends_with_the_same_bits(finished: Path, tmp_path: Path) -> None:
    """Killed at ten random moments, such as half-way through a checkpoint, training ends with the same bits."""
    root = prepare(tmp_path / "workspace")
    nursery = Nursery(root, tmp_path)
    # Other moments each time, as shares of what the whole took on this machine: each attempt gets a few steps far.
    moments = np.round(np.random.default_rng().uniform(0.02, 0.25, 10), 3)
    ends: list[int] = []
    for moment in moments:
        child = nursery.start(0.0)  # a checkpoint after every step
        while not ends and not list((tmp_path / "checkpoints").glob("checkpoint-*")):
            time.sleep(0.01)  # so that there is something to go on from
        time.sleep(moment * float((finished / "seconds").read_text()))
        os.kill(child, signal.SIGKILL)  # of one that has ended: it still waits to be asked
        ends.append(nursery.wait())
        if ends[-1] == 0:  # it was done before
            assert tree_digest(root / "train") == tree_digest(finished / "train"), moments
    nursery.start(100.0)
    assert nursery.wait() == 0, nursery.words.read_text()
    nursery.close()
    assert ends.count(-signal.SIGKILL) > 5
    assert "goes on after epoch" in nursery.words.read_text(), moments
    assert tree_digest(root / "train") == tree_digest(finished / "train"), moments


def test_a_checkpoint_of_other_settings_is_not_used(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another seed in the same folder of checkpoints starts afresh, and says that it passes over what is there."""
    monkeypatch.setenv("CXR_CHECKPOINTS", str(tmp_path / "checkpoints"))
    root = prepare(tmp_path / "workspace")

    other = params(epochs=1, seed=6)
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
    monkeypatch.setattr(loss.Loss, "__call__", lambda _, logits, __: logits.sum() * float("nan"))
    with pytest.raises(SettingsError, match="no longer a number"):
        train.run(root, PARAMS)
    assert not (root / "train").exists()


# ---------------------------------------------------------------------------------------------- several processes

# Batches of 12 and 11 are shared unevenly, in two parts each; the first phase has no statistics of a batch.
TOGETHER = {
    "epochs": 3,
    "freeze_epochs": 1,
    "batch_size": 15,
    "accumulate": 2,
    "optimizer": "sgd",
    "learning_rate": 0.002,
    "weights": "none",
    "device": "cpu",
    "precision": "fp32",
    "threads": 2,
}


CODE = Path(train.__file__).parents[2]


def together(**changes: object) -> Params:
    train = {**TOGETHER, "devices": 2, **changes}
    return Params.check({"prepare": {"image_size": 32}, "train": train}, "the test")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which two processes have trained."""
    root = prepare(tmp_path_factory.mktemp("shared") / "workspace", images=60)
    train.run(root, together())
    return root


def test_two_processes_train_the_model_of_one(shared: Path, tmp_path: Path) -> None:
    """Two processes end where one does but for rounding, and where no batch is normalised, to five digits."""

    def trained(name: str, **changes: object) -> tuple[package.LoadedModel, np.ndarray]:
        root = prepare(tmp_path / name, images=60)
        train.run(root, together(epochs=1, **changes))
        return package.load(root / "train" / "package"), losses(root)

    def losses(root: Path) -> np.ndarray:
        return np.loadtxt(root / "train" / "history.csv", delimiter=",", skiprows=1, usecols=(1, 2), ndmin=2)[0]

    assert losses(shared) == pytest.approx(trained("frozen", devices=1)[1], rel=1e-5)

    # Small steps: in larger ones rounding grows, and on some processors to a sixth of the way that the weights went.
    one, losses_of_one = trained("one", devices=1, freeze_epochs=0, learning_rate=0.0002)
    two, losses_of_two = trained("two", freeze_epochs=0, learning_rate=0.0002)
    assert [model.contract["training"]["machine"]["threads"] for model in (one, two)] == [2, 1]
    assert losses_of_two == pytest.approx(losses_of_one, rel=2e-3)
    start = training.fresh_network(one.contract, {}, 0)
    weights = [torch.cat([p.detach().reshape(-1) for p in net.parameters()]) for net in (one.net, two.net, start)]
    # Measured: 0.028 of the way that the weights went, on an AMD EPYC.
    assert (weights[1] - weights[0]).norm() < 0.05 * (weights[0] - weights[2]).norm()


def carriers(mark: str) -> list[psutil.Process]:
    """Live processes with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("CXR_PROGRESS") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.slow
def test_what_happens_to_one_process_happens_to_all(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One asked to stop, one killed, the one that started them killed: all end, and go on to the same package."""
    root = prepare(tmp_path / "workspace", images=60)
    (root / "params.yaml").write_text(together().model_dump_json(by_alias=True))
    monkeypatch.setenv("CXR_CHECKPOINTS", str(tmp_path / "checkpoints"))
    for rank, number, code, error in (
        ("1", signal.SIGTERM, EXIT_STOPPED, ("StoppedError", "training stopped on request in epoch")),
        ("0", signal.SIGKILL, EXIT_FAILED, ("CxrError", "process 0 of the training was killed by SIGKILL")),
        (None, signal.SIGKILL, -signal.SIGKILL, None),
    ):
        mark, word = tmp_path / f"{rank}-progress", tmp_path / f"{rank}-word"
        environ = {**os.environ, "CXR_PROGRESS": str(mark), "CXR_EXIT_FILE": str(word), "PYTHONPATH": str(CODE)}
        stage = subprocess.Popen([sys.executable, "-m", "cxr_ops.stages", "train"], cwd=root, env=environ)
        while not learns(mark):
            time.sleep(0.01)
            assert stage.poll() is None
        next(process for process in carriers(str(mark)) if process.environ().get("RANK") == rank).send_signal(number)
        assert stage.wait() == code
        left = json.loads(word.read_text())
        assert (left["code"], left["error"] and left["error"]["kind"]) == ((code, error[0]) if error else (None, None))
        assert error is None or left["error"]["what"].startswith(error[1])
        deadline = time.monotonic() + 5
        while carriers(str(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not carriers(str(mark))
        assert list((tmp_path / "checkpoints").glob("checkpoint-*"))
        assert not (root / "train").exists()
    train.run(root, together())
    assert tree_digest(root / "train") == tree_digest(shared / "train")
    assert not (tmp_path / "checkpoints").exists()


def test_when_one_runs_out_of_memory_all_start_again_in_more_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Processes that wait for one which has no memory are started again with batches in twice as many parts."""
    started = []

    def launch(command: list[str], processes: int) -> None:
        started.append((command[1], processes))
        if len(started) < 3:
            raise distributed.ShortOfMemoryError("process 1 is out of memory")

    monkeypatch.setattr(distributed, "launch", launch)
    train.run(tmp_path, together())
    assert started == [("CXR_PARTS=2", 2), ("CXR_PARTS=4", 2), ("CXR_PARTS=7", 2)]  # of 15 images, 2 at least
    assert "process 1 is out of memory: from now on a batch is worked through in 7 parts" in capsys.readouterr().err


def test_more_processes_than_gpus_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process needs a GPU of its own; on the CPU there may be any number."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    gpu = together().train.model_copy(update={"device": "cuda"})
    with pytest.raises(SettingsError, match="torch can use 1") as caught:
        train.run(tmp_path, together().model_copy(update={"train": gpu}))
    assert "train.devices: 1" in str(caught.value.fix)
