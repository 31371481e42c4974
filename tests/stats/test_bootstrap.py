"""The bootstrap over patients against scikit-learn on the very same draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr_ops.stats import bootstrap


def drawn_rows(owner, times):
    """The rows of a draw: each patient's, as often as the patient was drawn."""
    return np.repeat(np.arange(owner.size), times[owner])


@settings(deadline=None, max_examples=50)  # a busy machine is not a fault
@given(
    st.integers(0, 2**32 - 1),
    st.integers(5, 80),
    # few distinct scores, so that ties are common; or none at all
    st.sampled_from([1, 3, 20, 10**9]),
)
def test_each_replicate_is_scikit_learns_auc_of_the_rows_drawn(seed, images, distinct):
    """Each model's replicates are scikit-learn's AUCs of the rows of the patients drawn, or NaN where it has none."""
    rng = np.random.default_rng(seed)
    owner = rng.integers(0, max(images // 3, 2), images)
    truth = (rng.random((images, 2)) < 0.4).astype(float)
    truth[rng.random((images, 2)) < 0.1] = np.nan
    models = [rng.integers(0, distinct, (images, 2)) / distinct for _ in range(2)]
    # more than one block of replicates, and a last one that is not full
    count = bootstrap.BLOCK + 3
    found = bootstrap.replicate_aucs(truth, owner, models, count, np.random.default_rng(1))
    patients = np.unique(owner, return_inverse=True)[1]
    times = bootstrap.draw(patients.max() + 1, count, np.random.default_rng(1))
    for b in (0, 1, count - 1):
        rows = drawn_rows(patients, times[:, b])
        for k, scores in enumerate(models):
            for f in range(2):
                known = rows[~np.isnan(truth[rows, f])]
                if np.unique(truth[known, f]).size < 2:
                    assert np.isnan(found[k, b, f])
                else:
                    assert found[k, b, f] == pytest.approx(roc_auc_score(truth[known, f], scores[known, f]), abs=1e-12)


def test_large_ties_stay_exact(simulate):
    """Products beyond what single precision can hold do not round: 12,000 images and scores of three values."""
    truth, owner, scores, _ = simulate(1, patients=6000, images=2.0, findings=1, prevalence=0.5)
    coarse = np.round(scores * 2)
    found = bootstrap.replicate_aucs(truth, owner, [coarse], 5, np.random.default_rng(2))
    times = bootstrap.draw(6000, 5, np.random.default_rng(2))
    for b in range(5):
        rows = drawn_rows(owner, times[:, b])
        assert found[0, b, 0] == pytest.approx(roc_auc_score(truth[rows, 0], coarse[rows, 0]), abs=1e-12)


def test_models_share_their_draws_and_the_generator_decides_them(simulate):
    """The same scores twice give the same replicates; the same seed gives the same again, and another seed others."""
    truth, owner, a, _ = simulate(2, patients=100, findings=2)
    one = bootstrap.replicate_aucs(truth, owner, [a, a], 70, np.random.default_rng(3))
    again = bootstrap.replicate_aucs(truth, owner, [a], 70, np.random.default_rng(3))
    other = bootstrap.replicate_aucs(truth, owner, [a], 70, np.random.default_rng(4))
    assert np.array_equal(one[0], one[1], equal_nan=True)
    assert np.array_equal(one[0], again[0], equal_nan=True)
    assert not np.array_equal(one[0], other[0], equal_nan=True)


def test_patients_are_drawn_as_often_as_each_other():
    """A patient's number of draws has the mean and the variance of a binomial with probability 1/P."""
    times = bootstrap.draw(50, 4000, np.random.default_rng(0))
    assert (times.sum(axis=0) == 50).all()
    # Five standard errors: of a mean of 4,000 draws with variance 1, and of the variance of 200,000 nearly free counts.
    assert times.mean(axis=1) == pytest.approx(np.ones(50), abs=0.08)
    assert times.var() == pytest.approx(1 - 1 / 50, abs=0.02)


@pytest.mark.parametrize(
    ("truth", "patients", "scores", "words"),
    [
        ([[1.0], [0.0]], [0, 1], [[0.1]], "shape"),
        ([[1.0], [0.0]], [0], [[0.1], [0.2]], "shape"),
        ([1.0, 0.0], [0, 1], [0.1, 0.2], "shape"),
        ([[1.0], [0.0]], [0, 1], [[0.1], [np.nan]], "finite"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(truth, patients, scores, words):
    """Shapes that do not fit, and scores that are no numbers where there is a label, are errors."""
    with pytest.raises(ValueError, match=words):
        bootstrap.replicate_aucs(truth, patients, [scores], 3, np.random.default_rng(0))
