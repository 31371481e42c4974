"""The measurement of what more images cost, at a small size: disk and transfer do not grow with what is held."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench import growth


def test_more_images_cost_the_same_beside_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number of images takes as much disk and transfer beside four times as many; the table says both."""
    small = {"HELD": (40, 160), "MORE": 40, "BATCH": 80, "SIDE": 32, "REPEATS": 1}
    for name, value in small.items():
        monkeypatch.setattr(growth, name, value)

    costs = growth.measure(tmp_path, warm=False)

    (few,), (many,) = costs[40], costs[160]
    assert 40 * 32 * 32 < few.transfer < 40 * 16_000  # noise does not shrink; each has a header and a fingerprint too
    assert 1 / 1.05 < many.transfer / few.transfer < 1.05
    # The tables of the batch before are kept by the ingestion that follows it: here 80 images more or 40.
    assert abs(many.disk - few.disk) < 80 * 16_000
    text = growth.told(costs)
    assert text.startswith("## 40 images more")
    assert len(re.findall(r"^\| .* \|$", text, flags=re.MULTILINE)) == 5
