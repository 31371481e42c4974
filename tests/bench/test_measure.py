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


def test_a_part_that_is_measured_anew_names_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --only the other sections keep their figures and their machine; one that no section names is not listed."""
    page = tmp_path / "benchmarks.md"
    monkeypatch.setattr(statistics, "section", lambda: "## One\n\n1\n\n## Two\n\n2\n")
    monkeypatch.setattr(step, "section", lambda: pytest.fail("not asked for"))
    monkeypatch.setattr(bench, "machine", lambda: "a new one")
    old = "## One\n\nMachine B. old\n\n## Two\n\nMachine B. old\n\n## Last\n\nMachine A. kept\n"
    page.write_text(f"{bench.HEAD}* A: an old one.\n* B: another.\n\n{old}")
    assert bench.main(["--only", "statistics", "--page", str(page)]) == 0
    new = "## One\n\nMachine C. 1\n\n## Two\n\nMachine C. 2\n\n## Last\n\nMachine A. kept\n"
    assert page.read_text() == f"{bench.HEAD}* A: an old one.\n* C: a new one.\n\n{new}"
    assert bench.main(["--only", "statistics", "--page", str(page)]) == 0
    assert page.read_text() == f"{bench.HEAD}* A: an old one.\n* C: a new one.\n\n{new}"
