"""The contrast of packed pictures. That it is the package's own is tested in tests/model/test_network.py."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from cxr_ops.data.contrast import adjust, terms
from cxr_ops.params import Prepare

PIXELS = np.random.default_rng(0).poisson(80, (60, 45)).astype(np.uint8)


def test_none_gives_the_very_array() -> None:
    """Without a contrast nothing is computed or copied."""
    assert adjust(PIXELS, terms(Prepare())) is PIXELS


@pytest.mark.parametrize("contrast", ["percentile", "equalize", "clahe"])
def test_settings_reach_the_pixels(contrast: str) -> None:
    """What params.yaml says is done, in OpenCV's way or by numpy's percentiles."""
    settings = Prepare(contrast=contrast, window_low=10, window_high=80, clahe_clip=3, clahe_tiles=5)
    ends = np.percentile(PIXELS, [10, 80], method="inverted_cdf")
    expected = {
        "percentile": np.rint(np.interp(PIXELS, ends, [0, 255])),
        "equalize": cv2.equalizeHist(PIXELS),
        "clahe": cv2.createCLAHE(3, (5, 5)).apply(PIXELS),
    }
    assert np.array_equal(adjust(PIXELS, terms(settings)), expected[contrast])
    assert np.array_equal(adjust(np.full((9, 7), 40, np.uint8), terms(settings)), np.full((9, 7), 40))
