"""Rules of promotion: the gate's checks, made with the project's own statistics, and what others do.

`Setup` holds what does not change between replicates, `Model` one model's scores, `View` a model with given true AUCs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from scipy import special

from bench.gate import ranking
from bench.gate.scores import AREAS, Field, World
from cxr_ops.labels import FINDINGS
from cxr_ops.plan import ChangePlan
from cxr_ops.records.evidence import Estimate
from cxr_ops.stats import auc, evidence, sparse

LEVEL = 0.95  # of the intervals whose coverage is counted
MACRO = "Macro-AUC"
FLOOR = "floor: "  # begins the names of the checks of a model by itself
FAILURES = "if some fail: "  # and of the margins in a world in which patients fail outright
WHOLE = ""  # the name of the subgroup that is everybody
TFMA_SAMPLES = 20  # TensorFlow Model Analysis draws as many bootstrap samples by default

Floats = npt.NDArray[np.float64]
Pair = tuple[auc.Ranking, auc.Ranking]  # of the challenger, and of the model that it is held against


@dataclass(frozen=True)
class Setup:
    """A world under a plan.

    Attributes:
        masks: name of a subgroup -> (N,) whose images it holds.
        over: name of a subgroup (or WHOLE) -> findings with enough patients there.
    """

    world: World
    plan: ChangePlan
    masks: dict[str, npt.NDArray[np.bool_]]
    over: dict[str, list[int]]
    _shifts: dict[tuple[str, int, float], float] = field(default_factory=dict)
    _labels: dict[tuple[str, int], ranking.Labels] = field(default_factory=dict)

    def margin(self, finding: int) -> float:
        """Of a finding's AUC."""
        return self.plan.performance.finding.margin_of(FINDINGS[finding])

    def shift(self, finding: int, difference: float, group: str = WHOLE) -> float:
        """The positives' shift for an AUC that differs by this from the champion's, in all patients or a subgroup."""
        key = (group, finding, difference)
        if key not in self._shifts:
            whole = self.world.shift(finding, AREAS[finding])
            area = self.world.area(finding, whole, self.masks.get(group))
            self._shifts[key] = self.world.shift(finding, area + difference, self.masks.get(group))
        return self._shifts[key]

    def labels(self, finding: int, group: str) -> ranking.Labels:
        """Counts and pairs, made once."""
        key = (group, finding)
        if key not in self._labels:
            structure = self.world.structure
            everybody = np.ones(len(structure.patients), bool)
            self._labels[key] = ranking.Labels.of(
                structure.truth[:, finding], structure.patients, self.masks.get(group, everybody)
            )
        return self._labels[key]


def share(plan: ChangePlan) -> float:
    """One look's equal share of the period's error: what sizes and powers of a look are measured at."""
    rules = plan.performance
    if rules.alpha is not None:
        return rules.alpha
    assert rules.period_alpha is not None, "a plan of recycled looks has one"
    return rules.period_alpha / rules.max_looks


def setup(world: World, plan: ChangePlan) -> Setup:
    """Find out which findings can be judged in which subgroup."""
    rules = plan.performance
    structure = world.structure
    groups, _ = evidence.form_groups(rules.subgroups, structure.attributes, len(structure.patients))
    masks = {f"{group.attribute}={group.value}": group.images for group in groups}
    over = {}
    for name, mask in ((WHOLE, None), *masks.items()):
        enough = structure.positive_patients(mask) >= rules.min_positive_patients
        enough &= structure.negative_patients(mask) >= rules.min_negative_patients
        over[name] = np.flatnonzero(enough).tolist()
    return Setup(world, plan, masks, over)


class Model:
    """One model's scores before the shift, sorted when they are first asked for."""

    def __init__(self, given: Setup, scores: Field) -> None:
        self.setup = given
        self.scores = scores
        self._sorted: dict[tuple[str, int], ranking.Sorted] = {}
        self._gaps: dict[tuple[str, int], Field] = {}
        self._views: dict[tuple[float, str], View] = {}

    def sorted(self, finding: int, group: str = WHOLE) -> ranking.Sorted:
        """The scores of a finding, of everybody or of a subgroup."""
        key = (group, finding)
        if key not in self._sorted:
            structure = self.setup.world.structure
            self._sorted[key] = (
                self.sorted(finding).among(self.setup.masks[group])
                if group
                else ranking.sort(self.scores[finding], structure.truth[:, finding], structure.patients)
            )
        return self._sorted[key]

    def gaps(self, finding: int, group: str = WHOLE) -> Field:
        """Of the pairs of images within a patient; see `ranking.Labels`."""
        key = (group, finding)
        if key not in self._gaps:
            self._gaps[key] = self.setup.labels(finding, group).gaps(self.scores[finding])
        return self._gaps[key]

    def at(self, difference: float = 0.0, group: str = WHOLE) -> View:
        """This model with all its AUCs (or those in a subgroup) as far from the first champion's."""
        return self._views.setdefault((difference, group), View(self, difference, group))


