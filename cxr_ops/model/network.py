"""The network and its contract: how grey pixels become 14 logits.

A package carries a copy of this file, and a champion is scored by the copy in its package, years later if need be. So
the file stands alone: it imports the standard library, numpy, OpenCV, torch and torchvision, and nothing of this
project.

Shape suffixes: N images, S side of the picture in pixels, K findings, C channels and h x w places of the last layer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torchvision
from torch import nn

RESIZE = "square-area"
Pixels = npt.NDArray[np.uint8]


def architecture(head: str = "linear", *, width: int = 512, dropout: float = 0.0) -> dict[str, Any]:
    """What a contract says of a network.

    Args:
        head: `linear` or `mlp`; see `ChestNet`.
        width: units of the hidden layer; of `mlp` only.
        dropout: share of the features that training leaves out before each layer of the head, in [0, 1).

    Raises:
        ValueError: another head, or a number out of range.

    >>> architecture()
    {'name': 'densenet121', 'channels': 1, 'head': 'linear'}
    >>> architecture("mlp", width=64, dropout=0.5)
    {'name': 'densenet121', 'channels': 1, 'head': 'mlp', 'width': 64, 'dropout': 0.5}
    """
    fits = isinstance(width, int) and width >= 1 and isinstance(dropout, int | float) and 0 <= dropout < 1
    if head not in ("linear", "mlp") or not fits:
        raise ValueError(f"there is no head {head!r} of width {width!r} with dropout {dropout!r}")
    said: dict[str, Any] = {"name": "densenet121", "channels": 1, "head": head}
    if head == "mlp":
        return {**said, "width": width, "dropout": dropout}
    return {**said, "dropout": dropout} if dropout else said  # without: as contracts said it before there was a choice


class Dropout(nn.Module):
    """Leave out a share of the features while training, and raise the others so that their mean stays.

    The draws are torch's on the CPU, so that every device gets the same: whoever trains seeds torch before each part.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x_NC: torch.Tensor) -> torch.Tensor:
        """N x C, as it came in evaluation mode."""
        if not self.training or self.share == 0:
            return x_NC
        draws_NC: torch.Tensor = _uniform(x_NC)
        return x_NC * ((draws_NC >= self.share) / (1 - self.share))


@torch.compiler.disable  # type: ignore[untyped-decorator]  # a compiled network would draw by a generator of its own
def _uniform(x_NC: torch.Tensor) -> torch.Tensor:
    """Uniform numbers of a tensor's shape, on its device, drawn on the CPU."""
    # From pinned memory, because a copy from any other makes the processor wait for the GPU.
    return torch.rand(x_NC.shape, pin_memory=x_NC.is_cuda).to(x_NC.device, non_blocking=True)


class ChestNet(nn.Module):
    """DenseNet121 (Huang et al. 2017, torchvision's layers) on one grey channel, with one logit a finding.

    The head sees the mean of each channel. `linear` is one layer; `mlp` is batch normalisation, dropout, a layer of
    `width` units with ReLU, dropout, and the last layer, `classifier.last`.

    Names of parameters before the head are torchvision's. The last ReLU is a module of its own and does not work in
    place, as torchvision's does: heat maps need the activations that the head saw.
    """

    def __init__(self, findings: int, *, head: str = "linear", width: int = 512, dropout: float = 0.0) -> None:
        super().__init__()
        backbone = torchvision.models.densenet121(weights=None, num_classes=findings)
        self.features: nn.Sequential = backbone.features
        self.features.conv0 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
        nn.init.kaiming_normal_(self.features.conv0.weight)
        self.relu = nn.ReLU(inplace=False)
        self.dropout = Dropout(dropout if head == "linear" else 0.0)
        self.classifier: nn.Linear | nn.Sequential = backbone.classifier
        if head == "mlp":
            channels = backbone.classifier.in_features
            layers = (
                ("norm", nn.BatchNorm1d(channels)),
                ("dropout", Dropout(dropout)),
                ("hidden", nn.Linear(channels, width)),
                ("relu", nn.ReLU(inplace=False)),
                ("hidden_dropout", Dropout(dropout)),
                ("last", nn.Linear(width, findings)),
            )
            self.classifier = nn.Sequential(OrderedDict(layers))

    def activations(self, x_N1SS: torch.Tensor) -> torch.Tensor:
        """What the head sees: N x 1024 x h x w, not negative, with h = w = S / 32, rounded down."""
        a_NChw: torch.Tensor = self.relu(self.features(x_N1SS))
        return a_NChw

    def head(self, a_NChw: torch.Tensor) -> torch.Tensor:
        """Logits, N x K, of activations."""
        # A mean over the two axes is adaptive_avg_pool2d(1), whose backward pass on a GPU is not deterministic.
        logits_NK: torch.Tensor = self.classifier(self.dropout(a_NChw.mean(dim=(2, 3))))
        return logits_NK

    def forward(self, x_N1SS: torch.Tensor) -> torch.Tensor:
        """Logits, N x K, in the order of the contract's findings."""
        return self.head(self.activations(x_N1SS))


