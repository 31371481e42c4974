"""The report's figures: arrays in, SVG text out.

The text is made to stand inside an HTML page: no XML prolog, no metadata, no date, no script, no address; ids are
prefixed with the figure's name, so that several figures can share a page; colours are CSS variables with a default, so
that the page can darken them. The same arrays give the same bytes. Colours come from the palette of Okabe and Ito, the
orange darkened for contrast, and no colour is the only carrier of a meaning: series differ in marker or dash as well.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
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
    "limit": "#8a2f6b",
}
CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"
# Model -> (marker of an interval, line style of a curve).
_LOOK: Final[dict[str, tuple[str, Any]]] = {CHALLENGER: ("o", "solid"), CHAMPION: ("D", (0, (4, 2)))}
_FONT: Final = "DejaVu Sans"  # comes with matplotlib, so that the layout does not depend on the machine
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_QUALITY: Final = 85  # of a JPEG; colour keeps its full resolution
_GRID: Final = 250  # steps of a ROC panel's axes: finer than its pixels


@dataclass(frozen=True, kw_only=True)
class Series:
    """Intervals of one model.

    Attributes:
        name: `challenger` or `champion`: gives colour and marker.
        label: what the legend says.
        intervals: N x 3: value, low, high; a row of NaN where the value is undefined.
    """

    name: Literal["challenger", "champion"]
    label: str
    intervals: Floats


@dataclass(frozen=True, kw_only=True)
class Roc:
    """ROC curves of one finding: model -> (false positive rates, true positive rates); empty where undefined."""

    finding: str
    note: str
    curves: dict[str, tuple[Floats, Floats]] = field(default_factory=dict)


def forest(
    name: str,
    rows: Sequence[str],
    series: Sequence[Series],
    *,
    title: str,
    description: str,
    axis: str,
    neutral: float,
    limits: Sequence[float | None] = (),
    limit_label: str = "",
    undefined: str = "not evaluable",
) -> str:
    """Draw intervals, one row a finding, the last row set apart as the mean over findings.

    Args:
        name: prefix of the figure's ids; letters and hyphens.
        rows: N labels, from the top down.
        series: one or two models, with N intervals each.
        title: what a screen reader announces.
        description: what the figure shows, in a sentence.
        axis: label of the horizontal axis.
        neutral: where a vertical line stands: 0.5 for an AUC, 0 for a difference.
        limits: for each row where the plan's floor or margin stands, or None; empty when there is none.
        limit_label: what the legend says of the limits.
        undefined: what stands in a row without a number.

    Raises:
        ValueError: lengths differ.
    """
    if any(one.intervals.shape != (len(rows), 3) for one in series) or (limits and len(limits) != len(rows)):
        raise ValueError(f"every series and the limits of {name} must have {len(rows)} rows")
    with _style(name):
        figure = _figure(width=7.6, height=1.0 + 0.29 * len(rows))
        axes = figure.add_subplot()
        height = np.arange(len(rows), dtype=np.float64)
        height[-1] += 0.35  # the mean stands apart
        axes.axvline(neutral, color=_COLOURS["muted"], linewidth=0.8, zorder=1)
        axes.axhline(height[-1] - 0.65, color=_COLOURS["rule"], linewidth=0.8, zorder=1)
        offsets = [0.0] if len(series) == 1 else [-0.15, 0.15]
        for one, offset in zip(series, offsets, strict=True):
            _draw_intervals(axes, one, height + offset)
        for place, limit in zip(height, limits, strict=False):
            if limit is not None:
                axes.vlines(limit, place - 0.4, place + 0.4, color=_COLOURS["limit"], linewidth=1.4, zorder=2)
        nothing = np.all([np.isnan(one.intervals[:, 0]) for one in series], axis=0)
        for place in height[nothing]:
            axes.annotate(
                undefined,
                (neutral, place),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=_COLOURS["muted"],
            )
        axes.spines.left.set_visible(False)
        axes.set_yticks(height, [label.replace("_", " ") for label in rows])
        axes.set_ylim(height[-1] + 0.6, -0.6)
        axes.set_xlabel(axis)
        axes.grid(axis="x", color=_COLOURS["rule"], linewidth=0.4)
        _widen(axes, series, limits, neutral)
        handles = [_legend_handle(one) for one in series]
        if any(limit is not None for limit in limits):
            handles.append(_limit_handle(limit_label))
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=8.5)
        return _svg(figure, name, title, description)


def roc_grid(name: str, panels: Sequence[Roc], *, title: str, description: str, columns: int = 5) -> str:
    """Draw ROC curves as small multiples, one panel a finding; a panel without curves says why.

    Curves are drawn on a grid of 1/250, finer than a panel's pixels; the exact points are in `evaluate/roc.csv`.
    """
    lines = -(-len(panels) // columns)
    with _style(name):
        figure = _figure(width=8.6, height=0.5 + 1.85 * lines)
        grid = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
        models: list[str] = []
        for place, axes in enumerate(grid.flat):
            if place >= len(panels):
                axes.set_visible(False)
                continue
            panel = panels[place]
            axes.plot([0, 1], [0, 1], color=_COLOURS["rule"], linewidth=0.8)
            for model, (fpr, tpr) in panel.curves.items():
                x, y = thin(fpr, tpr)
                axes.plot(x, y, color=_COLOURS[model], linewidth=1.2, linestyle=_LOOK[model][1])
                models += [model] if model not in models else []
            axes.set_title(panel.finding.replace("_", " "), fontsize=8.5)
            axes.text(0.96, 0.05, panel.note, ha="right", va="bottom", fontsize=7.5, color=_COLOURS["muted"])
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
            axes.tick_params(labelsize=7, labelbottom=place + columns >= len(panels))
        figure.supxlabel("False positive rate", fontsize=9)
        figure.supylabel("True positive rate", fontsize=9)
        figure.legend(
            handles=[_line_handle(model.capitalize(), model, _LOOK[model][1]) for model in models],
            loc="outside upper left",
            ncols=2,
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


def thin(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Round a curve to the grid of a panel and drop points in the middle of a straight run.

    >>> thin(np.array([0.0, 0.0, 0.2, 0.4, 1.0]), np.array([0.0, 0.5, 0.5, 0.5, 1.0]))
    (array([0. , 0. , 0.4, 1. ]), array([0. , 0.5, 0.5, 1. ]))
    """
    points = np.column_stack([np.rint(np.asarray(x) * _GRID), np.rint(np.asarray(y) * _GRID)])
    kept: list[Floats] = []
    for point in points:
        if kept and bool((point == kept[-1]).all()):
            continue
        while len(kept) > 1 and _straight(kept[-2], kept[-1], point):
            kept.pop()
        kept.append(point)
    result = np.array(kept).reshape(-1, 2) / _GRID
    return result[:, 0], result[:, 1]


