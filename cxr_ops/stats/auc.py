"""Areas under the ROC curve when patients have several images: values, patient-clustered variances, paired differences.

The patient is the unit. Two images of one patient are alike, so a standard error that counts images is too small.

Sources:
    Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997) 567-578: the variance and the
    covariance from sums of placement values over a cluster.
    DeLong, DeLong, Clarke-Pearson, Biometrics 44 (1988) 837-845: the same with one image a patient.
    Sun and Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393: placement values by sorting, O(n log n).

Shapes: N images, F findings, P patients. Truth is 1, 0 or NaN (missing; not the same as 0). Scores are any numbers that
rank images; only their order matters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special, stats

from cxr_ops.records import Estimate, Figure, FindingEvidence, Support, Undefined

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# With one patient of a kind nothing is known of how patients of that kind differ.
MIN_PATIENTS = 2


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How well one model ranks one finding, taken apart by patient; also the difference of two such rankings.

    Attributes:
        value: the AUC, in [0, 1], or a difference of two, in [-1, 1].
        positive: (P,) each patient's part of the deviation through its positive images. It sums to 0.
        negative: (P,) the same through its negative images.
        positives: (P,) number of positive images of each patient.
        negatives: (P,) number of negative images of each patient.
    """

    value: float
    positive: Floats
    negative: Floats
    positives: Ints
    negatives: Ints

    def minus(self, other: Ranking) -> Ranking:
        """The paired difference with another model on the same images.

        Raises:
            ValueError: the two do not stand on the same images.
        """
        same = np.array_equal(self.positives, other.positives) and np.array_equal(self.negatives, other.negatives)
        if not same:
            raise ValueError("a paired difference needs both models on the same images")
        return Ranking(
            value=self.value - other.value,
            positive=self.positive - other.positive,
            negative=self.negative - other.negative,
            positives=self.positives,
            negatives=self.negatives,
        )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All AUCs of a challenger and, if there is one, of a champion; see `compare`."""

    findings: list[FindingEvidence]
    macro_challenger: Figure
    macro_champion: Figure | None
    macro_difference: Figure | None
    macro_over: list[str]


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
    labels = np.asarray(truth)
    values = np.asarray(scores, dtype=np.float64)
    positive, negative = values[labels == 1], values[labels == 0]
    return _share_below(positive, np.sort(negative)), 1.0 - _share_below(negative, np.sort(positive))


def _share_below(values: Floats, others: Floats) -> Floats:
    below = np.searchsorted(others, values, side="left")
    up_to = np.searchsorted(others, values, side="right")
    share: Floats = (below + up_to) / (2.0 * others.size)
    return share


def rank(truth: npt.ArrayLike, scores: npt.ArrayLike, patients: npt.ArrayLike, count: int | None = None) -> Ranking:
    """AUC of one model for one finding, with each patient's part of its deviation.

    Args:
        truth: (N,) 1, 0 or NaN. Rows with NaN are left out.
        scores: (N,) finite where truth is not missing.
        patients: (N,) whole numbers from 0, one a patient.
        count: number of patients P; the largest in `patients` plus one if it is not given.

    Raises:
        ValueError: no positive or no negative image is left, or a score is not finite.

    >>> rank([1, 1, 0, 0], [0.9, 0.5, 0.6, 0.1], [0, 1, 2, 3]).value
    0.75
    """
    labels = np.asarray(truth, dtype=np.float64)
    values = np.asarray(scores, dtype=np.float64)
    owners = np.asarray(patients, dtype=np.int64)
    total = int(owners.max(initial=-1)) + 1 if count is None else count
    known = ~np.isnan(labels)
    labels, values, owners = labels[known], values[known], owners[known]
    if not np.isfinite(values).all():
        raise ValueError("scores must be finite")
    is_positive = labels == 1
    m, n = int(is_positive.sum()), int((~is_positive).sum())
    if m == 0 or n == 0:
        raise ValueError("an AUC needs a positive and a negative image")
    above, below = placements(labels, values)
    area = float(above.mean())
    return Ranking(
        value=area,
        positive=np.bincount(owners[is_positive], weights=above - area, minlength=total) / m,
        negative=np.bincount(owners[~is_positive], weights=below - area, minlength=total) / n,
        positives=np.bincount(owners[is_positive], minlength=total),
        negatives=np.bincount(owners[~is_positive], minlength=total),
    )


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
    if not parts:
        raise ValueError("a variance needs at least one AUC")
    patients = parts[0].positives.size
    positive, negative = np.zeros(patients), np.zeros(patients)
    both_positive, both_negative = np.zeros(patients), np.zeros(patients)
    for part in parts:
        with_positive = int((part.positives > 0).sum())
        with_negative = int((part.negatives > 0).sum())
        with_either = int((part.positives + part.negatives > 0).sum())
        if min(with_positive, with_negative) < MIN_PATIENTS:
            raise ValueError(f"a variance needs {MIN_PATIENTS} positive and {MIN_PATIENTS} negative patients")
        positive += _inflation(with_positive) * part.positive
        negative += _inflation(with_negative) * part.negative
        both_positive += _inflation(with_either) * part.positive
        both_negative += _inflation(with_either) * part.negative
    sums = positive @ positive + negative @ negative + 2.0 * (both_positive @ both_negative)
    # Rounding alone can take the sum a hair below zero.
    return max(float(sums), 0.0) / len(parts) ** 2


def _inflation(patients: int) -> float:
    return math.sqrt(patients / (patients - 1))


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
    return float(min(weights.sum() ** 2 / (weights @ weights) for weights in kinds))


# ---------------------------------------------------------------------------------------------- intervals


def mean_auc(parts: Sequence[Ranking], level: float) -> Figure:
    """The AUC of one finding, or the mean over several, with its interval on the logit scale.

    Student's t has `effective_patients - 1` degrees of freedom (at least 1). Where the model makes no error at all
    (AUC 1) no standard error can be had; the bound is then the exact binomial one for as many patients without an
    error.

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
    se = math.sqrt(variance(parts))
    df = max(effective_patients(parts) - 1.0, 1.0)
    if value in (0.0, 1.0):
        return _estimate(value, 0.0, df, "separated", level)
    if se == 0.0:
        return Undefined(reason="no variation between patients", needed="more patients")
    return _estimate(value, se, df, "logit", level)


