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
    Blurred,
    Composite,
    Estimate,
    Evaluation,
    Evidence,
    Falls,
    Figure,
    FindingEvidence,
    Flip,
    Paired,
    Support,
    Undefined,
)
from cxr_ops.stats import checks, heat_maps, sparse
from cxr_ops.stats.checks import TOLERANCE, Kind, Role

# The error without falls counts patients with and without the finding apart. Where a patient has images of both kinds,
# the two move against each other, and the whole error is the smaller one: by up to 1.6 times in a test set of the NIH's
# kind. A larger one only makes it harder to pass.
_LARGER: Final = 5.0


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
    found += [*_of_probabilities(evaluation, rules), *_of_flips(evaluation, rules)]
    found += [*_of_reliance(evaluation, rules), *_of_map_places(evaluation, rules)]
    return [*found, *_of_heat_maps(evaluation, rules)]


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


def _of_flips(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """What flips must add up to the differences of sensitivity and specificity, and be some of the images."""
    if rules.harmful_flips is None or "champion" not in checks.roles(evaluation):
        return []
    found: list[str] = []
    for row in evaluation.performance:
        if row.finding not in rules.harmful_flips.findings or row.flips is None:
            continue
        flips, support = row.flips, row.support
        kinds = (
            (row.sensitivity, flips.found, flips.missed, support.positives, support.positive_patients),
            (row.specificity, flips.cleared, flips.alarmed, support.negatives, support.negative_patients),
        )
        if not all(_flips_fit(*kind) for kind in kinds):
            found.append(f"{row.finding}: what flips does not fit the operating points.")
    return found


def _flips_fit(figures: Paired, better: Flip, worse: Flip, images: int, patients: int) -> bool:
    for flip in (better, worse):
        if isinstance(flip.share, Estimate) and abs(flip.share.value * images - flip.images) > TOLERANCE * images:
            return False
        if not (flip.patients <= flip.images and flip.patients <= patients):
            return False
    if not isinstance(figures.difference, Estimate):
        return True
    return better.images + worse.images <= images and (
        abs(figures.difference.value * images - (better.images - worse.images)) <= TOLERANCE * images
    )


def _of_reliance(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """What is lost with a region blurred must be there for each finding that is judged, and add up to its AUC."""
    if rules.reliance is None:
        return []
    rows = {row.finding: row.regions for row in evaluation.reliance}
    if len(rows) != len(evaluation.reliance):
        return ["What the scores rest on is told twice of a finding."]
    found: list[str] = []
    for row in evaluation.findings:
        if row.finding not in evaluation.macro_over:
            continue
        models = {"challenger": row.challenger, **({"champion": row.champion} if row.champion is not None else {})}
        for region in rules.reliance.limits:
            blurred = rows.get(row.finding, {}).get(region)
            if blurred is None or not set(models) <= set(blurred.auc) & set(blurred.loss):
                found.append(f"{row.finding}: what its scores rest on ({region}) was not measured.")
            elif not all(_adds_up(whole, blurred.auc[role], blurred.loss[role]) for role, whole in models.items()):
                found.append(f"{row.finding}: what its scores rest on ({region}) does not add up to its AUC.")
            elif ("champion" in models) != (blurred.excess is not None) or not _is_excess(blurred):
                found.append(f"{row.finding}: what its scores rest on ({region}) is not compared with the champion's.")
    return found


def _adds_up(whole: Figure, left: Figure, lost: Figure) -> bool:
    """Whether three figures are an AUC, the one that is left, and what is lost; the last needs both others."""
    if not (isinstance(whole, Estimate) and isinstance(left, Estimate) and isinstance(lost, Estimate)):
        return isinstance(lost, Undefined)
    true = not checks.fault(left, "floor") and not checks.fault(lost, "margin", "champion")
    return true and abs(whole.value - left.value - lost.value) <= TOLERANCE


def _is_excess(blurred: Blurred) -> bool:
    """Whether the excess, where it is told, is the challenger's loss minus the champion's."""
    excess, ours, theirs = blurred.excess, blurred.loss["challenger"], blurred.loss.get("champion")
    if not isinstance(excess, Estimate):
        return True
    if not (isinstance(ours, Estimate) and isinstance(theirs, Estimate)):
        return False
    return not checks.fault(excess, "margin", "champion") and abs(ours.value - theirs.value - excess.value) <= TOLERANCE


def _of_map_places(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """Where maps lie must be there for each finding that is judged, of images of the test set, and be shares."""
    asked = rules.map_places
    if asked is None:
        return []
    rows = {row.finding: row for row in evaluation.localization}
    if len(rows) != len(evaluation.localization):
        return ["Where heat maps lie is told twice of a finding."]
    found = [
        f"{finding}: where its heat maps lie was not measured."
        for finding in evaluation.macro_over
        if finding not in rows
    ]
    against = checks.roles(evaluation)
    for finding in (finding for finding in evaluation.macro_over if finding in rows):
        row = rows[finding]
        if not (0 <= row.patients <= row.images <= evaluation.test_images and row.patients <= evaluation.test_patients):
            found.append(f"{finding}: images and patients with boxes contradict one another.")
        for measure in {**asked.margins, **asked.floors} if row.patients >= asked.min_patients else ():
            figures = checks.lies(row, measure, asked)
            found += [f"{finding}, {measure}: {wrong}" for wrong in _of_figures(figures, against, "sensitivity")]
    return found


def _of_heat_maps(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[str]:
    """How alike heat maps are must be there for each step and change, of as many images as the plan asks for."""
    asked, measured = rules.heat_maps, evaluation.heat_maps
    if asked is None:
        return []
    if measured is None:
        return ["How alike heat maps are with random weights and after small changes was not measured."]
    found: list[str] = []
    if (measured.images, measured.draws) != (min(asked.images, evaluation.test_patients), asked.draws):
        found.append("Heat maps were compared on another sample than the plan asks for, or with other draws.")
    if set(measured.random) != set(heat_maps.STEPS) or set(measured.steady) != set(heat_maps.CHANGES):
        found.append("Heat maps were not compared at each step of random weights and after each change.")
    for name, of in {**measured.random, **measured.steady}.items():
        if "challenger" not in of:
            found.append(f"Heat maps of the challenger were not compared ({name}).")
        elif isinstance(figure := of["challenger"].overall, Estimate) and not (
            -1.0 <= figure.value <= 1.0 and figure.low <= figure.value <= figure.high and figure.se >= 0.0
        ):
            found.append(f"How alike heat maps are ({name}) cannot be: it is no correlation, or outside its interval.")
    return found
