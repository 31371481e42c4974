"""What each look of a test period may spend of its error. Pure: a plan's terms and what happened before, no files.

Two methods. `equal` gives every look the same level. `recycled` walks a tree (a sequentially rejective graph: Bretz,
Maurer, Brannath, Posch, Statistics in Medicine 28 (2009) 586-604; for a test set that is used again: Feng, Pennello,
Petrick, Sahiner, Pirracchio, Gossmann, UAI 2022, PMLR 180:674-684). Its root holds the whole error of the period. A
look spends `success_weight` of what its node holds. A promotion hands what was spent on to the branch of success, and
it is spent again; the rest goes to the branch of failure, in equal parts to all outcomes that people who tune can tell
apart there.

Why the error of a period stays below what the root holds, whoever chooses the challengers: each node of the tree is one
claim, fixed by the outcomes on the way to it, and so is the champion that the claim is about. Call e(h) the largest
probability of a first false promotion at a node that holds h or below it. If the node's claim is false, that happens
here with at most w h, or after a failure, below a node that holds (1 - w) h. If the claim is true, no promotion here is
false; then it happens below a success, which holds w h, or below a failure. Either way e(h) is at most
e(w h) + e((1 - w) h), or w h + e((1 - w) h), and e(h) <= h solves both. Parts of the branch of failure add up to it. No
assumption is made on how the looks depend on one another. It is assumed that nobody learns more of the test set than
the outcomes that are counted here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cxr_ops.records.inputs import Spending

# A level below this is none: no test set shows anything at it, and bounds there are beyond what their quantiles hold.
LEAST: Final = 1e-9


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened in a test period, in the order of the ledger: look number `look` (from 0) was taken, or promoted.

    A look that is not promoted needs no event of its own: from the moment that it is taken until it is promoted, what
    follows stands on the branch of failure. That also settles a look that is taken while an earlier one is undecided.
    """

    kind: Literal["look", "promotion"]
    look: int


@dataclass(frozen=True, kw_only=True)
class Level:
    """What one look may spend.

    Attributes:
        checks: one-sided error of each check, in (0, 0.5); below `LEAST` the look has nothing to spend.
        superiority: the same of the claim that a model beats the reference, by which the reference rises. Such claims
            can all come true one after another, so that nothing of them comes back: they share what a node holds.
    """

    checks: float
    superiority: float

    @property
    def spent_up(self) -> bool:
        """Whether nothing can be shown at this level."""
        return self.checks < LEAST


@dataclass(frozen=True, kw_only=True)
class Account:
    """The levels of a test period: those of the looks taken, in their order, and that of a look which would be next."""

    taken: tuple[Level, ...]
    next: Level


def account(terms: Iterable[Spending], events: Sequence[Event]) -> Account:
    """Work out what looks of a test period may spend.

    Where several plans had a say in the period, each has an account of its own over all events, and a look may spend
    the least that any of them gives it: each plan's promise is kept, whatever the others are like.

    Args:
        terms: how the plans spend; at least one.
        events: what happened, in the order of the ledger. A look's number is how many were taken before it; a promotion
            names a look that was taken before.

    Raises:
        ValueError: no terms, or events that are in no such order.

    >>> recycled = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)
    >>> account([recycled], []).next.checks
    0.04
    >>> found = account([recycled], [Event(kind="look", look=0), Event(kind="look", look=1)])
    >>> [round(level.checks, 6) for level in (*found.taken, found.next)]
    [0.04, 0.008, 0.0016]
    """
    accounts = [_one(one, events) for one in terms]
    if not accounts:
        raise ValueError("nothing says how the error of the period is spent")
    return Account(
        taken=tuple(_least(levels) for levels in zip(*(one.taken for one in accounts), strict=True)),
        next=_least([one.next for one in accounts]),
    )


def first(terms: Spending) -> Level:
    """What the first look of a test period may spend.

    >>> first(Spending(method="equal", alpha=0.005, max_looks=10)).checks
    0.005
    """
    return account([terms], []).next


def _least(levels: Sequence[Level]) -> Level:
    return Level(checks=min(level.checks for level in levels), superiority=min(level.superiority for level in levels))


def _one(terms: Spending, events: Sequence[Event]) -> Account:
    taken: list[Level] = []
    held = terms.period_alpha if terms.method == "recycled" else None
    for event in events:
        if event.kind == "look":
            if event.look != len(taken):
                raise ValueError(f"look {event.look} is no look that follows {len(taken)}")
            taken.append(_at(terms, held))
            if held is not None:
                held = (held - taken[-1].checks) / terms.told_failures
        elif event.look >= len(taken):
            raise ValueError(f"look {event.look} was promoted and not taken")
        elif held is not None:
            # Looks taken since then were judged against a champion that is none any more, and end here.
            held = taken[event.look].checks
    return Account(taken=tuple(taken), next=_at(terms, held))


def _at(terms: Spending, held: float | None) -> Level:
    """The level at a node; a plan of equal looks has no nodes."""
    if held is None or terms.success_weight is None:
        assert terms.alpha is not None, "equal looks have a level"  # noqa: S101 - `Spending` checks it
        return Level(checks=terms.alpha, superiority=terms.alpha)
    # Twelve digits: levels are written into records and read by people, and 0.8 x 0.05 is 0.04 there.
    return Level(
        checks=float(f"{terms.success_weight * held:.12g}"), superiority=float(f"{held / terms.max_looks:.12g}")
    )
