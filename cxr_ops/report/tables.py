"""Tables for a terminal, in the one look that they all have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def plain(headings: Iterable[str] = (), rows: Iterable[Iterable[str]] = ()) -> Table:
    """A table without frames, to be printed with rich; no text is cut, so that it can be copied.

    Args:
        headings: of its columns; the caller can add further columns.
        rows: a text for each column.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        made.add_column(heading, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made
