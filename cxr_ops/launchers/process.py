"""The `process` launcher: a stage runs as a process of the machine that runs the task.

`CXR_PYTHON` names the Python that runs it, where Airflow's own has not what stages need.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from airflow.sdk import BaseOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from cxr_ops import attempt, contract
from cxr_ops.launchers.protocol import Arguments, announce, command_of, rendered, required, result_of, run_id_of

RELAY_SECONDS = 0.2


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
        run, number = contract.slug(run_id_of(context)), context["ti"].try_number
        folder = attempt.make_folder(Path(required("CXR_HOME")), run, self.verb, number)
        stdout, stderr = folder / attempt.STDOUT, folder / attempt.STDERR
        python = os.environ.get("CXR_PYTHON") or sys.executable
        command = [python, "-m", "cxr_ops", *command_of(self.verb, rendered(self.arguments), folder)]
        # A stage has no business with Airflow's settings, which hold its secrets.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW__")}
        self.log.info("running %s", command)
        with stdout.open("wb") as out, stderr.open("wb") as err, stderr.open("rb") as follow:
            try:
                self._process = subprocess.Popen(
                    command,
                    cwd=required("CXR_PROJECT"),
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            except OSError as error:
                raise AirflowFailException(
                    f"the stage cannot be started: {error.strerror}\n  where: {error.filename}\n"
                    "  next:  see that CXR_PROJECT is the project's folder, and CXR_PYTHON, if it is set, a Python"
                ) from error
            rest = b""
            while self._process.poll() is None:
                time.sleep(RELAY_SECONDS)
                rest = self._relay(rest + follow.read())
            self._relay(rest + follow.read() + b"\n")
        said = stderr.read_text(errors="replace")
        result = result_of(self.verb, self._process.returncode, folder, said)
        announce(self, context, result)
        return result

    def on_kill(self) -> None:
        """Ask the stage's supervisor to stop; it ends the stage after a checkpoint."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def _relay(self, said: bytes) -> bytes:
        """Log the whole lines; return what follows them, whose end may still be in the writing."""
        whole, _, rest = said.rpartition(b"\n")
        for line in whole.decode(errors="replace").splitlines():
            if line.strip():
                self.log.info("%s", line.rstrip())
        return rest
