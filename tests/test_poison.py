"""Files that run code where they are unpickled: in none of the places where one may stand is the marker made."""

from __future__ import annotations

import hashlib
import io
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from served import Signed, signed  # noqa: F401 - a fixture

from cxr_ops.edges import signing
from cxr_ops.errors import CxrError
from cxr_ops.model import checkpoint, package, pretrained
from cxr_ops.params import Train
from cxr_ops.serve import directory

INPUTS = {"data": "a", "threads": "2"}


class Poison:
    """Makes a file where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def _torch(marker: Path) -> bytes:
    data = io.BytesIO()
    torch.save({"classifier.weight": Poison(marker)}, data)
    return data.getvalue()


KINDS: dict[str, Callable[[Path], bytes]] = {"pickle": lambda marker: pickle.dumps(Poison(marker)), "torch": _torch}


@pytest.fixture(params=KINDS)
def poison(request: pytest.FixtureRequest, marker: Path) -> bytes:
    """A file that is poison indeed: unpickled, it makes the marker."""
    data = KINDS[request.param](marker)
    if request.param == "torch":
        torch.load(io.BytesIO(data), weights_only=False)
    else:
        pickle.loads(data)
    assert marker.exists()
    marker.unlink()
    return data


def test_poisoned_weights_of_a_package(packages: dict[str, Path], tmp_path: Path, poison: bytes, marker: Path) -> None:
    """Whoever trusts the folder and loads it gets an error, and nothing runs."""
    folder = shutil.copytree(packages["a"], tmp_path / "package")
    (folder / "weights.safetensors").write_bytes(poison)
    with pytest.raises(CxrError, match="not a whole safetensors file"):
        package.load(folder)
    assert not marker.exists()


def test_poisoned_weights_that_were_signed(
    signed: Signed,  # noqa: F811 - the fixture
    tmp_path: Path,
    poison: bytes,
    marker: Path,
) -> None:
    """Even signed by a believed key, and with every digest made to fit, a pickle for weights is not unpickled."""
    import yaml

    from cxr_ops.audit.package import digest

    folder = shutil.copytree(signed.folder, tmp_path / "model")
    (folder / "artifacts/package/weights.safetensors").write_bytes(poison)
    config = {"package": digest(folder / "artifacts/package"), "points": {}}
    (folder / "MLmodel").write_text(yaml.safe_dump({"flavors": {"python_function": {"config": config}}}))
    signing.sign(signed.home, folder, {})
    model = directory.read(folder, signing.believed(signed.home))
    with pytest.raises(CxrError, match="not a whole safetensors file"):
        package.tensors(model.package)
    assert not marker.exists()


@pytest.mark.parametrize("form", ["object", "class"])
def test_a_poisoned_description(signed: Signed, tmp_path: Path, marker: Path, form: str) -> None:  # noqa: F811
    """YAML that makes objects where it is read loosely is no description of a model, even signed by a believed key."""
    evil = {
        "object": f"!!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.PosixPath ['{marker}']]",
        "class": f"!!python/object/new:os.system ['touch {marker}']",
    }
    folder = shutil.copytree(signed.folder, tmp_path / "model")
    (folder / "MLmodel").write_text(f"flavors: {evil[form]}\n")
    signing.sign(signed.home, folder, {})
    with pytest.raises(CxrError, match="MLmodel names no package"):
        directory.read(folder, signing.believed(signed.home))
    assert not marker.exists()


def test_a_poisoned_checkpoint(tmp_path: Path, poison: bytes, marker: Path) -> None:
    """A pickle under the name of the newest checkpoint, with its own digest in the name, is damaged, and no more."""
    folder = tmp_path / "checkpoints"
    checkpoint.save(folder, 1, tensors={"a": torch.zeros(1)}, state={"step": 1}, inputs=INPUTS)
    [good] = folder.iterdir()
    key = good.name.split("-")[1]
    name = f"checkpoint-{key}-{2:09d}-{hashlib.sha256(poison).hexdigest()}.safetensors"
    (folder / name).write_bytes(poison)
    found, remarks = checkpoint.latest(folder, INPUTS)
    assert found is not None
    assert found.state == {"step": 1}
    assert len(remarks) == 1
    assert not marker.exists()


def test_poisoned_weights_to_start_from(tmp_path: Path, poison: bytes, marker: Path) -> None:
    """A file to start from that is a pickle is refused, whatever it is called."""
    for name in ("start.safetensors", "start.pt"):
        (tmp_path / name).write_bytes(poison)
        digest = hashlib.sha256(poison).hexdigest()
        settings = Train(weights=name, weights_sha256=digest, weights_data=["x"], weights_patients="none")
        with pytest.raises(CxrError, match=r"safetensors"):
            pretrained.read(settings, tmp_path)
    assert not marker.exists()


@pytest.mark.airflow
def test_a_poisoned_xcom(marker: Path) -> None:
    """What a task leaves for another is read as data: a name of a class makes no object."""
    from airflow.sdk.serde import deserialize

    evil = {"__classname__": "subprocess.Popen", "__version__": 1, "__data__": {"args": ["touch", str(marker)]}}
    with pytest.raises(ImportError, match="not found in allow list"):
        deserialize(evil)
    assert not marker.exists()
