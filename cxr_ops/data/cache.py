"""Training pictures packed into one array file, decoded and resized once: an epoch reads rows and decodes nothing."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import numpy as np

from cxr_ops.data import contrast
from cxr_ops.data.checking import isolate
from cxr_ops.data.checking.decode import Pixels, decode_grey, histogram, to_square
from cxr_ops.data.packed import Packed
from cxr_ops.errors import DataError

Source = TypeVar("Source")

MANY: Final = 1000  # pictures that take longer to decode than processes to start, also where pictures are small


@dataclass(frozen=True, kw_only=True)
class PixelStatistics:
    """Mean and population standard deviation of grey values, 0 to 255."""

    mean: float
    std: float


class Picture(NamedTuple, Generic[Source]):
    """A picture to pack.

    Attributes:
        name: of it, in errors.
        source: where it stands, as the function that reads it takes it.
        measured: whether its pixels count in the statistics.
        sha256: of its file, where its row may be kept and found again.
    """

    name: str
    source: Source
    measured: bool
    sha256: str | None = None


def pack(
    path: Path,
    pictures: Sequence[Picture[Source]],
    read: Callable[[Source], bytes],
    size: int,
    *,
    workers: int,
    adjusted: Mapping[str, Any] | None = None,
    kept: Packed | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PixelStatistics:
    """Write pictures as one `.npy` file, uint8, images x size x size, that can be memory-mapped.

    A few pictures are decoded in threads, many in processes, which take half a second to start.

    Args:
        path: the file to write.
        pictures: in the order of the rows; at least one.
        read: gives the bytes of a picture's file. It is called in any thread, and in other processes: it must be
            importable by its name, and so must what it is called on.
        size: side in pixels.
        workers: pictures decoded at a time.
        adjusted: how the contrast of each picture is adjusted before it is resized, see `contrast.adjust`; or None.
        kept: rows of earlier times. What it has is not decoded, and what it lacks is added; it must be of this size and
            contrast.
        progress: called with the pictures written so far and their number.

    Returns:
        The statistics over the pictures that count: whole-number sums, so the same in any order.

    Raises:
        DataError: a picture cannot be read or decoded.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(pictures), size, size))
    counts = np.zeros(256, np.int64)
    rows = _rows(pictures, partial(_square, read=read, size=size, adjusted=adjusted), workers, kept)
    for done, (row, pixels) in enumerate(rows, start=1):
        array[row] = pixels
        if pictures[row].measured:
            counts += histogram(pixels)
        if progress:
            progress(done, len(pictures))
    array.flush()
    return _statistics(counts)


def _rows(
    pictures: Sequence[Picture[Source]],
    square: Callable[[Picture[Source]], Pixels],
    workers: int,
    kept: Packed | None,
) -> Iterator[tuple[int, Pixels]]:
    """Each row's number and pixels: those that are kept first, then the others."""
    missing: list[int] = []
    for row, picture in enumerate(pictures):
        found = kept.read(picture.sha256) if kept and picture.sha256 else None
        if found is None:
            missing.append(row)
        else:
            yield row, found
    if not missing:
        return
    decoded = _decoded([pictures[row] for row in missing], square, workers)
    for row, pixels in zip(missing, decoded, strict=True):
        if kept and (sha256 := pictures[row].sha256):
            kept.add(sha256, pixels)
        yield row, pixels


def _square(
    picture: Picture[Source], *, read: Callable[[Source], bytes], size: int, adjusted: Mapping[str, Any] | None
) -> Pixels:
    data = read(picture.source)
    try:
        return to_square(contrast.adjust(decode_grey(data), adjusted or {"name": "none"}), size)
    except DataError as error:
        raise DataError(error.what, where=picture.name) from error


def _decoded(
    pictures: Sequence[Picture[Source]], square: Callable[[Picture[Source]], Pixels], workers: int
) -> Iterator[Pixels]:
    if workers > 1 and len(pictures) >= MANY:
        for picture, found in zip(pictures, isolate.each(square, pictures, processes=workers), strict=True):
            if isinstance(found, isolate.DiedError):
                raise DataError("decoding it ends the process that tries", where=picture.name)
            yield found
        return
    with ThreadPoolExecutor(workers) as pool:
        upcoming = iter(pictures)
        waiting: deque[Future[Pixels]] = deque(
            pool.submit(square, picture) for picture in itertools.islice(upcoming, 8 * workers)
        )
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(square, picture) for picture in itertools.islice(upcoming, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _statistics(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> PixelStatistics:
    values = [int(count) for count in counts]
    total = sum(values)
    if not total:
        raise DataError("no picture counts in the statistics")
    first = sum(grey * count for grey, count in enumerate(values))
    second = sum(grey * grey * count for grey, count in enumerate(values))
    return PixelStatistics(mean=first / total, std=float((second * total - first * first) / total**2) ** 0.5)
