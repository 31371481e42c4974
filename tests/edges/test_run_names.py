"""run_names: which run a person means."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cxr_ops.contract import slug
from cxr_ops.edges.home import Home
from cxr_ops.edges.run_names import find_run, known_runs
from cxr_ops.errors import SettingsError

AIRFLOW = "manual__2026-03-01T04:05:06+00:00"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An installation with three runs, of which two are of one run of Airflow, and the last was not opened whole."""
    made = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path)})
    for age, (name, airflow_run_id) in enumerate([(slug(AIRFLOW), AIRFLOW), ("again", "twice"), ("once", "twice")]):
        folder = made.run(name)
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps({"airflow_run_id": airflow_run_id}))
        os.utime(folder, (1000 - age, 1000 - age))
    (made.root / "runs" / "broken").mkdir()
    os.utime(made.root / "runs" / "broken", (1, 1))
    return made


def test_a_name_and_the_id_of_airflow_name_the_same_run(home: Home) -> None:
    """A run is found by its name, also when it was not opened whole, and by Airflow's id of it."""
    assert find_run(home, slug(AIRFLOW)) == find_run(home, f" {AIRFLOW}\n") == slug(AIRFLOW)
    assert find_run(home, "broken") == "broken"


def test_an_id_of_several_runs_is_asked_back(home: Home) -> None:
    """Airflow's id of several runs names none of them; the error names them all."""
    with pytest.raises(SettingsError, match="of several runs") as caught:
        find_run(home, "twice")
    assert caught.value.fix == "name one of them: again, once"


@pytest.mark.parametrize("wrong", ["nope", "../../elsewhere", "", "/etc"])
def test_what_is_no_run_is_told_which_there_are(home: Home, wrong: str) -> None:
    """A run that does not exist, or a path, ends with the runs that exist, newest first."""
    with pytest.raises(SettingsError, match="there is no run") as caught:
        find_run(home, wrong)
    assert caught.value.fix == f"the runs are, newest first: {slug(AIRFLOW)}, again, once, broken"


def test_without_any_run_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    """On an empty installation the next step is to make a run."""
    empty = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path)})
    with pytest.raises(SettingsError, match="and no other") as caught:
        find_run(empty, "nope")
    assert "cxr-ops retrain" in str(caught.value)


def test_a_link_is_no_run(home: Home, tmp_path: Path) -> None:
    """A link among the runs leads nowhere."""
    (home.root / "runs" / "linked").symlink_to(tmp_path)
    assert "linked" not in known_runs(home)
