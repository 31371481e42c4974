"""The registry of sources."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxr_ops.data import sources
from cxr_ops.data.sources import registry
from cxr_ops.errors import SettingsError


def test_each_source_is_a_module_and_each_module_a_source() -> None:
    """Every module of the package that reads a kind of folder is registered under its own name."""
    modules = {path.stem for path in Path(str(sources.__file__)).parent.glob("*.py")}
    assert modules - {"__init__", "registry", "source"} == set(registry.SOURCES)
    assert [registry.find(kind).kind for kind in registry.SOURCES] == list(registry.SOURCES)


def test_an_unknown_source_is_told_with_those_that_are_known() -> None:
    """A kind that nobody registered is a settings error with the command to type."""
    with pytest.raises(SettingsError, match="'nhi' is no source: nih, ") as caught:
        registry.find("nhi")
    assert "cxr-ops ingest nih FOLDER --batch NAME" in str(caught.value)
