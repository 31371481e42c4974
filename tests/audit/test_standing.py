"""What is in use, was decided, and waits, as a ledger tells it."""

from __future__ import annotations

import pytest
from books import LIMITS, Book

from cxr_ops.audit import public
from cxr_ops.audit.entries import Approval
from cxr_ops.audit.standing import models, standing


@pytest.fixture
def book() -> Book:
    return Book()


def test_empty_ledger_stands_nowhere() -> None:
    """Before the first look there is no champion, nothing waits, and no look is spent."""
    found = standing([])
    assert (found.champion, found.reference, found.waiting, found.last) == (None, None, (), ())
    assert (found.period, found.looks, found.max_looks, found.entries, found.head) == (1, 0, None, 0, None)
    assert models([]) == ()


def test_run_waits_for_people_then_for_the_command(book: Book) -> None:
    """A PROMOTE that two must agree to waits for two, for one, for the command, and for nothing once overtaken."""
    decision = book.decide("1", approvals=2)

    def waiting() -> list[str]:
        return [outcome for _, outcome in standing(public.shown(book.entries)).waiting]

    assert waiting() == ["waits for 2 approvals"]
    for name, left in (("dr_lee", "waits for 1 approval"), ("Dr_Lee ", "waits for 1 approval")):
        book.add("approval", Approval(run="run-1", decision=decision.digest(), by=name, at="2026"))
        assert waiting() == [left]
    book.add("approval", Approval(run="run-1", decision=decision.digest(), by="dr_ito", at="2026"))
    assert waiting() == ["waits for promote"]
    book.promote("2")
    found = standing(public.shown(book.entries))
    assert found.waiting == ()
    assert [(one.identifiers.run, outcome) for one, outcome in found.last] == [
        ("run-2", "champion"),
        ("run-1", "overtaken by another champion"),
    ]


def test_models_say_what_each_is_now(book: Book) -> None:
    """Champion, earlier champions, one that was rolled back, and one that was never in use, the newest first."""
    first = book.promote("1")
    second = book.promote("2")
    third = book.promote("3")
    book.decide("4", verdict="REJECT")
    back = book.back_to(first)
    found = models(public.shown(book.entries))
    assert [(one.version, one.standing, one.reference) for one in found] == [
        ("4", "not promoted", False),
        ("3", "rolled back", False),
        ("2", "was champion", False),
        ("1", "champion", True),
    ]
    assert [(one.since, one.until) for one in found] == [
        (None, None),
        (third.at, back.at),
        (second.at, third.at),
        (back.at, None),
    ]


def test_what_waits_is_not_told_where_the_plan_withholds_it(book: Book) -> None:
    """Under `disclosure: promotion` a PROMOTE that waits looks like any run that was not promoted."""
    book.decide("1", limits=LIMITS, approvals=1)
    told = standing(public.shown(book.entries))
    assert told.waiting == ()
    assert [(one.verdict, outcome) for one, outcome in told.last] == [("NOT PROMOTED", "not promoted")]
    assert [outcome for _, outcome in standing(public.whole(book.entries)).waiting] == ["waits for 1 approval"]
    assert (told.looks, told.max_looks) == (1, 10)
