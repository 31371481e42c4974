"""Expected standard errors and probabilities, against simulation, closed forms and scipy's distributions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cxr_ops import plan as plans
from cxr_ops.labels import FINDINGS
from cxr_ops.stats import auc, levels, power

ASSUMED = power.Assumptions(auc=0.8, correlation=0.85, within_patient=0.5, between_findings=0.3)


def _noise(rng: np.random.Generator, owners: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Normal with the correlations of `ASSUMED` between models, images of a patient, and findings: one product."""
    models, findings = shape

    def level(rows: int) -> np.ndarray:
        q, r = ASSUMED.between_findings, ASSUMED.correlation

        def of_findings() -> np.ndarray:
            return math.sqrt(q) * rng.standard_normal((rows, 1)) + math.sqrt(1 - q) * rng.standard_normal(
                (rows, findings)
            )

        shared = of_findings()
        return np.stack([math.sqrt(r) * shared + math.sqrt(1 - r) * of_findings() for _ in range(models)])

    own, patient = level(owners.size), level(int(owners.max()) + 1)
    rho = ASSUMED.within_patient
    return math.sqrt(rho) * patient[:, owners] + math.sqrt(1 - rho) * own


@pytest.fixture(scope="module")
def table() -> tuple[np.ndarray, np.ndarray]:
    """Labels of three findings, alike within a patient, and whose image each one is."""
    rng = np.random.default_rng(3)
    owners = np.repeat(np.arange(400), 1 + rng.poisson(1.5, 400))
    liability = 0.75 * rng.standard_normal((400, 3))[owners] + 0.66 * rng.standard_normal((owners.size, 3))
    return (liability > [0.8, 1.2, 1.6]).astype(float), owners


def test_expected_errors_agree_with_simulated_models(table: tuple[np.ndarray, np.ndarray]) -> None:
    """Expected errors of AUCs, paired differences and their means agree with the spread of simulated ones, and with the
    errors that `auc.compare` finds on them, within 15 %."""
    truth, owners = table
    rng = np.random.default_rng(4)
    shift = math.sqrt(2) * stats.norm.ppf(ASSUMED.auc)
    singles, differences, found = [], [], []
    for _ in range(300):
        scores = truth * shift + _noise(rng, owners, (2, 3))
        areas = np.array([[auc.rank(truth[:, f], scores[m, :, f], owners).value for f in range(3)] for m in (0, 1)])
        singles.append([*areas[0], areas[0].mean()])
        differences.append([*(areas[0] - areas[1]), (areas[0] - areas[1]).mean()])
        if len(found) < 30:
            result = auc.compare(FINDINGS[:3], truth, owners, scores[0], scores[1])
            found.append([row.difference.se for row in result.findings] + [result.macro_difference.se])
    matrix = power.covariance(power.count_pairs(truth, owners), np.eye(3, dtype=bool), ASSUMED, [0.8, 0.8])
    one, mean = np.eye(3), np.full((1, 3), 1 / 3)
    rows = np.vstack([one, mean])
    own = np.sqrt(np.diag(rows @ matrix[:3, :3] @ rows.T))
    paired = np.hstack([rows, -rows])
    difference = np.sqrt(np.diag(paired @ matrix @ paired.T))
    np.testing.assert_allclose(own, np.std(singles, axis=0), rtol=0.15)
    np.testing.assert_allclose(difference, np.std(differences, axis=0), rtol=0.15)
    np.testing.assert_allclose(difference, np.mean(found, axis=0), rtol=0.15)


@pytest.mark.parametrize("correlation", [-0.9, -0.3, 0.2, 0.5, 0.95])
def test_shared_is_the_bivariate_normal_integral(correlation: float) -> None:
    """The covariance of two cut normals is scipy's bivariate normal probability minus the product of the margins."""
    for first, second in ((0.0, 0.0), (0.8, 0.8), (-0.5, 1.3)):
        both = stats.multivariate_normal([0, 0], [[1, correlation], [correlation, 1]]).cdf([first, second])
        expected = both - stats.norm.cdf(first) * stats.norm.cdf(second)
        assert power.shared(correlation, first, second) == pytest.approx(expected, abs=1e-6)


