"""Figures at a threshold and of probabilities, against scikit-learn, brute force, the bootstrap and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss

from cxr_ops.plan import OperatingPoints
from cxr_ops.records.evidence import Estimate, Undefined
from cxr_ops.stats import auc, checks, probability

rows = st.integers(8, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n),
        st.lists(st.integers(1, 11), min_size=n, max_size=n),  # few values, so that ties are common
        st.lists(st.integers(0, max(n // 2, 4)), min_size=n, max_size=n),
    )
)


@pytest.fixture(scope="module")
def calibrated():
    """Simulates probabilities that are right, images of a patient alike: truth, probabilities, patients, count."""

    def make(seed, patients=400, centre=-1.0):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(patients), 1 + rng.poisson(1.5, patients))
        x = centre + rng.standard_normal(patients)[owner] + 0.7 * rng.standard_normal(owner.size)
        return (rng.random(owner.size) < expit(x)).astype(float), expit(x), owner, patients

    return make


def derivative(value, owner, count):
    """How a weighted figure changes with the weight of each patient, by central differences."""
    slopes = []
    for patient in range(count):
        up, down = (value(np.where(owner == patient, 1 + h, 1.0)) for h in (1e-4, -1e-4))
        slopes.append((up - down) / 2e-4)
    return np.array(slopes)


def weighted_logistic(truth, x, weights, with_slope=True):
    """Intercept and slope by a general optimiser; or the intercept with the slope held at 1."""

    def loss(beta):
        eta = beta[0] + (beta[1] if with_slope else 1.0) * x
        return weights @ (np.logaddexp(0, eta) - truth * eta)

    def gradient(beta):
        residual = weights * (expit(beta[0] + (beta[1] if with_slope else 1.0) * x) - truth)
        return np.array([residual.sum(), residual @ x][: len(beta)])

    start = [0.0, 1.0] if with_slope else [0.0]
    found = optimize.minimize(loss, start, jac=gradient, method="BFGS", options={"gtol": 1e-9})
    return optimize.root(gradient, found.x, tol=1e-14).x


# ------------------------------------------------------------------------------------------------ figures


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_average_precision_is_scikit_learns(data):
    """The average precision of any scores, ties included, is scikit-learn's, and its parts sum to 0."""
    truth, scores, owner = data
    if sum(truth):
        found = probability.average_precision(truth, scores, owner, max(owner) + 1)
        assert found.value == pytest.approx(average_precision_score(truth, scores), abs=1e-12)
        assert found.parts.sum() == pytest.approx(0, abs=1e-12)


def test_parts_are_derivatives_by_the_weight_of_a_patient(calibrated):
    """Each figure's part of a patient is how the weighted figure changes with that patient's weight."""
    truth, p, owner, count = calibrated(1, patients=25)
    p = np.round(p, 1).clip(0.05, 0.95)  # ties
    x, called = logit(p), p >= 0.4
    positive = truth == 1
    figures = {
        "average precision": (
            probability.average_precision(truth, p, owner, count),
            lambda w: average_precision_score(truth, p, sample_weight=w),
        ),
        "sensitivity": (
            probability.share(called[positive], owner[positive], count),
            lambda w: np.average(called[positive], weights=w[positive]),
        ),
        "brier": (probability.brier(truth, p, owner, count), lambda w: brier_score_loss(truth, p, sample_weight=w)),
        "slope": (probability.slope(truth, x, owner, count), lambda w: weighted_logistic(truth, x, w)[1]),
        "intercept": (
            probability.intercept(truth, x, owner, count),
            lambda w: weighted_logistic(truth, x, w, False)[0],
        ),
    }
    for name, (found, weighted) in figures.items():
        assert found.value == pytest.approx(weighted(np.ones(owner.size)), abs=1e-8), name
        assert found.parts == pytest.approx(derivative(weighted, owner, count), abs=1e-6), name


