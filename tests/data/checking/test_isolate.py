"""Work in other processes that may die."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from types import ModuleType

import pytest

from cxr_ops.data.checking import isolate

SOURCE = """
import os, resource, signal

def fault_in(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        [bytearray(size) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def double(number):
    if number in (5, 20, 333):
        os.kill(os.getpid(), signal.SIGSEGV)
    if number == -1:
        try:
            return len(bytearray(6 * 2**30))
        except MemoryError:
            return 0
    if number == -99:
        raise ValueError("ninety-nine")
    return 2 * number
"""


@pytest.fixture
def fragile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module that other processes can import, whose function crashes the process on 5, 20 and 333."""
    (tmp_path / "cxr_test_fragile.py").write_text(SOURCE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module("cxr_test_fragile")


def test_the_items_that_kill_are_named_and_the_others_are_done(fragile: ModuleType) -> None:
    """Of 400 items, those on which the process crashes are told; all others have their result, in order."""
    results = list(isolate.each(fragile.double, range(400), processes=2))
    assert [at for at, result in enumerate(results) if isinstance(result, isolate.DiedError)] == [5, 20, 333]
    assert all(result == 2 * at for at, result in enumerate(results) if isinstance(result, int))


def test_an_exception_is_not_a_death(fragile: ModuleType) -> None:
    """What the function raises reaches the caller."""
    with pytest.raises(ValueError, match="ninety-nine"):
        list(isolate.each(fragile.double, [-99], processes=1))


def test_memory_has_a_bound(fragile: ModuleType) -> None:
    """A process that asks for more than the bound gets none of it."""
    assert list(isolate.each(fragile.double, [-1, 4], processes=1)) == [0, 8]


def test_what_one_picture_needed_serves_the_next(fragile: ModuleType) -> None:
    """Of 50 times four blocks of a picture's size, the first alone have their pages made."""
    pages = 4 * 2**23 // os.sysconf("SC_PAGE_SIZE")
    [made] = isolate.each(fragile.fault_in, [2**23])
    assert made < 3 * pages


def test_no_items_need_no_process(fragile: ModuleType) -> None:
    """Nothing to do gives nothing."""
    assert list(isolate.each(fragile.double, [])) == []


def test_no_item_is_blamed_when_no_process_starts(
    fragile: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the function cannot even be imported, the error says so in place of accusing each item."""
    (tmp_path / "cxr_test_fragile.py").write_text("import os; os._exit(3)", encoding="utf-8")
    with pytest.raises(RuntimeError, match="none of the items is to blame"):
        list(isolate.each(fragile.double, [1, 2], processes=1))
