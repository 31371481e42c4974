"""The flow of images from batches to the sides of the split, drawn like the diagram of the CONSORT statement.

Boxes stand one below the other and hold what is left; what leaves stands beside, with the reason and its numbers. The
text is SVG text, so that it can be read aloud, searched and copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Final

from cxr_ops.records.report import Counted, Excluded, Flow
from cxr_ops.report.words import count_text

BATCHES: Final = 8  # that are named; further ones are summed
_WIDTH: Final = 760
_LINE: Final = 19  # units of a line of text
_PAD: Final = 11
_GAP: Final = 34  # between boxes, for the arrow
_MAIN: Final = 330  # width of a box in the middle column
_ASIDE: Final = 340
_SIDE: Final = 232  # width of a box in the last row
_CHARACTER: Final = 6.6  # units of a letter at most, at 12.5 units: what fits a line


def draw(flow: Flow, name: str = "flow") -> str:
    """Draw the flow as SVG text.

    Args:
        flow: what came, what left and what is on each side.
        name: prefix of the figure's ids.
    """
    sides = [[_bold(one.name.capitalize()), *_counts(one)] for one in flow.sides]
    parts: list[str] = []
    first = [_bold("Batches as they entered"), *_batches(flow.batches)]
    if flow.corrected:
        first += _wrap(f"labels of {count_text(flow.corrected)} images corrected since", _MAIN)
    top = 1.0
    middle = 1 + _MAIN / 2
    if flow.left_out or flow.unrecorded:
        came = [_bold("Rows of the tables that were brought"), _rows(flow)]
        lost = [
            _bold("Did not enter"),
            *(line for one in flow.left_out for line in _wrap(_lost(one), _ASIDE)),
            *(_wrap(_unrecorded(flow), _ASIDE) if flow.unrecorded else ()),
        ]
        parts.append(_box(1, top, _MAIN, came))
        beside = top + _height(came) + _GAP / 2
        parts.append(_box(_WIDTH - 1 - _ASIDE, beside, _ASIDE, lost))
        turn = beside + _height(lost) / 2
        parts.append(_arrow([(middle, turn), (_WIDTH - 1 - _ASIDE, turn)]))
        below = beside + max(_height(lost), _LINE) + _GAP / 2
        parts.append(_arrow([(middle, top + _height(came)), (middle, below)]))
        top = below
    bottom = top + _height(first)
    parts.append(_box(1, top, _MAIN, first))
    if flow.excluded:
        left = [_bold("On no side"), *(line for one in flow.excluded for line in _wrap(_excluded(one), _ASIDE))]
        at = bottom + _GAP / 2
        below = at + max(_height(left), _LINE)
        parts.append(_box(_WIDTH - 1 - _ASIDE, at, _ASIDE, left))
        turn = at + _height(left) / 2
        parts.append(_arrow([(middle, turn), (_WIDTH - 1 - _ASIDE, turn)]))
        bottom = below - _GAP / 2
        parts.append(_arrow([(middle, top + _height(first)), (middle, bottom + _GAP)]))
    else:
        parts.append(_arrow([(middle, bottom), (middle, bottom + _GAP)]))
    kept = Counted(
        name="",
        images=sum(one.images for one in flow.sides),
        patients=sum(one.patients for one in flow.sides),
    )
    split = [_bold("Divided by a keyed hash of the patient"), *_counts(kept)]
    top = bottom + _GAP
    parts.append(_box(1, top, _MAIN, split))
    bottom = top + _height(split)
    space = (_WIDTH - 2 - len(sides) * _SIDE) / max(1, len(sides) - 1)
    row = bottom + _GAP
    for i, lines in enumerate(sides):
        x = 1 + i * (_SIDE + space)
        parts.append(_box(x, row, _SIDE, lines))
        turn = bottom + _GAP / 2
        parts.append(_arrow([(middle, bottom), (middle, turn), (x + _SIDE / 2, turn), (x + _SIDE / 2, row)]))
    height = row + max(map(_height, sides), default=0) + 1
    return (
        f'<svg role="img" aria-labelledby="{name}-title {name}-description" class="figure flow" '
        f'viewBox="0 0 {_WIDTH} {height:.0f}" preserveAspectRatio="xMidYMin meet">\n'
        f'<title id="{name}-title">Flow of images and patients</title>\n'
        f'<desc id="{name}-description">{escape(in_words(flow))}</desc>\n'
        f'<defs><marker id="{name}-head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" '
        'orient="auto"><path d="M0 0L8 4L0 8Z" fill="var(--muted, #5b6570)"/></marker></defs>\n'
        + "".join(parts).replace("#head", f"#{name}-head")
        + "</svg>\n"
    )


def in_words(flow: Flow) -> str:
    """Say the flow in a few sentences, for those who do not see the picture.

    >>> kept = Counted(name="train", images=8, patients=3)
    >>> in_words(Flow(batches=[kept], total=kept, excluded=[Excluded(reason="view LL", images=2)], sides=[kept]))
    '8 images of 3 patients came in 1 batch. 2 images are on no side: view LL. Train: 8 images of 3 patients.'
    """
    batches = len(flow.batches)
    came = f"{_both(flow.total)} came in {batches} batch{'es' if batches != 1 else ''}."
    lost = [f"{_lost(one).capitalize()}." for one in flow.left_out]
    lost += [f"{_unrecorded(flow).capitalize()}."] if flow.unrecorded else []
    fixed = [f"Labels of {count_text(flow.corrected)} images were corrected since."] if flow.corrected else []
    left = [f"{count_text(one.images)} images are on no side: {one.reason}." for one in flow.excluded]
    sides = [f"{one.name.capitalize()}: {_both(one)}." for one in flow.sides]
    return " ".join([*lost, came, *fixed, *left, *sides])


def _rows(flow: Flow) -> str:
    """Rows that were brought; the least that it can be, where some are not on record."""
    known = flow.total.images + sum(one.images for one in flow.left_out)
    whole = not flow.unrecorded and all(one.images for one in flow.left_out)
    return f"{'' if whole else 'at least '}{count_text(known)} rows"


def _lost(one: Excluded) -> str:
    return f"{one.reason}: {count_text(one.images)} rows" if one.images else f"{one.reason}: rows not on record"


def _unrecorded(flow: Flow) -> str:
    named = ", ".join(flow.unrecorded[:BATCHES])
    more = len(flow.unrecorded) - BATCHES
    return f"what was left out of {named}{f' and {more} more' if more > 0 else ''} is not on record"


def _batches(batches: Sequence[Counted]) -> list[str]:
    named = [line for one in batches[:BATCHES] for line in _wrap(f"{one.name}: {_both(one)}", _MAIN)]
    rest = batches[BATCHES:]
    if rest:
        named.append(f"and {len(rest)} more: {count_text(sum(one.images for one in rest))} images")
    return named or ["none"]


def _counts(one: Counted) -> list[str]:
    return [f"{count_text(one.images)} images", f"{count_text(one.patients)} patients"]


def _excluded(one: Excluded) -> str:
    return f"{one.reason}: " + (
        f"{count_text(one.images)} images"
        if one.patients is None
        else _both(Counted(name="", images=one.images, patients=one.patients))
    )


def _both(one: Counted) -> str:
    return f"{count_text(one.images)} image{'s' if one.images != 1 else ''} of {count_text(one.patients)} patients"


def _bold(text: str) -> str:
    return f"\0{text}"  # no name or reason holds a NUL


def _wrap(text: str, width: float) -> list[str]:
    """Break a text into lines that fit a box; a word that is longer is cut and goes on."""
    import textwrap

    return textwrap.wrap(text, max(8, int((width - 2 * _PAD) / _CHARACTER)), break_long_words=True) or [""]


def _height(lines: Sequence[str]) -> float:
    return 2 * _PAD + _LINE * len(lines)


def _box(x: float, y: float, width: float, lines: Sequence[str]) -> str:
    said = []
    for i, line in enumerate(lines):
        strong, text = (' font-weight="600"', line[1:]) if line.startswith("\0") else ("", line)
        at = y + _PAD + _LINE * i + 0.75 * _LINE
        said.append(f'<text x="{x + _PAD:.0f}" y="{at:.0f}"{strong}>{escape(text)}</text>')
    return (
        f'<rect x="{x:.0f}" y="{y:.0f}" width="{width:.0f}" height="{_height(lines):.0f}" rx="2" fill="none" '
        'stroke="var(--muted, #5b6570)"/>'
        f'<g font-size="12.5" fill="var(--ink, #1b1f24)">{"".join(said)}</g>\n'
    )


def _arrow(points: Sequence[tuple[float, float]]) -> str:
    path = "L".join(f"{x:.0f} {y:.0f}" for x, y in points)
    return f'<path d="M{path}" fill="none" stroke="var(--muted, #5b6570)" marker-end="url(#head)"/>\n'
