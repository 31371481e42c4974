"""The ledger's entries in an S3 bucket, an object each.

An entry is created with `If-None-Match: *`, so that of two writers that want the same number one wins. Where the bucket
has object lock, entries are written in compliance mode: nobody, the owner included, removes a version before its time.
Some servers let two writers win where versioning or locks are on: `race` tries the one that is used, and `cxr-ops
doctor` calls it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.edges import s3
from cxr_ops.errors import StorageError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

SECONDS: Final = 20.0  # for a connection, and for an answer
_TAKEN: Final = ("PreconditionFailed", "412")
_BUSY: Final = ("ConditionalRequestConflict", "409")  # two writers at once, and neither has won yet
_TRIES: Final = 50
_NONE: Final = ("NoSuchKey", "404", "NotFound")
RACERS: Final = 20


class Bucket:
    """Keeps entries under a prefix of a bucket; see `chain.Storage`. The bucket must be there.

    Args:
        address: `s3://bucket/path`.
        endpoint: of the server; None: Amazon's.
        days: for how long an entry is locked, where the bucket has object lock.
    """

    def __init__(self, address: str, endpoint: str | None = None, *, days: int = 3650) -> None:
        self.address = address.rstrip("/")
        self._bucket, self._prefix = s3.split(self.address)
        self._endpoint = endpoint
        self._days = days
        self._made: S3Client | None = None
        self._locks: bool | None = None

    def names(self) -> list[str]:
        """Names of all that is here."""
        found: list[str] = []
        with self._told("listed"):
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
            for page in pages:
                found += [item["Key"].removeprefix(self._prefix) for item in page.get("Contents", [])]
        return found

    def read(self, name: str) -> bytes | None:
        """The bytes under a name, or None."""
        from botocore.exceptions import ClientError

        with self._told("read", name):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            except ClientError as error:
                if _code(error) in _NONE:
                    return None
                raise
            return answer["Body"].read()

    def create(self, name: str, data: bytes) -> bool:
        """Put bytes under a name that nobody has used; False when somebody has.

        A request whose answer was lost is sent again, and is then told that the name is taken: the bytes that stand
        there say by whom.
        """
        from botocore.exceptions import ClientError

        for _ in range(_TRIES):
            with self._told("written", name):
                try:
                    self._client.put_object(
                        Bucket=self._bucket,
                        Key=self._prefix + name,
                        Body=data,
                        ContentType="application/json",
                        IfNoneMatch="*",
                        **self._lock(),
                    )
                except ClientError as error:
                    if _code(error) in _BUSY:
                        continue
                    if _code(error) not in _TAKEN:
                        raise
                    return self.read(name) == data
                return True
        raise StorageError(
            "the store goes on saying that another writer is at work",
            where=self.place(name),
            fix="try the store: cxr-ops doctor; then retry",
        )

    def place(self, name: str | None = None) -> str:
        """Where an entry is, or the whole ledger, for people."""
        return f"{self.address}/{name}" if name else self.address

    def race(self, racers: int = RACERS) -> int:
        """Let writers race for a name of their own, and remove it again.

        Returns:
            How many were told that they had won. Any other number than 1 makes the store useless for a ledger.

        Raises:
            StorageError: the store does not answer, or refuses.
        """
        name = f".race-{secrets.token_hex(8)}"
        with self._told("written", name):
            self._lock()  # makes the client, too, which takes longer than the race
        with ThreadPoolExecutor(racers) as pool:
            won = sum(pool.map(lambda number: self.create(name, b"%d" % number), range(racers)))
        with suppress(Exception), self._told("written", name):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        return won

    @property
    def _client(self) -> S3Client:
        if self._made is None:
            self._made = s3.client(
                self._endpoint, connect_timeout=SECONDS, read_timeout=SECONDS, max_pool_connections=RACERS
            )
        return self._made

    def _lock(self) -> dict[str, Any]:
        """What locks an object, where the bucket has object lock."""
        from botocore.exceptions import ClientError

        if self._locks is None:
            try:
                answer = self._client.get_object_lock_configuration(Bucket=self._bucket)
                self._locks = answer["ObjectLockConfiguration"].get("ObjectLockEnabled") == "Enabled"
            except ClientError as error:
                if _code(error) not in ("ObjectLockConfigurationNotFoundError", "NotImplemented", *_NONE):
                    raise
                self._locks = False
        if not self._locks:
            return {}
        until = datetime.now(UTC) + timedelta(days=self._days)
        return {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}

    @contextmanager
    def _told(self, done: str, name: str | None = None) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except (BotoCoreError, ClientError) as error:
            raise StorageError(
                f"the ledger cannot be {done}: {error}",
                where=self.place(name),
                fix="check CXR_LEDGER, CXR_ANCHOR, CXR_S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then "
                "retry: cxr-ops doctor",
            ) from error


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
