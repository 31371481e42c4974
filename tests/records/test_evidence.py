"""Estimates of this version and of earlier ones: what people read, and what is judged."""

from __future__ import annotations

from cxr_ops.records.evidence import Estimate, FindingEvidence
from cxr_ops.report import words

OLD = {
    "value": -0.4,
    "se": 0.05,
    "low": -0.7,
    "high": -0.39,
    "level": 0.95,
    "df": 29.0,
    "method": "logit_difference",
    "se_image": 0.05,
    "other": 0.998,
    "se_logit": 1.0,
}


def test_an_estimate_of_an_earlier_version_is_read_and_called_bounds() -> None:
    """A difference that was written without an interval is read; its bounds are told, by that name."""
    old = Estimate.model_validate(OLD)
    assert (old.interval, old.ci) == (None, (-0.7, -0.39))
    assert "(bounds " in words.difference_text(old)
    support = {"positives": 30, "negatives": 300, "positive_patients": 30, "negative_patients": 300}
    row = {"finding": "Mass", "support": support, "challenger": OLD, "champion": OLD, "difference": OLD}
    assert FindingEvidence.model_validate(row).unscored == []


def test_people_read_the_interval_where_there_is_one() -> None:
    """With an interval the text holds it and no bound, and the record survives its own bytes."""
    new = Estimate.model_validate(OLD | {"interval": (-0.49, -0.31)})
    assert new.ci == (-0.49, -0.31)
    assert words.difference_text(new) == "\u22120.400 (\u22120.490 to \u22120.310)"
    assert Estimate.model_validate_json(new.to_bytes()) == new