def test_one_image_a_patient_is_the_textbook_variance() -> None:
    """With one image a patient the variance is the binormal one, whose integral quadrature gives as well."""
    truth = np.r_[np.ones(60), np.zeros(240)][:, None]
    variance = power.covariance(
        power.count_pairs(truth, np.arange(300)), np.eye(1, dtype=bool), power.Assumptions(), [0.8]
    )[0, 0]
    x = np.linspace(-9, 12, 40_001)
    shift = math.sqrt(2) * stats.norm.ppf(0.8)
    second = np.trapezoid(stats.norm.cdf(x) ** 2 * stats.norm.pdf(x - shift), x) - 0.8**2
    assert variance == pytest.approx(second / 60 + second / 240, rel=1e-6)


def test_operating_points_agree_with_simulation(table: tuple[np.ndarray, np.ndarray]) -> None:
    """The expected error of a paired difference of sensitivities at given thresholds is that of simulated models."""
    truth, owners = table
    positive = truth[:, 1] == 1
    counts = np.bincount(owners[positive])
    rng = np.random.default_rng(5)
    cut = 0.4
    simulated = []
    for _ in range(400):
        noise = _noise(rng, owners, (2, 1))[:, positive, 0]
        above = (noise < cut).mean(axis=1)
        simulated.append(above[0] - above[1])
    expected = math.sqrt(power.operating_variance(counts, (cut, cut), ASSUMED))
    assert expected == pytest.approx(np.std(simulated), rel=0.15)


@pytest.mark.parametrize("df", [5.0, 15.0, 200.0])
def test_probability_is_the_noncentral_t(df: float) -> None:
    """The probability that a check is met is the non-central t's, within two hundredths even on five degrees."""
    for distance in (0.5, 2.0, 4.0, 6.0):
        exact = stats.nct.sf(stats.t.ppf(0.975, df), df, distance)
        assert power.probability_met(distance, df, 0.025) == pytest.approx(exact, abs=0.02)


def test_as_many_patients_as_needed_meet_the_check() -> None:
    """So many times as many patients give the target probability, and a check that is false is never met."""
    times = power.times_needed(1.3, 40, 0.005, 0.95)
    assert times is not None
    assert power.probability_met(1.3 * math.sqrt(times), 40 * times - 1, 0.005) == pytest.approx(0.95, abs=1e-6)
    assert power.times_needed(0.0, 40, 0.005, 0.95) is None
    assert power.times_needed(-1.0, 40, 0.005, 0.95) is None


# ---------------------------------------------------------------------------------------------- a whole plan


@pytest.fixture(scope="module")
def labels() -> tuple[np.ndarray, np.ndarray, dict[str, list[str]]]:
    """14 findings in 1,500 patients, and two attributes; the rarest finding has hardly a positive patient."""
    rng = np.random.default_rng(6)
    owners = np.repeat(np.arange(1500), 1 + rng.poisson(1, 1500))
    liability = 0.7 * rng.standard_normal((1500, 14))[owners] + 0.7 * rng.standard_normal((owners.size, 14))
    cut = np.r_[np.full(13, 1.3), 3.2]
    attributes = {
        "sex": np.array(["F", "M"])[rng.integers(0, 2, 1500)][owners].tolist(),
        "view": np.array(["AP", "PA"])[rng.integers(0, 2, owners.size)].tolist(),
        "age": rng.integers(18, 90, 1500)[owners].astype(str).tolist(),
    }
    return (liability > cut).astype(float), owners, attributes


@pytest.fixture
def rules(project: Path) -> plans.PerformanceEvaluation:
    """The production plan's checks, with Hernia not required and two findings declared."""
    rules = plans.load(project / "pccp.yaml").performance
    points = rules.operating_points.model_copy(update={"findings": ("Mass", "Hernia"), "min_positive_patients": 100})
    required = tuple(finding for finding in FINDINGS if finding != "Hernia")
    together = (plans.Composite(name="rare", findings=("Pneumonia", "Fibrosis"), margin=0.05),)
    return rules.model_copy(update={"required_findings": required, "operating_points": points, "composites": together})


def test_every_check_of_the_plan_is_expected(rules: plans.PerformanceEvaluation, labels: tuple) -> None:
    """Floors, margins, subgroups and declared operating points are there, and once more against the reference."""
    truth, owners, attributes = labels
    alone = power.expect(rules, truth, owners, attributes, power.Assumptions())
    kinds = [check.kind for check in alone.checks]
    assert (kinds.count("floor"), kinds.count("margin")) == (14, 14 + 7)
    assert (kinds.count("sparse"), kinds.count("composite")) == (13 + 1, 1)
    assert [(c.finding, c.kind) for c in alone.checks[-2:]] == [("Mass", "sensitivity"), ("Mass", "specificity")]
    assert [line.partition(":")[0] for line in alone.not_judged] == ["Hernia"]
    both = power.expect(rules, truth, owners, attributes, power.Assumptions(), others=("champion", "reference"))
    assert len(both.checks) == len(alone.checks) + 21 + 15 + 2
    for check in alone.checks:
        assert check in both.checks
    assert both.at_least <= both.all_met <= min(check.probability for check in both.checks) + 0.01
    assert both.all_met <= alone.all_met + 0.01


