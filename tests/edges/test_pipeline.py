"""Tests of cxr_ops.edges.pipeline."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluations import opened
from projects import make_home, make_project

from cxr_ops import plan as plans
from cxr_ops.audit.entries import PeriodOpened
from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.edges import pipeline
from cxr_ops.edges import plans as in_force
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.records.base import tree_digest
from cxr_ops.records.data import DataRevision, Division
from cxr_ops.records.inputs import Allowance, Champion, Code, Inputs, Level, Period, RecordedLook, Reference
from cxr_ops.records.run import Result
from cxr_ops.records.verdict import Verdict

RUN = "run-1"
STAGES = """
stages:
  train:
    cmd: python -m cxr_ops.stages train
    deps: [cxr_ops/stages/train.py]
    params: [train]
    outs: [train]
  evaluate:
    cmd: python -m cxr_ops.stages evaluate
    deps: [train/package, champion, split/split.json, look.json]
    params: [evaluate]
    outs: [evaluate]
"""
TRAIN = """
def run(root, params):
    out = root / "train" / "package"
    shutil.rmtree(root / "train", ignore_errors=True)
    out.mkdir(parents=True)
    for name in %r:
        (out / name).write_text(f"{params.train.seed} {name}")
"""
# What a stage could see of the ledger at the time when it scores.
EVALUATE = """
def run(root, params):
    (root / "evaluate").mkdir(exist_ok=True)
    ledger = sorted(path.name for path in (root.parents[2] / "ledger").glob("*.json"))
    (root / "evaluate" / "seen.txt").write_text(" ".join(ledger))
    shutil.copy(root / "look.json", root / "evaluate" / "look.json")
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An opened run, with a champion."""
    project = make_project(tmp_path / "project", train=TRAIN % (PACKAGE_FILES,), evaluate=EVALUATE)
    home = make_home(tmp_path / "home", project)
    home.run(RUN).mkdir(parents=True)
    workspace = project.rename(home.workspace(RUN))
    (workspace / "dvc.yaml").write_text(STAGES)
    (workspace / "split").mkdir()
    Division(salt="s", validation=0.1, test=0.2, test_digest="t1", splits={}).write(workspace / "split" / "split.json")
    RecordedLook().write(workspace / "look.json")
    crown(home, "c" * 64)
    return home


def crown(home: Home, package: str | None) -> None:
    champion = Champion(package=package, version="3")
    champion.write(home.workspace(RUN) / "champion" / "champion.json")
    opened(
        RUN,
        airflow_run_id="manual__1",
        code=Code(commit="e" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={}),
        champion=champion,
    ).write(home.run(RUN) / "run.json")
    Inputs(
        code=Code(commit="e" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={"two": "2", "one": "1", "closed": "0"}),
        champion=champion,
        reference=Reference(package="f" * 64, version="1"),
        period=Period(number=2, closed_batches=["closed"]),
        ledger=None,
        plan=plans.identify(home.workspace(RUN), "pccp.demo.yaml"),
    ).write(home.workspace(RUN) / "inputs.json")


def start_period(home: Home, number: int) -> None:
    open_ledger(home).append(
        "period", PeriodOpened(number=number, closed_batches=["closed"], by="dr_lee", reason="spent")
    )


def test_looks_are_on_the_ledger_before_the_scores_exist(home: Home) -> None:
    """Before `evaluate` runs, who is scored as what on which batches is recorded, and a second time changes nothing."""
    start_period(home, 2)
    package = pipeline.run_stage(home, RUN, "train")["package"]
    assert len(open_ledger(home).entries()) == 1

    done = pipeline.run_stage(home, RUN, "evaluate")

    _, adopted, *looked = open_ledger(home).entries()
    plan = plans.load(home.workspace(RUN) / "pccp.demo.yaml")
    assert (adopted.plan.name, adopted.plan.by, adopted.plan.limits) == ("demonstration", None, plan.limits)
    looks = [entry.look for entry in looked]
    assert {(look.plan, look.limits) for look in looks} == {(adopted.plan.sha256, plan.limits)}
    assert [(look.model, look.role, look.test_digest, look.run) for look in looks] == [
        (package, "challenger", "t1", RUN),
        ("c" * 64, "champion", "t1", RUN),
        ("f" * 64, "reference", "t1", RUN),
    ]
    assert {(look.period, look.batches) for look in looks} == {(2, ("one", "two"))}
    assert open_ledger(home).state().looked == [(package, "t1")]
    seen = (home.workspace(RUN) / "evaluate" / "seen.txt").read_text()
    assert seen == " ".join(f"0000000{number}.json" for number in range(1, 6))
    told = RecordedLook.read(home.workspace(RUN) / "evaluate" / "look.json")
    assert told == RecordedLook(package=package, test_digest="t1", entry=looked[0].digest())
    again = pipeline.run_stage(home, RUN, "evaluate")
    assert (again["inputs"], again["ran"]) == (done["inputs"], False)
    assert len(open_ledger(home).entries()) == 5


def test_run_of_a_closed_period_is_not_scored(home: Home) -> None:
    """A run that was opened before the period changed looks at nobody: its test set may hold the new one's patients."""
    start_period(home, 3)
    pipeline.run_stage(home, RUN, "train")
    with pytest.raises(RefusedError, match="opened in test period 2, and period 3 is open"):
        pipeline.run_stage(home, RUN, "evaluate")
    assert not (home.workspace(RUN) / "evaluate").exists()
    assert len(open_ledger(home).entries()) == 1


