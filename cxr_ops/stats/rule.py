"""The gate's rule: evidence and a change-control plan in, a verdict with its reasons out. Pure.

One claim is judged: the challenger is not worse than the champion, nor than the frozen reference, by the plan's margin
on any check, and each AUC lies above its floor. It is an intersection-union test: every check is one-sided at the level
of the look (`cxr_ops.stats.levels`) and all must be met, so their number needs no correction (Berger, Technometrics 24
(1982) 295-300). How a check is made and what its failure says is in `cxr_ops.stats.checks`.

A check that is not met gives REJECT where it is evidence against the challenger, and INSUFFICIENT EVIDENCE otherwise.
REJECT goes before INSUFFICIENT EVIDENCE, and that before PROMOTE. What is missing, undefined, contradictory or unknown
never leads to PROMOTE. Signs that a pass may mislead (a gain too good to be true, a loss in a cell of subgroup and
finding) hold it until more people have looked.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cxr_ops.labels import FINDINGS
from cxr_ops.plan import Bounds, ChangePlan, PerformanceEvaluation
from cxr_ops.records.evidence import Estimate, Evaluation, Evidence, Facts, Figure, Scenario, Undefined
from cxr_ops.records.inputs import Inputs, Level, Limits
from cxr_ops.records.verdict import Check, Reason, Verdict
from cxr_ops.stats import auc, checks, heat_maps, levels, soundness
from cxr_ops.stats.checks import Role, holm
from cxr_ops.stats.codes import AGAINST, MEANING, NOT_STOPPING, Code

__all__ = ["AGAINST", "MEANING", "Code", "Decision", "Judgement", "decide", "judge", "level_of"]

Decision = Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
PROMOTE: Final = "PROMOTE"
REJECT: Final = "REJECT"
INSUFFICIENT: Final = "INSUFFICIENT EVIDENCE"


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the evidence says under a plan. The fields are those of `records.Verdict` by the same names."""

    evidence_says: Decision
    reasons: list[Reason]
    checks: list[Check]
    approvals: int
    alpha: float
    limited_findings: list[str]
    superior: bool
    superior_findings: list[str]


def judge(evaluation: Evaluation, plan: ChangePlan, level: Level | None = None) -> Judgement:
    """Judge the evidence alone: what it shows, and whether it is whole; not what the record says of the run.

    Args:
        evaluation: what was found. Without `facts`, as where only scores are compared, nothing is said of the weights
            that training started from; `decide` does not let such evidence promote.
        plan: its checks are made.
        level: what the look may spend; without one, what the plan gives the first look of a test period.
    """
    rules = plan.performance
    level = level or levels.first(rules.spending)
    # Below that no quantile holds; such a look is told that nothing is left for it (`_record`).
    alpha = max(level.checks, levels.LEAST)
    against = checks.roles(evaluation)
    group_claims, group_reasons = checks.of_subgroups(evaluation, rules, against)
    probability_claims, probability_notes = checks.of_probabilities(evaluation, rules, against)
    flip_claims, flip_notes = checks.of_flips(evaluation, rules, against)
    families = [
        *checks.of_aucs(evaluation, rules, against, evaluation.test_patients),
        *checks.of_failures(evaluation, rules, against),
        *checks.of_composites(evaluation, rules, against),
        *group_claims,
        *probability_claims,
        *flip_claims,
    ]
    made, judged = checks.judge(families, alpha)
    holds, approvals = _holds(evaluation, plan, against, alpha)
    reasons = [
        *_problems(evaluation),
        *_empty(evaluation),
        *(Reason(code=Code.EVIDENCE_INCOMPLETE, sentence=hole) for hole in soundness.holes(evaluation, rules)),
        *_weights(evaluation),
        *_sufficiency(evaluation, rules),
        *group_reasons,
        *probability_notes,
        *flip_notes,
        *judged,
        *_shortcuts(evaluation, rules),
        *_misplaced(evaluation, rules, against),
        *_unlike(evaluation, rules),
        *_scenarios(evaluation, rules, against, made, alpha),
        *holds,
    ]
    says = _worst(reasons)
    if says == PROMOTE and not _all_met(made, evaluation, rules):  # no hole in the rule itself may promote
        hole = "Not every check that the plan asks for was made."
        reasons.append(Reason(code=Code.EVIDENCE_INCOMPLETE, sentence=hole))
        says = INSUFFICIENT
    if says == PROMOTE:
        reasons.insert(0, _grounds(evaluation, plan, against))
    return Judgement(
        evidence_says=says,
        reasons=reasons,
        checks=made,
        approvals=approvals,
        alpha=level.checks,
        limited_findings=[finding for finding in rules.limited_findings if finding in evaluation.macro_over],
        superior=_is_superior(evaluation, against, max(level.superiority, levels.LEAST)),
        superior_findings=_superior_findings(evaluation, rules, alpha),
    )


