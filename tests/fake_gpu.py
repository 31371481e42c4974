"""A GPU that computes nothing: it knows shapes and devices, and says where the processor would wait for it.

No GPU is at hand where these tests run. torch's fake tensors stand in for one: every operation of a step is checked for
the device of its operands, and a number that is asked of the device has no value. What they cannot show: speed,
rounding, the backward pass and bf16 (torch asks the driver for both), and the fused step of SGD, which is passed over.
`make bench-gpu` shows the first, and `tests/model/test_gpu.py` most of the others, wherever there is a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

_ASKS = (DataDependentOutputException, DynamicOutputShapeException)


class _Traffic(TorchDispatchMode):
    """Notes each operation that makes the processor wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.copies = 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        if function is torch.ops.aten._fused_sgd_.default:  # the one kernel of a step that torch cannot fake
            return None
        try:
            result = function(*arguments, **options)
        except _ASKS:
            self.waits.append(f"{function} needs a value that the device holds")
            raise
        if options.get("pin_memory"):
            result.is_page_locked = True
        name = str(function)
        if name in ("aten._to_copy.default", "aten.copy_.default"):
            source, target = (arguments[0], result) if "_to" in name else (arguments[1], arguments[0])
            there = (source.device.type, target.device.type)
            waits = not options.get("non_blocking", len(arguments) > 2 and arguments[2])
            if there == ("cpu", "cuda"):
                self.copies += 1
                if waits or not getattr(source, "is_page_locked", False):
                    self.waits.append(f"{name} of {tuple(source.shape)} from memory that is not pinned, or blocking")
            elif there == ("cuda", "cpu"):
                self.waits.append(f"{name} of {tuple(source.shape)} to the host")
        return result


@contextmanager
def fake_gpu() -> Iterator[_Traffic]:
    """Make `cuda` a device that computes nothing, and give what makes the processor wait for it."""

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        tensor.is_page_locked = True
        return tensor

    def zeros(tensor: torch.Tensor) -> np.ndarray:
        assert tensor.device.type == "cpu"
        return np.zeros(tuple(tensor.shape), np.float32)

    inference_mode = torch.inference_mode  # in which copies to the device pass by torch's fake tensors

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "pin_memory", pin)  # the real one asks the driver
        patch.setattr(torch, "inference_mode", lambda mode=True: torch.no_grad() if mode else inference_mode(mode))
        patch.setattr(FakeTensor, "numpy", zeros, raising=False)
        with FakeTensorMode(allow_non_fake_inputs=True), _Traffic() as traffic:
            yield traffic
