"""Faults of scores are found where they were planted, and not where there are none."""

from __future__ import annotations

import numpy as np
import pytest

from cxr_ops.labels import FINDINGS
from cxr_ops.stats import sanity


@pytest.mark.parametrize(("first", "second"), [(0, 1), (3, 13), (6, 8)])
def test_two_exchanged_findings_are_named(simulate, first, second):
    """Two columns of scores that changed places are found, and no other."""
    for seed in range(10):
        study = simulate(seed)
        scores = study.challenger.copy()
        scores[:, [first, second]] = scores[:, [second, first]]
        assert sanity.permuted_findings(FINDINGS, study.truth, scores) == {
            FINDINGS[first]: FINDINGS[second],
            FINDINGS[second]: FINDINGS[first],
        }


def test_alphabetical_findings_are_named(simulate):
    """Scores in alphabetical instead of the NIH's order are found."""
    order = np.argsort(FINDINGS)
    study = simulate(0)
    found = sanity.permuted_findings(FINDINGS, study.truth, study.challenger[:, order])
    assert found == {FINDINGS[f]: FINDINGS[g] for f, g in enumerate(order) if f != g}


@pytest.mark.parametrize("auc", [0.5, 0.6, 0.7, 0.9])
@pytest.mark.parametrize("patients", [200, 350])
def test_honest_scores_are_not_suspected(simulate, auc, patients):
    """Good, weak and useless models on small test sets are never called permuted."""
    for seed in range(20):
        study = simulate(seed, auc=auc, patients=patients)
        assert sanity.permuted_findings(FINDINGS, study.truth, study.challenger) == {}


def test_missing_labels_do_not_disturb(simulate):
    """An exchange is found where a third of the labels is missing and one finding has no positive at all."""
    study = simulate(3, patients=600)
    truth, scores = study.truth.copy(), study.challenger.copy()
    truth[np.random.default_rng(0).random(truth.shape) < 0.33] = np.nan
    truth[truth[:, 5] == 1, 5] = 0
    scores[:, [0, 1]] = scores[:, [1, 0]]
    assert set(sanity.permuted_findings(FINDINGS, truth, scores)) == {FINDINGS[0], FINDINGS[1]}
    assert sanity.permuted_findings(FINDINGS, np.full((4, 14), np.nan), np.full((4, 14), 0.5)) == {}


@pytest.mark.parametrize(("value", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (1.5, "outside 0 to 1")])
def test_what_is_no_probability_is_named(value, words):
    """One NaN, one infinity or one logit among good scores is found, with its finding."""
    scores = np.full((50, 2), 0.5)
    scores[17, 1] = value
    [sentence] = sanity.invalid_scores(["Mass", "Nodule"], scores)
    assert sentence.startswith("Nodule: 1 of 50 scores")
    assert words in sentence


def test_a_constant_model_is_named():
    """Findings for which every image has the same score are named; one that differs is enough not to be."""
    scores = np.full((50, 2), 0.5)
    scores[0, 1] = 0.6
    assert sanity.constant_scores(["Mass", "Nodule"], scores) == ["Mass"]
    assert sanity.constant_scores(["Mass"], np.empty((0, 1))) == []
