"""Tests of cxr_ops.audit.state: the limits of a test period."""

from __future__ import annotations

from typing import Any

import pytest

from cxr_ops.audit.entries import Entry, Look, PeriodOpened, PlanAdopted, make
from cxr_ops.audit.state import period_limits, plan_in_force
from cxr_ops.records.inputs import Limits

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
