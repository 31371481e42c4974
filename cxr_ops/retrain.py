"""What `cxr-ops retrain` does: run the DAG once in the embedded Airflow, and look at what it left.

A retraining makes a data set if there is none, starts Airflow, triggers the DAG, shows how far it is, and ends with the
summary of the run. It asks Airflow for the states of the tasks and reads the rest from files, so that whatever becomes
of this command, the run and its record are whole.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops import attempt, contract, voice
from cxr_ops.edges import deliveries
from cxr_ops.edges.airflow import client, processes
from cxr_ops.edges.home import Home
from cxr_ops.edges.signals import stoppable
from cxr_ops.errors import BusyError, CxrError, DataError, StoppedError
from cxr_ops.locks import Lock
from cxr_ops.records.data import GENERATED_ID
from cxr_ops.records.task import TaskState
from cxr_ops.report import watch

if TYPE_CHECKING:
    from rich.console import Console

# The data set that is made where none has been ingested: what the demonstration's settings are sized for.
IMAGES: Final = 2000
SEED: Final = 0
BATCH: Final = "synthetic-1"

_POLL: Final = 1.0  # Airflow's scheduler looks about once a second
_TAIL_LINES: Final = 20
_STUCK_SECONDS: Final = 15.0  # a queued task is started within a few, or waits for a slot
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
        RefusedError: the plan does not cover a setting.
        SettingsError: an override does not fit.
        StoppedError: SIGTERM or Ctrl-C.
        CxrError: whatever the data, the stores or Airflow had to say.
    """
    from cxr_ops.stages import open as opening

    forecast = opening.plan(home, overrides, force=force)
    if forecast.data is None:
        _refuse_to_replace(home)
    lacking = _unlabelled(*opening.unlabelled(home, overrides)) if force or not forecast.no_change else []
    if dry_run:
        for line in [*_forecast_lines(forecast, force=force), *lacking]:
            print(line)  # noqa: T201 - the command's result
        return 0
    console = voice.console()
    say = voice.Speaker(console).say
    for line in lacking:
        say(line)
    with stoppable(), _only_one(home) as announce, processes.running(home, say=say) as session:
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
            state, tasks = follow(home, api, run_id, console, say, session.troubles)
        except StoppedError:
            api.fail_run(contract.DAG_ID, run_id)  # its stages stop, though Airflow may go on for `make ui`
            raise
        if state == "failed":
            _tell_failure(home, api, run_id, tasks, console)
            return contract.EXIT_FAILED
    _print_summary(home, contract.slug(run_id))
    return 0


def _refuse_to_replace(home: Home) -> None:
    """See that no data are drawn where somebody tried to bring their own.

    Raises:
        DataError: the first batch was refused, or its ingestion was cut off.
    """
    cut = [batch for batch in deliveries.cut_off(home) if batch != BATCH]
    if cut:
        record = deliveries.unfinished(home, cut[0])
        raise DataError(
            f"there is no data set: the ingestion of {cut[0]} was cut off, and no generated data replace it",
            where=record,
            fix=f"type its command again; or, to use generated radiographs after all, rm {shlex.quote(str(record))}",
        )
    refused = [batch for batch in deliveries.refused(home) if batch != BATCH]
    if refused:
        folder = home.quarantine / refused[0]
        raise DataError(
            f"there is no data set: the batch {refused[0]} was refused, and no generated data replace it",
            where=folder,
            fix="mend what the files there name, and ingest it again; or, to use generated radiographs after all, "
            f"rm -r {shlex.quote(str(folder))}",
        )


def make_data(home: Home, say: Callable[[str], None]) -> None:
    """Draw the demonstration's radiographs and ingest them.

    Raises:
        CxrError: as `synthesize` and `ingest`.
    """
    from cxr_ops.data.synthetic import synth
    from cxr_ops.stages import ingest

    folder = home.root / "synth"
    say(f"no data set has been ingested: drawing {IMAGES} radiographs into {folder} (not for clinical use)")
    sheet = folder / synth.SHEET
    if not sheet.is_file() or synth.SynthSummary.read(sheet).ids != GENERATED_ID:
        if folder.is_dir():  # what a killed drawing left, or an earlier version drew
            shutil.rmtree(folder)
        with voice.steps("drawing radiographs") as progress:
            synth.synthesize(folder, images=IMAGES, seed=SEED, progress=progress)
    say(f"ingesting them as {BATCH}")
    ingest.run("nih", folder, batch=BATCH, home=home)


def follow(
    home: Home,
    api: client.Api,
    run_id: str,
    console: Console,
    say: Callable[[str], None],
    troubles: Callable[[], list[str]] = list,
) -> tuple[str, list[TaskState]]:
    """Show how far a run is until it has ended.

    Where a task ended, or waits for long, before its stage had begun, what went wrong in Airflow meanwhile is said.

    Args:
        home: the installation.
        api: the Airflow that the run is in.
        run_id: Airflow's id of the run.
        console: where it is shown.
        say: prints a line there.
        troubles: what has gone wrong in Airflow since the last call.

    Returns:
        The run's state, success or failed, and the states of its tasks.
    """
    progress = watch.Reports(home.progress(contract.slug(run_id)))
    view = watch.Table(console) if console.is_terminal else watch.Lines(say)
    stuck = _Stuck(home, contract.slug(run_id))
    kept: list[str] = []
    with view:
        while True:
            state = api.run_state(contract.DAG_ID, run_id)
            tasks = api.tasks(contract.DAG_ID, run_id)
            view.show(tasks, progress.read())
            kept += troubles()
            if kept and stuck.any(tasks):
                for text in kept:
                    say(f"Airflow's {text}")
                kept.clear()
            if state in _ENDED:
                return state, tasks
            time.sleep(_POLL)


