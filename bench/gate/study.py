"""The studies: each replicate draws scores anew and says what every rule does with them.

A replicate is a function of the setup and a seed that yields named numbers (1 and 0 for yes and no). Sums, squares and
counts of them are all that is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import special

from bench.gate import gaps, procedures, shapes
from bench.gate.procedures import LEVEL, MACRO, OTHERS, WHOLE, Model, Pair, Setup, View
from bench.gate.scores import AREAS
from bench.gate.structure import Structure
from cxr_ops.labels import FINDINGS
from cxr_ops.records.evidence import Estimate, Evaluation
from cxr_ops.records.inputs import Level
from cxr_ops.stats import auc, evidence, rule

Named = Iterator[tuple[str, float]]
_BEGINS = {"floor": procedures.FLOOR, "sparse": procedures.FAILURES}  # the name of a check of the kind

NOMINAL = 0.025  # beside the equal share of the period's error
BETTER = 0.005  # all other checks, while one is at its margin
LOOKS = 10
RELEASES, STEP = 20, 0.002
CORRELATIONS = (0.5, 0.7, 0.8, 0.9, 0.95)
DIFFERENCES = (-0.010, -0.0075, -0.005, -0.0025, 0.0, 0.005)
BOOTSTRAP_SAMPLES = 200
AGREEMENT_AT = (0.0, -0.0025, -0.005, -0.01, -0.03)  # differences at which quick path and rule are compared


# --------------------------------------------------------------------------------------------------- one look


def look(setup: Setup, rng: np.random.Generator) -> Named:
    """Size at every least-favourable point, power, coverage, and the other rules, on the same scores."""
    world = setup.world
    common = world.noise(rng)
    champion, challenger = (Model(setup, world.scores(common, world.noise(rng))) for _ in range(2))
    yield from _coverage(setup, champion.at(), challenger.at())
    yield from _size(setup, champion.at(), challenger)
    yield from _power(setup, champion.at(), challenger.at())
    yield from _others(setup, champion.at(), challenger, rng)


def _coverage(setup: Setup, champion: View, challenger: View) -> Named:
    over = setup.over[WHOLE]
    alone = [champion.rank(f) for f in over]
    apart = procedures.pairs_of(challenger, champion)
    # An image taken for a patient: what DeLong would state.
    by_image, _ = procedures.points(challenger, champion)
    cases = [(FINDINGS[f], [i], AREAS[f], by_image.errors[i]) for i, f in enumerate(over)]
    everything = list(range(len(over)))
    cases.append((MACRO, everything, float(np.mean([AREAS[f] for f in over])), by_image.macro_error))
    for name, which, truth, image_error in cases:
        area = procedures.single([alone[i] for i in which])
        loss = procedures.difference([apart[i] for i in which])
        for kind, figure, true in (("auc", area, truth), ("difference", loss, 0.0)):
            yield f"covered/{kind}/{name}", figure.low <= true <= figure.high
            yield f"too low/{kind}/{name}", figure.high < true
            yield f"too high/{kind}/{name}", figure.low > true
            yield f"value/{kind}/{name}", figure.value - true
            yield f"variance/{kind}/{name}", figure.se**2
            yield f"degrees of freedom/{kind}/{name}", figure.df or np.inf
        yield f"variance/by image/{name}", image_error**2


def _size(setup: Setup, champion: View, challenger: Model) -> Named:
    """False passes of each check at its margin."""
    rules, alpha = setup.plan.performance, procedures.share(setup.plan)
    at_points = [(MACRO, procedures.pairs_of(challenger.at(-rules.macro.margin), champion), rules.macro.margin)]
    for f in setup.over[WHOLE]:
        margin = setup.margin(f)
        at_points.append((FINDINGS[f], [(challenger.at(-margin).rank(f), champion.rank(f))], margin))
    if rules.subgroups is not None:
        margin = rules.subgroups.margin
        for name in setup.masks:
            worse = challenger.at(-margin, name)
            at_points.append((name, procedures.pairs_of(worse, champion, name), margin))
    for name, parts, margin in at_points:
        yield from _passes(
            name, procedures.difference(parts, procedures.at(NOMINAL)), -margin, procedures.share(setup.plan)
        )
    if rules.finding.floor is not None:
        for f in setup.over[WHOLE]:
            floor = rules.finding.floor
            figure = procedures.single([challenger.at(floor - AREAS[f]).rank(f)], procedures.at(NOMINAL))
            yield from _passes(procedures.FLOOR + FINDINGS[f], figure, floor, alpha)
    if rules.macro.floor is not None:
        mean = float(np.mean([AREAS[f] for f in setup.over[WHOLE]]))
        low = challenger.at(rules.macro.floor - mean)
        figure = procedures.single([low.rank(f) for f in setup.over[WHOLE]], procedures.at(NOMINAL))
        yield from _passes(procedures.FLOOR + MACRO, figure, rules.macro.floor, alpha)


def _passes(name: str, figure: Estimate, limit: float, alpha: float) -> Named:
    """Whether a check passes at the nominal error of `figure` and at the plan's."""
    yield f"size/{name}/{NOMINAL:g}", figure.low > limit
    yield f"size/{name}/{alpha:g}", auc.bounds(figure, alpha)[0] > limit


