"""The confidence interval of a difference of two AUCs, for models that may differ much.

What the gate judges is another thing: a one-sided bound at a margin (`cxr_ops.stats.auc.mean_difference`), which lets
one model change and holds the other. Near equality both ends of that bound are an interval. Where one model is far
better, the worse one has most of the error, and the bound on its side is too near: of AUCs of 0.60 and 0.998 with 30
positive patients it would hold the true difference in every second study.

Here both models may change at once. Their AUCs have a joint confidence region, an ellipse on the logit scale, and the
interval runs from the least difference in it to the largest: the profile likelihood of two normal logits. The
covariance is Obuchowski's. Student's degrees of freedom are those that the fourth moments of the patients' parts show:
few patients with all of the error leave few, parts of a bounded range more than there are patients.

Sources:
    Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997) 567-578: the covariance.
    Venzon and Moolgavkar, Applied Statistics 37 (1988) 87-94: ends of a profile-likelihood interval.
    Satterthwaite, Biometrics Bulletin 2 (1946) 110-114: degrees of freedom of a sum of variances.
    Zou and Donner, Statistics in Medicine 27 (2008) 1693-1702: two intervals made into one of the difference, where an
    AUC is 0 or 1 and has no logit.

docs/gate-simulation.md shows the coverage in each case, docs/decisions/0016 what else was tried.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# The patients' own fourth moments weigh as the number of patients, normal ones as this many patients. With 5 patients
# the own moments alone gave 88 % in place of 95 %; from 20 on any weight below 20 gives the same.
PRIOR: Final = 10.0
STEPS: Final = 64  # points of the ellipse on either side of the one looked at
ROUNDS: Final = 4  # each looks this many times more closely: the ends are then exact to some 1e-9


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Two models' deviations by patient, for one finding.

    Attributes:
        positive: (2, P) each patient's part of either AUC's deviation through its positive images; each row sums to 0.
        negative: (2, P) the same through its negative images.
        positives: (P,) number of positive images of each patient.
        negatives: (P,)
    """

    positive: Floats
    negative: Floats
    positives: Ints
    negatives: Ints


@dataclass(frozen=True)
class Spread:
    """How far two AUCs, or two means of AUCs over findings, may lie from the truth.

    Attributes:
        covariance: (2, 2) clustered by patient.
        df: Student's degrees of freedom for the difference, at least 1.
    """

    covariance: Floats
    df: float

    @classmethod
    def of(cls, findings: Sequence[Parts], effective: float) -> Spread:
        """Of one finding, or of the mean over several with the same P patients.

        Args:
            findings: at least one, each with two or more positive and two or more negative patients.
            effective: how many patients with one image each would weigh as much, of the rarer kind.

        >>> parts = Parts(positive=np.array([[0.1, -0.1, 0, 0], [0.2, -0.2, 0, 0]]), negative=np.zeros((2, 4)),
        ...               positives=np.array([1, 1, 0, 0]), negatives=np.array([0, 0, 1, 1]))
        >>> Spread.of([parts], 2.0).covariance.round(3).tolist()
        [[0.04, 0.08], [0.08, 0.16]]
        """
        scaled = np.zeros((4, *findings[0].positive.shape))
        for one in findings:
            counts = [np.count_nonzero(kind) for kind in (one.positives, one.negatives)]
            either = np.count_nonzero(one.positives + one.negatives)
            factors = [math.sqrt(n / (n - 1)) / len(findings) for n in (*counts, either, either)]
            for place, (factor, part) in enumerate(zip(factors, (one.positive, one.negative) * 2, strict=True)):
                scaled[place] += factor * part
        positive, negative, of_both, with_both = scaled
        across = of_both @ with_both.T
        covariance = positive @ positive.T + negative @ negative.T + across + across.T
        owners = [sum((getattr(one, kind) for one in findings), start=np.zeros(1)) for kind in _KINDS]
        moments = [
            _moments(part, int(np.count_nonzero(of))) for part, of in zip((positive, negative), owners, strict=True)
        ]
        second, fourth = (sum(values) for values in zip(*moments, strict=True))
        usual = max(effective - 1.0, 1.0)
        # 1/df is a share of the squared variance that the variance's own error makes up; such shares can be averaged.
        own = 1.0 / max(2.0 * second**2 / fourth - 1.0, 1.0) if fourth > 0.0 else 0.0
        share = (effective * own + PRIOR / usual) / (effective + PRIOR)
        return cls(covariance, max(1.0 / share, 1.0))


