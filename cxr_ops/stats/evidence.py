"""From scores to everything that is known of a challenger on a test set: one door for all that compare models.

AUCs of all images and of subgroups (`cxr_ops.stats.auc`), figures at a threshold and of the probabilities
(`cxr_ops.stats.probability`), what uncertain labels could change, and faults of the scores themselves
(`cxr_ops.stats.sanity`). What follows from it is `cxr_ops.stats.rule`'s to say.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from cxr_ops.plan import PerformanceEvaluation, Subgroups
from cxr_ops.records.evidence import (
    Composite,
    Estimate,
    Evidence,
    Falls,
    Figure,
    FindingEvidence,
    Performance,
    Scenario,
    Subgroup,
)
from cxr_ops.stats import auc, probability, sanity, sparse
from cxr_ops.stats.codes import Code

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
REFERENCE: Final = "reference"
ROLES: Final = (CHALLENGER, CHAMPION, REFERENCE)

OLDEST: Final = 150  # years; the NIH release has ages of 411 and the like


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A set of images with its labels, and what each model said of them.

    Attributes:
        truth: (N, F) 1, 0 or NaN (missing or uncertain).
        patients: (N,) names or numbers.
        scores: role -> (N, F). `challenger` is always there; `champion` and `reference` where they exist.
        uncertain: (N, F) whether a label is missing because it is uncertain; None where none is.
        cases: (N,) what each image is called in reports; None where they have no names.

    Raises:
        ValueError: shapes do not fit, a role is unknown, or a label is both known and uncertain.
    """

    truth: npt.NDArray[np.float64]
    patients: npt.NDArray[Any]
    scores: Mapping[str, npt.NDArray[np.floating[Any]]]
    uncertain: Bools | None = None
    cases: Sequence[str] | None = None

    def __post_init__(self) -> None:
        if CHALLENGER not in self.scores or not set(self.scores) <= set(ROLES):
            raise ValueError(f"scores must be of the {CHALLENGER}, and of no others than {', '.join(ROLES)}")
        tables = [*self.scores.values()] + ([] if self.uncertain is None else [self.uncertain])
        if self.patients.shape != self.truth.shape[:1] or any(table.shape != self.truth.shape for table in tables):
            raise ValueError("truth, patients, scores and uncertain must be of the same images and findings")
        if self.cases is not None and len(self.cases) != len(self.patients):
            raise ValueError("there must be as many cases as images")
        if self.uncertain is not None and not np.isnan(self.truth[self.uncertain]).all():
            raise ValueError("a label cannot be known and uncertain")


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """All that `assess` finds; the fields are those of `cxr_ops.records.Evaluation`."""

    evidence: Evidence
    subgroups: list[Subgroup]
    missing_groups: list[str]
    composites: list[Composite]
    performance: list[Performance]
    uncertain: dict[str, int]
    scenarios: list[Scenario]
    validation_macro: dict[str, float]

    def figures(self) -> dict[str, Any]:
        """The fields of an `Evaluation` that follow from labels and scores, by name."""
        found = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return {**dict(found.pop("evidence")), **found}


