"""An MLflow server on the store of this installation, for people to look at, for as long as it is used."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

from cxr_ops.edges import loopback
from cxr_ops.edges.home import Home
from cxr_ops.edges.ports import free_port, listens
from cxr_ops.errors import CxrError

MLFLOW_PORT: Final = 5000
MLFLOW_SECONDS: Final = 90.0
_POLL: Final = 0.2


@contextmanager
def serving(home: Home, say: Callable[[str], None]) -> Iterator[str]:
    """Serve this installation's MLflow store and yield the address; a server of the environment is taken as it is."""
    if home.mlflow_uri.startswith("http"):
        yield home.mlflow_uri
        return
    folder = home.root / "mlflow"
    log = folder / "server.log"
    say("starting MLflow")
    folder.mkdir(exist_ok=True)
    port = free_port(MLFLOW_PORT)
    s3 = {"MLFLOW_S3_ENDPOINT_URL": home.s3_endpoint} if home.s3_endpoint else {}
    with log.open("wb") as out:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "mlflow", "server"),
                *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
                *("--backend-store-uri", home.mlflow_uri, "--default-artifact-root", home.mlflow_artifacts),
                "--no-serve-artifacts",  # runs name the place of their artifacts; the server only shows them
            ],
            cwd=folder,
            # Without its runner of jobs, which nothing here uses, it starts in a quarter of the time.
            env={
                **loopback.environment(os.environ, home.servers),
                **s3,
                "MLFLOW_DISABLE_TELEMETRY": "true",
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            },
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(server, port, log)
        yield url
    finally:
        say("stopping MLflow")
        for number in (signal.SIGTERM, signal.SIGKILL):  # to the group: the command does not hand it on to its server
            with suppress(ProcessLookupError):
                os.killpg(server.pid, number)
            with suppress(subprocess.TimeoutExpired):
                server.wait(10)


def _wait_for(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + MLFLOW_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if listens(psutil.Process(server.pid), port):
            return
        time.sleep(_POLL)
    raise CxrError("MLflow could not be started", where=log, fix="look into its log")
