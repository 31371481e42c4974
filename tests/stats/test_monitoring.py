"""Tests that may be looked at every week: closed forms, brute force, scipy, and small simulations of whole years."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from cxr_ops.stats import monitoring, surveillance


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(seed))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(0, 30), st.sampled_from([2, 5, 10**6]))
def test_ranks_are_scipys_among_all_before(seed: int, reference: int, distinct: int) -> None:
    """A rank with the chances 0 and 1 is scipy's lowest and highest rank among the reference and all before."""
    draw = rng(seed)
    before = draw.integers(0, distinct, reference).astype(float)
    weeks = [draw.integers(0, distinct, n).astype(float) for n in (4, 0, 7)]
    low, high = (
        np.concatenate(monitoring.ranks(before, weeks, [np.full(w.size, chance) for w in weeks])) for chance in (0, 1)
    )
    known = list(before)
    for place, value in enumerate(np.concatenate(weeks)):
        known.append(value)
        assert low[place] == pytest.approx((stats.rankdata(known, "min")[-1] - 1) / len(known))
        assert high[place] == pytest.approx(stats.rankdata(known, "max")[-1] / len(known))


@pytest.mark.parametrize("kind", ["normal", "of two values", "constant"])
def test_ranks_are_uniform_and_independent_while_nothing_changes(kind: str) -> None:
    """Over many small sets with a reference of five, ranks are uniform by Kolmogorov-Smirnov, and successive ones are
    uncorrelated, ties or not."""
    draw = rng(1)
    make = {"normal": draw.normal, "of two values": lambda size: draw.integers(0, 2, size), "constant": np.ones}[kind]
    rows = [monitoring.ranks(make(size=5) if kind != "constant" else np.ones(5), [w], [draw.random(4)])[0]
            for w in ((make(size=4) if kind != "constant" else np.ones(4)) for _ in range(4000))]  # fmt: skip
    table = np.array(rows)
    for column in table.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    assert np.abs(np.corrcoef(table.T) - np.eye(4)).max() < 4 / math.sqrt(4000)


def test_bets_on_ranks_are_fair() -> None:
    """Each bet on a uniform rank is positive and has the mean 1, by numerical integration."""
    for bet in range(monitoring.rank_bets([0.5]).shape[1]):
        value, _ = integrate.quad(lambda p, bet=bet: monitoring.rank_bets([p])[0, bet], 0, 1)
        assert value == pytest.approx(1)
    assert monitoring.rank_bets(np.linspace(0, 1, 1001)).min() > 0


def test_bets_on_a_mean_are_fair_at_the_claim_and_lose_below() -> None:
    """At the claimed mean each bet has the mean 1 whatever the distribution, and less than that below it."""
    for values, chances, least in (([0.0, 1.0], [0.7, 0.3], 0.0), ([-0.5, 0.25, 1.5], [0.2, 0.5, 0.3], -0.5)):
        mean = float(np.dot(values, chances))
        bets = monitoring.mean_bets(values, mean, least)
        assert bets.min() > 0
        assert np.dot(chances, bets) == pytest.approx(1)
        assert (np.dot(chances, monitoring.mean_bets(values, mean + 0.05, least)) < 1).all()
    with pytest.raises(ValueError, match="below the least"):
        monitoring.mean_bets([-0.1], 0.5)


def test_capital_is_the_mean_over_all_bets_and_starts() -> None:
    """The capital is what a brute-force sum over start weeks and bets gives, idle money included; a new year begins
    with 1."""
    draw = rng(2)
    weeks = [draw.uniform(0.5, 1.6, (n, 3)) for n in (2, 0, 3, 1, 2, 1)]
    peaks = monitoring.capital(weeks).peaks
    for number in range(6):
        seen = []
        for upto in range(weeks[number].shape[0] + 1):
            if upto == 0 and weeks[number].shape[0]:
                continue
            starts = range(0, number + 1, 4)
            total = 1 - len(starts) / 13
            for start, bet in itertools.product(starts, range(3)):
                whole = math.prod(weeks[w][:, bet].prod() for w in range(start, number))
                total += whole * weeks[number][:upto, bet].prod() / 13 / 3
            seen.append(total)
        assert peaks[number] == pytest.approx(max(seen))
    years = monitoring.capital([*[np.full((1, 1), 2.0)] * 53])
    assert years.peaks[52] == pytest.approx(years.peaks[0])
    assert monitoring.capital([np.full((9, 1), 2.0)] * 60).alarms(0.05) == [0, 52]


