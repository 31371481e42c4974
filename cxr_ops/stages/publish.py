"""Put a finished run on record: MLflow, run commit, ledger, published report.

Every step can be done again. What a step has made is found by the run's name, by the package's digest or in the ledger,
so a run whose publishing was cut off at any point is published by publishing it again. The decision in the ledger is
the point of no return: outputs that no longer are what was decided on are refused from then on.

Where the plan discloses the verdict alone, people who tune are shown no number, map or case of the test set while the
run's test period is open: the published page is the summary, and the full report and the run's own folder can be read
by the owner, for auditors and approvers. Nothing that is printed or goes to Airflow or MLflow names either. Publishing
again when the period is closed releases all of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_ops import plan as plans
from cxr_ops.audit import telling
from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.audit.fit import Made, changed_since, misfits, read_made
from cxr_ops.audit.judgement import misjudged, other_facts, straw_men
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.state import approvals_to_leave, find_decision, find_promotion, open_period, period_limits, strictest
from cxr_ops.contract import INPUTS, PACKAGE, PROMOTE
from cxr_ops.edges import dvc, live
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import aliases, content, tracking, versions
from cxr_ops.edges.store import checkout, runs
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file, write_atomic
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.inputs import Inputs, Limits
from cxr_ops.records.run import OPENED, Identifiers, Opened, Result
from cxr_ops.records.verdict import Reason, Verdict
from cxr_ops.report import published
from cxr_ops.stats.codes import HOLDS, MEANING, Code


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """What the deterministic stages of a run left, read and found to belong together.

    `opened` is what `open` wrote about the run, outside the workspace.
    """

    root: Path
    made: Made
    package: str
    opened: Opened

    @property
    def inputs(self) -> Inputs:
        """What the run was opened with."""
        return self.made.inputs

    @property
    def evaluation(self) -> Evaluation:
        """The evidence."""
        return self.made.evaluation

    @property
    def verdict(self) -> Verdict:
        """The gate's verdict."""
        return self.made.verdict

    @property
    def identifiers(self) -> Identifiers:
        """What the run is known by before it is published."""
        return Identifiers(
            run=self.opened.run,
            airflow_run_id=self.opened.airflow_run_id,
            package=self.package,
            data_revision=self.inputs.data.revision,
            code_commit=self.inputs.code.commit,
            image=self.inputs.image,
        )

    def digest(self, name: str) -> str:
        """SHA-256 of a file of the workspace."""
        return sha256_file(self.root / name)


def run(home: Home, run: str) -> dict[str, Any]:
    """Publish a finished run.

    Args:
        home: the installation.
        run: the run's name.

    Returns:
        `run`, `mlflow_run_id`, `model_version`, `run_commit`, `report` (where the published page stands), `withheld`
        (whether that page withholds what the test set shows), `verdict`, `approvals` (how many people must agree),
        `holds` (codes for which more than usual must, and what each means), `limited_findings` and `decision` (the
        ledger's entry).

    Raises:
        DataError: an output is missing, or outputs do not belong together.
        RefusedError: the run is published already, with other outputs.
        SettingsError: the plan is not the one that the run was opened with.
        StorageError: MLflow, the store or the ledger cannot be read or written; publish again afterwards.
    """
    entries = open_ledger(home).entries()
    decision = find_decision(entries, run)
    outputs = read_outputs(home, run, decision.decision if decision else None)
    plan = plans.load_bound(outputs.root, outputs.inputs.plan.path, outputs.inputs.plan)
    withheld = _withholds(plan, outputs.inputs.period.number, entries)
    if decision is None:
        check_not_edited(home, run, outputs, plan, entries)
        live.replay(home, run)
    limits = _limits(plan, outputs.inputs.period.number, entries)
    if decision is None or (limits.disclosure != "all" and not withheld):
        # A run that is decided on is logged again when its period has ended: what was withheld is added.
        mlflow_run_id = tracking.log_run(home, _content(home, outputs, limits, withheld=withheld))
    if decision is None:
        told = telling.verdict(outputs.verdict.verdict, limits if withheld else None)
        tags = content.of_version(content.tags(outputs.root, outputs.made, outputs.identifiers, told))
        version = versions.register(home, outputs.root / "train" / PACKAGE, mlflow_run_id, tags)
        known = outputs.identifiers.model_copy(update={"mlflow_run_id": mlflow_run_id, "model_version": version})
        trailers = f"{known.trailers()}Report: {outputs.digest('report/report.html')}\n"
        commit = runs.commit_run(home, run, f"{outputs.verdict.verdict}: {run}\n\n{trailers}")
        decision = _decide(home, outputs, known.model_copy(update={"run_commit": commit}))
        check_unchanged(outputs, decision.decision)
    aliases.reconcile(home)
    result = finish(home, run)
    return {
        "run": run,
        "mlflow_run_id": result.mlflow_run_id,
        "model_version": result.model_version,
        "run_commit": result.run_commit,
        "report": result.report,
        "withheld": result.restricted is not None,
        "verdict": result.verdict,
        "approvals": result.approvals,
        "holds": {code: MEANING[Code(code)] for code in result.holds},
        "limited_findings": result.limited_findings,
        "decision": result.decision,
    }


