"""What MLflow runs to serve the model: the package's own checks, decoding and scoring."""

from __future__ import annotations

import base64
import hashlib
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import dicoms
import numpy as np
import pandas as pd
import pytest
from bad_pictures import BAD, GREY, encode
from finished import png

from cxr_ops.audit.package import digest as package_digest
from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.data import receipts
from cxr_ops.data.checking import convert, decode, grey
from cxr_ops.data.sources.source import Reading
from cxr_ops.edges.mlflow import script
from cxr_ops.labels import FINDINGS
from cxr_ops.model import cam, network, package, scoring

# As MLflow runs it: the script with the readers in it.
serving = ModuleType("serving_as_kept")
exec(compile(script.script(), "serving.py", "exec"), serving.__dict__)


def served(folder: Path, digest: str, **config: Any) -> Any:
    """The model as MLflow makes it from the registered artifacts."""
    model = serving.ChestXrayClassifier()
    model.load_context(SimpleNamespace(artifacts={"package": str(folder)}, model_config={"package": digest, **config}))
    return model


@pytest.fixture(scope="module")
def model(packages: dict[str, Path]) -> Any:
    return served(packages["a"], package_digest(packages["a"]))


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, (50 + i, 60), dtype=np.uint8) for i in range(count)]


def frame(images: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"image": images}, index=[f"row-{i}" for i in range(len(images))])


def test_files_are_those_of_a_package() -> None:
    """The script stands alone and repeats the names of a package's files; they are the same everywhere."""
    assert set(serving.FILES) == set(PACKAGE_FILES) == set(PACKAGE_FILES)


def test_digest_is_the_one_on_record(packages: dict[str, Path]) -> None:
    """The script's digest of a package is the digest that the rest of the project computes."""
    assert serving.package_digest(serving.read_package(packages["a"])) == package_digest(packages["a"])


def test_probabilities_are_those_of_the_evaluation(model: Any, packages: dict[str, Path]) -> None:
    """Served probabilities equal the evaluation's, over more rows than a batch holds, with the rows' index kept."""
    images = pictures(serving.BATCH + 3)
    found = model.predict(None, frame([png(image) for image in images]))
    assert tuple(found.columns) == (*FINDINGS, "flags", "receipt")
    assert list(found.index) == [f"row-{i}" for i in range(len(images))]
    np.testing.assert_allclose(found[list(FINDINGS)], scoring.score(package.load(packages["a"]), images), atol=1e-6)


def test_every_head_and_contrast_is_served(mlp_folder: Path) -> None:
    """A head of two layers and CLAHE are served as they are evaluated: the package brings what they need."""
    served_mlp = served(mlp_folder, package_digest(mlp_folder))
    images = pictures(3)
    found = served_mlp.predict(None, frame([png(image) for image in images]))
    np.testing.assert_allclose(found[list(FINDINGS)], scoring.score(package.load(mlp_folder), images), atol=1e-6)
    assert served_mlp.contract["input"]["contrast"]["name"] == "clahe"


def test_a_finding_that_was_not_trained_is_not_served(net: network.ChestNet, terms: dict, tmp_path: Path) -> None:
    """Of a model that was trained on some findings, the others are NaN, as in the evaluation."""
    some = package.contract(image_size=64, mean=0.449, std=0.226, training=terms["training"], trained=["Mass"])
    digest = package.write(tmp_path / "package", state=net.state_dict(), contract=some, patients=set())
    images = pictures(2)
    found = served(tmp_path / "package", digest).predict(None, frame([png(image) for image in images]))
    assert found.columns[found.notna().all()].tolist() == ["Mass", "flags", "receipt"]
    np.testing.assert_allclose(
        found[list(FINDINGS)], scoring.score(package.load(tmp_path / "package"), images), atol=1e-6
    )


def test_base64_text_is_read_like_bytes(model: Any) -> None:
    """A row as base64 text, as JSON brings it, with line breaks, gives what its bytes give."""
    data = png(pictures(1)[0])
    text = base64.encodebytes(data).decode()
    as_text, as_bytes = (model.predict(None, frame([image])) for image in (text, data))
    pd.testing.assert_frame_equal(as_text[list(FINDINGS)], as_bytes[list(FINDINGS)])
    assert as_text["receipt"].iloc[0]["input"] == as_bytes["receipt"].iloc[0]["input"]


