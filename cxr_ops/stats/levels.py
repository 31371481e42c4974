"""What each look of a test period may spend of its error. Pure: a plan's terms and what happened before, no files.

Two methods. `equal` gives every look the same level. `recycled` walks a tree (a sequentially rejective graph: Bretz,
Maurer, Brannath, Posch, Statistics in Medicine 28 (2009) 586-604; for a test set that is used again: Feng, Pennello,
Petrick, Sahiner, Pirracchio, Gossmann, UAI 2022, PMLR 180:674-684). Its root holds the whole error of the period. A
look spends `success_weight` of what its node holds. A promotion hands what was spent on to the branch of success, and
it is spent again; the rest goes to the branch of failure, in equal parts to all outcomes that people who tune can tell
apart there. How many these are is a fact of each look, since a later plan tells nothing less of what was told before.

Why the error of a period stays below what the root holds, whoever chooses the challengers: each node of the tree is one
claim, fixed by the outcomes on the way to it, and so is the champion that the claim is about. Call e(h) the largest
probability of a first false promotion at a node that holds h or below it. If the node's claim is false, that happens
here with at most w h, or after a failure, below a node that holds (1 - w) h. If the claim is true, no promotion here is
false; then it happens below a success, which holds w h, or below a failure. Either way e(h) is at most
e(w h) + e((1 - w) h), or w h + e((1 - w) h), and e(h) <= h solves both. Parts of the branch of failure add up to it. No
assumption is made on how the looks depend on one another. It is assumed that nobody learns more of the test set than
the outcomes that are counted here. So the branch of success begins at its own look: for a promotion after a later look
nothing was set aside, and it leaves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from cxr_ops.records.inputs import Level, Spending

# A level below this is none: no test set shows anything at it, and bounds there are beyond what their quantiles hold.
LEAST: Final = 1e-9
TINIEST: Final = 1e-300  # what is left after hundreds of failures is still no zero


@dataclass(frozen=True, kw_only=True)
class Event:
    """What happened in a test period, in the order of the ledger: look number `look` (from 0) was taken, or promoted.

    A look that is not promoted needs no event of its own: from the moment that it is taken until it is promoted, what
    follows stands on the branch of failure. That also settles a look that is taken while an earlier one is undecided.

    `told`: of a look, the outcomes without promotion that people who tune could tell apart, by the plans of its time;
    None: they are without number, as where reasons or figures were told.
    """

    kind: Literal["look", "promotion"]
    look: int
    told: int | None = 1


def spent_up(level: Level) -> bool:
    """Whether nothing can be shown at a level.

    >>> spent_up(Level(checks=0.0016, superiority=0.0002)), spent_up(Level(checks=1e-10, superiority=1e-11))
    (False, True)
    """
    return level.checks < LEAST


def exceeds(judged: Level, left: Level) -> str:
    """Say in what a look was judged at more than is left for it; nothing where it was not.

    >>> exceeds(Level(checks=0.04, superiority=0.005), Level(checks=0.008, superiority=0.005))
    'may spend 0.8 % on each check, and was opened to spend 4 %'
    """
    over = [
        f"may spend {100 * may:.3g} % on {what}, and was opened to spend {100 * asked:.3g} %"
        for what, asked, may in (
            ("each check", judged.checks, left.checks),
            ("the claim that the model beats the reference", judged.superiority, left.superiority),
        )
        if asked > may
    ]
    return "; it ".join(over)


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


def after(terms: Sequence[Spending], outcomes: str) -> Level:
    """What the next look may spend after looks one by one: `p` promoted, `f` not.

    >>> recycled = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)
    >>> [after([recycled], outcomes).checks for outcomes in ("", "f", "pp")]
    [0.04, 0.008, 0.0256]
    """
    events: list[Event] = []
    for number, outcome in enumerate(outcomes):
        events.append(Event(kind="look", look=number))
        events += [Event(kind="promotion", look=number)] if outcome == "p" else []
    return account(terms, events).next


def explain(terms: Sequence[Spending], promoted: Sequence[bool], told: Sequence[int | None] = ()) -> str:
    """Say why a look may spend what it may.

    Args:
        terms: how the plans spend that have a say.
        promoted: of each look before it, whether it ended in a promotion.
        told: of each look before it, as `Event.told`, where that is known.

    >>> recycled = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)
    >>> explain([recycled], [True, False]).partition("back. ")[2]
    '2 looks before it; look 1 was promoted.'
    >>> explain([Spending(method="equal", alpha=0.005, max_looks=10)], [False])
    'Each look of the period may spend 0.5 %.'
    """
    parts = [_in_words(one) for one in terms]
    sentences = parts if len(parts) == 1 else [f"Plan {number}: {part}" for number, part in enumerate(parts, 1)]
    sentences += ["Of these the least holds."] if len(parts) > 1 else []
    if any(one.method == "recycled" for one in terms):
        sentences.append(_before(promoted))
        open_book = [str(number) for number, outcomes in enumerate(told, 1) if outcomes is None]
        if open_book:
            sentences.append(
                f"Of look{'' if len(open_book) == 1 else 's'} {', '.join(open_book)} more was told than a verdict: "
                "that leaves nothing to recycle."
            )
    return " ".join(sentences)


def _in_words(terms: Spending) -> str:
    if terms.method == "equal":
        return f"Each look of the period may spend {_percent(terms.alpha)}."
    left = terms.told_failures
    rest = (
        f" The {left} outcomes of a look without promotion that are told apart share what it leaves."
        if left > 1
        else ""
    )
    return (
        f"The period holds {_percent(terms.period_alpha)}. A look spends {_percent(terms.success_weight)} of what its "
        f"branch holds, and a promotion gives that back.{rest}"
    )


def _before(promoted: Sequence[bool]) -> str:
    if not promoted:
        return "It is the first look."
    won = [str(number) for number, yes in enumerate(promoted, 1) if yes]
    one = len(won) == 1
    which = f"look{'' if one else 's'} {', '.join(won)} {'was' if one else 'were'}" if won else "none was"
    return f"{len(promoted)} look{'' if len(promoted) == 1 else 's'} before it; {which} promoted."


def _percent(share: float | None) -> str:
    return f"{100 * (share or 0.0):.4g} %"


def _least(levels: Sequence[Level]) -> Level:
    return Level(checks=min(level.checks for level in levels), superiority=min(level.superiority for level in levels))


def _one(terms: Spending, events: Sequence[Event]) -> Account:
    taken: list[Level] = []
    told: list[int | None] = []
    held = terms.period_alpha if terms.method == "recycled" else None
    for event in events:
        if event.kind == "look":
            if event.look != len(taken):
                raise ValueError(f"look {event.look} is no look that follows {len(taken)}")
            taken.append(_at(terms, held))
            told.append(event.told)
            if held is not None:
                left = held - taken[-1].checks
                held = 0.0 if event.told is None else left / max(terms.told_failures, event.told)
        elif event.look >= len(taken):
            raise ValueError(f"look {event.look} was promoted and not taken")
        elif held is not None:
            last = event.look == len(taken) - 1
            held = taken[event.look].checks if last and told[event.look] is not None else 0.0
    return Account(taken=tuple(taken), next=_at(terms, held))


def _at(terms: Spending, held: float | None) -> Level:
    """The level at a node; a plan of equal looks has no nodes.

    Claims that a model beats the reference may all come true one after another, and nothing of them comes back: over
    the looks of a period they share what its nodes hold.
    """
    if held is None or terms.success_weight is None:
        assert terms.alpha is not None, "equal looks have a level"  # noqa: S101 - `Spending` checks it
        return Level(checks=terms.alpha, superiority=terms.alpha)
    # Twelve digits: levels are written into records and read by people, and 0.8 x 0.05 is 0.04 there.
    checks, superiority = (
        max(float(f"{share:.12g}"), TINIEST) for share in (terms.success_weight * held, held / terms.max_looks)
    )
    return Level(checks=checks, superiority=superiority)
