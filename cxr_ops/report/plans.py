"""A change-control plan in words: what it says, what two of them differ in, what a reviewer would object to.

Pure: plans and settings in, sentences out. Nothing here judges a model; `cxr_ops.stats.rule` does.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from cxr_ops.errors import SettingsError
from cxr_ops.labels import FINDINGS, SEXES, VIEWS, nearest
from cxr_ops.params import NOT_OF_THE_MODEL, Params
from cxr_ops.plan import Bound, ChangePlan, HeatMaps, MapPlaces, PerformanceEvaluation, Reliance, Subgroups
from cxr_ops.stats import heat_maps, levels
from cxr_ops.stats.power import TARGETS, Power, margin_tier

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

Direction = Literal["looser", "stricter", "unordered", "other"]

# A finding with this margin or a wider one must be among the limited ones.
WIDE: Final = 0.10
_LINE: Final = 200  # characters; a change of words is longer, and JSON shows it whole


# ------------------------------------------------------------------------------------------------------ check


@dataclass(frozen=True, kw_only=True)
class Tier:
    """A finding's margin as the plan has it, and as its positive patients propose it; None: it cannot be judged."""

    finding: str
    patients: int
    margin: float
    proposed: float | None

    def __str__(self) -> str:
        proposed = "it cannot be judged" if self.proposed is None else f"{number(self.proposed)} is proposed"
        return f"{self.finding}: {self.patients} positive patients, so {proposed}; the plan has {number(self.margin)}"


def tiers(rules: PerformanceEvaluation, positive_patients: Sequence[int]) -> list[Tier]:
    """Compare each finding's margin with the one that its positive patients, in the order of `FINDINGS`, propose."""
    return [
        Tier(
            finding=finding, patients=patients, margin=rules.finding.margin_of(finding), proposed=margin_tier(patients)
        )
        for finding, patients in zip(FINDINGS, positive_patients, strict=True)
    ]


def settings(params: Params) -> dict[str, Any]:
    """The settings that a plan can bound: those of split, prepare and train that shape the model, with dotted keys."""
    document = params.model_dump(mode="json", by_alias=True)
    named = {f"{part}.{key}": value for part in ("split", "prepare", "train") for key, value in document[part].items()}
    return {key: value for key, value in named.items() if key not in NOT_OF_THE_MODEL}


def check_bounds(plan: ChangePlan) -> None:
    """Refuse bounds on what is no setting of `params.yaml`: they would never be compared with anything.

    Raises:
        SettingsError: with the nearest setting of each key.
    """
    known = settings(Params())
    wrong: list[str] = []
    for key in plan.description_of_modifications.bounds.settings:
        if key in NOT_OF_THE_MODEL:
            wrong.append(f"{key} says nothing of the model, and cannot be bounded")
        elif key not in known:
            guess = nearest(key, known)
            wrong.append(f"{key} is not a setting" + (f"; did you mean {guess!r}?" if guess else ""))
    if wrong:
        raise SettingsError("; ".join(wrong), where="bounds.settings", fix="name keys of params.yaml, as train.epochs")


def warnings(plan: ChangePlan, params: Params | None) -> list[str]:
    """What a reviewer would object to, in sentences; with settings, also which of them lie outside the plan."""
    rules, updates = plan.performance, plan.modification_protocol.update_procedures
    bounds = plan.description_of_modifications.bounds
    wide = [
        finding
        for finding in FINDINGS
        if rules.finding.margin_of(finding) >= WIDE and finding not in rules.limited_findings
    ]
    outside = {
        key: value
        for key, value in (settings(params) if params else {}).items()
        if (key in bounds.settings and not bounds.settings[key].allows(value))
        or (key not in bounds.settings and bounds.other_settings == "none")
    }
    objections = (
        (not plan.clinical_use, "clinical_use is false: no model promoted under this plan may be used on patients"),
        (updates.approvals == 0, "approvals is 0: a PROMOTE is carried out without a person"),
        (not updates.require_clean_code, "require_clean_code is false: uncommitted code may be promoted"),
        (rules.period_alpha is None, "period_alpha is null: nothing is promised over all looks of a test period"),
        (
            rules.looks.method == "equal" and rules.period_alpha is not None,
            "looks are equal: what period_alpha promises holds for teams that do not react to verdicts",
        ),
        (
            rules.looks.method == "recycled" and rules.disclosure == "verdict",
            (
                f"disclosure is verdict: a look that fails leaves {_left(rules)} for the next one, and under "
                f"disclosure: promotion it would leave {_left(rules, told=1)}"
            ),
        ),
        (rules.disclosure == "all", "disclosure is all: people who tune a model see the test set that it is judged on"),
        (
            rules.sparse_failures is None,
            "sparse_failures is null: a model that fails outright on a few patients passes more often than alpha says",
        ),
        (rules.subgroups is None, "subgroups is null: nobody looks for a loss in a part of the patients"),
        (
            rules.required_findings != "all",
            "required_findings is not all: a finding that cannot be judged stops nothing",
        ),
        (rules.macro.floor is None or rules.finding.floor is None, "a floor is null: a first release has to show less"),
        (
            bool(wide),
            f"findings with a margin of {number(WIDE)} or more must be in limited_findings: {', '.join(wide)}",
        ),
        (bounds.other_settings == "free", "other_settings is free: a setting that is not listed may be anything"),
        (bounds.sources == "any", "sources is any: data may come from anywhere"),
    )
    return [
        *(sentence for holds, sentence in objections if holds),
        *(
            f"{key} is {value} in params.yaml, and the plan "
            + (f"allows {bounds.settings[key]}" if key in bounds.settings else "does not list it")
            + ": a run with it is outside the plan"
            for key, value in outside.items()
        ),
    ]


