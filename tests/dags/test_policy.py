"""What holds for every DAG of this project, and for the files that they stand in."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow_runs import Runs

from cxr_ops import contract
from cxr_ops.params import Train

pytestmark = pytest.mark.airflow

PROJECT = Path(__file__).resolve().parents[2]
FILES = sorted((PROJECT / "dags").glob("*.py"))
HEAVY = {
    *("torch", "torchvision", "mlflow", "dvc", "great_expectations", "sklearn", "scipy", "pandas", "numpy", "cv2"),
    *("PIL", "matplotlib", "boto3", "botocore", "docker"),
}
OURS = {
    *("cxr_ops", "cxr_ops.attempt", "cxr_ops.contract", "cxr_ops.errors", "cxr_ops.launchers", "cxr_ops.locks"),
    *(f"cxr_ops.launchers.{name}" for name in ("arguments", "defaults", "notices", "process", "protocol", "stage")),
}
OPERATING = (
    contract.PROMOTE_DAG_ID,
    contract.ROLLBACK_DAG_ID,
    contract.MAINTENANCE_DAG_ID,
    contract.MONITOR_DAG_ID,
)
GROUPS = {
    "make": ["open", "validate", "split", "prepare", "train", "changed", "differs"],
    "judge": ["evaluate", "explain", "gate", "report", "publish"],
    "decide": ["approve", "promote", "keep", "route"],
}
WATCHING = {
    *("cxr_ops", "cxr_ops.attempt", "cxr_ops.contract", "cxr_ops.errors", "cxr_ops.launchers"),
    *(f"cxr_ops.launchers.{name}" for name in ("arrivals", "defaults", "notices", "protocol")),
}
# The form of an approval names the pages of reports, which import nothing until one is asked for.
JUDGING = OURS | {"cxr_ops.launchers.reports"}
IMAGE = "registry.example.org/cxr-ops@sha256:" + "0f" * 32
DOCKER = {"CXR_LAUNCHER": "docker", "CXR_HOME": "/srv/cxr", "CXR_PROJECT": "/srv/project", "CXR_IMAGE": IMAGE}


@pytest.fixture(scope="module")
def dags(runs: Runs) -> dict[str, Any]:
    declared, errors = runs.describe(CXR_INCOMING="/srv/incoming", CXR_ANSWERS="/srv/answers")
    assert not errors
    return declared


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dag_file_imports_nothing_heavy(file: Path, tmp_path: Path) -> None:
    """A fresh interpreter that has imported a DAG file holds no library but Airflow's, and of ours the launchers."""
    code = f"import sys, {file.stem}; print(*sys.modules)"
    path = os.pathsep.join((str(file.parent), str(PROJECT)))
    env = os.environ | {"AIRFLOW_HOME": str(tmp_path), "PYTHONPATH": path, "CXR_INCOMING": "/srv/incoming"}
    env["CXR_ANSWERS"] = "/srv/answers"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.splitlines()[-1].split())
    assert modules.isdisjoint(HEAVY)
    ours = {name for name in modules if name.startswith("cxr_ops")}
    assert ours <= {contract.ARRIVALS_DAG_ID: WATCHING, contract.DAG_ID: JUDGING}.get(file.stem, OURS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_dag_file_names_no_date(file: Path) -> None:
    """Runs that an asset or a person starts have no logical date, so no template asks for one."""
    source = file.read_text(encoding="utf-8")
    assert not re.search(r"\{\{\s*(ds|ts|data_interval|logical_date|prev_|next_)|execution_date", source)


def test_dags_are_documented_and_bounded(dags: dict[str, Any]) -> None:
    """Every DAG says what to do when it fails, has a tag, makes up no missed runs and limits those at a time."""
    ids = (contract.DAG_ID, contract.INGEST_DAG_ID, contract.ARRIVALS_DAG_ID, *OPERATING)
    assert set(dags) == set(ids)
    for dag_id, dag in dags.items():
        assert "## When it fails" in dag["doc"]
        assert dag["tags"] == ["cxr-ops"]
        assert dag["catchup"] is False
        # One at a time, but for those that wait for people, of which none may hold up another.
        assert dag["max_active_runs"] == (16 if dag_id == contract.PROMOTE_DAG_ID else 1)


def test_tasks_are_the_stages_and_end(dags: dict[str, Any]) -> None:
    """Beside the stages there are three branches, a question and the end without promotion; all have limits."""
    stages = {**dags[contract.INGEST_DAG_ID]["tasks"], **dags[contract.DAG_ID]["tasks"]}
    assert set(stages) == {*contract.STAGES, "changed", "differs", "route", "approve", "keep"}
    assert list(dags[contract.ARRIVALS_DAG_ID]["tasks"]) == ["arrived", "hand_over", "mark"]
    others = (dags[dag_id]["tasks"] for dag_id in (contract.ARRIVALS_DAG_ID, *OPERATING))
    for name, task in (pair for tasks in (stages, *others) for pair in tasks.items()):
        assert task["owner"] == "cxr-ops"
        assert task["retries"] == 2
        assert len(task["limits"]) == 1, name


def test_the_graph_reads_in_groups(dags: dict[str, Any]) -> None:
    """The tasks of a retraining stand in the three groups that make, judge and decide, under their own names."""
    tasks = dags[contract.DAG_ID]["tasks"]
    groups = {name: [task for task, facts in tasks.items() if facts["group"] == name] for name in GROUPS}
    assert groups == GROUPS


def test_silence_is_no_approval(dags: dict[str, Any]) -> None:
    """A question that nobody answers in time counts as rejected."""
    assert dags[contract.DAG_ID]["tasks"]["approve"]["default_answer"] == ["Reject"]


def test_the_form_takes_what_the_settings_take(dags: dict[str, Any]) -> None:
    """The bounds of the form's shortcuts are those of the training's settings."""
    known = Train.model_json_schema()["properties"]
    bounds = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
    for name in ("epochs", "learning_rate", "seed"):
        schema = dags[contract.DAG_ID]["params"][name]
        assert {bound: schema.get(bound) for bound in bounds} == {bound: known[name].get(bound) for bound in bounds}


def test_retraining_waits_for_the_data_and_the_clock(dags: dict[str, Any]) -> None:
    """`cxr_retrain` starts weekly, and when the asset is updated that `cxr_ingest` updates."""
    assert dags[contract.DAG_ID]["cron"] == "0 3 * * 1"
    assert dags[contract.DAG_ID]["waits_for"] == [contract.DATASET_URI]
    assert dags[contract.INGEST_DAG_ID]["tasks"]["ingest"]["updates"] == [contract.DATASET_URI]


def test_what_arrives_is_watched_where_a_place_is_named(runs: Runs, dags: dict[str, Any]) -> None:
    """`cxr_arrivals` waits for the Asset that the trigger watches; without CXR_INCOMING there is no such DAG."""
    assert dags[contract.ARRIVALS_DAG_ID]["waits_for"] == [contract.ARRIVALS_URI]
    assert dags[contract.ARRIVALS_DAG_ID]["watches"] == ["/srv/incoming"]
    declared, errors = runs.describe()
    assert not errors
    assert contract.ARRIVALS_DAG_ID not in declared
    _, errors = runs.describe(CXR_INCOMING="incoming")
    assert [error for error in errors if "s3://bucket/prefix" in error]


def test_a_pool_is_used_where_one_is_named(runs: Runs) -> None:
    """With CXR_GPU_POOL, what computes on the GPU waits for its slots, and nothing else does."""
    declared, _ = runs.describe(CXR_GPU_POOL="gpu")
    tasks = declared[contract.DAG_ID]["tasks"]
    assert [name for name, task in tasks.items() if task["pool"] == "gpu"] == ["train", "evaluate", "explain"]


def test_an_unknown_launcher_is_refused(runs: Runs) -> None:
    """With a launcher that does not exist no DAG is read, and the errors name those that do."""
    declared, errors = runs.describe(CXR_LAUNCHER="dokcer")
    assert not declared
    assert all("'process' or 'docker'" in error for error in errors)


def test_containers_see_the_same_paths(runs: Runs) -> None:
    """Home to write, the project and what is ingested to read, each at its own path; never as root."""
    declared, _ = runs.describe(**DOCKER, CXR_ANSWERS="/srv/answers")
    tasks = {name: task for dag in declared.values() for name, task in dag["tasks"].items() if task["mounts"]}
    assert set(tasks) == {*contract.STAGES, *contract.OPERATIONS, "show"}
    everywhere = [("/srv/cxr", "/srv/cxr", False), ("/srv/project", "/srv/project", True)]
    read = ("{{ params.path }}", "{{ params.attributes or '' }}", "{{ params.mapping or '' }}")
    assert tasks.pop("ingest")["mounts"] == [*everywhere, *((one, one, True) for one in read)]
    told = ("{{ params.answers }}", "{{ params.labels or '' }}")
    assert tasks.pop("monitor")["mounts"] == [*everywhere, *((one, one, True) for one in told)]
    backup = "{{ params.backup or '' }}"
    assert tasks.pop("backup")["mounts"] == [everywhere[0], (backup, backup, False), everywhere[1]]
    for task in tasks.values():
        assert task["mounts"] == everywhere
        assert not task["user"].startswith("0:")
        assert not task["temporary_mount"]


def test_stores_outside_home_are_mounted_and_told(runs: Runs) -> None:
    """A container sees a store's folder outside CXR_HOME, and is told of the stores and of the time that it has."""
    folders = {"CXR_DVC_REMOTE": "/srv/remote", "CXR_LEDGER": "/srv/ledger", "CXR_ANCHOR": "/srv/anchor"}
    plain = {**folders, "CXR_MLFLOW_ARTIFACTS": "S3://bucket/m", "CXR_GRACE_SECONDS": "600"}
    inside = {"MLFLOW_TRACKING_URI": "sqlite:////srv/cxr/m%201.db"}
    declared, errors = runs.describe(**DOCKER, **plain, **inside)
    assert not errors
    task = declared[contract.DAG_ID]["tasks"]["train"]
    assert {(folder, folder, False) for folder in folders.values()} <= set(task["mounts"])
    assert {name: task["environment"][name] for name in plain} == plain
    assert task["private"] == inside


def test_keys_reach_no_container_that_runs_a_packages_code(runs: Runs) -> None:
    """The stages of DVC are neither told of the keys that sign and are believed nor see them; the others read them."""
    keys = {"CXR_SIGNING_KEY": "/srv/keys/own.pem", "CXR_TRUSTED_KEYS": "/srv/keys/a.pem, /srv/keys/b.pem"}
    declared, errors = runs.describe(**DOCKER, **keys)
    assert not errors
    tasks = {**declared[contract.DAG_ID]["tasks"], **declared[contract.INGEST_DAG_ID]["tasks"]}
    told = {name for name in contract.STAGES if keys.items() <= tasks[name]["environment"].items()}
    assert told == set(contract.STAGES) - set(contract.DETERMINISTIC)
    files = {(path, path, True) for path in ("/srv/keys/own.pem", "/srv/keys/a.pem", "/srv/keys/b.pem")}
    assert all(files <= set(tasks[name]["mounts"]) for name in told)
    assert not [name for name in contract.DETERMINISTIC if "/srv/keys" in str(tasks[name])]


def test_containers_keep_secrets_out_of_sight(runs: Runs) -> None:
    """A secret reaches the container, and neither the environment that Airflow shows nor the stored DAG."""
    declared, _ = runs.describe(**DOCKER, AWS_SECRET_ACCESS_KEY="canary-5f2e")
    dag = declared[contract.DAG_ID]
    assert dag["tasks"]["train"]["private"] == {"AWS_SECRET_ACCESS_KEY": "canary-5f2e"}
    assert "canary-5f2e" not in str(dag["tasks"]["train"]["environment"])
    assert "canary-5f2e" not in dag["as_shown"]
    assert dag["tasks"]["train"]["environment"]["CXR_IMAGE"] == IMAGE.partition("@")[2]


@pytest.mark.parametrize(
    ("gpus", "count", "devices"), [("all", -1, []), ("2", 2, []), ("0,1", 0, ["0", "1"]), ("GPU-5f", 0, ["GPU-5f"])]
)
def test_gpus_go_to_what_computes(runs: Runs, gpus: str, count: int, devices: list[str]) -> None:
    """CXR_GPUS becomes the device request of training, evaluation and explanation, and of nothing else."""
    declared, _ = runs.describe(**DOCKER, CXR_GPUS=gpus)
    found = {name: task["gpus"] for name, task in declared[contract.DAG_ID]["tasks"].items() if task["gpus"]}
    assert list(found) == ["train", "evaluate", "explain"]
    (request,) = found["train"]
    assert (request["Count"], request["DeviceIDs"]) == (count, devices)
    assert request["Capabilities"] == [["gpu"]]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"CXR_IMAGE": "cxr-ops:latest"}, "by digest"),
        ({"CXR_HOME": "data"}, "absolute path"),
        ({"CXR_GPUS": "most"}, "'all'"),
        ({"CXR_DVC_REMOTE": "~/remote"}, "whole path"),
        ({"CXR_MLFLOW_ARTIFACTS": "file:///srv/artifacts"}, "whole path"),
        ({"MLFLOW_TRACKING_URI": "sqlite:////srv/mlflow.db"}, "outside CXR_HOME"),
        ({"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}, "outside CXR_HOME"),
    ],
    ids=["a tag", "a relative home", "words for gpus", "a home of whom", "an address", "a file", "a relative file"],
)
def test_what_a_container_cannot_run_with_is_refused(runs: Runs, wrong: dict[str, str], says: str) -> None:
    """An image that can move, what means something else inside and an unknown GPU request fail when the DAG is read."""
    declared, errors = runs.describe(**DOCKER | wrong)
    assert contract.DAG_ID not in declared
    assert any(says in error for error in errors)


@pytest.mark.parametrize(
    ("dag_id", "first"),
    [
        (contract.DAG_ID, datetime(2026, 12, 7, 3, tzinfo=UTC)),
        (contract.MAINTENANCE_DAG_ID, datetime(2026, 12, 1, 1, tzinfo=UTC)),
        (contract.MONITOR_DAG_ID, datetime(2026, 12, 7, 2, tzinfo=UTC)),
        (contract.PROMOTE_DAG_ID, None),
    ],
)
def test_a_schedule_begins_with_its_next_time(dags: dict[str, Any], dag_id: str, first: datetime | None) -> None:
    """Where Airflow first sees the DAGs soon after a time of theirs, that time does not start a run."""
    assert dags[dag_id]["first_run"] == first