def assess(
    findings: Sequence[str],
    test: Scored,
    *,
    validation: Scored | None,
    attributes: Mapping[str, Sequence[str]],
    rules: PerformanceEvaluation,
    level: float,
) -> Assessment:
    """Find all that a plan asks about a challenger.

    Args:
        findings: F names.
        test: what is judged.
        validation: of the same models, to choose thresholds and to recalibrate; without it, figures that need it are
            undefined.
        attributes: name (of `cxr_ops.plan.ATTRIBUTES`, or of a side table's column) -> text of each test image, `` for
            unknown; ages in years.
        rules: of the plan.
        level: of the two-sided intervals, in (0, 1).

    >>> from pathlib import Path
    >>> from cxr_ops import plan
    >>> rules = plan.load(Path("pccp.demo.yaml")).performance
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.integers(0, 2, (60, 1)).astype(float)
    >>> test = Scored(truth=truth, patients=np.arange(60), scores={"challenger": truth / 4 + rng.random((60, 1)) / 2})
    >>> found = assess(["Mass"], test, validation=None, attributes={"sex": ["F", "M"] * 30}, rules=rules, level=0.95)
    >>> [group.name for group in found.subgroups], found.missing_groups
    (['sex=F', 'sex=M'], ['There is no subgroup by view: no image has it on record.'])
    """
    tables = auc.Tables.of(findings, test.truth, _numbered(test.patients), test.scores)
    groups, missing = form_groups(rules.subgroups, attributes, tables.patients.size)
    frozen = (
        probability.unfrozen(findings, list(test.scores))
        if validation is None
        else probability.freeze(findings, validation.truth, validation.scores, rules.operating_points)
    )
    ranks = tables.ranks()
    evidence, performance = _judged(findings, tables, ranks, frozen, rules, level)
    rows = [
        _with_falls(row, of_finding, _cases(test, tables, f) if row.finding in rules.limited_findings else None)
        for f, (row, of_finding) in enumerate(zip(evidence.findings, ranks, strict=True))
    ]
    return Assessment(
        evidence=evidence.model_copy(update={"findings": rows}),
        subgroups=[_subgroup(group, findings, tables, frozen, rules, level) for group in groups],
        missing_groups=missing,
        composites=_composites(findings, ranks, rules, level),
        performance=performance,
        uncertain=_count_uncertain(findings, test.uncertain),
        scenarios=_scenarios(findings, tables, test.uncertain, rules, level),
        validation_macro={} if validation is None else _macro(findings, validation),
    )


def _numbered(patients: npt.NDArray[Any]) -> Ints:
    names = patients.tolist()
    numbers = {name: number for number, name in enumerate(sorted(set(names)))}  # faster than to sort all of them
    return np.fromiter(map(numbers.__getitem__, names), dtype=np.int64, count=len(names))


def _judged(
    findings: Sequence[str],
    tables: auc.Tables,
    ranks: Sequence[auc.FindingRanks],
    frozen: probability.Frozen,
    rules: PerformanceEvaluation,
    level: float,
) -> tuple[Evidence, list[Performance]]:
    performance = probability.performance(findings, tables, ranks, frozen, level=level)
    return _evidence(findings, ranks, rules, level), performance


def _evidence(
    findings: Sequence[str], ranks: Sequence[auc.FindingRanks], rules: PerformanceEvaluation, level: float
) -> Evidence:
    return auc.evidence_of(
        findings,
        ranks,
        level=level,
        min_positive_patients=rules.min_positive_patients,
        min_negative_patients=rules.min_negative_patients,
    )


# ------------------------------------------------------------------------------------------- rank by rank


def _with_falls(row: FindingEvidence, of_finding: auc.FindingRanks, cases: Sequence[str] | None) -> FindingEvidence:
    found = {
        "falls": _falls([of_finding], CHAMPION, row.difference, cases),
        "reference_falls": _falls([of_finding], REFERENCE, row.reference_difference, cases),
    }
    return row.model_copy(update=found)


def _falls(
    ranks: Sequence[auc.FindingRanks], role: str, figure: Figure | None, cases: Sequence[str] | None = None
) -> Falls | None:
    """How ranks moved from another model; None where nothing was estimated, or both put all images in one order."""
    if not isinstance(figure, Estimate) or figure.se <= auc.ROUNDING:
        return None
    pairs = [(one.of[CHALLENGER], one.of[role]) for one in ranks]
    ranked = [(a, b) for a, b in pairs if isinstance(a, auc.Ranking) and isinstance(b, auc.Ranking)]
    return sparse.falls([mine for mine, _ in ranked], [other for _, other in ranked], figure.se, cases)


def _cases(test: Scored, tables: auc.Tables, finding: int) -> list[str]:
    """What each patient is called: its first picture that shows the finding; "" where nothing has a name."""
    names = [""] * tables.count
    if test.cases is not None:
        for image in np.flatnonzero(tables.labels[finding] == 1)[::-1]:
            names[tables.patients[image]] = test.cases[image]
    return names


