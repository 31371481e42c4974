"""Tests of tools/ci_summary.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "tools" / "ci_summary.py"
REPORT = """<testsuites><testsuite>
<testcase classname="tests.stages.test_open" name="a" time="40.5"/>
<testcase classname="tests.stages.test_open" name="b" time="0.5"><failure message="no"/></testcase>
<testcase classname="tests.model.test_gpu" name="c" time="0"><skipped message="no GPU"/></testcase>
<testcase classname="cxr_ops.contract" name="cxr_ops.contract.slug" time="0.1"/>
</testsuite></testsuites>"""


@pytest.fixture
def summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("ci_summary", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "costs.csv").write_text("file,seconds\ntests/stages/test_open.py,20\n")
    monkeypatch.setattr(module, "COSTS", tmp_path / "costs.csv")
    return module


def test_a_file_that_has_grown_is_marked(summary: ModuleType, tmp_path: Path, capsys) -> None:
    """Each file's seconds stand beside those of before, and what grew by more than half is marked."""
    (tmp_path / "test.xml").write_text(REPORT)
    assert summary.main(tmp_path, stack=False, write=False) == 1
    said = capsys.readouterr().out
    assert "      41      20  tests/stages/test_open.py  GREW\n" in said
    assert "skipped: tests.model.test_gpu::c: no GPU\n" in said
    assert said.endswith("2 passed, 1 failed, 1 skipped\n")


def test_costs_are_written_down(summary: ModuleType, tmp_path: Path) -> None:
    """With --write, the next run is compared with this one; files below a second are left out."""
    (tmp_path / "test.xml").write_text(REPORT)
    summary.main(tmp_path, stack=False, write=True)
    assert (tmp_path / "costs.csv").read_text() == "file,seconds\ntests/stages/test_open.py,41\n"


def test_a_suite_that_never_ran_is_a_failure(summary: ModuleType, tmp_path: Path, capsys) -> None:
    """A missing report, and a report of no test, do not pass."""
    assert summary.main(tmp_path, stack=True, write=False) == 1
    assert "0 passed, 2 failed, 0 skipped" in capsys.readouterr().out
