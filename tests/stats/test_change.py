"""A better model told from an easier test set: values by scikit-learn, errors by the bootstrap over patients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_ops.records.evidence import Estimate, Parts, Undefined
from cxr_ops.stats import bootstrap
from cxr_ops.stats.change import take_apart

FINDINGS = ("Mass", "Hernia")


@dataclass
class Both:
    """Two test sets, one after the other, of which `now` may begin before `earlier` ends."""

    truth: np.ndarray
    patients: np.ndarray
    challenger: np.ndarray
    champion: np.ndarray
    earlier: np.ndarray
    now: np.ndarray

    def parts(self) -> tuple[Parts, list[Parts], list[str]]:
        return take_apart(
            FINDINGS,
            self.truth,
            self.patients,
            self.challenger,
            self.champion,
            earlier=self.earlier,
            now=self.now,
            level=0.95,
            min_positive_patients=20,
            min_negative_patients=20,
        )


def both(simulate: Callable, *, auc: float = 0.8, gain: float = 0.0, shared: float = 0.3, seed: int = 1) -> Both:
    """Patients of before, whose champion has an AUC of 0.8, and new ones, whose has `auc`."""
    old, new = (
        simulate(seed + n, patients=500, findings=2, prevalence=0.2, auc=area, gain=gain)
        for n, area in enumerate((0.8, auc))
    )
    owners = np.concatenate([old.patients, 1000 + new.patients])
    is_old = np.arange(owners.size) < old.patients.size
    stacked = [np.concatenate(pair) for pair in zip(old[:1] + old[2:], new[:1] + new[2:], strict=True)]
    return Both(stacked[0], owners, *stacked[1:], is_old, ~is_old | (owners < 500 * shared))


@pytest.mark.parametrize("shared", [0.0, 0.3, 1.0])
def test_parts_are_what_they_are_called(simulate: Callable, shared: float) -> None:
    """AUCs are scikit-learn's on each set, and learning and potential add up to the whole change."""
    of = both(simulate, auc=0.85, gain=0.03, shared=shared)
    mean, by_finding, over = of.parts()
    assert over == list(FINDINGS)
    for f, one in enumerate(by_finding):
        for name, scores, rows in (
            ("champion_earlier", of.champion, of.earlier),
            ("champion_now", of.champion, of.now),
            ("challenger_earlier", of.challenger, of.earlier),
            ("challenger_now", of.challenger, of.now),
        ):
            assert getattr(one, name).value == pytest.approx(roc_auc_score(of.truth[rows, f], scores[rows, f]))
    for one in (mean, *by_finding):
        whole = one.challenger_now.value - one.champion_earlier.value
        assert one.learning.value + one.potential.value == pytest.approx(whole)
        assert one.retention.value == pytest.approx(one.challenger_earlier.value - one.champion_earlier.value)


@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_error_of_a_potential_is_the_bootstraps(simulate: Callable, shared: float) -> None:
    """Where the two sets share patients and where they do not, the standard error is that of drawing patients anew."""
    of = both(simulate, shared=shared)
    mean, by_finding, _ = of.parts()
    sides = [np.where(rows[:, None], of.truth, np.nan) for rows in (of.earlier, of.now)]
    twice = np.hstack([of.champion, of.champion])
    drawn = bootstrap.replicate_aucs(np.hstack(sides), of.patients, [twice], 1500, np.random.default_rng(0))[0]
    gaps = drawn[:, 2:] - drawn[:, :2]
    for one, replicates in zip((*by_finding, mean), (*gaps.T, gaps.mean(axis=1)), strict=True):
        assert one.potential.se == pytest.approx(replicates.std(), rel=0.08)


def test_easier_patients_are_not_a_better_model(simulate: Callable) -> None:
    """New patients on whom both models do better show as potential; a better model on like patients as learning."""
    easier, _, _ = both(simulate, auc=0.9, shared=0.0).parts()
    assert easier.potential.ci[0] > 0.03
    assert easier.learning.ci[0] < 0 < easier.learning.ci[1]
    better, _, _ = both(simulate, gain=0.06, shared=0.0).parts()
    assert better.learning.ci[0] > 0.02
    assert better.retention.ci[0] > 0.02
    assert better.potential.ci[0] < 0 < better.potential.ci[1]


def test_forgotten_patients_show_as_retention(simulate: Callable) -> None:
    """A challenger that learned the new patients and forgot the earlier ones is better now, and worse there."""
    of = both(simulate, gain=0.05, shared=0.0)
    of.challenger[of.earlier] = np.random.default_rng(0).random((int(of.earlier.sum()), 2))
    mean, _, _ = of.parts()
    assert mean.learning.ci[0] > 0
    assert mean.retention.ci[1] < -0.2


def test_what_cannot_be_told_says_why(simulate: Callable) -> None:
    """Equal test sets have no potential, and a finding without patients in one of them has no figure and no part."""
    of = both(simulate)
    of.now = of.earlier
    mean, _, _ = of.parts()
    assert isinstance(mean.potential, Undefined)
    assert "in one of the two test sets alone" in mean.potential.reason
    assert isinstance(mean.learning, Estimate)
    of = both(simulate)
    of.truth[of.earlier, 1] = 0
    mean, (_, hernia), over = of.parts()
    assert over == ["Mass"]
    assert isinstance(hernia.potential, Undefined)
    assert "positive patient" in hernia.potential.reason
    of.truth[of.earlier, 0] = np.nan
    mean, _, over = of.parts()
    assert (over, isinstance(mean.learning, Undefined)) == ([], True)
