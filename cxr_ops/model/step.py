"""One step of training and one pass over images: batches read from the cache, gradients, logits, and too little memory.

Augmentation and dropout follow from (seed, epoch, step). A step that runs out of memory is done again from where it
began, with its batch cut into twice as many parts. On a GPU nothing here waits for the device but `score`, at its end.

Shape suffixes: N images of a batch or part, S side of the picture in pixels, K findings, R rows of the packed cache.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cxr_ops.errors import SettingsError
from cxr_ops.model import augment, batches, network
from cxr_ops.model.distributed import ALONE, Ranks, ShortOfMemoryError
from cxr_ops.model.loss import Loss
from cxr_ops.model.machine import Machine, autocast, out_of_memory
from cxr_ops.params import Train

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The packed cache, and which of its rows are for what.

    Attributes:
        pixels_RSS: uint8, memory-mapped.
        truth_RK: float32; 1, 0 or NaN (missing).
        train: rows to train on, at least 2.
        validation: rows that choose the best epoch.
    """

    pixels_RSS: npt.NDArray[np.uint8]
    truth_RK: npt.NDArray[np.float32]
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Job:
    """What stays the same from step to step, and the network that changes.

    Attributes:
        data: see `Data`.
        settings: the `train` section of params.yaml.
        contract: how the network's input is normalised.
        machine: see `machine.choose_machine`.
        net: the network, on the machine's device.
        forward: the same network for training steps, compiled where the settings ask for it.
        loss: on the same device.
        say: tells a person a sentence.
        ranks: this process among those that share a batch.
        doing: is told what goes on within a step, how many images of it are done, and of how many.
    """

    data: Data
    settings: Train
    contract: dict[str, Any]
    machine: Machine
    net: nn.Module
    forward: Callable[[torch.Tensor], torch.Tensor]
    loss: Loss
    say: Callable[[str], None]
    ranks: Ranks = ALONE
    doing: Callable[[str, int, int], None] = lambda *_: None


# --------------------------------------------------------------------------------------- batches from the cache


@dataclass(frozen=True, kw_only=True)
class Part:
    """Images that go through the network together, on the host: their places in the batch, uint8 pixels, labels.

    Of several processes each has its share of a part, which may be empty.
    """

    places_N: npt.NDArray[np.int64]
    pixels_NSS: torch.Tensor
    truth_NK: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A batch in at most `most` parts; `images` and `terms` (of the loss) count those of all parts and processes."""

    images: int
    terms: int
    most: int
    parts: list[Part]


def gather(job: Job, rows_N: npt.NDArray[np.int64], most: int) -> Batch:
    """Copy a batch's bytes out of the cache, in at most so many parts; nothing is decoded."""
    pin = job.machine.device == "cuda"  # a copy from pinned memory makes nobody wait

    def host(array: npt.NDArray[Any]) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory() if pin else tensor

    parts, terms = [], 0
    for part_N in batches.parts(np.arange(len(rows_N)), most):
        shares = job.ranks.shares(part_N)
        terms += sum(job.loss.terms(job.data.truth_RK[rows_N[share_N]]) for share_N in shares)
        places_N = shares[job.ranks.rank]
        pixels_NSS = host(job.data.pixels_RSS[rows_N[places_N]])
        truth_NK = host(job.data.truth_RK[rows_N[places_N]])
        parts.append(Part(places_N=places_N, pixels_NSS=pixels_NSS, truth_NK=truth_NK))
    return Batch(images=len(rows_N), terms=terms, most=most, parts=parts)


def feed(job: Job, rows: list[npt.NDArray[np.int64]], most: Callable[[], int]) -> Iterator[Batch]:
    """Gather batches one ahead of the one that is worked on, in a thread; `most` is asked when each is gathered."""
    with ThreadPoolExecutor(1, thread_name_prefix="gather") as thread:
        ahead = thread.submit(gather, job, rows[0], most())
        for rows_N in rows[1:]:
            batch = ahead.result()
            ahead = thread.submit(gather, job, rows_N, most())
            yield batch
        yield ahead.result()


