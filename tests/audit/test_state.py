"""Tests of cxr_ops.audit.state: the limits of a test period, and what its looks may spend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from books import Book

from cxr_ops import plan as plans
from cxr_ops.audit import rules
from cxr_ops.audit.entries import Decision, Entry, Look, PeriodOpened, PlanAdopted, Promotion, make
from cxr_ops.audit.state import (
    allowance,
    check_spending,
    judged_on,
    period_limits,
    plan_in_force,
    recorded_look,
    reference_after,
    strictest,
)
from cxr_ops.errors import RefusedError
from cxr_ops.records.inputs import Champion, Level, Limits, Spending, claim_of
from cxr_ops.stats import levels

LOOSE = Limits(max_looks=1000, approvals=0, disclosure="all", require_clean_code=False)
STRICT = Limits(max_looks=10, approvals=2, disclosure="verdict", require_clean_code=True)


def history(*steps: tuple[str, Any]) -> list[Entry]:
    """A ledger of these steps: `plan` with limits, `look` with (period, limits), `period` with a number."""
    entries: list[Entry] = []
    for kind, what in steps:
        if kind == "plan":
            body: Any = PlanAdopted(name="p", sha256="a" * 64, limits=what, by="dr_lee", reason="r", document={})
        elif kind == "look":
            body = Look(model=f"{len(entries)}", test_digest="t", run="r", period=what[0], limits=what[1])
        else:
            body = PeriodOpened(number=what, closed_batches=[], by="dr_lee", reason="r")
        entries.append(make(kind, body, entries))
    return entries


@pytest.mark.parametrize(
    ("steps", "period", "wanted"),
    [
        ([], 1, None),
        ([("look", (1, None))], 1, None),
        ([("plan", STRICT), ("plan", LOOSE)], 1, STRICT),
        ([("plan", LOOSE), ("look", (1, STRICT)), ("look", (1, LOOSE))], 1, STRICT),
        ([("plan", STRICT), ("period", 2), ("plan", LOOSE)], 2, STRICT),
        ([("plan", STRICT), ("plan", LOOSE), ("period", 2), ("look", (2, LOOSE))], 2, LOOSE),
        ([("plan", STRICT), ("plan", LOOSE), ("period", 2)], 1, STRICT),
    ],
    ids=["empty", "old looks", "replaced", "another run's", "in force at its start", "new period", "closed period"],
)
def test_strictest_limits_of_a_period_hold(steps: list[tuple[str, Any]], period: int, wanted: Limits | None) -> None:
    """What was in force or used in a period binds it to its end; a plan replaced before it began does not."""
    assert period_limits(history(*steps), period) == wanted


def test_each_limit_is_the_strictest_of_its_own() -> None:
    """A plan that is stricter in one thing and looser in another gains nothing by the other."""
    mixed = STRICT.model_copy(update={"max_looks": 3, "approvals": 0, "disclosure": "all"})
    found = period_limits(history(("plan", STRICT), ("look", (1, mixed))), 1)
    assert found == STRICT.model_copy(update={"max_looks": 3})


def test_last_plan_is_in_force() -> None:
    """Of several plan entries the last one counts, also after a new period."""
    entries = history(("plan", STRICT), ("plan", LOOSE), ("period", 2))
    assert plan_in_force(entries) == entries[1]
    assert plan_in_force([]) is None


RECYCLED = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)
EQUAL = Spending(method="equal", alpha=0.005, period_alpha=0.05, max_looks=10)


class Installation:
    """A ledger that grows: looks, decisions and promotions of models against the champion of the moment."""

    def __init__(self, *spending: Spending) -> None:
        self.entries: list[Entry] = []
        self.champion: str | None = None
        self.limits = STRICT.model_copy(update={"spending": spending, "disclosure": "promotion"})

    def _add(self, kind: Any, body: Any) -> Entry:
        self.entries.append(make(kind, body, self.entries))
        return self.entries[-1]

    def look(self, model: str, *, test: str = "t", claim: bool = True, period: int = 1) -> None:
        about = claim_of(self.champion, None, "p" * 64) if claim else None
        limits = self.limits if claim else None  # entries of an earlier version name neither
        body = Look(model=model, test_digest=test, run=f"run-{model}", period=period, claim=about, limits=limits)
        self._add("look", body)

    def decide(self, model: str, *, period: int = 1) -> Entry:
        digests = dict.fromkeys(("evaluation", "verdict_digest", "inputs", "report", "data_revision"), "d" * 64)
        decision = Decision(
            run=f"run-{model}", airflow_run_id=None, verdict="PROMOTE", plan="p", plan_sha256="p" * 64, approvals=0,
            package=model, recipe=None, champion=self.champion, test_digest="t", code_commit="c", code_dirty=False,
            image=None, run_commit="c", mlflow_run_id="m", model_version="1", period=period, **digests,
        )  # fmt: skip
        return self._add("decision", decision)

    def promote(self, model: str, *, period: int = 1, **more: Any) -> None:
        decision = self.decide(model, period=period)
        promotion = Promotion(
            run=f"run-{model}", decision=decision.digest(), approvals=[], package=model, recipe=None,
            model_version="1", run_commit="c", replaces=self.champion, **more,
        )  # fmt: skip
        self.champion = self._add("promotion", promotion).digest()

    def next(self, period: int = 1) -> float:
        return allowance(self.entries, self.limits, period).next.checks


def test_levels_follow_from_the_ledger() -> None:
    """0.04 at first, 0.032 after a promotion, 0.0064 after that and a failure; a decision alone gives nothing back."""
    home = Installation(RECYCLED)
    assert home.next() == pytest.approx(0.04)
    home.look("a")
    home.decide("x")
    assert home.next() == pytest.approx(0.008)  # not promoted, or not yet
    home.promote("a")
    assert home.next() == pytest.approx(0.032)
    home.look("b")
    found = allowance(home.entries, home.limits, 1)
    assert [level.checks for level in found.taken] == pytest.approx([0.04, 0.032])
    assert (found.promoted, found.next.checks) == ([True, False], pytest.approx(0.0064))
    assert home.next(period=2) == pytest.approx(0.04)


def test_a_claim_against_another_champion_is_another_look() -> None:
    """The same model on the same test set spends once, and once more where another champion stands there meanwhile."""
    home = Installation(RECYCLED)
    home.look("b")
    home.look("a")
    home.look("a")
    assert len(allowance(home.entries, home.limits, 1).taken) == 2
    home.promote("a")
    home.look("b")
    found = allowance(home.entries, home.limits, 1)
    assert [level.checks for level in found.taken] == pytest.approx([0.04, 0.008, 0.0064])
    assert len(set(found.claims)) == 2


@pytest.mark.parametrize("order", ["look decide later", "look later decide", "look later told decide"])
def test_only_the_last_look_can_end_in_a_promotion(order: str) -> None:
    """Where error is recycled a later look shuts a promotion, whenever it was decided; equal looks do not."""
    home = Installation(RECYCLED)
    home.look("a")
    decision = None
    for step in order.split()[1:]:
        if step == "later":
            home.look("b")
        elif step == "told":
            home.decide("b")
        else:
            decision = home.decide("a")
    assert decision is not None
    with pytest.raises(RefusedError, match=r"1 look was taken after that of run-a \(run-b\)") as raised:
        rules.check_is_last_look(home.entries, decision, home.limits)
    assert "train.seed" in raised.value.fix  # the same model again would be the same look
    rules.check_is_last_look(home.entries, decision, home.limits.model_copy(update={"spending": (EQUAL,)}))
    rules.check_is_last_look(home.entries, home.decide("b"), home.limits)


def test_a_repeat_of_a_look_that_was_left_behind_gives_nothing_back() -> None:
    """The same model again is the same look: what was learned since then shuts it out as before."""
    home = Installation(RECYCLED)
    home.look("a")
    home.look("b")
    home.look("a")
    assert len(allowance(home.entries, home.limits, 1).taken) == 2
    with pytest.raises(RefusedError, match="only the last look"):
        rules.check_is_last_look(home.entries, home.decide("a"), home.limits)


def test_looks_of_an_earlier_version_are_of_the_claim_that_was_decided() -> None:
    """An entry that does not say its claim is the look of its run's decision, and a repeat of nothing else."""
    home = Installation(EQUAL)
    home.look("a", claim=False)
    assert allowance(home.entries, home.limits, 1).claims == [None]
    home.promote("a")
    found = allowance(home.entries, home.limits, 1)
    assert (len(found.taken), found.promoted) == (1, [True])
    # Against the champion of now it is another claim, with a level of its own.
    again = Look(model="a", test_digest="t", run="again", claim=claim_of(home.champion, None, "p" * 64))
    assert recorded_look(home.entries, again) is None
    first = claim_of(None, None, "p" * 64)
    assert recorded_look(home.entries, again.model_copy(update={"claim": first})) == home.entries[0]


