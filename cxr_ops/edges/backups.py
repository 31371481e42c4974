"""A folder of backups: files by the digest of their bytes, and a record for each backup.

    OUT/objects/<first two characters>/<SHA-256>
    OUT/backups/<time>.json

Backups share their objects, so one more costs what is new. An object is written aside, flushed and renamed; the record
comes last, so that half a backup has none. Nothing of an earlier backup is changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.records.backup import Backup, Stored

OBJECTS: Final = "objects"
RECORDS: Final = "backups"
_NAME: Final = re.compile(r"\d{8}T\d{6}Z(-\d+)?")
_PART: Final = 2**20
_ASIDE: Final = ".part"


def names(folder: Path) -> list[str]:
    """The names of the backups in a folder, the oldest first."""
    return sorted(path.stem for path in (folder / RECORDS).glob("*.json") if _NAME.fullmatch(path.stem))


def read(folder: Path, name: str | None = None) -> tuple[str, Backup]:
    """The record of a backup; the newest, if none is named.

    Raises:
        SettingsError: there is no such backup.
        DataError: its record is damaged.
    """
    there = names(folder)
    if not there or name not in (None, *there):
        known = f"there are {', '.join(there)}" if there else "there is none here"
        raise SettingsError(
            f"the folder holds no backup{f' {name!r}' if name else ''}: {known}",
            where=folder / RECORDS,
            fix="name the folder that `cxr-ops backup` was given",
        )
    chosen = name or there[-1]
    return chosen, Backup.read(folder / RECORDS / f"{chosen}.json")


def write(folder: Path, name: str, record: Backup) -> str:
    """Write the record of a backup whose objects are all there.

    Returns:
        The backup's name: `name`, or with a number where that is taken.
    """
    (folder / RECORDS).mkdir(mode=0o700, parents=True, exist_ok=True)
    taken, chosen, number = set(names(folder)), name, 1
    while chosen in taken:
        number += 1
        chosen = f"{name}-{number}"
    record.write(folder / RECORDS / f"{chosen}.json")
    return chosen


def place(folder: Path, sha256: str) -> Path:
    """Where an object stands, there or not."""
    return folder / OBJECTS / sha256[:2] / sha256


def put(folder: Path, source: Path, before: Stored | None = None) -> tuple[Stored, int]:
    """Put a file among the objects, unless its bytes are there.

    Args:
        folder: of the backups.
        source: the file.
        before: what the backup before says of the file at this path.

    Returns:
        What the file is, and how many bytes were written.

    Raises:
        FileNotFoundError: the file has gone.
        StorageError: it cannot be read or written, or it was changed meanwhile.
    """
    try:
        found = source.stat()
        if before and _same(before, found) and _whole(folder, before):
            return before.model_copy(update={"mode": stat.S_IMODE(found.st_mode)}), 0
        (folder / OBJECTS).mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = folder / OBJECTS / f"{os.getpid()}{_ASIDE}"
        try:
            sha256, size = _copy(source, aside)
            stored = Stored(sha256=sha256, size=size, modified=found.st_mtime_ns, mode=stat.S_IMODE(found.st_mode))
            if size != found.st_size:
                raise StorageError("the file changed while it was copied", where=source, fix="type the command again")
            if _whole(folder, stored):
                return stored, 0
            target = place(folder, sha256)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            aside.replace(target)
            return stored, size
        finally:
            aside.unlink(missing_ok=True)
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        raise StorageError(
            f"a file cannot be copied: {error.strerror}", where=error.filename or source, fix="mend it, then retry"
        ) from error


def take(folder: Path, stored: Stored, target: Path) -> None:
    """Write an object's bytes to a file that is not there, and compare them with their digest.

    Raises:
        DataError: the object is missing or is not what its name says.
        StorageError: the file cannot be written.
    """
    source = place(folder, stored.sha256)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        sha256, _ = _copy(source, target)
        if sha256 == stored.sha256:
            target.chmod(stored.mode)
            os.utime(target, ns=(stored.modified, stored.modified))
            return
        target.unlink()
    except FileNotFoundError as error:
        raise damaged(source, "missing") from error
    except OSError as error:
        raise StorageError(f"a file cannot be written: {error.strerror}", where=error.filename or target) from error
    raise damaged(source, "not what its name says")


def check(folder: Path, files: Mapping[str, Stored]) -> Iterator[tuple[int, str]]:
    """Read the objects of a backup and compare them with their digests.

    Yields:
        After each object its size, and the path of a file whose object is missing or damaged, or "".
    """
    seen: dict[str, str] = {}
    for path, stored in files.items():
        seen.setdefault(stored.sha256, path)
    for sha256, path in seen.items():
        try:
            with place(folder, sha256).open("rb") as file:
                same = hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except OSError:
            same = False
        yield files[path].size, "" if same else path


def damaged(path: Path, how: str) -> DataError:
    """The error of an object that is missing or damaged."""
    return DataError(
        f"an object of the backup is {how}; nothing was restored from it",
        where=path,
        fix="restore another backup (--backup NAME), or put the object back from a copy of the folder",
    )


def _same(before: Stored, found: os.stat_result) -> bool:
    return (before.size, before.modified) == (found.st_size, found.st_mtime_ns)


def _whole(folder: Path, stored: Stored) -> bool:
    """Whether an object is there with its size; `check` reads it."""
    try:
        return place(folder, stored.sha256).stat().st_size == stored.size
    except FileNotFoundError:
        return False


def _copy(source: Path, target: Path) -> tuple[str, int]:
    """Copy a file, flush it, and give the SHA-256 and the number of its bytes."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as old, target.open("xb") as new:
        while part := old.read(_PART):
            digest.update(part)
            size += len(part)
            new.write(part)
        new.flush()
        os.fsync(new.fileno())
    return digest.hexdigest(), size
