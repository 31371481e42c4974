"""What goes wrong in the embedded Airflow itself, as its parts write it into their logs.

A task that cannot even start leaves no log of its own: why, only the scheduler's log says.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

# A line of Airflow's: time, level, event, two blanks or more, the logger in brackets.
_LINE: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\S+ \[(\w+) *\] (.*)")
_EVENT: Final = re.compile(r"(.*\S) +\[[\w.]+\](?: \w+=.*)?")  # the last bracket: an event may hold others
_SERIOUS: Final = ("error", "critical")
_EXCEPTION: Final = re.compile(r"(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Warning|Timeout)\b.*")
_MOST: Final = 400  # characters of one trouble


class Troubles:
    """Reads what the parts' logs gain, and tells each trouble once.

    Args:
        logs: the log of each part, by its name. What they hold already is passed over.
    """

    def __init__(self, logs: dict[str, Path]) -> None:
        self._logs = logs
        self._read = {part: _size(path) for part, path in logs.items()}
        self._told: set[str] = set()

    def new(self) -> list[str]:
        """The troubles since the last call, each in a line that begins with the part's name."""
        found = [f"{part}: {text}" for part in self._logs for text in in_log(self._lines(part))]
        fresh = [text for text in dict.fromkeys(found) if text not in self._told]
        self._told.update(fresh)
        return fresh

    def _lines(self, part: str) -> list[str]:
        try:
            with self._logs[part].open("rb") as file:
                file.seek(self._read[part])
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]  # the last line may still be in the writing
        self._read[part] += len(whole)
        return whole.decode(errors="replace").splitlines()


def in_log(lines: Iterable[str]) -> Iterator[str]:
    """What lines of a log tell of errors: the event, and the last exception of the traceback below it.

    >>> list(in_log(["2026-03-01T04:05:06Z [error    ] It failed.  [airflow.x] loc=x.py:1", "ValueError: no"]))
    ['It failed: ValueError: no']
    """
    event: str | None = None
    exception = ""
    for line in lines:
        match = _LINE.match(line)
        if match is None:
            if event is not None and _EXCEPTION.fullmatch(line.strip()):
                exception = line.strip()
            continue
        if event is not None:
            yield _joined(event, exception)
        event, exception = (_event(match[2]) if match[1] in _SERIOUS else None), ""
    if event is not None:
        yield _joined(event, exception)


def _event(text: str) -> str:
    match = _EVENT.fullmatch(text)
    return match[1] if match else text.strip()


def _joined(event: str, exception: str) -> str:
    text = f"{event.rstrip('.:')}: {exception}" if exception else event
    return text if len(text) <= _MOST else f"{text[: _MOST - 3]}..."


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
