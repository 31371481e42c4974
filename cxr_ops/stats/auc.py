"""Areas under the ROC curve when patients have several images: values, patient-clustered errors, paired differences.

The patient is the unit. Two images of one patient are alike, so a standard error that counts images is too small.

Sources:
    Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997) 567-578: the variance and the
    covariance from sums of placement values over a cluster.
    DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837-845: the same with one image a patient.
    Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393: placement values by sorting, O(n log n).
    Efron and Stein, Annals of Statistics 9 (1981) 586-596: the jackknife; here it leaves out a patient at a time.
    Satterthwaite, Biometrics Bulletin 2 (1946) 110-114: degrees of freedom of a sum of variances.

Shapes: N images, F findings, P patients. Truth is 1, 0 or NaN (missing; not the same as 0). Scores are any numbers that
rank images; only their order matters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from cxr_ops.records.evidence import Estimate, Evidence, Figure, FindingEvidence, Paired, Support, Undefined
from cxr_ops.stats import difference

Method = Literal["wald", "logit", "logit_difference", "separated", "separated_difference"]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float32] | npt.NDArray[np.float64]

# With one patient of a kind nothing is known of how patients of that kind differ.
MIN_PATIENTS: Final = 2
# How alike two images of one patient and one kind are scored; 0.45 to 0.63 was seen on the NIH images. It shapes the
# degrees of freedom of a single AUC and nothing else.
WITHIN_PATIENT: Final = 0.5
EDGE: Final = 1e-9  # AUCs nearer to 0 or 1 than this have no logit that means anything
ROUNDING: Final = 1e-12  # a standard error below this is none
UNSCORED: Final = Undefined(reason="not scored", needed="a model that was trained on this finding")


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How well one model ranks one finding, taken apart by patient; also the difference of two such rankings.

    Attributes:
        value: the AUC, in [0, 1], or a difference of two, in [-1, 1].
        positive: (P,) each patient's part of the deviation through its positive images. It sums to 0.
        negative: (P,) the same through its negative images.
        positives: (P,) number of positive images of each patient.
        negatives: (P,) number of negative images of each patient.
        without: (P,) what `value` is without this patient; `value` itself where no pair of images would be left.
        image: (N,) each image's part of the deviation, scaled so that the squares sum to DeLong's variance, which takes
            every image for a patient; 0 where the label is missing.
    """

    value: float
    positive: Floats
    negative: Floats
    positives: Ints
    negatives: Ints
    without: Floats
    image: Floats

    def check_same_images(self, other: Ranking) -> None:
        """A paired difference needs both models on the same images.

        Raises:
            ValueError: they are not.
        """
        same = np.array_equal(self.positives, other.positives) and np.array_equal(self.negatives, other.negatives)
        if not same or self.image.size != other.image.size:
            raise ValueError("a paired difference needs both models on the same images")

    def minus(self, other: Ranking) -> Ranking:
        """The paired difference with another model on the same images.

        Raises:
            ValueError: the two are not of the same images.
        """
        self.check_same_images(other)
        return Ranking(
            value=self.value - other.value,
            positive=self.positive - other.positive,
            negative=self.negative - other.negative,
            positives=self.positives,
            negatives=self.negatives,
            without=self.without - other.without,
            image=self.image - other.image,
        )


# ------------------------------------------------------------------------------------------------- values


def midranks(scores: npt.ArrayLike) -> Floats:
    """Ranks from 1, in the order of the rows; equal scores share their mean rank.

    Args:
        scores: (N,) finite.

    >>> midranks([0.3, 0.1, 0.3])
    array([2.5, 1. , 2.5])
    """
    order, rising = _sort(_numbers(scores))
    in_order = np.arange(1.0, order.size + 1.0)
    ties = np.flatnonzero(rising[1:] == rising[:-1])
    tied = np.concatenate((ties, ties + 1))
    low, high = tie_edges(rising, tied)
    in_order[tied] = (low + high + 1) / 2
    ranks = np.empty(order.size)
    ranks[order] = in_order
    return ranks


def tie_edges(rising: npt.NDArray[Any], places: Ints) -> tuple[Ints, Ints]:
    """Where the scores that are equal to those at some places begin, and where larger ones begin.

    Ties of float32 scores are few, so that next to no place is searched for.

    Args:
        rising: (N,) scores that never fall.
        places: (n,) of those asked for.

    >>> tie_edges(np.array([0.1, 0.3, 0.3]), np.array([0, 2]))
    (array([0, 1]), array([1, 3]))
    """
    low, high = places.copy(), places + 1
    scores = rising[places]
    # The neighbour of an end is the other end: if it is equal, all scores are.
    tied = np.flatnonzero((scores == rising[low - 1]) | (scores == rising.take(high, mode="wrap")))
    low[tied] = np.searchsorted(rising, scores[tied], "left")
    high[tied] = np.searchsorted(rising, scores[tied], "right")
    return low, high


def _numbers(scores: npt.ArrayLike) -> Scores:
    values = np.asarray(scores)
    return values if values.dtype == np.float32 else values.astype(np.float64, copy=False)


def _sort(scores: Scores) -> tuple[Ints, npt.NDArray[Any]]:
    """Rows in the order of rising scores, ties in any order; and numbers that rise as the scores do.

    To sort numbers takes a third of the time of sorting their rows. A float32 leaves room for its row in 64 bits, once
    its own 32 are read as a whole number that rises with it.
    """
    if scores.dtype == np.float32:
        bits = (scores + np.float32(0.0)).view(np.int32)  # -0.0 becomes 0.0
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # of two negative numbers the one with larger bits is smaller
        keys = bits.astype(np.int64)
        keys <<= 32
        keys |= np.arange(bits.size)
        keys.sort()
        return keys & 0xFFFFFFFF, keys >> 32
    order = np.argsort(scores)
    return order, scores[order]


