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

from cxr_ops.data.manifest import IMAGE_ID
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


class Place(NamedTuple):
    """Where one image stands: all that another process needs to read it.

    Attributes:
        shard: the tar file.
        offset: of its first byte in the shard.
        size: in bytes.
        image_id: its name.
        sha256: of its bytes, which are checked against it; None: they are not.
    """

    shard: Path
    offset: int
    size: int
    image_id: str
    sha256: str | None


def read_place(place: Place) -> bytes:
    """The bytes of an image's file, as it was ingested.

    Raises:
        DataError: its bytes are not those on record.
        StorageError: the shard cannot be opened, or gives fewer bytes than it did.
    """
    try:
        file = os.open(place.shard, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"a shard cannot be read: {error.strerror}", where=place.shard) from error
    try:
        return _read(file, place)
    finally:
        os.close(file)


def _read(file: int, place: Place) -> bytes:
    data = os.pread(file, place.size, place.offset)
    if len(data) != place.size:
        raise StorageError("a shard became shorter while it was read", where=place.shard)
    if place.sha256 is not None and sha256_bytes(data) != place.sha256:
        raise DataError(f"the bytes of {place.image_id!r} are not those on record", where=place.shard)
    return data


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
        self._places: dict[str, Place] = {}
        self._files: dict[Path, int] = {}
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
        self._files[path] = file = os.open(path, os.O_RDONLY)
        size = os.fstat(file).st_size
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    if not member.isreg() or member.name in self._places:
                        problem = "is in the shards twice" if member.isreg() else "is not a plain file"
                        raise DataError(f"{member.name!r} {problem}", where=path)
                    if not IMAGE_ID.fullmatch(member.name):
                        raise DataError(f"{member.name!r} in a shard is not the name of an image", where=path)
                    if member.offset_data + member.size > size:
                        raise DataError("the shard is cut short", where=path, fix="pull it again: dvc pull --force")
                    expected = None if self._digests is None else self._digests.get(member.name, "")
                    self._places[member.name] = Place(path, member.offset_data, member.size, member.name, expected)
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
        place = self.place(image_id)
        return _read(self._files[place.shard], place)

    def place(self, image_id: str) -> Place:
        """Where an image stands, for `read_place`.

        Raises:
            DataError: no shard holds the image.
        """
        place = self._places.get(image_id)
        if place is None:
            raise DataError(f"no shard holds the image {image_id!r}")
        return place

    def close(self) -> None:
        """Close the shards."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