def facts(plan: ChangePlan, sha256: str) -> list[tuple[str, str]]:
    """The plan in a few lines, as (name, value)."""
    rules = plan.performance
    reviewed = "for clinical use" if plan.clinical_use else "not for clinical use"
    spent = "nothing promised" if rules.period_alpha is None else f"at most {percent(rules.period_alpha)}"
    floors = (rules.macro.floor is not None) + len(FINDINGS) * (rules.finding.floor is not None)
    points, calibration, sparse = rules.operating_points, rules.calibration, rules.sparse_failures
    declared = (len(points.findings) if points else 0, len(calibration.findings) if calibration else 0)
    groups = ", ".join(f"{name} ({count})" for name, count in _subgroup_counts(rules.subgroups)) or "none"
    return [
        ("plan", f"{plan.name}, {reviewed}"),
        ("sha256", sha256),
        ("error of each check", f"{percent(levels.first(rules.spending).checks)} at {_which(rules)}, one-sided"),
        ("looks of a test period", f"{rules.max_looks}, {rules.looks.method}, error over all of them: {spent}"),
        *([("levels of looks", _levels_line(rules))] if rules.looks.method == "recycled" else []),
        ("approvals", str(plan.approvals)),
        ("floors", str(floors)),
        ("margins of AUCs", f"{1 + len(FINDINGS)}, and as many against a reference that is not the champion"),
        ("margins if some fail", str(0 if sparse is None else len(sparse.named) + len(rules.composites))),
        ("composites", ", ".join(f"{one.name} ({number(one.margin)})" for one in rules.composites) or "none"),
        ("subgroups", groups),
        ("operating points", f"{2 * declared[0]} checks"),
        ("flips", f"{_flip_checks(rules)} checks"),
        ("reliance", f"{0 if rules.reliance is None else len(rules.reliance.limits) * len(FINDINGS)} figures"),
        ("places of heat maps", f"{_map_figures(rules)} figures"),
        ("behaviour of heat maps", f"{_behaviour_figures(rules)} figures"),
        ("calibration", f"{2 * declared[1]} checks"),
    ]


def _flip_checks(rules: PerformanceEvaluation) -> int:
    asked = rules.harmful_flips
    return 0 if asked is None else len(asked.findings) * sum(at is not None for at in (asked.missed, asked.alarmed))


def _map_figures(rules: PerformanceEvaluation) -> int:
    asked = rules.map_places
    return 0 if asked is None else (len(asked.margins) + len(asked.floors)) * len(FINDINGS)


def _behaviour_figures(rules: PerformanceEvaluation) -> int:
    asked = rules.heat_maps
    return 0 if asked is None else (asked.random is not None) + (asked.steady is not None) * len(heat_maps.CHANGES)


def _left(rules: PerformanceEvaluation, told: int | None = None) -> str:
    """What the second look may spend after a failure, as the plan tells it or as if so many outcomes were told."""
    terms = rules.spending if told is None else rules.spending.model_copy(update={"told_failures": told})
    return percent(float(f"{levels.after([terms], 'f').checks:.3g}"))


def _which(rules: PerformanceEvaluation) -> str:
    return "a look" if rules.looks.method == "equal" else "the first look"


def _levels_line(rules: PerformanceEvaluation) -> str:
    """What recycled looks may spend in the best and in the worst case."""

    def spent(history: str) -> str:
        return percent(float(f"{levels.after([rules.spending], history).checks:.3g}"))

    alone = (rules.max_looks - 1) * "p"
    return (
        f"{spent('p')} after a promotion, {spent('f')} after a failure, {spent('ff')} after two, and {spent(alone)} at "
        f"look {rules.max_looks} of promotions alone"
    )


def _subgroup_counts(rules: Subgroups | None) -> list[tuple[str, str]]:
    if rules is None:
        return []
    sizes = {"sex": len(SEXES), "view": len(VIEWS), "age": len(rules.age_bands) + 1}
    return [
        (name, str(math.prod(sizes[part] for part in parts)) if set(parts) <= set(sizes) else "as many as there are")
        for name in rules.attributes
        for parts in [name.split(", ")]
    ]


# ---------------------------------------------------------------------------------------------------- explain


@dataclass(frozen=True, kw_only=True)
class Section:
    """A heading of some level (1: the plan; 2: a part; 3: in a part), with paragraphs under it."""

    level: int
    title: str
    paragraphs: tuple[str, ...] = ()


