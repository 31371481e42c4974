"""The quarantine of a batch: what could not enter, byte for byte, and the reason for each row or file.

    quarantine/<batch>/
      problems.csv       file, line, image_id, problem, the SHA-256 of the bytes that are kept for it, and patient_id
      files/<sha256>     those bytes: the picture that a problem is about, and each table of which a line is wrong

Bytes are named by their digest, so that no name that came with the batch becomes a name here. They may show people, and
hold whatever made them be refused. The list says whose a row is, as manifests do, and is for its owner alone: a purge
must find what was only ever refused. What an earlier version kept has no patients.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from cxr_ops.data import manifest, room
from cxr_ops.data.sources.source import Listing, Problem, flat_name
from cxr_ops.errors import printable
from cxr_ops.records.acceptance import PROBLEMS
from cxr_ops.records.base import write_private

FILES: Final = "files"
# What an earlier version wrote; the list of now has the patient besides, "" where a row does not tell.
EARLIER_COLUMNS: Final = ("file", "line", "image_id", "problem", "sha256")
COLUMNS: Final = (*EARLIER_COLUMNS, "patient_id")
# Of a refused batch, whose folder is still there, the bytes of the first files up to this are kept.
REFUSED_BYTES: Final = 2**30
_PIECE: Final = 2**20


def keep(
    quarantine: Path,
    folder: Path,
    listing: Listing,
    problems: Sequence[Problem],
    *,
    at_most: int | None = None,
    free_bytes: Callable[[Path], int] = room.free,
) -> Path:
    """Write the reasons, and keep the bytes that they are about.

    What an earlier attempt left there is replaced. Beside a problem stands the digest of its picture; of its table,
    where it has no picture that can be kept (a missing one, a link, a folder); and none, where it has neither.

    Args:
        quarantine: the folder of this batch's quarantine.
        folder: the folder that the batch came from.
        listing: what the source read there.
        problems: everything that is wrong.
        at_most: bytes to keep; a file that would go beyond is left where it is, and has no digest. None keeps all.
        free_bytes: gives the free room of the disk that holds a path.

    Returns:
        The path of the list.

    Raises:
        StorageError: there is no room. The list is there, without digests.
        OSError: a file cannot be read or written.
    """
    make(quarantine)
    shutil.rmtree(quarantine / FILES, ignore_errors=True)
    owners = {row.image_id: row.patient_id for row in listing.rows}
    problems = [replace(one, patient_id=one.patient_id or owners.get(one.image_id, "")) for one in problems]
    _write_list(quarantine, problems, {})
    about = _files(folder, listing, problems)
    chosen = list(_within({path for paths in about.values() for path in paths}, at_most))
    room.check(
        {quarantine: sum(path.stat().st_size for path in chosen)},
        "the quarantine of the batch",
        fix="free some, or set CXR_HOME to a larger disk",
        free_bytes=free_bytes,
    )
    if chosen:
        make(quarantine / FILES)
    digests = {path: _copy(path, quarantine / FILES) for path in chosen}
    return _write_list(
        quarantine, problems, {at: digests[paths[0]] for at, paths in about.items() if paths and paths[0] in digests}
    )


def make(folder: Path) -> None:
    """Make a folder of the quarantine, for its owner alone: what is in it may show people, and names them."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def _write_list(quarantine: Path, problems: Sequence[Problem], digests: Mapping[int, str]) -> Path:
    rows = [
        (one.file, one.line, one.image_id, one.what, digests.get(at, ""), one.patient_id)
        for at, one in enumerate(problems)
    ]
    path = quarantine / PROBLEMS
    table = pd.DataFrame(rows, columns=list(COLUMNS)).astype({"line": "Int64"})
    write_private(path, manifest.to_csv(table, COLUMNS))
    return path


def _files(folder: Path, listing: Listing, problems: Sequence[Problem]) -> dict[int, list[Path]]:
    """For each problem, by its number, the files that it is about: the picture first, then the table."""
    known = {row.image_id: row.path for row in listing.rows}
    strange = {one.image_id for one in problems if one.keep and one.image_id and one.image_id not in known}
    # Of a file without a row, the place that a problem names; it may be spelt out.
    strange |= {one.file for one in problems if one.keep and one.file and not one.line}
    known |= _find(folder, strange) if strange else {}
    found: dict[int, list[Path]] = {}
    for at, one in enumerate(problems):
        candidates = [known.get(one.image_id)] if one.image_id else []
        candidates.append(known.get(one.file, folder / one.file) if one.file else None)
        found[at] = [path for path in candidates if one.keep and path is not None and is_own_file(path, folder)]
    return found


def _find(folder: Path, image_ids: set[str]) -> dict[str, Path]:
    """Files of a folder that are called as these images are; links are not followed."""
    found: dict[str, Path] = {}
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            at = path.relative_to(folder).as_posix()
            for called in {printable(name), flat_name(at), printable(at)} & image_ids:
                found.setdefault(called, path)
    return found


def is_own_file(path: Path, folder: Path) -> bool:
    """Whether it is a file, and no link, that stands in the folder."""
    try:
        return stat.S_ISREG(path.lstat().st_mode) and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # not there, or a name that no file can have
        return False


def _within(paths: Iterable[Path], at_most: int | None) -> Iterator[Path]:
    """The files in the order of their names, as many as fit."""
    total = 0
    for path in sorted(paths):
        total += path.stat().st_size
        if at_most is not None and total > at_most:
            return
        yield path


def _copy(path: Path, files: Path) -> str:
    """Copy a file under the digest of what was copied."""
    aside = files / f".{os.getpid()}.part"
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source, aside.open("wb") as copy:
            while piece := source.read(_PIECE):
                digest.update(piece)
                copy.write(piece)
            copy.flush()
            os.fsync(copy.fileno())
        aside.replace(files / digest.hexdigest())
    finally:
        aside.unlink(missing_ok=True)
    return digest.hexdigest()
