"""Packages in processes of their own: the numbers are those of one process, and what misbehaves is ended and named."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from psutil import pid_exists

from cxr_ops.audit.package import Package, checked, read
from cxr_ops.errors import CxrError, DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import cam, package, scoring
from cxr_ops.model.apart import channel, parent
from cxr_ops.model.machine import choose_machine, reproducible
from cxr_ops.params import Train

ONE_THREAD = Train(device="cpu", threads=1)


@pytest.fixture(scope="module")
def nursery() -> Iterator[parent.Nursery]:
    with parent.nursery() as started:
        yield started


@pytest.fixture
def packed(package_folder: Path) -> Package:
    return read(package_folder)


def with_code(packed: Package, code: str) -> Package:
    """The package with lines at the end of its network.py, and the digest that it then has."""
    return checked({**packed.files, "network.py": packed.files["network.py"] + code.encode()}, packed.folder)


def test_numbers_are_those_of_one_process(
    nursery: parent.Nursery, package_folder: Path, mlp_folder: Path, radiographs: list[np.ndarray]
) -> None:
    """Scores and heat maps of both heads are bit for bit those that the same code gives in this process."""
    for folder in (package_folder, mlp_folder):
        with nursery.of(read(folder), ONE_THREAD) as process:
            scores, maps = process.score(radiographs), process.maps(radiographs)
            others = process.maps(radiographs, method="grad_cam_plus_plus", size=96)
            drawn = process.randomized(radiographs, 3)
        with reproducible(choose_machine(ONE_THREAD)):
            model = package.load(folder)
            assert np.array_equal(scores, scoring.score(model, radiographs))
            assert np.array_equal(maps, cam.grad_cam(model, radiographs).maps)
            assert maps.any()
            finer = cam.grad_cam(model, radiographs, method="grad_cam_plus_plus", size=96).maps
            assert np.array_equal(others, finer)
            assert np.array_equal(drawn, cam.randomized(model, radiographs, seed=3))


def test_what_was_not_trained_comes_as_nan(
    nursery: parent.Nursery, net: torch.nn.Module, radiographs: list[np.ndarray], tmp_path: Path
) -> None:
    """The columns of findings that the contract does not list are NaN, and no others."""
    terms = package.contract(image_size=64, mean=0.4, std=0.2, training={}, trained=["Mass", "Hernia"])
    package.write(tmp_path / "package", state=net.state_dict(), contract=terms, patients=set())
    with nursery.of(read(tmp_path / "package"), ONE_THREAD) as process:
        scores = process.score(radiographs)
    assert [FINDINGS[f] for f in np.flatnonzero(~np.isnan(scores).any(axis=0))] == ["Mass", "Hernia"]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import no_such_module", "cannot be imported"),
        ("def build(contract):\n    raise ValueError('no')", "do not fit"),
        ("def preprocess(pixels, contract):\n    raise ValueError('too \\x1b[31mdark')", r"too \\x1b\[31mdark"),
        ("def to_tensor(batch, contract):\n    return batch[:, None] * float('nan')", "gives no number"),
        ("def to_tensor(batch, contract):\n    raise KeyError('hm')", "failed; its traceback stands above"),
        ("import os\nos._exit(0)", "ended its process"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "killed by SIGKILL"),
        ("raise SystemExit(3)", "failed"),
    ],
)
def test_a_package_that_fails_says_how(
    nursery: parent.Nursery, packed: Package, radiographs: list[np.ndarray], code: str, says: str
) -> None:
    """An error of the package's code, its exit and its death are errors that name the package's folder."""
    with (
        pytest.raises(CxrError, match=says) as caught,
        nursery.of(with_code(packed, f"\n{code}\n"), ONE_THREAD) as process,
    ):
        process.score(radiographs)
    assert caught.value.where == str(packed.folder)


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((4, 14), np.float32), "4 x 14 numbers for 5 images"),
        (np.zeros((5, 14), np.float64), "float64"),
        (np.full((5, 14), 1.5, np.float32), "no probabilities"),
        (np.full((5, 14), np.nan, np.float32), "no probabilities"),
        (np.zeros((5, 14, 2, 2), np.float32), "5 x 14 x 2 x 2"),
    ],
)
def test_what_a_package_says_is_not_believed(
    nursery: parent.Nursery, packed: Package, radiographs: list[np.ndarray], array: np.ndarray, says: str
) -> None:
    """An answer of another shape, type or range, which the package's code can send past ours, is refused."""
    lie = (
        "import numpy, cxr_ops.model.scoring as scoring\n"
        f"scoring.score = lambda *_, **__: numpy.full({array.shape}, {str(array.flat[0])!r}).astype('{array.dtype}')\n"
    )
    with (
        nursery.of(with_code(packed, f"\n{lie}"), ONE_THREAD) as process,
        pytest.raises(DataError, match=says),
    ):
        process.score(radiographs)