def explain(plan: ChangePlan) -> list[Section]:
    """The plan in plain words, in the order of the FDA's three parts; each executed key with its consequence."""
    description, protocol = plan.description_of_modifications, plan.modification_protocol
    impact = plan.impact_assessment
    use = (
        "A model promoted under it may be used on patients."
        if plan.clinical_use
        else "No model promoted under it may be used on patients: clinical_use is false."
    )
    return [
        Section(level=1, title=f"Change-control plan {plan.name}", paragraphs=(plan.notice, use)),
        Section(
            level=2,
            title="Part 1: description of modifications",
            paragraphs=(
                description.summary,
                f"May change without a new review: {'; '.join(description.may_change)}.",
                f"Needs a new review: {'; '.join(description.must_not_change)}.",
                *_bounds(plan),
            ),
        ),
        Section(level=2, title="Part 2: modification protocol"),
        Section(level=3, title="Data management", paragraphs=(protocol.data_management.summary,)),
        Section(level=3, title="Retraining", paragraphs=(protocol.retraining.summary,)),
        Section(level=3, title="Performance evaluation", paragraphs=(plan.performance.summary,)),
        Section(level=3, title="Looks at the test set", paragraphs=tuple(_looks(plan.performance))),
        Section(level=3, title="What must be shown", paragraphs=tuple(_thresholds(plan.performance))),
        Section(level=3, title="Subgroups", paragraphs=tuple(_subgroups(plan.performance))),
        Section(level=3, title="Operating points and calibration", paragraphs=tuple(_declared(plan.performance))),
        Section(level=3, title="Update procedures", paragraphs=tuple(_updates(plan))),
        Section(
            level=2,
            title="Part 3: impact assessment",
            paragraphs=(
                impact.summary,
                *(f"Benefit: {benefit}" for benefit in impact.benefits),
                *(f"Risk: {risk.risk} Against it: {risk.mitigation}" for risk in impact.risks),
            ),
        ),
    ]


def _bounds(plan: ChangePlan) -> Iterable[str]:
    bounds = plan.description_of_modifications.bounds
    yield "A run outside these bounds is refused when it is opened. A model outside them cannot be promoted."
    yield f"The architecture must be {bounds.architecture}."
    for key, bound in bounds.settings.items():
        yield f"{key} {'must' if bound.equals is not None else 'may'} be {bound}."
    if bounds.other_settings == "free":
        yield "A setting of split, prepare or train that is not listed may be anything."
    else:
        yield "A setting of split, prepare or train that is not listed is outside the plan."
    allowed = "anywhere" if bounds.sources == "any" else " or ".join(bounds.sources) + ", and nowhere else"
    yield f"Data may come from {allowed}."


def _looks(rules: PerformanceEvaluation) -> Iterable[str]:
    level, which = (
        percent(levels.first(rules.spending).checks),
        "each" if rules.looks.method == "equal" else "the first",
    )
    yield (
        f"Every check is one-sided, with an error of {level} at {which} look. All must be met, so their number needs "
        "no correction."
    )
    if rules.looks.method == "recycled":
        yield (
            "What later looks may spend follows from the ledger: a promotion gives back what its look spent, a look "
            f"without one does not. It is {_levels_line(rules)}."
        )
    over = (
        "nothing is promised about the error over all of them"
        if rules.period_alpha is None
        else f"over all of them the error is at most {percent(rules.period_alpha)}"
    )
    yield (
        f"A test period allows {_many(rules.max_looks, 'look')}; a look is the first scoring of a new challenger; "
        f"{over}. After the last one the verdict is INSUFFICIENT EVIDENCE until a period of patients who were never "
        "scored before is opened."
    )
    if rules.disclosure == "promotion":
        yield (
            "While a test period is open, people who tune learn of a run whether it was promoted, and the validation "
            "set. Verdict, reasons, numbers, maps and cases of the test set are for auditors and approvers."
        )
    elif rules.disclosure == "verdict":
        yield (
            "While a test period is open, people who tune see the verdict and the validation set. The numbers, maps "
            "and cases of the test set are for auditors and approvers."
        )
    else:
        yield "People who tune see the whole report, with the numbers, maps and cases of the test set."
    yield f"With fewer than {rules.min_test_patients} patients in the test set the verdict is INSUFFICIENT EVIDENCE."