def test_clustered_errors_are_the_bootstraps(calibrated):
    """Standard errors of all figures are those of a bootstrap of patients, and larger than those that count images."""
    truth, p, owner, count = calibrated(2)

    def values(t, q, patients, total):
        positive = t == 1
        return [
            probability.average_precision(t, q, patients, total),
            probability.share((q >= 0.4)[positive], patients[positive], total),
            probability.share((q < 0.4)[~positive], patients[~positive], total),
            probability.brier(t, q, patients, total),
            probability.slope(t, logit(q), patients, total),
            probability.intercept(t, logit(q), patients, total),
        ]

    rng = np.random.default_rng(0)
    of_patient = [np.flatnonzero(owner == patient) for patient in range(count)]
    draws = []
    for _ in range(400):
        take = np.concatenate([of_patient[patient] for patient in rng.integers(0, count, count)])
        draws.append([figure.value for figure in values(truth[take], p[take], np.zeros(take.size, int), 1)])
    # The error of a bootstrap standard error is 1/sqrt(800), 3.5 %.
    found = values(truth, p, owner, count)
    assert [np.sqrt(np.sum(f.parts**2)) for f in found] == pytest.approx(np.std(draws, axis=0, ddof=1), rel=0.15)
    by_image = values(truth, p, np.arange(truth.size), truth.size)[1]
    assert np.sum(by_image.parts**2) < 0.8 * np.sum(found[1].parts ** 2)


def test_one_image_a_patient_is_binomial():
    """With one image a patient, the standard error of a share is the unbiased binomial one."""
    called = np.arange(50) < 37
    figure = probability.single(
        probability.share(called, np.arange(50), 50), probability.Clusters.of(np.ones(50, int)), 0.95, "logit"
    )
    assert (figure.value, figure.df) == (0.74, 49)
    assert figure.se == pytest.approx(math.sqrt(0.74 * 0.26 / 49))


@pytest.mark.parametrize(("called", "side"), [(0, "high"), (30, "low")])
def test_a_share_without_exception_has_the_exact_bound(called, side):
    """A share of 0 or 1 on patients of one image each has Clopper and Pearson's bound."""
    part = probability.share(np.arange(30) < called, np.arange(30), 30)
    figure = probability.single(part, probability.Clusters.of(np.ones(30, int)), 0.95, "logit")
    exact = stats.binomtest(called, 30).proportion_ci(0.95)
    assert (figure.low, figure.high) == pytest.approx((exact.low, exact.high), abs=1e-12)
    assert figure.value == called / 30


def test_a_difference_of_nothing_depends_on_why():
    """One order gives [0, 0]; equal calls by another order the exact bound; a gap that nobody varies is undefined."""
    clusters = probability.Clusters.of(np.ones(30, int))
    all_called, none_called = (probability.share(np.full(30, called), np.arange(30), 30) for called in (True, False))
    same = probability.difference(all_called, all_called, clusters, 0.95, same_order=True)
    assert (same.value, same.se, same.low, same.high) == (0, 0, 0, 0)
    equal = probability.difference(all_called, all_called, clusters, 0.95, same_order=False)
    assert (equal.value, equal.low) == (0, pytest.approx(0.025 ** (1 / 30) - 1))
    assert isinstance(probability.difference(all_called, none_called, clusters, 0.95, same_order=False), Undefined)


def test_intervals_of_shares_cover_the_truth():
    """95 % intervals of a sensitivity near 0.9 and of a paired difference hold the truth in 93 to 97 % of studies."""
    inside, of_difference = [], []
    for seed in range(1500):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(80), 1 + rng.poisson(1.0, 80))
        shared = rng.standard_normal(80)[owner]
        calls = [shared + rng.standard_normal(owner.size) > math.sqrt(2) * stats.norm.ppf(0.1) for _ in range(2)]
        clusters = probability.Clusters.of(np.bincount(owner))
        one, two = (probability.share(call, owner, 80) for call in calls)
        figure = probability.single(one, clusters, 0.95, "logit")
        inside.append(figure.low <= 0.9 <= figure.high)
        gap = probability.difference(one, two, clusters, 0.95, same_order=False)
        of_difference.append(gap.low <= 0 <= gap.high)
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)
    assert np.mean(of_difference) == pytest.approx(0.95, abs=0.02)


