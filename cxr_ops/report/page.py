"""The report as HTML: what was decided, on what evidence, and how an outsider can check it.

There are two pages. The report is for those who approve and audit. The summary is for those who tune while the test
period is open: it is made from the record `Summary`, which has no field for a result on the test set.

A page needs no network and no other file. The report has a script of a few lines, for the sliders of its pictures, and
is whole without it. It holds no clock, host, path or run id, so that equal inputs
give equal bytes, and no patient or image id: cases are named by the digest of their file. Every text goes through
Jinja2's autoescape; the figures alone are inserted as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from cxr_ops.labels import FINDINGS
from cxr_ops.records.data import data_notice
from cxr_ops.records.evidence import (
    Estimate,
    Evaluation,
    Evidence,
    Fallen,
    Figure,
    FindingEvidence,
    Flip,
    Performance,
)
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.report import Characteristics, Flow, Guideline, Predictive, Report, SettingChange, Summary, Told
from cxr_ops.records.verdict import Check, Verdict
from cxr_ops.report import cases, figures, guidelines, words
from cxr_ops.report import flow as flows
from cxr_ops.report.figures import MODELS, Model
from cxr_ops.report.standards import standard_of
from cxr_ops.report.words import NOT_EVALUABLE
from cxr_ops.stats import heat_maps
from cxr_ops.stats.checks import Role, difference, falls, macro_difference
from cxr_ops.stats.codes import HOLDS, Code
from cxr_ops.stats.predictive import predictive_values

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# `publish` puts links, approvals and timings after this comment, which stands right behind the skip link: that is the
# first that the keyboard reaches.
PUBLISHED_MARK: Final = "<!-- cxr:published -->"
# Where publishing puts the verdict into the summary, as far as the plans of then tell it.
TOLD_MARK: Final = "<!-- cxr:told -->"
# What these say of a run is about its settings and its data, not about how it did on the test set.
_OF_SETTINGS: Final = frozenset({Code.OUTSIDE_PLAN, Code.UNKNOWN_WEIGHTS})

# Inches of the first figure on a screen or sheet, and on a phone.
WIDE: Final = 7.6
NARROW: Final = 4.2

# Model -> finding -> (false positive rates, true positive rates).
Curves = Mapping[Model, Mapping[str, tuple[figures.Floats, figures.Floats]]]


@dataclass(frozen=True, kw_only=True)
class BatchRow:
    """One ingested batch."""

    name: str
    images: int
    patients: int
    digest: str


@dataclass(frozen=True, kw_only=True)
class SplitRow:
    """One side of the split; `positives` maps each finding to its positive images."""

    name: str
    images: int
    patients: int
    positives: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class History:
    """The curves of a training, one value an epoch; `kept` is the epoch whose weights are in the package."""

    epochs: Sequence[int]
    train_loss: Sequence[float]
    validation_loss: Sequence[float]
    validation_auc: Sequence[float]  # NaN where undefined
    kept: int | None
    ended: str


@dataclass(frozen=True, kw_only=True)
class Proof:
    """A digest, and the command that gives it again in a checkout of the run's commit."""

    what: str
    digest: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that the page shows, read and checked.

    Attributes:
        title: heading of the page.
        verdict: what the gate decided.
        evaluation: the evidence.
        inputs: what the run was opened with.
        batches: the data.
        checks: what validation looked at: (name, outcome in words).
        split: train, validation, test.
        history: the training's curves.
        training: facts of the training: (name, value).
        model: the model's contract: (name, value).
        curves: model -> finding -> (false positive rates, true positive rates).
        explanation: the explained cases, in the order in which they are shown.
        pictures: name of a case's picture -> bytes of a PNG.
        proofs: digests and how to check them.
        flow: how images come from batches to the sides of the split.
        characteristics: who the patients of each side are.
        changes: settings that challenger and champion were made with differently; None where the champion does not say
            what it was made with, or where there is none.
        prevalences: at which predictive values are given, besides that of the scored images; each in (0, 1).
        missing: sentences on what is only shown and could not be read.
    """

    title: str
    verdict: Verdict
    evaluation: Evaluation
    inputs: Inputs
    batches: Sequence[BatchRow]
    checks: Sequence[tuple[str, str]]
    split: Sequence[SplitRow]
    history: History
    training: Sequence[tuple[str, str]]
    model: Sequence[tuple[str, str]]
    curves: Curves
    explanation: Explanation
    pictures: dict[str, bytes]
    proofs: Sequence[Proof]
    flow: Flow
    characteristics: Sequence[Characteristics]
    changes: Sequence[SettingChange] | None
    prevalences: Sequence[float]
    missing: Sequence[str] = ()

    @cached_property
    def faults(self) -> dict[str, str]:
        """What is wrong with the pictures of cases; see `cases.unshown`."""
        return cases.unshown(self.explanation, self.pictures)


def summary_document(material: Material) -> Summary:
    """Take from a run what people who tune may see, which is the summary for machines too.

    How the run ended is told by the published page, which knows the plans of then and whether the model was promoted.
    """
    verdict, evaluation, inputs = material.verdict, material.evaluation, material.inputs
    macros = evaluation.validation_macro
    digests = {"Challenger's package": evaluation.challenger}
    if inputs.champion.package is not None:
        digests["Champion's package"] = inputs.champion.package
    if inputs.reference is not None:
        digests["Reference's package"] = inputs.reference.package
    digests |= {
        f"Plan {verdict.plan.name}": verdict.plan.sha256,
        "Test set": evaluation.test_digest,
        "Data revision": inputs.data.revision,
        **{f"Batch {name}": digest for name, digest in sorted(inputs.data.batches.items())},
        **{f"Event {name}": digest for name, digest in sorted(inputs.data.events.items())},
        "Code": inputs.code.commit,
    }
    return Summary(
        title=material.title,
        plan=verdict.plan,
        clinical_use=verdict.clinical_use,
        notice=_notice(verdict),
        data_notice=_data_notice(material),
        other_plan=_other_plan(verdict),
        unscored=_unscored(evaluation),
        period=words.period_text(verdict),
        validation_macro={model: macros[model] for model in MODELS if model in macros},
        facts=evaluation.facts,
        training=dict(material.training),
        model=dict(material.model),
        digests=digests,
    )


def render(material: Material) -> str:
    """Write the report.

    Raises:
        ValueError: the evidence does not name the 14 findings in their order.
    """
    evaluation, verdict = material.evaluation, material.verdict
    found = tuple(one.finding for one in evaluation.findings)
    if found != FINDINGS:
        raise ValueError(f"the evidence names {', '.join(found) or 'nothing'}, not the 14 findings in their order")
    gallery, left_out = cases.gallery(material.explanation, material.pictures, material.faults)
    reasons = words.in_order(verdict.reasons)
    return fill(
        "report.html.j2",
        m=material,
        against=words.compared_with(evaluation),
        top=tell(material),
        standards=[(source, standard_of(source)) for source in _sources(material)],
        predictive=predictive(evaluation, material.prevalences),
        guidelines=asked(material),
        characters={
            "sexes": sorted(
                {sex for side in material.characteristics for sex in side.sexes}, key=lambda sex: (not sex, sex)
            ),
            "views": sorted({view for side in material.characteristics for view in side.views}),
        },
        intended_use=dict(material.model).get("intended_use", "The model's contract does not say what it is for."),
        level=_level(evaluation),
        drawings=draw(material),
        holds=[reason for reason in reasons if reason.code in HOLDS],
        reasons=[reason for reason in reasons if reason.code not in HOLDS],
        harmed={(r.subgroup, r.finding) for r in reasons if r.code == Code.HARM_SIGNAL},
        of_settings=[reason for reason in reasons if reason.code in _OF_SETTINGS],
        subgroup_checks=_subgroup_checks(verdict),
        undefined=words.undefined_figures(evaluation),
        undefined_elsewhere=list(words.undefined_elsewhere(evaluation)),
        gallery=gallery,
        left_out=left_out,
        levels=cases.levels(material.explanation),
        overlaps=[*evaluation.localization[0].overlap] if evaluation.localization else [],
        random_steps=heat_maps.STEPS,
        findings=FINDINGS,
        fell=_fell(evaluation),
    )


@dataclass(frozen=True, kw_only=True)
class Fell:
    """How the ranks of a finding's positive patients fell against an earlier model."""

    finding: str
    against: Role
    patients: int
    outright: int
    listed: Sequence[Fallen]


