"""Real runs of the DAGs in a process of their own, with a stand-in for the command that they start.

The DAGs, Airflow and its database are real. Only `python -m cxr_ops stage ...` answers from a script, because each way
through the graph would otherwise take a training. What the command really does is tested beside its code, and the whole
loop by `make retrain`.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
RUN_SECONDS = 240  # what a run takes at most; on a quiet machine it is 5
USERS = {"dr_lee": "lee's password", "dr_ito": "ito's password"}

# Answers with what `scenario.json` says for its verb, and keeps how it was called.
STAND_IN = """
import json, os, pathlib, signal, sys, time

project, verb, attempt = pathlib.Path(os.environ["CXR_PROJECT"]), sys.argv[2], pathlib.Path(sys.argv.pop())
assert sys.argv.pop() == "--attempt"
told = json.loads((project / "scenario.json").read_text()).get(verb, {})
earlier = [json.loads(line)["verb"] for line in (project / "calls.jsonl").read_text().splitlines()]
secrets = [name for name in os.environ if name.startswith(("AIRFLOW__", "AIRFLOW_CONN_"))]
with (project / "calls.jsonl").open("a") as file:
    call = {"verb": verb, "arguments": sys.argv[3:], "pid": os.getpid(), "secrets": secrets}
    file.write(json.dumps(call | {"home": os.environ["CXR_HOME"]}) + "\\n")

def leave(code, result=None, **error):
    ended = {"format": 1, "verb": verb, "exit_code": code, "result": result, "error": error or None}
    (attempt / "result.json").write_text(json.dumps(ended))
    sys.exit(code)

def stop(*_):
    time.sleep(told.get("checkpoint", 0))
    print("checkpoint saved", file=sys.stderr, flush=True)
    (project / f"{verb}.stopped").touch()
    leave(143, kind="StoppedError", what="stopped by SIGTERM", where=None, fix=None)

signal.signal(signal.SIGTERM, stop)
if told.get("killed"):
    os.kill(os.getpid(), signal.SIGKILL)
print("a line that is no result")
time.sleep(told.get("seconds", 0))
while told.get("held") and not (project / "go").exists():
    time.sleep(0.1)
for part in told.get("said", []):
    os.write(2, bytes(part))
    time.sleep(0.5)
code = dict(enumerate(told.get("exit_codes", []))).get(earlier.count(verb), 0)
if code:
    print(f"error: {verb} was told to fail, says its log", file=sys.stderr)
    leave(code, kind="CxrError", what=f"{verb} was told to fail", where="scenario.json", fix=None)
result = {"open": {"no_change": False}, "train": {"no_change": False}}.get(verb, {})
if verb == "publish":
    result = {"verdict": "PROMOTE", "approvals": 0, "model_version": "1", "mlflow_run_id": "ab12", "report": "r.html"}
    result |= {"run": sys.argv[4], "withheld": False, "holds": {}, "limited_findings": []}
    result |= {"next": "approve" if told.get("result", {}).get("approvals") else "promote"}
result |= told.get("result") or {}
if verb == "open" and result["no_change"]:
    run = sys.argv[4]
    folder = pathlib.Path(os.environ["CXR_HOME"], "runs", run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "result.json").write_text(json.dumps({"run": run, "verdict": "NO_CHANGE"}))
