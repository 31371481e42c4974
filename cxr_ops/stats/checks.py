"""The checks that a plan asks for: what each claims, whether the evidence shows it, and what it says if not. Pure.

Each claim is one-sided at the plan's alpha. A claim that is not shown is evidence against the challenger where harm is
shown (after Holm's correction over the claims of its family), or where the test set was large enough to show the whole
family had it been true. Otherwise it is a lack of evidence, with the patients that would be needed. A standard error
names a failure in this way; it never makes a pass of one.

A family holds the claims of one kind against one model: the floors of the findings, their margins against the champion.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from scipy import special

from cxr_ops.plan import MapPlaces, PerformanceEvaluation
from cxr_ops.records.evidence import (
    Blurred,
    Composite,
    Estimate,
    Evaluation,
    Evidence,
    Falls,
    Figure,
    FindingEvidence,
    Localization,
    Paired,
    Subgroup,
    Support,
    Undefined,
)
from cxr_ops.records.verdict import Check, Reason
from cxr_ops.stats import auc, sparse
from cxr_ops.stats.codes import Code

Kind = Literal[
    "floor", "margin", "sparse", "composite", "sensitivity", "specificity", "slope", "brier", "missed", "alarmed"
]
Role = Literal["champion", "reference"]
Outcome = Literal["met", "failed", "unclear", "undefined"]

# A test set that would have shown a family of true claims with this probability, and did not, speaks against them. The
# family counts, not the single claim: of 14 true claims, each shown with probability 0.8, hardly ever all are shown.
POWER: Final = 0.8
# Figures that were computed together agree up to rounding.
TOLERANCE: Final = 1e-9
# A standard error this many times too large is no ground for saying how many patients are needed.
HOPELESS: Final = 1e3

_NAMES: Final = {
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "slope": "Calibration slope",
    "brier": "Brier score",
}
# Shares of images: figures of two models, and no differences.
_FLIPS: Final[dict[Kind, str]] = {
    "missed": "Images with {finding} that the champion calls and the challenger misses",
    "alarmed": "Images without {finding} that the challenger calls and the champion does not",
}


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


def p_above(estimate: Estimate, limit: float) -> float:
    """One-sided p-value of the evidence that the true value of a difference, a slope or a share lies above `limit`.

    >>> round(p_above(Estimate(value=0.02, se=0.01, low=0, high=0, level=0.95), 0.0), 4)
    0.0228
    """
    if estimate.method in ("logit", "separated"):  # a share: the rest lies below
        rest = {"value": 1.0 - estimate.value, "low": 1.0 - estimate.high, "high": 1.0 - estimate.low}
        return auc.p_below(estimate.model_copy(update=rest), 1.0 - limit)
    return auc.p_below(auc.mirrored(estimate), -limit)


# ------------------------------------------------------------------------------------------------ what there is


def roles(evaluation: Evaluation) -> tuple[Role, ...]:
    """The models that the challenger is compared with; a champion that is the reference counts once."""
    found: list[Role] = []
    if evaluation.champion is not None:
        found.append("champion")
    if evaluation.reference not in (None, evaluation.champion):
        found.append("reference")
    return tuple(found)


def difference(of: FindingEvidence | Paired, role: Role) -> Figure | None:
    """Challenger minus champion, or minus reference."""
    return of.difference if role == "champion" else of.reference_difference


def falls(of: FindingEvidence | Composite, role: Role) -> Falls | None:
    """How patients' ranks moved from champion, or from reference."""
    return of.falls if role == "champion" else of.reference_falls


def macro_difference(of: Evidence, role: Role) -> Figure | None:
    """The same of the macro-AUC."""
    return of.macro_difference if role == "champion" else of.macro_reference_difference


def is_evaluable(support: Support, rules: PerformanceEvaluation) -> bool:
    """Whether a finding has the patients that the plan asks for."""
    return (
        support.positive_patients >= rules.min_positive_patients
        and support.negative_patients >= rules.min_negative_patients
    )


