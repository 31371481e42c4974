"""The page stands alone, says all in words, escapes what it is given, and is the same bytes for the same material."""

from __future__ import annotations

import importlib.util
import itertools
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from cxr_ops.labels import FINDINGS
from cxr_ops.records import Reason, Undefined
from cxr_ops.report import figures, page

VOID = {"meta", "link", "br", "img", "hr", "input", "use"}  # `use`, `path` and the like close themselves in SVG


class Page(HTMLParser):
    """Reads a page: text, attributes, headings, ids, and whether every element is closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.mistakes: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.headings: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.mistakes.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data):
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)
        if self.open and re.fullmatch(r"h[1-6]", self.open[-1]):
            self.headings.append(self.open[-1])

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def values(self, name: str) -> list[str]:
        return [value for _, attribute, value in self.attributes if attribute == name]


@pytest.fixture(scope="module")
def usual(make_material) -> str:
    """The page of the usual material, drawn once."""
    return page.render(make_material())


@pytest.fixture(scope="module")
def drawn(make_material) -> dict[bool, dict[str, str]]:
    """The figures with and without a champion, drawn once."""
    return {champion: page.draw(make_material(champion=champion)) for champion in (True, False)}


@pytest.fixture(autouse=True)
def _draw_once(monkeypatch, drawn):
    """Most tests here change words, not figures: they share the drawings, which take most of the time of a page."""
    monkeypatch.setattr(page, "draw", lambda material: drawn[material.evaluation.champion is not None])


def test_the_page_is_well_formed(material):
    """Every element is closed in the order in which it was opened, and no id is given twice."""
    for champion in (True, False):
        read = Page(page.render(material(champion=champion)))
        assert read.mistakes == []
        assert read.open == []
        ids = read.values("id")
        assert len(ids) == len(set(ids))
        targets = [value[1:] for value in read.values("href") if value.startswith("#")]
        assert set(targets) <= set(ids)


def test_the_page_loads_nothing(usual):
    """No attribute and no style of the page names anything outside it, and it has no script, form or frame."""
    read = Page(usual)
    loads = [value for name in ("src", "href", "srcset", "data", "action", "poster") for value in read.values(name)]
    assert loads
    assert all(value.startswith(("#", "data:")) for value in loads)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*[\"']?([^)]*)", usual))
    assert "@import" not in usual
    assert "://" not in usual
    assert not {tag for tag, _, _ in read.attributes} & {"script", "iframe", "form", "object", "embed"}
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    assert "<script" not in usual


def test_the_mark_for_publish_stands_right_behind_body(usual):
    """`publish` finds its place: once, as the first thing in the body."""
    assert usual.startswith("<!DOCTYPE html>")
    assert usual.count(page.PUBLISHED_MARK) == 1
    assert f"<body>{page.PUBLISHED_MARK}" in usual


def test_the_page_is_the_same_in_another_process_with_another_hash_seed(usual):
    """The same material gives the same bytes in another process."""
    conftest = importlib.util.find_spec("cxr_ops") and __file__.replace("test_page.py", "conftest.py")
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('other', {conftest!r})\n"
        "other = importlib.util.module_from_spec(spec); spec.loader.exec_module(other)\n"
        "from cxr_ops.report import page\n"
        "sys.stdout.reconfigure(encoding='utf-8'); sys.stdout.write(page.render(other.make_material()))\n"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "11", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environ)
    assert done.stdout.decode() == usual


def test_every_finding_stands_with_its_numbers(material, usual):
    """All 14 findings stand in the table with AUC, interval and counts of images and patients, as in the evidence."""
    given = material()
    text = Page(usual).text
    for one in given.evaluation.findings:
        assert one.finding.replace("_", " ") in text
        assert f"{one.support.positives} / {one.support.positive_patients}" in text
        if not isinstance(one.challenger, Undefined):
            assert page.auc_text(one.challenger) in text
            assert page.auc_text(one.champion) in text
            assert page.difference_text(one.difference) in text


def test_every_check_of_the_plan_stands_with_its_bound_limit_and_outcome(material, usual):
    """What the plan asked for and what came of it stands for each finding and the mean, in words."""
    given, text = material(), Page(usual).text
    outcomes = {check.outcome for check in given.verdict.checks}
    assert outcomes == {"met", "failed", "unclear", "undefined"}
    for row, kinds in page.plan_checks(given.verdict):
        line = " ".join([row.replace("_", " "), *(page.check_text(kinds[kind]) for kind in ("floor", "margin"))])
        assert line.split("; about")[0] in text.replace("; about 310 patients would show it", "")
    assert "about 310 patients would show it" in text


def test_a_nan_never_reaches_a_reader(usual):
    """Undefined figures are said in words with their reason and what is needed; `nan` and `None` occur nowhere."""
    text = Page(usual).text
    assert "not evaluable: no positive image in the test set" in text
    assert "at least 1 positive patient" in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_a_report_with_nothing_undefined_says_so(material, evidence):
    """The section on undefined figures is never silently absent."""
    text = Page(page.render(material(evaluation=evidence(undefined=())))).text
    assert "every figure of this report could be computed" in text


def test_a_demonstration_is_marked_and_a_clinical_plan_is_not(material, decision, evidence, usual):
    """The banner stands under a plan that is not for clinical use, and only there."""
    assert "NOT FOR CLINICAL USE" in usual
    real = material(verdict=decision(evidence(), clinical_use=True, approvals=2))
    html = page.render(real)
    assert "NOT FOR CLINICAL USE" not in html
    assert "only after approval by 2 persons" in html


@pytest.mark.parametrize("word", ["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"])
def test_the_verdict_stands_first_with_every_reason(material, word):
    """The verdict comes before any number, and each reason's sentence and code are on the page."""
    given = material(word=word)
    text = Page(page.render(given)).text
    assert text.index(word) < text.index("Mean AUC")
    for reason in given.verdict.reasons:
        assert reason.sentence in text
        assert reason.code in text