print(json.dumps(result), "and a line after it", sep="\\n")
print("a warning after the result", file=sys.stderr)
leave(0, result)
"""


def make_project(folder: Path) -> Path:
    """Make a project with the DAGs as they are, in which the command is the stand-in."""
    for name in ("cxr_ops", "dags", "plugins"):
        shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params.yaml", "dvc.yaml", "pccp.demo.yaml"):
        shutil.copy(PROJECT / name, folder / name)
    (folder / "cxr_ops" / "__main__.py").write_text(STAND_IN, encoding="utf-8")
    script(folder, {})
    return folder


def script(project: Path, scenario: dict[str, Any]) -> None:
    """Tell the stand-in what to answer, by verb: `exit_codes` by attempt, `result`, `seconds`, `killed`, `said`.

    What is `held` ends when the project has a file `go`.
    """
    (project / "scenario.json").write_text(json.dumps(scenario), encoding="utf-8")
    (project / "calls.jsonl").write_text("", encoding="utf-8")


def calls(project: Path) -> list[dict[str, Any]]:
    """How the stand-in was called since its script was written."""
    return [json.loads(line) for line in (project / "calls.jsonl").read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its id and state, the states and results of its tasks, its events, and the stand-in's calls.

    `question` is what a person who was to approve could read.
    """

    run_id: str
    state: str
    states: dict[str, str]
    results: dict[str, Any]
    asset_events: list[dict[str, Any]]
    question: str | None
    calls: list[dict[str, Any]]

    def called(self, verb: str) -> list[list[str]]:
        """The arguments of each call of a verb."""
        return [call["arguments"] for call in self.calls if call["verb"] == verb]

    @property
    def skipped(self) -> set[str]:
        return {task for task, state in self.states.items() if state == "skipped"}