def decide(evaluation: Evaluation, inputs: Inputs, plan: ChangePlan) -> Verdict:
    """Judge a challenger by the evidence and by the record.

    Args:
        evaluation: what the evaluate stage found.
        inputs: what the run was opened with; its champion and reference are the ones that must have been scored.
        plan: the plan whose file `inputs.plan` names; the caller has compared the digests.

    Returns:
        The verdict. `evidence_says` leaves out what the record forbids.
    """
    level = level_of(inputs, plan, evaluation.challenger, evaluation.test_digest)
    judgement = judge(evaluation, plan, level)
    forbidden = [
        *_mismatches(evaluation, inputs, plan),
        *_outside_plan(evaluation.facts, plan.description_of_modifications.bounds),
        *_record(evaluation, inputs, plan),
    ]
    return Verdict(
        verdict=_worst([*judgement.reasons, *forbidden]),
        evidence_says=judgement.evidence_says,
        reasons=[*forbidden, *judgement.reasons],
        plan=inputs.plan,
        approvals=max(judgement.approvals, _limits(inputs, plan).approvals),
        clinical_use=plan.clinical_use,
        challenger=evaluation.challenger,
        champion=inputs.champion,
        reference=inputs.reference,
        test_digest=evaluation.test_digest,
        evaluation=evaluation.digest(),
        inputs=inputs.digest(),
        alpha=level.checks,
        spending=_spending(evaluation, inputs, plan),
        notice=plan.notice,
        checks=judgement.checks,
        limited_findings=judgement.limited_findings,
        superior=judgement.superior,
        superior_findings=judgement.superior_findings,
        period=inputs.period.number,
        looks=_looks(evaluation, inputs),
        other_plan=inputs.other_plan,
    )


def _worst(reasons: Iterable[Reason]) -> Decision:
    codes = {reason.code for reason in reasons}
    if codes & AGAINST:
        return REJECT
    return INSUFFICIENT if codes - NOT_STOPPING else PROMOTE


# ------------------------------------------------------------------------------------------ is the evidence sound?


def _problems(evaluation: Evaluation) -> list[Reason]:
    """What evaluate itself objects to; a code that is unknown, or has no effect by itself, stops a promotion too."""
    known = set(Code) - NOT_STOPPING
    return [
        Reason(code=code if code in known else Code.EVIDENCE_INCOMPLETE, sentence=sentence)
        for code, sentence in evaluation.problems
    ]


def _empty(evaluation: Evaluation) -> list[Reason]:
    if evaluation.test_images >= 1 and evaluation.test_patients >= 1:
        return []
    return [Reason(code=Code.EMPTY_TEST_SET, sentence="The test set is empty.")]


def _weights(evaluation: Evaluation) -> list[Reason]:
    """Weights from outside may have seen the test patients, and no figure shows it."""
    if evaluation.facts is None or evaluation.facts.starting_weights.patients in ("none", "training"):
        return []
    weights = evaluation.facts.starting_weights
    if weights.patients == "test":
        sentence = f"The weights that training started from ({weights.start}) have seen patients of the test set."
    else:
        sentence = (
            f"It is not declared which patients the weights that training started from ({weights.start}) have seen: "
            "set train.weights_patients and train.weights_data in params.yaml, or start from other weights."
        )
    return [Reason(code=Code.UNKNOWN_WEIGHTS, sentence=sentence)]