def _fell(evaluation: Evaluation) -> list[Fell]:
    """Each finding of which patients are listed, or some fell by more than half of all ranks."""
    found: list[Fell] = []
    for one in evaluation.findings:
        for role in words.compared_with(evaluation):
            seen = falls(one, role)
            if seen is not None and (seen.patients or seen.positive.fallen_patients):
                patients, outright = one.support.positive_patients, seen.positive.fallen_patients
                found.append(
                    Fell(finding=one.finding, against=role, patients=patients, outright=outright, listed=seen.patients)
                )
    return found


def tell(material: Material) -> Told:
    """Write the sentences of a report's top."""
    verdict, evaluation = material.verdict, material.evaluation
    signals = {(reason.subgroup, reason.finding) for reason in verdict.reasons if reason.code == Code.HARM_SIGNAL}
    return Told(
        headline=words.headline(evaluation, len(signals)),
        outcome=words.outcome_sentence(verdict),
        notice=_notice(verdict),
        data_notice=_data_notice(material),
        other_plan=_other_plan(verdict),
        unscored=_unscored(evaluation),
        missing=[*material.missing, *material.faults.values()],
    )


def predictive(evaluation: Evaluation, stated: Sequence[float]) -> list[Predictive]:
    """The challenger's predictive values: of each finding at the scored images' prevalence, and at those stated.

    Args:
        evaluation: the evidence.
        stated: prevalences in (0, 1).
    """
    found: list[Predictive] = []
    for one in evaluation.performance:
        images = one.support.positives + one.support.negatives
        own = one.support.positives / images if images else 0.0
        for prevalence in (own, *stated):
            if not 0.0 < prevalence < 1.0:
                continue  # no image with the finding, or none without it: its sensitivity or specificity says why
            positive, negative = predictive_values(one.sensitivity.challenger, one.specificity.challenger, prevalence)
            found.append(
                Predictive(
                    finding=one.finding,
                    prevalence=prevalence,
                    origin="scored" if prevalence is own else "stated",
                    positive=positive,
                    negative=negative,
                )
            )
    return found