_KINDS: Final = ("positives", "negatives")


def _moments(parts: Floats, patients: int) -> tuple[float, float]:
    """Sum of squares of the difference's parts, (2, P), and the variance of that sum."""
    squares = (parts[0] - parts[1]) ** 2
    total = float(squares.sum())
    return total, max(float(squares @ squares) - total**2 / patients, 0.0)


def interval(first: float, second: float, spread: Spread, level: float, effective: float) -> tuple[float, float]:
    """A two-sided interval of first - second.

    Where an AUC is 0 or 1 it has no logit, and its own interval is the exact binomial one for as many patients as
    `effective` without an error; the two single intervals are then put together (MOVER). Such an AUC does not vary, so
    nothing is known of how the two correlate, and they are taken as independent.

    Args:
        first: AUC, in [0, 1].
        second: the other model's, on the same images.
        spread: of both.
        level: in (0, 1).
        effective: as in `Spread.of`.

    >>> spread = Spread(np.array([[0.0016, 0.0008], [0.0008, 0.0016]]), 40.0)
    >>> low, high = interval(0.80, 0.80, spread, 0.95, 41.0)
    >>> round(low, 3), round(high, 3)
    (-0.083, 0.083)
    """
    alpha = (1.0 - level) / 2.0
    quantile = float(special.stdtrit(spread.df, 1.0 - alpha))
    errors = [math.sqrt(max(float(value), 0.0)) for value in np.diag(spread.covariance)]
    if {first, second} & {0.0, 1.0}:
        singles = [
            _single(area, quantile * error, alpha, effective)
            for area, error in zip((first, second), errors, strict=True)
        ]
        low, high = _together(first, second, *singles)
    else:
        reach = [quantile * error / (area * (1.0 - area)) for area, error in zip((first, second), errors, strict=True)]
        both = errors[0] * errors[1]
        correlation = float(spread.covariance[0, 1]) / both if both > 0.0 else 0.0
        low, high = _ends(first, second, reach, min(max(correlation, -1.0), 1.0))
    gap = first - second  # rounding must not leave it outside
    return min(low, gap), max(high, gap)


def _ends(first: float, second: float, reach: Sequence[float], correlation: float) -> tuple[float, float]:
    """Least and largest difference on the ellipse of two logits that reach so far and correlate so."""
    centres = [float(special.logit(area)) for area in (first, second)]
    # So written, exchanging the models exchanges the angle's sign, and every number with it.
    turn = math.acos(correlation) / 2.0
    steps = np.arange(-STEPS, STEPS + 1) / STEPS

    def differences(angles: Floats) -> Floats:
        ours = special.expit(centres[0] + reach[0] * np.cos(angles - turn))
        theirs = special.expit(centres[1] + reach[1] * np.cos(angles + turn))
        return np.asarray(ours - theirs)

    found: list[float] = []
    for sign in (-1.0, 1.0):
        centre, width = 0.0, math.pi
        for _ in range(ROUNDS):
            angles = centre + width * steps
            values = sign * differences(angles)
            best = int(np.argmax(values))
            centre, width = float(angles[best]), 2.0 * width / STEPS
        found.append(sign * float(values[best]))
    return found[0], found[1]


def _single(area: float, reach: float, alpha: float, effective: float) -> tuple[float, float]:
    if area in (0.0, 1.0):
        without_error = alpha ** (1.0 / max(effective, 2.0))
        return (without_error, 1.0) if area == 1.0 else (0.0, 1.0 - without_error)
    centre, spread = float(special.logit(area)), reach / (area * (1.0 - area))
    return float(special.expit(centre - spread)), float(special.expit(centre + spread))


def _together(
    first: float, second: float, ours: tuple[float, float], theirs: tuple[float, float]
) -> tuple[float, float]:
    """MOVER of two single intervals that are independent."""
    gap = first - second
    return (
        gap - math.hypot(first - ours[0], theirs[1] - second),
        gap + math.hypot(ours[1] - first, second - theirs[0]),
    )
