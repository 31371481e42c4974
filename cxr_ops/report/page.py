"""The report as one HTML file: what was decided, on what evidence, and how an outsider can check it.

The page needs no network, no script and no other file. It holds no clock, host, path or run id, so that equal inputs
give equal bytes, and no patient or image id: cases are named by the digest of their file. Every text goes through
Jinja2's autoescape; the figures alone are inserted as they are.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxr_ops import contract
from cxr_ops.labels import FINDINGS
from cxr_ops.records import (
    Check,
    Estimate,
    Evaluation,
    Explanation,
    Figure,
    FindingEvidence,
    HeatMap,
    Inputs,
    Undefined,
    Verdict,
)
from cxr_ops.report import figures

# `publish` puts links, approvals and timings after this comment, which stands right behind <body>.
PUBLISHED_MARK: Final = "<!-- cxr:published -->"
MEAN: Final = "Mean"
# What a gallery may weigh, so that the whole page stays below 3 MB; base64 adds a third.
GALLERY_BYTES: Final = 1_800_000
NOT_EVALUABLE: Final = "not evaluable"


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
    curves: dict[str, dict[str, tuple[figures.Floats, figures.Floats]]]
    explanation: Explanation
    pictures: dict[str, bytes]
    proofs: Sequence[Proof]


def render(material: Material) -> str:
    """Write the page.

    Raises:
        ValueError: a picture is missing or not a PNG, or the evidence does not name the 14 findings in their order.
    """
    import jinja2

    found = tuple(one.finding for one in material.evaluation.findings)
    if found != FINDINGS:
        raise ValueError(f"the evidence names {', '.join(found) or 'nothing'}, not the 14 findings in their order")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "auc": auc_text,
        "difference": difference_text,
        "check": check_text,
        "spaced": lambda name: name.replace("_", " "),
        "short": lambda digest: digest[:12],
        "count": lambda number: f"{number:,}".replace(",", "\u202f"),
        "peak": peak_sentence,
    }
    gallery = _gallery(material)
    return environment.get_template("report.html.j2").render(
        m=material,
        has_champion=material.evaluation.champion is not None,
        outcome=outcome_sentence(material.verdict),
        notice=material.verdict.notice.replace("Not for clinical use.", "").strip(),  # the banner has just said so
        level=_level(material.evaluation),
        mark=PUBLISHED_MARK,
        drawings=draw(material),
        checks=plan_checks(material.verdict),
        undefined=undefined_figures(material.evaluation),
        gallery=gallery,
        left_out=len(material.explanation.cases) - len(gallery),
        findings=FINDINGS,
    )


def draw(material: Material) -> dict[str, str]:
    """Draw the page's figures: name -> SVG."""
    evaluation, history = material.evaluation, material.history
    rows = [*FINDINGS, MEAN]
    challenger = _intervals([one.challenger for one in evaluation.findings], evaluation.macro_challenger)
    series = [figures.Series(name="challenger", label="Challenger", intervals=challenger)]
    if evaluation.champion is not None:
        champion = _intervals([one.champion for one in evaluation.findings], evaluation.macro_champion)
        series.append(figures.Series(name="champion", label="Champion", intervals=champion))
    models = " and ".join(one.label.lower() for one in series)
    drawings = {
        "auc": figures.forest(
            "auc",
            rows,
            series,
            title="AUC by finding",
            description=f"AUC of {models} with patient-clustered intervals for 14 findings and their mean; "
            "the same numbers stand in the table below.",
            axis="AUC on the locked test set",
            neutral=0.5,
            limits=_limits(material.verdict, "floor"),
            limit_label="Floor of the plan",
            undefined=NOT_EVALUABLE,
        ),
        "roc": figures.roc_grid(
            "roc",
            [_panel(one, material.curves) for one in evaluation.findings],
            title="ROC curves",
            description=f"One panel for each finding: true positive rate against false positive rate of {models}.",
        ),
        "training": figures.training_curves(
            "training",
            np.asarray(history.epochs, dtype=np.float64),
            np.asarray(history.train_loss, dtype=np.float64),
            np.asarray(history.validation_loss, dtype=np.float64),
            np.asarray(history.validation_auc, dtype=np.float64),
            kept=history.kept,
            title="Training curves",
            description="Left: loss on training and validation patients by epoch. Right: mean AUC on validation "
            "patients. The vertical line marks the epoch whose weights were kept.",
        ),
    }
    if evaluation.champion is not None:
        difference = _intervals([one.difference for one in evaluation.findings], evaluation.macro_difference)
        drawings["difference"] = figures.forest(
            "difference",
            rows,
            [figures.Series(name="challenger", label="Challenger minus champion", intervals=difference)],
            title="Difference in AUC by finding",
            description="Challenger minus champion with patient-clustered intervals, and the margin of the plan; "
            "an interval that lies right of the margin shows non-inferiority.",
            axis="Difference in AUC (right of 0: the challenger is better)",
            neutral=0.0,
            limits=_limits(material.verdict, "margin"),
            limit_label="Non-inferiority margin of the plan",
            undefined=NOT_EVALUABLE,
        )
    return drawings


def outcome_sentence(verdict: Verdict) -> str:
    """Say in a sentence or two what a verdict means for the model in use."""
    says = {
        contract.PROMOTE: "The evidence meets every rule of the plan.",
        contract.REJECT: "The evidence shows that the challenger falls short of the plan.",
        contract.INSUFFICIENT: "The evidence neither meets the plan nor shows that the challenger falls short of it.",
    }
    if verdict.verdict != verdict.evidence_says:
        return f"The evidence alone would give {verdict.evidence_says}, but the record forbids it; the reasons say why."
    if verdict.verdict != contract.PROMOTE:
        after = " The champion stays in use." if verdict.champion.package else " No model is put in use."
        return says[verdict.verdict] + after
    if not verdict.approvals:
        return says[verdict.verdict] + " The plan asks for no approval by a person."
    people = "one person" if verdict.approvals == 1 else f"{verdict.approvals} persons"
    return says[verdict.verdict] + f" It is put in use only after approval by {people}."


