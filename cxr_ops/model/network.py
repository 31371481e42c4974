"""The network and its contract: how grey pixels become 14 logits.

A package carries a copy of this file, and a champion is scored by the copy in its package, years later if need be. So
the file stands alone: it imports the standard library, numpy, OpenCV, torch and torchvision, and nothing of this
project.

Shape suffixes: N images, S side of the picture in pixels, K findings, C channels and h x w places of the last layer.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import nn

ARCHITECTURE = {"name": "densenet121", "channels": 1, "head": "linear"}
RESIZE = "square-area"
Pixels = npt.NDArray[np.uint8]


class ChestNet(nn.Module):
    """DenseNet121 (Huang et al. 2017, torchvision's layers) on one grey channel, with one logit a finding.

    Names of parameters are torchvision's. The last ReLU is a module of its own and does not work in place, as
    torchvision's does: heat maps need the activations that the head saw.
    """

    def __init__(self, findings: int) -> None:
        super().__init__()
        backbone = torchvision.models.densenet121(weights=None, num_classes=findings)
        self.features: nn.Sequential = backbone.features
        self.features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.features.conv0.weight)
        self.relu = nn.ReLU(inplace=False)
        self.classifier: nn.Linear = backbone.classifier

    def activations(self, x_N1SS: torch.Tensor) -> torch.Tensor:
        """What the head sees: N x 1024 x h x w, not negative, with h = w = S / 32, rounded down."""
        a_NChw: torch.Tensor = self.relu(self.features(x_N1SS))
        return a_NChw

    def forward(self, x_N1SS: torch.Tensor) -> torch.Tensor:
        """Logits, N x K, in the order of the contract's findings."""
        a_NChw = self.activations(x_N1SS)
        # A mean over the two axes is adaptive_avg_pool2d(1), whose backward pass on a GPU is not deterministic.
        logits_NK: torch.Tensor = self.classifier(a_NChw.mean(dim=(2, 3)))
        return logits_NK


def build(contract: dict[str, Any]) -> ChestNet:
    """Make the network that a contract describes, with fresh weights from torch's current random state.

    Raises:
        ValueError: the contract asks for a network that this file does not know.
    """
    if contract["architecture"] != ARCHITECTURE:
        raise ValueError(f"the architecture {contract['architecture']} is not the one of this file, {ARCHITECTURE}")
    return ChestNet(len(contract["findings"]))


def preprocess(pixels: Pixels, contract: dict[str, Any]) -> Pixels:
    """Bring one decoded radiograph to the size that the network was trained on.

    A picture that is not square is padded with black to a centred square (the odd line goes to the bottom or right), so
    that a heart keeps its width. Then it is resized by area when it shrinks and linearly when it grows.

    Args:
        pixels: uint8, H x W, 0 black.
        contract: `model.json`; its `input` says the size and how it is reached.

    Returns:
        uint8, S x S.

    Raises:
        ValueError: not a grey 8-bit image, or a way of resizing that this file does not know.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or 0 in pixels.shape:
        raise ValueError(f"an image must be uint8 of height x width; this is {pixels.dtype} of {pixels.shape}")
    if contract["input"]["resize"] != RESIZE:
        raise ValueError(f"{contract['input']['resize']!r} is not a way of resizing that this file knows")
    size = int(contract["input"]["image_size"])
    height, width = pixels.shape
    side = max(height, width)
    if height != width:
        top, left = (side - height) // 2, (side - width) // 2
        square = np.zeros((side, side), np.uint8)
        square[top : top + height, left : left + width] = pixels
        pixels = square
    if side == size:
        return pixels
    how = cv2.INTER_AREA if size < side else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how), dtype=np.uint8)


def to_tensor(batch_NSS: torch.Tensor, contract: dict[str, Any]) -> torch.Tensor:
    """Normalise a uint8 batch on the device where it is: N x S x S in 0..255 to float32 N x 1 x S x S."""
    mean, std = (float(contract["input"][key]) for key in ("mean", "std"))
    return batch_NSS.unsqueeze(1).float().div_(255.0).sub_(mean).div_(std)