def test_more_alike_models_are_easier_to_tell_apart(rules: plans.PerformanceEvaluation, labels: tuple) -> None:
    """A higher paired correlation shrinks errors of differences and raises the probability of a release."""
    truth, owners, attributes = labels
    loose, tight = (
        power.expect(rules, truth, owners, attributes, power.Assumptions(auc=0.85, correlation=r)) for r in (0.6, 0.95)
    )
    for one, other in zip(loose.checks, tight.checks, strict=True):
        if one.kind == "floor":
            assert one.se == pytest.approx(other.se)
        else:
            assert other.se < one.se
            assert other.probability >= one.probability
    assert tight.all_met > loose.all_met


def test_a_worse_model_meets_less_and_its_true_loss_is_never_shown_away(
    rules: plans.PerformanceEvaluation, labels: tuple
) -> None:
    """A model worse by the macro margin meets that check with the look's level, and no number of patients helps."""
    truth, owners, attributes = labels
    found = power.expect(rules, truth, owners, attributes, power.Assumptions(difference=-rules.macro.margin))
    macro = next(c for c in found.checks if c.kind == "margin" and c.finding is None and c.subgroup is None)
    assert macro.probability == pytest.approx(levels.first(rules.spending).checks, abs=0.002)
    assert macro.needed == (None, None)


def test_margins_under_failures_are_expected_as_their_check_has_it(
    rules: plans.PerformanceEvaluation, labels: tuple
) -> None:
    """Probability and patients needed are those of the margin's error, and ask for more than the margin alone."""
    truth, owners, _ = labels
    whole = rules.model_copy(update={"subgroups": None, "harm_screen": None})
    checks = {(c.kind, c.finding): c for c in power.expect(whole, truth, owners, {}, power.Assumptions()).checks}
    margin, failures = checks["margin", "Pneumonia"], checks["sparse", "Pneumonia"]
    assert failures.patients == len(np.unique(owners[truth[:, FINDINGS.index("Pneumonia")] == 1]))
    assert (failures.se, failures.limit) == (pytest.approx(margin.se), margin.limit)
    assert failures.probability <= margin.probability
    assert failures.needed[0] >= margin.needed[0]


def test_what_a_plan_can_do_is_proposed_where_patients_are_too_few(
    rules: plans.PerformanceEvaluation, labels: tuple
) -> None:
    """A margin too narrow for its patients gets a wider one, a composite and a number; an ample one gets nothing."""
    truth, owners, _ = labels
    patients = len(np.unique(owners[truth[:, FINDINGS.index("Fibrosis")] == 1]))
    narrow = rules.model_copy(
        update={"finding": rules.finding.model_copy(update={"margin": 0.2, "margins": {"Fibrosis": 0.02}})}
    )
    [proposal] = power.propose(narrow, truth, owners, power.Assumptions())
    assert (proposal.finding, proposal.patients, proposal.margin) == ("Fibrosis", patients, 0.02)
    assert proposal.probability < 0.95 <= proposal.wider[1]
    assert proposal.wider[0] in [margin for _, margin in power.TIERS]
    assert proposal.needed > patients
    assert "Fibrosis" in proposal.composite[0]
    assert len(proposal.composite[0]) == 4
    assert proposal.composite[2] > proposal.probability
    assert f"with {patients} positive patients" in str(proposal)


