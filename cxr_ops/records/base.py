"""What every record is made of: canonical bytes, digests of files, and the frozen class that reads and checks itself.

A record that was read has been checked: an unknown key, a missing one or a wrong type is an error. Numbers that do
not exist are values with a reason (`records.evidence.Undefined`), never NaN.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from cxr_ops.errors import DataError


def canonical_json(value: Any) -> bytes:
    r"""Write a value as JSON in the one way that digests rely on: sorted keys, UTF-8, no NaN, a final newline.

    >>> canonical_json({"b": 1, "a": [0.5]})
    b'{\n  "a": [\n    0.5\n  ],\n  "b": 1\n}\n'
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: Path, names: Iterable[str] | None = None) -> str:
    """SHA-256 over the names and digests of files in a folder: of all of them, or of those named.

    The order in which a file system lists a folder does not matter.
    """
    files = (
        sorted(names)
        if names is not None
        else sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    )
    return sha256_bytes(canonical_json({name: sha256_file(folder / name) for name in files}))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file aside, flush it and rename it: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def write_private(path: Path, data: bytes) -> None:
    """Write a file for its owner alone, whole or not at all."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


# Of an error about a record that a later version wrote.
NEWER = "newer_format"
NEWER_FIX = "install the version of cxr-ops that wrote it, or a later one"


class Record(BaseModel):
    """A frozen record with canonical bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The record as canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""
        return sha256_bytes(self.to_bytes())

    def write(self, path: Path) -> None:
        """Write the record; the folder is made when it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record and check it.

        Raises:
            DataError: the file is missing, is not JSON, or does not fit the record.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"{path.name} is missing", where=path) from error
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] == NEWER:
                raise DataError(f"{path.name}: {first['msg']}", where=path, fix=NEWER_FIX) from error
            place = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{path.name} is not a {cls.__name__}: {place}: {first['msg']}", where=path) from error


class Kept(Record):
    """A record that outlives the run that wrote it: it says in which format it is written.

    Every format up to `newest` is read for ever; a file that names none is of format 1, from before formats had
    numbers. What a later version wrote is refused, because half of it would be misunderstood.
    """

    newest: ClassVar[int] = 1

    format: int = 1

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record and check it; see `Record.read`."""
        record = super().read(path)
        return record if "format" in record.model_fields_set else record.model_copy(update={"format": 1})

    @field_validator("format")
    @classmethod
    def _is_known(cls, value: int) -> int:
        if not 1 <= value <= cls.newest:
            raise PydanticCustomError(
                NEWER,
                "it has format {value}, and this version of cxr-ops reads formats up to {newest}",
                {"value": value, "newest": cls.newest},
            )
        return value
