"""A comparison of files of scores as one HTML page, and as a table for the terminal.

The page is self-contained, like the report's, and holds no patient or image id.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from cxr_ops.plan import ChangePlan
from cxr_ops.records.evidence import Evaluation
from cxr_ops.report import page, summary, words
from cxr_ops.stats.rule import Judgement

if TYPE_CHECKING:
    from rich.console import Group
    from rich.text import Text


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
    return page.fill("comparison.html.j2", c=compared, drawings=drawings, bounds=bounds)


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
    head.append(judgement.evidence_says, summary.STYLES[judgement.evidence_says])
    head.append(f"  what the evidence says under the plan {compared.plan.name}\n")
    head.append(f"challenger: {compared.challenger}; champion: {compared.champion or 'none'}\n")
    reasons = Text()
    for reason in words.in_order(judgement.reasons):
        reasons.append(f"{reason.code}", "bold")
        reasons.append(f"  {reason.sentence}\n")
    checks, level = judgement.checks, compared.level
    legend = f"{100 * level:g} % intervals, clustered by patient; positive: images/patients"
    if compared.champion is not None:
        alpha = compared.judgement.alpha
        legend += f"; bound: what the plan compares with its margin, one-sided at {100 * alpha:g} %"
    figures = summary.findings_table(compared.evaluation, checks)
    notes = Text("\n".join(compared.notes), "dim")
    return head, Group(figures, Text(f"{legend}\n", "dim"), reasons), notes
