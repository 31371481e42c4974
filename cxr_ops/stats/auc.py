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

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

from cxr_ops.records import Estimate, Evidence, Figure, FindingEvidence, Paired, Support, Undefined

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

    def minus(self, other: Ranking) -> Ranking:
        """The paired difference with another model on the same images.

        Raises:
            ValueError: the two do not stand on the same images.
        """
        same = np.array_equal(self.positives, other.positives) and np.array_equal(self.negatives, other.negatives)
        if not same or self.image.size != other.image.size:
            raise ValueError("a paired difference needs both models on the same images")
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


def placements(truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats]:
    """For each positive the share of negatives that it outranks, for each negative the share of positives above it.

    Ties count one half. The mean of either array is the AUC.

    Args:
        truth: (N,) 1 or 0, at least one of each.
        scores: (N,) finite.

    Returns:
        (positives,) and (negatives,), each in [0, 1], in the order of the rows.

    >>> placements([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1])
    (array([1.  , 0.75]), array([0.75, 1.  ]))
    """
    is_positive = np.asarray(truth) == 1
    wins, _ = _wins(is_positive, _numbers(scores))
    m = np.count_nonzero(is_positive)
    return wins[is_positive] / (2.0 * (wins.size - m)), wins[~is_positive] / (2.0 * m)


def _numbers(scores: npt.ArrayLike) -> Scores:
    values = np.asarray(scores)
    return values if values.dtype == np.float32 else values.astype(np.float64, copy=False)


def _wins(is_positive: Bools, scores: Scores) -> tuple[Floats, Ints]:
    """Count for each row, twice, the pairs with rows of the other kind in which the positive wins; a tie counts one.

    Args:
        is_positive: (N,).
        scores: (N,) finite.

    Returns:
        (N,) the counts; (N,) whole numbers that rise with the score, equal where it is.
    """
    order, rises = _sort(scores)
    hits = is_positive[order]
    up_to = np.cumsum(hits, dtype=np.int32)  # positives up to each place
    first = np.arange(order.size)  # place of the same score
    middle, below = 2 * first + 1, 2 * up_to - hits  # twice the rows, and twice the positives, below and half of a tie
    ends = np.concatenate((rises[1:], [True]))
    tied = np.flatnonzero(~(rises & ends))
    start = np.maximum.accumulate(np.where(rises[tied], tied, 0))
    end = np.minimum.accumulate(np.where(ends[tied], tied, order.size)[::-1])[::-1]
    first[tied], middle[tied] = start, start + end + 1
    below[tied] = up_to[start] - hits[start] + up_to[end]
    wins, places = np.empty(order.size), np.empty_like(order)
    wins[order] = np.where(hits, middle, 2 * up_to[-1]) - below
    places[order] = first
    return wins, places


def _sort(scores: Scores) -> tuple[Ints, Bools]:
    """Rows in the order of rising scores, ties in any order; and for each place whether the score is a new one.

    To sort numbers takes a third of the time of sorting their rows. A float32 leaves room for its row in 64 bits, once
    its own 32 are read as a whole number that rises with it.
    """
    if scores.dtype == np.float32:
        bits = (scores + np.float32(0.0)).view(np.int32)  # -0.0 becomes 0.0
        bits ^= (bits >> 31) & np.int32(0x7FFFFFFF)  # of two negative numbers the one with larger bits is smaller
        keys = (bits.astype(np.int64) << 32) | np.arange(bits.size)
        keys.sort()
        order, ranked = keys & 0xFFFFFFFF, keys >> 32
        return order, np.concatenate(([True], ranked[1:] != ranked[:-1]))
    order = np.argsort(scores)
    in_order = scores[order]
    return order, np.concatenate(([True], in_order[1:] != in_order[:-1]))