def evaluable(evidence: Evidence, rules: PerformanceEvaluation) -> list[FindingEvidence]:
    """The findings that can be judged: with enough patients, and scored by every model."""
    return [row for row in evidence.findings if is_evaluable(row.support, rules) and not row.unscored]


def subgroups(evaluation: Evaluation, rules: PerformanceEvaluation) -> list[Subgroup]:
    """The subgroups that the plan names."""
    asked = rules.subgroups.attributes if rules.subgroups is not None else ()
    return [group for group in evaluation.subgroups if group.attribute in asked]


def fault(figure: Estimate, kind: Kind, against: Role | None = None) -> str | None:
    """Say why an estimate cannot be true, as in a file that was edited or put together wrongly; None if it can.

    Args:
        figure: what was found.
        kind: of what; a margin is of AUCs.
        against: None for a model's own figure, else for the difference from that model.
    """
    own = against is None or kind in _FLIPS
    range_ = (-math.inf, math.inf) if kind == "slope" else (0.0 if own else -1.0, 1.0)
    if not range_[0] <= figure.value <= range_[1]:
        return f"it lies outside {range_[0]:g} to {range_[1]:g}"
    if not figure.low - TOLERANCE <= figure.value <= figure.high + TOLERANCE:
        return "it lies outside its interval"
    if figure.se < 0 or (figure.df is not None and figure.df <= 0) or not 0 < figure.level < 1:
        return "its standard error, degrees of freedom or level cannot be"
    extreme = figure.value in (0.0, 1.0)
    fits = {
        "wald": figure.se > 0 or (figure.value == 0 and not own),
        "logit": figure.se > 0 and own and kind != "slope" and not extreme,
        "logit_difference": figure.se > 0 and not own and _is_difference_of_aucs(figure),
        "separated": own and kind != "slope" and extreme,
        "separated_difference": not own and figure.value == 0,
    }
    return None if fits[figure.method] else f"its value and error do not fit the method {figure.method!r}"


def _is_difference_of_aucs(figure: Estimate) -> bool:
    if figure.other is None or figure.se_logit is None or figure.se_logit <= 0:
        return False
    return 0.0 <= figure.other <= 1.0 and -TOLERANCE <= figure.other + figure.value <= 1.0 + TOLERANCE


# ----------------------------------------------------------------------------------------------------- claims


