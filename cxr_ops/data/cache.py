"""Training pictures packed into one array file, decoded and resized once: an epoch reads rows and decodes nothing."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_ops.data import contrast
from cxr_ops.data.checking.decode import Pixels, decode_grey, to_square
from cxr_ops.errors import DataError


@dataclass(frozen=True, kw_only=True)
class PixelStatistics:
    """Mean and population standard deviation of grey values, 0 to 255."""

    mean: float
    std: float


def pack(
    path: Path,
    image_ids: Sequence[str],
    read: Callable[[str], bytes],
    size: int,
    *,
    measured: Sequence[bool],
    threads: int,
    adjusted: Mapping[str, Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PixelStatistics:
    """Write pictures as one `.npy` file, uint8, images x size x size, that can be memory-mapped.

    Threads suffice: OpenCV and the digests let go of the interpreter while they work.

    Args:
        path: the file to write.
        image_ids: the images in the order of the rows; at least one.
        read: gives the bytes of an image's file, from any thread.
        size: side in pixels.
        measured: for each image, whether its pixels count in the statistics.
        threads: pictures decoded at a time.
        adjusted: how the contrast of each picture is adjusted before it is resized, see `contrast.adjust`; or None.
        progress: called with the pictures written so far and their number.

    Returns:
        The statistics over the pictures that count: whole-number sums, so the same in any order.

    Raises:
        DataError: a picture cannot be read or decoded.
    """
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(image_ids), size, size))
    counts = np.zeros(256, np.int64)
    pictures = _decoded(image_ids, read, size, threads, adjusted or {"name": "none"})
    for row, (picture, counts_in) in enumerate(zip(pictures, measured, strict=True)):
        array[row] = picture
        if counts_in:
            counts += np.bincount(picture.ravel(), minlength=256)
        if progress:
            progress(row + 1, len(image_ids))
    array.flush()
    return _statistics(counts)


def _decoded(
    image_ids: Sequence[str], read: Callable[[str], bytes], size: int, threads: int, adjusted: Mapping[str, Any]
) -> Iterator[Pixels]:
    def one(image_id: str) -> Pixels:
        data = read(image_id)
        try:
            return to_square(contrast.adjust(decode_grey(data), adjusted), size)
        except DataError as error:
            raise DataError(error.what, where=image_id) from error

    with ThreadPoolExecutor(threads) as pool:
        upcoming = iter(image_ids)
        waiting: deque[Future[Pixels]] = deque(
            pool.submit(one, name) for name in itertools.islice(upcoming, 8 * threads)
        )
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(one, name) for name in itertools.islice(upcoming, 1))
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
