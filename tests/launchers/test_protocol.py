from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from airflow_runs import Apart

from cxr_ops import contract

pytestmark = pytest.mark.airflow

RESULT_OF = "cxr_ops.launchers.protocol.result_of"


def leave(folder: Path, exit_code: int, result: dict[str, Any] | None = None, what: str | None = None) -> None:
    error = what and {"kind": "DataError", "what": what, "where": "row 7", "fix": "mend row 7"}
    ended = {"format": 1, "verb": "train", "exit_code": exit_code, "result": result, "error": error}
    (folder / "result.json").write_text(json.dumps(ended))


def test_the_result_is_the_file(airflow: Apart, tmp_path: Path) -> None:
    """What the command left is the task's result, whatever it said."""
    leave(tmp_path, 0, {"package": "1f"})
    assert airflow.call(RESULT_OF, "train", 0, tmp_path, '{"package": "2e"}\n') == {"package": "1f"}


def test_the_error_is_the_file(airflow: Apart, tmp_path: Path) -> None:
    """A task fails with the words of its stage's error: what, where and what to do next."""
    leave(tmp_path, contract.EXIT_DATA, what="a row is bad")
    kind, message = airflow.call(RESULT_OF, "train", contract.EXIT_DATA, tmp_path, "noise")
    assert kind == "AirflowFailException"
    assert message == "stage train ended with exit code 10: a row is bad\n  where: row 7\n  next:  mend row 7"


@pytest.mark.parametrize("left", [True, False], ids=["with a file", "without one"])
def test_exit_codes_say_whether_to_try_again(airflow: Apart, tmp_path: Path, left: bool) -> None:
    """Exactly the exit codes that the contract calls final end a task for good, with a file and without one."""
    final = set()
    for code in (*range(1, 20), contract.EXIT_STOPPED, 137, -9):
        if left:
            leave(tmp_path, code, what="no room")
        kind, message = airflow.call(RESULT_OF, "train", code, tmp_path, "no room\n")
        assert f"exit code {code}" in message
        assert "no room" in message
        if kind == "AirflowFailException":
            final.add(code)
    assert final == set(contract.NEVER_RETRIED)


@pytest.mark.parametrize(("code", "name"), [(-9, "SIGKILL"), (137, "SIGKILL"), (-15, "SIGTERM")])
def test_a_kill_is_named(airflow: Apart, tmp_path: Path, code: int, name: str) -> None:
    """What was killed left nothing: the error says so, names the signal and quotes the end of the log."""
    lines = "".join(f"line {number}\n" for number in range(40))
    kind, message = airflow.call(RESULT_OF, "train", code, tmp_path, lines)
    assert kind == "AirflowException"
    assert message.startswith(f"stage train ended with exit code {code} ({name}); it left no result.json\n")
    assert message.endswith("\nline 39")
    assert "line 24\n" not in message


@pytest.mark.parametrize("damage", [None, b'{"format": 1, "verb": "tra'], ids=["missing", "cut short"])
def test_success_without_a_result_is_a_failure(airflow: Apart, tmp_path: Path, damage: bytes | None) -> None:
    """A command that ended well and left nothing, or half a file, is tried again; the error says what is wrong."""
    if damage:
        (tmp_path / "result.json").write_bytes(damage)
    kind, message = airflow.call(RESULT_OF, "train", 0, tmp_path, "all is well\n")
    assert kind == "AirflowException"
    assert ("is damaged" if damage else "it left no result.json") in message
    assert str(tmp_path / "result.json") in message
    assert "CXR_HOME" in message


def test_a_file_that_contradicts_the_exit_code_is_no_result(airflow: Apart, tmp_path: Path) -> None:
    """A process that crashed after it had left a result did not end well."""
    leave(tmp_path, 0, {"package": "1f"})
    kind, message = airflow.call(RESULT_OF, "train", -11, tmp_path, "")
    assert kind == "AirflowException"
    assert "exit code -11 (SIGSEGV), but its result.json says exit code 0" in message


def test_a_result_is_small(airflow: Apart, tmp_path: Path) -> None:
    """48 KiB of result pass; a byte more is refused for good."""
    fits = {"a": "x" * (48 * 1024 - 9)}
    assert len(json.dumps(fits)) == 48 * 1024
    leave(tmp_path, 0, fits)
    assert airflow.call(RESULT_OF, "train", 0, tmp_path, "") == fits
    leave(tmp_path, 0, {"a": fits["a"] + "x"})
    kind, message = airflow.call(RESULT_OF, "train", 0, tmp_path, "")
    assert kind == "AirflowFailException"
    assert "49153 bytes, more than 49152" in message


@pytest.mark.parametrize("left", [True, False], ids=["with a file", "without one"])
def test_what_the_launcher_knows_is_told(airflow: Apart, tmp_path: Path, left: bool) -> None:
    """What a launcher alone knows of a bad end, such as a lack of memory, ends the error."""
    if left:
        leave(tmp_path, 1, what="train ended without giving a reason")
    _, message = airflow.call("airflow_runs.result_with_note", "train", 1, tmp_path, "a line", "no memory")
    assert message.endswith("\nno memory")
    assert ("a line" in message) is not left
