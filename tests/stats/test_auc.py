"""AUCs and their clustered errors against scikit-learn, DeLong's kernel, brute force, the bootstrap and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from sklearn.metrics import roc_auc_score

from cxr_ops.records.evidence import Estimate, Undefined
from cxr_ops.stats import auc, bootstrap

rows = st.integers(8, 60).flatmap(
    lambda n: st.tuples(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=n, max_size=n),
        # few distinct values, so that ties are common
        st.lists(st.integers(0, 12), min_size=n, max_size=n),
        st.lists(st.integers(0, 12), min_size=n, max_size=n),
        st.lists(st.integers(0, max(n // 2, 4)), min_size=n, max_size=n),
    )
)


def _usable(truth, patients):
    truth, patients = np.asarray(truth), np.asarray(patients)
    return all(np.unique(patients[truth == kind]).size >= 2 for kind in (0, 1))


def _compare(truth, patients, a, b=None, **options):
    column = lambda values: None if values is None else np.asarray(values, dtype=float)[:, None]  # noqa: E731
    return auc.compare(["Mass"], column(truth), patients, column(a), column(b), **options).findings[0]


def kernel_auc(truth, scores):
    """The share of pairs of a positive and a negative that are in order, pair by pair; a tie counts one half."""
    x, y = scores[truth == 1], scores[truth == 0]
    return np.mean((x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None]))


def kernel_covariance(truth, scores):
    """DeLong's covariance of several AUCs by the O(mn) kernel, one image a patient."""
    truth, scores = np.asarray(truth), np.asarray(scores, dtype=float)
    x, y = scores[truth == 1], scores[truth == 0]
    psi = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    v10, v01 = psi.mean(axis=1), psi.mean(axis=0)
    return np.atleast_2d(np.cov(v10, rowvar=False) / len(x) + np.cov(v01, rowvar=False) / len(y))


def obuchowski_covariance(truth, scores, patients):
    """Obuchowski's covariance of several AUCs, written out as in the paper (section 2), cluster by cluster."""
    truth, scores = np.asarray(truth), np.asarray(scores, dtype=float)
    x, y = scores[truth == 1], scores[truth == 0]
    psi = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    v10, v01, theta = psi.mean(axis=1), psi.mean(axis=0), psi.mean(axis=(0, 1))
    of_x, of_y = np.asarray(patients)[truth == 1], np.asarray(patients)[truth == 0]
    m, n = len(x), len(y)
    clusters = np.unique(patients)
    i10, i01, i = len(np.unique(of_x)), len(np.unique(of_y)), len(clusters)
    s10 = s01 = s11 = 0.0
    for cluster in clusters:
        a = (v10[of_x == cluster] - theta).sum(axis=0)
        b = (v01[of_y == cluster] - theta).sum(axis=0)
        s10 = s10 + np.outer(a, a) * i10 / ((i10 - 1) * m)
        s01 = s01 + np.outer(b, b) * i01 / ((i01 - 1) * n)
        s11 = s11 + np.outer(a, b) * i / (i - 1)
    return s10 / m + s01 / n + (s11 + s11.T) / (m * n)


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_auc_is_scikit_learns(data):
    """The AUC of any scores, ties included, is scikit-learn's."""
    truth, scores, _, patients = data
    if 0 < sum(truth) < len(truth):
        assert auc.rank(truth, scores, patients).value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_one_image_a_patient_is_delong(data):
    """With one image a patient, variance and paired variance are DeLong's."""
    truth, a, b, _ = data
    patients = np.arange(len(truth))
    if not _usable(truth, patients):
        return
    expected = kernel_covariance(truth, np.column_stack([a, b]))
    one, two = auc.rank(truth, a, patients), auc.rank(truth, b, patients)
    assert auc.variance([one]) == pytest.approx(expected[0, 0], abs=1e-12)
    difference = expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]
    assert auc.variance([one.minus(two)]) == pytest.approx(difference, abs=1e-12)


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_clusters_are_obuchowskis(data):
    """With several images a patient, variance and paired variance are Obuchowski's sums over clusters."""
    truth, a, b, patients = data
    if not _usable(truth, patients):
        return
    expected = obuchowski_covariance(truth, np.column_stack([a, b]), patients)
    one, two = auc.rank(truth, a, patients), auc.rank(truth, b, patients)
    assert auc.variance([one]) == pytest.approx(expected[0, 0], abs=1e-12)
    difference = expected[0, 0] + expected[1, 1] - 2 * expected[0, 1]
    assert auc.variance([one.minus(two)]) == pytest.approx(difference, abs=1e-12)


