"""What a run does around a deterministic stage: it records a look before `evaluate`, and says what came out.

XCom carries what is returned here: identifiers and digests, and the verdict's word.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from cxr_ops import plan as plans
from cxr_ops.audit import telling
from cxr_ops.audit.entries import Look, Role
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.state import check_spending, period_limits, strictest
from cxr_ops.contract import CHAMPION, INPUTS, LOOK, NO_CHANGE, PACKAGE
from cxr_ops.edges import plans as in_force
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.supervisor import supervise
from cxr_ops.records.data import Division
from cxr_ops.records.inputs import Champion, Inputs, RecordedLook
from cxr_ops.records.run import OPENED, Opened, Result
from cxr_ops.records.verdict import Verdict
from cxr_ops.stats import rule


def run_stage(home: Home, run: str, stage: str) -> dict[str, Any]:
    """Run a deterministic stage of a run; see `supervisor.supervise` for the errors.

    Returns:
        What `supervise` returns; after `train` also `package` and `no_change` (the challenger is the champion, bit by
        bit; that is then written down as the run's end), after `gate` also `verdict` and `approvals`.

    Raises:
        RefusedError: `evaluate` would look at the test set of a period that is closed, or what `inputs.json` says that
            the look may spend is more than the ledger leaves it; that is asked before `gate` too.
        SettingsError: before `evaluate` and `gate`, the plan is not the one that the run was opened with.
    """
    workspace = home.workspace(run)
    before = {"evaluate": lambda: _look(home, run), "gate": lambda: _check_level(home, run)}.get(stage)
    result = supervise(home, run, stage, before=before)
    if stage == "train":
        package = challenger_digest(workspace)
        no_change = package == _champion(workspace).package
        if no_change:
            record_no_change(home, run)
        result |= {"package": package, "no_change": no_change}
    elif stage == "gate":
        result |= _told(home, run)
    return result


def _told(home: Home, run: str) -> dict[str, Any]:
    """What the gate decided, as far as people who tune may know it now."""
    workspace = home.workspace(run)
    verdict, inputs = Verdict.read(workspace / "gate" / "verdict.json"), Inputs.read(workspace / INPUTS)
    # A stricter plan may have come into force since the run was opened.
    limits = strictest([inputs.limits, period_limits(open_ledger(home).entries(), inputs.period.number)])
    told = telling.verdict(verdict.verdict, limits, promoted=False)
    everything = limits is None or limits.disclosure == "all"
    reasons = verdict.reasons if everything else telling.reasons(verdict.reasons, limits, told)
    sys.stderr.write("\n".join(("gate: " + told, *telling.lines(reasons))) + "\n")
    return {"verdict": told, "approvals": telling.approvals(verdict.approvals, told, limits)}


def record_no_change(home: Home, run: str) -> None:
    """Write how a run ended that made, or would make, the champion again, or repeat an earlier decision."""
    opened = Opened.read(home.run(run) / OPENED)
    champion = opened.champion
    Result(
        run=run,
        airflow_run_id=opened.airflow_run_id,
        verdict=NO_CHANGE,
        repeats=opened.repeats,
        champion=champion,
        package=champion.package,
        model_version=champion.version,
        data_revision=opened.data.revision,
        code_commit=opened.code.commit,
    ).write(home.run(run) / "result.json")


def challenger_digest(workspace: Path) -> str:
    """Digest of the package that `train` made.

    Raises:
        DataError: there is none.
    """
    return package_digest(workspace / "train" / PACKAGE)


def _look(home: Home, run: str) -> None:
    """Put on the ledger who is about to be scored on what, before the scores exist, and tell `evaluate` that it is."""
    workspace = home.workspace(run)
    inputs = Inputs.read(workspace / INPUTS)
    plan = plans.load_bound(workspace, inputs.plan.path, inputs.plan)
    look = _challengers_look(home, run, inputs, plan)
    if open_ledger(home).period().number == inputs.period.number:  # else the look is refused
        in_force.adopt_first(home, plan, inputs.plan.sha256)
    level = rule.level_of(inputs, plan, look.model, look.test_digest) if inputs.allowance is not None else None
    entry = open_ledger(home).record_look(look, level=level)
    others: dict[Role, str | None] = {
        "champion": inputs.champion.package,
        "reference": inputs.reference.package if inputs.reference else None,
    }
    for role, model in others.items():
        if model is not None:
            open_ledger(home).record_look(look.model_copy(update={"model": model, "role": role, "claim": None}))
    RecordedLook(package=look.model, test_digest=look.test_digest, entry=entry.digest()).write(workspace / LOOK)


def _check_level(home: Home, run: str) -> None:
    """See that what the gate is about to judge at is what the ledger leaves the look."""
    inputs = Inputs.read(home.workspace(run) / INPUTS)
    if inputs.allowance is not None:
        plan = plans.load_bound(home.workspace(run), inputs.plan.path, inputs.plan)
        look = _challengers_look(home, run, inputs, plan)
        check_spending(open_ledger(home).entries(), look, rule.level_of(inputs, plan, look.model, look.test_digest))


def _challengers_look(home: Home, run: str, inputs: Inputs, plan: plans.ChangePlan) -> Look:
    workspace = home.workspace(run)
    return Look(
        model=challenger_digest(workspace),
        test_digest=_test_digest(workspace),
        run=run,
        period=inputs.period.number,
        batches=tuple(sorted(inputs.data.batches.keys() - set(inputs.period.closed_batches))),
        plan=inputs.plan.sha256,
        limits=plan.limits,
        claim=inputs.claim,
    )


def _champion(workspace: Path) -> Champion:
    return Champion.read(workspace / CHAMPION / f"{CHAMPION}.json")


def _test_digest(workspace: Path) -> str:
    return Division.read(workspace / "split" / "split.json").test_digest