def test_a_promotion_that_the_record_forbids_is_told(material, decision, evidence):
    """When the record overrules the evidence, the page says what the evidence alone would give."""
    verdict = decision(evidence(), "INSUFFICIENT EVIDENCE", evidence_says="PROMOTE")
    assert "The evidence alone would give PROMOTE, but the record forbids it" in page.render(material(verdict=verdict))


def test_a_first_release_shows_no_comparison(material):
    """Without a champion there is no difference plot and no champion's column, and the page says why."""
    html = page.render(material(champion=False))
    assert "There is no champion to compare with" in html
    assert "difference-title" not in html
    assert '<th scope="col">Champion' not in html


def test_hostile_text_is_shown_and_not_obeyed(material, decision, evidence):
    """Markup in any text that comes from files stays text."""
    bad = "<script>alert(1)</script>\"'&"
    given = material(title=bad, checks=[(bad, bad)], training=[(bad, bad)], model=[(bad, bad)])
    verdict = decision(
        evidence(), reasons=[Reason(code=bad, sentence=bad), Reason(code="X", finding=bad, sentence=bad)]
    )
    case = given.explanation.cases[0].model_copy(update={"finding": bad, "kind": bad, "sha256": bad})
    told = {"cases": [case], "missing": [bad], "rule": bad}
    explanation = given.explanation.model_copy(update=told)
    batches = [replace(given.batches[0], name=bad, digest=bad)]
    proofs = [replace(given.proofs[0], what=bad, digest=bad, command=bad)]
    html = page.render(replace(given, verdict=verdict, explanation=explanation, batches=batches, proofs=proofs))
    read = Page(html)
    assert "<script" not in html
    assert read.mistakes == []
    assert read.text.count("<script>alert(1)</script>\"'&") >= 12


def test_an_accessible_page_has_a_language_one_h1_captions_and_texts_for_pictures(usual):
    """Headings go down one level at a time; tables have captions, pictures a text, header cells a scope."""
    html, read = usual, Page(usual)
    assert ("html", "lang", "en") in read.attributes
    assert read.headings[0] == "h1"
    assert read.headings.count("h1") == 1
    levels = [int(name[1]) for name in read.headings]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    assert html.count("<table") == html.count("<caption>")
    assert html.count("<img") == sum(bool(value) for value in read.values("alt"))
    assert html.count("<th ") + html.count("<th>") == sum(
        tag == "th" and name == "scope" for tag, name, _ in read.attributes
    )
    assert html.count("<svg") == html.count('role="img"')


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours as WCAG 2.2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_text_and_marks_have_the_contrast_of_wcag_aa(usual):
    """In the light, dark and printed page, text has a contrast of at least 4.5 to 1, and marks of figures 3 to 1."""
    style = usual[usual.index("<style>") : usual.index("</style>")]
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        colour = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6})", block))
        for name in ("ink", "muted", "link", "promote", "reject", "insufficient"):
            assert contrast(colour[name], colour["paper"]) >= 4.5, name
            assert contrast(colour[name], colour["tint"]) >= 4.5, name
        for name in ("challenger", "champion", "limit"):
            assert contrast(colour[name], colour["paper"]) >= 3, name


def test_a_gallery_that_would_be_too_heavy_says_what_it_leaves_out(material, monkeypatch):
    """Heat maps beyond the budget are counted in words instead of making the page heavy."""
    given = material()
    size = len(figures.compress(given.pictures["0.png"]))
    monkeypatch.setattr(page, "GALLERY_BYTES", int(2.5 * size))
    html = page.render(given)
    assert html.count("<img") == 2
    assert "3 more heat maps" in html


def test_the_page_is_small(material):
    """Without pictures the page stays below half a megabyte; the gallery's budget then keeps it below three."""
    given = material()
    empty = given.explanation.model_copy(update={"cases": []})
    assert len(page.render(replace(given, explanation=empty)).encode()) < 500_000
    assert page.GALLERY_BYTES * 4 / 3 + 500_000 < 3_000_000


def test_every_case_is_told_in_words(usual):
    """Truth, probability, where the peak lies, empty maps, missing cases and the pointing game are said in words."""
    text = Page(usual).text
    for words in (
        "Label: present. Probability: 0.97. The map's peak lies in the annotated box.",
        "Label: present. Probability: 0.08. Nothing in the picture speaks for the finding: the map is empty.",
        "Label: present. Probability: 0.88. The map's peak lies outside the annotated box.",
        "Hernia: no test image has it.",
        "Hernia no test image has a box",
        "Mass 40 26 2 65 % 11 %",
    ):
        assert words in text


def test_a_picture_that_is_missing_or_not_a_png_is_refused(material):
    """Nothing but a PNG goes into the page as a picture, and no case goes without its own."""
    given = material()
    with pytest.raises(ValueError, match="not a PNG"):
        page.render(replace(given, pictures=given.pictures | {"0.png": b"<svg onload=alert(1)>"}))
    with pytest.raises(ValueError, match=r"picture 0\.png is missing"):
        page.render(replace(given, pictures={}))


def test_evidence_with_findings_out_of_order_is_refused(material, evidence):
    """The page draws rows by position, so it takes the 14 findings in their one order or nothing."""
    evaluation = evidence()
    swapped = evaluation.model_copy(update={"findings": evaluation.findings[::-1]})
    with pytest.raises(ValueError, match="not the 14 findings"):
        page.render(material(evaluation=swapped))
    assert len(FINDINGS) == 14