def test_by_hand():
    """Two patients of each kind, one of them with both: value and variance as worked out on paper."""
    # Patients: 0 has a positive (score 4), 1 a positive (2) and a negative (3), 2 a negative (1).
    # Placements: positives 1 and 1/2, negatives 1/2 and 1; AUC 3/4; deviations +1/4, -1/4 and -1/4, +1/4.
    # a = (1/8, -1/8, 0), b = (0, -1/8, 1/8); I1 = I0 = 2, I = 3: 2 * 2/64 + 2 * 2/64 + 2 * 3/2 * 1/64.
    ranking = auc.rank([1, 1, 0, 0], [4, 2, 3, 1], [0, 1, 1, 2])
    assert ranking.value == 0.75
    assert auc.variance([ranking]) == pytest.approx(4 / 64 + 4 / 64 + 3 / 64)


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_the_jackknife_leaves_each_patient_out(data):
    """The AUC without a patient, ties and pairs inside the patient included, is that of the other patients' rows."""
    truth, scores, _, patients = (np.asarray(column) for column in data)
    if not _usable(truth, patients):
        return
    ranking = auc.rank(truth, scores, patients)
    present = np.unique(patients)
    left_out = np.array([kernel_auc(truth[patients != p], scores[patients != p]) for p in present])
    assert ranking.without[present] == pytest.approx(left_out, abs=1e-12)
    by_hand = (present.size - 1) / present.size * ((left_out - left_out.mean()) ** 2).sum()
    assert auc.jackknife([ranking]) == pytest.approx(by_hand, abs=1e-12)


def test_the_jackknife_of_a_mean_leaves_a_patient_out_of_all_findings(simulate):
    """The macro-AUC's standard error is that of leaving a patient's rows out of every finding at once."""
    truth, owner, a, _ = simulate(2, patients=60, images=2.5, findings=3, prevalence=0.3)
    truth[np.random.default_rng(0).random(truth.shape) < 0.2] = np.nan
    means = []
    for patient in range(60):
        rest = owner != patient
        kept = [rest & ~np.isnan(truth[:, f]) for f in range(3)]
        means.append(np.mean([roc_auc_score(truth[k, f], a[k, f]) for f, k in enumerate(kept)]))
    found = auc.compare(["x", "y", "z"], truth, owner, a, min_positive_patients=2).macro_challenger
    assert found.se == pytest.approx(math.sqrt(59 * np.var(means)), rel=1e-9)


def test_errors_are_the_bootstraps(simulate):
    """Standard errors of an AUC, a difference, a macro-AUC and its difference are those of a bootstrap of patients."""
    truth, owner, a, b = simulate(3, patients=500, images=3.0, findings=3, prevalence=0.25, icc=0.6)
    found = auc.compare(["x", "y", "z"], truth, owner, a, b)
    draws = bootstrap.replicate_aucs(truth, owner, [a, b], 4000, np.random.default_rng(0))
    spread = lambda values: values.std(axis=0, ddof=1)  # noqa: E731
    # The error of a bootstrap standard error is 1/sqrt(8000), 1.1 %.
    for f, row in enumerate(found.findings):
        assert row.challenger.se == pytest.approx(spread(draws[0, :, f]), rel=0.05)
        assert row.difference.se == pytest.approx(spread(draws[0, :, f] - draws[1, :, f]), rel=0.05)
        # Obuchowski's is the second source of the jackknife's
        one = auc.variance([auc.rank(truth[:, f], a[:, f], owner)])
        assert row.challenger.se == pytest.approx(math.sqrt(one), rel=0.05)
    assert found.macro_challenger.se == pytest.approx(spread(draws[0].mean(axis=1)), rel=0.05)
    assert found.macro_difference.se == pytest.approx(spread((draws[0] - draws[1]).mean(axis=1)), rel=0.05)


