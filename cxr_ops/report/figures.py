"""The report's figures: arrays in, SVG text out.

The text is made to stand inside an HTML page: no XML prolog, no metadata, no date, no script, no address; ids are
prefixed with the figure's name, so that several figures can share a page; colours are CSS variables with a default, so
that the page can darken them. The same arrays give the same bytes. Colours come from the palette of Okabe and Ito, the
orange darkened for contrast, and no colour is the only carrier of a meaning: series differ in marker or dash as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
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
_FONT: Final = "DejaVu Sans"  # comes with matplotlib, so that the layout does not depend on the machine
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_QUALITY: Final = 85  # of a JPEG; colour keeps its full resolution
_GRID: Final = 250  # steps of a small panel's axes: finer than its pixels
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

    Raises:
        ValueError: a row has not one interval for each series.
    """
    rows = [row for group in groups for row in group.rows]
    if any(len(row.intervals) != len(series) for row in rows):
        raise ValueError(f"every row of {name} must have {len(series)} intervals")
    pitch = 0.2 + 0.06 * (len(series) - 1)  # inches
    with _style(name):
        figure = _figure(width=7.6, height=0.85 + pitch * (len(rows) + 1.15 * len(groups)))
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
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8.5)
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


def compress(png: bytes) -> bytes:
    """Make a JPEG of a PNG: an eighth of its size, without a visible loss and without metadata.

    Raises:
        ValueError: not a PNG.
    """
    from PIL import Image

    if not png.startswith(_PNG):
        raise ValueError("a heat map is not a PNG")
    out = io.BytesIO()
    with Image.open(io.BytesIO(png), formats=["PNG"]) as picture:
        picture.convert("RGB").save(out, format="JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return out.getvalue()


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
        axes.annotate(
            undefined,
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
