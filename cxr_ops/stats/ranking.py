"""How well scores rank labels, as far as training asks: what can be ranked, and the AUC that chooses the best epoch.

It stands apart from `cxr_ops.stats.auc`, which has the intervals and the tests, so that work on those makes no model
stale: this file can change a weight, and that one cannot.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def rankable(truth: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which findings have a positive and a negative among their known labels: without both there is nothing to rank.

    Args:
        truth: (N, K) 1, 0 or NaN (missing).

    Returns:
        (K,) one for each finding.

    >>> rankable([[1, 1, float("nan")], [0, 1, float("nan")]])
    array([ True, False, False])
    """
    labels = np.asarray(truth)
    both: npt.NDArray[np.bool_] = (labels == 1).any(axis=0) & (labels == 0).any(axis=0)
    return both


def area(truth: npt.ArrayLike, scores: npt.ArrayLike) -> float:
    """The AUC: the mean over the positives of the share of negatives that each outranks, ties one half.

    Args:
        truth: (N,) 1 or 0, at least one of each.
        scores: (N,) finite; only their order matters.

    Returns:
        A number in [0, 1].

    Raises:
        ValueError: there is no positive or no negative.

    >>> area([1, 1, 0, 0], [0.9, 0.5, 0.5, 0.1])
    0.875
    """
    values, is_positive = np.asarray(scores), np.asarray(truth) == 1
    positives, negatives = values[is_positive], np.sort(values[~is_positive])
    if not positives.size or not negatives.size:
        raise ValueError("an AUC needs a positive and a negative")
    # Twice the negatives below, a tie counted once: whole numbers, so that nothing is rounded before the division.
    twice = np.searchsorted(negatives, positives, "left") + np.searchsorted(negatives, positives, "right")
    return float((twice / (2.0 * negatives.size)).mean())
