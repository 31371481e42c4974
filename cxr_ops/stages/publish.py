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

import csv
import html
import math
from collections.abc import Sequence
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
from cxr_ops.contract import DATASET, INPUTS, MODEL_NAME, PACKAGE, PROMOTE
from cxr_ops.edges import dvc, live
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import aliases, tracking, versions
from cxr_ops.edges.store import checkout, runs
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.data import Batch
from cxr_ops.records.evidence import Estimate, Evaluation, Figure
from cxr_ops.records.inputs import Inputs, Limits
from cxr_ops.records.run import OPENED, Opened, Result
from cxr_ops.records.verdict import Reason, Verdict
from cxr_ops.report.page import PUBLISHED_MARK
from cxr_ops.stats.codes import HOLDS, MEANING, Code

# Files of the workspace that the MLflow run holds, in folders of the same names.
_ARTIFACTS: Final = (
    INPUTS,
    "params.yaml",
    "dvc.lock",
    "validate/validation.html",
    "validate/validation.json",
    "split/split.json",
    "train/history.csv",
    "train/train.json",
)
# What of them shows the test set; so do the pictures in `explain/`.
_DISCLOSING: Final = ("evaluate/evaluation.json", "gate/verdict.json", "report/report.html")


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
        mlflow_run_id = tracking.log_run(home, _content(home, run, outputs, limits, withheld=withheld))
    if decision is None:
        version = versions.register(
            home,
            outputs.root / "train" / PACKAGE,
            mlflow_run_id,
            _version_tags(run, outputs, limits if withheld else None),
        )
        commit = runs.commit_run(home, run, _message(run, outputs, mlflow_run_id, version))
        decision = _decide(home, run, outputs, mlflow_run_id, version, commit)
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
    full = publish_page(report, entry, promotion, entries, proof=proof)
    page, restricted = full, home.restricted / f"{run}.html"
    if withheld:
        page = publish_page((root / "report" / "summary.html").read_text(encoding="utf-8"), entry, promotion, entries)
        # The folder guards its files. Who it belongs to later is the administrator's to say: it is left as it is.
        home.restricted.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(restricted, full.encode())
    published = home.reports / f"{run}.html"
    published.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(published, page.encode())
    if not withheld:
        restricted.unlink(missing_ok=True)
    runs.guard(home, run, withheld=withheld)
    tracking.add_text(home, decision.mlflow_run_id, "report/published.html", page)
    tags = {
        "cxr.decision": entry.digest(),
        "cxr.run_commit": decision.run_commit,
        "cxr.model_version": decision.model_version,
    }
    tracking.tag_run(home, decision.mlflow_run_id, tags | ({"cxr.promotion": promotion.digest()} if promotion else {}))
    result = Result(
        run=run,
        airflow_run_id=decision.airflow_run_id,
        verdict=told,
        reasons=_told(verdict, limits, withheld=withheld),
        approvals=decision.approvals,
        limited_findings=list(decision.limited_findings),
        # They follow from the test set: of a run that waits for nobody they would tell more than its verdict does.
        holds=list(decision.holds) if not withheld or telling.tells_reasons(limits) or told == PROMOTE else [],
        champion=verdict.champion,
        package=decision.package,
        mlflow_run_id=decision.mlflow_run_id,
        model_version=decision.model_version,
        run_commit=decision.run_commit,
        data_revision=decision.data_revision,
        code_commit=decision.code_commit,
        report=str(published),
        restricted=str(restricted) if withheld else None,
        decision=entry.digest(),
        promotion=promotion.digest() if promotion else None,
    )
    result.write(home.run(run) / "result.json")
    return result


