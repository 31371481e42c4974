"""The report's figures: arrays in, SVG text out.

The text is made to stand inside an HTML page: no XML prolog, no metadata, no date, no script, no address; ids are
prefixed with the figure's name, so that several figures can share a page; colours are CSS variables with a default, so
that the page can darken them. The same arrays give the same bytes. Colours come from the palette of Okabe and Ito, the
orange darkened for contrast, and no colour is the only carrier of a meaning: series differ in marker or dash as well.
"""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

# What a page may restyle, with the value that stands where it does not. The hexadecimal form is what matplotlib writes.
_COLOURS: Final = {
    "ink": "#1b1f24",
    "muted": "#5b6570",
    "rule": "#c9ced4",
    "challenger": "#0072b2",
    "champion": "#b34700",
    "reference": "#00785a",
    "limit": "#8a2f6b",
}
Model = Literal["challenger", "champion", "reference"]
MODELS: Final[tuple[Model, ...]] = ("challenger", "champion", "reference")
# Model -> (marker of an interval, line style of a curve).
_LOOK: Final[dict[Model, tuple[str, Any]]] = {
    "challenger": ("o", "solid"),
    "champion": ("D", (0, (4, 2))),
    "reference": ("s", (0, (1, 1.5))),
}
# Of a timeline: what happened -> (marker, colour).
_MARKS: Final[dict[str, tuple[str, str]]] = {
    "promoted": ("o", "champion"),
    "rolled back": ("v", "limit"),
    "not promoted": ("x", "muted"),
}
_FONT: Final = "DejaVu Sans"  # comes with matplotlib, so that the layout does not depend on the machine
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_QUALITY: Final = 85  # of a JPEG; colour keeps its full resolution
_GRID: Final = 250  # steps of a small panel's axes: finer than its pixels
_NARROW: Final = 5.0  # inches: below it a legend has a line for each of its parts
_CORNER: Final[dict[str, Any]] = {"ha": "right", "va": "bottom", "fontsize": 7.5}  # of a panel's note


Interval = tuple[float, float, float]  # value, low, high


@dataclass(frozen=True, kw_only=True)
class Series:
    """What is drawn in each row: a model's AUC, or the difference from a model, whose name gives colour and marker."""

    name: Model
    label: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of a forest plot.

    Attributes:
        label: what the row is about.
        support: its numbers of images or patients, as text at the right edge.
        intervals: one for each series, None where there is no number.
        limit: where the plan's floor or margin stands, None where it asks for nothing.
    """

    label: str
    support: str
    intervals: Sequence[Interval | None]
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Rows under a heading; `support` says what the numbers at the right edge count."""

    heading: str
    support: str
    rows: Sequence[Row]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """Curves of one finding: model -> (x, y); empty where there are none. Both axes run from 0 to `limit`."""

    finding: str
    note: str
    curves: Mapping[Model, tuple[Floats, Floats]] = field(default_factory=dict)
    limit: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Span:
    """A time in which a model was in use; `interval` is None where no value is told."""

    label: str
    begin: datetime
    end: datetime
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class Mark:
    """What happened at an instant; `interval` is None where no value is told."""

    kind: Literal["promoted", "rolled back", "not promoted"]
    at: datetime
    interval: Interval | None


@dataclass(frozen=True, kw_only=True)
class FlipRow:
    """What flips of one finding, as shares with their intervals: None where there is no number.

    with_finding: (missed, found); without: (alarmed, cleared).
    """

    finding: str
    with_finding: tuple[Interval, Interval] | None
    without: tuple[Interval, Interval] | None


