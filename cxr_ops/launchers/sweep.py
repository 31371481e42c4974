"""Ends what was left running: containers and processes of this installation whose task is over in Airflow.

A run that a person marked as failed while its worker was dead has nobody who would stop its training. What is of a task
that may still go on, or be tried again, is left alone, and so is everything while Airflow does not say.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from cxr_ops.launchers import process
from cxr_ops.launchers.protocol import Left, required

OVER: Final = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
GONE: Final = "gone"  # Airflow knows no such run

_log = logging.getLogger(__name__)


def run(ti: Any) -> list[str]:
    """End what was left running; return the names of what was ended.

    Args:
        ti: the task instance, which asks Airflow for the states of other tasks.
    """

    def state_of(dag_id: str, run_id: str, task_id: str) -> str | None:
        states = ti.get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id])
        if run_id in states:
            state = states[run_id].get(task_id)
            return None if state is None else str(state)
        return None if ti.get_dr_count(dag_id=dag_id, run_ids=[run_id]) else GONE

    return sweep(everything(Path(required("CXR_HOME"))), state_of)


def everything(home: Path) -> list[Left]:
    """All that runs here for an installation, by both launchers; the engine is asked only where it is the launcher."""
    left = process.processes(home)
    if os.environ.get("CXR_LAUNCHER") == "docker":
        from cxr_ops.launchers import docker

        left += docker.containers(home)
    return left


def sweep(left: list[Left], state_of: Callable[[str, str, str], str | None]) -> list[str]:
    """End what is of a task that is over; return the names of what was ended.

    Args:
        left: what runs.
        state_of: the state of a task, by DAG, run and task: None where it has none yet, `gone` where there is no such
            run.
    """
    ended = []
    for one in left:
        state = state_of(*one.airflow)
        if state is None or state not in {*OVER, GONE}:
            _log.info("%s is of %s, which is %s: it stays", one.name, "/".join(one.airflow), state)
            continue
        _log.info("%s is of %s, which is %s: it is ended", one.name, "/".join(one.airflow), state)
        one.end()
        ended.append(one.name)
    return ended
