"""Rows that were packed before: found again, whole or not at all, and gone when they no longer serve."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from cxr_ops.data import packed
from cxr_ops.data.packed import Packed

NONE = {"name": "none"}


def sha256(name: int) -> str:
    return hashlib.sha256(str(name).encode()).hexdigest()


def row(name: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(name).integers(0, 256, (size, size), dtype=np.uint8)


def keep(folder: Path, names: range, size: int = 8, adjusted: dict[str, object] = NONE) -> None:
    """What one run of `prepare` does: reads what there is, adds what there is not."""
    with Packed(folder, size, adjusted) as rows:
        for name in names:
            if rows.read(sha256(name)) is None:
                rows.add(sha256(name), row(name, size))
        rows.finish()


def found(folder: Path, names: range, size: int = 8) -> list[int]:
    """Those of some pictures whose rows are there, each of which must be the right one."""
    with Packed(folder, size, NONE) as rows:
        held = {name: pixels for name in names if (pixels := rows.read(sha256(name))) is not None}
    assert all(np.array_equal(pixels, row(name, size)) for name, pixels in held.items())
    return list(held)


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.rows"))


def test_rows_are_found_again_by_their_pictures(tmp_path: Path) -> None:
    """What one run adds the next one reads, and what is added in two runs a third."""
    keep(tmp_path, range(20))
    keep(tmp_path, range(30))
    assert found(tmp_path, range(40)) == list(range(30))
    assert len(files(tmp_path)) == 2


def test_rows_are_written_in_files_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed leaves the rows of all files but the last, and nothing that is half."""
    monkeypatch.setattr(packed, "ROWS", 10)
    with Packed(tmp_path, 8, NONE) as rows:
        for name in range(25):
            rows.add(sha256(name), row(name))
    assert found(tmp_path, range(25)) == list(range(20))


def test_a_row_that_is_reused_by_its_owner_is_kept_as_it_was(tmp_path: Path) -> None:
    """The array that was given may be written over afterwards."""
    with Packed(tmp_path, 8, NONE) as rows:
        buffer = row(1)
        rows.add(sha256(1), buffer)
        buffer[:] = 0
        rows.finish()
    assert found(tmp_path, range(3)) == [1]


@pytest.mark.parametrize("at", ["row", "its digest", "the picture's digest"])
def test_a_damaged_row_counts_as_absent(tmp_path: Path, at: str) -> None:
    """One altered byte, wherever in the file it is, costs one row, and never gives another one."""
    keep(tmp_path, range(5))
    (path,) = files(tmp_path)
    data = bytearray(path.read_bytes())
    data[{"row": 64 * 2 + 5, "its digest": 64 * 5 + 64 * 2 + 40, "the picture's digest": 64 * 5 + 64 * 2 + 3}[at]] ^= 1
    path.write_bytes(data)
    assert found(tmp_path, range(5)) == [0, 1, 3, 4]
    keep(tmp_path, range(5))
    assert found(tmp_path, range(5)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("length", [0, 1, 100, -1])
def test_a_file_that_was_cut_counts_as_absent(tmp_path: Path, length: int) -> None:
    """Of a file of another length nothing is read, and the rows are there again after the next run."""
    keep(tmp_path, range(5))
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:length])
    assert found(tmp_path, range(5)) == []
    keep(tmp_path, range(5))
    assert found(tmp_path, range(5)) == list(range(5))


def test_the_key_is_of_all_that_changes_a_pixel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Another size, contrast, library, processor or source file of the decoder gives another key; else it is one."""
    keys = {packed.key(8, NONE), packed.key(8, {"name": "none"})}
    assert len(keys) == 1
    keys |= {packed.key(9, NONE), packed.key(8, {"name": "clahe", "clip": 2.0, "tiles": 8})}
    keys |= {packed.key(8, {"name": "clahe", "clip": 3.0, "tiles": 8})}
    with monkeypatch.context() as patch:
        patch.setattr(packed.cv2, "__version__", "0")
        keys.add(packed.key(8, NONE))
    with monkeypatch.context() as patch:
        patch.setattr(packed.cv2, "getCPUFeaturesLine", lambda: "another")
        keys.add(packed.key(8, NONE))
    for module in (packed.decode, packed.png, packed.grey, packed.jpeg, packed.contrast):
        edited = tmp_path / f"{module.__name__}.py"
        edited.write_bytes(Path(module.__file__).read_bytes() + b"\n")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(edited))
            keys.add(packed.key(8, NONE))
    real = packed._version
    for library in ("isal", "numpy"):
        with monkeypatch.context() as patch:
            patch.setattr(packed, "_version", lambda name, of=library: "0" if name == of else real(name))
            keys.add(packed.key(8, NONE))
    assert len(keys) == 13


def test_what_no_longer_serves_goes(tmp_path: Path) -> None:
    """A file of which a whole run read nothing goes with it; of sizes, the three that were used last stay."""
    keep(tmp_path, range(10))
    keep(tmp_path, range(20))
    keep(tmp_path, range(10, 20))
    assert found(tmp_path, range(30)) == list(range(10, 20))
    for age, size in enumerate((4, 5, 6, 7)):
        keep(tmp_path, range(3), size)
        os.utime(tmp_path / packed.key(size, NONE), (10**9 + age, 10**9 + age))
    os.utime(tmp_path / packed.key(8, NONE), (10**9 - 1, 10**9 - 1))
    keep(tmp_path, range(3), 5)
    assert {folder.name for folder in tmp_path.iterdir()} == {packed.key(size, NONE) for size in (5, 6, 7)}


def test_pictures_can_be_forgotten(tmp_path: Path) -> None:
    """The rows of some pictures go, of all sizes; those of the others stay, and files without any are removed."""
    keep(tmp_path, range(10))
    keep(tmp_path, range(20))
    keep(tmp_path, range(10), 4)
    (files(tmp_path)[0].parent / "cut-64.rows").write_bytes(row(3).tobytes())
    before = files(tmp_path)
    assert packed.forget(tmp_path, [sha256(name) for name in (3, *range(10, 20), 99)]) == 12
    assert found(tmp_path, range(20)) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert found(tmp_path, range(20), 4) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert len(files(tmp_path)) == 2
    assert not set(files(tmp_path)) & set(before)
    assert not any(row(3).tobytes() in path.read_bytes() for path in files(tmp_path))
