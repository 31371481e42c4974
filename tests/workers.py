"""Workers of Airflow that die: a task is executed in a process of its own, which ends itself at a point that is named.

The launchers, the engine and what they start are real. Only the stage is a stand-in, which says what it does in
`CXR_HOME`, and trains until the file `go` is there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from airflow_runs import Apart

from cxr_ops import contract

RUN_ID = "manual__2026-03-01T04:05:06+00:00"

STAGE = """
import json, os, pathlib, signal, sys, time

home, attempt = pathlib.Path(os.environ["CXR_HOME"]), pathlib.Path(sys.argv.pop())
assert sys.argv.pop() == "--attempt"
verb = sys.argv[2]

def note(word):
    with (home / "events").open("a") as file:
        file.write(word + "\\n")

def leave(code, result=None, error=None):
    note("end")
    ended = {"format": 1, "verb": verb, "exit_code": code, "result": result}
    ended["error"] = error and {"kind": "CxrError", "what": error, "where": None, "fix": None}
    (attempt / "aside").write_text(json.dumps(ended))
    (attempt / "aside").rename(attempt / "result.json")
    print("the last words", file=sys.stderr, flush=True)
    sys.exit(code)

def stop(*_):
    if not (home / "deaf").exists():
        note("checkpoint")
        leave(143, error="stopped by SIGTERM")

def status(name):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(line.split(":")[1].strip() for line in lines if line.startswith(name + ":"))

def writes(path):
    try:
        pathlib.Path(path, "probe").write_text("x")
    except OSError:
        return False
    return True

signal.signal(signal.SIGTERM, stop)
note("start")
print("training", file=sys.stderr, flush=True)
while not (home / "go").exists():
    time.sleep(0.02)
code = int((home / "code").read_text()) if (home / "code").exists() else 0
if code:
    leave(code, error="told to fail")
print("a line that is no result", flush=True)
leave(0, {
    "arguments": sys.argv[3:], "uid": os.getuid(), "capabilities": status("CapBnd"), "gains": status("NoNewPrivs"),
    "root": writes("/"), "tmp": writes("/tmp"), "home": writes(os.path.expanduser("~")),
    "project": writes(os.environ["CXR_PROJECT"]),
    "secrets": sorted(name for name in os.environ if name.startswith("AWS_")),
})
"""


class Site:
    """An installation, its workers, and what its stages have said."""

    def __init__(self, launcher: str, apart: Apart, home: Path, **environ: str) -> None:
        self.launcher, self.apart, self.home = launcher, apart, home
        self.environ = {"CXR_HOME": str(home), **environ}
        self.workers = 0

    def start(self, **told: Any) -> tuple[int, Path]:
        """Start a worker; see `start` below."""
        self.workers += 1
        said = self.home.parent / f"said-{self.workers}"
        pid = self.apart.call("workers.start", self.launcher, self.environ, str(said), told)
        assert isinstance(pid, int), pid
        return pid, said

    def wait(self, worker: tuple[int, Path]) -> dict[str, Any]:
        """Wait for a worker, and return its outcome."""
        assert self.apart.call("workers.wait", worker[0]) == 0
        return dict(json.loads(worker[1].read_text()))

    def work(self, **told: Any) -> dict[str, Any]:
        return self.wait(self.start(**told))

    def die(self, **told: Any) -> None:
        """Let a worker work until it ends itself."""
        assert self.apart.call("workers.wait", self.start(**told)[0]) == -signal.SIGKILL

    def go(self) -> None:
        """Let stages end."""
        (self.home / "go").touch()

    def attempt(self, number: int) -> Path:
        return self.home / "airflow" / "stages" / contract.slug(RUN_ID) / "train" / str(number)

    @property
    def events(self) -> list[str]:
        path = self.home / "events"
        return path.read_text().split() if path.exists() else []


def until(true: Callable[[], bool]) -> None:
    """Wait for what a stage or a worker does; the test's limit of time bounds it."""
    while not true():
        time.sleep(0.05)


def prepare() -> None:
    """Import what workers need, once for all."""
    from airflow.sdk.execution_time import task_runner  # noqa: F401
    from structlog import testing  # noqa: F401

    from cxr_ops.launchers import docker, process  # noqa: F401


def start(launcher: str, environ: dict[str, str], said: str, told: dict[str, Any]) -> int:
    """Start a worker that executes `train`; return its process id.

    Args:
        launcher: `docker` or `process`.
        environ: set for it.
        said: the file that its outcome goes to: `result` and `log`, or `kind` and `message`.
        told: `number` (of the try), `arguments`, `wish` (another for a task that was cleared), `kill` (where it ends
            itself, as `kill -9` does).
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.environ.update(environ)
        _execute(launcher, Path(said), **told)
        code = 0
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(pid: int) -> int:
    """Wait for a worker's end; return its exit code, or the negative number of the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def operator_of(launcher: str, arguments: list[str]) -> Any:
    if launcher == "docker":
        from cxr_ops.launchers.docker import docker_stage

        return docker_stage("train", task_id="train", arguments=arguments, gpu=False, reads=())  # type: ignore[arg-type]
    from cxr_ops.launchers.process import ProcessStage

    return ProcessStage(task_id="train", verb="train", arguments=arguments)


