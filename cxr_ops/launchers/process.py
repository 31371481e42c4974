"""The `process` launcher: a stage runs as a process of the machine that runs the task.

`CXR_PYTHON` names the Python that runs it, where Airflow's own has not what stages need.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from cxr_ops import attempt, contract
from cxr_ops.launchers.protocol import (
    MARGIN_SECONDS,
    Arguments,
    Ended,
    Left,
    Place,
    command_of,
    grace_seconds,
    outcome,
    place_of,
    rendered,
    required,
    to_the_end,
)
from cxr_ops.locks import Lock

RELAY_SECONDS = 0.2
KEEPER = "cxr_ops.launchers.keeper"
LOCK = ".running"  # beside the attempts' folders: held by the one that runs


class ProcessStage(BaseOperator):
    """A stage in the one process of this machine that holds the lock of its run and verb.

    The process, and a keeper that waits for it, outlive the worker that started them. The lock is theirs: the kernel
    gives it back when the last of them has ended, however it ended. Whoever finds it taken follows what holds it, if it
    is of the same recipe, and else stops it after a checkpoint. Whoever takes it starts the stage, unless an earlier
    attempt of the same mark left its result.

    Output goes to files and not to pipes: five seconds after Airflow has asked a task to stop, it kills the process
    that would have read the pipe, and the stage may still be writing its checkpoint.
    """

    template_fields = ("arguments",)
    ui_color = "#e8f0f7"

    def __init__(self, *, verb: str, arguments: Arguments | list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verb = verb
        self.arguments = arguments
        self._group: int | None = None
        self._stopping = False

    def execute(self, context: Context) -> dict[str, Any]:
        """Let the command run to its end, and follow its standard error in the task's log."""
        recipe = {
            "python": os.environ.get("CXR_PYTHON") or sys.executable,
            "project": required("CXR_PROJECT"),
            "arguments": rendered(self.arguments),
        }
        place = place_of(context, self.verb, recipe)
        return outcome(self, context, self.verb, to_the_end(self, lambda: self._run(place), lambda: self._stopping))

    def on_kill(self) -> None:
        """Ask the stage's supervisor to stop; it ends the stage after a checkpoint, and its keeper kills it if not."""
        self._stopping = True
        if self._group is not None:
            ask_to_stop(self._group)

    # ------------------------------------------------------------------------------------------------------ the process

    def _run(self, place: Place) -> Ended:
        """Find or start the process, and follow it to its end."""
        path = place.home / "airflow" / "stages" / place.run / self.verb / LOCK
        with Lock(path) as lock:
            while not lock.try_acquire():
                running = recorded(lock)
                if running is None:  # whoever took it is about to say what it starts
                    time.sleep(RELAY_SECONDS)
                elif running["recipe"] == place.mark["recipe"]:
                    self.log.info("going on with process %s; what it has said so far:", running["group"])
                    place.go_on(Path(running["folder"]))
                    return self._follow(lock, running["group"], Path(running["folder"]))
                else:
                    self.log.info("process %s has another command: it is stopped", running["group"])
                    ask_to_stop(running["group"])
                    self._wait(lock)
            if self._stopping:
                raise AirflowException(f"stage {self.verb} was stopped before it had started")
            if (folder := place.finished) is not None:
                self.log.info("an earlier try of this task has done it: its result is read from %s", folder)
                place.go_on(folder)
                return Ended(exit_code=0, folder=folder)
            if (unread := self._unread(lock, place)) is not None:
                return unread
            lock.record("")
            folder = place.make()
            self._start(lock, folder, place)
        # The lock is the keeper's alone now; another look at it says whether anything of it lives.
        with Lock(path) as lock:
            return self._follow(lock, self._group or 0, folder)

    def _start(self, lock: Lock, folder: Path, place: Place) -> None:
        python = os.environ.get("CXR_PYTHON") or sys.executable
        command = [python, "-m", "cxr_ops", *command_of(self.verb, rendered(self.arguments), folder)]
        if shutil.which(python) is None:
            raise _not_started("there is no such program", python)
        # A stage has no business with Airflow's settings and connections, which hold its secrets.
        theirs = ("AIRFLOW__", "AIRFLOW_CONN_")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        self.log.info("running %s", command)
        patience = str(max(grace_seconds() + MARGIN_SECONDS, 0.0))
        running = json.dumps({"folder": str(folder), **place.mark, "airflow": list(place.airflow)})
        kept = [sys.executable, "-P", "-m", KEEPER, str(folder), str(lock.file), patience, running, *command]
        with (folder / attempt.STDOUT).open("wb") as out, (folder / attempt.STDERR).open("wb") as err:
            try:
                process = subprocess.Popen(
                    kept,
                    cwd=required("CXR_PROJECT"),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                    pass_fds=(lock.file,),
                )
            except OSError as error:
                raise _not_started(error.strerror or str(error), error.filename) from error
        self._group = process.pid

    def _unread(self, lock: Lock, place: Place) -> Ended | None:
        """The end of an attempt of this mark that nobody has read, if it is final."""
        last = recorded(lock)
        if last is None or {key: last[key] for key in place.mark} != place.mark:
            return None
        folder = Path(last["folder"])
        code = attempt.exit_code(folder)
        lock.record("")
        if code not in (0, *contract.NEVER_RETRIED):
            self.log.info("an earlier try of this task ended with exit code %s: it goes on anew", code)
            return None
        self.log.info("an earlier try of this task has ended meanwhile: its end is read from %s", folder)
        place.go_on(folder)
        return Ended(exit_code=code, folder=folder, said=told(folder))

    def _follow(self, lock: Lock, group: int, folder: Path) -> Ended:
        """Relay the log until all that held the lock for this attempt has ended."""
        self._group = group
        relayed, rest = 0, b""
        while True:
            free = lock.try_acquire()
            over = free or (recorded(lock) or {"folder": str(folder)})["folder"] != str(folder)
            new = told_since(folder, relayed)
            relayed, rest = relayed + len(new), self._relay(rest + new)
            if over:
                break
            time.sleep(RELAY_SECONDS)
        self._relay(rest + b"\n")
        if free:
            lock.record("")
        code = attempt.exit_code(folder)
        return Ended(exit_code=-signal.SIGKILL if code is None else code, folder=folder, said=told(folder))

    def _wait(self, lock: Lock) -> None:
        """Wait until all that holds the lock has ended; it was asked to."""
        while not lock.try_acquire():
            time.sleep(RELAY_SECONDS)
        lock.release()

    def _relay(self, said: bytes) -> bytes:
        """Log the whole lines; return what follows them, whose end may still be in the writing."""
        whole, _, rest = said.rpartition(b"\n")
        for line in whole.decode(errors="replace").splitlines():
            if line.strip():
                self.log.info("%s", line.rstrip())
        return rest


