"""Keeps the rows that `prepare` packed, so that of a grown data set the new pictures alone are decoded.

    <folder>/<key>/<name>.rows      up to 1,000 rows of pixels, then for each row two digests: of the picture's file,
                                    and of the row

The key is over all that can change a pixel besides the picture: the settings, the code, the libraries and what OpenCV
makes of the processor. A row is found by the SHA-256 of its picture's file, which `prepare` has compared with the bytes
before it decoded them, and is compared with its own digest when it is read; so what is found is what decoding would
give, and what is damaged counts as absent. A file is renamed when it is whole: a killed stage leaves the rows of the
files before.

Nothing here is needed. Rows that no longer serve go by themselves: of a key, files of which the last run read nothing;
and of keys, all but the three that were used last.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import cv2
import numpy as np

from cxr_ops.data import contrast
from cxr_ops.data.checking import decode, grey, jpeg, png
from cxr_ops.data.checking.decode import Pixels
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file, write_atomic

FORMAT: Final = 1  # of the files
ROWS: Final = 1000  # of a file: what a killed stage decodes again at most, less the row it was at
KEYS: Final = 3  # that are kept: the settings of now, and those of two trials

_DIGEST_BYTES: Final = 32
_CODE: Final = (contrast, decode, grey, jpeg, png)
_LIBRARIES: Final = ("isal", "kornia-rs", "numpy")
_PATTERN: Final = "*.rows"


class _Place(NamedTuple):
    path: Path
    row: int
    digest: bytes


class Packed:
    """The rows of one size and contrast.

    Args:
        folder: where the rows of all settings stand; made when the first are added.
        size: side of a row's picture in pixels.
        adjusted: how its contrast was adjusted, see `contrast.terms`.
    """

    def __init__(self, folder: Path, size: int, adjusted: Mapping[str, Any]) -> None:
        self._size = size
        self._folder = folder / key(size, adjusted)
        self._places: dict[str, _Place] = {}
        self._unused: set[Path] = set()
        self._files: dict[Path, int] = {}
        self._new: dict[str, Pixels] = {}
        for path in sorted(self._folder.glob(_PATTERN)):
            self._unused.add(path)
            for row, (picture, digest) in enumerate(_digests(path, size * size)):
                self._places[picture] = _Place(path, row, digest)

    def holds(self, sha256: str) -> bool:
        """Whether the row of a picture is here, damaged or not."""
        return sha256 in self._places

    def read(self, sha256: str) -> Pixels | None:
        """A picture's row, uint8, size x size; None where there is none, or no whole one.

        Args:
            sha256: of the picture's file.
        """
        place = self._places.get(sha256)
        if place is None:
            return None
        count = self._size * self._size
        try:
            if place.path not in self._files:
                self._files[place.path] = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
            data = os.pread(self._files[place.path], count, place.row * count)
        except OSError:
            return None
        if bytes.fromhex(sha256_bytes(data)) != place.digest:
            return None
        self._unused.discard(place.path)
        return np.frombuffer(data, np.uint8).reshape(self._size, self._size)

    def add(self, sha256: str, row: Pixels) -> None:
        """Keep a row.

        Raises:
            OSError: it cannot be written.
        """
        self._new[sha256] = row.copy()
        if len(self._new) == ROWS:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and remove what no longer serves.

        Raises:
            OSError: it cannot be written.
        """
        self._flush()
        for path in self._unused:
            path.unlink(missing_ok=True)
        if self._folder.is_dir():
            os.utime(self._folder)
        used = sorted(self._folder.parent.glob("*/"), key=lambda folder: folder.stat().st_mtime_ns, reverse=True)
        for folder in used[KEYS:]:
            shutil.rmtree(folder, ignore_errors=True)

    def _flush(self) -> None:
        if self._new:
            self._folder.mkdir(parents=True, exist_ok=True)
            rows = {bytes.fromhex(sha256): row.tobytes() for sha256, row in self._new.items()}
            self._unused.discard(_write(self._folder, rows))  # a damaged file of the same rows had this name
            self._new.clear()

    def close(self) -> None:
        """Close the files."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def key(size: int, adjusted: Mapping[str, Any]) -> str:
    """What all rows of a folder were made with, as the folder's name.

    Args:
        size: side of a row's picture in pixels.
        adjusted: see `contrast.terms`.
    """
    made_with = {
        "format": FORMAT,
        "size": size,
        "contrast": dict(adjusted),
        "code": {module.__name__: sha256_file(Path(str(module.__file__))) for module in _CODE},
        "libraries": {"opencv": cv2.__version__, **{name: _version(name) for name in _LIBRARIES}},
        "processor": cv2.getCPUFeaturesLine(),
    }
    return sha256_bytes(canonical_json(made_with))


def forget(folder: Path, pictures: Collection[str]) -> int:
    """Remove the rows of some pictures, of all sizes and contrasts.

    Args:
        folder: where the rows of all settings stand.
        pictures: SHA-256 of the pictures' files.

    Returns:
        How many rows were removed.

    Raises:
        OSError: a file cannot be read or written.
    """
    removed = 0
    for path in sorted(folder.glob(f"*/{_PATTERN}")):
        row_bytes = int(path.stem.partition("-")[2])
        digests = list(_digests(path, row_bytes))
        kept = {row: picture for row, (picture, _) in enumerate(digests) if picture not in pictures}
        if digests and len(kept) == len(digests):
            continue  # of a file that is not whole nobody can tell, and it goes
        data = path.read_bytes()
        if kept:
            rows = {
                bytes.fromhex(sha256): data[row * row_bytes : (row + 1) * row_bytes] for row, sha256 in kept.items()
            }
            _write(path.parent, rows)
        path.unlink()
        removed += len(digests) - len(kept)
    return removed


def _write(folder: Path, rows: Mapping[bytes, bytes]) -> Path:
    digests = b"".join(picture + bytes.fromhex(sha256_bytes(row)) for picture, row in rows.items())
    row_bytes = len(next(iter(rows.values())))
    path = folder / f"{sha256_bytes(digests)[:16]}-{row_bytes}.rows"
    write_atomic(path, b"".join([*rows.values(), digests]))
    return path


def _digests(path: Path, row_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Of each row of a file, the digest of its picture's file and its own; none of a file that is not whole."""
    with suppress(OSError), path.open("rb") as file:
        rows, rest = divmod(os.fstat(file.fileno()).st_size, row_bytes + 2 * _DIGEST_BYTES)
        if rest:
            return
        file.seek(rows * row_bytes)
        for _ in range(rows):
            yield file.read(_DIGEST_BYTES).hex(), file.read(_DIGEST_BYTES)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
