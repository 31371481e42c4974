"""A picture's fingerprint: a small grey copy of it and a perceptual hash, by which near copies are found.

Made where the picture is decoded, and kept with its batch as `fingerprints.npy`: a later batch is compared with what
the data set holds and no picture of it is decoded again. A row is 4,233 bytes, whatever the picture's size.

The hash is the DCT hash (pHash) of 256 bits: of the grey copy, equalised so that a monotone change of contrast changes
little, the 16 x 16 lowest frequencies of the discrete cosine transform, each above their median or not. It is the hash
that imagehash's `phash` gives of the equalised copy, bit for bit, and SciPy does the transform.

Source: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from cxr_ops.data.checking.decode import Pixels
from cxr_ops.errors import DataError

Hashes = npt.NDArray[np.uint8]
Table = npt.NDArray[np.void]

FILE: Final = "fingerprints.npy"  # of a batch
SIDE: Final = 64  # pixels of the grey copy
LOW: Final = 16  # frequencies of each axis that the hash is made of
BITS: Final = LOW * LOW
# What the file holds, a row an image: `grey` is the copy, `hash` is that of the copy as it stands.
DTYPE: Final = np.dtype([("image_id", "S104"), ("hash", "u1", (BITS // 8,)), ("grey", "u1", (SIDE, SIDE))])
# The ways in which a picture may be turned: mirrored or not, and then turned by quarters. Each is told in words.
TURNS: Final = (
    "",
    "turned by a quarter to the left",
    "turned upside down",
    "turned by a quarter to the right",
    "mirrored left to right",
    "mirrored left to right and turned by a quarter to the left",
    "mirrored top to bottom",
    "mirrored left to right and turned by a quarter to the right",
)


def grey_copy(pixels: Pixels) -> Pixels:
    """The small copy that a fingerprint keeps.

    Args:
        pixels: uint8, height x width.

    Returns:
        uint8, `SIDE` x `SIDE`; the shape of a picture that is not square is not kept, so that a cropped one still fits.
    """
    how = cv2.INTER_AREA if min(pixels.shape) > SIDE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (SIDE, SIDE), interpolation=how), dtype=np.uint8)


def turned(grey: Pixels, turn: int) -> Pixels:
    """A picture, turned in the way that `TURNS` tells.

    Args:
        grey: uint8, height x width.
        turn: a place in `TURNS`.
    """
    return np.ascontiguousarray(np.rot90(grey[:, ::-1] if turn >= 4 else grey, turn % 4))


def hash_grey(greys: npt.NDArray[np.uint8]) -> Hashes:
    """The hash of grey copies.

    Args:
        greys: uint8, n x `SIDE` x `SIDE`.

    Returns:
        uint8, n x 32: 256 bits each, the first in the highest bit of the first byte.
    """
    from scipy import fft

    even = np.stack([cv2.equalizeHist(grey) for grey in greys])
    low = fft.dctn(even.astype(np.float64), axes=(1, 2))[:, :LOW, :LOW].reshape(len(greys), BITS)
    return np.packbits(low > np.median(low, axis=1, keepdims=True), axis=1)


def row(pixels: Pixels) -> bytes:
    """The fingerprint of a picture, as it stands in the file behind the image's id.

    Args:
        pixels: uint8, height x width.
    """
    grey = grey_copy(pixels)
    return hash_grey(grey[None]).tobytes() + grey.tobytes()


class Spool:
    """Fingerprints as they come, in a temporary file, so that memory does not grow with the batch."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it goes with the object
        self._places: dict[str, int] = {}

    def add(self, image_id: str, fingerprint: bytes) -> None:
        """Keep what `row` gave of an image.

        Raises:
            OSError: the temporary file cannot be written.
        """
        self._places[image_id] = len(self._places)
        self._file.write(fingerprint)

    def table(self, image_ids: Sequence[str]) -> Table:
        """The fingerprints of some images as one table.

        Args:
            image_ids: of the images, in the order of the result.

        Returns:
            n rows of `DTYPE`, in a temporary file too.

        Raises:
            KeyError: there is none of an image.
            OSError: a temporary file cannot be written.
        """
        if not image_ids:
            return np.zeros(0, DTYPE)
        self._file.flush()
        start = DTYPE["image_id"].itemsize
        all_rows = np.memmap(self._file, np.uint8, "r", shape=(len(self._places), DTYPE.itemsize - start))
        with tempfile.TemporaryFile() as file:
            found = np.memmap(file, DTYPE, "w+", shape=(len(image_ids),))
        found["image_id"] = [image_id.encode() for image_id in image_ids]
        flat = found.view(np.uint8).reshape(len(image_ids), DTYPE.itemsize)
        for at, image_id in enumerate(image_ids):
            flat[at, start:] = all_rows[self._places[image_id]]
        return np.asarray(found)


def write(path: Path, fingerprints: Table) -> None:
    """Write a table; it is renamed when it is whole, and equal tables give equal bytes.

    Raises:
        OSError: it cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            np.lib.format.write_array(file, fingerprints, version=(1, 0), allow_pickle=False)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


def read(path: Path, image_ids: Iterable[str]) -> Table:
    """The fingerprints of a batch, mapped from its file and not read into memory.

    Args:
        path: the file.
        image_ids: of the images of the batch, in the order of its manifest.

    Raises:
        DataError: the file is missing, damaged, or of other images.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"the fingerprints cannot be read: {error}", where=path) from error
    named = [image_id.encode() for image_id in image_ids]
    if found.dtype != DTYPE or found.shape != (len(named),) or found["image_id"].tolist() != named:
        raise DataError("the fingerprints are not those of the batch's manifest", where=path)
    return np.asarray(found)
