from __future__ import annotations

import pytest
from airflow_runs import Runs

from cxr_ops import contract

pytestmark = pytest.mark.airflow


def test_ingestion_updates_the_data_set(runs: Runs) -> None:
    """The DAG hands folder and batch to the command, and its result goes with the event of the data set's asset."""
    conf = {"path": "/data/{{ ds }}", "batch": "march-2026"}
    outcome = runs.run(contract.INGEST_DAG_ID, conf, ingest={"result": {"revision": "1f"}})
    assert outcome.state == "success"
    assert outcome.called("ingest") == [["/data/{{ ds }}", "--batch", "march-2026", "--on-bad", "refuse"]]
    assert outcome.asset_events == [{"uri": contract.DATASET_URI, "extra": {"revision": "1f"}}]


@pytest.mark.parametrize("wrong", [{"path": "here"}, {"batch": "../up"}, {"on_bad": "ignore"}], ids=str)
def test_params_are_checked(runs: Runs, wrong: dict[str, str]) -> None:
    """A relative folder, a batch that is no name and an unknown policy are refused before anything runs."""
    conf = {"path": "/data", "batch": "b", **wrong}
    kind, message = runs.call("airflow_runs.check_params", contract.INGEST_DAG_ID, conf)
    assert kind == "ParamValidationError"
    assert next(iter(wrong.values())) in message
