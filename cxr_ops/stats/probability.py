"""What scores are worth at a threshold and as probabilities, with patient-clustered errors and paired differences.

Each figure is a function of sums over images. Its derivative with respect to the weight of an image, added over the
images of a patient, is that patient's part of the deviation, and the sum of the squared parts estimates the variance:
the infinitesimal jackknife over patients, which for shares is the ratio estimator and for regressions the clustered
sandwich. Parts of two models on the same images subtract, which gives the variance of a paired difference. What was
fixed on the validation set (thresholds, recalibration) is taken as given.

Sources:
    Jaeckel, "The infinitesimal jackknife", Bell Laboratories memorandum MM 72-1215-11 (1972).
    Rao and Scott, Biometrics 48 (1992) 577-585: shares of clustered images as ratio estimators.
    Binder, International Statistical Review 51 (1983) 279-292: the same for regressions.
    Cox, Biometrika 45 (1958) 562-565: recalibration by a logistic regression on the logit; what its slope tells.
    Van Calster and others, BMC Medicine 17 (2019) 230: slope, and the intercept at slope 1, as measures of calibration.
    Kumar, Liang and Ma, NeurIPS 32 (2019): calibration errors of binned probabilities, less their bias.
    Bach, Electronic Journal of Statistics 4 (2010) 384-414: how far a Newton step of a logistic regression may go.

Shapes: N images, F findings, P patients. Truth is 1, 0 or NaN (missing; not the same as 0). Patients are whole numbers
from 0. A model's name is `challenger`, `champion` or `reference`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from cxr_ops.plan import OperatingPoints
from cxr_ops.records.evidence import Figure, Flip, Flips, Paired, Performance, ReliabilityBin, Undefined
from cxr_ops.stats import auc

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

BINS: Final = 10
# Models score in float32, which tells probabilities from 0 and from 1 down to this.
SMALLEST: Final = 2.0**-24
# A Newton step that moves no logit further than this leaves an error of about its square.
STEP: Final = 1e-5
MAX_STEPS: Final = 100
_UNSETTLED: Final = Undefined(
    reason=f"the logistic regression did not settle in {MAX_STEPS} steps",
    needed="more images, or less extreme probabilities",
)
_NO_PROBABILITIES: Final = Undefined(reason="the scores are not between 0 and 1", needed="probabilities")
# What should cancel leaves this much by rounding.
ROUNDING: Final = 1e-13


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A figure, taken apart by patient; also the difference of two such figures.

    Attributes:
        value: the figure.
        parts: (P,) each patient's part of its deviation. They sum to 0.
    """

    value: float
    parts: Floats

    def minus(self, other: Linear) -> Linear:
        """The paired difference with another model on the same images."""
        return Linear(value=self.value - other.value, parts=self.parts - other.parts)


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What the validation set fixes before the test set is looked at: for each model, one entry a finding.

    Attributes:
        thresholds: the score from which a finding is called.
        recalibration: intercept and slope on the logit scale.
    """

    thresholds: Mapping[str, Sequence[float | Undefined]]
    recalibration: Mapping[str, Sequence[tuple[float, float] | Undefined]]


# ------------------------------------------------------------------------------------------------ figures


def average_precision(truth: npt.ArrayLike, scores: npt.ArrayLike, patients: npt.ArrayLike, count: int) -> Linear:
    """Average precision: the mean over positives of the share of positives among images that score at least as high.

    Args:
        truth: (N,) 1 or 0, at least one 1.
        scores: (N,) finite. Images with the same score enter together, as in scikit-learn.
        patients: (N,) below `count`.
        count: number of patients P.

    Returns:
        A figure in (0, 1].

    >>> average_precision([1, 0, 1, 0], [0.9, 0.8, 0.7, 0.1], [0, 1, 2, 3], 4).value
    0.8333333333333333
    """
    cells = 2 * np.asarray(patients) + (np.asarray(truth) == 1)
    return _average_precision(auc.Sorted.of(np.asarray(scores, dtype=np.float64), cells), count)


def _average_precision(ordered: auc.Sorted, count: int) -> Linear:
    patients = ordered.patients
    # From the highest score down: images that score higher than each positive, and those that score at least as high.
    above, called = patients.size - ordered.high[::-1], patients.size - ordered.low[::-1]
    places = patients.size - 1 - ordered.positive[::-1]
    precision = np.searchsorted(places, called) / called
    value = float(precision.sum()) / precision.size
    # An image changes the precision at every positive that does not score higher: sums from the lowest score up.
    as_hit, as_call = (np.cumsum(each[::-1])[::-1] for each in (1.0 / called, precision / called))
    hits = precision - value + as_hit[np.searchsorted(places, above)]
    calls = np.repeat(np.append(as_call, 0.0)[::-1], auc.gaps(called, patients.size)[::-1])
    parts = _by_patient(hits[::-1], patients[ordered.positive], count) - _by_patient(calls, patients, count)
    return Linear(value=value, parts=parts / precision.size)


def share(called: npt.ArrayLike, patients: npt.ArrayLike, count: int) -> Linear:
    """Share of images that are called (or rightly not called): sensitivity of positives, specificity of negatives.

    Args:
        called: (N,) true or false, at least one.
        patients: (N,) below `count`.
        count: number of patients P.

    >>> share([True, True, False], [0, 0, 1], 2).parts
    array([ 0.22222222, -0.22222222])
    """
    owners = np.asarray(patients)
    hits = np.bincount(owners[np.asarray(called, dtype=np.bool_)], minlength=count)
    return _share(hits, np.bincount(owners, minlength=count))


def _share(hits: Ints, images: Ints) -> Linear:
    """From each patient's images, (P,), and those of them that are called."""
    value = float(hits.sum() / images.sum())
    return Linear(value=value, parts=(hits - value * images) / images.sum())