def _thresholds(rules: PerformanceEvaluation) -> Iterable[str]:
    finding, reference, gain = rules.finding, rules.reference, rules.suspicious_gain
    yield (
        f"A finding is judged if at least {rules.min_positive_patients} patients have a positive image and "
        f"{rules.min_negative_patients} a negative one."
    )
    required = "all 14" if rules.required == FINDINGS else _list(rules.required)
    yield (
        f"Required findings: {required}. One that cannot be judged makes the verdict INSUFFICIENT EVIDENCE; any other "
        "is left out, and named."
    )
    yield _floor("The mean AUC (macro-AUC) over the findings that are judged", rules.macro.floor)
    yield _floor("The AUC of each of these findings", finding.floor)
    yield (
        f"The macro-AUC may lose at most {number(rules.macro.margin)} against the model in use, and against the "
        f"reference: the lower bound of the difference must lie above -{number(rules.macro.margin)}."
    )
    for margin in sorted({finding.margin_of(name) for name in FINDINGS}):
        names = [name for name in FINDINGS if finding.margin_of(name) == margin]
        yield f"{_list(names)} may {'each ' if len(names) > 1 else ''}lose at most {number(margin)}, likewise."
    if rules.sparse_failures is None:
        yield "The plan does not ask whether the challenger fails outright on patients whom the test set misses."
    else:
        named = rules.sparse_failures.named
        whose = "all findings" if named == FINDINGS else _list(named)
        yield (
            f"The margins of {whose} must hold as well if the challenger fails outright on some patients, of whom the "
            "test set may have shown few or none."
        )
    for composite in rules.composites:
        yield (
            f"{_list(composite.findings)} are judged together too, as {composite.name}: their mean AUC may lose at "
            f"most {number(composite.margin)}, likewise."
        )
    yield f"Shown at approval as judged by a wide margin: {_list(rules.limited_findings)}."
    yield (
        "A loss that is shown makes the verdict REJECT; so does a loss that a test set of this size should have ruled "
        "out, but did not. A doubt makes it INSUFFICIENT EVIDENCE, with the patients that would settle it."
    )
    first = "the first model that became champion" if reference.package is None else f"the package {reference.package}"
    later = (
        "rises to a champion whose macro-AUC is shown to be better"
        if reference.raise_on_superiority
        else "changes only with this plan"
    )
    yield f"The reference is {first}. It {later}."
    if gain is None:
        yield "A gain that looks too good is not held."
    else:
        yield (
            f"A macro-AUC that is shown to be better by more than {number(gain.gain)} is held until "
            f"{_people(gain.approvals)} agreed, after they looked for a leak of test patients into training."
        )


def _floor(what: str, floor: float | None) -> str:
    return f"{what} has no floor." if floor is None else f"{what} must lie above {number(floor)} by its lower bound."


def _subgroups(rules: PerformanceEvaluation) -> Iterable[str]:
    groups, screen = rules.subgroups, rules.harm_screen
    if groups is None:
        yield "No subgroup is judged, and none is screened for harm."
        return
    kinds = _list([" with ".join(name.split(", ")) for name in groups.attributes])
    yield f"In each subgroup by {kinds} the macro-AUC may lose at most {number(groups.margin)}."
    bands = [f"{low} to {high - 1}" for low, high in itertools.pairwise((0, *groups.age_bands))]
    yield f"Ages are grouped in bands, in years: {', '.join([*bands, f'{(0, *groups.age_bands)[-1]} and over'])}."
    yield (
        f"A subgroup with fewer than {_many(groups.min_findings, 'finding')} that can be judged is not judged, and "
        "named. Where no image says what a kind of subgroup asks for, the verdict is INSUFFICIENT EVIDENCE."
    )
    if screen is None:
        yield "Single findings in subgroups are not screened for harm."
    else:
        yield (
            "Every finding in every subgroup is screened for harm (Holm's correction, error "
            f"{percent(screen.error)}). A signal with a loss over {number(screen.loss)} is held until "
            f"{_people(screen.approvals)} agreed."
        )


def _declared(rules: PerformanceEvaluation) -> Iterable[str]:
    points, calibration = rules.operating_points, rules.calibration
    if points is None:
        yield "The plan asks for no sensitivity or specificity."
    else:
        chosen = (
            "has the largest sum of sensitivity and specificity"
            if points.target is None
            else f"has a {points.rule} of {number(points.target)}"
        )
        yield f"Each model's threshold for a finding is the one that {chosen} on the validation set."
        yield (
            f"Checked at it: {_list(points.findings)}. From {points.min_positive_patients} positive patients on, "
            f"sensitivity may lose at most {number(points.sensitivity_margin)} and specificity "
            f"{number(points.specificity_margin)}. The figures of other findings are reported and not judged."
        )
    flips = rules.harmful_flips
    if flips is not None:
        limits = [
            f"at most {percent(limit)} of the images {what}"
            for limit, what in (
                (flips.missed, "with it may be called by the champion and missed by the challenger"),
                (flips.alarmed, "without it may be called by the challenger alone"),
            )
            if limit is not None
        ]
        yield (
            f"What flips is checked at the same thresholds, from {flips.min_positive_patients} positive patients on, "
            f"of: {_list(flips.findings)}. Of each, {' and '.join(limits)}."
        )
    if rules.reliance is not None:
        yield _resting(rules.reliance)
    if rules.map_places is not None:
        yield _lying(rules.map_places)
    if rules.heat_maps is not None:
        yield _behaving(rules.heat_maps)
    if calibration is None:
        yield "The plan asks for no calibration."
    else:
        low, high = calibration.slope
        yield (
            f"Calibration is checked, after recalibration on the validation set, of: {_list(calibration.findings)}. "
            f"The slope's interval must lie between {number(low)} and {number(high)}, and the Brier score may rise by "
            f"at most {number(calibration.brier_margin)}."
        )


def _resting(reliance: Reliance) -> str:
    what = {
        "corners": "lose {} of AUC with the corners blurred",
        "outside": "lose {} with all blurred that is outside the thorax",
        "inside": "keep {} with the thorax blurred",
    }
    limits = [what[region].format(number(limit)) for region, limit in reliance.limits.items()]
    return (
        f"The test set is scored again with regions blurred. No judged finding may {' or '.join(limits)}: it is "
        "rejected where that is shown, and shown to be more than the champion's, at an error of "
        f"{percent(reliance.error)} over all (Holm)."
    )


