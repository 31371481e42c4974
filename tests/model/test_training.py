"""Training: that it learns, stops, refuses, packages what it validated, and goes on after each fault."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import checkpoint, loss, network, package, training
from cxr_ops.model.machine import Machine
from cxr_ops.model.step import Data
from cxr_ops.params import Train

ONE_THREAD = Machine(device="cpu", precision="fp32", threads=1)
CONTRACT = package.contract(image_size=32, mean=0.449, std=0.226, training={})


def make_data(images: int, validation: int, seed: int = 0) -> Data:
    """Noise at 32 pixels with a bright square for the first finding; the other findings are missing but for one."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (images, 32, 32), dtype=np.uint8)
    truth = np.full((images, len(FINDINGS)), np.nan, np.float32)
    truth[:, 0] = np.arange(images) % 2
    truth[:, 1] = rng.integers(0, 2, images)
    pixels[truth[:, 0] == 1, 8:20, 8:20] += 120
    return Data(
        pixels_RSS=pixels, truth_RK=truth, train=np.arange(validation, images), validation=np.arange(validation)
    )


def run(data: Data, settings: Train, tmp_path: Path, start: dict | None = None) -> training.Trained:
    return training.train(
        data,
        settings,
        contract=CONTRACT,
        machine=ONE_THREAD,
        start=start or {},
        checkpoints=tmp_path / "checkpoints",
        inputs={"test": str(tmp_path)},
    )


def dead_backbone() -> dict[str, torch.Tensor]:
    fresh = training.fresh_network(CONTRACT, {}, 0)
    return {name: torch.zeros_like(tensor) for name, tensor in fresh.state_dict().items() if "features" in name}


def test_learns_what_is_to_be_seen(tmp_path: Path) -> None:
    """A finding that can be seen is learned in a few steps, from images of which most labels are missing."""
    data = make_data(64, 16)
    settings = Train(epochs=3, batch_size=8, learning_rate=2e-3, patience=4, max_positive_weight=1.0)
    trained = run(data, settings, tmp_path)
    assert len(trained.history) == 3
    assert trained.history[-1]["train_loss"] < 0.8 * trained.history[0]["train_loss"]
    # the other finding with labels is noise: about 0.5 for it and 1.0 for the visible one
    assert max(row["validation_auc"] for row in trained.history) == trained.best_auc > 0.65
    assert trained.history[trained.best_epoch - 1]["validation_auc"] == trained.best_auc


def test_stops_when_patience_is_spent(tmp_path: Path) -> None:
    """Training ends `patience` epochs after the best one; weights of zero never rank, so the first stays best."""
    data = make_data(12, 4)
    trained = run(data, Train(epochs=9, batch_size=8, patience=2), tmp_path, dead_backbone())
    assert [row["validation_auc"] for row in trained.history] == [0.5, 0.5, 0.5]
    assert trained.best_epoch == 1


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    """When the loss is no longer a number, training ends with the setting to change."""
    fresh = training.fresh_network(CONTRACT, {}, 0)
    broken = {name: tensor for name, tensor in fresh.state_dict().items() if "features" in name}
    broken["features.norm5.bias"] = torch.full_like(broken["features.norm5.bias"], float("nan"))
    with pytest.raises(SettingsError, match="no longer a number") as caught:
        run(make_data(12, 4), Train(epochs=1, batch_size=8), tmp_path, broken)
    assert "train.learning_rate" in str(caught.value)


def test_the_first_phase_trains_the_head_only(tmp_path: Path) -> None:
    """After a training with the backbone frozen its weights and statistics are those it started from, bit for bit."""
    settings = Train(epochs=1, freeze_epochs=1, batch_size=8)
    start = training.fresh_network(CONTRACT, {}, settings.seed).state_dict()
    trained = run(make_data(12, 4), settings, tmp_path)
    changed = {name for name, tensor in trained.state.items() if not torch.equal(tensor, start[name])}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_patience_does_not_end_the_first_phase(tmp_path: Path) -> None:
    """Patience counts in the second phase: the first one lasts as long as it is set to, however little it brings."""
    settings = Train(epochs=9, freeze_epochs=3, batch_size=8, patience=1)
    trained = run(make_data(12, 4), settings, tmp_path, dead_backbone())
    assert [row["validation_auc"] for row in trained.history] == [0.5] * 4