def asked(material: Material) -> list[Guideline]:
    """What guidelines ask the report for, filled from the run's records."""
    return guidelines.fill(
        guidelines.answers(
            material.verdict,
            material.evaluation,
            material.inputs,
            material.explanation,
            material.flow,
            dict(material.model),
            kept_epoch=material.history.kept,
        )
    )


def document(material: Material) -> Report:
    """Write the report for machines."""
    return Report(
        title=material.title,
        told=tell(material),
        verdict=material.verdict,
        evaluation=material.evaluation,
        inputs=material.inputs,
        flow=material.flow,
        characteristics=list(material.characteristics),
        positives={side.name: side.positives for side in material.split},
        changes=None if material.changes is None else list(material.changes),
        predictive=predictive(material.evaluation, material.prevalences),
        training=dict(material.training),
        model=dict(material.model),
        explanation=material.explanation,
        guidelines=asked(material),
        digests={proof.what: proof.digest for proof in material.proofs},
    )


def render_summary(material: Material) -> str:
    """Write the page for people who tune: of results it is given the summary alone, and the training's curves."""
    shown = summary_document(material)
    return fill("summary.html.j2", m=shown, history=material.history, curves=draw_training(material.history))


def fill(template: str, **values: Any) -> str:
    """Fill a template of this package's with values; figures and tables get the filters and words of the report."""
    text: str = _environment().get_template(template).render(mark=PUBLISHED_MARK, told=TOLD_MARK, **values)
    return text