def _lying(asked: MapPlaces) -> str:
    what = {
        "pointing": "the share of images whose heat map has its peak in an annotated box",
        "energy": "the share of a heat map that lies in the boxes",
        "overlap": "the share of images whose map's box overlaps an annotated one enough",
    }
    limits = [
        *(
            f"{what[name]} may lie at most {number(limit)} below the champion's"
            for name, limit in asked.margins.items()
        ),
        *(f"{what[name]} may not lie below {number(limit)}" for name, limit in asked.floors.items()),
    ]
    return (
        f"Of each judged finding with boxes of {asked.min_patients} patients of the test set, {'; '.join(limits)}. It "
        f"is rejected where the contrary is shown, at an error of {percent(asked.error)} over all (Holm). Enough is an "
        f"intersection over union of {number(asked.overlap_at)}."
    )


def _behaving(asked: HeatMaps) -> str:
    limits = [
        *([f"at most {number(asked.random)} with those of random weights"] if asked.random is not None else []),
        *(
            [f"no less than {number(asked.steady)} with those after a small move or change of contrast"]
            if asked.steady is not None
            else []
        ),
    ]
    return (
        f"Heat maps of {asked.images} images, one a patient, are made again, with {asked.draws} draws of random "
        f"weights. Their mean rank correlation must be {' and '.join(limits)}. The model is rejected where the "
        f"contrary is shown, at an error of {percent(asked.error)} over all (Holm)."
    )


_WATCHED: Final = {
    "inputs": "pictures and patients",
    "scores": "scores",
    "labels": "errors beyond what the gate saw, as labels come",
}


def _updates(plan: ChangePlan) -> Iterable[str]:
    updates = plan.modification_protocol.update_procedures
    yield updates.summary
    if updates.approvals == 0:
        yield "A PROMOTE is carried out without asking anybody."
    else:
        yield (
            f"A PROMOTE is carried out when {_people(updates.approvals)} agreed. The person who asked for the run does "
            "not count."
        )
    if updates.require_clean_code:
        where = f", and only from {updates.code_source}" if updates.code_source else ""
        yield f"Only committed code may be promoted{where}."
    else:
        yield "Code with uncommitted changes may be promoted."
    if updates.serving is not None:
        yield (
            "Before a promotion the model is served in fresh processes, and in the serving image where there is one. "
            f"On golden pictures its probabilities may differ by at most {updates.serving.tolerance:g} from the "
            f"evaluation's, and one answer may take {number(updates.serving.seconds)} s at the median."
        )
    yield updates.monitoring.summary
    days = _many(updates.monitoring.review_after_days, "day")
    yield f"The plan is read again by its owners after {days} at the latest."
    if (watch := updates.monitoring.watch) is not None:
        more = f", and beyond {watch.tolerance:g} more" if watch.tolerance else ""
        then = "tells people and starts a retraining" if watch.then == "retrain" else "tells people"
        yield (
            f"The model in use is watched each week: {', '.join(_WATCHED[kind] for kind in watch.kinds)}{more}. In a "
            f"year in which nothing changes, the chance of a false alarm is at most "
            f"{percent(watch.false_alarms_a_year)}. An alarm {then}; it promotes nothing."
        )


def markdown(sections: Sequence[Section]) -> str:
    """Write sections as Markdown, one paragraph an item."""
    lines: list[str] = []
    for section in sections:
        lines += [f"{'#' * section.level} {section.title}", ""]
        lines += [f"* {paragraph}" for paragraph in section.paragraphs]
        lines += [""] if section.paragraphs else []
    return "\n".join(lines)


def render(sections: Sequence[Section]) -> Group:
    """Make sections ready to be printed with rich."""
    from rich.console import Group
    from rich.padding import Padding
    from rich.text import Text

    parts: list[Text | Padding] = []
    for section in sections:
        parts.append(Text(f"\n{section.title}", "bold" if section.level < 3 else "italic"))
        parts += [Padding(Text(paragraph), (0, 0, 0, 2)) for paragraph in section.paragraphs]
    return Group(*parts)