def processes(home: Path) -> list[Left]:
    """What runs on this machine for this installation, by the locks that are held."""
    found = []
    for path in sorted((home / "airflow" / "stages").glob(f"*/*/{LOCK}")):
        with Lock(path) as lock:
            running = None if lock.try_acquire() else recorded(lock)
        if running is not None:
            dag_id, run_id, task_id = running["airflow"]
            name = f"process {running['group']}"
            found.append(Left(name=name, airflow=(dag_id, run_id, task_id), end=partial(_end, path, running["group"])))
    return found


def _end(path: Path, group: int) -> None:
    """Stop what holds a lock: it is asked to, and its keeper kills it after the grace; without a keeper, this does."""
    ask_to_stop(group)
    deadline = time.monotonic() + grace_seconds() + 2 * MARGIN_SECONDS
    with Lock(path) as lock:
        while not lock.try_acquire():
            if time.monotonic() > deadline:
                with suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            time.sleep(RELAY_SECONDS)
        lock.record("")


def recorded(lock: Lock) -> dict[str, Any] | None:
    """What the file of a lock says of what runs, or ran, under it."""
    text = lock.recorded()
    try:
        return dict(json.loads(text)) if text else None
    except ValueError:  # a write that was cut short
        return None


def told(folder: Path) -> str:
    """What an attempt's command has said."""
    return (folder / attempt.STDERR).read_text(encoding="utf-8", errors="replace")


def told_since(folder: Path, position: int) -> bytes:
    """What an attempt's command has said past a position."""
    with (folder / attempt.STDERR).open("rb") as file:
        file.seek(position)
        return file.read()


def ask_to_stop(group: int) -> None:
    """Send SIGTERM to a group of processes; its keeper lets the others have it."""
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGTERM)


def _not_started(why: str, where: str) -> AirflowFailException:
    return AirflowFailException(
        f"the stage cannot be started: {why}\n  where: {where}\n"
        "  next:  see that CXR_PROJECT is the project's folder, and CXR_PYTHON, if it is set, a Python"
    )
