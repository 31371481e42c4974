"""Losses that a few patients make: the p-value against enumeration and simulation, and what it changes for the gate."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import special, stats

from cxr_ops.records.evidence import Estimate, Falls, Side
from cxr_ops.stats import auc, sparse

MARGIN, AREA = 0.10, 0.91
HERNIA = np.array([1] * 26 + [2] * 5 + [3] * 4 + [5, 5, 7, 8])  # positive images of 39 patients
NEGATIVES = 400


def side(images, fallen=0, fallen_patients=0) -> Side:
    sizes, patients = np.unique(images, return_counts=True)
    return Side(sizes=list(zip(sizes.tolist(), patients.tolist(), strict=True)), fallen=fallen, fallen_patients=0)


def test_the_chance_of_failing_images_is_that_of_all_subsets():
    """The images of those who fail are distributed as adding up every subset of six patients says."""
    images, chance = [1, 1, 2, 3, 3, 5], 0.3
    expected = np.zeros(12)
    for fails in itertools.product((0, 1), repeat=6):
        total = sum(k * fail for k, fail in zip(images, fails, strict=True))
        if total < 12:
            expected[total] += np.prod([chance if fail else 1 - chance for fail in fails])
    found = sparse._failing(side(images).sizes, np.array([chance]), 12)[:, 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_counting_in_steps_of_several_images_keeps_the_p_value(monkeypatch):
    """With many patients who fell, images are counted in steps, and the p-value stays within 3 %."""
    images = np.repeat([1, 2, 3, 7], [300, 100, 60, 20])
    seen = side(images, fallen=400)
    coarse = sparse.p_value(0.02, 0.006, seen, 0.05)
    monkeypatch.setattr(sparse, "CELLS", 10_000)
    assert coarse == pytest.approx(sparse.p_value(0.02, 0.006, seen, 0.05), rel=0.03)
    assert sum(k * n for k, n in sparse._coarser(seen.sizes, 4)) == pytest.approx(images.sum() / 4, abs=1)


def _p_value_by_draws(loss, error, images, fallen, margin, draws=20_000):
    """The definition by simulation: most probable over a grid of chances."""
    rng = np.random.default_rng(0)
    found = []
    for chance in np.linspace(0, margin + 2 * error, 30):
        failed = (rng.random((draws, images.size)) < chance) @ images
        rest = (margin - chance) / (1 - chance)
        seen = special.ndtr((loss - rest - (1 - rest) * failed / images.sum()) / error)
        found.append(np.mean(seen * (failed <= fallen)))
    return max(found)


@pytest.mark.parametrize(("loss", "error", "fallen"), [(0.0, 0.013, 0), (0.03, 0.02, 3)])
def test_the_p_value_is_that_of_simulated_failures(loss, error, fallen):
    """It is the greatest share, over chances of failing, of simulated test sets that look as harmless."""
    expected = _p_value_by_draws(loss, error, HERNIA, fallen, MARGIN)
    assert sparse.p_value(loss, error, side(HERNIA, fallen), MARGIN) == pytest.approx(expected, rel=0.08)


def test_the_bound_is_where_the_p_value_is_alpha():
    """At the bound the p-value is alpha; a larger loss or a patient who fell lowers it."""
    seen = Falls(error=0.013, positive=side(HERNIA), negative=side([1] * NEGATIVES))
    low = sparse.bound(-0.01, seen, 17.0, 0.025)
    error = sparse.inflated(0.013, 17.0, 0.025)
    assert sparse.p_value(0.01, error, seen.positive, -low) == pytest.approx(0.025, rel=1e-3)
    assert sparse.bound(-0.03, seen, 17.0, 0.025) < low
    assert sparse.bound(-0.01, seen.model_copy(update={"positive": side(HERNIA, fallen=3)}), 17.0, 0.025) < low


def test_with_many_patients_it_is_the_normal_bound():
    """Where nobody falls among thousands of patients, failures are excluded and the normal bound is left."""
    seen = Falls(error=0.005, positive=side([1] * 4000), negative=side([1] * 4000))
    assert sparse.bound(-0.002, seen, None, 0.025) == pytest.approx(-0.002 - 1.96 * 0.005, abs=4e-4)


def test_few_patients_of_either_kind_lower_the_bound():
    """Too few negative patients count like too few positive ones."""
    few, many = side([1] * 30), side([1] * 3000)
    one, other = (
        sparse.bound(0.0, Falls(error=0.01, positive=positive, negative=negative), None, 0.01)
        for positive, negative in ((few, many), (many, few))
    )
    assert one == pytest.approx(other, abs=1e-6)
    assert one == pytest.approx(-(1 - 0.01 ** (1 / 30)), abs=0.02)


def test_no_number_of_patients_seen_leaves_no_bound():
    """With two patients no loss is excluded at an error of 1 in 20,000."""
    seen = Falls(error=0.01, positive=side([1, 1]), negative=side([1] * 30))
    assert sparse.bound(0.0, seen, None, 0.00005) == -1.0


def test_a_bound_with_patients_who_fell_lies_below_the_value_it_is_of():
    """A loss that was seen in whole never gives a bound above it."""
    seen = Falls(error=0.05, positive=side(HERNIA, fallen=40), negative=side([1] * 30))
    assert sparse.bound(-0.4, seen, 17.0, 0.025) < -0.4


# -------------------------------------------------------------------------------------------------- what moved


def _scores(rng, *, images=HERNIA, fails=(), shift=0.0, correlation=0.9):
    """Truth, patients and both models' scores; positives of the patients in `fails` come last for the challenger."""
    owners = np.concatenate((np.repeat(np.arange(images.size), images), images.size + np.arange(NEGATIVES)))
    truth = (owners < images.size).astype(float)

    def noise():
        return math.sqrt(0.5) * rng.standard_normal(owners.max() + 1)[owners] + math.sqrt(0.5) * rng.standard_normal(
            owners.size
        )

    common = math.sqrt(correlation) * noise() + math.sqrt(2) * special.ndtri(AREA) * truth
    champion, challenger = (common + math.sqrt(1 - correlation) * noise() for _ in range(2))
    challenger = challenger - shift * truth
    challenger[np.isin(owners, fails)] = -9.0
    return truth, owners, champion, challenger