@dataclass(frozen=True)
class Sorted:
    """One model's order of labelled images, n of them, m positive.

    Attributes:
        order: (n,) images by rising score; ties in any order.
        cells: (n,) twice the patient, plus one for a positive image, in this order.
        positive: (m,) places of the positive ones in this order.
        low: (m,) place where the tie of each positive begins: so many images score lower.
        high: (m,) place where the larger scores begin.
    """

    order: Ints
    cells: Ints
    positive: Ints
    low: Ints
    high: Ints

    @classmethod
    def of(cls, scores: Scores, cells: npt.NDArray[Any]) -> Sorted:
        """Sort (n,) finite scores; (n,) cells, or true for a positive, in the order of the images."""
        order, rising = _sort(scores)
        in_order = cells[order]
        positive = np.flatnonzero(in_order & 1)
        return cls(order, in_order, positive, *tie_edges(rising, positive))

    @property
    def patients(self) -> Ints:
        """(n,) in this order."""
        return self.cells >> 1

    def wins(self) -> Floats:
        """(n,) twice the pairs with images of the other kind in which the positive wins, ties half, in this order."""
        # Twice the positives above a place, half of its tie counted, falls by one at both edges of each positive.
        edges = np.sort(np.concatenate((self.low, self.high)))
        wins = np.repeat(np.arange(float(edges.size), -1.0, -1.0), gaps(edges, self.order.size))
        wins[self.positive] += self.low + self.high - edges.size  # these win against what is below, less the positives
        return wins

    def back(self, values: Floats) -> Floats:
        """(n,) values in this order, in the order of the images."""
        by_image = np.empty_like(values)
        by_image[self.order] = values
        return by_image

    @property
    def area(self) -> float:
        """The AUC; there must be an image of each kind."""
        m, n = self.positive.size, self.order.size - self.positive.size
        # What the positives win against one another, ties half, is the same in any order.
        return (int(self.low.sum()) + int(self.high.sum()) - m**2) / (2 * m * n)

    def is_constant(self) -> bool:
        """Whether all scores are the same; at least one must be of a positive."""
        return bool(self.low[0] == 0 and self.high[0] == self.order.size)


def gaps(places: Ints, end: int) -> Ints:
    """How far it is from 0 to the first of (k,) rising places, from each to the next, and from the last to the end.

    >>> gaps(np.array([1, 1, 4]), 6)
    array([1, 0, 3, 2])
    """
    edges = np.concatenate(([0], places, [end]))
    return edges[1:] - edges[:-1]


def not_finite(scores: npt.NDArray[Any], of: str = "") -> Undefined | None:
    """Why (n,) scores cannot be ranked: not one is a number, or some are not; None where all are.

    A model that was not trained on a finding has a score of no image.

    >>> not_finite(np.array([np.nan, np.nan])).reason, not_finite(np.array([0.5, np.nan]), of="validation ").reason
    ('not scored', '1 of 2 validation scores are not finite')
    """
    infinite = scores.size - np.count_nonzero(np.isfinite(scores))
    if infinite and np.isnan(scores).all():
        return UNSCORED
    if infinite:
        return Undefined(reason=f"{infinite} of {scores.size} {of}scores are not finite", needed="finite scores")
    return None