@dataclass(frozen=True, kw_only=True)
class Claim:
    """That a figure lies above `limit`, below `upper`, or between the two.

    Attributes:
        kind, against, finding, subgroup, limit, upper: as in `records.Check`.
        figure: what was found.
        falls: how ranks moved, for a claim that is `sparse`.
        patients: how many it stands on.
        counted: which patients those are, in words.
    """

    kind: Kind
    figure: Figure | None
    limit: float | None
    upper: float | None = None
    against: Role | None = None
    finding: str | None = None
    subgroup: str | None = None
    falls: Falls | None = None
    patients: int
    counted: str = "patients"

    @property
    def name(self) -> str:
        """What the figure is of."""
        if self.kind in _FLIPS:
            return _FLIPS[self.kind].format(finding=self.finding)
        of = f"{_NAMES[self.kind]} for {self.finding}" if self.kind in _NAMES else self.finding or "Macro-AUC"
        return of if self.subgroup is None else f"{of} in {self.subgroup}"

    @property
    def aim(self) -> float | None:
        """Where the figure of a model that is as good as it should be lies; None where nobody can say."""
        if self.kind == "floor" or self.kind in _FLIPS:
            return None
        return 1.0 if self.kind == "slope" else 0.0

    def p_harm(self) -> float:
        """One-sided p-value that a difference is a loss, or that a model's own figure lies beyond its limits."""
        if self.kind == "sparse" or not isinstance(self.figure, Estimate):
            return 1.0  # that there is a loss, the margin itself says
        if fault(self.figure, self.kind, self.against):
            return 1.0
        sides: list[float] = []
        own = self.against is None or self.kind in _FLIPS
        if self.limit is not None:
            sides.append(auc.p_below(self.figure, self.limit if own else 0.0))
        if self.upper is not None:
            sides.append(p_above(self.figure, self.upper if own else 0.0))
        return min(1.0, len(sides) * min(sides))

    def judge(self, alpha: float, p_harm: float, claims: int) -> tuple[Check, Reason | None]:
        """Judge at `alpha`, one-sided on each side; `p_harm` is corrected for the `claims` of the family."""
        figure = self.figure
        if not isinstance(figure, Estimate):
            return self._undefined("it is missing" if figure is None else figure.reason, figure)
        wrong = fault(figure, self.kind, self.against)
        if wrong:
            return self._undefined(wrong, None)
        if self.kind == "sparse":
            return self._judge_sparse(figure, alpha, claims)
        low, high = auc.bounds(figure, alpha)
        if not (math.isfinite(low) and math.isfinite(high)):
            return self._undefined("its bounds cannot be computed", None)
        met = (self.limit is None or low > self.limit) and (self.upper is None or high < self.upper)
        two_sided = self.limit is not None and self.upper is not None
        away = distance(alpha, claims * (2 if two_sided else 1))
        room = None if self.aim is None else self._room(self.aim)
        # Of models without an error, no standard error is known; it is no small one.
        powered = room is not None and 0 < figure.se <= room / away
        outcome: Outcome = "met" if met else "failed" if p_harm <= alpha or powered else "unclear"
        needed = self._needed(figure, away) if outcome == "unclear" else None
        check = self._check(outcome, value=figure.value, low=low, high=high, needed=needed)
        if met:
            return check, None
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
        if self.upper is not None:
            numbers["upper"] = self.upper
        code, sentence = self._words(check, figure.value, alpha, harm=p_harm <= alpha)
        return check, self._reason(code, sentence, numbers)

    def _judge_sparse(self, figure: Estimate, alpha: float, claims: int) -> tuple[Check, Reason | None]:
        """Judge the margin in a world in which patients fail outright."""
        margin = self._room(0.0)
        if figure.se == 0.0:  # both models put all images in one order, or neither makes an error: nobody failed
            low = auc.bounds(figure, alpha)[0]
            met = low > -margin
            check = self._check("met" if met else "unclear", value=figure.value, low=low)
            sentence = f"{self.name}: neither model makes an error, and too few patients show that it stays so."
            return check, None if met else self._reason(Code.FAILURES_NOT_EXCLUDED, sentence, {"low": low})
        seen = self.falls
        if seen is None:
            return self._undefined("the evidence does not say how patients' ranks moved", None)
        if not sparse.is_possible(seen):
            return self._undefined("patients' ranks cannot have moved as the evidence says", None)
        low = sparse.bound(figure.value, seen, figure.df, alpha)
        if low > -margin:
            return self._check("met", value=figure.value, low=low), None
        wanted = 1.0 - (1.0 - POWER) / claims
        rarer = min(sum(patients for _, patients in side.sizes) for side in (seen.positive, seen.negative))
        powered = sparse.probability(margin, seen.error, rarer, figure.df, alpha) >= wanted
        times = None if powered else sparse.times_needed(margin, seen.error, rarer, figure.df, alpha, wanted)
        needed = None if times is None else max(self.patients + 1, math.ceil(times * self.patients))
        check = self._check("failed" if powered else "unclear", value=figure.value, low=low, needed=needed)
        fell, others = (side.fallen_patients for side in (seen.positive, seen.negative))
        without = f", and {others} without the finding" if others else ""
        sentence = (
            f"{self.name}: {figure.value:+.3f} against the {self.against}, at least {low:+.3f} with "
            f"{100 * (1 - alpha):g} % confidence if a few patients fail outright; {fell} of {self.patients} "
            f"{self.counted} fell by more than half of all ranks{without}. The margin of {margin:g} is not "
        )
        numbers: dict[str, float | int | None] = {
            "value": figure.value,
            "low": low,
            "limit": self.limit,
            "fallen": fell,
            "fallen_negative": others,
            "patients": self.patients,
            "needed": needed,
        }
        if powered:
            sentence += "met, although there are enough patients to show it for an equally good model."
            code = Code.PATIENTS_FAILED if fell or others else Code.MARGIN_NOT_MET  # where nobody fell, it is the loss
            return check, self._reason(code, sentence, numbers)
        more = f" For an equally good model about {needed} {self.counted} would show it." if needed else ""
        return check, self._reason(Code.FAILURES_NOT_EXCLUDED, f"{sentence}shown.{more}", numbers)

    def _reason(self, code: Code, sentence: str, numbers: dict[str, float | int | None]) -> Reason:
        return Reason(code=code, finding=self.finding, subgroup=self.subgroup, sentence=sentence, numbers=numbers)

    def _check(
        self,
        outcome: Outcome,
        *,
        value: float | None = None,
        low: float | None = None,
        high: float | None = None,
        needed: int | None = None,
    ) -> Check:
        return Check(
            kind=self.kind,
            against=self.against,
            finding=self.finding,
            subgroup=self.subgroup,
            limit=self.limit,
            upper=self.upper,
            value=value,
            low=low,
            high=high,
            outcome=outcome,
            needed=needed,
        )

    def _room(self, true: float) -> float:
        """How far a true value lies from the nearer limit."""
        below = math.inf if self.limit is None else true - self.limit
        return min(below, math.inf if self.upper is None else self.upper - true)

    def _undefined(self, why: str, figure: Undefined | None) -> tuple[Check, Reason]:
        needed = f" Needed: {figure.needed}." if figure is not None and figure.needed else ""
        of = "the challenger's figure"
        if self.kind in _FLIPS:
            of = "the share"
        elif self.against:
            of = f"the difference from the {self.against}"
        sentence = f"{self.name}: {of} is undefined, because {why}.{needed}"
        return self._check("undefined"), self._reason(Code.UNDEFINED_EVIDENCE, sentence, {})

    def _needed(self, figure: Estimate, away: float) -> int | None:
        """Patients that would show the claim, if it is true, with the probability that `away` stands for.

        The standard error falls with the root of the patients. The models are taken as equally good and the
        calibration as right; the AUC of a floor and the share of flips as they were seen, so that what lies beyond
        its limit is helped by no number of patients.
        """
        room = self._room(figure.value if self.aim is None else self.aim)
        if room <= 0 or not 0 < figure.se * away < HOPELESS * room:
            return None
        return max(self.patients + 1, math.ceil(self.patients * (figure.se * away / room) ** 2))

    def _words(self, check: Check, value: float, alpha: float, *, harm: bool) -> tuple[Code, str]:
        sure = f"{100 * (1 - alpha):g} % confidence"
        model = "a well-calibrated model" if self.kind == "slope" else "an equally good model"
        more = (
            f" For {model} about {check.needed} {self.counted} would show it; there are {self.patients}."
            if check.needed
            else ""
        )
        enough = f"although there are enough patients to show it for {model}"
        if self.kind == "floor":
            seen = f"{self.name}: {value:.3f}"
            if harm:
                return Code.BELOW_FLOOR, f"{seen}, below the floor of {self.limit:g} with {sure}."
            more = f" About {check.needed} {self.counted} would show it; there are {self.patients}." if more else ""
            return (
                Code.FLOOR_NOT_SHOWN,
                f"{seen}, at least {check.low:.3f} with {sure}: the floor of {self.limit:g} is not shown.{more}",
            )
        if self.kind == "slope":
            limits = f"{self.limit:g} to {self.upper:g}"
            seen = f"{self.name}: {value:.2f}, {check.low:.2f} to {check.high:.2f} with {sure} on either side"
            if harm:
                return Code.MISCALIBRATED, f"{seen}: it lies outside {limits}."
            if check.outcome == "failed":
                return Code.MISCALIBRATED, f"{seen}: that it lies within {limits} is not shown, {enough}."
            return Code.CALIBRATION_NOT_SHOWN, f"{seen}: that it lies within {limits} is not shown.{more}"
        if self.kind in _FLIPS:
            seen = f"{self.name}: a share of {value:.3f}"
            if harm:
                return Code.HARMFUL_FLIPS, f"{seen}, above the limit of {self.upper:g} with {sure}."
            more = f" About {check.needed} {self.counted} would show it; there are {self.patients}." if more else ""
            return (
                Code.FLIPS_NOT_EXCLUDED,
                f"{seen}, at most {check.high:.3f} with {sure}: that it lies below {self.upper:g} is not shown.{more}",
            )
        digits = 4 if self.kind == "brier" else 3
        seen = f"{self.name}: {value:+.{digits}f} against the {self.against}"
        bound = f"at most {check.high:+.{digits}f}" if self.limit is None else f"at least {check.low:+.{digits}f}"
        margin = f"{self._room(0.0):g}"
        if harm:
            loss = f"that the loss stays within the margin of {margin} is not shown"
            return Code.WORSE, f"{seen}, and worse with {sure}: {loss}."
        seen += f", {bound} with {sure}"
        if check.outcome == "failed":
            return Code.MARGIN_NOT_MET, f"{seen}: the margin of {margin} is not met, {enough}."
        return Code.MARGIN_NOT_SHOWN, f"{seen}: the margin of {margin} is not shown.{more}"


