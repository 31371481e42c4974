"""What the monitor saw, for people: a line a finding, a picture of the capitals, and a page with both."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Protocol

from cxr_ops.contract import MODEL_NAME
from cxr_ops.report import figures, page, tables, words
from cxr_ops.stats.surveillance import RECENT, Stream
from cxr_ops.voice import count

if TYPE_CHECKING:
    from rich.table import Table

HEADINGS: Final = ("watched", "patients", "state", "why")
NOTE: Final = (
    "A stream is in alarm when its capital reaches the dashed line: a bet that pays only if something has changed. The "
    "chance that any stream does so within a year in which nothing changes is at most the rate."
)
_INPUTS: Final = {
    "brightness": ("mean grey of the picture", "brighter", "darker"),
    "contrast": ("spread of the picture's grey", "higher", "lower"),
    "view": ("view", "more often PA", "more often AP"),
    "sex": ("sex", "more often female", "more often male"),
    "age": ("age", "older", "younger"),
}
_LOSSES: Final = {
    "wrong": "wrong at the operating point",
    "missed": "missed, of those who have the finding",
    "brier": "squared error of the probability (Brier)",
}
_KINDS: Final = {
    "inputs": "pictures and patients",
    "scores": "scores, without labels",
    "labels": "errors, with labels",
}
_EVEN: Final = 0.02  # a mean rank so near to one half is no shift up or down


class Monitored(Protocol):
    """What `stages.monitor` returns, as far as it is shown."""

    @property
    def version(self) -> str: ...  # noqa: D102
    @property
    def promoted(self) -> str: ...  # noqa: D102
    @property
    def now(self) -> str: ...  # noqa: D102
    @property
    def weeks(self) -> int: ...  # noqa: D102
    @property
    def patients(self) -> int: ...  # noqa: D102
    @property
    def labelled(self) -> int: ...  # noqa: D102
    @property
    def against(self) -> str: ...  # noqa: D102
    @property
    def rate(self) -> float: ...  # noqa: D102
    @property
    def notes(self) -> Sequence[str]: ...  # noqa: D102
    @property
    def streams(self) -> Sequence[Stream]: ...  # noqa: D102


def headline(found: Monitored) -> str:
    """What was seen, in a sentence."""
    alarms = [one for one in found.streams if one.alarms]
    if not alarms:
        return "In control: nothing has changed that this can see."
    since = min(_day(found, one.alarms[0]) for one in alarms)
    return f"Alarm since {since}: {'; '.join(dict.fromkeys(subject(one) for one in alarms))}."


def about(found: Monitored) -> str:
    """Of which model, patients and time, in a sentence or two."""
    return (
        f"{MODEL_NAME}/{found.version}, in use since {words.when_text(found.promoted)}: {count(found.weeks, 'week')}, "
        f"{count(found.patients, 'patient')}, {found.labelled:,} of them with a label, against the {found.against} "
        f"set. At most {words.percent_text(found.rate)} of years without a change have an alarm."
    )


def subject(stream: Stream) -> str:
    """What a stream is about, in a few words."""
    if stream.kind == "inputs":
        return _INPUTS[stream.what][0]
    return f"{stream.finding or 'all findings'}, {'scores' if stream.kind == 'scores' else _LOSSES[stream.what]}"


def state(found: Monitored, stream: Stream) -> str:
    """`in control`, `alarm since DATE` or `not watched`."""
    if stream.unwatched:
        return "not watched"
    return f"alarm since {_day(found, stream.alarms[0])}" if stream.alarms else "in control"


def why(found: Monitored, stream: Stream) -> str:
    """What a stream's state rests on, in a sentence; "" where it is in control and there is no more to say."""
    if stream.unwatched:
        return f"{stream.unwatched}."
    also = f" A CUSUM of weekly means says so since {_day(found, stream.cusum)}." if stream.cusum is not None else ""
    if not stream.alarms:
        return also.strip()
    if stream.recent is None or stream.expected is None:
        return f"It was in alarm, and nobody was seen since.{also}"
    upto = f"of the {RECENT} weeks up to {_day(found, stream.alarms[-1])}"
    if stream.kind == "labels":
        most = f"by what the gate saw it may be {stream.expected:.3g} at most"
        return f"The mean {upto} is {stream.recent:.3g}; {most}.{also}"
    up, down = _INPUTS[stream.what][1:] if stream.kind == "inputs" else ("higher", "lower")
    rank = f"mean rank {upto}: {stream.recent:.2f}, and 0.50 if nothing had changed"
    if abs(stream.recent - 0.5) <= _EVEN:
        return f"They are spread in another way, neither higher nor lower ({rank}).{also}"
    return f"They are {up if stream.recent > 0.5 else down} than they were ({rank}).{also}"


