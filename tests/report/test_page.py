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
from cxr_ops.records.evidence import Composite, Estimate, Fallen, Falls, Side, Undefined
from cxr_ops.records.inputs import OtherPlan
from cxr_ops.records.verdict import Reason
from cxr_ops.report import cases, figures, page, words
from cxr_ops.stats import change
from cxr_ops.stats.heat_maps import CHANGES, STEPS

SKIP = '<body><a class="skip" href="#verdict">Skip to the verdict</a>'
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
def drawn(make_material) -> dict[bool, dict[str, str]]:
    """The figures with and without a champion, drawn once; curves are drawn in the same way for both."""
    both, first = page.draw(make_material()), make_material(champion=False)
    lead = page.draw_auc(first.evaluation, first.verdict.checks, name="auc")
    return {True: both, False: {name: svg for name, svg in both.items() if name != "auc"} | {"lead": lead}}


@pytest.fixture(scope="module")
def usual(make_material, drawn) -> str:
    """The page of the usual material."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "draw", lambda _: drawn[True])
        return page.render(make_material())


@pytest.fixture(autouse=True)
def _draw_once(monkeypatch, drawn):
    """Most tests here change words, not figures: they share the drawings, which take most of the time of a page."""
    monkeypatch.setattr(page, "draw", lambda material: drawn[material.evaluation.champion is not None])


@pytest.fixture
def bare(evidence, decision, material):
    """The material of an evaluation that holds AUCs alone."""
    empty = {"subgroups": [], "missing_groups": [], "performance": [], "uncertain": {}, "scenarios": []}
    evaluation = evidence(champion=False, **empty, facts=None, validation_macro={})
    verdict = decision(evaluation, checks=[], limited_findings=[], looks=None)
    return material(champion=False, evaluation=evaluation, verdict=verdict)


def shown(figure, *, signed=False, digits=3):
    return (words.difference_text if signed else words.figure_text)(figure, digits)


def test_the_page_is_well_formed(material, bare):
    """Every element is closed in the order in which it was opened, and no id is given twice."""
    given = [material(), material(champion=False), bare]
    for html in (*map(page.render, given), *map(page.render_summary, given)):
        read = Page(html)
        assert read.mistakes == []
        assert read.open == []
        ids = read.values("id")
        assert len(ids) == len(set(ids))
        targets = [value[1:] for value in read.values("href") if value.startswith("#")]
        assert set(targets) <= set(ids)


def test_the_page_loads_nothing(usual):
    """No attribute and no style of the page names anything outside it; it has no form or frame, and one script."""
    read = Page(usual)
    loads = [value for name in ("src", "href", "srcset", "data", "action", "poster") for value in read.values(name)]
    assert loads
    assert all(value.startswith(("#", "data:")) for value in loads)
    assert all(target.startswith("#") for target in re.findall(r"url\(\s*[\"']?([^)]*)", usual))
    assert "@import" not in usual
    assert "://" not in usual
    assert not {tag for tag, _, _ in read.attributes} & {"script", "iframe", "form", "object", "embed"}
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    [script] = re.findall(r"<script>(.*?)</script>", usual, flags=re.DOTALL)
    assert len(script) < 600
    assert not re.search(r"fetch|import|http|eval|innerHTML|cookie|storage", script, flags=re.IGNORECASE)


def test_a_better_model_is_told_from_an_easier_test_set(usual, material, evidence):
    """The strip says which of the two it was, what was forgotten, and that the earlier set is another one now."""
    text = Page(usual).text
    assert "neither model is shown to be better, +0.004" in text
    assert "is easier for the champion than the one that it was judged on, +0.030" in text
    assert "worse than the champion: something was forgotten, \u22120.020" in text
    assert "labels corrected since" in text
    assert 'id="learning"' in usual
    assert 'id="learning"' not in page.render(material(champion=False))
    unknown = change.undefined(Undefined(reason="the ledger does not say"))
    text = Page(page.render(material(evaluation=evidence(change=unknown)))).text
    assert "cannot be told from an easier test set: the ledger does not say." in text


def test_the_mark_for_publish_stands_right_behind_the_skip_link(usual):
    """`publish` finds its place: once, behind the first thing in the body, which the keyboard must reach first."""
    assert usual.startswith("<!DOCTYPE html>")
    assert usual.count(page.PUBLISHED_MARK) == 1
    assert f"{SKIP}{page.PUBLISHED_MARK}" in usual


def test_the_page_is_the_same_in_another_process_with_another_hash_seed(usual, material):
    """The same material gives the same bytes in another process."""
    conftest = importlib.util.find_spec("cxr_ops") and __file__.replace("test_page.py", "conftest.py")
    code = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('other', {conftest!r})\n"
        "other = importlib.util.module_from_spec(spec); spec.loader.exec_module(other)\n"
        "from cxr_ops.report import page\n"
        "sys.stdout.reconfigure(encoding='utf-8')\n"
        "sys.stdout.write(page.render(other.make_material()) + page.render_summary(other.make_material()))\n"
    )
    environ = {**os.environ, "PYTHONHASHSEED": "11", "TZ": "Asia/Tokyo", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environ)
    assert done.stdout.decode() == usual + page.render_summary(material())


def test_every_finding_stands_with_its_numbers(material, usual):
    """All 14 findings stand in the table with AUC, interval and counts of images and patients, as in the evidence."""
    given = material()
    text = Page(usual).text
    for one in given.evaluation.findings:
        assert one.finding.replace("_", " ") in text
        assert f"{one.support.positives} / {one.support.positive_patients}" in text
        if not isinstance(one.challenger, Undefined):
            assert all(shown(figure) in text for figure in (one.challenger, one.champion, one.reference))
            assert all(shown(figure, signed=True) in text for figure in (one.difference, one.reference_difference))


def test_every_check_of_the_plan_stands_with_its_claim_bound_limit_and_outcome(material, usual):
    """What the plan asked for and what came of it stands in words, whatever the kind of check; failures stand first."""
    checks, text = material().verdict.checks, Page(usual).text
    assert {check.outcome for check in checks} == {"met", "failed", "unclear", "undefined"}
    assert {check.kind for check in checks} == {"floor", "margin", "sensitivity", "specificity", "slope", "brier"}
    for check in checks:
        row = [(check.finding or "Mean over findings").replace("_", " "), words.group_text(check.subgroup or "all")]
        line = " ".join([*row, words.claim_text(check), words.check_text(check)])
        assert text.count(line) == (1 if check.outcome == "met" else 2), line
    assert "about 310 patients would show it" in text
    assert words.checks_sentence(checks) in text[: text.index("Mean AUC, challenger")]


def test_every_subgroup_stands_with_counts_difference_check_and_each_finding(material, usual):
    """Images, patients, mean AUC, both differences and both checks of a subgroup stand in a row; its cells below."""
    given, text = material(), Page(usual).text
    checks = {(check.subgroup, check.against): check for check in given.verdict.checks if check.subgroup}
    for group in given.evaluation.subgroups:
        line = f"{words.group_text(group.name)} {group.images} {group.patients} {len(group.macro_over)}"
        line += f" {shown(group.macro_challenger)}"
        line += f" {shown(group.macro_difference, signed=True)} {words.check_text(checks[group.name, 'champion'])}"
        line += f" {shown(group.macro_reference_difference, signed=True)}"
        line += f" {words.check_text(checks[group.name, 'reference'])}"
        assert line in text.replace("; about 310 patients would show it", "")
        assert all(shown(one.difference, signed=True) in text for one in group.findings)
        assert all(shown(one.brier.challenger, digits=4) in text for one in group.performance)
    assert "aged 65 and over: 3 patients, no finding can be judged" in text


def test_patients_of_a_rare_finding_whose_rank_fell_and_composites_are_shown(material, evidence):
    """Each patient stands with its picture's digest and both ranks, outright falls are counted, composites stand."""
    given = evidence()
    row = given.findings[0]
    side = Side(sizes=[(1, row.support.positive_patients)], fallen=1, fallen_patients=1)
    listed = [Fallen(case="ab12cd34ef56", images=2, before=0.912, after=0.104), Fallen(images=1, before=0.5, after=0.4)]
    seen = Falls(error=0.01, positive=side, negative=side, patients=listed)
    rare = Composite(
        name="rare",
        findings=["Edema", "Hernia"],
        positive_patients=77,
        challenger=row.challenger,
        difference=row.difference,
        reference_difference=row.reference_difference,
    )
    rows = [row.model_copy(update={"falls": seen}), *given.findings[1:]]
    text = Page(
        page.render(material(evaluation=given.model_copy(update={"findings": rows, "composites": [rare]})))
    ).text
    count = row.support.positive_patients
    assert f"{row.finding} against the champion: 2 of {count} patients fell" in text
    assert (
        f"By more than half of all ranks fell: 1 of {count} patients with {row.finding}, against the champion." in text
    )
    assert "ab12cd34ef56 2 0.912 0.104 0.808" in text
    assert "not named 1 0.500 0.400 0.100" in text
    assert f"rare: Edema, Hernia 77 {shown(row.challenger)} {shown(row.difference, signed=True)}" in text
    assert "Patients whose rank fell" not in Page(page.render(material(evaluation=given))).text


