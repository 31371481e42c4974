from __future__ import annotations

import pytest
from airflow_runs import Runs
from services import Recorder
from typer.main import get_command

from cxr_ops import contract
from cxr_ops.commands.ingest import app as ingest_app
from cxr_ops.commands.stages import stage_app

pytestmark = pytest.mark.airflow


def test_ingestion_updates_the_data_set(runs: Runs) -> None:
    """The DAG hands folder and batch to the command, and its result goes with the event of the data set's asset."""
    conf = {"path": "/data/{{ ds }}", "batch": "march-2026"}
    outcome = runs.run(contract.INGEST_DAG_ID, conf, ingest={"result": {"revision": "1f"}})
    assert outcome.state == "success"
    ordinary = ["/data/{{ ds }}", "--kind", "auto", "--batch", "march-2026", "--on-bad", "refuse"]
    assert outcome.called("ingest") == [ordinary]
    assert outcome.asset_events == [{"uri": contract.DATASET_URI, "extra": {"revision": "1f"}}]


def test_what_is_said_of_a_folder_reaches_the_command(runs: Runs) -> None:
    """Each param becomes the option of its name, a list one option an item, and the command understands them all."""
    said = {
        "kind": "csv",
        "on_bad": "quarantine",
        "attributes": "/data/sites.csv",
        "uncertain": ["zeros", "Edema=ones"],
        "mapping": "/data/columns.yaml",
        "view": "AP",
        "own_split": True,
        "deidentified": True,
    }
    outcome = runs.run(contract.INGEST_DAG_ID, {"path": "/data/x", "batch": "x", **said})
    [arguments] = outcome.called("ingest")
    assert arguments == [
        *("/data/x", "--kind", "csv", "--batch", "x", "--on-bad", "quarantine"),
        *("--attributes", "/data/sites.csv", "--uncertain", "zeros", "--uncertain", "Edema=ones"),
        *("--mapping", "/data/columns.yaml", "--view", "AP", "--own-split", "--deidentified"),
    ]
    options = {option for parameter in get_command(stage_app).commands["ingest"].params for option in parameter.opts}
    assert {one for one in arguments if one.startswith("--")} <= options


def test_every_kind_of_the_command_can_be_chosen(runs: Runs) -> None:
    """The form offers the kinds that `cxr-ops ingest` has commands for, and finds the kind out where none is named."""
    declared, _ = runs.describe()
    schema = declared[contract.INGEST_DAG_ID]["params"]["kind"]
    assert schema["enum"] == list(contract.KINDS)
    assert set(contract.KINDS) == set(get_command(ingest_app).commands)


WRONG = [
    {"path": "here"},
    {"batch": "../up"},
    {"batch": "a--b"},
    {"on_bad": "ignore"},
    {"kind": "nihh"},
    {"uncertain": ["Edema=twos"]},
    {"mapping": "columns.yaml"},
    {"view": "LL"},
]


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_params_are_checked(runs: Runs, wrong: dict[str, str]) -> None:
    """Relative paths, a batch that is no name, unknown kinds, policies and views are refused before anything runs."""
    conf = {"path": "/data", "batch": "b", **wrong}
    kind, message = runs.call("airflow_runs.check_params", contract.INGEST_DAG_ID, conf)
    assert kind == "ParamValidationError"
    [value] = wrong.values()
    assert str(value[0] if isinstance(value, list) else value) in message


@pytest.mark.parametrize(
    ("code", "says"), [(contract.EXIT_DATA, "was refused"), (contract.EXIT_SETTINGS, "could not be ingested")]
)
def test_people_are_told_of_a_batch_that_did_not_enter(runs: Runs, recorder: Recorder, code: int, says: str) -> None:
    """A refused batch is named once, without the reason, which names images; it is told from one that failed."""
    environ = {"CXR_NOTIFY": "chat", "AIRFLOW_CONN_CHAT": recorder.connection()}
    outcome = runs.run(
        contract.INGEST_DAG_ID, {"path": "/data", "batch": "march"}, environ=environ, ingest={"exit_codes": [code]}
    )
    assert outcome.state == "failed"
    assert outcome.asset_events == []
    [(_, _, body)] = recorder.posts
    assert body["event"] == "refused"
    assert body["text"].startswith(f"cxr-ops: batch march {says}")
    assert "told to fail" not in body["text"]
