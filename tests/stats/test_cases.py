"""Which images a report shows, against a plain reading of the rule."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_ops.stats import cases
from cxr_ops.stats.cases import KINDS, MOST, Scale

TWO = ["Mass", "Nodule"]


def choose(truth, challenger, champion=None, *, at=(0.5, 0.5), per_kind=1, names=None):
    """Choose cases of one finding from lists."""
    scores = {"challenger": np.c_[challenger]} | ({} if champion is None else {"champion": np.c_[champion]})
    scales = {role: [Scale(threshold=point)] for role, point in zip(("challenger", "champion"), at, strict=True)}
    ids = names or [f"{row:03d}" for row in range(len(truth))]
    return cases.choose(["Mass"], ids, np.c_[truth], scores, scales, per_kind=per_kind)


def named(chosen):
    """Kind -> rows in order."""
    found: dict[str, list[int]] = {}
    for case in chosen:
        found.setdefault(case.kind, []).append(case.row)
    return found


def test_cases_follow_the_operating_points_and_the_largest_disagreement_comes_first():
    """What flips is told by each model's own threshold, the image on which they differ most first."""
    truth = [1, 1, 1, 0, 0, 1, 0]
    challenger = [0.45, 0.2, 0.9, 0.7, 0.1, 0.3, 0.2]
    champion = [0.8, 0.9, 0.3, 0.2, 0.9, 0.2, 0.1]
    chosen, missing = choose(truth, challenger, champion, at=(0.5, 0.6))
    assert named(chosen) == {
        "missed now": [1],
        "false alarm now": [3],
        "found now": [2],
        "cleared now": [4],
        "false negative": [5],
        "true negative": [6],
    }
    assert missing == []


def test_probability_and_threshold_are_calibrated_alike():
    """A recalibration moves probability and threshold together, so that a call stays a call."""
    scale = Scale(threshold=0.3, intercept=-1.0, slope=0.5)
    scores = np.linspace(0.01, 0.99, 99)
    calibrated = np.array([scale.calibrate(score) for score in scores])
    assert ((scores >= 0.3) == (calibrated >= scale.calibrate(0.3))).all()
    assert scale.calibrate(0.5) == pytest.approx(1 / (1 + np.e))
    falling = Scale(threshold=0.3, intercept=-1.0, slope=-0.5)
    assert not falling.calibrates
    assert falling.calibrate(0.7) == 0.7


def test_without_an_operating_point_the_highest_scores_count_as_called():
    """With 3 positives the 3 highest scores are called; labels that nobody knows are no case."""
    truth = [1, 0, 1, 0, 1, 0, np.nan]
    chosen, _ = choose(truth, [0.9, 0.8, 0.7, 0.6, 0.1, 0.5, 0.99], at=(None, None), per_kind=2)
    assert named(chosen) == {
        "false negative": [4],
        "false positive": [1],
        "true positive": [0, 2],
        "true negative": [5, 3],
    }


def test_what_there_is_none_of_is_said():
    """A kind without images, a finding without positives and one that was not trained are told, each once."""
    truth = np.array([[1.0, 0.0], [0.0, 0.0]])
    scores = {"challenger": np.array([[0.9, 0.2], [0.1, 0.3]])}
    chosen, missing = cases.choose(
        TWO, ["a", "b"], truth, scores, {"challenger": [Scale(threshold=0.5)] * 2}, per_kind=1
    )
    assert named(chosen) == {"true positive": [0], "true negative": [1]}
    assert missing == [
        "Nodule: no test image has it.",
        "There is no false negative for Mass.",
        "There is no false positive for Mass.",
    ]
    scores["challenger"][:, 0] = np.nan
    _, missing = cases.choose(TWO, ["a", "b"], truth, scores, {"challenger": [Scale()] * 2}, per_kind=1)
    assert missing[0] == "Mass: the challenger was not trained on it."


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3))
def test_no_image_is_shown_too_often_and_each_is_of_its_kind(seed, per_kind):
    """Whatever the scores: each case is of its kind, no image comes more than twice, and none twice for a finding."""
    rng = np.random.default_rng(seed)
    truth = rng.choice([0.0, 1.0, np.nan], (12, 2))
    scores = {role: rng.integers(1, 10, (12, 2)) / 10 for role in ("challenger", "champion")}
    scales = {role: [Scale(threshold=float(rng.integers(2, 9) / 10)) for _ in TWO] for role in scores}
    names = [f"{name:02d}" for name in rng.permutation(12)]
    chosen, _ = cases.choose(TWO, names, truth, scores, scales, per_kind=per_kind)
    rows = [case.row for case in chosen]
    assert max((rows.count(row) for row in rows), default=0) <= MOST
    assert len({(case.finding, case.row) for case in chosen}) == len(chosen)
    for case in chosen:
        f = TWO.index(case.finding)
        now, before = (scores[role][case.row, f] >= scales[role][f].threshold for role in ("challenger", "champion"))
        positive = truth[case.row, f] == 1
        right = {True: "true positive", False: "true negative"}[bool(positive)] if now == positive else None
        wrong = {True: "false negative", False: "false positive"}[bool(positive)] if now != positive else None
        flips = {
            (True, True, False): "missed now",
            (True, False, True): "found now",
            (False, False, True): "false alarm now",
            (False, True, False): "cleared now",
        }.get((bool(positive), bool(before), bool(now)))
        assert case.kind in {right, wrong, flips}
        assert not np.isnan(truth[case.row, f])
    # The same table in another order of rows gives the same images.
    order = rng.permutation(12)
    again, _ = cases.choose(
        TWO,
        [names[row] for row in order],
        truth[order],
        {role: table[order] for role, table in scores.items()},
        scales,
        per_kind=per_kind,
    )
    assert [(one.finding, one.kind, names[one.row]) for one in chosen] == [
        (one.finding, one.kind, names[order[one.row]]) for one in again
    ]
    assert {case.kind for case in chosen} <= set(KINDS)
