"""Asks a signed model in the environments that it will be served in: fresh processes, and the serving image.

What a test in the promoting process shows says little of a server: it has its own packages, starts from the directory
alone, and answers over HTTP. So the directory is served as `cxr-ops serve` serves it, loaded as MLflow loads it, and,
where `CXR_SERVE_IMAGE` names an image, served by that.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cxr_ops.edges.ports import free_port
from cxr_ops.errors import CxrError, RefusedError
from cxr_ops.labels import FINDINGS

START_SECONDS: Final = 300.0  # torch comes from a cold disk in minutes
ASK_SECONDS: Final = 60.0
ROUNDS: Final = 3  # each picture is asked so often, one at a time; the median of all counts
_POLL: Final = 0.1
_SAID: Final = 600  # characters of a log that an error quotes
_OF_MLFLOW: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "PYTHONDONTWRITEBYTECODE": "1",  # beside the script it would be a file that nobody signed
}
_WITH_MLFLOW: Final = """
import json, sys
import mlflow, pandas
folder, *files = sys.argv[1:]
rows = mlflow.pyfunc.load_model(folder).predict(pandas.DataFrame({"image": [open(f, "rb").read() for f in files]}))
print(json.dumps(rows.drop(columns=["flags", "receipt"]).to_dict("records")))
"""

Scores = list[list[float | None]]


@dataclass(frozen=True, kw_only=True)
class Answered:
    """What a server said.

    Attributes:
        by: which one, for people.
        scores: a row a picture, a probability a finding; None where there is none.
        seconds: the median time of an answer to one picture; None where it was not measured.
    """

    by: str
    scores: Scores
    seconds: float | None


def ask_everywhere(folder: Path, key: bytes, pictures: Sequence[bytes], image: str | None) -> list[Answered]:
    """Ask a model directory about pictures in each environment that there is.

    Args:
        folder: the directory.
        key: the public key that it is signed with, PEM.
        pictures: files.
        image: the serving image; None: there is none.

    Raises:
        RefusedError: it is not served, or gives no answer; how the server ended is said.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-ask-") as aside:
        public = Path(aside) / "key.pub"
        public.write_bytes(key)
        found = [_by_server(folder, public, pictures, Path(aside))]
        if image is not None:
            found.append(by_image(folder, public, pictures, image))
        return [*found, by_mlflow(folder, pictures, Path(aside))]  # last: its code runs where it may write


def check(answers: Sequence[Answered], expected: Scores, *, tolerance: float, seconds: float) -> None:
    """Compare what servers said with what the evaluation's own way gives, and their time with what a plan allows.

    Args:
        answers: of the same pictures.
        expected: a row a picture, a probability a finding; NaN or None where there is none.
        tolerance: the largest difference.
        seconds: the longest median time of an answer.

    Raises:
        RefusedError: a probability differs, is missing or is there where it must not be; or the answers take longer.
    """
    for said in answers:
        if len(said.scores) != len(expected):
            raise _refusal(said.by, f"answers {len(said.scores)} pictures of {len(expected)}")
        for number, (row, right) in enumerate(zip(said.scores, expected, strict=True), 1):
            for finding, value, wanted in zip(FINDINGS, row, map(_number, right), strict=True):
                if (value is None) != (wanted is None) or (
                    value is not None and wanted is not None and not abs(value - wanted) <= tolerance
                ):
                    raise _refusal(
                        said.by,
                        f"says {_shown(value)} of {finding} in golden picture {number}, where the evaluation says "
                        f"{_shown(wanted)}; the plan allows a difference of {tolerance:g}",
                    )
        if said.seconds is not None and said.seconds > seconds:
            raise _refusal(
                said.by, f"takes {said.seconds:.3g} s for a picture at the median, and the plan allows {seconds:g} s"
            )


def _shown(value: float | None) -> str:
    return "nothing" if value is None else f"{value:.7f}"


def by_mlflow(folder: Path, pictures: Sequence[bytes], aside: Path) -> Answered:
    """Have MLflow load a model directory in a fresh process, and ask it; see `ask_everywhere`.

    Args:
        folder: the directory, whose code runs.
        pictures: files.
        aside: an empty folder.
    """
    files = []
    for number, picture in enumerate(pictures):
        files.append(aside / f"{number}.picture")
        files[-1].write_bytes(picture)
    by = "MLflow, which loads it in a fresh process,"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _WITH_MLFLOW, str(folder), *map(str, files)],
            cwd=aside,
            env=_environment() | _OF_MLFLOW,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise _refusal(by, f"gives no answer within {START_SECONDS:.0f} s") from error
    if done.returncode:
        raise _refusal(by, "does not answer", done.stderr)
    try:
        rows = json.loads(done.stdout.splitlines()[-1])
        scores = [[_number(row[finding]) for finding in FINDINGS] for row in rows]
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise _refusal(by, "gives no probabilities", done.stdout) from error
    return Answered(by=by, scores=scores, seconds=None)


