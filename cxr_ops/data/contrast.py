"""The contrast that pictures get before they are resized, as `prepare` packs them for training.

A package's own `network.adjust_contrast` must do exactly this; a test compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cxr_ops.params import Prepare

if TYPE_CHECKING:  # training says the contrast and decodes nothing
    from cxr_ops.data.checking.decode import Pixels


def terms(settings: Prepare) -> dict[str, Any]:
    """The contrast as a contract says it: its name, and of the settings those that it uses.

    >>> terms(Prepare(contrast="clahe"))
    {'name': 'clahe', 'clip': 2.0, 'tiles': 8}
    """
    used: dict[str, dict[str, Any]] = {
        "percentile": {"low": settings.window_low, "high": settings.window_high},
        "clahe": {"clip": settings.clahe_clip, "tiles": settings.clahe_tiles},
    }
    return {"name": settings.contrast, **used.get(settings.contrast, {})}


def adjust(pixels: Pixels, how: Mapping[str, Any]) -> Pixels:
    """Spread the grey values of a picture.

    `cxr_ops.model.network.adjust_contrast` says what each way does. A picture of one grey value stays as it is.

    Args:
        pixels: uint8, height x width, in its own size.
        how: see `terms`.

    Returns:
        uint8, height x width.

    >>> adjust(np.array([[50, 60, 100]], np.uint8), {"name": "percentile", "low": 0, "high": 100}).tolist()
    [[0, 51, 255]]
    """
    name = how["name"]
    if name == "none" or pixels.min() == pixels.max():
        return pixels
    if name == "equalize":
        return np.asarray(cv2.equalizeHist(pixels), dtype=np.uint8)
    if name == "clahe":
        # Made anew each time: one object holds buffers, which threads must not share.
        return np.asarray(cv2.createCLAHE(how["clip"], (how["tiles"], how["tiles"])).apply(pixels), dtype=np.uint8)
    up_to = np.cumsum(np.bincount(pixels.ravel(), minlength=256))
    low, high = (int(np.searchsorted(up_to, max(how[end] / 100 * pixels.size, 1))) for end in ("low", "high"))
    if low == high:
        return pixels
    stretched = np.clip(np.rint((np.arange(256) - low) * (255.0 / (high - low))), 0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(pixels, stretched), dtype=np.uint8)
