"""Tests of tools/compare_with.py: what differs between two versions' files is found and explained, or named."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "tools" / "compare_with.py"


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare_with", SOURCE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "RENAMED_FILES", {"old.json": "new.json"})
    monkeypatch.setattr(module, "RENAMED_KEYS", {"epoch": "period"})
    meant = module.Expected(file=r".*/new\.json", key="added", why="a key that is new")
    monkeypatch.setattr(module, "EXPECTED", (meant,))
    return module


def found(tool: ModuleType, old: dict[str, bytes], new: dict[str, bytes]) -> list[tuple[str, str, str, str]]:
    return [(one.file, one.key, one.old, one.new) for one in tool.differences(old, new)]


def test_every_value_that_differs_is_named(tool: ModuleType) -> None:
    """A value, a key, an item of a list, a file and a table's bytes that differ are each named, and nothing else."""
    old = {"a.json": b'{"x": {"y": [1, 2]}, "same": 1}', "t.csv": b"1\n", "gone": b"1", "same.csv": b"2"}
    new = {"a.json": b'{"x": {"y": [1, 3, 4]}, "same": 1}', "t.csv": b"1.0\n", "came": b"", "same.csv": b"2"}
    assert found(tool, old, new) == [
        ("a.json", "x.y[1]", "2", "3"),
        ("a.json", "x.y[2]", "absent", "4"),
        ("came", "", "absent", "0 bytes"),
        ("gone", "", "1 bytes", "absent"),
        ("t.csv", "", "2 bytes", "4 bytes"),
    ]


def test_names_that_moved_are_compared_under_the_new_ones(tool: ModuleType) -> None:
    """A renamed file and a renamed key are no difference of values; that the bytes differ is said all the same."""
    old, new = {"one/old.json": b'{"a": {"epoch": 1}}'}, {"one/new.json": b'{"a": {"period": 1}}'}
    assert found(tool, old, new) == [("one/new.json", "(layout)", "keys by other names", "or in another order")]
    assert found(tool, old, {"one/new.json": b'{"a": {"period": 2}}'}) == [("one/new.json", "a.period", "1", "2")]


def test_what_nothing_explains_fails(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """A difference that is on the list is told with its reason; one that is not is told and ends with 1."""
    assert tool.tell({"one/new.json": b'{"v": 1}'}, {"one/new.json": b'{"v": 1, "added": 1}'}) == 0
    assert "a key that is new" in capsys.readouterr().out
    assert tool.tell({"one/new.json": b'{"v": 1}'}, {"one/new.json": b'{"v": 2, "added": 1}'}) == 1
    assert "UNEXPECTED: 1\n  one/new.json: v: 1 -> 2" in capsys.readouterr().out
