"""What a change-control plan can show before anybody is scored: standard errors, probabilities, patients needed.

The model is binormal. In each class the score of an image is normal with variance 1, and the positives' mean lies
higher by as much as the AUC asks for. Two scores of one class or of two are correlated: `correlation` between models on
one image, `within_patient` between images of a patient, `between_findings` between findings; where several apply, their
product. Then the covariance of two placement values is an integral of the bivariate normal density over the correlation
(Plackett), and the variance of an AUC, of a paired difference and of a mean of them is a sum of such covariances over
the pairs of images that share a patient (Obuchowski 1997: only those pairs matter).

What is left out: that a variance is estimated with error enters through Student's t only; thresholds count as given,
though they come from a validation set; checks of calibration have no closed form here, and are not among the results.

Sources:
    Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997) 567-578.
    Obuchowski and McClish, "Sample size determination for diagnostic accuracy studies involving binormal ROC curve
    indices", Statistics in Medicine 16 (1997) 1529-1542: planning by the binormal model.
    Hanley and McNeil, Radiology 148 (1983) 839-843: paired AUCs, planned by the correlation of the scores.
    Plackett, "A reduction formula for normal multivariate integrals", Biometrika 41 (1954) 351-360.

Shapes: N images, F findings, P patients, G groups of images (all of them, and each subgroup), K = G F.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import special

from cxr_ops.labels import FINDINGS
from cxr_ops.plan import Composite, OperatingPoints, PerformanceEvaluation, SparseFailures
from cxr_ops.stats import auc, evidence, levels, sparse

Floats = npt.NDArray[np.float64]
Against = Literal["champion", "reference"]
Kind = Literal["floor", "margin", "sparse", "composite", "sensitivity", "specificity"]

# The margin that is proposed for a finding, from so many positive patients on. Below the last one nothing is judged.
# With so many an equally good model nearly always keeps its margin if failures of few patients are to be excluded
# (`cxr_ops.stats.sparse`): from 400, 200 and 60 on at an error of 0.5 %, from 30 and 20 on at 4 %.
TIERS: Final = ((400, 0.03), (200, 0.05), (60, 0.10), (30, 0.15), (20, 0.20))
# The share of releases of an equally good model that a plan should let through, and the least that is worth a look.
TARGETS: Final = (0.80, 0.95)
DRAWS: Final = 20_000

# An integrand as smooth as this one is exact with so few nodes, as long as the correlation stays below 0.99.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(48)
_MOST: Final = 1e7  # times as many patients: nobody has them


def margin_tier(positive_patients: int) -> float | None:
    """The margin proposed for a finding with so many positive patients; None: it cannot be judged.

    >>> [margin_tier(patients) for patients in (400, 399, 199, 59, 29, 19)]
    [0.03, 0.05, 0.1, 0.15, 0.2, None]
    """
    return next((margin for least, margin in TIERS if positive_patients >= least), None)


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What is believed of the models.

    Attributes:
        auc: of champion and reference, for every finding, in (0.5, 1).
        difference: challenger's AUC minus that, for every finding.
        correlation: of two models' scores on an image, among images of one class, in [0, 0.99].
        within_patient: of a model's scores on two images of a patient, in [0, 1); 0.45 to 0.63 was seen on NIH images
            without the finding.
        between_findings: of a model's scores for two findings on an image, in [0, 1).
    """

    auc: float = 0.80
    difference: float = 0.0
    correlation: float = 0.9
    within_patient: float = 0.5
    between_findings: float = 0.3

    def __post_init__(self) -> None:
        rules = (
            (0.5 < self.auc < 1, "auc must lie between 0.5 and 1"),
            (0.5 < self.auc + self.difference < 1, "auc + difference must lie between 0.5 and 1"),
            (0 <= self.correlation <= 0.99, "correlation must lie between 0 and 0.99"),
            (0 <= self.within_patient < 1, "within_patient must lie between 0 and 1"),
            (0 <= self.between_findings < 1, "between_findings must lie between 0 and 1"),
        )
        for holds, what in rules:
            if not holds:
                raise ValueError(what)

    def __str__(self) -> str:
        """The assumptions in words."""
        return (
            f"every AUC {self.auc:g}, difference {self.difference:g}; correlation of scores between models "
            f"{self.correlation:g}, in a patient {self.within_patient:g}, between findings {self.between_findings:g}"
        )


