"""Figures, checks and verdicts in words: what the report, its summary and the terminal say in the same way."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cxr_ops import contract
from cxr_ops.records.evidence import Change, Estimate, Evaluation, Evidence, Figure, Performance, Subgroup, Undefined
from cxr_ops.records.explanation import Seen
from cxr_ops.records.inputs import OtherPlan, Plan
from cxr_ops.records.report import SettingChange
from cxr_ops.records.verdict import Check, Reason, Verdict
from cxr_ops.stats.checks import Role
from cxr_ops.stats.codes import AGAINST, HOLDS, NOT_STOPPING

MEAN: Final = "Mean"
NOT_EVALUABLE: Final = "not evaluable"
NOT_RECORDED: Final = "not on record"

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
    "missed": "few images with it that the {against} calls and the challenger misses",
    "alarmed": "few images without it that the challenger calls and the {against} does not",
}
_SEXES: Final = {"F": "female patients", "M": "male patients"}
# A subgroup as records name it, within a sentence: not a setting, which has a dot or a hyphen before it.
_GROUP: Final = re.compile(r"(?<![\w.-])([a-z][a-z0-9_]*)=(\d+ to \d+|\d+ and over|[^\s,.:;)=]+)")
_HYPHEN: Final = re.compile(r"(?<![\w.=-])-(?=\.?\d)")
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
    sign = "" if check.kind in ("floor", "slope", "missed", "alarmed") else "+"
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


def group_text(name: str) -> str:
    """Say in words which patients a subgroup holds.

    >>> group_text("sex=F, view=AP"), group_text("age=65 and over"), group_text("chest_drain=yes")
    ('female patients, view AP', 'aged 65 and over', 'chest drain: yes')
    """

    def say(found: re.Match[str]) -> str:
        attribute, value = found.groups()
        match attribute:
            case "sex":
                return _SEXES.get(value, f"sex {value}")
            case "age":
                return f"aged {value}"
            case "view" | "source":
                return f"{attribute} {value}"
            case _:
                return f"{attribute.replace('_', ' ')}: {value}"

    return _GROUP.sub(say, name)


def sex_text(sex: str) -> str:
    """Say which patients have a sex on record.

    >>> sex_text("M"), sex_text(""), sex_text("several")
    ('male patients', 'sex not known', 'images say different sexes')
    """
    if sex == "several":
        return "images say different sexes"
    return _SEXES.get(sex, f"sex {sex}") if sex else "sex not known"


def prose(sentence: str) -> str:
    """Set a sentence of a record for people: subgroups in words, and a minus sign where a hyphen stands for one.

    >>> prose("Mass in view=AP: -0.040 against the champion, at least -.06 (train.seed=-1, nih-production).")
    'Mass in view AP: \u22120.040 against the champion, at least \u2212.06 (train.seed=-1, nih-production).'
    >>> prose("sex=F is not judged.")
    'The subgroup female patients is not judged.'
    """
    start = "The subgroup " if _GROUP.match(sentence) else ""
    return _HYPHEN.sub("\u2212", start + group_text(sentence))


def checks_sentence(checks: Sequence[Check]) -> str:
    """Count the checks by their outcome.

    >>> checks_sentence([Check(kind="floor", limit=0.5, outcome=outcome) for outcome in ("met", "met", "unclear")])
    '2 of 3 checks are met; 1 not shown.'
    """
    counts = {outcome: sum(check.outcome == outcome for check in checks) for outcome in _OUTCOMES}
    rest = [f"{counts[outcome]} {_OUTCOMES[outcome]}" for outcome in _OUTCOMES if outcome != "met" and counts[outcome]]
    return f"{counts['met']} of {len(checks)} checks are met{'; ' if rest else ''}{', '.join(rest)}."


def change_sentence(evaluation: Evaluation) -> str:
    """Say in a sentence or two for how many images a change of model makes a difference, over all findings."""
    flips = [one.flips for one in evaluation.performance if one.flips is not None]
    worse, better = (
        [sum(getattr(flip, name).images for flip in flips) for name in names]
        for names in (("missed", "alarmed"), ("found", "cleared"))
    )
    return (
        f"Each model calls a finding at its own threshold. Summed over {len(flips)} findings, {better[0]} images that "
        f"the champion missed are found and {worse[0]} that it found are missed; {better[1]} false alarms are cleared "
        f"and {worse[1]} are new."
    )


def parts_sentences(change: Change) -> list[str]:
    """Say whether the model is better, whether the test set is easier, and what became of the earlier patients."""
    mean = change.mean
    if isinstance(mean.learning, Undefined) and isinstance(mean.retention, Undefined):
        return [f"A better model cannot be told from an easier test set: {mean.learning.reason}."]
    said = [
        _shown(
            mean.learning,
            more="On the test set of now the challenger is better than the champion",
            less="On the test set of now the challenger is worse than the champion",
            none="On the test set of now neither model is shown to be better",
        ),
        _shown(
            mean.potential,
            more="The test set of now is easier for the champion than the one that it was judged on",
            less="The test set of now is harder for the champion than the one that it was judged on",
            none="Neither test set is shown to be easier for the champion",
        ),
        _shown(
            mean.retention,
            more="On the earlier test set the challenger is better than the champion",
            less="On the earlier test set the challenger is worse than the champion: something was forgotten",
            none="On the earlier test set neither model is shown to be better",
        ),
    ]
    if change.exact is False:
        said.append(
            "Of the earlier test set, images were withdrawn or labels corrected since: both models were scored on what "
            "is there now."
        )
    return said


def _shown(figure: Figure, *, more: str, less: str, none: str) -> str:
    if isinstance(figure, Undefined):
        return f"{none}: {figure.reason}."
    low, high = figure.ci
    return f"{more if low > 0 else less if high < 0 else none}, {difference_text(figure)}."


def headline(evaluation: Evaluation, harm_signals: int = 0) -> list[str]:
    """Say in two sentences what changes, and for whom, if the challenger takes the champion's place.

    Args:
        evaluation: the evidence.
        harm_signals: cells of subgroup and finding in which the plan's screen found a loss.
    """
    images, patients = count_text(evaluation.test_images), count_text(evaluation.test_patients)
    where = f"the {images} images of {patients} patients of the {evaluation.scored} set"
    if evaluation.champion is None:
        what = f"Nobody's images are read by a model yet, so nothing changes; {where} show what a first one is worth."
        return [what, _for_whom(evaluation, harm_signals)]
    flips = [one.flips for one in evaluation.performance if one.flips is not None]
    if not flips:
        what = (
            f"What would change for single images is not known: no finding has a threshold of both models on {where}."
        )
        return [what, _for_whom(evaluation, harm_signals)]
    missed, found, alarmed, cleared = (
        sum(getattr(flip, name).images for flip in flips) for name in ("missed", "found", "alarmed", "cleared")
    )
    what = (
        f"On {where} the challenger would find {found} findings that the champion misses and miss {missed} that it "
        f"finds, and would clear {cleared} of its false alarms and raise {alarmed} new ones."
    )
    return [what, _for_whom(evaluation, harm_signals)]


def _for_whom(evaluation: Evaluation, harm_signals: int) -> str:
    """For which patients the mean AUC changes, or is, least and most."""
    compares = evaluation.champion is not None

    def of(evidence: Evidence) -> Figure | None:
        return evidence.macro_difference if compares else evidence.macro_challenger

    def text(value: float) -> str:
        return f"{value:{'+' if compares else ''}.3f}".replace("-", "\u2212")

    whole = of(evaluation)
    told = text(whole.value) if isinstance(whole, Estimate) else "not known"
    first = f"The mean AUC {'changes by' if compares else 'is'} {told} for all"
    known = [(value.value, one) for one in evaluation.subgroups if isinstance(value := of(one), Estimate)]
    if not known:
        return f"{first}, and is not known for any subgroup of patients."

    def said(value: float, one: Subgroup) -> str:
        over = len(one.macro_over)
        return f"{text(value)} for {group_text(one.name)} (over {over} finding{'s' if over != 1 else ''})"

    (low, worst), (high, best) = (end(known, key=_value_of) for end in (min, max))
    ends = f"from {said(low, worst)} to {said(high, best)}" if len(known) > 1 else said(low, worst)
    asks = f"; {harm_signals} harm signal{'s ask' if harm_signals > 1 else ' asks'} for a look" if harm_signals else ""
    return f"{first}, and in subgroups, over the findings that can be judged there, {ends}{asks}."


def _value_of(pair: tuple[float, Subgroup]) -> float:
    return pair[0]


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
    """Put reasons by their weight, and in each weight all, subgroups, findings, and the least probable by chance first.

    Reasons against the challenger come first, then what is missing, then holds, then what changes no verdict.

    >>> codes = ("NOT_EVALUABLE", "HARM_SIGNAL", "MARGIN_NOT_SHOWN", "WORSE")
    >>> [reason.code for reason in in_order([Reason(code=code, sentence="") for code in codes])]
    ['WORSE', 'MARGIN_NOT_SHOWN', 'HARM_SIGNAL', 'NOT_EVALUABLE']
    """

    def rank(reason: Reason) -> tuple[int, int, float]:
        code = reason.code
        weight = 0 if code in AGAINST else 2 if code in HOLDS else 3 if code in NOT_STOPPING else 1
        scope = 2 if reason.finding is not None else 1 if reason.subgroup is not None else 0
        chance = reason.numbers.get("p_harm")
        return (weight, scope, 1.0 if chance is None else chance)

    return sorted(reasons, key=rank)


def folded(reasons: Sequence[Reason], most: int) -> tuple[list[Reason], dict[str, int]]:
    """Reasons in order, at most so many of each code, and how many more there are of a code.

    >>> folded([Reason(code="HARM_SIGNAL", sentence=name) for name in "abc"], 2)[1]
    {'HARM_SIGNAL': 1}
    """
    shown: list[Reason] = []
    seen: Counter[str] = Counter()
    for reason in in_order(reasons):
        seen[reason.code] += 1
        if seen[reason.code] <= most:
            shown.append(reason)
    return shown, {code: count - most for code, count in seen.items() if count > most}


def starting_patients(patients: str) -> str:
    """Say which patients the starting weights had seen."""
    return _STARTED_FROM_PATIENTS[patients]


def seen_sentence(seen: Seen) -> str:
    """Say what a model makes of a case, at its operating point.

    >>> one = {"calibrated": True, "map": [], "peak_in_box": None}
    >>> seen_sentence(Seen(probability=0.31, threshold=0.42, called=False, **one))
    '0.31, not called (threshold 0.42)'
    >>> seen_sentence(Seen(probability=0.9, threshold=None, called=None, **(one | {"calibrated": False})))
    '0.90, not calibrated'
    """
    text = f"{seen.probability:.2f}"
    if not seen.calibrated:
        text += ", not calibrated"
    if seen.threshold is not None:
        text += f", {'called' if seen.called else 'not called'} (threshold {seen.threshold:.2f})"
    return text


def peak_sentence(seen: Seen) -> str:
    """Say where a map's peak lies; nothing where there is no box to compare it with."""
    if not seen.map:
        return "No map can be computed."
    if seen.empty:
        return "No region of the picture speaks for the finding: the map is empty."
    if seen.peak_in_box is None:
        return ""
    return f"The map's peak lies {'in' if seen.peak_in_box else 'outside'} the annotated box."


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
    if evaluation.change is not None:
        names = ("learning", "potential", "retention")
        for one in (evaluation.change.mean, *evaluation.change.findings):
            for which, why in _causes((name, getattr(one, name)) for name in names):
                yield ("both test sets", one.finding or MEAN, which, why)
    for group in evaluation.subgroups:
        for finding, which, why in (*undefined_figures(group), *undefined_performance(group.performance)):
            yield (group.name, finding, which, why)


