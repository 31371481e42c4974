"""Predictive values against counting, simulation of patients, and the places where they do not exist."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_ops.records.evidence import Estimate, Undefined
from cxr_ops.stats.predictive import predictive_values


def share(value: float, se: float = 0.02) -> Estimate:
    return Estimate(value=value, se=se, low=value - 2 * se, high=value + 2 * se, level=0.95)


@given(
    called=st.integers(1, 99),
    cleared=st.integers(1, 99),
    positives=st.integers(1, 9999),
    negatives=st.integers(1, 9999),
)
def test_they_are_what_counting_gives_in_a_population(called, cleared, positives, negatives):
    """In a population of so many images with and without a finding, the shares of right calls are counted."""
    sensitivity, specificity = called / 100, cleared / 100
    right, false = sensitivity * positives, (1 - specificity) * negatives
    silent, missed = specificity * negatives, (1 - sensitivity) * positives
    ppv, npv = predictive_values(share(sensitivity), share(specificity), positives / (positives + negatives))
    assert ppv.value == pytest.approx(right / (right + false), rel=1e-9)
    assert npv.value == pytest.approx(silent / (silent + missed), rel=1e-9)
    assert 0 < ppv.low <= ppv.value <= ppv.high < 1
    assert 0 < npv.low <= npv.value <= npv.high < 1


def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Over 2,000 simulated test sets the 95 % intervals of both hold the true value in 93 to 97 of 100."""
    rng, positives, negatives, prevalence = np.random.default_rng(7), 200, 800, 0.05
    true_sensitivity, true_specificity = 0.8, 0.9
    ppv = true_sensitivity * prevalence / (true_sensitivity * prevalence + (1 - true_specificity) * (1 - prevalence))
    npv = true_specificity * (1 - prevalence)
    npv /= npv + (1 - true_sensitivity) * prevalence
    hits = np.zeros(2)
    for right, silent in zip(
        rng.binomial(positives, true_sensitivity, 2000) / positives,
        rng.binomial(negatives, true_specificity, 2000) / negatives,
        strict=True,
    ):
        parts = [share(float(p), float(np.sqrt(p * (1 - p) / n))) for p, n in ((right, positives), (silent, negatives))]
        found = predictive_values(*parts, prevalence)
        hits += [one.low <= truth <= one.high for one, truth in zip(found, (ppv, npv), strict=True)]
    assert np.all((hits / 2000 > 0.93) & (hits / 2000 < 0.97))


def test_few_patients_widen_the_interval():
    """Degrees of freedom are the fewer of both, and few make a wider interval."""
    few = share(0.8).model_copy(update={"df": 5.0})
    ppv, _ = predictive_values(few, share(0.9).model_copy(update={"df": 90.0}), 0.1)
    wide, _ = predictive_values(share(0.8), share(0.9), 0.1)
    assert ppv.df == 5.0
    assert ppv.high - ppv.low > wide.high - wide.low


@pytest.mark.parametrize(
    ("sensitivity", "specificity", "which", "says"),
    [
        (1.0, 0.9, 1, "it is 1 in these images"),
        (0.8, 1.0, 0, "it is 1 in these images"),
        (0.0, 0.9, 0, "it is 0 in these images"),
        (0.0, 1.0, 0, "no image would be called"),
        (1.0, 0.0, 1, "every image would be called"),
    ],
)
def test_what_has_no_interval_is_undefined_with_a_reason(sensitivity, specificity, which, says):
    """Where nobody is called wrongly, or rightly, there is a reason and no number."""
    found = predictive_values(share(sensitivity), share(specificity), 0.1)[which]
    assert isinstance(found, Undefined)
    assert says in found.reason


def test_an_undefined_part_gives_its_own_reason():
    """Without a sensitivity both values are undefined, for the same reason."""
    gone = Undefined(reason="no positive image")
    assert predictive_values(gone, share(0.9), 0.1) == (gone, gone)


@pytest.mark.parametrize("prevalence", [0.0, 1.0, -0.1, float("nan")])
def test_a_prevalence_that_is_none_is_refused(prevalence):
    """A prevalence lies within 0 and 1."""
    with pytest.raises(ValueError, match="lies between 0 and 1"):
        predictive_values(share(0.8), share(0.9), prevalence)