@dataclass(frozen=True, kw_only=True)
class Expectation:
    """What is to be expected of one check.

    Attributes:
        kind, against, finding, subgroup, limit: as in `records.Check`.
        truth: the figure that is assumed to be true.
        se: the standard error expected of its estimate.
        probability: that the check is met.
        counted: `patients`, `positive patients` or `negative patients`.
        patients: how many there are.
        needed: how many would meet it with each of `TARGETS`; None where no number would.
    """

    kind: Kind
    against: Against | None = None
    finding: str | None = None
    subgroup: str | None = None
    limit: float
    truth: float
    se: float
    probability: float
    counted: str
    patients: int
    needed: tuple[int | None, ...]


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What a look is expected to come to after others.

    Attributes:
        history: what became of the looks before it, one by one: `p` promoted, `f` not.
        level: what it may spend.
        all_met: the probability that all checks are met.
    """

    history: str
    level: float
    all_met: float


@dataclass(frozen=True, kw_only=True)
class Power:
    """What is to be expected of one look, and of looks one after another.

    Attributes:
        checks: in the order of the plan.
        at_least: lower bound of the probability that all are met (Bonferroni).
        all_met: that probability, by simulation of the checks' joint distribution.
        not_judged: findings and subgroups that have too few patients, in sentences.
        looks: after some histories, the first look's first; equal looks have that one alone.
        binding: the check that is least probably met, as its place among `checks`; None where there is none.
        blocked: what stops a release whatever the models are, in sentences; then `at_least` and `all_met` are 0.
    """

    checks: tuple[Expectation, ...]
    at_least: float
    all_met: float
    not_judged: tuple[str, ...]
    blocked: tuple[str, ...]
    looks: tuple[Prospect, ...] = ()
    binding: int | None = None

    @property
    def by_look(self) -> tuple[float, ...]:
        """Probability that one of the first one, two, ... looks promotes, as if looks were independent.

        On one test set they are not: the luck of the champion is in all of them, and they agree more than that.
        """
        failed = {look.history: 1 - look.all_met for look in self.looks}
        left, found = 1.0, []
        for number in range(len(failed)):
            if "f" * number not in failed:
                break
            left *= failed["f" * number]
            found.append(1 - left)
        return tuple(found)


# ------------------------------------------------------------------------------------------------ covariances


def shared(correlation: float, first: float, second: float) -> float:
    """The covariance of two events or placement values that two correlated normal variables give.

    P(X < first, Y < second) minus the product of both, for standard normal X and Y: the integral of their density over
    the correlation from 0 to `correlation` (Plackett 1954). Two events 1[X < first], 1[Y < second] have this
    covariance. For placement values the correlation is half that of the scores, because each score is compared with a
    score of its own.

    Args:
        correlation: in [-0.99, 0.99].
        first: where X is cut.
        second: where Y is cut.

    >>> round(shared(0.5, 0.0, 0.0), 6)  # P = 1/4 + arcsin(1/2) / (2 pi) = 1/3
    0.083333
    """
    at = 0.5 * correlation * (_NODES + 1.0)
    left = 1.0 - at**2
    density = np.exp(-(first**2 - 2 * at * first * second + second**2) / (2 * left)) / (2 * math.pi * np.sqrt(left))
    return float(0.5 * correlation * (_WEIGHTS @ density))


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """How much weight pairs of images have in the covariances of K AUCs, each (K, K).

    Attributes:
        same: an image with itself. They are both positive, or both negative.
        crossed: an image with itself where one AUC has it as positive and the other as negative.
        same_patient, crossed_patient: two images of one patient.
    """

    same: Floats
    crossed: Floats
    same_patient: Floats
    crossed_patient: Floats


def count_pairs(truth: npt.ArrayLike, owners: npt.ArrayLike) -> Pairs:
    """Add up the weights of all pairs of images that share a patient.

    Args:
        truth: (N, K) 1, 0 or NaN; a column without positives or negatives has no AUC, and weighs nothing.
        owners: (N,) whole numbers from 0, one a patient.

    >>> pairs = count_pairs([[1], [1], [0], [0]], [0, 0, 1, 2])
    >>> pairs.same.item(), pairs.same_patient.item()
    (1.0, 0.5)
    """
    labels = np.asarray(truth, dtype=np.float64)
    positive, negative = (np.where(labels == kind, 1.0, 0.0) for kind in (1, 0))
    positive /= np.maximum(positive.sum(axis=0), 1.0)
    negative /= np.maximum(negative.sum(axis=0), 1.0)
    of_patient = [_add_up(weights, np.asarray(owners, dtype=np.int64)) for weights in (positive, negative)]
    same, crossed = _products(positive, negative)
    same_patient, crossed_patient = _products(*of_patient)
    return Pairs(
        same=same, crossed=crossed, same_patient=same_patient - same, crossed_patient=crossed_patient - crossed
    )


def _products(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    crossed = positive.T @ negative
    return positive.T @ positive + negative.T @ negative, crossed + crossed.T


def _add_up(rows: Floats, owners: npt.NDArray[np.int64]) -> Floats:
    """Add up the rows of each owner."""
    order = np.argsort(owners, kind="stable")
    starts = np.flatnonzero(np.diff(owners[order], prepend=-1))
    total: Floats = np.add.reduceat(rows[order], starts, axis=0)
    return total


def covariance(
    pairs: Pairs, same_finding: npt.NDArray[np.bool_], assumed: Assumptions, areas: Sequence[float]
) -> Floats:
    """Expected covariances of the AUCs of M models, (M K, M K), model by model.

    Args:
        pairs: see `count_pairs`.
        same_finding: (K, K) whether two columns are of one finding.
        assumed: the correlations.
        areas: M AUCs, one a model.
    """
    cuts = special.ndtri(np.asarray(areas, dtype=np.float64))

    def block(a: int, b: int) -> Floats:
        alike = 1.0 if a == b else assumed.correlation

        def of(correlation: float) -> Floats:
            own, other = (shared(0.5 * correlation * q, cuts[a], cuts[b]) for q in (1.0, assumed.between_findings))
            return np.where(same_finding, own, other)

        within = alike * assumed.within_patient
        return (
            pairs.same * of(alike)
            + pairs.crossed * of(-alike)
            + pairs.same_patient * of(within)
            + pairs.crossed_patient * of(-within)
        )

    models = range(len(areas))
    return np.block([[block(a, b) for b in models] for a in models])


def operating_variance(counts: npt.ArrayLike, cuts: tuple[float, float], assumed: Assumptions) -> float:
    """Expected variance of a paired difference of two models' sensitivities (or specificities) at given thresholds.

    Args:
        counts: (P,) images of each patient in the class concerned.
        cuts: for each model, the normal quantile of its sensitivity (or specificity).
        assumed: the correlations.

    >>> one_image_each = operating_variance(np.ones(100), (0.0, 0.0), Assumptions(correlation=0.0))
    >>> round(one_image_each, 6)  # two independent shares of 1/2: 2 * 0.25 / 100
    0.005
    """
    images = np.asarray(counts, dtype=np.float64)
    shares = special.ndtr(np.asarray(cuts))
    same = float((shares * (1 - shares)).sum()) - 2 * shared(assumed.correlation, *cuts)
    within = assumed.within_patient
    paired = sum(shared(within, cut, cut) for cut in cuts) - 2 * shared(within * assumed.correlation, *cuts)
    total = images.sum()
    return float((total * same + (images @ images - total) * paired) / total**2)


# ----------------------------------------------------------------------------------------------- one check


def probability_met(distance: float, df: float, alpha: float) -> float:
    """Probability that a one-sided check at `alpha` is met, with the truth `distance` standard errors above its limit.

    The non-central t distribution by its normal approximation (Abramowitz and Stegun, 26.7.10).

    Args:
        distance: (truth - limit) / standard error.
        df: degrees of freedom of the estimated standard error.
        alpha: one-sided error.

    >>> round(probability_met(4.0, 1e9, 0.025), 3), round(probability_met(0.0, 1e9, 0.025), 3)
    (0.979, 0.025)
    """
    critical = float(special.stdtrit(df, 1.0 - alpha))
    return float(special.ndtr((distance - critical * (1 - 1 / (4 * df))) / math.sqrt(1 + critical**2 / (2 * df))))


def times_needed(distance: float, effective: float, alpha: float, target: float) -> float | None:
    """How many times as many patients would meet a check with probability `target`; None where no number would.

    Args:
        distance: (truth - limit) / standard error, with the patients there are.
        effective: how many patients with one image each would weigh as much as those there are.
        alpha: one-sided error.
        target: probability.

    >>> round(times_needed(2.0, 1e9, 0.025, 0.8), 2)  # ((1.96 + 0.84) / 2)^2
    1.96
    """
    low, high = 1e-4, _MOST

    def reaches(times: float) -> bool:
        return probability_met(distance * math.sqrt(times), max(effective * times - 1, 1.0), alpha) >= target

    if distance <= 0 or not reaches(high):
        return None
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high


# ------------------------------------------------------------------------------------------------ a whole plan


@dataclass(frozen=True, kw_only=True)
class _Claim:
    """A check before its probability is known: `weights` are over models x groups x findings."""

    kind: Kind
    limit: float
    truth: float
    counted: str
    patients: int
    effective: float
    rarer: int | None = None  # of a check of failures: patients of the rarer kind
    against: Against | None = None
    finding: str | None = None
    subgroup: str | None = None
    weights: Floats | None = None
    se: float = 0.0

    def expect(self, se: float, alpha: float) -> tuple[Expectation, float, float]:
        """The expectation, the distance of truth and limit in standard errors, and the degrees of freedom."""
        df = max(self.effective - 1.0, 1.0)
        if self.rarer is None:
            distance = self._distance() / se
            met = probability_met(distance, df, alpha)
            times = [times_needed(distance, self.effective, alpha, target) for target in TARGETS]
        else:
            met = sparse.probability(-self.limit, se, self.rarer, df, alpha, self.truth)
            times = [
                sparse.times_needed(-self.limit, se, self.rarer, df, alpha, target, self.truth) for target in TARGETS
            ]
            distance = _distance_met(met, df, alpha)
        found = Expectation(
            kind=self.kind,
            against=self.against,
            finding=self.finding,
            subgroup=self.subgroup,
            limit=self.limit,
            truth=self.truth,
            se=se,
            probability=met,
            counted=self.counted,
            patients=self.patients,
            needed=tuple(None if each is None else math.ceil(each * self.patients) for each in times),
        )
        return found, distance, df

    def _distance(self) -> float:
        """From the limit to the truth; for an AUC on the logit scale, where its interval is made."""
        if self.kind != "floor":
            return self.truth - self.limit
        if self.limit <= 0:
            return math.inf
        return float(special.logit(self.truth) - special.logit(self.limit)) * self.truth * (1 - self.truth)


def _distance_met(probability: float, df: float, alpha: float) -> float:
    """The distance of which `probability_met` is this."""
    critical = float(special.stdtrit(df, 1.0 - alpha))
    normal = float(special.ndtri(min(max(probability, 1e-12), 1 - 1e-12)))
    return normal * math.sqrt(1 + critical**2 / (2 * df)) + critical * (1 - 1 / (4 * df))


def expect(
    rules: PerformanceEvaluation,
    truth: npt.ArrayLike,
    owners: npt.ArrayLike,
    attributes: Mapping[str, Sequence[str]],
    assumed: Assumptions,
    *,
    others: Sequence[Against] = ("champion",),
    alpha: float | None = None,
    seed: int = 0,
) -> Power:
    """What one look under a plan is expected to show.

    Args:
        rules: the plan's checks.
        truth: (N, 14) 1, 0 or NaN, in the order of `FINDINGS`.
        owners: (N,) whole numbers from 0, one a patient.
        attributes: as in `evidence.assess`.
        assumed: what is believed of the models.
        others: the models that the challenger is compared with.
        alpha: what the look may spend; without it, what a first look may.
        seed: of the simulation behind `all_met`.
    """
    labels = np.asarray(truth, dtype=np.float64)
    patients = np.unique(np.asarray(owners), return_inverse=True)[1]
    groups, missing = evidence.form_groups(rules.subgroups, attributes, len(labels))
    masks = {"": np.ones(len(labels), dtype=bool)} | {f"{one.attribute}={one.value}": one.images for one in groups}
    columns = np.concatenate([np.where(mask[:, None], labels, np.nan) for mask in masks.values()], axis=1)
    by_patient = [_add_up(np.where(columns == kind, 1.0, 0.0), patients) for kind in (1, 0)]
    having = [(counts > 0).sum(axis=0) for counts in by_patient]
    evaluable = (having[0] >= rules.min_positive_patients) & (having[1] >= rules.min_negative_patients)
    table = _Table(
        rules=rules,
        assumed=assumed,
        others=tuple(others),
        groups=tuple(masks),
        sizes=tuple(len(np.unique(patients[mask])) for mask in masks.values()),
        positive=by_patient[0],
        negative=by_patient[1],
        evaluable=evaluable.reshape(len(masks), len(FINDINGS)),
    )
    judged, not_judged, blocked = table.judged()
    not_judged += missing
    asked = () if rules.subgroups is None else rules.subgroups.attributes
    formed = {one.attribute for one in groups}
    blocked += [f"subgroups by {name} are asked for, and none can be formed" for name in asked if name not in formed]
    claims = table.floors(judged)
    for other in others:
        margins, small = table.margins(judged, other)
        claims += [*margins, *table.failures(judged, other), *table.composites(other)]
        not_judged += [] if other != others[0] else small
    weighted = list(claims)
    claims += [claim for other in others for claim in table.operating(other)]  # last: see `_all_met`
    finding = np.tile(np.arange(len(FINDINGS)), len(masks))
    areas = [assumed.auc + assumed.difference, *(assumed.auc for _ in others)]
    whole = covariance(count_pairs(columns, patients), finding[:, None] == finding, assumed, areas)
    weights = np.array([claim.weights for claim in weighted]).reshape(len(weighted), whole.shape[0])
    joint = weights @ whole @ weights.T
    errors = [*np.sqrt(np.diag(joint)), *(claim.se for claim in claims[len(weighted) :])]

    def at(spent: float) -> list[tuple[Expectation, float, float]]:
        return [claim.expect(float(error), spent) for claim, error in zip(claims, errors, strict=True)]

    level = levels.first(rules.spending).checks if alpha is None else alpha
    found = at(level)
    missed = sum(1 - check.probability for check, _, _ in found)
    histories = ("",) if rules.looks.method == "equal" else _histories(rules.max_looks)
    looks = []
    for history in () if blocked else histories:
        spent = level if not history and alpha is not None else levels.after([rules.spending], history).checks
        looks.append(Prospect(history=history, level=spent, all_met=_all_met(at(spent), joint, spent, seed)))
    return Power(
        checks=tuple(check for check, _, _ in found),
        at_least=0.0 if blocked else max(0.0, 1 - missed),
        all_met=looks[0].all_met if looks else 0.0,
        not_judged=tuple(not_judged),
        blocked=tuple(blocked),
        looks=tuple(looks),
        binding=min(range(len(found)), key=lambda place: found[place][0].probability) if found else None,
    )


def _histories(max_looks: int) -> tuple[str, ...]:
    """What became of the looks before one: nothing yet, failures, and promotions up to the last look of a period."""
    histories = ("", "f", "ff", "p", "pf", "p" * (max_looks - 1))
    return tuple(dict.fromkeys(history for history in histories if len(history) < max_looks))


def _all_met(found: Sequence[tuple[Expectation, float, float]], joint: Floats, alpha: float, seed: int) -> float:
    """Draw all checks' t statistics together; those that are not in `joint` come last, as if independent."""
    if not found:
        return 0.0
    rng = np.random.default_rng(seed)
    distances = np.array([distance for _, distance, _ in found])
    dfs = np.array([df for _, _, df in found])
    spread = np.sqrt(np.diag(joint))
    values, vectors = np.linalg.eigh(joint / np.outer(spread, spread))
    mixing = vectors * np.sqrt(np.maximum(values, 0.0))
    together = rng.standard_normal((DRAWS, len(spread))) @ mixing.T
    alone = rng.standard_normal((DRAWS, len(found) - len(spread)))
    estimated = np.sqrt(rng.chisquare(dfs, (DRAWS, len(found))) / dfs)
    met = distances + np.hstack([together, alone]) > special.stdtrit(dfs, 1 - alpha) * estimated
    return float(met.all(axis=1).mean())


