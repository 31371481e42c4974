"""The objects of the DVC remote, one by one: to look for what must go, and to delete it.

DVC itself deletes nothing that a version still points to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from cxr_ops.edges import dvc, s3
from cxr_ops.edges.home import Home
from cxr_ops.errors import StorageError

T = TypeVar("T")
_FIX: Final = "check CXR_S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that objects may be deleted"


class Remote:
    """The remote of an installation, a folder or a bucket. An object is named as DVC names it, by its MD5.

    Raises:
        StorageError: whatever is asked of it fails.
    """

    def __init__(self, home: Home) -> None:
        self._folder = home.remote_folder
        self._where = home.dvc_remote
        self._bucket = self._prefix = ""
        self._client: Any = None
        if self._folder is None:
            self._bucket, self._prefix = s3.split(home.dvc_remote)
            self._client = s3.client(home.s3_endpoint)

    def names(self) -> Iterator[str]:
        """Every object."""
        if self._folder is not None:
            for path in sorted((self._folder / "files" / "md5").glob("??/*")):
                if path.is_file():
                    yield path.parent.name + path.name
            return
        yield from self._try(lambda: list(self._keys()))

    def _keys(self) -> Iterator[str]:
        root = f"{self._prefix}files/md5/"
        for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=root):
            yield from (item["Key"].removeprefix(root).replace("/", "") for item in page.get("Contents", ()))

    def fetch(self, name: str, aside: Path) -> Path | None:
        """A file with an object's bytes, in the remote itself or in `aside`; None where there is no such object."""
        if self._folder is not None:
            path = dvc.place(self._folder, name)
            return path if path.is_file() else None
        from botocore.exceptions import ClientError

        target = aside / name
        try:
            self._try(lambda: self._client.download_file(self._bucket, self._key(name), str(target)))
        except StorageError as error:
            cause = error.__cause__
            if isinstance(cause, ClientError) and cause.response["Error"]["Code"] in ("404", "NoSuchKey"):
                return None
            raise
        return target

    def delete(self, name: str) -> None:
        """Delete an object, if it is there; in a bucket with versions, every version of it."""
        if self._folder is not None:
            try:
                dvc.place(self._folder, name).unlink(missing_ok=True)
            except OSError as error:
                raise StorageError(
                    f"an object cannot be deleted: {error.strerror}",
                    where=error.filename,
                    fix="mend the folder's rights",
                ) from error
            return
        self._try(lambda: self._delete(self._key(name)))

    def _delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=key)
        if self._client.get_bucket_versioning(Bucket=self._bucket).get("Status"):
            found = self._client.list_object_versions(Bucket=self._bucket, Prefix=key)
            for one in (*found.get("Versions", ()), *found.get("DeleteMarkers", ())):
                if one["Key"] == key:
                    self._client.delete_object(Bucket=self._bucket, Key=key, VersionId=one["VersionId"])

    def _key(self, name: str) -> str:
        return f"{self._prefix}files/md5/{name[:2]}/{name[2:]}"

    def _try(self, ask: Callable[[], T]) -> T:
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return ask()
        except (BotoCoreError, ClientError, Boto3Error) as error:
            raise StorageError(f"the DVC remote refused: {error}", where=self._where, fix=_FIX) from error
