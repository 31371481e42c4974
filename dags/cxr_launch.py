"""How a stage's command is started: one function, `stage_operator`, returns the operator for a stage.

`CXR_LAUNCHER` names the launcher: `process` (the default) starts `python -m cxr_ops stage VERB` on this machine,
`docker` does so in a container of `CXR_IMAGE`. Whatever starts it, a stage's last line of standard output is a JSON
object of identifiers and digests, which becomes the task's XCom, and its exit code says whether to try again.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from cxr_ops import contract

# Larger values belong in files: the API server reads every XCom into memory.
XCOM_LIMIT_BYTES = 48 * 1024
RELAY_SECONDS = 0.2
# Lines of standard error that an error quotes.
TAIL_LINES = 15

Arguments = Callable[[Context, Any], list[str]]


# ------------------------------------------------------------------------------- what a stage's command is given


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


def run_id_of(context: Context) -> str:
    """Airflow's id of the run."""
    return str(context["run_id"])


def yaml_scalar(value: Any) -> str:
    """Write a JSON value so that YAML reads it back as the same value.

    >>> yaml_scalar(1e-05), yaml_scalar(None), yaml_scalar("none")
    ('1.0e-05', 'null', '"none"')
    """
    text = json.dumps(value)
    # YAML 1.1 takes 1e-05 for a word: its numbers with an exponent need a point.
    return re.sub(r"^(-?\d+)(e[-+]\d+)$", r"\1.0\2", text)


# ------------------------------------------------------------------------------------- what a stage's end means


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


# ------------------------------------------------------------------------------------------------- launchers


class ProcessStage(BaseOperator):
    """Runs a stage as a process of this machine.

    Its output goes to files and not to pipes: five seconds after Airflow has asked a task to stop, it kills the process
    that would have read the pipe, and the stage may still be writing its checkpoint.
    """

    template_fields = ("arguments",)
    ui_color = "#e8f0f7"

    def __init__(self, *, verb: str, arguments: Arguments | list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.verb = verb
        self.arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """Run the command and follow its standard error in the task's log."""
        folder = Path(required("CXR_HOME"), "airflow", "stages", contract.slug(run_id_of(context)))
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{self.verb}-{context['ti'].try_number}"
        stdout, stderr = folder / f"{stem}.stdout", folder / f"{stem}.stderr"
        command = [sys.executable, "-m", "cxr_ops", "stage", self.verb, *self.arguments]
        # A stage has no business with Airflow's settings, which hold its secrets.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
        self.log.info("running %s", command)
        with stdout.open("wb") as out, stderr.open("wb") as err, stderr.open(errors="replace") as follow:
            self._process = subprocess.Popen(
                command,
                cwd=required("CXR_PROJECT"),
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            while self._process.poll() is None:
                time.sleep(RELAY_SECONDS)
                self._relay(follow.readlines())
            self._relay(follow.readlines())
        output = stdout.read_text(errors="replace")
        result = result_of(self.verb, self._process.returncode, output, stderr.read_text(errors="replace"))
        announce(self, context, result)
        return result

    def on_kill(self) -> None:
        """Ask the stage's supervisor to stop; it ends the stage after a checkpoint."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def _relay(self, lines: list[str]) -> None:
        for line in lines:
            if line.strip():
                self.log.info("%s", line.rstrip())


def stage_operator(
    verb: str, *, arguments: Arguments = run_arguments, gpu: bool = False, reads: str | None = None, **task: Any
) -> BaseOperator:
    """Return the operator that runs a stage with the launcher that `CXR_LAUNCHER` names.

    Args:
        verb: the stage; also the task's id.
        arguments: gives the command's arguments for a run.
        gpu: whether the stage computes on a GPU where there is one: it then waits for a slot of `CXR_GPU_POOL`, if that
            is set, and its container is given `CXR_GPUS`.
        reads: a folder besides `CXR_HOME` and the project that the stage reads, as a template.
        task: what every operator takes.

    Raises:
        ValueError: `CXR_LAUNCHER` names no launcher.
    """
    if gpu and os.environ.get("CXR_GPU_POOL"):
        task["pool"] = os.environ["CXR_GPU_POOL"]
    launcher = os.environ.get("CXR_LAUNCHER") or "process"
    if launcher == "process":
        return ProcessStage(task_id=verb, verb=verb, arguments=arguments, **task)
    if launcher == "docker":
        from cxr_docker import docker_stage

        return docker_stage(verb, arguments=arguments, gpu=gpu, reads=reads, **task)
    raise ValueError(f"CXR_LAUNCHER is {launcher!r}: set it to 'process' or 'docker'")