def _by_server(folder: Path, key: Path, pictures: Sequence[bytes], aside: Path) -> Answered:
    by, log = "the server of cxr-ops, in a fresh process,", aside / "server.log"
    port = free_port(0)
    words = [sys.executable, "-m", "cxr_ops", "serve", str(folder), "--key", str(key), "--port", str(port)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            words, cwd=aside, env=_environment(), stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    try:
        return _asked(by, "127.0.0.1", port, pictures, lambda: process.poll() is None, log.read_text)
    finally:
        process.terminate()
        try:
            process.wait(ASK_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def by_image(folder: Path, key: Path, pictures: Sequence[bytes], image: str) -> Answered:
    """Ask a model directory in a container of the serving image; see `ask_everywhere`.

    Args:
        folder: the directory, which the image's user must be able to read.
        key: the file of the public key.
        pictures: files.
        image: the image.
    """
    by = f"the image {image[:30]}"
    with _container(folder, key, image, by) as (name, port):

        def lives() -> bool:
            return _docker("inspect", "--format", "{{.State.Running}}", name).stdout.strip() == "true"

        def log() -> str:
            return _docker("logs", name).stderr

        return _asked(by, "127.0.0.1", port, pictures, lives, log)


@contextmanager
def _container(folder: Path, key: Path, image: str, by: str) -> Iterator[tuple[str, int]]:
    """A container of the image that serves the directory, which ends with the block: its name and its port."""
    started = _docker(
        *("run", "--detach", "--read-only", "--tmpfs", "/tmp:exec", "--publish", "127.0.0.1::8080"),  # noqa: S108
        *("--volume", f"{folder.resolve()}:/model:ro", "--volume", f"{key.resolve()}:/key.pub:ro"),
        *(image, "/model", "--key", "/key.pub"),
    )
    name = started.stdout.strip()
    if started.returncode:
        raise _refusal(by, "does not start", started.stderr)
    try:
        published = _docker("port", name, "8080/tcp").stdout
        try:
            port = int(published.splitlines()[0].rpartition(":")[2])
        except (IndexError, ValueError) as error:
            raise _refusal(by, "does not start", _docker("logs", name).stderr) from error
        yield name, port
    finally:
        _docker("rm", "--force", name)


def _docker(*words: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(["docker", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise CxrError(
            "CXR_SERVE_IMAGE names an image, and there is no docker on PATH to ask it with",
            fix="promote where Docker is, or unset CXR_SERVE_IMAGE",
        ) from error


def _asked(by: str, host: str, port: int, pictures: Sequence[bytes], lives: Any, log: Any) -> Answered:
    """Wait until a server is ready, and ask it."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with suppress(OSError, http.client.HTTPException):
            if _request(host, port, "GET", "/ready")[0] == http.HTTPStatus.OK:
                break
        if not lives():
            raise _refusal(by, "does not start", log())
        if time.monotonic() > deadline:
            raise _refusal(by, f"is not ready within {START_SECONDS:.0f} s", log())
        time.sleep(_POLL)
    scores: Scores = []
    took = []
    for number in range(ROUNDS * len(pictures)):
        began = time.perf_counter()
        try:
            status, data = _request(host, port, "POST", "/predict", pictures[number % len(pictures)])
        except (OSError, http.client.HTTPException) as error:
            raise _refusal(by, f"gives no answer: {error}", log()) from error
        took.append(time.perf_counter() - began)
        try:
            [said] = json.loads(data)["predictions"]
            row = [_number(said["probabilities"][finding]) for finding in FINDINGS]
        except (ValueError, KeyError, TypeError) as error:
            raise _refusal(by, f"answers with status {status}", data.decode(errors="replace")) from error
        if number < len(pictures):
            scores.append(row)
    return Answered(by=by, scores=scores, seconds=statistics.median(took))


def _request(host: str, port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(host, port, timeout=ASK_SECONDS)
    try:
        connection.request(method, path, body, {"Content-Type": "application/octet-stream"} if body else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def _number(value: object) -> float | None:
    if value is None or value != value:
        return None
    return float(value)  # type: ignore[arg-type] # a TypeError says that it is no number


def _environment() -> dict[str, str]:
    """This process's environment without what would have the model served keep receipts of questions of ours."""
    return {name: value for name, value in os.environ.items() if name != "CXR_RECEIPTS"}


def _refusal(by: str, what: str, said: str = "") -> RefusedError:
    tail = " ".join(said.split())[-_SAID:]
    return RefusedError(
        f"the model cannot be promoted: {by} {what}" + (f": {tail}" if tail else ""),
        fix="see that it is served: cxr-ops model fetch VERSION FOLDER; cxr-ops serve FOLDER",
    )
