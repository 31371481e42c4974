"""Grad-CAM: where in the picture the evidence for each finding stands. Nothing but the head is differentiated.

Behind global average pooling, the gradient of a finding's logit is the same at every place: g_kc over h w, with g the
gradient by the pooled features. Grad-CAM (Selvaraju et al., ICCV 2017) is then ReLU(sum over c of g_kc A_c) over h w,
and all findings come from one forward pass of the network. The maps here are h w times Grad-CAM's, that is in logits.

* A linear head has g = W for every picture: the class activation map of Zhou et al. (CVPR 2016), in closed form.
* The head of two layers has a g for each picture, by automatic differentiation of the head alone.

Either way, the mean of a map before the ReLU, plus an intercept, is the logit. The intercept is what the layers'
offsets alone give: the bias of a linear head; with two layers what comes out when the features are 0 and the same
hidden units are on (the full gradient of Srinivas and Fleuret, NeurIPS 2019). This is checked for every map.

Shape suffixes: N images, K findings, C channels, W hidden units, h x w places in the last layer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model.package import LoadedModel
from cxr_ops.model.scoring import batches

# The sum of a thousand float32 terms differs by its order; a map of another head is off by whole logits.
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
        DataError: the package's network has no such head behind global average pooling, so that the maps do not add up
            to its logits; or an image is not grey 8-bit.
    """
    net: Any = model.net.to("cpu")  # where the pictures are; scoring may have left it on a GPU
    head = getattr(net, "classifier", None)
    linear = isinstance(head, nn.Linear)
    two_layers = hasattr(net, "head") and all(hasattr(head, name) for name in ("norm", "hidden", "last"))
    if not isinstance(getattr(net, "relu", None), nn.Module) or not (linear or two_layers):
        raise DataError("the package's network has no head that can be explained", where=model.digest[:12])
    maps, probabilities, seen = [], [], list[torch.Tensor]()
    handle = net.relu.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        for x_N1SS in batches(model, pixels, batch_size):
            with torch.no_grad():
                logits_NK = net(x_N1SS)
            raw_NKhw, intercept_NK = (_of_linear_head if linear else _of_two_layers)(net, seen.pop())
            off_NK = (raw_NKhw.mean(dim=(2, 3)) + intercept_NK - logits_NK).abs()
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


def _of_linear_head(net: Any, a_NChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps before the ReLU, and what their means lack to the logits."""
    with torch.no_grad():
        return torch.einsum("kc,nchw->nkhw", net.classifier.weight, a_NChw), net.classifier.bias


def _of_two_layers(net: Any, a_NChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same; the maps by differentiation, what they lack by running the head on nothing."""
    inputs_NChw = a_NChw.clone().requires_grad_()
    logits_NK = net.head(inputs_NChw)
    maps = []
    for finding in range(logits_NK.shape[1]):
        # An image's logit depends on no other image's activations, so that one sum serves all images.
        (gradient_NChw,) = torch.autograd.grad(logits_NK[:, finding].sum(), inputs_NChw, retain_graph=True)
        maps.append(torch.einsum("nc,nchw->nhw", gradient_NChw.sum(dim=(2, 3)), a_NChw))
    with torch.no_grad():
        norm, hidden, last = net.classifier.norm, net.classifier.hidden, net.classifier.last
        pooled_NC = a_NChw.mean(dim=(2, 3))
        on_NW = hidden(norm(pooled_NC)) > 0
        intercept_NK = last(on_NW * hidden(norm(torch.zeros_like(pooled_NC))))
    return torch.stack(maps, dim=1), intercept_NK
