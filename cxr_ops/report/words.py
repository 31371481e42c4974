"""Figures, checks and verdicts in words: what the report, its summary and the terminal say in the same way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from cxr_ops import contract
from cxr_ops.records.evidence import Estimate, Evaluation, Evidence, Figure, Performance, Undefined
from cxr_ops.records.explanation import HeatMap
from cxr_ops.records.inputs import OtherPlan, Plan
from cxr_ops.records.verdict import Check, Reason, Verdict
from cxr_ops.stats.checks import Role
from cxr_ops.stats.codes import AGAINST, HOLDS

MEAN: Final = "Mean"
NOT_EVALUABLE: Final = "not evaluable"

_OUTCOMES: Final = {"met": "met", "failed": "not met", "unclear": "not shown", "undefined": "undefined"}
_CLAIMS: Final = {
    "floor": "AUC above the floor",
    "margin": "AUC not worse than the {against}'s",
    "sparse": "AUC not worse than the {against}'s, if some patients fail outright",
    "composite": "mean AUC not worse than the {against}'s",
    "sensitivity": "sensitivity not worse than the {against}'s",
    "specificity": "specificity not worse than the {against}'s",
    "brier": "Brier score not worse than the {against}'s",
    "slope": "calibration slope near 1",
}
_STARTED_FROM_PATIENTS: Final = {
    "none": "no patient of this data set",
    "training": "only patients of this data set's training and validation sides",
    "test": "patients of this data set, some of them on its test side",
    "unknown": "unknown: patients of the test side may be among them",
}


def compared_with(evaluation: Evaluation) -> list[Role]:
    """Which models the challenger was compared with: the champion, and the reference where it is another one."""
    against: list[Role] = []
    if evaluation.champion is not None:
        against.append("champion")
    if evaluation.macro_reference is not None:
        against.append("reference")
    return against


def figure_text(figure: Figure | None, digits: int = 3) -> str:
    """Write a figure with its interval.

    >>> figure_text(Estimate(value=0.8734, se=0.02, low=0.83, high=0.91, level=0.95))
    '0.873 (0.830 to 0.910)'
    >>> figure_text(Undefined(reason="no positives"))
    'not evaluable'
    """
    if isinstance(figure, Estimate):
        low, high = figure.ci
        text = f"{figure.value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
        return text.replace("-", "\u2212")
    return NOT_EVALUABLE


def difference_text(figure: Figure | None, digits: int = 3) -> str:
    """Write a difference with its interval, with signs and a true minus.

    Of a difference of AUCs, a record of an earlier version holds bounds alone; they are called so.

    >>> old = {"method": "logit_difference", "other": 0.8, "se_logit": 0.1}
    >>> difference_text(Estimate(value=0.01, se=0.02, low=-0.03, high=0.05, level=0.95, **old))
    '+0.010 (bounds \u22120.030 to +0.050)'
    >>> difference_text(Estimate(value=-0.004, se=0.02, low=-0.03, high=0.0225, level=0.95))
    '\u22120.004 (\u22120.030 to +0.022)'
    """
    if isinstance(figure, Estimate):
        low, high = figure.ci
        called = "bounds " if figure.interval is None and figure.method == "logit_difference" else ""
        text = f"{figure.value:+.{digits}f} ({called}{low:+.{digits}f} to {high:+.{digits}f})"
        return text.replace("-", "\u2212")
    return NOT_EVALUABLE


def claim_text(check: Check) -> str:
    """Say what a check asks for.

    >>> claim_text(Check(kind="margin", against="reference", finding=None, limit=-0.01, outcome="met"))
    "AUC not worse than the reference's"
    """
    return _CLAIMS[check.kind].format(against=check.against or "champion")


def check_text(check: Check) -> str:
    """Say what came of a check, with the bound that was judged and the limit.

    >>> check_text(Check(kind="margin", against="champion", limit=-0.03, low=-0.0104, outcome="met"))
    'met: at least \u22120.010, limit \u22120.03'
    >>> check_text(Check(kind="brier", against="champion", limit=None, upper=0.005, high=0.0071, outcome="unclear"))
    'not shown: at most +0.0071, limit +0.005'
    >>> check_text(Check(kind="slope", finding="Mass", limit=0.8, upper=1.25, low=0.9, high=1.1, outcome="met"))
    'met: 0.900 to 1.100, limits 0.8 and 1.25'
    >>> check_text(Check(kind="floor", finding="Hernia", limit=0.5, outcome="undefined"))
    'undefined, limit 0.5'
    """
    sign = "" if check.kind in ("floor", "slope") else "+"
    digits = 4 if check.kind == "brier" else 3
    limits = [f"{limit:{sign}g}" for limit in (check.limit, check.upper) if limit is not None]
    bound = ""
    if check.limit is not None and check.upper is not None:
        if check.low is not None and check.high is not None:
            bound = f": {check.low:{sign}.{digits}f} to {check.high:{sign}.{digits}f}"
    elif check.limit is not None and check.low is not None:
        bound = f": at least {check.low:{sign}.{digits}f}"
    elif check.upper is not None and check.high is not None:
        bound = f": at most {check.high:{sign}.{digits}f}"
    text = f"{_OUTCOMES[check.outcome]}{bound}, limit{'s' if len(limits) > 1 else ''} {' and '.join(limits)}"
    return text.replace("-", "\u2212")


def checks_sentence(checks: Sequence[Check]) -> str:
    """Count the checks by their outcome.

    >>> checks_sentence([Check(kind="floor", limit=0.5, outcome=outcome) for outcome in ("met", "met", "unclear")])
    '2 of 3 checks are met; 1 not shown.'
    """
    counts = {outcome: sum(check.outcome == outcome for check in checks) for outcome in _OUTCOMES}
    rest = [f"{counts[outcome]} {_OUTCOMES[outcome]}" for outcome in _OUTCOMES if outcome != "met" and counts[outcome]]
    return f"{counts['met']} of {len(checks)} checks are met{'; ' if rest else ''}{', '.join(rest)}."


def outcome_sentence(verdict: Verdict) -> str:
    """Say in a sentence or two what a verdict means for the model in use."""
    says = {
        contract.PROMOTE: "The evidence meets every rule of the plan.",
        contract.REJECT: "The evidence shows that the challenger falls short of the plan.",
        contract.INSUFFICIENT: "The evidence neither meets the plan nor shows that the challenger falls short of it.",
    }
    if verdict.verdict != verdict.evidence_says:
        return f"The evidence alone would give {verdict.evidence_says}, but the record forbids it; the reasons say why."
    return f"{says[verdict.verdict]} {consequence(verdict)}"


def consequence(verdict: Verdict) -> str:
    """Say what follows from a verdict for the model in use."""
    if verdict.verdict != contract.PROMOTE:
        return "The champion stays in use." if verdict.champion.package else "No model is put in use."
    if not verdict.approvals:
        return "The plan asks for no approval by a person."
    people = "one person" if verdict.approvals == 1 else f"{verdict.approvals} persons"
    return f"It is put in use only after approval by {people}."


def period_text(verdict: Verdict) -> str:
    """Say which test period a verdict belongs to and how many looks that period has had."""
    looks = "look not recorded" if verdict.looks is None else f"look {verdict.looks}"
    return f"period {verdict.period}, {looks}"


def other_plan(plan: Plan, other: OtherPlan) -> str:
    """Say that a run is judged under another plan than expected, and where that plan asks for less.

    >>> plan = Plan(name="easy", path="easy.yaml", sha256="a")
    >>> other = OtherPlan(than="the plan in force", name="nih", sha256="b", looser=["max_looks 10 -> 99"])
    >>> other_plan(plan, other).partition(" Even so")[0]
    'Judged under another plan than the plan in force: easy instead of nih. Looser: max_looks 10 -> 99.'
    """
    if other.looser is None:
        looser = f"What {other.name} asked for is not known here."
    else:
        looser = f"Looser: {'; '.join(other.looser)}." if other.looser else "Nothing in it is looser."
    return (
        f"Judged under another plan than {other.than}: {plan.name} instead of {other.name}. {looser} Even so, looks, "
        "approvals, disclosure and committed code follow the strictest plan of the test period."
    )


def in_order(reasons: Sequence[Reason]) -> list[Reason]:
    """Put holds first, then reasons against the challenger, then the others; in each group all, subgroups, findings."""

    def rank(reason: Reason) -> tuple[bool, bool, int]:
        scope = 2 if reason.finding is not None else 1 if reason.subgroup is not None else 0
        return (reason.code not in HOLDS, reason.code not in AGAINST, scope)

    return sorted(reasons, key=rank)


def starting_patients(patients: str) -> str:
    """Say which patients the starting weights had seen."""
    return _STARTED_FROM_PATIENTS[patients]


def peak_sentence(case: HeatMap) -> str:
    """Say where a map's peak lies; nothing where there is no box to compare it with."""
    if case.empty:
        return "No region of the picture speaks for the finding: the map is empty."
    if case.peak_in_box is None:
        return ""
    return f"The map's peak lies {'in' if case.peak_in_box else 'outside'} the annotated box."