def mean_difference(parts: Sequence[Ranking], level: float, *, same_order: bool) -> Figure:
    """A paired difference of AUCs, or the mean over findings, with its interval.

    Models that put all images in the same order differ by 0 with the interval [0, 0]. Two models that both make no
    error differ by 0 too, but with the exact binomial bound, since their order among the positives may differ.

    Args:
        parts: `challenger.minus(champion)` of one finding, or of several on the same patients.
        level: of the two-sided interval, in (0, 1).
        same_order: whether both models put the images in the same order, for every part.

    >>> one = rank([1, 1, 0, 0], [0.9, 0.5, 0.6, 0.1], [0, 1, 2, 3])
    >>> same = mean_difference([one.minus(one)], 0.95, same_order=True)
    >>> same.value, same.low, same.high
    (0.0, 0.0, 0.0)
    """
    too_few = _too_few(parts)
    if too_few is not None:
        return too_few
    value = float(np.mean([part.value for part in parts]))
    se = math.sqrt(variance(parts))
    df = max(effective_patients(parts) - 1.0, 1.0)
    if se == 0.0 and not same_order:
        if value == 0.0:
            return _estimate(value, 0.0, df, "separated_difference", level)
        return Undefined(reason="the models differ alike for every patient", needed="more patients")
    return _estimate(value, se, df, "wald", level)


