"""Tests of cxr_ops.plan_migration."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_ops import plan as plans
from cxr_ops.errors import SettingsError
from cxr_ops.plan_migration import migrate

OLD = Path(__file__).parent / "golden" / "0.1" / "pccp.yaml"


def test_a_plan_of_the_first_version_becomes_one_of_now_that_means_the_same() -> None:
    """Format, names and the method of looks are written out, comments stay, and no rule is another."""
    text = OLD.read_text()
    new, changes = migrate(text, "old.yaml")
    assert "format: 3" in new
    assert "epoch_alpha" not in new
    assert [line for line in text.splitlines() if "#" in line and "epoch" not in line][:5] == [
        line for line in new.splitlines() if "#" in line and "epoch" not in line
    ][:5]
    before, after = plans.parse(text.encode(), "old"), plans.parse(new.encode(), "new")
    assert (before.format, after.format) == (2, 3)
    assert before.performance == after.performance
    assert [change.partition(" ")[0] for change in changes] == ["format", "epoch_alpha", "looks"]
    assert migrate(new, "new.yaml") == (new, [])


def test_looks_can_be_recycled_on_the_way() -> None:
    """Alpha goes, weight and disclosure come, and the period's error is what it was; a second time changes nothing."""
    for text in (OLD.read_text(), migrate(OLD.read_text(), "old")[0]):
        new, changes = migrate(text, "old.yaml", recycled=True)
        rules = plans.parse(new.encode(), "new").performance
        assert (rules.looks.method, rules.looks.success_weight, rules.alpha) == ("recycled", 0.8, None)
        assert (rules.period_alpha, rules.disclosure) == (0.05, "promotion")
        assert any("looks are recycled: alpha 0.005 goes" in change for change in changes)
        assert migrate(new, "new.yaml", recycled=True) == (new, [])


def test_what_cannot_be_migrated_is_said(project: Path) -> None:
    """A plan that promises nothing over a period has nothing to recycle, and one in another layout is named."""
    with pytest.raises(SettingsError, match="period_alpha, and the plan has none"):
        migrate((project / "pccp.demo.yaml").read_text(), "demo", recycled=True)
    twisted = OLD.read_text().replace("    alpha:", "    'alpha':")
    with pytest.raises(SettingsError, match="stands 0 times"):
        migrate(twisted, "old.yaml")
