"""Ask people whether a challenger is to be promoted, and keep what they answer: for `cxr_promote`, one after the other.

Whatever a form has checked is checked again here. An answer is about one decision on the ledger: if the run has another
by now, it is refused. The requester cannot approve, one person counts once however the name is spelt, and each answer
has a reason. A rejection goes on record as well, and so does that nobody answered in time; approvals from before a
rejection count no more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from cxr_ops import plan as plans
from cxr_ops.audit import rules
from cxr_ops.audit.entries import Approval, Entry, Rejection
from cxr_ops.audit.state import find_promotion
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import ConflictError, RefusedError
from cxr_ops.stages.publish import read_outputs

IN_TIME = "nobody answered in time"


def request(home: Home, run: str) -> dict[str, Any]:
    """What people are asked about, and how many of them are still to be asked.

    Args:
        home: the installation.
        run: the run's name.

    Returns:
        `run`, `decision` (the ledger's entry), `model_version`, `mlflow_run_id`, `plan`, `holds`, `approvals` (how many
        must agree), `agreed` (who did), `missing` (how many are still to be asked), `rejected` (False) and `promoted`
        (whether the run was promoted before).

    Raises:
        RefusedError: the run was not decided on, or its verdict is no PROMOTE.
        ConflictError: another model has become champion or reference since.
    """
    entries = open_ledger(home).entries()
    entry = rules.decision_to_promote(entries, run)
    decision, plan = entry.decision, _plan(home, run, entry)
    promoted = find_promotion(entries, run) is not None
    if not promoted:
        rules.check_still_current(entries, decision, plan)
    return {
        "run": run,
        "decision": entry.digest(),
        "model_version": decision.model_version,
        "mlflow_run_id": decision.mlflow_run_id,
        "plan": decision.plan,
        "holds": list(decision.holds),
        "promoted": promoted,
        **_standing(entries, entry, plan, promoted=promoted),
    }


def run(home: Home, run: str, *, decision: str, approve: bool, by: str | None, reason: str, at: str) -> dict[str, Any]:
    """Put a person's answer on the ledger.

    Args:
        home: the installation.
        run: the run's name.
        decision: the ledger's entry that the person was asked about.
        approve: or reject.
        by: who answered; None: nobody did in time, which is a rejection.
        reason: why.
        at: when, ISO 8601; empty: now.

    Returns:
        `run`, `decision`, `approvals`, `agreed`, `missing` and `rejected`.

    Raises:
        ConflictError: the run has another decision by now, or another champion stands.
        RefusedError: the answer is nobody's, the requester's own approval, a second one of the same person, or has no
            reason; nothing goes on record.
    """
    ledger = open_ledger(home)
    entry = rules.decision_to_promote(ledger.entries(), run)
    if entry.digest() != decision:
        raise ConflictError(
            f"{run} has another decision than the one that was asked about", fix="trigger cxr_promote again"
        )
    plan, at = _plan(home, run, entry), at or datetime.now(UTC).isoformat(timespec="seconds")
    if by is None and approve:
        raise RefusedError("an approval is somebody's", fix="answer the request in Airflow")
    why = rules.check_reason(reason) if by is not None else IN_TIME
    who = rules.seen(by) if by is not None else None
    rules.check_answer(entry.decision, who, at)
    if approve:
        assert who is not None  # noqa: S101 - refused above
        rules.check_approvals(entry.decision, [{"by": who, "at": at}])

        def agree(now: list[Entry]) -> Approval | Entry:
            rules.check_still_current(now, entry.decision, plan)
            for other in rules.signed(now, entry):
                if rules.person(other.approval.by) == rules.person(who):
                    if (other.approval.at, other.approval.reason) == (at, why):
                        return other  # the same answer once more: its task was tried again
                    raise RefusedError(
                        f"{who} has approved {run} already, as {other.approval.by}, and counts once",
                        where=f"entry {other.seq} of the ledger",
                        fix="ask another person",
                    )
            return Approval(run=run, decision=decision, by=str(who), at=at, reason=why)

        ledger.append_if("approval", agree)
    else:

        def refuse(now: list[Entry]) -> Rejection | Entry:
            body = Rejection(run=run, decision=decision, by=who, at=at, reason=why)
            same = (one for one in now if one.kind == "rejection" and one.rejection == body)
            return next(same, body)

        ledger.append_if("rejection", refuse)
    standing = _standing(ledger.entries(), entry, plan, promoted=False)
    return {"run": run, "decision": decision, **standing, "rejected": not approve}


def _standing(entries: list[Entry], entry: Entry, plan: plans.ChangePlan, *, promoted: bool) -> dict[str, Any]:
    agreed = [one.approval.by for one in rules.signed(entries, entry)]
    asked = rules.approvals_asked(entries, entry.decision, plan)
    missing = 0 if promoted else max(asked - len(agreed), 0)
    return {"approvals": asked, "agreed": agreed, "missing": missing, "rejected": False}


def _plan(home: Home, run: str, entry: Entry) -> plans.ChangePlan:
    outputs = read_outputs(home, run, entry.decision)
    return plans.load_bound(outputs.root, outputs.inputs.plan.path, outputs.inputs.plan)