def flips(name: str, rows: Sequence[FlipRow], *, title: str, description: str) -> str:
    """Draw what flips: bars to the left for images that the challenger alone calls wrongly, to the right for rightly.

    Args:
        name: prefix of the figure's ids.
        rows: from the top down.
        title: what a screen reader announces.
        description: what the figure shows, in a sentence or two.
    """
    sides = [
        ("Images with the finding", "missed now", "found now", [row.with_finding for row in rows]),
        ("Images without it", "false alarm now", "cleared now", [row.without for row in rows]),
    ]
    with _style(name):
        figure = _figure(width=8.6, height=0.9 + 0.24 * len(rows))
        for axes, (heading, worse, better, pairs) in zip(figure.subplots(1, 2, sharey=True), sides, strict=True):
            for place, pair in enumerate(pairs):
                for interval, sign, colour in zip(pair or (), (-1, 1), ("limit", "reference"), strict=False):
                    value, low, high = (100 * sign * number for number in interval)
                    axes.barh(place, value, height=0.62, color=_COLOURS[colour], alpha=0.55, zorder=2)
                    axes.hlines(place, low, high, color=_COLOURS[colour], linewidth=1.2, zorder=3)
                if pair is None:
                    _say_undefined(axes, place, 0.0, "not evaluable")
            axes.axvline(0.0, color=_COLOURS["ink"], linewidth=0.8, zorder=4)
            axes.set_title(heading, fontsize=9)
            end = max((100 * high for pair in pairs if pair for _, _, high in pair), default=1.0) * 1.05
            axes.set_xlim(-end, end)
            axes.xaxis.set_major_formatter(lambda at, _: f"{abs(at):g}")
            axes.set_xlabel(f"\u2190 {worse} \u00b7 % of images \u00b7 {better} \u2192")
            axes.grid(axis="x", color=_COLOURS["rule"], linewidth=0.4)
            axes.set_yticks(range(len(rows)), [row.finding.replace("_", " ") for row in rows])
            axes.set_ylim(len(rows) - 0.5, -0.5)
        return _svg(figure, name, title, description)


def forest(
    name: str,
    groups: Sequence[Group],
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    axis: str,
    neutral: float,
    limit_label: str,
    undefined: str = "not evaluable",
    width: float = 7.6,
) -> str:
    """Draw intervals with their numbers of patients and the limits that they are judged by.

    Args:
        name: prefix of the figure's ids; letters and hyphens.
        groups: rows under headings, from the top down.
        series: one to three; every row has an interval, or None, for each.
        title: what a screen reader announces.
        description: what the figure shows, in a sentence or two.
        axis: label of the horizontal axis.
        neutral: where a vertical line stands: 0.5 for an AUC, 0 for a difference.
        limit_label: what the legend says of the limits.
        undefined: what a row without any number shows.
        width: of the figure, in inches at a font of 9 points; below 5 the legend stands in lines.

    Raises:
        ValueError: a row has not one interval for each series.
    """
    rows = [row for group in groups for row in group.rows]
    if any(len(row.intervals) != len(series) for row in rows):
        raise ValueError(f"every row of {name} must have {len(series)} intervals")
    pitch = 0.2 + 0.06 * (len(series) - 1)  # inches
    with _style(name):
        lines = len(series) + 1 if width < _NARROW else 1
        figure = _figure(width=width, height=0.67 + 0.18 * lines + pitch * (len(rows) + 1.15 * len(groups)))
        axes = figure.add_subplot()
        axes.axvline(neutral, color=_COLOURS["muted"], linewidth=0.8, zorder=1)
        place, ticks = 0.0, []
        for group in groups:
            _text_right(axes, place, group.support, size=7.5)
            ticks.append((place, group.heading, "bold"))
            for row in group.rows:
                place += 1
                _draw_row(axes, row, series, place, neutral, undefined)
                _text_right(axes, place, row.support, size=8)
                ticks.append((place, row.label, "normal"))
            place += 1.15
        axes.set_yticks([tick[0] for tick in ticks], [tick[1] for tick in ticks])
        for label, (_, _, weight) in zip(axes.get_yticklabels(), ticks, strict=True):
            label.set_fontweight(weight)
        axes.set_ylim(place - 0.5, -0.6)
        axes.set_xlim(*_span(rows, neutral))
        axes.spines.left.set_visible(False)
        axes.set_xlabel(axis)
        axes.grid(axis="x", color=_COLOURS["rule"], linewidth=0.4)
        handles = [_series_handle(one) for one in series]
        if any(row.limit is not None for row in rows):
            handles.append(_limit_handle(limit_label))
        columns = 1 if width < _NARROW else len(handles)
        figure.legend(handles=handles, loc="outside upper left", ncols=columns, fontsize=8.5)
        return _svg(figure, name, title, description)


