"""Regions of a radiograph are where they are said to be, and blurring one removes what stands there and no more."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from cxr_ops.data.checking.decode import to_square
from cxr_ops.data.regions import EDGE, REGIONS, SIGMA, blurred, mask


def test_regions_part_the_picture_and_corners_are_outside() -> None:
    """Inside and outside are each other's rest; the corners are four equal parts of the outside."""
    inside, outside, corners = (mask(region) for region in ("inside", "outside", "corners"))
    assert (inside ^ outside).all()
    assert not (corners & inside).any()
    _, parts = ndimage.label(corners)
    assert parts == 4, "each corner is one piece"
    assert np.array_equal(corners, corners[:, ::-1])
    assert np.array_equal(inside, inside[:, ::-1])
    assert inside.mean() == pytest.approx(0.673, abs=0.001)


def test_the_thorax_holds_the_boxes_of_the_nih() -> None:
    """Of all boxes that the NIH published it holds 99.8 % of the centres and 98.2 % of the area."""
    found = importlib.util.find_spec("torchxrayvision")
    assert found is not None, "torchxrayvision, which ships the NIH's table of boxes, is a development dependency"
    assert found.origin is not None
    table = pd.read_csv(Path(found.origin).parent / "data" / "BBox_List_2017.csv.gz")
    x, y, w, h = (table.iloc[:, 2:6].astype(float).to_numpy() / 1024).T
    cells = 512
    inside = mask("inside", cells)
    centres = inside[((y + h / 2) * cells).astype(int), ((x + w / 2) * cells).astype(int)]
    assert len(table) == 984
    assert centres.mean() == pytest.approx(0.998, abs=0.0005)
    covered = total = 0
    for left, top, width, height in zip(x, y, w, h, strict=True):
        rows = slice(round(top * cells), round((top + height) * cells))
        part = inside[rows, round(left * cells) : round((left + width) * cells)]
        covered, total = covered + part.sum(), total + part.size
    assert covered / total == pytest.approx(0.982, abs=0.0005)


@pytest.mark.parametrize("region", REGIONS)
def test_what_stands_in_a_region_is_blurred_as_scipy_blurs_it_and_the_rest_stays(region) -> None:
    """Away from its edge a region is scipy's Gaussian blur of the picture, and all else the picture itself."""
    rng = np.random.default_rng(0)
    picture = ndimage.gaussian_filter(rng.random((256, 256)), 3)
    picture = (255 * (picture - picture.min()) / np.ptp(picture)).astype(np.uint8)
    found = blurred(picture, region)
    soft = ndimage.gaussian_filter(picture.astype(float), SIGMA * 256, mode="mirror")
    margin = int(5 * EDGE * 256)
    deep = ndimage.binary_erosion(mask(region), iterations=margin, border_value=1)
    apart = ndimage.binary_erosion(~mask(region), iterations=margin, border_value=1)
    assert deep.sum() > 500
    assert np.abs(found[deep] - soft[deep]).max() <= 1.5
    assert np.array_equal(found[apart], picture[apart])


def test_a_mark_is_gone_whatever_the_size_of_the_picture() -> None:
    """A square in a corner keeps less than a quarter of its contrast, in a small picture and in one of 2,000 pixels."""
    for side in (96, 256, 2000):
        plain = np.full((side, side), 90, np.uint8)
        marked = plain.copy()
        cv2.rectangle(marked, (int(0.06 * side), int(0.06 * side)), (int(0.10 * side), int(0.10 * side)), 240, -1)
        for region in ("corners", "outside"):
            left = np.abs(blurred(marked, region).astype(int) - blurred(plain, region)).max()
            assert left < 0.25 * 150, (side, region, left)
        assert blurred(marked, "inside")[: int(0.1 * side), : int(0.1 * side)].max() == 240


def test_a_picture_that_is_not_square_is_blurred_where_the_network_sees_it() -> None:
    """Blurring before the picture is padded and resized, or after, marks the same places."""
    rng = np.random.default_rng(1)
    tall = rng.integers(0, 255, (400, 240), dtype=np.uint8)
    before = to_square(blurred(tall, "outside"), 400)
    changed = before != to_square(tall, 400)
    places = mask("outside", 400)
    shown = np.zeros((400, 400), bool)
    shown[:, 80:320] = True
    deep = ndimage.binary_erosion(places, iterations=20, border_value=1) & shown
    apart = ndimage.binary_erosion(~places, iterations=20, border_value=1)
    assert changed[deep].mean() > 0.95
    assert not changed[apart].any()