def _sufficiency(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[Reason]:
    found: list[Reason] = []
    if evaluation.test_patients < rules.min_test_patients:
        found.append(
            Reason(
                code=Code.TOO_FEW_PATIENTS,
                sentence=f"The test set has {evaluation.test_patients} patients; the plan asks for "
                f"{rules.min_test_patients}.",
                numbers={"patients": evaluation.test_patients, "least": rules.min_test_patients},
            )
        )
    for row in evaluation.findings:
        if checks.is_evaluable(row.support, rules):
            if row.unscored:
                models = " and ".join(f"the {role}" for role in row.unscored)
                sentence = f"{row.finding} cannot be judged: {models} did not score it."
                found.append(Reason(code=Code.NOT_SCORED, finding=row.finding, sentence=sentence))
            continue
        required = row.finding in rules.required
        lacking = " and ".join(
            f"{least - there} more {kind} patient{'' if least - there == 1 else 's'}"
            for kind, there, least in (
                ("positive", row.support.positive_patients, rules.min_positive_patients),
                ("negative", row.support.negative_patients, rules.min_negative_patients),
            )
            if there < least
        )
        found.append(
            Reason(
                code=Code.TOO_FEW_PATIENTS if required else Code.NOT_EVALUABLE,
                finding=row.finding,
                sentence=f"{row.finding} cannot be judged: {lacking} would be needed. "
                f"The plan {'requires' if required else 'does not require'} this finding.",
                numbers={
                    "positive_patients": row.support.positive_patients,
                    "negative_patients": row.support.negative_patients,
                },
            )
        )
    return found


def _scenarios(
    evaluation: Evaluation,
    rules: PerformanceEvaluation,
    against: Sequence[Role],
    made: Sequence[Check],
    alpha: float,
) -> list[Reason]:
    """Uncertain labels are missing; were they all negative, or all positive, every check must be met as well."""
    unmet = {_key(check) for check in made if check.outcome != "met"}
    found: list[Reason] = []
    for scenario in evaluation.scenarios:
        families = checks.of_aucs(scenario, rules, against, evaluation.test_patients)
        judged, _ = checks.judge(families, alpha)
        fails = [check for check in judged if check.outcome != "met" and _key(check) not in unmet]
        if fails:
            found.append(_uncertain(scenario, f"not met would be: {'; '.join(map(_describe, fails))}."))
        elif {_key(check) for check in judged} != _wanted(scenario, rules, against):
            found.append(_uncertain(scenario, "not every check that the plan asks for was made."))
    return found


def _uncertain(scenario: Scenario, what: str) -> Reason:
    taken = "positive" if scenario.uncertain_as else "negative"
    sentence = f"With every uncertain label taken as {taken}, {what}"
    return Reason(code=Code.UNCERTAIN_LABELS, sentence=sentence, numbers={"uncertain_as": scenario.uncertain_as})


def _describe(check: Check) -> str:
    against = f" against the {check.against}" if check.against else ""
    return f"the {check.kind} of {check.finding or 'the macro-AUC'}{against}"


_Key = tuple[str, str | None, str | None, str | None]


def _key(check: Check) -> _Key:
    return check.kind, check.against, check.finding, check.subgroup


def _wanted(evidence: Evidence, rules: PerformanceEvaluation, against: Sequence[Role]) -> set[_Key]:
    """The checks of AUCs that the plan asks for; counted apart from the code that makes them."""
    wanted: set[_Key] = set()
    for finding in (None, *evidence.macro_over):
        thresholds = rules.macro if finding is None else rules.finding
        wanted |= {("floor", None, finding, None)} if thresholds.floor is not None else set()
        wanted |= {("margin", role, finding, None) for role in against}
    return wanted


def _all_met(made: Sequence[Check], evaluation: Evaluation, rules: PerformanceEvaluation) -> bool:
    """Whether each check that the plan asks for was made and met; counted anew, apart from the code that makes them."""
    against = checks.roles(evaluation)
    wanted = _wanted(evaluation, rules, against)
    if rules.subgroups is not None:
        for group in evaluation.subgroups:
            if group.attribute in rules.subgroups.attributes and len(group.macro_over) >= rules.subgroups.min_findings:
                wanted |= {("margin", role, None, group.name) for role in against}
    if rules.sparse_failures is not None:
        asked = set(rules.sparse_failures.named) & set(evaluation.macro_over)
        asked |= {composite.name for composite in rules.composites}
        wanted |= {("sparse", role, name, None) for role in against for name in asked}
    wanted |= {("composite", role, composite.name, None) for role in against for composite in rules.composites}
    wanted |= _wanted_at_thresholds(evaluation, rules, against)
    met = {_key(check) for check in made if check.outcome == "met"}
    return bool(wanted) and wanted == met and len(made) == len(wanted)


def _wanted_at_thresholds(evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]) -> set[_Key]:
    """The same of checks of operating points, of what flips there, and of calibration."""
    wanted: set[_Key] = set()
    positives = {row.finding: row.support.positive_patients for row in evaluation.findings}
    if rules.operating_points is not None:
        for finding in set(rules.operating_points.findings) & set(evaluation.macro_over):
            if positives[finding] >= rules.operating_points.min_positive_patients:
                wanted |= {(kind, role, finding, None) for role in against for kind in ("sensitivity", "specificity")}
    if rules.calibration is not None:
        for finding in set(rules.calibration.findings) & set(evaluation.macro_over):
            wanted |= {("slope", None, finding, None), *(("brier", role, finding, None) for role in against)}
    if rules.harmful_flips is not None and "champion" in against:
        limits = {"missed": rules.harmful_flips.missed, "alarmed": rules.harmful_flips.alarmed}
        kinds = [kind for kind, limit in limits.items() if limit is not None]
        for finding in set(rules.harmful_flips.findings) & set(evaluation.macro_over):
            if positives[finding] >= rules.harmful_flips.min_positive_patients:
                wanted |= {(kind, "champion", finding, None) for kind in kinds}
    return wanted


