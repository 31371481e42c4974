"""What a call and a missing call are worth where a finding is as common as is stated: predictive values.

Sensitivity and specificity at a threshold carry over to other patients; predictive values do not, because a test set
is rarely as rich in findings as the patients of a clinic. So they are computed for prevalences that are stated.
"""

from __future__ import annotations

import math

from scipy import special

from cxr_ops.records.evidence import Estimate, Figure, Undefined
from cxr_ops.stats.auc import bounds


def predictive_values(sensitivity: Figure, specificity: Figure, prevalence: float) -> tuple[Figure, Figure]:
    """Positive and negative predictive value at a stated prevalence, by Bayes' theorem.

    The intervals are on the logit scale (Mercaldo, Lau and Zhou, Statistics in Medicine 2007, 26:2170), from the
    clustered standard errors of sensitivity and specificity, which are taken as independent. The prevalence is taken as
    known.

    Args:
        sensitivity: share of images with the finding that are called, in [0, 1].
        specificity: share of images without it that are not called, in [0, 1].
        prevalence: share of images with the finding, in (0, 1).

    Returns:
        The positive and the negative predictive value, each an estimate at the level of its parts. Undefined where
        sensitivity or specificity is, where nothing (or everything) would be called, and where a value of exactly 0 or
        1 has no interval on the logit scale.

    Raises:
        ValueError: the prevalence is not within (0, 1), or the two have other levels.

    >>> near = {"se": 0.02, "low": 0.0, "high": 1.0, "level": 0.95}
    >>> ppv, npv = predictive_values(Estimate(value=0.8, **near), Estimate(value=0.9, **near), 0.1)
    >>> round(ppv.value, 4), round(npv.value, 4)
    (0.4706, 0.9759)
    """
    if not 0.0 < prevalence < 1.0:
        raise ValueError(f"a prevalence lies between 0 and 1, and {prevalence} does not")
    for figure in (sensitivity, specificity):
        if isinstance(figure, Undefined):
            return figure, figure
    assert isinstance(sensitivity, Estimate) and isinstance(specificity, Estimate)  # noqa: S101, PT018 - narrowed above
    if sensitivity.level != specificity.level:
        raise ValueError(f"sensitivity is at level {sensitivity.level}, and specificity at {specificity.level}")
    return (
        _value(sensitivity, specificity, math.log(prevalence) - math.log1p(-prevalence), "no image would be called"),
        _value(specificity, sensitivity, math.log1p(-prevalence) - math.log(prevalence), "every image would be called"),
    )


def _value(right: Estimate, other: Estimate, log_odds: float, never: str) -> Figure:
    """The share of right ones among those that `right` counts: `right` of one kind, 1 - `other` of the other kind."""
    wrong = 1.0 - other.value
    if right.value <= 0.0 and wrong <= 0.0:
        return Undefined(reason=never)
    if right.value <= 0.0 or wrong <= 0.0:
        return Undefined(
            reason=f"it is {0 if right.value <= 0.0 else 1} in these images, of which no interval can be computed",
            needed="images of both kinds that are called alike",
        )
    value = float(special.expit(math.log(right.value) - math.log(wrong) + log_odds))
    se_logit = math.hypot(right.se / right.value, other.se / wrong)
    known = [figure.df for figure in (right, other) if figure.df is not None]
    found = Estimate(
        value=value,
        se=se_logit * value * (1.0 - value),
        low=value,
        high=value,
        level=right.level,
        df=min(known, default=None),
        method="logit",
    )
    low, high = bounds(found, (1.0 - right.level) / 2.0)
    return found.model_copy(update={"low": low, "high": high})
