"""What `cxr-ops retrain` and `cxr-ops ui` do: run the DAG once in the embedded Airflow, and look at what it left.

A retraining makes a data set if there is none, starts Airflow, triggers the DAG, shows how far it is, and ends with the
summary of the run. It asks Airflow for the states of the tasks and reads the rest from files, so that whatever becomes
of this command, the run and its record are whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import psutil

from cxr_ops import contract
from cxr_ops.edges.airflow import client, processes
from cxr_ops.edges.home import Home
from cxr_ops.errors import BusyError, CxrError, StoppedError, StorageError
from cxr_ops.records.task import TaskState
from cxr_ops.report import terminal

if TYPE_CHECKING:
    from rich.console import Console

# The data set that is made where none has been ingested: what the demonstration's settings are sized for.
IMAGES: Final = 2000
SEED: Final = 0
BATCH: Final = "synthetic-1"

MLFLOW_PORT: Final = 5000
MLFLOW_SECONDS: Final = 90.0
_POLL: Final = 1.0  # Airflow's scheduler looks about once a second
_TAIL_LINES: Final = 20
_ENDED: Final = ("success", "failed")


def retrain(
    home: Home, *, dry_run: bool = False, overrides: Mapping[str, Any] | None = None, force: bool = False
) -> int:
    """Retrain once and say what came of it.

    Args:
        home: the installation.
        dry_run: only say what would run, and why.
        overrides: settings for this run, by dotted key such as `train.epochs`.
        force: retrain even when nothing has changed.

    Returns:
        The exit code: 0 whatever the verdict, 1 when a task failed.

    Raises:
        BusyError: a retraining is going on.
        SettingsError: an override does not fit.
        StoppedError: SIGTERM or Ctrl-C.
        CxrError: whatever the data, the stores or Airflow had to say.
    """
    from cxr_ops.stages import open as opening

    forecast = opening.plan(home, overrides)
    if dry_run:
        for line in _forecast_lines(forecast, force=force):
            print(line)  # noqa: T201 - the command's result
        return 0
    console = _console()
    say = _Speaker(console).say
    with _stoppable(), _only_one(home) as announce, processes.running(home, say=say) as session:
        announce(None, session.url)
        if forecast.data is None:
            make_data(home, say)
        api = session.ready()
        run_id = _taken_over(api, session, say)
        if run_id is None:
            api.unpause(contract.DAG_ID)
            run_id = api.trigger(contract.DAG_ID, {"settings": dict(overrides or {}), "force": force})
        announce(run_id, session.url)
        say(f"run {run_id}; look at {session.url}/dags/{contract.DAG_ID}/runs/{run_id}")
        try:
            state, tasks = follow(home, api, run_id, console, say)
        except StoppedError:
            api.fail_run(contract.DAG_ID, run_id)  # its stages stop, though Airflow may go on for `make ui`
            raise
        if state == "failed":
            _tell_failure(home, api, run_id, tasks, console)
            return contract.EXIT_FAILED
    _print_summary(home, contract.slug(run_id))
    return 0


def make_data(home: Home, say: Callable[[str], None]) -> None:
    """Draw the demonstration's radiographs and ingest them.

    Raises:
        CxrError: as `synthesize` and `ingest`.
    """
    from cxr_ops.data.synthetic import synth
    from cxr_ops.stages import ingest

    folder = home.root / "synth"
    say(f"no data set has been ingested: drawing {IMAGES} radiographs into {folder} (not for clinical use)")
    if not (folder / "synth.json").is_file():
        if folder.is_dir():  # what a killed drawing left
            shutil.rmtree(folder)
        with terminal.steps("drawing radiographs") as progress:
            synth.synthesize(folder, images=IMAGES, seed=SEED, progress=progress)
    say(f"ingesting them as {BATCH}")
    ingest.run("nih", folder, batch=BATCH, home=home)


def follow(
    home: Home, api: client.Api, run_id: str, console: Console, say: Callable[[str], None]
) -> tuple[str, list[TaskState]]:
    """Show how far a run is until it has ended.

    Returns:
        The run's state, success or failed, and the states of its tasks.
    """
    progress = _Progress(home.progress(contract.slug(run_id)))
    view = _Table(console) if console.is_terminal else _Lines(say)
    with view:
        while True:
            state = api.run_state(contract.DAG_ID, run_id)
            tasks = api.tasks(contract.DAG_ID, run_id)
            view.show(tasks, progress.read())
            if state in _ENDED:
                return state, tasks
            time.sleep(_POLL)


# ------------------------------------------------------------------------------------------------------ the run


@contextmanager
def _only_one(home: Home) -> Iterator[Callable[[str | None, str], None]]:
    """Hold the right to retrain; yields what tells others about the run.

    Raises:
        BusyError: somebody holds it; the error points to that run.
    """
    path = home.locks / "retrain.lock"
    try:
        home.locks.mkdir(exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StorageError(f"a lock cannot be made: {error.strerror}", where=path) from error
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(home, os.pread(file, 4096, 0)) from None
        since = datetime.now().astimezone().isoformat(timespec="seconds")

        def announce(run_id: str | None, url: str) -> None:
            text = json.dumps({"pid": os.getpid(), "since": since, "run": run_id, "url": url}).encode()
            os.ftruncate(file, 0)
            os.pwrite(file, text, 0)

        os.ftruncate(file, 0)
        yield announce
    finally:
        os.close(file)


def _busy(home: Home, record: bytes) -> BusyError:
    try:
        other = json.loads(record)
    except ValueError:
        return BusyError("a retraining is just being started on this installation", where=home.root, fix="wait for it")
    run = f"run {other['run']}" if other["run"] else "it is starting"
    address = f"{other['url']}/dags/{contract.DAG_ID}" + (f"/runs/{other['run']}" if other["run"] else "")
    return BusyError(
        f"a retraining is going on since {other['since']} (process {other['pid']}): {run}",
        where=f"{address} (logs: {processes.log_folder(home)})",
        fix="wait until it has ended, or stop it there with Ctrl-C",
    )


def _taken_over(api: client.Api, session: processes.Session, say: Callable[[str], None]) -> str | None:
    """The run to follow instead of a new one: that of a command which was killed, while its Airflow went on.

    Raises:
        BusyError: somebody else started a run.
    """
    unfinished = api.unfinished_runs(contract.DAG_ID)
    if not unfinished:
        return None
    if session.fresh:
        for run_id in unfinished:
            say(f"the run {run_id} was cut off and is ended; the new one goes on from its checkpoint")
            api.fail_run(contract.DAG_ID, run_id)
        return None
    if session.alone:
        say("an earlier retraining goes on without its command: following it")
        return unfinished[0]
    raise BusyError(
        f"a retraining is going on: run {unfinished[0]}",
        where=f"{session.url}/dags/{contract.DAG_ID}/runs/{unfinished[0]}",
        fix="wait until it has ended",
    )


@contextmanager
def _stoppable() -> Iterator[None]:
    """Turn SIGTERM and Ctrl-C into an orderly end."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; what follows must not be cut short
        raise StoppedError(
            f"stopped by {signal.Signals(number).name}",
            fix="make retrain; with the same data and settings, training goes on from its checkpoint",
        )

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _forecast_lines(forecast: Any, *, force: bool) -> list[str]:
    if forecast.data is None:
        first = f"would draw {IMAGES} radiographs, ingest them as {BATCH}, and train on them"
    elif forecast.no_change and not force:
        champion = forecast.champion.version or forecast.champion.package
        return [f"would end {contract.NO_CHANGE}: nothing has changed since version {champion} was trained"]
    else:
        first = f"would retrain on data revision {forecast.data.revision[:12]} ({', '.join(forecast.data.batches)})"
    reasons = [*forecast.reasons, *(["--force was given"] if force else [])]
    return [first, *(f"because {reason}" for reason in reasons), f"stages: {', '.join(contract.STAGES[1:])}"]


