"""What people are told while they wait."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from cxr_ops import voice


def test_without_a_terminal_each_tenth_part_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Work of known length prints a line a tenth on standard error, however often it reports, and no bar."""
    with voice.steps("drawing") as progress:
        for done in range(1, 101):
            progress(done, 100)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [f"drawing: {done} of 100" for done in (1, *range(10, 101, 10))]


def test_bytes_are_told_in_a_unit_that_people_read(capsys: pytest.CaptureFixture[str]) -> None:
    """With a unit, lines say how many of it are done."""
    with voice.steps("copying, MiB", unit=2**20) as progress:
        progress(3 * 2**19, 2000 * 2**20)
    assert capsys.readouterr().err == "copying, MiB: 1.5 of 2,000.0\n"


def test_in_a_terminal_a_bar_says_how_far(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal one line is drawn again and again, with what is done of how much."""
    drawn = io.StringIO()
    monkeypatch.setattr(voice, "console", lambda: Console(file=drawn, force_terminal=True, width=80))
    with voice.steps("drawing") as progress:
        progress(3, 4)
        progress(4, 4)
    assert "drawing" in drawn.getvalue()
    assert "4/4" in drawn.getvalue()


def test_lines_begin_with_the_time_since_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line says when it was said, and brackets and colours in its text are left as they are."""
    drawn = io.StringIO()
    clock = iter([100.0, 112.4])
    monkeypatch.setattr(voice.time, "monotonic", lambda: next(clock))
    voice.Speaker(Console(file=drawn, width=20)).say("a [bold]text[/] that is longer than the terminal is wide")
    assert drawn.getvalue() == "[  12 s] a [bold]text[/] that is longer than the terminal is wide\n"
