"""The notebook's cells run in their order, as Jupyter runs them, and leave what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from cxr_ops import api
from cxr_ops.errors import DataError
from cxr_ops.model import cam

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs" / "notebooks" / "train-and-look.ipynb"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all cells were run, one after the other in one interpreter that has no script."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    code = "\n".join("".join(cell["source"]) for cell in cells)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "notebook-work"


def test_the_notebook_trains_keeps_a_model_and_draws_maps(work: Path) -> None:
    """All cells run, the package can be read again, and the picture shows something."""
    assert api.load(work / "model").trained
    drawn = cv2.imread(str(work / "maps.png"))
    assert drawn.shape[1] > 1000
    assert drawn.std() > 20


def test_the_notebook_is_kept_without_output(work: Path) -> None:
    """What is in the repository holds no pictures and no numbers of somebody's run."""
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells if "outputs" in cell)


def test_maps_of_the_api_are_grad_cams_of_the_same_pixels(work: Path) -> None:
    """Each picture's maps are those of its own pixels, in the order given; a file that is none is named."""
    model = api.load(work / "model")
    pictures = sorted((work / "generated" / "images").glob("*.png"))[:3]
    pixels = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE) for path in pictures]
    assert np.array_equal(model.maps(pictures), cam.grad_cam(model.loaded, pixels).maps)
    with pytest.raises(DataError, match=r"gone\.png"):
        model.maps([work / "gone.png"])
