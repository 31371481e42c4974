"""Tests of cxr_ops.edges.pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from projects import make_home, make_project

from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.edges import pipeline
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Ledger
from cxr_ops.errors import DataError
from cxr_ops.records import Champion, Result, tree_digest

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
    deps: [train/package, champion, split/split.json]
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
    (workspace / "split" / "split.json").write_text('{"test_digest": "t1"}')
    crown(home, "c" * 64)
    return home


def crown(home: Home, package: str | None) -> None:
    champion = Champion(package=package, version="3")
    champion.write(home.workspace(RUN) / "champion" / "champion.json")
    opened = {
        "airflow_run_id": "manual__1",
        "champion": champion.model_dump(mode="json"),
        "data": {"revision": "d" * 40},
        "code": {"commit": "e" * 40},
    }
    (home.run(RUN) / "run.json").write_text(json.dumps(opened))


def test_looks_are_on_the_ledger_before_the_scores_exist(home: Home) -> None:
    """Before `evaluate` runs, the look of each model at the test set is recorded, and a second time changes nothing."""
    package = pipeline.run_stage(home, RUN, "train")["package"]
    assert Ledger(home.ledger).entries() == []

    pipeline.run_stage(home, RUN, "evaluate")

    looks = [entry.look for entry in Ledger(home.ledger).entries()]
    assert [(look.model, look.test_digest, look.run) for look in looks] == [
        (package, "t1", RUN),
        ("c" * 64, "t1", RUN),
    ]
    seen = (home.workspace(RUN) / "evaluate" / "seen.txt").read_text()
    assert seen == "00000001.json 00000002.json"
    pipeline.run_stage(home, RUN, "evaluate")
    assert len(Ledger(home.ledger).entries()) == 2


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
    pipeline.run_stage(home, RUN, "train")
    (home.workspace(RUN) / "split" / "split.json").write_text("{}")
    with pytest.raises(DataError, match="does not name the test set"):
        pipeline.run_stage(home, RUN, "evaluate")
    (home.workspace(RUN) / "train" / "package" / "model.json").unlink()
    with pytest.raises(DataError, match="package is missing"):
        pipeline.challenger_digest(home.workspace(RUN))

    assert Ledger(home.ledger).entries() == []
