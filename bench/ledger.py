"""A ledger of 10,000 entries: read whole, read again, and added to."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench.measure import seconds, table

ENTRIES = 10_000
REPEATS = 5


def section() -> str:
    """Reading every entry of a ledger beside reading what is new since it was checked, and adding an entry."""
    from cxr_ops.audit.entries import Entry, Look, make
    from cxr_ops.edges.ledger import Folder, Ledger, Memory

    def look(number: int) -> Look:
        return Look(model=f"{number:064x}", test_digest="t" * 64, run=f"run-{number}", claim="c" * 64)

    with tempfile.TemporaryDirectory() as folder:
        storage, memory = Folder(Path(folder) / "ledger"), Memory(Path(folder) / "checked")
        storage.path.mkdir()
        entries: list[Entry] = []
        for number in range(ENTRIES):
            entries.append(make("look", look(number), entries))
            (storage.path / f"{number + 1:08d}.json").write_bytes(entries[-1].to_bytes())
        ledger = Ledger(storage, memory)
        ledger.entries()  # the first reading checks and remembers

        def timed(work: Callable[[], object]) -> float:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start

        rows = seconds(
            {
                "every entry read and checked, as `ledger verify` does": lambda: timed(ledger.verify),
                "read again: what is new since it was checked": lambda: timed(ledger.entries),
                "an entry added, with all that goes before it": lambda: timed(
                    lambda: ledger.append("look", look(len(storage.names())))
                ),
            },
            repeats=REPEATS,
        )
    note = f"{ENTRIES:,} looks in a folder, on this machine's disk, which has them in its cache."
    return table(f"A ledger of {ENTRIES:,} entries", "s", rows, note=note, repeats=REPEATS)
