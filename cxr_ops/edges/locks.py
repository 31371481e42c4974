"""The one kind of lock here: an OS lock on an open file. The kernel releases it when its holder dies, however it dies.

A file says who works under the lock, for whoever finds it taken or finds its last holder dead.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from cxr_ops.errors import StorageError

_RECORD_BYTES: Final = 4096


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
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
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

    def record(self, text: str) -> None:
        """Say who works under the lock, in one write; an empty text: nobody. At most 4096 bytes of UTF-8."""
        os.pwrite(self.file, text.encode().ljust(_RECORD_BYTES), 0)

    def recorded(self) -> str:
        """What the last holder said of itself."""
        return os.pread(self.file, _RECORD_BYTES, 0).decode(errors="replace").strip()


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Wait for a lock and hold it."""
    with Lock(path) as lock:
        lock.acquire()
        yield lock


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