def publish_page(
    report: str, decision: Entry, promotion: Entry | None, entries: list[Entry], *, proof: Sequence[str] = ()
) -> str:
    """Put a block of identifiers in front of a report.

    Args:
        report: the report as it was made: `report/report.html`, or `report/summary.html` where that is withheld.
        decision: the ledger's decision on the run.
        promotion: the ledger's promotion of the run's model, if there is one.
        entries: the ledger, for the approvals and the champion.
        proof: the commands that bring the run back, where the page may tell them.

    Returns:
        The page. Taking the block out again gives the bytes whose digest the block states.
    """
    body = decision.decision
    own = sha256_bytes(report.encode())
    approvals = [
        f"{entry.approval.by}, {entry.approval.at}"
        for entry in entries
        if entry.kind == "approval" and entry.approval.decision == decision.digest()
    ]
    facts = {
        "Run": body.run,
        "Airflow run": body.airflow_run_id or "none: not started by Airflow",
        "Requested by": body.requested_by or "not recorded",
        "MLflow run": body.mlflow_run_id,
        "Model version": f"{MODEL_NAME}/{body.model_version}",
        "DVC revision of the run": body.run_commit,
        "Data revision": body.data_revision,
        "Code": body.code_commit + (" (a snapshot of uncommitted changes)" if body.code_dirty else ""),
        "Image": body.image or "none: not run in a container",
        "Test period": str(body.period),
        "Decision": f"entry {decision.seq} of the ledger, {decision.at}, sha256 {decision.digest()}",
        "Approvals": "; ".join(approvals) or ("none yet" if body.approvals else "none asked for by the plan"),
        "Promotion": (
            f"entry {promotion.seq} of the ledger, {promotion.at}, sha256 {promotion.digest()}" if promotion else "none"
        ),
        "This report without this block": f"sha256 {own}",
    }
    if own != body.report:
        facts["Full report"] = f"sha256 {body.report}; withheld while test period {body.period} is open"
    rows = "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>" for key, value in facts.items()
    )
    back = _bring_back(body, entries, proof) if proof else ""
    block = f'<section class="published" aria-label="Published record"><dl class="facts">{rows}</dl>{back}</section>'
    mark = PUBLISHED_MARK if PUBLISHED_MARK in report else "<body>"
    before, found, after = report.partition(mark)
    if not found:
        raise DataError("report/report.html has no <body>", where=body.run, fix=_again(body.run, "report"))
    return f"{before}{found}{block}{after}"


def _bring_back(decision: Decision, entries: list[Entry], proof: Sequence[str]) -> str:
    """The commands that bring the run back, and those that compare it with the champion that it was judged against."""
    champion = next((entry.promotion for entry in entries if entry.digest() == decision.champion), None)
    ours = [f"cxr-ops checkout {decision.run} proof", "cd proof"]
    compared = ""
    if champion is not None:
        ours += [f"dvc {what} diff {champion.run_commit} HEAD" for what in ("metrics", "plots")]
        compared = ", and compare it with the champion that it was judged against"
    return "".join(
        f"<p>{sentence}:</p><pre><code>{html.escape(chr(10).join(lines))}</code></pre>"
        for sentence, lines in (
            ("To bring the run back with git and DVC, where these places can be read", proof),
            (f"To bring it back with cxr-ops{compared}", ours),
        )
    )


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


def _decide(home: Home, run: str, outputs: Outputs, mlflow_run_id: str, version: str, commit: str) -> Entry:
    """Append the decision, unless another process that published the same run was faster."""
    inputs, verdict = outputs.inputs, outputs.verdict
    body = Decision(
        run=run,
        airflow_run_id=outputs.opened.airflow_run_id,
        requested_by=outputs.opened.requested_by,
        verdict=verdict.verdict,
        plan=verdict.plan.name,
        plan_sha256=verdict.plan.sha256,
        approvals=verdict.approvals,
        package=outputs.package,
        recipe=outputs.opened.recipe,
        champion=verdict.champion.entry,
        test_digest=verdict.test_digest,
        evaluation=outputs.digest("evaluate/evaluation.json"),
        verdict_digest=outputs.digest("gate/verdict.json"),
        inputs=outputs.digest(INPUTS),
        report=outputs.digest("report/report.html"),
        data_revision=inputs.data.revision,
        code_commit=inputs.code.commit,
        code_dirty=inputs.code.dirty,
        image=inputs.image,
        run_commit=commit,
        mlflow_run_id=mlflow_run_id,
        model_version=version,
        reference=inputs.reference.package if inputs.reference else None,
        period=inputs.period.number,
        limited_findings=tuple(verdict.limited_findings),
        holds=tuple(sorted({reason.code for reason in verdict.reasons} & HOLDS)),
    )

    def decide(entries: list[Entry]) -> Decision | Entry:
        limits = period_limits(entries, body.period)
        of_period = limits.approvals if limits is not None else 0
        asked = max(body.approvals, approvals_to_leave(entries, body.plan_sha256), of_period)
        return find_decision(entries, run) or body.model_copy(update={"approvals": asked})

    return open_ledger(home).append_if("decision", decide)


