"""The bootstrap over patients: AUCs of test sets drawn anew, patient by patient; the second source for `stats.auc`.

All images of a patient are drawn together, so the spread of the replicates is a patient-clustered standard error.

Source: Field and Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69 (2007) 369-390:
the cluster bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import sparse

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Counts = npt.NDArray[np.float32]

# Replicates are taken by so many at once: their sums stay in the processor's cache, and memory does not grow.
BLOCK: Final = 64


def replicate_aucs(
    truth: npt.ArrayLike,
    patients: npt.ArrayLike,
    models: Sequence[npt.ArrayLike],
    replicates: int,
    rng: np.random.Generator,
) -> Floats:
    """Draw as many patients as there are, with replacement, again and again, and take each model's AUCs.

    All models and findings see the same draws, so the difference of two models, or a mean over findings, is replicated
    by the difference, or the mean, of what is returned.

    Args:
        truth: (N, F) 1, 0 or NaN (missing; the row is left out for that finding).
        patients: (N,) any identifiers; equal ones are one patient.
        models: M of (N, F) scores, finite where truth is not missing.
        replicates: B, number of draws.
        rng: where the draws come from; nothing else is random.

    Returns:
        (M, B, F). NaN where a draw has no positive or no negative image of the finding.

    Raises:
        ValueError: shapes that do not fit, or scores that are not finite.

    >>> truth, scores = np.array([[1.0], [1.0], [0.0], [0.0]]), np.array([[0.9], [0.5], [0.6], [0.1]])
    >>> found = replicate_aucs(truth, ["a", "b", "c", "d"], [scores, scores], 100, np.random.default_rng(0))
    >>> found.shape, bool(np.nanmax(np.abs(found[0] - found[1])))
    ((2, 100, 1), False)
    """
    labels = np.asarray(truth, dtype=np.float64)
    scores = [np.asarray(model, dtype=np.float64) for model in models]
    names, owners = np.unique(np.asarray(patients), return_inverse=True)
    if labels.ndim != 2 or owners.shape != labels.shape[:1] or any(model.shape != labels.shape for model in scores):
        raise ValueError("truth and scores must all have the shape (images, findings), and patients one name an image")
    if any(not np.isfinite(model[~np.isnan(labels)]).all() for model in scores):
        raise ValueError("scores must be finite")
    sums = []
    for model in scores:
        for column, values in zip(labels.T, model.T, strict=True):
            known = ~np.isnan(column)
            sums.append(_Sums.of(column[known] == 1, owners[known], values[known], names.size))
    areas = np.empty((len(sums), replicates))
    for start in range(0, replicates, BLOCK):
        block = slice(start, min(start + BLOCK, replicates))
        times = draw(names.size, block.stop - start, rng).astype(np.float32)
        for row, of_one in zip(areas, sums, strict=True):
            row[block] = of_one.areas(times)
    return areas.reshape(len(scores), labels.shape[1], replicates).transpose(0, 2, 1)


def draw(patients: int, replicates: int, rng: np.random.Generator) -> Ints:
    """How often each patient is drawn: (P, B), each column sums to P.

    Replicates are drawn one after the other, so that many at once are the same as a few at a time.

    >>> draw(5, 2, np.random.default_rng(0)).sum(axis=0)
    array([5, 5])
    """
    times = np.empty((patients, replicates), dtype=np.int64)
    for b in range(replicates):
        times[:, b] = np.bincount(rng.integers(0, patients, patients), minlength=patients)
    return times


@dataclass(frozen=True)
class _Sums:
    """One model's ranking of one finding, as sums over patients at each of the L distinct scores of positives.

    All are whole numbers. float32 holds those up to 16 million exactly, and only products are summed in double.
    """

    positive: sparse.csr_array  # (L, P) positives with this score
    negative: sparse.csr_array  # (L, P) twice the negatives from the score before to this one, ties half to each side
    positives: Counts  # (P,)
    negatives: Counts  # (P,)

    @classmethod
    def of(cls, is_positive: npt.NDArray[np.bool_], owners: Ints, scores: Floats, patients: int) -> _Sums:
        levels, of_positive = np.unique(scores[is_positive], return_inverse=True)
        negatives = scores[~is_positive]
        places = np.concatenate([np.searchsorted(levels, negatives, side) for side in ("left", "right")])
        twice = np.concatenate([owners[~is_positive], owners[~is_positive]])
        below_some = places < levels.size
        return cls(
            positive=_count(of_positive, owners[is_positive], (levels.size, patients)),
            negative=_count(places[below_some], twice[below_some], (levels.size, patients)),
            positives=np.bincount(owners[is_positive], minlength=patients).astype(np.float32),
            negatives=np.bincount(owners[~is_positive], minlength=patients).astype(np.float32),
        )

    def areas(self, times: Counts) -> Floats:
        """The AUC where each patient counts as often as `times` (P, B) says: (B,)."""
        below = np.cumsum(self.negative @ times, axis=0)  # twice the negatives below each score, a tie counting one
        won = np.einsum("lb,lb->b", self.positive @ times, below, dtype=np.float64)
        pairs = 2.0 * (self.positives @ times).astype(np.float64) * (self.negatives @ times)
        areas = np.full(pairs.size, np.nan)
        np.divide(won, pairs, out=areas, where=pairs > 0)
        return areas


def _count(rows: Ints, columns: Ints, shape: tuple[int, int]) -> sparse.csr_array:
    return sparse.csr_array((np.ones(rows.size, dtype=np.float32), (rows, columns)), shape=shape)