@dataclass(frozen=True)
class Labelled:
    """The labelled images of one finding, n of N, and what the ranking of every model on them has in common.

    Attributes:
        images: N.
        rows: which n of the N.
        cells: (n,) twice the patient, plus one for a positive image.
        positives: (P,) images of each patient.
        negatives: (P,)
    """

    images: int
    rows: Bools | slice
    cells: Ints
    positives: Ints
    negatives: Ints

    @classmethod
    def of(cls, truth: Floats, patients: Ints, count: int) -> Labelled:
        """Those whose (N,) truth is not NaN; patients are (N,) whole numbers below `count`."""
        known = ~np.isnan(truth)
        rows = slice(None) if known.all() else known  # a slice copies nothing
        cells = 2 * patients[rows] + (truth[rows] == 1)
        images = np.bincount(cells, minlength=2 * count)
        return cls(truth.size, rows, cells, positives=images[1::2].copy(), negatives=images[::2].copy())

    @functools.cached_property
    def support(self) -> Support:
        """How many images and patients there are."""
        return Support(
            positives=int(self.positives.sum()),
            negatives=int(self.negatives.sum()),
            positive_patients=int(np.count_nonzero(self.positives)),
            negative_patients=int(np.count_nonzero(self.negatives)),
        )

    @functools.cached_property
    def _rivals(self) -> Ints:
        """(P,) negative images of each patient who has a positive one too."""
        return np.where(self.positives > 0, self.negatives, 0)

    @functools.cached_property
    def _left(self) -> Ints:
        """(P,) twice the pairs that are left without a patient."""
        return 2 * (self.support.positives - self.positives) * (self.support.negatives - self.negatives)

    def sort(self, scores: Scores) -> Sorted | Undefined:
        """Sort one model's (N,) scores."""
        values = scores[self.rows]
        return not_finite(values) or Sorted.of(values, self.cells)

    def rank(self, ordered: Sorted) -> Ranking:
        """Rank one model's order.

        Raises:
            ValueError: there is no positive or no negative image.
        """
        m, n = self.support.positives, self.support.negatives
        if m == 0 or n == 0:
            raise ValueError("an AUC needs a positive and a negative image")
        wins = ordered.wins()
        by_cell = np.bincount(ordered.cells, weights=wins, minlength=2 * self.positives.size)
        won, lost = by_cell[1::2], by_cell[::2]  # pairs won by a patient's positives, and lost by its negatives
        area = ordered.area
        # A pair inside the patient is in `won` and in `lost`, and is to be taken off once.
        kept = won.sum() - won - lost + self._won_within(ordered)
        without = np.divide(kept, self._left, out=np.full(won.size, area), where=self._left > 0)
        image = np.zeros(self.images)
        image[self.rows] = ordered.back(self._parts(ordered, wins))
        return Ranking(
            value=area,
            positive=won / (2 * m * n) - area * self.positives / m,
            negative=lost / (2 * m * n) - area * self.negatives / n,
            positives=self.positives,
            negatives=self.negatives,
            without=without,
            image=image,
        )

    def _parts(self, ordered: Sorted, wins: Floats) -> Floats:
        """(n,) what `Ranking.image` holds, in the model's order."""
        m, n = self.support.positives, self.support.negatives
        of_positive, of_negative = (1.0 / math.sqrt(k * max(k - 1, 1)) for k in (m, n))
        parts = wins * (of_negative / (2 * m)) - of_negative * ordered.area
        parts[ordered.positive] = wins[ordered.positive] * (of_positive / (2 * n)) - of_positive * ordered.area
        return parts

    def _won_within(self, ordered: Sorted) -> Floats:
        """Twice the pairs of each patient's own images, (P,), in which the positive wins."""
        is_rival = np.zeros(2 * self.positives.size, dtype=np.bool_)
        is_rival[::2] = self._rivals
        places = np.flatnonzero(is_rival[ordered.cells])
        # Both rise with the patient, then with the place. Sorted numbers are found faster.
        stretch = ordered.order.size + 1
        negatives = np.sort((ordered.cells[places] >> 1) * stretch + places)
        positives = (ordered.cells[ordered.positive] >> 1) * stretch
        edges = np.sort(np.concatenate((positives + ordered.low, positives + ordered.high)))
        patients = edges // stretch
        before = np.cumsum(self._rivals) - self._rivals  # rivals of the patients before
        below = np.searchsorted(negatives, edges) - before[patients]
        return np.bincount(patients, weights=below, minlength=self.positives.size).astype(np.float64, copy=False)


def rank(truth: npt.ArrayLike, scores: npt.ArrayLike, patients: npt.ArrayLike, count: int | None = None) -> Ranking:
    """AUC of one model for one finding, with each patient's part of its deviation.

    Args:
        truth: (N,) 1, 0 or NaN. Rows with NaN are left out.
        scores: (N,) finite where truth is not missing.
        patients: (N,) whole numbers from 0, one a patient.
        count: number of patients P; the largest in `patients` plus one if it is not given.

    Raises:
        ValueError: no positive or no negative image is left, or a score is not finite.

    >>> found = rank([1, 1, 0, 0], [0.9, 0.5, 0.6, 0.1], [0, 1, 2, 3])
    >>> found.value, found.without
    (0.75, array([0.5, 1. , 1. , 0.5]))
    """
    owners = np.asarray(patients, dtype=np.int64)
    total = int(owners.max(initial=-1)) + 1 if count is None else count
    labelled = Labelled.of(np.asarray(truth, dtype=np.float64), owners, total)
    values = _numbers(scores)[labelled.rows]
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    return labelled.rank(Sorted.of(values, labelled.cells))


# ---------------------------------------------------------------------------------------------- variances


def variance(parts: Sequence[Ranking]) -> float:
    """Patient-clustered variance of the mean of several AUCs, or of several paired differences, on the same patients.

    For one AUC this is Obuchowski's estimate: with I1 patients who have a positive image, I0 who have a negative one
    and I in all, `I1/(I1-1) sum a^2 + I0/(I0-1) sum b^2 + 2 I/(I-1) sum a b`, where a and b are a patient's parts. For
    several it holds the covariances between them; where findings differ in I1, I0 or I, the geometric mean of the
    factors is taken.

    Raises:
        ValueError: nothing is given, or a part has fewer than two positive or two negative patients.

    >>> one = rank([1, 1, 0, 0], [0.9, 0.5, 0.6, 0.1], [0, 1, 2, 3])
    >>> round(variance([one]), 6)
    0.125
    >>> variance([one.minus(one)])
    0.0
    """
    # Rounding alone can take the sum a hair below zero.
    return max(sum(_components(parts)), 0.0)


def _components(parts: Sequence[Ranking]) -> tuple[float, float, float]:
    """The parts of `variance` that come from the positives, from the negatives, and from patients with both."""
    if not parts:
        raise ValueError("a variance needs at least one AUC")
    positive, negative, both_positive, both_negative = ([] for _ in range(4))
    for part in parts:
        with_positive, with_negative = int(np.count_nonzero(part.positives)), int(np.count_nonzero(part.negatives))
        if min(with_positive, with_negative) < MIN_PATIENTS:
            raise ValueError(f"a variance needs {MIN_PATIENTS} positive and {MIN_PATIENTS} negative patients")
        with_either = int(np.count_nonzero(part.positives + part.negatives))
        positive.append(_inflation(with_positive) * part.positive)
        negative.append(_inflation(with_negative) * part.negative)
        both_positive.append(_inflation(with_either) * part.positive)
        both_negative.append(_inflation(with_either) * part.negative)
    of_positives, of_negatives = _sum(positive), _sum(negative)
    sums = (of_positives @ of_positives, of_negatives @ of_negatives, 2.0 * (_sum(both_positive) @ _sum(both_negative)))
    found = [float(value) / len(parts) ** 2 for value in sums]
    return found[0], found[1], found[2]


