"""Fixtures of the tests of the edges."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import make_home, make_project

from cxr_ops.edges.home import Home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An installation beside a small project."""
    return make_home(tmp_path / "home", make_project(tmp_path / "project"))