def by_subject(found: Monitored) -> list[tuple[str, list[Stream]]]:
    """The streams of each finding, and those of pictures and patients, which come first."""
    named: dict[str, list[Stream]] = {}
    for one in found.streams:
        name = one.finding or ("pictures and patients" if one.kind == "inputs" else "all findings")
        named.setdefault(name, []).append(one)
    return list(named.items())


def lines(found: Monitored) -> list[str]:
    """What is printed: a line for each finding, and one below for each alarm."""
    said = [headline(found), about(found)]
    for name, streams in by_subject(found):
        alarmed = [one for one in streams if one.alarms]
        watched = [one for one in streams if not one.unwatched]
        if alarmed:
            since = min(_day(found, one.alarms[0]) for one in alarmed)
            said.append(f"{name}: alarm since {since}")
            said += [f"  {subject(one)}: {why(found, one)}" for one in alarmed]
        elif watched:
            left = len(streams) - len(watched)
            said.append(f"{name}: in control" + (f" ({left} of {len(streams)} streams not watched)" if left else ""))
        else:
            said.append(f"{name}: not watched: {'; '.join(dict.fromkeys(one.unwatched for one in streams))}")
    return said + [f"note: {one}" for one in found.notes]


def table(found: Monitored) -> Table:
    """Each stream with its state."""
    return tables.plain(HEADINGS, _cells(found))


def as_json(found: Monitored) -> dict[str, Any]:
    """What machines read: each stream with the day of its alarms, and why in words."""
    streams = [
        {
            "kind": one.kind,
            "what": one.what,
            "finding": one.finding,
            "rate": one.level,
            "patients": one.patients,
            "reference": one.reference,
            "state": "not watched" if one.unwatched else "alarm" if one.alarms else "in control",
            "since": [_day(found, week) for week in one.alarms],
            "cusum_since": None if one.cusum is None else _day(found, one.cusum),
            "why": why(found, one),
            "recent": one.recent,
            "expected": one.expected,
            "capital": [round(share, 6) for share in one.peaks],
        }
        for one in found.streams
    ]
    return {"headline": headline(found), "alarm": any(one.alarms for one in found.streams), "streams": streams}


def draw(found: Monitored) -> str:
    """Draw the capitals, as an SVG for a page."""
    panels = [
        (
            heading,
            [(subject(one), one.peaks, bool(one.alarms)) for one in found.streams if one.kind == kind and one.peaks],
        )
        for kind, heading in _KINDS.items()
    ]
    return figures.capitals(
        "monitoring",
        [panel for panel in panels if panel[1]],
        title="Capital of each stream by week",
        description=f"{headline(found)} {NOTE}",
    )


def render(found: Monitored) -> str:
    """Write the page."""
    return page.fill(
        "monitoring.html.j2",
        headline=headline(found),
        about=about(found),
        headings=HEADINGS,
        rows=_cells(found),
        figure=draw(found) if any(one.peaks for one in found.streams) else "",
        note=NOTE,
        notes=found.notes,
    )


def _cells(found: Monitored) -> list[tuple[str, str, str, str]]:
    return [(subject(one), f"{one.patients:,}", state(found, one), why(found, one)) for one in found.streams]


def _day(found: Monitored, week: int) -> str:
    """The day on which a week was over."""
    return (datetime.fromisoformat(found.promoted) + timedelta(weeks=week + 1)).date().isoformat()
