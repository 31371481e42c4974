"""Tests of cxr_ops.audit.state: the limits of a test period, and what its looks may spend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cxr_ops import plan as plans
from cxr_ops.audit import rules
from cxr_ops.audit.entries import Decision, Entry, Look, PeriodOpened, PlanAdopted, Promotion, make
from cxr_ops.audit.state import allowance, period_limits, plan_in_force, reference_after, strictest
from cxr_ops.errors import RefusedError
from cxr_ops.records.inputs import Limits, Spending, claim_of

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
        self.limits = STRICT.model_copy(update={"spending": spending})

    def _add(self, kind: Any, body: Any) -> Entry:
        self.entries.append(make(kind, body, self.entries))
        return self.entries[-1]

    def look(self, model: str, *, test: str = "t", claim: bool = True, period: int = 1) -> None:
        about = claim_of(self.champion, None, "p" * 64) if claim else None
        self._add("look", Look(model=model, test_digest=test, run=f"run-{model}", period=period, claim=about))

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
    home.look("a")
    home.look("b")
    home.look("b")
    assert len(allowance(home.entries, home.limits, 1).taken) == 2
    home.promote("a")
    home.look("b")
    found = allowance(home.entries, home.limits, 1)
    assert [level.checks for level in found.taken] == pytest.approx([0.04, 0.008, 0.032])
    assert len(set(found.claims)) == 2


def test_a_promotion_that_waited_while_looks_were_taken_gives_nothing_back() -> None:
    """Where error is recycled, a later look shuts the promotion that waits; equal looks have no such rule."""
    home = Installation(RECYCLED)
    home.look("a")
    decision = home.decide("a")
    rules._check_nothing_was_learned_since(home.entries, decision, home.limits)
    home.look("b")
    with pytest.raises(RefusedError, match="1 look was taken while run-a waited"):
        rules._check_nothing_was_learned_since(home.entries, decision, home.limits)
    rules._check_nothing_was_learned_since(home.entries, decision, home.limits.model_copy(update={"spending": ()}))


def test_looks_of_an_earlier_version_count_for_any_claim() -> None:
    """An entry that does not say its claim is the look of whatever is claimed of that model on that test set."""
    home = Installation(RECYCLED)
    home.look("a", claim=False)
    home.look("a")
    home.promote("a")
    found = allowance(home.entries, home.limits, 1)
    assert (len(found.taken), found.promoted) == (1, [True])


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