class _Stuck:
    """Whether a task has ended, or has been waiting for long, without that its stage had begun."""

    def __init__(self, home: Home, run: str) -> None:
        self._home, self._run = home, run
        self._waits: dict[str, float] = {}

    def any(self, tasks: list[TaskState]) -> bool:
        return any(self._one(task) for task in tasks if task.task in contract.STAGES)

    def _one(self, task: TaskState) -> bool:
        if task.state in ("failed", "up_for_retry"):
            return attempt.last_folder(self._home.root, self._run, task.task, task.attempt) is None
        if task.state != "queued":
            self._waits.pop(task.task, None)
            return False
        return time.monotonic() - self._waits.setdefault(task.task, time.monotonic()) > _STUCK_SECONDS


# ------------------------------------------------------------------------------------------------------ the run


@contextmanager
def _only_one(home: Home) -> Iterator[Callable[[str | None, str], None]]:
    """Hold the right to retrain; yields what tells others about the run.

    Raises:
        BusyError: somebody holds it; the error points to that run.
    """
    with Lock(home.locks / "retrain.lock") as lock:
        if not lock.try_acquire():
            raise _busy(home, lock.recorded())
        since = datetime.now().astimezone().isoformat(timespec="seconds")

        def announce(run_id: str | None, url: str) -> None:
            lock.record(json.dumps({"pid": os.getpid(), "since": since, "run": run_id, "url": url}))

        lock.record("")
        yield announce


def _busy(home: Home, record: str) -> BusyError:
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
            say(f"the run {run_id} is ended: a new one takes its place, and goes on from its checkpoint if it has one")
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


def _forecast_lines(forecast: Any, *, force: bool) -> list[str]:
    if forecast.data is None:
        first = f"would draw {IMAGES} radiographs, ingest them as {BATCH}, and train on them"
    elif forecast.no_change and not force:
        if forecast.repeats:
            return [f"would end {contract.NO_CHANGE}: {forecast.repeats}; --force repeats it"]
        champion = forecast.champion.version or forecast.champion.package
        return [f"would end {contract.NO_CHANGE}: nothing has changed since version {champion} was trained"]
    else:
        first = f"would retrain on data revision {forecast.data.revision[:12]} ({', '.join(forecast.data.batches)})"
    reasons = [*forecast.reasons, *(["--force was given"] if force else [])]
    return [first, *(f"because {reason}" for reason in reasons), f"stages: {', '.join(contract.STAGES[1:])}"]


def _unlabelled(plan: str, findings: Sequence[str]) -> list[str]:
    """A line, where a plan requires what nobody labelled: a person would see it when the look is spent."""
    if not findings:
        return []
    example = "" if "Pneumonia" in findings else ", such as --set gate.plan=pccp.pneumonia-demo.yaml"
    line = (
        f"warning: the plan {plan} requires findings that no batch labels, so no run can be promoted: "
        f"{', '.join(findings)}; next: name a plan that requires only what is labelled{example}"
    )
    return [line]


def _tell_failure(home: Home, api: client.Api, run_id: str, tasks: list[TaskState], console: Console) -> None:
    """Print which task failed and why, the end of its log, and what to do next."""
    failed = [task for task in tasks if task.state == "failed"]
    if not failed:
        console.print(f"the run {run_id} was ended from outside; next: make retrain", style="bold red", highlight=False)
        return
    task = min(failed, key=lambda one: one.ended or 0.0)
    why, log, where = _left_by(home, contract.slug(run_id), task)
    if log is None:
        log, where = api.log_tail(contract.DAG_ID, run_id, task, _TAIL_LINES), processes.log_folder(home)
    console.print(f"\n{task.task} failed", style="bold red", highlight=False)
    for line in (f"error: {why}" if why else "it said nothing of the reason").splitlines():
        console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
    if log:
        console.print("  the end of its log:", highlight=False)
    for line in log:
        console.print(f"    {line}", highlight=False, markup=False, soft_wrap=True)
    console.print(f"  log:  {where}\n  next: mend the cause, then make retrain", highlight=False, soft_wrap=True)


def _left_by(home: Home, run: str, task: TaskState) -> tuple[CxrError | None, list[str] | None, Path]:
    """What an attempt left: its error, the end of its log without that error once more, and where its files are.

    None where it left none: what was killed leaves no error, and the log of a container is Airflow's alone.
    """
    folder = attempt.last_folder(home.root, run, task.task, task.attempt)
    if folder is None:
        return None, None, home.airflow
    try:
        why = attempt.read(folder, task.task).why()
    except CxrError:
        why = None
    try:
        said = (folder / attempt.STDERR).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return why, None, folder
    return why, said.rstrip().removesuffix(f"error: {why}").splitlines()[-_TAIL_LINES:], folder


def _print_summary(home: Home, run: str) -> None:
    from rich.console import Console

    from cxr_ops.report import summary

    Console().print(summary.render(home.run(run)), crop=False)
