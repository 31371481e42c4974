"""What all launchers agree on with the command that they start, whatever starts it.

An attempt at a stage has a folder, in which the command leaves how it ended (`cxr_ops.attempt`): its result,
identifiers and digests, becomes the task's XCom. The exit code says whether to try again.

What is started outlives the worker that started it, and a later try finds it again (docs/decisions/0042). Each
launcher has a memory that only one can write at a time: the name of a container in the engine, a lock that a process
holds. It says by its mark what it is of: the `recipe` (what is run, with what) and the `wish` (a retry serves the same
one, a task that was cleared another).
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from cxr_ops import attempt, contract
from cxr_ops.errors import CxrError

# Larger values belong in files: the API server reads every XCom into memory.
XCOM_LIMIT_BYTES = 48 * 1024
# Lines of standard error that an error quotes.
TAIL_LINES = 15
_SAME_HOME = "\n  next:  see that CXR_HOME is one folder, with room left, where the stage runs and where its task runs"

# How often a stage is started again that somebody else has stopped.
RESTARTS = 2
GRACE_SECONDS = 120.0
# What a launcher waits beyond the grace of the stage's own supervisor, before it kills that, too.
MARGIN_SECONDS = 20.0

Arguments = Callable[[Context, Any], list[str]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where an attempt stands: in which installation, of which run, by which try of which task, and its mark."""

    home: Path
    run: str
    verb: str
    number: int
    mark: dict[str, str]
    airflow: tuple[str, str, str]

    @property
    def finished(self) -> Path | None:
        """The folder of an attempt of this mark that ended well before."""
        return attempt.finished(self.home, self.run, self.verb, self.mark)

    def make(self) -> Path:
        """Make the attempt's folder, with its mark."""
        folder = attempt.make_folder(self.home, self.run, self.verb, self.number)
        attempt.begin(folder, self.mark)
        return folder

    def go_on(self, folder: Path) -> None:
        """Take an earlier attempt's folder for this one's."""
        if folder != attempt.last_folder(self.home, self.run, self.verb, self.number):
            attempt.go_on(self.home, self.run, self.verb, self.number, folder)


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How what a launcher started has ended: its exit code, its folder, its standard error, what else is known."""

    exit_code: int
    folder: Path
    said: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Left:
    """Something of ours that runs or stands on this machine: for which task (DAG, run, task), and what ends it."""

    name: str
    airflow: tuple[str, str, str]
    end: Callable[[], None]


def place_of(context: Context, verb: str, recipe: Mapping[str, Any]) -> Place:
    """Where this try of a task stands.

    Args:
        context: the task's.
        verb: the stage.
        recipe: all that decides what is run: if one of it differs, what runs already is not what is wanted now.
    """
    ti, run_id = context["ti"], run_id_of(context)
    started = context["dag_run"].start_date
    text = json.dumps(recipe, sort_keys=True, default=str)
    # A clear raises `max_tries`, or starts the run again; a run that was deleted and made again starts at another time.
    wish = f"{started.isoformat() if started else ''}/{ti.max_tries}"
    return Place(
        home=Path(required("CXR_HOME")),
        run=contract.slug(run_id),
        verb=verb,
        number=ti.try_number,
        mark={"recipe": hashlib.sha256(text.encode()).hexdigest(), "wish": wish},
        airflow=(ti.dag_id, run_id, ti.task_id),
    )


def to_the_end(operator: BaseOperator, run: Callable[[], Ended], stopped: Callable[[], bool]) -> Ended:
    """Let a stage run to its end.

    A worker that Airflow has given up may pass a stop on to what another try follows by now. A stage that was stopped
    without our asking goes on from its checkpoint, twice at most; not where the attempt's file `stop` says that it is
    to end.

    Args:
        operator: whose log it is told in.
        run: finds or starts the stage, and follows it.
        stopped: whether this try was asked to stop.
    """
    ended = run()
    for _ in range(RESTARTS):
        if ended.exit_code != contract.EXIT_STOPPED or stopped() or (ended.folder / attempt.STOP).exists():
            break
        operator.log.info("the stage was stopped by somebody else, after its checkpoint: it goes on")
        ended = run()
    return ended


def outcome(operator: BaseOperator, context: Context, verb: str, ended: Ended) -> dict[str, Any]:
    """The task's result, told to the assets that it updates; see `result_of` for what it raises."""
    result = result_of(verb, ended.exit_code, ended.folder, ended.said, note=ended.note)
    announce(operator, context, result)
    return result


