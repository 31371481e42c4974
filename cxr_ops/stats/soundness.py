"""Whether evidence is whole and agrees with itself, as far as the evidence alone can tell. Pure.

A file that was edited, cut or put together from two runs need not show it in any one figure. So counts, differences and
means are worked out again, and what does not fit is a hole: it never leads to a promotion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from cxr_ops.labels import FINDINGS
from cxr_ops.plan import PerformanceEvaluation
from cxr_ops.records.evidence import (
    Composite,
    Estimate,
    Evaluation,
    Evidence,
    Falls,
    Figure,
    FindingEvidence,
    Paired,
    Support,
)
from cxr_ops.stats import checks, sparse
from cxr_ops.stats.checks import TOLERANCE, Kind, Role

# The error without falls comes from another formula than the whole error, which it may exceed by this much.
_LARGER: Final = 1.5


def holes(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """What is missing or cannot all be true, a sentence each."""
    against = checks.roles(evaluation)
    found = _of_evidence(evaluation, rules, against, evaluation.test_images, evaluation.test_patients, "")
    for group in checks.subgroups(evaluation, rules):
        found += _of_evidence(group, rules, against, group.images, group.patients, f"{group.name}: ")
    for scenario in evaluation.scenarios:
        where = f"Uncertain labels as {scenario.uncertain_as}: "
        found += _of_evidence(scenario, rules, against, evaluation.test_images, evaluation.test_patients, where)
    found += [*_of_subgroups(evaluation, rules), *_of_scenarios(evaluation), *_of_composites(evaluation, rules)]
    if rules.sparse_failures is not None:
        found += [hole for row in evaluation.findings for hole in _of_falls(row.finding, row, against)]
        found += [hole for one in evaluation.composites for hole in _of_falls(one.name, one, against)]
    return found + _of_probabilities(evaluation, rules)


def _of_evidence(
    evidence: Evidence, rules: PerformanceEvaluation, against: Sequence[Role], images: int, patients: int, where: str
) -> list[str]:
    found: list[str] = []
    if tuple(row.finding for row in evidence.findings) != FINDINGS:
        found.append(f"{where}The evidence does not hold each of the {len(FINDINGS)} findings once, in their order.")
    if evidence.macro_over != [row.finding for row in checks.evaluable(evidence, rules)]:
        found.append(f"{where}The macro-AUC is not over the findings that the plan makes evaluable.")
    found += [
        f"{where}{row.finding}: the counts of images and patients contradict one another."
        for row in evidence.findings
        if not _is_possible(row.support, images, patients)
    ]
    macro = Paired(
        challenger=evidence.macro_challenger,
        champion=evidence.macro_champion,
        difference=evidence.macro_difference,
        reference=evidence.macro_reference,
        reference_difference=evidence.macro_reference_difference,
    )
    rows = {
        row.finding: Paired(
            challenger=row.challenger,
            champion=row.champion,
            difference=row.difference,
            reference=row.reference,
            reference_difference=row.reference_difference,
        )
        for row in evidence.findings
    }
    for name, figures in {**rows, "macro-AUC": macro}.items():
        found += [f"{where}{name}: {sentence}" for sentence in _of_figures(figures, against, "margin")]
    parts = [rows[finding] for finding in evidence.macro_over if finding in rows]
    return found + [
        f"{where}The macro-AUC is not the mean of the findings that it is over ({figure})."
        for figure in Paired.model_fields
        if not _is_mean(getattr(macro, figure), [getattr(part, figure) for part in parts])
    ]


def _is_mean(mean: Figure | None, parts: Sequence[Figure | None]) -> bool:
    """Whether a mean that there is is the mean of parts that are all there."""
    if not isinstance(mean, Estimate):
        return True
    values = [part.value for part in parts if isinstance(part, Estimate)]
    return 0 < len(values) == len(parts) and abs(sum(values) / len(values) - mean.value) <= TOLERANCE


def _is_possible(support: Support, images: int, patients: int) -> bool:
    return (
        0 <= support.positive_patients <= min(support.positives, patients)
        and 0 <= support.negative_patients <= min(support.negatives, patients)
        and support.positives + support.negatives <= images
    )


def _of_figures(figures: Paired, against: Sequence[Role], kind: Kind) -> list[str]:
    """Faults of one figure of each model and of its differences; AUCs are of the kind `margin`."""
    found: list[str] = []
    own: list[Figure | None] = [figures.challenger]
    for role in ("champion", "reference"):
        theirs: Figure | None = getattr(figures, role)
        apart = checks.difference(figures, role)
        if role not in against:
            if theirs is not None or apart is not None:
                found.append(f"there are figures of a {role}, and the evidence names none.")
            continue
        own.append(theirs)
        if theirs is None or apart is None:
            found.append(f"figures of the {role}, or the difference from it, are missing.")
        if isinstance(apart, Estimate) and (wrong := checks.fault(apart, kind, role)):
            found.append(f"the difference from the {role} is impossible: {wrong}.")
        if isinstance(apart, Estimate) and (
            not isinstance(figures.challenger, Estimate)
            or not isinstance(theirs, Estimate)
            or abs(figures.challenger.value - theirs.value - apart.value) > TOLERANCE
            or (apart.other is not None and abs(apart.other - theirs.value) > TOLERANCE)
        ):
            found.append(f"the difference is not challenger minus {role}.")
    wrongs = [checks.fault(figure, kind) for figure in own if isinstance(figure, Estimate)]
    return found + [f"a model's figure is impossible: {wrong}." for wrong in wrongs if wrong]


def _of_subgroups(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """Values of an attribute part the test set; images may be in none of them only where the evidence says why."""
    found: list[str] = []
    groups = checks.subgroups(evaluation, rules)
    if len({(group.attribute, group.value) for group in groups}) != len(groups):
        found.append("A subgroup is in the evidence twice.")
    for attribute in dict.fromkeys(group.attribute for group in groups):
        images = sum(group.images for group in groups if group.attribute == attribute)
        if images > evaluation.test_images:
            found.append(f"The subgroups by {attribute} hold more images than the test set.")
        if images < evaluation.test_images and not evaluation.missing_groups:
            found.append(f"The subgroups by {attribute} leave out images of the test set, and nothing says why.")
    return found


def _of_composites(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """The plan's composites must be there as the plan has them, each the mean of its findings."""
    asked = [(composite.name, list(composite.findings)) for composite in rules.composites]
    if [(composite.name, composite.findings) for composite in evaluation.composites] != asked:
        return ["The composites are not those of the plan."]
    rows = {row.finding: row for row in evaluation.findings}
    found: list[str] = []
    for composite in evaluation.composites:
        parts = [rows[finding] for finding in composite.findings if finding in rows]
        found += [
            f"{composite.name}: {sentence}" for sentence in _of_figures(composite, checks.roles(evaluation), "margin")
        ]
        found += [
            f"{composite.name} is not the mean of its findings ({figure})."
            for figure in Paired.model_fields
            if not _is_mean(getattr(composite, figure), [getattr(part, figure) for part in parts])
        ]
    return found