def _grounds(evaluation: Evaluation, plan: ChangePlan, against: Sequence[Role]) -> Reason:
    judged = f"the macro-AUC and {len(evaluation.macro_over)} findings"
    if not against:
        sentence = f"First release: {judged} lie above the floors of the plan {plan.name!r}."
        return Reason(code=Code.FLOORS_MET, sentence=sentence)
    models = " or the ".join(against)
    sentence = f"Not worse than the {models} by the margins of the plan {plan.name!r}, and above its floors: {judged}."
    return Reason(code=Code.NOT_WORSE, sentence=sentence)


# ------------------------------------------------------------------------------------- what else the evidence shows


def _holds(evaluation: Evaluation, plan: ChangePlan, against: Sequence[Role], alpha: float) -> tuple[list[Reason], int]:
    """Signs that more people must look at before a promotion, and how many people must then agree."""
    rules = plan.performance
    found: list[Reason] = []
    approvals = plan.approvals
    gain, screen = rules.suspicious_gain, rules.harm_screen
    seen = evaluation.macro_difference
    if gain is not None and isinstance(seen, Estimate) and (low := auc.bounds(seen, alpha)[0]) > gain.gain:
        found.append(
            Reason(
                code=Code.SUSPICIOUS_IMPROVEMENT,
                sentence=f"Macro-AUC: {seen.value:+.3f} against the champion, at least {low:+.3f} with "
                f"{100 * (1 - alpha):g} % confidence. A gain of more than {gain.gain:g} may be a leak of test "
                "labels: somebody must look for one before this is promoted.",
                numbers={"value": seen.value, "low": low, "limit": gain.gain},
            )
        )
        approvals = max(approvals, gain.approvals)
    if screen is not None:
        signals = _harm_signals(evaluation, rules, against)
        found += signals
        approvals = max(approvals, screen.approvals) if signals else approvals
    return found, approvals