def test_calibration_error_is_the_plain_one_less_its_bias_by_resampling(calibrated):
    """The debiased error is twice the plain one minus its mean over normal gaps, as Kumar, Liang and Ma resample it."""
    truth, p, _, _ = calibrated(3)
    found = probability.calibration_error(truth, p, np.arange(p.size), p.size)
    bins = np.array_split(np.argsort(-p), 10)
    gap = np.array([(p[b] - truth[b]).mean() for b in bins])
    n = p.size
    spread = np.array(
        [np.sqrt(((p[b] - truth[b]) ** 2).mean() - g**2) / math.sqrt(len(b)) for b, g in zip(bins, gap, strict=True)]
    )
    weights = np.array([len(b) for b in bins]) / n
    drawn = np.abs(np.random.default_rng(0).normal(gap, spread, (200_000, 10))) @ weights
    assert found.value == pytest.approx(2 * weights @ np.abs(gap) - drawn.mean(), abs=5e-4)


def test_calibration_error_is_nearly_unbiased(calibrated):
    """Probabilities that are wrong by 0.1 have an error of 0.1; right ones have at most 0.7 of the plain error."""
    wrong, right, plain = [], [], []
    for seed in range(60):
        truth, p, owner, count = calibrated(seed, patients=200)
        wrong.append(probability.calibration_error(truth, np.minimum(p + 0.1, 1), owner, count).value)
        right.append(probability.calibration_error(truth, p, owner, count).value)
        curve = probability.reliability(truth, p)
        plain.append(sum(b.images * abs(b.predicted - b.observed) for b in curve) / truth.size)
    assert np.mean(wrong) == pytest.approx(0.1, abs=0.006)
    assert np.mean(right) < 0.7 * np.mean(plain)


def test_reliability_bins_are_equal_and_keep_ties():
    """Bins hold equally many images and rise; equal probabilities are never in two bins."""
    rng = np.random.default_rng(0)
    p = rng.permutation(np.arange(1000) / 1000)
    truth = (rng.random(1000) < p).astype(float)
    curve = probability.reliability(truth, p)
    assert [b.images for b in curve] == [100] * 10
    assert [b.predicted for b in curve] == pytest.approx(np.sort(p).reshape(10, 100).mean(axis=1))
    assert [b.observed for b in curve] == pytest.approx(truth[np.argsort(p)].reshape(10, 100).mean(axis=1))
    tied = probability.reliability(truth, np.round(p, 1))
    assert sum(b.images for b in tied) == 1000
    assert len({round(b.predicted, 6) for b in tied}) == len(tied)
    assert all(abs(b.predicted * 10 - round(b.predicted * 10)) < 1e-9 for b in tied if b.images <= 100)


# --------------------------------------------------------------------------------- what validation fixes


@settings(deadline=None)  # a busy machine is not a fault
@given(rows, st.sampled_from([0.5, 0.8, 0.9]))
def test_thresholds_are_those_of_a_search(data, target):
    """Each rule chooses what a search over all scores chooses, ties included."""
    truth, scores, _ = (np.asarray(column) for column in data)
    if not 0 < truth.sum() < truth.size:
        return
    candidates = np.unique(scores)
    sensitivity = np.array([(scores[truth == 1] >= t).mean() for t in candidates])
    specificity = np.array([(scores[truth == 0] < t).mean() for t in candidates])

    def chosen(rule, goal=None):
        return probability.threshold(truth, scores, OperatingPoints(rule=rule, target=goal))

    assert chosen("sensitivity", target) == candidates[sensitivity >= target].max()
    reached = candidates[specificity >= target]
    found = chosen("specificity", target)
    assert found == reached.min() if reached.size else isinstance(found, Undefined)
    sums = np.round(sensitivity + specificity, 9)
    assert chosen("youden") == candidates[sums == sums.max()].max()


def test_recalibration_is_a_logistic_regression(calibrated):
    """Intercept and slope are scikit-learn's without penalty, from a start far away too."""
    truth, p, _, _ = calibrated(4)
    for shift, stretch in ((0.0, 1.0), (4.0, 0.2), (-4.0, 2.0)):
        x = shift + stretch * logit(p)
        other = LogisticRegression(C=1e12, solver="newton-cholesky", tol=1e-10).fit(x[:, None], truth)
        found = probability.recalibrate(truth, expit(x))
        assert found == pytest.approx((other.intercept_[0], other.coef_[0, 0]), rel=1e-4)


