"""The page of `make bench`: a section that is measured anew goes where the old one stood, and the rest stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import statistics, step
from bench.measure import kept, put

PAGE = "# Benchmarks\n\n## Before\n\nold\n\n## Training on a GPU\n\nfigures\n\n## After\n\nolder\n"


def test_only_its_own_section_is_replaced() -> None:
    """A section goes where that of its heading stood, or at the end of a page that had none."""
    text = "## Training on a GPU\n\nnew figures\n"
    assert put(PAGE, text) == PAGE.replace("\nfigures", "\nnew figures")
    assert kept(put("# Benchmarks\n", text), "## Training on a GPU") == text
    assert put("# Benchmarks\n", "") == "# Benchmarks\n"
    assert put(PAGE.partition("## After")[0].rstrip() + "\n", text).endswith("new figures\n")


def test_one_part_is_measured_anew_on_the_same_machine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --only the other sections keep their figures, but not beside those of another machine."""
    page = tmp_path / "benchmarks.md"
    monkeypatch.setattr(statistics, "section", lambda: "## One\n\n1\n\n## Two\n\n2\n")
    monkeypatch.setattr(step, "section", lambda: pytest.fail("not asked for"))
    page.write_text(
        f"# Benchmarks\n\nMachine: {bench.machine()}.\n\n## One\n\nold\n\n## Two\n\nold\n\n## Last\n\nkept\n"
    )
    given = ["--only", "statistics", "--page", str(page)]
    assert bench.main(given) == 0
    assert page.read_text().partition(".\n\n## One")[2] == "\n\n1\n\n## Two\n\n2\n\n## Last\n\nkept\n"
    monkeypatch.setattr(bench, "machine", lambda: "another")
    before = page.read_text()
    assert bench.main(given) == 1
    assert "without --only" in capsys.readouterr().out
    assert page.read_text() == before
