"""Heat maps of decoded radiographs through a package, of all findings, as `cxr_ops.model.heads` defines them.

`randomized` is for the test of Adebayo et al. (NeurIPS 2018): the same maps, once weights are drawn at random, from the
head down. A map that stays the same tells nothing of the model.

Shape suffixes: N images, K findings, S side of the picture in pixels, h x w places in the last layer.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import heads
from cxr_ops.model.package import LoadedModel
from cxr_ops.model.scoring import batches
from cxr_ops.params import MapMethod

# The parts of the network whose weights are drawn at each step, from the head down; `stats.heat_maps.STEPS` names them.
CASCADE: Final = (
    ("classifier",),
    ("features.norm5", "features.denseblock4"),
    ("features.transition3", "features.denseblock3"),
    ("features.transition2", "features.denseblock2"),
    ("features.transition1", "features.denseblock1"),
    ("features.norm0", "features.conv0"),
)


@dataclass(frozen=True, kw_only=True)
class HeatMaps:
    """Maps of N images for all 14 findings.

    Attributes:
        maps: (N, 14, h, w) float32, at least 0; of Grad-CAM and HiRes-CAM in logits. All zero where nothing in the
            picture speaks for a finding.
        probabilities: (N, 14) float32.
    """

    maps: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]

    @property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Where a map is all zero: to be said in words, not shown as a picture without colour."""
        return np.logical_not((self.maps > 0).any(axis=(2, 3)))


def grad_cam(
    model: LoadedModel,
    pixels: Iterable[npt.NDArray[np.uint8]],
    *,
    batch_size: int = 16,
    method: MapMethod = "grad_cam",
    size: int | None = None,
) -> HeatMaps:
    """Compute the maps of all findings for decoded radiographs, on the CPU.

    Args:
        model: a loaded package.
        pixels: uint8 H x W each, in their own size.
        batch_size: images at a time.
        method: see `cxr_ops.model.heads`.
        size: side of the input in pixels, where it is to be another than the one that the model was trained on: the
            same weights on a larger input give a finer grid, of other logits than the model's own.

    Raises:
        DataError: the package's network has no such head behind global average pooling, so that the maps do not add up
            to its logits; or an image is not grey 8-bit.
    """
    if size is not None:
        terms = {**model.contract, "input": {**model.contract["input"], "image_size": size}}
        model = dataclasses.replace(model, contract=terms)
    net = model.net.to("cpu")  # where the pictures are; scoring may have left it on a GPU
    maps, probabilities = [], []
    for x_N1SS in batches(model, pixels, batch_size):
        maps_NKhw, logits_NK = heads.maps(net, x_N1SS, model.digest[:12], method)
        maps.append(maps_NKhw.numpy())
        probabilities.append(torch.sigmoid(logits_NK).numpy())
    if not maps:
        return HeatMaps(
            maps=np.empty((0, len(FINDINGS), 0, 0), np.float32), probabilities=np.empty((0, len(FINDINGS)), np.float32)
        )
    return HeatMaps(maps=np.concatenate(maps), probabilities=np.concatenate(probabilities))


def randomized(
    model: LoadedModel, pixels: Sequence[npt.NDArray[np.uint8]], *, seed: int, batch_size: int = 16
) -> npt.NDArray[np.float32]:
    """Compute Grad-CAM's maps with the weights of `CASCADE`'s parts drawn at random, one part more at each step.

    Weights are drawn as before a training: of convolutions by He et al. (ICCV 2015), and batch normalisation does
    nothing. The model itself stays as it is.

    Args:
        model: a loaded package.
        pixels: uint8 H x W each, in their own size; at least one.
        seed: of the draw.
        batch_size: images at a time.

    Returns:
        (steps, N, 14, h, w) float32, at least 0.

    Raises:
        DataError: the package's network has no such head or parts, or an image is not grey 8-bit.
    """
    net, where = copy.deepcopy(model.net).to("cpu"), model.digest[:12]
    prepared = list(batches(model, pixels, batch_size))
    steps = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for parts in CASCADE:
            for part in parts:
                try:
                    module = net.get_submodule(part)
                except AttributeError as error:
                    raise DataError(f"the package's network has no part {part!r}", where=where) from error
                _draw(module)
            # Terms of any size cancel in a random network, so that the maps' sums are no check.
            maps = [heads.maps(net, x_N1SS, where, check=False)[0].numpy() for x_N1SS in prepared]
            steps.append(np.concatenate(maps))
    return np.stack(steps)


def _draw(module: nn.Module) -> None:
    """Draw all weights of a part anew, where they are."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        elif isinstance(layer, nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
            layer.reset_parameters()