def _causes(found: Any) -> list[tuple[list[str], Undefined]]:
    causes: dict[str, tuple[list[str], Undefined]] = {}
    for name, figure in found:
        if isinstance(figure, Undefined):
            causes.setdefault(figure.digest(), ([], figure))[0].append(name)
    return list(causes.values())


def count_text(count: int) -> str:
    """Write a count with thin spaces between thousands.

    >>> count_text(12345)
    '12\u202f345'
    """
    return f"{count:,}".replace(",", "\u202f")


def when_text(at: str | None) -> str:
    """Write a time of a record to the minute; a hyphen where there is none.

    >>> when_text("2026-03-01T04:05:06+00:00"), when_text(None)
    ('2026-03-01 04:05', '-')
    """
    return at[:16].replace("T", " ") if at else "-"


def percent_text(share: float) -> str:
    """Write a share in per cent, to three digits.

    >>> percent_text(0.01), percent_text(0.12345), percent_text(0.0004)
    ('1\u00a0%', '12.3\u00a0%', '0.04\u00a0%')
    """
    return f"{100 * share:.3g}\u00a0%"


def facts(values: Mapping[str, Any]) -> list[tuple[str, str]]:
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


def changed_settings(champion: Mapping[str, Any], challenger: Mapping[str, Any]) -> list[SettingChange]:
    """The settings that two models were made with differently, by name.

    >>> found = changed_settings({"train.epochs": 6, "train.seed": 0}, {"train.seed": 0, "train.bf16": True})
    >>> [(one.name, one.champion, one.challenger) for one in found]
    [('train.bf16', 'not on record', 'yes'), ('train.epochs', '6', 'not on record')]
    """
    before, now = dict(facts(champion)), dict(facts(challenger))
    return [
        SettingChange(name=name, champion=before.get(name, NOT_RECORDED), challenger=now.get(name, NOT_RECORDED))
        for name in sorted(champion.keys() | challenger.keys())
        if champion.get(name, ...) != challenger.get(name, ...)
    ]


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