def test_looks_of_an_earlier_version_leave_nothing_to_recycle() -> None:
    """Nobody knows what was told of a look whose entry names no limits, so recycled looks after it have nothing."""
    home = Installation(RECYCLED)
    home.look("a", claim=False)
    found = allowance(home.entries, home.limits, 1)
    assert (found.taken[0].checks, found.told) == (pytest.approx(0.04), [None])
    assert levels.spent_up(found.next)
    assert "Of look 1 more was told" in levels.explain(home.limits.spending, found.promoted, found.told)


@pytest.mark.parametrize(
    ("disclosure", "spending", "told"),
    [
        ("promotion", (EQUAL,), 1),
        ("promotion", (RECYCLED,), 1),
        ("verdict", (RECYCLED,), 3),
        ("verdict", (EQUAL,), None),  # with its reasons
        ("all", (EQUAL,), None),
    ],
)
def test_what_was_told_of_a_look_is_counted_under_later_plans(
    disclosure: Any, spending: tuple[Spending, ...], told: int | None
) -> None:
    """A plan that recycles, adopted in mid-period, has no more than what the looks before it left untold."""
    home = Installation(RECYCLED)
    plan = PlanAdopted(name="p", sha256="a" * 64, limits=home.limits, by="l", reason="r", document={})
    before = Installation(*spending)
    before.limits = before.limits.model_copy(update={"disclosure": disclosure})
    before.look("a")
    before._add("plan", plan)
    found = allowance(before.entries, home.limits, 1)
    assert found.told == [told]
    assert found.next.checks == pytest.approx(0.008 / told if told else 0.0)
    before.look("b")  # by the plan of then, under the limits of now: no more is told than the strictest allows
    assert allowance(before.entries, home.limits, 1).told == [told, 1]


