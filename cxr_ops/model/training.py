"""Training, read from top to bottom: data, augmentation, schedule, and one loop.

Everything random follows from (seed, epoch, step), so nothing random needs saving: a training that was killed goes on
from its last checkpoint and ends, on the CPU, with the same bits as one that was not. Budgets are epochs, never time;
time only decides how often a checkpoint is written.

Shape suffixes: N images of a batch, S side of the picture in pixels, K findings, R all rows of the packed cache.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from torch.nn import functional

from cxr_ops import contract as names
from cxr_ops.errors import DataError, SettingsError, StoppedError
from cxr_ops.model import checkpoint, network
from cxr_ops.model.loss import positive_weights, weighted_bce
from cxr_ops.params import Train
from cxr_ops.stats.auc import placements

CHECKPOINT_SECONDS = 120.0  # the most work that a kill can cost; one is also written after every epoch
LOOK_EVERY: Final = 10  # steps between looks at the loss: on a GPU, each look waits for the device
WARM_UP: Final = 0.1  # share of the steps in which the learning rate rises
FINAL_RATE: Final = 0.01  # share of the highest learning rate that is left at the end


# ---------------------------------------------------------------------------------------------- what is given


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
class Machine:
    """What the arithmetic depends on: `device` cpu or cuda, `precision` fp32 or bf16, `threads` of the CPU."""

    device: str
    precision: str
    threads: int


def choose_machine(settings: Train) -> Machine:
    """Decide device, precision and threads by what the machine is, never by timing it.

    `auto` precision is bf16 where the processor multiplies bf16 in hardware (AVX-512 BF16 or AMX on x86, BF16 on Arm)
    or the GPU does. Weights, loss and optimizer stay in float32.

    Raises:
        SettingsError: a GPU is asked for, and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "there is no GPU that torch can use", where="train.device: cuda", fix="set train.device: auto"
        )
    device = "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"
    if device == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        processor = torch.cpu.get_capabilities()
        has_bf16 = any(processor.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))
    precision = settings.precision if settings.precision != "auto" else ("bf16" if has_bf16 else "fp32")
    return Machine(device=device, precision=precision, threads=settings.threads or torch.get_num_threads())


def processor(machine: Machine) -> str:
    """Name the kind of processor or GPU, by what it can do: another kind may round in another way."""
    if machine.device == "cuda":
        return str(torch.cuda.get_device_name())
    return " ".join(sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True))


@contextmanager
def reproducible(machine: Machine) -> Iterator[None]:
    """Make torch give the same bits for the same input, and put its switches back afterwards.

    On the CPU an operation that cannot is an error. On a GPU it is a warning (the backward pass of max pooling is one).
    """
    memory: Any = torch.utils.deterministic  # a module with a property, which mypy does not see
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        memory.fill_uninitialized_memory,
        torch.backends.cudnn.benchmark,
        torch.backends.cudnn.allow_tf32,
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.set_num_threads(machine.threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=machine.device == "cuda")
    memory.fill_uninitialized_memory = False  # a guard for debugging that costs a pass over memory
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32: bf16 is a setting
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        memory.fill_uninitialized_memory = before[3]
        torch.backends.cudnn.benchmark, torch.backends.cudnn.allow_tf32 = before[4:]


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


# ------------------------------------------------------------------------------------------- data and schedule


