"""What the replicates add up to: counts, sums and sums of squares, kept in a file that grows block by block."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Tally:
    """The sums of one study.

    Attributes:
        fingerprint: digest of everything that makes the numbers what they are.
        blocks: numbers of the blocks that are in it.
        seconds: processor time of all replicates.
        sums: name -> [how often, sum, sum of squares].
    """

    fingerprint: str = ""
    blocks: list[int] = field(default_factory=list)
    replicates: int = 0
    seconds: float = 0.0
    sums: dict[str, list[float]] = field(default_factory=dict)

    def add(self, named: Iterable[tuple[str, float]]) -> None:
        """One replicate."""
        self.replicates += 1
        for name, value in named:
            self._put(name, 1, float(value), float(value) ** 2)

    def merge(self, block: int, other: Tally) -> None:
        """A block of replicates."""
        self.blocks.append(block)
        self.replicates += other.replicates
        self.seconds += other.seconds
        for name, sums in other.sums.items():
            self._put(name, *sums)

    def _put(self, name: str, count: float, total: float, squares: float) -> None:
        held = self.sums.setdefault(name, [0, 0.0, 0.0])
        held[0] += count
        held[1] += total
        held[2] += squares


@dataclass
class Results:
    """All studies; `about` holds facts of the test set and the plan, for the page."""

    about: dict[str, Any] = field(default_factory=dict)
    studies: dict[str, Tally] = field(default_factory=dict)

    def names(self, prefix: str) -> list[str]:
        """What follows a prefix, over all studies, in the order of the results."""
        return [
            name[len(prefix) :] for tally in self.studies.values() for name in tally.sums if name.startswith(prefix)
        ]

    def count(self, name: str) -> int:
        """How often a number was seen; 0 if never."""
        return int(self._sums(name)[0])

    def mean(self, name: str) -> float:
        """Of all replicates; NaN if there are none."""
        count, total, _ = self._sums(name)
        return total / count if count else math.nan

    def deviation(self, name: str) -> float:
        """Standard deviation over the replicates; NaN if there are fewer than two."""
        count, total, squares = self._sums(name)
        return math.sqrt(max(squares - total**2 / count, 0.0) / (count - 1)) if count > 1 else math.nan

    def error(self, name: str) -> float:
        """Monte-Carlo standard error of the mean. Of a share, at least as if one replicate more had gone either way."""
        count = self.count(name)
        if not count:
            return math.nan
        mean = self.mean(name)
        if self._sums(name)[1] == self._sums(name)[2]:  # only 0 and 1
            mean = min(max(mean, 1 / (count + 1)), count / (count + 1))
            return math.sqrt(mean * (1 - mean) / count)
        return self.deviation(name) / math.sqrt(count)

    def _sums(self, name: str) -> list[float]:
        for tally in self.studies.values():
            if name in tally.sums:
                return tally.sums[name]
        return [0, 0.0, 0.0]

    def write(self, path: Path) -> None:
        """Replace the file."""
        studies = {name: vars(tally) for name, tally in self.studies.items()}
        text = json.dumps({"about": self.about, "studies": studies}, indent=1)
        part = path.with_suffix(".part")
        part.write_text(text)
        part.replace(path)

    @classmethod
    def read(cls, path: Path) -> Results:
        """What `write` has written."""
        held = json.loads(path.read_text())
        studies = {name: Tally(**tally) for name, tally in held["studies"].items()}
        return cls(held["about"], studies)
