"""Grad-CAM without a backward pass: where in the picture the evidence for each finding stands.

Behind global average pooling and a linear head, the gradient of a finding's logit is the same at every place: its
weights over h w. Grad-CAM (Selvaraju et al., ICCV 2017) then has a closed form, ReLU(sum over c of W_kc A_c), the class
activation map of Zhou et al. (CVPR 2016), and all findings come from one forward pass. The maps here are in logits,
that is h w times Grad-CAM's: the mean of a map before the ReLU, plus the head's bias, is the logit. This is checked
for every map.

Shape suffixes: N images, K findings, C channels, h x w places in the last layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model.package import LoadedModel
from cxr_ops.model.scoring import batches

# The sum of a thousand float32 terms differs by its order; a head that is not linear is off by whole logits.
TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class HeatMaps:
    """Maps of N images for all 14 findings.

    Attributes:
        maps: (N, 14, h, w) float32, at least 0, in logits. All zero where nothing in the picture speaks for a finding.
        probabilities: (N, 14) float32.
    """

    maps: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float32]

    @property
    def empty(self) -> npt.NDArray[np.bool_]:
        """Where a map is all zero: to be said in words, not shown as a picture without colour."""
        return np.logical_not((self.maps > 0).any(axis=(2, 3)))


def grad_cam(model: LoadedModel, pixels: Iterable[npt.NDArray[np.uint8]], *, batch_size: int = 16) -> HeatMaps:
    """Compute the maps of all findings for decoded radiographs.

    Args:
        model: a loaded package.
        pixels: uint8 H x W each, in their own size.
        batch_size: images at a time.

    Raises:
        DataError: the package's network has no linear head behind global average pooling, so that the maps do not add
            up to its logits; or an image is not grey 8-bit.
    """
    head, relu = getattr(model.net, "classifier", None), getattr(model.net, "relu", None)
    if not isinstance(head, nn.Linear) or not isinstance(relu, nn.Module):
        raise DataError("the package's network has no linear head to explain", where=model.digest[:12])
    maps, probabilities, seen = [], [], list[torch.Tensor]()
    handle = relu.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        for x_N1SS in batches(model, pixels, batch_size):
            with torch.inference_mode():
                logits_NK = model.net(x_N1SS)
                raw_NKhw = torch.einsum("kc,nchw->nkhw", head.weight, seen.pop())
            off_NK = (raw_NKhw.mean(dim=(2, 3)) + head.bias - logits_NK).abs()
            if not bool((off_NK <= TOLERANCE * (1 + logits_NK.abs())).all()):
                raise DataError("the heat maps do not add up to the model's logits", where=model.digest[:12])
            maps.append(raw_NKhw.clamp(min=0).numpy())
            probabilities.append(torch.sigmoid(logits_NK).numpy())
    finally:
        handle.remove()
    if not maps:
        return HeatMaps(
            maps=np.empty((0, len(FINDINGS), 0, 0), np.float32), probabilities=np.empty((0, len(FINDINGS)), np.float32)
        )
    return HeatMaps(maps=np.concatenate(maps), probabilities=np.concatenate(probabilities))