def read_outputs(home: Home, run: str, decision: Decision | None = None) -> Outputs:
    """Read what the stages of a run left, and check that each belongs to the next.

    Args:
        home: the installation.
        run: the run's name.
        decision: the decision on the run, if there is one: the outputs must then still be what it is about.

    Raises:
        RefusedError: one of them is not what was decided on.
        DataError: an output is missing, is not what its record says, or stems from another input than the next one.
    """
    root = home.workspace(run)
    for path in (root / "report" / "report.html", root / "report" / "summary.html"):
        if not path.is_file():
            raise DataError(f"{path.name} is missing", where=path, fix=_again(run, "report"))
    package = package_digest(root / "train" / PACKAGE)
    made = read_made(root, package=package)
    if made.evaluation.scored != "test":
        raise DataError(
            f"the test set was not scored in {run}: no look at it was recorded",
            where=root / "evaluate" / "evaluation.json",
            fix=_again(run, "evaluate, gate and report"),
        )
    outputs = Outputs(root=root, made=made, package=package, opened=_opened(home, run))
    if decision is not None:
        check_unchanged(outputs, decision)
    if wrong := misfits(made):
        raise DataError("; ".join(wrong), where=root, fix=_again(run, "evaluate, gate and report"))
    return outputs


def check_unchanged(outputs: Outputs, decision: Decision) -> None:
    """Compare a run's outputs with the decision on record.

    Raises:
        RefusedError: one of them is not what was decided on.
    """
    changed = changed_since(
        decision,
        outputs.made,
        verdict_sha256=outputs.digest("gate/verdict.json"),
        report_sha256=outputs.digest("report/report.html"),
    )
    for name in changed:
        raise RefusedError(
            f"{name} is not what the ledger's decision on {decision.run} is about",
            where=outputs.root,
            fix=f"retrain in a new run; what was decided on is commit {decision.run_commit[:12]} of the store",
        )


def check_not_edited(home: Home, run: str, outputs: Outputs, plan: plans.ChangePlan, entries: list[Entry]) -> None:
    """See that nothing was edited between the stages: not a file, the code, the settings, the evidence or the verdict.

    Raises:
        RefusedError: something was; it is named.
    """
    root = outputs.root
    if changed := dvc.changed_since_lock(root):
        raise RefusedError(
            f"not what the stages left, as {dvc.LOCK} records it: {_some(changed)}",
            where=root,
            fix=f"run the stages again: {_again(run, 'the first of them and all that follow')}",
        )
    if changed := runs.code_changes(home, run, outputs.inputs.code, outputs.opened.overrides):
        raise RefusedError(
            f"{_some(changed)} in the workspace is not what the code commit {outputs.inputs.code.commit[:12]} holds",
            where=root,
            fix="change code in the project and retrain in a new run",
        )
    wrong = [
        *straw_men(outputs.inputs, entries, plan),
        *other_facts(outputs.evaluation, Params.load(root / dvc.PARAMS)),
        *misjudged(outputs.verdict, outputs.evaluation, outputs.inputs, plan),
    ]
    if wrong:
        raise RefusedError("; ".join(wrong), where=root, fix="retrain in a new run: cxr-ops retrain --force")


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")


