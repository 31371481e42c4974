from __future__ import annotations

import json

import pytest
from airflow_runs import Apart

from cxr_ops import contract

pytestmark = pytest.mark.airflow


def test_exit_codes_say_whether_to_try_again(airflow: Apart) -> None:
    """Exactly the exit codes that the contract calls final end a task for good; the error quotes what was said."""
    final = set()
    for code in (*range(1, 20), contract.EXIT_STOPPED, -9):
        kind, message = airflow.call("cxr_ops.launchers.protocol.result_of", "train", code, "", "error: no room\n")
        assert f"exit code {code}" in message
        assert "error: no room" in message
        if kind == "AirflowFailException":
            final.add(code)
    assert final == set(contract.NEVER_RETRIED)


def test_the_result_is_the_last_line(airflow: Apart) -> None:
    """Lines before the last one do not count, nor does a blank one after it."""
    assert airflow.call("cxr_ops.launchers.protocol.result_of", "train", 0, 'noise\n{"package": "1f"}\n\n', "") == {
        "package": "1f"
    }


@pytest.mark.parametrize("last", ["", "done", "[1]", "null", '{"a": '], ids=str)
def test_only_an_object_is_a_result(airflow: Apart, last: str) -> None:
    """A command that ends well without a JSON object is at fault, and is not tried again."""
    kind, message = airflow.call("cxr_ops.launchers.protocol.result_of", "train", 0, f"noise\n{last}", "")
    assert kind == "AirflowFailException"
    assert "no JSON object" in message


def test_a_result_is_small(airflow: Apart) -> None:
    """48 KiB of result pass, a byte more is refused."""
    fits = json.dumps({"a": "x" * (48 * 1024 - 9)})
    assert len(fits) == 48 * 1024
    assert airflow.call("cxr_ops.launchers.protocol.result_of", "open", 0, fits, "") == json.loads(fits)
    kind, _ = airflow.call("cxr_ops.launchers.protocol.result_of", "open", 0, fits.replace("x", "xx", 1), "")
    assert kind == "AirflowFailException"
