"""Where a command writes what it was asked to write: looked at before the work, and never replaced by accident.

A file is replaced at once, so that nobody reads half of it; where the path is a link, the file that it leads to is.
What is no regular file (a pipe, a device, a terminal) is written to. `-`, `/dev/stdout` and `/dev/fd/N` are the
descriptors that the command was started with, whatever they lead to: opening them by name would empty a file that the
shell has opened for it.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cxr_ops.errors import SettingsError, StorageError
from cxr_ops.records.base import write_atomic

_STREAMS: Final = {"-": 1, "/dev/stdout": 1, "/dev/stderr": 2}
_DESCRIPTOR: Final = re.compile(r"/(?:dev|proc/self)/fd/([0-9]+)")


def descriptor(path: Path) -> int | None:
    """The number of the open file that a path names, such as 1 for `/dev/stdout`; None for any other path."""
    match = _DESCRIPTOR.fullmatch(str(path))
    return int(match[1]) if match else _STREAMS.get(str(path))


def check(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """See that every output can be written, and that none of them is an input or another output.

    Args:
        outputs: option -> where it writes; None is not asked for.
        inputs: option -> what is read.

    Raises:
        StorageError: a folder is missing or cannot be written to, or the path is a folder.
        SettingsError: two options name the same file.
    """
    taken = {_same(path): option for option, path in inputs.items() if path is not None}
    for option, path in outputs.items():
        if path is None:
            continue
        _check_one(option, path)
        other = taken.setdefault(_same(path), option)
        if other != option:
            raise SettingsError(f"{other} and {option} name the same file", where=path, fix=f"give {option} another")


def _same(path: Path) -> object:
    """Equal for two names of one file."""
    number = descriptor(path)
    return path.resolve() if number is None else number


def _check_one(option: str, path: Path) -> None:
    number = descriptor(path)
    try:
        found = os.fstat(number) if number is not None else path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        if number is not None:
            raise StorageError(
                f"{option} cannot be written: no such descriptor", where=path, fix="name a file"
            ) from error
        target = path.resolve()  # a link may lead to a file that is not there yet
        folder = target.parent
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            fix = "name a place in a folder" if folder.exists() else f"make it first: mkdir -p {folder}"
            raise StorageError(f"{option} writes into a folder that {what}", where=folder, fix=fix) from None
        if not os.access(folder, os.W_OK | os.X_OK):
            raise StorageError(
                f"{option} writes into a folder that you may not write to", where=folder, fix="name another place"
            ) from None
        return
    except OSError as error:
        raise StorageError(f"{option} cannot be written: {error.strerror}", where=path, fix="name a file") from error
    if stat.S_ISDIR(found.st_mode):
        raise StorageError(f"{option} names a folder", where=path, fix=f"name a file in it: {path / 'comparison'}")
    if number is None and not os.access(path, os.W_OK):
        raise StorageError(f"{option} names a file that you may not write to", where=path, fix="name another place")


def write(path: Path, data: bytes) -> None:
    """Write to a place that `check` has looked at.

    Raises:
        StorageError: the disk is full, a reader went away, or the place has changed.
    """
    number = descriptor(path)
    try:
        if number is not None:
            sys.stdout.flush()
            with os.fdopen(os.dup(number), "wb") as file:
                file.write(data)
        elif path.exists() and not (path.is_file() and os.access(path.resolve().parent, os.W_OK)):
            with path.open("wb") as file:
                file.write(data)
        else:
            write_atomic(path.resolve(), data)
    except OSError as error:
        raise StorageError(f"the result cannot be written: {error.strerror}", where=path) from error
