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

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cxr_ops import plan as plans
from cxr_ops.audit import telling
from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.audit.fit import Made, changed_since, misfits, read_made
from cxr_ops.audit.judgement import misjudged, other_facts, straw_men
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.state import approvals_to_leave, find_decision, find_promotion, open_period, period_limits, strictest
from cxr_ops.contract import INPUTS, PACKAGE, PROMOTE
from cxr_ops.edges import dvc, links, live, resources
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
from cxr_ops.records.second_truth import SecondTruth
from cxr_ops.records.verdict import Verdict
from cxr_ops.report import published
from cxr_ops.stats.codes import HOLDS, MEANING, Code

SECOND_TRUTH: Final = "second-truth.json"  # in a run's folder: what `reread` found


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
        (whether that page withholds what the test set shows), `verdict` (as it is told), `limited_findings` and
        `decision` (the ledger's entry). For those who carry a PROMOTE out: `next` (`approve` or `promote`; None where
        the gate decided otherwise), `approvals` (how many people must then agree) and `holds` (codes for which more
        than usual must, and what each means).

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
    withheld = withholds(plan, outputs.inputs.period.number, entries)
    if decision is None:
        check_not_edited(home, run, outputs, plan, entries)
        live.replay(home, run)
    limits = _limits(plan, outputs.inputs.period.number, entries)
    if decision is None or (limits.disclosure != "all" and not withheld):
        # A run that is decided on is logged again when its period has ended: what was withheld is added.
        mlflow_run_id = tracking.log_run(home, _content(home, outputs, limits, withheld=withheld))
    if decision is None:
        told = telling.verdict(outputs.verdict.verdict, limits if withheld else None, promoted=False)
        tags = content.of_version(
            content.tags(outputs.root, outputs.made, outputs.identifiers, told, withheld=withheld)
        )
        registered = versions.register(
            home,
            outputs.root / "train" / PACKAGE,
            mlflow_run_id,
            tags,
            _claims(outputs, told, withheld=withheld),
            outputs.evaluation.points,
        )
        known = outputs.identifiers.model_copy(
            update={"mlflow_run_id": mlflow_run_id, "model_version": registered.version}
        )
        trailers = f"{known.trailers()}Report: {outputs.digest('report/report.html')}\n"
        commit = runs.commit_run(home, run, f"Run {run}\n\n{trailers}")
        decision = _decide(home, outputs, known.model_copy(update={"run_commit": commit}), registered.directory)
        check_unchanged(outputs, decision.decision)
    aliases.reconcile(home)
    result = finish(home, run)
    promotes = decision.decision.verdict == PROMOTE
    return {
        "run": run,
        "mlflow_run_id": result.mlflow_run_id,
        "model_version": result.model_version,
        "run_commit": result.run_commit,
        "report": result.report,
        "withheld": result.restricted is not None,
        "verdict": result.verdict,
        "next": ("approve" if decision.decision.approvals else "promote") if promotes else None,
        "approvals": decision.decision.approvals if promotes else result.approvals,
        "holds": {code: MEANING[Code(code)] for code in (decision.decision.holds if promotes else result.holds)},
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
    withheld, limits = withholds(plan, decision.period, entries), _limits(plan, decision.period, entries)
    held = limits if withheld else None
    told = telling.verdict(decision.verdict, held, promoted=promotion is not None)
    reasons = telling.reasons(verdict.reasons, held, told) if withheld else verdict.reasons
    report = (root / "report" / "report.html").read_text(encoding="utf-8")
    proof = checkout.plain_commands(home, decision.run_commit)
    addresses = links.of_run(home, decision.identifiers, code_source=plan.code_source, dirty=decision.code_dirty)
    around: dict[str, Any] = {"links": addresses, "spent": resources.read(home, run)}
    second = _second_truth(home, run, decision)
    full = published.render(report, entry, promotion, entries, proof=proof, second=second, **around)
    page, restricted = full, home.restricted / f"{run}.html"
    outcome = None
    if withheld:
        summary = (root / "report" / "summary.html").read_text(encoding="utf-8")
        outcome = published.Told(
            verdict=told,
            reasons=reasons,
            reasons_told=telling.tells_reasons(limits),
            outside=sorted(one.sentence for one in verdict.reasons if one.code == Code.OUTSIDE_PLAN),
            champion=verdict.champion.package is not None,
        )
        page = published.render(summary, entry, promotion, entries, told=outcome, **around)
        # The folder guards its files. The administrator may give it to others later, so it is left as it is.
        home.restricted.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(restricted, full.encode())
    place = home.reports / f"{run}.html"
    place.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(place, page.encode())
    _write_beside(root, place, entry, promotion, outcome, addresses)
    if not withheld:
        restricted.unlink(missing_ok=True)
    runs.guard(home, run, withheld=withheld)
    tracking.add_text(home, decision.mlflow_run_id, "report/published.html", page)
    tags = {
        **decision.identifiers.tags(),
        "cxr.verdict": told,
        "cxr.decision": entry.digest(),
        "mlflow.note.content": content.note(read_made(root), decision.identifiers, told, reasons, addresses),
        **({"cxr.promotion": promotion.digest()} if promotion else {}),
    }
    tracking.tag_run(home, decision.mlflow_run_id, tags)
    versions.tag_version(home, decision.model_version, {"cxr.verdict": told})
    result = Result(
        **decision.identifiers.model_dump(),
        verdict=told,
        reasons=reasons,
        approvals=telling.approvals(decision.approvals, told, held),
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


def _second_truth(home: Home, run: str, decision: Decision) -> SecondTruth | None:
    """The second truth that was given of a run, where there is one and it is of the evidence that was decided on."""
    path = home.run(run) / SECOND_TRUTH
    found = SecondTruth.read(path) if path.is_file() else None
    return found if found is not None and found.evaluation == decision.evaluation else None


def _write_beside(
    root: Path,
    place: Path,
    decision: Entry,
    promotion: Entry | None,
    told: published.Told | None,
    addresses: Mapping[str, str],
) -> None:
    """Write beside the published page the same for machines, and the text for chats and pull requests.

    A run of an earlier version made neither. While the page is the summary, so are they.
    """
    made = root / "report" / ("report" if told is None else "summary")
    place.with_suffix(".pdf").unlink(missing_ok=True)  # printed of an earlier page, which may have told more
    for suffix in (".json", ".md"):
        source, target = made.with_suffix(suffix), place.with_suffix(suffix)
        if not source.is_file():
            target.unlink(missing_ok=True)
            continue
        data = source.read_bytes()
        if suffix == ".md":
            data = published.text(data.decode(), decision, promotion, told=told, links=addresses).encode()
        write_atomic(target, data)


def _opened(home: Home, run: str) -> Opened:
    path = home.run(run) / OPENED
    if not path.is_file():
        raise DataError(f"there is no run {run}", where=path, fix="ls $CXR_HOME/runs shows the runs there are")
    return Opened.read(path)


def withholds(plan: plans.ChangePlan, period: int, entries: list[Entry]) -> bool:
    """Whether what the test set shows of a run of this period is kept from people who tune: the strictest plan says."""
    limits = _limits(plan, period, entries)
    return limits.disclosure != "all" and open_period(entries).number == period


def _limits(plan: plans.ChangePlan, period: int, entries: list[Entry]) -> Limits:
    """The strictest of a run's own plan and of all that its test period has seen."""
    return strictest([plan.limits, period_limits(entries, period)]) or plan.limits


def _again(run: str, stages: str) -> str:
    return f"run {stages} again: cxr-ops stage VERB --run {run}"


def _claims(outputs: Outputs, told: str, *, withheld: bool) -> dict[str, dict[str, Any]]:
    """What is claimed of the model beside its signature, by digests; its verdict only where that is told."""
    inputs, verdict = outputs.inputs, outputs.verdict
    claims: dict[str, dict[str, Any]] = {
        "data": {"revision": inputs.data.revision, "batches": dict(inputs.data.batches)},
        "plan": {"name": verdict.plan.name, "sha256": verdict.plan.sha256},
        "training": {
            "run": outputs.opened.run,
            "package": outputs.package,
            "recipe": outputs.opened.recipe,
            "code_commit": inputs.code.commit,
            "code_dirty": inputs.code.dirty,
            "image": inputs.image,
        },
    }
    if not withheld:
        claims["verdict"] = {"verdict": told, "sha256": outputs.digest("gate/verdict.json")}
    return claims


def _decide(home: Home, outputs: Outputs, identifiers: Identifiers, directory: str | None = None) -> Entry:
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
        directory=directory,
    )

    def decide(entries: list[Entry]) -> Decision | Entry:
        limits = period_limits(entries, body.period)
        of_period = limits.approvals if limits is not None else 0
        asked = max(body.approvals, approvals_to_leave(entries, body.plan_sha256), of_period)
        return find_decision(entries, body.run) or body.model_copy(update={"approvals": asked})

    return open_ledger(home).append_if("decision", decide)


def _content(home: Home, outputs: Outputs, limits: Limits, *, withheld: bool) -> tracking.RunContent:
    held = limits if withheld else None
    told = telling.verdict(outputs.verdict.verdict, held, promoted=False)
    return content.of_run(
        home,
        outputs.root,
        outputs.made,
        outputs.identifiers,
        told=told,
        reasons=telling.reasons(outputs.verdict.reasons, held, told) if withheld else outputs.verdict.reasons,
        withheld=withheld,
    )
