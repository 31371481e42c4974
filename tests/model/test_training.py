"""Training: its pieces against second sources, and that it learns, stops and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import package, training
from cxr_ops.params import Train

ONE_THREAD = training.Machine(device="cpu", precision="fp32", threads=1)


def make_data(images: int, validation: int, seed: int = 0) -> training.Data:
    """Noise at 32 pixels with a bright square for the first finding; the other findings are missing but for one."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 100, (images, 32, 32), dtype=np.uint8)
    truth = np.full((images, len(FINDINGS)), np.nan, np.float32)
    truth[:, 0] = np.arange(images) % 2
    truth[:, 1] = rng.integers(0, 2, images)
    pixels[truth[:, 0] == 1, 8:20, 8:20] += 120
    return training.Data(
        pixels_RSS=pixels, truth_RK=truth, train=np.arange(validation, images), validation=np.arange(validation)
    )


def run(data: training.Data, settings: Train, tmp_path: Path, start: dict | None = None) -> training.Trained:
    return training.train(
        data,
        settings,
        contract=package.contract(image_size=32, mean=0.449, std=0.226, training={}),
        machine=ONE_THREAD,
        start=start or {},
        checkpoints=tmp_path / "checkpoints",
        inputs={"test": str(tmp_path)},
    )


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
    fresh = training.fresh_network(package.contract(image_size=32, mean=0, std=1.0, training={}), {}, 0)
    dead = {name: torch.zeros_like(tensor) for name, tensor in fresh.state_dict().items() if "features" in name}
    trained = run(data, Train(epochs=9, batch_size=8, patience=2), tmp_path, dead)
    assert [row["validation_auc"] for row in trained.history] == [0.5, 0.5, 0.5]
    assert trained.best_epoch == 1


def test_a_loss_that_is_no_number_is_an_error(tmp_path: Path) -> None:
    """When the loss is no longer a number, training ends with the setting to change."""
    fresh = training.fresh_network(package.contract(image_size=32, mean=0, std=1.0, training={}), {}, 0)
    broken = {name: tensor for name, tensor in fresh.state_dict().items() if "features" in name}
    broken["features.norm5.bias"] = torch.full_like(broken["features.norm5.bias"], float("nan"))
    with pytest.raises(SettingsError, match="no longer a number") as caught:
        run(make_data(12, 4), Train(epochs=1, batch_size=8), tmp_path, broken)
    assert "train.learning_rate" in str(caught.value)


@pytest.mark.parametrize(("rows", "size"), [(2, 32), (3, 2), (33, 32), (100, 7), (1500, 32)])
def test_every_row_once_an_epoch(rows: int, size: int) -> None:
    """An epoch holds every row once, in batches of 2 or more that differ by one; another epoch has another order."""
    batches = training.epoch_batches(np.arange(rows) + 5, size, seed=3, epoch=1)
    assert sorted(np.concatenate(batches)) == list(range(5, rows + 5))
    sizes = {len(batch) for batch in batches}
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(size, 3)
    if rows > 3:
        other = training.epoch_batches(np.arange(rows) + 5, size, seed=3, epoch=2)
        assert not np.array_equal(np.concatenate(batches), np.concatenate(other))


def test_augmentation_is_small_seeded_and_never_mirrors() -> None:
    """A spot stays within the stated shift, turn and scale of its place and on its side; the seed decides where."""
    x = torch.full((64, 1, 64, 64), -1.0)
    x[:, :, 14:18, 10:14] = 1.0  # centre (11.5, 15.5): 20.5 left of the middle, 16.5 above it
    moved = training.augment(x, np.random.default_rng(1))
    assert torch.equal(moved, training.augment(x, np.random.default_rng(1)))
    assert not torch.equal(moved, training.augment(x, np.random.default_rng(2)))
    mass = (moved - moved.amin(dim=(1, 2, 3), keepdim=True))[:, 0]
    mass = torch.where(mass > 0.5 * mass.amax(dim=(1, 2), keepdim=True), mass, 0.0)
    grid = torch.arange(64.0)
    columns = (mass.sum(dim=1) * grid).sum(dim=1) / mass.sum(dim=(1, 2))
    rows = (mass.sum(dim=2) * grid).sum(dim=1) / mass.sum(dim=(1, 2))
    # 5 % of 64 for the shift, 8 % and sin(7 degrees) of the distance from the middle, one pixel for the resampling
    bound = 1.08 * 3.2 + 0.09 * 26.4 + 0.122 * 26.4 + 1
    assert (torch.hypot(columns - 11.5, rows - 15.5) < bound * 2**0.5).all()
    assert (columns < 28).all()
    assert columns.std() > 1
    assert rows.std() > 1


def test_the_rate_rises_then_falls() -> None:
    """The learning rate rises to its highest in the first tenth of the steps and falls to a hundredth of it."""
    rates = [training.learning_rate(step, 200, 0.5) for step in range(200)]
    assert np.argmax(rates) == 19
    assert rates[19] == 0.5
    assert (np.diff(rates[:20]) > 0).all()
    assert (np.diff(rates[19:]) < 0).all()
    assert rates[-1] == pytest.approx(0.005)


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


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the second source is Linux's /proc/cpuinfo")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU decides otherwise")
def test_precision_follows_the_processor() -> None:
    """`auto` takes bf16 exactly where the processor's flags name bf16, and a setting overrides it."""
    words = set(Path("/proc/cpuinfo").read_text().split())
    has_bf16 = bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
    machine = training.choose_machine(Train())
    assert machine.precision == ("bf16" if has_bf16 else "fp32")
    assert machine.device == "cpu"
    assert training.choose_machine(Train(precision="fp32", threads=3)).precision == "fp32"
    assert training.choose_machine(Train(threads=3)).threads == 3
    with pytest.raises(SettingsError, match="no GPU"):
        training.choose_machine(Train(device="cuda"))


def test_switches_are_put_back() -> None:
    """What torch was set to before a training it is set to afterwards."""
    before = torch.get_num_threads()
    with training.reproducible(training.Machine(device="cpu", precision="fp32", threads=before + 1)):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == before + 1
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before
