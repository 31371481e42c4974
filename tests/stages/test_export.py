"""Exports of a real store: batches, digests and folders in use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.stages import export, ingest


def test_an_export_brings_back_what_was_ingested(make_nih: Callable[..., Path], tmp_path: Path, project: Path) -> None:
    """Tables and pictures come back as they were; wrong names and folders in use are told first."""
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})
    out = tmp_path / "out"
    with pytest.raises(DataError, match="there is no data set"):
        export.run(home, "nih", out)
    folder = make_nih(patients=10)
    ingest.run("nih", folder, batch="first", home=home)
    done = export.run(home, "nih", out)
    assert (done.images, done.left_out) == (20, {})
    assert {path.name for path in (out / "images").iterdir()} == {path.name for path in (folder / "images").iterdir()}
    for path in (folder / "images").iterdir():
        assert (out / "images" / path.name).read_bytes() == path.read_bytes()
    theirs, ours = ((one / "Data_Entry_2017.csv").read_text().splitlines() for one in (folder, out))
    assert [line.split(",")[:7] for line in ours] == [line.split(",")[:7] for line in theirs]
    assert (out / "BBox_List_2017.csv").read_text() == (folder / "BBox_List_2017.csv").read_text()
    with pytest.raises(StorageError, match="the folder is not empty"):
        export.run(home, "nih", out)
    with pytest.raises(SettingsError, match="no format"):
        export.run(home, "nhi", tmp_path / "other")
    with pytest.raises(SettingsError, match="has no batch 'second'"):
        export.run(home, "croissant", tmp_path / "other", only=["second"])
    assert not (tmp_path / "other").exists()
    assert export.run(home, "croissant", tmp_path / "other", only=["first"]).images == 20
    assert {path.name for path in (tmp_path / "other").iterdir()} == {
        "images",
        "manifest.csv",
        "boxes.csv",
        "metadata.json",
    }
