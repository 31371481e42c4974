"""Do heat maps lie where people saw the finding? Of two models on the same images, clustered by patient. Pure.

Each figure is a mean over the images that have an annotated box of the finding:

* the pointing game of Zhang et al. (ECCV 2016): whether the map's peak lies in a box;
* the energy in the boxes: which share of the map's sum lies in them (Wang et al., Score-CAM, CVPR workshops 2020);
* boxes drawn from the map, as Wang et al. (CVPR 2017) do for ChestX-ray14: the region around the peak that reaches half
  of it. An image counts at a threshold T where the intersection of that region's box with an annotated box, over their
  union, is at least T.

An empty map points nowhere: it counts, and misses. Boxes are in shares of the picture's side, so that maps of models
with other grids are compared on the same places. A grid of few cells cannot point closely: `chance` says what a blind
guess at a cell would reach.

Shapes: h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from cxr_ops.plan import OVERLAPS
from cxr_ops.records.evidence import Figure, Localization, Paired, Undefined
from cxr_ops.stats import auc, probability

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Map = npt.NDArray[np.floating[Any]]
Box = tuple[float, float, float, float]

OF_PEAK: Final = 0.5  # where the region around the peak ends
_FINE: Final = 224  # places a side on which areas are counted
_NO_BOX: Final = Undefined(reason="no image that was scored has a box", needed="annotated boxes of test images")
_NO_MAP: Final = Undefined(
    reason="the model's network gives no heat maps", needed="a network with a head on pooled maps"
)


@dataclass(frozen=True, kw_only=True)
class Boxed:
    """An image with boxes of a finding, and what each model's map of the finding shows there.

    Attributes:
        patient: whose it is.
        boxes: (left, top, width, height) as shares of the square that the network sees.
        maps: role -> (h, w), at least 0.
    """

    patient: str
    boxes: Sequence[Box]
    maps: Mapping[str, Map]


@dataclass(frozen=True, kw_only=True)
class Place:
    """What one map says of one image's boxes: see the module."""

    hit: bool
    energy: float
    overlap: float


def place(heat: Map, boxes: Sequence[Box]) -> Place:
    """Compare a map with boxes.

    >>> place(np.array([[0.0, 0.0], [0.0, 2.0]]), [(0.5, 0.5, 0.5, 0.5)])
    Place(hit=True, energy=1.0, overlap=1.0)
    """
    if not heat.size or not (heat > 0).any():
        return Place(hit=False, energy=0.0, overlap=0.0)
    values = np.asarray(heat, dtype=np.float64)
    peak = np.unravel_index(int(values.argmax()), values.shape)
    covered = _share_of_cells(boxes, values.shape)
    return Place(
        hit=bool(cells_in_boxes(boxes, values.shape)[peak]),
        energy=float((values * covered).sum() / values.sum()),
        overlap=max(_overlap(_box_of(values, peak), box) for box in boxes),
    )


def cells_in_boxes(boxes: Sequence[Box], cells: tuple[int, ...]) -> Bools:
    """Which cells of a map count as in one of the boxes: those whose centre is in it, and the cell of its own centre.

    The latter is for boxes smaller than a cell: a map of 3 x 3 cells cannot point at them more closely.

    >>> cells_in_boxes([(0.0, 0.0, 0.5, 0.5)], (2, 2)).astype(int).tolist()
    [[1, 0], [0, 0]]
    >>> cells_in_boxes([(0.55, 0.05, 0.08, 0.08)], (2, 2)).astype(int).tolist()
    [[0, 1], [0, 0]]
    """
    rows, columns = cells
    x, y = (np.arange(columns) + 0.5) / columns, ((np.arange(rows) + 0.5) / rows)[:, None]
    inside = np.zeros(cells, np.bool_)
    for left, top, width, height in boxes:
        inside |= (left <= x) & (x < left + width) & (top <= y) & (y < top + height)
        row, column = int((top + height / 2) * rows), int((left + width / 2) * columns)
        inside[min(max(row, 0), rows - 1), min(max(column, 0), columns - 1)] = True
    return inside


