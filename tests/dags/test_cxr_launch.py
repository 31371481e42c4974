from __future__ import annotations

import json

import pytest
import yaml
from airflow_runs import Runs

from cxr_ops import contract

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize("value", [3, 1e-05, 2.5e22, -1e-7, True, None, "none", "1e5", "a: b", [1, 2]], ids=repr)
def test_settings_survive_the_command_line(runs: Runs, value: object) -> None:
    """PyYAML reads a written setting back as the same value of the same type."""
    read = yaml.safe_load(runs.call("cxr_launch.yaml_scalar", value))
    assert (type(read), read) == (type(value), value)


def test_exit_codes_say_whether_to_try_again(runs: Runs) -> None:
    """Exactly the exit codes that the contract calls final end a task for good; the error quotes what was said."""
    final = set()
    for code in (*range(1, 20), contract.EXIT_STOPPED, -9):
        kind, message = runs.call("cxr_launch.result_of", "train", code, "", "error: no room\n")
        assert f"exit code {code}" in message
        assert "error: no room" in message
        if kind == "AirflowFailException":
            final.add(code)
    assert final == set(contract.NEVER_RETRIED)


def test_the_result_is_the_last_line(runs: Runs) -> None:
    """Lines before the last one do not count, nor does a blank one after it."""
    assert runs.call("cxr_launch.result_of", "train", 0, 'noise\n{"package": "1f"}\n\n', "") == {"package": "1f"}


@pytest.mark.parametrize("last", ["", "done", "[1]", "null", '{"a": '], ids=str)
def test_only_an_object_is_a_result(runs: Runs, last: str) -> None:
    """A command that ends well without a JSON object is at fault, and is not tried again."""
    kind, message = runs.call("cxr_launch.result_of", "train", 0, f"noise\n{last}", "")
    assert kind == "AirflowFailException"
    assert "no JSON object" in message


def test_a_result_is_small(runs: Runs) -> None:
    """48 KiB of result pass, a byte more is refused."""
    fits = json.dumps({"a": "x" * (48 * 1024 - 9)})
    assert len(fits) == 48 * 1024
    assert runs.call("cxr_launch.result_of", "open", 0, fits, "") == json.loads(fits)
    kind, _ = runs.call("cxr_launch.result_of", "open", 0, fits.replace("x", "xx", 1), "")
    assert kind == "AirflowFailException"
