"""The Markdown texts say what the page says, keep what the test set shows out of the summary, and escape."""

from __future__ import annotations

import pytest

from cxr_ops.labels import FINDINGS
from cxr_ops.records.evidence import Undefined
from cxr_ops.records.verdict import Reason
from cxr_ops.report import markdown, page, words


@pytest.mark.parametrize("champion", [True, False])
def test_the_text_holds_verdict_headline_reasons_and_every_finding(material, champion):
    """Notices come first; then the two sentences, the verdict with its reasons, and a row for each of 14 findings."""
    given = material(champion=champion)
    text = markdown.render(page.document(given))
    order = ["GENERATED DATA", "NOT FOR CLINICAL USE", "AUC", "**PROMOTE.**", "`NOT_WORSE`", "| **mean of 13**"]
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    for sentence in page.tell(given).headline:
        assert markdown.escape(sentence) in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 1 + len(FINDINGS)
    assert len({row.count(" | ") for row in rows}) == 1
    for one in given.evaluation.findings:
        row = next(row for row in rows if row.startswith(f"| {markdown.escape(one.finding.replace('_', ' '))} |"))
        assert words.figure_text(one.challenger) in row
        if champion and not isinstance(one.difference, Undefined):
            assert words.difference_text(one.difference) in row


def test_only_the_first_reasons_stand_and_the_others_are_counted(material):
    """Six reasons stand, and how many more there are."""
    given = material(word="REJECT")
    text = markdown.render(page.document(given))
    assert text.count("\n* ") == markdown.REASONS + 1
    assert f"* and {len(given.verdict.reasons) - markdown.REASONS} more" in text


def test_the_summary_holds_nothing_of_the_test_set(material):
    """No AUC, difference, reason or verdict of the test set stands in the text for people who tune."""
    given = material(word="REJECT")
    text = markdown.render_summary(page.summary_document(given))
    evaluation = given.evaluation
    figures = [evaluation.macro_challenger, *(one.challenger for one in evaluation.findings)]
    told = {words.figure_text(figure) for figure in figures if not isinstance(figure, Undefined)}
    told |= {"REJECT", "WORSE", f"{evaluation.test_images}", *page.tell(given).headline}
    assert not [one for one in told if one in text]
    assert f"{evaluation.validation_macro['challenger']:.3f}" in text


def test_what_records_say_is_text_and_not_markup(material, decision, evidence):
    """A link, an image, a table cell, a mention and HTML of a reason are shown as they are."""
    nasty = "![x](http://evil) <img alt> | cell | @everyone\n# heading"
    verdict = decision(evidence(), reasons=[Reason(code="X", sentence=nasty)])
    text = markdown.render(page.document(material(verdict=verdict)))
    assert "!\\[x\\](http\\://evil) \\<img alt\\> \\| cell \\| \\@everyone \\# heading" in text
