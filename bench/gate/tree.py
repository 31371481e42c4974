"""docs/looks.svg: the tree along which the error of a test period is spent, drawn from `cxr_ops.stats.levels`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from bench.gate.sequences import RECYCLED
from cxr_ops.stats.levels import after

PICTURE = "looks.svg"
LOOKS = 3  # that are drawn
WIDTH, HEIGHT, BOX = 780, 400, (150, 46)
PROMOTED, FAILED = "#0072b2", "#8a2f6b"


def write(docs: Path) -> Path:
    """Write the picture."""
    path = docs / PICTURE
    path.write_text(draw())
    return path


def level(path: str) -> float:
    """What the look after these outcomes may spend: `p` promoted, `f` not promoted.

    >>> level(""), level("f"), level("pp")
    (0.04, 0.008, 0.0256)
    """
    return after([RECYCLED], path).checks


def draw() -> str:
    """The picture, as SVG: looks from left to right, promotions upwards."""
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            'font-size="13" role="img">'
        ),
        "<title>What each look of a test period may spend, by what became of the looks before it</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        *_lines(""),
        *_boxes(""),
        f'<text x="20" y="24" fill="{PROMOTED}">upwards: promoted; what was spent can be spent again</text>',
        (
            f'<text x="20" y="{HEIGHT - 14}" fill="{FAILED}">downwards: not promoted; a fifth of what was held is left'
            "</text>"
        ),
        (
            f'<text x="{WIDTH - 20}" y="24" text-anchor="end">ten promotions in a row: the tenth look has '
            f"{_percent(level(9 * 'p'))}</text>"
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _place(path: str) -> tuple[float, float]:
    """The middle of the box of the look after these outcomes."""
    x = 110 + len(path) * (WIDTH - 220) / (LOOKS - 1)
    y = HEIGHT / 2.0
    for depth, outcome in enumerate(path):
        y += (-1 if outcome == "p" else 1) * (HEIGHT - 120) / 2 ** (depth + 2)
    return x, y


def _lines(path: str) -> Iterator[str]:
    if len(path) == LOOKS - 1:
        return
    x, y = _place(path)
    for outcome, colour in (("p", PROMOTED), ("f", FAILED)):
        to_x, to_y = _place(path + outcome)
        yield (
            f'<path d="M {x + BOX[0] / 2:g} {y:g} L {to_x - BOX[0] / 2:g} {to_y:g}" stroke="{colour}" '
            'stroke-width="2" fill="none"/>'
        )
        yield from _lines(path + outcome)


def _boxes(path: str) -> Iterator[str]:
    x, y = _place(path)
    wide, high = BOX
    colour = "#1b1f24" if not path else PROMOTED if path[-1] == "p" else FAILED
    yield (
        f'<rect x="{x - wide / 2:g}" y="{y - high / 2:g}" width="{wide}" height="{high}" rx="6" fill="#f6f8fa" '
        f'stroke="{colour}"/>'
    )
    yield f'<text x="{x:g}" y="{y - 4:g}" text-anchor="middle" fill="#1b1f24">look {len(path) + 1}</text>'
    yield (
        f'<text x="{x:g}" y="{y + 14:g}" text-anchor="middle" font-weight="bold" fill="#1b1f24">'
        f"{_percent(level(path))}</text>"
    )
    if len(path) < LOOKS - 1:
        for outcome in "pf":
            yield from _boxes(path + outcome)


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
