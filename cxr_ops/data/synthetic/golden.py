"""Golden pictures: what a model is asked about before its promotion. Drawn, and of nobody."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

from cxr_ops.data.checking import grey

_SIDES: Final = ((320, 256), (256, 320), (512, 480), (64, 64))


def pictures() -> list[bytes]:
    """Files of each kind that is served often: PNG of 8 bits, PNG of 16 bits with a window, and JPEG; the same always.

    Two dark ellipses stand for lungs, with coarse and fine texture, so that probabilities differ.
    """
    found = []
    for seed, (height, width) in enumerate(_SIDES):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
        lungs = ((np.abs(x) - 0.45) / 0.3) ** 2 + (y / (0.6 + 0.1 * seed)) ** 2 < 1
        coarse = cv2.resize(rng.normal(0, 20, (8, 8)), (width, height), interpolation=cv2.INTER_CUBIC)
        drawn = np.clip(np.where(lungs, 60, 180) + coarse + rng.normal(0, 5, (height, width)), 0, 255)
        if seed == 1:
            found.append(grey.encode(np.round(drawn * 12).astype(np.uint16), 100, 3000))
        elif seed == 2:
            found.append(cv2.imencode(".jpg", drawn.astype(np.uint8))[1].tobytes())
        else:
            found.append(cv2.imencode(".png", drawn.astype(np.uint8))[1].tobytes())
    return found