def test_the_error_that_ignores_patients_is_delongs(simulate):
    """`se_image` is DeLong's standard error of an AUC and of a difference, and is too small where patients cluster."""
    truth, owner, a, b = simulate(3, patients=250, images=3.0, findings=2, prevalence=0.25, icc=0.6)
    truth[:40, 1] = np.nan
    found = auc.compare(["x", "y"], truth, owner, a, b)
    for f, row in enumerate(found.findings):
        known = ~np.isnan(truth[:, f])
        cov = kernel_covariance(truth[known, f], np.column_stack([a[known, f], b[known, f]]))
        assert row.challenger.se_image == pytest.approx(math.sqrt(cov[0, 0]), rel=1e-9)
        assert row.champion.se_image == pytest.approx(math.sqrt(cov[1, 1]), rel=1e-9)
        assert row.difference.se_image == pytest.approx(math.sqrt(cov[0, 0] + cov[1, 1] - 2 * cov[0, 1]), rel=1e-9)
    assert found.findings[0].challenger.se_image < 0.85 * found.findings[0].challenger.se
    # of a mean: the same with every image its own patient
    apart = auc.compare(["x", "y"], truth, np.arange(len(truth)), a, b)
    assert found.macro_challenger.se_image == pytest.approx(apart.macro_challenger.se, rel=0.02)
    assert found.macro_difference.se_image == pytest.approx(apart.macro_difference.se, rel=0.02)


def test_degrees_of_freedom_count_patients_of_the_kind_that_decides():
    """With equal patients and far more negatives they are the positive patients less one; big patients lower them."""
    rng = np.random.default_rng(0)
    truth = np.repeat([1.0, 0.0], [30, 5000])
    scores = truth + rng.standard_normal(truth.size)
    even = auc.satterthwaite([auc.rank(truth, scores, np.arange(truth.size))])
    assert even == pytest.approx(29, abs=1.5)
    # Four of the thirty positives in one patient: shares of 4 + 6 and of 1 each.
    owners = np.maximum(np.arange(truth.size) - 3, 0)
    uneven = auc.satterthwaite([auc.rank(truth, scores, owners)])
    assert uneven == pytest.approx((10 + 26) ** 2 / (10**2 + 26) - 1, abs=0.5)


def test_intervals_cover_the_truth(simulate):
    """95 % intervals hold the true value in 93 to 97 % of simulated studies: AUCs, differences, both macro ones."""
    kinds = ("auc", "difference", "interval", "macro", "macro difference", "macro interval")
    inside: dict[str, list[bool]] = {kind: [] for kind in kinds}
    names = [str(f) for f in range(6)]
    for seed in range(250):
        truth, owner, a, b = simulate(seed, findings=6, auc=0.8, gain=0.03, images=2.5, icc=0.55)
        found = auc.compare(names, truth, owner, a, b)
        for row in found.findings:
            inside["auc"].append(row.challenger.low <= 0.83 <= row.challenger.high)
            inside["difference"].append(row.difference.low <= 0.03 <= row.difference.high)
            inside["interval"].append(row.difference.interval[0] <= 0.03 <= row.difference.interval[1])
        inside["macro interval"].append(
            found.macro_difference.interval[0] <= 0.03 <= found.macro_difference.interval[1]
        )
        inside["macro"].append(found.macro_challenger.low <= 0.83 <= found.macro_challenger.high)
        inside["macro difference"].append(found.macro_difference.low <= 0.03 <= found.macro_difference.high)
    # Four standard errors of a share of 0.95: 250 studies for the macro ones, over 750 independent ones for findings.
    assert np.mean(inside["auc"]) == pytest.approx(0.95, abs=0.032)
    assert np.mean(inside["difference"]) == pytest.approx(0.95, abs=0.032)
    assert np.mean(inside["interval"]) == pytest.approx(0.95, abs=0.032)
    assert np.mean(inside["macro"]) == pytest.approx(0.95, abs=0.055)
    assert np.mean(inside["macro difference"]) == pytest.approx(0.95, abs=0.055)
    assert np.mean(inside["macro interval"]) == pytest.approx(0.95, abs=0.055)


