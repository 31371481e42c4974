"""Which images a step learns from: an epoch's batches, and a batch's parts.

Shape suffixes: N images, K findings, R all rows of the packed cache.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from cxr_ops.params import Train


def epoch_batches(
    rows_N: npt.NDArray[np.int64], settings: Train, epoch: int, truth_RK: npt.NDArray[np.float32]
) -> list[npt.NDArray[np.int64]]:
    """Put rows into a random order and cut them into batches.

    Batches are of equal size but for one image, and hold at least 2 (batch normalisation needs them): no small last
    batch whose few images would weigh more than others.

    Args:
        rows_N: rows to train on, at least 2.
        settings: `sampler` is `shuffle` (every row once) or `balanced` (as many draws; see `draw_balanced`).
        epoch: which one; with the seed it decides the order.
        truth_RK: 1, 0 or NaN (missing), of all rows.

    >>> [len(batch) for batch in epoch_batches(np.arange(10), Train(batch_size=4), 0, np.zeros((10, 1), np.float32))]
    [4, 3, 3]
    """
    rng = np.random.default_rng([settings.seed, epoch])
    order_N = rng.permutation(rows_N)
    if settings.sampler == "balanced":
        order_N = rng.permutation(draw_balanced(order_N, truth_RK[order_N], rng))
    return np.array_split(order_N, max(1, min(math.ceil(len(rows_N) / settings.batch_size), len(rows_N) // 2)))


def draw_balanced(
    rows_N: npt.NDArray[np.int64], truth_NK: npt.NDArray[np.float32], rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Draw as many rows as there are, those with rare findings more often.

    A row's share follows the repeat factor of its rarest positive finding, max(1, sqrt(0.5 / f)) with f the share of
    positives among the finding's known labels (Gupta et al., CVPR 2019, with the threshold 0.5: a finding
    with as many positives as negatives needs no help). The root keeps the few images of a very rare finding
    from filling the epoch. Draws are systematic: a row whose share is 2.3 draws comes 2 or 3 times.

    >>> truth = np.array([[1]] + [[0]] * 49, np.float32)  # f = 1 / 50: factor 5, and 50 * 5 / (5 + 49) = 4.6 draws
    >>> int((draw_balanced(np.arange(50), truth, np.random.default_rng(1)) == 0).sum())
    5
    """
    positive_NK = truth_NK == 1
    share_K = positive_NK.sum(axis=0) / np.maximum((~np.isnan(truth_NK)).sum(axis=0), 1)
    factor_K = np.sqrt(0.5 / np.clip(share_K, 1e-9, 0.5))
    factor_N = np.where(positive_NK, factor_K, 1.0).max(axis=1)
    ends_N = np.cumsum(factor_N)
    picks_N = (rng.random() + np.arange(len(rows_N))) * (ends_N[-1] / len(rows_N))
    drawn_N: npt.NDArray[np.int64] = rows_N[np.searchsorted(ends_N[:-1], picks_N, side="right")]
    return drawn_N


def parts(batch_N: npt.NDArray[np.int64], most: int) -> list[npt.NDArray[np.int64]]:
    """Cut a batch, or positions in it, into at most `most` parts of nearly equal size and at least 2 each.

    >>> [len(part) for part in parts(np.arange(7), 4)]
    [3, 2, 2]
    """
    return np.array_split(batch_N, max(1, min(most, len(batch_N) // 2)))