def test_figures_at_the_operating_point_and_of_probabilities_stand_for_each_finding(material, usual):
    """Threshold, sensitivity, specificity, precision, Brier score, slope, intercept and ECE stand with intervals."""
    text = Page(usual).text
    for one in material().evaluation.performance:
        if not isinstance(one.brier.challenger, Estimate):
            continue
        row = f"{one.support.positives} / {one.support.positive_patients} {one.thresholds['challenger']:.3f} "
        assert row + shown(one.sensitivity.challenger) in text
        for pair in (one.sensitivity, one.specificity, one.average_precision, one.ece):
            assert shown(pair.challenger) in text
            assert shown(pair.difference, signed=True) in text
            assert shown(pair.reference_difference, signed=True) in text
        assert shown(one.brier.difference, signed=True, digits=4) in text
        assert shown(one.slope.challenger, digits=2) in text
        assert shown(one.intercept.challenger, digits=2) in text


def test_how_alike_heat_maps_are_stands_for_each_step_and_change(material, usual):
    """Both models' figures stand beside each step of random weights and each change; a model without maps says so."""
    given = material().evaluation
    checked = given.heat_maps
    text = Page(usual).text
    for name in (*(f"random: {step}" for step in STEPS), *(f"image {how}" for how in CHANGES)):
        assert name in text
    assert text.count(shown(checked.random["all weights"]["challenger"].overall)) >= 2
    silent = {step: {"challenger": of["challenger"]} for step, of in checked.random.items()}
    without = given.model_copy(update={"heat_maps": checked.model_copy(update={"random": silent})})
    assert "<td>no maps</td>" in page.render(material(evaluation=without))