@cache
def _environment() -> Environment:
    """The templates, compiled once a process."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "figure": lambda *given: _aside(words.figure_text(*given)),
        "difference": lambda *given: _aside(words.difference_text(*given)),
        "check": words.check_text,
        "prose": words.prose,
        "group": words.group_text,
        "percent": words.percent_text,
        "sex": words.sex_text,
        "claim": words.claim_text,
        "spaced": lambda name: name.replace("_", " "),
        "short": lambda digest: digest[:12],
        "count": words.count_text,
        "peak": words.peak_sentence,
        "seen": words.seen_sentence,
        "facts": words.facts,
        "change": words.change_sentence,
        "parts": words.parts_sentences,
        "patients": words.starting_patients,
    }
    environment.globals |= {
        "minus": difference,
        "macro_minus": macro_difference,
        "checks_sentence": words.checks_sentence,
        "period_text": words.period_text,
    }
    return environment


def _aside(text: str) -> Markup:
    """Mark the interval, which wide tables set below its value."""
    from markupsafe import Markup

    value, opened, interval = text.partition(" (")
    return Markup("{} <small>({}</small>").format(value, interval) if opened else Markup("{}").format(text)


def draw(material: Material) -> dict[str, str]:
    """Draw the report's figures: name -> SVG. `lead` is the first that a reader sees, `narrow` the same for a phone."""
    evaluation, checks = material.evaluation, material.verdict.checks
    drawings = {
        "roc": draw_roc(evaluation, material.curves),
        "flow": flows.draw(material.flow),
        "training": draw_training(material.history),
    }
    auc = draw_auc(evaluation, checks, name="auc")
    lead = draw_differences if words.compared_with(evaluation) else draw_auc
    drawings["narrow"] = lead(evaluation, checks, name="narrow", width=NARROW)
    if words.compared_with(evaluation):
        drawings |= {"lead": draw_differences(evaluation, checks, name="difference"), "auc": auc}
    else:
        drawings["lead"] = auc
    if evaluation.performance:
        drawings["reliability"] = draw_reliability(evaluation.performance)
    if any(one.flips is not None for one in evaluation.performance):
        drawings["flips"] = draw_flips(evaluation.performance)
    return drawings


def draw_differences(evaluation: Evaluation, checks: Sequence[Check], *, name: str, width: float = WIDE) -> str:
    """Draw challenger minus champion, and minus reference: the mean, each finding, the mean in each subgroup.

    Args:
        evaluation: the evidence; it must hold a comparison.
        checks: whose limits are drawn as margins.
        name: of the figure.
        width: of the figure, in inches.
    """
    against = words.compared_with(evaluation)
    mean = macro_difference(evaluation, against[0])
    said = f"The mean over findings: {words.difference_text(mean)} against the {against[0]}. "
    groups = _groups(
        evaluation,
        mean=lambda one: [macro_difference(one, model) for model in against],
        single=lambda one: [difference(one, model) for model in against],
        limits=_limits(checks, "margin"),
    )
    return figures.forest(
        name,
        groups,
        [figures.Series(name=model, label=f"Challenger minus {model}") for model in against],
        title=f"Difference in AUC from {' and '.join(against)}",
        description=said + "Differences with patient-clustered intervals for the mean, each finding and each subgroup, "
        "with the margin of the plan, which is held against a one-sided bound; the tables of findings and of subgroups "
        "hold the same intervals, that of the checks the bounds.",
        axis="Difference in AUC (right of 0: the challenger is better)",
        neutral=0.0,
        limit_label="Margin of the plan",
        undefined=NOT_EVALUABLE,
        width=width,
    )


def draw_auc(evaluation: Evaluation, checks: Sequence[Check], *, name: str, width: float = WIDE) -> str:
    """Draw the AUC of each model, in the same rows as `draw_differences` and with the same arguments."""
    models = [model for model in MODELS if model == "challenger" or model in words.compared_with(evaluation)]
    said = f"The mean over findings: {words.figure_text(evaluation.macro_challenger)} for the challenger. "
    groups = _groups(
        evaluation,
        mean=lambda one: [_macro(one, model) for model in models],
        single=lambda one: [_auc(one, model) for model in models],
        limits=_limits(checks, "floor"),
    )
    return figures.forest(
        name,
        groups,
        [figures.Series(name=model, label=model.capitalize()) for model in models],
        title=f"AUC of {' and '.join(models)}",
        description=said + "AUCs with patient-clustered intervals for the mean, each finding and each subgroup, with "
        "the floor of the plan; the tables of findings and of subgroups hold the same numbers.",
        axis="AUC on the locked test set",
        neutral=0.5,
        limit_label="Floor of the plan",
        undefined=NOT_EVALUABLE,
        width=width,
    )