def _power(setup: Setup, champion: View, challenger: View) -> Named:
    """An equally good model under all checks; the reference is the champion."""
    alpha = procedures.share(setup.plan)
    met = procedures.gate(challenger, champion, alpha) | dict(procedures.floors_met(challenger, alpha))
    for name, good in met.items():
        yield f"equal/{name}", good
    yield "equal/promoted", all(met.values())
    yield "all margins", all(good for name, good in met.items() if not name.startswith(procedures.FLOOR))
    limited = setup.plan.performance.limited_findings
    of_limited = {*limited, *(begins + finding for begins in _BEGINS.values() for finding in limited)}
    yield "all but limited findings", all(good for name, good in met.items() if name not in of_limited)


def _others(setup: Setup, champion: View, challenger: Model, rng: np.random.Generator) -> Named:
    """What each rule does with equal models, and where one check is at its margin and all others are better."""
    rules = setup.plan.performance
    over = setup.over[WHOLE]
    margin = rules.macro.margin
    views = {"equal": challenger.at(), MACRO: challenger.at(-margin), "better": challenger.at(BETTER)}
    for name, view in views.items():
        better, parts = procedures.points(view, champion)  # the last one stays
        yield from _by_rule(name, procedures.others(setup, better, procedures.share(setup.plan), rng))
        yield f"promoted/gate/{name}", _margins(setup, procedures.pairs_of(view, champion))
    good = procedures.pairs_of(views["better"], champion)
    for i, f in enumerate(over):
        view = challenger.at(-setup.margin(f))
        part = view.by_image(f) - champion.by_image(f)
        seen = better.replace(i, view.rank(f).value, parts[i], part)
        yield from _by_rule(FINDINGS[f], procedures.others(setup, seen, procedures.share(setup.plan), rng))
        mixed = [*good[:i], (view.rank(f), champion.rank(f)), *good[i + 1 :]]
        yield f"promoted/gate/{FINDINGS[f]}", _margins(setup, mixed)


def _by_rule(scenario: str, promoted: dict[str, bool]) -> Named:
    for name, yes in promoted.items():
        yield f"promoted/{name}/{scenario}", yes


def _margins(setup: Setup, pairs: list[Pair]) -> bool:
    """The gate's margins in all patients; floors and subgroups could only promote less often."""
    alpha = procedures.share(setup.plan)
    return all(good for _, good in procedures.margins_met(setup, pairs, alpha)) and all(
        good for _, good in procedures.failures_met(setup, pairs, alpha)
    )


# ------------------------------------------------------------------------------------------------ many looks


def period(setup: Setup, rng: np.random.Generator) -> Named:
    """A test period: ten challengers on the same patients, each with one check at its margin. Does any pass it?"""
    world, rules = setup.world, setup.plan.performance
    common = world.noise(rng)
    champion = Model(setup, world.scores(common, world.noise(rng))).at()
    level = procedures.at(procedures.share(setup.plan))
    passed = dict.fromkeys([MACRO, *(FINDINGS[f] for f in setup.over[WHOLE])], False)
    for _ in range(LOOKS):
        challenger = Model(setup, world.scores(common, world.noise(rng)))
        macro = procedures.pairs_of(challenger.at(-rules.macro.margin), champion)
        passed[MACRO] |= procedures.difference(macro, level).low > -rules.macro.margin
        for f in setup.over[WHOLE]:
            margin = setup.margin(f)
            pair = (challenger.at(-margin).rank(f), champion.rank(f))
            passed[FINDINGS[f]] |= procedures.difference([pair], level).low > -margin
    for name, ever in passed.items():
        yield f"period/{name}", ever


