"""publish: everything of a run on record, once, however often it was cut off."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import mlflow.tracking._model_registry.fluent
import pytest
from finished import AIRFLOW, REPORT, RUN, SUMMARY, Case, finish
from mlflow import MlflowClient

from cxr_ops.audit.entries import PeriodOpened
from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import aliases, content, tracking, versions
from cxr_ops.edges.store import checkout, runs
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.records.base import sha256_bytes, sha256_file
from cxr_ops.records.evidence import Evaluation, Undefined
from cxr_ops.records.run import Result
from cxr_ops.records.verdict import Verdict
from cxr_ops.report import published as published_page
from cxr_ops.stages import publish
from cxr_ops.stats.codes import MEANING, Code

FIRST = RUN["first"]


def decisions(home: Home, run: str) -> list:
    return [entry for entry in open_ledger(home).entries() if entry.kind == "decision" and entry.body["run"] == run]


def registered(home: Home, digest: str) -> list[str]:
    found = MlflowClient(home.mlflow_uri, home.mlflow_uri).search_model_versions(f"name = '{MODEL_NAME}'")
    return [str(version.version) for version in found if version.tags.get("cxr.package") == digest]


def mlflow_runs(home: Home, run: str) -> list[str]:
    client = MlflowClient(home.mlflow_uri, home.mlflow_uri)
    experiment = client.get_experiment_by_name("cxr-ops").experiment_id
    return [found.info.run_id for found in client.search_runs([experiment], f"tags.`cxr.run` = '{run}'")]


def test_decision_binds_everything_by_digest(published: Home) -> None:
    """The decision holds the digest of each file that it was decided on, and where each record of the run is."""
    root = published.workspace(FIRST)
    [entry] = decisions(published, FIRST)
    body = entry.decision
    assert (body.run, body.airflow_run_id, body.requested_by) == (FIRST, AIRFLOW["first"], "dr_ruiz")
    assert (body.verdict, body.champion, body.model_version) == ("PROMOTE", None, "1")
    for said, path in (
        (body.evaluation, "evaluate/evaluation.json"),
        (body.verdict_digest, "gate/verdict.json"),
        (body.inputs, "inputs.json"),
        (body.report, "report/report.html"),
        (body.plan_sha256, "pccp.demo.yaml"),
    ):
        assert said == sha256_file(root / path)
    assert mlflow_runs(published, FIRST) == [body.mlflow_run_id]
    assert registered(published, body.package) == ["1"]
    assert open_ledger(published).state().looks == 2


def test_run_commit_names_the_airflow_and_the_mlflow_run(published: Home) -> None:
    """The run commit stands in the store with its outs pushed, and its trailers lead back to Airflow and MLflow."""
    body = decisions(published, FIRST)[0].decision
    assert runs.run_pushed(published, FIRST, body.run_commit)
    trailers = git.git(published, published.store, "show", "-s", "--format=%(trailers:only)", body.run_commit)
    assert dict(line.split(": ", 1) for line in trailers.splitlines() if line) == {
        "Run": FIRST,
        "Airflow-Run": AIRFLOW["first"],
        "MLflow-Run": body.mlflow_run_id,
        "Model-Version": f"{MODEL_NAME}/1",
        "Package": body.package,
        "Data-Revision": "d" * 40,
        "Code": body.code_commit,
        "Report": body.report,
    }


def test_published_report_is_the_report_and_a_block_of_identifiers(published: Home) -> None:
    """The page states every identifier, and without its block it is the report whose digest it states."""
    page = (published.reports / f"{FIRST}.html").read_text()
    strip, record = re.findall(r'<section class="(?:strip|published)".*?</section>', page, re.DOTALL)
    block = strip + record  # they stand one behind the other
    assert page.replace(block, "") == REPORT
    assert all(fact in html.unescape(strip) for fact in (FIRST, AIRFLOW["first"], decisions(published, FIRST)[0].at))
    entry = decisions(published, FIRST)[0]
    facts = html.unescape(block)
    body = entry.decision
    assert sha256_bytes(REPORT.encode()) == body.report
    for fact in (
        FIRST,
        AIRFLOW["first"],
        body.mlflow_run_id,
        f"{MODEL_NAME}/1",
        body.run_commit,
        "d" * 40,
        body.report,
    ):
        assert fact in facts
    assert entry.digest() in facts
    stored = mlflow.artifacts.download_artifacts(
        run_id=body.mlflow_run_id, artifact_path="report/published.html", tracking_uri=published.mlflow_uri
    )
    assert Path(stored).read_text() == page


def test_the_page_tells_how_to_bring_the_run_back(champion: Home) -> None:
    """The page prints the commands for git and DVC and for cxr-ops; with a champion, the comparison with it."""
    first, promotion = open_ledger(champion).decision(FIRST), open_ledger(champion).champion()
    page = (champion.reports / f"{FIRST}.html").read_text()
    printed = html.unescape("\n".join(re.findall(r"<pre><code>(.*?)</code></pre>", page, flags=re.DOTALL)))
    for line in checkout.plain_commands(champion, first.decision.run_commit):
        assert line in printed.splitlines()
    assert f"cxr-ops checkout {FIRST} proof" in printed
    assert "dvc plots diff" not in printed
    later = first.model_copy(update={"body": {**first.body, "champion": promotion.digest()}})
    page = published_page.render(REPORT, later, None, open_ledger(champion).entries(), proof=["dvc pull"])
    assert f"dvc metrics diff {promotion.promotion.run_commit} HEAD" in page
    assert "<pre>" not in published_page.render(REPORT, later, None, [later])


def test_facts_in_the_page_are_escaped(published: Home) -> None:
    """A run id with markup in it is text on the page, not markup."""
    entry = decisions(published, FIRST)[0]
    entry = entry.model_copy(update={"body": {**entry.body, "airflow_run_id": "<script>alert(1)</script>"}})
    page = published_page.render(REPORT, entry, None, [entry])
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert published_page.render("<body><p>no mark</p></body>", entry, None, [entry]).startswith("<body><section")


def test_result_says_where_everything_is(published: Home) -> None:
    """result.json holds verdict, reasons and every identifier, and promotes nothing by itself."""
    result = Result.read(published.run(FIRST) / "result.json")
    entry = decisions(published, FIRST)[0]
    assert (result.verdict, result.decision, result.promotion) == ("PROMOTE", entry.digest(), None)
    assert result.reasons[0].sentence.startswith(
        "First release: the macro-AUC and 14 findings lie above the floors of the plan"
    )
    assert result.run_commit == entry.decision.run_commit
    assert Path(result.report).is_file()


def test_second_publish_adds_nothing(published: Home) -> None:
    """Publishing a published run again gives the same answer, no entry, no version, and mends what was lost."""
    before = open_ledger(published).state()
    (published.reports / f"{FIRST}.html").unlink()
    (published.run(FIRST) / "result.json").unlink()
    answer = publish.run(published, FIRST)
    assert publish.run(published, FIRST) == answer
    assert json.loads(json.dumps(answer)) == answer
    assert open_ledger(published).state() == before
    assert Path(answer["report"]).is_file()
    assert registered(published, decisions(published, FIRST)[0].decision.package) == ["1"]
    # The challenger stays the run that was decided on last.
    alias = MlflowClient(published.mlflow_uri).get_model_version_by_alias(MODEL_NAME, "challenger")
    assert str(alias.version) == "2"


def cut_after(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """Let a step do its work, and end the process's work right after it."""
    real: Callable = getattr(owner, name)

    def step(*arguments: object, **options: object) -> None:
        real(*arguments, **options)
        raise KeyboardInterrupt(name)

    monkeypatch.setattr(owner, name, step)


