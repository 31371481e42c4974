"""What a run does around a deterministic stage: it records a look before `evaluate`, and says what came out.

XCom carries what is returned here: identifiers and digests, and the verdict's word.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cxr_ops import plan as plans
from cxr_ops.audit import telling
from cxr_ops.audit.entries import Look, Role
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.state import period_limits, strictest
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
        RefusedError: `evaluate` would look at the test set of a period that is closed.
        SettingsError: before `evaluate`, the plan is not the one that the run was opened with.
    """
    workspace = home.workspace(run)
    before = (lambda: _look(home, run)) if stage == "evaluate" else None
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
    told = telling.verdict(verdict.verdict, limits)
    # A hold asks for more people: of a run that waits for nobody their number would tell of it.
    return {"verdict": told, "approvals": verdict.approvals if told != telling.NOT_PROMOTED else 0}


def record_no_change(home: Home, run: str) -> None:
    """Write how a run ended that made, or would make, the champion again."""
    opened = Opened.read(home.run(run) / OPENED)
    champion = opened.champion
    Result(
        run=run,
        airflow_run_id=opened.airflow_run_id,
        verdict=NO_CHANGE,
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
    scored: dict[Role, str | None] = {
        "challenger": challenger_digest(workspace),
        "champion": inputs.champion.package,
        "reference": inputs.reference.package if inputs.reference else None,
    }
    test_digest = _test_digest(workspace)
    plan = plans.load_bound(workspace, inputs.plan.path, inputs.plan)
    if open_ledger(home).period().number == inputs.period.number:  # else the look is refused
        in_force.adopt_first(home, plan, inputs.plan.sha256)
    batches = tuple(sorted(inputs.data.batches.keys() - set(inputs.period.closed_batches)))
    for role, model in scored.items():
        if model is not None:
            period = inputs.period.number
            look = Look(
                model=model,
                test_digest=test_digest,
                run=run,
                role=role,
                period=period,
                batches=batches,
                plan=inputs.plan.sha256,
                limits=plan.limits,
                claim=inputs.claim if role == "challenger" else None,
            )
            bound = role == "challenger" and inputs.allowance is not None
            level = rule.level_of(inputs, plan, model, test_digest).checks if bound else None
            entry = open_ledger(home).record_look(look, level=level)
            if role == "challenger":
                taken = RecordedLook(package=model, test_digest=test_digest, entry=entry.digest())
    taken.write(workspace / LOOK)


def _champion(workspace: Path) -> Champion:
    return Champion.read(workspace / CHAMPION / f"{CHAMPION}.json")


def _test_digest(workspace: Path) -> str:
    return Division.read(workspace / "split" / "split.json").test_digest