def grace_seconds() -> float:
    """The seconds that a stage has to save its work: `CXR_GRACE_SECONDS`.

    Raises:
        ValueError: it is no number.
    """
    return float(os.environ.get("CXR_GRACE_SECONDS") or GRACE_SECONDS)


def rendered(arguments: Arguments | list[str]) -> list[str]:
    """The arguments of a task that runs: by then, Airflow has called what gives them.

    Raises:
        TypeError: it has not.
    """
    if callable(arguments):
        raise TypeError("the arguments of a stage are asked for before Airflow has rendered its task")
    return arguments


def run_id_of(context: Context) -> str:
    """Airflow's id of the run."""
    return str(context["run_id"])


def command_of(verb: str, arguments: list[str], folder: Path) -> list[str]:
    """What follows `cxr-ops` where an attempt at a stage is started."""
    return ["stage", verb, *arguments, "--attempt", str(folder)]


def result_of(verb: str, exit_code: int, folder: Path, said: str, *, note: str = "") -> dict[str, Any]:
    """Turn the end of a stage's command into the task's result.

    Args:
        verb: the stage.
        exit_code: of the command; a negative number is the signal that ended it.
        folder: the attempt's, in which the command left `result.json`.
        said: the command's standard error. An error quotes its end where the file does not say why.
        note: what the launcher alone knows of a bad end; the error ends with it.

    Raises:
        AirflowFailException: the exit code says that a second attempt would fail in the same way, or the result is too
            large.
        AirflowException: it failed in a way that may pass, or left no result, or one that does not fit its exit code:
            Airflow tries again, and what is done already is not done twice.
    """
    try:
        ended = attempt.read(folder, verb)
    except CxrError as error:
        why = f"; {error}" if exit_code else f", but {error}{_SAME_HOME}"
    else:
        if ended.exit_code != exit_code:
            why = f", but its {attempt.RESULT} says exit code {ended.exit_code}\n  where: {folder / attempt.RESULT}"
        elif ended.result is not None:
            return _fitting(verb, ended.result)
        else:
            why, said = f": {ended.why()}", ""
    lines = [*said.rstrip().splitlines()[-TAIL_LINES:], *([note] if note else [])]
    raise _failure(exit_code, "\n".join((f"stage {verb} {_end(exit_code)}{why}", *lines)))


def _fitting(verb: str, result: dict[str, Any]) -> dict[str, Any]:
    if (size := len(json.dumps(result).encode())) > XCOM_LIMIT_BYTES:
        raise AirflowFailException(
            f"stage {verb} returned {size} bytes, more than {XCOM_LIMIT_BYTES}: an XCom holds identifiers and digests"
        )
    return result


def _failure(exit_code: int, message: str) -> AirflowException:
    return (AirflowFailException if exit_code in contract.NEVER_RETRIED else AirflowException)(message)


def _end(exit_code: int) -> str:
    """How a command ended, with the signal's name where one ended it; a container's code is then 128 more."""
    if exit_code == 0:
        return "ended well"
    try:
        name = signal.Signals(-exit_code if exit_code < 0 else exit_code - 128).name
    except ValueError:
        return f"ended with exit code {exit_code}"
    return f"ended with exit code {exit_code} ({name})"


def required(name: str) -> str:
    """A variable of the environment that must be set.

    Raises:
        AirflowFailException: it is not.
    """
    value = os.environ.get(name)
    if not value:
        raise AirflowFailException(f"{name} is not set: set it where Airflow's workers start, to an absolute path")
    return value


def announce(operator: BaseOperator, context: Context, result: Mapping[str, Any]) -> None:
    """Attach a stage's result to the events of the assets that its task updates."""
    for asset in operator.outlets:
        context["outlet_events"][asset].extra = dict(result)
