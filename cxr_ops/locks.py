"""The one kind of lock here: an OS lock on an open file. The kernel releases it when its holder dies, however it dies.

A file says who works under the lock, for whoever finds it taken or finds its last holder dead. A process that inherits
the open file holds the lock as well. Standard library only: a launcher imports this when a DAG file is read.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from cxr_ops.errors import StorageError

_RECORD_BYTES: Final = 16 * 1024
_KERNEL: Final = Path("/proc/locks")


class Lock:
    """A lock file that is open; it is held from `acquire` or `try_acquire` until the block ends.

    Args:
        path: the file, which is made with its folder.
        mode: its rights where it is made.

    Raises:
        StorageError: the file cannot be made or opened.
    """

    def __init__(self, path: Path, *, mode: int = 0o600) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        except OSError as error:
            raise StorageError(
                f"a lock cannot be made: {error.strerror}", where=path, fix="mend the folder's rights, or free space"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.file)

    def try_acquire(self, *, shared: bool = False) -> bool:
        """Take the lock if nobody else holds it; its holder may turn one kind into the other."""
        try:
            fcntl.flock(self.file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def acquire(self, *, shared: bool = False) -> None:
        """Wait for the lock."""
        fcntl.flock(self.file, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)

    def release(self) -> None:
        """Give the lock back before the block ends."""
        fcntl.flock(self.file, fcntl.LOCK_UN)

    def record(self, text: str) -> None:
        """Say who works under the lock; see `record`."""
        record(self.file, text)

    def recorded(self) -> str:
        """What the last holder said of itself."""
        return os.pread(self.file, _RECORD_BYTES, 0).decode(errors="replace").strip()


def record(file: int, text: str) -> None:
    """Say in an open lock file who works under the lock, in one write; an empty text: nobody.

    Raises:
        ValueError: the text has more than 16 KiB of UTF-8.
    """
    told = text.encode()
    if len(told) > _RECORD_BYTES:
        raise ValueError(f"a lock's record has at most {_RECORD_BYTES} bytes, and this has {len(told)}")
    os.pwrite(file, told.ljust(_RECORD_BYTES), 0)


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Wait for a lock and hold it."""
    with Lock(path) as lock:
        lock.acquire()
        yield lock


def is_held(path: Path) -> bool:
    """Whether a process of this machine holds a lock, without a try at it that could keep another out for a moment.

    The kernel's table is read; a lock that is held in another machine is not in it.
    """
    try:
        inode = path.stat().st_ino
        lines = _KERNEL.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    words = (line.split() for line in lines)
    return any(row[1] == "FLOCK" and row[-3].rpartition(":")[2] == str(inode) for row in words if "->" not in row)


def works(folder: Path) -> bool:
    """Whether a lock in a folder keeps a second one out; some network file systems let both in, or neither.

    Raises:
        StorageError: the folder cannot be written.
    """
    path = folder / f".probe-{os.getpid()}"
    try:
        with Lock(path) as first, Lock(path) as second:
            return first.try_acquire() and not second.try_acquire()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        return False  # the file system knows no locks
    finally:
        path.unlink(missing_ok=True)