def _harm_signals(evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]) -> list[Reason]:
    """Cells of subgroup and finding where the challenger has lost, by Student's t and Holm's correction over all."""
    screen = rules.harm_screen
    if screen is None:
        return []
    cells = [
        (group, row.finding, role, figure)
        for group in checks.subgroups(evaluation, rules)
        for row in group.findings
        for role in against
        if isinstance(figure := checks.difference(row, role), Estimate) and not checks.fault(figure, "margin", role)
    ]
    adjusted = holm([auc.p_below(figure, 0.0) for _, _, _, figure in cells])
    return [
        Reason(
            code=Code.HARM_SIGNAL,
            finding=finding,
            subgroup=group.name,
            sentence=f"{finding} in {group.name}: {figure.value:+.3f} against the {role}, and worse after Holm's "
            f"correction over {len(cells)} cells (p = {p:.2g}). Somebody must look at it before this is promoted.",
            numbers={"value": figure.value, "se": figure.se, "p_harm": p, "cells": len(cells)},
        )
        for (group, finding, role, figure), p in zip(cells, adjusted, strict=True)
        if p <= screen.error and figure.value < -screen.loss
    ]


# What each region's figure is, where there is too much of it.
_RESTS_ON: Final = {
    "corners": "AUC is lost with the corners blurred",
    "outside": "AUC is lost with all blurred that is outside the thorax",
    "inside": "AUC is left with the thorax blurred",
}


def _shortcuts(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[Reason]:
    """Findings whose scores are shown to rest on what the plan forbids, after Holm's correction over all of them."""
    if rules.reliance is None:
        return []
    found: list[Reason] = []
    shown: list[tuple[str, str, float, Estimate, float]] = []
    measured = {row.finding: row.regions for row in evaluation.reliance}
    for finding in evaluation.macro_over:
        for region, limit in rules.reliance.limits.items():
            if (blurred := measured.get(finding, {}).get(region)) is None:
                continue  # a hole, which `soundness` tells
            own, excess = checks.rests_on(region, blurred)
            if isinstance(own, Estimate) and not isinstance(excess, Undefined):
                more_than_champion = 0.0 if excess is None else checks.p_above(excess, 0.0)
                p = max(checks.p_above(own, limit), more_than_champion)
                shown.append((finding, region, limit, own, p))
                continue
            why = next(one.reason for one in (own, excess) if isinstance(one, Undefined))
            sentence = f"{finding}: what its scores rest on ({region}) cannot be told: {why}."
            found.append(Reason(code=Code.UNDEFINED_EVIDENCE, finding=finding, sentence=sentence))
    adjusted = holm([p for *_, p in shown])
    for (finding, region, limit, own, _), p in zip(shown, adjusted, strict=True):
        if p > rules.reliance.error:
            continue
        more = ", and more than the champion's" if evaluation.champion is not None else ""
        found.append(
            Reason(
                code=Code.SHORTCUT,
                finding=finding,
                sentence=f"{finding}: {own.value:.3f} of {_RESTS_ON[region]}, more than the {limit:g} that the plan "
                f"allows{more} (Holm's correction over {len(shown)} figures, p = {p:.2g}).",
                numbers={"value": own.value, "limit": limit, "p": p},
            )
        )
    return found


# What each figure of `Localization` is of.
_LIES: Final = {
    "pointing": "of the images have the map's peak in a box",
    "energy": "of a map lies in the boxes",
    "overlap": "of the images have a map whose box overlaps an annotated one enough",
}


def _misplaced(evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]) -> list[Reason]:
    """Findings whose maps are shown to lie elsewhere than people saw them, by more than the plan allows."""
    asked = rules.map_places
    if asked is None:
        return []
    found: list[Reason] = []
    shown: list[tuple[str, str, Estimate, float, bool]] = []
    rows = {row.finding: row for row in evaluation.localization}
    judged = [finding for finding in evaluation.macro_over if finding in rows]  # others are a hole: see `soundness`
    boxed = [finding for finding in judged if rows[finding].patients >= asked.min_patients]
    if few := [finding for finding in judged if finding not in boxed]:
        found.append(
            Reason(
                code=Code.NOT_EVALUABLE,
                sentence=f"Where maps lie is not judged of {', '.join(few)}: the plan asks for boxes of "
                f"{asked.min_patients} patients.",
                numbers={"least": asked.min_patients},
            )
        )
    for finding in boxed:
        for measure, limit, is_margin in (
            *((measure, -margin, True) for measure, margin in asked.margins.items() if "champion" in against),
            *((measure, floor, False) for measure, floor in asked.floors.items()),
        ):
            paired = checks.lies(rows[finding], measure, asked)
            figure = paired.difference if is_margin else paired.challenger
            if isinstance(figure, Estimate):
                shown.append((finding, measure, figure, limit, is_margin))
            elif isinstance(figure, Undefined):
                sentence = f"{finding}: where its maps lie ({measure}) cannot be told: {figure.reason}."
                found.append(Reason(code=Code.UNDEFINED_EVIDENCE, finding=finding, sentence=sentence))
    adjusted = holm([auc.p_below(figure, limit) for _, _, figure, limit, _ in shown])
    for (finding, measure, figure, limit, is_margin), p in zip(shown, adjusted, strict=True):
        if p > asked.error:
            continue
        how = f"{figure.value:+.3f} against the champion" if is_margin else f"{figure.value:.3f}"
        least = f"a loss of {-limit:g}" if is_margin else f"no less than {limit:g}"
        found.append(
            Reason(
                code=Code.MAPS_MISPLACED,
                finding=finding,
                sentence=f"{finding}, share that says how much {_LIES[measure]}: {how}; the plan allows {least} "
                f"(Holm's correction over {len(shown)} figures, p = {p:.2g}).",
                numbers={"value": figure.value, "limit": limit, "p": p},
            )
        )
    return found


