"""On a GPU: the processor waits for nothing, and the numbers are the CPU's.

The first is shown without a GPU (see `fake_gpu`). The second needs one: those tests also run on the CPU, which shows
that they can be passed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_gpu import fake_gpu
from jobs import ROWS, make_job

from cxr_ops.labels import FINDINGS
from cxr_ops.model import optimization, package, scoring, step, training
from cxr_ops.model.machine import Machine, reproducible
from cxr_ops.params import Train

only_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU that torch can use")
each_device = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=only_gpu)])
STILL = [
    f"augment_{name}" for name in ("rotation", "shift", "scale", "contrast", "brightness", "noise", "erase", "flip")
]
RECIPES = {
    "default": {},
    "bce with smoothing, SGD": {"label_smoothing": 0.1, "optimizer": "sgd", "momentum": 0.9, "augment_flip": 0.5},
    "all that can be added": {
        "loss": "asymmetric",
        "head": "mlp",
        "dropout": 0.5,
        "augment_noise": 0.1,
        "augment_erase": 0.5,
        "ema": 0.9,
        "clip_norm": 1.0,
    },
    "pairs, Adam, half frozen": {"loss": "auc", "optimizer": "adam", "frozen_blocks": 2, "rate_decay": 0.5},
    "focal, head alone": {"loss": "focal", "freeze_epochs": 1, "epochs": 1},
}


@pytest.fixture(autouse=True)
def _own_random_state() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


def on_gpu(job: step.Job) -> step.Job:
    """The job of a CPU, moved."""
    net = job.net.to("cuda")
    machine = replace(job.machine, device="cuda")
    return replace(job, net=net, forward=net, machine=machine, loss=job.loss.to("cuda"))


# ------------------------------------------------------------------------------------------ nothing waits


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES.keys())
def test_a_step_makes_nobody_wait_for_the_gpu(recipe: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the cache to the moved weights no value is asked of the device, and all that goes there is pinned."""
    job = make_job(**recipe)
    with fake_gpu() as traffic:
        job = on_gpu(job)
        optimization.prepare(job.net, job.settings, 0)
        optimizer = optimization.optimizer(job.net, job.settings)
        average = optimization.Average(job.net, job.settings.ema)

        def backward(loss: torch.Tensor) -> None:
            assert loss.device.type == "cuda"
            for parameter in job.net.parameters():
                if parameter.requires_grad:
                    parameter.grad = torch.zeros_like(parameter)

        monkeypatch.setattr(torch.Tensor, "backward", backward)  # torch's own asks the driver
        traffic.waits.clear()
        batch = step.gather(job, ROWS, 2)
        total, parts = step.learn_within_memory(job, batch, ROWS, 2, epoch=0, step=0)
        if job.settings.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(job.net.parameters(), job.settings.clip_norm)
        optimizer.step()
        average.update(1)

    assert traffic.waits == []
    assert traffic.copies >= 4  # pixels and labels of two parts
    assert (total.device.type, parts) == ("cuda", 2)


def test_validation_waits_for_the_gpu_once() -> None:
    """However many batches there are, the logits come back together, at the end."""
    job = make_job()
    with fake_gpu() as traffic:
        job = on_gpu(job)
        traffic.waits.clear()
        logits = step.score(job, np.arange(12), 4, threading.Event())

    assert logits is not None
    assert logits.shape == (12, len(FINDINGS))
    assert len(traffic.waits) == 1
    assert "(12, 14) to the host" in traffic.waits[0]


def test_what_waits_is_seen() -> None:
    """The stand-in notes a value that is asked for, a result that is fetched, and a copy from memory that can move."""
    with fake_gpu() as traffic:
        held = torch.zeros(3, device="cuda")
        torch.ones(3).pin_memory().to("cuda", non_blocking=True)
        assert traffic.waits == []
        torch.ones(3).to("cuda", non_blocking=True)
        torch.ones(3).pin_memory().to("cuda")
        held.cpu()
        for asks in (lambda: held.sum().item(), lambda: bool(held.any()), lambda: held[held > 0]):
            with pytest.raises(Exception, match="aten"):
                asks()

    assert len(traffic.waits) == 6


# ------------------------------------------------------------------------------------- the CPU's numbers