def _composites(
    findings: Sequence[str], ranks: Sequence[auc.FindingRanks], rules: PerformanceEvaluation, level: float
) -> list[Composite]:
    found: list[Composite] = []
    for asked in rules.composites:
        over = [ranks[findings.index(finding)] for finding in asked.findings if finding in findings]
        if len(over) < len(asked.findings):
            continue
        pair = auc.together(over, level)
        who = np.logical_or.reduce([one.labelled.positives > 0 for one in over])
        found.append(
            Composite(
                **dict(pair),
                name=asked.name,
                findings=list(asked.findings),
                positive_patients=int(np.count_nonzero(who)),
                falls=_falls(over, CHAMPION, pair.difference),
                reference_falls=_falls(over, REFERENCE, pair.reference_difference),
            )
        )
    return found


# ---------------------------------------------------------------------------------------------- subgroups


@dataclass(frozen=True, kw_only=True)
class Group:
    """A subgroup's images, (N,), and what they have in common."""

    attribute: str
    value: str
    images: Bools


def form_groups(
    subgroups: Subgroups | None, attributes: Mapping[str, Sequence[str]], images: int
) -> tuple[list[Group], list[str]]:
    """The subgroups that the images form, in the order of the plan, and in sentences what could not be formed."""
    groups: list[Group] = []
    missing: list[str] = []
    if subgroups is None:
        return groups, missing
    for attribute in subgroups.attributes:
        columns = [_values(name, attributes.get(name, [""] * images), subgroups) for name in attribute.split(", ")]
        known = np.logical_and.reduce([codes >= 0 for _, codes in columns])
        if not known.any():
            missing.append(f"There is no subgroup by {attribute}: no image has it on record.")
            continue
        unknown = int(images - known.sum())
        if unknown:
            missing.append(
                f"{unknown} of {images} images are in no subgroup by {attribute}, because it is not known for them."
            )
        for choice in itertools.product(*(range(len(names)) for names, _ in columns)):
            mask = np.logical_and.reduce([codes == code for (_, codes), code in zip(columns, choice, strict=True)])
            value = ", ".join(names[code] for (names, _), code in zip(columns, choice, strict=True))
            if mask.any():
                groups.append(Group(attribute=attribute, value=value, images=mask))
            elif len(columns) == 1:  # an age band; of pairs, not all need to exist
                missing.append(f"No image is in the subgroup {attribute}={value}.")
    return groups, missing


def _values(name: str, texts: Sequence[str], subgroups: Subgroups) -> tuple[list[str], Ints]:
    """The values of an attribute in their order, and which of them each image has; -1 is unknown."""
    distinct = sorted(set(texts))
    if name == "age":
        names = _bands(subgroups.age_bands)
        code_of = {text: band_of_age(text, subgroups.age_bands) for text in distinct}
    else:
        # A comma separates the values of a pair.
        value_of = {text: text.strip().replace(",", ";") for text in distinct}
        names = sorted({value for value in value_of.values() if value})
        code_of = {text: names.index(value) if value else -1 for text, value in value_of.items()}
    return names, np.fromiter(map(code_of.__getitem__, texts), dtype=np.int64, count=len(texts))


def _bands(starts: Sequence[int]) -> list[str]:
    """Names of age bands.

    >>> _bands((40, 65))
    ['0 to 39', '40 to 64', '65 and over']
    """
    edges = (0, *starts)
    closed = [f"{low} to {high - 1}" for low, high in itertools.pairwise(edges)]
    return [*closed, f"{edges[-1]} and over"]


def band_of_age(text: str, starts: Sequence[int]) -> int:
    """Number of the band of an age; -1 for what is no age."""
    try:
        years = float(text)
    except ValueError:
        return -1
    return sum(years >= start for start in starts) if 0 <= years <= OLDEST else -1


def _subgroup(
    group: Group,
    findings: Sequence[str],
    tables: auc.Tables,
    frozen: probability.Frozen,
    rules: PerformanceEvaluation,
    level: float,
) -> Subgroup:
    inside = tables.among(np.flatnonzero(group.images))
    evidence, performance = _judged(findings, inside, inside.ranks(), frozen, rules, level)
    return Subgroup(
        attribute=group.attribute,
        value=group.value,
        images=inside.patients.size,
        patients=inside.count,
        performance=performance,
        **dict(evidence),
    )


