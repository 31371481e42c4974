"""The report and its summary as a short Markdown text, for chats and pull requests.

It holds what a reader decides by, and no more: notices, what changes for whom, the verdict with its first reasons, and
a line for the mean and each finding. Text from records is escaped; nothing in it is taken for a link, an image or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from cxr_ops.records.evidence import Figure
from cxr_ops.records.report import Report, Summary
from cxr_ops.report import words
from cxr_ops.stats.checks import difference, macro_difference

REASONS: Final = 6  # that are told; the report has all
_WITHHELD: Final = (
    "While the test period is open, the plan shows people who tune models no more of the test set than how the run "
    "ended."
)
_SPECIAL: Final = re.compile(r"([\\`*_\[\]<>#|~@]|:(?=\S))")


def escape(text: str) -> str:
    r"""Write text so that Markdown, and GitHub's kind of it, shows it as it is, in one line.

    >>> escape("a_b <img> | @all\n# no")
    'a\\_b \\<img\\> \\| \\@all \\# no'
    """
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def render(report: Report) -> str:
    """Write the text of a report."""
    verdict, evaluation = report.verdict, report.evaluation
    against = words.compared_with(evaluation)
    reasons = words.in_order(verdict.reasons)
    clinical = "" if verdict.clinical_use else _banner(verdict.plan.name, report.told.notice)
    counted = (
        f"{evaluation.test_images:,} images of {evaluation.test_patients:,} patients of the {evaluation.scored} set"
    )
    period, met = escape(words.period_text(verdict)), escape(words.checks_sentence(verdict.checks))
    lines = [
        f"## {escape(report.title)}: {verdict.verdict}",
        *_notices(report.told.unscored, report.told.other_plan, report.told.data_notice, clinical, report.told.missing),
        " ".join(map(escape, report.told.headline)),
        f"**{verdict.verdict}.** {escape(report.told.outcome)}",
        *_list([f"{escape(words.prose(one.sentence))} `{one.code}`" for one in reasons[:REASONS]], len(reasons)),
        _table(
            ["AUC", "challenger", *(f"minus {model}" for model in against), "positive images / patients"],
            [
                [
                    f"**mean of {len(evaluation.macro_over)}**",
                    _cell(evaluation.macro_challenger),
                    *(_cell(macro_difference(evaluation, model), signed=True) for model in against),
                    "",
                ],
                *(
                    [
                        escape(one.finding.replace("_", " ")),
                        _cell(one.challenger),
                        *(_cell(difference(one, model), signed=True) for model in against),
                        f"{one.support.positives} / {one.support.positive_patients}",
                    ]
                    for one in evaluation.findings
                ),
            ],
        ),
        " ".join(escape(sentence) for sentence in words.parts_sentences(evaluation.change))
        if evaluation.change
        else "",
        f"{counted}, {period}. {met}",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def render_summary(summary: Summary) -> str:
    """Write the text of a summary, which holds nothing of the test set; the published text says how the run ended."""
    clinical = "" if summary.clinical_use else _banner(summary.plan.name, summary.notice)
    lines = [
        f"## {escape(summary.title)}",
        *_notices(summary.unscored, summary.other_plan, summary.data_notice, clinical),
        _WITHHELD,
        _table(
            ["mean AUC on the validation set", ""],
            [[escape(model), f"{value:.3f}"] for model, value in summary.validation_macro.items()],
        )
        if summary.validation_macro
        else "No validation figure was recorded.",
        f"Test: {escape(summary.period)}.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _banner(plan: str, notice: str) -> str:
    return f"NOT FOR CLINICAL USE. {notice} Judged by the plan {plan}."


def _notices(
    unscored: str, other_plan: str, data_notice: str, clinical: str, missing: Sequence[str] = ()
) -> Iterator[str]:
    said = {
        "INCOMPLETE. ": " ".join(missing),
        "NOT THE TEST SET. ": unscored,
        "ANOTHER PLAN. ": other_plan,
        "GENERATED DATA. ": data_notice,
        "": clinical,
    }
    quotes = [f"> {escape(mark + words.prose(text))}" for mark, text in said.items() if text]
    if quotes:
        yield "\n>\n".join(quotes)


def _list(items: Sequence[str], all_of: int) -> Iterator[str]:
    more = all_of - len(items)
    if items:
        yield "\n".join([*(f"* {item}" for item in items), *([f"* and {more} more"] if more else [])])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(figure: Figure | None, *, signed: bool = False) -> str:
    return words.difference_text(figure) if signed else words.figure_text(figure)
