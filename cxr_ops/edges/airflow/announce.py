"""Telling an Airflow that is up of new data."""

from __future__ import annotations

from cxr_ops import contract
from cxr_ops.edges.airflow.client import AirflowError, Api
from cxr_ops.edges.airflow.processes import running_instance
from cxr_ops.edges.home import Home


def announce_dataset(home: Home, revision: str) -> str:
    """Tell an Airflow that the data set has grown, if one is up; best effort, because the data are safe either way.

    Returns:
        A sentence that says what came of it.
    """
    if home.settings.airflow_url:
        api = Api(home.settings.airflow_url, home.settings.airflow_token)
    else:
        instance = running_instance(home)
        if instance is None:
            return "No Airflow is running, so nothing was triggered; next: make retrain"
        api = Api(instance.url)
    try:
        api.announce(contract.DATASET_URI, {"revision": revision})
    except AirflowError as error:
        return f"The Airflow at {api.url} did not take the news of new data ({error.what}); next: make retrain"
    return f"The Airflow at {api.url} knows of the new data: {contract.DAG_ID} starts."
