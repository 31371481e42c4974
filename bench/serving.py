"""Serving: this project's server beside `mlflow models serve` of a plain torch flavour of the same network."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import seconds, table, told

PEER = "`mlflow models serve`, torch flavour"
OURS = "`cxr-ops serve`"
SIDE = 224
SOURCE = 1024  # pixels of a radiograph as it is sent
CALLERS = 8
REPEATS = 5
READY_SECONDS = 300


def section() -> str:
    """Latency with one caller and throughput with eight, and how long a signed model takes to its first answer."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        made, picture = _models(root), _picture()
        with _serving(root, _mlflow(made["plain"]), "/ping") as peer, _serving(root, _ours(made), "/ready") as ours:
            prepared = _preparation()
            tensor = prepared(picture)
            asks = {
                f"{PEER}; its caller decodes and prepares the picture": lambda: _ask(
                    peer, "/invocations", prepared(picture), "application/json"
                ),
                f"{PEER}; the tensor is prepared beforehand": lambda: _ask(
                    peer, "/invocations", tensor, "application/json"
                ),
                OURS: lambda: _ask(ours, "/predict", picture, "image/png"),
            }
            for ask in asks.values():
                ask()
            alone = seconds({name: lambda ask=ask: _timed(ask, 8) for name, ask in asks.items()}, repeats=REPEATS)
            many = told({name: lambda ask=ask: _throughput(ask) for name, ask in asks.items()}, repeats=REPEATS)
        cold = seconds(
            {
                "`mlflow models serve`, torch flavour": lambda: _started(root, _mlflow(made["plain"]), "/ping"),
                "`cxr-ops serve`, signature checked, first picture scored": lambda: _started(
                    root, _ours(made), "/ready"
                ),
            },
            repeats=3,
        )
    note = (
        f"DenseNet121 at {SIDE} x {SIDE}, random weights, {os.cpu_count()} cores, a PNG of {SOURCE} x {SOURCE}. The "
        f"torch flavour takes a tensor, as JSON, so somebody has to decode and prepare the picture; {OURS} takes the "
        "picture, and gives flags and a receipt. The callers run on the same cores."
    )
    return "\n".join(
        (
            table("Serving: one caller, seconds a picture", "s", alone, note=note, repeats=REPEATS),
            table(f"Serving: {CALLERS} callers at once", "pictures/s", many, note=note, repeats=REPEATS),
            table("Serving: from nothing to ready", "s", cold, note=note, repeats=3),
        )
    )


def _models(root: Path) -> dict[str, Path]:
    """A signed directory, its public key, and the same network as MLflow's own torch flavour keeps it."""
    import mlflow
    import torch
    import yaml

    from cxr_ops.audit.package import digest
    from cxr_ops.edges import signing
    from cxr_ops.edges.home import Home
    from cxr_ops.model import network, package

    (root / "project").mkdir()
    home = Home.find({"CXR_HOME": str(root / "home"), "CXR_PROJECT": str(root / "project")})
    terms = package.contract(image_size=SIDE, mean=0.5, std=0.25, training={"seed": 0})
    torch.manual_seed(0)
    net = network.build(terms).eval()
    signed = root / "signed"
    package.write(signed / "artifacts" / "package", state=net.state_dict(), contract=terms, patients=set())
    config = {"package": digest(signed / "artifacts" / "package"), "points": {}}
    (signed / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": {"config": config}}}))
    signing.sign(home, signed, {})
    signature = mlflow.models.infer_signature(np.zeros((1, 1, SIDE, SIDE), np.float32), np.zeros((1, 14), np.float32))
    mlflow.pytorch.save_model(
        net, str(root / "plain"), pip_requirements=[], signature=signature, serialization_format="pickle"
    )
    return {"signed": signed, "key": home.root / "keys" / "installation.pem.pub", "plain": root / "plain"}


def _picture() -> bytes:
    import cv2

    rng = np.random.default_rng(0)
    coarse = cv2.resize(rng.normal(128, 50, (16, 16)), (SOURCE, SOURCE), interpolation=cv2.INTER_CUBIC)
    drawn = np.clip(coarse + rng.normal(0, 4, (SOURCE, SOURCE)), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".png", drawn)[1].tobytes())


def _preparation() -> Callable[[bytes], bytes]:
    """What a caller of the peer does with a picture: the network takes a tensor, and MLflow takes it as JSON."""
    import torch

    from cxr_ops.data.checking.decode import decode_grey
    from cxr_ops.model import network, package

    torch.set_num_threads(1)
    terms = package.contract(image_size=SIDE, mean=0.5, std=0.25, training={})

    def prepared(picture: bytes) -> bytes:
        pixels = network.preprocess(decode_grey(picture), terms)
        tensor = network.to_tensor(torch.from_numpy(pixels[None]), terms).numpy()
        return json.dumps({"inputs": tensor.tolist()}).encode()

    return prepared


# --------------------------------------------------------------------------------------------------------- servers


def _mlflow(folder: Path) -> list[str]:
    words = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(folder), "--env-manager", "local"]
    return [*words, "--host", "127.0.0.1", "--workers", "1", "--port"]


def _ours(made: dict[str, Path]) -> list[str]:
    return [sys.executable, "-m", "cxr_ops", "serve", str(made["signed"]), "--key", str(made["key"]), "--port"]


@contextmanager
def _serving(root: Path, command: list[str], ready: str) -> Iterator[int]:
    from cxr_ops.edges.ports import free_port

    port = free_port(0)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow looks there for its uvicorn
    env = os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "true"}
    log = root / f"{port}.log"
    with log.open("wb") as out:
        server = subprocess.Popen(
            [*command, str(port)], cwd=root, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if _request(port, "GET", ready)[0] == 200:
                    break
            except OSError:
                pass
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(log.read_text()[-2000:])
            time.sleep(0.05)
        yield port
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def _started(root: Path, command: list[str], ready: str) -> float:
    began = time.perf_counter()
    with _serving(root, command, ready):
        return time.perf_counter() - began


def _request(port: int, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request(method, path, body, {"Content-Type": kind} if kind else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _ask(port: int, path: str, body: bytes, kind: str) -> Any:
    status, data = _request(port, "POST", path, body, kind)
    if status != 200:
        raise RuntimeError(data[:500])
    return data


def _timed(ask: Any, times: int) -> float:
    took = []
    for _ in range(times):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return sorted(took)[times // 2]


def _throughput(ask: Any, each: int = 4) -> float:
    def call() -> None:
        for _ in range(each):
            ask()

    callers = [threading.Thread(target=call) for _ in range(CALLERS)]
    began = time.perf_counter()
    for one in callers:
        one.start()
    for one in callers:
        one.join()
    return CALLERS * each / (time.perf_counter() - began)
