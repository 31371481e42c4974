"""Batches: every row once, or rare findings more often, and parts that lose nothing."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_ops.model.batches import draw_balanced, epoch_batches, parts
from cxr_ops.params import Train

NAN = float("nan")


def labels(rows: int) -> np.ndarray:
    """Labels of three findings, of 40 %, 10 % and 1 % of the images, and of one that is never known."""
    rng = np.random.default_rng(0)
    truth = (rng.random((rows, 4)) < (0.4, 0.1, 0.01, 0)).astype(np.float32)
    truth[:, 3] = NAN
    truth[rng.random(rows) < 0.3, 1] = NAN
    return truth


@pytest.mark.parametrize(("rows", "size"), [(2, 32), (3, 2), (33, 32), (100, 7), (1500, 32)])
def test_every_row_once_an_epoch(rows: int, size: int) -> None:
    """An epoch holds every row once, in batches of 2 or more that differ by one; another epoch has another order."""
    settings, truth = Train(batch_size=size, seed=3), labels(rows + 5)
    batches = epoch_batches(np.arange(rows) + 5, settings, 1, truth)
    assert sorted(np.concatenate(batches)) == list(range(5, rows + 5))
    sizes = {len(batch) for batch in batches}
    assert min(sizes) >= 2
    assert max(sizes) - min(sizes) <= 1
    assert max(sizes) <= max(size, 3)
    if rows > 3:
        other = epoch_batches(np.arange(rows) + 5, settings, 2, truth)
        assert not np.array_equal(np.concatenate(batches), np.concatenate(other))


def test_the_seed_and_the_epoch_decide() -> None:
    """Equal seed and epoch give equal batches with either sampler, and another seed gives others."""
    truth = labels(60)
    for sampler in ("shuffle", "balanced"):
        first, again, other = (
            np.concatenate(epoch_batches(np.arange(60), Train(sampler=sampler, batch_size=8, seed=seed), 4, truth))
            for seed in (1, 1, 2)
        )
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)


def test_rare_findings_come_more_often() -> None:
    """Over many epochs the balanced sampler shows an image in proportion to its repeat factor (Gupta et al., 2019)."""
    truth = labels(400)
    rows, settings = np.arange(300) + 100, Train(sampler="balanced", batch_size=32)
    factors = []
    for row in rows:
        factor = 1.0
        for k in range(4):
            known = truth[rows, k][~np.isnan(truth[rows, k])]
            if truth[row, k] == 1:
                factor = max(factor, (0.5 / known.mean()) ** 0.5)
        factors.append(factor)
    expected = np.array(factors) / sum(factors) * len(rows)
    counts = np.zeros(len(rows))
    for epoch in range(200):
        drawn = np.concatenate(epoch_batches(rows, settings, epoch, truth))
        assert len(drawn) == len(rows)
        each = np.bincount(drawn - 100, minlength=len(rows))
        assert (each >= np.floor(expected)).all()
        assert (each <= np.ceil(expected)).all()
        counts += each
    assert expected.max() > 4 * expected.min()
    # a share of q in each of 200 epochs: at most 0.5 / sqrt(200) = 0.035 standard error
    assert counts / 200 == pytest.approx(expected, abs=0.15)


def test_balanced_draws_are_spread_over_the_epoch() -> None:
    """Images that are drawn several times are no more often in one batch than chance puts them."""
    truth = labels(2000)
    batches = epoch_batches(np.arange(2000), Train(sampler="balanced", batch_size=100), 0, truth)
    times = np.bincount(np.concatenate(batches), minlength=2000)
    together = sum(
        (np.bincount(batch, minlength=2000) * (np.bincount(batch, minlength=2000) - 1)).sum() for batch in batches
    )
    by_chance = (times * (times - 1)).sum() * 99 / 1999
    assert together == pytest.approx(by_chance, rel=0.5)


def test_labels_that_say_nothing_leave_every_row_once() -> None:
    """Without positives, or with as many as negatives, the balanced draw is every row once."""
    rng = np.random.default_rng(0)
    for truth in (np.full((9, 2), NAN), np.zeros((9, 2)), np.array([[1.0], [0.0]] * 5 + [[1.0]])):
        rows = np.arange(len(truth))
        assert sorted(draw_balanced(rows, truth.astype(np.float32), rng)) == rows.tolist()


def test_parts_hold_every_row_once_in_order() -> None:
    """Parts are cut in order, at most as many as asked for, of at least 2 rows that differ by one at most."""
    for rows in range(2, 40):
        for most in range(1, 12):
            cut = parts(np.arange(rows) * 3, most)
            sizes = [len(part) for part in cut]
            assert np.array_equal(np.concatenate(cut), np.arange(rows) * 3)
            assert len(cut) == min(most, rows // 2)
            assert min(sizes) >= 2
            assert max(sizes) - min(sizes) <= 1