@dataclass(frozen=True, kw_only=True)
class _Table:
    """Counts of a test set, (G, 14) by group and finding, from which the plan's claims are made."""

    rules: PerformanceEvaluation
    assumed: Assumptions
    others: tuple[Against, ...]
    groups: tuple[str, ...]
    sizes: tuple[int, ...]
    positive: Floats
    negative: Floats
    evaluable: npt.NDArray[np.bool_]

    def judged(self) -> tuple[list[int], list[str], list[str]]:
        """Which findings can be judged; which cannot and need not; what stops a release whatever the models are."""
        judged: list[int] = []
        not_judged: list[str] = []
        blocked: list[str] = []
        if self.sizes[0] < self.rules.min_test_patients:
            blocked.append(f"{self.sizes[0]} test patients, and the plan asks for {self.rules.min_test_patients}")
        for f, finding in enumerate(FINDINGS):
            if self.evaluable[0, f]:
                judged.append(f)
                continue
            there = [int((counts[:, f] > 0).sum()) for counts in (self.positive, self.negative)]
            what = f"{finding}: {there[0]} positive and {there[1]} negative patients are too few to judge it"
            (blocked if finding in self.rules.required else not_judged).append(what)
        for composite in self.rules.composites:
            few = [name for name in composite.findings if not self._is_estimable(FINDINGS.index(name))]
            blocked += [f"{composite.name} is over {name}, of which nothing can be estimated" for name in few]
        if not judged:
            blocked.append("no finding can be judged")
        return judged, not_judged, blocked

    def floors(self, judged: Sequence[int]) -> list[_Claim]:
        """The floors of the challenger's AUCs."""
        macro, finding = self.rules.macro.floor, self.rules.finding.floor
        claims = [self._auc(0, judged, "floor", macro)] if macro is not None and judged else []
        if finding is not None:
            claims += [self._auc(0, [f], "floor", finding, finding=FINDINGS[f]) for f in judged]
        return claims

    def margins(self, judged: Sequence[int], against: Against) -> tuple[list[_Claim], list[str]]:
        """The margins of AUC differences from a model; the subgroups that are not judged."""
        rules = self.rules
        claims = [self._auc(0, judged, "margin", -rules.macro.margin, against)] if judged else []
        claims += [
            self._auc(0, [f], "margin", -rules.finding.margin_of(FINDINGS[f]), against, FINDINGS[f]) for f in judged
        ]
        not_judged: list[str] = []
        for g in range(1, len(self.groups) if rules.subgroups is not None else 1):
            within = [f for f in range(len(FINDINGS)) if self.evaluable[g, f]]
            if rules.subgroups is not None and len(within) >= rules.subgroups.min_findings:
                claims.append(self._auc(g, within, "margin", -rules.subgroups.margin, against))
            else:
                not_judged.append(
                    f"{self.groups[g]}: {len(within)} findings with enough patients are too few to judge it"
                )
        return claims, not_judged

    def failures(self, judged: Sequence[int], against: Against) -> list[_Claim]:
        """The margins of the findings that the plan names, if a few patients fail outright."""
        sparse_failures = self.rules.sparse_failures
        named = () if sparse_failures is None else sparse_failures.named
        return [
            dataclasses.replace(
                self._auc(0, [f], "sparse", -self.rules.finding.margin_of(FINDINGS[f]), against, FINDINGS[f]),
                rarer=self._rarer([f]),
            )
            for f in judged
            if FINDINGS[f] in named
        ]

    def composites(self, against: Against) -> list[_Claim]:
        """The margins of the plan's composites, and the same if a few patients fail outright."""
        claims: list[_Claim] = []
        for composite in self.rules.composites:
            over = [FINDINGS.index(finding) for finding in composite.findings]
            if not all(self._is_estimable(f) for f in over):
                continue
            claim = dataclasses.replace(
                self._auc(0, over, "composite", -composite.margin, against, composite.name),
                patients=int((self.positive[:, over] > 0).any(axis=1).sum()),
            )
            claims.append(claim)
            if self.rules.sparse_failures is not None:
                claims.append(dataclasses.replace(claim, kind="sparse", rarer=self._rarer(over)))
        return claims

    def _is_estimable(self, f: int) -> bool:
        return all((counts[:, f] > 0).sum() >= auc.MIN_PATIENTS for counts in (self.positive, self.negative))

    def _rarer(self, over: Sequence[int]) -> int:
        """Patients who have an image of the rarer kind for one of the findings."""
        return min(int((counts[:, over] > 0).any(axis=1).sum()) for counts in (self.positive, self.negative))

    def operating(self, against: Against) -> list[_Claim]:
        """Sensitivity and specificity of the declared findings that have enough positive patients."""
        points = self.rules.operating_points
        if points is None:
            return []
        return [
            claim for finding in points.findings for claim in self._operating(FINDINGS.index(finding), points, against)
        ]

    def _auc(
        self,
        group: int,
        findings: Sequence[int],
        kind: Literal["floor", "margin", "sparse", "composite"],
        limit: float,
        against: Against | None = None,
        finding: str | None = None,
    ) -> _Claim:
        columns = [group * len(FINDINGS) + f for f in findings]
        size = self.positive.shape[1]
        weights = np.zeros((1 + len(self.others)) * size)
        weights[columns] = 1 / len(columns)
        if against is not None:
            other = (1 + self.others.index(against)) * size
            weights[[other + column for column in columns]] = -1 / len(columns)
        positives = int((self.positive[:, columns[0]] > 0).sum())
        return _Claim(
            kind=kind,
            against=against,
            finding=finding,
            subgroup=self.groups[group] or None,
            limit=limit,
            truth=self.assumed.difference + (self.assumed.auc if kind == "floor" else 0.0),
            counted="positive patients" if finding else "patients",
            patients=positives if finding else self.sizes[group],
            effective=min(_effective(counts[:, columns]) for counts in (self.positive, self.negative)),
            weights=weights,
        )

    def _operating(self, f: int, points: OperatingPoints, against: Against) -> list[_Claim]:
        """Sensitivity and specificity of a finding, where it has enough positive patients."""
        positives = int((self.positive[:, f] > 0).sum())
        if not self.evaluable[0, f] or positives < points.min_positive_patients:
            return []
        areas = (self.assumed.auc + self.assumed.difference, self.assumed.auc)
        cuts = [_cuts(math.sqrt(2) * float(special.ndtri(area)), points) for area in areas]
        kinds: tuple[tuple[Literal["sensitivity", "specificity"], float, str, Floats], ...] = (
            ("sensitivity", points.sensitivity_margin, "positive patients", self.positive[:, f]),
            ("specificity", points.specificity_margin, "negative patients", self.negative[:, f]),
        )
        claims = []
        for k, (kind, margin, counted, counts) in enumerate(kinds):
            pair = (cuts[0][k], cuts[1][k])
            claims.append(
                _Claim(
                    kind=kind,
                    against=against,
                    finding=FINDINGS[f],
                    limit=-margin,
                    truth=float(special.ndtr(pair[0]) - special.ndtr(pair[1])),
                    counted=counted,
                    patients=int((counts > 0).sum()),
                    effective=_effective(counts[:, None]),
                    se=math.sqrt(operating_variance(counts, pair, self.assumed)),
                )
            )
        return claims


