"""What follows from the ledger's entries: champion, reference, test period, looks. Nothing else is asked."""

from __future__ import annotations

from collections.abc import Iterable

from cxr_ops.audit.entries import Entry, Look
from cxr_ops.errors import SettingsError
from cxr_ops.records.inputs import LedgerState, Limits, Period, Reference


def open_period(entries: list[Entry]) -> Period:
    """The test period that is open after these entries; the first one needs no entry."""
    last = next((entry.period for entry in reversed(entries) if entry.opens_period), None)
    return Period(number=last.number, closed_batches=last.closed_batches) if last else Period()


def spent_looks(entries: list[Entry], period: int) -> list[tuple[str, str]]:
    """The looks spent in a test period, as (model, test digest), in the order in which they were spent."""
    looks = (entry.look for entry in entries if entry.kind == "look")
    return list(
        dict.fromkeys(
            (look.model, look.test_digest) for look in looks if (look.role, look.period) == ("challenger", period)
        )
    )


def plan_in_force(entries: list[Entry]) -> Entry | None:
    """The entry that put the plan in force after these entries; None before the first look, or in an old ledger."""
    return next((entry for entry in reversed(entries) if entry.kind == "plan"), None)


def strictest(limits: Iterable[Limits | None]) -> Limits | None:
    """Of each limit the strictest, passing over None; None where there is nothing else.

    >>> loose = Limits(max_looks=9, approvals=0, disclosure="verdict", require_clean_code=False)
    >>> str(strictest([loose, None, Limits(max_looks=99, approvals=2, disclosure="all", require_clean_code=True)]))
    "max_looks=9 approvals=2 disclosure='verdict' require_clean_code=True"
    """
    known = [one for one in limits if one is not None]
    if not known:
        return None
    return Limits(
        max_looks=min(one.max_looks for one in known),
        approvals=max(one.approvals for one in known),
        disclosure="verdict" if any(one.disclosure == "verdict" for one in known) else "all",
        require_clean_code=any(one.require_clean_code for one in known),
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
            in_force = entry.plan.limits
            found += [in_force] if number == period else []
        elif entry.kind == "look" and entry.look.period == period:
            found.append(entry.look.limits)
    return strictest(found)


def state_after(entries: list[Entry]) -> LedgerState:
    """Where the ledger stands after these entries."""
    looked = spent_looks(entries, open_period(entries).number)
    return LedgerState(
        entries=len(entries),
        head=entries[-1].digest() if entries else None,
        looks=len(looked),
        looked=looked,
        promotions=sum(entry.kind == "promotion" for entry in entries),
    )


def reference_after(entries: list[Entry], named: str | None = None) -> Reference | None:
    """The frozen model that challengers are judged against after these entries, None before the first release.

    Args:
        entries: the ledger.
        named: the package that the plan names; without one it is what the last promotion says, and where that says
            nothing, the first champion.

    Raises:
        SettingsError: the package that the plan names was never promoted.
    """
    promotions = [entry.promotion for entry in entries if entry.kind == "promotion"]
    wanted = named
    if named is None:
        for promotion in promotions:
            wanted = promotion.reference or wanted or promotion.package
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


def same_scoring(old: Look, new: Look) -> bool:
    """Whether a scoring on record is the one that is about to be done; a claim on it is another."""
    same = (old.period, old.model, old.test_digest) == (new.period, new.model, new.test_digest)
    return same and (old.role == "challenger" or new.role != "challenger")