def _sum(arrays: Iterable[Floats]) -> Floats:
    """Of at least one array; a single one is not copied. Faster than to have numpy stack them."""
    return functools.reduce(np.add, arrays)


def _inflation(patients: int) -> float:
    return math.sqrt(patients / (patients - 1))


def jackknife(parts: Sequence[Ranking]) -> float:
    """The same variance by leaving out one patient at a time: `(I-1)/I sum (value without - their mean)^2`.

    Where few patients are positive it is a little larger than `variance`, which is then too small.

    Raises:
        ValueError: nothing is given, or fewer than two patients have a label.

    >>> round(jackknife([rank([1, 1, 0, 0], [0.9, 0.5, 0.6, 0.1], [0, 1, 2, 3])]), 6)
    0.1875
    """
    if not parts:
        raise ValueError("a variance needs at least one AUC")
    return _Mean(tuple(parts)).variance


@dataclass(frozen=True)
class _Mean:
    """The mean of AUCs on the same patients, or one AUC."""

    parts: tuple[Ranking, ...]

    @functools.cached_property
    def value(self) -> float:
        return math.fsum(part.value for part in self.parts) / len(self.parts)

    @functools.cached_property
    def labelled(self) -> Bools:
        """(P,) who has a label in any part."""
        return functools.reduce(np.logical_or, (part.positives + part.negatives > 0 for part in self.parts))

    @functools.cached_property
    def variance(self) -> float:
        """By the jackknife."""
        return _spread(_sum(part.without for part in self.parts)[self.labelled] / len(self.parts))

    @functools.cached_property
    def image(self) -> Floats:
        """(N,) each image's part."""
        return _sum(part.image for part in self.parts) / len(self.parts)


def _spread(without: Floats) -> float:
    """The jackknife's variance from what a figure is without each patient who has a label."""
    if without.size < MIN_PATIENTS:
        raise ValueError(f"a variance needs {MIN_PATIENTS} patients")
    return float((without.size - 1) * np.var(without))


def effective_patients(parts: Sequence[Ranking]) -> float:
    """How many patients with one image each would weigh as much: (sum w)^2 / sum w^2, of the rarer kind.

    w is a patient's share of the positive images, added over the parts (or of the negative ones; the smaller result
    counts). A few patients with many images make it small.

    >>> round(effective_patients([rank([1, 1, 0, 0, 0], [5, 4, 3, 2, 1], [0, 1, 2, 2, 3])]), 3)
    1.8
    """
    return min(_effective((1.0 / images.sum(axis=1)) @ images) for images in _images(parts))


def _images(parts: Sequence[Ranking]) -> tuple[Floats, Floats]:
    """(parts, P) and (parts, P) positive and negative images."""
    positives, negatives = [part.positives for part in parts], [part.negatives for part in parts]
    return np.array(positives, dtype=np.float64), np.array(negatives, dtype=np.float64)


def _effective(weights: Floats) -> float:
    return float(weights.sum() ** 2 / (weights @ weights))


def satterthwaite(parts: Sequence[Ranking]) -> float:
    """Degrees of freedom of the variance of an AUC, or of the mean of several; at least 1.

    It is a sum over positive and over negative patients, `(v1 + v0)^2 / (v1^2/d1 + v0^2/d0)` (Satterthwaite). Each of
    them is itself a sum over patients, to whom k images bring an expected share of `k + r k (k - 1)`, where r is
    `WITHIN_PATIENT`; by the same formula d + 1 is (sum of shares)^2 / sum of their squares.

    >>> round(satterthwaite([rank([1, 1, 0, 0, 0], [5, 3, 4, 2, 1], [0, 1, 2, 2, 3])]), 2)
    1.74
    """
    of_positives, of_negatives, _ = _components(parts)
    free = [max(_effective(_expected_shares(images)) - 1.0, 1.0) for images in _images(parts)]
    if of_positives + of_negatives == 0.0:
        return min(free)
    return (of_positives + of_negatives) ** 2 / (of_positives**2 / free[0] + of_negatives**2 / free[1])


def _expected_shares(images: Floats) -> Floats:
    """(P,) summed over the parts, from their (parts, P) numbers of images."""
    shares: Floats = (1.0 / images.sum(axis=1) ** 2) @ (images * (1.0 - WITHIN_PATIENT + WITHIN_PATIENT * images))
    return shares


# ---------------------------------------------------------------------------------------------- intervals


def mean_auc(parts: Sequence[Ranking], level: float) -> Figure:
    """An AUC, or the mean AUC over findings, with its interval, symmetric on the logit scale.

    The standard error is the jackknife's over patients, and Student's t has the degrees of freedom of `satterthwaite`.
    Where the model makes no error at all (AUC 1) there is no standard error; the bound is the exact binomial one for
    as many patients as `effective_patients` without an error.

    Args:
        parts: one ranking, or one for each finding, on the same patients.
        level: of the two-sided interval, in (0, 1).

    >>> mean_auc([rank([1, 1, 1, 0, 0, 0], [6, 5, 2, 4, 3, 1], range(6))], 0.95).value
    0.7777777777777778
    """
    return _interval(_Mean(tuple(parts)), level)