def test_recalibration_takes_back_a_weighted_loss(calibrated):
    """After recalibration, odds that a weight on positives made 20 times too large are calibrated again."""
    truth, p, owner, count = calibrated(5, patients=3000)
    a, b = probability.recalibrate(truth, expit(logit(p) + math.log(20)))
    assert (a, b) == (pytest.approx(-math.log(20), abs=0.4), pytest.approx(1, abs=0.1))
    x = a + b * (logit(p) + math.log(20))
    assert probability.slope(truth, x, owner, count).value == pytest.approx(1, abs=1e-6)
    assert probability.intercept(truth, x, owner, count).value == pytest.approx(0, abs=1e-6)


def test_slope_and_intercept_are_found_from_far_away(calibrated):
    """Logits that are 8 times too extreme, or too high by 12, have the slope and intercept that takes that back."""
    truth, p, owner, count = calibrated(7)
    near = probability.slope(truth, logit(p), owner, count), probability.intercept(truth, logit(p), owner, count)
    far = (
        probability.slope(truth, 8 * logit(p), owner, count),
        probability.intercept(truth, logit(p) + 12, owner, count),
    )
    assert far[0].value == pytest.approx(near[0].value / 8, rel=1e-6)
    assert far[1].value == pytest.approx(near[1].value - 12, abs=1e-6)
    assert far[1].parts == pytest.approx(near[1].parts, abs=1e-6)


@pytest.mark.parametrize(
    ("truth", "scores", "reason"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4], "separate"),
        ([1, 1, 0, 0], [0.1, 0.2, 0.2, 0.4], "separate"),
        ([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5], "all scores are the same"),
        ([0, 1, 0, 1], [0.5, 1.5, 0.7, 0.5], "not between 0 and 1"),
        ([0, 1, 0, 1], [0.5, math.nan, 0.7, 0.5], "1 of 4 validation scores are not finite"),
        ([0, 0, 0, math.nan], [0.5, 0.4, 0.7, 0.5], "no positive image"),
        ([1, 1, 1, math.nan], [0.5, 0.4, 0.7, 0.5], "no negative image"),
    ],
)
def test_a_recalibration_that_cannot_be_had_says_why(truth, scores, reason):
    """Separated, constant or invalid validation scores, or labels of one kind, give Undefined with the reason."""
    found = probability.recalibrate(truth, scores)
    assert isinstance(found, Undefined)
    assert reason in found.reason


def test_positives_and_negatives_that_meet_in_one_value_have_no_slope():
    """Logits that overlap in a single value have no slope of highest likelihood, however the sums are rounded."""
    rng = np.random.default_rng(0)
    cases = [np.array([-5.8, -3.7, -3.0, -1.1, -1.1, 3.9]), np.array([-3.3, -3.3, -3.2, -0.3, -0.3, 3.1])]
    for x in (*cases, *np.sort(np.round(2 * rng.standard_normal((400, 8)) - 2, 1))):
        x[3] = x[4]
        found = probability.slope(np.arange(x.size) >= 4, x, np.arange(x.size), x.size)
        assert isinstance(found, Undefined), x
        assert "separate" in found.reason


# -------------------------------------------------------------------------------------------- performance


def _study(calibrated, seed=6):
    rng = np.random.default_rng(seed)

    def rounded(x):  # ties, also with the threshold
        return np.round(expit(x), 2).clip(0.01, 0.99)[:, None]

    truth, p, owner, _ = calibrated(seed)
    noise = 0.4 * rng.standard_normal(p.size)
    scores = {"challenger": rounded(logit(p)), "champion": rounded(0.8 * logit(p) + 0.3 + noise)}
    truth_v, p_v, _, _ = calibrated(seed + 100)
    rule = OperatingPoints(rule="specificity", target=0.8)
    frozen = probability.freeze(["Mass"], truth_v[:, None], dict.fromkeys(scores, rounded(logit(p_v))), rule)
    return truth[:, None], owner, scores, frozen