# ------------------------------------------------------------------------------------------------------- diff


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one key was and is; `key` is its place in the plan, `name` how a person calls it.

    `direction`: `other` of words for people, `unordered` where neither plan asks for more in this; `why` says then why.
    """

    key: str
    name: str
    old: Any
    new: Any
    direction: Direction
    why: str = ""

    def __str__(self) -> str:
        moved = f"cannot be ordered: {self.why}" if self.direction == "unordered" else self.direction
        change = f"{self.name} {_value(self.old)} -> {_value(self.new)} ({moved})"
        return change if len(change) <= _LINE or self.why else f"{self.name}: other words ({moved})"


def diff(old: ChangePlan, new: ChangePlan) -> list[Change]:
    """What changed from one plan to the next, in the order of the plan, and whether it asks for less or for more."""
    before, after = _leaves(old), _leaves(new)
    all_required = old.performance.required == new.performance.required == FINDINGS
    changes: list[Change] = []
    for key in {**before, **after}:
        # A part that one plan lacks is one change, not one for each of its keys.
        if key not in before or key not in after or before[key] == after[key]:
            continue
        direction, why = _direction(key, before[key], after[key], all_required=all_required)
        changes.append(Change(key=key, name=_name(key), old=before[key], new=after[key], direction=direction, why=why))
    bounds = [plan.description_of_modifications.bounds for plan in (old, new)]
    for key in {**bounds[0].settings, **bounds[1].settings}:
        pair = [one.settings.get(key, one.other_settings) for one in bounds]
        if pair[0] != pair[1]:
            loosens, tightens = _covers(pair[1], pair[0]), _covers(pair[0], pair[1])
            if loosens and tightens:  # 3 and 3 to 3: other words for the same
                continue
            direction = "looser" if loosens else "stricter" if tightens else "unordered"
            why = "" if direction != "unordered" else _NEITHER
            place = f"description_of_modifications.bounds.settings.{key}"
            shown = [str(bound) if isinstance(bound, Bound) else f"not listed, {bound}" for bound in pair]
            changes.append(
                Change(key=place, name=f"bound of {key}", old=shown[0], new=shown[1], direction=direction, why=why)
            )
    return changes


def _covers(outer: Bound | str, inner: Bound | str) -> bool:
    """Whether all that one bound allows the other allows too; a setting that is not listed is `free` or `none`."""
    if outer == "free" or inner == "none":
        return True
    if isinstance(outer, str) or isinstance(inner, str) or (inner.or_unset and not outer.or_unset):
        return False
    if inner.range is not None and inner.range[0] == inner.range[1]:
        return outer.allows(inner.range[0])
    if inner.range is not None:
        return outer.range is not None and outer.range[0] <= inner.range[0] and inner.range[1] <= outer.range[1]
    return all(outer.allows(value) for value in (inner.one_of or (inner.equals,)))


_RULES: Final = "modification_protocol.performance_evaluation."
_SETTINGS: Final = "description_of_modifications.bounds.settings"
_COMPOSITES: Final = f"{_RULES}composites"


def _leaves(plan: ChangePlan) -> dict[str, Any]:
    """Every key with its value, but for the bounds of settings; each finding's margin and whether a part is there."""
    leaves: dict[str, Any] = {}

    def walk(values: Mapping[str, Any], place: str) -> None:
        for name, value in values.items():
            key = place + name
            if key in _PARTS:
                leaves[key] = value is not None
            elif not isinstance(value, dict):
                leaves[key] = value
            if isinstance(value, dict) and key != _SETTINGS:
                walk(value, f"{key}.")

    document = plan.model_dump(mode="json")
    finding = plan.performance.finding
    document["modification_protocol"]["performance_evaluation"] |= {
        "required_findings": list(plan.performance.required),
        "finding": {"floor": finding.floor, "margin": {name: finding.margin_of(name) for name in FINDINGS}},
        "composites": [composite.name for composite in plan.performance.composites],
    }
    if (sparse := plan.performance.sparse_failures) is not None:
        document["modification_protocol"]["performance_evaluation"]["sparse_failures"] = {
            "findings": list(sparse.named)
        }
    walk(document, "")
    for composite in plan.performance.composites:
        leaves[f"{_COMPOSITES}.{composite.name}.findings"] = list(composite.findings)
        leaves[f"{_COMPOSITES}.{composite.name}.margin"] = composite.margin
    return leaves


def _name(key: str) -> str:
    for prefix in (_RULES, "description_of_modifications.", "modification_protocol."):
        key = key.removeprefix(prefix)
    words = key.split(".")
    findings = [word for word in words if word in FINDINGS]  # their names keep the underscore
    return " ".join([*(word.replace("_", " ") for word in words if word not in FINDINGS), *findings])