def _too_few(parts: Sequence[Ranking]) -> Undefined | None:
    for kind in ("positive", "negative"):
        fewest = min(int((getattr(part, f"{kind}s") > 0).sum()) for part in parts)
        if fewest < MIN_PATIENTS:
            return _lacking(fewest, kind, MIN_PATIENTS)
    return None


def _lacking(found: int, kind: str, least: int) -> Undefined:
    missing = least - found
    return Undefined(
        reason=f"{found} {kind} patient{'' if found == 1 else 's'}, and at least {least} are needed",
        needed=f"{missing} more {kind} patient{'' if missing == 1 else 's'}",
    )


def _estimate(value: float, se: float, df: float, method: str, level: float) -> Estimate:
    bare = Estimate.model_validate(
        {"value": value, "se": se, "low": value, "high": value, "level": level, "df": df, "method": method}
    )
    low, high = bounds(bare, (1.0 - level) / 2.0)
    return bare.model_copy(update={"low": low, "high": high})


def bounds(estimate: Estimate, alpha: float) -> tuple[float, float]:
    """Lower and upper one-sided confidence bounds, each at error `alpha`, in the way that the estimate says.

    `wald`: value and se, with Student's t. `logit`: the same on the logit scale, for an AUC. `separated`: an AUC of 1
    (or 0) that no patient contradicts. `separated_difference`: the difference of two such. A missing `df` means the
    normal.

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
    return value - quantile * se, value + quantile * se


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
    if se == 0.0:
        return 1.0 if value >= limit else 0.0
    if estimate.method == "logit":
        distance = float(special.logit(value) - special.logit(limit)) * value * (1.0 - value) / se
    else:
        distance = (value - limit) / se
    p = stats.norm.cdf(distance) if estimate.df is None else stats.t.cdf(distance, estimate.df)
    return float(p)


def _quantile(probability: float, df: float | None) -> float:
    return float(stats.norm.ppf(probability) if df is None else stats.t.ppf(probability, df))


# --------------------------------------------------------------------------------------------- comparison


def compare(
    findings: Sequence[str],
    truth: npt.ArrayLike,
    patients: npt.ArrayLike,
    challenger: npt.ArrayLike,
    champion: npt.ArrayLike | None = None,
    *,
    level: float = 0.95,
    min_positive_patients: int = 20,
    min_negative_patients: int = 20,
) -> Comparison:
    """Compare two models, or describe one, over all findings.

    Each finding uses the images where it is labelled. A finding with fewer positive or negative patients than asked
    for is still estimated where it can be, but is left out of the macro-AUC. A number that cannot be had is
    `Undefined`, with the reason, and makes the macro-AUC undefined if its finding belongs to it.

    Args:
        findings: F names.
        truth: (N, F) 1, 0 or NaN.
        patients: (N,) any identifiers; equal ones are one patient.
        challenger: (N, F) scores.
        champion: (N, F) scores of the model in use, on the same images, or None.
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
    labels, groups, scores = _format(findings, truth, patients, challenger, champion)
    count = int(groups.max(initial=-1)) + 1
    rows: list[FindingEvidence] = []
    over: list[int] = []
    rankings: list[list[Ranking | Undefined]] = []
    same_order: list[bool] = []
    for f, finding in enumerate(findings):
        support = _support(labels[:, f], groups, count)
        ranked = [_rank_or_say(labels[:, f], model[:, f], groups, count, support) for model in scores]
        rankings.append(ranked)
        same_order.append(_same_order(ranked, labels[:, f], [model[:, f] for model in scores]))
        rows.append(
            FindingEvidence(
                finding=finding,
                support=support,
                challenger=_auc_of([ranked[0]], level),
                champion=_auc_of([ranked[1]], level) if len(ranked) > 1 else None,
                difference=_difference_of([ranked], level, same_order[f]) if len(ranked) > 1 else None,
            )
        )
        if support.positive_patients >= min_positive_patients and support.negative_patients >= min_negative_patients:
            over.append(f)
    of_macro = [rankings[f] for f in over]
    return Comparison(
        findings=rows,
        macro_challenger=_auc_of([ranked[0] for ranked in of_macro], level),
        macro_champion=_auc_of([ranked[1] for ranked in of_macro], level) if len(scores) > 1 else None,
        macro_difference=(
            _difference_of(of_macro, level, all(same_order[f] for f in over)) if len(scores) > 1 else None
        ),
        macro_over=[findings[f] for f in over],
    )