def reference(setup: Setup, rng: np.random.Generator) -> Named:
    """Three equally good models: the gate's margins hold against champion and reference."""
    world, alpha = setup.world, procedures.share(setup.plan)
    common = world.noise(rng)
    challenger, champion, frozen = (Model(setup, world.scores(common, world.noise(rng))).at() for _ in range(3))
    met = [procedures.gate(challenger, other, alpha) for other in (champion, frozen)]
    yield "reference/champion", all(met[0].values())
    yield "reference/both", all(met[0].values()) and all(met[1].values())


def curves(setup: Setup, rng: np.random.Generator) -> Named:
    """How often the gate's margins hold, by correlation of the models and by true difference of all AUCs."""
    world = setup.world
    noise = [world.noise(rng) for _ in range(3)]
    for correlation in CORRELATIONS:
        champion, challenger = (Model(setup, world.scores(noise[0], own, correlation)) for own in noise[1:])
        for apart in DIFFERENCES:
            met = procedures.gate(challenger.at(apart), champion.at(), procedures.share(setup.plan))
            yield f"curve/{correlation:g}/{apart:g}", all(met.values())
            for name, good in met.items():
                yield f"curve check/{correlation:g}/{apart:g}/{name}", good


@dataclass
class _Line:
    """A succession of releases under one rule: which model is in use, and how many steps down it is."""

    model: int = 0
    steps: int = 0


def drift(setup: Setup, rng: np.random.Generator) -> Named:
    """Releases in a row, each a step worse than the model in use. A new test period begins after ten looks.

    Of the gate the macro-AUC, each finding and the floors are looked at; subgroups could only stop a release earlier.
    """
    world, alpha = setup.world, procedures.share(setup.plan)
    lines = {name: _Line() for name in ("gate", "gate, no reference", *OTHERS)}
    models: dict[int, Model] = {}
    for release in range(1, RELEASES + 1):
        if release % LOOKS == 1:
            common = world.noise(rng)
            in_use = {0} | {line.model for line in lines.values()}
            models = {number: Model(setup, world.scores(common, world.noise(rng))) for number in sorted(in_use)}
        models[release] = Model(setup, world.scores(common, world.noise(rng)))
        verdicts: dict[tuple[str, int, int], bool] = {}
        for name, line in lines.items():
            # Rules that stand at the same place see the same two models.
            if (name, line.model, line.steps) not in verdicts:
                champion = models[line.model].at(-STEP * line.steps)
                challenger = models[release].at(-STEP * (line.steps + 1))
                if name in OTHERS:
                    seen, _ = procedures.points(challenger, champion)
                    found = procedures.others(setup, seen, alpha, rng)
                else:
                    kept = _margins(setup, procedures.pairs_of(challenger, champion))
                    kept = kept and all(good for _, good in procedures.floors_met(challenger, alpha))
                    found = {"gate, no reference": kept, "gate": kept and _not_below(challenger, models[0].at())}
                verdicts |= {(each, line.model, line.steps): yes for each, yes in found.items()}
            if verdicts[name, line.model, line.steps]:
                line.model, line.steps = release, line.steps + 1
            yield f"drift/{name}/{release}", STEP * line.steps


def _not_below(challenger: View, frozen: View) -> bool:
    """The margins against the reference."""
    return _margins(challenger.model.setup, procedures.pairs_of(challenger, frozen))


# --------------------------------------------------------------------------------------------- is it the same?


def agreement(setup: Setup, rng: np.random.Generator) -> Named:
    """The quick path of this simulation beside `evidence.assess` and `rule.judge` on the same scores."""
    world, plan = setup.world, setup.plan
    structure, alpha = world.structure, procedures.share(plan)
    common = world.noise(rng)
    champion, model = (Model(setup, world.scores(common, world.noise(rng))) for _ in range(2))
    for f in setup.over[WHOLE]:
        yield from _likeness(FINDINGS[f], champion.scores[f], model.scores[f], structure.truth[:, f] == 0, structure)
    apart = float(rng.choice(AGREEMENT_AT))
    challenger = model.at(apart)
    quick = procedures.gate(challenger, champion.at(), alpha) | dict(procedures.floors_met(challenger, alpha))
    scores = {
        role: special.expit(np.column_stack([view.finished(f).astype(np.float64) for f in range(len(FINDINGS))]))
        for role, view in ((evidence.CHALLENGER, challenger), (evidence.CHAMPION, champion.at()))
    }
    test = evidence.Scored(truth=structure.truth, patients=structure.patients, scores=scores)
    found = evidence.assess(
        FINDINGS, test, validation=None, attributes=structure.attributes, rules=plan.performance, level=LEVEL
    )
    evaluation = Evaluation(
        **dict(found.evidence),
        test_digest=structure.digest(),
        test_images=len(structure.patients),
        test_patients=structure.patient_count,
        challenger="challenger",
        champion="champion",
        reference="champion",
        problems=evidence.score_problems(FINDINGS, structure.truth, scores),
        subgroups=found.subgroups,
        missing_groups=found.missing_groups,
        composites=found.composites,
        performance=found.performance,
    )
    judgement = rule.judge(evaluation, plan.of_scores(), Level(checks=alpha, superiority=alpha))
    judged = {
        _BEGINS.get(check.kind, "") + (check.finding or check.subgroup or MACRO): check.outcome
        for check in judgement.checks
    }
    yield "agreement/checks", {name: outcome == "met" for name, outcome in judged.items()} == quick
    yield "agreement/verdict", (judgement.evidence_says == "PROMOTE") == all(quick.values())
    yield f"agreement/passed at {apart:g}", all(quick.values())
    yield f"held/{apart:g}", judgement.approvals > plan.approvals


