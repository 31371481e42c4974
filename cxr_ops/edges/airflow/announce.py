"""Telling an Airflow that is up of new data, and of what came of a run. Best effort: the record is elsewhere."""

from __future__ import annotations

from collections.abc import Mapping

from cxr_ops import contract
from cxr_ops.edges import links
from cxr_ops.edges.airflow.client import NOTE_CHARACTERS, AirflowError, Api
from cxr_ops.edges.airflow.processes import running_instance
from cxr_ops.edges.home import Home
from cxr_ops.records.run import Result


def announce_dataset(home: Home, revision: str) -> str:
    """Tell an Airflow that the data set has grown, if one is up; best effort, because the data are safe either way.

    Returns:
        A sentence that says what came of it.
    """
    api = _airflow(home)
    if api is None:
        return "No Airflow is running, so nothing was triggered; next: make retrain"
    try:
        api.announce(contract.DATASET_URI, {"revision": revision})
    except AirflowError as error:
        return f"The Airflow at {api.url} did not take the news of new data ({error.what}); next: make retrain"
    return f"The Airflow at {api.url} knows of the new data: {contract.DAG_ID} starts."


def note_verdict(home: Home, run: str) -> list[str]:
    """Write what came of a run as the note of its run in Airflow, once there is a result.

    It says what `result.json` says, which withholds what the plan withholds.

    Args:
        home: the installation.
        run: the run's name.

    Returns:
        Lines for the log of the task: the note, and where it could not be written, why. None where the run has no
        result yet, or Airflow did not start it.
    """
    path = home.run(run) / "result.json"
    if not path.is_file():
        return []
    result = Result.read(path)
    if result.airflow_run_id is None:
        return []
    text = note(result, links.of_run(home, result.identifiers))
    api = _airflow(home)
    if api is None:
        why = "no Airflow of this installation is known; next: set CXR_AIRFLOW_URL and CXR_AIRFLOW_TOKEN"
    else:
        try:
            api.note_run(contract.DAG_ID, result.airflow_run_id, text)
        except AirflowError as error:
            why = f"the Airflow at {api.url} did not take it ({error.what})"
        else:
            return text.splitlines()
    return [*text.splitlines(), f"this is not the run's note in Airflow: {why}"]


def note(result: Result, addresses: Mapping[str, str]) -> str:
    """A run's note: verdict, reasons as far as they are told, and where everything of the run is.

    Args:
        result: how the run ended.
        addresses: of the run's parts, by name (`edges.links`).

    Returns:
        Markdown of at most `NOTE_CHARACTERS`; reasons that have no room are counted.
    """
    names = result.linked(addresses) | ({"report": f"`{result.report}`"} if result.report else {})
    shown = ("MLflow run", "model version", "DVC revision", "data revision", "code", "report")
    rows = [f"* {name}: {names[name]}" for name in shown if name in names]
    outcome = "promoted" if result.promotion else "the champion stays" if result.verdict != contract.PROMOTE else ""
    head = f"**{result.verdict}**" + (f": {outcome}" if outcome else "")
    reasons = [f"* {reason.code}: {reason.sentence}" for reason in result.reasons]
    for kept in range(len(reasons), -1, -1):
        more = [f"* and {len(reasons) - kept} more reasons, in the report"] if kept < len(reasons) else []
        text = "\n".join([head, "", *reasons[:kept], *more, *rows])
        if len(text) <= NOTE_CHARACTERS:
            return text
    return "\n".join([head, "", *rows])[:NOTE_CHARACTERS]


def _airflow(home: Home) -> Api | None:
    """The Airflow that is told of things: the one that the environment names, or the embedded one if it is up."""
    if home.settings.airflow_url:
        return Api(home.settings.airflow_url, home.settings.airflow_token)
    instance = running_instance(home)
    return Api(instance.url) if instance is not None else None
