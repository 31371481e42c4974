"""The whole loop on 1,298 real NIH radiographs, in two batches. The settings are small; the verdicts are honest."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.records.evidence import Estimate, Evaluation
from cxr_ops.records.run import Result
from cxr_ops.stages import ingest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # two trainings

SMALL = {"train__epochs": 4, "prepare__image_size": 64}
DEMO_PLAN = {"gate__plan": "pccp.nih-sample-demo.yaml"}


def _half(source: Path, folder: Path, *, odd: bool) -> Path:
    """A folder with the patients of odd or even number."""
    (folder / "images").mkdir(parents=True)
    for name, column in (("Data_Entry_2017.csv", "Patient ID"), ("BBox_List_2017.csv", None)):
        rows = list(csv.reader((source / name).read_text().splitlines()))
        # The header quotes no name that holds a comma, so its columns are counted from the left.
        place = rows[0].index(column) if column else None
        kept = [r for r in rows[1:] if int(r[place] if place is not None else r[0].split("_")[0]) % 2 == odd]
        lines = (source / name).read_text().splitlines()[:1] + [",".join(row) for row in kept]
        (folder / name).write_text("\n".join(lines) + "\n")
        if column:
            for row in kept:
                shutil.copy(source / "images" / row[0], folder / "images" / row[0])
    return folder


@pytest.fixture(scope="module")
def home(nih_sample: Path, project: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    home = Home.find({"CXR_HOME": str(tmp_path_factory.mktemp("nih") / "home"), "CXR_PROJECT": str(project)})
    ingest.run("nih", _half(nih_sample, home.root / "half-1", odd=True), batch="nih-odd", home=home)
    return home


@pytest.fixture(scope="module")
def honest(home: Home, run_stages: Callable[..., dict]) -> Path:
    run_stages(home.root, "honest", **SMALL)
    return home.run("honest")


@pytest.fixture(scope="module")
def first(home: Home, honest: Path, run_stages: Callable[..., dict]) -> Path:
    run_stages(home.root, "first", **SMALL, **DEMO_PLAN)
    return home.run("first")


def test_the_honest_verdict_is_that_the_evidence_does_not_suffice(honest: Path) -> None:
    """A weak model and few patients: the demonstration's floors are not shown to be met, and nothing is promoted."""
    result = Result.read(honest / "result.json")
    evaluation = Evaluation.read(honest / "workspace" / "evaluate" / "evaluation.json")
    assert evaluation.test_patients > 80
    assert result.verdict == "INSUFFICIENT EVIDENCE"
    assert result.promotion is None
    assert "0000" not in "".join(path.name for path in (honest / "workspace" / "explain").iterdir())


def test_the_plan_made_for_it_gives_a_champion_and_is_marked(home: Home, honest: Path, first: Path) -> None:
    """Under a plan that asks for better than chance the same model is promoted, as another claim in another look."""
    result = Result.read(first / "result.json")
    assert result.verdict == "PROMOTE"
    assert result.package == Result.read(honest / "result.json").package
    assert open_ledger(home).state().looks == 2
    report = Path(result.report).read_text()
    assert "nih-sample-demo" in report
    assert "not for clinical use" in report.lower()


def test_a_second_batch_is_compared_with_the_champion(
    home: Home, first: Path, nih_sample: Path, run_stages: Callable[..., dict]
) -> None:
    """With the other patients ingested, a new challenger and the champion are scored on the same real test set."""
    # One real image is in the sample twice, byte for byte: a plain ingestion refuses it.
    other = _half(nih_sample, home.root / "half-2", odd=False)
    assert ingest.run("nih", other, batch="nih-even", home=home, on_bad="quarantine").quarantined == 1
    run_stages(home.root, "second", **SMALL, **DEMO_PLAN)
    result = Result.read(home.run("second") / "result.json")
    evaluation = Evaluation.read(home.workspace("second") / "evaluate" / "evaluation.json")
    assert evaluation.champion == result.champion.package == Result.read(first / "result.json").package
    assert isinstance(evaluation.macro_difference, Estimate)
    assert (result.promotion is not None) == (result.verdict == "PROMOTE")
