"""Two truths side by side: kappa by scikit-learn and the bootstrap, figures by each truth on the same images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from cxr_ops.records.evidence import Undefined
from cxr_ops.stats import second_truth

FINDINGS = ("Mass", "Nodule")


@pytest.fixture(scope="module")
def read_again(simulate: Callable):
    """A study, and a second truth that says otherwise of some images and nothing of a half."""
    study = simulate(3, patients=300, findings=2, prevalence=0.3)
    rng = np.random.default_rng(0)
    second = np.where(rng.random(study.truth.shape) < 0.1, 1 - study.truth, study.truth)
    second[rng.random(second.shape) < 0.5] = np.nan
    first = study.truth.copy()
    first[:5] = np.nan
    scores = {"challenger": study.challenger, "champion": study.champion}
    found = second_truth.compare(
        FINDINGS, first, second, study.patients, scores, {role: [0.3, 0.3] for role in scores}, 0.95
    )
    return study, first, second, found


def test_both_truths_stand_on_the_same_images(read_again) -> None:
    """Counts, AUC, sensitivity and specificity by each truth are those of the images that both label, no others."""
    study, first, second, found = read_again
    for f, one in enumerate(found):
        rows = ~np.isnan(first[:, f]) & ~np.isnan(second[:, f])
        assert (one.images, one.patients) == (rows.sum(), len(np.unique(study.patients[rows])))
        assert one.both + one.first_only + one.second_only + one.neither == one.images
        for truth, of in ((first, one.first), (second, one.second)):
            labels, scores = truth[rows, f], study.challenger[rows, f]
            assert of.positives == labels.sum()
            assert of.auc.challenger.value == pytest.approx(roc_auc_score(labels, scores))
            assert of.sensitivity.challenger.value == pytest.approx((scores[labels == 1] >= 0.3).mean())
            assert of.specificity.challenger.value == pytest.approx((scores[labels == 0] < 0.3).mean())
        difference = roc_auc_score(second[rows, f], study.challenger[rows, f]) - roc_auc_score(
            second[rows, f], study.champion[rows, f]
        )
        assert one.second.auc.difference.value == pytest.approx(difference)


def test_kappa_is_cohens_with_an_error_by_patient(read_again) -> None:
    """Its value is scikit-learn's, and its standard error that of drawing patients anew."""
    study, first, second, found = read_again
    rows = ~np.isnan(first[:, 0]) & ~np.isnan(second[:, 0])
    one, other, owners = first[rows, 0], second[rows, 0], study.patients[rows]
    assert found[0].kappa.value == pytest.approx(cohen_kappa_score(one, other))
    rng, names = np.random.default_rng(0), np.unique(owners)
    images = {name: np.flatnonzero(owners == name) for name in names}
    drawn = []
    for _ in range(300):
        at = np.concatenate([images[name] for name in rng.choice(names, names.size)])
        drawn.append(cohen_kappa_score(one[at], other[at]))
    assert found[0].kappa.se == pytest.approx(np.std(drawn), rel=0.18)


def test_what_cannot_be_compared_says_why() -> None:
    """Without common images, or where one reading says the same of all, there is no kappa but a reason."""
    truth = np.array([[1.0], [0.0], [1.0], [0.0]])
    scores, at = {"challenger": np.array([[0.9], [0.2], [0.6], [0.4]])}, {"challenger": [0.5]}
    [nothing] = second_truth.compare(["Mass"], truth, truth * np.nan, range(4), scores, at, 0.95)
    assert (nothing.images, nothing.kappa.reason) == (0, "no image has both labels")
    assert isinstance(nothing.second.auc.challenger, Undefined)
    [all_of_one] = second_truth.compare(["Mass"], truth, truth * 0, range(4), scores, at, 0.95)
    assert "the same of every image" in all_of_one.kappa.reason
