"""The rules of promotion, over what is on record: who may become champion, and what stops it.

Each rule takes the ledger's entries and a run's records and refuses by raising; none reads a file or asks a service.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.audit.state import (
    allowance,
    claim_of_decision,
    find_decision,
    find_look,
    last_promotion,
    open_period,
    period_limits,
    reference_after,
    strictest,
    taken_looks,
)
from cxr_ops.contract import MODEL_NAME, PROMOTE
from cxr_ops.errors import ConflictError, RefusedError
from cxr_ops.plan import ChangePlan
from cxr_ops.records.inputs import Inputs, Limits
from cxr_ops.stats import rule

# Who answers in an Airflow that lets everybody in is nobody.
NOBODY: Final = ("", "anonymous")
# How Airflow names the runs of a backfill: an old date must not bring an old model back.
BACKFILL: Final = "backfill__"


def decision_to_promote(entries: list[Entry], run: str) -> Entry:
    """The decision on a run, which must be PROMOTE and of a run that may promote at all.

    Raises:
        RefusedError: there is none, the gate decided otherwise, or the run is a backfill.
    """
    entry = find_decision(entries, run)
    if entry is None:
        raise RefusedError(f"there is no decision on {run}", where="the ledger", fix=f"cxr-ops publish --run {run}")
    decision = entry.decision
    if decision.verdict != PROMOTE:
        raise RefusedError(
            f"the gate decided {decision.verdict} on {run}",
            where=f"entry {entry.seq} of the ledger",
            fix="read the reasons in the run's report; a verdict is changed by new evidence alone",
        )
    if (decision.airflow_run_id or "").startswith(BACKFILL):
        raise RefusedError(f"{run} is a backfill, and a backfill never moves the champion", fix="retrain in a new run")
    return entry


def check_record(entries: list[Entry], entry: Entry, inputs: Inputs, plan: ChangePlan) -> None:
    """The run must have been opened with a ledger, and that must hold a look before the decision that counts.

    Raises:
        RefusedError: it is not so.
    """
    decision = entry.decision
    if inputs.ledger is None:
        raise RefusedError(
            f"{decision.run} was opened without a ledger, so its look at the test set is unrecorded",
            fix="retrain with cxr-ops retrain",
        )
    taken = taken_looks(entries[: entry.seq], decision.period)
    found = find_look(taken, decision.package, decision.test_digest, claim_of_decision(decision))
    if found is None:
        raise RefusedError(
            f"no look of {decision.run} at the test set was recorded before the decision",
            where=f"test set {decision.test_digest[:12]}, package {decision.package[:12]}, period {decision.period}",
            fix="retrain in a new run; evaluate must be started with cxr-ops stage evaluate --run RUN",
        )
    # Runs that were opened at the same time counted the same looks; the ledger says who came first.
    limits = limits_of(entries, decision, plan)
    place, allowed = found + 1, limits.max_looks
    if place > allowed:
        which = "the plan" if allowed == plan.performance.max_looks else "the strictest plan of the period"
        raise RefusedError(
            f"{decision.run} took look {place} of test period {decision.period}, and {which} allows {allowed}",
            where=f"entry {entry.seq} of the ledger",
            fix="ingest patients who were never scored, then: cxr-ops period open --by NAME --reason TEXT",
        )

    _check_level(entries, entry, inputs, plan, found)
    _check_nothing_was_learned_since(entries, entry, limits)


def _check_nothing_was_learned_since(entries: list[Entry], entry: Entry, limits: Limits) -> None:
    """Where error is recycled, a promotion gives back what its look spent: not if later looks were taken meanwhile.

    What people learned of those looks may have chosen the next model, and each outcome that was told would need a
    branch of its own (`cxr_ops.stats.levels`).
    """
    decision = entry.decision
    before = len(taken_looks(entries[: entry.seq], decision.period))
    later = taken_looks(entries, decision.period)[before:]
    if later and any(terms.method == "recycled" for terms in limits.spending):
        raise RefusedError(
            f"{len(later)} look{'s were' if len(later) > 1 else ' was'} taken while {decision.run} waited to be "
            "promoted, and the error of the test period is recycled: a promotion now would give back what was spent",
            where=f"entry {entry.seq} of the ledger",
            fix="judge it again in a look of its own, and promote before the next one: cxr-ops retrain --force",
        )


def _check_level(entries: list[Entry], entry: Entry, inputs: Inputs, plan: ChangePlan, place: int) -> None:
    """No check may have been judged at more than the ledger leaves this look: another may have come before it."""
    decision, limits = entry.decision, limits_of(entries, entry.decision, plan)
    left = allowance(entries, limits, decision.period).taken[place].checks
    judged = rule.level_of(inputs, plan, decision.package, decision.test_digest).checks
    if judged > left:
        raise RefusedError(
            f"{decision.run} was judged at {100 * judged:.3g} %, and the ledger leaves its look, number {place + 1} of "
            f"test period {decision.period}, {100 * left:.3g} %",
            where=f"entry {entry.seq} of the ledger",
            fix="judge it again at what its look may spend: cxr-ops retrain --force",
        )


def limits_of(entries: list[Entry], decision: Decision, plan: ChangePlan) -> Limits:
    """What holds for a decision's run: the strictest of its own plan and of all that its test period has seen."""
    return strictest([plan.limits, period_limits(entries, decision.period)]) or plan.limits