def draw_roc(evaluation: Evaluation, curves: Curves) -> str:
    """Draw the ROC curves of each finding that can be judged, with the AUCs as text."""
    models = [model for model in MODELS if any(_auc(one, model) is not None for one in evaluation.findings)]
    return figures.curve_grid(
        "roc",
        [
            figures.Panel(
                finding=one.finding,
                note=_note({model: _auc(one, model) for model in models}),
                curves=_curves_of(one, curves),
            )
            for one in evaluation.findings
        ],
        x_label="False positive rate",
        y_label="True positive rate",
        title="ROC curves",
        description="One panel for each finding: true positive rate against false positive rate of "
        f"{' and '.join(models)}.",
    )


def draw_reliability(performance: Sequence[Performance]) -> str:
    """Draw how often a finding is there among images of similar recalibrated probability, one panel a finding."""
    panels = []
    for one in performance:
        curves = {
            model: (
                np.array([point.predicted for point in one.reliability[model]], dtype=np.float64),
                np.array([point.observed for point in one.reliability[model]], dtype=np.float64),
            )
            for model in MODELS
            if one.reliability.get(model)
        }
        ends = [end for curve in curves.values() for axis in curve for end in axis.tolist()]
        panels.append(
            figures.Panel(
                finding=one.finding,
                note="" if curves else NOT_EVALUABLE,
                curves=curves,
                limit=next(limit for limit in (0.02, 0.05, 0.1, 0.2, 0.5, 1.0) if limit >= max(ends, default=1.0)),
            )
        )
    return figures.curve_grid(
        "reliability",
        panels,
        x_label="Probability, recalibrated on the validation set",
        y_label="Share of images with the finding",
        title="Reliability curves",
        description="One panel for each finding: the share of images that have it against their mean probability, in "
        "groups of similar probability. On the diagonal, probabilities are what they say. The axes' ends differ.",
        points=True,
    )


def draw_flips(performance: Sequence[Performance]) -> str:
    """Draw for each finding the images that champion and challenger call differently."""

    def pair(worse: Flip, better: Flip) -> tuple[figures.Interval, figures.Interval] | None:
        if not isinstance(worse.share, Estimate) or not isinstance(better.share, Estimate):
            return None
        return (worse.share.value, *worse.share.ci), (better.share.value, *better.share.ci)

    rows = [
        figures.FlipRow(
            finding=one.finding,
            with_finding=None if one.flips is None else pair(one.flips.missed, one.flips.found),
            without=None if one.flips is None else pair(one.flips.alarmed, one.flips.cleared),
        )
        for one in performance
    ]
    return figures.flips(
        "flips",
        rows,
        title="Images that champion and challenger call differently",
        description="For each finding, the share of images that only one of champion and challenger calls rightly, "
        "each at its own threshold, with patient-clustered intervals. To the left the challenger is wrong, to the "
        "right the champion. The table below has the numbers.",
    )


def draw_training(history: History) -> str:
    """Draw the training's curves, which show training and validation patients only."""
    return figures.training_curves(
        "training",
        np.asarray(history.epochs, dtype=np.float64),
        np.asarray(history.train_loss, dtype=np.float64),
        np.asarray(history.validation_loss, dtype=np.float64),
        np.asarray(history.validation_auc, dtype=np.float64),
        kept=history.kept,
        title="Training curves",
        description="Left: loss on training and validation patients by epoch. Right: mean AUC on validation "
        "patients. The vertical line marks the epoch whose weights were kept.",
    )