class Apart:
    """A process of its own that may import Airflow, which leaves settings and handlers in whatever imports it."""

    def __init__(self, environment: dict[str, str], *, database: bool = False) -> None:
        self._environment, self._database = environment, database
        self._pool = self._new_pool()

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function, named as `package.module.function`.

        Returns:
            What it returns, or the name of the class and the message of what it raises.
        """
        return self._pool.submit(_call, function, arguments).result(timeout=120)

    def close(self) -> None:
        self._pool.shutdown()

    def _new_pool(self) -> ProcessPoolExecutor:
        told = (self._environment, self._database)
        return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_set_up, initargs=told)


class Runs(Apart):
    """Runs DAGs, one after the other, in a process that is set up for one project."""

    def __init__(self, root: Path, **environ: str) -> None:
        self.project = make_project(root / "project")
        self.home = root / "home"
        self.home.mkdir()
        environment = {
            "CXR_PROJECT": str(self.project),
            "CXR_HOME": str(self.home),
            "AIRFLOW_HOME": str(root / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.project / "dags"),
            "AIRFLOW__CORE__PLUGINS_FOLDER": str(self.project / "plugins"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{user}:op" for user in USERS),
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(root / "passwords.json"),
            "AIRFLOW__API_AUTH__JWT_SECRET": "a secret of the tests, which is longer than sixty-four bytes " * 2,
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **environ,
        }
        (root / "passwords.json").write_text(json.dumps(USERS), encoding="utf-8")
        super().__init__(environment, database=True)

    def run(
        self,
        dag_id: str = "cxr_retrain",
        conf: dict[str, Any] | None = None,
        *,
        run_type: str = "manual",
        all_admins: bool = False,
        answer: tuple[str, str] | list[tuple[str, str, str]] | None = None,
        environ: dict[str, str] | None = None,
        also: dict[str, Any] | None = None,
        **scenario: Any,
    ) -> Outcome:
        """Run a DAG to its end; `environ` is set.

        `answer` is who answers the question for an approval, and how; or, for questions one after the other, who
        answers each, how and with which reason. `also` is of the scenario: verbs that are no names of arguments.
        """
        script(self.project, scenario | (also or {}))
        try:
            asked = (dag_id, conf or {}, run_type, all_admins, answer)
            told = self._pool.submit(_run_with, environ or {}, *asked).result(timeout=RUN_SECONDS)
        except TimeoutError:
            self._start_again()  # a run that waits for ever must not take the tests after it along
            raise
        return Outcome(**told, calls=calls(self.project))

    def describe(self, **environ: str) -> tuple[dict[str, Any], list[str]]:
        """What the DAGs declare, by id, when their files are read in an environment; and why files cannot be read."""
        return self._pool.submit(_describe, environ).result(timeout=120)

    def _start_again(self) -> None:
        for process in multiprocessing.active_children():
            if process.pid in self._pool._processes:
                os.kill(process.pid, signal.SIGUSR1)  # it says where each of its threads is
                time.sleep(1)
                process.kill()
        self._pool.shutdown(wait=True)
        self._pool = self._new_pool()


def _set_up(environment: dict[str, str], database: bool) -> None:
    faulthandler.register(signal.SIGUSR1)
    os.environ.update(environment)
    if "CXR_PROJECT" in environment:
        sys.path.insert(0, environment["CXR_PROJECT"])
    if database:
        from airflow.utils import db

        db.initdb()


def _dags() -> dict[str, Any]:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag()
    assert not bag.import_errors, bag.import_errors
    return dict(bag.dags)


def _call(function: str, arguments: tuple[Any, ...]) -> Any:
    module, _, name = function.rpartition(".")
    try:
        return getattr(import_module(module), name)(*arguments)
    except Exception as error:  # noqa: BLE001 - the caller has no Airflow to make it of
        return type(error).__name__, str(error)


def _describe(environ: dict[str, str]) -> tuple[dict[str, Any], list[str]]:
    from unittest.mock import patch

    from airflow.dag_processing.dagbag import DagBag
    from airflow.serialization.serialized_objects import DagSerialization

    told = {}
    with patch.dict(os.environ, environ):
        bag = DagBag()
        for dag_id, dag in bag.dags.items():
            sent = DagSerialization.to_dict(dag)
            read = DagSerialization.from_dict(sent)
            told[dag_id] = {**_facts(dag), "as_shown": str(sent), "first_run": _first_run(read.timetable)}
    return told, list(bag.import_errors.values())


def _first_run(timetable: Any) -> datetime | None:
    """When a DAG runs first that is first seen at 04:00 on a Monday."""
    from unittest.mock import patch

    from airflow.timetables import trigger
    from airflow.timetables.base import TimeRestriction

    with patch.object(trigger, "utcnow", lambda: datetime(2026, 11, 30, 4, tzinfo=UTC)):
        info = timetable.next_dagrun_info(
            last_automated_data_interval=None, restriction=TimeRestriction(earliest=None, latest=None, catchup=False)
        )
    return info and datetime.fromisoformat(info.run_after.isoformat())


def _facts(dag: Any) -> dict[str, Any]:
    timetable, condition = dag.timetable, getattr(dag.timetable, "asset_condition", None)
    return {
        "doc": dag.doc_md,
        "tags": sorted(dag.tags),
        "catchup": dag.catchup,
        "max_active_runs": dag.max_active_runs,
        "params": {name: dict(dag.params.get_param(name).schema) for name in dag.params},
        "cron": timetable.timetable.expression if hasattr(timetable, "timetable") else None,
        "waits_for": [asset.uri for asset in _assets(condition)],
        "watches": [one.trigger.where for asset in _assets(condition) for one in asset.watchers],
        "tasks": {task.task_id: _task_facts(task) for task in dag.tasks},
    }


def _assets(condition: Any) -> list[Any]:
    """The assets of a schedule."""
    return list(condition.objects) if condition else []


def _task_facts(task: Any) -> dict[str, Any]:
    limits = (getattr(task, name, None) for name in ("execution_timeout", "response_timeout"))
    return {
        "owner": task.owner,
        "retries": task.retries,
        "pool": task.pool,
        "group": task.task_group.group_id if task.task_group else None,
        "updates": [asset.uri for asset in task.outlets],
        "limits": [limit.total_seconds() for limit in limits if limit],
        "default_answer": getattr(task, "defaults", None),
        "user": getattr(task, "user", None),
        "mounts": [(mount["Source"], mount["Target"], mount["ReadOnly"]) for mount in getattr(task, "mounts", [])],
        "temporary_mount": getattr(task, "mount_tmp_dir", False),
        "gpus": [dict(request) for request in getattr(task, "device_requests", None) or []],
        "environment": getattr(task, "environment", {}),
        "private": getattr(task, "_private_environment", {}),
    }


def _run_with(environ: dict[str, str], *asked: Any) -> dict[str, Any]:
    from unittest.mock import patch

    with patch.dict(os.environ, environ):
        return _run(*asked)


def _run(dag_id: str, conf: dict[str, Any], run_type: str, all_admins: bool, answer: Any) -> dict[str, Any]:
    from datetime import timedelta

    from airflow.models.asset import AssetEvent
    from airflow.models.dagrun import DagRun
    from airflow.models.hitl import HITLDetail
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import event

    os.environ["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] = str(all_admins)
    dag = _dags()[dag_id]
    for task in dag.tasks:
        task.retry_delay = timedelta(0)
    over = threading.Event()
    if answer:
        given = answer if isinstance(answer, list) else [(*answer, None)]
        # Here, because a thread must not import Airflow while the run does.
        answers = [(_logged_in(user), option, reason) for user, option, reason in given]
        threading.Thread(target=_answer, args=(answers, dag_id, over), daemon=True).start()

    def set_type(_mapper: Any, _connection: Any, run: Any) -> None:
        run.run_type = run_type

    event.listen(DagRun, "before_insert", set_type)  # `dag.test` makes manual runs only
    try:
        run = dag.test(logical_date=None, run_conf=conf)
    finally:
        event.remove(DagRun, "before_insert", set_type)
        over.set()
    with create_session() as session:
        run = session.get(DagRun, run.id)
        results = session.query(XComModel).filter_by(run_id=run.run_id, key="return_value")
        tasks = run.get_task_instances(session=session)
        asked = session.query(HITLDetail).filter(HITLDetail.ti_id.in_([task.id for task in tasks])).first()
        return {
            "run_id": run.run_id,
            "state": str(run.state),
            "states": {task.task_id: str(task.state) for task in tasks},
            "question": asked.body if asked else None,
            "asset_events": [
                {"uri": event.uri, "extra": event.extra}
                for event in session.query(AssetEvent).filter_by(source_run_id=run.run_id)
            ],
            "results": {row.task_id: XComModel.deserialize_value(row) for row in results},
        }


def _logged_in(user: str) -> Any:
    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    app = create_app(apps="core")
    client = TestClient(app, base_url="http://localhost", raise_server_exceptions=False)
    login = client.post("/auth/token", json={"username": user, "password": USERS[user]}).raise_for_status()
    client.headers["Authorization"] = f"Bearer {login.json()['access_token']}"
    return client


def visit(asked: list[tuple[str | None, str]], environ: dict[str, str]) -> list[tuple[int, dict[str, str], str]]:
    """What Airflow's web server answers to users, None being nobody: status, headers and text of each."""
    from unittest.mock import patch

    from airflow.api_fastapi.app import create_app
    from fastapi.testclient import TestClient

    answers = []
    with patch.dict(os.environ, environ):
        client = TestClient(create_app(apps="core"), base_url="http://localhost", raise_server_exceptions=False)
        for user, path in asked:
            client.cookies.clear()
            if user is not None:
                told = client.post("/auth/token", json={"username": user, "password": USERS.get(user, "")})
                token = told.json()["access_token"] if told.is_success else f"{user}'s invention"
                client.cookies.set("_token", token)  # as a browser has it
            said = client.get(path)
            answers.append((said.status_code, dict(said.headers), said.text))
    return answers


