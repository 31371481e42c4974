"""relabel: correct labels of the data set, by an event.

The batches stay as they are, and so do earlier versions. A box stays, unless its finding is positive no more.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from cxr_ops.data import events, manifest
from cxr_ops.data.events import Applied
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, nearest
from cxr_ops.records.data import Batch, DataRevision, Event
from cxr_ops.stages.withdraw import Amended, amend

_ID: Final = "image_id"
_FIX: Final = f"for example a header {_ID},{FINDINGS[0]} and rows such as 00000001_000.png,1"


def run(
    home: Home, table: Path, *, by: str, reason: str, progress: Callable[[int, int], None] | None = None
) -> Amended:
    """Correct labels.

    Args:
        home: the installation.
        table: a CSV with `image_id` and a column a finding, of any of the 14. A cell is 1, 0, -1 (uncertain) or
            `missing`; an empty one leaves the label as it is.
        by: who decided it.
        reason: why, for those who read the history of the data later.
        progress: see `withdraw.amend`.

    Raises:
        SettingsError: `by` or `reason` is blank.
        DataError: the table is no such table; an image is unknown, withdrawn or named twice, a cell is no label, or a
            row changes nothing (all such are listed); a finding is one that the source of the image's batch does not
            label; the data set would not pass its checks; there is no data set, or a batch is missing or altered.
        BusyError: an ingestion is going on, or the data set changed meanwhile.
        StorageError: the table, the ledger or the store cannot be read or written.
    """
    rows = _read(table)

    def make(name: str, now: Applied, _: list[Event], revision: DataRevision) -> Event:
        event = events.correction(name, now, rows, table, by=by, reason=reason)
        _refuse_unlabelled(home, event, now, revision, table)
        return event

    return amend(home, make, verb="relabel", by=by, reason=reason, progress=progress)


def _read(table: Path) -> list[tuple[int, dict[str, str]]]:
    lines = manifest.read_rows(table)
    header = [name.strip() for name in lines[0][1]] if lines else []
    if len(set(header)) != len(header):
        raise DataError("a column stands in the header twice", where=table, fix=_FIX)
    if _ID not in header or len(header) < 2:
        raise DataError(f"the header has no {_ID}, or no finding besides", where=table, fix=_FIX)
    if strange := [name for name in header if name not in (_ID, *FINDINGS)]:
        near = nearest(strange[0], FINDINGS)
        raise DataError(
            f"{strange[0]!r} is no finding" + (f"; the nearest one is {near}" if near else ""), where=table, fix=_FIX
        )
    for line, fields in lines[1:]:
        if len(fields) != len(header):
            raise DataError(f"the row has {len(fields)} fields, not {len(header)}", where=f"{table}, line {line}")
    return [(line, dict(zip(header, map(str.strip, fields), strict=True))) for line, fields in lines[1:]]


def _refuse_unlabelled(home: Home, event: Event, now: Applied, revision: DataRevision, table: Path) -> None:
    """See that no label is given where the batch's source does not label the finding: the rest would stay missing."""
    folders = batches.batch_files(home, (batches.BATCH,), revision)
    labelled = {name: set(Batch.read(folder / batches.BATCH).findings) for name, folder in folders.items()}
    batch_of = dict(zip(now.frame[_ID], now.frame["batch"], strict=True))
    wrong = sorted(
        {(batch_of[one.image_id], one.finding) for one in event.labels}
        - {(batch, finding) for batch, names in labelled.items() for finding in names}
    )
    if wrong:
        raise DataError(
            "; ".join(f"the source of the batch {batch} does not label {finding}" for batch, finding in wrong),
            where=table,
            fix="leave these columns out, or ingest the images with a source that labels them",
        )
