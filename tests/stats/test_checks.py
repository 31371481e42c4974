"""One claim at a time: its bounds, what its failure says, and the corrections for the number of claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cxr_ops.records.evidence import Estimate, Undefined
from cxr_ops.stats import checks
from cxr_ops.stats.checks import Claim


def figure(value, se, **changes) -> Estimate:
    """An estimate with the normal distribution."""
    known = {"value": value, "se": se, "low": value - 2 * se, "high": value + 2 * se, "level": 0.95}
    return Estimate(**(known | changes))


def margin(value, se, limit=-0.03, **changes) -> Claim:
    """A claim that a macro-AUC is not lower than the champion's by 0.03, on 500 patients."""
    known = {"kind": "margin", "against": "champion", "figure": figure(value, se), "limit": limit, "patients": 500}
    return Claim(**(known | changes))


def judge_one(claim, alpha=0.025):
    """The check and the reason of a claim that stands alone."""
    made, reasons = checks.judge([[claim]], alpha)
    return made[0], (reasons[0] if reasons else None)


def test_holm_is_the_textbooks():
    """Holm's example of four p-values, adjusted by hand, and never below the p-value itself."""
    assert checks.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert checks.holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    """At any level, the adjusted p-values at or below it are those that Holm's procedure rejects, step by step."""
    adjusted = checks.holm(p_values)
    for level in (0.01, 0.05, 0.3):
        rejected = set()
        for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
            if (len(p_values) - place) * p_values[i] > level:
                break
            rejected.add(i)
        assert {i for i, p in enumerate(adjusted) if p <= level} == rejected


@pytest.mark.parametrize(
    ("value", "se", "outcome", "code"),
    [
        (0.0, 0.01, "met", None),
        (-0.029, 0.0001, "met", None),  # worse for certain, and within the margin: that is what a margin is for
        (-0.0103, 0.01, "met", None),  # the bound stands at -0.0299
        (-0.0105, 0.01, "failed", "MARGIN_NOT_MET"),
        (-0.02, 0.012, "unclear", "MARGIN_NOT_SHOWN"),
        (-0.02, 0.0105, "failed", "MARGIN_NOT_MET"),  # 0.03 / 2.80 would show it for an equal model
        (-0.05, 0.02, "failed", "WORSE"),
        (-0.031, 0.001, "failed", "WORSE"),
        (0.3, 0.2, "unclear", "MARGIN_NOT_SHOWN"),
    ],
)
def test_a_margin_is_met_failed_or_unclear(value, se, outcome, code):
    """The bounds decide what is met; harm or enough patients make a failure of what is not."""
    check, reason = judge_one(margin(value, se))
    assert check.outcome == outcome
    assert (reason.code if reason else None) == code
    assert (check.low, check.high) == pytest.approx((value - 1.959964 * se, value + 1.959964 * se))
    assert (check.needed is not None) == (outcome == "unclear")


@pytest.mark.parametrize("family", [1, 14])
def test_enough_patients_are_those_that_show_the_whole_family(family):
    """At the standard error where a failure starts to count, a family of true claims is shown in 80 % of studies."""
    limit = 0.03 / (stats.norm.isf(0.025) + stats.norm.isf(0.2 / family))
    for factor, outcome in ((0.999, "failed"), (1.001, "unclear")):
        claims = [margin(-0.02, factor * limit)] + [margin(0.0, 0.001)] * (family - 1)
        assert checks.judge([claims], 0.025)[0][0].outcome == outcome
    estimates = np.random.default_rng(0).normal(0.0, limit, (20_000, family))
    shown = (estimates - stats.norm.isf(0.025) * limit > -0.03).all(axis=1)
    assert shown.mean() == pytest.approx(0.8, abs=0.03)  # Bonferroni's bound is a little below the truth


def test_harm_is_corrected_for_the_family():
    """A loss that counts as shown when it stands alone does not among fourteen claims."""
    loss = margin(-0.1, 0.05, limit=-0.02)
    assert judge_one(loss)[0].outcome == "failed"
    others = [margin(0.0, 0.001)] * 13
    assert checks.judge([[loss, *others]], 0.025)[0][0].outcome == "unclear"


@pytest.mark.parametrize(
    ("value", "se", "outcome", "code"),
    [
        (1.0, 0.05, "met", None),
        (0.9, 0.04, "met", None),
        (0.9, 0.06, "failed", "MISCALIBRATED"),  # for a slope of 1, 0.06 would have been enough
        (0.9, 0.2, "unclear", "CALIBRATION_NOT_SHOWN"),
        (1.2, 0.2, "unclear", "CALIBRATION_NOT_SHOWN"),
        (0.6, 0.05, "failed", "MISCALIBRATED"),
        (1.5, 0.08, "failed", "MISCALIBRATED"),
    ],
)
def test_a_slope_must_be_shown_to_lie_between_its_limits(value, se, outcome, code):
    """Both one-sided bounds must lie within the limits, and a slope beyond either of them is a failure."""
    claim = Claim(kind="slope", finding="Mass", figure=figure(value, se), limit=0.8, upper=1.25, patients=60)
    check, reason = judge_one(claim)
    assert check.outcome == outcome
    assert (reason.code if reason else None) == code
    assert reason is None or reason.sentence.startswith("Calibration slope for Mass: ")


