"""Tests of cxr_ops.attempt: the file between a stage's command and its launcher."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cxr_ops import attempt
from cxr_ops.attempt import Attempt
from cxr_ops.errors import DataError, StorageError

# As the first version wrote it; every later one reads it.
WELL = {
    "error": None,
    "exit_code": 0,
    "format": 1,
    "result": {"no_change": False, "package": "1f", "run": "r-1"},
    "verb": "train",
}
ILL = {
    "error": {"fix": None, "kind": "DataError", "what": "2 rows are bad", "where": "index.csv"},
    "exit_code": 10,
    "format": 1,
    "result": None,
    "verb": "train",
}


def leave(folder: Path, content: Any) -> None:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (folder / "result.json").write_bytes(text)


def test_a_result_is_read(tmp_path: Path) -> None:
    """What a stage that ended well left is its result."""
    leave(tmp_path, WELL)
    ended = attempt.read(tmp_path, "train")
    assert (ended.exit_code, ended.result, ended.why()) == (0, WELL["result"], None)


def test_an_error_is_read(tmp_path: Path) -> None:
    """What a stage that failed left is its error, of the same class and with the same words."""
    leave(tmp_path, ILL)
    ended = attempt.read(tmp_path, "train")
    why = ended.why()
    assert (ended.exit_code, ended.result) == (10, None)
    assert isinstance(why, DataError)
    assert (why.what, why.where, why.fix) == ("2 rows are bad", "index.csv", None)


@pytest.mark.parametrize("told", [WELL, ILL], ids=["result", "error"])
def test_the_bytes_are_those_of_the_format(told: dict[str, Any]) -> None:
    """What is written is JSON with sorted keys, of the keys that the format has."""
    ended = Attempt(**{key: value for key, value in told.items() if key != "format"})
    assert ended.to_bytes() == json.dumps(told, indent=2).encode() + b"\n"


def test_keys_of_a_later_version_are_passed_over(tmp_path: Path) -> None:
    """A key that this version does not know does not make a file unreadable."""
    leave(tmp_path, {**WELL, "seconds": 3})
    assert attempt.read(tmp_path, "train").result == WELL["result"]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(json.dumps(WELL).encode()[:-9], id="cut short"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 100_000, id="too deep"),
        pytest.param([WELL], id="a list"),
        pytest.param({key: value for key, value in WELL.items() if key != "format"}, id="no format"),
        pytest.param({**WELL, "format": 2}, id="another format"),
        pytest.param({**WELL, "exit_code": "0"}, id="exit code in words"),
        pytest.param({**WELL, "exit_code": False}, id="exit code False"),
        pytest.param({**WELL, "exit_code": 1}, id="failed with a result"),
        pytest.param({**WELL, "result": None}, id="ended well without a result"),
        pytest.param({**WELL, "result": ["1f"]}, id="result is a list"),
        pytest.param({**WELL, "verb": None}, id="no verb"),
        pytest.param({**ILL, "exit_code": 0}, id="ended well with an error"),
        pytest.param({**ILL, "error": "bad"}, id="error is a word"),
        pytest.param({**ILL, "error": {"kind": "DataError", "what": "bad"}}, id="error without where"),
        pytest.param({**ILL, "error": {**ILL["error"], "what": None}}, id="error says nothing"),
        pytest.param({**WELL, "result": {"a": "x" * 2**20}}, id="too large"),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, content: Any) -> None:
    """What is cut short, of another format, too large or contradicts itself is an error that names the file."""
    leave(tmp_path, content)
    with pytest.raises(DataError, match=r"its result\.json is damaged") as error:
        attempt.read(tmp_path, "train")
    assert error.value.where == str(tmp_path / "result.json")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """Where nothing was left, the error says so and where it would have been."""
    with pytest.raises(DataError, match=r"it left no result\.json") as error:
        attempt.read(tmp_path, "train")
    assert error.value.where == str(tmp_path / "result.json")


def test_a_result_of_another_stage_is_refused(tmp_path: Path) -> None:
    """A file that another stage left is not taken for this one's."""
    leave(tmp_path, WELL)
    with pytest.raises(DataError, match="of the stage 'train'"):
        attempt.read(tmp_path, "gate")


@pytest.mark.parametrize("kind", ["a link", "a pipe", "a folder"])
def test_only_a_regular_file_is_read(tmp_path: Path, kind: str) -> None:
    """A link is not followed, and a pipe, which nobody may ever write to, is not waited for."""
    path = tmp_path / "result.json"
    if kind == "a link":
        (tmp_path / "elsewhere").write_text(json.dumps(WELL))
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        attempt.read(tmp_path, "train")


def test_each_attempt_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """A number that comes again gets a new folder, which is then the last one; other numbers do not disturb it."""
    made = [attempt.make_folder(tmp_path, "r-1", "train", number) for number in (1, 2, 1, 1, 11)]
    assert [re.sub(r".*/airflow/stages/r-1/train/", "", str(folder)) for folder in made] == [
        *("1", "2", "1-2", "1-3", "11")
    ]
    assert [attempt.last_folder(tmp_path, "r-1", "train", number) for number in (1, 2, 11)] == [
        made[3],
        made[1],
        made[4],
    ]
    assert attempt.last_folder(tmp_path, "r-1", "train", 3) is None
    assert attempt.last_folder(tmp_path, "r-1", "gate", 1) is None


def test_an_end_is_a_result_or_an_error() -> None:
    """Neither a result with a failure's exit code nor a success without a result can be made."""
    for wrong in ({"exit_code": 0}, {"exit_code": 1}, {"exit_code": 1, "result": {}}, {"exit_code": 0, "error": {}}):
        with pytest.raises(ValueError, match="exit code"):
            Attempt(verb="train", **wrong)
