"""The DAG with its stages in real containers of the image that `docker/` builds."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow_runs import Apart
from projects import commit_all, run_git

from cxr_ops import attempt, contract
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.records.run import Result

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]  # the image takes minutes to build where it is missing

PROJECT = Path(__file__).resolve().parents[2]
# Everything that the image is made of, as .dockerignore lets it through.
SOURCES = ("docker/Dockerfile", ".dockerignore", "LICENSE", "requirements/*.lock", "cxr_ops/**/*")
USER = 10001  # the image's own, which the launcher takes where the tests run as root


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image() -> str:
    """The id of the image of this checkout; built if it is not there."""
    files = sorted(
        {path for source in SOURCES for path in PROJECT.glob(source) if path.is_file() and path.suffix != ".pyc"}
    )
    digest = hashlib.sha256()
    for path in files:
        digest.update(f"{path.relative_to(PROJECT)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    name = f"cxr-ops:{digest.hexdigest()[:16]}"
    found = subprocess.run(["docker", "image", "inspect", "--format", "{{.Id}}", name], capture_output=True, text=True)
    if found.returncode == 0:
        return found.stdout.strip()
    # The classic builder and the host's network: where a base image was made here, it knows the way to the registries
    # from there only.
    build = ["docker", "build", "--network", "host", "--file", "docker/Dockerfile", "--tag", name, "."]
    subprocess.run(build, cwd=PROJECT, env=os.environ | {"DOCKER_BUILDKIT": "0"}, check=True, stdout=sys.stderr)
    return docker("image", "inspect", "--format", "{{.Id}}", name)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An installation with 160 small radiographs, and a project in which training takes seconds."""
    root = tmp_path_factory.mktemp("stack")
    for folder in (root, *root.parents[:2]):
        folder.chmod(0o755)  # pytest's folders are for its own user, and containers run as another
    project = root / "project"
    names = ("cxr_ops", "dags", "defaults", "expectations", "requirements", "plots", ".dvc", ".dvcignore", ".gitignore")
    for name in (*names, "params.yaml", "dvc.yaml", *(path.name for path in PROJECT.glob("pccp*.yaml"))):
        source = PROJECT / name
        if source.is_dir():
            shutil.copytree(source, project / name, ignore=shutil.ignore_patterns("__pycache__", "tmp", "cache"))
        else:
            shutil.copy(source, project / name)
    run_git(project, "init", "--quiet", "--initial-branch=main")
    commit_all(project, "First")
    home = Home.find({"CXR_HOME": str(root / "home"), "CXR_PROJECT": str(project)})
    data = root / "home" / "synth"
    cxr_ops = [sys.executable, "-m", "cxr_ops"]
    env = os.environ | {"CXR_HOME": str(home.root), "CXR_PROJECT": str(project)}
    for command in (
        ["data", "synth", "--out", str(data), "--images", "160", "--size", "64"],
        ["ingest", "nih", str(data), "--batch", "first"],
    ):
        subprocess.run([*cxr_ops, *command], cwd=project, env=env, check=True)
    if os.getuid() == 0:
        for path in (home.root, *home.root.rglob("*")):
            os.chown(path, USER, USER, follow_symlinks=False)
    return home


def test_the_dag_reaches_a_verdict_in_containers(home: Home, image: str, tmp_path: Path) -> None:
    """All stages run in containers, as a user without rights, up to a verdict on the ledger; no container is left."""
    settings = {"train.epochs": 1, "prepare.image_size": 32, "validate.min_patients": 10}
    env = os.environ | {
        "CXR_LAUNCHER": "docker",
        "CXR_IMAGE": image,
        "CXR_HOME": str(home.root),
        "CXR_PROJECT": str(home.project),
        "PYTHONPATH": str(home.project),
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home.project / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    }
    airflow = [sys.executable, "-m", "airflow"]
    subprocess.run([*airflow, "db", "migrate"], env=env, cwd=tmp_path, check=True, capture_output=True)
    before = docker("ps", "--all", "--quiet", "--filter", "label=cxr-ops.stage")
    ended = subprocess.run(
        [*airflow, "dags", "test", contract.DAG_ID, "--conf", json.dumps({"settings": settings})],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stdout[-8000:]
    (folder,) = (home.root / "runs").iterdir()
    result = Result.read(folder / "result.json")
    assert result.verdict in (contract.PROMOTE, contract.REJECT, contract.INSUFFICIENT)
    assert [entry.kind for entry in open_ledger(home).entries()][:3] == ["plan", "look", "decision"]
    assert json.loads((folder / "workspace" / contract.IMAGE).read_text()) == {"image": image}
    owners = {path.stat().st_uid for path in (folder / "workspace" / "train").rglob("*")}
    assert owners == {USER if os.getuid() == 0 else os.getuid()}
    assert docker("ps", "--all", "--quiet", "--filter", "label=cxr-ops.stage") == before
    # Each stage left its result as the container's user, where the worker read it.
    attempts = home.root / "airflow" / "stages" / folder.name
    for verb in contract.STAGES[1:-1]:
        assert attempt.read(attempts / verb / "1", verb).exit_code == 0
        assert {(attempts / verb / "1" / attempt.RESULT).stat().st_uid} == owners


@pytest.fixture(scope="module")
def worker(home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """A process that may import Airflow, as a worker of this installation does."""
    folder = tmp_path_factory.mktemp("worker")
    apart = Apart({"CXR_HOME": str(home.root), "CXR_PROJECT": str(home.project), "AIRFLOW_HOME": str(folder)})
    yield apart
    apart.close()


def test_an_error_in_a_container_is_told(image: str, worker: Apart) -> None:
    """A stage that fails in a container fails its task with the stage's own words, and for good where it must."""
    arguments = ["--run", "r-9"]
    kind, message = worker.call("airflow_runs.execute_docker", {"CXR_IMAGE": image}, "r-9", "validate", arguments)
    assert kind == "AirflowFailException"
    assert message.startswith(f"stage validate ended with exit code {contract.EXIT_SETTINGS}: there is no run")
    assert "r-9" in message
    assert "no result.json" not in message


def test_an_image_that_is_not_there_is_told(worker: Apart) -> None:
    """An image by id that the engine has not is named, with what to do; no registry is asked for it."""
    missing = {"CXR_IMAGE": f"sha256:{'0f' * 32}"}
    kind, message = worker.call("airflow_runs.execute_docker", missing, "r-9", "validate", ["--run", "r-9"])
    assert kind == "AirflowFailException"
    assert message.startswith(f"the engine has no image {missing['CXR_IMAGE']}")


def test_a_home_of_another_user_is_refused(home: Home, image: str, tmp_path: Path) -> None:
    """A container that could write nothing is not started, and the error says whom the folder must belong to."""
    foreign = tmp_path / "home"
    foreign.mkdir()
    if os.getuid() == 0:
        os.chown(foreign, 12345, 12345)
    else:
        pytest.skip("giving a folder to another user takes root")
    code = (
        "import pathlib; from airflow.sdk.exceptions import AirflowFailException as E\n"
        "from cxr_ops.launchers.docker import check_owner, container_user\n"
        f"try: check_owner(pathlib.Path({str(foreign)!r}), container_user())\n"
        "except E as error: print(error)"
    )
    env = os.environ | {"PYTHONPATH": str(PROJECT), "AIRFLOW_HOME": str(tmp_path / "airflow")}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
    assert "belongs to 12345:12345" in said
    assert f"chown -R {USER}:{USER}" in said