@dataclass(frozen=True)
class View:
    """A model whose true AUCs differ by `difference` from the first champion's, in everybody or in a subgroup."""

    model: Model
    difference: float
    aim: str
    _ranked: dict[tuple[str, int], auc.Ranking] = field(default_factory=dict)
    _by_image: dict[int, Floats] = field(default_factory=dict)

    def rank(self, finding: int, group: str = WHOLE) -> auc.Ranking:
        """Of everybody or of a subgroup; without what nobody asks of it, the parts by image."""
        key = (group, finding)
        if key not in self._ranked:
            found, labels = self.model.sorted(finding, group), self.model.setup.labels(finding, group)
            self._ranked[key] = found.rank(self._shift(finding), labels, self.model.gaps(finding, group))
        return self._ranked[key]

    def by_image(self, finding: int) -> Floats:
        """(N,) each image's part of the deviation, as `auc.Ranking.image`."""
        if finding not in self._by_image:
            given = self.model.setup
            images = len(given.world.structure.patients)
            self._by_image[finding] = self.model.sorted(finding).by_image(self._shift(finding), images)
        return self._by_image[finding]

    def finished(self, finding: int) -> Floats:
        """(N,) the scores, shift included."""
        truth = self.model.setup.world.structure.truth[:, finding]
        scores: Floats = self.model.scores[finding] + self._shift(finding) * truth
        return scores

    def _shift(self, finding: int) -> float:
        return self.model.setup.shift(finding, self.difference, self.aim)


# ------------------------------------------------------------------------------------------------- the gate


def difference(pairs: Sequence[Pair], level: float = LEVEL) -> Estimate:
    """As `auc.compare` makes it."""
    ours, theirs = zip(*pairs, strict=True)
    figure = auc.mean_difference(ours, theirs, level, same_order=False)
    assert isinstance(figure, Estimate), figure
    return figure


def single(parts: Sequence[auc.Ranking], level: float = LEVEL) -> Estimate:
    """As `auc.compare` makes it."""
    figure = auc.mean_auc(parts, level)
    assert isinstance(figure, Estimate), figure
    return figure


def at(alpha: float) -> float:
    """The two-sided level whose lower bound is one-sided at alpha."""
    return 1 - 2 * alpha


def pairs_of(challenger: View, champion: View, group: str = WHOLE) -> list[Pair]:
    """Both models' rankings of all findings that can be judged there."""
    over = challenger.model.setup.over[group]
    return [(challenger.rank(f, group), champion.rank(f, group)) for f in over]


def margins_met(given: Setup, pairs: Sequence[Pair], alpha: float) -> Iterable[tuple[str, bool]]:
    """Macro-AUC and each finding against the plan's margins; `pairs` as from `pairs_of`."""
    yield MACRO, difference(pairs, at(alpha)).low > -given.plan.performance.macro.margin
    for f, pair in zip(given.over[WHOLE], pairs, strict=True):
        yield FINDINGS[f], difference([pair], at(alpha)).low > -given.margin(f)


def failures_met(given: Setup, pairs: Sequence[Pair], alpha: float) -> Iterable[tuple[str, bool]]:
    """The margins in a world in which patients fail outright, and the composites, as the plan asks for them."""
    rules, over = given.plan.performance, given.over[WHOLE]
    named = () if rules.sparse_failures is None else rules.sparse_failures.named
    for f, pair in zip(over, pairs, strict=True):
        if FINDINGS[f] in named:
            yield FAILURES + FINDINGS[f], failures_excluded([pair], given.margin(f), alpha)
    for composite in rules.composites:
        inside = [pairs[over.index(FINDINGS.index(finding))] for finding in composite.findings]
        yield composite.name, difference(inside, at(alpha)).low > -composite.margin
        if rules.sparse_failures is not None:
            yield FAILURES + composite.name, failures_excluded(inside, composite.margin, alpha)


def failures_excluded(pairs: Sequence[Pair], margin: float, alpha: float) -> bool:
    """Whether a margin holds if patients fail outright."""
    figure = difference(pairs)
    ours, theirs = zip(*pairs, strict=True)
    return sparse.keeps(figure.value, sparse.falls(ours, theirs, figure.se), figure.df, alpha, margin)


def subgroups_met(challenger: View, champion: View, alpha: float) -> Iterable[tuple[str, bool]]:
    """The macro-AUC of each subgroup against the plan's margin."""
    given = challenger.model.setup
    rules = given.plan.performance.subgroups
    for name in given.masks:
        if rules is not None and len(given.over[name]) >= rules.min_findings:
            yield name, difference(pairs_of(challenger, champion, name), at(alpha)).low > -rules.margin


