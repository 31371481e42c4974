"""What tests of all areas share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_ops.labels import FINDINGS, format_labels

pytest_plugins = ["finished", "projects", "scored_runs", "services"]

PROJECT = Path(__file__).resolve().parents[1]

# Nothing calls home, and no test reads the settings of the person who runs it.
os.environ.update(
    DVC_NO_ANALYTICS="1",
    GX_ANALYTICS_ENABLED="false",
    MLFLOW_DISABLE_TELEMETRY="true",
    GIT_CONFIG_GLOBAL=os.devnull,
    GIT_CONFIG_NOSYSTEM="1",
    PYTHONDONTWRITEBYTECODE="",
)
if "PYTEST_XDIST_WORKER" in os.environ:  # tests run beside each other: two threads for each would wait for one another
    os.environ.setdefault("OMP_NUM_THREADS", "1")
for name in [name for name in os.environ if name.startswith(("CXR_", "AIRFLOW_", "MLFLOW_TRACKING"))]:
    if name not in ("CXR_SHARED", "CXR_SCREENSHOTS"):
        del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that train for minutes come first, so that no worker is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_runtest_setup() -> None:
    """MLflow writes the address that it was last given into the environment: no test finds that of another."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout that is tested."""
    return PROJECT


def _shared(name: str) -> Path:
    folder = Path(os.environ.get("CXR_SHARED") or PROJECT.parent / "shared") / "data" / name
    if not folder.is_dir():
        pytest.skip(f"the real NIH radiographs are not here: {folder.name} (set CXR_SHARED)")
    return folder


@pytest.fixture(scope="session")
def nih_sample() -> Path:
    """1,298 real NIH radiographs at 256 x 256, in the NIH's layout."""
    return _shared("nih-sample")


@pytest.fixture(scope="session")
def nih_originals() -> Path:
    """28 real NIH radiographs as released, 9 of them RGBA."""
    return _shared("nih-originals")


@pytest.fixture
def make_nih(tmp_path: Path) -> Callable[..., Path]:
    """Makes small folders in the NIH's layout: noise for pictures, two a patient, each finding somewhere, one box."""

    def make(name: str = "nih", *, patients: int = 20, first: int = 1, size: int = 32) -> Path:
        folder = tmp_path / name
        (folder / "images").mkdir(parents=True)
        rng = np.random.default_rng(first)
        header = (
            "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
            "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
        )
        entries = [header]
        for number in range(2 * patients):
            patient = first + number // 2
            image_id = f"{patient:08d}_{number % 2:03d}.png"
            positive = {number % 14, (5 * number + 12) % 14} if number % 3 else set()
            labels = format_labels(index in positive for index in range(len(FINDINGS)))
            sex, view = "FM"[patient % 2], ("PA", "AP")[number % 2]
            entries.append(f"{image_id},{labels},{number % 2},{patient},{20 + patient % 60},{sex},{view},64,64,0.1,0.1")
            picture = rng.integers(0, 256, (size, size), dtype=np.uint8)
            cv2.imwrite(str(folder / "images" / image_id), picture)
        (folder / "Data_Entry_2017.csv").write_text("\n".join(entries) + "\n", encoding="utf-8")
        boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,", f"{first:08d}_001.png,Infiltrate,4.5,5,10,12.25,,,"]
        (folder / "BBox_List_2017.csv").write_text("\n".join(boxes) + "\n", encoding="utf-8")
        return folder

    return make
