"""A signed model directory, and the server of it as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from finished import make_home

from cxr_ops.audit.package import digest as package_digest
from cxr_ops.edges import signing
from cxr_ops.edges.home import Home
from cxr_ops.edges.ports import free_port
from cxr_ops.labels import FINDINGS

READY_SECONDS = 120  # 6 on two idle cores


@dataclass(frozen=True)
class Signed:
    """A signed directory, the installation whose key signed it, and its package."""

    home: Home
    folder: Path
    package: Path
    points: dict[str, float]

    @property
    def key(self) -> Path:
        """The public half of the key."""
        return self.home.root / "keys" / "installation.pem.pub"


@pytest.fixture(scope="session")
def signed(packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Signed:
    """What `model fetch` leaves, as far as a server reads it. Not to be changed: copy it."""
    root = tmp_path_factory.mktemp("signed")
    home, folder = make_home(root), root / "model"
    shutil.copytree(packages["a"], folder / "artifacts" / "package")
    points = {FINDINGS[0]: 0.0, FINDINGS[1]: 1.0}
    config = {"package": package_digest(packages["a"]), "points": points}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": {"config": config}}}))
    signing.sign(home, folder, {})
    return Signed(home, folder, packages["a"], points)


@dataclass(frozen=True)
class Server:
    """A server of the tests' own model."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    receipts: Path
    answers: Path

    def ask(self, path: str, body: bytes | None = None, kind: str = "application/octet-stream") -> tuple[int, Any]:
        """Status and answer: JSON, or text where it is none."""
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind} if body is not None else {})
        try:
            with urllib.request.urlopen(request, timeout=60) as found:
                status, data = found.status, found.read()
        except urllib.error.HTTPError as error:
            status, data = error.code, error.read()
        try:
            return status, json.loads(data)
        except ValueError:
            return status, data.decode()


@pytest.fixture(scope="session")
def server(signed: Signed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`cxr-ops serve` on the signed directory, with a log of receipts and small limits."""
    with serving(signed, tmp_path_factory.mktemp("server"), "--max-bytes", "300000", "--max-images", "12") as found:
        yield found


@contextmanager
def serving(signed: Signed, root: Path, *limits: str) -> Iterator[Server]:
    """`cxr-ops serve` on the signed directory, with a log of receipts in `root`, until the block ends."""
    port, log = free_port(18080), root / "log"
    env = os.environ | {"CXR_RECEIPTS": str(root / "receipts.jsonl")}
    arguments = ["serve", str(signed.folder), "--key", str(signed.key), "--port", str(port), "--threads", "1", *limits]
    arguments += ["--answers", str(root / "answers.jsonl")]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "cxr_ops", *arguments], cwd=root, env=env, stderr=out)
    found = Server(f"http://127.0.0.1:{port}", process, log, root / "receipts.jsonl", root / "answers.jsonl")
    try:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if found.ask("/ready")[0] == 200:
                    break
            except OSError:
                pass
            time.sleep(0.1)
        else:
            raise AssertionError(log.read_text())
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM), log.read_text()
