"""Airflow: its REST API, and an embedded Airflow of this installation that is started when it is needed.

The embedded Airflow is a scheduler, a DAG processor and an API server on SQLite, in process groups of their own, with
`$CXR_HOME/airflow` as their home. It listens on 127.0.0.1 and lets everybody in who can reach that: who shares the
machine shares it. Who uses it holds a shared OS lock; the last one to let go stops it, however the others ended.

    $CXR_HOME/airflow/
      airflow.db           its database; `migrated` names the version that the database is of
      secret               signs the tokens between its parts (mode 0600)
      instance.json        address, processes and settings of the one that was started last
      logs/<part>.log      what its parts say; the logs of tasks are beside
      stages/<run>/        what the stages of a run wrote to standard output and standard error

A server of your own is announced to instead, if `CXR_AIRFLOW_URL` and `CXR_AIRFLOW_TOKEN` name it.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import psutil

from cxr_ops import contract
from cxr_ops.edges.home import Home
from cxr_ops.errors import BusyError, CxrError, SettingsError, StorageError
from cxr_ops.records.base import Record, canonical_json, sha256_bytes, write_atomic

PARTS: Final = ("api-server", "scheduler", "dag-processor")
PORT: Final = 8080
# An overloaded laptop takes a minute; a broken installation must not take for ever.
START_SECONDS: Final = 180.0
STOP_SECONDS: Final = 10.0
# More than a stage's supervisor takes for a checkpoint and the kill after it.
GRACE_SECONDS: Final = 140.0
# SQLite lets one writer in at a time, and Airflow's writers wait up to some seconds for each other.
ANSWER_SECONDS: Final = 60.0
_POLL: Final = 0.2
# What of the caller's environment decides how stages run. Another value needs another Airflow.
_SETTINGS: Final = ("CXR_", "AWS_", "MLFLOW_", "DOCKER_", "OMP_")
_NOT_SETTINGS: Final = ("CXR_PROGRESS", "CXR_AIRFLOW_")


class AirflowError(CxrError):
    """Airflow refused, failed or did not answer; `status` is the HTTP status, None without an answer."""

    def __init__(self, what: str, *, where: object = None, fix: str | None = None, status: int | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.status = status


# ------------------------------------------------------------------------------------------------- the REST API


class TaskState(Record):
    """Where a task of a run stands; times are seconds since the epoch."""

    task: str
    state: str | None
    attempt: int
    started: float | None
    ended: float | None


class Api:
    """The parts of Airflow's REST API that this project uses.

    Args:
        url: address of the API server.
        token: a token; without one, it is asked for, which an Airflow that lets everybody in grants.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._given = token
        self._token = token

    def health(self) -> dict[str, Any]:
        """What each part says of itself.

        Raises:
            AirflowError: no answer.
        """
        return self._call("GET", "/api/v2/monitor/health", signed=False)

    def prepare(self) -> None:
        """Have the server make what it answers tasks with.

        It does so at the first request, which takes it seconds of computing, while nobody else is answered. A task that
        came first would give up meanwhile and try again.

        Raises:
            AirflowError: no answer.
        """
        self._call("GET", "/execution/health", signed=False)

    def parsed_at(self, dag_id: str) -> float | None:
        """When the DAG processor last read a DAG, in seconds since the epoch; None: never."""
        try:
            return _seconds(self._call("GET", f"/api/v2/dags/{dag_id}")["last_parsed_time"])
        except AirflowError as error:
            if error.status != 404:
                raise
            return None

    def import_errors(self) -> list[str]:
        """Why DAG files could not be read, one traceback a file."""
        errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}\n{error['stack_trace']}" for error in errors]

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs start."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any], note: str | None = None) -> str:
        """Start a run by hand and return its id.

        Raises:
            SettingsError: `conf` does not fit the DAG's params.
            AirflowError: as every call.
        """
        body = {"logical_date": None, "conf": conf, "note": note}
        try:
            return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])
        except AirflowError as error:
            if error.status in (400, 422):
                raise SettingsError(f"the run's params are refused: {error.what}", where=conf) from error
            raise

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a run: queued, running, success or failed."""
        return str(self._call("GET", _run_path(dag_id, run_id))["state"])

    def unfinished_runs(self, dag_id: str) -> list[str]:
        """Ids of the runs of a DAG that are queued or running, the oldest first."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns?state=queued&state=running&order_by=id")
        return [str(run["dag_run_id"]) for run in found["dag_runs"]]

    def fail_run(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed; Airflow then asks its tasks to stop."""
        self._call("PATCH", f"{_run_path(dag_id, run_id)}?update_mask=state", {"state": "failed"})

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Where the tasks of a run stand."""
        found = self._call("GET", f"{_run_path(dag_id, run_id)}/taskInstances?limit=100")
        return [
            TaskState(
                task=task["task_id"],
                state=task["state"],
                attempt=task["try_number"],
                started=_seconds(task["start_date"]),
                ended=_seconds(task["end_date"]),
            )
            for task in found["task_instances"]
        ]

    def log_tail(self, dag_id: str, run_id: str, task: TaskState, lines: int) -> list[str]:
        """The last lines of a task's log."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task.task}/logs/{max(task.attempt, 1)}?full_content=true"
        entries = self._call("GET", path)["content"]
        texts = [_log_text(entry) for entry in entries]
        found = [line for text in texts for line in text.splitlines()]
        return [line for line in found if line.strip() and not line.startswith("::")][-lines:]

    def announce(self, uri: str, extra: dict[str, Any]) -> None:
        """Tell that an asset was updated; DAGs that wait for it start.

        Raises:
            AirflowError: no DAG knows the asset, or as every call.
        """
        found = self._call("GET", f"/api/v2/assets?uri_pattern={urllib.parse.quote(uri, safe='')}")["assets"]
        ids = [asset["id"] for asset in found if asset["uri"] == uri]
        if not ids:
            raise AirflowError("no DAG of this Airflow knows the data set", where=self.url)
        self._call("POST", "/api/v2/assets/events", {"asset_id": ids[0], "extra": extra})

    def _call(self, method: str, path: str, body: Any = None, *, signed: bool = True) -> dict[str, Any]:
        try:
            return self._send(method, path, body, self._signature() if signed else None)
        except AirflowError as error:
            if error.status != 401 or self._given or not signed:
                raise
        self._token = None  # tokens live for a day; a training can last longer
        return self._send(method, path, body, self._signature())

    def _signature(self) -> str:
        if self._token is None:
            self._token = str(self._send("GET", "/auth/token", None, None)["access_token"])
        return self._token

    def _send(self, method: str, path: str, body: Any, token: str | None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the address is ours
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as answer:  # noqa: S310
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AirflowError(_detail(error.read()) or str(error), where=self.url + path, status=error.code) from error
        except OSError as error:
            raise AirflowError(f"Airflow does not answer: {error}", where=self.url + path) from error
        return dict(json.loads(text)) if text else {}


def announce_dataset(home: Home, revision: str) -> str:
    """Tell an Airflow that the data set has grown, if one is up; best effort, because the data are safe either way.

    Returns:
        A sentence that says what came of it.
    """
    url = os.environ.get("CXR_AIRFLOW_URL")
    if url:
        api = Api(url, os.environ.get("CXR_AIRFLOW_TOKEN"))
    else:
        instance = _running_instance(home)
        if instance is None:
            return "No Airflow is up, so nothing was triggered; next: make retrain"
        api = Api(instance.url)
    try:
        api.announce(contract.DATASET_URI, {"revision": revision})
    except AirflowError as error:
        return f"The Airflow at {api.url} was not told of the new data ({error.what}); next: make retrain"
    return f"The Airflow at {api.url} was told of the new data: {contract.DAG_ID} starts."


# ------------------------------------------------------------------------------------------ the embedded Airflow


class Part(Record):
    """A process that was started: its id alone could be another's by now, so its start time belongs to it."""

    pid: int
    created: float


class Instance(Record):
    """An embedded Airflow: `instance.json`."""

    url: str
    settings: str
    started: float
    parts: dict[Literal["api-server", "scheduler", "dag-processor"], Part]


@dataclass(frozen=True, kw_only=True)
class Session:
    """The embedded Airflow while it is used.

    Attributes:
        url: its address.
        fresh: whether it was started for this session. What its database calls running then is not.
        alone: whether nobody else used it when the session began.
        ready: waits until its parts are at work and have read the DAGs, and returns its API.
        check: raises AirflowError if one of its parts has ended.
    """

    url: str
    fresh: bool
    alone: bool
    ready: Callable[[], Api]
    check: Callable[[], None]


@contextmanager
def running(home: Home, *, say: Callable[[str], None] = lambda _: None) -> Iterator[Session]:
    """Use the embedded Airflow; start it unless it runs, and stop it afterwards unless somebody else uses it.

    It starts in the background; `Session.ready` waits for it. Runs that go on when it is stopped are ended: their
    stages are asked to stop, and a training that has saved a checkpoint resumes in the next run.

    Args:
        home: the installation.
        say: told in a sentence what happens.

    Raises:
        BusyError: an Airflow with other settings is in use.
        AirflowError: a part ended or was not ready in time.
        StorageError: its folder cannot be written.
    """
    folder = home.airflow
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        home.locks.mkdir(exist_ok=True)
        users = os.open(home.locks / "airflow.users", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"Airflow's folder cannot be written: {error.strerror}", where=folder) from error
    try:
        with _lock(home.locks / "airflow.start"):
            alone = _try_lock(users, fcntl.LOCK_EX)
            found = _running_instance(home)
            if found is not None and found.settings != _settings(home):
                if not alone:
                    raise BusyError(
                        "an Airflow with other settings is in use on this installation",
                        where=found.url,
                        fix="stop `make ui` or `make retrain` there, or take the settings that it was started with",
                    )
                _end(found, say)
                found = None
            if found is not None:
                say(f"using the Airflow at {found.url}")
            instance = found or _start(home, say)
            fcntl.flock(users, fcntl.LOCK_SH)
        yield Session(
            url=instance.url,
            fresh=found is None,
            alone=alone,
            ready=lambda: _wait_until_ready(home, instance),
            check=lambda: _check_alive(home, instance),
        )
    finally:
        with _lock(home.locks / "airflow.start"):
            last = _last_instance(home)
            if last is not None and _try_lock(users, fcntl.LOCK_EX):
                _end(last, say)
        os.close(users)


def environment(home: Home, port: int) -> dict[str, str]:
    """The environment of the embedded Airflow, and of the stages that it starts.

    Airflow's settings come from here alone: what the caller's environment says of another Airflow is left out.
    """
    folder = home.airflow
    url = f"http://127.0.0.1:{port}"
    airflow = {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home.project / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",  # of 32 workers, 28 would only cost memory
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(folder),
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",  # seconds; each reading costs time of the cores
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    ours = {
        "CXR_HOME": str(home.root),
        "CXR_PROJECT": str(home.project),
        "CXR_MAX_ACTIVE_RUNS": "1",  # two trainings would fight for the cores of one machine
        # The project's own modules, and the tools beside this interpreter, whatever the caller's shell finds first.
        "PYTHONPATH": _joined(str(home.project), os.environ.get("PYTHONPATH")),
        "PATH": _joined(str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "False",
    }
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "CXR_PROGRESS"))}
    return theirs | airflow | ours


