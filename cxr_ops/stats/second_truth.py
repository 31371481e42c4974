"""Two truths about the same images: how far they agree, and how well each model does by either. Pure.

Labels that were mined from reports are wrong in part (Oakden-Rayner, Academic Radiology 27 (2020) 106-112). Where
people read some of the images again, their word is a second truth. It stands beside the first and is never mixed with
it: each finding is compared on the images on which both say 1 or 0, so that the same images stand under both.

Sources:
    Cohen, Educational and Psychological Measurement 20 (1960) 37-46: kappa.
    Efron and Stein, Annals of Statistics 9 (1981) 586-596: its standard error, by leaving out a patient at a time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from cxr_ops.records.evidence import Figure, Undefined
from cxr_ops.records.second_truth import Compared, UnderTruth
from cxr_ops.stats import auc, probability
from cxr_ops.stats.auc import Tables
from cxr_ops.stats.probability import Frozen

Floats = npt.NDArray[np.float64]


def compare(
    findings: Sequence[str],
    first: npt.ArrayLike,
    second: npt.ArrayLike,
    patients: npt.ArrayLike,
    scores: Mapping[str, npt.ArrayLike],
    thresholds: Mapping[str, Sequence[float | Undefined]],
    level: float,
) -> list[Compared]:
    """Compare two truths, and models by each.

    Args:
        findings: F names.
        first: (N, F) 1, 0 or NaN.
        second: (N, F) 1, 0 or NaN.
        patients: (N,) any identifiers; equal ones are one patient.
        scores: role -> (N, F), the challenger's among them.
        thresholds: role -> F scores from which a finding is called, the same under both truths.
        level: of the two-sided intervals, in (0, 1).

    Returns:
        A record a finding. A figure that cannot be computed says why.

    >>> scores, thresholds = {"challenger": [[0.9], [0.8], [0.3], [0.2]]}, {"challenger": [0.5]}
    >>> [found] = compare(["Mass"], [[1], [1], [0], [0]], [[1], [0], [0], [np.nan]], range(4), scores, thresholds, 0.95)
    >>> found.images, found.both, found.first_only, round(found.kappa.value, 2), found.first.positives
    (3, 1, 1, 0.4, 2)
    """
    truths = [np.asarray(truth, dtype=np.float64) for truth in (first, second)]
    known = ~np.isnan(truths[0]) & ~np.isnan(truths[1])
    owners = np.unique(np.asarray(patients), return_inverse=True)[1].astype(np.int64)
    nowhere: tuple[float, float] | Undefined = Undefined(reason="not asked for")
    frozen = Frozen(thresholds=thresholds, recalibration={role: [nowhere] * len(findings) for role in scores})
    under = [_under(findings, np.where(known, truth, np.nan), owners, scores, frozen, level) for truth in truths]
    found: list[Compared] = []
    for f, finding in enumerate(findings):
        rows = known[:, f]
        one, other = truths[0][rows, f] == 1, truths[1][rows, f] == 1
        found.append(
            Compared(
                finding=finding,
                images=int(rows.sum()),
                patients=len(np.unique(owners[rows])),
                both=int((one & other).sum()),
                first_only=int((one & ~other).sum()),
                second_only=int((~one & other).sum()),
                neither=int((~one & ~other).sum()),
                kappa=kappa(one, other, owners[rows], level),
                first=under[0][f],
                second=under[1][f],
            )
        )
    return found


def kappa(first: npt.ArrayLike, second: npt.ArrayLike, patients: npt.ArrayLike, level: float) -> Figure:
    """Cohen's kappa of two readings, with an interval clustered by patient.

    Args:
        first: (N,) true or false.
        second: (N,) true or false.
        patients: (N,) any identifiers.
        level: of the two-sided interval, in (0, 1).

    Returns:
        At most 1; 0 is what chance would give. Undefined where one reading says the same of every image, or where
        leaving out a patient would make it so.

    >>> kappa([], [], [], 0.95).reason
    'no image has both labels'
    """
    one, other = (np.asarray(labels, dtype=np.bool_) for labels in (first, second))
    if not one.size:
        return Undefined(reason="no image has both labels", needed="labels of the scored images in both truths")
    if min(one.sum(), (~one).sum(), other.sum(), (~other).sum()) == 0:
        return Undefined(reason="one of the two says the same of every image", needed="images of both kinds in each")
    owners = np.unique(np.asarray(patients), return_inverse=True)[1]
    cells = 2 * one.astype(np.int64) + other
    counts = np.zeros((int(owners.max()) + 1, 4))
    np.add.at(counts, (owners, cells), 1.0)
    total = counts.sum(axis=0)
    value = float(_kappa(total[None])[0])
    with np.errstate(invalid="ignore", divide="ignore"):
        without = _kappa(total - counts)
    patients_known = len(counts)
    if patients_known < auc.MIN_PATIENTS or not np.isfinite(without).all():
        return Undefined(reason="too few patients to say how sure it is", needed="more patients of both kinds")
    se = math.sqrt((patients_known - 1) * float(np.var(without)))
    if se <= auc.ROUNDING:
        return Undefined(reason="no variation between patients", needed="more patients")
    return auc.estimate(value, se, patients_known - 1.0, "wald", level)


def _kappa(counts: Floats) -> Floats:
    """From (K, 4) numbers of images: neither, the second alone, the first alone, both."""
    images = counts.sum(axis=1)
    observed = (counts[:, 0] + counts[:, 3]) / images
    first, second = (counts[:, 2] + counts[:, 3]) / images, (counts[:, 1] + counts[:, 3]) / images
    chance = first * second + (1.0 - first) * (1.0 - second)
    agreed: Floats = (observed - chance) / (1.0 - chance)
    return agreed


def _under(
    findings: Sequence[str],
    truth: Floats,
    patients: npt.NDArray[np.int64],
    scores: Mapping[str, npt.ArrayLike],
    frozen: Frozen,
    level: float,
) -> list[UnderTruth]:
    """How well the models do by one truth, a record a finding."""
    tables = Tables.of(findings, truth, patients, scores)
    ranks = tables.ranks()
    at = probability.performance(findings, tables, ranks, frozen, level=level)
    return [
        UnderTruth(
            positives=one.labelled.support.positives,
            auc=auc.together([one], level),
            sensitivity=figures.sensitivity,
            specificity=figures.specificity,
        )
        for one, figures in zip(ranks, at, strict=True)
    ]
