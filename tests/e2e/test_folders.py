"""The whole loop on folders by class, with the one finding that they label, and one setting: the plan."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from folders import make_folders

from cxr_ops.edges.home import Home
from cxr_ops.labels import FINDINGS
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.run import Result
from cxr_ops.stages import ingest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # a training


def test_the_loop_runs_on_the_finding_that_there_is(
    project: Path, tmp_path: Path, run_stages: Callable[..., dict]
) -> None:
    """Folders of NORMAL and PNEUMONIA lead to a champion that scores pneumonia alone; the others are not scored."""
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})
    folder = make_folders(tmp_path / "kermany", patients=480)
    entered = ingest.run("auto", folder, batch="kermany", home=home)
    assert (entered.images, entered.patients, entered.findings) == (960, 480, {"Pneumonia": 480})
    run_stages(home.root, "first", gate__plan="pccp.pneumonia-demo.yaml", train__epochs=2, prepare__image_size=32)
    result = Result.read(home.run("first") / "result.json")
    evaluation = Evaluation.read(home.workspace("first") / "evaluate" / "evaluation.json")
    assert result.verdict == "PROMOTE"
    by_name = {row.finding: row for row in evaluation.findings}
    assert list(by_name) == list(FINDINGS)
    assert by_name["Pneumonia"].challenger.value == evaluation.macro_challenger.value > 0.8
    assert not any(hasattr(row.challenger, "value") for name, row in by_name.items() if name != "Pneumonia")
