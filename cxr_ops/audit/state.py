"""What follows from the ledger's entries: champion, reference, test period, looks. Nothing else is asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pydantic import ValidationError

from cxr_ops.audit.entries import Decision, Entry, Look, PlanAdopted
from cxr_ops.errors import SettingsError
from cxr_ops.records.inputs import Allowance, LedgerState, Limits, Period, Reference, Spending, claim_of
from cxr_ops.stats.levels import Event, account


def open_period(entries: list[Entry]) -> Period:
    """The test period that is open after these entries; the first one needs no entry."""
    last = next((entry.period for entry in reversed(entries) if entry.opens_period), None)
    return Period(number=last.number, closed_batches=last.closed_batches) if last else Period()


def spent_looks(entries: list[Entry], period: int) -> list[tuple[str, str]]:
    """The looks spent in a test period, as (model, test digest), in the order in which they were spent."""
    return [(look.model, look.test_digest) for look in taken_looks(entries, period)]


def taken_looks(entries: list[Entry], period: int) -> list[Look]:
    """The looks spent in a test period, each claim of a model on a test set once, in the order of the ledger."""
    return _history(entries, period)[0]


def find_look(looks: list[Look], model: str, test_digest: str, claim: str | None) -> int | None:
    """The place, from 0, of a claim of a model on a test set among looks; None where it is none of them."""
    return next((place for place, look in enumerate(looks) if _is_about(look, model, test_digest, claim)), None)


def claim_of_decision(decision: Decision) -> str:
    """What a challenger was claimed to be as good as when it was decided on."""
    return claim_of(decision.champion, decision.reference, decision.plan_sha256)


def allowance(entries: list[Entry], limits: Limits, period: int) -> Allowance:
    """What the looks of a test period may spend, as these entries have it.

    Args:
        entries: the ledger.
        limits: of the period; their `spending` names at least one plan's terms.
        period: its number.
    """
    looks, events = _history(entries, period)
    found = account(limits.spending, events)
    promoted = {event.look for event in events if event.kind == "promotion"}
    return Allowance(
        taken=list(found.taken),
        claims=[look.claim for look in looks],
        promoted=[place in promoted for place in range(len(looks))],
        next=found.next,
    )


def _history(entries: list[Entry], period: int) -> tuple[list[Look], list[Event]]:
    """The looks of a test period, and what happened to them in the order of the ledger."""
    looks: list[Look] = []
    events: list[Event] = []
    decisions: dict[str, Decision] = {}
    for entry in entries:
        if entry.kind == "look":
            look = entry.look
            new = find_look(looks, look.model, look.test_digest, look.claim) is None
            if (look.role, look.period) == ("challenger", period) and new:
                events.append(Event(kind="look", look=len(looks)))
                looks.append(look)
        elif entry.kind == "decision":
            decisions[entry.digest()] = entry.decision
        elif entry.kind == "promotion":
            decision = decisions.get(entry.promotion.decision)
            if decision is not None and decision.period == period:
                place = find_look(looks, decision.package, decision.test_digest, claim_of_decision(decision))
                events += [Event(kind="promotion", look=place)] if place is not None else []
    return looks, events


def _is_about(look: Look, model: str, test_digest: str, claim: str | None) -> bool:
    """Whether a look is that of a claim; one of an earlier version does not say its claim, and counts for any."""
    same = (look.model, look.test_digest) == (model, test_digest)
    return same and (look.claim is None or claim is None or look.claim == claim)


def plan_in_force(entries: list[Entry]) -> Entry | None:
    """The entry that put the plan in force after these entries; None before the first look, or in an old ledger."""
    return next((entry for entry in reversed(entries) if entry.kind == "plan"), None)


def strictest(limits: Iterable[Limits | None]) -> Limits | None:
    """Of each limit the strictest, passing over None; None where there is nothing else.

    >>> loose = Limits(max_looks=9, approvals=0, disclosure="verdict", require_clean_code=False)
    >>> str(strictest([loose, None, Limits(max_looks=99, approvals=2, disclosure="all", require_clean_code=True)]))
    "max_looks=9 approvals=2 disclosure='verdict' require_clean_code=True spending=()"
    """
    known = [one for one in limits if one is not None]
    if not known:
        return None
    return Limits(
        max_looks=min(one.max_looks for one in known),
        approvals=max(one.approvals for one in known),
        disclosure=min((one.disclosure for one in known), key=_TELLING.index),
        require_clean_code=any(one.require_clean_code for one in known),
        spending=tuple(dict.fromkeys(terms for one in known for terms in one.spending)),
    )


def period_limits(entries: list[Entry], period: int) -> Limits | None:
    """The strictest limits of all plans that were in force in a test period, or under which a look was taken in it.

    A run may name any plan, and a plan may be replaced: neither gains looks, sheds approvals or discloses what was
    withheld before the next period. None where no plan is known, as in the ledger of an earlier version.
    """
    found: list[Limits | None] = []
    number, in_force = 1, None
    for entry in entries:
        if entry.opens_period:
            number = entry.period.number
            found += [in_force] if number == period else []
        elif entry.kind == "plan":
            in_force = _with_spending(entry.plan)
            found += [in_force] if number == period else []
        elif entry.kind == "look" and entry.look.period == period:
            found.append(entry.look.limits)
    return strictest(found)


def _with_spending(adopted: PlanAdopted) -> Limits:
    """The limits of a plan; one that was put in force by an earlier version has equal looks, as its text says."""
    rules: Any = adopted.document.get("modification_protocol", {}).get("performance_evaluation", {})
    if adopted.limits.spending or not isinstance(rules, dict):
        return adopted.limits
    try:
        terms = Spending(
            method="equal",
            alpha=rules.get("alpha"),
            period_alpha=rules.get("period_alpha", rules.get("epoch_alpha")),
            max_looks=adopted.limits.max_looks,
        )
    except ValidationError:  # a text without what equal looks need says nothing of them
        return adopted.limits
    return adopted.limits.model_copy(update={"spending": (terms,)})


def state_after(entries: list[Entry]) -> LedgerState:
    """Where the ledger stands after these entries."""
    looks = taken_looks(entries, open_period(entries).number)
    return LedgerState(
        entries=len(entries),
        head=entries[-1].digest() if entries else None,
        looks=len(looks),
        looked=[(look.model, look.test_digest) for look in looks],
        promotions=sum(entry.kind == "promotion" for entry in entries),
    )


def reference_after(entries: list[Entry], named: str | None = None) -> Reference | None:
    """The frozen model that challengers are judged against after these entries, None before the first release.

    Args:
        entries: the ledger.
        named: the package that the plan names; without one it is what the last promotion says, and where that says
            nothing, the first champion. What is to become the reference with the next test period is so once that is
            open.

    Raises:
        SettingsError: the package that the plan names was never promoted.
    """
    promotions = [entry.promotion for entry in entries if entry.kind == "promotion"]
    wanted = named
    if named is None:
        raised: str | None = None
        for entry in entries:
            if entry.kind == "promotion":
                wanted = entry.promotion.reference or wanted or entry.promotion.package
                raised = entry.promotion.package if entry.promotion.raises else raised
            elif entry.opens_period:
                wanted, raised = raised or wanted, None
    if wanted is None:
        return None
    found = next((promotion for promotion in reversed(promotions) if promotion.package == wanted), None)
    if found is None:
        raise SettingsError(
            f"the reference {wanted[:12]}... was never promoted",
            where="reference.package of the plan",
            fix="name a package that `cxr-ops ledger show` lists in a promotion, or null for the first champion",
        )
    return Reference(package=found.package, version=found.model_version)


def last_promotion(entries: list[Entry]) -> Entry | None:
    """The promotion in force after these entries."""
    return next((entry for entry in reversed(entries) if entry.kind == "promotion"), None)


def last_decision(entries: list[Entry]) -> Entry | None:
    """The last decision among these entries."""
    return next((entry for entry in reversed(entries) if entry.kind == "decision"), None)


def approvals_to_leave(entries: list[Entry], plan_sha256: str) -> int:
    """How many people must agree to promote under a plan that is not the one of the last promotion, else 0.

    A run may name any plan. Without this, one that asks for nobody would be the way around one that asks for two.
    """
    promotion = last_promotion(entries)
    decision = promotion and find_decision(entries, promotion.promotion.run)
    if decision is None or decision.decision.plan_sha256 == plan_sha256:
        return 0
    return decision.decision.approvals


def find_decision(entries: list[Entry], run: str) -> Entry | None:
    """The decision on a run among these entries."""
    return next((entry for entry in entries if entry.kind == "decision" and entry.body["run"] == run), None)


def find_promotion(entries: list[Entry], run: str) -> Entry | None:
    """The promotion of a run's model among these entries."""
    return next((entry for entry in entries if entry.kind == "promotion" and entry.body["run"] == run), None)


# Of disclosures, the one that tells least comes first.
_TELLING: Final = ("promotion", "verdict", "all")


def same_scoring(old: Look, new: Look) -> bool:
    """Whether a scoring on record is the one that is about to be done; a claim on it is another."""
    if old.period != new.period:
        return False
    if new.role != "challenger":
        return (old.model, old.test_digest) == (new.model, new.test_digest)
    return old.role == "challenger" and _is_about(old, new.model, new.test_digest, new.claim)