def curve_grid(
    name: str,
    panels: Sequence[Panel],
    *,
    x_label: str,
    y_label: str,
    title: str,
    description: str,
    points: bool = False,
    columns: int = 5,
) -> str:
    """Draw curves as small multiples, one panel a finding, with the diagonal; a panel without curves says why.

    `points` marks each point of a curve. Without it, curves are drawn on a grid of 1/250 of a panel, finer than its
    pixels.
    """
    lines = -(-len(panels) // columns)
    shared = all(panel.limit == panels[0].limit for panel in panels)  # then the outer panels' numbers serve all
    with _style(name):
        figure = _figure(width=8.6, height=0.5 + (1.92 if shared else 1.98) * lines)
        grid = figure.subplots(lines, columns, squeeze=False)
        models: list[Model] = []
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            panel = panels[place]
            end = panel.limit
            axes.plot([0, end], [0, end], color=_COLOURS["rule"], linewidth=0.8)
            for model, curve in panel.curves.items():
                x, y = curve if points else thin(*curve, end=end)
                axes.plot(x, y, color=_COLOURS[model], **_curve_look(model, points=points))
                models += [model] if model not in models else []
            axes.set_title(panel.finding.replace("_", " "), fontsize=8.5)
            axes.text(0.96, 0.05, panel.note, **_CORNER, transform=axes.transAxes, color=_COLOURS["muted"])
            room, ticks = (-0.02 * end, 1.02 * end), [0, end / 2, end]
            axes.set(xlim=room, ylim=room, xticks=ticks, yticks=ticks, aspect="equal")
            axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            bottom, left = place + columns >= len(panels), place % columns == 0
            axes.tick_params(labelsize=7, labelbottom=bottom or not shared, labelleft=left or not shared)
        figure.supxlabel(x_label, fontsize=9)
        figure.supylabel(y_label, fontsize=9)
        figure.legend(
            handles=[_curve_handle(model, points=points) for model in models],
            loc="outside upper left",
            ncols=len(MODELS),
            fontsize=8.5,
        )
        return _svg(figure, name, title, description)


def training_curves(
    name: str,
    epochs: Floats,
    train_loss: Floats,
    validation_loss: Floats,
    validation_auc: Floats,
    *,
    kept: int | None,
    title: str,
    description: str,
) -> str:
    """Draw the loss and the mean validation AUC by epoch, with a line at the epoch whose weights were kept.

    Args:
        name: prefix of the figure's ids.
        epochs: E epoch numbers.
        train_loss: E values.
        validation_loss: E values.
        validation_auc: E values, NaN where it was undefined.
        kept: the epoch whose weights were kept, or None when it is not known.
        title: what a screen reader announces.
        description: what the figure shows, in a sentence.
    """
    from matplotlib.ticker import MaxNLocator

    with _style(name):
        figure = _figure(width=8.6, height=2.9)
        left, right = figure.subplots(1, 2, sharex=True)
        left.plot(epochs, train_loss, color=_COLOURS["muted"], linestyle=(0, (4, 2)), marker="s", label="Training")
        left.plot(epochs, validation_loss, color=_COLOURS["challenger"], marker="o", label="Validation")
        left.set_ylabel("Weighted loss")
        left.legend(fontsize=8.5)
        right.plot(epochs, validation_auc, color=_COLOURS["challenger"], marker="o")
        right.set_ylabel("Mean AUC, validation")
        for axes in (left, right):
            axes.set_xlabel("Epoch")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(axis="y", color=_COLOURS["rule"], linewidth=0.4)
            if kept is not None:
                axes.axvline(kept, color=_COLOURS["limit"], linewidth=1.2, zorder=1)
        return _svg(figure, name, title, description)


OVERLAY: Final = 1000  # units of an overlay's side
SHARES: Final = (0.25, 0.5, 0.75)  # of the scale's end, at which a map is outlined
_FINE: Final = 96  # places a side between which a map's grid is interpolated


def timeline(
    name: str,
    spans: Sequence[Span],
    marks: Sequence[Mark],
    *,
    periods: Sequence[datetime] = (),
    axis: str,
    title: str,
    description: str,
) -> str:
    """Draw which model was in use when, over time, with its value and interval, and what was tried besides.

    What has no value is drawn in a strip below the axis of values, so that nothing is missing from the picture.

    Args:
        name: prefix of the figure's ids.
        spans: times in which a model was in use, the first first.
        marks: what happened at an instant.
        periods: when test periods opened.
        axis: label of the vertical axis.
        title: what a screen reader announces.
        description: what the figure shows, in a sentence or two.

    Raises:
        ValueError: there is neither a span nor a mark.
    """
    if not spans and not marks:
        raise ValueError(f"{name} has nothing to draw")
    from matplotlib import dates

    given = [*(span.interval for span in spans), *(mark.interval for mark in marks)]
    known = [interval for interval in given if interval is not None]
    low = min((interval[1] for interval in known), default=0.5)
    high = max((interval[2] for interval in known), default=1.0)
    room = max(0.02, 0.12 * (high - low))
    strip = low - 2.5 * room
    with _style(name):
        figure = _figure(width=8.6, height=3.6)
        axes = figure.add_subplot()
        for at in periods:
            axes.axvline(at, color=_COLOURS["rule"], linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)  # type: ignore[arg-type]  # dates are numbers here
        for span in spans:
            _draw_span(axes, span, strip)
        for mark in marks:
            _draw_mark(axes, mark, strip)
        axes.axhspan(strip - room, strip + room, color=_COLOURS["rule"], alpha=0.25, linewidth=0, zorder=0)
        axes.text(0.005, strip, "no figure told", transform=axes.get_yaxis_transform(), va="center", fontsize=7.5)
        axes.set_ylim(strip - room, high + 2 * room)
        axes.set_yticks([tick for tick in axes.get_yticks() if known and low - room <= tick <= high + 2 * room])
        locator: Any = dates.AutoDateLocator(minticks=3, maxticks=8)  # type: ignore[no-untyped-call]  # matplotlib's
        axes.xaxis.set_major_locator(locator)
        axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]  # likewise
        axes.margins(x=0.04)
        axes.set_ylabel(axis)
        axes.set_xlabel("time (UTC)")
        axes.grid(axis="y", color=_COLOURS["rule"], linewidth=0.4)
        kinds = [kind for kind in _MARKS if any(mark.kind == kind for mark in marks)]
        handles = [_mark_handle(kind) for kind in kinds]
        if handles:
            figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8.5)
        return _svg(figure, name, title, description)


