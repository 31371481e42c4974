"""The gate stage: files in, a verdict out, and an error for files that do not belong together."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from evaluations import PROJECT, resting

from cxr_ops import plan as plans
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Gate, Params
from cxr_ops.records.data import DataRevision
from cxr_ops.records.evidence import Estimate, Evaluation, Facts, FindingEvidence, Support
from cxr_ops.records.inputs import Champion, Code, Inputs, LedgerState
from cxr_ops.records.training import StartingWeights
from cxr_ops.records.verdict import Verdict
from cxr_ops.stages import gate

PLAN = "pccp.demo.yaml"
PARAMS = Params(gate=Gate(plan=PLAN))


def _evaluation(value: float) -> Evaluation:
    figure = Estimate(value=value, se=0.01, low=value - 0.02, high=value + 0.02, level=0.95, method="logit")
    support = Support(positives=40, negatives=460, positive_patients=35, negative_patients=330)
    rows = [
        FindingEvidence(finding=name, support=support, challenger=figure, champion=None, difference=None)
        for name in FINDINGS
    ]
    return Evaluation(
        findings=rows,
        macro_challenger=figure,
        macro_champion=None,
        macro_difference=None,
        macro_over=list(FINDINGS),
        test_digest="t" * 64,
        test_images=500,
        test_patients=350,
        challenger="a" * 64,
        champion=None,
        problems=[],
        reliance=resting(rows, plans.load(PROJECT / PLAN)),
        facts=Facts(
            architecture="densenet121",
            findings=list(FINDINGS),
            settings={},
            sources=["synth"],
            starting_weights=StartingWeights(start="none", patients="none"),
        ),
    )


@pytest.fixture
def workspace(project: Path, tmp_path: Path) -> Path:
    """A workspace in which evaluate has ended, for a first release."""
    shutil.copy(project / PLAN, tmp_path / PLAN)
    Inputs(
        code=Code(commit="c" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={}),
        champion=Champion(),
        ledger=LedgerState(entries=0, head=None, looks=0),
        plan=plans.identify(tmp_path, PLAN),
    ).write(tmp_path / "inputs.json")
    _evaluation(0.87).write(tmp_path / "evaluate" / "evaluation.json")
    return tmp_path


def test_a_verdict_is_written_and_is_the_same_again(workspace):
    """The gate writes the verdict with the plan's hash in it, alone in its folder, and the same bytes a second time."""
    gate.run(workspace, PARAMS)
    first = (workspace / "gate" / "verdict.json").read_bytes()
    verdict = Verdict.read(workspace / "gate" / "verdict.json")
    assert verdict.verdict == "PROMOTE"
    assert verdict.plan == plans.identify(workspace, PLAN)
    (workspace / "gate" / "left-over").touch()
    gate.run(workspace, PARAMS)
    assert [path.name for path in (workspace / "gate").iterdir()] == ["verdict.json"]
    assert (workspace / "gate" / "verdict.json").read_bytes() == first


def test_a_rejection_is_an_ordinary_end(workspace):
    """REJECT is a result of the stage, not an error of it."""
    _evaluation(0.5).write(workspace / "evaluate" / "evaluation.json")
    gate.run(workspace, PARAMS)
    assert Verdict.read(workspace / "gate" / "verdict.json").verdict == "REJECT"


def test_another_plan_than_the_runs_is_refused(workspace):
    """A plan edited after the run was opened ends the stage without a verdict."""
    with (workspace / PLAN).open("a") as file:
        file.write("# a lower floor\n")
    with pytest.raises(SettingsError, match="not the plan"):
        gate.run(workspace, PARAMS)
    assert not (workspace / "gate" / "verdict.json").exists()


@pytest.mark.parametrize("damage", ["missing", "half", "nan", "no macro"])
def test_damaged_evidence_gives_no_verdict(workspace, damage):
    """Evidence that is missing, cut in half, holds a NaN or lacks a figure is an error, and an old verdict is gone."""
    gate.run(workspace, PARAMS)
    path = workspace / "evaluate" / "evaluation.json"
    text = path.read_text(encoding="utf-8")
    path.unlink()
    if damage == "half":
        path.write_text(text[: len(text) // 2], encoding="utf-8")
    elif damage == "nan":
        path.write_text(text.replace("0.87", "NaN", 1), encoding="utf-8")
    elif damage == "no macro":
        path.write_text(text.replace('"macro_challenger"', '"macro"'), encoding="utf-8")
    with pytest.raises(DataError):
        gate.run(workspace, PARAMS)
    assert not (workspace / "gate" / "verdict.json").exists()