def _performance(truth, owner, scores, frozen, among=None):
    tables = auc.Tables.of(["Mass"], truth, owner, scores)
    if among is not None:
        tables = tables.among(np.flatnonzero(among))
    [found] = probability.performance(["Mass"], tables, tables.ranks(), frozen, level=0.95)
    return found


def _numbers(found):
    return {
        (name, model): getattr(getattr(found, name), model)
        for name in ("average_precision", "sensitivity", "specificity", "brier", "slope", "intercept", "ece")
        for model in ("challenger", "champion", "difference")
    }


def _agree(one, two):
    assert one.support == two.support
    for key, figure in _numbers(one).items():
        other = _numbers(two)[key]
        assert type(figure) is type(other), key
        if isinstance(figure, Estimate):
            pairs = [(getattr(figure, name), getattr(other, name)) for name in ("value", "se", "low", "high", "df")]
            assert [a for a, _ in pairs] == pytest.approx([b for _, b in pairs], abs=1e-9), key
    for model, curve in one.reliability.items():
        assert [(b.images, b.predicted, b.observed) for b in curve] == [
            (b.images, pytest.approx(b.predicted), pytest.approx(b.observed)) for b in two.reliability[model]
        ]


def test_all_figures_are_those_of_the_single_functions(calibrated):
    """Values, and the errors of the differences, are those of the single functions."""
    truth, owner, scores, frozen = _study(calibrated)
    found = _performance(truth, owner, scores, frozen)
    y, count = truth[:, 0], owner.max() + 1
    p = {}
    for model, table in scores.items():
        a, b = found.recalibration[model]
        p[model] = expit(a + b * logit(table[:, 0]))
        called = table[:, 0] >= found.thresholds[model]
        figures = getattr(found.sensitivity, model), getattr(found.specificity, model), getattr(found.brier, model)
        assert [figure.value for figure in figures] == pytest.approx(
            [called[y == 1].mean(), (~called[y == 0]).mean(), brier_score_loss(y, p[model])]
        )
    parts = [probability.brier(y, p[model], owner, count).parts for model in scores]
    rarer = np.bincount(owner[y == 1], minlength=count)
    inflation = (rarer > 0).sum() / ((rarer > 0).sum() - 1)
    assert found.brier.difference.se == pytest.approx(np.sqrt(inflation * ((parts[0] - parts[1]) ** 2).sum()))
    assert found.brier.difference.df == pytest.approx(rarer.sum() ** 2 / (rarer**2).sum() - 1)


def test_a_subset_is_as_if_the_other_images_were_not_there(calibrated):
    """Figures of a subset are those of its rows alone; a missing label leaves out its row."""
    truth, owner, scores, frozen = _study(calibrated)
    mask = np.random.default_rng(0).random(owner.size) < 0.4
    alone = {model: table[mask] for model, table in scores.items()}
    expected = _performance(truth[mask], owner[mask], alone, frozen)
    found = _performance(truth, owner, scores, frozen, among=mask)
    _agree(found, expected)
    holes = np.where(mask[:, None], truth, np.nan)
    found = _performance(holes, owner, scores, frozen)
    _agree(found, expected)


@settings(deadline=None, max_examples=25)  # a busy machine is not a fault
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(calibrated, seed):
    """Rows in another order, and patients under other numbers, change no figure."""
    truth, owner, scores, frozen = _study(calibrated)
    rng = np.random.default_rng(seed)
    order, names = rng.permutation(owner.size), rng.permutation(owner.max() + 1)
    one = _performance(truth, owner, scores, frozen)
    moved = {model: table[order] for model, table in scores.items()}
    two = _performance(truth[order], names[owner[order]], moved, frozen)
    _agree(one, two)