# -------------------------------------------------------------------------- uncertain labels, validation


def _count_uncertain(findings: Sequence[str], uncertain: Bools | None) -> dict[str, int]:
    if uncertain is None:
        return {}
    counts = uncertain.sum(axis=0)
    return {finding: int(count) for finding, count in zip(findings, counts, strict=True) if count}


def _scenarios(
    findings: Sequence[str], tables: auc.Tables, uncertain: Bools | None, rules: PerformanceEvaluation, level: float
) -> list[Scenario]:
    if uncertain is None or not uncertain.any():
        return []
    choices: tuple[Literal[0, 1], ...] = (0, 1)
    scenarios: list[Scenario] = []
    for choice in choices:
        taken = dataclasses.replace(tables, labels=np.where(uncertain.T, float(choice), tables.labels))
        found = _evidence(findings, taken.ranks(), rules, level)
        scenarios.append(Scenario(uncertain_as=choice, **dict(found)))
    return scenarios


def _macro(findings: Sequence[str], validation: Scored) -> dict[str, float]:
    """Each model's macro-AUC over the findings with enough patients; one with scores that are not finite has none."""
    tables = auc.Tables.of(findings, validation.truth, _numbered(validation.patients), validation.scores)
    over: list[tuple[int, auc.Labelled]] = []
    for f, labels in enumerate(tables.labels):
        labelled = auc.Labelled.of(labels, tables.patients, tables.count)
        if min(labelled.support.positive_patients, labelled.support.negative_patients) >= auc.MIN_PATIENTS:
            over.append((f, labelled))
    macro: dict[str, float] = {}
    for role, table in tables.scores.items():
        ordered = [labelled.sort(table[f]) for f, labelled in over]
        areas = [one.area for one in ordered if isinstance(one, auc.Sorted)]
        if 0 < len(areas) == len(over):
            macro[role] = math.fsum(areas) / len(areas)
    return macro


# ------------------------------------------------------------------------------------------------- faults


def score_problems(
    findings: Sequence[str],
    truth: npt.ArrayLike,
    scores: Mapping[str, npt.ArrayLike],
    untrained: Mapping[str, Sequence[str]] | None = None,
) -> list[tuple[str, str]]:
    """Faults of the scores themselves, which no metric shows: (code, sentence) of each.

    Args:
        findings: F names.
        truth: (N, F) 1, 0 or NaN.
        scores: role -> (N, F).
        untrained: role -> findings that the model declares not to score, which is no fault.

    >>> score_problems(["Mass"], [[1], [0]], {"challenger": [[0.5], [0.5]]})
    [('CONSTANT_SCORES', 'The challenger gives every image the same score for Mass.')]
    """
    others = {CHAMPION: Code.CHAMPION_INVALID, REFERENCE: Code.REFERENCE_INVALID}
    problems: list[tuple[str, str]] = []
    every, labels = findings, np.asarray(truth)
    for role, table in scores.items():
        kept = [f for f, name in enumerate(every) if name not in (untrained or {}).get(role, ())]
        findings, truth, values = [every[f] for f in kept], labels[:, kept], np.asarray(table)[:, kept]
        invalid = sanity.invalid_scores(findings, values)
        if invalid:
            code = others.get(role, Code.INVALID_SCORES)
            problems.append((str(code), f"Scores of the {role} are not probabilities. {'; '.join(invalid)}."))
            continue
        constant = sanity.constant_scores(findings, values)
        if constant:
            code = others.get(role, Code.CONSTANT_SCORES)
            problems.append((str(code), f"The {role} gives every image the same score for {', '.join(constant)}."))
        permuted = sanity.permuted_findings(findings, truth, values)
        if permuted:
            code = others.get(role, Code.PERMUTED_FINDINGS)
            pairs = ", ".join(f"{finding} ranks {other}" for finding, other in permuted.items())
            problems.append((str(code), f"Scores of the {role} are exchanged between findings: {pairs}."))
    return problems
