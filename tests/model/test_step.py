"""One step: cut into parts it is the same step, it repeats exactly, and it survives a lack of memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from jobs import ROWS, make_job
from torch import nn

from cxr_ops.errors import SettingsError
from cxr_ops.model import optimization, step
from cxr_ops.model.distributed import Ranks, ShortOfMemoryError
from cxr_ops.model.machine import Machine, reproducible

ONE_THREAD = Machine(device="cpu", precision="fp32", threads=1)


@pytest.fixture(autouse=True)
def _same_bits() -> Iterator[None]:
    with reproducible(ONE_THREAD), torch.random.fork_rng(devices=[]):
        yield


def gradients(job: step.Job, most: int, number: int = 3) -> tuple[float, list[torch.Tensor]]:
    job.net.zero_grad()
    found = float(step.learn(job, step.gather(job, ROWS, most), epoch=0, step=number))
    return found, [p.grad.clone() for p in job.net.parameters() if p.grad is not None]


def statistics(job: step.Job) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in job.net.buffers()]


@pytest.mark.parametrize("kind", ["bce", "asymmetric"])
def test_in_parts_it_is_the_same_step(kind: str) -> None:
    """Where nothing is normalised by batch, parts give the batch's loss and gradient, however labels are missing."""
    job = make_job(loss=kind, freeze_epochs=1, epochs=1)
    optimization.prepare(job.net, job.settings, 0)
    whole, parts = gradients(job, 1), gradients(job, 3)
    assert len(step.gather(job, ROWS, 3).parts) == 3
    assert parts[0] == pytest.approx(whole[0], rel=1e-6)
    assert len(whole[1]) == 2  # the head's
    for one, other in zip(whole[1], parts[1], strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert one.abs().max() > 1e-3


def test_a_step_repeats_exactly() -> None:
    """Augmentation and dropout follow from seed, epoch and step: the same step has the same bits, another has not."""
    job = make_job(head="mlp", head_width=16, dropout=0.5, freeze_epochs=1, epochs=1)
    optimization.prepare(job.net, job.settings, 0)
    first, again, other = gradients(job, 2), gradients(job, 2), gradients(job, 2, number=4)
    assert first[0] == again[0] != other[0]
    assert all(torch.equal(one, two) for one, two in zip(first[1], again[1], strict=True))
    still = replace(job, settings=job.settings.model_copy(update={"seed": 1}))
    assert gradients(still, 2)[0] != first[0]


class _SmallMemory:
    """The network on a device whose memory holds a few images; larger parts of 8 fill it with the last one."""

    def __init__(self, net: nn.Module, images: int) -> None:
        self.net, self.images, self.tried = net, images, []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.tried.append(len(x))
        logits = self.net(x)  # statistics of batch normalisation have moved by now
        if len(x) > self.images and len(x) * self.tried.count(len(x)) >= 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return logits


def test_out_of_memory_the_step_is_done_again_in_parts() -> None:
    """When memory holds a quarter of a batch, loss, gradients and statistics are those of four parts, bit for bit."""
    said: list[str] = []
    job = make_job()
    small = _SmallMemory(job.net, 2)
    short = replace(job, forward=small, say=said.append)
    optimization.prepare(job.net, job.settings, 0)
    start = {name: tensor.clone() for name, tensor in job.net.state_dict().items()}
    wanted, expected = gradients(job, 4), statistics(job)

    job.net.load_state_dict(start)
    job.net.zero_grad(set_to_none=True)
    ahead = step.gather(job, ROWS, 1)
    found, parts = step.learn_within_memory(short, ahead, ROWS, 1, epoch=0, step=3)
    assert (float(found), parts) == (wanted[0], 4)
    assert small.tried == [8, 4, 4, 2, 2, 2, 2]
    assert all(torch.equal(p.grad, kept) for p, kept in zip(job.net.parameters(), wanted[1], strict=True))
    assert all(torch.equal(now, kept) for now, kept in zip(job.net.buffers(), expected, strict=True))
    assert said == [f"out of memory: from now on a batch is worked through in {n} parts" for n in (2, 4)]


def test_memory_for_less_than_two_images_is_an_error() -> None:
    """When parts of two images do not fit, the error names what to change; other errors are left as they are."""
    job = make_job()
    optimization.prepare(job.net, job.settings, 0)
    batch = step.gather(job, ROWS, 4)
    with pytest.raises(SettingsError, match="does not hold two images") as caught:
        step.learn_within_memory(replace(job, forward=_SmallMemory(job.net, 0)), batch, ROWS, 4, epoch=0, step=0)
    assert "32 pixels" in str(caught.value)

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        step.learn_within_memory(replace(job, forward=fails), batch, ROWS, 4, epoch=0, step=0)


def test_of_several_processes_the_one_without_memory_ends() -> None:
    """A step in which other processes wait is not done again by one alone: it is an error that starts all again."""
    job = make_job()
    optimization.prepare(job.net, job.settings, 0)

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")

    one = replace(job, forward=fails, ranks=Ranks(rank=1, world=2))
    with pytest.raises(ShortOfMemoryError, match="process 1") as caught:
        step.learn_within_memory(one, step.gather(one, ROWS, 1), ROWS, 1, epoch=0, step=0)
    assert "train.accumulate: 2" in str(caught.value.fix)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("images", [2, 5, 8])
def test_processes_share_a_batch(world: int, images: int) -> None:
    """Each image of a batch is in one process's share of one part, with pixels and labels; terms are the batch's."""
    job, rows = make_job(), ROWS[:images]
    for most in (1, 2, 3):
        alone = step.gather(job, rows, most)
        shared = [step.gather(replace(job, ranks=Ranks(rank=r, world=world)), rows, most) for r in range(world)]
        assert {(batch.images, batch.terms, len(batch.parts)) for batch in shared} == {
            (images, alone.terms, len(alone.parts))
        }
        parts = [part for batch in shared for part in batch.parts]
        places = np.concatenate([part.places_N for part in parts])
        assert sorted(places) == list(range(images))
        assert np.array_equal(torch.cat([part.pixels_NSS for part in parts]), job.data.pixels_RSS[rows[places]])
        truth = torch.cat([part.truth_NK for part in parts])
        assert np.array_equal(truth, job.data.truth_RK[rows[places]], equal_nan=True)


def test_scores_every_row_once_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits are those of all rows at once, in whatever chunks, also when memory ran out; a stop gives None."""
    job = make_job()
    go, stop = threading.Event(), threading.Event()
    stop.set()
    whole = step.score(job, ROWS, 8, go)
    assert whole is not None
    chunks, parts = step.score_within_memory(job, ROWS, 3, go)
    assert parts == 3
    assert np.allclose(chunks, whole, atol=1e-5)
    assert np.abs(whole[0] - whole[1]).max() > 1e-4
    assert step.score(job, ROWS, 3, stop) is None

    monkeypatch.setattr(job.net, "forward", _SmallMemory(_Bound(job.net), 4))
    found, parts = step.score_within_memory(job, ROWS, 1, go)
    assert parts == 2
    assert np.allclose(found, whole, atol=1e-5)


class _Bound:
    """The network's own forward pass, whatever is set in its place."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return type(self.net).forward(self.net, x)


def test_gathers_one_batch_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is gathered while the one before is worked on, in order, and cut as is asked when it is gathered."""
    job, rows, most = make_job(), [np.array([1, 2]), np.array([3, 4, 5, 6]), np.array([0, 7, 8, 9])], 1
    gathered = threading.Semaphore(0)
    real = step.gather

    def told(*given: object) -> step.Batch:
        batch = real(*given)
        gathered.release()
        return batch

    monkeypatch.setattr(step, "gather", told)
    fed = step.feed(job, rows, lambda: most)
    assert np.array_equal(next(fed).parts[0].pixels_NSS, job.data.pixels_RSS[[1, 2]])
    assert all(gathered.acquire(timeout=10) for _ in range(2))  # the second is there and was not asked for
    most = 2
    second, third = next(fed), next(fed)
    assert [len(part.places_N) for part in second.parts] == [4]
    assert [len(part.places_N) for part in third.parts] == [2, 2]
    assert np.array_equal(third.parts[1].truth_NK, job.data.truth_RK[[8, 9]], equal_nan=True)
    assert third.terms == (~np.isnan(job.data.truth_RK[rows[2]])).sum()
    assert next(fed, None) is None


def test_an_error_in_the_gathering_thread_ends_the_loop() -> None:
    """What goes wrong while a batch is gathered is raised where it is waited for."""
    job = make_job()
    fed = step.feed(job, [np.array([1, 2]), np.array([3, 99])], lambda: 1)
    next(fed)
    with pytest.raises(IndexError, match="99"):
        next(fed)
