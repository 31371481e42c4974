"""`make bench-gpu`: it ends without a GPU, and its code runs in small on the CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench import gpu
from bench.measure import Row

PAGE = "# Benchmarks\n\n## Before\n\nold\n\n## Training on a GPU\n\nfigures\n\n## After\n\nolder\n"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, and measuring takes minutes")
def test_without_a_gpu_it_says_so_and_changes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no GPU the command ends well, says so, and leaves the page as it is."""
    page = tmp_path / "benchmarks.md"
    page.write_text(PAGE)
    assert gpu.main(["--page", str(page)]) == 0
    assert "there is no GPU" in capsys.readouterr().out
    assert page.read_text() == PAGE


def test_the_measuring_code_runs(capsys: pytest.CaptureFixture[str]) -> None:
    """In small and on the CPU every contender but the compiled ones gives a rate, with its ratio to the script's."""
    assert gpu.main(["--tiny"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in (gpu.REFERENCE, gpu.RESIDENT, gpu.LOOP):
        cells = next(line for line in lines if line.startswith(f"| {name} |")).split("|")
        assert float(cells[2].replace(",", "")) > 0
    assert sum("the loop: " in line or "the step: " in line for line in lines) == 3


def test_the_roofs_are_those_of_the_goals() -> None:
    """With an H100's 3.35 TB/s the roofs at 224 pixels are the 5,300 and 16,000 images/s that the goals speak of."""
    eager, fused = gpu.roofs(3.35e12, 224)
    assert (round(eager, -2), round(fused, -3)) == (5300, 16000)
    assert gpu.roofs(3.35e12, 112)[0] == pytest.approx(4 * eager)


def test_goals_are_met_or_missed() -> None:
    """A rate at its goal meets it, one below it misses it."""
    rates = {gpu.REFERENCE: 10.0, gpu.RESIDENT: 60.0, gpu.LOOP: 57.0, gpu.COMPILED: 99.0}
    said = gpu.goals([Row(name, rate, rate, rate, 1.0) for name, rate in rates.items()], eager=100.0)
    assert [line.split("|")[3].strip() for line in said] == ["met", "met", "met", "missed"]
