"""Tests of cxr_ops.commands.stages: the command that launchers start, as a process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from projects import PYTHON, Installation, environ

from cxr_ops import attempt, contract


def stage(installed: Installation, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    where = ["--attempt", str(folder)] if folder else []
    return subprocess.run(
        [PYTHON, "-m", "cxr_ops", "stage", *arguments, *where],
        cwd=Path(__file__).parents[2],
        env=environ(installed.home),
        capture_output=True,
        text=True,
    )


def test_the_result_is_printed_and_left(installed: Installation, tmp_path: Path) -> None:
    """A stage with effects and one of DVC print their result as the last line, and leave the same in the folder."""
    for verb in ("open", "validate"):
        done = stage(installed, verb, "--run", "r-1", folder=tmp_path / verb)
        assert done.returncode == 0, done.stderr
        ended = attempt.read(tmp_path / verb, verb)
        assert ended.exit_code == 0
        assert ended.result == json.loads(done.stdout.splitlines()[-1])
        assert ended.result["run"] == "r-1"


@pytest.mark.parametrize(
    "arguments",
    [
        ("ingest", "nowhere", "--batch", "b"),
        ("open", "--run", "r-1", "--set", "train.epochs=none"),
        ("validate", "--run", "r-2"),
        ("publish", "--run", "r-2"),
        ("promote", "--run", "r-2"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_error_is_told_and_left(installed: Installation, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A stage that fails says why, ends with the error's exit code, and leaves the same in the folder."""
    done = stage(installed, *arguments, folder=tmp_path / "attempt")
    ended = attempt.read(tmp_path / "attempt", arguments[0])
    assert done.returncode == ended.exit_code in contract.NEVER_RETRIED
    assert done.stderr.endswith(f"error: {ended.why()}\n")
    assert done.stdout == ""


def test_a_person_needs_no_folder(installed: Installation) -> None:
    """Without a folder the command says the same and writes no such file anywhere."""
    done = stage(installed, "open", "--run", "r-1")
    assert json.loads(done.stdout.splitlines()[-1])["run"] == "r-1"
    assert not list(installed.home.root.rglob("result.json"))