def _straight(first: Floats, second: Floats, third: Floats) -> bool:
    (a, b), (c, d) = second - first, third - second
    return bool(a * d == b * c and a * c + b * d > 0)


def _draw_intervals(axes: Axes, one: Series, height: Floats) -> None:
    colour, marker = _COLOURS[one.name], _LOOK[one.name][0]
    value, low, high = one.intervals.T
    there = ~np.isnan(value)
    axes.hlines(height[there], low[there], high[there], color=colour, linewidth=1.6, zorder=3)
    single = there.copy()
    single[-1] = False
    axes.plot(value[single], height[single], marker, color=colour, markersize=4.6, zorder=4)
    if there[-1]:
        axes.plot(value[-1:], height[-1:], marker, color=colour, markersize=7, zorder=4)


def _widen(axes: Axes, series: Sequence[Series], limits: Sequence[float | None], neutral: float) -> None:
    numbers = [value for one in series for value in one.intervals.ravel().tolist() if not np.isnan(value)]
    numbers += [limit for limit in limits if limit is not None]
    low, high = min([neutral, *numbers]), max([neutral, *numbers])
    room = 0.05 * (high - low) or 0.05
    axes.set_xlim(low - room, high + room)


def _legend_handle(one: Series) -> Any:
    from matplotlib.lines import Line2D

    marker = _LOOK[one.name][0]
    return Line2D([], [], color=_COLOURS[one.name], marker=marker, markersize=4.6, linewidth=1.6, label=one.label)


def _line_handle(label: str, colour: str, style: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=_COLOURS[colour], linestyle=style, linewidth=1.2, label=label)


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
    """Make an SVG document of matplotlib's fit to stand in a page; see the module's docstring.

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
    used = set(_references(body))
    body = re.sub(r' id="([^"]*)"', lambda match: f' id="{name}-{match[1]}"' if match[1] in used else "", body)
    body = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", body)
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