def capitals(
    name: str,
    panels: Sequence[tuple[str, Sequence[tuple[str, Sequence[float], bool]]]],
    *,
    title: str,
    description: str,
) -> str:
    """Draw what streams have of the capital at which they are in alarm, by week, a panel a kind.

    Args:
        name: prefix of the figure's ids.
        panels: (heading, streams), each stream (label, (W,) shares, whether it was in alarm). Those in alarm are named.
        title: what a screen reader announces.
        description: what the figure shows, in a sentence or two.
    """
    with _style(name):
        figure = _figure(width=8.6, height=2.1 * len(panels) + 0.4)
        for axes, (heading, streams) in zip(
            figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
        ):
            named = 0
            for label, shares, alarmed in streams:
                weeks = np.arange(1, len(shares) + 1)
                colour = _COLOURS["limit" if alarmed else "challenger"]
                axes.plot(weeks, shares, color=colour, linewidth=1.6 if alarmed else 0.8, alpha=1 if alarmed else 0.6)
                if alarmed:
                    over = next(week for week, share in zip(weeks, shares, strict=True) if share >= 1)
                    place = (3, 4 + 9 * (named % 4))  # one above the other: alarms often begin together
                    axes.annotate(label, (over, 1.0), xytext=place, textcoords="offset points", fontsize=7.5)
                    named += 1
            axes.axhline(1.0, color=_COLOURS["limit"], linewidth=1.0, linestyle=(0, (4, 2)))
            axes.set_yscale("log")
            axes.set_ylim(1e-6, 1e3)
            axes.set_title(heading, fontsize=9, loc="left")
            axes.grid(axis="y", color=_COLOURS["rule"], linewidth=0.4)
        axes.set_xlabel("week since the promotion")
        figure.supylabel("capital, as a share of that at alarm", fontsize=9)
        return _svg(figure, name, title, description)


