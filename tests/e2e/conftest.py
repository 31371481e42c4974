"""Runs of the whole loop without Airflow: the commands that its tasks run, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cxr_ops import contract


@pytest.fixture(scope="session")
def run_stages(project: Path) -> Callable[..., dict[str, dict[str, Any]]]:
    """Gives a function that drives a run from `open` to `publish`, and to `promote` when the gate says so."""

    def stage(home: Path, *arguments: str) -> dict[str, Any]:
        done = subprocess.run(
            [sys.executable, "-m", "cxr_ops", "stage", *arguments],
            cwd=project,
            env={**os.environ, "CXR_HOME": str(home)},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"{arguments} ended with {done.returncode}\n{done.stderr[-3000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    def drive(home: Path, run: str, **settings: Any) -> dict[str, dict[str, Any]]:
        sets = [part for key, value in settings.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]
        results = {"open": stage(home, "open", "--run", run, *sets)}
        for verb in (*contract.DETERMINISTIC, "publish"):
            results[verb] = stage(home, verb, "--run", run)
        if results["publish"]["verdict"] == contract.PROMOTE:
            results["promote"] = stage(home, "promote", "--run", run)
        return results

    return drive