def mean(values: npt.ArrayLike, patients: npt.ArrayLike, count: int) -> Linear:
    """Mean of a number that each image has.

    Args:
        values: (N,) at least one.
        patients: (N,) below `count`.
        count: number of patients P.

    >>> mean([0.25, 0.75], [0, 1], 2).value
    0.5
    """
    numbers = np.asarray(values, dtype=np.float64)
    value = float(numbers.mean())
    return Linear(value=value, parts=_by_patient(numbers - value, np.asarray(patients), count) / numbers.size)


def brier(truth: npt.ArrayLike, probabilities: npt.ArrayLike, patients: npt.ArrayLike, count: int) -> Linear:
    """Brier score: the mean squared difference of probability and truth, from 0 (best) to 1.

    Args:
        truth: (N,) 1 or 0, at least one.
        probabilities: (N,) in [0, 1].
        patients: (N,) below `count`.
        count: number of patients P.

    >>> brier([1, 0], [0.75, 0.5], [0, 1], 2).value
    0.15625
    """
    return mean(
        (np.asarray(probabilities, dtype=np.float64) - np.asarray(truth, dtype=np.float64)) ** 2, patients, count
    )


def slope(truth: npt.ArrayLike, logits: npt.ArrayLike, patients: npt.ArrayLike, count: int) -> Linear | Undefined:
    """Calibration slope: of a logistic regression of the truth on the logit of the probability; 1 is calibrated.

    Below 1, probabilities are too extreme; above, not extreme enough. Undefined where the logits separate positives
    from negatives, or are all the same.

    Args:
        truth: (N,) 1 or 0, at least one of each.
        logits: (N,) finite.
        patients: (N,) below `count`.
        count: number of patients P.

    >>> figure = slope([1, 0, 1, 0, 0, 1], [1, 1, 1, -1, -1, -1], range(6), 6)
    >>> round(figure.value, 6) == round(math.log(2), 6)  # odds of 2 to 1 at logit 1, of 1 to 2 at logit -1
    True
    """
    labels, x = np.asarray(truth, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    return _slope(labels, x, _sigmoid(x), np.asarray(patients), count)


def _slope(labels: Floats, x: Floats, probabilities: Floats, patients: Ints, count: int) -> Linear | Undefined:
    line = _logistic(labels, x, (0.0, 1.0), probabilities)
    if isinstance(line, Undefined):
        return line
    expected = _sigmoid(line[0] + line[1] * x)
    weights = expected * (1.0 - expected)
    centred = x - weights @ x / weights.sum()
    curvature = float(weights @ (centred * centred))
    return Linear(value=line[1], parts=_by_patient((labels - expected) * centred, patients, count) / curvature)


def intercept(truth: npt.ArrayLike, logits: npt.ArrayLike, patients: npt.ArrayLike, count: int) -> Linear | Undefined:
    """Calibration intercept: what must be added to every logit so that as many positives are expected as there are.

    It is the calibration in the large, with the slope held at 1; 0 is calibrated, above 0 the finding is more frequent
    than the probabilities say.

    Args:
        truth: (N,) 1 or 0, at least one of each.
        logits: (N,) finite.
        patients: (N,) below `count`.
        count: number of patients P.

    >>> round(intercept([1, 0, 0, 0], [0, 0, 0, 0], range(4), 4).value, 6) == round(math.log(1 / 3), 6)
    True
    """
    labels, x = np.asarray(truth, dtype=np.float64), np.asarray(logits, dtype=np.float64)
    return _intercept(labels, x, _sigmoid(x), np.asarray(patients), count)


def _intercept(labels: Floats, x: Floats, probabilities: Floats, patients: Ints, count: int) -> Linear | Undefined:
    expected, positives = probabilities, float(labels.sum())
    value, step = 0.0, math.inf
    for _ in range(MAX_STEPS):
        total = float(expected.sum())
        curvature = total - float(expected @ expected)
        if curvature <= 0.0:
            break
        if abs(step) <= STEP:
            return Linear(value=value, parts=_by_patient(labels - expected, patients, count) / curvature)
        step = (positives - total) / curvature
        # The curvature falls at most like exp(-distance), so this step never goes too far (Bach, section 3).
        value += math.copysign(math.log1p(abs(step)), step)
        expected = _sigmoid(value + x)
    return _UNSETTLED


def calibration_error(
    truth: npt.ArrayLike, probabilities: npt.ArrayLike, patients: npt.ArrayLike, count: int, bins: int = BINS
) -> Linear:
    """Expected calibration error over bins of about equally many images, less most of its bias.

    The plain estimate, the mean over images of |mean probability - share of positives| in their bin, is too large: a
    calibrated model has an error by chance. As Kumar, Liang and Ma do, the gap of a bin is taken as normal, and what
    the absolute value adds is subtracted; here in closed form, and with a variance of the gap that is clustered by
    patient. The result may lie a little below 0. Of a calibrated model it keeps about 0.6 of the plain bias. The parts
    are those of the plain estimate.

    Args:
        truth: (N,) 1 or 0, at least one.
        probabilities: (N,) in [0, 1].
        patients: (N,) below `count`.
        count: number of patients P.
        bins: at least 1. Equal probabilities stay in one bin, so there may be fewer.

    >>> truth, patients = [0, 1] * 50, range(100)
    >>> round(calibration_error(truth, [0.75] * 100, patients, 100).value, 3)
    0.25
    """
    binned = _Bins.of(np.asarray(truth, dtype=np.float64), np.asarray(probabilities, dtype=np.float64), bins)
    return _calibration_error(binned, np.asarray(patients)[binned.order], count)


def _calibration_error(bins: _Bins, patients: Ints, count: int) -> Linear:
    """From the patients, (n,), in the order of the bins."""
    residual, sizes = bins.probabilities - bins.truth, bins.sizes
    gap = bins.predicted - bins.observed
    squares = np.empty(sizes.size)
    for b, (start, end) in enumerate(zip(bins.starts, bins.ends, strict=True)):
        of_patient = _by_patient(residual[start:end] - gap[b], patients[start:end], count)
        squares[b] = of_patient @ of_patient
    with_images = int(np.count_nonzero(np.bincount(patients)))
    spread = np.sqrt(squares * with_images / max(with_images - 1, 1)) / sizes
    plain = np.abs(gap)
    value = float(sizes @ (2.0 * plain - _mean_of_absolute_normal(plain, spread))) / residual.size
    deviation = np.repeat(np.sign(gap), sizes) * residual - float(sizes @ plain) / residual.size
    return Linear(value=value, parts=_by_patient(deviation, patients, count) / residual.size)


def _mean_of_absolute_normal(mean: Floats, spread: Floats) -> Floats:
    ratio = np.divide(mean, spread, out=np.full_like(mean, np.inf), where=spread > 0)
    result: Floats = spread * math.sqrt(2.0 / math.pi) * np.exp(-(ratio**2) / 2.0) + mean * special.erf(
        ratio / math.sqrt(2.0)
    )
    return result


def reliability(truth: npt.ArrayLike, probabilities: npt.ArrayLike, bins: int = BINS) -> list[ReliabilityBin]:
    """The reliability curve: bins of about equally many images, from the lowest probability to the highest.

    Args:
        truth: (N,) 1 or 0, at least one.
        probabilities: (N,) in [0, 1].
        bins: at least 1. Equal probabilities stay in one bin, so there may be fewer.

    >>> [(b.images, b.predicted, b.observed) for b in reliability([0, 1, 1, 1], [0.25, 0.25, 0.5, 1.0], bins=2)]
    [(2, 0.25, 0.5), (2, 0.75, 1.0)]
    """
    return _Bins.of(np.asarray(truth, dtype=np.float64), np.asarray(probabilities, dtype=np.float64), bins).curve()


@dataclass(frozen=True)
class _Bins:
    """Images in the order of rising probabilities, in bins of about equally many."""

    order: Ints | slice  # of the rows
    truth: Floats  # (n,) in this order
    probabilities: Floats  # (n,) in this order
    starts: Ints  # (bins,)
    ends: Ints  # (bins,)

    @classmethod
    def of(cls, truth: Floats, probabilities: Floats, bins: int) -> _Bins:
        # Rows that rise already are left where they are, which costs next to nothing.
        rises = bool((probabilities[1:] >= probabilities[:-1]).all())
        order = slice(None) if rises else np.argsort(probabilities)
        rising = probabilities[order]
        highest = rising[rising.size - 1 - np.arange(bins) * rising.size // bins]  # of each bin
        ends = np.unique(np.searchsorted(rising, highest, "right"))
        return cls(order, truth[order], rising, np.concatenate(([0], ends[:-1])), ends)

    @property
    def sizes(self) -> Ints:
        return self.ends - self.starts

    @functools.cached_property
    def predicted(self) -> Floats:
        return np.add.reduceat(self.probabilities, self.starts) / self.sizes

    @functools.cached_property
    def observed(self) -> Floats:
        return np.add.reduceat(self.truth, self.starts) / self.sizes

    def curve(self) -> list[ReliabilityBin]:
        columns = zip(self.sizes.tolist(), self.predicted.tolist(), self.observed.tolist(), strict=True)
        return [ReliabilityBin(images=images, predicted=mean, observed=share) for images, mean, share in columns]


def _by_patient(deviation: npt.NDArray[np.floating[Any]], patients: Ints, count: int) -> Floats:
    return np.bincount(patients, deviation, count).astype(np.float64, copy=False)


# --------------------------------------------------------------------------------- what validation fixes


def freeze(
    findings: Sequence[str], truth: npt.ArrayLike, scores: Mapping[str, npt.ArrayLike], rule: OperatingPoints | None
) -> Frozen:
    """Choose each model's threshold and recalibration for each finding on the validation set.

    Args:
        findings: F names.
        truth: (N, F) 1, 0 or NaN, of the validation set.
        scores: model -> (N, F).
        rule: how thresholds are chosen; None chooses none.

    >>> frozen = freeze(["Mass"], [[0], [1], [0], [1]], {"challenger": [[0.1], [0.3], [0.4], [0.8]]}, None)
    >>> frozen.thresholds["challenger"][0].reason
    'the plan names no operating point'
    >>> [round(number, 2) for number in frozen.recalibration["challenger"][0]]
    [0.83, 1.43]
    """
    labels = np.asarray(truth, dtype=np.float64).T.copy()  # one row a finding, which is how they are read
    tables = {model: np.asarray(table, dtype=np.float64).T.copy() for model, table in scores.items()}
    nowhere = Undefined(reason="the plan names no operating point", needed="operating_points in the plan")
    columns = range(len(findings))
    return Frozen(
        thresholds={
            model: [nowhere if rule is None else threshold(labels[f], table[f], rule) for f in columns]
            for model, table in tables.items()
        },
        recalibration={model: [recalibrate(labels[f], table[f]) for f in columns] for model, table in tables.items()},
    )


def unfrozen(findings: Sequence[str], models: Sequence[str]) -> Frozen:
    """What is fixed where there is no validation set: nothing, and why.

    >>> unfrozen(["Mass"], ["challenger"]).thresholds["challenger"][0].needed
    'scores of a validation set'
    """
    missing = Undefined(reason="there is no validation set to fix it on", needed="scores of a validation set")
    nothing = [missing] * len(findings)
    return Frozen(thresholds=dict.fromkeys(models, nothing), recalibration=dict.fromkeys(models, nothing))


def threshold(truth: npt.ArrayLike, scores: npt.ArrayLike, rule: OperatingPoints) -> float | Undefined:
    """The score from which a finding is called, one of those given; images with exactly this score are called too.

    `sensitivity`: the highest score that reaches the target. `specificity`: the lowest that reaches it; undefined if
    even the highest score does not. `youden`: the largest sum of both; of several, the highest score.

    Args:
        truth: (N,) 1, 0 or NaN. Rows with NaN are left out.
        scores: (N,).
        rule: with its target.

    >>> truth, scores = [1, 1, 0, 1, 0, 0], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]
    >>> [threshold(truth, scores, OperatingPoints(rule=rule, target=0.6)) for rule in ("sensitivity", "specificity")]
    [0.8, 0.6]
    >>> threshold(truth, scores, OperatingPoints(rule="youden"))
    0.8
    """
    usable = _of_both_kinds(truth, scores)
    if isinstance(usable, Undefined):
        return usable
    labels, values = usable
    order = np.argsort(-values)
    values = values[order]
    starts = np.flatnonzero(np.concatenate(([True], values[1:] != values[:-1])))
    called = np.append(starts[1:], values.size)
    hits = np.cumsum(labels[order] == 1)[called - 1]
    false_calls = called - hits
    positives, negatives = int(hits[-1]), int(false_calls[-1])
    if rule.target is None:  # youden
        chosen = int(np.argmax(hits * negatives - false_calls * positives))  # whole numbers: ties are exact
    elif rule.rule == "sensitivity":
        chosen = int(np.argmax(hits / positives >= rule.target))
    else:
        reached = (negatives - false_calls) / negatives >= rule.target
        if not reached[0]:
            return Undefined(
                reason=f"no score of the validation set reaches a specificity of {rule.target:g}",
                needed="more negative images in the validation set, or scores that tell images apart",
            )
        chosen = int(np.flatnonzero(reached)[-1])
    return float(values[starts[chosen]])


def recalibrate(truth: npt.ArrayLike, probabilities: npt.ArrayLike) -> tuple[float, float] | Undefined:
    """Intercept and slope by which the logit of a probability becomes a calibrated one (Cox; Platt).

    A loss that weights positives makes all probabilities too large; this takes it back. Undefined where probabilities
    separate positives from negatives, since then no finite slope fits best.

    Args:
        truth: (N,) 1, 0 or NaN. Rows with NaN are left out.
        probabilities: (N,) in [0, 1].

    >>> a, b = recalibrate([0, 0, 0, 1] * 25 + [0, 1, 1, 1] * 25, [0.5] * 100 + [0.9] * 100)
    >>> round(1 / (1 + math.exp(-a)), 6), round(1 / (1 + math.exp(-a - b * math.log(9))), 6)
    (0.25, 0.75)
    """
    usable = _of_both_kinds(truth, probabilities)
    if isinstance(usable, Undefined):
        return usable
    labels, values = usable
    if values.min() < 0.0 or values.max() > 1.0:
        return _NO_PROBABILITIES
    share = float(labels.mean())
    return _logistic(labels, _logit(values), (float(special.logit(share)), 0.0), np.full(labels.size, share))


def _of_both_kinds(truth: npt.ArrayLike, scores: npt.ArrayLike) -> tuple[Floats, Floats] | Undefined:
    labels, values = np.asarray(truth, dtype=np.float64), np.asarray(scores, dtype=np.float64)
    known = ~np.isnan(labels)
    labels, values = labels[known], values[known]
    for kind, found in (("positive", (labels == 1).any()), ("negative", (labels == 0).any())):
        if not found:
            reason = f"no {kind} image in the validation set"
            return Undefined(reason=reason, needed=f"{kind} images in the validation set")
    return auc.not_finite(values, of="validation ") or (labels, values)


def _logit(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, SMALLEST, 1.0 - SMALLEST)
    logits: Floats = np.log(inside / (1.0 - inside))
    return logits


def _sigmoid(logits: Floats) -> Floats:
    """Written into one array: a third of the time of scipy's expit."""
    probabilities: Floats = np.negative(logits)
    with np.errstate(over="ignore"):  # a sum that is infinite gives the 0 that is meant
        np.exp(probabilities, out=probabilities)
    probabilities += 1.0
    return np.reciprocal(probabilities, out=probabilities)


def _logistic(
    labels: Floats, x: Floats, start: tuple[float, float], expected: Floats
) -> tuple[float, float] | Undefined:
    """Intercept and slope of highest likelihood, by Newton's method with steps that cannot go too far.

    Along a step that moves a logit by at most r, the curvature falls at most like exp(-t r); so a share log(1 + r) / r
    of it never lowers the likelihood (Bach, section 3), and near the end it is the whole step. `expected` are the
    probabilities at the start.
    """
    low, high = float(x.min()), float(x.max())
    if low == high:
        return Undefined(reason="all scores are the same", needed="scores that tell images apart")
    squares, weights = x * x, np.empty_like(x)
    a, b = start
    for _ in range(MAX_STEPS):
        residual = labels - expected
        np.subtract(1.0, expected, out=weights)
        weights *= expected
        total = float(weights.sum())
        if total <= 0.0:
            break
        centre, second = float(weights @ x) / total, float(weights @ squares)
        curvature = second - total * centre**2
        if curvature <= ROUNDING * second:  # all weight at one value: nothing is left that tells a slope
            break
        surplus = float(residual.sum())
        by_slope = (float(residual @ x) - centre * surplus) / curvature
        by_intercept = surplus / total - by_slope * centre
        reach = max(abs(by_intercept + by_slope * low), abs(by_intercept + by_slope * high))
        part = math.log1p(reach) / reach if reach > 0.0 else 1.0
        a, b = a + part * by_intercept, b + part * by_slope
        if reach <= STEP:
            return a, b
        expected = _sigmoid(a + b * x)
    of_positives, of_negatives = x[labels == 1], x[labels == 0]
    if of_positives.min() >= of_negatives.max() or of_positives.max() <= of_negatives.min():
        # Exactly then the likelihood has no maximum (Albert and Anderson, Biometrika 71 (1984) 1-10).
        return Undefined(
            reason="the scores separate positives from negatives, so no slope fits best", needed="more images"
        )
    return _UNSETTLED


# ---------------------------------------------------------------------------------------------- intervals


@dataclass(frozen=True, kw_only=True)
class Clusters:
    """The patients that an interval rests on.

    Attributes:
        patients: how many have an image of the kind that counts.
        effective: how many with one image each would weigh as much, (sum a)^2 / sum a^2 over their numbers of images.
    """

    patients: int
    effective: float

    @classmethod
    def of(cls, images: npt.ArrayLike) -> Clusters:
        """From each patient's number of images.

        >>> Clusters.of([3, 1, 0])
        Clusters(patients=2, effective=1.6)
        """
        numbers = np.asarray(images, dtype=np.int64)
        squares = int(numbers @ numbers)
        effective = int(numbers.sum()) ** 2 / squares if squares else 0.0
        return cls(patients=int(np.count_nonzero(numbers)), effective=effective)

    @property
    def df(self) -> float:
        """Degrees of freedom of an interval."""
        return max(self.effective - 1.0, 1.0)


def single(figure: Linear | Undefined, clusters: Clusters, level: float, method: Literal["logit", "wald"]) -> Figure:
    """One model's figure with its interval: on the logit scale for what lies between 0 and 1, else as it is.

    A share of 0 or 1, which no patient contradicts, has no standard error; its bound is the exact binomial one for
    `clusters.effective` patients.

    Args:
        figure: with at least two patients.
        clusters: of the images that it rests on.
        level: of the two-sided interval, in (0, 1).
        method: the scale.

    >>> figure = single(share([True] * 20, range(20), 20), Clusters(patients=20, effective=20.0), 0.95, "logit")
    >>> round(figure.low, 4), figure.high  # as Clopper and Pearson
    (0.8316, 1.0)
    """
    if isinstance(figure, Undefined):
        return figure
    se = _error(figure, clusters)
    if method == "logit" and figure.value in (0.0, 1.0):
        return auc.estimate(figure.value, 0.0, clusters.df, "separated", level)
    if se == 0.0:
        return Undefined(reason="no variation between patients", needed="more patients")
    return auc.estimate(figure.value, se, clusters.df, method, level)


def difference(
    first: Linear | Undefined, second: Linear | Undefined, clusters: Clusters, level: float, *, same_order: bool
) -> Figure:
    """The paired difference of two models' figures, with its interval.

    Models that put all images in the same order and come to the same figure differ by 0 with the interval [0, 0].
    Models that call the same images, but not by the same order, differ by 0 too, but with the exact binomial bound,
    since another patient may tell them apart.

    Args:
        first: of the challenger.
        second: of the model that it is held against, on the same images.
        clusters: of the images that both rest on.
        level: of the two-sided interval, in (0, 1).
        same_order: whether both models put the images in the same order.

    >>> one, clusters = share([True, False], range(2), 2), Clusters(patients=2, effective=2.0)
    >>> same = difference(one, one, clusters, 0.95, same_order=True)
    >>> same.value, same.low, same.high
    (0.0, 0.0, 0.0)
    """
    if isinstance(first, Undefined):
        return first
    if isinstance(second, Undefined):
        return second
    gap = first.minus(second)
    se = _error(gap, clusters)
    if se > 0.0 or (same_order and gap.value == 0.0):
        return auc.estimate(gap.value, se, clusters.df, "wald", level)
    if gap.value == 0.0:
        return auc.estimate(0.0, 0.0, clusters.df, "separated_difference", level)
    return Undefined(reason="the models differ alike for every patient", needed="more patients")


def _error(figure: Linear, clusters: Clusters) -> float:
    inflation = clusters.patients / (clusters.patients - 1)
    se = math.sqrt(inflation * float(figure.parts @ figure.parts))
    return se if se > ROUNDING else 0.0


# ----------------------------------------------------------------------------------------------- all of it


def performance(
    findings: Sequence[str],
    tables: auc.Tables,
    ranks: Sequence[auc.FindingRanks],
    frozen: Frozen,
    *,
    level: float,
) -> list[Performance]:
    """All figures of each finding and model, with the differences between models.

    Args:
        findings: F names.
        tables: labels, patients and scores. Each finding stands on the images where it is labelled.
        ranks: of the same tables; what is sorted once serves here too.
        frozen: thresholds and recalibration of the same models.
        level: of the two-sided intervals, in (0, 1).

    Returns:
        One record a finding. Shares, average precision and Brier score have intervals on the logit scale; slope,
        intercept, calibration error and all differences as they are. Student's t has n_eff - 1 degrees of freedom,
        n_eff of positives (sensitivity, average precision), negatives (specificity) or the rarer of both.

    >>> scores = {"challenger": [[0.8], [0.3], [0.4], [0.6]]}
    >>> tables = auc.Tables.of(["Mass"], [[1], [0], [1], [0]], range(4), scores)
    >>> frozen = Frozen(thresholds={"challenger": [0.5]}, recalibration={"challenger": [(0.0, 1.0)]})
    >>> [found] = performance(["Mass"], tables, tables.ranks(), frozen, level=0.95)
    >>> found.sensitivity.challenger.value, round(found.brier.challenger.value, 4)
    (0.5, 0.2125)
    """
    found: list[Performance] = []
    for f, (finding, of_finding) in enumerate(zip(findings, ranks, strict=True)):
        images = _Images.of(of_finding.labelled)
        thresholds = {model: frozen.thresholds[model][f] for model in tables.scores}
        recalibration = {model: frozen.recalibration[model][f] for model in tables.scores}
        figures: dict[str, dict[str, Linear | Undefined]] = {}
        curves: dict[str, list[ReliabilityBin]] = {}
        for model, table in tables.scores.items():
            scores = table[f][of_finding.labelled.rows]
            figures[model], curves[model] = _figures(
                images, scores, of_finding.ordered[model], thresholds[model], recalibration[model]
            )
        found.append(
            Performance(
                finding=finding,
                support=of_finding.labelled.support,
                thresholds={model: at for model, at in thresholds.items() if not isinstance(at, Undefined)},
                recalibration={model: by for model, by in recalibration.items() if not isinstance(by, Undefined)},
                reliability=curves,
                flips=_flips(images, tables.scores, f, thresholds, level),
                **{name: _paired(name, figures, images, of_finding.same_order, level) for name in _SCALES},
            )
        )
    return found


Kind = Literal["positive", "negative", "rarer"]
# The kind of image that a figure's interval rests on, and its scale.
_SCALES: Final[dict[str, tuple[Kind, Literal["logit", "wald"]]]] = {
    "average_precision": ("positive", "logit"),
    "sensitivity": ("positive", "logit"),
    "specificity": ("negative", "logit"),
    "brier": ("rarer", "logit"),
    "slope": ("rarer", "wald"),
    "intercept": ("rarer", "wald"),
    "ece": ("rarer", "wald"),
}


@dataclass(frozen=True, kw_only=True)
class _Images:
    """The labelled images of one finding, the patients that its figures rest on, and which figures they lack."""

    labelled: auc.Labelled
    clusters: dict[Kind, Clusters]
    lacking: dict[Kind, Undefined | None]

    @classmethod
    def of(cls, labelled: auc.Labelled) -> _Images:
        positive, negative = Clusters.of(labelled.positives), Clusters.of(labelled.negatives)
        rarer = min(positive, negative, key=lambda clusters: clusters.effective)
        no_positive = auc.lacking(positive.patients, "positive")
        no_negative = auc.lacking(negative.patients, "negative")
        return cls(
            labelled=labelled,
            clusters={"positive": positive, "negative": negative, "rarer": rarer},
            lacking={"positive": no_positive, "negative": no_negative, "rarer": no_positive or no_negative},
        )


def _flips(
    images: _Images,
    tables: Mapping[str, auc.Scores],
    finding: int,
    thresholds: Mapping[str, float | Undefined],
    level: float,
) -> Flips | None:
    """Who is called by one of champion and challenger alone."""
    labelled = images.labelled
    called: list[Bools] = []
    for model in ("champion", "challenger"):
        at = thresholds.get(model)
        if not isinstance(at, float):
            return None
        scores = tables[model][finding][labelled.rows]
        if not np.isfinite(scores).all():
            return None
        called.append(scores >= at)
    before, after = called
    count = labelled.positives.size

    def flip(hits: Ints, kind: Kind) -> Flip:
        of_kind = labelled.positives if kind == "positive" else labelled.negatives
        share = images.lacking[kind] or _share(hits, of_kind)
        return Flip(
            share=single(share, images.clusters[kind], level, "logit"),
            images=int(hits.sum()),
            patients=int(np.count_nonzero(hits)),
        )

    lost, won = (np.bincount(labelled.cells[who], minlength=2 * count) for who in (before & ~after, after & ~before))
    return Flips(
        missed=flip(lost[1::2], "positive"),
        found=flip(won[1::2], "positive"),
        alarmed=flip(won[::2], "negative"),
        cleared=flip(lost[::2], "negative"),
    )


def _figures(
    images: _Images,
    scores: auc.Scores,
    ordered: auc.Sorted | Undefined,
    threshold: float | Undefined,
    recalibration: tuple[float, float] | Undefined,
) -> tuple[dict[str, Linear | Undefined], list[ReliabilityBin]]:
    """All figures of one model, and its reliability curve."""
    if isinstance(ordered, Undefined):
        return dict.fromkeys(_SCALES, ordered), []
    labelled, lacking = images.labelled, images.lacking
    count = labelled.positives.size
    patients, rising = ordered.patients, scores[ordered.order].astype(np.float64)
    labels = np.zeros(rising.size)
    labels[ordered.positive] = 1.0
    figures: dict[str, Linear | Undefined] = {
        "average_precision": lacking["rarer"] or _average_precision(ordered, count)
    }
    if isinstance(threshold, Undefined):
        figures["sensitivity"] = lacking["positive"] or threshold
        figures["specificity"] = lacking["negative"] or threshold
    else:
        calls = np.bincount(ordered.cells[np.searchsorted(rising, threshold) :], minlength=2 * count)
        spared = labelled.negatives - calls[::2]
        figures["sensitivity"] = lacking["positive"] or _share(calls[1::2], labelled.positives)
        figures["specificity"] = lacking["negative"] or _share(spared, labelled.negatives)
    logits = lacking["rarer"] or _recalibrated(rising, recalibration)
    if isinstance(logits, Undefined):
        return {**figures, **dict.fromkeys(("brier", "slope", "intercept", "ece"), logits)}, []
    probabilities = _sigmoid(logits)
    figures["brier"] = brier(labels, probabilities, patients, count)
    figures["slope"] = _slope(labels, logits, probabilities, patients, count)
    figures["intercept"] = _intercept(labels, logits, probabilities, patients, count)
    bins = _Bins.of(labels, probabilities, BINS)
    figures["ece"] = _calibration_error(bins, patients[bins.order], count)
    return figures, bins.curve()


def _recalibrated(rising: Floats, recalibration: tuple[float, float] | Undefined) -> Floats | Undefined:
    """Calibrated logits."""
    if isinstance(recalibration, Undefined):
        return recalibration
    if rising[0] < 0.0 or rising[-1] > 1.0:
        return _NO_PROBABILITIES
    return recalibration[0] + recalibration[1] * _logit(rising)


def _paired(
    name: str,
    figures: Mapping[str, Mapping[str, Linear | Undefined]],
    images: _Images,
    same_order: set[str],
    level: float,
) -> Paired:
    kind, method = _SCALES[name]
    clusters = images.clusters[kind]
    found: dict[str, Figure] = {}
    for model, of_model in figures.items():
        found[model] = single(of_model[name], clusters, level, method)
        if model != "challenger":
            against = "difference" if model == "champion" else "reference_difference"
            found[against] = difference(
                figures["challenger"][name], of_model[name], clusters, level, same_order=model in same_order
            )
    return Paired(**found)
