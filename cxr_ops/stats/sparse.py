"""Whether a model may fail outright on a few patients of a finding: more than a test set of so few patients shows.

The bound of a difference (`cxr_ops.stats.auc.mean_difference`) takes its error from the patients who were seen. A model
that ranks most patients as before, and one in ten at the bottom, loses 0.1 of its AUC. Of 39 patients none of those may
be among them, in 1.6 % of test sets, and then nothing shows that they exist: neither the loss nor its error.

So the loss is also judged in a world in which patients fail outright. Each patient of a kind fails with the same
chance p, whatever the number of images, and one who fails loses all: 1, the most that a rank can fall. The others lose
what is then left of the margin, and their mean has a normal error, the one that was seen with every fall cut at `FALL`.
The p-value is the greatest probability, over p, of what was seen or better: that the images of those who fail are no
more than the images of those who were seen to fall by more than `FALL`, and that the loss is no larger than the one
seen. The chance goes up to where the others gain two standard errors. No distribution of scores is assumed, and where
nobody falls and the others do not vary it is the exact binomial one, (1 - margin)^patients.

It is asked for beside the margin's own bound, and can only make a pass rarer. What else was tried, and how often each
passes by mistake, is in docs/decisions/0020 and docs/gate-simulation.md.

Sources:
    Clopper and Pearson, Biometrika 26 (1934) 404-413: the exact bound on a share that was not seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, special

from cxr_ops.records.evidence import Fallen, Falls, Side
from cxr_ops.stats.auc import ROUNDING, Ranking

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Kind = Literal["positive", "negative"]

# A patient whose mean rank falls by more than this share of all ranks counts as one on whom the model fails. Smaller
# falls that are frequent enough to matter are seen. With a smaller number the noise between equally good models counts
# as failures, and costs power.
FALL: Final = 0.5
CHANCES: Final = 16  # values of p that are looked at, and as many near the margin
MOST_CHANCE: Final = 0.99
GAIN: Final = 2.0  # standard errors that the others may gain
REACH: Final = 4.5  # standard errors beyond which nothing is added up
CELLS: Final = 120  # the images of those who fail are counted in no more steps than this
UNITS: Final = 10_000  # a patient's weight in a mean over findings is counted in such parts
LEAST_ERROR: Final = 1e-6
WORST: Final = 0.98  # of the losses that are looked at; a margin is far below it
MOST: Final = 1e4  # times as many patients: nobody has them


# ------------------------------------------------------------------------------------------------ what was seen


def falls(
    ours: Sequence[Ranking], theirs: Sequence[Ranking], error: float, cases: Sequence[str] | None = None
) -> Falls:
    """How the ranks of patients moved between two models, for one finding or for the mean over several.

    The rank of a patient is the mean placement of its positive images among the negatives, in [0, 1], and of its
    negative images among the positives. Of several findings it is the mean, weighted as the mean AUC weighs them.

    Args:
        ours: the challenger's rankings, one a finding, of the same P patients.
        theirs: the other model's, on the same images.
        error: standard error of the difference of the mean AUCs.
        cases: (P,) what each patient is called, "" for nothing. With it, each patient with a positive image whose rank
            fell is listed, the largest fall first.

    Raises:
        ValueError: nothing is given, or the two do not stand on the same images.

    >>> from cxr_ops.stats import auc
    >>> before, after = (auc.rank([1, 1, 1, 0, 0, 0], [9, 8, last, 3, 2, 1], range(6)) for last in (7, 0))
    >>> found = falls([after], [before], 0.3, ["", "", "c", "", "", ""])
    >>> found.positive.sizes, found.positive.fallen, found.patients[0].case, found.patients[0].after
    ([(1, 3)], 1, 'c', 0.0)
    """
    if not ours:
        raise ValueError("there are no ranks without a finding")
    for mine, other in zip(ours, theirs, strict=True):
        mine.check_same_images(other)
    positive, negative = _Moved.of(ours, theirs, "positive"), _Moved.of(ours, theirs, "negative")
    cut = positive.spread(FALL) + negative.spread(FALL)
    left = error**2 - positive.spread() - negative.spread() + cut
    return Falls(
        error=math.sqrt(max(left, cut, LEAST_ERROR**2)),
        positive=positive.side(),
        negative=negative.side(),
        patients=[] if cases is None else positive.listed(cases),
    )


class _Moved:
    """The ranks of the patients who have an image of a kind: who (P',), weights that sum to 1, before and after."""

    def __init__(self, who: Ints, units: Ints, images: Ints, weights: Floats, before: Floats, after: Floats) -> None:
        self.who, self.units, self.images, self.weights = who, units, images, weights
        self.before, self.after = before, after

    @classmethod
    def of(cls, ours: Sequence[Ranking], theirs: Sequence[Ranking], kind: Kind) -> _Moved:
        images = np.array([getattr(part, f"{kind}s") for part in ours], dtype=np.float64)
        shares = images / images.sum(axis=1, keepdims=True)
        weights = shares.mean(axis=0)
        who = np.flatnonzero(weights)
        # A patient's part is its share of the deviation from the AUC.
        after, before = (
            np.mean(
                [getattr(part, kind) + part.value * share for part, share in zip(model, shares, strict=True)], axis=0
            )
            for model in (ours, theirs)
        )
        owned, held = images.sum(axis=0)[who].astype(np.int64), weights[who]
        units = owned if len(ours) == 1 else np.maximum(np.rint(held * UNITS).astype(np.int64), 1)
        return cls(who, units, owned, held, before[who] / held, after[who] / held)

    def spread(self, most: float = math.inf) -> float:
        """Variance of the weighted mean change, with each fall cut at `most`; 0 for a single patient."""
        count = self.who.size
        change = np.maximum(self.after - self.before, -most)
        parts = self.weights * (change - self.weights @ change)
        return float(parts @ parts) * count / (count - 1) if count > 1 else 0.0

    def side(self) -> Side:
        sizes, patients = np.unique(self.units, return_counts=True)
        fell = self.before - self.after > FALL
        return Side(
            sizes=list(zip(sizes.tolist(), patients.tolist(), strict=True)),
            fallen=int(self.units[fell].sum()),
            fallen_patients=int(np.count_nonzero(fell)),
        )

    def listed(self, cases: Sequence[str]) -> list[Fallen]:
        rows = [
            Fallen(case=cases[who], images=int(images), before=float(before), after=float(after))
            for who, images, before, after in zip(self.who, self.images, self.before, self.after, strict=True)
            if before - after > ROUNDING
        ]
        return sorted(rows, key=lambda row: (row.after - row.before, row.case, row.images))


def is_possible(seen: Falls) -> bool:
    """Whether such falls can be: an error above 0, patients with images, and no more fallen than there are.

    >>> side = Side(sizes=[(1, 30)], fallen=31, fallen_patients=30)
    >>> is_possible(Falls(error=0.01, positive=side, negative=side))
    False
    """
    sides = (seen.positive, seen.negative)
    return seen.error > 0.0 and all(
        bool(side.sizes)
        and all(images > 0 and patients > 0 for images, patients in side.sizes)
        and 0 <= side.fallen_patients <= side.fallen <= sum(images * patients for images, patients in side.sizes)
        for side in sides
    )


# ------------------------------------------------------------------------------------------------ what it shows


def p_value(loss: float, error: float, side: Side, margin: float) -> float:
    """The greatest probability that a loss of `margin` looks as harmless as what was seen, if some patients fail.

    Args:
        loss: the AUC that was seen to be lost, in [-1, 1].
        error: of the loss among those who do not fail, above 0.
        side: the patients who may fail, and the images of those who were seen to fall.
        margin: in (0, 1).

    >>> thirty = Side(sizes=[(1, 30)], fallen=0, fallen_patients=0)
    >>> round(p_value(0.0, 1e-4, thirty, 0.1), 3), round(0.9**30, 3)  # nobody fell, and the others do not vary
    (0.042, 0.042)
    """
    near = margin + error * np.linspace(-REACH, GAIN, CHANCES)  # where the maximum is, if the others vary little
    chances = np.clip(np.concatenate((np.linspace(0.0, margin, CHANCES), near)), 0.0, MOST_CHANCE)
    rest = (margin - chances) / (1.0 - chances)  # what the others lose
    whole = sum(images * patients for images, patients in side.sizes)
    reach = float(((loss + REACH * error - rest) / (1.0 - rest)).max())
    most = min(max(math.floor(reach * whole), 0), side.fallen)
    unit = max(1, math.ceil(most / CELLS))
    failed = np.arange(math.ceil(most / unit) + 1) * (unit / whole)
    weights = _failing(_coarser(side.sizes, unit), chances, failed.size)
    seen = special.ndtr((loss - rest - np.outer(failed, 1.0 - rest)) / error)
    return float((weights * seen).sum(axis=0).max())


def _coarser(sizes: Sequence[tuple[int, int]], unit: int) -> list[tuple[int, int]]:
    """Sizes in units of so many images, in whole numbers that keep the sum of images nearly."""
    if unit == 1:
        return list(sizes)
    found: list[tuple[int, int]] = []
    owed = 0.0
    for images, patients in sizes:
        low, left = divmod(images, unit)
        wanted = patients * left / unit + owed
        more = min(max(round(wanted), 0), patients)
        owed = wanted - more
        found += [(low, patients - more), (low + 1, more)]
    return [(images, patients) for images, patients in found if images and patients]


def _failing(sizes: Sequence[tuple[int, int]], chances: Floats, cells: int) -> Floats:
    """(cells, K) probability that the patients who fail have 0, 1, ... images, for K chances of each to fail."""
    if cells == 1:  # nobody fails; the usual case
        everybody = sum(patients for _, patients in sizes)
        return np.asarray(np.exp(everybody * np.log1p(-chances)))[None]
    found = np.zeros((cells, chances.size))
    found[0] = 1.0
    for images, patients in sizes:
        times = np.arange(min(patients, (cells - 1) // images) + 1)
        ways = special.gammaln(patients + 1) - special.gammaln(times + 1) - special.gammaln(patients - times + 1)
        logs = special.xlogy(times[:, None], chances) + special.xlog1py((patients - times)[:, None], -chances)
        terms = np.exp(ways[:, None] + logs)
        added = terms[0] * found
        for k in times[1:]:
            added[k * images :] += terms[k] * found[: cells - k * images]
        found = added
    return found


def inflated(error: float, df: float | None, alpha: float) -> float:
    """An error that, with the normal quantile at `alpha`, reaches as far as with Student's t; `df` None is the normal.

    >>> round(inflated(0.01, 9.0, 0.025) / 0.01, 3)  # 2.262 / 1.960
    1.154
    """
    if df is None:
        return error
    return error * float(special.stdtrit(df, 1.0 - alpha) / special.ndtri(1.0 - alpha))


def bound(value: float, seen: Falls, df: float | None, alpha: float) -> float:
    """One-sided lower bound of a difference of AUCs, at error `alpha`, if some patients may fail outright.

    Args:
        value: the difference that was seen.
        seen: how the ranks of patients moved.
        df: Student's degrees of freedom.
        alpha: in (0, 0.5).

    Returns:
        The difference, in [-1, value].

    >>> side = Side(sizes=[(1, 30)], fallen=0, fallen_patients=0)
    >>> seen = Falls(error=1e-4, positive=side, negative=side, patients=[])
    >>> round(bound(0.0, seen, None, 0.04), 2), round(0.04 ** (1 / 30) - 1, 2)  # as Clopper and Pearson have it
    (-0.1, -0.1)
    """
    error = inflated(seen.error, df, alpha)

    def excess(margin: float, side: Side) -> float:
        return p_value(-value, error, side, margin) - alpha

    worst = value
    for side in (seen.positive, seen.negative):
        least = max(-worst, 0.0) + LEAST_ERROR
        if excess(least, side) <= 0.0:
            continue
        if excess(WORST, side) > 0.0:
            return -1.0
        worst = min(worst, -float(optimize.brentq(excess, least, WORST, args=(side,), xtol=1e-7)))
    return worst


def keeps(value: float, seen: Falls, df: float | None, alpha: float, margin: float) -> bool:
    """Whether `bound` lies above minus the margin; faster than the bound.

    >>> side = Side(sizes=[(1, 30)], fallen=0, fallen_patients=0)
    >>> [keeps(0.0, Falls(error=1e-4, positive=side, negative=side), None, 0.04, margin) for margin in (0.10, 0.11)]
    [False, True]
    """
    error = inflated(seen.error, df, alpha)
    sides = (seen.positive, seen.negative)
    return value > -margin and all(p_value(-value, error, side, margin) <= alpha for side in sides)


def probability(
    margin: float, error: float, patients: int, df: float | None, alpha: float, truth: float = 0.0
) -> float:
    """How probable it is that `bound` keeps a margin, for a model of which no patient falls.

    How many images the patients have does not matter then.

    Args:
        margin: in (0, 1).
        error: standard error of the difference, above 0.
        patients: of the rarer kind, in nearly all cases those with the finding.
        df: as in `bound`.
        alpha: as in `bound`.
        truth: the true difference.

    >>> [round(probability(0.1, 0.013, 39, None, alpha), 2) for alpha in (0.04, 0.005)]
    [1.0, 0.13]
    """
    apart = inflated(error, df, alpha)
    side = Side(sizes=[(1, patients)], fallen=0, fallen_patients=0)

    def excess(loss: float) -> float:
        return p_value(loss, apart, side, margin) - alpha

    if excess(margin) <= 0.0:
        most = margin
    else:
        most = float(optimize.brentq(excess, -margin - 8.0 * apart - 1.0, margin, xtol=1e-5))
    return float(special.ndtr((most + truth) / error))


def times_needed(
    margin: float, error: float, patients: int, df: float | None, alpha: float, target: float, truth: float = 0.0
) -> float | None:
    """How many times as many patients a model needs to keep a margin with probability `target`; see `probability`.

    None where no number would do.

    >>> round(39 * times_needed(0.1, 0.013, 39, None, 0.005, 0.8))
    49
    """

    def reaches(times: float) -> bool:
        free = None if df is None else max((df + 1.0) * times - 1.0, 1.0)
        more = max(round(patients * times), 1)
        return probability(margin, error / math.sqrt(times), more, free, alpha, truth) >= target

    low, high = 0.02, MOST
    if not reaches(high):
        return None
    for _ in range(14):  # exact to a thousandth
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reaches(middle) else (middle, high)
    return high
