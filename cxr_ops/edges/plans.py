"""The plan in force: read from the ledger, put there by a person, or by the first look of an installation.

A run names its own plan in `params.yaml`, and may name another than the one in force. It is judged under its own, and
under the strictest limits of the test period all the same: see `cxr_ops.audit.state.period_limits`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Entry, PlanAdopted
from cxr_ops.audit.state import allowance, last_decision, open_period, period_limits, plan_in_force, strictest
from cxr_ops.contract import INPUTS
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import CxrError, RefusedError, SettingsError
from cxr_ops.plan import ChangePlan
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.inputs import Inputs, Limits, OtherPlan
from cxr_ops.stats import levels


def adopt(home: Home, path: Path, *, by: str, reason: str) -> tuple[PlanAdopted, bool]:
    """Put a plan in force. In an earlier version's ledger, the last decision's is entered before it, if it is known.

    Args:
        home: the installation.
        path: the plan's file.
        by: who decided it.
        reason: why, for those who read the ledger later.

    Returns:
        What is on the ledger, and whether it was there before.

    Raises:
        SettingsError: `by` or `reason` is blank, or the plan is wrong.
        StorageError: the ledger cannot be read or written.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError("a plan is put in force by somebody and for a reason", fix="--by NAME --reason TEXT")
    data = plans.read_bytes(path)
    body = _body(plans.parse(data, path), sha256_bytes(data), by=by.strip(), reason=reason.strip())
    before = plan_in_force(open_ledger(home).entries())

    def decide_first(entries: list[Entry]) -> PlanAdopted | Entry:
        # What was looked at under that plan stays bound by it: see `period_limits`.
        return plan_in_force(entries) or _of_last_decision(home, entries) or body

    def decide(entries: list[Entry]) -> PlanAdopted | Entry:
        now = plan_in_force(entries)
        return now if now is not None and now.plan.sha256 == body.sha256 else body

    open_ledger(home).append_if("plan", decide_first)
    entry = open_ledger(home).append_if("plan", decide)
    return entry.plan, before is not None and entry.digest() == before.digest()


def adopt_first(home: Home, own: ChangePlan, sha256: str) -> None:
    """Put a plan in force where none is, for the first look: the last decision's, or else the run's own; and say so.

    Raises:
        RefusedError: as `limits_now`.
        StorageError: the ledger cannot be read or written.
    """

    def decide(entries: list[Entry]) -> PlanAdopted | Entry:
        return plan_in_force(entries) or _first(home, entries, own, sha256)

    if plan_in_force(open_ledger(home).entries()) is None:
        adopted = open_ledger(home).append_if("plan", decide).plan
        sys.stderr.write(
            f"the plan {adopted.name} is in force from now on ({adopted.reason}); "
            "another one: cxr-ops plan adopt PLAN --by NAME --reason TEXT\n"
        )


def held(home: Home) -> Limits | None:
    """The strictest limits of the open test period; None where no plan is known yet."""
    entries = open_ledger(home).entries()
    return period_limits(entries, open_period(entries).number)


def spent_up(home: Home) -> bool:
    """Whether a look that is taken now would have nothing to spend, by what was looked at and told in the period."""
    entries = open_ledger(home).entries()
    period = open_period(entries).number
    limits = period_limits(entries, period)
    known = limits is not None and bool(limits.spending)
    return limits is not None and known and levels.spent_up(allowance(entries, limits, period).next)


def limits_now(home: Home, entries: list[Entry], own: ChangePlan, sha256: str) -> Limits:
    """The limits that hold for a run which is opened now under a plan of its own.

    Args:
        home: the installation.
        entries: its ledger.
        own: the run's plan.
        sha256: of that plan's file.

    Raises:
        RefusedError: no plan is in force, and the last decision was made under another plan, whose text is lost.
    """
    first = _first(home, entries, own, sha256).limits if plan_in_force(entries) is None else None
    known = strictest([own.limits, first, period_limits(entries, open_period(entries).number)])
    assert known is not None, "the plan itself has limits"  # noqa: S101 - our own invariant
    return known


def expected(home: Home, entries: list[Entry], sha256: str) -> tuple[OtherPlan, ChangePlan | None] | None:
    """The plan that one would expect for a run which is opened now, where that is not the run's own.

    Args:
        home: the installation.
        entries: its ledger.
        sha256: of the run's own plan.

    Returns:
        The plan in force, or else the last decision's, and its text as far as it is known.
    """
    now, last = plan_in_force(entries), last_decision(entries)
    if now is not None and now.plan.sha256 != sha256:
        other = OtherPlan(than="the plan in force", name=now.plan.name, sha256=now.plan.sha256, looser=None)
    elif last is not None and last.decision.plan_sha256 != sha256:
        name, digest = last.decision.plan, last.decision.plan_sha256
        other = OtherPlan(than="the last decision's plan", name=name, sha256=digest, looser=None)
    else:
        return None
    return other, _text(home, entries, other.sha256)


def _first(home: Home, entries: list[Entry], own: ChangePlan, sha256: str) -> PlanAdopted:
    last = last_decision(entries)
    if last is None or last.decision.plan_sha256 == sha256:
        return _body(own, sha256, by=None, reason="the plan of the first look since plans are on the ledger")
    adopted, decision = _of_last_decision(home, entries), last.decision
    if adopted is None:
        raise RefusedError(
            f"the last decision was made under the plan {decision.plan}, of which this installation holds no text, so "
            f"nobody can tell whether {own.name} asks for less",
            where=f"entry {last.seq} of the ledger, plan sha256 {decision.plan_sha256[:12]}",
            fix="put a plan in force: cxr-ops plan adopt PLAN --by NAME --reason TEXT",
        )
    return adopted


def _of_last_decision(home: Home, entries: list[Entry]) -> PlanAdopted | None:
    """What puts the last decision's plan in force; None without a decision, or where that plan's text is lost."""
    last = last_decision(entries)
    plan = _text(home, entries, last.decision.plan_sha256) if last is not None else None
    if last is None or plan is None:
        return None
    reason = f"the plan of the last decision, on {last.decision.run}"
    return _body(plan, last.decision.plan_sha256, by=None, reason=reason)


def _body(plan: ChangePlan, sha256: str, *, by: str | None, reason: str) -> PlanAdopted:
    document = plan.model_dump(mode="json")
    return PlanAdopted(name=plan.name, sha256=sha256, limits=plan.limits, by=by, reason=reason, document=document)


def _text(home: Home, entries: list[Entry], sha256: str) -> ChangePlan | None:
    """A plan by its digest: as the ledger holds it, or from a file that still has it; None where it is lost."""
    for entry in entries:
        if entry.kind == "plan" and entry.plan.sha256 == sha256:
            try:
                return plans.from_document(entry.plan.document, f"entry {entry.seq} of the ledger")
            except SettingsError:  # of a version whose plans had other keys
                return None
    for path in _files(home, entries, sha256):
        try:
            data = plans.read_bytes(path)
            if sha256_bytes(data) == sha256:
                return plans.parse(data, path)
        except CxrError:
            continue
    return None


def _files(home: Home, entries: list[Entry], sha256: str) -> Iterator[Path]:
    """Where the file of a plan may be: in the project, or in the workspace of a run that was decided on under it."""
    yield from sorted(home.project.glob("*.yaml"))
    for entry in entries:
        if entry.kind == "decision" and entry.decision.plan_sha256 == sha256:
            workspace = home.workspace(entry.decision.run)
            try:
                yield workspace / Inputs.read(workspace / INPUTS).plan.path
            except CxrError:
                continue