def distance(alpha: float, claims: int) -> float:
    """Standard errors between a true claim and its limit at which all of `claims` are shown with probability `POWER`.

    Bonferroni's bound: each is missed with a probability of (1 - POWER) / claims.

    >>> round(distance(0.025, 1), 2)
    2.8
    """
    return float(special.ndtri(1 - alpha) + special.ndtri(1 - (1 - POWER) / claims))


def judge(families: Iterable[Sequence[Claim]], alpha: float) -> tuple[list[Check], list[Reason]]:
    """Judge every claim; a reason for each that is not met."""
    checks: list[Check] = []
    reasons: list[Reason] = []
    for family in families:
        for claim, p in zip(family, holm([claim.p_harm() for claim in family]), strict=True):
            check, reason = claim.judge(alpha, p, len(family))
            checks.append(check)
            reasons.extend([reason] if reason else [])
    return checks, reasons


# ----------------------------------------------------------------------------------------- what the plan asks for


def of_aucs(
    evidence: Evidence, rules: PerformanceEvaluation, against: Sequence[Role], patients: int
) -> list[list[Claim]]:
    """Floors and margins of the macro-AUC and of each finding that can be judged."""
    rows = evaluable(evidence, rules)
    positive = "positive patients"
    families: list[list[Claim]] = []
    if rules.macro.floor is not None:
        macro = Claim(kind="floor", figure=evidence.macro_challenger, limit=rules.macro.floor, patients=patients)
        families.append([macro])
    if rules.finding.floor is not None:
        families.append(
            [
                Claim(
                    kind="floor",
                    finding=row.finding,
                    figure=row.challenger,
                    limit=rules.finding.floor,
                    patients=row.support.positive_patients,
                    counted=positive,
                )
                for row in rows
            ]
        )
    for role in against:
        macro = Claim(
            kind="margin",
            against=role,
            figure=macro_difference(evidence, role),
            limit=-rules.macro.margin,
            patients=patients,
        )
        families.append([macro])
        families.append(
            [
                Claim(
                    kind="margin",
                    against=role,
                    finding=row.finding,
                    figure=difference(row, role),
                    limit=-rules.finding.margin_of(row.finding),
                    patients=row.support.positive_patients,
                    counted=positive,
                )
                for row in rows
            ]
        )
    return families


