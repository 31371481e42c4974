"""diff: what two versions of the data set differ in, as a record and in pictures. The store is only read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import pandas as pd

from cxr_ops.data import changes, manifest
from cxr_ops.data.checking import decode
from cxr_ops.data.shards import ShardReader
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches, versions
from cxr_ops.edges.store.versions import Version
from cxr_ops.errors import StorageError
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.data import DataRevision
from cxr_ops.records.versions import Difference
from cxr_ops.stages.withdraw import as_it_is

SHOWN: Final = 24  # thumbnails of a group on a page, unless more are asked for
SIDE: Final = 128  # of a thumbnail, in pixels
_QUALITY: Final = 80  # of its JPEG, of 100


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Two versions, what they differ in, and their manifests."""

    versions: tuple[Version, Version]
    difference: Difference
    frames: tuple[pd.DataFrame, pd.DataFrame]


def run(home: Home, before: str, after: str) -> Compared:
    """Compare two versions of the data set.

    Args:
        home: the installation.
        before: one version, as `versions.find` takes it.
        after: the other one.

    Raises:
        SettingsError: there is no such version.
        DataError: a batch is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    made = versions.versions(home)
    first, second = (versions.find(home, made, text) for text in (before, after))
    frames = read(home, first.data), read(home, second.data)
    return Compared(
        versions=(first, second), difference=changes.compare(*frames, (first.data, second.data)), frames=frames
    )


def read(home: Home, data: DataRevision) -> pd.DataFrame:
    """The manifest of a version after its events, in the canonical order; without rows where it holds no batch.

    Raises:
        DataError: a batch is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    if not data.batches:
        return pd.DataFrame(columns=[*manifest.COLUMNS, "line"])
    return as_it_is(home, data).frame


def thumbnails(
    home: Home, wanted: Sequence[tuple[Version, pd.DataFrame]], *, side: int = SIDE
) -> dict[tuple[str, str], bytes]:
    """Small copies of images.

    Args:
        home: the installation.
        wanted: a version, and the rows of its manifest that are shown.
        side: of the copies, in pixels.

    Returns:
        For (batch, image id) a JPEG.

    Raises:
        DataError: a batch is missing from the store or was altered, or an image does not decode.
        StorageError: the remote does not answer.
    """
    made: dict[tuple[str, str], bytes] = {}
    for version, rows in wanted:
        if rows.empty:
            continue
        held = {name: version.data.batches[name] for name in sorted(set(rows["batch"]))}
        with batches.whole(home, version.data.model_copy(update={"batches": held})) as dataset:
            digests = dict(zip(rows["image_id"], rows["sha256"], strict=True))
            with ShardReader(dataset, digests) as reader:
                for batch, image_id in zip(rows["batch"], rows["image_id"], strict=True):
                    made[batch, image_id] = _thumbnail(reader.read(image_id), side)
    return made


def sample(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """So many rows of a manifest, by a hash of the image's bytes: the same ones each time.

    Patients take turns: a second image of one is chosen when each has one.
    """
    keyed = rows.assign(_key=[sha256_bytes(digest.encode()) for digest in rows["sha256"]])
    keyed = keyed.sort_values("_key", kind="stable")
    turn = keyed.groupby("patient_id", sort=False).cumcount()
    chosen = keyed.assign(_turn=turn).sort_values(["_turn", "_key"], kind="stable")
    return chosen.head(count).drop(columns=["_key", "_turn"])


def groups(compared: Compared, count: int) -> dict[str, pd.DataFrame]:
    """Rows to show of the images that came, left or changed; changed ones as they are in the later version."""
    before, after = compared.frames
    found = compared.difference
    parts: Iterable[tuple[str, pd.DataFrame, list[str]]] = (
        ("added", after, found.added_images),
        ("removed", before, found.removed_images),
        ("changed", after, found.changed_images),
    )
    return {name: sample(frame[frame["image_id"].isin(images)], count) for name, frame, images in parts}


def pictures(home: Home, compared: Compared, shown: Mapping[str, pd.DataFrame]) -> dict[tuple[str, str], bytes]:
    """The thumbnails of `groups`; see `thumbnails`."""
    before, after = compared.versions
    of_after = pd.concat([shown["added"], shown["changed"]])
    return thumbnails(home, [(before, shown["removed"]), (after, of_after)])


def _thumbnail(data: bytes, side: int) -> bytes:
    small = decode.to_square(decode.decode_grey(data), side)
    done, encoded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:  # OpenCV says no more
        raise StorageError("OpenCV cannot write a thumbnail as JPEG")
    return bytes(encoded)
