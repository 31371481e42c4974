"""Tests of cxr_ops.cli: what a person types, and what they are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxr_ops import cli, contract

HEAVY = {
    "torch",
    "torchvision",
    "mlflow",
    "pandas",
    "numpy",
    "great_expectations",
    "dvc",
    "sklearn",
    "airflow",
    "boto3",
}


def _cxr(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cxr_ops", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )


def test_help_imports_nothing_heavy(project: Path) -> None:
    """`--help` answers at once, because it loads none of the libraries that the stages need."""
    program = (
        "import sys; sys.argv = ['cxr-ops', '--help']\n"
        "try:\n    import cxr_ops.cli as c; c.main()\nexcept SystemExit:\n    pass\n"
        "print(sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=project, capture_output=True, text=True)
    assert "Usage: cxr-ops" in done.stdout
    loaded = {name.strip("'[] ").partition(".")[0] for name in done.stderr.split(",")}
    assert not loaded & HEAVY


def test_each_stage_is_a_verb() -> None:
    """The command has a verb for every stage, under the stage's own name, and the same under `stage`."""
    runner = CliRunner()
    for verb in contract.STAGES:
        for path in ([verb], ["stage", verb]):
            assert runner.invoke(cli.app, [*path, "--help"]).exit_code == 0, path


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("train.epochs", "--set wants SECTION.KEY=VALUE"),
        ("epochs=3", "--set wants SECTION.KEY=VALUE"),
        ("train.epochs=[", "is not YAML"),
        ("train.epoch=3", "did you mean 'epochs'"),
        ("train.epochs=0", "greater than or equal to 1"),
    ],
)
def test_wrong_setting_is_named(project: Path, tmp_path: Path, line: str, said: str) -> None:
    """A setting that is malformed, unknown or out of range ends with exit code 11, before anything is started."""
    done = _cxr("retrain", "--dry-run", "--set", line, cwd=project, CXR_HOME=str(tmp_path))
    assert done.returncode == contract.EXIT_SETTINGS
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_unknown_key_in_params_is_named_with_the_nearest(project: Path, tmp_path: Path) -> None:
    """A stage refuses a params.yaml with a key that it does not know, and names the one that was meant."""
    (tmp_path / "params.yaml").write_text("train:\n  learning_rat: 0.1\n")
    done = _cxr("train", cwd=tmp_path, PYTHONPATH=str(project))
    assert done.returncode == contract.EXIT_SETTINGS
    assert "train.learning_rat is not a setting; did you mean 'learning_rate'?" in done.stderr


def test_missing_data_set_names_the_next_command(project: Path, tmp_path: Path) -> None:
    """Opening a run without data says what to type."""
    done = _cxr("stage", "open", "--run", "r", cwd=project, CXR_HOME=str(tmp_path))
    assert done.returncode == contract.EXIT_DATA
    assert "cxr-ops ingest nih" in done.stderr


def test_home_that_is_a_file_is_refused(project: Path, tmp_path: Path) -> None:
    """A CXR_HOME that cannot be a folder ends with what to set instead."""
    (tmp_path / "home").write_text("")
    done = _cxr("stage", "open", "--run", "r", cwd=project, CXR_HOME=str(tmp_path / "home"))
    assert done.returncode == contract.EXIT_STORAGE
    assert "set CXR_HOME to a folder of yours" in done.stderr


def test_outside_a_project_the_command_says_where_to_go(tmp_path: Path, project: Path) -> None:
    """Without a dvc.yaml above, the command says that no project is here."""
    done = _cxr("ledger", "verify", cwd=tmp_path, PYTHONPATH=str(project))
    assert done.returncode == contract.EXIT_SETTINGS
    assert "no cxr-ops project is here" in done.stderr


def test_dry_run_without_data_says_what_would_be_made(project: Path, tmp_path: Path) -> None:
    """`retrain --dry-run` on an empty installation says that data would be drawn, and makes nothing."""
    done = _cxr("retrain", "--dry-run", cwd=project, CXR_HOME=str(tmp_path))
    assert done.returncode == 0
    assert "would draw 2000 radiographs" in done.stdout
    assert not (tmp_path / "store.git").exists()


def test_generated_data_are_described(project: Path, tmp_path: Path) -> None:
    """`data synth` says what it drew and what to type next, and refuses a folder that is not empty."""
    out = tmp_path / "made"
    arguments = ("data", "synth", "--out", str(out), "--images", "12", "--size", "64", "--seed", "4")
    done = _cxr(*arguments, cwd=project)
    assert done.returncode == 0, done.stderr
    assert "12 radiographs" in done.stdout
    assert "not for clinical use" in done.stdout
    assert f"cxr-ops ingest nih {out}" in done.stdout
    assert json.loads((out / "synth.json").read_text())["seed"] == 4
    assert _cxr(*arguments, cwd=project).returncode == contract.EXIT_STORAGE


def test_whole_ledger_is_said_to_be_whole_and_an_altered_one_is_not(project: Path, tmp_path: Path) -> None:
    """`ledger verify` counts the entries of an intact chain, and names the entry that was altered."""
    from cxr_ops.edges.home import Home
    from cxr_ops.edges.ledger import record_look

    home = Home.find({"CXR_HOME": str(tmp_path), "CXR_PROJECT": str(project)})
    for test in ("a" * 64, "b" * 64):
        record_look(home, "c" * 64, test, "run")
    good = _cxr("ledger", "verify", cwd=project, CXR_HOME=str(tmp_path))
    assert (good.returncode, good.stdout.strip()) == (0, "2 entries, chain whole")

    entry = sorted(home.ledger.glob("*.json"))[0]
    entry.write_text(entry.read_text().replace("a" * 64, "d" * 64))
    bad = _cxr("ledger", "verify", cwd=project, CXR_HOME=str(tmp_path))
    assert bad.returncode == contract.EXIT_STORAGE
    assert entry.stem in bad.stderr
