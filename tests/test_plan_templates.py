"""plan_templates: the plans that ship with the package."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cxr_ops import plan_templates
from cxr_ops.errors import SettingsError, StorageError


def test_each_template_says_what_it_is_for() -> None:
    """Every template has a purpose of one sentence, from its own first comment."""
    for name in plan_templates.FILES:
        assert re.fullmatch(r"Change-control plan.*[.]", plan_templates.purpose(name))


def test_an_unknown_template_is_told_the_nearest() -> None:
    """A name that no template has ends with the nearest one and all that there are."""
    with pytest.raises(SettingsError, match="did you mean 'demonstration'") as caught:
        plan_templates.path("demonstratio")
    assert caught.value.fix == "name one of nih-production, demonstration, nih-sample-demo, pneumonia-demo"


def test_a_template_that_did_not_come_along_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the code was copied, the template is said to be missing, and where to take it from."""
    monkeypatch.setattr(plan_templates, "_PACKAGE", tmp_path / "cxr_ops")
    with pytest.raises(StorageError, match="did not come with this installation"):
        plan_templates.path("demonstration")
    (tmp_path / "pccp.demo.yaml").write_text("")
    with pytest.raises(StorageError, match="empties it first"):
        plan_templates.read("demonstration")
    (tmp_path / "pccp.demo.yaml").write_text("# A plan. More.\nformat: 2\n")
    assert plan_templates.path("demonstration") == tmp_path / "pccp.demo.yaml"
    assert plan_templates.purpose("demonstration") == "A plan."
