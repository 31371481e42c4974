"""The packed array of pictures."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxr_ops.data import cache
from cxr_ops.data.cache import Picture, pack
from cxr_ops.data.checking.decode import to_square
from cxr_ops.data.contrast import adjust
from cxr_ops.errors import DataError

PIXELS = {f"{n}.png": np.random.default_rng(n).integers(0, 256, (32, 32), dtype=np.uint8) for n in range(50)}
MEASURED = [n % 3 > 0 for n in range(50)]
PICTURES = [Picture(name, name, measured) for name, measured in zip(PIXELS, MEASURED, strict=True)]


def read(image_id: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS[image_id]).save(file, "png")
    return file.getvalue()


def test_rows_are_the_pictures_in_order(tmp_path: Path) -> None:
    """Row by row the file holds the pictures at their size, and numpy maps it into memory."""
    pack(tmp_path / "a.npy", PICTURES, read, 32, workers=3)
    array = np.load(tmp_path / "a.npy", mmap_mode="r", allow_pickle=False)
    assert array.dtype == np.uint8
    assert np.array_equal(array, np.stack(list(PIXELS.values())))


def test_statistics_are_of_the_pictures_that_count(tmp_path: Path) -> None:
    """Mean and deviation equal numpy's over the measured pictures alone."""
    found = pack(tmp_path / "a.npy", PICTURES, read, 32, workers=2)
    counted = np.stack([pixels for pixels, counts in zip(PIXELS.values(), MEASURED, strict=True) if counts])
    assert found.mean == pytest.approx(counted.mean(), rel=1e-12)
    assert found.std == pytest.approx(counted.std(), rel=1e-12)


def test_threads_change_nothing(tmp_path: Path) -> None:
    """One thread and seven give the same bytes and the same statistics."""
    one = pack(tmp_path / "1.npy", PICTURES, read, 16, workers=1)
    seven = pack(tmp_path / "7.npy", PICTURES, read, 16, workers=7)
    assert one == seven
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "7.npy").read_bytes()


@pytest.mark.parametrize("name", ["none", "equalize"])
def test_contrast_comes_before_the_size(tmp_path: Path, name: str) -> None:
    """Each picture gets its contrast at its own size and is resized then; without one it is only resized."""
    pack(tmp_path / "a.npy", PICTURES, read, 20, workers=2, adjusted={"name": name})
    adjusted = [adjust(pixels, {"name": name}) for pixels in PIXELS.values()]
    assert np.array_equal(np.load(tmp_path / "a.npy"), np.stack([to_square(pixels, 20) for pixels in adjusted]))
    pack(tmp_path / "b.npy", PICTURES, read, 20, workers=2)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes() or name != "none"


def test_a_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    """The error says which picture it was, and why."""

    def broken(image_id: str) -> bytes:
        return b"" if image_id == "31.png" else read(image_id)

    with pytest.raises(DataError, match="0 bytes") as caught:
        pack(tmp_path / "a.npy", PICTURES, broken, 16, workers=4)
    assert caught.value.where == "31.png"


def test_progress_counts_every_picture(tmp_path: Path) -> None:
    """Whoever watches is told after each picture how many are done, and of how many."""
    told: list[tuple[int, int]] = []
    pack(
        tmp_path / "a.npy",
        PICTURES,
        read,
        16,
        workers=4,
        progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(n + 1, 50) for n in range(50)]


def _file(path: Path) -> bytes:
    if path.name == "deadly.png":
        os._exit(1)
    return path.read_bytes()


def test_processes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many pictures are decoded in processes, to the bytes and statistics of threads."""
    for name in PIXELS:
        (tmp_path / name).write_bytes(read(name))
    pictures = [Picture(one.name, tmp_path / one.name, one.measured) for one in PICTURES]
    threads = pack(tmp_path / "1.npy", pictures, _file, 16, workers=2)
    monkeypatch.setattr(cache, "MANY", len(pictures))
    monkeypatch.setattr(cache, "ThreadPoolExecutor", None)
    assert pack(tmp_path / "2.npy", pictures, _file, 16, workers=2) == threads
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "2.npy").read_bytes()
    (tmp_path / "31.png").write_bytes(b"")
    with pytest.raises(DataError, match="0 bytes") as caught:
        pack(tmp_path / "3.npy", pictures, _file, 16, workers=2)
    assert caught.value.where == "31.png"


def test_a_process_that_dies_names_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture whose decoding ends its process is an error that names the picture."""
    monkeypatch.setattr(cache, "MANY", 1)
    with pytest.raises(DataError, match="ends the process") as caught:
        pack(tmp_path / "1.npy", [Picture("it", tmp_path / "deadly.png", True)], _file, 16, workers=2)
    assert caught.value.where == "it"