def test_a_finer_map_and_another_method_are_said(material):
    """The page says at which size maps were computed and the network trained, and that Grad-CAM++ has no unit."""
    finer = {"resolution": 224, "grid": (7, 7), "method": "grad_cam_plus_plus"}
    given = material()
    html = page.render(replace(given, explanation=given.explanation.model_copy(update=finer)))
    text = Page(html).text.replace("\u00d7", "x")
    assert "7 x 7 cells, since the network was given 224 x 224 pixels for them, and not the 96 x 96" in text.replace(
        "\u00d7", "x"
    )
    assert "Grad-CAM++'s own measure, which has no unit" in text
    assert "peak is a cell; it counts" in text
    of_champions_size = {"resolution": given.explanation.image_size, "grid": (3, 3)}
    html = page.render(replace(given, explanation=given.explanation.model_copy(update=of_champions_size)))
    assert "that it was trained on" not in Page(html).text


def test_uncertain_labels_are_shown_where_there_are_any(material, usual, bare):
    """Their counts and the evidence under both ways to take them; without any there is no such section."""
    evaluation, text = material().evaluation, Page(usual).text
    for scenario, name in zip(evaluation.scenarios, ("all absent", "all present"), strict=True):
        line = f"{name} {shown(scenario.macro_challenger)} {shown(scenario.macro_difference, signed=True)}"
        assert line in text
    assert f"Effusion 12 {shown(evaluation.findings[FINDINGS.index('Effusion')].challenger)}" in text
    assert "Uncertain labels" not in page.render(bare)


def test_what_lies_outside_the_plan_stands_with_the_facts(material, decision, evidence, usual, bare):
    """Settings and starting weights are facts on the page, and what the plan does not cover is said beside them."""
    text = Page(usual).text
    assert "train.epochs 9" in text
    assert "patients in that training no patient of this data set" in text
    assert "found none outside the plan's bounds" in text
    sentence = "train.epochs is 900, and the plan allows 1 to 100."
    outside = decision(evidence(), "INSUFFICIENT EVIDENCE", reasons=[Reason(code="OUTSIDE_PLAN", sentence=sentence)])
    text = Page(page.render(material(verdict=outside))).text
    assert sentence in text[text.index(" Facts These lie outside") :]
    assert "does not state what the challenger is" in Page(page.render(bare)).text


