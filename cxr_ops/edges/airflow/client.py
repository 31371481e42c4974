"""Airflow's REST API, as far as this project uses it."""

from __future__ import annotations

import json
import urllib.error
import urllib.parse
import urllib.request
from datetime import UTC, datetime
from typing import Any, Final

from cxr_ops.edges.loopback import opener
from cxr_ops.errors import CxrError, SettingsError
from cxr_ops.records.task import TaskState

# SQLite lets one writer in at a time, and Airflow's writers wait up to some seconds for each other.
ANSWER_SECONDS: Final = 60.0
NOTE_CHARACTERS: Final = 1000  # what Airflow takes as the note of a run


class AirflowError(CxrError):
    """Airflow refused, failed or did not answer; `status` is the HTTP status, None without an answer."""

    def __init__(self, what: str, *, where: object = None, fix: str | None = None, status: int | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.status = status


class Api:
    """The parts of Airflow's REST API that this project uses.

    Args:
        url: address of the API server.
        token: a token; without one, it is asked for, which an Airflow that lets everybody in grants.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self._given = token
        self._token = token
        self._opener = opener(self.url)

    def health(self) -> dict[str, Any]:
        """What each part says of itself.

        Raises:
            AirflowError: no answer.
        """
        return self._call("GET", "/api/v2/monitor/health", signed=False)

    def prepare(self) -> None:
        """Have the server make what it answers tasks with.

        It does so at the first request, which takes it seconds of computing, while nobody else is answered. A task that
        came first would give up meanwhile and try again.

        Raises:
            AirflowError: no answer.
        """
        self._call("GET", "/execution/health", signed=False)

    def parsed_at(self, dag_id: str) -> float | None:
        """When the DAG processor last read a DAG, in seconds since 1970; None: never."""
        try:
            return seconds(self._call("GET", f"/api/v2/dags/{dag_id}")["last_parsed_time"])
        except AirflowError as error:
            if error.status != 404:
                raise
            return None

    def import_errors(self) -> list[str]:
        """Why DAG files could not be read, one traceback a file."""
        errors = self._call("GET", "/api/v2/importErrors")["import_errors"]
        return [f"{error['filename']}\n{error['stack_trace']}" for error in errors]

    def unpause(self, dag_id: str) -> None:
        """Let a DAG's runs start."""
        self._call("PATCH", f"/api/v2/dags/{dag_id}?update_mask=is_paused", {"is_paused": False})

    def trigger(self, dag_id: str, conf: dict[str, Any], note: str | None = None) -> str:
        """Start a run by hand and return its id.

        Raises:
            SettingsError: `conf` does not fit the DAG's params.
            AirflowError: as every call.
        """
        body = {"logical_date": None, "conf": conf, "note": note}
        try:
            return str(self._call("POST", f"/api/v2/dags/{dag_id}/dagRuns", body)["dag_run_id"])
        except AirflowError as error:
            if error.status in (400, 422):
                raise SettingsError(f"the run's params are refused: {error.what}", where=conf) from error
            raise

    def run_state(self, dag_id: str, run_id: str) -> str:
        """State of a run: queued, running, success or failed."""
        return str(self._call("GET", _run_path(dag_id, run_id))["state"])

    def unfinished_runs(self, dag_id: str) -> list[str]:
        """Ids of the runs of a DAG that are queued or running, the oldest first."""
        found = self._call("GET", f"/api/v2/dags/{dag_id}/dagRuns?state=queued&state=running&order_by=id")
        return [str(run["dag_run_id"]) for run in found["dag_runs"]]

    def fail_run(self, dag_id: str, run_id: str) -> None:
        """Mark a run as failed; Airflow then asks its tasks to stop."""
        self._call("PATCH", f"{_run_path(dag_id, run_id)}?update_mask=state", {"state": "failed"})

    def note_run(self, dag_id: str, run_id: str, note: str) -> None:
        """Write the note of a run, in the place of the one that it has.

        Args:
            dag_id: the DAG.
            run_id: the run.
            note: Markdown, at most `NOTE_CHARACTERS`.

        Raises:
            AirflowError: there is no such run, or as every call.
        """
        self._call("PATCH", f"{_run_path(dag_id, run_id)}?update_mask=note", {"note": note})

    def tasks(self, dag_id: str, run_id: str) -> list[TaskState]:
        """Where the tasks of a run stand."""
        found = self._call("GET", f"{_run_path(dag_id, run_id)}/taskInstances?limit=100")
        return [
            TaskState(
                task=task["task_id"],
                state=task["state"],
                attempt=task["try_number"],
                started=seconds(task["start_date"]),
                ended=seconds(task["end_date"]),
            )
            for task in found["task_instances"]
        ]

    def log_tail(self, dag_id: str, run_id: str, task: TaskState, lines: int) -> list[str]:
        """The last lines of a task's log."""
        path = f"{_run_path(dag_id, run_id)}/taskInstances/{task.task}/logs/{max(task.attempt, 1)}?full_content=true"
        entries = self._call("GET", path)["content"]
        texts = [_log_text(entry) for entry in entries]
        found = [line for text in texts for line in text.splitlines()]
        return [line for line in found if line.strip() and not line.startswith("::")][-lines:]

    def announce(self, uri: str, extra: dict[str, Any]) -> None:
        """Tell that an asset was updated; DAGs that wait for it start.

        Raises:
            AirflowError: no DAG knows the asset, or as every call.
        """
        found = self._call("GET", f"/api/v2/assets?uri_pattern={urllib.parse.quote(uri, safe='')}")["assets"]
        ids = [asset["id"] for asset in found if asset["uri"] == uri]
        if not ids:
            raise AirflowError("no DAG of this Airflow knows the data set", where=self.url)
        self._call("POST", "/api/v2/assets/events", {"asset_id": ids[0], "extra": extra})

    def _call(self, method: str, path: str, body: Any = None, *, signed: bool = True) -> dict[str, Any]:
        try:
            return self._send(method, path, body, self._signature() if signed else None)
        except AirflowError as error:
            if error.status != 401 or self._given or not signed:
                raise
        self._token = None  # tokens live for a day; a training can last longer
        return self._send(method, path, body, self._signature())

    def _signature(self) -> str:
        if self._token is None:
            self._token = str(self._send("GET", "/auth/token", None, None)["access_token"])
        return self._token

    def _send(self, method: str, path: str, body: Any, token: str | None) -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - the address is ours
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Accept": "application/json"},
        )
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with self._opener.open(request, timeout=ANSWER_SECONDS) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise AirflowError(_detail(error.read()) or str(error), where=self.url + path, status=error.code) from error
        except OSError as error:
            raise AirflowError(f"Airflow does not answer: {error}", where=self.url + path) from error
        return dict(json.loads(text)) if text else {}


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{dag_id}/dagRuns/{urllib.parse.quote(run_id, safe='')}"


def seconds(text: str | None) -> float | None:
    """A time of Airflow's in seconds since 1970, None where there is none."""
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC).timestamp()


def _log_text(entry: str | dict[str, Any]) -> str:
    """An entry of a task's log, and the exception that belongs to it."""
    if isinstance(entry, str):
        return entry
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in entry.get("error_detail") or ()]
    return "\n".join([str(entry.get("event", "")), *errors])


def _detail(body: bytes) -> str:
    """What an error's JSON body says."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        return ""
    return detail if isinstance(detail, str) else json.dumps(detail)