def _interval(mean: _Mean, level: float) -> Figure:
    parts, value = mean.parts, mean.value
    if too_few := _too_few(parts):
        return too_few
    if value in (0.0, 1.0):
        return estimate(value, 0.0, max(effective_patients(parts) - 1.0, 1.0), "separated", level, se_image=0.0)
    se = math.sqrt(mean.variance)
    if se == 0.0:
        return Undefined(reason="no variation between patients", needed="more patients")
    return estimate(value, se, satterthwaite(parts), "logit", level, se_image=float(np.linalg.norm(mean.image)))


def mean_difference(ours: Sequence[Ranking], theirs: Sequence[Ranking], level: float, *, same_order: bool) -> Figure:
    """A paired difference of AUCs, or of means over findings, with its bounds and its interval.

    `low` and `high` are the bounds that the gate judges, each one-sided. They are made on the logit scale. An AUC near
    1 that falls by a margin has a larger error than before, and a check at its margin would pass too often
    (docs/decisions/0011); a logit keeps its error. The lower bound is the
    difference that is left when the first AUC falls by t standard errors, the upper one that when the second does, so
    that the two models may change places. The standard error of logit(ours) - logit(theirs) comes from the jackknife of
    both AUCs and of their difference (delta method), and is at least the difference's own, stretched by the smaller of
    the two slopes. Student's t has `effective_patients - 1` degrees of freedom (at least 1).

    Such bounds hold near equality and at a margin. Where the models differ much, the two together are no interval of
    the difference: that one is `interval` (`cxr_ops.stats.difference`), and what people read.

    Models that put all images in the same order differ by 0 with the interval [0, 0]. Two models that both make no
    error differ by 0 too, but with the exact binomial bound, since their order among the positives may differ.

    Args:
        ours: the challenger's ranking of one finding, or of several on the same patients.
        theirs: the other model's, of the same findings and images.
        level: of the two-sided interval, in (0, 1); each bound has half of the rest.
        same_order: whether both models put the images in the same order, for every finding.

    >>> one = rank([1, 1, 0, 0], [0.9, 0.5, 0.6, 0.1], [0, 1, 2, 3])
    >>> same = mean_difference([one], [one], 0.95, same_order=True)
    >>> same.value, same.low, same.high, same.interval
    (0.0, 0.0, 0.0, (0.0, 0.0))
    """
    return _interval_apart(_Mean(tuple(ours)), _Mean(tuple(theirs)), level, same_order=same_order)


def _interval_apart(ours: _Mean, theirs: _Mean, level: float, *, same_order: bool) -> Figure:
    if too_few := _too_few(ours.parts):
        return too_few
    pairs = list(zip(ours.parts, theirs.parts, strict=True))
    for mine, other in pairs:
        mine.check_same_images(other)
    effective = effective_patients(ours.parts)
    df = max(effective - 1.0, 1.0)
    if same_order:
        return estimate(0.0, 0.0, df, "wald", level, se_image=0.0, interval=(0.0, 0.0))
    apart = _spread(_sum(mine.without - other.without for mine, other in pairs)[ours.labelled] / len(pairs))
    se, gap = math.sqrt(apart), ours.value - theirs.value
    if se <= ROUNDING:
        if gap == 0.0:
            found = estimate(0.0, 0.0, df, "separated_difference", level, se_image=0.0)
            return found.model_copy(update={"interval": (found.low, found.high)})
        return Undefined(reason="the models differ alike for every patient", needed="more patients")
    se_logit = _logit_error(ours.value, theirs.value, ours.variance, theirs.variance, apart)
    spread = difference.Spread.of([_side_by_side(mine, other) for mine, other in pairs], effective)
    return estimate(
        gap,
        se,
        df,
        "logit_difference",
        level,
        se_image=float(np.linalg.norm(ours.image - theirs.image)),
        other=theirs.value,
        se_logit=se_logit,
        interval=difference.interval(ours.value, theirs.value, spread, level, effective),
    )


def _side_by_side(mine: Ranking, other: Ranking) -> difference.Parts:
    return difference.Parts(
        positive=np.stack([mine.positive, other.positive]),
        negative=np.stack([mine.negative, other.negative]),
        positives=mine.positives,
        negatives=mine.negatives,
    )


def _logit_error(first: float, second: float, of_first: float, of_second: float, of_difference: float) -> float:
    """Standard error of logit(first) - logit(second), from the variances of both and of their difference."""
    ours, theirs = (1.0 / (area * (1.0 - area)) for area in _inside(first, second))
    covariance = (of_first + of_second - of_difference) / 2.0
    delta = ours**2 * of_first + theirs**2 * of_second - 2.0 * ours * theirs * covariance
    return math.sqrt(max(delta, min(ours, theirs) ** 2 * of_difference))


def _inside(*areas: float) -> tuple[float, ...]:
    """AUCs kept off 0 and 1, where there is no logit."""
    return tuple(min(max(area, EDGE), 1.0 - EDGE) for area in areas)


def _too_few(parts: Sequence[Ranking]) -> Undefined | None:
    for kind in ("positive", "negative"):
        fewest = min(int(np.count_nonzero(getattr(part, f"{kind}s"))) for part in parts)
        if too_few := lacking(fewest, kind):
            return too_few
    return None


def lacking(found: int, kind: str) -> Undefined | None:
    """Why nothing can be estimated where fewer than `MIN_PATIENTS` patients have an image of a kind.

    >>> lacking(1, "positive").reason, lacking(2, "positive")
    ('1 positive patient, and at least 2 are needed', None)
    """
    missing = MIN_PATIENTS - found
    if missing <= 0:
        return None
    return Undefined(
        reason=f"{found} {kind} patient{'' if found == 1 else 's'}, and at least {MIN_PATIENTS} are needed",
        needed=f"{missing} more {kind} patient{'' if missing == 1 else 's'}",
    )