def log_folder(home: Home) -> Path:
    """Where the embedded Airflow's parts and tasks write their logs."""
    return home.airflow / "logs"


def _start(home: Home, say: Callable[[str], None]) -> Instance:
    if (rest := _last_instance(home)) is not None:
        _end(rest, say)  # one that lost a part
    with _claimed_port() as (port, claim):
        env = environment(home, port)
        _migrate(home, env, say)
        say("starting Airflow")
        now = time.time()
        parts: dict[Any, Part] = {}
        for part in PARTS:
            with _part_log(home, part).open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "airflow", part, *(["--skip-serve-logs"] if part == "scheduler" else [])],
                    cwd=home.airflow,
                    env=env,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    pass_fds=claim if part == "api-server" else (),
                )
            parts[part] = Part(pid=process.pid, created=psutil.Process(process.pid).create_time())
    instance = Instance(url=f"http://127.0.0.1:{port}", settings=_settings(home), started=now, parts=parts)
    instance.write(_instance_file(home))
    return instance


def _migrate(home: Home, env: dict[str, str], say: Callable[[str], None]) -> None:
    """Make the database, or bring it to this version of Airflow."""
    marker = home.airflow / "migrated"
    wanted = version("apache-airflow-core")
    if marker.is_file():
        if marker.read_text(encoding="utf-8") == wanted:
            return
    else:  # the first migration did not come to its end: its database holds nothing yet
        (home.airflow / "airflow.db").unlink(missing_ok=True)
    say("making Airflow's database")
    log = _part_log(home, "migrate")
    with log.open("wb") as file:
        code = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            cwd=home.airflow,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        ).returncode
    if code:
        raise AirflowError(f"Airflow's database cannot be made\n{_tail(log)}", where=log)
    write_atomic(marker, wanted.encode())