@each_device
def test_loss_is_that_of_the_cpu(device: str) -> None:
    """In float32, with pictures augmented on the device, a step has the loss of the same step on the CPU."""
    found = []
    for where in ("cpu", device):
        job = make_job(where)
        with reproducible(job.machine):
            found.append(float(step.learn(job, step.gather(job, ROWS, 2), epoch=0, step=3)))
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@each_device
def test_gradients_are_those_of_the_cpu(device: str) -> None:
    """A step's gradient is the CPU's: in float64, as a fresh network makes several per cent of float32's rounding."""
    found = []
    for where in ("cpu", device):
        job = make_job(where, **dict.fromkeys(STILL, 0.0))  # resampled pictures would be rounded before the network
        net = job.net.double()
        job = replace(job, net=net, forward=lambda x, net=net: net(x.double()))
        with reproducible(job.machine):
            step.learn(job, step.gather(job, ROWS, 2), epoch=0, step=3)
        found.append(torch.cat([p.grad.flatten().cpu() for p in net.parameters()]))
    assert float((found[1] - found[0]).norm() / found[0].norm()) < 1e-5


@each_device
def test_scores_are_those_of_the_cpu(device: str, package_folder: Path, radiographs: list[np.ndarray]) -> None:
    """A package gives the same probabilities on any device, whatever torch's own precision is there."""
    here = scoring.score(package.load(package_folder), radiographs)
    there = scoring.score(package.load(package_folder), radiographs, device=device)
    np.testing.assert_allclose(there, here, atol=1e-5)


@each_device
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_learns_and_goes_on(device: str, precision: str, tmp_path: Path) -> None:
    """A finding that can be seen is learned, and a training goes on from its checkpoint with the history it had."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 100, (64, 32, 32), dtype=np.uint8)
    truth = np.full((64, len(FINDINGS)), np.nan, np.float32)
    truth[:, 0] = np.arange(64) % 2
    pixels[truth[:, 0] == 1, 8:20, 8:20] += 120
    data = step.Data(pixels_RSS=pixels, truth_RK=truth, train=np.arange(16, 64), validation=np.arange(16))
    settings = Train(epochs=3, batch_size=8, learning_rate=2e-3, patience=4, max_positive_weight=1.0, device=device)

    def train() -> training.Trained:
        return training.train(
            data,
            settings,
            contract=package.contract(image_size=32, mean=0.449, std=0.226, training={}),
            machine=Machine(device=device, precision=precision, threads=1),
            start={},
            checkpoints=tmp_path / "checkpoints",
            inputs={},
        )

    trained = train()
    assert trained.history[-1]["train_loss"] < 0.8 * trained.history[0]["train_loss"]
    assert trained.best_auc > 0.8
    assert all(tensor.device.type == "cpu" for tensor in trained.state.values())
    newest = max((tmp_path / "checkpoints").iterdir())
    newest.unlink()
    again = train()
    assert again.history[:2] == trained.history[:2]
    assert len(again.history) == 3
    assert again.history[2]["train_loss"] < 0.8 * again.history[0]["train_loss"]
    assert device != "cpu" or again.history == trained.history  # on a GPU expect the same curve, not the same bits


@only_gpu
def test_a_gpu_that_is_full_gets_smaller_parts() -> None:
    """When the GPU's memory holds no whole batch, the step is made of parts that fit, and says so."""
    said: list[str] = []
    job = replace(make_job("cuda"), say=said.append)
    rows = np.arange(512) % 12
    job = replace(job, settings=job.settings.model_copy(update={"batch_size": 512}))
    peaks = []
    for parts in (1, 8):
        torch.cuda.reset_peak_memory_stats()
        step.learn(job, step.gather(job, rows, parts), epoch=0, step=0)
        job.net.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        peaks.append(torch.cuda.max_memory_reserved())
    assert peaks[1] < 0.7 * peaks[0]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(0.5 * sum(peaks) / total)
    try:
        loss_there, parts = step.learn_within_memory(job, step.gather(job, rows, 1), rows, 1, epoch=0, step=0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert parts > 1
    assert bool(torch.isfinite(loss_there))
    assert "out of memory" in said[0]


@only_gpu
def test_the_driver_sees_no_wait_either() -> None:
    """With torch told to refuse whatever waits, a step runs on the real device."""
    job = make_job("cuda", precision="bf16", clip_norm=1.0, head="mlp", dropout=0.5, augment_noise=0.1, ema=0.9)
    optimization.prepare(job.net, job.settings, 0)
    optimizer = optimization.optimizer(job.net, job.settings)
    average = optimization.Average(job.net, job.settings.ema)
    for number in range(2):  # kernels are loaded by the first
        batch = step.gather(job, ROWS, 2)
        torch.cuda.set_sync_debug_mode("error" if number else "default")
        try:
            step.learn_within_memory(job, batch, ROWS, 2, epoch=0, step=number)
            torch.nn.utils.clip_grad_norm_(job.net.parameters(), job.settings.clip_norm)
            optimizer.step()
            average.update(number + 1)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        optimizer.zero_grad(set_to_none=True)