def _answer(answers: list[tuple[Any, str, str | None]], dag_id: str, over: threading.Event) -> None:
    """Answer what is asked until the run is over, as people do one after the other; again where the server was busy."""
    from httpx import HTTPStatusError

    given = 0
    while not over.wait(0.5):
        client, option, reason = answers[min(given, len(answers) - 1)]
        try:
            waiting = client.get(f"/api/v2/dags/{dag_id}/dagRuns/~/hitlDetails?response_received=false")
            for detail in waiting.raise_for_status().json()["hitl_details"]:
                task = detail["task_instance"]
                if task["state"] != "awaiting_input":  # an answer before the task waits is lost, and it waits for ever
                    continue
                place = f"/api/v2/dags/{dag_id}/dagRuns/{task['dag_run_id']}/taskInstances/{task['task_id']}/-1"
                params = {} if reason is None else {"reason": reason}
                chosen = {"chosen_options": [option], "params_input": params}
                client.patch(f"{place}/hitlDetails", json=chosen).raise_for_status()
                given += 1
        except HTTPStatusError as error:  # SQLite has one writer, which is the run for most of the time
            print(f"not answered yet: {error}: {error.response.text}", file=sys.stderr, flush=True)


def conf_of(run_id: str) -> dict[str, Any] | None:
    """With what a run was triggered that waits to be run; None where there is no such run."""
    from airflow.models.dagrun import DagRun
    from airflow.utils.session import create_session

    with create_session() as session:
        run = session.query(DagRun).filter_by(run_id=run_id).first()
        return dict(run.conf) if run else None