# Which way a plan moves when the value of a key grows. A key that is not here is words, or has no such order.
_GROWS: Final[Mapping[str, Direction]] = {
    "description_of_modifications.bounds.sources": "looser",
    "description_of_modifications.bounds.other_settings": "looser",
    "modification_protocol.update_procedures.approvals": "stricter",
    "modification_protocol.update_procedures.require_clean_code": "stricter",
    "modification_protocol.update_procedures.monitoring.review_after_days": "looser",
    "modification_protocol.update_procedures.monitoring.watch": "stricter",
    "modification_protocol.update_procedures.monitoring.watch.kinds": "stricter",
    "modification_protocol.update_procedures.monitoring.watch.tolerance": "looser",
    "modification_protocol.update_procedures.serving": "stricter",
    "modification_protocol.update_procedures.serving.tolerance": "looser",
    "modification_protocol.update_procedures.serving.seconds": "looser",
    f"{_RULES}alpha": "looser",
    f"{_RULES}max_looks": "looser",
    f"{_RULES}period_alpha": "looser",
    f"{_RULES}disclosure": "looser",
    f"{_RULES}min_test_patients": "stricter",
    f"{_RULES}required_findings": "stricter",
    f"{_RULES}limited_findings": "stricter",
    f"{_RULES}macro.floor": "stricter",
    f"{_RULES}macro.margin": "looser",
    f"{_RULES}finding.floor": "stricter",
    **dict.fromkeys([f"{_RULES}finding.margin.{finding}" for finding in FINDINGS], "looser"),
    f"{_RULES}sparse_failures": "stricter",
    f"{_RULES}sparse_failures.findings": "stricter",
    _COMPOSITES: "stricter",
    f"{_RULES}subgroups": "stricter",
    f"{_RULES}subgroups.attributes": "stricter",
    f"{_RULES}subgroups.margin": "looser",
    f"{_RULES}subgroups.min_findings": "looser",
    f"{_RULES}harm_screen": "stricter",
    f"{_RULES}harm_screen.error": "stricter",
    f"{_RULES}harm_screen.loss": "looser",
    f"{_RULES}harm_screen.approvals": "stricter",
    f"{_RULES}suspicious_gain": "stricter",
    f"{_RULES}suspicious_gain.gain": "looser",
    f"{_RULES}suspicious_gain.approvals": "stricter",
    f"{_RULES}operating_points": "stricter",
    f"{_RULES}operating_points.findings": "stricter",
    f"{_RULES}operating_points.sensitivity_margin": "looser",
    f"{_RULES}operating_points.specificity_margin": "looser",
    f"{_RULES}operating_points.min_positive_patients": "looser",
    f"{_RULES}harmful_flips": "stricter",
    f"{_RULES}harmful_flips.findings": "stricter",
    f"{_RULES}harmful_flips.missed": "looser",
    f"{_RULES}harmful_flips.alarmed": "looser",
    f"{_RULES}harmful_flips.min_positive_patients": "looser",
    f"{_RULES}reliance": "stricter",
    f"{_RULES}reliance.corners": "looser",
    f"{_RULES}reliance.outside": "looser",
    f"{_RULES}reliance.remains": "looser",
    f"{_RULES}reliance.error": "stricter",
    f"{_RULES}map_places": "stricter",
    **dict.fromkeys([f"{_RULES}map_places.{name}_margin" for name in ("pointing", "energy", "overlap")], "looser"),
    **dict.fromkeys([f"{_RULES}map_places.{name}_floor" for name in ("pointing", "energy", "overlap")], "stricter"),
    f"{_RULES}map_places.min_patients": "looser",
    f"{_RULES}map_places.error": "stricter",
    f"{_RULES}heat_maps": "stricter",
    f"{_RULES}heat_maps.random": "looser",
    f"{_RULES}heat_maps.steady": "stricter",
    f"{_RULES}heat_maps.images": "stricter",
    f"{_RULES}heat_maps.draws": "stricter",
    f"{_RULES}heat_maps.error": "stricter",
    f"{_RULES}calibration": "stricter",
    f"{_RULES}calibration.findings": "stricter",
    f"{_RULES}calibration.slope": "looser",
    f"{_RULES}calibration.brier_margin": "looser",
}
# Parts that a plan can leave out.
_PARTS: Final = (
    "modification_protocol.update_procedures.monitoring.watch",
    "modification_protocol.update_procedures.serving",
    *(
        f"{_RULES}{name}"
        for name in (
            "sparse_failures",
            "subgroups",
            "harm_screen",
            "suspicious_gain",
            "operating_points",
            "harmful_flips",
            "reliance",
            "map_places",
            "heat_maps",
            "calibration",
        )
    ),
)
# Fewer patients for a finding to be judged: less is asked for where every finding is required.
_LEAST: Final = (f"{_RULES}min_positive_patients", f"{_RULES}min_negative_patients")
_NEITHER: Final = "neither allows all that the other does"
# Why a change of these has no direction. What is neither here nor above is words.
_UNORDERED: Final[Mapping[str, str]] = {
    "clinical_use": "it says what the models are for",
    "description_of_modifications.bounds.architecture": "it is another network",
    "modification_protocol.update_procedures.code_source": "it is another branch of code",
    "modification_protocol.update_procedures.monitoring.watch.false_alarms_a_year": "a lower rate finds changes later",
    "modification_protocol.update_procedures.monitoring.watch.then": "both tell people, and neither promotes",
    f"{_RULES}looks.method": "recycled looks begin with more to spend, have less after failures, and keep their bound "
    "against teams that react to verdicts; equal looks do not",
    f"{_RULES}looks.success_weight": "the more a look spends, the less there is after a failure",
    f"{_RULES}alpha": "what a recycled look may spend follows from the ledger",
    f"{_RULES}reference.package": "it is another model to be held against",
    f"{_RULES}reference.raise_on_superiority": "a reference that rises is better in the mean alone",
    f"{_RULES}subgroups.age_bands": "they are other groups",
    f"{_RULES}subgroups.own_attributes": "they are other groups",
    f"{_RULES}map_places.overlap_at": "it is another figure",
    f"{_RULES}operating_points.rule": "it is another threshold",
    f"{_RULES}operating_points.target": "it is another threshold",
    **dict.fromkeys(
        _LEAST,
        "from that many patients on, findings that are required may pass, and others, which fewer patients leave out, "
        "must pass",
    ),
}
_WORDS: Final = {"none": 0.0, "free": 1.0, "promotion": 0.0, "verdict": 1.0, "all": 2.0}


def _direction(key: str, old: Any, new: Any, *, all_required: bool) -> tuple[Direction, str]:
    """Which way a change goes, and why it goes neither way."""
    grows: Direction | None = _GROWS.get(key)
    if key in _LEAST and all_required:
        grows = "stricter"
    if key.startswith(f"{_COMPOSITES}."):
        if key.endswith(".findings"):
            return "unordered", "it is the mean of other findings"
        grows = "looser"
    if key in _UNORDERED and (grows is None or None in (old, new)):
        return "unordered", _UNORDERED[key]
    if grows is None:
        return "other", ""
    up, down = _at_most(old, new, key), _at_most(new, old, key)
    if up == down:
        return "unordered", "neither holds all of the other"
    return (grows if up else "stricter" if grows == "looser" else "looser"), ""


