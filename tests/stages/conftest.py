"""A workspace with a small data set, as `open` leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
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
def _first_nursery() -> Iterator[apart.Nursery]:
    """The process that scoring processes come from, started once: torch is a second or more to read."""
    with apart.nursery() as started:
        yield started


@pytest.fixture
def shared_nursery(_first_nursery: apart.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let stages take their packages' processes from one nursery."""
    monkeypatch.setattr(apart, "nursery", lambda: nullcontext(_first_nursery))