def test_bytes_that_are_no_answer_are_refused(
    nursery: parent.Nursery, packed: Package, radiographs: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pickle, and an answer that is too long, are refused without being read."""
    lie = "import cxr_ops.model.apart.channel as channel, pickle\nchannel.pack = lambda arrays: pickle.dumps([1])\n"
    with nursery.of(with_code(packed, f"\n{lie}"), ONE_THREAD) as process, pytest.raises(DataError, match="no array"):
        process.score(radiographs)
    monkeypatch.setattr(channel, "ARRAY_BYTES", 100)
    with nursery.of(packed, ONE_THREAD) as process, pytest.raises(DataError, match="too long"):
        process.score(radiographs)


def test_one_that_hangs_is_ended(
    nursery: parent.Nursery, packed: Package, radiographs: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A package that does not answer in time is killed, with what it started, and that is said."""
    hangs = "\nimport time\ndef to_tensor(batch, contract):\n    time.sleep(3600)\n"
    monkeypatch.setattr(parent, "IMAGE_SECONDS", 0.1)
    began = time.monotonic()
    with (
        nursery.of(with_code(packed, hangs), ONE_THREAD) as process,
        pytest.raises(CxrError, match="gave no answer for"),
    ):
        process.score(radiographs)
    assert time.monotonic() - began < 60
    assert not pid_exists(process._pid)


def test_the_block_ends_the_process(nursery: parent.Nursery, packed: Package) -> None:
    """After the block, and after an error in it, the process is gone, and the nursery makes another."""
    with pytest.raises(KeyError), nursery.of(packed, ONE_THREAD) as first:
        raise KeyError
    assert not pid_exists(first._pid)
    with nursery.of(packed, ONE_THREAD) as second:
        assert os.getsid(second._pid) == second._pid
    assert not pid_exists(second._pid)


def test_nothing_outlives_the_nursery(packed: Package) -> None:
    """When the nursery ends, be it killed, its processes end, and the next answer says so."""
    with parent.nursery() as nursery:
        with nursery.of(packed, ONE_THREAD) as process:
            pid = process._pid
            os.kill(int(Path(f"/proc/{pid}/stat").read_text().split()[3]), 9)
            until = time.monotonic() + 20
            while pid_exists(pid) and time.monotonic() < until:  # on a busy machine it may answer once more
                time.sleep(0.01)
            with pytest.raises(CxrError, match=r"is gone|was killed"):
                process.score([np.zeros((9, 9), np.uint8)])
        with pytest.raises(CxrError, match="processes come from was killed"), nursery.of(packed, ONE_THREAD):
            pass


def test_a_gpu_that_is_not_there_is_an_error_of_settings(nursery: parent.Nursery, packed: Package) -> None:
    """Where the settings ask for a GPU and there is none, the error names the setting and what to set."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(SettingsError, match="no GPU") as caught, nursery.of(packed, Train(device="cuda")):
        pass
    assert (caught.value.where, caught.value.fix) == ("train.device: cuda", "set train.device: auto")