@dataclass(frozen=True)
class _Labelled:
    """The labelled rows of one finding, n of N, and what the ranking of every model on them has in common."""

    images: int  # N
    rows: Bools | slice  # which n of the N
    is_positive: Bools  # (n,)
    owners: Ints  # (n,) patients
    cells: Ints  # (n,) twice the patient, plus one for a positive
    positives: Ints  # (P,) images of each patient
    negatives: Ints  # (P,)

    @classmethod
    def of(cls, truth: Floats, patients: Ints, count: int) -> _Labelled:
        known = ~np.isnan(truth)
        rows = slice(None) if known.all() else known  # a slice copies nothing
        is_positive, owners = truth[rows] == 1, patients[rows]
        cells = 2 * owners + is_positive
        images = np.bincount(cells, minlength=2 * count)
        return cls(truth.size, rows, is_positive, owners, cells, positives=images[1::2], negatives=images[::2])

    @cached_property
    def support(self) -> Support:
        return Support(
            positives=int(self.positives.sum()),
            negatives=int(self.negatives.sum()),
            positive_patients=int(np.count_nonzero(self.positives)),
            negative_patients=int(np.count_nonzero(self.negatives)),
        )

    @cached_property
    def _rivals(self) -> tuple[tuple[Ints, Ints], tuple[Ints, Ints]]:
        """Positive rows, and negative rows of patients who have a positive one; each with n times the patient."""
        rival = (self.positives > 0)[self.owners] & ~self.is_positive
        positive, negative = np.flatnonzero(self.is_positive), np.flatnonzero(rival)
        n = self.owners.size
        return (positive, n * self.owners[positive]), (negative, n * self.owners[negative])

    @cached_property
    def _weights(self) -> tuple[Floats, Floats]:
        """(n,) and (n,) what a row's `wins`, and the AUC, bring to `Ranking.image`."""
        m, n = self.support.positives, self.support.negatives
        of_positive, of_negative = (1.0 / math.sqrt(k * max(k - 1, 1)) for k in (m, n))
        kind = self.is_positive.astype(np.intp)
        of_wins = np.array([of_negative / (2 * m), of_positive / (2 * n)])
        return of_wins[kind], np.array([of_negative, of_positive])[kind]

    def rank(self, scores: Scores) -> Ranking:
        """Rank one model's (N,) scores."""
        values = scores[self.rows]
        if not np.isfinite(values).all():
            raise ValueError("scores must be finite")
        m, n = self.support.positives, self.support.negatives
        if m == 0 or n == 0:
            raise ValueError("an AUC needs a positive and a negative image")
        wins, places = _wins(self.is_positive, values)
        by_cell = np.bincount(self.cells, weights=wins, minlength=2 * self.positives.size)
        won, lost = by_cell[1::2], by_cell[::2]  # pairs won by a patient's positives, and lost by its negatives
        area = float(won.sum()) / (2 * m * n)
        without = np.full(won.size, area)
        left = 2.0 * (m - self.positives) * (n - self.negatives)
        # A pair inside the patient is in `won` and in `lost`, and is to be taken off once.
        kept = won.sum() - won - lost + self._won_within(places)
        np.divide(kept, left, out=without, where=left > 0)
        of_wins, of_area = self._weights
        image = of_wins * wins
        image -= of_area * area
        if not isinstance(self.rows, slice):
            labelled, image = image, np.zeros(self.images)
            image[self.rows] = labelled
        return Ranking(
            value=area,
            positive=won / (2 * m * n) - area * self.positives / m,
            negative=lost / (2 * m * n) - area * self.negatives / n,
            positives=self.positives,
            negatives=self.negatives,
            without=without,
            image=image,
        )

    def _won_within(self, places: Ints) -> Floats:
        """Twice the pairs of each patient's own images, (P,), in which the positive wins; `places` is of `_wins`."""
        # Keys rise with the patient, then with the score. Sorted ones are found faster.
        positives, negatives = (np.sort(base + places[rows]) for rows, base in self._rivals)
        below = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
        rivals = self.negatives * (self.positives > 0)
        before = np.cumsum(rivals) - rivals  # of the patients before
        patients = positives // places.size
        won = np.bincount(patients, weights=below - 2 * before[patients], minlength=self.positives.size)
        return won.astype(np.float64)


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
    return _Labelled.of(np.asarray(truth, dtype=np.float64), owners, total).rank(_numbers(scores))


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
    patients = parts[0].positives.size
    positive, negative = np.zeros(patients), np.zeros(patients)
    both_positive, both_negative = np.zeros(patients), np.zeros(patients)
    for part in parts:
        with_positive = int(np.count_nonzero(part.positives))
        with_negative = int(np.count_nonzero(part.negatives))
        with_either = int(np.count_nonzero(part.positives + part.negatives))
        if min(with_positive, with_negative) < MIN_PATIENTS:
            raise ValueError(f"a variance needs {MIN_PATIENTS} positive and {MIN_PATIENTS} negative patients")
        positive += _inflation(with_positive) * part.positive
        negative += _inflation(with_negative) * part.negative
        both_positive += _inflation(with_either) * part.positive
        both_negative += _inflation(with_either) * part.negative
    sums = np.array([positive @ positive, negative @ negative, 2.0 * (both_positive @ both_negative)])
    of_positives, of_negatives, of_both = (float(value) for value in sums / len(parts) ** 2)
    return of_positives, of_negatives, of_both


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
    labelled = np.any([part.positives + part.negatives > 0 for part in parts], axis=0)
    without = np.mean([part.without for part in parts], axis=0)[labelled]
    if without.size < MIN_PATIENTS:
        raise ValueError(f"a variance needs {MIN_PATIENTS} patients")
    return float((without.size - 1) * np.var(without))


