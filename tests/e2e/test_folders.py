"""The whole loop on folders by class, with the one finding that they label, and one setting: the plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from folders import make_folders

from cxr_ops.edges.home import Home
from cxr_ops.labels import FINDINGS
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.run import Result
from cxr_ops.stages import ingest

pytestmark = [pytest.mark.slow, pytest.mark.airflow, pytest.mark.timeout(1800)]  # a training, by Airflow


def test_the_loop_runs_on_the_finding_that_there_is(project: Path, tmp_path: Path) -> None:
    """Folders of NORMAL and PNEUMONIA lead to a champion that scores pneumonia alone; the others are not scored.

    The command is the one that `make retrain ARGS="--set gate.plan=pccp.pneumonia-demo.yaml"` runs.
    """
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})
    folder = make_folders(tmp_path / "kermany", patients=480)
    entered = ingest.run("auto", folder, batch="kermany", home=home)
    assert (entered.images, entered.patients, entered.findings) == (960, 480, {"Pneumonia": 480})
    done = subprocess.run(
        [Path(sys.executable).with_name("cxr-ops"), "retrain", "--set", "gate.plan=pccp.pneumonia-demo.yaml"],
        cwd=project,
        env=os.environ | {"CXR_HOME": str(home.root), "CXR_PROJECT": str(project)},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    [run] = (home.root / "runs").iterdir()
    result = Result.read(run / "result.json")
    evaluation = Evaluation.read(run / "workspace" / "evaluate" / "evaluation.json")
    assert result.verdict == "PROMOTE"
    by_name = {row.finding: row for row in evaluation.findings}
    assert list(by_name) == list(FINDINGS)
    assert by_name["Pneumonia"].challenger.value == evaluation.macro_challenger.value > 0.8
    assert not any(hasattr(row.challenger, "value") for name, row in by_name.items() if name != "Pneumonia")
