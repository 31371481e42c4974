"""Interleaved repeats, medians, a table of ratios, and its place on a page."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One contender: median rate or time over the repeats, and its ratio to the first contender (more is better)."""

    name: str
    median: float
    low: float
    high: float
    ratio: float


def rates(contenders: dict[str, Callable[[], int]], *, repeats: int) -> list[Row]:
    """Units a second. Each function does its work once and returns how many units it did.

    The contenders take turns, so that a busy machine slows all of them alike; the first is the peer.
    """
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for work in contenders.values():
        work()  # warm-up: caches, lazy imports, memory
    for _ in range(repeats):
        for name, work in contenders.items():
            start = time.perf_counter()
            units = work()
            seen[name].append(units / (time.perf_counter() - start))
    peer = statistics.median(next(iter(seen.values())))
    return [Row(name, m := statistics.median(v), min(v), max(v), m / peer) for name, v in seen.items()]


def seconds(contenders: dict[str, Callable[[], float]], *, repeats: int) -> list[Row]:
    """Seconds, as each function measures and returns them; a ratio over 1 is faster than the first contender."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            seen[name].append(work())
    peer = statistics.median(next(iter(seen.values())))
    return [Row(name, m := statistics.median(v), min(v), max(v), peer / m) for name, v in seen.items()]


def told(contenders: dict[str, Callable[[], float]], *, repeats: int) -> list[Row]:
    """Units a second, as each function measures and returns them; the first contender is the peer."""
    seen: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            seen[name].append(work())
    peer = statistics.median(next(iter(seen.values())))
    return [Row(name, m := statistics.median(v), min(v), max(v), m / peer) for name, v in seen.items()]


def kept(page: str, title: str) -> str:
    """The section of a page under a heading, with it; empty where there is none.

    >>> kept("# Page" + chr(10) + "## One" + chr(10) + "figures" + chr(10) + "## Next", "## One")
    '## One\\nfigures\\n'
    """
    found = re.search(rf"^{re.escape(title)}$.*?(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    return found[0] if found else ""


def put(page: str, text: str) -> str:
    """The page with the section in the place of the one of its heading, or at the end; without a text, as it is."""
    if not text:
        return page
    old = kept(page, text.splitlines()[0])
    if not old:
        return f"{page}\n{text}"
    return page.replace(old, f"{text.rstrip()}\n\n" if old.endswith("\n\n") else f"{text.rstrip()}\n")


def table(title: str, unit: str, rows: list[Row], *, note: str, repeats: int) -> str:
    """A Markdown section."""
    lines = [
        f"## {title}",
        "",
        note,
        "",
        f"| contender | {unit}, median of {repeats} | range | ratio |",
        "|---|---|---|---|",
    ]
    lines += [f"| {r.name} | {r.median:.3g} | {r.low:.3g} to {r.high:.3g} | {r.ratio:.2f} |" for r in rows]
    return "\n".join(lines) + "\n"