def test_the_interval_of_a_rare_finding_covers_the_truth():
    """With 25 positive patients, some with many images, the 95 % interval holds the AUC in 93 to 98 % of studies."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(1000):
        images = rng.geometric(0.3, 400)
        owner = np.repeat(np.arange(400), images)
        truth = (owner < 25).astype(float)
        noise = math.sqrt(0.55) * rng.standard_normal(400)[owner] + math.sqrt(0.45) * rng.standard_normal(owner.size)
        figure = auc.mean_auc([auc.rank(truth, noise + 1.5 * truth, owner)], 0.95)
        inside.append(figure.low <= stats.norm.cdf(1.5 / math.sqrt(2)) <= figure.high)
    # A share of 0.95 has a standard error of 0.7 % here; the normal instead of Student's t gives about 91 %.
    assert 0.93 <= np.mean(inside) <= 0.98


def test_a_rare_finding_at_its_margin_is_passed_as_rarely_as_it_says():
    """Of losses by the margin, 0.91 to 0.81 with 30 positive patients, 2.5 % pass; by the plain difference more do."""
    rng = np.random.default_rng(1)
    truth, owner = np.repeat([1.0, 0.0], [30, 600]), np.arange(630)
    shifts = [stats.norm.ppf(area) * math.sqrt(2) for area in (0.81, 0.91)]
    passed, plainly = [], []
    for _ in range(1500):
        common = rng.standard_normal(630)
        ours, theirs = (
            auc.rank(truth, math.sqrt(0.9) * common + math.sqrt(0.1) * rng.standard_normal(630) + shift * truth, owner)
            for shift in shifts
        )
        figure = auc.mean_difference([ours], [theirs], 0.95, same_order=False)
        passed.append(figure.low > -0.10)
        se = math.sqrt(auc.variance([ours.minus(theirs)]))
        plainly.append(figure.value - stats.t.ppf(0.975, figure.df) * se > -0.10)
    assert stats.binomtest(sum(passed), 1500, 0.025, alternative="greater").pvalue > 0.01
    assert stats.binomtest(sum(plainly), 1500, 0.025, alternative="greater").pvalue < 0.001


def test_a_difference_of_logits_has_the_bootstraps_error(simulate):
    """The standard error of the logit difference is the one that drawing patients again gives."""
    truth, owner, a, b = simulate(3, findings=1, auc=0.85, gain=0.02, images=2.0, icc=0.5)
    figure = auc.compare(["Mass"], truth, owner, a, b).findings[0].difference
    areas = bootstrap.replicate_aucs(truth, owner, [a, b], 2000, np.random.default_rng(5))[:, :, 0]
    apart = special.logit(areas[0]) - special.logit(areas[1])
    assert figure.se_logit == pytest.approx(apart.std(ddof=1), rel=0.08)
    assert figure.se == pytest.approx((areas[0] - areas[1]).std(ddof=1), rel=0.08)


@settings(deadline=None)  # a busy machine is not a fault
@given(rows, st.randoms(use_true_random=False))
def test_only_the_order_of_scores_matters_and_not_of_rows(data, random):
    """A rising transform of the scores, another order of rows or other patient names change nothing."""
    truth, a, b, patients = data
    before = _compare(truth, patients, a, b)
    order = list(range(len(truth)))
    random.shuffle(order)
    pick = lambda values: [values[i] for i in order]  # noqa: E731
    after = _compare(
        pick(truth), [f"p{p}" for p in pick(patients)], [math.exp(s / 5) for s in pick(a)], [s**3 - 7 for s in pick(b)]
    )
    assert after.support == before.support
    for name in ("challenger", "champion", "difference"):
        one, two = getattr(before, name), getattr(after, name)
        assert type(one) is type(two)
        if isinstance(one, Estimate):
            assert (two.value, two.se, two.low, two.high) == pytest.approx(
                (one.value, one.se, one.low, one.high), abs=1e-9
            )


def test_the_order_of_findings_does_not_matter(simulate):
    """Findings in another order, with their names, give the same figures under each name and the same macro-AUC."""
    truth, owner, a, b = simulate(11, findings=4)
    names, order = np.array(["w", "x", "y", "z"]), [2, 0, 3, 1]
    before = auc.compare(list(names), truth, owner, a, b)
    after = auc.compare(list(names[order]), truth[:, order], owner, a[:, order], b[:, order])
    assert {row.finding: row for row in after.findings} == {row.finding: row for row in before.findings}
    for one, two in (
        (before.macro_challenger, after.macro_challenger),
        (before.macro_difference, after.macro_difference),
    ):
        assert (two.value, two.se, two.low, two.high, two.df) == pytest.approx(
            (one.value, one.se, one.low, one.high, one.df), rel=1e-9
        )


def test_the_reference_is_compared_as_a_champion_is(simulate):
    """A third model's figures are those that it would have as the champion, and change nothing else."""
    truth, owner, a, b = simulate(12, findings=2)
    c = simulate(12, findings=2, gain=-0.05).challenger
    names = ["x", "y"]
    three, two = auc.compare(names, truth, owner, a, b, c), auc.compare(names, truth, owner, a, b)
    against = auc.compare(names, truth, owner, a, c)
    assert three.macro_reference == against.macro_champion
    assert three.macro_reference_difference == against.macro_difference
    assert (three.macro_champion, three.macro_difference) == (two.macro_champion, two.macro_difference)
    for row, with_champion, with_reference in zip(three.findings, two.findings, against.findings, strict=True):
        assert (row.reference, row.reference_difference) == (with_reference.champion, with_reference.difference)
        assert (row.champion, row.difference) == (with_champion.champion, with_champion.difference)
    assert (two.macro_reference, two.findings[0].reference_difference) == (None, None)
    alone = auc.compare(names, truth, owner, a, reference=c)
    assert (alone.macro_champion, alone.macro_difference) == (None, None)
    assert alone.macro_reference_difference == against.macro_difference


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_single_precision_ranks_alike(data):
    """Scores in float32, negative ones and both zeros among them, rank as the same numbers in float64."""
    truth, a, b, patients = data
    if not _usable(truth, patients):
        return
    scores = (np.asarray(a) - 6) * np.where(np.asarray(b) < 6, 1.0, 1e-30)
    scores[scores == 0] *= np.where(np.asarray(b) < 6, 1.0, -1.0)[scores == 0]
    one, two = (auc.rank(truth, scores.astype(kind), patients) for kind in (np.float64, np.float32))
    assert two.value == one.value == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)
    for name in ("positive", "negative", "without", "image"):
        assert np.array_equal(getattr(one, name), getattr(two, name))


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_exchanging_the_models_turns_the_difference_round(data):
    """The difference of B and A is minus that of A and B, bounds and interval included; all lie within -1 and 1."""
    truth, a, b, patients = data
    one, two = _compare(truth, patients, a, b).difference, _compare(truth, patients, b, a).difference
    assert type(one) is type(two)
    if isinstance(one, Estimate):
        assert (two.value, two.low, two.high) == pytest.approx((-one.value, -one.high, -one.low), abs=1e-12)
        low, high = one.interval
        assert two.interval == pytest.approx((-high, -low), abs=1e-9)
        assert auc.mirrored(one).interval == (-high, -low)
        assert -1 <= low <= one.value <= high <= 1


