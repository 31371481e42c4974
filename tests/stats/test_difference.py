"""The interval of a difference of AUCs against simulation, an optimizer, DeLong, and Clopper and Pearson."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import optimize, special, stats

from cxr_ops.stats import auc, difference

STUDIES = 600
# Four standard errors of a share of 0.95 in so many studies; the full figures stand in docs/gate-simulation.md.
SLACK = 4 * math.sqrt(0.95 * 0.05 / STUDIES)


def _study(rng, areas, positives, negatives, correlation, *, clustered=False):
    """Truth, patients, and binormal scores of two models whose AUCs are known."""
    patients = positives + negatives
    images = 1 + rng.geometric(0.35, patients) if clustered else np.ones(patients, dtype=int)
    owner = np.repeat(np.arange(patients), images)
    truth = ((owner < positives) & ((rng.random(owner.size) < 0.6) | (np.diff(owner, prepend=-1) > 0))).astype(float)

    def noise():
        own, shared = rng.standard_normal(owner.size), rng.standard_normal(patients)[owner]
        return math.sqrt(0.5) * (own + shared) if clustered else own

    common = math.sqrt(correlation) * noise()
    models = [
        common + math.sqrt(1 - correlation) * noise() + math.sqrt(2) * special.ndtri(area) * truth for area in areas
    ]
    return truth, owner, models


def _figure(truth, owner, models):
    return auc.mean_difference(*([auc.rank(truth, scores, owner)] for scores in models), 0.95, same_order=False)


@pytest.mark.parametrize(
    ("areas", "positives", "negatives", "correlation", "clustered"),
    [
        ((0.60, 0.998), 30, 300, 0.5, False),
        ((0.998, 0.60), 30, 300, 0.5, False),
        ((0.80, 0.94), 40, 300, 0.5, False),
        ((0.85, 0.85), 40, 300, 0.9, False),
        ((0.80, 0.94), 40, 150, 0.5, True),
        ((0.98, 0.99), 30, 300, 0.7, False),
    ],
)
def test_the_interval_covers_the_true_difference(areas, positives, negatives, correlation, clustered):
    """Models far apart, equal, clustered or near 1: the 95 % interval holds the true difference in about 95 %."""
    rng = np.random.default_rng(7)
    gap, inside = areas[0] - areas[1], []
    for _ in range(STUDIES):
        low, high = _figure(*_study(rng, areas, positives, negatives, correlation, clustered=clustered)).interval
        inside.append(low <= gap <= high)
    assert np.mean(inside) == pytest.approx(0.95, abs=SLACK)


def test_the_bounds_are_no_interval_where_models_differ_much():
    """Both bounds together hold a difference of 0.60 and 0.998 in half of the studies."""
    rng = np.random.default_rng(7)
    figures = [_figure(*_study(rng, (0.60, 0.998), 30, 300, 0.5)) for _ in range(200)]
    assert np.mean([one.low <= 0.60 - 0.998 <= one.high for one in figures]) < 0.75


@pytest.mark.parametrize(
    ("areas", "errors", "correlation"),
    [((0.6, 0.998), (0.05, 0.001), 0.1), ((0.8, 0.94), (0.04, 0.02), 0.6), ((0.9, 0.9), (0.03, 0.03), 0.95)],
)
def test_the_ends_are_the_extremes_over_the_ellipse(areas, errors, correlation):
    """A general optimizer finds the same least and largest difference within the joint region of the two logits."""
    both = correlation * errors[0] * errors[1]
    spread = difference.Spread(np.array([[errors[0] ** 2, both], [both, errors[1] ** 2]]), 25.0)
    low, high = difference.interval(*areas, spread, 0.95, 26.0)
    slopes = [area * (1 - area) for area in areas]
    covariance = spread.covariance / np.outer(slopes, slopes)
    inside = optimize.NonlinearConstraint(
        lambda z: z @ np.linalg.solve(covariance, z), -np.inf, stats.t.ppf(0.975, 25) ** 2
    )
    for sign, end in ((1, low), (-1, high)):
        found = optimize.minimize(
            lambda z, sign=sign: sign * (special.expit(special.logit(areas) + z) @ [1, -1]),
            np.zeros(2),
            constraints=[inside],
            method="SLSQP",
            options={"ftol": 1e-12, "maxiter": 500},
        )
        assert end == pytest.approx(sign * found.fun, abs=1e-5)


def placements(truth, scores):
    """For each positive the share of negatives below it, for each negative the share of positives above it."""
    wins = np.sign(scores[truth == 1][:, None] - scores[truth == 0][None, :]) / 2 + 0.5
    return wins.mean(1), wins.mean(0)


def test_the_covariance_is_delongs_where_patients_have_one_image(simulate):
    """With one image a patient the covariance of two AUCs is that of their placement values."""
    truth, _, a, b = simulate(4, findings=1, prevalence=0.3)
    truth, a, b = truth[:, 0], a[:, 0], b[:, 0]
    ours, theirs = (auc.rank(truth, scores, np.arange(truth.size)) for scores in (a, b))
    spread = difference.Spread.of([_parts(ours, theirs)], 40.0)
    places = [placements(truth, scores) for scores in (a, b)]
    positive, negative = (np.cov(np.array([place[kind] for place in places])) for kind in (0, 1))
    expected = positive / (truth == 1).sum() + negative / (truth == 0).sum()
    np.testing.assert_allclose(spread.covariance, expected, rtol=1e-9)


def test_the_covariance_of_means_is_that_of_single_aucs_and_of_differences(simulate):
    """Patients with several images and a mean over findings: the variances are those of `auc.variance`."""
    truth, owner, a, b = simulate(5, findings=3, images=2.5, prevalence=0.3)
    ours, theirs = (
        [auc.rank(truth[:, f], scores[:, f], owner) for f in range(3)] for scores in (a.astype(float), b.astype(float))
    )
    found = difference.Spread.of([_parts(*pair) for pair in zip(ours, theirs, strict=True)], 40.0).covariance
    assert found[0, 0] == pytest.approx(auc.variance(ours))
    assert found[1, 1] == pytest.approx(auc.variance(theirs))
    apart = [one.minus(other) for one, other in zip(ours, theirs, strict=True)]
    assert found[0, 0] + found[1, 1] - 2 * found[0, 1] == pytest.approx(auc.variance(apart))


@pytest.mark.parametrize("draw", ["normal", "uniform", "laplace"])
def test_the_degrees_of_freedom_are_what_the_variance_itself_varies_by(draw):
    """They are 2 E(v)^2 / Var(v) of an estimated variance v, as drawing many samples shows, for each shape of parts."""
    rng = np.random.default_rng(2)
    shapes = {"normal": rng.standard_normal, "uniform": lambda n: rng.uniform(-1, 1, n), "laplace": rng.laplace}
    make = shapes[draw] if draw != "laplace" else lambda n: rng.laplace(size=n)
    n = 400
    estimates = np.array([make(n).var(ddof=1) for _ in range(3000)])
    expected = 2 * estimates.mean() ** 2 / estimates.var(ddof=1)
    found = []
    for _ in range(50):
        values = make(n)
        part = np.concatenate([(values - values.mean()) / n, np.zeros(2)])
        parts = difference.Parts(
            positive=np.stack([part, np.zeros(n + 2)]),
            negative=np.zeros((2, n + 2)),
            positives=np.repeat([1, 0], [n, 2]),
            negatives=np.repeat([0, 1], [n, 2]),
        )
        found.append(difference.Spread.of([parts], float(n)).df)
    assert np.median(found) == pytest.approx(expected, rel=0.15)


def test_an_auc_without_an_error_has_the_exact_interval_on_its_side():
    """Beside an AUC of 1 from 20 patients, the end that it makes is that of Clopper and Pearson."""
    covariance = np.array([[0.0, 0.0], [0.0, 0.0]])
    spread = difference.Spread(covariance, 19.0)
    low, high = difference.interval(1.0, 1.0, spread, 0.95, 20.0)
    exact = stats.binomtest(20, 20).proportion_ci(0.95, method="exact").low
    assert (low, high) == pytest.approx((exact - 1, 1 - exact))
    spread = difference.Spread(np.array([[0.0, 0.0], [0.0, 0.003]]), 19.0)
    low, high = difference.interval(1.0, 0.7, spread, 0.95, 20.0)
    reach = stats.t.ppf(0.975, 19) * math.sqrt(0.003) / (0.7 * 0.3)
    least, most = special.expit(special.logit(0.7) + np.array([-reach, reach]))
    assert low == pytest.approx(0.3 - math.hypot(1 - exact, most - 0.7))
    assert high == pytest.approx(0.3 + (0.7 - least))


def _parts(ours, theirs):
    return difference.Parts(
        positive=np.stack([ours.positive, theirs.positive]),
        negative=np.stack([ours.negative, theirs.negative]),
        positives=ours.positives,
        negatives=ours.negatives,
    )
