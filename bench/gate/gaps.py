"""Intervals of a difference where the models may differ much: the true difference is known, and how often it is held.

Binormal scores; a positive image's score is shifted so that the AUC is exact. Where patients have several images, half
of the noise's variance is the patient's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from cxr_ops.records.evidence import Estimate
from cxr_ops.stats import auc

LEVEL = 0.95
WITHIN_PATIENT = 0.5
MORE = 0.35  # of the geometric number of images that a patient has beyond the first
ALSO = 0.6  # share of a positive patient's further images that show the finding


@dataclass(frozen=True)
class Case:
    """Two models on a test set.

    Attributes:
        areas: true AUCs of challenger and champion.
        positives: patients with the finding.
        negatives: patients without.
        correlation: of the two models' scores on an image, within a class.
        clustered: whether patients have several images, 3.9 in the mean.
        low, high: what the coverage should be, in per cent.
    """

    areas: tuple[float, float]
    positives: int
    negatives: int
    correlation: float
    clustered: bool = False
    low: float = 94.0
    high: float = 96.0

    @property
    def name(self) -> str:
        """What the results call it."""
        of = f"{self.positives}+{self.negatives}"
        return f"{self.areas[0]:g} {self.areas[1]:g} {of} {self.correlation:g}{' clustered' if self.clustered else ''}"


CASES = (
    Case((0.60, 0.998), 30, 300, 0.5),
    Case((0.60, 0.998), 30, 2000, 0.5),
    Case((0.60, 0.998), 30, 300, 0.0),
    Case((0.80, 0.94), 40, 400, 0.5),
    Case((0.80, 0.94), 40, 400, 0.9),
    Case((0.75, 0.80), 200, 1000, 0.8),
    Case((0.80, 0.80), 30, 300, 0.5),
    Case((0.80, 0.80), 30, 300, 0.9),
    Case((0.91, 0.91), 39, 400, 0.9),
    Case((0.60, 0.998), 30, 200, 0.5, clustered=True),
    Case((0.80, 0.94), 40, 200, 0.5, clustered=True),
    Case((0.80, 0.80), 40, 200, 0.9, clustered=True),
    # One or two patients make all of an error here, and no interval is known that holds 95 %.
    Case((0.50, 0.70), 20, 200, 0.3, low=93.0, high=97.0),
    Case((0.90, 0.97), 20, 200, 0.7, low=93.0, high=97.0),
    Case((0.97, 0.97), 30, 300, 0.9, low=93.0, high=97.0),
    Case((0.98, 0.99), 30, 300, 0.7, low=93.0, high=97.0),
    Case((0.998, 0.998), 30, 300, 0.9, low=93.0, high=97.0),
    Case((0.80, 0.80), 10, 100, 0.8, low=93.0, high=97.0),
    Case((0.80, 0.90), 5, 100, 0.5, low=93.0, high=97.0),
)


def draw(case: Case, rng: np.random.Generator) -> Iterator[tuple[str, float]]:
    """One study of a case: whether the interval and the two bounds hold the true difference, and how wide they are.

    Both models without any error, or in the same order but for a constant, are left out: nothing is printed then.
    """
    figure = _figure(case, rng)
    if figure is None:
        return
    gap = case.areas[0] - case.areas[1]
    for kind, (low, high) in (("interval", figure.ci), ("bounds", (figure.low, figure.high))):
        yield f"apart/{kind}/{case.name}", low <= gap <= high
        yield f"apart/{kind} below/{case.name}", high < gap
        yield f"apart/{kind} above/{case.name}", low > gap
        yield f"apart/{kind} width/{case.name}", high - low


def _figure(case: Case, rng: np.random.Generator) -> Estimate | None:
    patients = case.positives + case.negatives
    images = rng.geometric(MORE, patients) + 1 if case.clustered else np.ones(patients, dtype=np.int64)
    owners = np.repeat(np.arange(patients), images)
    first = np.diff(owners, prepend=-1) > 0
    truth = ((owners < case.positives) & (first | (rng.random(owners.size) < ALSO))).astype(np.float64)

    def noise() -> npt.NDArray[np.float64]:
        own = rng.standard_normal(owners.size)
        if not case.clustered:
            return own
        shared = rng.standard_normal(patients)[owners]
        return math.sqrt(1.0 - WITHIN_PATIENT) * own + math.sqrt(WITHIN_PATIENT) * shared

    common = math.sqrt(case.correlation) * noise()
    rankings = [
        auc.rank(
            truth,
            common + math.sqrt(1.0 - case.correlation) * noise() + math.sqrt(2.0) * special.ndtri(area) * truth,
            owners,
        )
        for area in case.areas
    ]
    figure = auc.mean_difference(rankings[:1], rankings[1:], LEVEL, same_order=False)
    return figure if isinstance(figure, Estimate) else None
