from __future__ import annotations

import pytest
import yaml
from airflow_runs import Apart

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize("value", [3, 1e-05, 2.5e22, -1e-7, True, None, "none", "1e5", "a: b", [1, 2]], ids=repr)
def test_settings_survive_the_command_line(airflow: Apart, value: object) -> None:
    """PyYAML reads a written setting back as the same value of the same type."""
    read = yaml.safe_load(airflow.call("cxr_ops.launchers.arguments.yaml_scalar", value))
    assert (type(read), read) == (type(value), value)


def test_a_rollback_names_who_decided_it(airflow: Apart) -> None:
    """Whoever started the run is named; where nobody is known by name, there is no rollback."""
    assert airflow.call("workers.rollback_arguments", "dr_lee")[2:4] == ["--by", "dr_lee"]
    for person in (None, "Anonymous", " "):
        kind, _ = airflow.call("workers.rollback_arguments", person)
        assert kind == "AirflowFailException"


def test_an_answer_names_a_person_by_name(airflow: Apart) -> None:
    """A login's number is no name; silence is nobody's answer, and one of an open Airflow is refused."""
    given = airflow.call("workers.answer_arguments", {"id": "2", "name": "dr_lee"})
    assert given[:5] == ["--run", "r-1", "--decision", "0f", "--reject"]
    assert given[-4:] == ["--by", "dr_lee", "--reason", ""]
    assert "--by" not in airflow.call("workers.answer_arguments", None)
    kind, _ = airflow.call("workers.answer_arguments", {"id": "Anonymous", "name": "Anonymous"})
    assert kind == "AirflowFailException"
