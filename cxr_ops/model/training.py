"""Training, read from top to bottom: what is kept, what is measured, and one loop.

Everything random follows from (seed, epoch, step), so nothing random needs saving: a training that was killed goes on
from its last checkpoint and ends, on the CPU, with the same bits as one that was not. Budgets are epochs, never time;
time only decides how often a checkpoint is written. Only memory that ran out leaves a trace: the batches after it are
cut into more parts, and batch normalisation sees a part at a time.

Shape suffixes: K findings, V images of the validation set.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from torch import nn

from cxr_ops.errors import DataError, SettingsError, StoppedError
from cxr_ops.model import batches, calibration, checkpoint, distributed, network, optimization
from cxr_ops.model.distributed import ALONE, Ranks
from cxr_ops.model.loss import Loss, build
from cxr_ops.model.machine import Machine, reproducible
from cxr_ops.model.progress import busy, progress
from cxr_ops.model.step import Data, Job, feed, learn_within_memory, part_size, score_within_memory
from cxr_ops.params import Train
from cxr_ops.stats.ranking import area

CHECKPOINT_SECONDS = 120.0  # the most work that a kill can cost; one is also written after every epoch
# Between looks at the loss: on a GPU each look waits for the device, and on a CPU ten steps may take minutes.
LOOK_EVERY: Final = 10  # steps
LOOK_SECONDS: Final = 5.0


@dataclass(kw_only=True)
class Standing:
    """Where a training stands: all of it that is not a tensor. `step` counts within the epoch.

    `parts` is how many parts a batch is cut into: `train.accumulate`, or more after memory ran out.
    """

    parts: int
    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    images: int = 0
    best_auc: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training. Epochs count from 1.

    Attributes:
        state: tensors of the best epoch (of the moving average, where there is one), on the CPU, calibrated.
        best_epoch: the epoch with the best mean validation AUC.
        best_auc: that AUC.
        history: a row an epoch.
        parts: how many parts a batch was cut into at the end.
    """

    state: dict[str, torch.Tensor]
    best_epoch: int
    best_auc: float
    history: list[dict[str, float]]
    parts: int = 1