def _image_error(parts: Sequence[Ranking]) -> float:
    """The standard error of the mean if every image were a patient."""
    return float(np.linalg.norm(np.sum([part.image for part in parts], axis=0))) / len(parts)


def effective_patients(parts: Sequence[Ranking]) -> float:
    """How many patients with one image each would weigh as much: (sum w)^2 / sum w^2, of the rarer kind.

    w is a patient's share of the positive images, added over the parts (or of the negative ones; the smaller result
    counts). A few patients with many images make it small.

    >>> round(effective_patients([rank([1, 1, 0, 0, 0], [5, 4, 3, 2, 1], [0, 1, 2, 2, 3])]), 3)
    1.8
    """
    kinds = (
        np.sum([part.positives / part.positives.sum() for part in parts], axis=0),
        np.sum([part.negatives / part.negatives.sum() for part in parts], axis=0),
    )
    return min(_effective(weights) for weights in kinds)


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
    free = [
        max(_effective(np.sum([_expected_share(getattr(part, kind)) for part in parts], axis=0)) - 1.0, 1.0)
        for kind in ("positives", "negatives")
    ]
    if of_positives + of_negatives == 0.0:
        return min(free)
    return (of_positives + of_negatives) ** 2 / (of_positives**2 / free[0] + of_negatives**2 / free[1])


def _expected_share(images: Ints) -> Floats:
    share: Floats = images * (1.0 + WITHIN_PATIENT * (images - 1.0)) / float(images.sum()) ** 2
    return share


# ---------------------------------------------------------------------------------------------- intervals


def mean_auc(parts: Sequence[Ranking], level: float) -> Figure:
    """An AUC, or the mean AUC over findings, with its interval, symmetric on the logit scale.

    The standard error is the jackknife's over patients, and Student's t has the degrees of freedom of `satterthwaite`.
    Where the model makes no error at all (AUC 1) no standard error can be had; the bound is then the exact binomial one
    for as many patients as `effective_patients` without an error.

    Args:
        parts: one ranking, or one for each finding, on the same patients.
        level: of the two-sided interval, in (0, 1).

    >>> mean_auc([rank([1, 1, 1, 0, 0, 0], [6, 5, 2, 4, 3, 1], range(6))], 0.95).value
    0.7777777777777778
    """
    too_few = _too_few(parts)
    if too_few is not None:
        return too_few
    value = float(np.mean([part.value for part in parts]))
    if value in (0.0, 1.0):
        return _estimate(value, 0.0, max(effective_patients(parts) - 1.0, 1.0), "separated", level, 0.0)
    se = math.sqrt(jackknife(parts))
    if se == 0.0:
        return Undefined(reason="no variation between patients", needed="more patients")
    return _estimate(value, se, satterthwaite(parts), "logit", level, _image_error(parts))