def estimate(
    value: float,
    se: float,
    df: float,
    method: Method,
    level: float,
    *,
    se_image: float | None = None,
    other: float | None = None,
    se_logit: float | None = None,
    interval: tuple[float, float] | None = None,
) -> Estimate:
    """A number with the two bounds that its method makes of it; see `records.Estimate` and `bounds`.

    An `interval` is given where the bounds are not what people should read.

    >>> found = estimate(0.8, 0.04, 30.0, "wald", 0.95)
    >>> round(found.low, 3), round(found.high, 3)
    (0.718, 0.882)
    """
    low, high = _ends(value, se, df, method, (1.0 - level) / 2.0, other, se_logit)
    return Estimate(
        value=value,
        se=se,
        low=low,
        high=high,
        level=level,
        df=df,
        method=method,
        se_image=se_image,
        other=other,
        se_logit=se_logit,
        interval=interval,
    )


def bounds(estimate: Estimate, alpha: float) -> tuple[float, float]:
    """Lower and upper one-sided confidence bounds, each at error `alpha`, in the way that the estimate says.

    `wald`: value and se, with Student's t. `logit`: the same on the logit scale, for an AUC. `logit_difference`: see
    `mean_difference`. `separated`: an AUC of 1 (or 0) that no patient contradicts. `separated_difference`: the
    difference of two such. A missing `df` means the normal.

    >>> low, high = bounds(Estimate(value=0.8, se=0.04, low=0.8, high=0.8, level=0.95, method="logit"), 0.025)
    >>> round(low, 3), round(high, 3)
    (0.71, 0.867)
    """
    method, other, se_logit = estimate.method, estimate.other, estimate.se_logit
    return _ends(estimate.value, estimate.se, estimate.df, method, alpha, other, se_logit)


def _ends(
    value: float,
    se: float,
    df: float | None,
    method: Method,
    alpha: float,
    other: float | None,
    se_logit: float | None,
) -> tuple[float, float]:
    if method in ("separated", "separated_difference"):
        without_error = alpha ** (1.0 / ((df or 1.0) + 1.0))
        if method == "separated_difference":
            return value - (1.0 - without_error), value + (1.0 - without_error)
        return (without_error, 1.0) if value == 1.0 else (0.0, 1.0 - without_error)
    quantile = _quantile(1.0 - alpha, df)
    if method == "logit":
        centre, spread = float(special.logit(value)), quantile * se / (value * (1.0 - value))
        return float(special.expit(centre - spread)), float(special.expit(centre + spread))
    if method == "logit_difference":
        ours, theirs, spread = _pair_of(value, other, se_logit)
        low = _lowered(ours, quantile * spread) - theirs
        return min(low, value), max(ours - _lowered(theirs, quantile * spread), value)
    return value - quantile * se, value + quantile * se


def _pair_of(value: float, other: float | None, se_logit: float | None) -> tuple[float, float, float]:
    """Both AUCs of a `logit_difference`, and the standard error of the difference of their logits."""
    if other is None or se_logit is None:
        raise ValueError("a logit_difference needs `other` and `se_logit`")
    return other + value, other, se_logit


def _lowered(area: float, by: float) -> float:
    """An AUC that is lower by this on the logit scale."""
    return float(special.expit(special.logit(_inside(area)[0]) - by))


def mirrored(estimate: Estimate) -> Estimate:
    """The same difference the other way round: theirs minus ours, or the negative of any other figure.

    >>> mirrored(Estimate(value=0.02, se=0.01, low=0.0, high=0.04, level=0.95)).low
    -0.04
    """
    other = None if estimate.other is None else estimate.other + estimate.value
    interval = None if estimate.interval is None else (-estimate.interval[1], -estimate.interval[0])
    turned = {"value": -estimate.value, "low": -estimate.high, "high": -estimate.low, "other": other}
    return estimate.model_copy(update=turned | {"interval": interval})


def p_below(estimate: Estimate, limit: float) -> float:
    """One-sided p-value of the evidence that the true value lies below `limit`; small means that it does.

    It agrees with `bounds`: p_below <= alpha exactly where the upper bound at alpha is at or below the limit.

    >>> round(p_below(Estimate(value=-0.02, se=0.01, low=0, high=0, level=0.95), 0.0), 4)
    0.0228
    """
    value, se = estimate.value, estimate.se
    if estimate.method == "separated_difference":
        return 1.0 if value >= limit else float((1.0 - (limit - value)) ** ((estimate.df or 1.0) + 1.0))
    if estimate.method == "separated":
        return 1.0 if value == 1.0 else float((1.0 - limit) ** ((estimate.df or 1.0) + 1.0))
    if se == 0.0 or (estimate.method == "logit_difference" and value >= limit):
        return 1.0 if value >= limit else 0.0
    if estimate.method == "logit":
        distance = float(special.logit(value) - special.logit(limit)) * value * (1.0 - value) / se
    elif estimate.method == "logit_difference":
        ours, theirs, spread = _pair_of(value, estimate.other, estimate.se_logit)
        least, theirs = _inside(ours - limit, theirs)  # theirs would have to be as low as `least`
        distance = float(special.logit(least) - special.logit(theirs)) / spread
    else:
        distance = (value - limit) / se
    p = special.ndtr(distance) if estimate.df is None else special.stdtr(estimate.df, distance)
    return float(p)