def fresh_network(contract: dict[str, Any], start: dict[str, torch.Tensor], seed: int) -> nn.Module:
    """Make the contract's network with seeded weights, then fill in those that training starts from.

    Raises:
        SettingsError: the weights to start from are of another network.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = network.build(contract)
    if start:
        try:
            left_out = net.load_state_dict(start, strict=False)
        except RuntimeError as error:
            raise SettingsError("the weights to start from are of another network", where="train.weights") from error
        missing = [name for name in left_out.missing_keys if not name.startswith("classifier.")]
        if missing or left_out.unexpected_keys:
            odd = [*missing, *left_out.unexpected_keys]
            raise SettingsError(f"the weights to start from are of another network: {odd[0]}", where="train.weights")
    return net


def mean_auc(truth_NK: npt.NDArray[np.float32], scores_NK: npt.NDArray[np.float32]) -> float:
    """Mean AUC over the findings that have both kinds among the known labels; it chooses the epoch, it is no evidence.

    Raises:
        DataError: no finding has both kinds.
    """
    areas = []
    for truth_N, scores_N in zip(truth_NK.T, scores_NK.T, strict=True):
        known = ~np.isnan(truth_N)
        if 0 < (truth_N[known] == 1).sum() < known.sum():
            areas.append(area(truth_N[known], scores_N[known]))
    if not areas:
        raise DataError(
            "no finding has both a positive and a negative image in the validation set",
            where="prepare/index.csv",
            fix="ingest more data, or raise split.validation",
        )
    return float(np.mean(areas))


def mean_loss(loss: Loss, truth_VK: npt.NDArray[np.float32], logits_VK: npt.NDArray[np.float32], size: int) -> float:
    """Loss per term over rows, so many at a time: what a training of one part of that size would show."""
    total, terms, loss = 0.0, 0, loss.to("cpu")
    for first in range(0, len(truth_VK), size):
        truth_NK = truth_VK[first : first + size]
        total += float(loss(torch.from_numpy(logits_VK[first : first + size]), torch.from_numpy(truth_NK)))
        terms += loss.terms(truth_NK)
    return total / max(1, terms)


# --------------------------------------------------------------------------------------------------- the loop


def train(
    data: Data,
    settings: Train,
    *,
    contract: dict[str, Any],
    machine: Machine,
    start: dict[str, torch.Tensor],
    checkpoints: Path,
    inputs: dict[str, str],
    ranks: Ranks = ALONE,
    parts: int = 1,
) -> Trained:
    """Train until the epochs are spent or the mean validation AUC has not risen for `patience` epochs.

    Args:
        data: the packed cache.
        settings: the `train` section of params.yaml.
        contract: what the network looks like and how its input is normalised.
        machine: see `machine.choose_machine`.
        start: weights to start from; see `pretrained.read`.
        checkpoints: folder of this training's checkpoints. The newest whole one is gone on from.
        inputs: what the training is given, as digests; a checkpoint of other inputs is not used.
        ranks: this process among those that train together. All return the same; the first alone writes.
        parts: at least how many parts a batch is cut into; see `ShortOfMemoryError`.

    Raises:
        SettingsError: the loss is no longer a number, or the memory does not hold two images.
        ShortOfMemoryError: one process of several ran out of memory.
        DataError: the validation set cannot rank any finding.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written first.
        StorageError: a checkpoint cannot be written.
    """
    console = Console(stderr=True, quiet=not ranks.first)
    net = fresh_network(contract, start, settings.seed).to(machine.device).to(memory_format=torch.channels_last)
    net = distributed.synchronise(net, ranks, machine.device)
    job = Job(
        data=data,
        settings=settings,
        contract=contract,
        machine=machine,
        net=net,
        forward=torch.compile(net, dynamic=False) if settings.compile else net,
        loss=build(settings, data.truth_RK[data.train]).to(machine.device),
        say=lambda text: console.print(f"train: {text}", highlight=False, soft_wrap=True),
        ranks=ranks,
    )
    optimizer = optimization.optimizer(net, settings)
    average = optimization.Average(net, settings.ema)
    truth_VK = data.truth_RK[data.validation]

    standing, best, best_logits_VK = Standing(parts=settings.accumulate), dict[str, torch.Tensor](), torch.empty(0)
    if (saved := _latest(checkpoints, inputs, job)) is not None:
        standing = Standing(**saved.state)
        best, best_logits_VK = _kind(saved.tensors, "best"), saved.tensors["best_logits"]
        net.load_state_dict(_kind(saved.tensors, "net"))
        average.restore(_kind(saved.tensors, "average"))
        optimization.restore(optimizer, _kind(saved.tensors, "optimizer"))
        job.say(f"goes on after epoch {standing.epoch}, step {standing.step}")
    standing.parts = max(standing.parts, parts)
    ranks.broadcast(net.state_dict().values())  # the same bits already, unless the machines differ

    def save(steps: int) -> None:
        if not ranks.first:
            return
        kinds = {
            "net": net.state_dict(),
            "average": average.averages,
            "best": best,
            "optimizer": optimization.moments(optimizer),
        }
        tensors = {f"{kind}.{name}": tensor for kind, named in kinds.items() for name, tensor in named.items()}
        tensors["best_logits"] = best_logits_VK
        checkpoint.save(checkpoints, steps, tensors=tensors, state=asdict(standing), inputs=inputs)

    with (
        reproducible(machine),
        stop_requests() as stop,
        torch.random.fork_rng(devices=[]),
        progress(console, settings.epochs, len(data.train), tells=ranks.first) as told,
    ):
        job = replace(job, doing=told.doing)
        last_save = last_look = time.monotonic()
        while optimization.goes_on(settings, standing.epoch, standing.best_epoch):
            epoch, aucs = standing.epoch, [row["validation_auc"] for row in standing.history]
            rows = batches.epoch_batches(data.train, settings, epoch, data.truth_RK)
            optimization.prepare(net, settings, epoch)
            loss_sum = torch.tensor(standing.loss_sum, dtype=torch.float64, device=machine.device)
            began, images_before, waited, pace, waiting = time.monotonic(), standing.images, 0.0, 0.0, 0.0
            told.doing("first step of the epoch")
            ready = feed(job, rows[standing.step :], lambda: standing.parts)
            while standing.step < len(rows):
                asked_for = time.monotonic()
                batch = next(ready)
                waited += time.monotonic() - asked_for
                rate = optimization.learning_rate(
                    settings, epoch=epoch, step=standing.step, batches=len(rows), aucs=aucs
                )
                optimization.set_rate(optimizer, rate)
                loss, standing.parts = learn_within_memory(
                    job, batch, rows[standing.step], standing.parts, epoch=epoch, step=standing.step
                )
                if settings.clip_norm is not None:
                    nn.utils.clip_grad_norm_(net.parameters(), settings.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                loss_sum += loss * batch.images
                standing.step += 1
                standing.images += batch.images
                average.update(epoch * len(rows) + standing.step)

                # Asked once a step: what is saved below must be of one moment.
                asked, due = ranks.any(stop.is_set(), time.monotonic() - last_save > CHECKPOINT_SECONDS)
                slow = time.monotonic() - last_look > LOOK_SECONDS
                if standing.step % LOOK_EVERY == 0 or standing.step == len(rows) or slow or due or asked:
                    last_look = time.monotonic()
                    standing.loss_sum = _finite(loss_sum.item(), "training", settings, standing)
                    seconds = time.monotonic() - began
                    pace, waiting = (standing.images - images_before) / seconds, waited / seconds
                    told.show(
                        epoch=epoch,
                        done=standing.images,
                        loss=standing.loss_sum / standing.images,
                        rate=rate,
                        auc=aucs[-1] if aucs else None,
                        pace=pace,
                        waiting=waiting,
                    )
                if asked:
                    break
                if due:
                    save(epoch * len(rows) + standing.step)
                    last_save = time.monotonic()

            told.doing("validation")
            with average.in_charge():
                logits_VK, standing.parts = score_within_memory(job, data.validation, standing.parts, stop)
            if logits_VK is None:  # stopped: a validation that was broken off is done again
                save(epoch * len(rows) + standing.step)
                ranks.wait()  # whoever ends makes torchrun end the others
                raise StoppedError(
                    f"training stopped on request in epoch {epoch + 1} after step {standing.step} of {len(rows)}",
                    where=checkpoints,
                    fix="run the same command again: it goes on from the checkpoint",
                )
            validation_loss = mean_loss(job.loss, truth_VK, logits_VK, part_size(settings, standing.parts))
            row = {
                "epoch": epoch + 1,
                "train_loss": standing.loss_sum / standing.images,
                "validation_loss": _finite(validation_loss, "validation", settings, standing),
                "validation_auc": mean_auc(truth_VK, logits_VK),
                "learning_rate": optimization.learning_rate(
                    settings, epoch=epoch, step=len(rows) - 1, batches=len(rows), aucs=aucs
                ),
            }
            standing.history.append(row)
            seen = standing.images
            standing.epoch, standing.step, standing.images, standing.loss_sum = epoch + 1, 0, 0, 0.0
            if row["validation_auc"] > standing.best_auc:
                standing.best_auc, standing.best_epoch = row["validation_auc"], epoch + 1
                best = {name: tensor.detach().clone() for name, tensor in average.state.items()}
                best_logits_VK = torch.from_numpy(logits_VK)
            save((epoch + 1) * len(rows))
            last_save = time.monotonic()
            # Told after it was saved: what is told of an epoch is not told again with other numbers.
            told.show(
                epoch=epoch,
                done=seen,
                loss=row["train_loss"],
                rate=row["learning_rate"],
                auc=row["validation_auc"],
                pace=pace,
                waiting=waiting,
                history=row,
            )
            job.say(
                f"epoch {epoch + 1}/{settings.epochs}  loss {row['train_loss']:.4f}  "
                f"validation loss {row['validation_loss']:.4f}  mean validation AUC {row['validation_auc']:.4f}  "
                f"waited for data {waiting:.1%}"
            )
    with busy(console, "calibrates the model", tells=ranks.first):
        found = calibration.fit(best_logits_VK.numpy(), truth_VK, settings.calibrate)
        state = calibration.fold({name: tensor.cpu() for name, tensor in best.items()}, found)
    return Trained(
        state=state,
        best_epoch=standing.best_epoch,
        best_auc=standing.best_auc,
        history=standing.history,
        parts=standing.parts,
    )


def _latest(folder: Path, inputs: dict[str, str], job: Job) -> checkpoint.Checkpoint | None:
    """The checkpoint to go on from: that of the first process, which others may not be able to read."""
    saved, remarks = checkpoint.latest(folder, inputs) if job.ranks.first else (None, [])
    for remark in remarks:
        job.say(remark)
    if job.ranks.world == 1:
        return saved
    data = job.ranks.broadcast_bytes(b"" if saved is None else checkpoint.encode(saved))
    return checkpoint.decode(data) if data else None


def _kind(tensors: dict[str, torch.Tensor], kind: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{kind}."): tensor for name, tensor in tensors.items() if name.startswith(f"{kind}.")}


def _finite(loss: float, kind: str, settings: Train, standing: Standing) -> float:
    if not math.isfinite(loss):
        raise SettingsError(
            f"the {kind} loss is no longer a number (epoch {standing.epoch + 1}, by step {standing.step}); "
            "no model was written",
            where="params.yaml, train",
            fix=f"lower train.learning_rate (now {settings.learning_rate:g}), or set train.precision: fp32",
        )
    return loss


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Turn SIGTERM and SIGINT into an event that the loop looks at after each step."""
    asked = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        asked.set()

    before = {}
    if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
        before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