def _message(run: str, outputs: Outputs, mlflow_run_id: str, version: str) -> str:
    verdict = outputs.verdict
    trailers = {
        "Run": run,
        "Airflow-Run": outputs.opened.airflow_run_id,
        "MLflow-Run": mlflow_run_id,
        "Model-Version": f"{MODEL_NAME}/{version}",
        "Package": outputs.package,
        "Report": outputs.digest("report/report.html"),
    }
    lines = "\n".join(f"{key}: {value}" for key, value in trailers.items() if value)
    return f"{verdict.verdict}: {run}\n\n{lines}\n"


# ------------------------------------------------------------------------------------------------- for MLflow


def _content(home: Home, run: str, outputs: Outputs, limits: Limits, *, withheld: bool) -> tracking.RunContent:
    told = telling.verdict(outputs.verdict.verdict, limits if withheld else None)
    root, inputs, evaluation = outputs.root, outputs.inputs, outputs.evaluation
    params = Params.load(root / "params.yaml").model_dump(mode="json", by_alias=True)
    files = [root / name for name in _ARTIFACTS] + [root / inputs.plan.path]
    metrics = {f"validation_auc/{role}": value for role, value in evaluation.validation_macro.items()}
    if not withheld:
        files += [*(root / name for name in _DISCLOSING), *sorted((root / "explain").glob("*.png"))]
        metrics |= _metrics(evaluation)
    return tracking.RunContent(
        run=run,
        tags=_tags(outputs, told),
        params={f"{section}.{key}": str(value) for section, keys in params.items() for key, value in keys.items()},
        metrics=metrics,
        history=_history(root / "train" / "history.csv"),
        datasets=_datasets(home, outputs),
        artifacts=[(path.parent.relative_to(root).as_posix().strip("."), path) for path in files if path.is_file()],
        note=_note(run, outputs, told, _told(outputs.verdict, limits, withheld=withheld)),
    )


def _tags(outputs: Outputs, told: str) -> dict[str, str]:
    inputs, verdict = outputs.inputs, outputs.verdict
    tags = {
        "cxr.airflow_run_id": outputs.opened.airflow_run_id,
        "cxr.verdict": told,
        "cxr.plan": verdict.plan.name,
        "cxr.plan_sha256": verdict.plan.sha256,
        "cxr.clinical_use": str(verdict.clinical_use).lower(),
        "cxr.data_revision": inputs.data.revision,
        "cxr.code_commit": inputs.code.commit,
        "cxr.code_dirty": str(inputs.code.dirty).lower(),
        "cxr.image": inputs.image,
        "cxr.inputs": outputs.digest(INPUTS),
        "cxr.package": outputs.package,
        "cxr.champion": verdict.champion.entry,
        "cxr.reference": inputs.reference and inputs.reference.package,
        "cxr.period": str(verdict.period),
        "cxr.test_digest": verdict.test_digest,
        "cxr.evaluation": outputs.digest("evaluate/evaluation.json"),
        "cxr.verdict_digest": outputs.digest("gate/verdict.json"),
        "cxr.report": outputs.digest("report/report.html"),
        "mlflow.source.name": "cxr-ops",
        "mlflow.source.git.commit": inputs.code.commit,
    }
    return {key: value for key, value in tags.items() if value}