def _tell_failure(home: Home, api: client.Api, run_id: str, tasks: list[TaskState], console: Console) -> None:
    """Print which task failed, the end of its log, and what to do next."""
    failed = [task for task in tasks if task.state == "failed"]
    if not failed:
        console.print(f"the run {run_id} was ended from outside; next: make retrain", style="bold red", highlight=False)
        return
    task = min(failed, key=lambda one: one.ended or 0.0)
    written = home.airflow / "stages" / contract.slug(run_id) / f"{task.task}-{task.attempt}.stderr"
    if written.is_file():
        lines = written.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
        where = written
    else:
        lines = api.log_tail(contract.DAG_ID, run_id, task, _TAIL_LINES)
        where = processes.log_folder(home)
    console.print(f"\n{task.task} failed; the end of its log:", style="bold red", highlight=False)
    for line in lines:
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"  log:  {where}\n  next: mend the cause, then make retrain", highlight=False, soft_wrap=True)


def _print_summary(home: Home, run: str) -> None:
    from rich.console import Console

    from cxr_ops.report import summary

    Console().print(summary.render(home.run(run)))


# ------------------------------------------------------------------------------------------------ showing it


def _console() -> Console:
    from rich.console import Console

    return Console(file=sys.stderr)


class _Speaker:
    """Says what happens, with the time since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line."""
        clock = f"{time.monotonic() - self._start:4.0f} s"
        self._console.print(f"[{clock}] {text}", highlight=False, markup=False, soft_wrap=True)


