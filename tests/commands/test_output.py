"""How commands find the installation."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import make_home, make_project
from typer.testing import CliRunner

from cxr_ops.commands import app as command


def test_variable_that_nothing_reads_is_told_and_the_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable gives a warning on standard error with the nearest name; the result is the same."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    monkeypatch.chdir(home.project)
    monkeypatch.setenv("CXR_HOME", str(home.root))
    monkeypatch.setenv("CXR_DVC_REMOT", "s3://bucket/x")
    done = CliRunner().invoke(command.app, ["ledger", "verify"])
    assert done.exit_code == 0
    assert done.stdout.startswith("0 entries, chain whole\n")
    assert "CXR_DVC_REMOT is not a setting; the nearest one is CXR_DVC_REMOTE" in done.stderr
