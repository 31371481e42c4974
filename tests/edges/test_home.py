"""Tests of cxr_ops.edges.home."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import make_home, make_project

from cxr_ops import contract
from cxr_ops.errors import RefusedError, SettingsError


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "a/b",
        "../a",
        "/tmp/a",
        "a\\b",
        "A",
        "a b",
        "a\n",
        "a--b",
        "-a",
        "a" * 101,
        "r\N{CYRILLIC SMALL LETTER A}",
    ],
)
def test_what_is_no_runs_name_is_refused(tmp_path: Path, name: str) -> None:
    """Only small letters, digits and single hyphens name a run, and the error proposes a name that would do."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))

    for place in (home.run, home.workspace, home.progress):
        with pytest.raises(SettingsError, match="cannot name a run") as raised:
            place(name)
    assert contract.is_run_name(str(raised.value.fix).rsplit(" ", 1)[1])


def test_every_airflow_id_gives_a_name_within_the_runs_folder(tmp_path: Path) -> None:
    """A slug of any run id names a folder right below `runs/`."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))

    for run_id in ("manual__2026-03-01T04:05:06+00:00", "../../etc", "x" * 300, "\N{SNOWMAN}", ""):
        assert home.run(contract.slug(run_id)).parent == home.root / "runs"


def test_a_link_is_no_runs_folder(tmp_path: Path) -> None:
    """A link in the place of a run's folder is refused for every purpose."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    (home.root / "runs").mkdir()
    (home.root / "runs" / "r").symlink_to(tmp_path)

    with pytest.raises(RefusedError, match="link"):
        home.workspace("r")