def of_failures(evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]) -> list[list[Claim]]:
    """The same margins of the findings that the plan names, and of its composites, if a few patients fail outright."""
    if rules.sparse_failures is None:
        return []
    named = rules.sparse_failures.named
    return [
        [
            *(
                Claim(
                    kind="sparse",
                    against=role,
                    finding=row.finding,
                    figure=difference(row, role),
                    falls=falls(row, role),
                    limit=-rules.finding.margin_of(row.finding),
                    patients=row.support.positive_patients,
                    counted="positive patients",
                )
                for row in evaluable(evaluation, rules)
                if row.finding in named
            ),
            *_of_composites("sparse", evaluation, rules, role),
        ]
        for role in against
    ]


def of_composites(evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]) -> list[list[Claim]]:
    """The margins of the mean AUCs of the plan's composites."""
    return [_of_composites("composite", evaluation, rules, role) for role in against if rules.composites]


def _of_composites(
    kind: Literal["composite", "sparse"], evaluation: Evaluation, rules: PerformanceEvaluation, role: Role
) -> list[Claim]:
    found = {composite.name: composite for composite in evaluation.composites}
    claims: list[Claim] = []
    for asked in rules.composites:
        composite = found.get(asked.name)
        claims.append(
            Claim(
                kind=kind,
                against=role,
                finding=asked.name,
                figure=None if composite is None else difference(composite, role),
                falls=None if composite is None else falls(composite, role),
                limit=-asked.margin,
                patients=0 if composite is None else composite.positive_patients,
                counted="positive patients",
            )
        )
    return claims


