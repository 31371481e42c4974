"""Is the model better, or the test set easier? What changed since the champion was judged, taken apart. Pure.

The champion was judged on the test set of its time, the challenger is judged on that of now. Between the two numbers
lie two things: another model, and other patients. Both models on both test sets tell them apart:

    learning    challenger minus champion, both on the test set of now: what the better model is worth
    potential   the champion on the test set of now, minus the champion on the earlier one: what the patients are worth
    retention   challenger minus champion, both on the earlier test set: what of the earlier patients was kept

so that the challenger on the test set of now, minus the champion on the earlier one, is learning plus potential.

Learning and retention are paired differences on the same images (`cxr_ops.stats.auc`). The two test sets of a potential
may share patients, or none: its standard error is the jackknife's over the patients of both, each left out of both.

Source: Burgon, Sahiner, Petrick, Pennello, Samala, "Learning, Potential, and Retention: An Approach for Evaluating
Adaptive AI-Enabled Medical Devices", arXiv 2604.04878 (2026), which gives the three by their values alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_ops.records.evidence import Change, Figure, Parts, Undefined
from cxr_ops.stats import auc
from cxr_ops.stats.auc import FindingRanks, Ranking, Tables

Bools = npt.NDArray[np.bool_]
_SAME: Final = Undefined(
    reason="no labelled image is in one of the two test sets alone", needed="new patients in the test set"
)


def take_apart(
    findings: Sequence[str],
    truth: npt.ArrayLike,
    patients: npt.ArrayLike,
    challenger: npt.ArrayLike,
    champion: npt.ArrayLike,
    *,
    earlier: Bools,
    now: Bools,
    level: float,
    min_positive_patients: int,
    min_negative_patients: int,
) -> tuple[Parts, list[Parts], list[str]]:
    """Take the change of each finding's AUC apart, and that of the mean.

    Args:
        findings: F names.
        truth: (N, F) 1, 0 or NaN.
        patients: (N,) any identifiers; equal ones are one patient.
        challenger: (N, F) scores.
        champion: (N, F) scores.
        earlier: (N,) which images the champion was judged on.
        now: (N,) which images the challenger is judged on. An image may be in both.
        level: of the two-sided intervals, in (0, 1).
        min_positive_patients: fewest patients with a positive image, in each test set, for a finding to count in the
            mean.
        min_negative_patients: the same for negative images.

    Returns:
        The parts of the mean, those of each finding, and the findings that the mean is over.

    >>> truth, scores = [[1], [1], [0], [0]] * 2, [[0.9], [0.4], [0.5], [0.1], [0.9], [0.8], [0.2], [0.1]]
    >>> mean, _, over = take_apart(["Mass"], truth, range(8), scores, scores, earlier=np.arange(8) < 4,
    ...     now=np.arange(8) >= 4, level=0.95, min_positive_patients=2, min_negative_patients=2)
    >>> mean.learning.value, mean.potential.value, mean.retention.value, over
    (0.0, 0.25, 0.0, ['Mass'])
    """
    tables = Tables.of(findings, truth, patients, {"challenger": challenger, "champion": champion})
    count = tables.count
    sets: list[list[FindingRanks]] = []
    for rows in (earlier, now):
        inside = np.where(rows, tables.labels, np.nan)  # the patients keep their numbers
        ranks = []
        for f, labels in enumerate(inside):
            labelled = auc.Labelled.of(labels, tables.patients, count)
            ranks.append(FindingRanks.at(labelled, {role: table[f] for role, table in tables.scores.items()}))
        sets.append(ranks)
    before, after = sets
    over = [
        f
        for f in range(len(findings))
        if all(
            one.labelled.support.positive_patients >= min_positive_patients
            and one.labelled.support.negative_patients >= min_negative_patients
            and not one.unscored
            for one in (before[f], after[f])
        )
    ]
    by_finding = [_parts(name, [before[f]], [after[f]], level) for f, name in enumerate(findings)]
    mean = _parts(None, [before[f] for f in over], [after[f] for f in over], level)
    return mean, by_finding, [findings[f] for f in over]


def undefined(reason: Undefined, images: int = 0, patients: int = 0) -> Change:
    """A change of which nothing can be told, and why."""
    parts = Parts(
        champion_earlier=reason,
        champion_now=reason,
        challenger_earlier=reason,
        challenger_now=reason,
        learning=reason,
        potential=reason,
        retention=reason,
    )
    return Change(images=images, patients=patients, mean=parts)


def _parts(finding: str | None, before: Sequence[FindingRanks], after: Sequence[FindingRanks], level: float) -> Parts:
    if not before:
        none = Undefined(
            reason="no finding has enough patients in both test sets", needed="more patients in both test sets"
        )
        return undefined(none).mean
    earlier, now = auc.together(before, level), auc.together(after, level)
    missing = Undefined(reason="not computed")
    return Parts(
        finding=finding,
        champion_earlier=earlier.champion or missing,
        champion_now=now.champion or missing,
        challenger_earlier=earlier.challenger,
        challenger_now=now.challenger,
        learning=now.difference or missing,
        potential=_potential(before, after, level),
        retention=earlier.difference or missing,
    )


def _potential(before: Sequence[FindingRanks], after: Sequence[FindingRanks], level: float) -> Figure:
    """The champion now minus the champion earlier, of one finding or of the mean of several."""
    pairs: list[tuple[Ranking, Ranking]] = []
    for one, other in zip(before, after, strict=True):
        earlier, now = one.of["champion"], other.of["champion"]
        if isinstance(earlier, Undefined):
            return earlier
        if isinstance(now, Undefined):
            return now
        pairs.append((earlier, now))
    if all(_same_images(one, other) for one, other in zip(before, after, strict=True)):
        return _SAME
    gap = math.fsum(now.value - earlier.value for earlier, now in pairs) / len(pairs)
    without = np.mean([now.without - earlier.without for earlier, now in pairs], axis=0)
    known = np.logical_or.reduce([one.positives + one.negatives > 0 for pair in pairs for one in pair])
    se = math.sqrt((int(known.sum()) - 1) * float(np.var(without[known])))
    if se <= auc.ROUNDING:
        return Undefined(reason="no variation between patients", needed="more patients")
    effective = min(auc.effective_patients([pair[side] for pair in pairs]) for side in (0, 1))
    return auc.estimate(gap, se, max(effective - 1.0, 1.0), "wald", level)


def _same_images(one: FindingRanks, other: FindingRanks) -> bool:
    """Whether two test sets hold the same labelled images of a finding."""
    mine, others = (np.arange(side.labelled.images)[side.labelled.rows] for side in (one, other))
    return np.array_equal(mine, others)
