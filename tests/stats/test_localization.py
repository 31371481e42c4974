"""Where heat maps lie, against fine rasters, brute force and plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_ops.plan import OVERLAPS
from cxr_ops.records.evidence import Estimate, Undefined
from cxr_ops.stats.localization import Boxed, cells_in_boxes, in_square, localize, place

TOP_RIGHT = (0.5, 0.0, 0.5, 0.5)
HIT, MISS, EMPTY = (
    np.array(cells, dtype=np.float32) for cells in ([[0, 3], [1, 0]], [[2, 0], [0, 1]], [[0, 0], [0, 0]])
)


@pytest.mark.parametrize("shape", [(64, 64), (40, 64), (64, 40)])
def test_cells_lie_where_the_network_sees_them(shape: tuple[int, int]) -> None:
    """A cell is in a box when its centre is, or when it holds the box's centre, in the square that the network sees."""
    rng = np.random.default_rng(0)
    side = max(shape)
    left, top = (side - shape[1]) // 2, (side - shape[0]) // 2
    for _ in range(20):
        x, y = int(rng.integers(0, shape[1] - 8)), int(rng.integers(0, shape[0] - 8))
        w, h = int(rng.integers(1, shape[1] - x)), int(rng.integers(1, shape[0] - y))
        mask = np.zeros((side, side), bool)
        mask[top + y : top + y + h, left + x : left + x + w] = True
        expected = mask[8::16, 8::16].copy()  # 4 x 4 cells of 16 pixels
        expected[int(top + y + h / 2) // 16, int(left + x + w / 2) // 16] = True
        assert np.array_equal(cells_in_boxes([in_square((x, y, w, h), shape)], (4, 4)), expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_energy_and_overlap_are_those_of_a_raster(seed: int, count: int) -> None:
    """On boxes that end at pixels, the energy and the overlap are those of a picture of 224 x 224 places."""
    rng = np.random.default_rng(seed)
    heat = rng.gamma(0.7, 1.0, (7, 7)) * (rng.random((7, 7)) > 0.3) + np.eye(7) * 1e-3
    corners = np.sort(rng.integers(0, 225, (count, 2, 2)), axis=2)
    corners[:, :, 1] = np.maximum(corners[:, :, 1], corners[:, :, 0] + 1)
    boxes = [(x0 / 224, y0 / 224, (x1 - x0) / 224, (y1 - y0) / 224) for (x0, x1), (y0, y1) in corners.tolist()]
    masks = np.zeros((count, 224, 224), bool)
    for mask, ((x0, x1), (y0, y1)) in zip(masks, corners.tolist(), strict=True):
        mask[y0:y1, x0:x1] = True
    fine = np.kron(heat, np.ones((32, 32)))
    found = place(heat, boxes)
    assert found.energy == pytest.approx(fine[masks.any(axis=0)].sum() / fine.sum(), abs=1e-9)
    reached = _around_the_peak(heat)
    rows, columns = np.flatnonzero(reached.any(axis=1)), np.flatnonzero(reached.any(axis=0))
    own = np.zeros((224, 224), bool)
    own[32 * rows[0] : 32 * (rows[-1] + 1), 32 * columns[0] : 32 * (columns[-1] + 1)] = True
    assert found.overlap == pytest.approx(max((own & mask).sum() / (own | mask).sum() for mask in masks))


def _around_the_peak(heat: np.ndarray) -> np.ndarray:
    """Cells that reach half of the peak and hang together with it by their sides, grown step by step."""
    reached = np.zeros(heat.shape, bool)
    reached[np.unravel_index(heat.argmax(), heat.shape)] = True
    while True:
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= heat >= heat.max() / 2
        if (grown == reached).all():
            return reached
        reached = grown


def test_an_empty_map_counts_and_misses() -> None:
    """Of three images one peak hits, one misses and one map is empty; the empty one is a miss without energy."""
    images = [
        Boxed(patient=str(i), boxes=[TOP_RIGHT], maps={"challenger": heat}) for i, heat in enumerate((HIT, MISS, EMPTY))
    ]
    found = localize("Mass", images, ["challenger"], 0.95)
    assert (found.images, found.patients) == (3, 3)
    assert (found.chance, found.area) == (0.25, pytest.approx(0.25))
    assert found.pointing.challenger.value == pytest.approx(1 / 3)
    assert found.energy.challenger.value == pytest.approx((3 / 4 + 0 + 0) / 3)
    assert found.overlap["0.5"].challenger.value == pytest.approx(1 / 3)


def test_models_are_compared_on_the_same_images_by_patient() -> None:
    """The interval of a share with one image a patient is binomial; more images of a patient are no more evidence."""

    def images(repeat: int) -> list[Boxed]:
        draws = np.random.default_rng(2).random((40, 2)) < (0.6, 0.4)
        return [
            Boxed(
                patient=str(patient),
                boxes=[TOP_RIGHT],
                maps={role: HIT if hit else MISS for role, hit in zip(("challenger", "champion"), hits, strict=True)},
            )
            for patient, hits in enumerate(draws.tolist())
            for _ in range(repeat)
        ]

    once, thrice = (localize("Mass", images(repeat), ["challenger", "champion"], 0.95) for repeat in (1, 3))
    share = once.pointing.challenger
    assert share.se == pytest.approx(np.sqrt(share.value * (1 - share.value) / 39))
    apart = once.pointing.difference
    draws = np.random.default_rng(2).random((40, 2)) < (0.6, 0.4)
    gap = draws[:, 0].astype(float) - draws[:, 1]
    assert (apart.value, apart.se) == pytest.approx((gap.mean(), stats.sem(gap)))
    for name in ("challenger", "champion", "difference"):
        one, three = getattr(once.pointing, name), getattr(thrice.pointing, name)
        assert (one.value, one.se, one.low) == pytest.approx((three.value, three.se, three.low))


def test_what_cannot_be_said_has_a_reason() -> None:
    """Without boxes, with one patient, or for a network without maps nothing is estimated, and the reason is told."""
    nothing = localize("Mass", [], ["challenger", "champion"], 0.95)
    assert (nothing.images, nothing.chance) == (0, None)
    assert "has a box" in nothing.pointing.difference.reason
    assert set(nothing.overlap) == {str(at) for at in OVERLAPS}
    one = [Boxed(patient="1", boxes=[TOP_RIGHT], maps={"challenger": HIT})]
    assert isinstance(localize("Mass", one, ["challenger"], 0.95).pointing.challenger, Undefined)
    two = [*one, Boxed(patient="2", boxes=[TOP_RIGHT], maps={"challenger": MISS})]
    found = localize("Mass", two, ["challenger", "champion"], 0.95, unmapped=["champion"])
    assert isinstance(found.pointing.challenger, Estimate)
    assert "no heat maps" in found.pointing.champion.reason
    assert isinstance(found.pointing.difference, Undefined)