def undefined_figures(evidence: Evidence) -> list[tuple[str, list[str], Undefined]]:
    """List the AUCs and differences that could not be computed: (finding or mean, which, why), a row for each cause."""
    names = ("challenger", "champion", "difference", "reference", "difference from the reference")
    rows: list[tuple[str, list[str], Undefined]] = []
    for one in evidence.findings:
        found = (one.challenger, one.champion, one.difference, one.reference, one.reference_difference)
        rows += [(one.finding, which, why) for which, why in _causes(zip(names, found, strict=True))]
    mean = (
        evidence.macro_challenger,
        evidence.macro_champion,
        evidence.macro_difference,
        evidence.macro_reference,
        evidence.macro_reference_difference,
    )
    return rows + [(MEAN, which, why) for which, why in _causes(zip(names, mean, strict=True))]


def undefined_performance(performance: Sequence[Performance]) -> list[tuple[str, list[str], Undefined]]:
    """The same for thresholds and probabilities: (finding, which of the challenger's figures, why)."""
    names = (
        "average precision",
        "sensitivity",
        "specificity",
        "Brier score",
        "slope",
        "intercept",
        "calibration error",
    )
    rows: list[tuple[str, list[str], Undefined]] = []
    for one in performance:
        parts = (one.average_precision, one.sensitivity, one.specificity, one.brier, one.slope, one.intercept, one.ece)
        found = [(name, part.challenger) for name, part in zip(names, parts, strict=True)]
        rows += [(one.finding, which, why) for which, why in _causes(found)]
    return rows


