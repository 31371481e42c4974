"""The rules of promotion, over what is on record: who may become champion, and what stops it.

Each rule takes the ledger's entries and a run's records and refuses by raising; none reads a file or asks a service.
"""

from __future__ import annotations

import unicodedata
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
    rolled_back,
    strictest,
    taken_looks,
)
from cxr_ops.contract import MODEL_NAME, PROMOTE
from cxr_ops.errors import ConflictError, RefusedError
from cxr_ops.plan import ChangePlan
from cxr_ops.records.inputs import Inputs, Limits
from cxr_ops.stats import levels, rule

# Who answers in an Airflow that lets everybody in is nobody.
REASON_LETTERS: Final = 8
# Letters, marks and symbols that show nothing: joiner, fillers, the blank Braille pattern, variation selectors.
_UNSEEN: Final = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
    + "".join(chr(n) for n in (*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)))
)
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
            f"the gate did not decide PROMOTE on {run}",  # what else it decided is not everybody's to know
            where=f"entry {entry.seq} of the ledger",
            fix="read the reasons in the run's full report; a verdict is changed by new evidence alone",
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
    check_is_last_look(entries, entry, limits)


def check_is_last_look(entries: list[Entry], entry: Entry, limits: Limits) -> None:
    """Where error is recycled, only the last look can end in a promotion: what follows a look says that it did not.

    A later look stands on the branch of failure of this one, whenever either was decided. A promotion after it would
    give back what the period holds once and has set aside once (`cxr_ops.stats.levels`).

    Raises:
        RefusedError: a look was taken after this one.
    """
    decision = entry.decision
    taken = taken_looks(entries, decision.period)
    place = find_look(taken, decision.package, decision.test_digest, claim_of_decision(decision))
    later = [] if place is None else taken[place + 1 :]
    if later and any(terms.method == "recycled" for terms in limits.spending):
        raise RefusedError(
            f"{len(later)} look{'s were' if len(later) > 1 else ' was'} taken after that of {decision.run} "
            f"({', '.join(look.run for look in later)}), and the error of the test period is recycled: only the last "
            "look can end in a promotion",
            where=f"entry {entry.seq} of the ledger",
            fix="train another challenger, whose look is a new one, and promote it before the next look: "
            "cxr-ops retrain --set train.seed=NUMBER",
        )


def _check_level(entries: list[Entry], entry: Entry, inputs: Inputs, plan: ChangePlan, place: int) -> None:
    """Nothing may have been judged at more than the ledger leaves this look: another may have come before it."""
    decision, limits = entry.decision, limits_of(entries, entry.decision, plan)
    left = allowance(entries, limits, decision.period).taken[place]
    if over := levels.exceeds(rule.level_of(inputs, plan, decision.package, decision.test_digest), left):
        raise RefusedError(
            f"the look of {decision.run}, number {place + 1} of test period {decision.period}, {over}",
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


def check_not_rolled_back(entries: list[Entry], decision: Decision) -> None:
    """A package that a rollback took out of use does not come back by being trained and judged once more.

    Training is deterministic: the schedule would make the same bytes again, and the demonstration's plan asks nobody.

    Raises:
        RefusedError: the decision is about such a package.
    """
    entry = rolled_back(entries).get(decision.package)
    if entry is None or (rollback := entry.promotion.rollback) is None:
        return
    version = decision.model_version
    raise RefusedError(
        f"the package of {decision.run} was taken out of use by {rollback.by}: {rollback.reason}",
        where=f"entry {entry.seq} of the ledger, {entry.at[:10]}",
        fix=f"change what was wrong and retrain, or bring it back by hand: cxr-ops rollback {version} --reason TEXT",
    )


def promotion_to_return_to(entries: list[Entry], target: str) -> Entry:
    """The promotion that a rollback goes back to.

    Args:
        entries: the ledger.
        target: the number of a model version, or the name of a run or Airflow's id of it.

    Returns:
        The last promotion of that model.

    Raises:
        RefusedError: it was never the champion; those that were are named.
    """
    promotions = [entry for entry in entries if entry.kind == "promotion"]
    runs = {entry.decision.airflow_run_id: entry.decision.run for entry in entries if entry.kind == "decision"}
    wanted = (target, runs.get(target))
    found = [one for one in promotions if one.promotion.model_version == target or one.promotion.run in wanted]
    if found:
        return found[-1]
    versions = dict.fromkeys(one.promotion.model_version for one in promotions)
    known = ", ".join(f"{MODEL_NAME}/{version}" for version in versions)
    raise RefusedError(
        f"{target!r} was never the champion, and a rollback brings back an earlier champion alone",
        where=f"champions so far: {known}" if known else "no model was promoted yet",
        fix="see them: cxr-ops history; another model becomes champion by: cxr-ops promote --run RUN",
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


def check_answer(decision: Decision, by: str | None, at: str) -> None:
    """An answer must have a time, and be somebody's where anybody gave it."""
    if by is not None and person(by) in NOBODY:
        raise RefusedError(
            f"an answer by {by!r} is nobody's",
            fix="let people sign in to Airflow under their own names; one that lets everybody in cannot approve",
        )
    if not is_time(at):
        raise RefusedError(f"the time of the answer about {decision.run} is not ISO 8601: {at!r}")


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
    """The approvals of a decision since it was last rejected, one a person, the first of each."""
    people: dict[str, Entry] = {}
    for entry in entries:
        if entry.kind == "rejection" and entry.rejection.decision == decision.digest():
            people.clear()
        if entry.kind == "approval" and entry.approval.decision == decision.digest():
            people.setdefault(person(entry.approval.by), entry)
    return list(people.values())


def check_agreed(entries: list[Entry], entry: Entry, plan: ChangePlan, signed: list[Entry]) -> None:
    """As many people must have agreed as the strictest plan asks for, or more where the gate held the run."""
    decision = entry.decision
    limits = limits_of(entries, decision, plan)
    asked = approvals_asked(entries, decision, plan)
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


def approvals_asked(entries: list[Entry], decision: Decision, plan: ChangePlan) -> int:
    """How many people must agree: as many as the strictest plan asks for, or more where the gate held the run."""
    return max(limits_of(entries, decision, plan).approvals, decision.approvals)


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
    """A name as it is compared: case, Unicode form, blanks and what cannot be seen make no other person of one.

    Unicode's own comparison of identifiers (NFKC, case folding), without its default ignorable characters.

    >>> person("Dr_Lee "), person("\uff24r\u200b_Lee\u2060"), person("J\u00fcrgen") == person("ju\u0308rgen")
    ('dr_lee', 'dr_lee', True)
    """
    return unicodedata.normalize("NFKC", seen(unicodedata.normalize("NFKC", name or "")).casefold())


def seen(text: str) -> str:
    """What can be seen of a text, with single blanks between words."""
    return " ".join("".join(" " if c.isspace() else "" if _is_unseen(c) else c for c in text).split())


def check_reason(text: str) -> str:
    """A reason that a person gave, without what cannot be seen.

    Raises:
        RefusedError: it is too short to be one.
    """
    reason = seen(text)
    if sum(c.isalnum() for c in reason) < REASON_LETTERS:
        raise RefusedError(
            f"the reason {reason!r} is too short: it needs {REASON_LETTERS} letters or digits",
            fix="say in a few words why, for those who read the ledger later",
        )
    return reason


def _is_unseen(c: str) -> bool:
    return unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn") or c in _UNSEEN


def is_time(text: str) -> bool:
    """Whether a text is a time in ISO 8601."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