def _to_device(job: Job, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
    """A part's normalised pictures and its labels, on the device."""
    pixels_NSS = part.pixels_NSS.to(job.machine.device, non_blocking=True)
    truth_NK = part.truth_NK.to(job.machine.device, non_blocking=True)
    return network.to_tensor(pixels_NSS, job.contract), truth_NK


# -------------------------------------------------------------------------------------- gradients and logits


def learn(job: Job, batch: Batch, *, epoch: int, step: int) -> torch.Tensor:
    """Add the gradients of a batch, part by part, to those that the parameters hold.

    Augmentation is drawn for the batch, so it does not depend on how that is cut. Dropout is drawn for a part, or for
    each process's share of it. Gradients and loss are summed over all processes, whose parameters hold none before.

    Returns:
        The batch's loss: the sum over its parts divided by all their terms, on the device.
    """
    settings = job.settings
    rng = np.random.default_rng([settings.seed, epoch, step])
    draws = augment.draw(batch.images, rng, settings)
    seeds = rng.integers(2**63, size=(len(batch.parts), job.ranks.world))[:, job.ranks.rank]
    total = torch.zeros((), device=job.machine.device)
    for part, seed in zip(batch.parts, seeds, strict=True):
        torch.default_generator.manual_seed(int(seed))
        x_N1SS, truth_NK = _to_device(job, part)
        if len(x_N1SS):
            x_N1SS = augment.apply(x_N1SS, draws[part.places_N])
        with autocast(job.machine):
            logits_NK = job.forward(x_N1SS.contiguous(memory_format=torch.channels_last))
        loss = job.loss(logits_NK, truth_NK) / max(1, batch.terms)
        loss.backward()  # type: ignore[no-untyped-call]  # torch publishes no type for it
        total += loss.detach()
        job.doing("a step", min(batch.images, int(part.places_N.max(initial=-1)) + 1), batch.images)
    job.ranks.sum([total, *(p.grad for p in job.net.parameters() if p.grad is not None)])
    return total


def score(job: Job, rows_R: npt.NDArray[np.int64], size: int, stop: threading.Event) -> npt.NDArray[np.float32] | None:
    """Logits of rows, so many images at a time, or None when a stop was asked for meanwhile."""
    job.net.eval()
    ranks, starts = job.ranks, range(0, len(rows_R), size)
    own = starts[ranks.rank :: ranks.world]
    ready = feed(replace(job, ranks=ALONE), [rows_R[first : first + size] for first in own], lambda: 1)
    with torch.inference_mode():
        # Each process fills in the rows of its chunks; the sum has every row once.
        logits_RK = torch.zeros(len(rows_R), job.data.truth_RK.shape[1], device=job.machine.device)
        for turn in range(math.ceil(len(starts) / ranks.world)):
            if any(ranks.any(stop.is_set())):
                return None
            if turn < len(own):
                x_N1SS, _ = _to_device(job, next(ready).parts[0])
                with autocast(job.machine):
                    found_NK = job.net(x_N1SS.contiguous(memory_format=torch.channels_last))
                logits_RK[own[turn] : own[turn] + size] = found_NK
            job.doing("validation", min(len(rows_R), (turn + 1) * ranks.world * size), len(rows_R))
        ranks.sum([logits_RK])
    return logits_RK.cpu().numpy()


# --------------------------------------------------------------------------------------- when memory runs out


def learn_within_memory(
    job: Job, batch: Batch, rows_N: npt.NDArray[np.int64], parts: int, *, epoch: int, step: int
) -> tuple[torch.Tensor, int]:
    """`learn`; when memory runs out, the same step from where it began, with the batch in more parts.

    Args:
        job: see `Job`.
        batch: these rows, gathered ahead; gathered again where it is in other parts.
        rows_N: the batch's rows of the cache.
        parts: at most how many parts the batch is cut into.
        epoch: from 0.
        step: within the epoch, from 0.

    Returns:
        The batch's loss, and how many parts batches are cut into from now on.

    Raises:
        SettingsError: the memory does not hold two images.
    """
    # Statistics of batch normalisation, and how often they were updated. They are put together by kind because hundreds
    # of small copies would keep a GPU waiting.
    buffers = list(job.net.buffers())
    groups = [[buffer for buffer in buffers if buffer.is_floating_point() == floats] for floats in (True, False)]
    before = [torch.cat([buffer.reshape(-1) for buffer in group]) for group in groups]

    def work(parts: int) -> torch.Tensor:
        fits = batch if batch.most == parts else gather(job, rows_N, parts)
        return learn(job, fits, epoch=epoch, step=step)

    def undo() -> None:
        job.net.zero_grad(set_to_none=True)
        for group, values in zip(groups, before, strict=True):
            for buffer, kept in zip(group, torch.split(values, [buffer.numel() for buffer in group]), strict=True):
                buffer.copy_(kept.view(buffer.shape))

    return _within_memory(job, parts, work, undo)


def score_within_memory(
    job: Job, rows_R: npt.NDArray[np.int64], parts: int, stop: threading.Event
) -> tuple[npt.NDArray[np.float32] | None, int]:
    """`score`, as many images at a time as a step's parts have; when memory runs out, again with fewer.

    Returns:
        The logits, or None when a stop was asked for meanwhile, and how many parts batches are cut into from now on.

    Raises:
        SettingsError: the memory does not hold two images.
    """
    world = job.ranks.world
    work = lambda parts: score(job, rows_R, part_size(job.settings, parts * world), stop)  # noqa: E731 - fits a line
    return _within_memory(job, parts, work, None)


def part_size(settings: Train, parts: int) -> int:
    """Images of the largest part of a batch."""
    return math.ceil(settings.batch_size / parts)


def _within_memory(job: Job, parts: int, work: Callable[[int], T], undo: Callable[[], None] | None) -> tuple[T, int]:
    """Do work in so many parts; when memory runs out, undo what it did and do it again in twice as many.

    Of several processes the others wait, in the middle of a step, for the one that ran out. There it is an error, after
    which all are started again.
    """
    most = job.settings.batch_size // 2
    while True:
        try:
            return work(parts), parts
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Only here, because the error holds on to the tensors of what failed.
        if undo is not None:
            undo()
        if parts >= most:
            raise SettingsError(
                "the memory does not hold two images",
                where=f"{job.machine.device}, pictures of {job.data.pixels_RSS.shape[1]} pixels",
                fix="lower prepare.image_size, or take a machine with more memory",
            )
        parts = min(2 * parts, most)
        if job.ranks.world > 1:
            raise ShortOfMemoryError(f"process {job.ranks.rank} is out of memory", fix=f"set train.accumulate: {parts}")
        if job.machine.device == "cuda":
            torch.cuda.empty_cache()
        job.say(f"out of memory: from now on a batch is worked through in {parts} parts")
