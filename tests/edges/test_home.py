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


def test_stores_stay_out_of_the_projects_code(tmp_path: Path) -> None:
    """A store in the project is refused, however it is written; in CXR_HOME, or beside the project, it is not."""
    project = make_project(tmp_path / "project")

    for name in ("CXR_DVC_REMOTE", "CXR_MLFLOW_ARTIFACTS"):
        for inside in ("store", f"{project}/store", f"file://{project}/store", "../project", ".cxr"):
            with pytest.raises(SettingsError, match="would enter the snapshots") as raised:
                make_home(project / ".cxr", project, **{name: inside})
            assert name in str(raised.value.fix)
        make_home(project / ".cxr", project, **{name: ".cxr/store"})

    home = make_home(project / ".cxr", project, CXR_DVC_REMOTE="../store")
    assert home.remote_folder == tmp_path / "store"
    assert make_home(project / ".cxr", project, CXR_DVC_REMOTE="S3://bucket/x").dvc_remote == "s3://bucket/x"


def test_address_that_nobody_understands_makes_no_folder(tmp_path: Path) -> None:
    """A store of a kind that is not supported is refused before anything is made."""
    project = make_project(tmp_path / "project")

    with pytest.raises(SettingsError, match="gs:"):
        make_home(tmp_path / "home", project, CXR_DVC_REMOTE="gs://bucket/cxr")

    assert not (project / "gs:").exists()


def test_places_of_no_use_are_refused(tmp_path: Path) -> None:
    """The project is no home, and its path must not hold what ends a folder's name in PATH."""
    project = make_project(tmp_path / "project")
    with pytest.raises(SettingsError, match="is the project itself"):
        make_home(project, project)
    with pytest.raises(SettingsError, match="ends a folder's name in PATH"):
        make_home(tmp_path / "home", tmp_path / "a:b")


def test_children_are_told_places_as_they_are_understood(tmp_path: Path) -> None:
    """What is handed on names the same places from any folder, and only what was given."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"), CXR_DVC_REMOTE="../store")

    assert home.environment() == {
        "CXR_HOME": str(tmp_path / "home"),
        "CXR_PROJECT": str(tmp_path / "project"),
        "CXR_DVC_REMOTE": str(tmp_path / "store"),
    }