def test_holds_are_visible_at_once(material, decision, evidence):
    """A hold stands between verdict and reasons of a PROMOTE with the number of people, and after those of a REJECT."""
    hold = Reason(code="HARM_SIGNAL", finding="Mass", subgroup="view=AP", sentence="Mass in view=AP: worse by 0.04.")
    for word, heading in (("PROMOTE", "2 persons must agree"), ("REJECT", "Signals that somebody should look at")):
        reasons = [Reason(code="X", sentence="Macro reason."), hold]
        html = page.render(material(verdict=decision(evidence(), word, reasons=reasons, approvals=2)))
        text = Page(html).text
        first = text[: text.index("Mean AUC, challenger")]
        assert heading in first
        assert (first.index(words.prose(hold.sentence)) < first.index("Macro reason.")) == (word == "PROMOTE")
        assert "view AP: each finding, 1 harm signal" in text
        assert "female patients: each finding, " not in text


def test_the_first_screen_stays_short_however_many_reasons_there_are(material):
    """Six reasons stand beside the first figure; a click opens the others, and none is lost."""
    given = material(word="REJECT")
    html = page.render(given)
    first = html[html.index('id="reasons"') : html.index("<details>")]
    assert first.count("<li>") == 6
    assert f"{len(given.verdict.reasons) - 6} more" in html


def test_the_record_of_period_reference_and_superiority_is_shown(material, decision, evidence):
    """Test period and look, the reference, what is judged by the widest margin and what was shown to be better."""
    verdict = decision(evidence(), period=2, looks=7, superior=True, superior_findings=["Pleural_Thickening", "Mass"])
    text = Page(page.render(material(verdict=verdict))).text
    for sentence in (
        "period 2, look 7",
        f"{verdict.reference.package[:12]} , version 1",
        "Judged by the widest margin Hernia",
        "the mean, than the reference's; Pleural Thickening, Mass, than the champion's",
    ):
        assert sentence in text


def test_an_evaluation_without_the_new_figures_is_told_in_words(bare):
    """Where evidence holds no subgroup, threshold or facts, the sections say so, and no section is silently absent."""
    text = Page(page.render(bare)).text
    for sentence in (
        "The evidence holds no subgroup",
        "No thresholds were chosen",
        "No probability was recalibrated",
        "No check was made",
        "look not recorded",
    ):
        assert sentence in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_a_nan_never_reaches_a_reader(usual):
    """Undefined figures are said in words with their reason and what is needed; `nan` and `None` occur nowhere."""
    text = Page(usual).text
    assert "not evaluable: no positive image in the test set" in text
    assert "at least 1 positive patient" in text
    assert not re.search(r"\b(nan|None|inf)\b", text)


def test_a_report_with_nothing_undefined_says_so(material, evidence):
    """The section on undefined figures is never silently absent."""
    evaluation = evidence(undefined=())
    text = Page(page.render(material(evaluation=evaluation))).text
    assert "every figure of this report could be computed" in text


def test_a_demonstration_is_marked_and_a_clinical_plan_is_not(material, decision, evidence, usual):
    """The banner stands under a plan that is not for clinical use, and only there."""
    assert "NOT FOR CLINICAL USE" in usual
    real = material(verdict=decision(evidence(), clinical_use=True, approvals=2))
    html = page.render(real)
    assert "NOT FOR CLINICAL USE" not in html
    assert "only after approval by 2 persons" in html


def test_generated_data_are_marked_whatever_the_plan(material, decision, evidence):
    """Report and summary say so under any plan, also on what an earlier version drew; those on real data do not."""
    evaluation = evidence()
    clinical = decision(evaluation, clinical_use=True, approvals=2)
    facts = evaluation.facts

    def rendered(source: str, batch: str) -> list[str]:
        told = evaluation.model_copy(update={"facts": facts.model_copy(update={"sources": [source]})})
        inputs = material().inputs
        inputs = inputs.model_copy(update={"data": inputs.data.model_copy(update={"batches": {batch: "0" * 64}})})
        case = material(evaluation=told, verdict=clinical, inputs=inputs, batches=[], proofs=[])
        return [page.render(case), page.render_summary(case)]

    for html in (*rendered("generated", "drawn"), *rendered("nih", "synthetic-1")):
        assert "GENERATED DATA." in html
        assert "people who do not exist" in html
    for html in rendered("nih", "2026-03"):
        assert "GENERATED DATA" not in html


