"""What people see while they wait, on standard error: lines with the time, and a bar for work of known length."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def console(*, quiet: bool = False) -> Console:
    """A console on standard error; a quiet one prints nothing."""
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


def count(number: int, one: str, many: str | None = None) -> str:
    """A number of things in words.

    >>> count(1, "image"), count(1200, "image"), count(0, "box", "boxes")
    ('1 image', '1,200 images', '0 boxes')
    """
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def part(number: int, total: int, one: str, verb: str, verbs: str, many: str | None = None) -> str:
    """A number out of a total in words, with the verb that follows.

    >>> part(1, 3, "box", "is", "are", "boxes"), part(2, 2000, "age", "was", "were"), part(1, 1, "image", "is", "are")
    ('1 of 3 boxes is', '2 of 2,000 ages were', '1 of 1 image is')
    """
    return f"{number:,} of {count(total, one, many)} {verb if number == 1 else verbs}"


class Speaker:
    """Says what happens, with the time since the start."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._start = time.monotonic()

    def say(self, text: str) -> None:
        """Print a line."""
        clock = f"{time.monotonic() - self._start:4.0f} s"
        self._console.print(f"[{clock}] {text}", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def bar(title: str, console: Console, *, transient: bool = False) -> Iterator[Callable[[float, float, str], None]]:
    """Show a bar with the time left, in a terminal only; yields `show(done, total, text)`.

    Args:
        title: the text before the bar.
        console: where it is drawn.
        transient: whether the bar is wiped away at the end.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=transient, disable=not console.is_terminal) as drawn:
        task = drawn.add_task("", total=None)
        yield lambda done, total, text: drawn.update(task, completed=done, total=total, description=text)


@contextmanager
def steps(title: str, *, unit: int = 1) -> Iterator[Callable[[int, int], None]]:
    """Show how far work of known length is; yields `progress(done, total)`.

    Without a terminal one plain line is printed at every tenth part.

    Args:
        title: what is done, with the unit where it is not a count of the things named.
        unit: what counts as one: 2**20 for bytes that are told in MiB.
    """
    err = console()

    def told(number: int) -> str:
        return f"{number / unit:,.1f}" if unit > 1 else str(number)

    if err.is_terminal:
        with bar(title, err) as show:
            yield lambda done, total: show(done, total, f"{told(done)}/{told(total)}")
        return
    shown = -1

    def plain(done: int, total: int) -> None:
        nonlocal shown
        tenth = 10 * done // max(total, 1)
        if tenth > shown:
            shown = tenth
            err.print(f"{title}: {told(done)} of {told(total)}", highlight=False)

    yield plain
