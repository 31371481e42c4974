"""Finds DICOM files in a folder and reads their headers, for the sources whose pictures are DICOM.

Headers are bytes that nobody vouches for: they are read in other processes, whose death is survived and told.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from cxr_ops.data.checking import isolate
from cxr_ops.data.checking.dicom import Facts, Header, Refused, facts
from cxr_ops.data.sources.source import Problem
from cxr_ops.errors import DataError, StorageError

_NOT_IMAGES: Final = ("DICOMDIR", "Thumbs.db", "desktop.ini")  # the index of a disc, and what file browsers leave


def find_files(folder: Path, *, below: Path, leave_out: Sequence[str] = (".csv",)) -> tuple[list[Path], list[Problem]]:
    """All files in a folder and in its folders, in the order of their paths, and what is no file. Links are none.

    Args:
        folder: where to look.
        below: the folder that problems name their places from.
        leave_out: endings of files that are not meant to be pictures.

    Raises:
        DataError: the folder is missing or a link.
        StorageError: a folder cannot be listed.
    """
    if folder.is_symlink():
        raise DataError("the folder is a link, which may lead anywhere", where=folder, fix="put the folder itself here")
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, fix="name the folder that holds the files")
    files: list[Path] = []
    problems: list[Problem] = []
    for path, entry in _entries(folder):
        if path.name.startswith(".") or path.name in _NOT_IMAGES or path.suffix.lower() in leave_out:
            continue
        if entry.is_file(follow_symlinks=False):
            files.append(path)
            continue
        link = "a link, which may lead anywhere: put the file itself there (cp -L follows links)"
        problems.append(Problem(link if entry.is_symlink() else "not a file", path.relative_to(below).as_posix()))
    return sorted(files), problems


def read_headers(headers: Sequence[Header]) -> list[Facts | Refused]:
    """What the manifest needs of each header, in order; of a file that cannot be used, why."""
    died = Refused(what="reading its header ends the process that tries")
    return [died if isinstance(one, isolate.DiedError) else one for one in isolate.each(facts, headers)]


def read_published(files: Mapping[str, Path], *, deidentified: bool) -> dict[str, Facts | Refused]:
    """The headers of a release that its makers de-identified, whose pictures have their own ids for patients.

    Args:
        files: for a picture's id its file.
        deidentified: see `Header`.

    Returns:
        For each id what `read_headers` gives.
    """
    asked = [
        Header(path=file, pseudonym=name, published=True, deidentified=deidentified) for name, file in files.items()
    ]
    return dict(zip(files, read_headers(asked), strict=True))


def _entries(folder: Path) -> Iterator[tuple[Path, os.DirEntry[str]]]:
    try:
        listed = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise StorageError(f"the folder cannot be listed: {error.strerror}", where=folder) from error
    for entry in listed:
        if entry.is_dir(follow_symlinks=False):
            yield from _entries(Path(entry.path))
        else:
            yield Path(entry.path), entry