def _moved(rng, **given):
    truth, owners, champion, challenger = _scores(rng, **given)
    after, before = auc.rank(truth, challenger, owners), auc.rank(truth, champion, owners)
    figure = auc.mean_difference([after], [before], 0.95, same_order=False)
    assert isinstance(figure, Estimate)
    return figure, sparse.falls([after], [before], figure.se, [f"case {k}" for k in range(owners.max() + 1)])


def test_falls_are_those_of_mean_ranks_counted_by_hand():
    """Sizes, falls and the list agree with placements counted pair by pair."""
    truth, owners, champion, challenger = _scores(np.random.default_rng(3), fails=(5, 38))
    _, seen = _moved(np.random.default_rng(3), fails=(5, 38))
    negatives = truth == 0
    by_patient = {}
    for name, scores in (("before", champion), ("after", challenger)):
        placed = np.array([(score > scores[negatives]).mean() for score in scores[truth == 1]])
        by_patient[name] = [placed[owners[truth == 1] == k].mean() for k in range(HERNIA.size)]
    expected = {
        f"case {k}": (before, after)
        for k, (before, after) in enumerate(zip(*by_patient.values(), strict=True))
        if before - after > 1e-9
    }
    assert {row.case: (row.before, row.after) for row in seen.patients} == {
        case: (pytest.approx(before), pytest.approx(after)) for case, (before, after) in expected.items()
    }
    assert [row.case for row in seen.patients[:2]] in (["case 5", "case 38"], ["case 38", "case 5"])
    assert seen.positive.sizes == [(1, 26), (2, 5), (3, 4), (5, 2), (7, 1), (8, 1)]
    assert (seen.positive.fallen, seen.positive.fallen_patients) == (9, 2)