def cut_before(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> None:
    """End the process's work right before a step."""

    def step(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt(name)

    monkeypatch.setattr(owner, name, step)


def test_publish_that_is_cut_off_anywhere_converges(published: Home, packages: dict[str, Path]) -> None:
    """Cut off between any two effects and started again, a run has one MLflow run, version, commit and decision."""
    run = finish(published, packages, Case(name="third", package="c"))
    fluent = mlflow.tracking._model_registry.fluent
    for cut, owner, name in (
        (cut_after, tracking, "_run"),  # an MLflow run without content
        (cut_after, tracking, "log_run"),
        (cut_before, fluent, "_register_model"),  # the model's files without a version
        (cut_after, versions, "register"),
        (cut_after, runs, "commit_workspace"),  # a commit that was not pushed
        (cut_after, runs, "commit_run"),
        (cut_after, publish, "_decide"),
        (cut_after, aliases, "reconcile"),
        (cut_before, tracking, "add_text"),
        (cut_before, tracking, "tag_run"),
        (cut_after, publish, "finish"),
    ):
        with pytest.MonkeyPatch.context() as monkeypatch:
            cut(monkeypatch, owner, name)
            with pytest.raises(KeyboardInterrupt, match=name):
                publish.run(published, run)
    answer = publish.run(published, run)
    [entry] = decisions(published, run)
    assert [answer["mlflow_run_id"]] == mlflow_runs(published, run) == [entry.decision.mlflow_run_id]
    assert [answer["model_version"]] == registered(published, entry.decision.package)
    assert runs.run_pushed(published, run, answer["run_commit"])
    log = git.git(published, published.workspace(run), "log", "--format=%s")
    assert log.splitlines() == [f"Run {run}", "Code"]  # not how it ended
    client = MlflowClient(published.mlflow_uri)
    tags = client.get_run(answer["mlflow_run_id"]).data.tags
    assert (tags["cxr.run_commit"], tags["cxr.decision"]) == (answer["run_commit"], entry.digest())
    assert client.get_run(answer["mlflow_run_id"]).info.status == "FINISHED"
    assert Result.read(published.run(run) / "result.json").decision == entry.digest()


def test_publisher_that_was_overtaken_adds_no_second_decision(published: Home) -> None:
    """Of two processes that publish the same run, the later one is handed the decision that stands."""
    before = open_ledger(published).state()
    outputs = publish.read_outputs(published, FIRST)
    other = {"mlflow_run_id": "other", "model_version": "9", "run_commit": "f" * 40}
    late = publish._decide(published, outputs, outputs.identifiers.model_copy(update=other))
    assert [late] == decisions(published, FIRST)
    assert open_ledger(published).state() == before


def test_rejected_run_is_on_record_too(published: Home, packages: dict[str, Path]) -> None:
    """A REJECT is published like any other verdict, and the same package keeps its version."""
    run = finish(published, packages, Case(name="third", package="a", auc=0.3))
    answer = publish.run(published, run)
    assert (answer["verdict"], answer["model_version"], answer["approvals"]) == ("REJECT", "1", 0)
    assert decisions(published, run)[0].decision.verdict == "REJECT"
    assert open_ledger(published).champion() is None


def files_of(home: Home, run_id: str) -> set[str]:
    """Every artifact of an MLflow run."""
    client, waiting, found = MlflowClient(home.mlflow_uri), [""], set()
    while waiting:
        for file in client.list_artifacts(run_id, waiting.pop()):
            (waiting.append if file.is_dir else found.add)(file.path)
    return found


def modes(home: Home, run: str) -> list[int]:
    return [folder.stat().st_mode & 0o777 for folder in (home.run(run), home.workspace(run))]


def test_test_set_is_withheld_while_its_period_is_open(
    published: Home, packages: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """People who tune learn that the run is not promoted, whatever the gate decided; when the period ends, all."""
    monkeypatch.setattr(publish, "check_not_edited", lambda *_: None)  # the hold is only claimed
    held = {"verdict": "PROMOTE", "holds": ("HARM_SIGNAL",), "approvals": 2}
    run = finish(published, packages, Case(name="third", package="b", plan="pccp.yaml", new_period=True, **held))
    answer = publish.run(published, run)
    client = MlflowClient(published.mlflow_uri)
    entry = decisions(published, run)[0]

    logged = client.get_run(answer["mlflow_run_id"]).data
    assert set(logged.metrics) == {"validation_auc/challenger", "train_loss", "validation_auc"}
    shown = files_of(published, answer["mlflow_run_id"])
    assert shown >= {"inputs.json", "train/history.csv", "report/published.html"}
    disclosing = {"evaluate/evaluation.json", "gate/verdict.json", "report/report.html", "explain/case-1.png"}
    disclosing |= {"report/report.json", "report/report.md", "dvc.lock"}  # it tells how long the verdict's file is
    assert not shown & disclosing
    page = Path(answer["report"]).read_text()
    bare = re.sub(r'<section class="(?:strip|published)".*?</section>', "", page, flags=re.DOTALL)
    told = re.search(r"(?<=<!-- cxr:told -->).*?(?=</section>)", bare, re.DOTALL)[0]
    assert bare.replace(told, "") == SUMMARY
    assert '<p class="word">NOT PROMOTED</p><p>No model is put in use.</p>' in told
    assert "come from the test set are for people who approve" in told
    assert not [word for word in ("PROMOTE<", "FLOORS_MET", "HARM_SIGNAL", "approved-by") if word in page]
    assert f"sha256 {entry.decision.report}; withheld while test period 2 is open" in page
    assert published.restricted.stat().st_mode & 0o777 == 0o700
    full = published.restricted / f"{run}.html"
    beside = {suffix: Path(answer["report"]).with_suffix(suffix) for suffix in (".json", ".md")}
    assert beside[".json"].read_text() == '{"of": "summary"}\n'
    text = beside[".md"].read_text()
    assert text.startswith("## The summary\n\n**NOT PROMOTED.** No model is put in use.\n")
    assert f"decided `{entry.at}`; run `{run}`; Airflow run" in text
    assert not [word for word in ("PROMOTE.", "FLOORS_MET", "HARM_SIGNAL") if word in text.replace("NOT PROMOTED", "")]
    assert answer["withheld"]
    assert not [value for value in answer.values() if "restricted" in str(value)]
    assert modes(published, run) == [0o700, 0o700]
    assert re.sub(r'<section class="(?:strip|published)".*?</section>', "", full.read_text(), flags=re.DOTALL) == REPORT
    result = Result.read(published.run(run) / "result.json")
    assert (result.verdict, result.reasons, result.holds, result.approvals) == ("NOT PROMOTED", [], [], 0)
    assert (result.limited_findings, result.restricted) == (["Hernia"], str(full))
    version = client.get_model_version(MODEL_NAME, answer["model_version"])
    assert logged.tags["cxr.verdict"] == version.tags["cxr.verdict"] == answer["verdict"] == "NOT PROMOTED"
    note = logged.tags["mlflow.note.content"]
    assert "**NOT PROMOTED**" in note
    assert not [word for word in ("Mass", MEANING[Code.HARM_SIGNAL], MEANING[Code.FLOORS_MET]) if word in note]
    assert "cxr.verdict_digest" not in logged.tags
    assert f"cxr-ops promote --run {run} --approved-by NAME" in full.read_text()
    # For those who carry it out: Airflow asks them, and shows them what held it.
    assert (answer["next"], answer["approvals"]) == ("approve", 2)
    assert answer["holds"] == {"HARM_SIGNAL": MEANING[Code.HARM_SIGNAL]}
    assert (entry.decision.holds, entry.decision.limited_findings) == (("HARM_SIGNAL",), ("Hernia",))

    opened = PeriodOpened(number=3, closed_batches=["batch-1"], by="dr_lee", reason="spent")
    open_ledger(published).append("period", opened)
    again = publish.run(published, run)

    assert again == answer | {"withheld": False, "verdict": "PROMOTE"}
    assert REPORT.partition("-->")[2].strip() in Path(again["report"]).read_text()
    assert not full.exists()
    assert beside[".json"].read_text() == '{"of": "report"}\n'
    assert beside[".md"].read_text().startswith("## The report\n\ndecided")
    assert modes(published, run) == [0o755, 0o755]
    assert files_of(published, answer["mlflow_run_id"]) >= shown | disclosing
    logged = client.get_run(answer["mlflow_run_id"]).data
    assert logged.metrics["auc/macro"] == 0.9
    assert "Mass: somebody must look." in logged.tags["mlflow.note.content"]
    assert "cxr.verdict_digest" in logged.tags
    assert client.get_model_version(MODEL_NAME, answer["model_version"]).tags["cxr.verdict"] == "PROMOTE"
    assert (
        Result.read(published.run(run) / "result.json").reasons
        == Verdict.read(published.workspace(run) / "gate/verdict.json").reasons
    )


def test_nothing_is_withheld_under_a_plan_that_discloses_all(published: Home) -> None:
    """Under disclosure `all` the published page is the report, and there is no restricted folder."""
    result = Result.read(published.run(FIRST) / "result.json")
    assert (result.restricted, result.holds, result.limited_findings) == (None, [], [])
    assert not published.restricted.exists()


def test_outputs_that_changed_after_the_decision_are_refused(published: Home) -> None:
    """Once decided on, another report, verdict or package of the same run is not published over the old one."""
    (published.workspace(FIRST) / "report/report.html").write_text(REPORT.replace("more", "better"))
    with pytest.raises(RefusedError, match=r"report/report\.html is not what the ledger's decision"):
        publish.run(published, FIRST)


@pytest.mark.parametrize("what", ["package", "evaluation", "verdict", "period", "inputs", "missing", "summary", "look"])
def test_outputs_that_do_not_belong_together_are_refused(published: Home, packages: dict[str, Path], what: str) -> None:
    """Files of different runs of the stages are a DataError that says which, and nothing is recorded."""
    run = finish(published, packages, Case(name="third", package="c"), tracked=False)
    root = published.workspace(run)
    if what == "package":
        shutil.rmtree(root / "train/package")
        shutil.copytree(packages["a"], root / "train/package")
    elif what == "evaluation":
        path = root / "evaluate/evaluation.json"
        Evaluation.read(path).model_copy(update={"test_images": 101}).write(path)
    elif what == "verdict":
        path = root / "gate/verdict.json"
        Verdict.read(path).model_copy(update={"challenger": "0" * 64}).write(path)
    elif what == "look":
        path = root / "evaluate/evaluation.json"
        Evaluation.read(path).model_copy(update={"scored": "validation"}).write(path)
    elif what == "period":
        path = root / "gate/verdict.json"
        Verdict.read(path).model_copy(update={"period": 2}).write(path)
    elif what == "inputs":
        path = root / "inputs.json"
        path.write_text(path.read_text().replace("d" * 40, "e" * 40))
    else:
        (root / "report" / ("summary.html" if what == "summary" else "report.html")).unlink()
    before = open_ledger(published).state()
    with pytest.raises(DataError) as caught:
        publish.run(published, run)
    assert caught.value.fix
    assert open_ledger(published).state() == before
    assert mlflow_runs(published, run) == []


def test_unknown_run_is_said_so(published: Home) -> None:
    """A run that was never opened is a DataError that says what is missing and where."""
    with pytest.raises(DataError, match="is missing"):
        publish.run(published, "never-opened")


def test_a_figure_that_is_undefined_is_no_metric(published: Home) -> None:
    """A finding without an AUC is left out of what MLflow gets, and is not 0 there."""
    found = publish.read_outputs(published, FIRST).evaluation
    rows = [
        row.model_copy(update={"challenger": Undefined(reason="no positive")}) if row.finding == "Hernia" else row
        for row in found.findings
    ]
    told = content._metrics(found.model_copy(update={"findings": rows}))
    assert told["auc/Mass"] == 0.9
    assert not [name for name in told if name.endswith("/Hernia")]