def build(contract: dict[str, Any]) -> ChestNet:
    """Make the network that a contract describes, with fresh weights from torch's current random state.

    Raises:
        ValueError: the contract asks for a network that this file does not know.
    """
    said = contract["architecture"]
    options = {key: said[key] for key in ("head", "width", "dropout") if key in said}
    if said != architecture(**options):
        raise ValueError(f"the architecture {said} is not one of this file, such as {architecture(**options)}")
    return ChestNet(len(contract["findings"]), **options)


def preprocess(pixels: Pixels, contract: dict[str, Any]) -> Pixels:
    """Bring one decoded radiograph to the contrast and the size that the network was trained on.

    Contrast first, at the size of the source, so that no padding counts in its statistics; see `adjust_contrast`. Then
    a picture that is not square is padded with black to a centred square (the odd line goes to the bottom or right), so
    that a heart keeps its width. Then it is resized by area when it shrinks and linearly when it grows.

    Args:
        pixels: uint8, H x W, 0 black.
        contract: `model.json`; its `input` says the contrast, the size and how it is reached.

    Returns:
        uint8, S x S.

    Raises:
        ValueError: not a grey 8-bit image, or a contrast or a way of resizing that this file does not know.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 2 or 0 in pixels.shape:
        raise ValueError(f"an image must be uint8 of height x width; this is {pixels.dtype} of {pixels.shape}")
    if contract["input"]["resize"] != RESIZE:
        raise ValueError(f"{contract['input']['resize']!r} is not a way of resizing that this file knows")
    pixels = adjust_contrast(pixels, contract["input"].get("contrast", {"name": "none"}))
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


def adjust_contrast(pixels: Pixels, how: Mapping[str, Any]) -> Pixels:
    """Spread the grey values of a picture in the way that a contract names.

    * `none` leaves them.
    * `percentile` stretches them in a straight line, so that the `low`-th percentile and all below it become 0, the
      `high`-th and all above it 255. A percentile is the least grey value that at least so many per cent of the pixels
      do not exceed.
    * `equalize` is OpenCV's histogram equalisation: a grey value becomes 255 times the share that do not exceed it of
      the pixels above the darkest value.
    * `clahe` (Zuiderveld, Graphics Gems IV, 1994; OpenCV) equalises in `tiles` x `tiles` parts of the picture, between
      which it interpolates, with the peaks of each histogram cut at `clip` times its mean.

    A picture of one grey value has no contrast and stays as it is, as does one whose two percentiles are equal.

    Args:
        pixels: uint8, H x W, 0 black.
        how: `name`, and of `percentile` `low` and `high` in per cent, of `clahe` `clip` and `tiles`.

    Returns:
        uint8, H x W; the same bytes on every number of threads.

    Raises:
        ValueError: a name that this file does not know.

    >>> adjust_contrast(np.array([[50, 60, 100]], np.uint8), {"name": "percentile", "low": 0, "high": 100}).tolist()
    [[0, 51, 255]]
    """
    if how["name"] not in ("none", "percentile", "equalize", "clahe"):
        raise ValueError(f"{how['name']!r} is not a contrast that this file knows")
    if how["name"] == "none" or pixels.min() == pixels.max():
        return pixels
    if how["name"] == "equalize":
        return np.asarray(cv2.equalizeHist(pixels), dtype=np.uint8)
    if how["name"] == "clahe":
        tiles = int(how["tiles"])
        # Made anew each time: one object holds buffers, which threads must not share.
        return np.asarray(cv2.createCLAHE(float(how["clip"]), (tiles, tiles)).apply(pixels), dtype=np.uint8)
    up_to = np.cumsum(np.bincount(pixels.ravel(), minlength=256))
    low, high = (int(np.searchsorted(up_to, max(how[end] / 100 * pixels.size, 1))) for end in ("low", "high"))
    if low == high:
        return pixels
    stretched = np.clip(np.rint((np.arange(256) - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, stretched), dtype=np.uint8)


def to_tensor(batch_NSS: torch.Tensor, contract: dict[str, Any]) -> torch.Tensor:
    """Normalise a uint8 batch on the device where it is: N x S x S in 0..255 to float32 N x 1 x S x S."""
    mean, std = (float(contract["input"][key]) for key in ("mean", "std"))
    return batch_NSS.unsqueeze(1).float().div_(255.0).sub_(mean).div_(std)
