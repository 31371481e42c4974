"""What arrives in a folder is ingested once, by an embedded Airflow whose triggerer watches it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from airflow_runs import calls, make_project, script
from projects import make_home

from cxr_ops import contract
from cxr_ops.edges.airflow import client, processes
from cxr_ops.edges.home import Home

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]  # Airflow starts in a minute on a busy machine


def until(true: Callable[[], object], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def batches(home: Home) -> list[str]:
    """The batches that ingestion was called for, in order."""
    return [call["arguments"][4] for call in calls(home.project) if call["verb"] == "ingest"]


def states(api: client.Api) -> dict[str, str]:
    """The states of the runs of `cxr_ingest`."""
    runs = api._call("GET", f"/api/v2/dags/{contract.INGEST_DAG_ID}/dagRuns")["dag_runs"]
    return {run["dag_run_id"]: run["state"] for run in runs}


def deliver(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "Data_Entry_2017.csv").touch()
    (folder / contract.READY).touch()


def marked(api: client.Api) -> bool:
    """Whether all runs of `cxr_arrivals` have ended."""
    return not api.unfinished_runs(contract.ARRIVALS_DAG_ID)


def test_each_batch_is_taken_once_through_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two batches give a run each, also when one is refused; a restart repeats none, and takes what came meanwhile."""
    incoming = tmp_path / "incoming"
    settings = {"CXR_INCOMING": str(incoming), "CXR_INCOMING_SECONDS": "0.5"}
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"), **settings)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    script(home.project, {"ingest": {"exit_codes": [contract.EXIT_DATA]}, "open": {"result": {"no_change": True}}})
    deliver(incoming / "april")
    with processes.running(home) as session:
        api = session.ready()
        until(lambda: batches(home) == ["april"])
        deliver(incoming / "may")
        until(lambda: batches(home) == ["april", "may"])
        until(lambda: sorted(states(api).values()) == ["failed", "success"] and marked(api))
        (refused,) = [run for run, state in states(api).items() if state == "failed"]
        assert refused.startswith("arrival__april__")
        first = set(states(api))
    deliver(incoming / "june")
    with processes.running(home) as session:
        api = session.ready()
        until(lambda: batches(home) == ["april", "may", "june"] and marked(api))
        time.sleep(3)  # several looks
        assert len(states(api)) == 3
        (incoming / "april" / contract.READY).touch()  # mended
        until(lambda: batches(home) == ["april", "may", "june", "april"])
        assert first < set(states(api))