# ------------------------------------------------------------------------------------------------ what could be done


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """What a plan can do where a finding's margin runs out of patients.

    Attributes:
        finding: whose margin an equally good model keeps too rarely.
        patients: with the finding, in the labels.
        margin: the plan's.
        probability: that an equally good model keeps it at a first look, with failures of few patients excluded.
        wider: the next margin of `TIERS` that it keeps with the larger of `TARGETS`, and how probably; None: there is
            none.
        needed: patients with the finding who show the plan's margin so often; None: no number would.
        composite: findings that could be judged together, their margin, and how probably it is kept; None: there are
            none to add.
    """

    finding: str
    patients: int
    margin: float
    probability: float
    wider: tuple[float, float] | None
    needed: int | None
    composite: tuple[tuple[str, ...], float, float] | None

    def __str__(self) -> str:
        """The proposal in a sentence or four."""
        first = (
            f"{self.finding}: an equally good model keeps {self.margin:g} in {100 * self.probability:.0f} % of first "
            f"looks with {self.patients} positive patients, if failures of few are to be excluded"
        )
        said = [first]
        if self.wider:
            said.append(f"a margin of {self.wider[0]:g} in {100 * self.wider[1]:.0f} %")
        if self.composite:
            findings, margin, probability = self.composite
            said.append(f"a composite of {', '.join(findings)} a margin of {margin:g} in {100 * probability:.0f} %")
        if self.needed:
            said.append(f"{self.needed} positive patients would do for {100 * TARGETS[-1]:.0f} %")
        return "; ".join(said)


