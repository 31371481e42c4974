"""Tests of tools/audit.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "tools" / "audit.py"
WELL = {"name": "six", "version": "1.17.0", "vulns": []}
ILL = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2014-8", "fix_versions": ["2.7.2"]}, {"id": "PYSEC-2014-9", "fix_versions": []}],
}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.15.0)"}


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([WELL], 0, ["1 package was looked up: no vulnerability is known of it"]),
        ([WELL, WELL, UNKNOWN], 3, ["1 package was looked up", "NOT looked up, so nothing is known of: torch"]),
        ([UNKNOWN], 3, ["NOT looked up, so nothing is known of: torch"]),
        ([WELL, ILL], 1, ["jinja2 2.4.1: PYSEC-2014-8, mended in 2.7.2", "PYSEC-2014-9, mended in no version yet"]),
        ([ILL, UNKNOWN], 1, ["PYSEC-2014-8", "PYSEC-2014-9", "NOT looked up"]),
        ([], 3, ["nothing was checked"]),
    ],
)
def test_only_what_was_looked_up_is_called_safe(audit: ModuleType, packages: list, code: int, said: list[str]) -> None:
    """A package with a known vulnerability ends with 1, one that could not be looked up with 3, and each is named."""
    lines, ended = audit.told(packages)
    assert ended == code
    assert len(lines) == len(said)
    assert all(part in line for part, line in zip(said, lines, strict=True))


def test_a_database_that_does_not_answer_has_checked_nothing() -> None:
    """Where no server can be reached, it says that nothing was checked, and ends with 3."""
    dead = dict.fromkeys(("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"), "http://127.0.0.1:9")
    done = subprocess.run([sys.executable, SOURCE], env=os.environ | dead, capture_output=True, text=True)
    assert done.returncode == 3
    assert "nothing was checked" in done.stderr
    assert "no vulnerability" not in done.stdout