def test_flags_receipts_and_maps(packages: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Flags are of findings with an operating point, receipts bind picture, model and answer, maps are Grad-CAM's."""
    digest, image = package_digest(packages["a"]), pictures(1)[0]
    loaded = package.load(packages["a"])
    at = float(scoring.score(loaded, [image])[0, 0])
    model = served(packages["a"], digest, points={FINDINGS[0]: at - 1e-4, FINDINGS[1]: 1.0})
    monkeypatch.setenv("CXR_RECEIPTS", str(tmp_path / "receipts.jsonl"))
    row = model.predict(None, frame([png(image)]), {"maps": True}).iloc[0]
    assert row["flags"] == {FINDINGS[0]: True, FINDINGS[1]: False}
    receipt = row["receipt"]
    assert (receipt["input"], receipt["model"]) == (hashlib.sha256(png(image)).hexdigest(), digest)
    assert receipt["answer"] == receipts.digest_of({name: row[name] for name in FINDINGS})
    [kept] = receipts.read(tmp_path / "receipts.jsonl").receipts
    assert kept == receipt
    found = np.array([row["maps"][name] for name in FINDINGS])
    np.testing.assert_allclose(found, cam.grad_cam(loaded, [image]).maps[0], atol=1e-5)


def test_no_rows_give_no_rows(model: Any) -> None:
    """An empty request gets an empty answer with the 14 columns."""
    assert model.predict(None, frame([])).shape == (0, 16)


@pytest.mark.parametrize("name", PACKAGE_FILES)
def test_altered_package_is_not_loaded(packages: dict[str, Path], tmp_path: Path, name: str) -> None:
    """A changed byte in any file stops the load before the package's code has run."""
    digest = package_digest(packages["a"])
    folder = shutil.copytree(packages["a"], tmp_path / "package")
    mark = tmp_path / "code-ran"
    extra = f"\nopen({str(mark)!r}, 'w')\n".encode() if name == "network.py" else b" "
    (folder / name).write_bytes((folder / name).read_bytes() + extra)
    with pytest.raises(ValueError, match="it was altered"):
        served(folder, digest)
    assert not mark.exists()


def test_missing_file_is_named(packages: dict[str, Path], tmp_path: Path) -> None:
    """A package without its weights is refused by the name of what is missing."""
    folder = shutil.copytree(packages["a"], tmp_path / "package")
    (folder / "weights.safetensors").unlink()
    with pytest.raises(ValueError, match=r"lacks .*weights\.safetensors"):
        served(folder, "0" * 64)


def test_cached_bytecode_beside_the_network_is_not_run(packages: dict[str, Path], tmp_path: Path) -> None:
    """A forged `__pycache__` of the right time and size is not preferred to the checked source, and none is made."""
    folder = shutil.copytree(packages["a"], tmp_path / "package")
    served(folder, package_digest(packages["a"]))
    assert sorted(path.name for path in folder.iterdir()) == sorted(PACKAGE_FILES)
    mark = tmp_path / "code-ran"
    source = folder / "network.py"
    forged = compile(f"open({str(mark)!r}, 'w')", "network.py", "exec")
    import importlib.util
    import marshal

    cache = Path(importlib.util.cache_from_source(str(source)))
    cache.parent.mkdir()
    stamp = struct.pack("<III", 0, int(source.stat().st_mtime), source.stat().st_size)
    cache.write_bytes(importlib.util.MAGIC_NUMBER + stamp + marshal.dumps(forged))
    served(folder, package_digest(packages["a"]))
    assert not mark.exists()


def test_the_script_brings_all_that_reading_imports() -> None:
    """The modules in the script are those that its three parts import, as a fresh interpreter sees it."""
    code = (
        "import sys; import cxr_ops.data.checking.pictures, cxr_ops.data.receipts, cxr_ops.model.heads; "
        "print(' '.join(name for name in sys.modules if name.split('.')[0] == 'cxr_ops'))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert sorted(done.stdout.split()) == sorted(script.MODULES)


def test_the_readers_are_the_scripts_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is installed where the model is served does not read its pictures."""
    monkeypatch.setattr(decode, "decode_grey", None)
    np.testing.assert_array_equal(serving.readers()(png(GREY)), GREY)


SAMPLES = dicoms.drawn()
SET = {
    "PNG": png(GREY),
    "RGBA": encode("RGBA", GREY),
    "palette": encode("P", GREY),
    "JPEG": cv2.imencode(".jpg", GREY)[1].tobytes(),
    "JPEG of three channels": cv2.imencode(".jpg", np.dstack([GREY] * 3))[1].tobytes(),
    "16 bits with a window": grey.encode(SAMPLES, 100, 3000),
    "DICOM": dicoms.dicom(),
    "DICOM with a window, white first": dicoms.dicom(
        WindowCenter=2000, WindowWidth=900, PhotometricInterpretation="MONOCHROME1"
    ),
    "DICOM, JPEG Lossless": dicoms.compressed(dicoms.dicom(), "lossless"),
}


@pytest.mark.parametrize("name", SET)
def test_served_and_ingested_pictures_are_the_same(name: str, tmp_path: Path) -> None:
    """Each file that ingestion takes is served, with the pixels that ingestion stores of it."""
    data = SET[name]
    path = tmp_path / ("a.jpg" if name.startswith("JPEG") else "a.dcm" if name.startswith("DICOM") else "a.png")
    path.write_bytes(data)
    reading = Reading(kind="dicom") if name.startswith("DICOM") else None
    taken = convert.inspect(convert.Job(path=path, reading=reading, target=tmp_path / "stored.png"))
    assert isinstance(taken, convert.Taken)
    np.testing.assert_array_equal(serving.readers()(data), decode.decode_grey(taken.path.read_bytes()))


@pytest.mark.parametrize(("image", "why"), BAD.values(), ids=BAD)
def test_what_is_no_radiograph_is_refused(model: Any, image: object, why: str) -> None:
    """Each bad image is refused with its row and its reason, and its neighbour is not scored either."""
    with pytest.raises(ValueError, match=why) as caught:
        model.predict(None, frame([png(GREY), image]))
    assert str(caught.value).startswith("row 1: ")


@pytest.mark.parametrize("name", [name for name, (data, _) in BAD.items() if isinstance(data, bytes)])
def test_what_is_refused_is_refused_at_ingestion(name: str, tmp_path: Path) -> None:
    """The same files do not enter a data set either."""
    data, _ = BAD[name]
    path = tmp_path / ("a.dcm" if name.startswith("DICOM") else "a.png")
    path.write_bytes(data)
    reading = Reading(kind="dicom") if name.startswith("DICOM") else None
    assert isinstance(convert.inspect(convert.Job(path=path, reading=reading, target=tmp_path / "b.png")), str)