class _Progress:
    """Reads what the stages of a run report, as it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._latest: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, dict[str, Any]]:
        """The latest report of each stage."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return self._latest
        whole, _, _ = text.rpartition(b"\n")  # the last line may still be in the writing
        self._read += len(whole) + bool(whole)
        for line in whole.splitlines():
            with suppress(json.JSONDecodeError):  # a full disk, or a kill, cuts a line short; the next one tells more
                report = json.loads(line)
                self._latest[report["stage"]] = report
        return self._latest


def _detail(report: Mapping[str, Any] | None) -> str:
    """How far a stage is, in a few words."""
    if report is None:
        return ""
    said = report["text"] or f"{report['done']:.0f} of {report['total']:.0f} {report['unit']}".strip()
    auc = report.get("validation_auc")
    return f"{said}  validation AUC {auc:.3f}" if auc is not None else str(said)


class _Lines:
    """Progress without a terminal: a line for what began, ended or failed, and for each epoch."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._states: dict[str, tuple[str | None, int]] = {}
        self._epoch: int | None = None

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, tasks: list[TaskState], reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Print what is new."""
        for task in _in_order(tasks):
            before, now = self._states.get(task.task), (task.state, task.attempt)
            if now != before and task.state in _WORDS:
                took = f" after {task.ended - task.started:.0f} s" if task.started and task.ended else ""
                self._say(f"{task.task}: {_WORDS[task.state]}{took if task.state != 'running' else ''}")
            self._states[task.task] = now
        training = reports.get("train")
        if training is not None and training.get("epoch") != self._epoch:
            self._epoch = training.get("epoch")
            self._say(f"train: {_detail(training)}")


class _Table:
    """Progress in a terminal: one line a stage, drawn again and again."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> _Table:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, tasks: list[TaskState], reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Draw the stages as they are."""
        from rich.spinner import Spinner
        from rich.table import Table

        table = Table.grid(padding=(0, 1))
        now = time.time()
        for task in _in_order(tasks):
            if task.state == "skipped":
                continue
            mark, style = _MARKS.get(task.state or "", (".", "dim"))
            took = f"{(task.ended or now) - task.started:.0f} s" if task.started else ""
            words = _WORDS.get(task.state or "", "") if task.state in ("failed", "up_for_retry") else ""
            detail = _detail(reports.get(task.task)) if task.state == "running" else words
            shown = Spinner("line") if task.state == "running" else mark
            table.add_row(shown, task.task, took, detail, style=style)
        self._live.update(table)


_WORDS: Final = {
    "running": "running",
    "success": "done",
    "failed": "failed",
    "up_for_retry": "failed, will be tried again",
}
_MARKS: Final = {
    "success": ("+", "green"),
    "failed": ("x", "red"),
    "running": ("*", "bold"),
    "up_for_retry": ("!", "yellow"),
}
_SHOWN: Final = (*contract.STAGES[1:-1], "approve", contract.STAGES[-1])


def _in_order(tasks: list[TaskState]) -> list[TaskState]:
    """The stages, in the order in which they run; the branches between them are left out."""
    found = {task.task: task for task in tasks}
    return [found[name] for name in _SHOWN if name in found]


# --------------------------------------------------------------------------------------------------------- ui


def ui(home: Home) -> int:
    """Run Airflow and MLflow on the stores of this installation until Ctrl-C.

    Returns:
        The exit code.

    Raises:
        CxrError: one of them cannot be started, or has ended by itself.
    """
    say = _Speaker(_console()).say
    try:
        with _stoppable(), processes.running(home, say=say) as session, _mlflow(home, say) as mlflow_url:
            session.ready()
            say(f"Airflow  {session.url}")
            say(f"MLflow   {mlflow_url}")
            say("Ctrl-C stops both")
            if os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
                for url in (session.url, mlflow_url):
                    webbrowser.open(url)
            while True:
                time.sleep(_POLL)
                session.check()
    except StoppedError:
        return 0


@contextmanager
def _mlflow(home: Home, say: Callable[[str], None]) -> Iterator[str]:
    """Serve this installation's MLflow store and yield the address; a server of the environment is taken as it is."""
    if home.mlflow_uri.startswith("http"):
        yield home.mlflow_uri
        return
    folder = home.root / "mlflow"
    log = folder / "server.log"
    say("starting MLflow")
    folder.mkdir(exist_ok=True)
    port = processes.free_port(MLFLOW_PORT)
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
            env={**os.environ, **s3, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
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
        if processes.listens(psutil.Process(server.pid), port):
            return
        time.sleep(_POLL)
    raise CxrError("MLflow could not be started", where=log, fix="look into its log")
