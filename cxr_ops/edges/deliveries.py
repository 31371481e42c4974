"""What became of deliveries, as `ingest` left it: which were refused, left something out, or were cut off.

* `quarantine/<batch>/acceptance.json`: the record of a batch that was refused, or that left something out; beside it
  `refusal.txt`, why it was refused, and `problems.csv`, what was left out or was wrong.
* `unfinished/<batch>.json`: of an ingestion that goes on, or was killed; see `records.acceptance.Unfinished`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

from cxr_ops import locks
from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError
from cxr_ops.records.acceptance import ACCEPTANCE, PROBLEMS, REFUSAL, Acceptance

PAGE: Final = "validation.html"
# What says why a batch was refused, the best first: an earlier version left no sentence of some refusals.
_REASONS: Final = (REFUSAL, PAGE, PROBLEMS)

State = Literal["refused", "entered in part", "cut off", "not readable"]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A delivery that did not enter whole.

    Attributes:
        batch: its name.
        state: `refused`; `entered in part`: some of it was left out; `cut off`: its ingestion was killed; `not
            readable`: its quarantine is somebody else's, or the record in it is damaged.
        when: when that was written, ISO 8601, UTC.
        where: the file or folder to look at.
    """

    batch: str
    state: State
    when: str
    where: str


def unfinished(home: Home, batch: str) -> Path:
    """Where the ingestion of a batch says that it has begun."""
    return home.root / "unfinished" / f"{batch}.json"


def begun(home: Home) -> list[Path]:
    """What ingestions that have not ended have left; see `unfinished`."""
    return sorted((home.root / "unfinished").glob("*.json"))


def has_entered(quarantine: Path) -> bool:
    """Whether the quarantine is that of a batch which is in the data set, without some of its rows."""
    record = quarantine / ACCEPTANCE
    return record.is_file() and Acceptance.read(record).outcome != "refused"


def refused(home: Home) -> list[str]:
    """Names of batches that were refused, and have not entered since."""
    named = {path.parent.name for name in _REASONS for path in home.quarantine.glob(f"*/{name}")}
    return sorted(
        name for name in named if not has_entered(home.quarantine / name) and not unfinished(home, name).is_file()
    )


def cut_off(home: Home) -> list[str]:
    """Names of batches whose ingestion was killed; none while one goes on."""
    names = [path.stem for path in begun(home)]
    return [] if names and locks.is_held(home.locks / "ingest") else names


def listed(home: Home) -> list[Delivery]:
    """The deliveries that did not enter whole, the newest first."""
    found = [*_in_quarantine(home)]
    for batch in cut_off(home):
        path = unfinished(home, batch)
        found.append(Delivery(batch=batch, state="cut off", when=_when(path), where=str(path)))
    return sorted(found, key=lambda one: (one.when, one.batch), reverse=True)


def _in_quarantine(home: Home) -> Iterator[Delivery]:
    for folder in sorted(home.quarantine.glob("*/")):
        try:
            if unfinished(home, folder.name).is_file():
                continue
            reasons = [path for name in _REASONS if (path := folder / name).is_file()]
            if has_entered(folder):
                record, listed = folder / ACCEPTANCE, folder / PROBLEMS
                where = listed if listed.is_file() else record
                yield Delivery(batch=folder.name, state="entered in part", when=_when(record), where=str(where))
                # Another batch of the same name was refused since, if its sentence is there.
                reasons = [path for path in reasons if path.name == REFUSAL]
            if reasons:
                yield Delivery(batch=folder.name, state="refused", when=_when(reasons[0]), where=str(reasons[0]))
        except (OSError, DataError):
            yield Delivery(batch=folder.name, state="not readable", when=_when(folder), where=str(folder))


def _when(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
