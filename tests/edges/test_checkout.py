"""checkout: a run brought back, by the product and by what the report prints."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import finished
import pytest
from finished import PROJECT, Case, finish, make_home

from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import runs
from cxr_ops.edges.store.checkout import check_out, plain_commands
from cxr_ops.errors import StorageError
from cxr_ops.records.base import sha256_file

PLOTS = """\
      - evaluate/roc.csv
    metrics:
      - evaluate/metrics.json: {cache: false}
plots:
  - ROC: {x: fpr, y: {evaluate/roc.csv: tpr}}
"""
AUC = {"first": 0.7, "second": 0.8}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An installation with the commits of two runs, whose package is four small files, in a place with a space."""
    root = tmp_path_factory.mktemp("a place")
    made = make_home(root)
    for name in ("weights.safetensors", "model.json", "network.py", "patients.txt"):
        (root / "package").mkdir(exist_ok=True)
        (root / "package" / name).write_text(name)
    for name, auc in AUC.items():
        run = finish(made, {"a": root / "package"}, Case(name=name))
        workspace = made.workspace(run)
        (workspace / "dvc.yaml").write_text(finished.PIPELINE + PLOTS)
        (workspace / "evaluate" / "metrics.json").write_text(json.dumps({"auc": {"macro": auc}}))
        (workspace / "evaluate" / "roc.csv").write_text(f"fpr,tpr\n0,0\n0.5,{auc}\n1,1\n")
        finished._track(made, workspace, run)
        shutil.copy(PROJECT / ".dvc" / "config", workspace / ".dvc" / "config")
        git(made, workspace, "add", ".dvc/config")
        runs.commit_run(made, run, "Publish")
    return made


def _commit(home: Home, name: str) -> str:
    return git(home, home.workspace(finished.RUN[name]), "rev-parse", "HEAD")


def _shell(lines: list[str], cwd: Path) -> str:
    """What lines print in a fresh shell of somebody who has git and DVC on the path, and no settings of ours."""
    environment = {"PATH": f"{Path(sys.executable).parent}:{os.defpath}", "HOME": str(cwd), "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(
        ["bash", "-eu", "-c", "\n".join(lines)], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _made(home: Home, name: str) -> dict[str, str]:
    """The files that a run made, with their digests."""
    workspace = home.workspace(finished.RUN[name])
    names = ("train/package/model.json", "report/report.html", "evaluate/evaluation.json", "gate/verdict.json")
    return {name: sha256_file(workspace / name) for name in names}


def test_what_the_report_prints_brings_the_run_back(home: Home, tmp_path: Path) -> None:
    """The printed commands, typed as they stand, give the files of the run, byte for byte, and compare two runs."""
    first, second = _commit(home, "first"), _commit(home, "second")
    digests = _made(home, "second")
    lines = [*plain_commands(home, second), f"sha256sum {' '.join(digests)}", f"dvc metrics diff --json {first} HEAD"]
    printed = _shell(lines, tmp_path)
    assert all(f"{digest}  {name}" in printed for name, digest in digests.items())
    change = json.loads(printed.strip().splitlines()[-1])["evaluate/metrics.json"]["auc.macro"]
    assert (change["old"], change["new"]) == (AUC["first"], AUC["second"])


def test_a_run_that_was_brought_back_is_compared_by_dvc(home: Home, tmp_path: Path) -> None:
    """In the folder of a checkout `dvc metrics diff` and `plots diff` find both runs, and draw without a network."""
    first, second = _commit(home, "first"), _commit(home, "second")
    check_out(home, second, tmp_path / "back")
    assert {name: sha256_file(tmp_path / "back" / name) for name in _made(home, "second")} == _made(home, "second")
    assert stat.S_IMODE((tmp_path / "back").stat().st_mode) == 0o700
    metrics = _shell([f"dvc metrics diff --json {first} HEAD"], tmp_path / "back")
    assert json.loads(metrics)["evaluate/metrics.json"]["auc.macro"]["diff"] == pytest.approx(0.1)
    _shell([f"dvc plots diff {first} HEAD"], tmp_path / "back")
    page = (tmp_path / "back" / "dvc_plots" / "index.html").read_text(encoding="utf-8")
    assert "cdn." not in page
    assert all(str(auc) in page for auc in AUC.values())


def test_a_folder_in_use_is_left_as_it_is(home: Home, tmp_path: Path) -> None:
    """A run is brought back into no folder that holds anything."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(StorageError, match="is not empty"):
        check_out(home, _commit(home, "first"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