@pytest.mark.parametrize("word", ["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"])
def test_the_verdict_stands_first_with_every_reason(material, word):
    """The verdict comes before any number, and each reason's sentence and code are on the page."""
    given = material(word=word)
    text = Page(page.render(given)).text
    assert text.index(word) < text.index("Mean AUC")
    for reason in given.verdict.reasons:
        assert words.prose(reason.sentence) in text
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
    assert "auc-title" in html
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
    assert html.count("<script") == 1  # the page's own
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
        for name in ("challenger", "champion", "reference", "limit"):
            assert contrast(colour[name], colour["paper"]) >= 3, name


def test_a_gallery_that_would_be_too_heavy_says_what_it_leaves_out(material, monkeypatch):
    """Beyond the budget the least telling cases are left out and counted, whatever their finding."""
    given = material()
    size = len(figures.compress(given.pictures["0.png"]))
    monkeypatch.setattr(cases, "GALLERY_BYTES", int(2.5 * size))
    html = page.render(given)
    assert html.count("<image") == 2
    assert {"found now", "false negative"} == set(re.findall(r"<strong>\w+, ([a-z ]+)\.</strong> Label", html))
    assert "3 more cases" in html


def test_the_page_is_small(material):
    """Without pictures the page stays below 800 kB; the gallery's budget then keeps it below 15 megabytes."""
    given = material()
    empty = given.explanation.model_copy(update={"cases": []})
    assert len(page.render(replace(given, explanation=empty)).encode()) < 800_000
    assert cases.GALLERY_BYTES * 4 / 3 + 800_000 < 15_000_000


def test_a_picture_is_embedded_once_and_drawn_in_every_panel(usual):
    """Each case has its radiograph alone and under the map of each model; the map's outlines lie in its square."""
    assert usual.count("data:image/jpeg") == usual.count("<image") == 5
    assert usual.count('<use href="#case-') == 10
    numbers = [int(word) for path in re.findall(r' d="(M[^"]*Z)"', usual) for word in re.findall(r"\d+", path)]
    assert numbers
    assert max(numbers) <= 1000
    assert usual.count('<rect x="250" y="500" width="125" height="250"') == 6  # two cases with a box, three panels


def test_every_case_is_told_in_words(usual):
    """Label, probability, call, where the peak lies, empty maps, missing cases and the pointing game are in words."""
    text = Page(usual).text
    for sentence in (
        "Effusion, found now. Label: present.",
        "Challenger: 0.97, called (threshold 0.50). The map's peak lies in the annotated box.",
        "Champion: 0.03, not called (threshold 0.50).",
        "Challenger: 0.08, not called (threshold 0.50). No region of the picture speaks for the finding: the map is",
        "Challenger: 0.88, called (threshold 0.50). The map's peak lies outside the annotated box.",
        "A map has 3 \u00d7 3 cells, since the network sees 96 \u00d7 96 pixels",
        "Hernia: no test image has it.",
        "Hernia no scored image has a box",
        "Mass 40 / 31 0.650 (0.500 to 0.800) 0.111",
    ):
        assert sentence in text


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (None, "The picture explain/0.png is missing."),
        (b"<svg onload=alert(1)>", "The picture explain/0.png cannot be shown: it is not a PNG."),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "The picture explain/0.png cannot be shown: it is damaged"),
    ],
)
def test_a_picture_that_is_missing_or_damaged_is_said_and_hides_no_case(material, data, says):
    """Nothing but a PNG goes into the page; a case without its picture keeps its figures, and the top says so."""
    given = material()
    left = {name: png for name, png in given.pictures.items() if name != "0.png"}
    html = page.render(replace(given, pictures=left if data is None else left | {"0.png": data}))
    text = Page(html).text
    assert text.index("INCOMPLETE.") < text.index(says) < text.index("Retraining report")
    assert text.count(says) == 2
    assert "onload" not in html
    assert html.count("data:image/jpeg") == len(given.explanation.cases) - 1
    assert "Challenger: 0.97, called" in text


def test_evidence_with_findings_out_of_order_is_refused(material, evidence):
    """The page draws rows by position, so it takes the 14 findings in their one order or nothing."""
    evaluation = evidence()
    swapped = evaluation.model_copy(update={"findings": evaluation.findings[::-1]})
    with pytest.raises(ValueError, match="not the 14 findings"):
        page.render(material(evaluation=swapped))
    assert len(FINDINGS) == 14