def _likeness(finding: str, first: np.ndarray, second: np.ndarray, negative: np.ndarray, structure: Structure) -> Named:
    """Correlations among negatives: of two models, and of images of a patient (one-way analysis of variance)."""
    yield f"between models/{finding}", float(np.corrcoef(first[negative], second[negative])[0, 1])
    values, owners = first[negative].astype(np.float64), np.unique(structure.patients[negative], return_inverse=True)[1]
    sizes = np.bincount(owners)
    means = np.bincount(owners, values) / sizes
    between = float(sizes @ (means - values.mean()) ** 2) / (sizes.size - 1)
    within = float(((values - means[owners]) ** 2).sum()) / (values.size - sizes.size)
    typical = (values.size - float((sizes**2).sum()) / values.size) / (sizes.size - 1)
    yield f"within patients/{finding}", (between - within) / (between + (typical - 1) * within)


def bootstrap(setup: Setup, rng: np.random.Generator) -> Named:
    """Standard errors of TFMA's Poisson bootstrap over images and of the project, as multiples of DeLong's."""
    world = setup.world
    common = world.noise(rng)
    champion, challenger = (Model(setup, world.scores(common, world.noise(rng))).at() for _ in range(2))
    by_image, _ = procedures.points(challenger, champion)
    over = setup.over[WHOLE]
    weights = rng.poisson(1.0, (BOOTSTRAP_SAMPLES, len(world.structure.patients))).astype(np.float64)
    losses = np.array([_weighted(challenger, f, weights) - _weighted(champion, f, weights) for f in over])
    apart = procedures.pairs_of(challenger, champion)
    for i, f in enumerate(over):
        yield f"bootstrap/{FINDINGS[f]}", losses[i].std(ddof=1) / by_image.errors[i]
        yield f"by patient/{FINDINGS[f]}", procedures.difference([apart[i]]).se / by_image.errors[i]
    yield f"bootstrap/{MACRO}", losses.mean(axis=0).std(ddof=1) / by_image.macro_error
    yield f"by patient/{MACRO}", procedures.difference(apart).se / by_image.macro_error


def _weighted(view: View, finding: int, weights: np.ndarray) -> np.ndarray:
    """(B,) AUCs with weighted images, (B, N)."""
    truth = view.model.setup.world.structure.truth[:, finding]
    order = np.argsort(view.finished(finding))
    found = []
    for sample in weights:
        drawn = sample[order]
        positive = drawn * truth[order]
        negative = drawn - positive
        found.append(positive @ np.cumsum(negative) / (positive.sum() * negative.sum()))
    return np.array(found)


def differences(_: Setup, rng: np.random.Generator) -> Named:
    """Intervals of a difference where models may differ much; needs no test set."""
    for case in gaps.CASES:
        yield from gaps.draw(case, rng)


@dataclass(frozen=True)
class Study:
    """A replicate, and how many of them for each replicate of the largest study."""

    replicate: Callable[[Setup, np.random.Generator], Named]
    share: float
    block: int


STUDIES: dict[str, Study] = {
    "look": Study(look, 1.0, 20),
    "period": Study(period, 0.3, 20),
    "reference": Study(reference, 0.1, 20),
    "curves": Study(curves, 0.03, 5),
    "drift": Study(drift, 0.02, 5),
    "agreement": Study(agreement, 0.02, 5),
    "bootstrap": Study(bootstrap, 0.002, 2),
    "differences": Study(differences, 1.0, 100),
    "shapes": Study(shapes.draw, 0.5, 25),
}