def finish(home: Home, run: str) -> Result:
    """Write all that follows from the ledger's entries about a run: published report, tags of its MLflow run, result.

    `promote` calls this again, so that the page and the result show the promotion.
    """
    entries = open_ledger(home).entries()
    entry = find_decision(entries, run)
    assert entry is not None, "finish follows a decision"  # noqa: S101 - our own invariant
    decision, promotion = entry.decision, find_promotion(entries, run)
    root = home.workspace(run)
    verdict = Verdict.read(root / "gate" / "verdict.json")
    plan = plans.load_bound(root, verdict.plan.path, verdict.plan)
    withheld, limits = _withholds(plan, decision.period, entries), _limits(plan, decision.period, entries)
    told = telling.verdict(decision.verdict, limits if withheld else None)
    report = (root / "report" / "report.html").read_text(encoding="utf-8")
    proof = checkout.plain_commands(home, decision.run_commit)
    full = published.render(report, entry, promotion, entries, proof=proof)
    page, restricted = full, home.restricted / f"{run}.html"
    if withheld:
        summary = (root / "report" / "summary.html").read_text(encoding="utf-8")
        page = published.render(summary, entry, promotion, entries)
        # The folder guards its files. The administrator may give it to others later, so it is left as it is.
        home.restricted.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(restricted, full.encode())
    place = home.reports / f"{run}.html"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(place, page.encode())
    if not withheld:
        restricted.unlink(missing_ok=True)
    runs.guard(home, run, withheld=withheld)
    tracking.add_text(home, decision.mlflow_run_id, "report/published.html", page)
    tags = {
        **decision.identifiers.tags(),
        "cxr.decision": entry.digest(),
        **({"cxr.promotion": promotion.digest()} if promotion else {}),
    }
    tracking.tag_run(home, decision.mlflow_run_id, tags)
    result = Result(
        **decision.identifiers.model_dump(),
        verdict=told,
        reasons=_told(verdict, limits, withheld=withheld),
        # A hold asks for more people: of a run that waits for nobody their number would tell of it.
        approvals=decision.approvals if told != telling.NOT_PROMOTED else 0,
        limited_findings=list(decision.limited_findings),
        # They follow from the test set: of a run that waits for nobody they would tell more than its verdict does.
        holds=list(decision.holds) if not withheld or telling.tells_reasons(limits) or told == PROMOTE else [],
        champion=verdict.champion,
        report=str(place),
        restricted=str(restricted) if withheld else None,
        decision=entry.digest(),
        promotion=promotion.digest() if promotion else None,
    )
    result.write(home.run(run) / "result.json")
    return result


def _opened(home: Home, run: str) -> Opened:
    path = home.run(run) / OPENED
    if not path.is_file():
        raise DataError(f"there is no run {run}", where=path, fix="ls $CXR_HOME/runs shows the runs there are")
    return Opened.read(path)


def _withholds(plan: plans.ChangePlan, period: int, entries: list[Entry]) -> bool:
    """Whether what the test set shows of a run of this period is kept from people who tune: the strictest plan says."""
    limits = _limits(plan, period, entries)
    return limits.disclosure != "all" and open_period(entries).number == period


def _limits(plan: plans.ChangePlan, period: int, entries: list[Entry]) -> Limits:
    """The strictest of a run's own plan and of all that its test period has seen."""
    return strictest([plan.limits, period_limits(entries, period)]) or plan.limits


def _told(verdict: Verdict, limits: Limits | None, *, withheld: bool) -> list[Reason]:
    """The verdict's reasons; where the test set is withheld, what codes mean that are told, and nothing else."""
    return telling.reasons(verdict.reasons, limits) if withheld else verdict.reasons


def _again(run: str, stages: str) -> str:
    return f"run {stages} again: cxr-ops stage VERB --run {run}"


def _decide(home: Home, outputs: Outputs, identifiers: Identifiers) -> Entry:
    """Append the decision, unless another process that published the same run was faster."""
    inputs, verdict = outputs.inputs, outputs.verdict
    body = Decision(
        **identifiers.model_dump(),
        requested_by=outputs.opened.requested_by,
        verdict=verdict.verdict,
        plan=verdict.plan.name,
        plan_sha256=verdict.plan.sha256,
        approvals=verdict.approvals,
        recipe=outputs.opened.recipe,
        champion=verdict.champion.entry,
        test_digest=verdict.test_digest,
        evaluation=outputs.digest("evaluate/evaluation.json"),
        verdict_digest=outputs.digest("gate/verdict.json"),
        inputs=outputs.digest(INPUTS),
        report=outputs.digest("report/report.html"),
        code_dirty=inputs.code.dirty,
        reference=inputs.reference.package if inputs.reference else None,
        period=inputs.period.number,
        limited_findings=tuple(verdict.limited_findings),
        holds=tuple(sorted({reason.code for reason in verdict.reasons} & HOLDS)),
    )

    def decide(entries: list[Entry]) -> Decision | Entry:
        limits = period_limits(entries, body.period)
        of_period = limits.approvals if limits is not None else 0
        asked = max(body.approvals, approvals_to_leave(entries, body.plan_sha256), of_period)
        return find_decision(entries, body.run) or body.model_copy(update={"approvals": asked})

    return open_ledger(home).append_if("decision", decide)


def _content(home: Home, outputs: Outputs, limits: Limits, *, withheld: bool) -> tracking.RunContent:
    return content.of_run(
        home,
        outputs.root,
        outputs.made,
        outputs.identifiers,
        told=telling.verdict(outputs.verdict.verdict, limits if withheld else None),
        reasons=_told(outputs.verdict, limits, withheld=withheld),
        withheld=withheld,
    )