def document(svg: str) -> str:
    """A figure as an SVG document of its own."""
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)


def overlay(heat: Sequence[Sequence[float]], end: float) -> list[str]:
    """The outlines of a heat map, as SVG paths in a square of `OVERLAY` units.

    Between the centres of its cells the map is interpolated linearly, which is smoother than it is: a page must say how
    coarse the grid is.

    Args:
        heat: rows of numbers, at least 0.
        end: of the scale, above 0, in the unit of the map.

    Returns:
        For each of `SHARES` the path of the region that reaches so much; "" where none does.
    """
    import contourpy

    grid = np.asarray(heat, dtype=np.float64)
    if not grid.size:
        return [""] * len(SHARES)
    places = (np.arange(_FINE + 1) / _FINE, *(((np.arange(n) + 0.5) / n) for n in grid.shape))
    fine, rows, columns = places
    across = np.stack([np.interp(fine, columns, row) for row in grid])
    smooth = np.stack([np.interp(fine, rows, column) for column in across.T], axis=1)
    at = fine * OVERLAY
    generator = contourpy.contour_generator(at, at, smooth, fill_type=contourpy.FillType.OuterOffset)
    paths = []
    for share in SHARES:
        regions = zip(*generator.filled(share * end, np.inf), strict=True)
        rings = [points[first:last] for points, ends in regions for first, last in itertools.pairwise(ends)]
        paths.append("".join(_path(ring) for ring in rings))
    return paths


def _path(ring: Floats) -> str:
    places = [f"{x:.0f} {y:.0f}" for x, y in ring[:-1]]
    kept = [place for i, place in enumerate(places) if i == 0 or place != places[i - 1]]
    return f"M{'L'.join(kept)}Z"