def test_identical_scores_differ_by_exactly_nothing(simulate):
    """A model compared with itself differs by 0 with the interval [0, 0], in each finding and in the macro-AUC."""
    truth, owner, a, _ = simulate(5)
    found = auc.compare([str(f) for f in range(14)], truth, owner, a, a.copy())
    for figure in [*(row.difference for row in found.findings), found.macro_difference]:
        assert (figure.value, figure.se, figure.low, figure.high) == (0.0, 0.0, 0.0, 0.0)
        assert figure.interval == (0.0, 0.0)


def test_missing_labels_leave_out_their_rows_and_no_others(simulate):
    """Each finding stands on the rows where it is labelled, as if the others were not there."""
    truth, owner, a, b = simulate(6, findings=2)
    holes = truth.copy()
    holes[np.random.default_rng(0).random(len(holes)) < 0.3, 0] = np.nan
    kept = ~np.isnan(holes[:, 0])
    found = auc.compare(["x", "y"], holes, owner, a, b)
    alone = auc.compare(["x"], truth[kept][:, :1], owner[kept], a[kept][:, :1], b[kept][:, :1]).findings[0]
    whole = auc.compare(["x", "y"], truth, owner, a, b)
    assert found.findings[0].support == alone.support
    for name in ("challenger", "difference"):
        one, two = getattr(found.findings[0], name), getattr(alone, name)
        assert (one.value, one.se, one.low, one.high) == pytest.approx(
            (two.value, two.se, two.low, two.high), rel=1e-12
        )
    assert found.findings[1] == whole.findings[1]
    assert found.findings[0].difference.se_image == pytest.approx(alone.difference.se_image, rel=1e-12)


