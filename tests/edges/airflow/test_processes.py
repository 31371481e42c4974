"""The parts of the embedded Airflow, and what runs for it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest
from airflow_runs import make_project
from projects import make_home

from cxr_ops import contract
from cxr_ops.edges.airflow import processes
from cxr_ops.edges.airflow.processes import stages_of


def test_stages_are_found_whoever_started_them(tmp_path: Path) -> None:
    """A stage whose worker is gone is found with its attempt; one of another installation, and other work, is not."""
    home, other = (make_home(tmp_path / name, tmp_path) for name in ("home", "other"))
    package = tmp_path / "cxr_ops"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import time; print(flush=True); time.sleep(60)")

    def start(*words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "cxr_ops", *words], cwd=tmp_path, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    folder = home.airflow / "stages" / "r-1" / "train" / "1"
    theirs = other.airflow / "stages" / "r-1" / "train" / "1"
    ours = start("stage", "train", "--attempt", str(folder))
    others = [start("stage", "train", "--attempt", str(theirs)), start("ui"), start("stage", "train")]
    try:
        assert {process.pid: where for process, where in stages_of(home).items()} == {ours.pid: folder}
    finally:
        for process in (ours, *others):
            process.kill()
            process.communicate()


@pytest.mark.airflow
@pytest.mark.timeout(600)
def test_times_that_passed_while_it_was_off_start_nothing(tmp_path: Path) -> None:
    """A DAG whose time came while no Airflow ran has no run when Airflow is up again, and waits for its next time."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    with processes.running(home) as session:
        session.ready()
    past = "2020-01-06 03:00:00.000000"
    with closing(sqlite3.connect(home.airflow / "airflow.db")) as database, database:
        database.execute("UPDATE dag SET next_dagrun = ?, next_dagrun_create_after = ?", (past, past))

    with processes.running(home) as session:
        session.ready()
        time.sleep(5)  # the scheduler looks about once a second

    with closing(sqlite3.connect(home.airflow / "airflow.db")) as database:
        assert database.execute("SELECT run_id FROM dag_run").fetchall() == []
        told = "SELECT next_dagrun_create_after FROM dag WHERE dag_id = ?"
        [(following,)] = database.execute(told, (contract.DAG_ID,)).fetchall()
    assert datetime.fromisoformat(following).replace(tzinfo=UTC) > datetime.now(UTC)
