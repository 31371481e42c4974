"""What follows from the ledger's entries: champion, reference, test period, looks. Nothing else is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from pydantic import ValidationError

from cxr_ops.audit.entries import Decision, Entry, Look, PlanAdopted
from cxr_ops.audit.telling import outcomes
from cxr_ops.errors import RefusedError, SettingsError
from cxr_ops.records.inputs import (
    Allowance,
    Champion,
    Earlier,
    LedgerState,
    Level,
    Limits,
    Period,
    Reference,
    Spending,
    claim_of,
)
from cxr_ops.stats import levels
from cxr_ops.stats.levels import Event, account

# Of disclosures, the one that tells least comes first.
_TELLING: Final = ("promotion", "verdict", "all")


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
    """The place, from 0, of a claim of a model on a test set among looks; None where it is none of them.

    A look whose claim nobody knows may have been about anything, and is that of no claim: to take it for a repeat would
    let a new claim have its level.
    """
    wanted = (model, test_digest, claim)
    found = (place for place, look in enumerate(looks) if (look.model, look.test_digest, look.claim) == wanted)
    return next(found, None) if claim is not None else None


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
        told=[event.told for event in events if event.kind == "look"],
        next=found.next,
    )


def check_spending(entries: list[Entry], look: Look, level: Level) -> None:
    """See that the ledger leaves a challenger's look what its run was opened to spend.

    Args:
        entries: the ledger.
        look: on record, or about to be.
        level: what the run was opened to spend on it.

    Raises:
        RefusedError: the ledger leaves it less: another look was taken meanwhile, or a plan came into force.
    """
    limits = strictest([look.limits, period_limits(entries, look.period)])
    if limits is None or not limits.spending:
        return
    allowed = allowance(entries, limits, look.period)
    place = find_look(taken_looks(entries, look.period), look.model, look.test_digest, look.claim)
    left = allowed.next if place is None else allowed.taken[place]
    if over := levels.exceeds(level, left):
        number = len(allowed.taken) + 1 if place is None else place + 1
        raise RefusedError(
            f"the look of {look.run}, number {number} of test period {look.period}, {over}: since the run was opened "
            "another look was taken, or a plan came into force",
            where="inputs.json of the run, and the ledger",
            fix="retrain in a new run; it is opened with what the ledger leaves then: cxr-ops retrain --force",
        )


def _history(entries: list[Entry], period: int) -> tuple[list[Look], list[Event]]:
    """The looks of a test period, each with its claim where that is known, and what happened to them in order."""
    looks: list[Look] = []
    events: list[Event] = []
    decisions = {entry.digest(): entry.decision for entry in entries if entry.kind == "decision"}
    of_run = {decision.run: decision for decision in reversed(decisions.values())}
    limits: Limits | None = None
    for entry, said in _with_limits(entries, period):
        limits = strictest([limits, *said]) if said else limits
        if entry.kind == "look":
            look = _with_claim(entry.look, of_run)
            new = find_look(looks, look.model, look.test_digest, look.claim) is None
            if (look.role, look.period) == ("challenger", period) and new:
                events.append(Event(kind="look", look=len(looks), told=outcomes(limits)))
                looks.append(look)
        elif entry.kind == "promotion" and entry.promotion.rollback is None:  # a way back answers no look
            decision = decisions.get(entry.promotion.decision)
            if decision is not None and decision.period == period:
                place = find_look(looks, decision.package, decision.test_digest, claim_of_decision(decision))
                events += [Event(kind="promotion", look=place)] if place is not None else []
    return looks, events


def _with_claim(look: Look, decisions: Mapping[str, Decision]) -> Look:
    """A look of an earlier version does not say its claim: the decision on its run does, where there is one."""
    decision = decisions.get(look.run)
    if look.claim is not None or decision is None or look.role != "challenger":
        return look
    same = (decision.package, decision.test_digest) == (look.model, look.test_digest)
    return look.model_copy(update={"claim": claim_of_decision(decision)}) if same else look


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
    return strictest(limits for _, said in _with_limits(entries, period) for limits in said)


def _with_limits(entries: list[Entry], period: int) -> Iterator[tuple[Entry, list[Limits | None]]]:
    """Each entry, with the limits that a test period is bound by from it on."""
    number, in_force = 1, None
    for entry in entries:
        said: list[Limits | None] = []
        if entry.opens_period:
            number = entry.period.number
            said = [in_force] if number == period else []
        elif entry.kind == "plan":
            in_force = _with_spending(entry.plan)
            said = [in_force] if number == period else []
        elif entry.kind == "look" and entry.look.period == period:
            said = [entry.look.limits]
        yield entry, said


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


def judged_on(entries: list[Entry], champion: Champion) -> Earlier | None:
    """The test set that the champion was judged on when it was first promoted; None where the ledger does not say.

    A rollback promotes on the decision of then, so that what it brings back was judged on the test set of then.
    """
    promotion = next((entry.promotion for entry in entries if entry.digest() == champion.entry), None)
    decision = next(
        (entry.decision for entry in entries if promotion is not None and entry.digest() == promotion.decision), None
    )
    if decision is None:
        return None
    scored = (entry.look for entry in entries if entry.kind == "look")
    wanted = ("challenger", decision.package, decision.test_digest)
    look = next((one for one in scored if (one.role, one.model, one.test_digest) == wanted and one.batches), None)
    if look is None:
        return None
    periods = (entry.period for entry in entries if entry.opens_period)
    closed = next((one.closed_batches for one in periods if one.number == look.period), [])
    return Earlier(
        run=decision.run,
        test_digest=decision.test_digest,
        period=look.period,
        batches=sorted(look.batches),
        closed_batches=sorted(closed),
    )


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
            open, unless a rollback went behind its promotion meanwhile.

    Raises:
        SettingsError: the package that the plan names was never promoted.
    """
    promotions = [entry.promotion for entry in entries if entry.kind == "promotion"]
    wanted = named
    if named is None:
        rising: list[Entry] = []
        for entry in entries:
            if entry.kind == "promotion":
                wanted = entry.promotion.reference or wanted or entry.promotion.package
                if (rollback := entry.promotion.rollback) is not None:
                    kept = next((known.seq for known in entries if known.digest() == rollback.to), 0)
                    rising = [known for known in rising if known.seq <= kept]
                elif entry.promotion.raises:
                    rising.append(entry)
            elif entry.opens_period:
                wanted, rising = rising[-1].promotion.package if rising else wanted, []
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
    """The promotion of a run's model among these entries; the last one, where a rollback brought it back."""
    return next((entry for entry in reversed(entries) if entry.kind == "promotion" and entry.body["run"] == run), None)


