"""What the command of each stage is given: functions of a run's context, which Airflow calls when the task starts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
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
    """Name the folder, its kind and the batch, and say what a person said of them; what is empty is left out."""
    params = context["params"]
    said = {f"--{name.replace('_', '-')}": params[name] for name in contract.INGEST_OPTIONS}
    arguments = [params["path"], "--kind", params["kind"], "--batch", params["batch"], "--on-bad", params["on_bad"]]
    for option, value in said.items():
        if isinstance(value, list):
            arguments += [part for one in value for part in (option, str(one))]
        elif value:
            arguments += [option] if value is True else [option, str(value)]
    return arguments


def promote_arguments(context: Context, jinja_env: Any = None) -> list[str]:
    """Name the run, and who approved it where the plan asked somebody.

    Raises:
        AirflowFailException: the approval names nobody, as it does where everybody is let in as an administrator.
    """
    arguments = run_arguments(context, jinja_env)
    response = context["ti"].xcom_pull(task_ids="approve")
    if response is None:
        return arguments
    person = name_of(response.get("responded_by_user"))
    if person is None:
        raise AirflowFailException("the approval names nobody: this Airflow lets everybody in without a login")
    return [*arguments, "--approved-by", person]


def request_arguments(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Name the run that a person named."""
    return ["--run", context["params"]["run"]]


def answer_arguments(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Hand over what was asked and answered, and who answered.

    Raises:
        AirflowFailException: the answer names nobody.
    """
    asked, response = (context["ti"].xcom_pull(task_ids=task_id) for task_id in ("request", "ask"))
    approve = list(response["chosen_options"]) == ["Approve"]
    given = ["--run", asked["run"], "--decision", asked["decision"], "--approve" if approve else "--reject"]
    given += ["--at", as_text(response["responded_at"])]
    user = response.get("responded_by_user")
    if not user:
        return given  # nobody answered in time
    if (person := name_of(user)) is None:
        raise AirflowFailException("the answer names nobody: this Airflow lets everybody in without a login")
    return [*given, "--by", person, "--reason", str((response.get("params_input") or {}).get("reason") or "")]


def rollback_arguments(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Name the champion to go back to, who decided it, and why.

    Raises:
        AirflowFailException: nobody known started the run.
    """
    params, person = context["params"], name_of({"name": context["dag_run"].triggering_user_name})
    if person is None:
        raise AirflowFailException(
            "a rollback is somebody's, and nobody known by name started this run\n"
            "  next:  log in to Airflow and trigger it again, or: cxr-ops rollback VERSION --reason TEXT"
        )
    return ["--to", params["to"], "--by", person, "--reason", params["reason"]]


def nothing(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Give nothing: the stage is of the whole installation."""
    return []


def gc_yes(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Remove what was shown."""
    return ["--yes"]


def backup_arguments(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Name the folder of backups."""
    return ["--out", context["params"]["backup"]]


def monitor_arguments(context: Context, jinja_env: Any = None) -> list[str]:  # noqa: ARG001 - Airflow's signature
    """Name the answers, and the table of what is known of them where there is one."""
    params = context["params"]
    return ["--answers", params["answers"], *(["--labels", params["labels"]] if params["labels"] else [])]


def name_of(user: Mapping[str, Any] | None) -> str | None:
    """A user's name, by which people are compared, since an id may be a number; None where nobody is known.

    >>> name_of({"id": "2", "name": "dr_lee"}), name_of({"id": "Anonymous", "name": "Anonymous"}), name_of({"id": "2"})
    ('dr_lee', None, '2')
    """
    user = user or {}
    name = str(user.get("name") or user.get("id") or "").strip()
    return None if name.lower() in ("", "anonymous") else name


def people(text: str) -> list[dict[str, str]]:
    """Read `CXR_APPROVERS`: ids with commas between, or `id:name` where a login's id is not its name.

    >>> people("2:dr_lee, dr_ito")
    [{'id': '2', 'name': 'dr_lee'}, {'id': 'dr_ito', 'name': 'dr_ito'}]
    """
    named = (part.strip().partition(":") for part in text.split(",") if part.strip())
    return [{"id": one.strip(), "name": name.strip() or one.strip()} for one, _, name in named]


def as_text(when: Any) -> str:
    """A time as ISO 8601; Airflow hands it over as a time or as text."""
    return str(when.isoformat()) if hasattr(when, "isoformat") else str(when)


def yaml_scalar(value: Any) -> str:
    """Write a JSON value so that YAML reads it back as the same value.

    >>> yaml_scalar(1e-05), yaml_scalar(None), yaml_scalar("none")
    ('1.0e-05', 'null', '"none"')
    """
    text = json.dumps(value)
    # YAML 1.1 takes 1e-05 for a word: its numbers with an exponent need a point.
    return re.sub(r"^(-?\d+)(e[-+]\d+)$", r"\1.0\2", text)