def _at_most(small: Any, large: Any, key: str) -> bool:
    """Whether a value is no more than another: a number, a list that the other holds, an interval inside the other."""
    if key.endswith("slope"):
        return bool(large[0] <= small[0] and small[1] <= large[1])
    if isinstance(small, list) or isinstance(large, list):
        return large == "any" or (small != "any" and set(small) <= set(large))
    return _size(small, key) <= _size(large, key)


def _size(value: Any, key: str) -> float:
    """A number to compare: no floor is the lowest floor, no limit on an error or a figure is the highest one."""
    if value is None:
        no_limit = "reliance." in key or key.endswith(
            ("period_alpha", "harmful_flips.missed", "harmful_flips.alarmed", "_margin", "heat_maps.random")
        )
        return math.inf if no_limit else -math.inf
    return _WORDS[value] if isinstance(value, str) else float(value)


def _value(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "yes" if value else "no"
        case float():
            return number(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
        case dict():
            return "; ".join(f"{name}: {_value(inner)}" for name, inner in value.items())
        case _:
            return str(value)


# ------------------------------------------------------------------------------------------------------ power


def power_table(power: Power) -> Table:
    """Make a table of what each check is expected to show, to be printed with rich."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    table.add_column("check", no_wrap=True)
    for name in ("limit", "SE", "met", "patients", *(f"for {target:g}" for target in TARGETS)):
        table.add_column(name, justify="right", no_wrap=True)
    for check in power.checks:
        of = check.finding or check.subgroup or "macro-AUC"
        against = " (reference)" if check.against == "reference" else ""
        table.add_row(
            f"{check.kind} {of}{against}",
            number(check.limit),
            f"{check.se:.4f}",
            f"{check.probability:.3f}",
            f"{check.patients}{'' if check.counted == 'patients' else ' ' + check.counted[:3]}",
            *("never" if needed is None else str(needed) for needed in check.needed),
        )
    return table


def power_summary(rules: PerformanceEvaluation, power: Power) -> list[str]:
    """What a look is expected to come to, in sentences."""
    lines = [f"stops every release: {what}" for what in power.blocked]
    lines += [f"not judged: {what}" for what in power.not_judged]
    points, calibration = rules.operating_points, rules.calibration
    if calibration is not None and calibration.findings:
        lines.append(f"not among these figures: calibration of {_list(calibration.findings)}")
    if rules.harmful_flips is not None:
        lines.append(f"not among these figures: what flips of {_list(rules.harmful_flips.findings)}")
    if rules.reliance is not None:
        lines.append("not among these figures: what scores rest on outside of the thorax")
    if rules.map_places is not None:
        lines.append("not among these figures: where heat maps lie")
    if rules.heat_maps is not None:
        lines.append("not among these figures: how alike heat maps are")
    if points is not None and points.findings:
        lines.append("thresholds are taken as given; choosing them on a validation set makes these errors larger")
    if power.blocked:
        return [*lines, "all checks met at one look: never, with these patients"]
    first = "one" if rules.looks.method == "equal" else "the first"
    lines.append(f"all checks met at {first} look: {power.all_met:.2f} (at least {power.at_least:.2f}, Bonferroni)")
    if power.binding is not None:
        check = power.checks[power.binding]
        of = check.finding or check.subgroup or "macro-AUC"
        lines.append(f"the check that binds: {check.kind} {of}, met with {check.probability:.3f}")
    for look in power.looks[1:]:
        lines.append(
            f"  {_past(look.history):<40}{percent(float(f'{look.level:.3g}')):>10} to spend: {look.all_met:.2f}"
        )
    if len(power.by_look) > 1:
        shares = ", ".join(f"{share:.3f} by look {number}" for number, share in enumerate(power.by_look, 1))
        lines.append(f"promoted, if looks were independent: {shares}")
    return lines


def _past(history: str) -> str:
    """A history in words.

    >>> _past("f"), _past("pf"), _past("ppp")
    ('after a failure', 'after a promotion and a failure', 'after 3 promotions')
    """
    counts = [(history.count("p"), "promotion"), (history.count("f"), "failure")]
    return "after " + " and ".join(f"a {kind}" if count == 1 else _many(count, kind) for count, kind in counts if count)


# ------------------------------------------------------------------------------------------------------ words


def number(value: float) -> str:
    """Write a margin with two decimals, or with as many as it needs.

    >>> number(0.1), number(0.005), number(-0.03)
    ('0.10', '0.005', '-0.03')
    """
    return f"{value:.2f}" if round(value, 2) == value else f"{value:g}"


def percent(share: float) -> str:
    """Write a share in percent.

    >>> percent(0.005)
    '0.5 %'
    """
    return f"{100 * share:g} %"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"


def _people(count: int) -> str:
    return "one person has" if count == 1 else f"{count} persons have"


def _list(names: Sequence[str]) -> str:
    if not names:
        return "none"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
