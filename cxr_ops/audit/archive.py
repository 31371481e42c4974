"""A bundle as one file: a plain tar that can be written in one way only, and is read in no other.

Every file is a plain one with mode 0644, owner 0 and time 0, in the order of their names after `bundle.json`. So equal
files give equal bytes. And whatever else a tar can hold (links, devices, owners, extensions, names that lead elsewhere,
a name twice) is refused: each header is compared with the one that would have been written. Nothing is unpacked to
disk.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cxr_ops.errors import DataError, StorageError
from cxr_ops.records.base import NEWER_FIX, sha256_bytes
from cxr_ops.records.bundle import CONTENTS, Bundle

BLOCK: Final = 512
LIMIT_BYTES: Final = 2**31  # of a bundle: a hundred times that of the NIH's test set
LIMIT_FILES: Final = 500_000  # the ledger's entries are files
LIMIT_CONTENTS: Final = 2**27  # of bundle.json, which names them
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)*")
_KINDS: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a device",
    b"4": "a device",
    b"5": "a folder",
    b"6": "a pipe",
    b"S": "a sparse file",
    b"x": "an extended header",
    b"g": "an extended header",
    b"L": "an extended header",
    b"K": "an extended header",
}
_REMAKE: Final = "do not use it; ask for the bundle again, or make it: cxr-ops bundle RUN"


def pack(files: Mapping[str, bytes]) -> bytes:
    """Write files as a bundle; equal files give equal bytes.

    Args:
        files: bytes by name, `bundle.json` among them.

    Raises:
        DataError: a name is none that a bundle can hold.
    """
    parts: list[bytes] = []
    for name in _in_order(files):
        data = files[name]
        if not _NAME.fullmatch(name):
            raise DataError(f"a bundle cannot hold a file of the name {name!r}", fix="rename what it is called after")
        parts += [_header(name, len(data)), data, bytes(-len(data) % BLOCK)]
    return b"".join([*parts, bytes(2 * BLOCK)])


def unpack(path: Path) -> tuple[Bundle, dict[str, bytes]]:
    """Read a bundle; nothing is written anywhere.

    Returns:
        What `bundle.json` says, and the bytes of every file by name, that one among them. Digests are not compared yet.

    Raises:
        StorageError: the file cannot be read.
        DataError: it is no bundle, of a later format, too large, or holds what no bundle holds.
    """
    data = _read(path)
    _refuse_newer(path, data)
    files: dict[str, bytes] = {}
    place = 0
    last = ""
    while data[place : place + BLOCK] != bytes(BLOCK):
        name, start, size = _member(path, data, place)
        if name in files:
            raise DataError(f"the bundle holds {name} twice", where=path, fix=_REMAKE)
        if len(files) >= LIMIT_FILES:
            raise DataError(f"the bundle holds more than {LIMIT_FILES:,} files", where=path, fix=_REMAKE)
        if (not files) != (name == CONTENTS) or (last and name <= last):
            raise DataError(f"{name} does not stand in its place in the bundle", where=path, fix=_REMAKE)
        last = name if files else ""
        files[name] = data[start : start + size]
        place = start + size + -size % BLOCK
        if any(data[start + size : place]):
            raise DataError(f"something stands between {name} and the next file", where=path, fix=_REMAKE)
    if data[place:] != bytes(2 * BLOCK):
        raise DataError(
            "the bundle does not end where it should: something was cut off or added", where=path, fix=_REMAKE
        )
    if CONTENTS not in files:
        raise DataError(f"this is no bundle: it holds no {CONTENTS}", where=path, fix=_REMAKE)
    return _contents(path, files[CONTENTS]), files


def changes(bundle: Bundle, files: Mapping[str, bytes]) -> list[str]:
    """Say, a clause each, which files of a bundle are not those that `bundle.json` names."""
    here = files.keys() - {CONTENTS}
    both = sorted(here & bundle.files.keys())
    return [
        *(f"{name} was changed" for name in both if sha256_bytes(files[name]) != bundle.files[name]),
        *(f"{name} is missing" for name in sorted(bundle.files.keys() - here)),
        *(f"{name} was added" for name in sorted(here - bundle.files.keys())),
    ]


def _in_order(files: Mapping[str, bytes]) -> list[str]:
    return [CONTENTS, *sorted(files.keys() - {CONTENTS})]


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)  # its defaults: mode 0644, owner 0, time 0, no names
    member.size = size
    try:
        return member.tobuf(tarfile.USTAR_FORMAT)
    except ValueError as error:  # a name too long for this form of tar
        raise DataError(f"a bundle cannot hold a file of the name {name!r}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise StorageError("there is no such file", where=path, fix="make one: cxr-ops bundle RUN")
        if (size := path.stat().st_size) > LIMIT_BYTES:
            raise DataError(f"it has {size:,} bytes, and a bundle has at most {LIMIT_BYTES:,}", where=path)
        return path.read_bytes()
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"the bundle cannot be read: {error.strerror}", where=path) from error


def _refuse_newer(path: Path, data: bytes) -> None:
    """A later format may be packed in another way behind its first file, which says so."""
    header = data[:BLOCK]
    if not header.startswith(CONTENTS.encode() + b"\0"):
        raise DataError(f"this is no bundle: it does not begin with {CONTENTS}", where=path, fix=_REMAKE)
    size = _size(header)
    try:
        said: Any = json.loads(data[BLOCK : BLOCK + size]) if 0 <= size <= LIMIT_CONTENTS else None
        number, version = int(said["format"]), str(said["version"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return  # what is wrong with it is said where it is read
    if number > Bundle.newest:
        raise DataError(
            f"the bundle has format {number}, and this version of cxr-ops reads formats up to {Bundle.newest}",
            where=path,
            fix=f"verify it with cxr-ops {version[:40]!r} or later, which wrote it",
        )


def _size(header: bytes) -> int:
    text = header[124:135]
    return int(text, 8) if re.fullmatch(rb"[0-7]{11}", text) else -1


def _member(path: Path, data: bytes, place: int) -> tuple[str, int, int]:
    """The name of a file, where its bytes begin, and how many they are; its header must be as `pack` writes it."""
    header = data[place : place + BLOCK]
    if len(header) < BLOCK:
        raise DataError("the bundle was cut off", where=path, fix=_REMAKE)
    kind = header[156:157]
    front, back = (bytes(header[a:b]).split(b"\0")[0].decode("ascii", "replace") for a, b in ((345, 500), (0, 100)))
    name = f"{front}/{back}" if front else back
    if kind in _KINDS:
        raise DataError(
            f"{name!r} in the bundle is {_KINDS[kind]}, and a bundle holds plain files", where=path, fix=_REMAKE
        )
    if not _NAME.fullmatch(name):
        raise DataError(f"a file in the bundle has a name that leads elsewhere: {name!r}", where=path, fix=_REMAKE)
    size = _size(header)
    if size < 0 or place + BLOCK + size > len(data):
        raise DataError(f"{name} in the bundle claims to be longer than the bundle is", where=path, fix=_REMAKE)
    if header != _header(name, size):
        raise DataError(f"the header of {name} in the bundle is not as cxr-ops writes it", where=path, fix=_REMAKE)
    return name, place + BLOCK, size


def _contents(path: Path, data: bytes) -> Bundle:
    from pydantic import ValidationError

    if len(data) > LIMIT_CONTENTS:
        raise DataError(f"{CONTENTS} has more than {LIMIT_CONTENTS:,} bytes", where=path, fix=_REMAKE)
    try:
        found = Bundle.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{CONTENTS} is damaged: {place}: {first['msg']}", where=path, fix=NEWER_FIX) from error
    if found.to_bytes() != data or found.seal != found.own_seal():
        raise DataError(f"{CONTENTS} was altered: its bytes are not those that were written", where=path, fix=_REMAKE)
    return found