def test_bound_holds_as_often_as_asked_and_is_near_the_exact_one() -> None:
    """The upper bound of a share lies above the truth in at least 95 % of draws, and above Clopper and Pearson's exact
    one, which is of coins alone, by little."""
    draw = rng(3)
    held, wider = [], []
    for _ in range(400):
        coins = (draw.random(300) < 0.2).astype(float)
        bound = monitoring.upper_bound(coins, 0.05)
        k = int(coins.sum())
        exact = stats.beta.ppf(0.95, k + 1, 300 - k)
        held.append(bound >= 0.2)
        wider.append(bound - exact)
    assert np.mean(held) >= 0.95
    assert min(wider) > 0
    assert max(wider) < 0.05
    smooth = [monitoring.upper_bound(draw.beta(2, 8, 200), 0.05) for _ in range(300)]
    assert np.mean(np.array(smooth) >= 0.2) >= 0.95


def test_nobody_stands_beside_two_and_later_labels_change_nothing() -> None:
    """Blocks are of the same week, disjoint, of patients without a label then; a label that comes later leaves all
    blocks of before as they were."""
    draw = rng(4)
    week = np.repeat(np.arange(5), 40)
    labelled = np.where(draw.random(200) < 0.2, week + draw.random(200), np.inf)
    found = monitoring.blocks(week, labelled)
    used = [other for beside in found.values() for other in beside.tolist()]
    assert len(used) == len(set(used)) == 4 * len(found) > 0
    for patient, beside in found.items():
        assert (week[beside] == week[patient]).all()
        assert (labelled[beside] > labelled[patient]).all()
        assert patient not in used
    late = labelled.copy()
    late[np.flatnonzero(np.isinf(labelled))[::3]] = 9.0
    after = monitoring.blocks(week, late)
    assert {one: beside.tolist() for one, beside in found.items()} == {
        one: beside.tolist() for one, beside in after.items() if late[one] < 9
    }


def test_powered_losses_have_the_mean_of_losses_and_less_spread() -> None:
    """With predictions in it an observation has the same mean, in a model that is not calibrated too, and less spread
    where predictions tell something."""
    draw = rng(5)
    chance = draw.beta(1, 3, 200_000)
    losses = (draw.random(chance.size) < chance).astype(float)
    for expected in (chance, np.sqrt(chance)):
        beside = draw.permutation(expected).reshape(-1, 4).mean(axis=1)
        made = monitoring.powered(losses[: beside.size], expected[: beside.size], beside)
        assert made.mean() == pytest.approx(losses.mean(), abs=0.006)
        assert made.std() < losses[: beside.size].std()


def test_cusum_reaches_its_limit_after_the_weeks_that_were_asked() -> None:
    """Over standard normal weeks the CUSUM's mean time to its limit is Siegmund's within 10 %, and it is the textbook's
    recursion."""
    draw = rng(6)
    limit, lengths = monitoring.cusum_limit(100), []
    for _ in range(1500):
        total, week = 0.0, 0
        while total < limit:
            total, week = max(0.0, total + draw.normal() - 0.5), week + 1
        lengths.append(week)
    assert np.mean(lengths) == pytest.approx(100, rel=0.1)
    values = draw.normal(3, 2, (20, 5))
    total, textbook = 0.0, []
    for one in values:
        total = max(0.0, total + (one.mean() - 3) / (2 / math.sqrt(5)) - 0.5)
        textbook.append(total)
    assert monitoring.cusum(list(values), 3, 2) == pytest.approx(textbook)


# ------------------------------------------------------------------------------------------------------- whole years

FINDINGS = ("Mass", "Effusion")
POINTS = (0.3, 0.3)