def mean_difference(ours: Sequence[Ranking], theirs: Sequence[Ranking], level: float, *, same_order: bool) -> Figure:
    """A paired difference of AUCs, or of means over findings, with its interval.

    The interval is made on the logit scale. An AUC near 1 that falls by a margin has a larger error than before, and a
    check at its margin would pass too often (docs/decisions/0011); a logit keeps its error. The lower bound is the
    difference that is left when the first AUC falls by t standard errors, the upper one that when the second does, so
    that the two models may change places. The standard error of logit(ours) - logit(theirs) comes from the jackknife of
    both AUCs and of their difference (delta method), and is at least the difference's own, stretched by the smaller of
    the two slopes. Student's t has `effective_patients - 1` degrees of freedom (at least 1).

    Models that put all images in the same order differ by 0 with the interval [0, 0]. Two models that both make no
    error differ by 0 too, but with the exact binomial bound, since their order among the positives may differ.

    Args:
        ours: the challenger's ranking of one finding, or of several on the same patients.
        theirs: the other model's, of the same findings and images.
        level: of the two-sided interval, in (0, 1).
        same_order: whether both models put the images in the same order, for every finding.

    >>> one = rank([1, 1, 0, 0], [0.9, 0.5, 0.6, 0.1], [0, 1, 2, 3])
    >>> same = mean_difference([one], [one], 0.95, same_order=True)
    >>> same.value, same.low, same.high
    (0.0, 0.0, 0.0)
    """
    too_few = _too_few(ours)
    if too_few is not None:
        return too_few
    apart = [mine.minus(other) for mine, other in zip(ours, theirs, strict=True)]
    first, second = (float(np.mean([part.value for part in parts])) for parts in (ours, theirs))
    df = max(effective_patients(ours) - 1.0, 1.0)
    variances = (jackknife(ours), jackknife(theirs), jackknife(apart))
    se, se_logit = math.sqrt(variances[2]), _logit_error(first, second, *variances)
    if se <= ROUNDING and not same_order:
        if first == second:
            return _estimate(0.0, 0.0, df, "separated_difference", level, 0.0)
        return Undefined(reason="the models differ alike for every patient", needed="more patients")
    if same_order:
        return _estimate(0.0, 0.0, df, "wald", level, 0.0)
    image = _image_error(apart)
    return _estimate(first - second, se, df, "logit_difference", level, image, other=second, se_logit=se_logit)


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
        if fewest < MIN_PATIENTS:
            return _lacking(fewest, kind, MIN_PATIENTS)
    return None


def _lacking(found: int, kind: str, least: int) -> Undefined:
    missing = least - found
    return Undefined(
        reason=f"{found} {kind} patient{'' if found == 1 else 's'}, and at least {least} are needed",
        needed=f"{missing} more {kind} patient{'' if missing == 1 else 's'}",
    )


def _estimate(
    value: float,
    se: float,
    df: float,
    method: str,
    level: float,
    se_image: float,
    *,
    other: float | None = None,
    se_logit: float | None = None,
) -> Estimate:
    bare = Estimate.model_validate(
        {
            "value": value,
            "se": se,
            "low": value,
            "high": value,
            "level": level,
            "df": df,
            "method": method,
            "se_image": se_image,
            "other": other,
            "se_logit": se_logit,
        }
    )
    low, high = bounds(bare, (1.0 - level) / 2.0)
    return bare.model_copy(update={"low": low, "high": high})


