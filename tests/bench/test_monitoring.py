"""The simulation of monitoring: its world is what it says, and its page says what the years gave."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from bench import monitoring as bench


def drawn(scenario: str, size: int = 60_000):
    rng = np.random.Generator(np.random.SFC64(1))
    return bench.draw(rng, scenario, size, np.arange(size) >= size // 2)


def test_the_world_is_calibrated_and_changes_as_it_says() -> None:
    """Before a change scores are calibrated and of the stated AUC; afterwards AUC or prevalence are as named."""
    scores, truth, _ = drawn("worse")
    before, after = slice(0, 30_000), slice(30_000, None)
    assert scores[before].mean(axis=0) == pytest.approx(truth[before].mean(axis=0), abs=0.008)
    assert truth[before].mean(axis=0) == pytest.approx(np.array(bench.PREVALENCES), abs=0.01)
    assert roc_auc_score(truth[before, 3], scores[before, 3]) == pytest.approx(bench.AUC, abs=0.015)
    assert roc_auc_score(truth[after, 3], scores[after, 3]) == pytest.approx(0.65, abs=0.015)
    called = scores[before] >= bench.points()
    assert called[truth[before, 3] == 1, 3].mean() == pytest.approx(0.8, abs=0.02)
    _, sicker, _ = drawn("sicker")
    assert sicker[after, 3].mean() == pytest.approx(1.5 * 0.18, abs=0.01)
    one, marks, _ = drawn("one finding")
    assert roc_auc_score(marks[after, 0], one[after, 0]) == pytest.approx(bench.AUC, abs=0.02)
    assert roc_auc_score(marks[after, 3], one[after, 3]) == pytest.approx(0.65, abs=0.015)


def test_common_practices_are_done_as_they_are_named() -> None:
    """The daily test differs at 0.05 on the days on which scipy's does, and PSI alarms in the week that is other."""
    rng = np.random.Generator(np.random.SFC64(2))
    old = rng.random((400, 1))
    scores = rng.random((bench.WEEKS * 7 * 4, 1))
    days = np.array_split(np.arange(len(scores)), bench.WEEKS * 7)
    known = stats.ecdf(old[:, 0]).cdf
    expected = [
        number / 7
        for number, day in enumerate(days)
        if stats.kstest(scores[day, 0], known.evaluate, method="exact").pvalue < 0.05
    ]
    assert bench._ks(scores, old) == pytest.approx(expected)
    week = np.repeat(np.arange(bench.WEEKS), bench.PATIENTS)
    same = np.tile(np.quantile(old[:, 0], (np.arange(bench.PATIENTS) + 0.5) / bench.PATIENTS), bench.WEEKS)[:, None]
    other = same.copy()
    other[week == 7] = same[week == 7] ** 3
    assert bench._psi(same, old, week) == []
    assert bench._psi(other, old, week) == [7.0]


def test_years_go_on_where_they_stopped_and_the_page_says_what_they_gave(tmp_path: Path) -> None:
    """A second call simulates what is missing alone; the section holds the shares of the years that are kept, and years
    of other code are simulated again."""
    (tmp_path / bench.PAGE).write_text("# Monitoring\n")
    kept = tmp_path / "years.jsonl"
    typed = ["--changed", "1", "--processes", "1", "--kept", str(kept), "--docs", str(tmp_path), "--replicates"]
    assert bench.main([*typed, "1"]) == 0
    first = kept.read_text()
    assert len(first.splitlines()) == len(bench.SCENARIOS)
    assert bench.main([*typed, "2"]) == 0
    assert kept.read_text().startswith(first)
    assert len(kept.read_text().splitlines()) == len(bench.SCENARIOS) + 1
    text = (tmp_path / bench.PAGE).read_text()
    assert text.startswith("# Monitoring\n")
    assert "2 simulated years without a change, and 1 with each change" in text
    found = bench._kept(kept)[bench.STILL]
    share = 100 * np.mean([one.before["ks"] for one in found.values()])
    assert f"| {bench.PRACTICES['ks']} | {share:.1f} ±" in text
    assert (tmp_path / bench.PICTURE).read_text().count("<svg") == 1
    kept.write_text(first.replace(bench._code(), "other"))
    assert bench._kept(kept)[bench.STILL] == {}
