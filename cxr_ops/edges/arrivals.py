"""A delivery in a bucket, brought here: whole and checked, or not at all."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cxr_ops.edges import s3
from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError, StorageError

_MD5: Final = re.compile(r'"([0-9a-f]{32})"')  # the tag of an object that was sent in one piece
_CHUNK: Final = 2**20
_TRIES: Final = 3


@contextmanager
def brought(home: Home, address: str, batch: str) -> Iterator[Path]:
    """Bring the objects below an address into a folder, which is removed afterwards.

    Each is as long as the bucket says, and, where it was sent in one piece, has the MD5 that the bucket says. What
    `READY` says of them is for ingestion to check.

    Args:
        home: the installation; the folder is made in it.
        address: `s3://bucket/prefix` of a delivery.
        batch: the delivery's batch, which names the folder.

    Raises:
        DataError: nothing is there, or a key would lead out of the folder; nothing was written then.
        StorageError: the bucket cannot be read, or what arrived is not what it holds.
    """
    bucket, top = s3.split(address)
    folder = home.root / "tmp" / f"arrival-{batch}"
    shutil.rmtree(folder, ignore_errors=True)  # what a killed attempt left
    try:
        with _errors(home, address):
            client: Any = s3.client(
                home.s3_endpoint,
                connect_timeout=10,
                read_timeout=60,
                retries={"total_max_attempts": 5, "mode": "standard"},
            )
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=top)
            objects = [one for page in pages for one in page.get("Contents", ()) if not one["Key"].endswith("/")]
            targets = _targets(folder, [one["Key"].removeprefix(top) for one in objects], address)
            if not objects:
                raise DataError("there is nothing below this address", where=address, fix="name a folder of the bucket")
            for one, target in zip(objects, targets, strict=True):
                target.parent.mkdir(parents=True, exist_ok=True)
                _bring(client, bucket, one, target)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _bring(client: Any, bucket: str, listed: dict[str, Any], target: Path) -> None:
    """Bring an object; one whose transfer broke off, or that arrived as another, is asked for again."""
    from botocore.exceptions import BotoCoreError

    tag = _MD5.fullmatch(listed["ETag"])
    trouble: BotoCoreError | None = None
    for _ in range(_TRIES):
        try:
            size, digest = _read(client, bucket, listed, target)
        except BotoCoreError as error:  # the library tries requests again, and not the reading of what they return
            trouble = error
            continue
        if size == listed["Size"] and (tag is None or tag[1] == digest):
            return
        trouble = None
    if trouble is not None:
        raise trouble
    raise StorageError(
        f"an object of {listed['Size']:,} bytes arrived as {size:,} others, {_TRIES} times",
        where=f"s3://{bucket}/{listed['Key']}",
        fix="retry; if it stays so, deliver the batch again",
    )


def _read(client: Any, bucket: str, listed: dict[str, Any], target: Path) -> tuple[int, str]:
    digest, size = hashlib.md5(usedforsecurity=False), 0
    # The object that was listed, and no other that has come in its place.
    body = client.get_object(Bucket=bucket, Key=listed["Key"], IfMatch=listed["ETag"])["Body"]
    with target.open("wb") as file:
        for chunk in body.iter_chunks(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
            file.write(chunk)
    return size, digest.hexdigest()


def _targets(folder: Path, keys: Sequence[str], address: str) -> list[Path]:
    """The file of each key.

    Raises:
        DataError: a key would lead out of the folder, or two need one place as a file and as a folder.
    """
    targets = [_target(folder, key, address) for key in keys]
    above = {parent for target in targets for parent in target.parents}
    if both := next((key for key, target in zip(keys, targets, strict=True) if target in above), None):
        raise DataError(
            f"the key {both!r} is a file and a folder of others; nothing was brought",
            where=address,
            fix="deliver the batch with other names",
        )
    return targets


def _target(folder: Path, key: str, address: str) -> Path:
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or re.search(r"[\\\x00-\x1f\x7f]", key):
        raise DataError(
            f"the key {key!r} is no name of a file in a folder; nothing was brought",
            where=address,
            fix="deliver the batch with other names",
        )
    return folder.joinpath(*parts)


@contextmanager
def _errors(home: Home, address: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except StorageError:
        raise
    except (BotoCoreError, ClientError, OSError) as error:
        raise StorageError(
            f"the delivery cannot be brought from the bucket: {error}",
            where=f"{address} at {home.s3_endpoint or 'Amazon S3'}",
            fix="check CXR_S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that the disk has room; retry",
        ) from error