def undefined_elsewhere(evaluation: Evaluation) -> Iterator[tuple[str, str, list[str], Undefined]]:
    """What could not be computed in subgroups, at thresholds and as probabilities: (where, finding, which, why)."""
    for finding, which, why in undefined_performance(evaluation.performance):
        yield ("all patients", finding, which, why)
    for group in evaluation.subgroups:
        for finding, which, why in (*undefined_figures(group), *undefined_performance(group.performance)):
            yield (group.name, finding, which, why)


def _causes(found: Any) -> list[tuple[list[str], Undefined]]:
    causes: dict[str, tuple[list[str], Undefined]] = {}
    for name, figure in found:
        if isinstance(figure, Undefined):
            causes.setdefault(figure.digest(), ([], figure))[0].append(name)
    return list(causes.values())


def facts(values: dict[str, Any]) -> list[tuple[str, str]]:
    """Flatten a JSON object to (name, value) for a table, with dots between the names of nested ones.

    >>> facts({"input": {"size": 96, "range": [0, 1]}, "bf16": True})
    [('input.size', '96'), ('input.range', '0, 1'), ('bf16', 'yes')]
    """
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += [(f"{name}.{inner}", text) for inner, text in facts(value)]
        else:
            rows.append((name, _text(value)))
    return rows


def _text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.6g}"
        case list() | tuple():
            return ", ".join(_text(item) for item in value) or "none"
        case _:
            return str(value)
