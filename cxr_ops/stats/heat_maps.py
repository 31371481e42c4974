"""How alike are heat maps of the same images: with random weights, and after small changes of the image? Pure.

* Sanity (Adebayo et al., NeurIPS 2018): weights are drawn at random from the head down, a part more at each step. A map
  that stays the same once all weights are random tells nothing of the model: an edge detector's would.
* Stability: the image is moved or its contrast changed by so little that a person would see the same. A map that then
  points elsewhere is not to be read as a place.

Alike is the rank correlation (Spearman's) of two maps over their cells, as in Adebayo et al.: 1 for the same order of
cells, about 0 for maps that have nothing to do with one another. Equal cells share their ranks. A map that is empty, or
the same everywhere, has no order: where the model's own map has none, the image is left out of the finding; where the
other has none, the two are not alike at all, 0.

A figure is the mean over findings and draws of each image, and then over images, one a patient. Its interval is over
patients. That another draw of random weights gives other maps is in the mean and not in the interval.

Shapes: N images, F findings, h x w cells of a map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

from cxr_ops.records.evidence import Alike, Figure, Undefined
from cxr_ops.stats import auc

Floats = npt.NDArray[np.float64]
Maps = npt.NDArray[np.floating[Any]]

# Which weights are random, at each step of `cxr_ops.model.cam.randomized`.
STEPS: Final = (
    "head",
    "head and block 4",
    "head and blocks 4 to 3",
    "head and blocks 4 to 2",
    "head and blocks 4 to 1",
    "all weights",
)
# How images are changed, by `cxr_ops.data.small_changes`.
Change = Literal["moved right", "moved down", "contrast up", "contrast down"]
CHANGES: Final[tuple[Change, ...]] = ("moved right", "moved down", "contrast up", "contrast down")


def similarity(own: Maps, other: Maps) -> Floats:
    """Rank correlation of maps over their cells.

    Args:
        own: (..., h, w) the model's maps.
        other: of the same shape.

    Returns:
        (...) in [-1, 1]; NaN where the model's map has no order, 0 where only the other has none.

    >>> peak = np.array([[4.0, 1.0], [2.0, 0.0]])
    >>> similarity(np.stack([peak, peak, 0 * peak]), np.stack([2 * peak, 0 * peak, peak])).round(6).tolist()
    [1.0, 0.0, nan]
    """
    ours, theirs = (_centred_ranks(maps) for maps in (own, other))
    sizes = np.sqrt((ours**2).sum(axis=-1)), np.sqrt((theirs**2).sum(axis=-1))
    product, size = (ours * theirs).sum(axis=-1), sizes[0] * sizes[1]
    found = np.divide(product, size, out=np.zeros_like(product), where=size > 0)
    found[sizes[0] == 0] = np.nan
    return np.asarray(np.clip(found, -1.0, 1.0))


def _centred_ranks(maps: Maps) -> Floats:
    flat = np.asarray(maps, dtype=np.float64).reshape(*maps.shape[:-2], -1)
    ranks: Floats = stats.rankdata(flat, axis=-1)
    centred: Floats = ranks - ranks.mean(axis=-1, keepdims=True)
    return centred


def alike(findings: Sequence[str], own: Maps, others: Sequence[Maps], level: float) -> Alike:
    """How alike a model's maps and others of the same images are.

    Args:
        findings: F names.
        own: (N, F, h, w) the model's maps, of one image a patient.
        others: of the same shape each, such as those of several draws of weights; at least one.
        level: of the two-sided intervals, in (0, 1).

    >>> rng = np.random.default_rng(0)
    >>> maps = rng.random((20, 2, 3, 3))
    >>> round(alike(["Mass", "Nodule"], maps, [maps**2], 0.95).overall.value, 6)
    1.0
    """
    values = np.mean([similarity(own, other) for other in others], axis=0)  # NaN depends on the own map alone
    shown = ~np.isnan(values)
    counts = shown.sum(axis=1)
    sums = np.where(shown, values, 0.0).sum(axis=1)
    return Alike(
        overall=_figure(sums[counts > 0] / counts[counts > 0], level),
        findings={finding: _figure(values[shown[:, f], f], level) for f, finding in enumerate(findings)},
    )


def by_step(
    findings: Sequence[str], own: Mapping[str, Maps], draws: Mapping[str, Sequence[Maps]], level: float
) -> dict[str, dict[str, Alike]]:
    """For each of `STEPS` and each model, how alike its maps and those with random weights are.

    Args:
        findings: F names.
        own: role -> (N, F, h, w).
        draws: role -> (steps, N, F, h, w) of each draw.
        level: of the intervals.
    """
    return {
        step: {
            role: alike(findings, own[role], [draw[at] for draw in of_role], level) for role, of_role in draws.items()
        }
        for at, step in enumerate(STEPS)
    }


def _figure(values: Floats, level: float) -> Figure:
    """The mean of one value a patient; without any variation its interval is the mean alone."""
    if values.size < auc.MIN_PATIENTS:
        return Undefined(
            reason=f"maps of {values.size} patient{'' if values.size == 1 else 's'} alone show any place",
            needed="more images",
        )
    se = float(values.std(ddof=1) / np.sqrt(values.size))
    return auc.estimate(float(values.mean()), se if se > auc.ROUNDING else 0.0, values.size - 1.0, "wald", level)
