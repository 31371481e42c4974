"""Fingerprints: the hash, the turns, and the file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cxr_ops.data.checking import fingerprints
from cxr_ops.errors import DataError

# Of the picture below, equalised by OpenCV: imagehash 4.3.2, phash(..., hash_size=16).
IMAGEHASH = "d8c0ad7fd82a52a9c51563aa2effb35221ff11aa2f0592203f5172216f1f72aa"


def waves() -> np.ndarray:
    """A picture of 64 x 64 that follows from a formula."""
    y, x = np.mgrid[:64, :64]
    return (127 + 60 * np.sin(x / 5 + y / 9) + 50 * np.cos(y / 4 - x / 17)).astype(np.uint8)


def table(count: int = 3) -> fingerprints.Table:
    """Fingerprints of noise."""
    rng = np.random.default_rng(0)
    spool = fingerprints.Spool()
    names = [f"{number}.png" for number in range(count)]
    for name in reversed(names):
        spool.add(name, fingerprints.row(rng.integers(0, 256, (80, 70), dtype=np.uint8)))
    return spool.table(names)


def test_the_hash_is_the_published_one() -> None:
    """The 256 bits are those that imagehash gives of the equalised copy."""
    assert fingerprints.hash_grey(waves()[None])[0].tobytes().hex() == IMAGEHASH


def test_contrast_changes_no_bit_and_a_negative_nearly_all() -> None:
    """A picture with half of the contrast has the same hash; its negative has at least 250 other bits."""
    grey = waves()
    own, half, negative = fingerprints.hash_grey(np.stack([grey, 60 + grey // 2, 255 - grey]))
    assert np.bitwise_count(own ^ half).sum() <= 4
    assert np.bitwise_count(own ^ negative).sum() >= 250


def test_the_turns_are_the_eight_there_are() -> None:
    """No two turns give the same picture, each is told in its own words, and the first changes nothing."""
    grey = waves()
    assert len({fingerprints.turned(grey, turn).tobytes() for turn in range(8)}) == len(set(fingerprints.TURNS)) == 8
    assert np.array_equal(fingerprints.turned(grey, 0), grey)
    said = {words: fingerprints.turned(grey, turn) for turn, words in enumerate(fingerprints.TURNS)}
    assert np.array_equal(said["mirrored left to right"], np.fliplr(grey))
    assert np.array_equal(said["mirrored top to bottom"], np.flipud(grey))
    assert np.array_equal(said["turned by a quarter to the left"], np.rot90(grey))


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    """A table is read back as it was, in the order asked for; equal tables give equal bytes."""
    fingerprints.write(tmp_path / "a.npy", table())
    fingerprints.write(tmp_path / "b.npy", table())
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    found = fingerprints.read(tmp_path / "a.npy", ["0.png", "1.png", "2.png"])
    assert np.array_equal(found, table())
    assert np.array_equal(fingerprints.hash_grey(found["grey"]), found["hash"])


@pytest.mark.parametrize(
    "names",
    [["0.png", "1.png"], ["0.png", "2.png", "1.png"], ["0.png", "1.png", "x.png"]],
    ids=["few", "order", "name"],
)
def test_a_file_of_other_images_is_refused(tmp_path: Path, names: list[str]) -> None:
    """Fingerprints of fewer images, in another order or of another name are an error and not a wrong answer."""
    fingerprints.write(tmp_path / "a.npy", table())
    with pytest.raises(DataError, match="not those of the batch's manifest"):
        fingerprints.read(tmp_path / "a.npy", names)


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A file that is cut short, no file at all, and one with an object in it are errors."""
    fingerprints.write(tmp_path / "a.npy", table())
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:5000])
    np.save(tmp_path / "object.npy", np.array([{"a": 1}]), allow_pickle=True)
    for name in ("cut.npy", "none.npy", "object.npy"):
        with pytest.raises(DataError, match="cannot be read"):
            fingerprints.read(tmp_path / name, ["0.png", "1.png", "2.png"])
