"""The history that a ledger tells, and what a rollback does to champion, reference and looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from books import LIMITS, Book

from cxr_ops.audit import public, rules
from cxr_ops.audit.history import History, history, span
from cxr_ops.audit.state import allowance, find_promotion, reference_after, rolled_back, taken_looks
from cxr_ops.errors import RefusedError, SettingsError
from cxr_ops.records.inputs import Reference


@pytest.fixture
def book() -> Book:
    return Book()


def told(book: Book) -> History:
    return history(public.shown(book.entries))


def test_each_champion_has_its_time_its_people_and_its_reason(book: Book) -> None:
    """Reigns follow one another without a gap, and name who asked, agreed, or went back, and why."""
    first = book.promote("1")
    second = book.promote("2")
    rejected = book.decide("3", verdict="REJECT")
    back = book.back_to(first)
    found = told(book)
    assert [(one.version, one.since, one.until) for one in found.reigns] == [
        ("1", first.at, second.at),
        ("2", second.at, back.at),
        ("1", back.at, None),
    ]
    assert [one.why for one in found.reigns] == [
        "PROMOTE under the plan nih",
        "PROMOTE under the plan nih",
        "rolled back: it was slow",
    ]
    assert [one.who for one in found.reigns] == [
        "asked for by dr_ruiz; approved by dr_lee",
        "asked for by dr_ruiz; approved by dr_lee",
        "dr_ito",
    ]
    assert [one.ended_by_rollback for one in found.reigns] == [False, True, False]
    assert [(one.identifiers.run, one.verdict, one.promoted) for one in found.judged] == [
        ("run-1", "PROMOTE", True),
        ("run-2", "PROMOTE", True),
        ("run-3", "REJECT", False),
    ]
    assert found.judged[-1].entry == rejected.digest()


def test_history_tells_no_more_than_the_plan_lets(book: Book) -> None:
    """Under `disclosure: promotion` a rejection is NOT PROMOTED, and no figure is told until the period has ended."""
    book.promote("1", limits=LIMITS)
    book.decide("2", verdict="REJECT", limits=LIMITS)
    assert [(one.verdict, one.figures_told) for one in told(book).judged] == [
        ("PROMOTE", False),
        ("NOT PROMOTED", False),
    ]
    whole = history(public.whole(book.entries))
    assert [(one.verdict, one.figures_told) for one in whole.judged] == [("PROMOTE", True), ("REJECT", True)]
    book.new_period(2)
    assert [(one.verdict, one.figures_told) for one in told(book).judged] == [("PROMOTE", True), ("REJECT", True)]


def test_day_names_all_that_was_in_use_on_it(book: Book) -> None:
    """On a day of a change both models are named, before the first none, and at an instant exactly one."""
    book.promote("1")  # entries of March 1st to 4th at noon
    book.promote("2")  # March 5th to 8th
    found = told(book)

    def on(text: str) -> list[str]:
        return [one.version for one in found.during(*span(text))]

    assert on("2026-03-03") == []
    assert on("2026-03-04") == on("2026-03-07") == ["1"]
    assert on("2026-03-08") == ["1", "2"]
    assert on("2027-01-01") == ["2"]
    assert on("2026-03-08T11:59:59") == on("2026-03-08T12:59:59+01:00") == ["1"]
    assert on("2026-03-08T12:00") == on("2026-03-08T12:30:00Z") == ["2"]
    with pytest.raises(SettingsError, match="is no date"):
        span("yesterday")


def test_rollback_answers_no_look(book: Book) -> None:
    """Going back neither spends a look nor gives back what one has spent: the next look is left the same."""
    first = book.promote("1", limits=LIMITS)
    book.promote("2", limits=LIMITS)
    before = allowance(book.entries, LIMITS, 1)
    book.back_to(first)
    assert allowance(book.entries, LIMITS, 1) == before
    assert len(taken_looks(book.entries, 1)) == 2


def test_rollback_leaves_the_reference_where_it_is(book: Book) -> None:
    """What challengers are held against never falls, and what the withdrawn model would have raised it to lapses."""
    first = book.promote("1", raises=True)
    book.promote("2", raises=True)
    assert reference_after(book.entries) == Reference(package="1", version="1")
    book.back_to(first)
    assert reference_after(book.entries) == Reference(package="1", version="1")
    book.new_period(2)
    assert reference_after(book.entries) == Reference(package="1", version="1")

    book.promote("3", raises=True)
    book.new_period(3)
    assert reference_after(book.entries) == Reference(package="3", version="3")
    book.back_to(first)
    book.new_period(4)
    assert reference_after(book.entries) == Reference(package="3", version="3")


def test_pending_rise_of_the_model_that_comes_back_is_kept(book: Book) -> None:
    """A model that beat the reference and is gone back to becomes the reference with the next period."""
    book.promote("1")
    second = book.promote("2", raises=True)
    book.promote("3", raises=True)
    book.back_to(second)
    book.new_period(2)
    assert reference_after(book.entries) == Reference(package="2", version="2")


def test_withdrawn_package_is_not_promoted_by_being_judged_again(book: Book) -> None:
    """The bytes that a rollback took out of use are refused to `promote` until a person brings them back."""
    first = book.promote("1")
    second = book.promote("2")
    back = book.back_to(first, "wrong laterality")
    assert rolled_back(book.entries) == {"2": back}
    again = book.decide("2")
    with pytest.raises(RefusedError, match="taken out of use by dr_ito: wrong laterality") as raised:
        rules.check_not_rolled_back(book.entries, again.decision)
    assert "cxr-ops rollback 2" in str(raised.value.fix)
    rules.check_not_rolled_back(book.entries, book.decide("3").decision)
    book.back_to(second)
    assert rolled_back(book.entries).keys() == {"1"}
    rules.check_not_rolled_back(book.entries, again.decision)


def test_what_to_return_to_is_named_by_version_run_or_airflow(book: Book) -> None:
    """The last promotion of a model is found by any of its names; one that was never champion is refused."""
    first = book.promote("1")
    book.promote("2")
    book.decide("3")
    for name in ("1", "run-1", "manual__1"):
        assert rules.promotion_to_return_to(book.entries, name) == first
    back = book.back_to(first)
    assert rules.promotion_to_return_to(book.entries, "1") == back == find_promotion(book.entries, "run-1")
    for name in ("3", "run-3", "nothing"):
        with pytest.raises(RefusedError, match="was never the champion") as raised:
            rules.promotion_to_return_to(book.entries, name)
        assert "cxr-densenet121/1, cxr-densenet121/2" in str(raised.value)


def test_history_of_an_empty_ledger_is_empty(tmp_path: Path) -> None:
    """Where nothing was decided there are no champions, and nobody was in use at any time."""
    found = history([])
    assert (found.reigns, found.judged, found.during(*span("2026-01-01"))) == ((), (), ())