@pytest.mark.parametrize(
    ("truth", "patients", "scores", "reason", "needed"),
    [
        ([0, 0, 0, 0], [0, 1, 2, 3], [1, 2, 3, 4], "0 positive patients", "2 more positive patients"),
        ([1, 1, 1, 1], [0, 1, 2, 3], [1, 2, 3, 4], "0 negative patients", "2 more negative patients"),
        ([1, 1, 0, 0], [0, 0, 2, 3], [1, 2, 3, 4], "1 positive patient,", "1 more positive patient"),
        ([1, 1, 0, 0], [0, 1, 2, 3], [5, 5, 5, 5], "all scores are the same", "tell images apart"),
        ([1, 1, 0, 0], [0, 1, 2, 3], [1, math.nan, 3, 4], "1 of 4 scores are not finite", "finite"),
        ([1, 1, 0, 0], [0, 1, 2, 3], [1, math.inf, 3, 4], "1 of 4 scores are not finite", "finite"),
        ([math.nan] * 4, [0, 1, 2, 3], [1, 2, 3, 4], "0 positive patients", "2 more positive patients"),
    ],
)
def test_a_number_that_cannot_be_had_says_why(truth, patients, scores, reason, needed):
    """No positives, no negatives, one patient, one score for all, or a NaN give Undefined with what would be needed."""
    found = auc.compare(["Mass"], np.asarray(truth, float)[:, None], patients, np.asarray(scores, float)[:, None])
    figure = found.findings[0].challenger
    assert isinstance(figure, Undefined)
    assert reason in figure.reason
    assert needed in figure.needed
    assert isinstance(found.macro_challenger, Undefined)


def test_one_undefined_finding_makes_the_macro_undefined(simulate):
    """A finding that counts but has no number is not dropped from the mean in silence."""
    truth, owner, a, b = simulate(7, findings=3)
    a[:, 1] = 0.5
    found = auc.compare(["x", "y", "z"], truth, owner, a, b)
    assert found.macro_over == ["x", "y", "z"]
    assert isinstance(found.macro_challenger, Undefined)
    assert isinstance(found.macro_difference, Undefined)
    assert isinstance(found.macro_champion, Estimate)


def test_rare_findings_stay_out_of_the_macro(simulate):
    """A finding with too few patients is estimated, and is not part of the macro-AUC or of its list."""
    truth, owner, a, b = simulate(8, findings=3)
    positives = np.flatnonzero(truth[:, 2] == 1)
    truth[positives[5:], 2] = 0
    found = auc.compare(["x", "y", "z"], truth, owner, a, b)
    assert found.macro_over == ["x", "y"]
    assert isinstance(found.findings[2].challenger, Estimate)
    mean = np.mean([row.challenger.value for row in found.findings[:2]])
    assert found.macro_challenger.value == pytest.approx(mean, rel=1e-12)


def test_a_model_without_error_gets_the_exact_binomial_bound():
    """AUC 1 on n patients of each kind has the bound below which n trials without an error have probability alpha."""
    n = 30
    truth, scores = np.repeat([0.0, 1.0], n), np.arange(2.0 * n)
    figure = _compare(truth, np.arange(2 * n), scores).challenger
    assert (figure.value, figure.high) == (1.0, 1.0)
    exact = stats.binomtest(n, n, alternative="greater").proportion_ci(0.975).low
    assert figure.low == pytest.approx(exact, rel=1e-9)
    other = _compare(truth, np.arange(2 * n), scores, np.concatenate([scores[:n], scores[n:][::-1]])).difference
    assert (other.value, other.low, other.high) == pytest.approx((0.0, exact - 1, 1 - exact), rel=1e-9)
    same = _compare(truth, np.arange(2 * n), scores, scores**2).difference
    assert (same.low, same.high) == (0.0, 0.0)