def _execute(
    launcher: str,
    said: Path,
    *,
    number: int = 1,
    arguments: tuple[str, ...] = ("--run", "r-1"),
    wish: int = 2,
    kill: str = "",
) -> None:
    from datetime import timedelta

    from airflow.sdk.execution_time.task_runner import _run_execute_callable
    from structlog.testing import capture_logs

    operator = operator_of(launcher, list(arguments))
    operator.execution_timeout = timedelta(hours=1)  # a test sends its signal
    _die_at(launcher, kill)
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())  # as Airflow's task runner does
    ti = SimpleNamespace(try_number=number, max_tries=wish, dag_id="cxr_retrain", task_id="train")
    run = SimpleNamespace(start_date=datetime(2026, 3, 1, tzinfo=UTC))
    context = {"run_id": RUN_ID, "ti": ti, "dag_run": run, "outlet_events": {}}
    outcome: dict[str, Any] = {}
    with capture_logs() as lines:
        try:
            outcome["result"] = _run_execute_callable(context, operator.execute, operator)  # type: ignore[arg-type]
        except BaseException as error:  # noqa: BLE001 - a time-out is one, and the test asks which it was
            outcome |= {"kind": type(error).__name__, "message": str(error)}
    if kill:
        raise AssertionError(f"the worker lived past the point {kill!r}: {outcome}")
    said.write_text(json.dumps(outcome | {"log": [str(line["event"]) for line in lines]}), encoding="utf-8")


def _die_at(launcher: str, point: str) -> None:
    """Let this process end itself before or after a call, or when one returns what the point is about."""
    if not point:
        return
    owner, name, before, when = (_docker_points if launcher == "docker" else _process_points)()[point]
    call = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if before:
            _die()
        returned = call(*args, **kwargs)
        returned = list(returned) if name == "logs" else returned
        if when(returned):
            _die()
        return returned

    setattr(owner, name, wrapped)


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def always(_: Any) -> bool:
    return True


Point = tuple[Any, str, bool, Callable[[Any], bool]]


def _docker_points() -> dict[str, Point]:
    from cxr_ops import attempt
    from cxr_ops.launchers import protocol
    from docker import APIClient

    return {
        "before create": (APIClient, "create_container", True, always),
        "after create": (APIClient, "create_container", False, always),
        "before start": (APIClient, "start", True, always),
        "after start": (APIClient, "start", False, always),
        "while it trains": (APIClient, "logs", False, lambda parts: any(b"training" in part for part in parts)),
        "after exit": (APIClient, "inspect_container", False, lambda box: box["State"]["Status"] == "exited"),
        "before the end is kept": (attempt, "end", True, always),
        "after the end is kept": (attempt, "end", False, always),
        "after removal": (APIClient, "remove_container", False, always),
        "after the result was read": (protocol, "result_of", False, always),
    }


def _process_points() -> dict[str, Point]:
    import subprocess

    from cxr_ops import attempt
    from cxr_ops.launchers import process, protocol

    return {
        "before start": (subprocess, "Popen", True, always),
        "after start": (subprocess, "Popen", False, always),
        "while it trains": (process, "told_since", False, lambda said: b"training" in said),
        "after exit": (attempt, "exit_code", False, lambda code: code is not None),
        "after the result was read": (protocol, "result_of", False, always),
    }


def left(launcher: str, home: str) -> list[list[str]]:
    """The tasks of which an installation has something that runs or stands."""
    return [list(one.airflow) for one in _left(launcher, Path(home))]


def end_all(launcher: str, home: str) -> None:
    """End all that an installation has."""
    for one in _left(launcher, Path(home)):
        one.end()


def _left(launcher: str, home: Path) -> list[Any]:
    from cxr_ops.launchers import docker, process

    return docker.containers(home) if launcher == "docker" else process.processes(home)


def swept(state: str | None) -> list[list[str]]:
    """What a sweep says it has ended, and what it did end, where the one task has a state."""
    from cxr_ops.launchers.protocol import Left
    from cxr_ops.launchers.sweep import sweep

    done: list[str] = []
    left = Left(name="x", airflow=("cxr_retrain", RUN_ID, "train"), end=lambda: done.append("x"))
    return [sweep([left], lambda *_: state), done]


def rollback_arguments(person: str | None) -> list[str]:
    """What a rollback is given that a person has started."""
    from cxr_ops.launchers.arguments import rollback_arguments

    run = SimpleNamespace(triggering_user_name=person)
    return rollback_arguments({"params": {"to": "3", "reason": "worse in use"}, "dag_run": run})  # type: ignore[typeddict-item]


def answer_arguments(user: dict[str, str] | None) -> list[str]:
    """What an answer is given that a user gave, or nobody in time."""
    from cxr_ops.launchers.arguments import answer_arguments

    told = {
        "request": {"run": "r-1", "decision": "0f"},
        "ask": {"chosen_options": ["Reject"], "params_input": {}, "responded_at": "2026-03-01T09:00:00+00:00"},
    }
    told["ask"]["responded_by_user"] = user  # type: ignore[assignment]
    ti = SimpleNamespace(xcom_pull=lambda task_ids: told[task_ids])
    return answer_arguments({"ti": ti})  # type: ignore[typeddict-item]
