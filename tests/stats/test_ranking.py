"""The AUC by which training chooses its best epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr_ops.stats import auc, ranking

rows = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=40)


@settings(deadline=None)  # a busy machine is not a fault
@given(rows)
def test_area_is_scikit_learns(data: list[tuple[int, int]]) -> None:
    """The AUC of any scores, with many ties, is scikit-learn's."""
    truth, scores = np.array([row[0] for row in data]), np.array([row[1] / 4 for row in data], np.float32)
    if 0 < truth.sum() < len(truth):
        assert ranking.area(truth, scores) == pytest.approx(roc_auc_score(truth, scores), abs=1e-12)


def test_area_is_the_gates() -> None:
    """On scores of a thousand images, it is the AUC that the evidence is made of."""
    rng = np.random.default_rng(0)
    truth, scores = rng.integers(0, 2, 1000), rng.normal(size=1000).astype(np.float32)
    assert ranking.area(truth, scores) == pytest.approx(auc.rank(truth, scores, np.arange(1000)).value, abs=1e-12)


@pytest.mark.parametrize("label", [0, 1])
def test_one_kind_alone_has_no_area(label: int) -> None:
    """Without a positive or without a negative there is no AUC, and it is not 0.5 either."""
    with pytest.raises(ValueError, match="a positive and a negative"):
        ranking.area([label, label], [0.1, 0.2])
