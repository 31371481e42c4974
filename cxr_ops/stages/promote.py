"""Make a run's challenger the champion: the only way in which that happens.

Nothing is taken on trust that can be looked up. The verdict must be the one on the ledger, its files the ones that were
decided on, the look recorded before and among those that the plan allows, its test period open, the run commit and its
outs in the store, the package in the registry the one that was judged, its answers where it will be served those of the
evaluation, enough people other than the requester agreed,
and champion and reference still those that the challenger was judged against. The ledger's entry is the promotion; the
aliases in MLflow follow it, and are repaired from it by doing this again.

An approval goes on record even when more are needed: the next person comes with a command of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cxr_ops import plan as plans
from cxr_ops.audit import rules
from cxr_ops.audit.entries import Approval, Decision, Entry, Promotion
from cxr_ops.audit.package import read as read_package
from cxr_ops.audit.state import find_promotion
from cxr_ops.contract import PACKAGE
from cxr_ops.data.checking.pictures import decode_any
from cxr_ops.data.synthetic import golden
from cxr_ops.edges import serving, signing
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Ledger, open_ledger
from cxr_ops.edges.mlflow import aliases, versions
from cxr_ops.edges.store import checkout, runs, snapshots
from cxr_ops.errors import RefusedError
from cxr_ops.model.apart import parent as apart
from cxr_ops.params import Train
from cxr_ops.stages.publish import check_not_edited, finish, read_outputs


def run(home: Home, run: str, approvals: Sequence[str | Mapping[str, str]] = ()) -> dict[str, Any]:
    """Promote the challenger of a published run.

    Args:
        home: the installation.
        run: the run's name.
        approvals: people who agreed: names, or mappings with `by` and `at` (ISO 8601). Earlier approvals count.

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
    entry = rules.decision_to_promote(entries, run)
    decision = entry.decision
    outputs = read_outputs(home, run, decision)
    plan = plans.load_bound(outputs.root, outputs.inputs.plan.path, outputs.inputs.plan)
    rules.check_plan(entries, decision, outputs.inputs, plan)
    rules.check_record(entries, entry, outputs.inputs, plan)
    ledger.verify(outputs.inputs.ledger)
    versions.refuse_unknown_promotions(home)
    rules.check_still_current(entries, decision, plan)
    rules.check_not_rolled_back(entries, decision)
    rules.check_approvals(decision, approvals)
    for approval in approvals:
        _approve(ledger, entry, approval)
    now = ledger.entries()
    signed = rules.signed(now, entry)
    rules.check_agreed(now, entry, plan, signed)
    check_not_edited(home, run, outputs, plan, entries)
    _check_reviewed(home, plan, decision)
    _check_stored(home, run, decision)
    _check_served(home, run, plan, decision)

    def decide(now: list[Entry]) -> Promotion | Entry:
        done = find_promotion(now, run)
        if done is not None:
            return done
        rules.check_still_current(now, decision, plan)
        rules.check_not_rolled_back(now, decision)
        rules.check_is_last_look(now, entry, rules.limits_of(now, decision, plan))
        return Promotion(
            run=run,
            decision=entry.digest(),
            approvals=[approval.digest() for approval in signed],
            package=decision.package,
            recipe=decision.recipe,
            model_version=decision.model_version,
            run_commit=decision.run_commit,
            replaces=decision.champion,
            reference=rules.next_reference(now, plan, decision, superior=outputs.verdict.superior),
            raises=rules.rises_later(now, plan, decision, superior=outputs.verdict.superior),
        )

    return ledger.append_if("promotion", decide)


def _check_reviewed(home: Home, plan: plans.ChangePlan, decision: Decision) -> None:
    """Where the plan asks for committed code, the code must be in the branch that plan or installation names.

    A commit alone says nothing: anybody can commit anything in a clone of their own.
    """
    if not plan.require_clean_code:
        return
    source = plan.code_source or home.settings.code_source
    if source is None:
        raise RefusedError(
            f"the plan {plan.name} asks for committed code, and nothing says which branch holds reviewed code",
            fix="set CXR_CODE_SOURCE=REPOSITORY#BRANCH where cxr-ops runs, or code_source in the plan",
        )
    if not snapshots.is_reviewed(home, decision.code_commit, source):
        raise RefusedError(
            f"the code of {decision.run}, commit {decision.code_commit[:12]}, is not in {source}",
            fix="have the change reviewed and merged there, then retrain",
        )


def _check_stored(home: Home, run: str, decision: Decision) -> None:
    """The run commit, its outs and the package must be where people can fetch them again, whole."""
    if checkout.purged_of(home, decision.run_commit):
        raise RefusedError(
            f"data or outputs of {run} were purged: its model was made with a patient who has been removed",
            where=home.store,
            fix="retrain without the patient: cxr-ops retrain",
        )
    if not runs.run_pushed(home, run, decision.run_commit):
        raise RefusedError(
            f"the run commit {decision.run_commit[:12]} or some of its outs are not in the store",
            where=home.store,
            fix=f"cxr-ops publish --run {run}, then promote again",
        )
    with tempfile.TemporaryDirectory() as aside:
        versions.fetch_package(home, decision.model_version, decision.package, Path(aside) / PACKAGE)


def _check_served(home: Home, run: str, plan: plans.ChangePlan, decision: Decision) -> None:
    """Where the plan asks for it, the signed directory must answer golden pictures where it will be served.

    What it must say is what the evaluation's own way gives: the package in its own process, on the same pictures.
    """
    asked = plan.serving
    if asked is None:
        return
    if decision.directory is None:
        raise RefusedError(
            f"the plan {plan.name} has a model served before its promotion, and {run} was decided on without a signed "
            "directory",
            fix="retrain in a new run",
        )
    pictures = golden.pictures()
    with tempfile.TemporaryDirectory() as aside:
        folder = Path(aside) / "model"
        signed = versions.fetch_model(home, decision.model_version, folder)
        package = read_package(folder / "artifacts" / PACKAGE, decision.package)
        with apart.nursery() as processes, processes.of(package, Train(device="cpu")) as model:
            expected = model.score([decode_any(picture) for picture in pictures])
        key = signing.believed(home)[signed.key]
        answers = serving.ask_everywhere(folder, key, pictures, home.settings.serve_image)
    serving.check(answers, expected.tolist(), tolerance=asked.tolerance, seconds=asked.seconds)


def _approve(ledger: Ledger, entry: Entry, approval: dict[str, str]) -> None:
    """Put an approval on record, unless this person's approval of this decision stands there already."""
    body = Approval(run=entry.decision.run, decision=entry.digest(), by=approval["by"], at=approval["at"])

    def decide(now: list[Entry]) -> Approval | Entry:
        known = (
            other for other in rules.signed(now, entry) if rules.person(other.approval.by) == rules.person(body.by)
        )
        return next(known, body)

    ledger.append_if("approval", decide)


def _read_approval(approval: str | Mapping[str, str]) -> dict[str, str]:
    if isinstance(approval, str):
        return {"by": approval, "at": datetime.now(UTC).isoformat(timespec="seconds")}
    return {"by": str(approval.get("by") or ""), "at": str(approval.get("at") or "")}
