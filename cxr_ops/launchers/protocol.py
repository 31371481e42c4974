"""What all launchers agree on with the command that they start, whatever starts it.

An attempt at a stage has a folder, in which the command leaves how it ended (`cxr_ops.attempt`): its result,
identifiers and digests, becomes the task's XCom. The exit code says whether to try again.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
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

Arguments = Callable[[Context, Any], list[str]]


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