@functools.lru_cache(maxsize=1024)  # the figures of a finding share their few degrees of freedom
def _quantile(probability: float, df: float | None) -> float:
    # scipy.stats gives the same numbers, a hundred times slower; a decision needs some thousand of them.
    return float(special.ndtri(probability) if df is None else special.stdtrit(df, probability))


# --------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class FindingRanks:
    """How each model ranks the images of one finding.

    Attributes:
        labelled: the images.
        ordered: role -> their order by its scores.
        of: role -> how well it ranks them.
        same_order: the roles that put the images in the challenger's order, ties included.
        unscored: the roles that give none of the images a score.
    """

    labelled: Labelled
    ordered: dict[str, Sorted | Undefined]
    of: dict[str, Ranking | Undefined]
    same_order: set[str]
    unscored: list[str]

    @classmethod
    def at(cls, labelled: Labelled, scores: Mapping[str, Scores]) -> FindingRanks:
        """Of (N,) scores of each role, `challenger` among them."""
        ordered = {role: labelled.sort(column) for role, column in scores.items()}
        of = {role: _rank_or_say(labelled, found) for role, found in ordered.items()}
        rivals = [role for role in scores if role != "challenger" and _same_order(role, labelled, ordered, scores)]
        unscored = [role for role, found in ordered.items() if found is UNSCORED]
        return cls(labelled, ordered, of, set(rivals), unscored)


def _rank_or_say(labelled: Labelled, ordered: Sorted | Undefined) -> Ranking | Undefined:
    support = labelled.support
    too_few = lacking(support.positive_patients, "positive") or lacking(support.negative_patients, "negative")
    if too_few is not None:
        return too_few
    if isinstance(ordered, Undefined):
        return ordered
    if ordered.is_constant():
        return Undefined(reason="all scores are the same", needed="scores that tell images apart")
    return labelled.rank(ordered)


def _same_order(
    role: str, labelled: Labelled, ordered: Mapping[str, Sorted | Undefined], scores: Mapping[str, Scores]
) -> bool:
    ours, theirs = ordered["challenger"], ordered[role]
    if isinstance(ours, Undefined) or isinstance(theirs, Undefined):
        return False
    if not (np.array_equal(ours.low, theirs.low) and np.array_equal(ours.high, theirs.high)):
        return False  # the positives are in other places; most pairs end here
    places, other_places = (
        np.unique(scores[name][labelled.rows], return_inverse=True)[1] for name in ("challenger", role)
    )
    return np.array_equal(places, other_places)


@dataclass(frozen=True)
class Tables:
    """Labels and scores with one row a finding, which is how they are read.

    Attributes:
        labels: (F, N) 1, 0 or NaN.
        patients: (N,) whole numbers from 0.
        scores: role -> (F, N).
    """

    labels: Floats
    patients: Ints
    scores: dict[str, Scores]

    @classmethod
    def of(
        cls, findings: Sequence[str], truth: npt.ArrayLike, patients: npt.ArrayLike, scores: Mapping[str, npt.ArrayLike]
    ) -> Tables:
        """From tables with one row an image, (N, F), and any identifiers of patients, (N,).

        Raises:
            ValueError: shapes that do not fit, or a truth that is not 1, 0 or NaN.
        """
        labels = np.asarray(truth, dtype=np.float64)
        tables = {role: _numbers(table) for role, table in scores.items()}
        names = np.asarray(patients)
        shape = (names.shape[0], len(findings))
        if names.ndim != 1 or any(array.shape != shape for array in (labels, *tables.values())):
            found = ", ".join(str(array.shape) for array in (labels, *tables.values()))
            raise ValueError(f"truth and scores must all have the shape {shape} (images, findings); found {found}")
        labels = labels.T.copy()
        if not ((labels == 0) | (labels == 1) | np.isnan(labels)).all():
            raise ValueError("truth must be 1, 0 or NaN")
        groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
        return cls(labels, groups, {role: table.T.copy() for role, table in tables.items()})

    @property
    def count(self) -> int:
        """Number of patients P."""
        return int(self.patients.max(initial=-1)) + 1

    def among(self, rows: Ints) -> Tables:
        """Of some images, and of the patients who have one of them."""
        owners = self.patients[rows]
        numbers = np.cumsum(np.bincount(owners) > 0) - 1
        scores = {role: table.take(rows, axis=1) for role, table in self.scores.items()}
        return Tables(self.labels.take(rows, axis=1), numbers[owners], scores)

    def ranks(self) -> list[FindingRanks]:
        """Of each finding."""
        count, found = self.count, list[FindingRanks]()
        for f, labels in enumerate(self.labels):
            labelled = Labelled.of(labels, self.patients, count)
            found.append(FindingRanks.at(labelled, {role: table[f] for role, table in self.scores.items()}))
        return found


