"""What the command of each stage is given: functions of a run's context, which Airflow calls when the task starts."""

from __future__ import annotations

import json
import re
from typing import Any

from airflow.sdk import Context
from airflow.sdk.exceptions import AirflowFailException

from cxr_ops import contract
from cxr_ops.launchers.protocol import run_id_of


def run_arguments(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Name the run: `--run SLUG`. The run id is there for every kind of run; a logical date is not."""
    return ["--run", contract.slug(run_id_of(context))]


def open_arguments(context: Context, jinja_env: Any = None) -> list[str]:
    """Name the run and hand over its params as settings."""
    params = context["params"]
    arguments = [*run_arguments(context, jinja_env), "--airflow-run-id", run_id_of(context)]
    # Nobody asks for a run that the schedule or the data set started.
    if (person := context["dag_run"].triggering_user_name) is not None:
        arguments += ["--requested-by", person]
    shortcuts = {f"train.{key}": params[key] for key in ("epochs", "learning_rate", "seed") if params[key] is not None}
    for key, value in {**params["settings"], **shortcuts}.items():
        arguments += ["--set", f"{key}={yaml_scalar(value)}"]
    return [*arguments, *(["--force"] if params["force"] else [])]


def ingest_arguments(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Name the folder and the batch."""
    params = context["params"]
    return [params["path"], "--batch", params["batch"], "--on-bad", params["on_bad"]]


def promote_arguments(context: Context, jinja_env: Any = None) -> list[str]:
    """Name the run, and who approved it where the plan asked somebody.

    Raises:
        AirflowFailException: the approval names nobody, as it does where everybody is let in as an administrator.
    """
    arguments = run_arguments(context, jinja_env)
    response = context["ti"].xcom_pull(task_ids="approve")
    if response is None:
        return arguments
    person = (response.get("responded_by_user") or {}).get("id")
    if not person or person.lower() == "anonymous":
        raise AirflowFailException("the approval names nobody: this Airflow lets everybody in without a login")
    return [*arguments, "--approved-by", str(person)]


def yaml_scalar(value: Any) -> str:
    """Write a JSON value so that YAML reads it back as the same value.

    >>> yaml_scalar(1e-05), yaml_scalar(None), yaml_scalar("none")
    ('1.0e-05', 'null', '"none"')
    """
    text = json.dumps(value)
    # YAML 1.1 takes 1e-05 for a word: its numbers with an exponent need a point.
    return re.sub(r"^(-?\d+)(e[-+]\d+)$", r"\1.0\2", text)
