"""What the engine makes of a model's numbers."""

from __future__ import annotations

import numpy as np

from cxr_ops.labels import FINDINGS
from cxr_ops.serve import engine

FIRST, SECOND, THIRD, *REST = FINDINGS


def test_a_finding_is_called_from_its_operating_point_on() -> None:
    """At its point a finding is called, just below it is not, and one without a point has no flag."""
    scores = np.full((2, len(FINDINGS)), 0.25, np.float32)
    scores[1, 0] = np.nextafter(np.float32(0.25), np.float32(0))
    found = engine.told(scores, None, FINDINGS, {FIRST: 0.25, SECOND: 0.5})
    assert [answer.flags for answer in found] == [{FIRST: True, SECOND: False}, {FIRST: False, SECOND: False}]
    assert found[1].probabilities[FIRST] == float(scores[1, 0])
    assert found[0].maps is None


def test_a_finding_that_was_not_trained_has_no_number() -> None:
    """Neither probability nor map, and no flag that says yes; the others have theirs, in their places."""
    scores = np.linspace(0, 1, 2 * len(FINDINGS), dtype=np.float32).reshape(2, -1)
    maps = np.arange(2 * len(FINDINGS) * 4, dtype=np.float32).reshape(2, -1, 2, 2)
    scores[:, 1], maps[:, 1] = np.nan, np.nan
    found = engine.told(scores, maps, [FIRST, THIRD, *REST], {SECOND: 0.5})
    for row, answer in enumerate(found):
        assert answer.probabilities[SECOND] is None
        assert SECOND not in answer.maps
        assert answer.flags == {SECOND: False}
        assert answer.probabilities[THIRD] == float(scores[row, 2])
        assert answer.maps[THIRD] == maps[row, 2].tolist()
