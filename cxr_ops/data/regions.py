"""Regions of a radiograph that can be blurred, to see what a model's scores rest on.

A scanner's marker, a hospital's text or a border can tell a model which patients are ill. Where a heat map of few cells
points does not show it; a model that ranks worse without the region does (`cxr_ops.stats.reliance`).

* `corners`: a square at each corner of the picture, where markers and text stand, as far as it is outside the thorax.
* `outside`: all that is outside the thorax.
* `inside`: the thorax. A model that ranks well without it looks at something else.

The thorax is a prior, without a network: one polygon for all pictures, in shares of the square that the network sees.
It covers 67 % of that square. Of the 984 boxes that the NIH published with ChestX-ray14 (Wang et al., CVPR 2017), drawn
around findings by a radiologist, it holds the centres of 99.8 % and 98.2 % of the area (`tests/data/test_regions.py`).
It knows nothing of the single picture: of a thorax at the margin of its picture, part is outside.
"""

from __future__ import annotations

import functools
from typing import Final, Literal

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Region = Literal["corners", "outside", "inside"]

REGIONS: Final[tuple[Region, ...]] = ("corners", "outside", "inside")
# (x, y) in shares of the side, from the left shoulder on clockwise. It is symmetric: which side is left is not known.
THORAX: Final = (
    *((0.28, 0.06), (0.72, 0.06), (0.88, 0.20), (0.94, 0.70), (0.90, 0.88)),
    *((0.75, 0.92), (0.25, 0.92), (0.10, 0.88), (0.06, 0.70), (0.12, 0.20)),
)
CORNER: Final = 0.25  # side of a corner's square, in shares of the picture's
SIGMA: Final = 0.08  # standard deviation of the blur, in shares of the picture's side: a marker becomes a haze
EDGE: Final = 0.01  # over which the blur fades in, so that no edge is drawn that a model could see
_GRID: Final = 256  # cells a side on which regions and blurs are made: neither has finer detail


def blurred(pixels: Pixels, region: Region) -> Pixels:
    """Blur a region of a radiograph and leave the rest.

    Args:
        pixels: uint8, height x width; a picture that is not square is taken as centred in the square that the network
            sees, as `decode.to_square` pads it.
        region: of `REGIONS`.

    Returns:
        uint8, of the same shape.

    >>> picture = np.zeros((100, 100), np.uint8)
    >>> picture[2:8, 2:8] = 255
    >>> int(blurred(picture, "corners").max()) < 128, int(blurred(picture, "inside").max())
    (True, 255)
    """
    height, width = pixels.shape
    small = _resized(pixels, _GRID, _GRID) if min(height, width) > _GRID else pixels
    soft = cv2.GaussianBlur(
        small,
        (0, 0),
        sigmaX=SIGMA * max(height, width) * small.shape[1] / width,
        sigmaY=SIGMA * max(height, width) * small.shape[0] / height,
        borderType=cv2.BORDER_REFLECT_101,
    )
    share = _cut(region, height, width)
    mixed = pixels + share * (_resized(soft, height, width).astype(np.float32) - pixels)
    return np.asarray(np.rint(mixed), dtype=np.uint8)


def mask(region: Region, cells: int = _GRID) -> npt.NDArray[np.bool_]:
    """Which cells of a square grid a region covers.

    >>> mask("corners", 8).astype(int)[0].tolist(), round(float(mask("inside").mean()), 2)
    ([1, 1, 0, 0, 0, 0, 1, 1], 0.67)
    """
    x, y = (places := (np.arange(cells) + 0.5) / cells), places[:, None]
    thorax = np.ones((cells, cells), np.bool_)
    for (x0, y0), (x1, y1) in zip(THORAX, (*THORAX[1:], THORAX[0]), strict=True):  # convex: on one side of each edge
        thorax &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)
    if region == "inside":
        return thorax
    if region == "outside":
        return ~thorax
    end = (places < CORNER) | (places > 1.0 - CORNER)
    return np.asarray(~thorax & end & end[:, None])


@functools.lru_cache(maxsize=64)  # of the sizes that a data set has
def _cut(region: Region, height: int, width: int) -> npt.NDArray[np.float32]:
    """How much of each pixel is blurred, in [0, 1], (height, width)."""
    side = max(height, width)
    share = cv2.GaussianBlur(mask(region).astype(np.float32), (0, 0), EDGE * _GRID)
    square = cv2.resize(share, (side, side), interpolation=cv2.INTER_LINEAR)
    top, left = (side - height) // 2, (side - width) // 2
    return np.ascontiguousarray(square[top : top + height, left : left + width], dtype=np.float32)


def _resized(pixels: Pixels, height: int, width: int) -> Pixels:
    if pixels.shape == (height, width):
        return pixels
    how = cv2.INTER_AREA if height < pixels.shape[0] else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=how), dtype=np.uint8)
