"""What the logs of Airflow's parts tell of errors, and when a person is told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from projects import make_home, make_project

from cxr_ops import attempt, retrain, voice
from cxr_ops.edges.airflow.troubles import Troubles, in_log
from cxr_ops.records.task import TaskState

# As Airflow 3.3 writes it.
HEALTHY = """\
2026-11-28T21:58:13.258200Z [warning  ] Using `httpx` is deprecated. [py.warnings] category=Some lineno=1
  ____________       _____________
2026-11-28T21:58:22.059389Z [info     ] Started server process [4231]  [uvicorn.error] loc=server.py:103
2026-11-28T21:58:33.872951Z [warning  ] JWT reissue failed [airflow.api] error="Audience doesn't match" loc=app.py:166
Traceback (most recent call last):
  File "x.py", line 1, in f
jwt.exceptions.InvalidAudienceError: Audience doesn't match
2026-11-28 21:58:36.775773+00:00 [info     ] a line of a task     [airflow.task] dag_id=cxr_retrain loc=process.py:74
"""
REFUSED = """\
2026-11-28T22:00:22.076579Z [error    ] Workload execution failed.     [airflow.executors.local_executor] loc=l.py:110
Traceback (most recent call last):
    raise to_exc(exc) from exc
httpcore.ConnectError: [Errno 111] Connection refused

The above exception was the direct cause of the following exception:

Traceback (most recent call last):
httpx.ConnectError: [Errno 111] Connection refused
2026-11-28T22:00:22.308867Z [error    ] Executor reported <Task: x [queued] ti_id=01> done [airflow.jobs] loc=1
2026-11-28T22:00:23.000000Z [info     ] TaskInstance Finished: x [airflow.jobs] loc=scheduler.py:1
"""


def test_errors_are_told_and_warnings_are_not() -> None:
    """An error is told with the last exception below it; warnings with their tracebacks and other lines are not."""
    assert list(in_log(HEALTHY.splitlines())) == []
    assert list(in_log(REFUSED.splitlines())) == [
        "Workload execution failed: httpx.ConnectError: [Errno 111] Connection refused",
        "Executor reported <Task: x [queued] ti_id=01> done",
    ]


def test_each_trouble_is_told_once_and_old_ones_never(tmp_path: Path) -> None:
    """What a log held before is passed over, a line in the writing waits for its end, and what repeats is told once."""
    logs = {"scheduler": tmp_path / "scheduler.log", "api-server": tmp_path / "api-server.log"}
    logs["scheduler"].write_text("2026-01-01T00:00:00Z [error    ] long ago [airflow.x] loc=1\n")
    troubles = Troubles(logs)
    assert troubles.new() == []
    with logs["scheduler"].open("a") as file:
        file.write("2026-01-01T00:00:01Z [error    ] now [airflow.x] loc=1\n2026-01-01T00:00:02Z [err")
    assert troubles.new() == ["scheduler: now"]
    with logs["scheduler"].open("a") as file:
        file.write("or    ] then [airflow.x] loc=1\n2026-01-01T00:00:03Z [critical ] now [airflow.x] loc=1\n")
    logs["api-server"].write_text("2026-01-01T00:00:03Z [critical ] no port [airflow.x] loc=1\n")
    assert troubles.new() == ["scheduler: then", "api-server: no port"]
    assert troubles.new() == []


class Scripted:
    """An Airflow that says of a run what a script says, one step a question."""

    def __init__(self, *steps: tuple[str, str | None]) -> None:
        self._steps = [*steps]

    def run_state(self, *_: str) -> str:
        return self._steps[0][0]

    def tasks(self, *_: str) -> list[TaskState]:
        state = (self._steps.pop(0) if len(self._steps) > 1 else self._steps[0])[1]
        return [TaskState(task="open", state=state, attempt=1, started=None, ended=None)]


@pytest.mark.parametrize("begun", [False, True])
def test_why_a_task_died_at_once_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    """A task that ends before its stage has begun is told with Airflow's reason; a stage tells its own."""
    monkeypatch.setattr(retrain, "_POLL", 0.0)
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    run = SimpleNamespace(id="manual__1", name="manual-1-" + "0" * 8)
    monkeypatch.setattr(retrain.contract, "slug", lambda _: run.name)
    if begun:
        attempt.make_folder(home.root, run.name, "open", 1)
    said: list[str] = []
    api = Scripted(("running", "queued"), ("running", "up_for_retry"), ("failed", "failed"))
    told = iter([["scheduler: refused"], [], []])
    retrain.follow(home, api, run.id, voice.console(quiet=True), said.append, lambda: next(told))
    assert ("Airflow's scheduler: refused" in said) is not begun


def test_task_that_is_not_started_for_long_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that stays queued is told with what goes wrong in Airflow, though it has not failed."""
    monkeypatch.setattr(retrain, "_POLL", 0.0)
    monkeypatch.setattr(retrain, "_STUCK_SECONDS", -1.0)
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    said: list[str] = []
    api = Scripted(("running", "queued"), ("success", "success"))
    told = iter([["scheduler: no worker"], []])
    retrain.follow(home, api, "manual__1", voice.console(quiet=True), said.append, lambda: next(told))
    assert said[-2:] == ["Airflow's scheduler: no worker", "open: done"]