def year(seed: int, *, change: str = "", weeks: int = 52, patients: int = 30, delay: float = 1.0):
    """A year of two findings, calibrated, every second patient labelled; what changes does so in week 20."""
    draw = rng(seed)

    def make(size: int, after: np.ndarray):
        chance = draw.beta(1.2, 3, (size, 2))
        truth = (draw.random((size, 2)) < chance).astype(float)
        scores = chance.copy()
        if change == "scores":
            scores[after] = scores[after] ** 0.6
        if change == "blind":  # the same scores, of other patients
            scores[after] = draw.permutation(scores[after])
        inputs = {"age": draw.normal(50, 15, size) + (12 * after if change == "age" else 0)}
        return scores, truth, inputs

    week = np.repeat(np.arange(weeks), patients)
    scores, truth, inputs = make(week.size, week >= 20)
    has = draw.random(week.size) < 0.5
    seen = surveillance.Seen(
        week=week,
        chance=draw.random(week.size),
        scores=scores,
        truth=np.where(has[:, None], truth, np.nan),
        labelled=np.where(has, week + delay * draw.random(week.size), np.inf),
        inputs=inputs,
    )
    old = make(1000, np.zeros(1000, bool))
    reference = surveillance.Reference(scores=old[0], truth=old[1], inputs=old[2])
    return seen, reference


def look(seen, reference, *, rate: float = 0.05, weeks: int = 52):
    return surveillance.watch(seen, reference, FINDINGS, POINTS, weeks=weeks, rate=rate)


def test_false_alarms_of_a_year_are_as_rare_as_asked() -> None:
    """Of 120 years in which nothing changes at most as many have an alarm as a rate of 20 % makes likely (binomial, 1
    in 1,000), whatever the stream."""
    false = sum(any(one.alarms for one in look(*year(seed), rate=0.2)) for seed in range(120))
    assert stats.binom.sf(false - 1, 120, 0.2) > 1e-3


@pytest.mark.parametrize(
    ("change", "kind", "what"), [("scores", "scores", "score"), ("blind", "labels", "brier"), ("age", "inputs", "age")]
)
def test_change_is_found_in_its_stream_and_not_before(change: str, kind: str, what: str) -> None:
    """Scores, patients or errors that change in week 21 are found by the end of the year, not before they change, and
    streams that they do not concern stay in control."""
    for seed in range(5):
        streams = look(*year(seed, change=change, patients=60))
        found = [one for one in streams if one.alarms]
        assert any((one.kind, one.what) == (kind, what) for one in found)
        assert min(one.alarms[0] for one in found) >= 20
        if change == "age":
            assert {one.what for one in found} == {"age"}
        if change == "blind":
            assert {one.kind for one in found} == {"labels"}


def test_second_look_goes_on_where_the_first_one_ended() -> None:
    """What was said of the first 30 weeks is said again after 52, to the last bit, whatever labels came meanwhile."""
    seen, reference = year(1, change="scores", delay=6.0)
    first = look(seen, reference, weeks=30)
    whole = look(seen, reference)
    for early, late in zip(first, whole, strict=True):
        assert late.peaks[: len(early.peaks)] == early.peaks
        assert early.alarms == tuple(week for week in late.alarms if week < 30)
        if early.kind == "labels" and early.what == "brier":
            assert early.patients == np.count_nonzero(seen.labelled < 30)


def test_streams_that_cannot_be_watched_say_why() -> None:
    """Inputs that nobody knows, few patients, no labels and no operating point are each said, and no alarm."""
    seen, reference = year(1, weeks=2, patients=3)
    few = surveillance.Reference(scores=reference.scores[:80], truth=reference.truth[:80], inputs={})
    none = surveillance.Seen(
        **{**vars(seen), "truth": np.full_like(seen.truth, np.nan), "labelled": seen.labelled * np.inf}
    )
    streams = surveillance.watch(none, few, FINDINGS, (None, 0.3), weeks=2, rate=0.05)
    said = {(one.what, one.finding): one.unwatched for one in streams}
    assert said["view", None] == "nothing is known of it"
    assert "too few" in said["age", None]
    assert "too few" in said["score", "Mass"]
    assert said["wrong", "Mass"] == "the model has no operating point"
    assert said["wrong", "Effusion"] == "no label has come"
    assert not any(one.alarms for one in streams)


def test_the_rate_is_shared_among_all_streams() -> None:
    """The levels of all streams add up to the rate, whichever kinds are watched."""
    for kinds in (("scores",), ("inputs", "labels"), surveillance.KINDS):
        streams = surveillance.watch(*year(1, weeks=3), FINDINGS, POINTS, weeks=3, rate=0.05, kinds=kinds)
        assert sum(one.level for one in streams) == pytest.approx(0.05)
        assert {one.kind for one in streams} == set(kinds)