def test_a_required_finding_without_patients_stops_every_release(
    rules: plans.PerformanceEvaluation, labels: tuple
) -> None:
    """A required finding that cannot be judged, or too small a test set, makes the probability 0 and is named."""
    truth, owners, attributes = labels
    strict = rules.model_copy(update={"required_findings": "all", "min_test_patients": 5000})
    found = power.expect(strict, truth, owners, attributes, power.Assumptions())
    assert (found.all_met, found.at_least) == (0.0, 0.0)
    assert [line.split()[0] for line in found.blocked] == ["1500", "Hernia:"]
    sure = power.Assumptions(auc=0.95, correlation=0.99)
    assert power.expect(rules, truth, owners, attributes, sure).at_least > 0.9
    unsaid = power.expect(rules, truth, owners, {**attributes, "view": [""] * owners.size}, sure)
    assert unsaid.blocked == ("subgroups by view are asked for, and none can be formed",)
    assert (unsaid.all_met, unsaid.at_least) == (0.0, 0.0)
    hernia = (plans.Composite(name="rare", findings=("Hernia", "Fibrosis"), margin=0.05),)
    without = power.expect(rules.model_copy(update={"composites": hernia}), truth, owners, attributes, sure)
    assert without.blocked == ("rare is over Hernia, of which nothing can be estimated",)
    nothing = power.expect(strict, truth[:5], owners[:5], {}, power.Assumptions())
    assert nothing.checks == ()
    assert "no finding can be judged" in nothing.blocked


def test_all_checks_together_agree_with_simulated_looks(project: Path) -> None:
    """The probability that all checks are met is the share of simulated looks in which they are."""
    rng = np.random.default_rng(8)
    owners = np.repeat(np.arange(500), 1 + rng.poisson(1, 500))
    truth = np.full((owners.size, 14), np.nan)
    truth[:, :3] = rng.random((owners.size, 3)) < 0.2
    rules = plans.load(project / "pccp.demo.yaml").performance.model_copy(
        update={
            "required_findings": (),
            "subgroups": None,
            "harm_screen": None,
            "finding": plans.FindingThresholds(floor=None, margin=0.04),
            "macro": plans.Thresholds(floor=None, margin=0.02),
        }
    )
    expected = power.expect(rules, truth, owners, {}, ASSUMED)
    shift = math.sqrt(2) * stats.norm.ppf(ASSUMED.auc)
    met = 0
    for _ in range(150):
        scores = truth[:, :3] * shift + _noise(rng, owners, (2, 3))
        found = auc.compare(
            FINDINGS[:3], truth[:, :3], owners, scores[0], scores[1], level=0.95,
            min_positive_patients=20, min_negative_patients=20,
        )  # fmt: skip
        low = [auc.bounds(row.difference, levels.first(rules.spending).checks)[0] > -0.04 for row in found.findings]
        met += all(low) and auc.bounds(found.macro_difference, levels.first(rules.spending).checks)[0] > -0.02
    assert 0.2 < expected.all_met < 0.95  # else the comparison would say little
    assert expected.all_met == pytest.approx(met / 150, abs=0.12)
    assert expected.at_least <= expected.all_met + 0.01


@pytest.mark.parametrize(
    "values",
    [
        {"auc": 0.5},
        {"auc": 1.0},
        {"difference": 0.3},
        {"correlation": 1.0},
        {"within_patient": -0.1},
        {"between_findings": 1},
    ],
)
def test_assumptions_that_cannot_be_are_refused(values: dict[str, float]) -> None:
    """An assumption outside its range is an error that names it."""
    with pytest.raises(ValueError, match=next(iter(values))):
        power.Assumptions(**values)


def test_looks_one_after_another_follow_the_levels(rules: plans.PerformanceEvaluation, labels: tuple) -> None:
    """After each history the level is the ledger's, and a look with less to spend is met less often; equal have one."""
    truth, owners, attributes = labels
    found = power.expect(rules, truth, owners, attributes, ASSUMED)
    spent = {look.history: look.level for look in found.looks}
    assert spent == pytest.approx(
        {"": 0.04, "f": 0.008, "ff": 0.0016, "p": 0.032, "pf": 0.0064, 9 * "p": 0.05 * 0.8**10}, rel=1e-9
    )
    met = {look.history: look.all_met for look in found.looks}
    assert found.all_met == met[""] >= met["p"] >= met["f"] >= met["ff"]
    alone = power.expect(rules, truth, owners, attributes, ASSUMED, alpha=spent["f"])
    assert alone.all_met == met["f"]
    assert found.by_look == pytest.approx(
        [met[""], 1 - (1 - met[""]) * (1 - met["f"]), 1 - (1 - met[""]) * (1 - met["f"]) * (1 - met["ff"])]
    )
    assert found.checks[found.binding].probability == min(check.probability for check in found.checks)
    equal = rules.model_copy(update={"looks": plans.Looks(method="equal"), "alpha": 0.005})
    assert [look.history for look in power.expect(equal, truth, owners, attributes, ASSUMED).looks] == [""]