def directory_of(entries: list[Entry], version: str, package: str) -> str | None:
    """Digest of the model directory of a version, as the last decision on it names it; None where none does."""
    decisions = (entry.decision for entry in reversed(entries) if entry.kind == "decision")
    found = (one.directory for one in decisions if (one.model_version, one.package) == (version, package))
    return next((directory for directory in found if directory is not None), None)


def rolled_back(entries: list[Entry]) -> dict[str, Entry]:
    """The packages that a rollback took out of use and that are not in use again: package -> the rollback's entry."""
    found: dict[str, Entry] = {}
    package: str | None = None
    for entry in entries:
        if entry.kind == "promotion":
            promotion = entry.promotion
            if promotion.rollback is not None and package is not None:
                found[package] = entry
            found.pop(promotion.package, None)
            package = promotion.package
    return found


def judged_before(
    entries: list[Entry], recipe: str, *, code_commit: str | None, plan_sha256: str
) -> tuple[Entry, Entry | None] | None:
    """The decision that a run of this recipe would only repeat, and the rollback that took its model out of use.

    A model that was rolled back, and is not in use again, is not made once more by a run that nobody forces: a person
    took it out. Another decision is repeated where the code, the plan, the champion and the test period are the same
    too: the model, the test set and the rule would then be those of that decision.

    Args:
        entries: of the ledger.
        recipe: of the run that would be opened.
        code_commit: its code; None where that is not known, and no decision is of it.
        plan_sha256: of its plan.

    Returns:
        The decision's entry, with the rollback's or None; None where the run would decide something new.
    """
    gone = rolled_back(entries)
    for entry in reversed(entries):
        if entry.kind == "promotion" and entry.promotion.recipe == recipe and entry.promotion.package in gone:
            decided = find_decision(entries, entry.promotion.run)
            if decided is not None:
                return decided, gone[entry.promotion.package]
    packages = {entry.digest(): entry.promotion.package for entry in entries if entry.kind == "promotion"}
    champion, period = last_promotion(entries), open_period(entries).number
    package = champion.promotion.package if champion else None
    for entry in reversed(entries):
        if entry.kind == "decision":
            decision = entry.decision
            against = packages.get(decision.champion) if decision.champion else None
            same = (decision.recipe, decision.code_commit, decision.plan_sha256, decision.period, against)
            if same == (recipe, code_commit, plan_sha256, period, package):
                return entry, None
    return None


def recorded_look(entries: list[Entry], look: Look) -> Entry | None:
    """The entry of a scoring that is about to be done, where it is on record; a claim on it is another scoring."""
    decisions = {entry.decision.run: entry.decision for entry in reversed(entries) if entry.kind == "decision"}
    for entry in entries:
        if entry.kind != "look" or (old := entry.look).period != look.period:
            continue
        if (old.model, old.test_digest) != (look.model, look.test_digest):
            continue
        claims = (_with_claim(old, decisions).claim, look.claim)
        if look.role != "challenger" or (old.role == "challenger" and None not in claims and claims[0] == claims[1]):
            return entry
    return None
