"""Tests of a model in use that may be looked at every week: a false alarm over a year is as rare as was asked.

Whoever looks 52 times at a test of 5 % is told of a change that is none nearly each year. Here each stream of
observations has a capital that bets against "nothing has changed". While that is so, the capital is a nonnegative
martingale (or falls), and by Ville's inequality it reaches 1/a in a year with a probability of at most a, whenever and
however often somebody looks. A stream whose capital does so is in alarm. Streams share the year's rate by Bonferroni.

Two kinds of stream:

* *Exchangeable.* Without labels: each patient's value (a score, an age) is ranked among the reference and all patients
  before. While reference and patients are exchangeable, the ranks, ties broken at random, are independent and uniform
  in 0 to 1, so that any bet on them is fair, however small the reference. The bets are that ranks lie high, low, at
  both ends or in the middle, each with several stakes.
* *Mean.* With labels: the claim is that the mean of a bounded loss is at most what the gate saw. What the gate saw is
  an estimate, so the claim is its upper confidence bound; the error of that bound is part of the stream's rate. The
  bets are of constant stakes on the loss being above it.

A change comes on some day of the year, and capital that was lost before it must not have to be won back. So every
fourth week gets 1/13 of the capital at its start, and the rest waits: a mixture of martingales is one.

Labels are few and predictions are many. Where it is known what loss the model expects of each patient (f), the loss l
of a labelled patient is replaced by l - f + (mean f of patients without a label): its mean is the same if labels come
of patients of the same kind, and its spread is smaller where f tells something of l. No patient is used twice, so that
each observation is new given those before. Half of the stream's rate is bet with l alone, half in this way.

Sources: Ville, "Etude critique de la notion de collectif" (1939); Waudby-Smith and Ramdas, "Estimating means of bounded
random variables by betting", J. R. Statist. Soc. B 86 (2024): capital processes for a bounded mean; Vovk, Nouretdinov
and Gammerman, "Testing exchangeability on-line", ICML 2003: ranks that are uniform, and bets on them. The aim (few true
and many predicted labels, an upper bound of the nominal risk, a bound on false alarms in finite samples) is that of
prediction-powered risk monitoring (Zhang, Cai, Yu and Simeone, arXiv 2602.02229, of which the abstract was read); how
it is reached is written above, and is not claimed to be that paper's way. Page, Biometrika 41 (1954), and Siegmund,
"Sequential Analysis" (1985): the CUSUM.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WEEKS: Final = 52  # over which a rate of false alarms holds; then it begins anew
EVERY: Final = 4  # weeks between two parts of the capital
# Shares of the largest stake that cannot lose more than there is.
STAKES: Final = (1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2, 3 / 4)
_RANK_STAKES: Final = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
LEAST: Final = 100  # patients among whom another one is ranked before anybody bets on it
FEWEST_LOSSES: Final = 20  # in the reference, of which a bound of the mean is worth having
BOUND: Final = 0.25  # of a stream's rate: the error of the bound of what the gate saw
BLOCK: Final = 4  # patients without a label who stand beside one with a label


# ----------------------------------------------------------------------------------------------- exchangeable streams


def ranks(reference: npt.ArrayLike, weeks: Sequence[npt.ArrayLike], ties: Sequence[npt.ArrayLike]) -> list[Floats]:
    """Rank each value among the reference and all values before it, from 0 to 1.

    Args:
        reference: (R,) values from before the first week, in any order; may be empty.
        weeks: for each week its values, in an order that does not depend on them.
        ties: the same shapes, uniform in 0 to 1 and independent of the values.

    Returns:
        For each week (n,) numbers, independent and uniform if all values are exchangeable.

    Raises:
        ValueError: a value is not finite, or the shapes do not fit.

    >>> [week.tolist() for week in ranks([1.0, 2.0, 3.0], [[4.0, 0.0], [2.0]], [[0.5, 0.5], [0.5]])]
    [[0.875, 0.1], [0.5]]
    """
    before = np.sort(np.asarray(reference, dtype=np.float64))
    found = []
    for texts, chances in zip(weeks, ties, strict=True):
        values, chance = np.asarray(texts, dtype=np.float64), np.asarray(chances, dtype=np.float64)
        if values.shape != chance.shape or values.ndim != 1 or not np.isfinite(values).all():
            raise ValueError("a week needs finite values, and as many chances")
        earlier = np.tri(values.size, k=-1, dtype=np.bool_)
        less = np.searchsorted(before, values, "left") + (earlier & (values[None, :] < values[:, None])).sum(axis=1)
        upto = np.searchsorted(before, values, "right") + (earlier & (values[None, :] <= values[:, None])).sum(axis=1)
        count = before.size + np.arange(1, values.size + 1)
        found.append((less + chance * (upto - less + 1)) / count)
        before = np.sort(np.concatenate([before, np.sort(values)]), kind="stable")  # two runs: one pass
    return found


def rank_bets(uniform: npt.ArrayLike) -> Floats:
    """What each bet makes of its stake, for each rank: (n, bets), of mean 1 over uniform ranks.

    >>> grid = (np.arange(1000) + 0.5) / 1000
    >>> bool(np.allclose(rank_bets(grid).mean(axis=0), 1, atol=1e-5)), bool(rank_bets([0.0, 0.5, 1.0]).min() > 0)
    (True, True)
    """
    p = np.asarray(uniform, dtype=np.float64)[:, None]
    stakes = np.array([sign * stake for stake in _RANK_STAKES for sign in (1, -1)])
    return np.concatenate([1 + stakes * (2 * p - 1), 1 + stakes * (6 * p * (p - 1) + 1)], axis=1)


# ------------------------------------------------------------------------------------------------------- mean streams


def mean_bets(observed: npt.ArrayLike, at_most: float, least: float = 0.0) -> Floats:
    """What each bet against "the mean is at most this" makes of its stake, for each observation: (n, bets).

    Args:
        observed: (n,) values of at least `least`.
        at_most: the claimed mean, above `least`.
        least: that no observation can lie below.

    Raises:
        ValueError: an observation lies below `least`, or the claim does not lie above it.

    >>> mean_bets([0.5], 0.5).tolist()[0][0], round(float(mean_bets([0.0], 0.5)[0, -1]), 3)
    (1.0, 0.25)
    """
    values = np.asarray(observed, dtype=np.float64)
    if not at_most > least or (values < least - 1e-12).any():
        raise ValueError("observations and the claimed mean must not lie below the least value")
    return 1 + np.outer(values - at_most, np.array(STAKES) / (at_most - least))


def upper_bound(losses: npt.ArrayLike, error: float) -> float:
    """An upper confidence bound of the mean of losses in 0 to 1, by betting that it is lower.

    Args:
        losses: (n,) independent, one a patient.
        error: probability that the mean lies above the bound, at most.

    >>> upper_bound(np.zeros(100), 0.05) < 0.06, upper_bound([], 0.05)
    (True, 1.0)
    """
    given = np.asarray(losses, dtype=np.float64)
    if given.size == 0:
        return 1.0
    values, times = np.unique(given, return_counts=True)
    if (values < 0).any() or (values > 1).any() or not 0 < error < 1:
        raise ValueError("losses must lie in 0 to 1, and the error between them")
    stakes = np.array(STAKES)[:, None]

    def reached(mean: float) -> bool:
        logs = np.log1p(stakes * (mean - values) / (1 - mean)) @ times
        return float(np.logaddexp.reduce(logs) - math.log(len(STAKES))) >= -math.log(error)

    low, high = float(given.mean()), 1.0
    for _ in range(30):  # what the bets win rises with the claimed mean
        middle = (low + high) / 2
        low, high = (low, middle) if middle < 1 and reached(middle) else (middle, high)
    return high


def blocks(weeks: npt.ArrayLike, labelled: npt.ArrayLike, *, size: int = BLOCK) -> dict[int, Ints]:
    """For each labelled patient those of the same week without a label who stand beside it, nobody twice.

    Args:
        weeks: (n,) the week of each patient.
        labelled: (n,) when the label came; infinite where there is none. A patient whose label comes later is one
            without a label until then, so that a later label changes nothing that was said before.
        size: how many.

    Returns:
        Patient -> (size,) patients. One for whom too few are left, or who has stood beside another, has none.

    >>> {one: beside.tolist() for one, beside in blocks([0, 0, 0, 1], [3, np.inf, 4, 3], size=2).items()}
    {0: [1, 2]}
    """
    week, at = np.asarray(weeks), np.asarray(labelled, dtype=np.float64)
    free = {int(one): np.flatnonzero(week == one).tolist() for one in np.unique(week)}
    used: set[int] = set()
    found: dict[int, Ints] = {}
    for patient in np.flatnonzero(np.isfinite(at))[np.argsort(at[np.isfinite(at)], kind="stable")].tolist():
        if patient in used:
            continue
        place = int(week[patient])
        beside = []
        for other in free[place]:
            if other not in used and at[other] > at[patient]:
                beside.append(other)
                if len(beside) == size:
                    break
        if len(beside) == size:
            used.update(beside)
            found[patient] = np.array(beside)
            free[place] = [other for other in free[place] if other not in used]
    return found


def powered(losses: npt.ArrayLike, expected: npt.ArrayLike, beside: npt.ArrayLike) -> Floats:
    """Losses with what the model expected taken out, and what it expects of others put in.

    Args:
        losses: (n,).
        expected: (n,) of the same patients.
        beside: (n,) the mean of what is expected of those who stand beside each.

    >>> powered([1.0, 0.0], [0.5, 0.25], [0.25, 0.25]).tolist()
    [0.75, 0.0]
    """
    loss, own, others = (np.asarray(one, dtype=np.float64) for one in (losses, expected, beside))
    return loss - own + others


# ------------------------------------------------------------------------------------------------------------ capital


@dataclass(frozen=True, kw_only=True)
class Capital:
    """A stream's capital, week by week.

    Attributes:
        peaks: (W,) the largest in each week. In each year it begins with 1.
    """

    peaks: Floats

    def alarms(self, level: float) -> list[int]:
        """The first week, from 0, of each year in which the capital reached 1/level."""
        over = self.peaks >= 1 / level
        years = (range(start, min(start + WEEKS, over.size)) for start in range(0, over.size, WEEKS))
        return [next(week for week in year if over[week]) for year in years if over[list(year)].any()]


def capital(weeks: Sequence[Floats]) -> Capital:
    """The capital of bets that are made anew every fourth week with 1/13 of it, and go on to the end of the year.

    Args:
        weeks: for each week what each bet makes of its stake, (n, bets), n may be 0.

    >>> capital([np.ones((3, 2)), np.full((1, 2), 2.0)]).peaks.round(3).tolist()
    [1.0, 1.077]
    """
    peaks = np.ones(len(weeks))
    parts = WEEKS // EVERY
    played: Floats | float = 0.0
    for number, bets in enumerate(weeks):
        week = number % WEEKS
        if week == 0:
            played = 0.0
        if week % EVERY == 0:
            played = played + 1 / parts
        idle = 1 - (week // EVERY + 1) / parts
        if bets.shape[0]:
            running = played * np.cumprod(bets, axis=0)
            peaks[number] = idle + float(running.mean(axis=1).max())
            played = running[-1]
        else:
            peaks[number] = idle + float(np.mean(played))
    return Capital(peaks=peaks)


def exchangeable(
    reference: npt.ArrayLike, weeks: Sequence[npt.ArrayLike], ties: Sequence[npt.ArrayLike]
) -> tuple[Capital, list[Floats]]:
    """The capital against "weeks are as the reference and as each other", and the ranks; see `ranks`.

    Nobody bets on a patient who is ranked among fewer than `LEAST`.
    """
    found = ranks(reference, weeks, ties)
    known = np.asarray(reference).size
    made = []
    for week in found:
        bets = rank_bets(week)
        bets[: max(0, LEAST - known)] = 1.0
        known += week.size
        made.append(bets)
    return capital(made), found


@dataclass(frozen=True, kw_only=True)
class Above:
    """Losses of a year or more against what the gate saw.

    Attributes:
        bound: upper bound of what the gate saw.
        alone: the capital of losses alone; powered: that of losses beside predictions.
        level: rate of each of the two: of the stream's, what the bound leaves, and half of it where there are two.
    """

    bound: float
    alone: Capital
    powered: Capital | None
    level: float

    @property
    def alarms(self) -> list[int]:
        """The first week of each year in which one of the two was in alarm."""
        first: dict[int, int] = {}
        found = self.alone.alarms(self.level) + (self.powered.alarms(self.level) if self.powered else [])
        for week in sorted(found):
            first.setdefault(week // WEEKS, week)
        return list(first.values())

    @property
    def shares(self) -> Floats:
        """(W,) the larger of the two, as a share of that at alarm."""
        both = [self.alone.peaks] + ([self.powered.peaks] if self.powered else [])
        return np.asarray(self.level * np.max(both, axis=0))


def above(
    reference: npt.ArrayLike,
    level: float,
    alone: Sequence[npt.ArrayLike],
    beside: Sequence[npt.ArrayLike] = (),
    *,
    tolerance: float = 0.0,
    least: float = 0.0,
) -> Above:
    """The capital against "the mean loss is at most what the gate saw, and the tolerance".

    Args:
        reference: (R,) the losses in 0 to 1 that the gate saw, one a patient.
        level: rate of false alarms of this stream in a year.
        alone: for each week the losses of the patients whose labels came, in an order that does not depend on them.
        beside: the same with predictions (`powered`), of at least `least`; empty where there are none.
        tolerance: how much more is borne.
        least: that no observation beside predictions can lie below.
    """
    bound = min(upper_bound(reference, level * BOUND) + tolerance, 1.0)
    weeks = [np.asarray(one, dtype=np.float64) for one in alone]
    more = [np.asarray(one, dtype=np.float64) for one in beside]
    return Above(
        bound=bound,
        alone=capital([mean_bets(one, bound) for one in weeks]),
        powered=capital([mean_bets(one, bound, least) for one in more]) if more else None,
        level=level * (1 - BOUND) / (2 if more else 1),
    )


# -------------------------------------------------------------------------------------------------------------- CUSUM


def cusum(weeks: Sequence[npt.ArrayLike], mean: float, deviation: float, *, slack: float = 0.5) -> Floats:
    """Page's CUSUM of standardized weekly means, of a rise alone: (W,).

    Args:
        weeks: the observations of each week; one without any leaves it as it is.
        mean: before a change.
        deviation: standard deviation of an observation, above 0.
        slack: half the rise that is looked for, in standard errors of a weekly mean.

    >>> cusum([[1.0], [], [3.0]], 0.0, 1.0).tolist()
    [0.5, 0.5, 3.0]
    """
    if not deviation > 0:
        raise ValueError("a CUSUM needs a deviation above 0")
    found, now = np.zeros(len(weeks)), 0.0
    for number, one in enumerate(weeks):
        values = np.asarray(one, dtype=np.float64)
        if values.size:
            z = (float(values.mean()) - mean) * math.sqrt(values.size) / deviation
            now = max(0.0, now + z - slack)
        found[number] = now
    return found


def cusum_limit(weeks: float, *, slack: float = 0.5) -> float:
    """The limit that a CUSUM of standard normal weeks reaches after so many on average, by Siegmund's approximation.

    >>> round(cusum_limit(740), 1), round(cusum_limit(930), 1)
    (4.8, 5.0)
    """
    low, high = 0.0, 1000.0
    for _ in range(60):
        middle = (low + high) / 2
        b = 2 * slack * (middle + 1.166)
        length = math.inf if b > 700 else (math.exp(b) - b - 1) / (2 * slack**2)
        low, high = (middle, high) if length < weeks else (low, middle)
    return high
