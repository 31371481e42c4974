"""The embedded Airflow of an installation: started when it is needed, stopped when nobody uses it.

It is a scheduler, a DAG processor and an API server on SQLite, and a triggerer where `CXR_INCOMING` is to be watched,
in process groups of their own, with `$CXR_HOME/airflow` as their home. It listens on 127.0.0.1 and lets everybody in
who can reach that: who shares the machine shares it. Who uses it holds a shared OS lock; the last one to let go stops
it, however the others ended.

    $CXR_HOME/airflow/
      airflow.db           its database; `migrated` names the version that the database is of
      secret               signs the tokens between its parts (mode 0600)
      instance.json        address, processes and settings of the one that was started last
      logs/<part>.log      what its parts say; the logs of tasks are beside
      stages/<run>/        what the stages of a run wrote to standard output and standard error
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

import psutil

from cxr_ops import addresses, attempt, contract
from cxr_ops.edges import loopback
from cxr_ops.edges.airflow.client import AirflowError, Api, seconds
from cxr_ops.edges.airflow.troubles import Troubles
from cxr_ops.edges.home import Home
from cxr_ops.edges.ports import free_port, listens
from cxr_ops.errors import BusyError, SettingsError, StorageError
from cxr_ops.locks import Lock, locked
from cxr_ops.records.base import Record, canonical_json, sha256_bytes, write_atomic

PartName = Literal["api-server", "scheduler", "dag-processor", "triggerer"]
PORT: Final = 8080
# An overloaded laptop takes a minute; a broken installation must not take for ever.
START_SECONDS: Final = 180.0
PATIENCE_SECONDS: Final = 20.0  # between sentences about what is being waited for
STOP_SECONDS: Final = 10.0
# More than a stage's supervisor takes for a checkpoint and the kill after it.
GRACE_SECONDS: Final = 140.0
_POLL: Final = 0.2
# What of the caller's environment decides how stages run. Another value needs another Airflow.
_SETTINGS: Final = ("CXR_", "AWS_", "MLFLOW_", "DOCKER_", "OMP_")
_NOT_SETTINGS: Final = ("CXR_PROGRESS", "CXR_AIRFLOW_")


class Part(Record):
    """A process that was started: its id alone could be another's by now, so its start time belongs to it."""

    pid: int
    created: float


class Instance(Record):
    """An embedded Airflow: `instance.json`."""

    url: str
    settings: str
    started: float
    parts: dict[PartName, Part]


@dataclass(frozen=True, kw_only=True)
class Session:
    """The embedded Airflow while it is used.

    Attributes:
        url: its address.
        fresh: whether it was started for this session. What its database calls running then is not.
        alone: whether nobody else used it when the session began.
        ready: waits until its parts are at work and have read the DAGs, and returns its API.
        check: raises AirflowError if one of its parts has ended.
        troubles: what has gone wrong in its parts since the last call, a line each.
    """

    url: str
    fresh: bool
    alone: bool
    ready: Callable[[], Api]
    check: Callable[[], None]
    troubles: Callable[[], list[str]]


@contextmanager
def running(home: Home, *, say: Callable[[str], None] = lambda _: None) -> Iterator[Session]:
    """Use the embedded Airflow; start it unless it runs, and stop it afterwards unless somebody else uses it.

    It starts in the background; `Session.ready` waits for it. Runs that go on when it is stopped are ended: their
    stages are asked to stop, and a training that has saved a checkpoint resumes in the next run.

    Args:
        home: the installation.
        say: gets a sentence on what happens.

    Raises:
        BusyError: an Airflow with other settings is in use.
        AirflowError: a part ended or was not ready in time.
        StorageError: its folder cannot be written.
    """
    folder = home.airflow
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"Airflow's folder cannot be written: {error.strerror}", where=folder) from error
    with Lock(home.locks / "airflow.users") as users:
        try:
            with locked(home.locks / "airflow.start"):
                alone = users.try_acquire()
                found = running_instance(home)
                if found is not None and found.settings != _settings(home):
                    if not alone:
                        raise BusyError(
                            "an Airflow with other settings is in use on this installation",
                            where=found.url,
                            fix="stop `make ui` or `make retrain` there, or take the settings that it was started with",
                        )
                    _end(home, found, say)
                    found = None
                if found is not None:
                    say(f"using the Airflow at {found.url}")
                troubles = Troubles({part: _part_log(home, part) for part in parts_of(home)})
                instance = found or _start(home, say)
                users.acquire(shared=True)
            yield Session(
                url=instance.url,
                fresh=found is None,
                alone=alone,
                ready=lambda: _wait_until_ready(home, instance, troubles, say),
                check=lambda: _check_alive(home, instance),
                troubles=troubles.new,
            )
        finally:
            with locked(home.locks / "airflow.start"):
                last = _last_instance(home)
                if last is not None and users.try_acquire():
                    _end(home, last, say)