def in_square(box: Box, shape: tuple[int, int]) -> Box:
    """A box (x, y, w, h) in pixels of a picture as shares of the square that the network sees.

    Args:
        box: in source pixels.
        shape: height and width of the source, which is padded to a centred square; see `decode.to_square`.

    >>> in_square((0, 0, 20, 20), (40, 20))
    (0.25, 0.0, 0.5, 0.5)
    """
    height, width = shape
    side = max(height, width)
    x, y, w, h = box
    return (x + (side - width) // 2) / side, (y + (side - height) // 2) / side, w / side, h / side


def localize(
    finding: str, images: Sequence[Boxed], roles: Sequence[str], level: float, *, unmapped: Sequence[str] = ()
) -> Localization:
    """All figures of a finding.

    Args:
        finding: its name.
        images: those that have a box of it.
        roles: the models that are compared, `challenger` first.
        level: of the two-sided intervals, in (0, 1).
        unmapped: the roles whose network gives no maps.
    """
    if not images:
        nothing = _paired(dict.fromkeys(roles, _NO_BOX), {})
        return Localization(
            finding=finding,
            images=0,
            patients=0,
            chance=None,
            area=None,
            pointing=nothing,
            energy=nothing,
            overlap=dict.fromkeys(map(str, OVERLAPS), nothing),
        )
    owners = np.unique([image.patient for image in images], return_inverse=True)[1].astype(np.int64)
    mapped = [role for role in roles if role not in unmapped]
    places = {role: [place(image.maps[role], image.boxes) for image in images] for role in mapped}
    grids = {role: [cells_in_boxes(image.boxes, image.maps[role].shape) for image in images] for role in mapped[:1]}

    def paired(values: Mapping[str, Sequence[float]], *, share: bool) -> Paired:
        return _compare(values, owners, roles, level, share=share)

    hits = {role: [float(one.hit) for one in found] for role, found in places.items()}
    return Localization(
        finding=finding,
        images=len(images),
        patients=int(owners.max()) + 1,
        chance=float(np.mean([grid.mean() for grid in grids[mapped[0]]])) if mapped else None,
        area=float(np.mean([_share_of_cells(image.boxes, (1, 1)).item() for image in images])),
        pointing=paired(hits, share=True),
        energy=paired({role: [one.energy for one in found] for role, found in places.items()}, share=False),
        overlap={
            str(at): paired(
                {role: [float(one.overlap >= at) for one in found] for role, found in places.items()}, share=True
            )
            for at in OVERLAPS
        },
    )


def _compare(
    values: Mapping[str, Sequence[float]],
    owners: npt.NDArray[np.int64],
    roles: Sequence[str],
    level: float,
    *,
    share: bool,
) -> Paired:
    """The mean of each model's values, and the challenger's differences."""
    count = int(owners.max()) + 1
    clusters = probability.Clusters.of(np.bincount(owners, minlength=count))
    if clusters.patients < auc.MIN_PATIENTS:
        few = Undefined(reason=f"boxes of {clusters.patients} patient alone", needed="boxes of more patients")
        return _paired(dict.fromkeys(roles, few), {})
    figures = {role: probability.mean(of_role, owners, count) for role, of_role in values.items()}
    single: dict[str, Figure] = {
        role: probability.single(figures[role], clusters, level, "logit" if share else "wald")
        if role in figures
        else _NO_MAP
        for role in roles
    }
    apart: dict[str, Figure] = {
        role: probability.difference(
            figures["challenger"],
            figures[role],
            clusters,
            level,
            same_order=list(values["challenger"]) == list(values[role]),
        )
        if role in figures
        else _NO_MAP
        for role in roles
        if role != "challenger"
    }
    return _paired(single, apart)


def _paired(single: Mapping[str, Figure], apart: Mapping[str, Figure]) -> Paired:
    names = {"champion": "difference", "reference": "reference_difference"}
    return Paired(
        **dict(single), **{names[role]: apart.get(role, single[role]) for role in single if role != "challenger"}
    )


def _share_of_cells(boxes: Sequence[Box], cells: tuple[int, ...]) -> Floats:
    """(h, w) which share of each cell lies in one of the boxes, counted on a fine grid."""
    at = (np.arange(_FINE) + 0.5) / _FINE
    inside = np.zeros((_FINE, _FINE), np.bool_)
    for left, top, width, height in boxes:
        inside |= ((top <= at) & (at < top + height))[:, None] & (left <= at) & (at < left + width)
    rows, columns = (np.arange(_FINE) * n // _FINE for n in cells)
    sums, sizes = np.zeros(cells), np.zeros(cells)
    np.add.at(sums, (rows[:, None], columns), inside)
    np.add.at(sizes, (rows[:, None], columns), 1.0)
    shares: Floats = sums / sizes
    return shares


def _box_of(values: Floats, peak: tuple[Any, ...]) -> Box:
    """The box around the region of cells that hang together with the peak and reach `OF_PEAK` of it."""
    rows, columns = values.shape
    regions, _ = ndimage.label(values >= OF_PEAK * values[peak])
    region = np.argwhere(regions == regions[peak])
    (top, left), (bottom, right) = region.min(axis=0), region.max(axis=0) + 1
    return left / columns, top / rows, (right - left) / columns, (bottom - top) / rows


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes."""
    width = min(one[0] + one[2], other[0] + other[2]) - max(one[0], other[0])
    height = min(one[1] + one[3], other[1] + other[3]) - max(one[1], other[1])
    shared = max(width, 0.0) * max(height, 0.0)
    whole = one[2] * one[3] + other[2] * other[3] - shared
    return float(shared / whole) if whole > 0 else 0.0