def test_identical_models_differ_by_exactly_nothing(calibrated):
    """A model held against itself differs by 0 with the interval [0, 0] in every figure."""
    truth, owner, scores, frozen = _study(calibrated)
    same = {"challenger": scores["challenger"], "reference": scores["challenger"].copy()}
    frozen = probability.Frozen(
        thresholds={"challenger": [0.4], "reference": [0.4]},
        recalibration={"challenger": [(0.1, 1.1)], "reference": [(0.1, 1.1)]},
    )
    found = _performance(truth, owner, same, frozen)
    for name in ("average_precision", "sensitivity", "specificity", "brier", "slope", "intercept", "ece"):
        figure = getattr(found, name).reference_difference
        assert (figure.value, figure.se, figure.low, figure.high) == (0, 0, 0, 0), name
        assert getattr(found, name).champion is None


def test_without_positives_only_the_specificity_is_left(calibrated):
    """A finding without positives has a specificity, and for all else a reason and what is needed."""
    truth, owner, scores, frozen = _study(calibrated)
    found = _performance(0 * truth, owner, scores, frozen)
    for (name, _), figure in _numbers(found).items():
        if name == "specificity":
            assert isinstance(figure, Estimate)
        else:
            assert (figure.reason, figure.needed) == (
                "0 positive patients, and at least 2 are needed",
                "2 more positive patients",
            )


def test_faults_of_one_model_leave_the_other_its_figures(calibrated):
    """Scores that are NaN, no probabilities or constant make a model's figures undefined, not the other model's."""
    truth, owner, scores, frozen = _study(calibrated)

    def found_with(values):
        broken = {**scores, "champion": values}
        found = _performance(truth, owner, broken, frozen)
        assert all(
            isinstance(figure, Estimate) for (_, model), figure in _numbers(found).items() if model == "challenger"
        )
        return found

    values = scores["champion"].copy()
    values[3] = np.nan
    found = found_with(values)
    assert "1 of" in found.average_precision.champion.reason
    assert found.sensitivity.difference == found.sensitivity.champion
    found = found_with(scores["champion"] * 5)
    assert "not between 0 and 1" in found.brier.difference.reason
    assert isinstance(found.sensitivity.difference, Estimate)
    found = found_with(np.full_like(values, 0.5))
    assert found.slope.champion.reason == "all scores are the same"
    assert found.average_precision.champion.value == pytest.approx(truth.mean())


@pytest.mark.parametrize("line", [(0.0, 400.0), (900.0, 1.0), (-900.0, 1.0)])
def test_an_absurd_recalibration_does_not_stop_the_rest(calibrated, line):
    """Recalibrated probabilities of exactly 0 and 1 leave slope and intercept a number or a reason."""
    truth, owner, scores, frozen = _study(calibrated)
    extreme = probability.Frozen(thresholds=frozen.thresholds, recalibration={model: [line] for model in scores})
    found = _performance(truth, owner, scores, extreme)
    for figure in (found.slope.challenger, found.intercept.challenger):
        assert isinstance(figure, Undefined) or math.isfinite(figure.se)
    assert isinstance(found.sensitivity.difference, Estimate)
    assert isinstance(found.brier.challenger, Estimate)


def test_without_validation_there_is_no_threshold(calibrated):
    """Without a validation set, average precision stands alone, and the rest says what it lacks."""
    truth, owner, scores, _ = _study(calibrated)
    frozen = probability.unfrozen(["Mass"], list(scores))
    found = _performance(truth, owner, scores, frozen)
    assert isinstance(found.average_precision.difference, Estimate)
    assert (found.thresholds, found.recalibration, found.reliability["challenger"]) == ({}, {}, [])
    for name in ("sensitivity", "specificity", "brier", "slope", "intercept", "ece"):
        assert getattr(found, name).difference.needed == "scores of a validation set"


# ------------------------------------------------------------------------------------------------- flips


def flips_of(truth, patients, challenger, champion, at=(0.5, 0.5)):
    """What flips of one finding, from (N,) arrays; `at` are the thresholds of challenger and champion."""
    scores = {"challenger": np.c_[challenger], "champion": np.c_[champion]}
    tables = auc.Tables.of(["Mass"], np.c_[truth], patients, scores)
    frozen = probability.Frozen(
        thresholds={"challenger": [at[0]], "champion": [at[1]]},
        recalibration={"challenger": [(0.0, 1.0)], "champion": [(0.0, 1.0)]},
    )
    [found] = probability.performance(["Mass"], tables, tables.ranks(), frozen, level=0.95)
    return found