def environment(home: Home, port: int) -> dict[str, str]:
    """The environment of the embedded Airflow, and of the stages that it starts.

    Airflow's settings come from here alone: what the caller's environment says of another Airflow is left out, but for
    the connections that notices go by.
    """
    folder = home.airflow
    url = f"http://127.0.0.1:{port}"
    airflow = {
        "AIRFLOW_HOME": str(folder),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home.project / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home.project / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": "4",  # of 32 workers, 28 would only cost memory
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": addresses.sqlite_url(folder / "airflow.db", driver=False),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(folder),
        "AIRFLOW__DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",  # seconds; each reading costs time of the cores
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(folder / "logs"),
        # By default it is a folder that is really called {AIRFLOW_HOME}.
        "AIRFLOW__LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": str(folder / "logs" / "dag_processor"),
        "AIRFLOW__LOGGING__COLORED_CONSOLE_LOG": "False",
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    }
    ours = {
        **home.environment(),
        "CXR_MAX_ACTIVE_RUNS": "1",  # two trainings would fight for the cores of one machine
        # The project's own modules, and the tools beside this interpreter, whatever the caller's shell finds first.
        "PYTHONPATH": _joined(str(home.project), os.environ.get("PYTHONPATH")),
        "PATH": _joined(str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "False",
    }
    theirs = {name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW_", "CXR_PROGRESS"))}
    theirs |= _connections(home)
    found = loopback.without_socks(loopback.environment(theirs, home.servers)) | airflow | ours
    _refuse_expanded(found, folder, home.project)
    return found


def _connections(home: Home) -> dict[str, str]:
    """The connections that notices go by, of those in the caller's environment."""
    told = home.settings
    ids = (*told.notify, *told.notify_approvers, *told.notify_no_change)
    named = (f"AIRFLOW_CONN_{one.upper()}" for one in ids)
    return {name: os.environ[name] for name in named if name in os.environ}


def _refuse_expanded(environ: Mapping[str, str], *folders: Path) -> None:
    """Refuse folders in whose names Airflow would put the value of a variable: it knows no way to write a `$`."""
    for folder in folders:
        names = [one.strip("${}") for one in re.findall(r"\$\w+|\$\{\w+\}", str(folder))]
        if named := next((name for name in names if name in environ), None):
            raise SettingsError(
                f"Airflow reads ${named} in the name of a folder as the variable {named}, which is set",
                where=folder,
                fix=f"rename the folder, or unset {named}",
            )


def parts_of(home: Home) -> tuple[PartName, ...]:
    """The parts that an installation needs: a triggerer only where there is something to watch."""
    watching: tuple[PartName, ...] = ("triggerer",) if home.settings.incoming else ()
    return ("api-server", "scheduler", "dag-processor", *watching)


def log_folder(home: Home) -> Path:
    """Where the embedded Airflow's parts and tasks write their logs."""
    return home.airflow / "logs"


def _start(home: Home, say: Callable[[str], None]) -> Instance:
    if (rest := _last_instance(home)) is not None:
        _end(home, rest, say)  # one that lost a part
    with _claimed_port() as (port, claim):
        env = environment(home, port)
        _migrate(home, env, say)
        _forget_missed(home)
        say("starting Airflow")
        now = time.time()
        parts: dict[PartName, Part] = {}
        for part in parts_of(home):
            serves_logs = part in ("scheduler", "triggerer")
            with _part_log(home, part).open("ab") as log:
                process = subprocess.Popen(
                    [sys.executable, "-m", "airflow", part, *(["--skip-serve-logs"] if serves_logs else [])],
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
        raise AirflowError(
            f"Airflow's database cannot be made\n{_tail(log)}", where=log, fix="mend what the log names, then retry"
        )
    write_atomic(marker, wanted.encode())


def _forget_missed(home: Home) -> None:
    """Take the next times of the schedules from the database; Airflow computes them anew when it reads the DAGs.

    Times that passed while it was off would be started at once, before and instead of the run that it is started for.
    """
    with closing(sqlite3.connect(home.airflow / "airflow.db")) as database, database:
        database.execute("UPDATE dag SET next_dagrun = NULL, next_dagrun_create_after = NULL")


def _wait_until_ready(home: Home, instance: Instance, troubles: Troubles, say: Callable[[str], None]) -> Api:
    """Wait until all parts are at work and have read the DAGs as they are now; say what takes long, and why."""
    api = Api(instance.url)
    begun = time.monotonic()
    tell_at = begun + PATIENCE_SECONDS
    while True:
        _check_alive(home, instance)
        lacking = _lacking(api, instance)
        if lacking is None:
            return api
        now = time.monotonic()
        if now > begun + START_SECONDS:
            part, why = lacking
            raise AirflowError(
                f"Airflow was not ready within {START_SECONDS:.0f} s: {why}\n{_tail(_part_log(home, part))}",
                where=_part_log(home, part),
                fix="mend what the log names, then retry; on a busy machine, retry when less runs on it",
            )
        if now > tell_at:
            for text in (f"still waiting for Airflow: {lacking[1]}", *troubles.new()):
                say(text)
            tell_at = now + PATIENCE_SECONDS
        time.sleep(_POLL)


def _check_alive(home: Home, instance: Instance) -> None:
    for part, process in instance.parts.items():
        if _alive(process) is None:
            log = _part_log(home, part)
            raise AirflowError(
                f"Airflow's {part} has ended\n{_tail(log)}", where=log, fix="mend what its log names, then retry"
            )


def _lacking(api: Api, instance: Instance) -> tuple[str, str] | None:
    """The part that is not at work yet and what is missing of it, None where nothing is."""
    # Whoever answers at the address may be somebody else's Airflow, which would take our runs.
    server = _alive(instance.parts["api-server"])
    if server is None or not listens(server, int(instance.url.rpartition(":")[2])):
        return "api-server", f"its API server does not listen at {instance.url} yet"
    try:
        health = api.health()
        api.prepare()
    except AirflowError as error:
        return "api-server", f"its API server answers with an error ({error.what})"
    # A heartbeat of an Airflow that was stopped half a minute ago still counts as healthy.
    for part in instance.parts.keys() - {"api-server"}:
        key = part.replace("-", "_")
        beat = seconds(health[key][f"latest_{key}_heartbeat"])
        if health[key]["status"] != "healthy" or beat is None or beat < instance.started:
            return part, f"its {part} is not at work yet"
    try:
        parsed = api.parsed_at(contract.DAG_ID)
        if parsed is not None and parsed >= instance.started:
            return None
        errors = api.import_errors()
    except AirflowError as error:
        if error.status is not None and error.status < 500:
            raise
        return "api-server", f"its API server answers with an error ({error.what})"
    if errors:
        raise AirflowError(
            f"a DAG file cannot be read\n{errors[0]}",
            where=errors[0].split("\n", 1)[0],
            fix="mend the file, or what it imports, then retry",
        )
    return "dag-processor", f"its dag-processor has not read {contract.DAG_ID} yet"


def _end(home: Home, instance: Instance, say: Callable[[str], None]) -> None:
    """End the runs that go on, then the parts."""
    alive = [process for part in instance.parts.values() if (process := _alive(part)) is not None]
    if not alive:
        return
    _end_runs(home, instance, say)
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


def _end_runs(home: Home, instance: Instance, say: Callable[[str], None]) -> None:
    """Mark what is unfinished as failed, so that nothing is tried again, and wait until the stages have stopped."""
    api = Api(instance.url)
    with suppress(AirflowError):  # one that does not answer starts no more tasks; those that it has are ended below
        for run_id in api.unfinished_runs(contract.DAG_ID):
            say(f"ending the run {run_id}; next: make retrain, which goes on from its checkpoint")
            api.fail_run(contract.DAG_ID, run_id)
    scheduler = _alive(instance.parts["scheduler"])
    if scheduler is None:
        return
    stages = stages_of(home)
    for process, folder in stages.items():
        with suppress(psutil.Error, OSError):
            (folder / attempt.STOP).touch()  # else its task, which may not know yet, lets it go on
            process.send_signal(signal.SIGTERM)
            say(f"waiting for {' '.join(process.cmdline()[3:5])} to stop")
    tasks = [*{*_tasks_under(scheduler), *stages}]
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


def stages_of(home: Home) -> dict[psutil.Process, Path]:
    """The supervisors of stages that run for this installation, whoever started them, with the attempt of each."""
    found = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error, ValueError, IndexError):
            words = process.cmdline()
            folder = Path(words[words.index("--attempt") + 1])
            if words[1:4] == ["-m", "cxr_ops", "stage"] and folder.is_relative_to(home.airflow / "stages"):
                found[process] = folder
    return found


def running_instance(home: Home) -> Instance | None:
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
    chosen |= {**_connections(home), **home.environment(), "airflow": version("apache-airflow-core")}
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
    try:
        lock = Lock(Path(tempfile.gettempdir()) / f"cxr-ops-{PORT}.lock")
    except StorageError:  # another user's
        yield free_port(0), ()
        return
    with lock:
        if lock.try_acquire():
            yield free_port(PORT), (lock.file,)
        else:
            yield free_port(0), ()


def _instance_file(home: Home) -> Path:
    return home.airflow / "instance.json"


def _part_log(home: Home, part: str) -> Path:
    return log_folder(home) / f"{part}.log"


def _tail(log: Path, lines: int = 15) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _joined(*paths: str | None) -> str:
    return os.pathsep.join(path for path in paths if path)
