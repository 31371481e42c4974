"""Whether disks have room for what is about to be written, asked before the work begins; and what a full one says."""

from __future__ import annotations

import errno
import shutil
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cxr_ops.errors import StorageError

_NOTHING: Final = 2**20  # bytes: a disk with fewer is full


def free(path: Path) -> int:
    """Bytes that are free on the disk of a path, which need not exist yet."""
    return shutil.disk_usage(_existing(path)).free


def check(
    needs: Mapping[Path, int], what: str, *, fix: str, free_bytes: Callable[[Path], int] = free
) -> dict[Path, int]:
    """See that there is room; needs on one disk are added up.

    Args:
        needs: bytes that will be written, by the folder that they are written to, which need not exist yet.
        what: the subject of the error's sentence, such as `the batch`.
        fix: what a person does where there is too little room.
        free_bytes: gives the free room of the disk that holds a path.

    Returns:
        For each folder the bytes that stay free on its disk.

    Raises:
        StorageError: a disk has too little room; the error says where, how much is free and how much is needed.
    """
    disks: defaultdict[int, list[Path]] = defaultdict(list)
    for path in needs:
        disks[_existing(path).stat().st_dev].append(path)
    left: dict[Path, int] = {}
    for paths in disks.values():
        needed, room = sum(needs[path] for path in paths), free_bytes(paths[0])
        if needed > room:
            raise StorageError(
                f"too little disk: {told(room)} are free, and {what} needs {told(needed)}",
                where=", ".join(map(str, paths)),
                fix=fix,
            )
        left |= dict.fromkeys(paths, room - needed)
    return left


@contextmanager
def storage_errors(root: Path, *, then: str = "") -> Iterator[None]:
    """Turn what the disk says into an error for people.

    Args:
        root: where it happened, if the disk does not say.
        then: what a person types when it is mended.

    Raises:
        StorageError: a file cannot be read or written, such as on a full disk.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        # NumPy says no more than that fewer bytes were written.
        full = error.errno in (errno.ENOSPC, errno.EDQUOT) or (error.errno is None and free(root) < _NOTHING)
        fix = "free some room" if full else "check who may write there"
        raise StorageError(
            f"{'the disk is full' if full else 'a file cannot be read or written'}: {error.strerror or error}",
            where=error.filename or root,
            fix=f"{fix}, {then}" if then else fix,
        ) from error


def told(count: int) -> str:
    """A number of bytes for people.

    >>> told(3 * 2**20), told(42 * 2**30)
    ('3 MiB', '42.0 GiB')
    """
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.0f} MiB"


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that exists."""
    return next((one for one in (path, *path.parents) if one.exists()), Path("/"))
