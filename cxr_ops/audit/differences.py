"""In what two documents of plain values differ: a record, or a table, as it stands and as it was computed again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

# Numbers that another processor or another release of numpy makes may differ in their last digits.
TOLERANCE: Final = 1e-9
MOST: Final = 5  # differences that are named of one comparison


def differences(said: Any, found: Any, where: str = "", *, tolerance: float = TOLERANCE) -> tuple[list[str], float]:
    """In what two documents of plain values differ.

    Args:
        said: as it stands.
        found: as it was computed.
        where: the place of both in what they are parts of.
        tolerance: how far numbers that count as equal may differ, relative to their size.

    Returns:
        A clause each, and the largest difference of two numbers that count as equal, relative to their size.

    >>> differences({"a": [1.0, "x"]}, {"a": [0.75, "y"]}, tolerance=0.5)
    (["a[1] is 'y' and not 'x'"], 0.25)
    """
    if isinstance(said, dict) and isinstance(found, dict):
        parts = [
            (f"{where}.{key}" if where else str(key), said.get(key), found.get(key)) for key in sorted(said | found)
        ]
    elif isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        parts = [(f"{where}[{place}]", a, b) for place, (a, b) in enumerate(zip(said, found, strict=True))]
    elif _is_number(said) and _is_number(found):
        distance = abs(said - found) / max(abs(said), abs(found), 1e-3)
        return ([], distance) if distance <= tolerance else ([f"{where} is {found!r} and not {said!r}"], 0.0)
    else:
        same = said == found
        return ([] if same else [f"{where} is {_short(found)} and not {_short(said)}"]), 0.0
    wrong: list[str] = []
    largest = 0.0
    for name, a, b in parts:
        more, distance = differences(a, b, name, tolerance=tolerance)
        wrong += more
        largest = max(largest, distance)
    return wrong, largest


def as_far_as(said: Any, found: Any) -> Any:
    """A document without the keys that another one does not have.

    >>> as_far_as({"a": [{"b": 1}]}, {"a": [{"b": 2, "c": 3}], "d": 4})
    {'a': [{'b': 2}]}
    """
    if isinstance(said, dict) and isinstance(found, dict):
        return {key: as_far_as(said[key], one) for key, one in found.items() if key in said}
    if isinstance(said, list) and isinstance(found, list) and len(said) == len(found):
        return [as_far_as(a, b) for a, b in zip(said, found, strict=True)]
    return found


def some(found: Sequence[str]) -> str:
    """The first of many clauses, and how many more there are.

    >>> some(list("abcdefg"))
    'a; b; c; d; e; and 2 more'
    """
    return "; ".join(found[:MOST]) + (f"; and {len(found) - MOST} more" if len(found) > MOST else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