def test_the_summary_does_not_depend_on_what_was_measured_on_the_test_set(material, decision, evidence):
    """Runs that differ in every test figure, count, case, check and sentence give the same summary, byte for byte."""
    one = material(word="REJECT")
    evaluation = evidence(seed=7, undefined=("Hernia", "Mass"), test_images=977, test_patients=255)
    evaluation = evaluation.model_copy(
        update={"uncertain": {"Nodule": 3}, "missing_groups": [], "problems": [("X", "y")]}
    )
    reasons = [reason.model_copy(update={"sentence": "0.123", "finding": "Edema"}) for reason in one.verdict.reasons]
    verdict = decision(
        evaluation,
        "REJECT",
        reasons=[*reasons[::-1], reasons[0]],
        evidence_says="INSUFFICIENT EVIDENCE",
        superior=True,
        superior_findings=["Edema"],
        limited_findings=[],
        approvals=3,
    )
    other = material(word="REJECT", evaluation=evaluation, verdict=verdict)
    other = replace(
        other,
        curves={},
        split=[replace(side, images=side.images + 1, positives={}) for side in one.split],
        explanation=one.explanation.model_copy(update={"cases": [], "missing": [], "pointing": []}),
        proofs=[],
    )
    assert one.evaluation.findings[0] != evaluation.findings[0]
    assert page.render_summary(other) == page.render_summary(one)


def test_the_summary_tells_plan_validation_and_digests_and_leaves_the_verdict_to_publishing(
    material, decision, evidence
):
    """What does not depend on the plans of later is there: plan, validation figures, settings, digests; no verdict."""
    sentence = "train.epochs is 900, and the plan allows 1 to 100."
    reasons = [
        Reason(code="HARM_SIGNAL", finding="Mass", subgroup="view=AP", sentence="Mass in view=AP: -0.041."),
        Reason(code="OUTSIDE_PLAN", sentence=sentence),
        Reason(code="WORSE", finding="Mass", sentence="Mass: -0.039."),
        Reason(code="WORSE", finding="Edema", sentence="Edema: -0.038."),
    ]
    given = material(verdict=decision(evidence(), "REJECT", reasons=reasons))
    html = page.render_summary(given)
    text = Page(html).text
    for told in (
        "NOT FOR CLINICAL USE",
        "Challenger 0.842",
        "Champion 0.836",
        "train.epochs 9",
        "optimiser AdamW",
        "input.image size 96",
        "period 1, look 3",
        given.evaluation.challenger,
        given.verdict.plan.sha256,
        given.inputs.data.revision,
    ):
        assert told in text, told
    assert html.count("training-title") == 2  # the figure's own id, and the reference to it
    assert not {"Mass: -0.039.", "Edema: -0.038.", "view=AP"} & set(text.split("  "))
    assert "-0.03" not in text
    assert not [word for word in ("REJECT", "stays in use", "WORSE", sentence) if word in html]
    assert f"{SKIP}{page.PUBLISHED_MARK}" in html
    assert html.count(page.TOLD_MARK) == 1


@pytest.mark.parametrize("render", [page.render, page.render_summary])
def test_another_plan_than_expected_is_said_at_the_top(material, decision, evidence, render):
    """Report and summary begin with the plan that was expected, and with what the run's own plan asks for less."""
    other = OtherPlan(than="the plan in force", name="strict", sha256="5" * 64, looser=["max_looks 10 -> 1000"])
    verdict = decision(evidence(), "PROMOTE").model_copy(update={"other_plan": other})
    text = Page(render(material(verdict=verdict))).text
    said = "another plan than the plan in force: demonstration instead of strict. Looser: max_looks 10 -> 1000."
    assert text.index(said) < 400  # before what the run came to
    assert "Judged under another plan" not in Page(render(material())).text


@pytest.mark.parametrize("render", [page.render, page.render_summary])
def test_figures_of_the_validation_set_are_marked_at_the_top(material, evidence, render):
    """Where the test set was not scored, report and summary begin with that, and otherwise do not say it."""
    one = material()
    unscored = material(evaluation=evidence().model_copy(update={"scored": "validation"}))
    said = "NOT THE TEST SET. No look at the test set is on the ledger, so it was not scored."
    assert 0 <= Page(render(unscored)).text.find(said) < 400
    assert said not in Page(render(one)).text


def test_a_summary_of_an_old_evaluation_says_what_is_missing(bare):
    """Without validation figures or facts, the summary is made all the same."""
    text = Page(page.render_summary(bare)).text
    assert "No validation figure was recorded" in text
    assert not re.search(r"\b(nan|None|inf)\b", text)
