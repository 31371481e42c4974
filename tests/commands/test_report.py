"""`cxr-ops report` of what was published: pages of all runs and of two, a PDF, and what is said where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxr_ops.commands.app import app
from cxr_ops.edges import browser
from cxr_ops.errors import CxrError, DataError, SettingsError, StorageError
from cxr_ops.records.inputs import Plan
from cxr_ops.records.report import Summary
from cxr_ops.records.run import Result

PROJECT = Path(__file__).resolve().parents[2]
RUNS = ("manual-1", "manual-2")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An installation with two published runs whose test results are withheld."""
    root = tmp_path / "home"
    for i, name in enumerate(RUNS):
        (root / "runs" / name).mkdir(parents=True)
        Result(run=name, verdict="NOT PROMOTED", model_version=str(i)).write(root / "runs" / name / "result.json")
        Summary(
            title="t",
            plan=Plan(name="p", path="p.yaml", sha256="a" * 64),
            clinical_use=False,
            notice="",
            data_notice="",
            other_plan="",
            unscored="",
            period="period 1",
            validation_macro={"challenger": 0.8125 + i / 16},
            facts=None,
            training={},
            model={},
            digests={"Test set": "b" * 64, f"Batch batch-{i}": "c" * 64},
        ).write(root / "reports" / f"{name}.json")
        page = "<!DOCTYPE html><html lang='en'><title>t</title><p>report</p></html>"
        (root / "reports" / f"{name}.html").write_text(page)
    monkeypatch.setenv("CXR_HOME", str(root))
    monkeypatch.chdir(PROJECT)
    return root


def typed(*arguments: str) -> str:
    return CliRunner().invoke(app, ["report", *arguments], catch_exceptions=False).stdout.strip()


def refused(*arguments: str) -> CxrError:
    error = CliRunner().invoke(app, ["report", *arguments]).exception
    assert isinstance(error, CxrError)
    return error


def test_the_index_stands_among_the_reports(home: Path) -> None:
    """Without --out the index is written beside the reports, and its path is printed."""
    path = Path(typed("--index"))
    assert path == home / "reports" / "index.html"
    assert all(f'<a href="{name}.html">' in path.read_text() for name in RUNS)


def test_an_index_elsewhere_leads_to_the_reports(home: Path, tmp_path: Path) -> None:
    """With --out the links lead from that place to the reports."""
    path = Path(typed("--index", "--out", str(tmp_path / "all.html")))
    assert f'<a href="home/reports/{RUNS[0]}.html">' in path.read_text()


def test_two_runs_are_put_side_by_side(home: Path) -> None:
    """The page of two runs holds the figures of both and the batches that one of them had."""
    text = Path(typed("--compare", *RUNS)).read_text()
    assert "0.812" in text
    assert "0.875" in text
    assert text.index("batch-0</th><td>yes</td><td>no") < text.index("batch-1</th><td>no</td><td>yes")


@pytest.mark.skipif(browser.find() is None, reason="no chromium is installed")
def test_a_published_report_becomes_a_pdf(home: Path) -> None:
    """The PDF stands beside the page that it is of."""
    path = Path(typed("--pdf", RUNS[0]))
    assert path == home / "reports" / f"{RUNS[0]}.pdf"
    assert path.read_bytes().startswith(b"%PDF-")


def test_what_cannot_be_done_is_said(home: Path, tmp_path: Path) -> None:
    """Two wishes at once, --out alone, an unknown run, a page that is missing and a folder that does not exist."""
    both = refused("--index", "--pdf", RUNS[0])
    assert isinstance(both, SettingsError)
    assert "type --index alone" in str(both)
    assert "--out needs" in str(refused("--out", "x.html"))
    assert isinstance(refused("--compare", RUNS[0], "nobody"), SettingsError)
    assert isinstance(refused("--index", "--out", str(tmp_path / "none" / "x.html")), StorageError)
    assert "name the same file" in str(refused("--pdf", RUNS[0], "--out", str(home / "reports" / f"{RUNS[0]}.html")))
    (home / "reports" / f"{RUNS[0]}.html").unlink()
    gone = refused("--pdf", RUNS[0])
    assert isinstance(gone, DataError)
    assert f"cxr-ops publish --run {RUNS[0]}" in str(gone)
    (home / "reports" / f"{RUNS[1]}.json").write_text("{")
    assert f"{RUNS[1]}.json is not JSON" in str(refused("--compare", *RUNS))