def bounds(estimate: Estimate, alpha: float) -> tuple[float, float]:
    """Lower and upper one-sided confidence bounds, each at error `alpha`, in the way that the estimate says.

    `wald`: value and se, with Student's t. `logit`: the same on the logit scale, for an AUC. `logit_difference`: see
    `mean_difference`. `separated`: an AUC of 1 (or 0) that no patient contradicts. `separated_difference`: the
    difference of two such. A missing `df` means the normal.

    >>> low, high = bounds(Estimate(value=0.8, se=0.04, low=0.8, high=0.8, level=0.95, method="logit"), 0.025)
    >>> round(low, 3), round(high, 3)
    (0.71, 0.867)
    """
    value, se = estimate.value, estimate.se
    if estimate.method in ("separated", "separated_difference"):
        without_error = alpha ** (1.0 / ((estimate.df or 1.0) + 1.0))
        if estimate.method == "separated_difference":
            return value - (1.0 - without_error), value + (1.0 - without_error)
        return (without_error, 1.0) if value == 1.0 else (0.0, 1.0 - without_error)
    quantile = _quantile(1.0 - alpha, estimate.df)
    if estimate.method == "logit":
        centre, spread = float(special.logit(value)), quantile * se / (value * (1.0 - value))
        return float(special.expit(centre - spread)), float(special.expit(centre + spread))
    if estimate.method == "logit_difference":
        ours, theirs, spread = _pair_of(estimate)
        low = _lowered(ours, quantile * spread) - theirs
        return min(low, value), max(ours - _lowered(theirs, quantile * spread), value)
    return value - quantile * se, value + quantile * se


def _pair_of(estimate: Estimate) -> tuple[float, float, float]:
    """Both AUCs of a `logit_difference`, and the standard error of the difference of their logits."""
    if estimate.other is None or estimate.se_logit is None:
        raise ValueError("a logit_difference needs `other` and `se_logit`")
    return estimate.other + estimate.value, estimate.other, estimate.se_logit


def _lowered(area: float, by: float) -> float:
    """An AUC that is lower by this on the logit scale."""
    return float(special.expit(special.logit(_inside(area)[0]) - by))


def mirrored(estimate: Estimate) -> Estimate:
    """The same difference the other way round: theirs minus ours, or the negative of any other figure.

    >>> mirrored(Estimate(value=0.02, se=0.01, low=0.0, high=0.04, level=0.95)).low
    -0.04
    """
    other = None if estimate.other is None else estimate.other + estimate.value
    turned = {"value": -estimate.value, "low": -estimate.high, "high": -estimate.low, "other": other}
    return estimate.model_copy(update=turned)


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
        ours, theirs, spread = _pair_of(estimate)
        least, theirs = _inside(ours - limit, theirs)  # theirs would have to be as low as `least`
        distance = float(special.logit(least) - special.logit(theirs)) / spread
    else:
        distance = (value - limit) / se
    p = special.ndtr(distance) if estimate.df is None else special.stdtr(estimate.df, distance)
    return float(p)


def _quantile(probability: float, df: float | None) -> float:
    # scipy.stats gives the same numbers, a hundred times slower; a decision needs some thousand of them.
    return float(special.ndtri(probability) if df is None else special.stdtrit(df, probability))


# --------------------------------------------------------------------------------------------- comparison