def _version_tags(run: str, outputs: Outputs, limits: Limits | None) -> dict[str, str]:
    """Tags of the model's version; where the test set is withheld, `limits` say what is told of the verdict."""
    keys = ("cxr.verdict", "cxr.plan", "cxr.clinical_use", "cxr.data_revision", "cxr.code_commit", "cxr.report")
    tags = _tags(outputs, telling.verdict(outputs.verdict.verdict, limits))
    return {"cxr.run": run} | {key: tags[key] for key in keys}


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    """AUC of each model and differences from champion and reference, with bounds; what is undefined is left out."""
    figures: dict[str, Figure | None] = {
        "auc/macro": evaluation.macro_challenger,
        "champion_auc/macro": evaluation.macro_champion,
        "difference/macro": evaluation.macro_difference,
        "reference_auc/macro": evaluation.macro_reference,
        "reference_difference/macro": evaluation.macro_reference_difference,
    }
    for row in evaluation.findings:
        figures |= {
            f"auc/{row.finding}": row.challenger,
            f"champion_auc/{row.finding}": row.champion,
            f"difference/{row.finding}": row.difference,
            f"reference_auc/{row.finding}": row.reference,
            f"reference_difference/{row.finding}": row.reference_difference,
        }
    metrics: dict[str, float] = {}
    for name, figure in figures.items():
        if isinstance(figure, Estimate):
            what, _, finding = name.partition("/")
            metrics[name] = figure.value
            metrics[f"{what}_low/{finding}"], metrics[f"{what}_high/{finding}"] = figure.ci
    return metrics


def _history(path: Path) -> list[tuple[int, dict[str, float]]]:
    if not path.is_file():
        raise DataError(f"{path.name} is missing", where=path, fix="run train again")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    history = []
    for row in rows:
        values = {key: float(value) for key, value in row.items() if key != "epoch" and value}
        history.append((int(row["epoch"]), {key: value for key, value in values.items() if math.isfinite(value)}))
    return history


def _datasets(home: Home, outputs: Outputs) -> list[tracking.Dataset]:
    data, evaluation = outputs.inputs.data, outputs.evaluation
    found = []
    for name, digest in data.batches.items():
        batch = Batch.read(outputs.root / DATASET / name / "batch.json")
        found.append(
            tracking.Dataset(
                name=name,
                digest=digest,
                source=f"{home.store}@{data.revision}:{DATASET}/{name}.dvc",
                context="batch",
                profile={"images": batch.images, "patients": batch.patients},
            )
        )
    found.append(
        tracking.Dataset(
            name="test",
            digest=evaluation.test_digest,
            source=f"{home.store}@{data.revision}:{DATASET}",
            context="test",
            profile={"images": evaluation.test_images, "patients": evaluation.test_patients},
        )
    )
    return found


def _note(run: str, outputs: Outputs, told: str, reasons: list[Reason]) -> str:
    """The description that MLflow shows beside the run, in Markdown."""
    inputs, verdict = outputs.inputs, outputs.verdict
    rows = {
        "Run": run,
        "Airflow run": outputs.opened.airflow_run_id,
        "Plan": verdict.plan.name,
        "Data revision": inputs.data.revision,
        "Code": inputs.code.commit,
        "Image": inputs.image,
        "Package": outputs.package,
        "Champion judged against": verdict.champion.version and f"{MODEL_NAME}/{verdict.champion.version}",
        "Reference judged against": inputs.reference and f"{MODEL_NAME}/{inputs.reference.version}",
    }
    lines = [f"**{told}**" + ("" if verdict.clinical_use else ", not for clinical use"), ""]
    lines += [f"* {reason.sentence}" for reason in reasons]
    lines += ["", "| | |", "|-|-|", *(f"| {key} | `{value}` |" for key, value in rows.items() if value)]
    lines += ["", f"The report is the artifact `report/published.html`. All identifiers: `cxr-ops lineage {run}`."]
    return "\n".join(lines)