def _wait_until_ready(home: Home, instance: Instance) -> Api:
    """Wait until all parts are at work and have read the DAGs as they are now."""
    api = Api(instance.url)
    deadline = time.monotonic() + START_SECONDS
    while True:
        _check_alive(home, instance)
        if _ready(api, instance):
            return api
        if time.monotonic() > deadline:
            raise AirflowError(
                f"Airflow was not ready within {START_SECONDS:.0f} s", where=log_folder(home), fix="look into its logs"
            )
        time.sleep(_POLL)


def _check_alive(home: Home, instance: Instance) -> None:
    for part, process in instance.parts.items():
        if _alive(process) is None:
            log = _part_log(home, part)
            raise AirflowError(f"Airflow's {part} has ended\n{_tail(log)}", where=log)


def _ready(api: Api, instance: Instance) -> bool:
    # Whoever answers at the address may be somebody else's Airflow, which would take our runs.
    server = _alive(instance.parts["api-server"])
    if server is None or not listens(server, int(instance.url.rpartition(":")[2])):
        return False
    try:
        health = api.health()
        api.prepare()
    except AirflowError:
        return False
    # A heartbeat of an Airflow that was stopped half a minute ago still counts as healthy.
    for part in ("scheduler", "dag_processor"):
        beat = _seconds(health[part][f"latest_{part}_heartbeat"])
        if health[part]["status"] != "healthy" or beat is None or beat < instance.started:
            return False
    try:
        parsed = api.parsed_at(contract.DAG_ID)
        if parsed is not None and parsed >= instance.started:
            return True
        errors = api.import_errors()
    except AirflowError as error:
        if error.status is not None and error.status < 500:
            raise
        return False
    if errors:
        raise AirflowError(f"a DAG file cannot be read\n{errors[0]}", where=errors[0].split("\n", 1)[0])
    return False


