"""A comparison of files of scores as one HTML page, and as a table for the terminal.

The page is self-contained, like the report's, and holds no patient or image id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cxr_ops.plan import ChangePlan
from cxr_ops.records.evidence import Evaluation
from cxr_ops.report import page, summary, words
from cxr_ops.stats.rule import Judgement

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text


_OF_A_CODE: Final = 14  # reasons of a code that are printed: one for each finding


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What a comparison found.

    Attributes:
        challenger, champion: names of the files of scores; the champion's is None where one model was described.
        plan: by which it was judged; `plan_sha256` is of its file.
        evaluation: the evidence.
        judgement: what the evidence says under the plan.
        level: of the two-sided intervals, in (0, 1).
        curves: model -> finding -> (false positive rates, true positive rates).
        missing: sentences on missing scores, which are shown before all else.
        warnings: sentences on what makes the comparison worth less than it seems, shown next.
        notes: sentences on what was not judged and how files were read; never empty.
    """

    challenger: str
    champion: str | None
    plan: ChangePlan
    plan_sha256: str
    evaluation: Evaluation
    judgement: Judgement
    level: float
    curves: page.Curves
    missing: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def render(compared: Compared) -> str:
    """Write the page."""
    evaluation, checks = compared.evaluation, compared.judgement.checks
    lead = page.draw_differences if evaluation.champion else page.draw_auc
    drawings = {
        "lead": lead(evaluation, checks, name="lead"),
        "roc": page.draw_roc(evaluation, compared.curves),
    }
    margins = [check for check in checks if check.kind == "margin" and check.against == "champion"]
    bounds = {(check.subgroup, check.finding): words.check_text(check) for check in margins}
    reasons = words.in_order(compared.judgement.reasons)
    return page.fill(
        "comparison.html.j2",
        c=compared,
        drawings=drawings,
        bounds=bounds,
        reasons=reasons,
        legend=_legend(compared)[1:],
    )


def parts(compared: Compared) -> tuple[Text, Group, Text]:
    """What people want to know first, for rich to print: a head, the figures with the reasons, notes.

    Head and notes hold names of files and commands, which people copy: they are for lines that are not folded.
    """
    from rich.console import Group
    from rich.text import Text

    judgement = compared.judgement
    head = Text()
    for sentence in compared.missing:
        head.append(f"missing: {sentence}\n", "bold")
    for sentence in compared.warnings:
        head.append(f"warning: {sentence}\n", "bold")
    head.append(judgement.evidence_says, summary.STYLES[judgement.evidence_says])
    head.append(f"  what the evidence says under the plan {compared.plan.name}\n")
    head.append(f"challenger: {compared.challenger}; champion: {compared.champion or 'none'}\n")
    reasons = Text()
    shown, more = words.folded(judgement.reasons, _OF_A_CODE)
    for reason in shown:
        reasons.append(f"{reason.code}", "bold")
        reasons.append(f"  {reason.sentence}\n")
    if more:
        counts = ", ".join(f"{count} {code}" for code, count in more.items())
        reasons.append(f"and {counts} more; --json FILE lists all\n")
    figures = summary.findings_table(compared.evaluation, judgement.checks)
    notes = Text("\n".join(compared.notes), "dim")
    return head, Group(figures, Text("".join(f"{line}\n" for line in _legend(compared)), "dim"), reasons), notes


def _legend(compared: Compared) -> list[str]:
    """What the table and the reasons name and do not explain, a line each."""
    evaluation, rules = compared.evaluation, compared.plan.performance
    lines = [f"{100 * compared.level:g} % intervals, clustered by patient; positive: images/patients"]
    if compared.champion is not None:
        lines.append(
            f"bound: what the plan compares with its margin, the largest loss that is not excluded, one-sided at "
            f"{100 * compared.judgement.alpha:g} %"
        )
    over = len(evaluation.macro_over)
    if over < len(evaluation.findings):
        none = "" if over else "; none has"
        lines.append(
            f"mean of {over}: of the findings that have scores in all files and at least {rules.min_positive_patients} "
            f"positive and {rules.min_negative_patients} negative patients, as the plan asks{none}"
        )
    named = {reason.finding for reason in compared.judgement.reasons}
    lines += [
        f"{one.name}: a composite of the plan, the mean AUC of {', '.join(one.findings)}"
        for one in rules.composites
        if one.name in named
    ]
    return lines