def check_plan(entries: list[Entry], decision: Decision, inputs: Inputs, plan: ChangePlan) -> None:
    """The plan must be the one that was executed, and the code such as it or a plan of the test period asks for.

    Raises:
        RefusedError: it is not so.
    """
    if decision.plan_sha256 != inputs.plan.sha256:
        raise RefusedError("the decision was made under another plan", fix="retrain in a new run")
    if decision.code_dirty and limits_of(entries, decision, plan).require_clean_code:
        which = f"the plan {plan.name}" if plan.require_clean_code else "a plan of the test period"
        raise RefusedError(
            f"{decision.run} ran uncommitted code, and {which} asks for committed code",
            where=f"code snapshot {decision.code_commit[:12]}",
            fix="commit the changes and retrain",
        )


def check_still_current(entries: list[Entry], decision: Decision, plan: ChangePlan) -> None:
    """What the challenger was judged against must still be what a challenger is judged against."""
    check_champion(entries, decision)
    reference = reference_after(entries, plan.performance.reference.package)
    if (reference.package if reference else None) != decision.reference:
        current = f"{MODEL_NAME}/{reference.version}" if reference else "no model"
        raise ConflictError(
            f"{current} is the reference, and {decision.run} was judged against another",
            fix="judge against the reference of now: cxr-ops retrain --force",
        )
    period = open_period(entries).number
    if period != decision.period:
        raise RefusedError(
            f"{decision.run} was judged in test period {decision.period}, and period {period} is open",
            fix="judge on the test set of now: cxr-ops retrain --force",
        )


def check_champion(entries: list[Entry], decision: Decision) -> None:
    """The champion must be the one that the challenger was judged against."""
    current = last_promotion(entries)
    if (current.digest() if current else None) == decision.champion:
        return
    champion = f"{MODEL_NAME}/{current.promotion.model_version}" if current else "no model"
    raise ConflictError(
        f"{champion} is the champion, and {decision.run} was judged against another",
        where=f"entry {current.seq} of the ledger" if current else None,
        fix="judge against the new champion: cxr-ops retrain --force",
    )


def check_approvals(decision: Decision, approvals: list[dict[str, str]]) -> None:
    """Each approval must be somebody's, other than the requester's, and have a time."""
    for approval in approvals:
        if person(approval["by"]) in NOBODY:
            raise RefusedError(
                f"an approval by {approval['by']!r} is nobody's",
                fix="let people sign in to Airflow under their own names; one that lets everybody in cannot approve",
            )
        if person(approval["by"]) == person(decision.requested_by):
            raise RefusedError(
                f"{approval['by']} requested {decision.run} and cannot approve it", fix="ask another person to approve"
            )
        if not is_time(approval["at"]):
            raise RefusedError(f"the time of {approval['by']}'s approval is not ISO 8601: {approval['at']!r}")


def signed(entries: list[Entry], decision: Entry) -> list[Entry]:
    """The approvals of a decision, one a person, the first of each."""
    people: dict[str, Entry] = {}
    for entry in entries:
        if entry.kind == "approval" and entry.approval.decision == decision.digest():
            people.setdefault(person(entry.approval.by), entry)
    return list(people.values())


def check_agreed(entries: list[Entry], entry: Entry, plan: ChangePlan, signed: list[Entry]) -> None:
    """As many people must have agreed as the strictest plan asks for, or more where the gate held the run."""
    decision = entry.decision
    limits = limits_of(entries, decision, plan)
    asked = max(limits.approvals, decision.approvals)
    missing = asked - len(signed)
    if missing > 0:
        agreed = " and ".join(approval.approval.by for approval in signed) or "nobody"
        held = f" ({', '.join(decision.holds)})" if decision.holds else ""
        held += " and the strictest plan of the test period" if limits.approvals > plan.approvals else ""
        raise RefusedError(
            f"{asked} {'person' if asked == 1 else 'persons'} must agree under the plan {plan.name}{held}; "
            f"so far {agreed} did, {missing} more {'is' if missing == 1 else 'are'} needed",
            where=f"decision {entry.seq} of the ledger",
            fix=f"answer the request in Airflow, or: cxr-ops promote --run {decision.run} --approved-by NAME",
        )


def next_reference(entries: list[Entry], plan: ChangePlan, decision: Decision, *, superior: bool) -> str:
    """The package that challengers are held against after this promotion: it stays, or rises to what beat it.

    Where a plan of the test period recycles its error, it rises with the next period: see `rises_later`.
    """
    terms = plan.performance.reference
    reference = reference_after(entries, terms.package)
    rises = superior and terms.raise_on_superiority and not _recycles(entries, plan, decision)
    return decision.package if reference is None or rises else reference.package


def rises_later(entries: list[Entry], plan: ChangePlan, decision: Decision, *, superior: bool) -> bool:
    """Whether a promoted package becomes the reference when the next test period opens.

    Within a period whose error is recycled, what later challengers are held against may follow from promotions alone.
    That a model has beaten the reference is more than that, and teams would learn it from the reference's place.
    """
    rises = superior and plan.performance.reference.raise_on_superiority
    return rises and _recycles(entries, plan, decision)


def _recycles(entries: list[Entry], plan: ChangePlan, decision: Decision) -> bool:
    return any(terms.method == "recycled" for terms in limits_of(entries, decision, plan).spending)


def person(name: str | None) -> str:
    """A name as it is compared: `Dr_Lee ` and `dr_lee` are one person."""
    return (name or "").strip().casefold()


def is_time(text: str) -> bool:
    """Whether a text is a time in ISO 8601."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
