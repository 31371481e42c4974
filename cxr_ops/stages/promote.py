"""Make a run's challenger the champion: the only way in which that happens.

Nothing is taken on trust that can be looked up. The verdict must be the one on the ledger, its files the ones that were
decided on, the look recorded before and among those that the plan allows, its test epoch open, the run commit and its
outs in the store, the package in the registry the one that was judged, enough people other than the requester agreed,
and champion and reference still those that the challenger was judged against. The ledger's entry is the promotion; the
aliases in MLflow follow it, and are repaired from it by doing this again.

An approval goes on record even when more are needed: the next person comes with a command of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Approval, Decision, Entry, Promotion
from cxr_ops.audit.state import find_decision, find_promotion, last_promotion, open_epoch, reference_after, spent_looks
from cxr_ops.contract import MODEL_NAME, PACKAGE, PROMOTE
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Ledger, open_ledger
from cxr_ops.edges.mlflow import aliases, versions
from cxr_ops.edges.store import runs
from cxr_ops.errors import ConflictError, RefusedError
from cxr_ops.stages.publish import Outputs, check_unchanged, finish, read_outputs

# Who answers in an Airflow that lets everybody in is nobody.
NOBODY: Final = ("", "anonymous")
# How Airflow names the runs of a backfill: an old date must not bring an old model back.
BACKFILL: Final = "backfill__"


def run(home: Home, run: str, approvals: Sequence[str | Mapping[str, str]] = ()) -> dict[str, Any]:
    """Promote the challenger of a published run.

    Args:
        home: the installation.
        run: the run's name.
        approvals: who agreed: a name, or a mapping with `by` and `at` (ISO 8601). Who agreed in an earlier call counts.

    Returns:
        `model_version`, `promotion` (the ledger's entry), `champion` (whether this is the champion now), `already`
        (whether the promotion was on record before).

    Raises:
        RefusedError: the record or the plan does not allow it, or more people must agree.
        ConflictError: another model has become champion or reference since the decision.
        StorageError: the ledger, the store or the registry cannot be read, or has lost or altered what it kept.
    """
    ledger = open_ledger(home)
    entries = ledger.entries()
    promotion = find_promotion(entries, run)
    already = promotion is not None
    if promotion is None:
        promotion = _promote(home, run, ledger, entries, [_read_approval(approval) for approval in approvals])
    aliases.reconcile(home)
    finish(home, run)
    current = ledger.champion()
    return {
        "model_version": promotion.promotion.model_version,
        "promotion": promotion.digest(),
        "champion": current is not None and current.digest() == promotion.digest(),
        "already": already,
    }


def _promote(home: Home, run: str, ledger: Ledger, entries: list[Entry], approvals: list[dict[str, str]]) -> Entry:
    entry = find_decision(entries, run)
    if entry is None:
        raise RefusedError(f"there is no decision on {run}", where=home.ledger, fix=f"cxr-ops publish --run {run}")
    decision = entry.decision
    if decision.verdict != PROMOTE:
        raise RefusedError(
            f"the gate decided {decision.verdict} on {run}",
            where=f"entry {entry.seq} of the ledger",
            fix=f"read the reasons in {home.reports / f'{run}.html'}; a verdict is changed by new evidence alone",
        )
    if (decision.airflow_run_id or "").startswith(BACKFILL):
        raise RefusedError(f"{run} is a backfill, and a backfill never moves the champion", fix="retrain in a new run")
    outputs = read_outputs(home, run)
    check_unchanged(outputs, decision)
    plan = _check_plan(outputs, decision)
    _check_record(ledger, entries, entry, outputs, plan)
    _check_still_current(entries, decision, plan)
    _check_approvals(decision, approvals)
    for approval in approvals:
        _approve(ledger, entry, approval)
    signed = _signed(ledger.entries(), entry)
    _check_agreed(entry, plan, signed)
    _check_stored(home, run, decision)

    def decide(now: list[Entry]) -> Promotion | Entry:
        done = find_promotion(now, run)
        if done is not None:
            return done
        _check_still_current(now, decision, plan)
        return Promotion(
            run=run,
            decision=entry.digest(),
            approvals=[approval.digest() for approval in signed],
            package=decision.package,
            recipe=decision.recipe,
            model_version=decision.model_version,
            run_commit=decision.run_commit,
            replaces=decision.champion,
            reference=_next_reference(now, plan, decision, superior=outputs.verdict.superior),
        )

    return ledger.append_if("promotion", decide)


def _check_record(ledger: Ledger, entries: list[Entry], entry: Entry, outputs: Outputs, plan: plans.ChangePlan) -> None:
    """The ledger must be the one that the run was opened with, and hold a look before the decision that counts."""
    decision = entry.decision
    if outputs.inputs.ledger is None:
        raise RefusedError(
            f"{decision.run} was opened without a ledger, so its look at the test set is unrecorded",
            fix="retrain with cxr-ops retrain",
        )
    ledger.verify(outputs.inputs.ledger)
    look, spent = (decision.package, decision.test_digest), spent_looks(entries[: entry.seq], decision.epoch)
    if look not in spent:
        raise RefusedError(
            f"no look of {decision.run} at the test set was recorded before the decision",
            where=f"test set {decision.test_digest[:12]}, package {decision.package[:12]}, epoch {decision.epoch}",
            fix="retrain in a new run; evaluate must be started with cxr-ops stage evaluate --run RUN",
        )
    # Runs that were opened at the same time counted the same looks; the ledger says who came first.
    place, allowed = spent.index(look) + 1, plan.performance.max_looks
    if place > allowed:
        raise RefusedError(
            f"{decision.run} took look {place} of test epoch {decision.epoch}, and the plan allows {allowed}",
            where=f"entry {entry.seq} of the ledger",
            fix="ingest patients who were never scored, then: cxr-ops epoch open --by NAME --reason TEXT",
        )


def _check_plan(outputs: Outputs, decision: Decision) -> plans.ChangePlan:
    """The plan must be the one that was executed, and the code such as it asks for."""
    plan = plans.load_bound(outputs.root, outputs.inputs.plan.path, outputs.inputs.plan)
    if decision.plan_sha256 != outputs.inputs.plan.sha256:
        raise RefusedError("the decision was made under another plan", fix="retrain in a new run")
    if plan.require_clean_code and decision.code_dirty:
        raise RefusedError(
            f"{decision.run} ran uncommitted code, and the plan {plan.name} asks for committed code",
            where=f"code snapshot {decision.code_commit[:12]}",
            fix="commit the changes and retrain",
        )
    return plan


def _check_still_current(entries: list[Entry], decision: Decision, plan: plans.ChangePlan) -> None:
    """What the challenger was judged against must still be what a challenger is judged against."""
    _check_champion(entries, decision)
    reference = reference_after(entries, plan.performance.reference.package)
    if (reference.package if reference else None) != decision.reference:
        current = f"{MODEL_NAME}/{reference.version}" if reference else "no model"
        raise ConflictError(
            f"{current} is the reference, and {decision.run} was judged against another",
            fix="judge against the reference of now: cxr-ops retrain --force",
        )
    epoch = open_epoch(entries).number
    if epoch != decision.epoch:
        raise RefusedError(
            f"{decision.run} was judged in test epoch {decision.epoch}, and epoch {epoch} is open",
            fix="judge on the test set of now: cxr-ops retrain --force",
        )


def _check_champion(entries: list[Entry], decision: Decision) -> None:
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


def _check_stored(home: Home, run: str, decision: Decision) -> None:
    """The run commit, its outs and the package must be where they can be had again, whole."""
    if not runs.run_pushed(home, run, decision.run_commit):
        raise RefusedError(
            f"the run commit {decision.run_commit[:12]} or some of its outs are not in the store",
            where=home.store,
            fix=f"cxr-ops publish --run {run}, then promote again",
        )
    with tempfile.TemporaryDirectory() as aside:
        versions.fetch_package(home, decision.model_version, decision.package, Path(aside) / PACKAGE)


def _check_approvals(decision: Decision, approvals: list[dict[str, str]]) -> None:
    """Each approval must be somebody's, other than the requester's, and have a time."""
    for approval in approvals:
        person = _person(approval["by"])
        if person in NOBODY:
            raise RefusedError(
                f"an approval by {approval['by']!r} is nobody's",
                fix="let people sign in to Airflow under their own names; one that lets everybody in cannot approve",
            )
        if person == _person(decision.requested_by):
            raise RefusedError(
                f"{approval['by']} requested {decision.run} and cannot approve it", fix="ask another person to approve"
            )
        if not _is_time(approval["at"]):
            raise RefusedError(f"the time of {approval['by']}'s approval is not ISO 8601: {approval['at']!r}")


def _approve(ledger: Ledger, entry: Entry, approval: dict[str, str]) -> None:
    """Put an approval on record, unless this person's approval of this decision stands there already."""
    body = Approval(run=entry.decision.run, decision=entry.digest(), by=approval["by"], at=approval["at"])

    def decide(now: list[Entry]) -> Approval | Entry:
        known = (other for other in _signed(now, entry) if _person(other.approval.by) == _person(body.by))
        return next(known, body)

    ledger.append_if("approval", decide)


def _signed(entries: list[Entry], decision: Entry) -> list[Entry]:
    """The approvals of a decision, one a person, the first of each."""
    people: dict[str, Entry] = {}
    for entry in entries:
        if entry.kind == "approval" and entry.approval.decision == decision.digest():
            people.setdefault(_person(entry.approval.by), entry)
    return list(people.values())


def _check_agreed(entry: Entry, plan: plans.ChangePlan, signed: list[Entry]) -> None:
    """As many people must have agreed as the plan asks for, or more where the gate held the run."""
    decision = entry.decision
    asked = max(plan.approvals, decision.approvals)
    missing = asked - len(signed)
    if missing > 0:
        agreed = " and ".join(approval.approval.by for approval in signed) or "nobody"
        held = f" ({', '.join(decision.holds)})" if decision.holds else ""
        raise RefusedError(
            f"{asked} {'person' if asked == 1 else 'persons'} must agree under the plan {plan.name}{held}; "
            f"so far {agreed} did, {missing} more {'is' if missing == 1 else 'are'} needed",
            where=f"decision {entry.seq} of the ledger",
            fix=f"answer the request in Airflow, or: cxr-ops promote --run {decision.run} --approved-by NAME",
        )


def _next_reference(entries: list[Entry], plan: plans.ChangePlan, decision: Decision, *, superior: bool) -> str:
    """The package that challengers are held against after this promotion: it stays, or rises to what beat it."""
    rule = plan.performance.reference
    reference = reference_after(entries, rule.package)
    rises = superior and rule.raise_on_superiority
    return decision.package if reference is None or rises else reference.package


def _person(name: str | None) -> str:
    """A name as it is compared: `Dr_Lee ` and `dr_lee` are one person."""
    return (name or "").strip().casefold()


def _read_approval(approval: str | Mapping[str, str]) -> dict[str, str]:
    if isinstance(approval, str):
        return {"by": approval, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    return {"by": str(approval.get("by") or ""), "at": str(approval.get("at") or "")}


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
