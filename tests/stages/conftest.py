"""A workspace with a small data set, as `open` leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cxr_ops.data import index
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.model.apart import parent as apart
from cxr_ops.params import Params
from cxr_ops.records.inputs import Period


@pytest.fixture
def small_params() -> Params:
    """Settings for data sets of a few dozen images."""
    return Params.check(
        {"validate": {"min_images": 20, "min_patients": 10}, "prepare": {"image_size": 32}}, "params of the test"
    )


@pytest.fixture
def workspace(make_nih: Callable[..., Path], tmp_path: Path, project: Path) -> Path:
    """Two batches, 60 images of 30 patients, at 48 x 48 pixels, the expectations, and the first test period."""
    root = tmp_path / "workspace"
    shutil.copytree(project / "expectations", root / "expectations")
    for name, patients, first in (("second", 10, 21), ("first", 20, 1)):
        checked = check(nih.read_folder(make_nih(name, patients=patients, first=first, size=48)), name, processes=1)
        build(root / "dataset" / name, checked)
    Period().write(root / "test-period.json")
    return root


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the installation of `stored` is made once: each start of DVC takes about a second."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def stored(made: Path, make_nih: Callable[..., Path], tmp_path: Path, project: Path) -> Home:
    """An installation with two batches: `one` has the patients 1 to 20, `two` the patients 21 to 30."""
    if not (made / "home").exists():
        first = Home.find({"CXR_HOME": str(made / "home"), "CXR_PROJECT": str(project)})
        for name, patients, start in (("one", 20, 1), ("two", 10, 21)):
            folder = make_nih(f"folder-{name}", patients=patients, first=start)
            build(made / name, check(nih.read_folder(folder), name, processes=1))
            batches.add_batch(first, made / name)
        batches.batch_files(first)
    shutil.copytree(made / "home", tmp_path / "home", symlinks=True)
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})


@pytest.fixture(scope="session")
def _first_nursery() -> Iterator[apart.Nursery]:
    """The process that scoring processes come from, started once: torch is a second or more to read."""
    with apart.nursery() as started:
        yield started


@pytest.fixture
def shared_nursery(_first_nursery: apart.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stages take their packages' processes from one nursery."""
    monkeypatch.setattr(apart, "nursery", lambda: nullcontext(_first_nursery))


@pytest.fixture(scope="session")
def _versioned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the installation of `versioned` is made once: each start of DVC takes about a second."""
    return tmp_path_factory.mktemp("versioned")


@pytest.fixture
def versioned(_versioned_once: Path, make_nih: Callable[..., Path], tmp_path: Path, project: Path) -> Home:
    """Three versions of a data set: `one` (patients 1 to 20) enters, `two` (21 to 30) enters, `one` is taken out."""
    made = _versioned_once / "home"
    if not made.exists():
        first = Home.find({"CXR_HOME": str(made), "CXR_PROJECT": str(project)})
        for name, patients, start in (("one", 20, 1), ("two", 10, 21)):
            folder = make_nih(f"folder-{name}", patients=patients, first=start)
            build(_versioned_once / name, check(nih.read_folder(folder), name, processes=1))
            batches.add_batch(first, _versioned_once / name)
        before = batches.data_revision(first)
        assert before is not None
        batches.batch_files(first, (*index.FILES, "boxes.csv"))
        batches.remove_batch(first, "one", before, by="Ann", reason="wrong folder")
    shutil.copytree(made, tmp_path / "home", symlinks=True)
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})
