"""The pages in a real browser: readable by everybody, by keyboard, on a phone, in the dark and on paper, and silent.

`axe` looks for what it can find of WCAG and of good practice; the other tests type, jump and measure.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import histories
import pytest
from books import Book
from browsers import Browser, axe, running
from second_truths import second_truth

from cxr_ops.records.report import Excluded
from cxr_ops.records.run import Spent
from cxr_ops.report import across, history, page, published

TAB, ENTER, RIGHT = ("Tab", 9), ("Enter", 13), ("ArrowRight", 39)
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser():
    """One browser for all tests of this file."""
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def pages(make_material, tmp_path_factory) -> dict[str, Path]:
    """The pages, by name; CXR_SCREENSHOTS, a folder, gets them and their pictures."""
    folder = tmp_path_factory.mktemp("pages")
    given = make_material()
    runs = [
        across.Run(
            name="first", opened_at=None, result=None, document=page.document(given), page="a.html", missing=("Gone.",)
        ),
        across.Run(name="second", opened_at=None, result=None, document=page.summary_document(given), page=None),
    ]
    # As `publish` writes them: names and commands that are longer than a phone is wide.
    entry = Book().decide("run-" * 20)
    lost = [Excluded(reason="left out of synthetic-1 at ingestion", images=12)]
    reported = page.render(
        replace(
            given,
            flow=given.flow.model_copy(update={"left_out": lost, "unrecorded": ["synthetic-1"], "corrected": 7}),
        )
    )
    texts = {
        "report": published.render(
            reported,
            entry,
            None,
            [entry],
            proof=[f"git clone {'/folder' * 20}"],
            links={"MLflow run": "https://mlflow.example.org/#/runs/1", "code": "https://git.example.org/commit/1"},
            spent=Spent(training="a", attempts=2, seconds=4212, processor_joules=3600),
            second=second_truth(),
        ),
        "first": page.render(make_material(champion=False, word="REJECT")),
        "summary": page.render_summary(given),
        "index": across.render_index(runs),
        "pair": across.render_pair(runs[0], runs[0]),
        "history": history.render(
            histories.history(), histories.aucs(), {"2" * 64: histories.change()}, now=datetime(2026, 4, 1, tzinfo=UTC)
        ),
    }
    made = {}
    for name, text in texts.items():
        made[name] = folder / f"{name}.html"
        made[name].write_text(text, encoding="utf-8")
    return made


def picture(browser: Browser, name: str) -> None:
    """Keep a picture of the window for people to look at, where a folder for it is named."""
    if folder := os.environ.get("CXR_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        browser.screenshot(Path(folder) / f"{name}.png")


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("report", {}),
        ("report", {"dark": True, **PHONE}),
        ("first", {"dark": True}),
        ("summary", {}),
        ("index", {}),
        ("pair", {"dark": True}),
        ("history", PHONE),
    ],
)
def test_axe_finds_no_violation(browser, pages, name, how):
    """With all that is folded opened, axe-core finds nothing, in light and dark, wide and on a phone."""
    browser.open(pages[name], **how)
    picture(browser, f"{name}-{'dark' if how.get('dark') else 'light'}-{how.get('width', 1280)}")
    browser.ask("for (const one of document.querySelectorAll('details')) one.open = true")
    browser.ask(axe() + "; 0")
    found = browser.ask(
        "axe.run(document, {resultTypes: ['violations']}).then(found => JSON.stringify(found.violations.map("
        "one => [one.id, one.nodes.length, one.nodes[0].html.slice(0, 200), one.nodes[0].failureSummary])))"
    )
    assert json.loads(found) == []


@pytest.mark.parametrize("name", ["report", "first", "summary", "index", "pair", "history"])
def test_the_console_is_silent_and_nothing_is_loaded(browser, pages, name):
    """No error or warning is logged, and no address is asked for, while a page is opened and used."""
    browser.open(pages[name])
    browser.ask("for (const one of document.querySelectorAll('input')) one.click()")
    assert browser.errors == []


@pytest.mark.parametrize("name", ["report", "first", "summary", "index", "pair", "history"])
def test_a_phone_shows_the_whole_width(browser, pages, name):
    """At 390 pixels nothing reaches out of the window but what can be scrolled by itself."""
    browser.open(pages[name], **PHONE)
    assert browser.ask("document.documentElement.scrollWidth") <= 390
    assert browser.ask(
        "[...document.querySelectorAll('h1, h2, p, ul')].every(one => one.getBoundingClientRect().right <= 390)"
    )


def test_the_first_figure_is_drawn_for_the_window(browser, pages):
    """On a phone the narrow drawing is shown, whole, with text of at least 9 pixels; on a screen the wide one."""
    shown = "[...document.querySelectorAll('#lead svg')].map(one => one.getBoundingClientRect().width)"
    browser.open(pages["report"])
    wide, narrow = browser.ask(shown)
    assert wide > 500
    assert narrow == 0
    browser.open(pages["report"], **PHONE)
    wide, narrow = browser.ask(shown)
    assert wide == 0
    assert 300 < narrow <= 390
    text = "[...document.querySelectorAll('#lead .slim text')].map(one => one.getBoundingClientRect().height)"
    assert min(browser.ask(text)) >= 9


def test_the_keyboard_reaches_the_verdict_first_and_opens_what_is_folded(browser, pages):
    """The first Tab shows the way to the verdict, Enter goes there, and Enter on a folded section opens it."""
    browser.open(pages["report"])
    browser.press(*TAB)
    assert browser.ask("document.activeElement.className") == "skip"
    assert browser.ask("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press(*ENTER, text="\r")
    assert browser.ask("location.hash") == "#verdict"
    browser.ask("document.querySelector('#training > details > summary').focus()")
    browser.press(*ENTER, text="\r")
    assert browser.ask("document.querySelector('#training > details').open")


def test_a_jump_opens_the_section_that_it_leads_to(browser, pages):
    """A link of the contents opens a folded section, and so does an address with its name."""
    browser.open(pages["report"])
    browser.ask("document.querySelector('nav a[href=\"#verify\"]').click()")
    browser.ask("new Promise(done => setTimeout(done, 50))")
    assert browser.ask("document.querySelector('#verify > details').open")
    assert browser.ask("Math.abs(document.querySelector('#verify').getBoundingClientRect().top)") < 900


def test_the_sliders_and_the_boxes_change_the_pictures(browser, pages):
    """An arrow key on the window's slider changes the contrast of pictures; without maps no outline is drawn."""
    browser.open(pages["report"])
    look = "getComputedStyle(document.querySelector('.panel image')).filter"
    before = browser.ask(look)
    browser.ask("document.querySelector('input[name=window]').focus()")
    browser.press(*RIGHT)
    assert browser.ask(look) != before
    browser.ask("document.querySelector('#show-maps').click()")
    assert browser.ask("getComputedStyle(document.querySelector('.heat')).display") == "none"


def test_all_is_on_paper(browser, pages):
    """Printed, what is folded is laid out and the contents are left out, on white even where the screen is dark."""
    browser.open(pages["report"], media="print", dark=True)
    height = "document.querySelector('#training > details table').getBoundingClientRect().height"
    assert browser.ask(height) > 50
    assert browser.ask("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert browser.ask("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_without_its_script_the_report_is_whole(browser, pages, tmp_path):
    """Taking the script out hides no text: only the sliders, which need it, are not there."""
    bare = tmp_path / "bare.html"
    text = pages["report"].read_text(encoding="utf-8")
    bare.write_text(text[: text.index("<script>")] + text[text.index("</script>") + 9 :], encoding="utf-8")
    browser.open(bare)
    without = browser.ask("document.body.textContent.length")
    browser.open(pages["report"])
    script = browser.ask("document.querySelector('script').textContent.length")
    assert abs(browser.ask("document.body.textContent.length") - script - without) < 5
    assert browser.ask("!document.querySelector('.sliders').hidden")
