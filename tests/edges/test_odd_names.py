"""An installation in a folder whose name holds all that addresses, settings and shells give a meaning to."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import mlflow
import pytest
from projects import make_batch, make_home, make_project, run_git
from sqlalchemy.engine import make_url

from cxr_ops.edges import dvc
from cxr_ops.edges.airflow import processes
from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow import tracking
from cxr_ops.edges.store import batches, runs, snapshots
from cxr_ops.errors import SettingsError

ODD = "a%2Fb #?$c:d'e &;é"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    root = tmp_path_factory.mktemp("odd")
    return make_home(root / ODD, make_project(root / "project #?$c"))


def test_git_and_dvc_keep_data_there(home: Home, tmp_path: Path) -> None:
    """A batch enters the data set and comes back whole into a run's workspace, from a clone there."""
    batches.add_batch(home, make_batch(tmp_path, "one"))
    data = batches.data_revision(home)
    workspace = home.workspace("r")
    runs.make_workspace(home, workspace, "r", snapshots.snapshot(home), data)
    runs.pull(home, workspace, data)

    assert (workspace / "dataset" / "one" / "batch.json").is_file()
    assert run_git(workspace, "remote", "get-url", "origin") == str(home.store)
    assert dvc.dvc(home, home.project, "config", "remote.store.url").strip() == str(home.root / "dvc-remote")
    assert sorted(path.name for path in home.root.parent.iterdir()) == [ODD, "project #?$c"]


def test_mlflow_keeps_runs_and_artifacts_there(home: Home, tmp_path: Path) -> None:
    """MLflow's database and artifacts are in the folder, and nothing is made beside it."""
    note = tmp_path / "note.txt"
    note.write_text("as it was")
    content = tracking.RunContent(run="r", tags={}, params={"a": "1"}, metrics={"m": 0.5}, artifacts=[("sub", note)])
    run_id = tracking.log_run(home, content)

    with sqlite3.connect(home.root / "mlflow" / "mlflow.db") as database:
        assert database.execute("select key, value from params").fetchall() == [("a", "1")]
    (kept,) = (home.root / "mlflow" / "artifacts").rglob("note.txt")
    assert kept.read_text() == "as it was"
    back = mlflow.MlflowClient(home.mlflow_uri).download_artifacts(run_id, "sub/note.txt", str(tmp_path))
    assert Path(back).read_text() == "as it was"
    assert sorted(path.name for path in home.root.parent.iterdir()) == [ODD, "project #?$c"]


def test_airflow_is_told_the_file_there(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's database address leads to the file; a name that Airflow would read as a variable is refused."""
    monkeypatch.delenv("c", raising=False)
    home.airflow.mkdir()
    told = processes.environment(home, 8080)["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert told.startswith("sqlite:////")  # the only form that Airflow takes for absolute
    assert make_url(told).database == str(home.airflow / "airflow.db")

    monkeypatch.setenv("c", "elsewhere")
    with pytest.raises(SettingsError, match=r"reads \$c in the name of a folder") as caught:
        processes.environment(home, 8080)
    assert "unset c" in str(caught.value)