def _unlike(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[Reason]:
    """Heat maps that are shown not to depend on the weights, or to change where the image hardly does."""
    asked, measured = rules.heat_maps, evaluation.heat_maps
    if asked is None or measured is None:  # the latter is a hole, which `soundness` tells
        return []
    figures: list[tuple[Code, str, Figure | None, float]] = []
    if asked.random is not None:
        last = measured.random.get(heat_maps.STEPS[-1], {}).get("challenger")
        what = "with maps of the same network with random weights"
        figures.append((Code.MAPS_INSENSITIVE, what, last.overall if last else None, asked.random))
    if asked.steady is not None:
        for change, of in measured.steady.items():
            own = of.get("challenger")
            what = f"with maps of the same images, {change} a little"
            figures.append((Code.MAPS_UNSTEADY, what, own.overall if own else None, asked.steady))
    found: list[Reason] = []
    shown: list[tuple[Code, str, Estimate, float, float]] = []
    for code, what, figure, limit in figures:
        if isinstance(figure, Estimate):
            above = code == Code.MAPS_INSENSITIVE
            p = checks.p_above(figure, limit) if above else auc.p_below(figure, limit)
            shown.append((code, what, figure, limit, p))
        elif figure is not None:
            sentence = f"How alike heat maps are {what} cannot be told: {figure.reason}."
            found.append(Reason(code=Code.UNDEFINED_EVIDENCE, sentence=sentence))
    adjusted = holm([p for *_, p in shown])
    return found + [
        Reason(
            code=code,
            sentence=f"Heat maps have a mean rank correlation of {figure.value:.3f} {what}; the plan allows "
            f"{'at most' if code == Code.MAPS_INSENSITIVE else 'no less than'} {limit:g} (Holm's correction over "
            f"{len(shown)} figures, p = {p:.2g}).",
            numbers={"value": figure.value, "limit": limit, "p": p},
        )
        for (code, what, figure, limit, _), p in zip(shown, adjusted, strict=True)
        if p <= asked.error
    ]


def _is_superior(evaluation: Evaluation, against: Sequence[Role], alpha: float) -> bool:
    """Whether the macro-AUC beats the reference's, which may be the champion."""
    if not against:
        return False
    figure = checks.macro_difference(evaluation, against[-1])
    if not isinstance(figure, Estimate) or checks.fault(figure, "margin", against[-1]):
        return False
    return auc.bounds(figure, alpha)[0] > 0.0


def _superior_findings(evaluation: Evaluation, rules: PerformanceEvaluation, alpha: float) -> list[str]:
    """The findings whose AUC beats the champion's, with Holm's correction."""
    seen = [
        (row.finding, row.difference)
        for row in checks.evaluable(evaluation, rules)
        if isinstance(row.difference, Estimate) and not checks.fault(row.difference, "margin", "champion")
    ]
    adjusted = holm([checks.p_above(figure, 0.0) for _, figure in seen])
    return [finding for (finding, _), p in zip(seen, adjusted, strict=True) if p <= alpha]


# ------------------------------------------------------------------------------------- the record and the plan


def _mismatches(evaluation: Evaluation, inputs: Inputs, plan: ChangePlan) -> list[Reason]:
    """Whether the evidence is of the models and the test period that the run was opened with."""
    found: list[tuple[Code, str]] = []
    promotions = inputs.ledger.promotions if inputs.ledger is not None else None
    champion = inputs.champion
    reference = inputs.reference.package if inputs.reference is not None else None
    named = plan.performance.reference.package
    if evaluation.champion != champion.package:
        sentence = "The evaluation is not against the champion that the run was opened with."
        found.append((Code.CHAMPION_MISMATCH, sentence))
    if champion.package is None and (champion.entry is not None or promotions):
        sentence = "The ledger names a champion, but no model came with it; this is not a first release."
        found.append((Code.CHAMPION_MISMATCH, sentence))
    if champion.package is not None and promotions == 0:
        found.append((Code.CHAMPION_MISMATCH, "There is a champion, and the ledger has no promotion."))
    if evaluation.reference != reference:
        sentence = "The evaluation is not against the reference that the run was opened with."
        found.append((Code.REFERENCE_MISMATCH, sentence))
    if reference is None and (promotions or champion.package is not None):
        sentence = "Models have been promoted, and there is no reference to hold this one against."
        found.append((Code.REFERENCE_MISMATCH, sentence))
    if named is not None and reference != named:
        sentence = f"The plan names the reference {named[:12]}, and the run was opened with another."
        found.append((Code.REFERENCE_MISMATCH, sentence))
    if evaluation.period != inputs.period.number:
        judged, opened = evaluation.period, inputs.period.number
        sentence = f"The evaluation is of test period {judged}, and the run was opened in {opened}."
        found.append((Code.TEST_SET_MISMATCH, sentence))
    return [Reason(code=code, sentence=sentence) for code, sentence in found]


def _outside_plan(facts: Facts | None, bounds: Bounds) -> list[Reason]:
    """Where the challenger is something that the plan does not cover."""
    if facts is None:
        return [Reason(code=Code.OUTSIDE_PLAN, sentence="What the challenger is, is not on record.")]
    found: list[str] = []
    if facts.architecture != bounds.architecture:
        found.append(f"The architecture is {facts.architecture}; the plan allows {bounds.architecture}.")
    if tuple(facts.findings) != FINDINGS:
        found.append(f"The model's findings are not the plan's {len(FINDINGS)} in their order.")
    found += bounds.outside(facts.settings)
    if not facts.sources:
        found.append("Where the data come from is not on record.")
    found += bounds.foreign(facts.sources)
    return [Reason(code=Code.OUTSIDE_PLAN, sentence=sentence) for sentence in found]


def level_of(inputs: Inputs, plan: ChangePlan, package: str, test_digest: str) -> Level:
    """What the look of a challenger at a test set may spend: that of its place on the ledger, as `open` pinned it.

    Args:
        inputs: what the run was opened with. Without an allowance, as without a ledger and in a file of an earlier
            version, each look is a first one.
        plan: the run's.
        package: the challenger's digest.
        test_digest: of the test set.
    """
    allowed = inputs.allowance
    if allowed is None:
        return levels.first(plan.performance.spending)
    place = _place(inputs, package, test_digest)
    return allowed.next if place is None else allowed.taken[place]


def _place(inputs: Inputs, package: str, test_digest: str) -> int | None:
    """The place, from 0, of this claim among the looks that were taken when the run was opened; None if it is new."""
    if inputs.ledger is None:
        return None
    looked = inputs.ledger.looked
    claims = inputs.allowance.claims if inputs.allowance is not None else [inputs.claim] * len(looked)
    for place, (look, claim) in enumerate(zip(looked, claims, strict=True)):
        if look == (package, test_digest) and claim == inputs.claim:  # what nobody knows is no repeat
            return place
    return None


def _spending(evaluation: Evaluation, inputs: Inputs, plan: ChangePlan) -> str:
    """Why the level is what it is, in a sentence or two."""
    allowed = inputs.allowance
    if allowed is None:
        return ""
    place = _place(inputs, evaluation.challenger, evaluation.test_digest)
    before, told = allowed.promoted[:place], allowed.told[:place]
    return levels.explain(_limits(inputs, plan).spending, before, told)


def _looks(evaluation: Evaluation, inputs: Inputs) -> int | None:
    """Looks of the test period with this one; the same claim of the same model on the same test set is no new one."""
    if inputs.ledger is None:
        return None
    known = _place(inputs, evaluation.challenger, evaluation.test_digest) is not None
    return max(inputs.ledger.looks, len(inputs.ledger.looked)) + (0 if known else 1)


def _limits(inputs: Inputs, plan: ChangePlan) -> Limits:
    """The strictest limits of the test period; a file of an earlier version knows the plan's own alone."""
    return plan.limits if inputs.limits is None else inputs.limits


def _record(evaluation: Evaluation, inputs: Inputs, plan: ChangePlan) -> list[Reason]:
    """What else forbids a promotion whatever the evidence says."""
    found: list[Reason] = []
    limits = _limits(inputs, plan)
    looks, most = _looks(evaluation, inputs), limits.max_looks
    which = "the plan" if limits == plan.limits else "the strictest plan of the period"
    if looks is None:
        found.append(
            Reason(
                code=Code.UNRECORDED_LOOK,
                sentence="This run has no ledger, so no look at the test set is on record and it cannot promote.",
            )
        )
    # Asked of a repeat too: it spends nothing, but what was scored after the budget must not pass the second time.
    elif looks > most:
        found.append(
            Reason(
                code=Code.TEST_SET_EXHAUSTED,
                sentence=f"This test period has had {looks} looks, and {which} allows {most}. Patients never "
                "scored before are needed: ingest them, then open a new period with cxr-ops period open.",
                numbers={"looks": looks, "max_looks": most, "period": inputs.period.number},
            )
        )
    elif levels.spent_up(level_of(inputs, plan, evaluation.challenger, evaluation.test_digest)):
        found.append(
            Reason(
                code=Code.TEST_SET_EXHAUSTED,
                sentence="The looks of this test period, and what was told of them, have used up what it held: nothing "
                "can be shown with what is left. Patients never scored before are needed: ingest them, then open a "
                "new period with cxr-ops period open.",
                numbers={"looks": looks, "period": inputs.period.number},
            )
        )
    if inputs.code.dirty and limits.require_clean_code:
        found.append(
            Reason(
                code=Code.DIRTY_CODE,
                sentence=f"The code held uncommitted changes, and {which} promotes only committed code.",
            )
        )
    return found