def test_the_gate_judges_at_no_more_than_the_ledger_leaves(home: Home) -> None:
    """A larger level in inputs.json, for the checks or for the claim to beat the reference, is refused twice."""
    start_period(home, 2)
    pipeline.run_stage(home, RUN, "train")
    path = home.workspace(RUN) / "inputs.json"
    inputs = Inputs.read(path)
    alpha = plans.load(home.workspace(RUN) / "pccp.demo.yaml").performance.alpha
    for checks, superiority, match in ((2, 1, "on each check"), (1, 2, "claim that the model beats the reference")):
        level = Level(checks=checks * alpha, superiority=superiority * alpha)
        inputs.model_copy(update={"allowance": Allowance(next=level)}).write(path)
        with pytest.raises(RefusedError, match=match):
            pipeline.run_stage(home, RUN, "evaluate")
        with pytest.raises(RefusedError, match=match):
            pipeline._check_level(home, RUN)
    assert not (home.workspace(RUN) / "evaluate").exists()
    assert open_ledger(home).state().looks == 0


def test_challenger_that_is_the_champion_ends_the_run(home: Home) -> None:
    """After `train`, equal digests are NO_CHANGE, and the run's result is written."""
    first = pipeline.run_stage(home, RUN, "train")
    assert (first["package"], first["no_change"]) == (
        tree_digest(home.workspace(RUN) / "train" / "package", PACKAGE_FILES),
        False,
    )
    assert not (home.run(RUN) / "result.json").exists()
    crown(home, first["package"])

    assert pipeline.run_stage(home, RUN, "train")["no_change"]

    result = Result.read(home.run(RUN) / "result.json")
    assert (result.verdict, result.package, result.model_version, result.airflow_run_id) == (
        "NO_CHANGE",
        first["package"],
        "3",
        "manual__1",
    )


def test_evaluate_without_a_package_or_a_split_spends_no_look(home: Home) -> None:
    """What cannot be named cannot be looked at."""
    start_period(home, 2)
    pipeline.run_stage(home, RUN, "train")
    (home.workspace(RUN) / "split" / "split.json").write_text(
        '{"salt": "s", "validation": 0.1, "test": 0.2, "splits": {}}'
    )
    with pytest.raises(DataError, match="test_digest"):
        pipeline.run_stage(home, RUN, "evaluate")
    (home.workspace(RUN) / "train" / "package" / "model.json").unlink()
    with pytest.raises(DataError, match=r"lacks model\.json"):
        pipeline.challenger_digest(home.workspace(RUN))

    assert len(open_ledger(home).entries()) == 1


def test_what_the_gate_decided_is_told_by_the_plans_of_now(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    """A plan that tells less holds from when it is in force on, for the log too; approvals tell nothing either."""
    golden, workspace = Path(__file__).parents[1] / "golden" / "next", home.workspace(RUN)
    rejected = {"verdict": "REJECT", "approvals": 2}
    Verdict.read(golden / "verdict.json").model_copy(update=rejected).write(workspace / "gate" / "verdict.json")
    Inputs.read(golden / "inputs.json").write(workspace / "inputs.json")
    assert pipeline._told(home, RUN) == rejected
    reasons = Verdict.read(workspace / "gate" / "verdict.json").reasons
    assert reasons
    told = [f"  {reason.code}: {reason.sentence}" for reason in reasons]
    assert capsys.readouterr().err.splitlines() == ["gate: REJECT", *told]
    plan = Path(__file__).parents[2] / "pccp.yaml"
    in_force.adopt(home, plan, by="dr_lee", reason="reviewed")
    assert pipeline._told(home, RUN) == {"verdict": "NOT PROMOTED", "approvals": 0}
    said = capsys.readouterr().err
    assert said.startswith("gate: NOT PROMOTED\n")
    assert not any(reason.sentence in said for reason in reasons)
