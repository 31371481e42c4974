"""Tests of cxr_ops.plan_migration."""

from __future__ import annotations

import re
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


PROSE = """\
    summary: |
      How models are judged, in lines that look like keys:
      looks: these are prose, and so is
      alpha: 0.005
"""


def test_a_sentence_that_looks_like_a_key_is_left_as_it_is() -> None:
    """Lines of a block of text are no keys, whatever they begin with; the plan still gets its looks."""
    text = re.sub(r"(performance_evaluation:\n)    summary: .*\n(?:      .*\n)*", rf"\1{PROSE}", OLD.read_text())
    assert PROSE in text
    for recycled in (False, True):
        new, _ = migrate(text, "old.yaml", recycled=recycled)
        rules = plans.parse(new.encode(), "new").performance
        assert rules.summary == plans.parse(text.encode(), "old").performance.summary
        assert rules.looks.method == ("recycled" if recycled else "equal")
        assert PROSE in new
        assert migrate(new, "new.yaml", recycled=recycled) == (new, [])


def test_a_plan_that_would_be_cut_is_refused() -> None:
    """Where a line of a sentence looks like the key to be changed, nothing is written, and the key is named."""
    text = OLD.read_text().replace("    disclosure: verdict\n", "    'disclosure': verdict\n")
    prose = "  summary: |\n    What may change, with\n    disclosure: all\n    of it.\n"
    text = re.sub(r"(description_of_modifications:\n)  summary: .*\n(?:    .*\n)*(?=  may)", rf"\1{prose}", text)
    assert prose in text
    assert plans.parse(text.encode(), "old").performance.disclosure == "verdict"
    with pytest.raises(SettingsError, match="without another change of") as raised:
        migrate(text, "old.yaml", recycled=True)
    assert "description_of_modifications.summary" in str(raised.value)
    assert "modification_protocol.performance_evaluation.disclosure" in str(raised.value)
