"""The registry of sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.data import sources
from cxr_ops.data.sources import registry
from cxr_ops.data.sources.source import Options, flat_name
from cxr_ops.errors import DataError, SettingsError


def test_each_source_is_a_module_and_each_module_a_source() -> None:
    """Every module of the package that reads a kind of folder is registered under its own name."""
    modules = {path.stem for path in Path(str(sources.__file__)).parent.glob("*.py")}
    assert modules - {"__init__", "registry", "source"} == set(registry.SOURCES)
    assert [registry.find(kind).kind for kind in registry.SOURCES] == list(registry.SOURCES)


def test_an_unknown_source_is_told_with_those_that_are_known() -> None:
    """A kind that nobody registered is a settings error with the command to type."""
    with pytest.raises(SettingsError, match=r"'nhi' is no source: nih, .* are known") as caught:
        registry.find("nhi")
    assert "cxr-ops ingest nih FOLDER --batch NAME" in str(caught.value)


def test_a_folder_is_recognised_with_the_reason(make_nih: Callable[..., Path], tmp_path: Path) -> None:
    """A folder of one known kind is told by what stands in it; one of none, of two, or none at all are refused."""
    folder = make_nih(patients=2)
    kind, why = registry.recognise(folder)
    assert (kind, why) == ("nih", "Data_Entry_2017.csv is here, with the NIH's columns")
    (folder / "mapping.yaml").write_text("table: x.csv")
    with pytest.raises(DataError, match=r"may be of more than one kind: nih: .*; csv: mapping\.yaml is here"):
        registry.recognise(folder)
    with pytest.raises(DataError, match="of no kind that is known"):
        registry.recognise(tmp_path)
    with pytest.raises(DataError, match="there is no such folder"):
        registry.recognise(tmp_path / "absent")


def test_an_option_that_a_source_does_not_take_is_refused() -> None:
    """What a source would pass over in silence is an error that names the sources that take it."""
    nih = registry.find("nih")
    registry.check_options(nih, Options(own_split=True))
    with pytest.raises(SettingsError, match="the source nih does not take --mapping: csv does"):
        registry.check_options(nih, Options(mapping=Path("x.yaml")))
    with pytest.raises(SettingsError, match="'pa' is no view"):
        registry.check_options(registry.find("csv"), Options(view="pa"))
    assert {kind: registry.find(kind).takes for kind in registry.SOURCES} == registry.TAKES
    assert set(registry.OPTIONS) == set(vars(Options()))


def test_a_path_becomes_one_safe_name() -> None:
    """Folders are joined, blanks and what a shell minds are replaced, nothing leads out."""
    assert flat_name("a b/../c.JPEG") == "a-b-..-c.jpeg"
    assert flat_name("../../etc/x.png") == "etc-x.png"