def test_the_error_without_falls_is_that_of_the_others():
    """Two patients who fail multiply the difference's error, and the error with falls cut hardly grows."""
    whole, seen = _moved(np.random.default_rng(4))
    broken, cut = _moved(np.random.default_rng(4), fails=(5, 38))
    assert 0.99 * whole.se < seen.error <= whole.se
    assert broken.se > 3 * whole.se
    assert cut.error < broken.se


def test_a_mean_over_findings_weighs_patients_as_the_mean_auc_does():
    """Of two findings, a patient's units are the mean of its shares of either's positive images."""
    rng = np.random.default_rng(5)
    owners = np.arange(300)
    truths = [(owners < 20).astype(float), ((owners >= 15) & (owners < 55)).astype(float)]
    ranked = [[auc.rank(truth, truth + rng.standard_normal(300), owners) for truth in truths] for _ in range(2)]
    seen = sparse.falls(*ranked, 0.05)
    one, other = sparse.UNITS / 40, sparse.UNITS / 80
    assert dict(seen.positive.sizes) == {int(other): 35, int(one): 15, int(one + other): 5}


# ------------------------------------------------------------------------------------------ size and power


@pytest.fixture(scope="module")
def passes():
    """Shares of test sets that pass the margin at 2.5 and 0.5 %: (scenario, alpha) -> (margin alone, with this)."""
    rng = np.random.default_rng(20)
    found = {}
    for name, share in (("fails", MARGIN / AREA), ("equal", 0.0)):
        counts = {alpha: np.zeros(2) for alpha in (0.025, 0.005)}
        for _ in range(DRAWS):
            fails = np.flatnonzero(rng.random(HERNIA.size) < share)
            figure, seen = _moved(rng, fails=fails)
            for alpha in counts:
                alone = auc.bounds(figure, alpha)[0] > -MARGIN
                counts[alpha] += (alone, alone and sparse.bound(figure.value, seen, figure.df, alpha) > -MARGIN)
        found |= {(name, alpha): count for alpha, count in counts.items()}
    return found


DRAWS = 500


def test_a_model_that_fails_outright_on_few_passes_as_rarely_as_alpha_says(passes):
    """With 39 positive patients it passes the margin alone far more often than 2.5 %, and with the bound no more."""
    alone, both = passes["fails", 0.025]
    assert stats.binomtest(int(alone), DRAWS, 0.025, alternative="greater").pvalue < 1e-6
    assert stats.binomtest(int(both), DRAWS, 0.025, alternative="greater").pvalue > 0.01
    assert stats.binomtest(int(passes["fails", 0.005][1]), DRAWS, 0.005, alternative="greater").pvalue > 0.01


def test_an_equally_good_model_still_passes(passes):
    """At 2.5 % the bound costs an equally good model of 39 positive patients less than one release in twenty."""
    alone, both = passes["equal", 0.025]
    assert alone - both < 0.05 * DRAWS


def test_the_probability_and_the_patients_needed_are_those_of_simulated_models(passes):
    """`probability` says how often an equally good model keeps the bound, and falls as alpha does."""
    figure, seen = _moved(np.random.default_rng(6))
    for alpha in (0.025, 0.005):
        share = passes["equal", alpha][1] / DRAWS
        assert sparse.probability(MARGIN, seen.error, HERNIA.size, figure.df, alpha) == pytest.approx(share, abs=0.12)
    times = sparse.times_needed(MARGIN, seen.error, HERNIA.size, figure.df, 0.005, 0.8)
    assert times is not None
    assert 1.1 < times < 2.5
    error, more = seen.error / math.sqrt(times), round(HERNIA.size * times)
    found = sparse.probability(MARGIN, error, more, (figure.df + 1) * times - 1, 0.005)
    assert found == pytest.approx(0.8, abs=0.02)
