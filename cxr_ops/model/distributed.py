"""One training by several processes, one a GPU, that share each batch (data parallelism, started by torchrun).

Every process walks through the same loop with the same weights. Of each part of a batch it takes its share of the
images; what must be of the whole batch is summed over all:

* the statistics of batch normalisation (`synchronise`), in the forward and the backward pass,
* gradients and loss (`Ranks.sum`), once a step, as one message. The loss of a batch is a sum over its terms divided by
  their number, which each process counts from the labels of the whole batch: so shares may be of any size, and none is
  a mean of means. DistributedDataParallel would hide the message behind the backward pass, but averages over processes
  whatever their shares, and must be made anew when a phase unfreezes weights; the message of DenseNet121 is 28 MB.
* logits of the validation set (`Ranks.sum`, each process having filled in its own rows of an array of zeros): every row
  once, in order, without padding.

Whether to stop is agreed upon after each step (`Ranks.any`), so that all stop after the same one. Only the first
process writes.

What is the same whatever the number of processes: which images a step sees, and how each is augmented. With the same
number, equal inputs give equal bits on the CPU, interrupted or not, and all processes hold the same weights. Another
number sums in another order. Measured with two processes and one, as distance over length: the gradient of a step
differs by 5e-14 in float64 and, for a fresh DenseNet121 in float32, by 0.01, as it does in one process when the images
of the batch change places. After an epoch the weights differ by 0.005 to 0.1 of the way that they went, as with another
number of threads; with a frozen backbone the losses agree to 1e-5. Two things are of a process's share alone: the pairs
of the `auc` loss, and what dropout draws.

Shape suffixes: N images, K findings, C channels, W processes.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import distributed, nn
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from cxr_ops import errors
from cxr_ops.errors import CxrError, SettingsError, StoppedError

PATIENCE: Final = timedelta(minutes=10)  # how long a process waits for another: longer than any checkpoint takes
GRACE_SECONDS: Final = 120  # from the request to stop until a process is killed
_PR_SET_PDEATHSIG: Final = 1  # of Linux's prctl


class ShortOfMemoryError(CxrError):
    """A process ran out of memory in the middle of a step in which the others wait for it: all have to start again."""


# ------------------------------------------------------------------------------------------------- the processes


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process's place among those of a training. With one process, every method does nothing."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def share(self, part_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """This process's images of a part of a batch: together all of them once; none when there are too few.

        >>> [Ranks(rank=rank, world=3).share(np.arange(7)).tolist() for rank in range(3)]
        [[0, 1, 2], [3, 4], [5, 6]]
        """
        return np.array_split(part_N, self.world)[self.rank]

    def shares(self, part_N: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
        """All processes' images of a part."""
        return np.array_split(part_N, self.world)

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Sum float32 tensors over all processes, in place, as one message.

        Args:
            tensors: of the same shapes in every process, on the training's device.
        """
        if self.world == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, piece in zip(tensors, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is up in any process. Processes wait for each other here, GPUs do not."""
        if self.world == 1:
            return list(flags)
        raised = torch.tensor(flags, dtype=torch.uint8)
        distributed.all_reduce(raised, distributed.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite tensors by the first process's."""
        if self.world == 1:
            return
        for tensor in tensors:
            dense = tensor.contiguous()
            distributed.broadcast(dense, src=0)
            tensor.copy_(dense)

    def broadcast_bytes(self, data: bytes) -> bytes:
        """The first process's bytes; what the others give is not looked at."""
        if self.world == 1:
            return data
        size = torch.tensor([len(data)])
        distributed.broadcast(size, src=0)
        held = torch.from_numpy(np.frombuffer(data, np.uint8).copy()) if self.first else torch.zeros(int(size)).byte()
        distributed.broadcast(held, src=0)
        return held.numpy().tobytes()

    def wait(self) -> None:
        """Wait until all processes are here."""
        self.any(False)


ALONE: Final = Ranks()


def launched() -> bool:
    """Whether torchrun started this process."""
    return distributed.is_torchelastic_launched()


def processes_here() -> int:
    """How many processes torchrun started on this machine; 1 without torchrun."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@contextmanager
def join(devices: int, device: str) -> Iterator[Ranks]:
    """Be one of a training's processes: meet the others, and take a GPU.

    Args:
        devices: `train.devices`.
        device: cpu (processes speak through gloo) or cuda (NCCL).

    Raises:
        SettingsError: torchrun was started by hand, with another number of processes.
    """
    if not launched():
        yield ALONE
        return
    world = int(os.environ["WORLD_SIZE"])
    if world != devices:
        raise SettingsError(
            f"torchrun started {world} processes",
            where=f"train.devices: {devices}",
            fix=f"set train.devices: {world}, or let cxr-ops start torchrun",
        )
    end_with_parent()
    if device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
    distributed.init_process_group(backend, timeout=PATIENCE)
    # Not left after an error: to leave, one would wait for the others, who wait for this one until it is gone.
    yield Ranks(rank=distributed.get_rank(), world=world)
    distributed.destroy_process_group()


# ------------------------------------------------------------------------------------------- batch normalisation


def synchronise(net: nn.Module, ranks: Ranks, device: str) -> nn.Module:
    """Make batch normalisation see the images of all processes, as one process sees a batch.

    Names and values of parameters and buffers stay. On a GPU the layers become torch's SyncBatchNorm, which has no CPU
    version; here is one.

    Returns:
        The network; on the CPU it is the same object, with the same layers.
    """
    if ranks.world == 1:
        return net
    if device == "cuda":
        return cast("nn.Module", nn.SyncBatchNorm.convert_sync_batchnorm(net))  # type: ignore[no-untyped-call]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.__class__ = SharedBatchNorm  # type: ignore[assignment]  # same attributes, another forward
    return net


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - what torch's SyncBatchNorm is made of
    """Batch normalisation over the images of all processes, on the CPU.

    Each process's mean and variance are joined as in Chan, Golub and LeVeque (1979), equation 2.1, by the numbers of
    values, in the order of the ranks. A process without images takes part in the messages.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    num_batches_tracked: torch.Tensor
    momentum: float

    def _check_input_dim(self, input: torch.Tensor) -> None:  # noqa: A002 - torch's name
        if input.ndim < 2:
            raise ValueError(f"expected images x channels, got {input.ndim} axes")

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # noqa: D102 - as in every module
        if not self.training:
            return super().forward(x)
        with torch.no_grad():
            channels, kind = self.num_features, torch.promote_types(x.dtype, torch.float32)
            own_D = x.new_zeros(2 * channels + 1, dtype=kind)
            if x.numel():
                # The buffers are for nothing but their type: with float32 ones, the statistics of bf16 are float32.
                buffer_2C = x.new_zeros(2, channels, dtype=kind)
                mean_C, variance_C = torch.batch_norm_update_stats(x, buffer_2C[0], buffer_2C[1], 0.0)
                torch.cat([mean_C, variance_C, own_D.new_tensor([x.numel() // channels])], out=own_D)
            all_WD = own_D.new_empty(distributed.get_world_size() * len(own_D))
            distributed.all_gather_into_tensor(all_WD, own_D)
            all_WD = all_WD.view(-1, len(own_D))
            mean_WC, variance_WC, count_W1 = torch.split(all_WD, [channels, channels, 1], dim=1)
            count = count_W1.sum()
            mean_C = (count_W1 * mean_WC).sum(dim=0) / count
            variance_C = (count_W1 * (variance_WC + (mean_WC - mean_C).square())).sum(dim=0) / count
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean_C, self.momentum)
            self.running_var.lerp_(variance_C * (count / (count - 1)), self.momentum)
        normalised: torch.Tensor = _Normalise.apply(x, self.weight, self.bias, mean_C, variance_C, count, self.eps)
        return normalised


class _Normalise(torch.autograd.Function):
    """Normalise by given statistics; backwards, as if they had been computed from the values of all processes.

    With x^ = (x - mean) / sd, the gradient of x is weight / sd * (dy - (sum of dy + x^ * sum of dy x^) / count) (Ioffe
    and Szegedy 2015, section 3). The first term is what torch's layer gives in evaluation, together with both sums.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight_C: torch.Tensor,
        bias_C: torch.Tensor,
        mean_C: torch.Tensor,
        variance_C: torch.Tensor,
        count: torch.Tensor,
        eps: float,
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight_C, mean_C, variance_C, count)
        ctx.eps = eps
        if not x.numel():
            return torch.empty_like(x)
        y: torch.Tensor = torch.native_batch_norm(x, weight_C, bias_C, mean_C, variance_C, False, 0.0, eps)[0]
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (dy,) = grads
        x, weight_C, mean_C, variance_C, count = ctx.saved_tensors
        if x.numel():
            dx, dweight_C, dbias_C = torch.ops.aten.native_batch_norm_backward(
                dy, x, weight_C, mean_C, variance_C, None, None, False, ctx.eps, [True, True, True]
            )
        else:
            dx, dweight_C, dbias_C = torch.empty_like(x), torch.zeros_like(mean_C), torch.zeros_like(mean_C)
        sums_2C = torch.stack([dweight_C, dbias_C])
        distributed.all_reduce(sums_2C)
        if x.numel():
            scale_2C = -weight_C * torch.rsqrt(variance_C + ctx.eps) / count * sums_2C
            dx += torch.native_batch_norm(x, scale_2C[0], scale_2C[1], mean_C, variance_C, False, 0.0, ctx.eps)[0]
        return dx, dweight_C, dbias_C, None, None, None, None


# ------------------------------------------------------------------------------------------------------ the start


def launch(command: list[str], processes: int) -> None:
    """Start processes by torchrun on this machine, and wait until all have ended.

    SIGTERM and SIGINT are handed on, and the processes have GRACE_SECONDS to write a checkpoint. When one fails or is
    killed, the others are ended. None outlives this process, since they `join`.

    Args:
        command: what each runs; torchrun tells it its rank in the environment.
        processes: how many.

    Raises:
        StoppedError: this process or one of the others was asked to stop.
        CxrError: what a process left in torchrun's error file, as `python -m cxr_ops.stages` does; or which failed or
            was killed, and how.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-torchrun-") as folder, _quiet_torchrun():
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # a free port
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
            shutdown_timeout=GRACE_SECONDS,
        )
        try:
            elastic_launch(config, command[0])(*command[1:])
        except (SignalException, ChildFailedError) as error:
            raise _cause(error, Path(folder)) from error


def _cause(error: SignalException | ChildFailedError, folder: Path) -> CxrError:
    """What a training ended of. One process that fails makes the others fail or stop as well."""
    words = [json.loads(path.read_bytes()) for path in sorted(folder.rglob("error.json"))]
    left = [errors.from_record(word["error"]) for word in words]
    for told in left:
        if not isinstance(told, StoppedError):
            return told
    goes_on = "run the same command again: it goes on from its checkpoint"
    if isinstance(error, ChildFailedError):
        wordless = [(rank, f) for rank, f in error.failures.items() if not Path(f.error_file).is_file()]
        unasked = [(f.timestamp, f.exitcode, rank) for rank, f in wordless if f.exitcode != -signal.SIGTERM]
        if unasked:  # of those in the same second, a killed one first: its code is negative
            _, code, rank = min(unasked)
            how = f"ended with code {code}" if code > 0 else f"was killed by {signal.Signals(-code).name}"
            return CxrError(f"process {rank} of the training {how}; the others were ended", fix=goes_on)
    return left[0] if left else StoppedError("training stopped on request", fix=goes_on)


@contextmanager
def _quiet_torchrun() -> Iterator[None]:
    """Put back what torchrun changes in this process, and say in errors alone what it would log as well."""
    logger = logging.getLogger("torch.distributed.elastic")
    level, told = logger.level, os.environ.get("TORCHELASTIC_SIGNALS_TO_HANDLE")
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    handlers = {number: signal.getsignal(number) for number in numbers}
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        if told is None:
            os.environ.pop("TORCHELASTIC_SIGNALS_TO_HANDLE", None)
        if threading.current_thread() is threading.main_thread():  # torchrun sets handlers there only
            for number, handler in handlers.items():
                signal.signal(number, handler)


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it is gone: nobody would hand a signal on to it."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went before the kernel knew
        os.kill(os.getpid(), signal.SIGKILL)