def epoch_batches(rows: npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """Shuffle rows and cut them into batches, every row once.

    Batches are of equal size but for one image, and hold at least 2 (batch normalisation needs them): no small last
    batch whose few images would weigh more than others.

    >>> [len(batch) for batch in epoch_batches(np.arange(10), 4, seed=0, epoch=0)]
    [4, 3, 3]
    """
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return np.array_split(order, max(1, min(math.ceil(len(rows) / batch_size), len(rows) // 2)))


def learning_rate(step: int, steps: int, highest: float) -> float:
    """Learning rate of a step: a straight rise over the first tenth, then half a cosine down to a hundredth.

    >>> [round(learning_rate(step, 100, 1.0), 3) for step in (0, 9, 54, 99)]
    [0.1, 1.0, 0.505, 0.01]
    """
    rise = max(1, round(WARM_UP * steps))
    if step < rise:
        return highest * (step + 1) / rise
    done = (step - rise + 1) / max(1, steps - rise)
    return highest * (FINAL_RATE + (1 - FINAL_RATE) * 0.5 * (1 + math.cos(math.pi * done)))


def augment(x_N1SS: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Move, turn, scale and expose each picture a little differently.

    Up to 7 degrees, 5 % of the side, 8 % in scale, 15 % in contrast and 0.2 standard deviations in brightness: what
    differs between two frontal radiographs of the same person. Never mirrored: that would put the heart, the stomach
    and the side marker on the wrong side, and a heart on the right is a finding.

    Args:
        x_N1SS: normalised pictures, on any device.
        rng: draws on the CPU, so that every device gets the same.
    """
    n = x_N1SS.shape[0]
    angle, scale = np.deg2rad(rng.uniform(-7, 7, n)), 1 / rng.uniform(0.92, 1.08, n)
    cos, sin = np.cos(angle) * scale, np.sin(angle) * scale
    shift = rng.uniform(-0.1, 0.1, (2, n))  # the side is 2 in affine_grid's units
    draws = np.stack(
        [cos, -sin, shift[0], sin, cos, shift[1], rng.uniform(0.85, 1.15, n), rng.uniform(-0.2, 0.2, n)], axis=1
    )
    draws_N8 = torch.from_numpy(draws.astype(np.float32)).to(x_N1SS.device, non_blocking=True)
    grid_NSS2 = functional.affine_grid(draws_N8[:, :6].view(n, 2, 3), list(x_N1SS.shape), align_corners=False)
    moved_N1SS = functional.grid_sample(x_N1SS, grid_NSS2, padding_mode="border", align_corners=False)
    return moved_N1SS * draws_N8[:, 6].view(n, 1, 1, 1) + draws_N8[:, 7].view(n, 1, 1, 1)


def mean_auc(truth_NK: npt.NDArray[np.float32], scores_NK: npt.NDArray[np.float32]) -> float:
    """Mean AUC over the findings that have both kinds among the known labels; it chooses the epoch, it is no evidence.

    Raises:
        DataError: no finding has both kinds.
    """
    areas = []
    for truth_N, scores_N in zip(truth_NK.T, scores_NK.T, strict=True):
        known = ~np.isnan(truth_N)
        if 0 < (truth_N[known] == 1).sum() < known.sum():
            areas.append(float(placements(truth_N[known], scores_N[known])[0].mean()))
    if not areas:
        raise DataError(
            "no finding has both a positive and a negative image in the validation set",
            where="prepare/index.csv",
            fix="ingest more data, or raise split.validation",
        )
    return float(np.mean(areas))


# --------------------------------------------------------------------------------------------------- the loop


@dataclass(kw_only=True)
class Standing:
    """Where a training stands: all of it that is not a tensor. `step` counts within the epoch."""

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    images: int = 0
    best_auc: float = -1.0
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A finished training: the best epoch's tensors, and a row of history an epoch. Epochs count from 1."""

    state: dict[str, torch.Tensor]
    best_epoch: int
    best_auc: float
    history: list[dict[str, float]]


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


def train(
    data: Data,
    settings: Train,
    *,
    contract: dict[str, Any],
    machine: Machine,
    start: dict[str, torch.Tensor],
    checkpoints: Path,
    inputs: dict[str, str],
) -> Trained:
    """Train until the epochs are spent or the mean validation AUC has not risen for `patience` epochs.

    Args:
        data: the packed cache.
        settings: the `train` section of params.yaml.
        contract: what the network looks like and how its input is normalised.
        machine: see `choose_machine`.
        start: weights to start from; see `pretrained.read`.
        checkpoints: folder of this training's checkpoints. The newest whole one is gone on from.
        inputs: what the training is given, as digests; a checkpoint of other inputs is not used.

    Raises:
        SettingsError: the loss is no longer a number.
        DataError: the validation set cannot rank any finding.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written first.
        StorageError: a checkpoint cannot be written.
    """
    device = torch.device(machine.device)
    console = Console(stderr=True)
    net = fresh_network(contract, start, settings.seed).to(device).to(memory_format=torch.channels_last)
    # Scales and shifts of batch normalisation, and biases, are not pulled towards 0.
    weights = [p for p in net.parameters() if p.ndim > 1]
    offsets = [p for p in net.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": weights, "weight_decay": settings.weight_decay}, {"params": offsets, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        fused=True,
    )
    positive_weight_K = torch.from_numpy(positive_weights(data.truth_RK[data.train], settings.max_positive_weight)).to(
        device
    )
    batches_an_epoch = len(epoch_batches(data.train, settings.batch_size, settings.seed, 0))
    steps = settings.epochs * batches_an_epoch

    standing, best = Standing(), dict[str, torch.Tensor]()
    saved, remarks = checkpoint.latest(checkpoints, inputs)
    for remark in remarks:
        console.print(f"train: {remark}", highlight=False)
    if saved is not None:
        standing, best = Standing(**saved.state), _part(saved.tensors, "best")
        net.load_state_dict(_part(saved.tensors, "net"))
        _restore_optimizer(optimizer, _part(saved.tensors, "optimizer"))
        console.print(f"train: goes on after epoch {standing.epoch}, step {standing.step}", highlight=False)

    def save() -> None:
        tensors = {
            **{f"net.{name}": tensor for name, tensor in net.state_dict().items()},
            **{f"best.{name}": tensor for name, tensor in best.items()},
            **{f"optimizer.{name}": tensor for name, tensor in _optimizer_tensors(optimizer).items()},
        }
        done = standing.epoch * batches_an_epoch + standing.step
        checkpoint.save(checkpoints, done, tensors=tensors, state=asdict(standing), inputs=inputs)

    with reproducible(machine), stop_requests() as stop, _progress(console, settings, len(data.train)) as show:
        last_save = time.monotonic()
        while standing.epoch < settings.epochs and standing.epoch - standing.best_epoch < settings.patience:
            epoch, began, images_before = standing.epoch, time.monotonic(), standing.images
            batches = epoch_batches(data.train, settings.batch_size, settings.seed, epoch)
            net.train()
            loss_sum = torch.tensor(standing.loss_sum, dtype=torch.float64, device=device)
            while standing.step < len(batches):
                rows_N = batches[standing.step]
                rate = learning_rate(epoch * len(batches) + standing.step, steps, settings.learning_rate)
                for group in optimizer.param_groups:
                    group["lr"] = rate
                x_N1SS, truth_NK = _gather(data, rows_N, contract, device)
                x_N1SS = augment(x_N1SS, np.random.default_rng([settings.seed, epoch, standing.step]))
                with _autocast(machine):
                    logits_NK = net(x_N1SS.contiguous(memory_format=torch.channels_last))
                loss = weighted_bce(logits_NK, truth_NK, positive_weight_K)
                loss.backward()  # type: ignore[no-untyped-call]  # torch publishes no type for it
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                loss_sum += loss.detach() * len(rows_N)
                standing.step += 1
                standing.images += len(rows_N)

                # Asked once a step: what is saved below must be of one moment.
                asked, due = stop.is_set(), time.monotonic() - last_save > CHECKPOINT_SECONDS
                if standing.step % LOOK_EVERY == 0 or standing.step == len(batches) or due or asked:
                    standing.loss_sum = _finite(loss_sum.item(), "training", settings, standing)
                    show(standing, (standing.images - images_before) / (time.monotonic() - began))
                if asked:
                    break
                if due:
                    save()
                    last_save = time.monotonic()

            validated = _validate(net, data, settings, contract, machine, positive_weight_K, stop)
            if validated is None:  # stopped: a validation that was broken off is done again
                save()
                raise StoppedError(
                    f"training stopped on request in epoch {epoch + 1} after step {standing.step} of {len(batches)}",
                    where=checkpoints,
                    fix="run the same command again: it goes on from the checkpoint",
                )
            scores_NK, validation_loss = validated
            row = {
                "epoch": epoch + 1,
                "train_loss": standing.loss_sum / standing.images,
                "validation_loss": _finite(validation_loss, "validation", settings, standing),
                "validation_auc": mean_auc(data.truth_RK[data.validation], scores_NK),
                "learning_rate": learning_rate((epoch + 1) * len(batches) - 1, steps, settings.learning_rate),
            }
            standing.history.append(row)
            standing.epoch, standing.step, standing.images, standing.loss_sum = epoch + 1, 0, 0, 0.0
            if row["validation_auc"] > standing.best_auc:
                standing.best_auc, standing.best_epoch = row["validation_auc"], epoch + 1
                best = {name: tensor.detach().clone() for name, tensor in net.state_dict().items()}
            save()
            last_save = time.monotonic()
            console.print(
                f"train: epoch {epoch + 1}/{settings.epochs}  loss {row['train_loss']:.4f}  "
                f"validation loss {row['validation_loss']:.4f}  mean validation AUC {row['validation_auc']:.4f}",
                highlight=False,
                soft_wrap=True,
            )
    return Trained(state=best, best_epoch=standing.best_epoch, best_auc=standing.best_auc, history=standing.history)


def _gather(
    data: Data, rows_N: npt.NDArray[np.int64], contract: dict[str, Any], device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Copy a batch's bytes out of the cache, and normalise them on the device."""
    batch_NSS = torch.from_numpy(data.pixels_RSS[rows_N]).to(device, non_blocking=True)
    truth_NK = torch.from_numpy(data.truth_RK[rows_N]).to(device, non_blocking=True)
    return network.to_tensor(batch_NSS, contract), truth_NK


def _autocast(machine: Machine) -> torch.autocast:
    return torch.autocast(machine.device, dtype=torch.bfloat16, enabled=machine.precision == "bf16")


def _validate(
    net: nn.Module,
    data: Data,
    settings: Train,
    contract: dict[str, Any],
    machine: Machine,
    positive_weight_K: torch.Tensor,
    stop: threading.Event,
) -> tuple[npt.NDArray[np.float32], float] | None:
    """Logits of the validation rows and their mean loss, or None when a stop was asked for meanwhile."""
    net.eval()
    logits, losses = [], []
    with torch.inference_mode():
        for first in range(0, len(data.validation), settings.batch_size):
            if stop.is_set():
                return None
            rows_N = data.validation[first : first + settings.batch_size]
            x_N1SS, truth_NK = _gather(data, rows_N, contract, torch.device(machine.device))
            with _autocast(machine):
                logits_NK = net(x_N1SS.contiguous(memory_format=torch.channels_last)).float()
            logits.append(logits_NK)
            losses.append(weighted_bce(logits_NK, truth_NK, positive_weight_K).double() * len(rows_N))
    return torch.cat(logits).cpu().numpy(), float(torch.stack(losses).sum()) / len(data.validation)


def _finite(loss: float, kind: str, settings: Train, standing: Standing) -> float:
    if not math.isfinite(loss):
        raise SettingsError(
            f"the {kind} loss is no longer a number (epoch {standing.epoch + 1}, by step {standing.step}); "
            "no model was written",
            where="params.yaml, train",
            fix=f"lower train.learning_rate (now {settings.learning_rate:g}), or set train.precision: fp32",
        )
    return loss


def _part(tensors: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name.removeprefix(f"{part}."): tensor for name, tensor in tensors.items() if name.startswith(f"{part}.")}


def _optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    state = optimizer.state_dict()["state"]
    return {f"{index}.{key}": value for index, values in state.items() for key, value in values.items()}


def _restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        like = parameters[int(index)]
        # The fused step walks parameter and moments side by side in memory: they must be laid out alike.
        laid_out = torch.empty_like(like).copy_(tensor) if tensor.shape == like.shape else tensor
        state.setdefault(int(index), {})[key] = laid_out.detach()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


@contextmanager
def _progress(console: Console, settings: Train, images: int) -> Iterator[Callable[[Standing, float], None]]:
    """Show how far a training is: a bar in a terminal, and JSON lines for whoever reads CXR_PROGRESS."""
    columns = (TextColumn("train"), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=settings.epochs * images)

        def show(standing: Standing, images_per_second: float) -> None:
            done = standing.epoch * images + standing.images
            loss = standing.loss_sum / standing.images
            auc = standing.history[-1]["validation_auc"] if standing.history else None
            text = f"epoch {standing.epoch + 1}/{settings.epochs}  loss {loss:.3f}  {images_per_second:.0f} images/s"
            bar.update(task, completed=done, description=text)
            names.report_progress(
                "train",
                done,
                settings.epochs * images,
                unit="images",
                text=text,
                epoch=standing.epoch + 1,
                epochs=settings.epochs,
                loss=round(loss, 4),
                validation_auc=None if auc is None else round(auc, 4),
                images_per_second=round(images_per_second, 1),
            )

        yield show