def check_params(dag_id: str, conf: dict[str, Any]) -> None:
    """Check a run's params as Airflow does when it is triggered."""
    params = _dags()[dag_id].params
    params.update(conf)
    params.validate()


def execute_process(
    environ: dict[str, str], run_id: str, try_number: int, operator: Any = None, day: int = 1
) -> dict[str, Any]:
    """Run `train` by the process launcher as a worker does, without a database: its result, and what it logged."""
    from unittest.mock import patch

    from structlog.testing import capture_logs

    operator = operator or process_operator()
    with patch.dict(os.environ, environ), capture_logs() as lines:
        result = operator.execute(context_of(run_id, try_number, "train", day))
    return {"result": result, "log": [str(line["event"]) for line in lines]}


def context_of(run_id: str, try_number: int, verb: str, day: int = 1) -> Any:
    """What a task is told of a run that was started on a day of March."""
    from datetime import UTC, datetime
    from types import SimpleNamespace

    ti = SimpleNamespace(try_number=try_number, max_tries=2, dag_id="cxr_retrain", task_id=verb)
    run = SimpleNamespace(start_date=datetime(2026, 3, day, tzinfo=UTC))
    return {"run_id": run_id, "ti": ti, "dag_run": run, "outlet_events": {}}


def process_operator() -> Any:
    from cxr_ops.launchers.process import ProcessStage

    return ProcessStage(task_id="train", verb="train", arguments=["--run", "r-1"])


def stop_process(environ: dict[str, str], run_id: str, try_number: int) -> dict[str, Any]:
    """Run `train` by the process launcher, and stop it as Airflow does when its stage has started."""
    operator, project = process_operator(), Path(environ["CXR_PROJECT"])

    def stop() -> None:
        while not calls(project):
            time.sleep(0.05)
        time.sleep(0.3)  # until the stage has set its handler
        operator.on_kill()

    threading.Thread(target=stop, daemon=True).start()
    return execute_process(environ, run_id, try_number, operator)


def send_notice(environ: dict[str, str], name: str) -> None:
    """Send a notice by a connection that the environment names; nothing is paused for."""
    from unittest.mock import patch

    from cxr_ops.launchers import notices

    notice = notices.Notice(event="verdict", text="cxr-ops: REJECT (run r-1)", run="manual__1", url="http://a/dags/d")
    with patch.dict(os.environ, environ), patch.object(notices, "PAUSES", (0.0, 0.0)):
        notices.send(name, notice)


def result_with_note(verb: str, exit_code: int, folder: Path, said: str, note: str) -> dict[str, Any]:
    from cxr_ops.launchers.protocol import result_of

    return result_of(verb, exit_code, folder, said, note=note)


def execute_docker(environ: dict[str, str], run_id: str, verb: str, arguments: list[str]) -> dict[str, Any]:
    """Run a stage by the docker launcher as a worker does, without a database."""
    from unittest.mock import patch

    from cxr_ops.launchers.docker import docker_stage

    with patch.dict(os.environ, environ):
        operator = docker_stage(verb, task_id=verb, arguments=arguments, gpu=False, reads=())
        return operator.execute(context_of(run_id, 1, verb))
