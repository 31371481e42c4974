"""The cases of a report: radiographs with the maps of challenger and champion drawn on them, by finding.

A picture is embedded once and drawn in every panel of its case. Maps are outlines at stated levels of one scale for the
whole page, so that weak evidence looks weak, and lung markings stay visible.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cxr_ops.records.explanation import Explanation, HeatMap, Seen
from cxr_ops.report import figures
from cxr_ops.stats.cases import KINDS

# What the pictures may weigh; base64 adds a third. With it the whole page stays below 15 MB.
GALLERY_BYTES: Final = 9_000_000


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one model makes of a case: who, what it says, where its map lies (paths, see `figures.overlay`)."""

    model: str
    seen: Seen
    paths: Sequence[str]

    @property
    def grid(self) -> str:
        """Rows and columns of the map; "" without one."""
        rows = len(self.seen.map)
        return f"{rows} \u00d7 {len(self.seen.map[0])}" if rows else ""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A case with its picture as a data URI, "" where `missing` says why; `name` is its id on the page."""

    name: str
    case: HeatMap
    uri: str
    missing: str
    panels: Sequence[Panel]
    boxes: Sequence[tuple[float, float, float, float]]


@dataclass(frozen=True, kw_only=True)
class OfFinding:
    """The cases of a finding."""

    finding: str
    cases: Sequence[Shown]

    @property
    def kinds(self) -> str:
        """How many there are of each kind, in words."""
        kinds = [one.case.kind for one in self.cases]
        return ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))


def gallery(
    explanation: Explanation,
    pictures: Mapping[str, bytes],
    faults: Mapping[str, str],
    budget: int | None = None,
) -> tuple[list[OfFinding], int]:
    """Put the cases together; where they are too heavy, those of the least telling kinds are left out.

    Args:
        explanation: what `explain` made.
        pictures: name of a case's picture -> bytes of a PNG.
        faults: what `unshown` said of them.
        budget: bytes of compressed pictures; `GALLERY_BYTES` by default.

    Returns:
        The findings that have cases, in the order of the explanation, and how many cases were left out. A case whose
        picture is missing or damaged says so, and keeps its figures.
    """
    left = GALLERY_BYTES if budget is None else budget
    places = range(len(explanation.cases))
    shown: dict[int, Shown] = {}
    for place in sorted(places, key=lambda place: (_rank(explanation.cases[place]), place)):
        case = explanation.cases[place]
        missing = faults.get(case.picture, "")
        picture = b"" if missing else figures.compress(pictures[case.picture])
        left -= len(picture)
        if left < 0:
            break
        shown[place] = _show(f"case-{place + 1}", case, picture, missing, explanation.scale)
    by_finding: dict[str, list[Shown]] = {}
    for place in sorted(shown):
        by_finding.setdefault(explanation.cases[place].finding, []).append(shown[place])
    found = [OfFinding(finding=finding, cases=cases) for finding, cases in by_finding.items()]
    return found, len(explanation.cases) - len(shown)


def unshown(explanation: Explanation, pictures: Mapping[str, bytes]) -> dict[str, str]:
    """A sentence on each picture of a case that is missing or damaged, by its name. Each is decoded for it."""
    names = dict.fromkeys(case.picture for case in explanation.cases)
    return {name: sentence for name in names if (sentence := _missing(name, pictures))}


def _missing(name: str, pictures: Mapping[str, bytes]) -> str:
    if name not in pictures:
        return f"The picture explain/{name} is missing."
    damage = figures.damage(pictures[name])
    return f"The picture explain/{name} cannot be shown: {damage}." if damage else ""


def levels(explanation: Explanation) -> list[float]:
    """At how many logits maps are outlined; nothing where no map has a peak."""
    return [] if explanation.scale is None else [share * explanation.scale for share in figures.SHARES]


def _rank(case: HeatMap) -> int:
    return KINDS.index(case.kind) if case.kind in KINDS else len(KINDS)


def _show(name: str, case: HeatMap, picture: bytes, missing: str, scale: float | None) -> Shown:
    models = (("Challenger", case.challenger), ("Champion", case.champion))
    return Shown(
        name=name,
        case=case,
        uri="" if missing else "data:image/jpeg;base64," + base64.b64encode(picture).decode("ascii"),
        missing=missing,
        panels=[
            Panel(model=model, seen=seen, paths=[] if scale is None else figures.overlay(seen.map, scale))
            for model, seen in models
            if seen is not None
        ],
        boxes=[
            (
                round(left * figures.OVERLAY),
                round(top * figures.OVERLAY),
                round(width * figures.OVERLAY),
                round(height * figures.OVERLAY),
            )
            for left, top, width, height in case.boxes
        ],
    )