def test_an_interval_of_an_auc_is_symmetric_on_the_logit_scale(simulate):
    """An AUC near 1 has an interval that reaches further down than up and stays below 1, t times se each way."""
    truth, owner, a, _ = simulate(4, patients=100, findings=1, auc=0.97)
    figure = auc.compare(["x"], truth, owner, a, min_positive_patients=2).findings[0].challenger
    logits = [math.log(p / (1 - p)) for p in (figure.low, figure.value, figure.high)]
    reach = stats.t.ppf(0.975, figure.df) * figure.se / (figure.value * (1 - figure.value))
    assert np.diff(logits) == pytest.approx([reach, reach])
    assert figure.value + stats.t.ppf(0.975, figure.df) * figure.se > 1 > figure.high


def test_bounds_and_p_values_agree(simulate):
    """The p-value of lying below the upper bound at alpha is alpha, whatever the method."""
    truth, owner, a, b = simulate(9, findings=2)
    found = auc.compare(["x", "y"], truth, owner, a, b)
    zero = Estimate(value=0.0, se=0.0, low=0.0, high=0.0, level=0.95, df=29.0, method="separated")
    apart = zero.model_copy(update={"method": "separated_difference"})
    for figure in (found.macro_challenger, found.macro_difference, found.findings[0].challenger, zero, apart):
        for alpha in (0.005, 0.05):
            _, high = auc.bounds(figure, alpha)
            assert auc.p_below(figure, high) == pytest.approx(alpha, rel=1e-6)


@given(
    st.lists(st.sampled_from([-2.0, -1e-30, -0.0, 0.0, 1e-30, 0.1, 0.5, 3.0]), min_size=1, max_size=40),
    st.sampled_from([np.float32, np.float64]),
)
def test_midranks_are_scipys(values, kind):
    """Mid-ranks of few distinct values, with zeros of both signs, are scipy's."""
    scores = np.array(values, dtype=kind)
    assert auc.midranks(scores).tolist() == stats.rankdata(scores).tolist()


@pytest.mark.parametrize("missing", [0.0, 0.2])
def test_some_images_stand_as_if_the_others_were_not_there(simulate, missing):
    """Tables of some images give the evidence of these rows alone, missing labels included."""
    truth, owner, a, b = simulate(11, patients=150, findings=3)
    rng = np.random.default_rng(0)
    truth[rng.random(truth.shape) < missing] = np.nan
    rows = np.flatnonzero(rng.random(owner.size) < 0.5)
    findings, least = ["x", "y", "z"], {"min_positive_patients": 5, "min_negative_patients": 5}
    alone = auc.compare(findings, truth[rows], owner[rows], a[rows], b[rows], **least)
    inside = auc.Tables.of(findings, truth, owner, {"challenger": a, "champion": b}).among(rows)
    assert inside.count == np.unique(owner[rows]).size
    assert auc.evidence_of(findings, inside.ranks(), level=0.95, **least) == alone


@pytest.mark.parametrize(
    ("truth", "scores"),
    [([[1, 0]], [[0.5]]), ([[2.0]], [[0.5]]), ([[1.0], [0.0]], [[0.5]])],
)
def test_arrays_that_do_not_fit_are_refused(truth, scores):
    """Shapes that do not fit, and a truth that is not 1, 0 or missing, are errors."""
    with pytest.raises(ValueError, match="truth"):
        auc.compare(["Mass"], truth, [0], scores)


def test_the_roc_curve_is_thinned_without_moving_it(simulate):
    """A thinned curve has at most the points asked for, keeps its ends, never falls, and holds the area to 0.005."""
    truth, _, a, _ = simulate(10, patients=1500, findings=1)
    fpr, tpr = auc.roc_curve(truth[:, 0], a[:, 0], points=101)
    assert fpr.size <= 101
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(tpr) >= 0).all()
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc_auc_score(truth[:, 0], a[:, 0]), abs=0.005)
    fpr, tpr = auc.roc_curve(truth[:, 0], a[:, 0], points=10**6)
    assert np.trapezoid(tpr, fpr) == pytest.approx(roc_auc_score(truth[:, 0], a[:, 0]), abs=1e-12)