def compress(png: bytes) -> bytes:
    """Make a JPEG of a PNG: an eighth of its size, without a visible loss and without metadata.

    Raises:
        OSError: not a PNG, or a damaged one, of which `damage` says why.
    """
    from PIL import Image

    out = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        grey = picture if picture.mode == "L" else picture.convert("RGB")
        grey.save(out, format="JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return out.getvalue()


def damage(png: bytes) -> str:
    """Say why bytes cannot be shown as a picture; "" where they can.

    >>> damage(b"<svg/>")
    'it is not a PNG'
    """
    from PIL import Image

    if not png.startswith(_PNG):
        return "it is not a PNG"
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
            picture.load()
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's errors about damaged PNG
        return f"it is damaged ({str(error).partition(' <')[0]})"
    return ""


def thin(x: Floats, y: Floats, *, end: float = 1.0) -> tuple[Floats, Floats]:
    """Round a curve to the grid of a panel whose axes end at `end`; drop points in the middle of a straight run.

    >>> thin(np.array([0.0, 0.0, 0.2, 0.4, 1.0]), np.array([0.0, 0.5, 0.5, 0.5, 1.0]))
    (array([0. , 0. , 0.4, 1. ]), array([0. , 0.5, 0.5, 1. ]))
    """
    points = np.column_stack([np.rint(np.asarray(axis) * _GRID / end) for axis in (x, y)])
    kept: list[Floats] = []
    for point in points:
        if kept and bool((point == kept[-1]).all()):
            continue
        while len(kept) > 1 and _straight(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    result = np.array(kept).reshape(-1, 2) * end / _GRID
    return result[:, 0], result[:, 1]


def _straight(first: Floats, second: Floats, third: Floats) -> bool:
    (a, b), (c, d) = second - first, third - second
    return bool(a * d == b * c and a * c + b * d > 0)


def _draw_span(axes: Axes, span: Span, strip: float) -> None:
    """A line at the model's value, with its interval as a band, and the model's name above its beginning."""
    at: list[Any] = [span.begin, span.end]
    value = strip
    if span.interval is not None:
        value, low, high = span.interval
        axes.fill_between(at, [low, low], [high, high], color=_COLOURS["champion"], alpha=0.15, linewidth=0, zorder=2)
    axes.plot(at, [value, value], color=_COLOURS["champion"], linewidth=2, zorder=3)
    axes.annotate(span.label, (at[0], value), (3, 4), textcoords="offset points", fontsize=8, zorder=5)


def _draw_mark(axes: Axes, mark: Mark, strip: float) -> None:
    at: Any = mark.at
    marker, colour = _MARKS[mark.kind]
    value = strip
    if mark.interval is not None:
        value, low, high = mark.interval
        axes.vlines(at, low, high, color=_COLOURS[colour], linewidth=1.1, zorder=3)
    axes.plot([at], [value], marker=marker, color=_COLOURS[colour], markersize=5.5, linestyle="none", zorder=4)


def _mark_handle(kind: str) -> Any:
    from matplotlib.lines import Line2D

    marker, colour = _MARKS[kind]
    return Line2D([], [], color=_COLOURS[colour], marker=marker, markersize=6, linestyle="none", label=kind)


def _draw_row(axes: Axes, row: Row, series: Sequence[Series], place: float, neutral: float, undefined: str) -> None:
    if row.limit is not None:
        axes.vlines(row.limit, place - 0.42, place + 0.42, color=_COLOURS["limit"], linewidth=1.4, zorder=2)
    apart = 0.3 if len(series) == 2 else 0.27
    for i, (one, interval) in enumerate(zip(series, row.intervals, strict=True)):
        if interval is None:
            continue
        value, low, high = interval
        height = place + apart * (i - (len(series) - 1) / 2)
        axes.hlines(height, low, high, color=_COLOURS[one.name], linewidth=1.5, zorder=3)
        axes.plot([value], [height], _LOOK[one.name][0], color=_COLOURS[one.name], markersize=4.2, zorder=4)
    if not any(row.intervals):
        _say_undefined(axes, place, neutral, undefined)


def _say_undefined(axes: Axes, place: float, neutral: float, words: str) -> None:
    axes.annotate(
        words,
        (neutral, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=8,
        color=_COLOURS["muted"],
    )


def _text_right(axes: Axes, place: float, text: str, *, size: float) -> None:
    axes.annotate(
        text,
        (1, place),
        xycoords=axes.get_yaxis_transform(),
        xytext=(74, 0),  # points: room for `positive patients`
        textcoords="offset points",
        ha="right",
        va="center",
        fontsize=size,
        color=_COLOURS["muted"],
    )


def _span(rows: Sequence[Row], neutral: float) -> tuple[float, float]:
    numbers = [neutral, *(row.limit for row in rows if row.limit is not None)]
    numbers += [number for row in rows for interval in row.intervals if interval is not None for number in interval]
    low, high = min(numbers), max(numbers)
    room = 0.04 * (high - low) or 0.05
    return low - room, high + room


def _series_handle(one: Series) -> Any:
    from matplotlib.lines import Line2D

    marker = _LOOK[one.name][0]
    return Line2D([], [], color=_COLOURS[one.name], marker=marker, markersize=4.2, linewidth=1.5, label=one.label)


def _curve_handle(model: Model, *, points: bool) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=_COLOURS[model], label=model.capitalize(), **_curve_look(model, points=points))


def _curve_look(model: Model, *, points: bool) -> dict[str, Any]:
    marker, style = _LOOK[model]
    return {"linestyle": style, "linewidth": 1.2, "marker": marker if points else "", "markersize": 2.6}


def _limit_handle(label: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=_COLOURS["limit"], marker="|", markersize=9, linestyle="none", label=label)


def _figure(*, width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _style(name: str) -> AbstractContextManager[None]:
    """Settings of one figure, from matplotlib's defaults: a person's own matplotlibrc must not change the bytes."""
    import matplotlib as mpl

    settings = {key: value for key, value in mpl.rcParamsDefault.items() if key not in ("backend", "interactive")}
    ink = _COLOURS["ink"]
    settings |= {
        "svg.hashsalt": name,
        "svg.fonttype": "none",
        "font.family": ["sans-serif"],
        "font.sans-serif": [_FONT],
        "font.size": 9,
        "text.color": ink,
        "axes.labelcolor": ink,
        "axes.edgecolor": _COLOURS["muted"],
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": _COLOURS["muted"],
        "ytick.color": _COLOURS["muted"],
        "xtick.labelcolor": ink,
        "ytick.labelcolor": ink,
        "ytick.major.size": 0,
        "lines.linewidth": 1.4,
        "lines.markersize": 3.6,
        "legend.frameon": False,
        "figure.facecolor": "none",
        "axes.facecolor": "none",
    }
    context: AbstractContextManager[None] = mpl.rc_context(settings)
    return context


def _svg(figure: Figure, name: str, title: str, description: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return inline_svg(buffer.getvalue(), name, title, description)


def inline_svg(document: str, name: str, title: str, description: str) -> str:
    """Make an SVG document of matplotlib's fit for a page; see the module's docstring.

    Raises:
        ValueError: the name could not be part of an id.
    """
    if not re.fullmatch(r"[a-z][a-z-]*", name):
        raise ValueError(f"{name!r} cannot name a figure: lower-case letters and hyphens only")
    body = document[document.index("<svg") :]
    body = re.sub(r"\s*<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->\s*", "", body, flags=re.DOTALL)
    # Its style sheet would leak into the page.
    body = re.sub(r"\s*<defs>\s*<style.*?</style>\s*</defs>", "", body, count=1, flags=re.DOTALL)
    body = re.sub(r"<[^>]*>", lambda tag: _round_numbers(tag[0]), body)
    body = re.sub(r' (?:xmlns(?::xlink)?|version)="[^"]*"', "", body)
    body = body.replace("xlink:href=", "href=")
    # Its ids are long digests. Numbers are shorter, and no part of one can look like a patient's id.
    number = {used: f"{name}-{i}" for i, used in enumerate(dict.fromkeys(_references(body)))}
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{number[match[1]]}"' if match[1] in number else "", body)
    body = re.sub(r'(href="#|url\(#)([^")]+)', lambda match: match[1] + number[match[2]], body)
    for colour, value in _COLOURS.items():
        body = body.replace(value, f"var(--{colour}, {value})")
    body = body.replace(f"'{_FONT}'", "var(--sans, sans-serif)")
    view = body.split('viewBox="', 1)[1].split('"', 1)[0]
    head = (
        f'<svg role="img" aria-labelledby="{name}-title {name}-description" class="figure" '
        f'viewBox="{view}" preserveAspectRatio="xMidYMid meet">\n'
        f'<title id="{name}-title">{escape(title)}</title>\n'
        f'<desc id="{name}-description">{escape(description)}</desc>\n'
    )
    return head + body[body.index(">") + 1 :].strip() + "\n"


def _round_numbers(tag: str) -> str:
    """Two decimals of a point are finer than any screen or printer, and a third of the size."""
    return re.sub(r"\d+\.\d{3,}", lambda number: f"{float(number[0]):.2f}", tag)


def _references(svg: str) -> Iterable[str]:
    return re.findall(r'(?:href="#|url\(#)([^")]+)', svg)