def _format(
    findings: Sequence[str],
    truth: npt.ArrayLike,
    patients: npt.ArrayLike,
    challenger: npt.ArrayLike,
    champion: npt.ArrayLike | None,
) -> tuple[Floats, Ints, list[Floats]]:
    labels = np.asarray(truth, dtype=np.float64)
    models = [np.asarray(model, dtype=np.float64) for model in (challenger, champion) if model is not None]
    names = np.asarray(patients)
    shape = (names.shape[0], len(findings))
    if names.ndim != 1 or labels.shape != shape or any(model.shape != shape for model in models):
        found = ", ".join(str(array.shape) for array in (labels, *models))
        raise ValueError(f"truth and scores must all have the shape {shape} (images, findings); found {found}")
    if not (np.isnan(labels) | (labels == 0) | (labels == 1)).all():
        raise ValueError("truth must be 1, 0 or NaN")
    groups = np.unique(names, return_inverse=True)[1].astype(np.int64)
    return labels, groups, models


def _support(labels: Floats, groups: Ints, count: int) -> Support:
    of_positive, of_negative = groups[labels == 1], groups[labels == 0]
    return Support(
        positives=of_positive.size,
        negatives=of_negative.size,
        positive_patients=int((np.bincount(of_positive, minlength=count) > 0).sum()),
        negative_patients=int((np.bincount(of_negative, minlength=count) > 0).sum()),
    )


def _rank_or_say(labels: Floats, scores: Floats, groups: Ints, count: int, support: Support) -> Ranking | Undefined:
    for kind in ("positive", "negative"):
        found = getattr(support, f"{kind}_patients")
        if found < MIN_PATIENTS:
            return _lacking(found, kind, MIN_PATIENTS)
    labelled = scores[~np.isnan(labels)]
    infinite = int((~np.isfinite(labelled)).sum())
    if infinite:
        return Undefined(reason=f"{infinite} of {labelled.size} scores are not finite", needed="finite scores")
    if np.ptp(labelled) == 0:
        return Undefined(reason="all scores are the same", needed="scores that tell images apart")
    return rank(labels, scores, groups, count)


def _same_order(ranked: Sequence[Ranking | Undefined], labels: Floats, scores: Sequence[Floats]) -> bool:
    """Whether two models put the labelled images in the same order, ties included."""
    parts = [ranking.positive for ranking in ranked if isinstance(ranking, Ranking)]
    if len(parts) < 2 or not np.array_equal(
        parts[0], parts[1]
    ):  # the same order has the same parts; most pairs end here
        return False
    first, second = (np.unique(model[~np.isnan(labels)], return_inverse=True)[1] for model in scores)
    return np.array_equal(first, second)


def _auc_of(rankings: Sequence[Ranking | Undefined], level: float) -> Figure:
    usable = _usable(rankings)
    return usable if isinstance(usable, Undefined) else mean_auc(usable, level)


def _difference_of(pairs: Sequence[Sequence[Ranking | Undefined]], level: float, same_order: bool) -> Figure:
    first, second = _usable([pair[0] for pair in pairs]), _usable([pair[1] for pair in pairs])
    if isinstance(first, Undefined):
        return first
    if isinstance(second, Undefined):
        return second
    parts = [a.minus(b) for a, b in zip(first, second, strict=True)]
    return mean_difference(parts, level, same_order=same_order)


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