def floors_met(challenger: View, alpha: float) -> Iterable[tuple[str, bool]]:
    """The macro-AUC and each finding's AUC against the plan's floors."""
    given = challenger.model.setup
    rules = given.plan.performance
    alone = [challenger.rank(f) for f in given.over[WHOLE]]
    if rules.macro.floor is not None:
        yield FLOOR + MACRO, single(alone, at(alpha)).low > rules.macro.floor
    if rules.finding.floor is not None:
        for f, part in zip(given.over[WHOLE], alone, strict=True):
            yield FLOOR + FINDINGS[f], single([part], at(alpha)).low > rules.finding.floor


def gate(challenger: View, other: View, alpha: float) -> dict[str, bool]:
    """All margins of the plan on AUCs, against the champion or the reference; with `floors_met`, all its checks."""
    pairs, given = pairs_of(challenger, other), challenger.model.setup
    of_all = (*margins_met(given, pairs, alpha), *failures_met(given, pairs, alpha))
    return dict((*of_all, *subgroups_met(challenger, other, alpha)))


# ------------------------------------------------------------------------------------------- what others do


@dataclass(frozen=True)
class Points:
    """What a rule sees that takes images for patients, or looks at points alone.

    Attributes:
        areas: (F,) AUCs of the challenger.
        losses: (F,) challenger minus champion.
        errors: (F,) DeLong's standard errors of the differences: each image for itself.
        total: (N,) each image's part of the sum of the differences.
    """

    areas: Floats
    losses: Floats
    errors: Floats
    total: Floats

    @property
    def macro_error(self) -> float:
        """DeLong's standard error of the mean difference, covariances between findings included."""
        return float(np.sqrt(self.total @ self.total)) / self.areas.size

    def replace(self, place: int, area: float, before: Floats, after: Floats) -> Points:
        """With another AUC of one finding; `before` and `after` are each image's parts of its difference, (N,)."""
        areas, losses, errors = self.areas.copy(), self.losses.copy(), self.errors.copy()
        losses[place] += area - areas[place]
        areas[place] = area
        errors[place] = np.sqrt(after @ after)
        return Points(areas, losses, errors, self.total + after - before)


def points(challenger: View, champion: View) -> tuple[Points, list[Floats]]:
    """Compare two models image by image; also (N,) parts of each finding's difference."""
    over = challenger.model.setup.over[WHOLE]
    areas = np.array([challenger.rank(f).value for f in over])
    parts = [challenger.by_image(f) - champion.by_image(f) for f in over]
    losses = areas - [champion.rank(f).value for f in over]
    return Points(areas, losses, np.array([np.sqrt(part @ part) for part in parts]), np.sum(parts, axis=0)), parts


OTHERS = {
    "mean": "mean AUC not lower",
    "each": "no finding lower",
    "points": "point differences within the margins",
    "threshold": "fixed threshold on the mean AUC (MLflow)",
    "delong": "DeLong by image, within the margins",
    "bootstrap": "bootstrap by image (TFMA), within the margins",
}


def others(given: Setup, seen: Points, alpha: float, rng: np.random.Generator) -> dict[str, bool]:
    """Whether each of the other rules promotes.

    DeLong and the bootstrap get the gate's margins and alpha, so that they differ in their standard errors alone. The
    bootstrap's is DeLong's times the error that `TFMA_SAMPLES` samples leave in it, and its quantile is Student's, as
    TFMA takes it (the results show both side by side). The threshold is the first champion's mean AUC less the margin:
    the best that one can set.
    """
    margins = np.array([given.margin(f) for f in given.over[WHOLE]])
    macro = given.plan.performance.macro.margin
    normal = float(special.ndtri(1 - alpha))
    df = TFMA_SAMPLES - 1
    student = special.stdtrit(df, 1 - alpha) * np.sqrt(rng.chisquare(df, size=margins.size + 1) / df)
    mean_loss = float(seen.losses.mean())
    return {
        "mean": mean_loss >= 0,
        "each": bool((seen.losses >= 0).all()),
        "points": mean_loss > -macro and bool((seen.losses > -margins).all()),
        "threshold": float(seen.areas.mean()) >= threshold(given),
        "delong": mean_loss - normal * seen.macro_error > -macro
        and bool((seen.losses - normal * seen.errors > -margins).all()),
        "bootstrap": mean_loss - student[-1] * seen.macro_error > -macro
        and bool((seen.losses - student[:-1] * seen.errors > -margins).all()),
    }


def threshold(given: Setup) -> float:
    """What the mean AUC is asked to reach by the rule of a fixed threshold."""
    return float(np.mean([AREAS[f] for f in given.over[WHOLE]])) - given.plan.performance.macro.margin
