"""The gate's rule: evidence and a change-control plan in, a verdict with its reasons out. Pure.

One claim is judged: the challenger is not worse than the champion by the plan's margin, in the macro-AUC and in each
finding that can be judged, and each AUC lies above its floor. It is an intersection-union test: every check is
one-sided at the plan's alpha and all must be met, so their number needs no correction (Berger, Technometrics 24 (1982)
295-300).

A check that is not met is evidence of harm (REJECT) where the upper bound shows a loss, after Holm's correction over
the findings, or where the test set was large enough to show the claim had it been true. Otherwise it is INSUFFICIENT
EVIDENCE, with the patients that would be needed. REJECT goes before INSUFFICIENT EVIDENCE, and that before PROMOTE.
What is missing, undefined, contradictory or unknown never leads to PROMOTE.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from scipy import stats

from cxr_ops.labels import FINDINGS
from cxr_ops.plan import ChangePlan
from cxr_ops.records import Check, Estimate, Evaluation, Figure, FindingEvidence, Inputs, Reason, Undefined, Verdict
from cxr_ops.stats import auc

Decision = Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
PROMOTE: Final = "PROMOTE"
REJECT: Final = "REJECT"
INSUFFICIENT: Final = "INSUFFICIENT EVIDENCE"

# A test set that would have shown a family of true claims with this probability, and did not, speaks against them. The
# family counts, not the single claim: of 14 true claims, each shown with probability 0.8, hardly ever all are shown.
POWER: Final = 0.8
# Figures that were computed together agree up to rounding.
TOLERANCE: Final = 1e-9


class Code(StrEnum):
    """Why a verdict is what it is. The set is closed: a code that is not here stops a promotion."""

    # grounds for PROMOTE
    FLOORS_MET = "FLOORS_MET"
    NOT_WORSE = "NOT_WORSE"
    # the evidence speaks against the challenger
    BELOW_FLOOR = "BELOW_FLOOR"
    WORSE = "WORSE"
    MARGIN_NOT_MET = "MARGIN_NOT_MET"
    INVALID_SCORES = "INVALID_SCORES"
    CONSTANT_SCORES = "CONSTANT_SCORES"
    PERMUTED_FINDINGS = "PERMUTED_FINDINGS"
    SPLIT_MISMATCH = "SPLIT_MISMATCH"
    # the evidence does not suffice
    FLOOR_NOT_SHOWN = "FLOOR_NOT_SHOWN"
    MARGIN_NOT_SHOWN = "MARGIN_NOT_SHOWN"
    TOO_FEW_PATIENTS = "TOO_FEW_PATIENTS"
    UNDEFINED_EVIDENCE = "UNDEFINED_EVIDENCE"
    EVIDENCE_INCOMPLETE = "EVIDENCE_INCOMPLETE"
    EMPTY_TEST_SET = "EMPTY_TEST_SET"
    TEST_SET_MISMATCH = "TEST_SET_MISMATCH"
    CHAMPION_MISMATCH = "CHAMPION_MISMATCH"
    CHAMPION_INVALID = "CHAMPION_INVALID"
    CHAMPION_SPLIT_MISMATCH = "CHAMPION_SPLIT_MISMATCH"
    # the record forbids it, whatever the evidence
    UNRECORDED_LOOK = "UNRECORDED_LOOK"
    TEST_SET_EXHAUSTED = "TEST_SET_EXHAUSTED"
    DIRTY_CODE = "DIRTY_CODE"
    # to be known, without effect on the verdict
    NOT_EVALUABLE = "NOT_EVALUABLE"


GROUNDS: Final = frozenset({Code.FLOORS_MET, Code.NOT_WORSE})
AGAINST: Final = frozenset(
    {
        Code.BELOW_FLOOR,
        Code.WORSE,
        Code.MARGIN_NOT_MET,
        Code.INVALID_SCORES,
        Code.CONSTANT_SCORES,
        Code.PERMUTED_FINDINGS,
        Code.SPLIT_MISMATCH,
    }
)
NOTES: Final = frozenset({Code.NOT_EVALUABLE})


def decide(evaluation: Evaluation, inputs: Inputs, plan: ChangePlan) -> Verdict:
    """Judge a challenger.

    Args:
        evaluation: what the evaluate stage found.
        inputs: what the run was opened with; its champion is the one that must have been scored.
        plan: the plan whose file `inputs.plan` names; the caller has compared the digests.

    Returns:
        The verdict. `evidence_says` leaves out what the record forbids (looks, code).
    """
    sound = [*_problems(evaluation), *_contradictions(evaluation, inputs, plan)]
    checks, judged = _judge(evaluation, plan)
    reasons = [*sound, *_sufficiency(evaluation, plan), *judged]
    evidence_says = _worst(reasons)
    if evidence_says == PROMOTE and not _all_met(checks, evaluation, plan):  # no hole in the rule itself may promote
        hole = "Not every check that the plan asks for was made."
        reasons.append(Reason(code=Code.EVIDENCE_INCOMPLETE, sentence=hole))
        evidence_says = INSUFFICIENT
    if evidence_says == PROMOTE:
        reasons.insert(0, _grounds(evaluation, plan))
    forbidden = _record(inputs, plan)
    return Verdict(
        verdict=_worst([*reasons, *forbidden]),
        evidence_says=evidence_says,
        reasons=[*forbidden, *reasons],
        plan=inputs.plan,
        approvals=plan.approvals,
        clinical_use=plan.clinical_use,
        challenger=evaluation.challenger,
        champion=inputs.champion,
        test_digest=evaluation.test_digest,
        evaluation=evaluation.digest(),
        inputs=inputs.digest(),
        alpha=plan.performance.alpha,
        notice=plan.notice,
        checks=checks,
    )


def _worst(reasons: Iterable[Reason]) -> Decision:
    codes = {reason.code for reason in reasons}
    if codes & AGAINST:
        return REJECT
    return INSUFFICIENT if codes - GROUNDS - NOTES else PROMOTE


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number, step by step from the smallest (Holm, Scand. J. Statistics 6 (1979) 65-70).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for place, i in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - place) * p_values[i]))
        adjusted[i] = largest
    return adjusted


# ------------------------------------------------------------------------------------------ is the evidence sound?


def _problems(evaluation: Evaluation) -> list[Reason]:
    """What evaluate itself objects to; a code that is unknown, or has no effect by itself, stops a promotion too."""
    known = set(Code) - GROUNDS - NOTES
    return [
        Reason(code=code if code in known else Code.EVIDENCE_INCOMPLETE, sentence=sentence)
        for code, sentence in evaluation.problems
    ]


def _contradictions(evaluation: Evaluation, inputs: Inputs, plan: ChangePlan) -> list[Reason]:
    found: list[Reason] = []
    if evaluation.test_images < 1 or evaluation.test_patients < 1:
        found.append(Reason(code=Code.EMPTY_TEST_SET, sentence="The test set is empty."))
    if evaluation.champion != inputs.champion.package:
        found.append(
            Reason(
                code=Code.CHAMPION_MISMATCH,
                sentence="The evaluation is not against the champion that the run was opened with.",
            )
        )
    if inputs.champion.package is None and inputs.champion.entry is not None:
        found.append(
            Reason(
                code=Code.CHAMPION_MISMATCH,
                sentence="The ledger names a champion, but no model came with it; this is not a first release.",
            )
        )
    found.extend(
        Reason(code=Code.EVIDENCE_INCOMPLETE, sentence=sentence)
        for sentence in (*_holes(evaluation, plan), *_impossible(evaluation))
    )
    return found


def _holes(evaluation: Evaluation, plan: ChangePlan) -> list[str]:
    holes: list[str] = []
    if tuple(row.finding for row in evaluation.findings) != FINDINGS:
        holes.append("The evaluation does not hold each of the 14 findings once, in their order.")
    if evaluation.macro_over != [row.finding for row in evaluation.findings if _evaluable(row, plan)]:
        holes.append("The macro-AUC is not over the findings that the plan makes evaluable.")
    if evaluation.champion is not None:
        compared = [evaluation.macro_champion, evaluation.macro_difference]
        compared += [figure for row in evaluation.findings for figure in (row.champion, row.difference)]
        if any(figure is None for figure in compared):
            holes.append("Figures of the champion, or differences from it, are missing.")
    return holes


def _impossible(evaluation: Evaluation) -> list[str]:
    """Numbers that cannot all be true, as in a file that was edited or put together wrongly."""
    faults: list[str] = []
    rows: list[tuple[str, Figure, Figure | None, Figure | None]] = [
        (row.finding, row.challenger, row.champion, row.difference) for row in evaluation.findings
    ]
    rows.append(
        ("macro-AUC", evaluation.macro_challenger, evaluation.macro_champion, evaluation.macro_difference),
    )
    for name, challenger, champion, difference in rows:
        if any(isinstance(area, Estimate) and not 0.0 <= area.value <= 1.0 for area in (challenger, champion)):
            faults.append(f"{name}: an AUC lies outside 0 to 1.")
        estimates = [figure for figure in (challenger, champion, difference) if isinstance(figure, Estimate)]
        if any(not (e.low - TOLERANCE <= e.value <= e.high + TOLERANCE and e.se >= 0) for e in estimates):
            faults.append(f"{name}: an estimate lies outside its interval.")
        if (
            isinstance(challenger, Estimate)
            and isinstance(champion, Estimate)
            and isinstance(difference, Estimate)
            and abs(challenger.value - champion.value - difference.value) > TOLERANCE
        ):
            faults.append(f"{name}: the difference is not challenger minus champion.")
    parts = [row.challenger for row in evaluation.findings if row.finding in evaluation.macro_over]
    values = [part.value for part in parts if isinstance(part, Estimate)]
    macro = evaluation.macro_challenger
    if isinstance(macro, Estimate) and (
        len(values) != len(parts) or not values or abs(sum(values) / len(values) - macro.value) > TOLERANCE
    ):
        faults.append("The macro-AUC is not the mean of the findings' AUCs.")
    return faults


def _evaluable(row: FindingEvidence, plan: ChangePlan) -> bool:
    rules = plan.performance
    return (
        row.support.positive_patients >= rules.min_positive_patients
        and row.support.negative_patients >= rules.min_negative_patients
    )


def _sufficiency(evaluation: Evaluation, plan: ChangePlan) -> list[Reason]:
    rules = plan.performance
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
        if _evaluable(row, plan):
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


# ------------------------------------------------------------------------------------------------- the checks


def _judge(evaluation: Evaluation, plan: ChangePlan) -> tuple[list[Check], list[Reason]]:
    """Make every check that the plan asks for; a reason for each that is not met."""
    rules = plan.performance
    rows = [row for row in evaluation.findings if _evaluable(row, plan)]
    patients = evaluation.test_patients
    macro_floor, macro_margin = rules.macro.floor, rules.macro.margin
    finding_floor, margin_of = rules.finding.floor, rules.finding.margin_of
    families: list[list[_Claim]] = []
    if macro_floor is not None:
        families.append([_Claim("floor", None, evaluation.macro_challenger, macro_floor, patients)])
    if finding_floor is not None:
        families.append(
            [_Claim("floor", r.finding, r.challenger, finding_floor, r.support.positive_patients) for r in rows]
        )
    if evaluation.champion is not None:
        families.append([_Claim("margin", None, evaluation.macro_difference, -macro_margin, patients)])
        families.append(
            [
                _Claim("margin", r.finding, r.difference, -margin_of(r.finding), r.support.positive_patients)
                for r in rows
            ]
        )
    checks: list[Check] = []
    reasons: list[Reason] = []
    for family in families:
        harm = holm([claim.p_harm() for claim in family])
        for claim, p in zip(family, harm, strict=True):
            check, reason = claim.judge(rules.alpha, p, _distance(rules.alpha, len(family)))
            checks.append(check)
            reasons.extend([reason] if reason else [])
    return checks, reasons


@dataclass(frozen=True)
class _Claim:
    """That a figure lies above a limit: an AUC above its floor, or a difference above minus the margin."""

    kind: Literal["floor", "margin"]
    finding: str | None
    figure: Figure | None
    limit: float
    patients: int

    @property
    def name(self) -> str:
        """What the figure is of."""
        return self.finding or "Macro-AUC"

    def p_harm(self) -> float:
        """One-sided p-value that an AUC lies below its floor, or that a difference lies below 0."""
        if not isinstance(self.figure, Estimate):
            return 1.0
        return auc.p_below(self.figure, self.limit if self.kind == "floor" else 0.0)

    def judge(self, alpha: float, p_harm: float, distance: float) -> tuple[Check, Reason | None]:
        """Judge at `alpha`; `p_harm` and `distance` (see `_distance`) are corrected for the number of claims."""
        figure = self.figure
        if not isinstance(figure, Estimate):
            return self._undefined(figure)
        low, high = auc.bounds(figure, alpha)
        needed = None if low > self.limit else self._needed(figure, distance)
        powered = self.kind == "margin" and figure.se <= -self.limit / distance
        outcome: Literal["met", "failed", "unclear"]
        outcome = "met" if low > self.limit else "failed" if p_harm <= alpha or powered else "unclear"
        check = Check(
            kind=self.kind,
            finding=self.finding,
            limit=self.limit,
            value=figure.value,
            low=low,
            high=high,
            outcome=outcome,
            needed=needed if outcome == "unclear" else None,
        )
        if outcome == "met":
            return check, None
        code, sentence = self._words(check, figure, alpha, harm=p_harm <= alpha)
        numbers: dict[str, float | int | None] = {
            "value": figure.value,
            "se": figure.se,
            "low": low,
            "high": high,
            "limit": self.limit,
            "p_harm": p_harm,
            "patients": self.patients,
            "needed": check.needed,
        }
        return check, Reason(code=code, finding=self.finding, sentence=sentence, numbers=numbers)

    def _undefined(self, figure: Undefined | None) -> tuple[Check, Reason]:
        why = "it is missing" if figure is None else figure.reason
        needed = f" Needed: {figure.needed}." if figure is not None and figure.needed else ""
        of = "difference from the champion" if self.kind == "margin" else "AUC"
        sentence = f"{self.name}: the {of} is undefined, because {why}.{needed}"
        check = Check(kind=self.kind, finding=self.finding, limit=self.limit, outcome="undefined")
        return check, Reason(code=Code.UNDEFINED_EVIDENCE, finding=self.finding, sentence=sentence)

    def _needed(self, figure: Estimate, distance: float) -> int | None:
        """Patients that would show the claim, if it is true, with the probability that `distance` stands for.

        The standard error falls with the root of the patients. For a margin the models are taken as equally good, for a
        floor the AUC as it was seen; an AUC at or below its floor is helped by no number of patients.
        """
        room = -self.limit if self.kind == "margin" else figure.value - self.limit
        if room <= 0 or figure.se == 0:
            return None
        return max(self.patients + 1, math.ceil(self.patients * (figure.se * distance / room) ** 2))

    def _words(self, check: Check, figure: Estimate, alpha: float, *, harm: bool) -> tuple[Code, str]:
        sure = f"{100 * (1 - alpha):g} % confidence"
        patients = "patients" if self.finding is None else "positive patients"
        if self.kind == "floor":
            seen = f"{self.name}: {figure.value:.3f}"
            if harm:
                return Code.BELOW_FLOOR, f"{seen}, below the floor of {self.limit:g} with {sure}."
            more = f" About {check.needed} {patients} would show it; there are {self.patients}." if check.needed else ""
            return (
                Code.FLOOR_NOT_SHOWN,
                f"{seen}, at least {check.low:.3f} with {sure}: the floor of {self.limit:g} is not shown.{more}",
            )
        seen = f"{self.name}: {figure.value:+.3f} against the champion"
        margin = f"{-self.limit:g}"
        if harm:
            return (
                Code.WORSE,
                f"{seen}, and worse with {sure}: that the loss stays within the margin of {margin} is not shown.",
            )
        if check.outcome == "failed":
            seen += f", at least {check.low:+.3f} with {sure}"
            enough = "although there are enough patients to show it for an equally good model"
            return Code.MARGIN_NOT_MET, f"{seen}: the margin of {margin} is not met, {enough}."
        more = f" For an equally good model about {check.needed} {patients} would show it; there are {self.patients}."
        return (
            Code.MARGIN_NOT_SHOWN,
            f"{seen}, at least {check.low:+.3f} with {sure}: the margin of {margin} is not shown."
            + (more if check.needed else ""),
        )


def _distance(alpha: float, claims: int) -> float:
    """Standard errors between a true claim and its limit at which all of `claims` are shown with probability `POWER`.

    Bonferroni's bound: each is missed with a probability of (1 - POWER) / claims.
    """
    return float(stats.norm.ppf(1 - alpha) + stats.norm.ppf(1 - (1 - POWER) / claims))


def _all_met(checks: Sequence[Check], evaluation: Evaluation, plan: ChangePlan) -> bool:
    """Whether each check that the plan asks for was made and met; counted anew, apart from the code that makes them."""
    met = {(check.kind, check.finding) for check in checks if check.outcome == "met"}
    judged: list[str | None] = [None, *evaluation.macro_over]
    wanted: set[tuple[str, str | None]] = set()
    for finding in judged:
        thresholds = plan.performance.macro if finding is None else plan.performance.finding
        wanted |= {("floor", finding)} if thresholds.floor is not None else set()
        wanted |= {("margin", finding)} if evaluation.champion is not None else set()
    return bool(wanted) and wanted == met and len(checks) == len(wanted)


def _grounds(evaluation: Evaluation, plan: ChangePlan) -> Reason:
    judged = f"the macro-AUC and {len(evaluation.macro_over)} findings"
    if evaluation.champion is None:
        sentence = f"First release: {judged} lie above the floors of the plan {plan.name!r}."
        return Reason(code=Code.FLOORS_MET, sentence=sentence)
    sentence = f"Not worse than the champion by the margins of the plan {plan.name!r}, and above its floors: {judged}."
    return Reason(code=Code.NOT_WORSE, sentence=sentence)


# ------------------------------------------------------------------------------------------------- the record


def _record(inputs: Inputs, plan: ChangePlan) -> list[Reason]:
    """What forbids a promotion whatever the evidence says."""
    found: list[Reason] = []
    if inputs.ledger is None:
        found.append(
            Reason(
                code=Code.UNRECORDED_LOOK,
                sentence="This run has no ledger, so its look at the test set is unrecorded and it cannot promote.",
            )
        )
    elif inputs.ledger.looks >= plan.performance.max_looks:
        found.append(
            Reason(
                code=Code.TEST_SET_EXHAUSTED,
                sentence=f"{inputs.ledger.looks} looks at the test set have been spent of the plan's "
                f"{plan.performance.max_looks}; patients never scored before are needed.",
                numbers={"looks": inputs.ledger.looks, "max_looks": plan.performance.max_looks},
            )
        )
    if inputs.code.dirty and plan.require_clean_code:
        found.append(
            Reason(
                code=Code.DIRTY_CODE,
                sentence="The code held uncommitted changes, and the plan promotes only committed code.",
            )
        )
    return found
