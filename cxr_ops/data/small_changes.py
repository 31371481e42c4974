"""Small changes of a radiograph, which a person would hardly see: is a heat map the same after them?

A move is of 2 % of the picture's longer side, as when a patient stands a centimetre further to the side; what comes in
at the edge is the edge again. Contrast is a tenth more or less, about the picture's mean.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_ops.stats.heat_maps import Change

Pixels = npt.NDArray[np.uint8]

MOVE: Final = 0.02  # of the longer side
CONTRAST: Final = 0.1


def changed(pixels: Pixels, change: Change) -> Pixels:
    """Change a radiograph a little.

    Args:
        pixels: uint8, height x width.
        change: one of `stats.heat_maps.CHANGES`.

    Returns:
        uint8, of the same shape.

    >>> changed(np.array([[0, 100, 200]] * 3, np.uint8), "moved right")[0].tolist()
    [0, 0, 100]
    >>> changed(np.array([[0, 100, 200]], np.uint8), "contrast down").tolist()
    [[10, 100, 190]]
    """
    if change.startswith("moved"):
        axis = 1 if change == "moved right" else 0
        places = np.arange(pixels.shape[axis]) - max(1, round(MOVE * max(pixels.shape)))
        return np.asarray(np.take(pixels, np.maximum(places, 0), axis=axis), dtype=np.uint8)
    share = 1 + CONTRAST if change == "contrast up" else 1 - CONTRAST
    mean = float(pixels.mean())
    return np.asarray(np.clip(np.rint(mean + share * (pixels.astype(np.float32) - mean)), 0, 255), dtype=np.uint8)
