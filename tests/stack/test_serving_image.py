"""The image of `docker/serve`: a signed model in a container, asked about the golden pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from served import Signed, signed  # noqa: F401 - a fixture

from cxr_ops.data.checking.pictures import decode_any
from cxr_ops.data.synthetic import golden
from cxr_ops.edges import serving
from cxr_ops.errors import RefusedError
from cxr_ops.model import package, scoring

pytestmark = [pytest.mark.stack, pytest.mark.timeout(1500)]  # the image takes minutes to build where it is missing

PROJECT = Path(__file__).resolve().parents[2]
NAME = "cxr-serve:test"


@pytest.fixture(scope="module")
def image() -> str:
    """The image of this checkout; the engine's own cache says what of it is there."""
    build = ["docker", "build", "--network", "host", "--file", "docker/serve/Dockerfile", "--tag", NAME, "."]
    subprocess.run(build, cwd=PROJECT, env=os.environ | {"DOCKER_BUILDKIT": "0"}, check=True, stdout=sys.stderr)
    return NAME


def inside(image: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", words[0], image, *words[1:]], capture_output=True, text=True
    )


def test_the_image_holds_nothing_that_trains_and_runs_without_rights(image: str) -> None:
    """No MLflow, DVC, Airflow, Great Expectations or scikit-learn, and a user who is nobody."""
    assert inside(image, "id", "-u").stdout.strip() == "10001"
    for name in ("mlflow", "dvc", "airflow", "great_expectations", "sklearn", "boto3"):
        done = inside(image, "python", "-c", f"import {name}")
        assert f"No module named '{name}'" in done.stderr


def test_the_image_answers_as_the_evaluation(image: str, signed: Signed, tmp_path: Path) -> None:  # noqa: F811
    """A container that may write nothing gives the evaluation's probabilities, and refuses another key."""
    for folder in (signed.folder, *signed.folder.parents[:3], tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest's folders are for its own user, and the container runs as another
    pictures = golden.pictures()
    answered = serving.by_image(signed.folder, signed.key, pictures, image)
    expected = scoring.score(package.load(signed.package), [decode_any(one) for one in pictures]).tolist()
    serving.check([answered], expected, tolerance=1e-5, seconds=60)
    from cxr_ops.edges import signing

    signing.make_key(tmp_path / "other")
    with pytest.raises(RefusedError, match=r"does not start: .*not believed here"):
        serving.by_image(signed.folder, tmp_path / "other.pub", pictures, image)