def compare(
    findings: Sequence[str],
    truth: npt.ArrayLike,
    patients: npt.ArrayLike,
    challenger: npt.ArrayLike,
    champion: npt.ArrayLike | None = None,
    reference: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    min_positive_patients: int = 20,
    min_negative_patients: int = 20,
) -> Evidence:
    """Compare a challenger with the models that it must hold against, or describe it alone, over all findings.

    Each finding uses the images where it is labelled. A finding with fewer positive or negative patients than asked
    for is still estimated where it can be, but is left out of the macro-AUC. A number that cannot be computed is
    `Undefined`, with the reason, and makes the macro-AUC undefined if its finding belongs to it.

    Args:
        findings: F names.
        truth: (N, F) 1, 0 or NaN.
        patients: (N,) any identifiers; equal ones are one patient.
        challenger: (N, F) scores.
        champion: (N, F) scores of the model in use, on the same images, or None.
        reference: (N, F) scores of the frozen reference, on the same images, or None.
        level: of all two-sided intervals.
        min_positive_patients: fewest patients with a positive image for a finding to count in the macro-AUC.
        min_negative_patients: the same for negative images.

    Raises:
        ValueError: shapes that do not fit, or a truth that is not 1, 0 or NaN.

    >>> found = compare(["Mass"], [[1], [1], [0], [0]], [7, 8, 9, 9], [[0.9], [0.5], [0.6], [0.1]],
    ...                 min_positive_patients=2, min_negative_patients=2)
    >>> found.findings[0].support.negative_patients, found.macro_challenger.reason, found.macro_over
    (1, 'no finding has enough patients and all scores', [])
    """
    given = {"challenger": challenger, "champion": champion, "reference": reference}
    models = {role: scores for role, scores in given.items() if scores is not None}
    ranks = Tables.of(findings, truth, patients, models).ranks()
    return evidence_of(
        findings,
        ranks,
        level=level,
        min_positive_patients=min_positive_patients,
        min_negative_patients=min_negative_patients,
    )


def evidence_of(
    findings: Sequence[str],
    ranks: Sequence[FindingRanks],
    *,
    level: float,
    min_positive_patients: int,
    min_negative_patients: int,
) -> Evidence:
    """What follows from the ranks of at least one finding; see `compare`."""
    roles = list(ranks[0].of)
    rows: list[FindingEvidence] = []
    pooled: list[FindingRanks] = []
    macro_over: list[str] = []
    for finding, of_finding in zip(findings, ranks, strict=True):
        support = of_finding.labelled.support
        unscored = of_finding.unscored
        figures = dict(_pair([of_finding], roles, level))
        rows.append(FindingEvidence(finding=finding, support=support, unscored=unscored, **figures))
        enough = support.positive_patients >= min_positive_patients
        if enough and support.negative_patients >= min_negative_patients and not unscored:
            pooled.append(of_finding)
            macro_over.append(finding)
    macro = _pair(pooled, roles, level)
    return Evidence(
        findings=rows,
        macro_challenger=macro.challenger,
        macro_champion=macro.champion,
        macro_difference=macro.difference,
        macro_reference=macro.reference,
        macro_reference_difference=macro.reference_difference,
        macro_over=macro_over,
    )


def together(ranks: Sequence[FindingRanks], level: float) -> Paired:
    """The mean AUC of at least one finding: each model's, and what the challenger's differs by."""
    return _pair(ranks, list(ranks[0].of), level)


def _pair(ranks: Sequence[FindingRanks], roles: Iterable[str], level: float) -> Paired:
    """Each model's AUC, or mean AUC over several findings, and what the challenger's differs by."""
    means = {role: _usable([of_finding.of[role] for of_finding in ranks]) for role in roles}
    figures: dict[str, Figure] = {}
    for role, mean in means.items():
        figures[role] = mean if isinstance(mean, Undefined) else _interval(mean, level)
        if role != "challenger":
            name = "difference" if role == "champion" else "reference_difference"
            same_order = all(role in of_finding.same_order for of_finding in ranks)
            figures[name] = _difference_of(means["challenger"], mean, level, same_order=same_order)
    return Paired.model_validate(figures)


def _difference_of(ours: _Mean | Undefined, theirs: _Mean | Undefined, level: float, *, same_order: bool) -> Figure:
    if isinstance(ours, Undefined):
        return ours
    if isinstance(theirs, Undefined):
        return theirs
    return _interval_apart(ours, theirs, level, same_order=same_order)


def _usable(rankings: Sequence[Ranking | Undefined]) -> _Mean | Undefined:
    if not rankings:
        return Undefined(reason="no finding has enough patients and all scores", needed="more patients, or scores")
    usable: list[Ranking] = []
    for ranking in rankings:
        if isinstance(ranking, Undefined):
            return ranking
        usable.append(ranking)
    return _Mean(tuple(usable))


# -------------------------------------------------------------------------------------------------- curve


def roc_curve(truth: npt.ArrayLike, scores: npt.ArrayLike, points: int = 101) -> tuple[Floats, Floats]:
    """The ROC curve, thinned to at most `points` corners that are spread evenly along it; for pictures, not for areas.

    Args:
        truth: (N,) 1, 0 or NaN, with at least one of each kind.
        scores: (N,) finite where truth is not missing.
        points: at least 2. Both ends are always kept.

    Returns:
        False positive rate and true positive rate, each from 0 to 1 and never falling.

    >>> roc_curve([1, 0, 1, 0], [0.9, 0.8, 0.4, 0.1])
    (array([0. , 0. , 0.5, 0.5, 1. ]), array([0. , 0.5, 0.5, 1. , 1. ]))
    """
    labels = np.asarray(truth, dtype=np.float64)
    values = np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(labels)
    labels, values = labels[known], values[known]
    order = np.argsort(-values, kind="stable")
    hits = labels[order] == 1
    last_of_tie = np.append(np.diff(values[order]) != 0, True)
    tpr = np.concatenate(([0.0], np.cumsum(hits)[last_of_tie] / max(int(hits.sum()), 1)))
    fpr = np.concatenate(([0.0], np.cumsum(~hits)[last_of_tie] / max(int((~hits).sum()), 1)))
    if tpr.size <= points:
        return fpr, tpr
    # The length along the curve is fpr + tpr, from 0 to 2.
    wanted = np.linspace(0.0, 2.0, points)
    kept = np.unique(np.searchsorted(fpr + tpr, wanted - 1e-12).clip(0, tpr.size - 1))
    return fpr[kept], tpr[kept]
