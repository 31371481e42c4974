"""Receipts of predictions: which model answered about which picture, in an append-only log that can be checked.

A receipt names digests: of the picture's bytes, the model, its preprocessing, its operating points, the ledger's entry
and the answer. It holds no pixel, no name and no number that a picture could be guessed from.

The log is a file with a receipt a line. `prev` is the SHA-256 of the line before, without its end. Processes on one
machine append in turn, by a lock on the file, and a receipt is on disk before its answer is given. A line that a crash
cut off stays, and the next one names its digest: no answer was given for it. As with every chain, that the end of the
log was cut off, or all of it written anew, is seen only by who kept its head.

This module needs the standard library alone: the script that MLflow serves brings it along.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

FORMAT: Final = 1
FIELDS: Final = ("format", "at", "input", "model", "ledger_entry", "preprocessing", "operating_points", "answer")
_DIGESTS: Final = ("input", "model", "preprocessing", "answer")
_PERHAPS: Final = ("ledger_entry", "operating_points")
_LINE_BYTES: Final = 4096  # of a line; a receipt has about 600
_BLOCK: Final = 2**16


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a model's receipts have in common.

    Attributes:
        model: digest of the package.
        preprocessing: see `digest_of`, of the contract's `input`.
        operating_points: the same, of finding -> probability from which it is called; None where there are none.
        ledger_entry: the entry by which the model was promoted or decided on; None where no ledger was asked.
    """

    model: str
    preprocessing: str
    operating_points: str | None
    ledger_entry: str | None = None

    def receipt(self, picture: bytes, probabilities: Mapping[str, float | None]) -> dict[str, Any]:
        """The receipt of one prediction.

        Args:
            picture: the bytes that came in.
            probabilities: finding -> probability, None where the model was not trained on it.
        """
        return {
            "format": FORMAT,
            "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "input": hashlib.sha256(picture).hexdigest(),
            "model": self.model,
            "ledger_entry": self.ledger_entry,
            "preprocessing": self.preprocessing,
            "operating_points": self.operating_points,
            "answer": digest_of(dict(probabilities)),
        }


def digest_of(value: Any) -> str:
    """SHA-256 of a value as JSON with sorted keys and without blanks.

    >>> digest_of({"b": 1, "a": None})[:12]
    'c0bf82ad036c'
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ------------------------------------------------------------------------------------------------------- writing


def append(path: Path, receipts: Sequence[Mapping[str, Any]]) -> None:
    """Add receipts at the end of a log, all of them on disk when this returns.

    Args:
        path: the log, which is made with mode 0600 where it is missing; its folder must be there.
        receipts: as `Served.receipt` makes them.

    Raises:
        OSError: it cannot be written; what is there already stays as it is.
    """
    if not receipts:
        return
    with opened(path) as file:
        last, whole = last_line(file)
        prev = hashlib.sha256(last).hexdigest() if last else None
        lines = []
        for receipt in receipts:
            line = json.dumps({**receipt, "prev": prev}, sort_keys=True, separators=(",", ":")).encode()
            prev = hashlib.sha256(line).hexdigest()
            lines.append(line + b"\n")
        write(file, b"".join([b"" if whole else b"\n", *lines]))
        os.fsync(file)


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """A file of lines, which is made with mode 0600 where it is missing, and at whose end this process alone writes."""
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        yield file
    finally:
        os.close(file)


def last_line(file: int) -> tuple[bytes, bool]:
    """The last line of an open file without its end, and whether it has one; an empty file has nothing to end."""
    size = os.fstat(file).st_size
    if not size:
        return b"", True
    whole = os.pread(file, 1, size - 1) == b"\n"
    end, found = size - whole, b""
    while end > 0 and b"\n" not in found:
        start = max(0, end - _BLOCK)
        found = os.pread(file, end - start, start) + found
        end = start
    return found.rpartition(b"\n")[2], whole


def write(file: int, data: bytes) -> None:
    """Write all of some bytes."""
    while data:
        data = data[os.write(file, data) :]


# ------------------------------------------------------------------------------------------------------- reading


@dataclass(frozen=True, kw_only=True)
class Log:
    """A log whose chain was checked.

    Attributes:
        receipts: in their order.
        cut: the numbers of the lines, from 1, that a crash cut off.
        head: SHA-256 of the last line; None of an empty log.
    """

    receipts: tuple[dict[str, Any], ...]
    cut: tuple[int, ...]
    head: str | None


def read(path: Path) -> Log:
    """Read a log and check its chain.

    Raises:
        ValueError: a line is no receipt, or does not name the line before; the first such line is named.
        OSError: the file cannot be read.
    """
    receipts: list[dict[str, Any]] = []
    cut: list[int] = []
    prev: str | None = None
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file), 1):
            if not line.strip():
                raise ValueError(f"line {number} is empty")
            receipt = _receipt(line, number)
            if receipt is None:
                cut.append(number)
            else:
                if receipt.pop("prev") != prev:
                    raise ValueError(
                        f"line {number} does not name the line before: a receipt was altered, removed or put in"
                    )
                receipts.append(receipt)
            prev = hashlib.sha256(line).hexdigest()
    return Log(receipts=tuple(receipts), cut=tuple(cut), head=prev)


def _lines(file: Any) -> Iterator[bytes]:
    for line in file:
        if len(line) > _LINE_BYTES:
            raise ValueError(f"a line has more than {_LINE_BYTES} bytes")
        yield line.removesuffix(b"\n")


def _receipt(line: bytes, number: int) -> dict[str, Any] | None:
    """The receipt in a line; None for the beginning of one, which is no JSON."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        # A digit or a brace less, and no more: anything else was never written by `append`.
        if line.startswith(b'{"answer"'[: len(line)]):
            return None
        raise ValueError(f"line {number} is no receipt") from None
    wanted = {*FIELDS, "prev"}
    known = found.get("format", 0) if isinstance(found, dict) else None
    if isinstance(known, int) and known > FORMAT:
        raise ValueError(f"line {number} has format {known}, and this version reads {FORMAT}: take a newer one")
    if known is None or found.keys() != wanted:
        raise ValueError(f"line {number} is no receipt: {', '.join(sorted(wanted ^ set(found)))}")
    strange = [name for name in _DIGESTS if not _is_digest(found[name])]
    strange += [name for name in (*_PERHAPS, "prev") if found[name] is not None and not _is_digest(found[name])]
    if strange or not isinstance(found["at"], str):
        raise ValueError(f"line {number} is no receipt: {', '.join(strange) or 'at'} is none")
    return dict(found)


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
