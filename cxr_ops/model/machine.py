"""What the arithmetic runs on: device, precision and threads, and torch's switches for the same bits again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch

from cxr_ops.errors import SettingsError
from cxr_ops.model.distributed import processes_here
from cxr_ops.params import Train

# How errors of torch say that there is no memory, where their class does not: on the CPU, and from cuBLAS and cuDNN.
_NO_MEMORY: Final = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "CUDA error: out of memory")


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the arithmetic depends on: `device` cpu or cuda, `precision` fp32 or bf16, `threads` of the CPU."""

    device: str
    precision: str
    threads: int


def choose_device(settings: Train) -> str:
    """Decide between cpu and cuda, without starting the GPU.

    Raises:
        SettingsError: a GPU is asked for, and there is none.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise SettingsError(
            "there is no GPU that torch can use", where="train.device: cuda", fix="set train.device: auto"
        )
    return "cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu"


def check_processes(settings: Train) -> None:
    """Check that this machine can run all processes of a training.

    Raises:
        SettingsError: there are fewer GPUs than processes.
    """
    if choose_device(settings) == "cuda" and settings.devices > torch.cuda.device_count():
        raise SettingsError(
            f"each process needs a GPU, and torch can use {torch.cuda.device_count()}",
            where=f"train.devices: {settings.devices}",
            fix=f"set train.devices: {torch.cuda.device_count()}",
        )


def choose_machine(settings: Train) -> Machine:
    """Decide device, precision and threads by what the machine is, never by timing it.

    `auto` precision is bf16 where the processor multiplies bf16 in hardware (AVX-512 BF16 or AMX on x86, BF16 on Arm)
    or the GPU does. Weights, loss and optimizer stay in float32. Processes that train together share the threads.

    Raises:
        SettingsError: see `choose_device`.
    """
    device = choose_device(settings)
    if device == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        processor = torch.cpu.get_capabilities()
        has_bf16 = any(processor.get(key) for key in ("avx512_bf16", "amx_bf16", "bf16"))
    precision = settings.precision if settings.precision != "auto" else ("bf16" if has_bf16 else "fp32")
    threads = (settings.threads or torch.get_num_threads()) // processes_here()
    return Machine(device=device, precision=precision, threads=max(1, threads))


def processor(machine: Machine) -> str:
    """Name the kind of processor or GPU, by what it can do: another kind may round in another way."""
    if machine.device == "cuda":
        return str(torch.cuda.get_device_name())
    return " ".join(sorted(name for name, has in torch.cpu.get_capabilities().items() if has is True))


def autocast(machine: Machine) -> torch.autocast:
    """The forward pass in the machine's precision. bf16 has the range of float32, so gradients need no scaling."""
    return torch.autocast(machine.device, dtype=torch.bfloat16, enabled=machine.precision == "bf16")


def full_precision() -> AbstractContextManager[None]:
    """Let cuDNN compute float32 as float32, by the same kernels for the same shapes.

    By default it rounds the factors of a convolution to ten bits (TF32). Without a GPU this changes nothing.
    """
    found: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return found


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
    )
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.set_num_threads(machine.threads)
    torch.use_deterministic_algorithms(mode=True, warn_only=machine.device == "cuda")
    memory.fill_uninitialized_memory = False  # a guard for debugging that costs a pass over memory
    try:
        with full_precision():  # fp32 means fp32: bf16 is a setting
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=before[2])
        memory.fill_uninitialized_memory = before[3]


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that the device, or the host, has no memory left for a tensor.

    >>> out_of_memory(torch.OutOfMemoryError("CUDA out of memory")), out_of_memory(RuntimeError("other"))
    (True, False)
    """
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in _NO_MEMORY)