PARTNERS: Final = 3  # findings that are proposed beside a rare one
_TOGETHER: Final = "together"


def propose(
    rules: PerformanceEvaluation, truth: npt.ArrayLike, owners: npt.ArrayLike, assumed: Assumptions
) -> list[Proposal]:
    """What a plan can do for each judged finding whose margin an equally good model does not keep nearly always.

    Args:
        rules: the plan's checks.
        truth: (N, 14), as in `expect`.
        owners: (N,)
        assumed: what is believed of the models; failures of few patients are to be excluded, whatever the plan says.
    """
    alone = rules.model_copy(
        update={"subgroups": None, "harm_screen": None, "sparse_failures": SparseFailures(), "composites": ()}
    )

    def kept(of: PerformanceEvaluation, name: str) -> tuple[float, Expectation]:
        checks = expect(of, truth, owners, {}, assumed).checks
        asked = [check for check in checks if check.finding == name and check.kind in ("margin", "composite", "sparse")]
        worst = min(asked, key=lambda check: check.probability)
        return worst.probability, worst

    judged = {
        check.finding: check.patients
        for check in expect(alone, truth, owners, {}, assumed).checks
        if check.kind == "margin" and check.finding is not None
    }
    found: list[Proposal] = []
    for finding, patients in judged.items():
        probability, worst = kept(alone, finding)
        if probability >= TARGETS[-1]:
            continue
        margin, wider = rules.finding.margin_of(finding), None
        for candidate in sorted(each for _, each in TIERS if each > margin):
            margins = {**rules.finding.margins, finding: candidate}
            more = rules.finding.model_copy(update={"margins": margins})
            reached, _ = kept(alone.model_copy(update={"finding": more}), finding)
            if reached >= TARGETS[-1]:
                wider = (candidate, reached)
                break
        rarest = sorted((name for name in judged if name != finding), key=lambda name: (judged[name], name))
        partners = tuple(name for name in FINDINGS if name in (finding, *rarest[:PARTNERS]))
        composite = None
        if len(partners) > 1:
            widest = max(rules.finding.margin_of(name) for name in partners if name != finding)
            asked = Composite(name=_TOGETHER, findings=partners, margin=widest)
            composite = (partners, widest, kept(alone.model_copy(update={"composites": (asked,)}), _TOGETHER)[0])
        found.append(
            Proposal(
                finding=finding,
                patients=patients,
                margin=margin,
                probability=probability,
                wider=wider,
                needed=worst.needed[-1],
                composite=composite,
            )
        )
    return found


def _effective(counts: Floats) -> float:
    """See `auc.effective_patients`; `counts` is patients x findings."""
    weights = (counts / counts.sum(axis=0)).sum(axis=1)
    return float(weights.sum() ** 2 / (weights @ weights))


def _cuts(shift: float, points: OperatingPoints) -> tuple[float, float]:
    """Normal quantiles of sensitivity and specificity at the plan's operating point; `shift` parts the classes."""
    if points.rule == "youden" or points.target is None:
        return shift / 2, shift / 2
    wanted = float(special.ndtri(points.target))
    return (shift - wanted, wanted) if points.rule == "specificity" else (wanted, shift - wanted)
