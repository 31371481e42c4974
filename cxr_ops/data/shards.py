"""Images in immutable tar files of about 2,000 each: one large file travels where thousands of small ones would crawl.

A shard is a plain USTAR archive whose bytes depend on nothing but the names and contents of its members, so the same
batch gives the same shards anywhere. Members are named by image id. Any `tar` reads them.
"""

from __future__ import annotations

import io
import itertools
import os
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

from cxr_ops.errors import DataError, StorageError
from cxr_ops.records.base import sha256_bytes

IMAGES_PER_SHARD: Final = 2000
PATTERN: Final = "shard-*.tar"
# What a member costs besides its bytes: a header, and zeros up to the next multiple of 512.
OVERHEAD_BYTES: Final = 1024


def write_shards(folder: Path, images: Iterable[tuple[str, bytes]], *, per_shard: int = IMAGES_PER_SHARD) -> list[Path]:
    """Write images into `folder` as `shard-00000.tar`, `shard-00001.tar`, ...

    Args:
        folder: an existing folder without shards.
        images: (image id, bytes of the file), in the order in which they are stored.
        per_shard: images in each shard but the last.

    Returns:
        The files written, in order.

    Raises:
        OSError: the folder cannot be written, or holds a shard already.
    """
    written: list[Path] = []
    upcoming = iter(images)
    while first := next(upcoming, None):
        written.append(folder / f"shard-{len(written):05d}.tar")
        with tarfile.open(written[-1], "x", format=tarfile.USTAR_FORMAT) as tar:
            for image_id, data in itertools.chain([first], itertools.islice(upcoming, per_shard - 1)):
                member = tarfile.TarInfo(image_id)  # its defaults: mode 0644, owner 0, time 0, no names
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return written


class _Place(NamedTuple):
    file: int
    offset: int
    size: int


class ShardReader:
    """Reads images of a data set by id, from any number of threads.

    The headers of all shards are read once; each image is then one `pread`.

    Args:
        dataset: the folder `dataset`, with a folder a batch, or one batch's folder.
        digests: SHA-256 by image id; what is read is checked against it.

    Raises:
        DataError: there is no shard, one is damaged, or two hold the same image.
    """

    def __init__(self, dataset: Path, digests: Mapping[str, str] | None = None) -> None:
        self._digests = digests
        self._places: dict[str, _Place] = {}
        self._files: dict[int, Path] = {}
        paths = sorted([*dataset.glob(PATTERN), *dataset.glob(f"*/{PATTERN}")])
        if not paths:
            raise DataError(
                "there are no image shards",
                where=dataset,
                fix="cxr-ops ingest nih PATH --batch NAME, then cxr-ops open",
            )
        try:
            for path in paths:
                self._add(path)
        except BaseException:
            self.close()
            raise

    def _add(self, path: Path) -> None:
        file = os.open(path, os.O_RDONLY)
        self._files[file] = path
        size = os.fstat(file).st_size
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if not member.isreg() or member.name in self._places:
                        problem = "is in the shards twice" if member.isreg() else "is not a plain file"
                        raise DataError(f"{member.name!r} {problem}", where=path)
                    if member.offset_data + member.size > size:
                        raise DataError("the shard is cut short", where=path, fix="pull it again: dvc pull --force")
                    self._places[member.name] = _Place(file, member.offset_data, member.size)
        except tarfile.TarError as error:
            raise DataError(
                f"the shard is damaged: {error}", where=path, fix="pull it again: dvc pull --force"
            ) from error

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all images."""
        return frozenset(self._places)

    def read(self, image_id: str) -> bytes:
        """The bytes of an image's file, as it was ingested.

        Raises:
            DataError: no shard holds the image, or its bytes are not those on record.
            StorageError: the disk gives fewer bytes than the shard holds.
        """
        place = self._places.get(image_id)
        if place is None:
            raise DataError(f"no shard holds the image {image_id!r}")
        data = os.pread(place.file, place.size, place.offset)
        if len(data) != place.size:
            raise StorageError("a shard became shorter while it was read", where=self._files[place.file])
        if self._digests is not None and sha256_bytes(data) != self._digests.get(image_id):
            raise DataError(f"the bytes of {image_id!r} are not those on record", where=self._files[place.file])
        return data

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.popitem()[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
