"""Heat maps: where in the picture the evidence for each finding stands. Nothing but the head is differentiated.

Behind global average pooling, the gradient of a finding's logit is the same at every place: g_kc over h w, with g the
gradient by the pooled features. All findings come from one forward pass of the network, in one of three ways:

* `grad_cam` (Selvaraju et al., ICCV 2017) is ReLU(sum over c of g_kc A_c) over h w. The maps here are h w times that,
  so in logits.
* `hires_cam` (Draelos and Carin, arXiv 2011.08891) multiplies each place by its own gradient. Since the gradient is the
  same at every place here, these are Grad-CAM's numbers, and the guarantee of HiRes-CAM (a map's mean adds up to the
  logit) is Grad-CAM's too.
* `grad_cam_plus_plus` (Chattopadhay et al., WACV 2018) weighs a channel by ReLU(g) a, where a = g^2 / (2 g^2 + S g^3)
  at each place, with the gradient by the place and S the channel's sum over places. Here that is ReLU(g_kc) over
  (2 + P_c g_kc), with P the pooled features. The unit is no logit, and the maps do not add up to anything.

A linear head has g = W for every picture: Grad-CAM is then the class activation map of Zhou et al. (CVPR 2016), in
closed form. The head of two layers has a g for each picture, by automatic differentiation of the head alone.

Either way, the mean of Grad-CAM's map before the ReLU, plus an intercept, is the logit. The intercept is what the
layers' offsets alone give: the bias of a linear head; with two layers what comes out when the features are 0 and the
same hidden units are on (the full gradient of Srinivas and Fleuret, NeurIPS 2019). This is checked for every picture.

Shape suffixes: N images, K findings, C channels, W hidden units, h x w places in the last layer.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import nn

from cxr_ops.errors import DataError

# The sum of a thousand float32 terms differs by its order; a map of another head is off by whole logits.
TOLERANCE: Final = 1e-3


def maps(
    net: Any, x_N1SS: torch.Tensor, where: str, method: str = "grad_cam", *, check: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the maps of all findings for a batch that was prepared.

    Args:
        net: the network of a package, in evaluation mode, where the batch is.
        x_N1SS: what it takes.
        where: what an error names.
        method: `grad_cam`, `hires_cam` or `grad_cam_plus_plus`.
        check: whether the maps must add up to the logits.

    Returns:
        N x 14 x h x w maps, at least 0, and the N x 14 logits.

    Raises:
        DataError: the network has no such head behind global average pooling, so that the maps do not add up to its
            logits.
    """
    head = getattr(net, "classifier", None)
    linear = isinstance(head, nn.Linear)
    two_layers = hasattr(net, "head") and all(hasattr(head, name) for name in ("norm", "hidden", "last"))
    if not isinstance(getattr(net, "relu", None), nn.Module) or not (linear or two_layers):
        raise DataError("the package's network has no head that can be explained", where=where)
    seen = list[torch.Tensor]()
    handle = net.relu.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        with torch.no_grad():
            logits_NK = net(x_N1SS)
    finally:
        handle.remove()
    a_NChw = seen.pop()
    g_NKC, intercept_NK = (_of_linear_head if linear else _of_two_layers)(net, a_NChw)
    if check:
        means_NK = torch.einsum("nkc,nc->nk", g_NKC, a_NChw.mean(dim=(2, 3)))
        off_NK = (means_NK + intercept_NK - logits_NK).abs()
        if not bool((off_NK <= TOLERANCE * (1 + logits_NK.abs())).all()):
            raise DataError("the heat maps do not add up to the model's logits", where=where)
    if method == "grad_cam_plus_plus":
        g_NKC = g_NKC.clamp(min=0)
        g_NKC = g_NKC / (2 + a_NChw.mean(dim=(2, 3))[:, None] * g_NKC)
    n, channels, h, w = a_NChw.shape
    maps_NKhw = torch.bmm(g_NKC, a_NChw.reshape(n, channels, h * w)).reshape(n, -1, h, w).clamp(min=0)
    return maps_NKhw, logits_NK


def _of_linear_head(net: Any, a_NChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits' gradient by the pooled features, N x K x C, and what it times the features lacks to the logits."""
    with torch.no_grad():
        return net.classifier.weight.expand(len(a_NChw), -1, -1), net.classifier.bias


def _of_two_layers(net: Any, a_NChw: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same; the gradient by differentiation, what is lacking by running the head on nothing."""
    inputs_NChw = a_NChw.clone().requires_grad_()
    logits_NK = net.head(inputs_NChw)
    gradients = []
    for finding in range(logits_NK.shape[1]):
        # An image's logit depends on no other image's activations, so that one sum serves all images.
        (gradient_NChw,) = torch.autograd.grad(logits_NK[:, finding].sum(), inputs_NChw, retain_graph=True)
        gradients.append(gradient_NChw.sum(dim=(2, 3)))
    with torch.no_grad():
        norm, hidden, last = net.classifier.norm, net.classifier.hidden, net.classifier.last
        pooled_NC = a_NChw.mean(dim=(2, 3))
        on_NW = hidden(norm(pooled_NC)) > 0
        intercept_NK = last(on_NW * hidden(norm(torch.zeros_like(pooled_NC))))
    return torch.stack(gradients, dim=1), intercept_NK