def test_a_look_may_spend_no_more_than_the_ledger_leaves() -> None:
    """Each check and the claim to beat the reference are compared; a look on record is held against its own place."""
    home = Installation(RECYCLED)
    home.look("a")
    new = Look(model="b", test_digest="t", run="r", limits=home.limits, claim="c" * 64)
    check_spending(home.entries, new, Level(checks=0.008, superiority=0.001))
    with pytest.raises(RefusedError, match=r"number 2 .* 0\.8 % on each check, and was opened to spend 4 %"):
        check_spending(home.entries, new, Level(checks=0.04, superiority=0.001))
    with pytest.raises(RefusedError, match=r"0\.1 % on the claim that the model beats the reference, .* spend 0\.5 %"):
        check_spending(home.entries, new, Level(checks=0.008, superiority=0.005))
    check_spending(home.entries, home.entries[0].look, Level(checks=0.04, superiority=0.005))


def test_no_plan_of_a_period_spends_more_than_the_strictest() -> None:
    """With equal and recycled looks in one period each look has the less of both, in whatever order the plans came."""
    limits = [STRICT.model_copy(update={"spending": (terms,)}) for terms in (RECYCLED, EQUAL)]
    assert strictest(limits).spending == (RECYCLED, EQUAL)
    assert strictest([*limits, limits[0]]).spending == (RECYCLED, EQUAL)
    home = Installation(RECYCLED, EQUAL)
    assert home.next() == 0.005
    for model in "ab":
        home.look(model)
    assert home.next() == pytest.approx(0.0016)


def test_a_plan_adopted_by_an_earlier_version_has_equal_looks() -> None:
    """Its limits say nothing of spending, and its text says alpha: no later plan of the period spends more."""
    document = {"modification_protocol": {"performance_evaluation": {"alpha": 0.005, "epoch_alpha": 0.05}}}
    body = PlanAdopted(name="p", sha256="a" * 64, limits=STRICT, by=None, reason="r", document=document)
    assert period_limits([make("plan", body, [])], 1).spending == (EQUAL,)
    silent = body.model_copy(update={"document": {}})
    assert period_limits([make("plan", silent, [])], 1) == STRICT


def test_a_model_that_beat_the_reference_becomes_it_with_the_next_period() -> None:
    """Where the error is recycled the reference stays within a period, and rises when the next one opens."""
    home = Installation(RECYCLED)
    home.promote("a", reference="a")
    home.promote("b", reference="a", raises=True)
    home.promote("c", reference="a")
    assert reference_after(home.entries).package == "a"
    home.entries.append(make("period", PeriodOpened(number=2, closed_batches=[], by="l", reason="r"), home.entries))
    assert reference_after(home.entries).package == "b"
    home.promote("d", period=2, reference="b")
    assert reference_after(home.entries).package == "b"


@pytest.mark.parametrize(("name", "later"), [("pccp.yaml", True), ("pccp.demo.yaml", False)])
def test_the_reference_rises_at_once_only_where_looks_are_equal(project: Path, name: str, later: bool) -> None:
    """Under recycled looks a promotion leaves the reference in its place, and says that it rises with the period."""
    plan = plans.load(project / name)
    home = Installation()
    home.promote("a", reference="a")
    decision = home.decide("b").decision
    for superior in (True, False):
        found = rules.rises_later(home.entries, plan, decision, superior=superior)
        reference = rules.next_reference(home.entries, plan, decision, superior=superior)
        assert (found, reference) == (superior and later, "b" if superior and not later else "a")


def test_what_the_champion_was_judged_on_is_its_own_look() -> None:
    """After later looks, a new period and a way back, it is the look on which the champion's decision rests."""
    book = Book()
    first = book.promote("a")
    book.promote("b")
    book.new_period(2)
    back = book.back_to(first)
    for number, entry in enumerate(book.entries):
        if entry.kind == "look":
            batches = {"batches": ["one"] if entry.look.model == "a" else ["one", "two"]}
            book.entries[number] = entry.model_copy(update={"body": entry.body | batches})
    found = judged_on(book.entries, Champion(package="a", version="1", entry=back.digest()))
    assert (found.run, found.period, found.batches) == ("run-a", 1, ["one"])
    assert judged_on(book.entries, Champion()) is None
    assert judged_on(history(("look", (1, None))), Champion(package="a", version="1", entry="e" * 64)) is None
