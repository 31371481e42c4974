"""What is wrong with an installation is found before a run finds it."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import ClassVar

import pytest
from projects import make_home, make_project
from typer.testing import CliRunner

from cxr_ops import locks
from cxr_ops.audit.entries import PeriodOpened
from cxr_ops.commands import app as command
from cxr_ops.edges import doctor, machine
from cxr_ops.edges.doctor import Check, examine
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger


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
        *("names", "settings", "project", "python", "git", "dvc"),
        *("gpu", "shared memory", "proxies", "certificates", "docker", "telemetry"),
        *("locks", "hard links", "clock"),
        *("room", "data remote", "mlflow", "artifacts", "ledger", "airflow"),
    ]
    assert found.ok
    assert [path.name for path in Path(environ["CXR_HOME"]).rglob("*")] == ["locks"]


def dead_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


DOCKER = {"CXR_LAUNCHER": "docker", "CXR_IMAGE": f"sha256:{'0f' * 32}"}


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
        ({"AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "True"}, "telemetry", "lets data on use be sent"),
        ({"HTTPS_PROXY": "proxy:3128"}, "proxies", "no address"),
        ({"SSL_CERT_FILE": "/nowhere.pem"}, "certificates", "/nowhere.pem, which is not there"),
        ({"REQUESTS_CA_BUNDLE": "/proc/version"}, "certificates", "holds no certificate"),
        ({**DOCKER, "DOCKER_HOST": "unix:///nowhere.sock"}, "docker", "no Docker engine answers"),
        ({**DOCKER, "DOCKER_HOST": "DEAD"}, "docker", "no Docker engine answers"),
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


class Engine(BaseHTTPRequestHandler):
    """An engine, an MLflow server: what each of their doors answers, as the real ones do."""

    answers: ClassVar[dict[str, tuple[int, bytes]]] = {}

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, (404, b'{"message": "none"}'))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        return


@pytest.fixture
def engine() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Engine)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_engine_is_asked_for_what_stages_need(environ: dict[str, str], engine: str) -> None:
    """The image must be there, and where GPUs are asked for, the runtime that gives them."""
    given = {**environ, **DOCKER, "DOCKER_HOST": f"tcp://{engine}", "CXR_GPUS": "all"}
    Engine.answers = {"/version": (200, b'{"Version": "20.10"}'), "/info": (200, b'{"Runtimes": {"runc": {}}}')}
    assert [(one.name, one.found[:23]) for one in failed(given)] == [("docker", "the engine has no image")]
    Engine.answers[f"/images/{DOCKER['CXR_IMAGE']}/json"] = (200, b"{}")
    assert "no NVIDIA runtime" in failed(given)[0].found
    Engine.answers["/info"] = (200, b'{"Runtimes": {"nvidia": {}}}')
    assert failed(given) == []
    Engine.answers["/version"] = (403, b"{}")
    assert "answers 403" in failed(given)[0].found


def test_an_mlflow_that_refuses_its_name_is_told(environ: dict[str, str], engine: str) -> None:
    """A server that was not told of the name under which it is asked is named, with the option that it lacks."""
    Engine.answers = {"/version": (403, b"Invalid Host header - possible DNS rebinding attack detected")}
    found = {one.name: one for one in failed({**environ, "MLFLOW_TRACKING_URI": f"http://{engine}"})}
    assert "refuses requests under the name" in found["mlflow"].found
    assert f"--allowed-hosts 127.0.0.1,{engine}" in str(found["mlflow"].fix)


def test_a_clock_that_is_behind_the_ledger_is_told(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that says less than the ledger's last entry is found."""
    home = Home.find(environ)
    open_ledger(home).append("period", PeriodOpened(number=2, closed_batches=[], by="dr_lee", reason="a new period"))
    assert failed(environ) == []

    class Behind(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    monkeypatch.setattr(machine, "datetime", Behind)
    (check,) = failed(environ)
    assert (check.name, "last entry is of" in check.found) == ("clock", True)


def test_a_disk_without_hard_links_is_told(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that makes no second name for a file is found before the ledger needs one."""
    Home.find(environ)

    def link(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", link)
    (check,) = failed(environ)
    assert (check.name, "Operation not supported" in check.found) == ("hard links", True)
