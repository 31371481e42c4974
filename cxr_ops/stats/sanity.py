"""Faults of scores that no metric shows by itself: no probabilities, no spread, findings in one another's place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from cxr_ops.stats import auc

# A set of findings counts as permuted where its scores rank one another's labels better by this much, on average, than
# their own, and by this many standard errors of an AUC without any skill. The findings' own confusions, and chance in a
# test set of 200 patients, stay well below.
PERMUTATION_GAIN: Final = 0.15
PERMUTATION_SIGMAS: Final = 4.0
# ... and where they then rank better than this: a model without skill is bad, not permuted.
PERMUTATION_SKILL: Final = 0.65
PERMUTATION_POSITIVES: Final = 20


def invalid_scores(findings: Sequence[str], scores: npt.ArrayLike) -> list[str]:
    """Say for each finding whose scores are not all probabilities what they are instead.

    Args:
        findings: F names.
        scores: (N, F).

    >>> invalid_scores(["Mass", "Nodule"], [[0.5, 2.0], [float("nan"), 0.1]])
    ['Mass: 1 of 2 scores are not finite', 'Nodule: 1 of 2 scores lie outside 0 to 1 (logits?)']
    """
    values = np.asarray(scores)
    if ((values >= 0) & (values <= 1)).all():
        return []
    found: list[str] = []
    for finding, column in zip(findings, values.T, strict=True):
        infinite = column.size - np.count_nonzero(np.isfinite(column))
        outside = np.count_nonzero((column < 0) | (column > 1))
        if infinite:
            found.append(f"{finding}: {infinite} of {column.size} scores are not finite")
        elif outside:
            found.append(f"{finding}: {outside} of {column.size} scores lie outside 0 to 1 (logits?)")
    return found


def constant_scores(findings: Sequence[str], scores: npt.ArrayLike) -> list[str]:
    """Name the findings for which all images have the same score.

    >>> constant_scores(["Mass", "Nodule"], [[0.5, 0.2], [0.5, 0.1]])
    ['Mass']
    """
    values = np.asarray(scores)
    return [
        finding
        for finding, column in zip(findings, values.T, strict=True)
        if column.size and np.all(column == column[0])
    ]


def permuted_findings(findings: Sequence[str], truth: npt.ArrayLike, scores: npt.ArrayLike) -> dict[str, str]:
    """Find findings whose scores are exchanged.

    Each column of scores is held against the labels of every finding, and the best one-to-one assignment is sought. A
    finding with fewer than 20 positive or negative images is left out.

    Args:
        findings: F names.
        truth: (N, F) 1, 0 or NaN.
        scores: (N, F) finite.

    Returns:
        For each finding in a wrong place, the finding whose labels its scores rank.

    >>> y = np.repeat(np.eye(2), 50, axis=0)
    >>> permuted_findings(["Mass", "Nodule"], y, y[:, ::-1])
    {'Mass': 'Nodule', 'Nodule': 'Mass'}
    >>> permuted_findings(["Mass", "Nodule"], y, y)
    {}
    """
    labels, values = np.asarray(truth, dtype=np.float64), np.asarray(scores)
    positives, negatives = (labels == 1).sum(axis=0), (labels == 0).sum(axis=0)
    usable = np.flatnonzero((positives >= PERMUTATION_POSITIVES) & (negatives >= PERMUTATION_POSITIVES))
    areas = _areas(labels[:, usable], values[:, usable])
    _, target = linear_sum_assignment(-areas)
    found: dict[str, str] = {}
    for cycle in _cycles([int(place) for place in target]):
        moved = [int(target[f]) for f in cycle]
        after = areas[cycle, moved]
        gain = float(np.mean(after - areas[cycle, cycle]))
        # An AUC without skill has a variance of about (1/m + 1/n)/12; a gain has two such, and the cycle their mean.
        chance = (1.0 / positives[usable[moved]] + 1.0 / negatives[usable[moved]]) / 12.0
        limit = max(PERMUTATION_GAIN, PERMUTATION_SIGMAS * float(np.sqrt(2.0 * chance.mean() / len(cycle))))
        if len(cycle) > 1 and gain > limit and float(after.mean()) > PERMUTATION_SKILL:
            found.update({findings[usable[f]]: findings[usable[g]] for f, g in zip(cycle, moved, strict=True)})
    return {finding: found[finding] for finding in findings if finding in found}


def _areas(labels: npt.NDArray[np.float64], scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """AUC of each column of scores (rows of the result) for the labels of each finding (columns), by sums of ranks."""
    areas = np.empty((scores.shape[1], labels.shape[1]))
    if not areas.size:
        return areas
    everything = _ranks(scores)
    for g, column in enumerate(labels.T):
        known = ~np.isnan(column)
        ranks = everything if known.all() else _ranks(scores[known])
        positive = (column[known] == 1).astype(np.float64)
        m = positive.sum()
        areas[:, g] = (ranks @ positive - m * (m + 1) / 2) / (m * (positive.size - m))
    return areas


def _ranks(scores: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """(F, N) ranks of each column of (N, F) scores."""
    return np.stack([auc.midranks(column) for column in scores.T])


def _cycles(target: Sequence[int]) -> list[list[int]]:
    cycles: list[list[int]] = []
    seen: set[int] = set()
    for start in range(len(target)):
        if start in seen:
            continue
        cycle = [start]
        while target[cycle[-1]] != start:
            cycle.append(target[cycle[-1]])
        seen.update(cycle)
        cycles.append(cycle)
    return cycles