@settings(max_examples=40, deadline=None)
@given(rows, st.integers(0, 2**31))
def test_what_flips_is_counted_image_by_image(data, seed):
    """The four kinds of flips are those of a loop over images, and add up to both differences of the shares."""
    truth, owner = np.array(data[0]), np.unique(np.array(data[2]), return_inverse=True)[1]
    if not 0 < truth.sum() < truth.size:
        return
    rng = np.random.default_rng(seed)
    challenger, champion = rng.integers(1, 11, (2, truth.size)) / 12
    found = flips_of(truth, owner, challenger, champion, at=(4 / 12, 6 / 12))
    seen: dict[str, list[int]] = {"missed": [], "found": [], "alarmed": [], "cleared": []}
    for image in range(truth.size):
        now, before = challenger[image] >= 4 / 12, champion[image] >= 6 / 12
        if now != before:
            kinds = ("missed", "found") if truth[image] else ("cleared", "alarmed")
            seen[kinds[int(now)]].append(int(owner[image]))
    for kind, owners in seen.items():
        flip = getattr(found.flips, kind)
        assert (flip.images, flip.patients) == (len(owners), len(set(owners)))
    for figures, better, worse, images in (
        (found.sensitivity, found.flips.found, found.flips.missed, truth.sum()),
        (found.specificity, found.flips.cleared, found.flips.alarmed, (1 - truth).sum()),
    ):
        if isinstance(figures.difference, Estimate):
            assert figures.difference.value * images == pytest.approx(better.images - worse.images)


def test_nothing_that_flips_has_the_exact_bound_and_a_model_without_a_threshold_no_flips():
    """Of 40 patients none of whom flips, up to 8.8 % may; where a model has no threshold, nothing is said."""
    truth, patients = np.repeat([1.0, 0.0], 40), np.arange(80)
    scores = np.where(truth == 1, 0.9, 0.1)
    share = flips_of(truth, patients, scores, scores).flips.missed.share
    exact = stats.binomtest(0, 40).proportion_ci(0.95, "exact")
    assert (share.value, share.low, share.high) == pytest.approx((0.0, exact.low, exact.high))
    assert flips_of(truth, patients, scores, scores, at=(0.5, Undefined(reason="none"))).flips is None


def test_intervals_of_flips_cover_the_truth():
    """With images of a patient alike, the interval of the share that is missed now holds the true share."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(400):
        owner = np.repeat(np.arange(150), 1 + rng.poisson(1.0, 150))
        shared = rng.standard_normal((2, 150))[:, owner] * math.sqrt(0.5)
        latent = shared + rng.standard_normal((2, owner.size)) * math.sqrt(0.5)
        # The champion calls 80 %, the challenger a fifth fewer of those: 0.16 of all flip.
        champion = stats.norm.cdf(latent[0]) > 0.2
        kept = stats.norm.cdf(latent[1]) > 0.2
        truth = np.r_[np.ones(owner.size), 0.0, 0.0]
        before, now = (np.r_[calls, 0, 0].astype(float) for calls in (champion, champion & kept))
        share = flips_of(truth, np.r_[owner, 150, 151], now, before).flips.missed.share
        held += share.low <= 0.16 <= share.high
    assert 0.92 <= held / 400 <= 0.98


@given(st.integers(1, 39), st.floats(0.02, 0.98))
def test_evidence_that_a_share_is_large_is_that_the_rest_is_small(hits, limit):
    """The p-value that a share lies above a limit agrees with its lower bound, as for the share of all others."""
    called, patients = np.arange(40) < hits, np.arange(40)
    clusters = probability.Clusters(patients=40, effective=40.0)
    one, rest = (
        probability.single(probability.share(calls, patients, 40), clusters, 0.95, "logit")
        for calls in (called, ~called)
    )
    p = checks.p_above(one, limit)
    assert p == pytest.approx(auc.p_below(rest, 1 - limit))
    low, _ = auc.bounds(one, 0.025)
    if abs(low - limit) > 1e-9:
        assert (p <= 0.025) == (low >= limit)
