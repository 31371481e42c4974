"""Tests of cxr_ops.launchers.process: real processes of the stand-in for the command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow_runs import Apart, calls, make_project, script

from cxr_ops import contract

pytestmark = pytest.mark.airflow

RUN_ID = "manual__2026-03-01T04:05:06+00:00"
EXECUTE = "airflow_runs.execute_process"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("process") / "project")


@pytest.fixture
def environment(project: Path, tmp_path: Path) -> dict[str, str]:
    return {"CXR_HOME": str(tmp_path), "CXR_PROJECT": str(project)}


def stages(home: Path) -> Path:
    return home / "airflow" / "stages" / contract.slug(RUN_ID) / "train"


def test_a_stage_ends_with_its_result(
    airflow: Apart, project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """The command gets its arguments and the attempt's folder, where its output, its log and its result stand."""
    script(project, {"train": {"result": {"package": "1f"}}})
    told = airflow.call(EXECUTE, environment, RUN_ID, 1)
    assert told["result"] == {"no_change": False, "package": "1f"}
    assert [call["arguments"] for call in calls(project)] == [["--run", "r-1"]]
    folder = stages(tmp_path) / "1"
    names = {"stdout", "stderr", "result.json", "started.json", "exit_code"}
    assert {path.name for path in folder.iterdir()} == names
    assert (folder / "stdout").read_text().startswith("a line that is no result\n")
    assert (folder / "stderr").read_text() == "a warning after the result\n"
    assert "a warning after the result" in told["log"]


def test_the_log_is_relayed_by_whole_lines(airflow: Apart, project: Path, environment: dict[str, str]) -> None:
    """A line that is written in parts, cut within a letter, is one line of the task's log."""
    script(project, {"train": {"said": [[0xC3], [0xA9, 0x21, 0x0A, 0x62]]}})
    log = airflow.call(EXECUTE, environment, RUN_ID, 1)["log"]
    assert log[-2:] == ["\u00e9!", "ba warning after the result"]


def test_a_stage_is_told_nothing_of_airflow(airflow: Apart, project: Path, environment: dict[str, str]) -> None:
    """Airflow's settings and connections, which hold its secrets, do not reach a stage; other variables do."""
    script(project, {})
    secrets = {"AIRFLOW__CORE__FERNET_KEY": "secret", "AIRFLOW_CONN_CHAT": "http://user:secret@chat.example"}
    airflow.call(EXECUTE, {**environment, **secrets}, RUN_ID, 1)
    (call,) = calls(project)
    assert call["secrets"] == []
    assert call["home"] == environment["CXR_HOME"]


def test_an_old_result_is_not_taken_for_a_new_one(
    airflow: Apart, project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """A killed attempt fails, though one of a run of the same name and number had ended well on another day."""
    script(project, {"train": {"result": {"package": "1f"}}})
    assert airflow.call(EXECUTE, environment, RUN_ID, 1)["result"]["package"] == "1f"
    script(project, {"train": {"killed": True}})
    kind, message = airflow.call(EXECUTE, environment, RUN_ID, 1, None, 2)
    assert kind == "AirflowException"
    assert "exit code -9 (SIGKILL); it left no result.json" in message
    assert str(stages(tmp_path) / "1-2" / "result.json") in message


def test_a_stop_waits_for_the_checkpoint(airflow: Apart, project: Path, environment: dict[str, str]) -> None:
    """SIGTERM reaches the stage, which saves and ends; the task then fails with what the stage left."""
    script(project, {"train": {"seconds": 60, "checkpoint": 0.3}})
    kind, message = airflow.call("airflow_runs.stop_process", environment, RUN_ID, 1)
    assert kind == "AirflowException"
    assert "exit code 143 (SIGTERM): stopped by SIGTERM" in message
    assert (project / "train.stopped").exists()
    assert not psutil.pid_exists(calls(project)[0]["pid"])


def test_a_stage_runs_with_the_python_that_is_named(
    airflow: Apart, project: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """CXR_PYTHON starts the stage, where Airflow's own Python has not what stages need."""
    script(project, {})
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho another Python >&2\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    told = airflow.call(EXECUTE, {**environment, "CXR_PYTHON": str(python)}, RUN_ID, 1)
    assert "another Python" in told["log"]
    assert told["result"] == {"no_change": False}


@pytest.mark.parametrize("name", ["CXR_PYTHON", "CXR_PROJECT"])
def test_a_stage_that_cannot_be_started_is_told(airflow: Apart, environment: dict[str, str], name: str) -> None:
    """A Python or a project that is not there fails the task at once, with the path and the settings to look at."""
    kind, message = airflow.call(EXECUTE, {**environment, name: "/nowhere/at/all"}, RUN_ID, 1)
    assert kind == "AirflowFailException"
    assert "where: /nowhere/at/all\n" in message
    assert name in message


@pytest.mark.parametrize("missing", ["CXR_HOME", "CXR_PROJECT"])
def test_a_missing_address_is_told(airflow: Apart, environment: dict[str, Any], missing: str) -> None:
    """A worker that does not know where home or project are fails at once, and is told what to set."""
    kind, message = airflow.call(EXECUTE, {**environment, missing: ""}, RUN_ID, 1)
    assert kind == "AirflowFailException"
    assert message.startswith(f"{missing} is not set")