def _end(instance: Instance, say: Callable[[str], None]) -> None:
    """End the runs that go on, then the parts."""
    alive = [process for part in instance.parts.values() if (process := _alive(part)) is not None]
    if not alive:
        return
    _end_runs(instance, say)
    say("stopping Airflow")
    for process in alive:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGTERM)
    _, stubborn = psutil.wait_procs(alive, timeout=STOP_SECONDS)
    # Each part leads a process group, and leaves members of it behind when it has to be killed.
    for process in alive:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    psutil.wait_procs(stubborn, timeout=STOP_SECONDS)


def _end_runs(instance: Instance, say: Callable[[str], None]) -> None:
    """Mark what is unfinished as failed, so that nothing is tried again, and wait until the stages have stopped."""
    api = Api(instance.url)
    with suppress(AirflowError):  # one that does not answer starts no more tasks; those that it has are ended below
        for run_id in api.unfinished_runs(contract.DAG_ID):
            say(f"ending the run {run_id}; next: make retrain, which goes on from its checkpoint")
            api.fail_run(contract.DAG_ID, run_id)
    scheduler = _alive(instance.parts["scheduler"])
    if scheduler is None:
        return
    tasks = _tasks_under(scheduler)
    for process in tasks:
        with suppress(psutil.Error):
            if _is_stage(process):
                process.send_signal(signal.SIGTERM)
                say(f"waiting for {' '.join(process.cmdline()[3:5])} to stop")
    _, stubborn = psutil.wait_procs(tasks, timeout=GRACE_SECONDS)
    for process in stubborn:
        with suppress(psutil.Error):
            process.kill()