@dataclass(frozen=True)
class _Standing:
    """How the models rank one finding; `same_order` names those that put the images in the challenger's order."""

    of: dict[str, Ranking | Undefined]
    same_order: set[str]


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
    for is still estimated where it can be, but is left out of the macro-AUC. A number that cannot be had is
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
    (1, 'no finding has enough patients', [])
    """
    given = {"challenger": challenger, "champion": champion, "reference": reference}
    models = {role: scores for role, scores in given.items() if scores is not None}
    labels, groups, columns = _format(findings, truth, patients, models)
    count = int(groups.max(initial=-1)) + 1
    rows: list[FindingEvidence] = []
    pooled: list[_Standing] = []
    macro_over: list[str] = []
    for f, finding in enumerate(findings):
        labelled = _Labelled.of(labels[f], groups, count)
        support = labelled.support
        standing = _stand(labelled, support, {role: scores[f] for role, scores in columns.items()})
        rows.append(FindingEvidence(finding=finding, support=support, **dict(_pair([standing], columns, level))))
        if support.positive_patients >= min_positive_patients and support.negative_patients >= min_negative_patients:
            pooled.append(standing)
            macro_over.append(finding)
    macro = _pair(pooled, columns, level)
    return Evidence(
        findings=rows,
        macro_challenger=macro.challenger,
        macro_champion=macro.champion,
        macro_difference=macro.difference,
        macro_reference=macro.reference,
        macro_reference_difference=macro.reference_difference,
        macro_over=macro_over,
    )


def _format(
    findings: Sequence[str], truth: npt.ArrayLike, patients: npt.ArrayLike, models: Mapping[str, npt.ArrayLike]
) -> tuple[Floats, Ints, dict[str, Scores]]:
    """Labels and scores with one row a finding, which is how they are read; patients as numbers from 0."""
    labels = np.asarray(truth, dtype=np.float64)
    scores = {role: _numbers(model) for role, model in models.items()}
    names = np.asarray(patients)
    shape = (names.shape[0], len(findings))
    if names.ndim != 1 or any(array.shape != shape for array in (labels, *scores.values())):
        found = ", ".join(str(array.shape) for array in (labels, *scores.values()))
        raise ValueError(f"truth and scores must all have the shape {shape} (images, findings); found {found}")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise ValueError("truth must be 1, 0 or NaN")
    groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    columns = {role: array.T.copy() for role, array in scores.items()}
    return labels.T.copy(), groups, columns


def _stand(labelled: _Labelled, support: Support, scores: Mapping[str, Scores]) -> _Standing:
    of = {role: _rank_or_say(labelled, support, column) for role, column in scores.items()}
    ours = scores["challenger"][labelled.rows]
    same_order = {
        role
        for role, column in scores.items()
        if role != "challenger" and _same_order(of["challenger"], of[role], ours, column[labelled.rows])
    }
    return _Standing(of, same_order)


def _rank_or_say(labelled: _Labelled, support: Support, scores: Scores) -> Ranking | Undefined:
    for kind, found in (("positive", support.positive_patients), ("negative", support.negative_patients)):
        if found < MIN_PATIENTS:
            return _lacking(found, kind, MIN_PATIENTS)
    values = scores[labelled.rows]
    infinite = int((~np.isfinite(values)).sum())
    if infinite:
        return Undefined(reason=f"{infinite} of {values.size} scores are not finite", needed="finite scores")
    if np.ptp(values) == 0:
        return Undefined(reason="all scores are the same", needed="scores that tell images apart")
    return labelled.rank(scores)


def _same_order(one: Ranking | Undefined, two: Ranking | Undefined, scores: Scores, others: Scores) -> bool:
    """Whether two models put the labelled images in the same order, ties included."""
    if isinstance(one, Undefined) or isinstance(two, Undefined) or not np.array_equal(one.image, two.image):
        return False  # the same order has the same parts; most pairs end here
    places, other_places = (np.unique(values, return_inverse=True)[1] for values in (scores, others))
    return np.array_equal(places, other_places)


def _pair(standings: Sequence[_Standing], roles: Iterable[str], level: float) -> Paired:
    """Each model's AUC, or mean AUC over several findings, and what the challenger's differs by."""
    figures: dict[str, Figure] = {}
    for role in roles:
        figures[role] = _auc_of([standing.of[role] for standing in standings], level)
        if role != "challenger":
            name = "difference" if role == "champion" else "reference_difference"
            figures[name] = _difference_of(standings, role, level)
    return Paired.model_validate(figures)


def _auc_of(rankings: Sequence[Ranking | Undefined], level: float) -> Figure:
    usable = _usable(rankings)
    return usable if isinstance(usable, Undefined) else mean_auc(usable, level)


def _difference_of(standings: Sequence[_Standing], role: str, level: float) -> Figure:
    first = _usable([standing.of["challenger"] for standing in standings])
    second = _usable([standing.of[role] for standing in standings])
    if isinstance(first, Undefined):
        return first
    if isinstance(second, Undefined):
        return second
    return mean_difference(first, second, level, same_order=all(role in standing.same_order for standing in standings))


def _usable(rankings: Sequence[Ranking | Undefined]) -> list[Ranking] | Undefined:
    if not rankings:
        return Undefined(reason="no finding has enough patients", needed="more patients")
    usable: list[Ranking] = []
    for ranking in rankings:
        if isinstance(ranking, Undefined):
            return ranking
        usable.append(ranking)
    return usable


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
