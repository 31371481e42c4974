"""Tests of cxr_ops.edges.attempt: what a stage's command leaves about its end."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from projects import PYTHON

from cxr_ops import attempt as files
from cxr_ops.edges import attempt
from cxr_ops.errors import CxrError, StorageError


def ended(folder: Path) -> files.Attempt:
    return files.read(folder, "gate")


def test_a_result_is_left(tmp_path: Path) -> None:
    """A stage that ends well leaves its result in a folder that is made, and nothing beside it."""
    folder = tmp_path / "a" / "1"
    attempt.run("gate", folder, lambda: {"verdict": "REJECT"})
    assert (ended(folder).exit_code, ended(folder).result) == (0, {"verdict": "REJECT"})
    assert [path.name for path in folder.iterdir()] == ["result.json"]


def test_without_a_folder_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person's command does its work and writes nothing."""
    monkeypatch.chdir(tmp_path)
    done = []
    attempt.run("gate", None, lambda: {"done": done.append(1)})
    assert done == [1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", CxrError.__subclasses__(), ids=lambda kind: kind.__name__)
def test_an_error_is_left_and_goes_on(tmp_path: Path, kind: type[CxrError]) -> None:
    """Class, exit code and words of an error are left, and it reaches the command all the same."""
    with pytest.raises(kind):
        attempt.run("gate", tmp_path, raising(kind("no room", where="here", fix="make room")))
    why = ended(tmp_path).why()
    assert type(why) is kind
    assert (str(why), ended(tmp_path).exit_code) == ("no room\n  where: here\n  next:  make room", kind.exit_code)


@pytest.mark.parametrize(
    ("error", "code", "what"),
    [(KeyError("epochs"), 1, "KeyError: 'epochs'"), (KeyboardInterrupt(), 130, "stopped by Ctrl-C")],
    ids=["a fault", "Ctrl-C"],
)
def test_a_fault_is_left_and_goes_on(tmp_path: Path, error: BaseException, code: int, what: str) -> None:
    """What is no error of a person's is left with the exit code that the command then has."""
    with pytest.raises(type(error)):
        attempt.run("gate", tmp_path, raising(error))
    assert (ended(tmp_path).exit_code, ended(tmp_path).error["what"]) == (code, what)


def test_a_fault_names_its_line(tmp_path: Path) -> None:
    """A fault of the program is told with the file and line that raised it."""
    with pytest.raises(ZeroDivisionError):
        attempt.run("gate", tmp_path, lambda: {"a": 1 // 0})
    path, _, line = str(ended(tmp_path).error["where"]).rpartition(":")
    assert path == __file__
    assert "1 // 0" in Path(path).read_text().splitlines()[int(line) - 1]


def test_what_json_cannot_hold_is_no_result(tmp_path: Path) -> None:
    """A result that is not a number is a fault, and no file says that the stage ended well."""
    with pytest.raises(ValueError, match="JSON"):
        attempt.run("gate", tmp_path, lambda: {"auc": float("nan")})
    assert ended(tmp_path).exit_code == 1


def test_a_kill_leaves_nothing_not_even_what_was_there(tmp_path: Path) -> None:
    """After SIGKILL in the middle of the work there is no file, though an earlier attempt left one in the folder."""
    attempt.run("gate", tmp_path, lambda: {"verdict": "PROMOTE"})
    program = (
        "import os, pathlib, sys; from cxr_ops.edges import attempt\n"
        "attempt.run('gate', pathlib.Path(sys.argv[1]), lambda: os.kill(os.getpid(), 9))"
    )
    killed = subprocess.run([PYTHON, "-c", program, str(tmp_path)])
    assert killed.returncode == -signal.SIGKILL
    assert list(tmp_path.iterdir()) == []


def test_the_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the whole file is written, it has another name."""
    seen: list[tuple[bool, bytes]] = []
    rename = Path.replace

    def look(aside: Path, target: Path) -> Path:
        seen.append((target.exists(), aside.read_bytes()))
        return rename(aside, target)

    monkeypatch.setattr(Path, "replace", look)
    attempt.run("gate", tmp_path, lambda: {"verdict": "REJECT"})
    assert seen == [(False, (tmp_path / "result.json").read_bytes())]


def test_a_folder_that_cannot_be_written_stops_the_stage_first(tmp_path: Path) -> None:
    """The work is not begun where its end could not be told."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        attempt.run("gate", tmp_path / "file", raising(AssertionError("begun")))


def test_a_full_disk_hides_no_error(tmp_path: Path) -> None:
    """Where the folder is gone when the work fails, the work's own error is raised; a result is then none."""

    def fail(folder: Path) -> Any:
        folder.rmdir()
        raise CxrError("the true one")

    with pytest.raises(CxrError, match="the true one"):
        attempt.run("gate", tmp_path / "a", lambda: fail(tmp_path / "a"))
    with pytest.raises(StorageError, match="how the stage ended cannot be written"):
        attempt.run("gate", tmp_path / "b", lambda: {"a": (tmp_path / "b").rmdir()})


def raising(error: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise error

    return work
