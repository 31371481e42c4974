"""Every error that a person can cause, under one root.

    CxrError (Exception)                   exit 1
    |-- DataError (ValueError)             exit 10   the data are wrong; the same data would fail again
    |-- SettingsError (ValueError)         exit 11   params.yaml, pccp.yaml, an argument or the environment is wrong
    |-- StorageError (OSError)             exit 12   a folder, disk or store cannot be read or written
    |-- BusyError                          exit 13   another run holds what this one needs
    |-- ConflictError                      exit 14   the ledger moved on: judge again
    |-- RefusedError                       exit 15   the plan does not allow this
    `-- StoppedError                       exit 143  ended on request, after a checkpoint

Each says what was wrong, where, and what to type next.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import Final

from cxr_ops import contract

# Categories of Unicode: controls, formats, halves of pairs, private ones, none, and ends of lines.
_UNSEEN: Final = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


class CxrError(Exception):
    """An error with a place and a next step.

    Args:
        what: what was wrong, as one clause without a full stop.
        where: the file, row, setting or address concerned.
        fix: what a person types or edits next.
    """

    exit_code = contract.EXIT_FAILED

    def __init__(self, what: str, *, where: object = None, fix: str | None = None) -> None:
        self.what = _printable(what)
        self.where = None if where is None else _printable(str(where))
        self.fix = None if fix is None else _printable(fix)
        super().__init__(self.what)

    def __str__(self) -> str:
        where = f"\n  where: {self.where}" if self.where else ""
        fix = f"\n  next:  {self.fix}" if self.fix else ""
        return f"{self.what}{where}{fix}"


def printable(text: str) -> str:
    r"""A name that others gave, as it can be written and shown: what is no UTF-8, or steers a terminal, is spelt out.

    >>> printable("caf\udce9.png"), printable("new\nline.png")
    ('caf\\udce9.png', 'new\\nline.png')
    """
    if text.isprintable():
        return text
    return "".join(_spelt(one) if unicodedata.category(one) in _UNSEEN else one for one in text)


def _spelt(one: str) -> str:
    return one.encode("unicode_escape").decode("ascii")


def _printable(text: str) -> str:
    return "\n".join(map(printable, text.split("\n")))


class DataError(CxrError, ValueError):
    """Data that would fail again on a second attempt."""

    exit_code = contract.EXIT_DATA


class SettingsError(CxrError, ValueError):
    """A setting that is unknown, missing, out of range or contradicts another."""

    exit_code = contract.EXIT_SETTINGS


class StorageError(CxrError, OSError):
    """A folder, disk or store that cannot be read or written."""

    exit_code = contract.EXIT_STORAGE


class BusyError(CxrError):
    """Another run holds what this one needs."""

    exit_code = contract.EXIT_BUSY


class ConflictError(CxrError):
    """The ledger has moved on since the decision was made."""

    exit_code = contract.EXIT_CONFLICT


class RefusedError(CxrError):
    """The plan or the record does not allow what was asked."""

    exit_code = contract.EXIT_REFUSED


class StoppedError(CxrError):
    """Work that ended on request after saving what it had."""

    exit_code = contract.EXIT_STOPPED


def as_record(error: CxrError) -> dict[str, str | None]:
    """What another process needs to raise the same error; see `from_record`."""
    return {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}


def from_record(record: Mapping[str, str | None]) -> CxrError:
    """Make the error that another process left as a record.

    >>> from_record(as_record(DataError("no rows", where="index.csv")))
    DataError('no rows')
    """
    kinds: list[type[CxrError]] = CxrError.__subclasses__()
    kind = next((kind for kind in kinds if kind.__name__ == record["kind"]), CxrError)
    return kind(str(record["what"]), where=record["where"], fix=record["fix"])
