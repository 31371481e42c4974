"""The whole loop on 1,298 real NIH radiographs, in two batches. The settings are small; the verdicts are honest."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.edges.home import Home
from cxr_ops.records import Evaluation, Result, Undefined
from cxr_ops.stages import ingest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # two trainings

SMALL = {"train__epochs": 3, "prepare__image_size": 64}
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
    ingest.run(_half(nih_sample, home.root / "half-1", odd=True), batch="nih-odd", home=home)
    return home


@pytest.fixture(scope="module")
def first(home: Home, run_stages: Callable[..., dict]) -> Path:
    run_stages(home.root, "first", **SMALL, **DEMO_PLAN)
    return home.run("first")


def test_the_demonstration_on_real_images_makes_a_champion(first: Path) -> None:
    """Under the plan that asks for better than chance only, the first run ends in a decision on real evidence."""
    result = Result.read(first / "result.json")
    evaluation = Evaluation.read(first / "workspace" / "evaluate" / "evaluation.json")
    assert evaluation.test_patients > 80
    assert result.verdict in ("PROMOTE", "INSUFFICIENT EVIDENCE")
    report = Path(result.report).read_text()
    assert "nih-sample-demo" in report
    assert "0000" not in "".join(path.name for path in (first / "workspace" / "explain").iterdir())


def test_a_second_batch_is_judged_honestly(
    home: Home, first: Path, nih_sample: Path, run_stages: Callable[..., dict]
) -> None:
    """With all 1,298 images the demonstration plan's floors are not met: INSUFFICIENT EVIDENCE, never PROMOTE."""
    # One real image is in the sample twice, byte for byte: a plain ingestion refuses it.
    taken = ingest.run(
        _half(nih_sample, home.root / "half-2", odd=False), batch="nih-even", home=home, on_bad="quarantine"
    )
    assert taken.quarantined == 1
    results = run_stages(home.root, "second", **SMALL)
    evaluation = Evaluation.read(home.workspace("second") / "evaluate" / "evaluation.json")
    assert results["gate"]["verdict"] != "PROMOTE"
    assert "promote" not in results
    if Result.read(first / "result.json").promotion:
        assert evaluation.champion == Result.read(first / "result.json").package
        assert not isinstance(evaluation.macro_difference, Undefined)