def test_a_step_is_no_longer_than_the_clip(tmp_path: Path) -> None:
    """Plain gradient descent moves the weights by rate times `clip_norm` where the gradient is longer than that."""
    plain = {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0, "schedule": "plateau", "learning_rate": 0.5}
    trained = run(make_data(12, 4), Train(epochs=1, batch_size=8, clip_norm=0.01, **plain), tmp_path)
    start = dict(training.fresh_network(CONTRACT, {}, 0).named_parameters())
    moved = torch.cat([(trained.state[name] - p.detach()).flatten() for name, p in start.items()])
    assert float(moved.double().norm()) == pytest.approx(0.5 * 0.01, rel=1e-3)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_packages_what_it_validated(tmp_path: Path, ema: float | None) -> None:
    """The tensors that training gives rank and lose as its history says of the best epoch, calibrated on that epoch."""
    data = make_data(24, 12)
    settings = Train(epochs=2, batch_size=6, learning_rate=3e-3, ema=ema, calibrate="platt", class_weights="none")
    trained = run(data, settings, tmp_path)
    net = network.build(CONTRACT).eval()
    net.load_state_dict(trained.state)
    x = network.to_tensor(torch.from_numpy(data.pixels_RSS[data.validation]), CONTRACT)
    with torch.inference_mode():
        logits = net(x).numpy()
    truth = data.truth_RK[data.validation]
    row = trained.history[trained.best_epoch - 1]
    assert training.mean_auc(truth, logits) == pytest.approx(row["validation_auc"], abs=1e-12) == trained.best_auc
    # Platt: the mean probability is the share of positives, and no other scale or shift is likelier than none.
    probability = 1 / (1 + np.exp(-logits[:, :2].astype(np.float64)))
    assert probability.mean(axis=0) == pytest.approx(truth[:, :2].mean(axis=0), abs=2e-5)
    assert training.mean_loss(loss.build(settings, truth), truth, logits, 6) <= row["validation_loss"] + 1e-6


def test_out_of_memory_it_goes_on_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a device that holds half a batch the weights are those of a training in two parts, and a line says so."""
    data = make_data(16, 8)
    settings = Train(epochs=1, batch_size=8)
    expected = run(data, settings.model_copy(update={"accumulate": 2}), tmp_path / "parts")
    real = network.ChestNet.forward

    def small(net: network.ChestNet, x: torch.Tensor) -> torch.Tensor:
        logits = real(net, x)
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return logits

    monkeypatch.setattr(network.ChestNet, "forward", small)
    trained = run(data, settings, tmp_path / "whole")
    assert capsys.readouterr().err.count("out of memory: from now on a batch is worked through in 2 parts") == 1
    assert trained.parts == expected.parts == 2
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in trained.state.items())
    found, _ = checkpoint.latest(tmp_path / "whole" / "checkpoints", {"test": str(tmp_path / "whole")})
    assert found is not None
    assert found.state["parts"] == 2


def test_a_full_disk_costs_no_more_than_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a checkpoint does not fit the training ends; with room again it goes on, to the bits of one never ended."""
    data, settings = make_data(12, 4), Train(epochs=2, batch_size=8)
    expected = run(data, settings, tmp_path / "whole")
    written, real = [], checkpoint.write_atomic

    def write(path: Path, content: bytes) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "write_atomic", write)
        with pytest.raises(StorageError, match="No space left on device") as caught:
            run(data, settings, tmp_path / "full")
    assert "make room" in str(caught.value)
    assert [path.name for path in (tmp_path / "full" / "checkpoints").iterdir()] == [written[0].name]
    trained = run(data, settings, tmp_path / "full")
    assert trained.history == expected.history
    assert all(torch.equal(tensor, expected.state[name]) for name, tensor in trained.state.items())


def test_compiles_with_fixed_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `compile` the steps go through what torch.compile gave, for fixed shapes; validation does not need it."""
    asked, shapes = [], []

    def compile_(net: torch.nn.Module, **options: object) -> object:
        asked.append(options)
        return lambda x: (shapes.append(tuple(x.shape)), net(x))[1]

    monkeypatch.setattr(torch, "compile", compile_)
    run(make_data(20, 4), Train(epochs=1, batch_size=8, compile=True), tmp_path)
    assert asked == [{"dynamic": False}]
    assert shapes == [(8, 1, 32, 32)] * 2


def test_says_how_long_it_waited_for_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Progress tells what share of the time was spent waiting for data, and an epoch's row; history holds no times."""
    monkeypatch.setenv("CXR_PROGRESS", str(tmp_path / "progress"))
    trained = run(make_data(12, 4), Train(epochs=1, freeze_epochs=1, batch_size=8), tmp_path)
    told = [json.loads(line) for line in (tmp_path / "progress").read_text().splitlines()]
    steps = [line for line in told if "epoch" in line]  # the others tell of what comes before and after
    assert all(0 <= line["data_wait"] < 1 for line in steps)
    assert steps[-1]["history"] == trained.history[-1]
    assert set(trained.history[0]) == {"epoch", "train_loss", "validation_loss", "validation_auc", "learning_rate"}
    assert "waited for data" in capsys.readouterr().err


def test_mean_auc_is_scikit_learns() -> None:
    """The mean AUC is scikit-learn's, over the findings that have both kinds; without one there is an error."""
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, (50, 4)).astype(np.float32)
    truth[rng.random((50, 4)) < 0.2] = np.nan
    truth[:, 2] = 1
    scores = rng.integers(0, 8, (50, 4)).astype(np.float32)
    known = ~np.isnan(truth)
    expected = [roc_auc_score(truth[known[:, k], k], scores[known[:, k], k]) for k in (0, 1, 3)]
    assert training.mean_auc(truth, scores) == pytest.approx(np.mean(expected), abs=1e-12)
    with pytest.raises(DataError, match="both a positive and a negative"):
        training.mean_auc(truth[:, 2:3], scores[:, 2:3])
