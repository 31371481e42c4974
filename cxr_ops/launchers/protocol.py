"""What all launchers agree on with the command that they start, whatever starts it.

A stage's last line of standard output is a JSON object of identifiers and digests, which becomes the task's XCom, and
its exit code says whether to try again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from cxr_ops import contract

# Larger values belong in files: the API server reads every XCom into memory.
XCOM_LIMIT_BYTES = 48 * 1024
# Lines of standard error that an error quotes.
TAIL_LINES = 15

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


def result_of(verb: str, exit_code: int, stdout: str, stderr: str) -> dict[str, Any]:
    """Turn the end of a stage's command into the task's result.

    Returns:
        The JSON object on the last line of standard output.

    Raises:
        AirflowFailException: the exit code says that a second attempt would fail in the same way, or the command
            succeeded without a result.
        AirflowException: it failed in a way that may pass: Airflow tries again.
    """
    if exit_code:
        tail = "\n".join(stderr.rstrip().splitlines()[-TAIL_LINES:])
        message = f"stage {verb} ended with exit code {exit_code}\n{tail}"
        raise (AirflowFailException if exit_code in contract.NEVER_RETRIED else AirflowException)(message)
    last = stdout.rstrip().rsplit("\n", 1)[-1]
    try:
        result = json.loads(last)
    except json.JSONDecodeError:
        result = None
    if not isinstance(result, dict):
        raise AirflowFailException(f"stage {verb} ended well but its last line is no JSON object: {last[:200]!r}")
    if len(last.encode()) > XCOM_LIMIT_BYTES:
        raise AirflowFailException(
            f"stage {verb} returned {len(last)} bytes: an XCom holds identifiers and digests only"
        )
    return result


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