def _data_notice(material: Material) -> str:
    facts = material.evaluation.facts
    return data_notice(facts.sources if facts else (), material.inputs.data.batches)


def _sources(material: Material) -> list[str]:
    facts = material.evaluation.facts
    return [] if facts is None else list(facts.sources)


def _other_plan(verdict: Verdict) -> str:
    return words.other_plan(verdict.plan, verdict.other_plan) if verdict.other_plan is not None else ""


def _unscored(evaluation: Evaluation) -> str:
    if evaluation.scored == "test":
        return ""
    return (
        "No look at the test set is on the ledger, so it was not scored. Every figure is of the validation set, also "
        "where this page says test, and the training was chosen by that set. Nothing can be promoted by it."
    )


def _notice(verdict: Verdict) -> str:
    return verdict.notice.replace("Not for clinical use.", "").strip()  # the banner says so


def _auc(one: FindingEvidence, model: Model) -> Figure | None:
    return {"challenger": one.challenger, "champion": one.champion, "reference": one.reference}[model]


def _macro(one: Evidence, model: Model) -> Figure | None:
    means = (one.macro_challenger, one.macro_champion, one.macro_reference)
    return dict(zip(MODELS, means, strict=True))[model]


def _groups(
    evaluation: Evaluation,
    *,
    mean: Callable[[Evidence], list[Figure | None]],
    single: Callable[[FindingEvidence], list[Figure | None]],
    limits: dict[tuple[str | None, str | None], float | None],
) -> list[figures.Group]:
    """Rows of a forest plot; limits: (subgroup, finding) -> where the plan's floor or margin stands."""

    def row(label: str, support: int, found: list[Figure | None], limit: float | None) -> figures.Row:
        intervals = [(one.value, *one.ci) if isinstance(one, Estimate) else None for one in found]
        return figures.Row(label=label, support=words.count_text(support), intervals=intervals, limit=limit)

    whole = row("All patients", evaluation.test_patients, mean(evaluation), limits.get((None, None)))
    by_finding = [
        row(
            one.finding.replace("_", " "),
            one.support.positive_patients,
            single(one),
            limits.get((None, one.finding)),
        )
        for one in evaluation.findings
    ]
    groups = [
        figures.Group(heading="Mean over findings", support="patients", rows=[whole]),
        figures.Group(heading="Findings", support="positive patients", rows=by_finding),
    ]
    if evaluation.subgroups:
        rows = [
            row(words.group_text(one.name), one.patients, mean(one), limits.get((one.name, None)))
            for one in evaluation.subgroups
        ]
        groups.append(figures.Group(heading="Mean, in subgroups", support="patients", rows=rows))
    return groups


def _limits(checks: Sequence[Check], kind: str) -> dict[tuple[str | None, str | None], float | None]:
    return {(check.subgroup, check.finding): check.limit for check in checks if check.kind == kind}


def _subgroup_checks(verdict: Verdict) -> dict[str, dict[Role, Check]]:
    """Subgroup -> model compared with -> check of the macro-AUC."""
    found: dict[str, dict[Role, Check]] = {}
    for check in verdict.checks:
        if check.kind == "margin" and check.subgroup is not None and check.finding is None and check.against:
            found.setdefault(check.subgroup, {})[check.against] = check
    return found


def _level(evaluation: Evaluation) -> str:
    all_figures = (evaluation.macro_challenger, *(one.challenger for one in evaluation.findings))
    levels = {f"{one.level:.6g}" for one in all_figures if isinstance(one, Estimate)}
    return f"{100 * float(levels.pop()):g}\u00a0%" if len(levels) == 1 else "stated"


def _note(values: dict[Model, Figure | None]) -> str:
    known = [f"{model} {figure.value:.3f}" for model, figure in values.items() if isinstance(figure, Estimate)]
    return "\n".join(known) or NOT_EVALUABLE


def _curves_of(one: FindingEvidence, curves: Curves) -> dict[Model, tuple[figures.Floats, figures.Floats]]:
    if not isinstance(one.challenger, Estimate):
        return {}
    return {model: curves[model][one.finding] for model in MODELS if one.finding in curves.get(model, {})}