def of_subgroups(
    evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]
) -> tuple[list[list[Claim]], list[Reason]]:
    """The margin of the macro-AUC in each subgroup; a note for one with too few findings, a stop for a missing one.

    At a first release there is nothing to compare with, so that a missing subgroup is only said.
    """
    asked = rules.subgroups
    if asked is None:
        return [], []
    groups = subgroups(evaluation, rules)
    missing = [name for name in asked.attributes if name not in {group.attribute for group in groups}]
    reasons = [
        Reason(
            code=Code.SUBGROUP_MISSING if against else Code.NOT_EVALUABLE,
            subgroup=name,
            sentence=f"No subgroup by {name} can be formed from the test set, and the plan asks for it"
            + ("." if against else " from the second release on."),
        )
        for name in missing
    ]
    if not against:
        return [], reasons
    judged = [group for group in groups if len(evaluable(group, rules)) >= asked.min_findings]
    for group in groups:
        if group not in judged:
            there = len(evaluable(group, rules))
            sentence = (
                f"{group.name} is not judged: with {group.patients} patients, {there} of its findings can be judged, "
                f"and the plan asks for {asked.min_findings}."
            )
            numbers: dict[str, float | int | None] = {
                "findings": there,
                "least": asked.min_findings,
                "patients": group.patients,
                "images": group.images,
            }
            reasons.append(Reason(code=Code.NOT_EVALUABLE, subgroup=group.name, sentence=sentence, numbers=numbers))
    families = [
        [
            Claim(
                kind="margin",
                against=role,
                subgroup=group.name,
                figure=macro_difference(group, role),
                limit=-asked.margin,
                patients=group.patients,
            )
            for group in judged
        ]
        for role in against
    ]
    return families, reasons


def of_probabilities(
    evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]
) -> tuple[list[list[Claim]], list[Reason]]:
    """Operating points and calibration of the findings that the plan names; a note for one with too few patients."""
    supports = {row.finding: row.support for row in evaluation.findings}
    measured = {row.finding: row for row in evaluation.performance}

    def claim(
        kind: Literal["sensitivity", "specificity", "slope", "brier"],
        finding: str,
        role: Role | None,
        limit: float | None,
        upper: float | None = None,
    ) -> Claim:
        paired: Paired | None = getattr(measured.get(finding), kind, None)
        figure = None if paired is None else paired.challenger if role is None else difference(paired, role)
        support = supports[finding]
        negative = kind == "specificity"
        return Claim(
            kind=kind,
            against=role,
            finding=finding,
            figure=figure,
            limit=limit,
            upper=upper,
            patients=support.negative_patients if negative else support.positive_patients,
            counted="negative patients" if negative else "positive patients",
        )

    families: list[list[Claim]] = []
    notes: list[Reason] = []
    points, calibration = rules.operating_points, rules.calibration
    if points is not None:
        least = max(points.min_positive_patients, rules.min_positive_patients)
        named, left_out = _with_patients(points.findings, supports, rules, least, "The operating point")
        notes += left_out
        for role in against:
            families.append([claim("sensitivity", finding, role, -points.sensitivity_margin) for finding in named])
            families.append([claim("specificity", finding, role, -points.specificity_margin) for finding in named])
    if calibration is not None:
        least = rules.min_positive_patients
        named, left_out = _with_patients(calibration.findings, supports, rules, least, "The calibration")
        notes += left_out
        families.append([claim("slope", finding, None, *calibration.slope) for finding in named])
        families += [
            [claim("brier", finding, role, None, calibration.brier_margin) for finding in named] for role in against
        ]
    return families, notes