def _tasks_under(scheduler: psutil.Process) -> list[psutil.Process]:
    """The processes of the tasks that a scheduler runs: below its executor's workers, which are its children."""
    with suppress(psutil.NoSuchProcess):
        workers = set(scheduler.children())
        return [process for process in scheduler.children(recursive=True) if process not in workers]
    return []


def _is_stage(process: psutil.Process) -> bool:
    """Whether a process is the supervisor of a stage, and not the stage itself or DVC under it."""
    return process.cmdline()[1:4] == ["-m", "cxr_ops", "stage"]


def _running_instance(home: Home) -> Instance | None:
    """The embedded Airflow, if all of its parts are alive."""
    instance = _last_instance(home)
    return instance if instance is not None and all(map(_alive, instance.parts.values())) else None


def _last_instance(home: Home) -> Instance | None:
    """The embedded Airflow that was started last, alive or not."""
    try:
        return Instance.model_validate_json(_instance_file(home).read_bytes())
    except (FileNotFoundError, ValueError):
        return None


def _alive(part: Part) -> psutil.Process | None:
    try:
        process = psutil.Process(part.pid)
        same = abs(process.create_time() - part.created) < 0.01
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _settings(home: Home) -> str:
    """Digest of all that would make another Airflow of it."""
    chosen = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(_SETTINGS) and not name.startswith(_NOT_SETTINGS)
    }
    chosen |= {"CXR_HOME": str(home.root), "CXR_PROJECT": str(home.project), "airflow": version("apache-airflow-core")}
    return sha256_bytes(canonical_json({**chosen, "python": sys.executable}))


def _secret(folder: Path) -> str:
    """The secret that signs tokens between the parts; made once."""
    path = folder / "secret"
    try:
        return path.read_text(encoding="ascii")
    except FileNotFoundError:
        pass
    aside = folder / f".secret.{os.getpid()}"
    file = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="ascii") as out:
        out.write(secrets.token_urlsafe(96))  # Airflow warns below 64 bytes
    aside.replace(path)
    return path.read_text(encoding="ascii")


@contextmanager
def _claimed_port() -> Iterator[tuple[int, tuple[int, ...]]]:
    """The port for the API server, and the open lock that reserves it, to be handed to the server.

    It takes the server seconds until it listens. Meanwhile another installation would find the port free.
    """
    path = Path(tempfile.gettempdir()) / f"cxr-ops-{PORT}.lock"
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # another user's
        yield free_port(0), ()
        return
    try:
        if _try_lock(file, fcntl.LOCK_EX):
            yield free_port(PORT), (file,)
        else:
            yield free_port(0), ()
    finally:
        os.close(file)


def listens(process: psutil.Process, port: int) -> bool:
    """Whether a process, or one below it, listens on a port."""
    with suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            for socket_ in one.net_connections("tcp"):
                if socket_.status == psutil.CONN_LISTEN and socket_.laddr.port == port:
                    return True
    return False


def free_port(wanted: int) -> int:
    """A port of 127.0.0.1 that nobody listens on: the wanted one if it is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise AirflowError("no port is free on 127.0.0.1")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _try_lock(file: int, kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _instance_file(home: Home) -> Path:
    return home.airflow / "instance.json"


def _part_log(home: Home, part: str) -> Path:
    return log_folder(home) / f"{part}.log"


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _joined(*paths: str | None) -> str:
    return os.pathsep.join(path for path in paths if path)


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC).timestamp()


def _log_text(entry: str | dict[str, Any]) -> str:
    """An entry of a task's log, and the exception that belongs to it."""
    if isinstance(entry, str):
        return entry
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or ()]
    return "\n".join([str(entry.get("event", "")), *errors])


def _detail(body: bytes) -> str:
    """What an error's JSON body says."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return detail if isinstance(detail, str) else json.dumps(detail)
