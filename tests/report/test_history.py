"""The history of champions as table, JSON, picture and page."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from xml.etree import ElementTree as ET

import histories
import pytest
from histories import change, judged, reign
from rich.console import Console

from cxr_ops.audit.history import History
from cxr_ops.report import figures, history

NOW = datetime(2026, 4, 1, tzinfo=UTC)


@pytest.fixture
def found() -> History:
    return histories.history()


@pytest.fixture
def aucs() -> dict[str, object]:
    return histories.aucs()


def test_strip_tells_a_better_model_from_an_easier_test_set(found: History, aucs) -> None:
    """Table, JSON and page hold learning, potential and retention of each run that has them."""
    of = {"2" * 64: change()}
    (row,) = history.parts(found, of)
    assert row[0] == "run-2"
    assert row[2].startswith("+0.050 (")
    assert row[4].startswith("+0.001 (")
    assert row[6] == "not evaluable"
    decisions = history.as_json(found, aucs, of)["decisions"]
    assert [one["change"] and one["change"]["mean"]["potential"]["value"] for one in decisions] == [None, 0.05, None]
    page = history.render(found, aucs, of, now=NOW)
    assert "A better model, or an easier test set?" in page
    assert "A better model, or an easier test set?" not in history.render(found, aucs, {}, now=NOW)
    assert history.parts_table(found, {}) is None


def test_table_has_a_line_a_champion(found: History, aucs) -> None:
    """Each line says from when, until when, with which AUC, why and by whom."""
    console = Console(record=True, width=300, file=None)
    console.print(history.table(found.reigns, aucs))
    lines = console.export_text().splitlines()[2:]
    assert [line.split()[0] for line in lines] == [f"cxr-densenet121/{version}" for version in "121"]
    assert "0.830 (0.822 to 0.838)" in lines[1]
    assert "2026-03-20 12:00, by a rollback" in lines[1]
    assert "in use" in lines[2]
    assert "rolled back: wrong <laterality>" in lines[2]
    assert "dr_ito" in lines[2]


def test_json_says_why_a_figure_is_missing(found: History, aucs) -> None:
    """A number that may not be told, or is not here, is null with its reason, and never left out."""
    said = history.as_json(found, aucs, {})
    assert [one["auc"] and one["auc"]["value"] for one in said["champions"]] == [0.81, 0.83, 0.81]
    assert said["decisions"][2]["auc"] is None
    assert said["decisions"][2]["auc_undefined"] == "its evidence is not on this machine"
    hidden = History(reigns=(), judged=(judged("1", 1, told=False),))
    (told,) = history.as_json(hidden, aucs, {"1" * 64: change()})["decisions"]
    assert (told["auc_undefined"], told["change"]) == ("withheld while its test period is open", None)
    assert history.parts(hidden, {"1" * 64: change()}) == []


def test_picture_has_each_event_once_and_the_same_bytes(found: History, aucs) -> None:
    """The picture is well-formed, draws each kind of event, and is the same for the same history and time."""
    drawn = history.draw(found, aucs, now=NOW)
    assert drawn == history.draw(found, aucs, now=NOW)
    root = ET.fromstring(figures.document(drawn))
    text = "".join(root.itertext())
    for word in ("promoted", "rolled back", "not promoted", "/1", "/2", "no figure told", "Mean AUC"):
        assert word in text
    uses = re.findall(r'<use href="#([^"]+)"', drawn)
    assert len(uses) >= 4  # two promotions, a rollback, a rejection
    without = history.draw(History(reigns=found.reigns[:1], judged=found.judged[:1]), aucs, now=NOW)
    assert "rolled back" not in without
    assert "not promoted" not in "".join(ET.fromstring(figures.document(without)).itertext()).replace(
        "decided on and not promoted", ""
    )


def test_value_that_is_not_told_is_not_in_the_picture(found: History, aucs) -> None:
    """Without figures the picture has the same events, and no number of the test set can be read from it."""
    bare = history.draw(found, {}, now=NOW)
    other = history.draw(
        History(
            reigns=tuple(reign(judged("1", 1, told=False), 1, None) for _ in range(1)),
            judged=(judged("1", 1, told=False),),
        ),
        aucs,
        now=NOW,
    )
    assert "0.8" not in "".join(ET.fromstring(figures.document(other)).itertext())
    assert "no figure told" in bare


def test_page_escapes_what_people_wrote(found: History, aucs) -> None:
    """The page holds the picture, both tables, and a reason as text and not as markup."""
    page = history.render(found, aucs, {}, now=NOW)
    assert "wrong &lt;laterality&gt;" in page
    assert "<laterality>" not in page
    assert "run-3" in page
    assert "<svg" in page
    empty = history.render(History(reigns=(), judged=()), {}, {}, now=NOW)
    assert "No model was promoted yet." in empty
    assert "<svg" not in empty


def test_picture_of_nothing_is_refused() -> None:
    """Before the first decision there is nothing to draw."""
    with pytest.raises(ValueError, match="nothing to draw"):
        history.draw(History(reigns=(), judged=()), {}, now=NOW)
