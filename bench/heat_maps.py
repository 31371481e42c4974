"""Heat maps of 14 findings on the CPU, beside pytorch-grad-cam and beside a bare forward pass."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable

from bench.measure import Row, table, told

IMAGES = 4
REPEATS = 5


def section() -> str:
    """Measure at the demonstration's size and at 224, in one run, the contenders taking turns."""
    import torch

    torch.set_num_threads(1)
    rows: list[Row] = []
    beside: list[str] = []
    for size in (96, 224):
        contenders = _contenders(size)
        for work in contenders.values():
            work()  # warm-up: memory, the library's import
        found = told({name: _rate(work) for name, work in contenders.items()}, repeats=REPEATS)
        library, _, forward, ours, *_ = (row.median for row in found)
        speed, time_taken = ours / library, forward / ours
        beside.append(
            f"{speed:.1f} times as fast as the library and {time_taken:.3f} times a bare forward at {size} px"
        )
        rows += found
    note = (
        f"DenseNet121, {IMAGES} images, one thread, by its processor time, which a busy machine hardly moves. An "
        "image is done when it has the maps of all 14 findings. The library runs forward and backward once a finding, "
        "on a network as its documentation has it, and on one that is laid out as a package is. "
        f"Grad-CAM is as `explain` has it, with the check that maps add up to the logits: {'; '.join(beside)}."
    )
    return table("Heat maps", "images a processor second", rows, note=note, repeats=REPEATS)


def _rate(work: Callable[[], int]) -> Callable[[], float]:
    """Images a processor second of work on one thread."""

    def measured() -> float:
        start = time.process_time()
        images = work()
        return images / (time.process_time() - start)

    return measured


def _contenders(size: int) -> dict[str, Callable[[], int]]:
    import numpy as np
    import torch
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    from cxr_ops.labels import FINDINGS
    from cxr_ops.model import heads, network

    torch.manual_seed(0)
    plain = network.ChestNet(len(FINDINGS)).eval()
    net = copy.deepcopy(plain).requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    x_N1SS = torch.randn(IMAGES, 1, size, size)
    laid_out_N1SS = x_N1SS.contiguous(memory_format=torch.channels_last)

    def library(of: network.ChestNet, pictures: torch.Tensor) -> Callable[[], int]:
        def work() -> int:
            with GradCAM(model=of, target_layers=[of.relu]) as cam:
                maps = [
                    cam(input_tensor=pictures.clone().requires_grad_(), targets=[ClassifierOutputTarget(f)] * IMAGES)
                    for f in range(len(FINDINGS))
                ]
            return len(np.stack(maps, axis=1))

        return work

    def forward() -> int:
        with torch.no_grad():
            return len(net(laid_out_N1SS))

    def ours(method: str) -> Callable[[], int]:
        return lambda: len(heads.maps(net, laid_out_N1SS, "", method)[0])

    return {
        f"{size} px: pytorch-grad-cam": library(plain, x_N1SS),
        f"{size} px: pytorch-grad-cam, weights frozen, channels_last": library(net, laid_out_N1SS),
        f"{size} px: bare forward pass": forward,
        f"{size} px: Grad-CAM": ours("grad_cam"),
        f"{size} px: Grad-CAM++": ours("grad_cam_plus_plus"),
    }