def _of_falls(name: str, of: FindingEvidence | Composite, against: Sequence[Role]) -> list[str]:
    """How ranks moved must be of the same patients as the difference, whose error it can only lower."""
    found: list[str] = []
    for role in against:
        seen, figure = checks.falls(of, role), checks.difference(of, role)
        if seen is None or not isinstance(figure, Estimate):
            continue
        fits = sparse.is_possible(seen) and seen.error <= figure.se * _LARGER and _counts_fit(of, seen)
        if not fits:
            found.append(f"{name}: how patients' ranks moved against the {role} does not fit the difference.")
    return found


def _counts_fit(of: FindingEvidence | Composite, seen: Falls) -> bool:
    positive = sum(patients for _, patients in seen.positive.sizes)
    if isinstance(of, Composite):
        return positive == of.positive_patients
    images = [sum(a * b for a, b in side.sizes) for side in (seen.positive, seen.negative)]
    return (positive, sum(patients for _, patients in seen.negative.sizes), *images) == (
        of.support.positive_patients,
        of.support.negative_patients,
        of.support.positives,
        of.support.negatives,
    )


def _of_scenarios(evaluation: Evaluation) -> list[str]:
    """Where labels are uncertain, both ways to take them must be there, and count exactly those labels."""
    taken = sorted(scenario.uncertain_as for scenario in evaluation.scenarios)
    if taken != ([0, 1] if evaluation.uncertain or taken else []):
        return ["Labels are uncertain, and the evidence with all of them as 0, or as 1, is missing or there twice."]
    found: list[str] = []
    if unknown := sorted(evaluation.uncertain.keys() - set(FINDINGS)):
        found.append(f"Uncertain labels are counted for {', '.join(unknown)}, which is no finding.")
    for scenario in evaluation.scenarios:
        for row, plain in zip(scenario.findings, evaluation.findings, strict=False):
            uncertain = evaluation.uncertain.get(row.finding, 0)
            positives = plain.support.positives + (uncertain if scenario.uncertain_as == 1 else 0)
            negatives = plain.support.negatives + (uncertain if scenario.uncertain_as == 0 else 0)
            if (row.support.positives, row.support.negatives) != (positives, negatives):
                where = f"Uncertain labels as {scenario.uncertain_as}: {row.finding}"
                found.append(f"{where}: the counts do not hold each uncertain label once.")
    return found


def _of_probabilities(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """Faults of the operating points and the calibration that the plan asks for; a slope is judged by itself."""
    points = rules.operating_points.findings if rules.operating_points is not None else ()
    calibration = rules.calibration.findings if rules.calibration is not None else ()
    against = checks.roles(evaluation)
    supports = {row.finding: row.support for row in evaluation.findings}
    found: list[str] = []
    for finding in dict.fromkeys((*points, *calibration)):
        rows = [row for row in evaluation.performance if row.finding == finding]
        if len(rows) != 1:
            found.append(f"{finding}: operating point and calibration are missing, or there twice.")
            continue
        if rows[0].support != supports.get(finding):
            found.append(f"{finding}: operating point and calibration are of other images than the AUC.")
        measures: list[tuple[Kind, Paired]] = []
        if finding in points:
            measures += [("sensitivity", rows[0].sensitivity), ("specificity", rows[0].specificity)]
        if finding in calibration:
            measures += [("brier", rows[0].brier)]
        for kind, figures in measures:
            found += [f"{finding}, {kind}: {sentence}" for sentence in _of_figures(figures, against, kind)]
    return found