def undefined_figures(evaluation: Evaluation) -> list[tuple[str, list[str], Undefined]]:
    """List what could not be computed: (finding or mean, which figures, why), one row a finding and cause."""
    groups: list[tuple[str, Figure, Figure | None, Figure | None]] = [
        (one.finding, one.challenger, one.champion, one.difference) for one in evaluation.findings
    ]
    groups.append((MEAN, evaluation.macro_challenger, evaluation.macro_champion, evaluation.macro_difference))
    rows: list[tuple[str, list[str], Undefined]] = []
    for name, *found in groups:
        causes: dict[str, tuple[list[str], Undefined]] = {}
        for which, figure in zip(("challenger", "champion", "difference"), found, strict=True):
            if isinstance(figure, Undefined):
                causes.setdefault(figure.digest(), ([], figure))[0].append(which)
        rows += [(name, which, why) for which, why in causes.values()]
    return rows


def auc_text(figure: Figure | None) -> str:
    """Write an AUC with its interval.

    >>> auc_text(Estimate(value=0.8734, se=0.02, low=0.83, high=0.91, level=0.95))
    '0.873 (0.830 to 0.910)'
    >>> auc_text(Undefined(reason="no positives"))
    'not evaluable'
    """
    if isinstance(figure, Estimate):
        return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"
    return NOT_EVALUABLE


def difference_text(figure: Figure | None) -> str:
    """Write a difference with its interval, with signs and a true minus.

    >>> difference_text(Estimate(value=-0.004, se=0.02, low=-0.03, high=0.0225, level=0.95))
    '\u22120.004 (\u22120.030 to +0.022)'
    """
    if isinstance(figure, Estimate):
        text = f"{figure.value:+.3f} ({figure.low:+.3f} to {figure.high:+.3f})"
        return text.replace("-", "\u2212")
    return NOT_EVALUABLE


def peak_sentence(case: HeatMap) -> str:
    """Say where a map's peak lies; nothing where there is no box to compare it with."""
    if case.empty:
        return "Nothing in the picture speaks for the finding: the map is empty."
    if case.peak_in_box is None:
        return ""
    return f"The map's peak lies {'in' if case.peak_in_box else 'outside'} the annotated box."


def check_text(check: Check) -> str:
    """Say what came of a check, with the bound that was judged and the limit.

    >>> check_text(Check(kind="margin", finding=None, limit=-0.03, low=-0.0104, outcome="met"))
    'met: at least \u22120.010, limit \u22120.03'
    >>> check_text(Check(kind="floor", finding="Hernia", limit=0.5, outcome="undefined"))
    'undefined, limit 0.5'
    """
    words = {"met": "met", "failed": "not met", "unclear": "not shown", "undefined": "undefined"}
    sign = "+" if check.kind == "margin" else ""
    bound = "" if check.low is None else f": at least {check.low:{sign}.3f}"
    text = f"{words[check.outcome]}{bound}, limit {check.limit:g}"
    return text.replace("-", "\u2212")


def plan_checks(verdict: Verdict) -> list[tuple[str, dict[str, Check]]]:
    """List what the plan asked for, row by row: (finding or mean, kind of check -> check)."""
    by_row: dict[str, dict[str, Check]] = {}
    for check in verdict.checks:
        by_row.setdefault(check.finding or MEAN, {})[check.kind] = check
    return [(row, by_row[row]) for row in (MEAN, *FINDINGS) if row in by_row]


def _limits(verdict: Verdict, kind: str) -> list[float | None]:
    rows = dict(plan_checks(verdict))
    return [rows[row][kind].limit if kind in rows.get(row, {}) else None for row in (*FINDINGS, MEAN)]


def _level(evaluation: Evaluation) -> str:
    all_figures = (evaluation.macro_challenger, *(one.challenger for one in evaluation.findings))
    levels = {f"{one.level:.6g}" for one in all_figures if isinstance(one, Estimate)}
    return f"{100 * float(levels.pop()):g} %" if len(levels) == 1 else "stated"


def _intervals(single: Sequence[Figure | None], mean: Figure | None) -> figures.Floats:
    rows = [(f.value, f.low, f.high) if isinstance(f, Estimate) else (np.nan,) * 3 for f in (*single, mean)]
    return np.array(rows, dtype=np.float64)


def _panel(one: FindingEvidence, curves: dict[str, dict[str, tuple[figures.Floats, figures.Floats]]]) -> figures.Roc:
    values = [
        f"{model} {figure.value:.3f}"
        for model, figure in ((figures.CHALLENGER, one.challenger), (figures.CHAMPION, one.champion))
        if isinstance(figure, Estimate)
    ]
    drawn = {model: curves[model][one.finding] for model in curves if one.finding in curves[model]}
    return figures.Roc(finding=one.finding, note="\n".join(values) or NOT_EVALUABLE, curves=drawn if values else {})


def _gallery(material: Material) -> list[tuple[HeatMap, str]]:
    """The cases that fit the budget, each with its picture as a data URI."""
    shown: list[tuple[HeatMap, str]] = []
    weight = 0
    for case in material.explanation.cases:
        if case.picture not in material.pictures:
            raise ValueError(f"the picture {case.picture} is missing")
        picture = figures.compress(material.pictures[case.picture])
        weight += len(picture)
        if weight > GALLERY_BYTES:
            break
        shown.append((case, "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii")))
    return shown


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
