"""What is wrong with an installation is found before a run finds it."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from projects import make_home, make_project
from typer.testing import CliRunner

from cxr_ops.commands import app as command
from cxr_ops.edges import doctor, locks
from cxr_ops.edges.doctor import Check, examine
from cxr_ops.edges.home import Home


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The environment of a healthy installation. To start DVC takes a second, so one test alone does it."""
    monkeypatch.setattr(doctor, "_dvc", lambda: "dvc version 3")
    project = make_project(tmp_path / "project")
    return {"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)}


def failed(environ: dict[str, str]) -> list[Check]:
    return [check for check in examine(environ).checks if not check.ok]


def test_healthy_installation_has_every_check(environ: dict[str, str]) -> None:
    """Settings, folders and services are all looked at, and nothing but CXR_HOME and its locks is made."""
    found = examine(environ)
    assert [check.name for check in found.checks if check.ok] == [
        *("names", "settings", "project", "git", "dvc"),
        *("locks", "room", "data remote", "mlflow", "artifacts", "ledger", "airflow"),
    ]
    assert found.ok
    assert [path.name for path in Path(environ["CXR_HOME"]).rglob("*")] == ["locks"]


def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("given", "name", "said"),
    [
        ({"CXR_HOM": "/x"}, "names", "nothing reads CXR_HOM"),
        ({"CXR_GRACE_SECONDS": "soon"}, "settings", "number of seconds"),
        ({"CXR_LAUNCHER": "docker"}, "settings", "CXR_IMAGE is not set"),
        ({"CXR_LAUNCHER": "docker", "CXR_IMAGE": "cxr-ops:latest"}, "settings", "by its digest"),
        ({"CXR_DVC_REMOTE": "gs://bucket"}, "project", "not supported"),
        ({"CXR_DVC_REMOTE": "/proc/version/x"}, "data remote", "cannot be made"),
        ({"CXR_MLFLOW_ARTIFACTS": "/proc/version/x"}, "artifacts", "cannot be made"),
        ({"CXR_DVC_REMOTE": "s3://bucket/x", "CXR_S3_ENDPOINT": "DEAD"}, "data remote", "does not answer"),
        ({"CXR_AIRFLOW_URL": "DEAD"}, "airflow", "does not answer"),
    ],
)
def test_what_is_wrong_is_named_with_what_to_do(
    environ: dict[str, str], given: dict[str, str], name: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thing is wrong, one check says so and what to type next."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    dead = f"http://127.0.0.1:{dead_port()}"
    (check,) = failed(environ | {key: dead if value == "DEAD" else value for key, value in given.items()})
    assert check.name == name
    assert said in check.found
    assert check.fix


def test_machine_that_cannot_carry_a_run_is_told(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without git, room or locks that work, and with an altered ledger, each check says so, and the others are made."""
    home = Home.find(environ)
    home.ledger.mkdir()
    (home.ledger / "00000001.json").write_text("{}")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**9))
    monkeypatch.setattr(locks.Lock, "try_acquire", lambda *_, **__: True)
    monkeypatch.setenv("PATH", "/nowhere")
    found = {check.name: check.found for check in failed(environ)}
    assert list(found) == ["git", "locks", "room", "ledger"]
    assert "1.0 GB are free" in found["room"]
    assert "00000001.json" in found["ledger"]


def test_secrets_are_not_told(environ: dict[str, str]) -> None:
    """A token, and the password in an address, are neither shown nor in what a check found."""
    dead = f"http://lee:canary@127.0.0.1:{dead_port()}"
    told = json.dumps(examine(environ | {"CXR_AIRFLOW_TOKEN": "canary", "CXR_AIRFLOW_URL": dead}).as_json())
    assert "canary" not in told
    assert '"(set)"' in told


def test_command_shows_where_each_setting_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`doctor` ends with 0 where all is well and with 1 otherwise, for people and with --json for machines."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    monkeypatch.setenv("CXR_HOME", str(home.root))
    monkeypatch.chdir(home.project)
    done = CliRunner().invoke(command.app, ["doctor"])
    assert done.exit_code == 0, done.output
    assert f"CXR_HOME              {home.root}  (environment)" in done.output
    assert "CXR_GRACE_SECONDS     120  (default)" in done.output
    assert "ok      dvc: dvc version 3" in done.output

    monkeypatch.setattr(doctor, "_dvc", lambda: "")
    monkeypatch.setenv("CXR_DVC_REMOTE", "gs://bucket")
    done = CliRunner().invoke(command.app, ["doctor", "--json"])
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert {"name": "CXR_HOME", "source": "environment"}.items() <= told["settings"][0].items()