@pytest.mark.parametrize(
    ("value", "se", "outcome", "code"),
    [
        (-0.01, 0.001, "met", None),
        (0.002, 0.001, "met", None),
        (0.002, 0.0025, "unclear", "MARGIN_NOT_SHOWN"),
        (0.004, 0.0015, "failed", "WORSE"),
        (0.003, 0.00178, "failed", "MARGIN_NOT_MET"),
    ],
)
def test_a_brier_score_may_not_rise_by_its_margin(value, se, outcome, code):
    """A Brier score is better when it is lower, so it is the upper bound that must lie below the margin."""
    claim = Claim(
        kind="brier",
        against="reference",
        finding="Mass",
        figure=figure(value, se),
        limit=None,
        upper=0.005,
        patients=60,
    )
    check, reason = judge_one(claim)
    assert check.outcome == outcome
    assert (reason.code if reason else None) == code
    assert reason is None or "against the reference" in reason.sentence


def test_the_patients_needed_are_enough():
    """With as many patients as are asked for, an equally good model meets the margin in 80 % of studies."""
    check, reason = judge_one(margin(-0.01, 0.04))
    se = 0.04 * math.sqrt(500 / check.needed)
    estimates = np.random.default_rng(0).normal(0.0, se, 40_000)
    assert (estimates - stats.norm.isf(0.025) * se > -0.03).mean() == pytest.approx(0.8, abs=0.01)
    assert f"about {check.needed} patients" in reason.sentence
    assert reason.numbers["needed"] == check.needed


def test_no_number_of_patients_is_named_where_none_would_help():
    """An AUC below its floor, or an error without any bound, is not answered with a number of patients."""
    low = Claim(kind="floor", figure=figure(0.64, 0.02), limit=0.65, patients=500)
    assert judge_one(low)[0].needed is None
    hopeless, reason = judge_one(margin(0.0, 100.0))
    assert (hopeless.outcome, hopeless.needed) == ("unclear", None)
    assert reason.sentence.endswith("is not shown.")


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (None, "it is missing"),
        (Undefined(reason="no positives", needed="20 more positive patients"), "no positives"),
        (figure(1.2, 0.01), "outside -1 to 1"),
        (figure(0.0, 0.01, low=0.1), "outside its interval"),
        (figure(0.0, 0.01).model_copy(update={"se": -0.01}), "cannot be"),
        (figure(0.0, 0.01, df=0.0), "cannot be"),
        (figure(0.0, 0.01, level=1.0), "cannot be"),
        (figure(0.02, 0.0), "method 'wald'"),
        (figure(0.5, 0.01, method="logit"), "method 'logit'"),
        (figure(1.0, 0.0, method="separated"), "method 'separated'"),
        (figure(-0.5, 0.0, method="separated"), "method 'separated'"),
        (figure(0.02, 0.0, method="separated_difference"), "method 'separated_difference'"),
        (figure(0.0, 1e308, low=-1, high=1), "bounds cannot be computed"),
    ],
)
def test_a_figure_that_is_missing_or_impossible_is_undefined(found, why):
    """What is no figure is told as undefined, with the reason, and never met."""
    check, reason = judge_one(margin(0, 1, figure=found))
    assert (check.outcome, reason.code) == ("undefined", "UNDEFINED_EVIDENCE")
    assert why in reason.sentence


def test_the_figures_that_models_without_error_give_are_possible():
    """An AUC of 1, two models of AUC 1, and two models of the same order are judged like other figures."""
    perfect = figure(1.0, 0.0, method="separated", df=60.0, low=0.95, high=1.0)
    assert judge_one(Claim(kind="floor", figure=perfect, limit=0.8, patients=60))[0].outcome == "met"
    same = figure(0.0, 0.0)
    assert judge_one(margin(0, 1, figure=same))[0].outcome == "met"
    both = figure(0.0, 0.0, method="separated_difference", df=10.0, low=-0.3, high=0.3)
    assert judge_one(margin(0, 1, figure=both))[0].outcome == "unclear"


@given(st.floats(-0.3, 0.3), st.floats(1e-4, 0.2), st.floats(1.0, 500.0), st.sampled_from([0.005, 0.025, 0.05]))
def test_a_check_is_met_exactly_where_its_bounds_say_so(value, se, df, alpha):
    """The outcome agrees with the textbook's bound by Student's t, and a lower figure is never judged better."""
    claim = margin(0, 1, figure=figure(value, se, df=df))
    made = checks.judge([[claim]], alpha)[0][0]
    assert (made.outcome == "met") == (value - stats.t.isf(alpha, df) * se > -0.03)
    lower = checks.judge([[margin(0, 1, figure=figure(value - 0.05, se, df=df))]], alpha)[0][0]
    worth = {"met": 2, "unclear": 1, "failed": 0}
    assert worth[lower.outcome] <= worth[made.outcome]
