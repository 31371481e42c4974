"""Locks between processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ops.errors import StorageError
from cxr_ops.locks import Lock, locked, works

TRY = """
import sys
from pathlib import Path
from cxr_ops.locks import Lock
with Lock(Path(sys.argv[1])) as lock:
    print(lock.try_acquire(shared=len(sys.argv) > 2), lock.recorded())
"""


def other(path: Path, *shared: str) -> str:
    """What another process finds: whether it gets the lock, and what is recorded."""
    done = subprocess.run([sys.executable, "-c", TRY, str(path), *shared], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_another_process_is_kept_out_and_told_who_works(tmp_path: Path) -> None:
    """While one process holds a lock, another gets neither kind of it, and reads what the first said of itself."""
    path = tmp_path / "new" / "x.lock"
    with locked(path) as lock:
        lock.record("a longer name")
        lock.record("me")
        assert other(path) == "False me"
        assert other(path, "shared") == "False me"
    assert other(path) == "True me"


def test_users_share_and_the_last_one_is_alone(tmp_path: Path) -> None:
    """A shared lock lets others share, and turns into an exclusive one only where nobody else holds it."""
    path = tmp_path / "x.lock"
    with Lock(path) as first:
        first.acquire(shared=True)
        with Lock(path) as second:
            assert second.try_acquire(shared=True)
            assert not first.try_acquire()
            assert first.try_acquire(shared=True)
        assert first.try_acquire()


def test_folder_of_no_use_is_named(tmp_path: Path) -> None:
    """Where no lock can be made, the error names the file; where one can, a probe leaves nothing behind."""
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="a lock cannot be made") as caught:
        Lock(tmp_path / "file" / "x.lock")
    assert str(tmp_path / "file" / "x.lock") in str(caught.value)
    assert works(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_no_other_file_locks() -> None:
    """The package has one implementation of locks; the log of receipts is written by a script that has no package."""
    package = Path(__file__).resolve().parents[1] / "cxr_ops"
    found = {path.name for path in package.rglob("*.py") if "fcntl" in path.read_text(encoding="utf-8")}
    assert found == {"locks.py", "receipts.py"}
