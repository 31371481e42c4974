"""A workspace with a small data set, as `open` leaves it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
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