def of_flips(
    evaluation: Evaluation, rules: PerformanceEvaluation, against: Sequence[Role]
) -> tuple[list[list[Claim]], list[Reason]]:
    """Limits on images that the champion calls rightly and the challenger does not; a note where patients are too few.

    A first release changes no call.
    """
    asked = rules.harmful_flips
    if asked is None or "champion" not in against:
        return [], []
    supports = {row.finding: row.support for row in evaluation.findings}
    measured = {row.finding: row.flips for row in evaluation.performance}
    least = max(asked.min_positive_patients, rules.min_positive_patients)
    named, notes = _with_patients(asked.findings, supports, rules, least, "What flips")
    families: list[list[Claim]] = []
    kinds: tuple[Literal["missed", "alarmed"], ...] = ("missed", "alarmed")
    for kind in kinds:
        upper: float | None = getattr(asked, kind)
        if upper is None:
            continue
        families.append(
            [
                Claim(
                    kind=kind,
                    against="champion",
                    finding=finding,
                    figure=getattr(flips, kind).share if (flips := measured.get(finding)) is not None else None,
                    limit=None,
                    upper=upper,
                    patients=supports[finding].positive_patients
                    if kind == "missed"
                    else supports[finding].negative_patients,
                    counted="positive patients" if kind == "missed" else "negative patients",
                )
                for finding in named
            ]
        )
    return families, notes


def rests_on(region: str, blurred: Blurred) -> tuple[Figure, Figure | None]:
    """What the plan limits of a region, of the challenger, and how far that is beyond the champion's (None: no such).

    Of a region outside the thorax it is the AUC that is lost without it, and of the thorax the AUC that is left. Of the
    latter the champion's is compared by what both lose: who loses less has more left, of the same AUC.
    """
    if region != "inside":
        return blurred.loss["challenger"], blurred.excess
    excess = blurred.excess
    return blurred.auc["challenger"], auc.mirrored(excess) if isinstance(excess, Estimate) else excess


def lies(row: Localization, measure: str, asked: MapPlaces) -> Paired:
    """The figures of a finding's maps and boxes that the plan limits: `pointing`, `energy` or `overlap`."""
    if measure == "overlap":
        return row.overlap.get(str(asked.overlap_at), Paired(challenger=_NOT_MEASURED))
    figures: Paired = getattr(row, measure)
    return figures


_NOT_MEASURED: Final = Undefined(reason="it was not measured")


def _with_patients(
    findings: Iterable[str], supports: Mapping[str, Support], rules: PerformanceEvaluation, least: int, what: str
) -> tuple[list[str], list[Reason]]:
    """The findings that have enough patients, each once, and a note for each of the others."""
    named: list[str] = []
    notes: list[Reason] = []
    for finding in dict.fromkeys(findings):
        support = supports.get(finding)
        if support is not None and is_evaluable(support, rules) and support.positive_patients >= least:
            named.append(finding)
            continue
        positive, negative = (support.positive_patients, support.negative_patients) if support else (0, 0)
        notes.append(
            Reason(
                code=Code.NOT_EVALUABLE,
                finding=finding,
                sentence=f"{what} for {finding} is not judged: it has {positive} positive and {negative} negative "
                f"patients, and the plan asks for {least} and {rules.min_negative_patients}.",
                numbers={"positive_patients": positive, "negative_patients": negative, "least": least},
            )
        )
    return named, notes
