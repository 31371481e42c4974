"""New batches in an incoming folder, or under a prefix of a bucket: each is taken once.

    CXR_INCOMING/
      march/           a delivery: a folder as `cxr-ops ingest` takes it
        READY          its end, written last: empty, or what `sha256sum` prints of all other files
      .april/          not looked at: its name begins with a dot

A delivery is taken when its `READY` is there, every file that `READY` names is there, and nothing in the folder has
changed between two looks. It is known by its name, the content of `READY` and when that was written: who mends a
delivery writes `READY` anew, and it is taken again. Taken deliveries may stay where they are, or be removed.

Exactly once, through restarts: `BatchTrigger` says what has arrived, again and again until the DAG `cxr_arrivals` has
written the delivery's key into the state of the Asset. That DAG starts a run of `cxr_ingest` whose id holds the key, so
that Airflow refuses a second one. A delivery that is refused, or whose run fails, is not taken again by itself.

Where a bucket tells a queue of SQS of new objects (`CXR_INCOMING_QUEUE`), a message wakes the trigger before its time.
What has arrived is what the listing says, with or without a message: one that is lost costs time, one too many a look.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import re
import stat
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from airflow.triggers.base import BaseEventTrigger, TriggerEvent

from cxr_ops import contract

POLL_SECONDS: Final = 30.0
# A run that was started writes the delivery's key within seconds; a DAG that is paused, or a lost event, does not.
AGAIN_SECONDS: Final = 600.0
QUEUE_SECONDS: Final = 20  # the longest that SQS keeps a question waiting
# After a message, until the second look: a delivery is whole when nothing has changed between two.
SETTLE_SECONDS: Final = 2.0
READY_BYTES: Final = 64 * 2**20  # of a READY that names half a million files
_UNREADABLE: Final = "unreadable"
_REGION: Final = re.compile(r"sqs\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A folder whose `READY` is there.

    Attributes:
        name: of the folder.
        where: its path, or its address in a bucket.
        version: of its `READY`, which changes whenever that is written.
    """

    name: str
    where: str
    version: str

    @property
    def key(self) -> str:
        """What the delivery is known by: 16 hexadecimal digits."""
        return hashlib.sha256(f"{self.name}\0{self.version}".encode(errors="surrogateescape")).hexdigest()[:16]

    def payload(self) -> dict[str, str]:
        """What the event says: identifiers alone."""
        return {"path": self.where, "batch": contract.batch_name(self.name), "key": self.key}


class Place(Protocol):
    """Where deliveries arrive.

    Each method raises OSError where the place cannot be read.
    """

    def deliveries(self) -> list[Delivery]:
        """The folders that have a `READY`, by name."""

    def ready(self, name: str) -> str:
        """The text of a delivery's `READY`."""

    def files(self, name: str) -> dict[str, str]:
        """Every file of a delivery but `READY`, and what changes when it does."""


class Folder:
    """A folder of deliveries."""

    def __init__(self, root: str) -> None:
        self._root = Path(root)
        self._told: set[str] = set()

    def deliveries(self) -> list[Delivery]:
        """See `Place`; links are not followed."""
        with os.scandir(self._root) as entries:
            names = sorted(one.name for one in entries if one.name[0] != "." and one.is_dir(follow_symlinks=False))
        found = []
        for name in names:
            path = self._root / name / contract.READY
            try:
                at = path.lstat()
            except OSError:
                continue
            if why := _unusual(name, at.st_mode):  # one such delivery must not keep the others waiting
                self._tell_once(name, why)
                continue
            try:
                digest = hashlib.sha256(self.ready(name).encode()).hexdigest()
            except FileNotFoundError:
                continue
            except OSError:  # of this delivery: ingestion says so, and the others do not wait for it
                digest = _UNREADABLE
            version = f"{digest} {at.st_mtime_ns}"
            found.append(Delivery(name=name, where=str(self._root / name), version=version))
        return found

    def _tell_once(self, name: str, why: str) -> None:
        if name not in self._told:
            self._told.add(name)
            _log.warning("The delivery %a in %s is passed over: %s.", name, self._root, why)

    def ready(self, name: str) -> str:
        """See `Place`."""
        with (self._root / name / contract.READY).open("rb") as file:
            return file.read(READY_BYTES).decode(errors="replace")

    def files(self, name: str) -> dict[str, str]:
        """See `Place`."""
        top = self._root / name
        found = {}
        try:
            for folder, _, names in os.walk(top, onerror=_raise):
                for one in names:
                    path = Path(folder, one)
                    at = path.lstat()
                    found[path.relative_to(top).as_posix()] = f"{at.st_size} {at.st_mtime_ns}"
        except FileNotFoundError:
            return {"": f"moving {time.monotonic_ns()}"}
        except PermissionError:
            return {"": _UNREADABLE}
        found.pop(contract.READY, None)
        return found


def _unusual(name: str, mode: int) -> str:
    """Why a folder is passed over, whose READY has this mode; "" where it is not."""
    if not stat.S_ISREG(mode):
        return f"{contract.READY} is no plain file"
    try:
        name.encode()
    except UnicodeEncodeError:
        return "its name is no UTF-8"
    return ""


class Bucket:
    """A prefix of a bucket, with a delivery under each next part of the key."""

    def __init__(self, address: str) -> None:
        if find_spec("boto3") is None:
            raise ValueError("CXR_INCOMING names a bucket, and boto3 is not beside Airflow: pip install boto3")
        self._bucket, _, prefix = address.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._client: Any = None

    def deliveries(self) -> list[Delivery]:
        """See `Place`."""
        found = []
        for name in self._names():
            answer = self._head(f"{self._prefix}{name}/{contract.READY}")
            if answer is not None:
                version = f"{answer['ETag']} {answer['LastModified'].isoformat()}"
                where = f"s3://{self._bucket}/{self._prefix}{name}"
                found.append(Delivery(name=name, where=where, version=version))
        return found

    def ready(self, name: str) -> str:
        """See `Place`."""
        with _told_as_oserror():
            key = f"{self._prefix}{name}/{contract.READY}"
            body = self._s3().get_object(Bucket=self._bucket, Key=key)["Body"]
            return bytes(body.read(READY_BYTES)).decode(errors="replace")

    def files(self, name: str) -> dict[str, str]:
        """See `Place`."""
        top = f"{self._prefix}{name}/"
        objects = {one["Key"].removeprefix(top): one for page in self._pages(top) for one in page.get("Contents", ())}
        objects.pop(contract.READY, None)
        return {key: f"{one['Size']} {one['ETag']}" for key, one in objects.items() if not key.endswith("/")}

    def _names(self) -> list[str]:
        pages = self._pages(self._prefix, Delimiter="/")
        prefixes = [one["Prefix"] for page in pages for one in page.get("CommonPrefixes", ())]
        names = (one.removeprefix(self._prefix).rstrip("/") for one in prefixes)
        return sorted(name for name in names if name and not name.startswith("."))

    def _pages(self, prefix: str, **more: str) -> list[dict[str, Any]]:
        with _told_as_oserror():
            pages = self._s3().get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix, **more)
            return list(pages)

    def _head(self, key: str) -> dict[str, Any] | None:
        from botocore.exceptions import ClientError

        with _told_as_oserror():
            try:
                return dict(self._s3().head_object(Bucket=self._bucket, Key=key))
            except ClientError as error:
                if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                    return None
                raise

    def _s3(self) -> Any:
        if self._client is None:
            import boto3
            from botocore.config import Config

            config = Config(connect_timeout=10, read_timeout=60, retries={"total_max_attempts": 3, "mode": "standard"})
            endpoint = os.environ.get("CXR_S3_ENDPOINT") or None
            self._client = boto3.session.Session().client("s3", endpoint_url=endpoint, config=config)
        return self._client


@contextmanager
def _told_as_oserror(what: str = "the bucket") -> Iterator[None]:
    """What the S3 library raises becomes OSError, which is what a folder raises."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except (BotoCoreError, ClientError, ValueError) as error:
        raise OSError(f"{what} cannot be read: {error}") from error


class Queue:
    """A queue of SQS that a bucket tells of new objects: a message says when to look, and nothing else.

    Args:
        url: of the queue.

    Raises:
        ValueError: it is none, or there is no library to read it.
    """

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.strip("/"):
            raise ValueError(f"CXR_INCOMING_QUEUE is {url!r}: set it to the URL of a queue, https://sqs...")
        if find_spec("boto3") is None:
            raise ValueError("CXR_INCOMING_QUEUE names a queue, and boto3 is not beside Airflow: pip install boto3")
        self._url, self._endpoint = url, f"{parts.scheme}://{parts.netloc}"
        named = _REGION.fullmatch(parts.hostname)
        self._region = named[1] if named else None  # else that of the environment
        self._client: Any = None

    def wait(self, seconds: float) -> bool:
        """Wait for a message; those that are there are taken out.

        Args:
            seconds: to wait at most; 20 are the most that count, and parts of a second do not.

        Returns:
            Whether there was one.

        Raises:
            OSError: the queue cannot be read.
        """
        found = False
        with _told_as_oserror("the queue"):
            if self._client is None:
                self._client = self._connect()
            while True:
                answer = self._client.receive_message(
                    QueueUrl=self._url,
                    MaxNumberOfMessages=10,
                    WaitTimeSeconds=0 if found else min(QUEUE_SECONDS, int(seconds)),
                )
                if not (messages := answer.get("Messages", [])):
                    return found
                found = True
                entries = [{"Id": str(at), "ReceiptHandle": one["ReceiptHandle"]} for at, one in enumerate(messages)]
                self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)

    def _connect(self) -> Any:
        import boto3
        from botocore.config import Config

        config = Config(
            connect_timeout=10,
            read_timeout=QUEUE_SECONDS + 10,
            retries={"total_max_attempts": 3, "mode": "standard"},
        )
        session = boto3.session.Session(region_name=self._region)
        return session.client("sqs", endpoint_url=self._endpoint, config=config)


def place_of(address: str) -> Place:
    """The folder or the bucket that `CXR_INCOMING` names.

    Raises:
        ValueError: it is neither an absolute path nor `s3://bucket/prefix`, or there is no library to read a bucket.
    """
    if address.startswith("/"):
        return Folder(address)
    if address.startswith("s3://") and address.removeprefix("s3://").strip("/"):
        return Bucket(address)
    raise ValueError(f"CXR_INCOMING is {address!r}: set it to the whole path of a folder, or to s3://bucket/prefix")


class Watch:
    """Looks at a place, and knows which deliveries are whole: all is there, and nothing moves any more."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._last: dict[str, dict[str, str]] = {}

    def look(self, known: frozenset[str] = frozenset()) -> list[Delivery]:
        """The deliveries that are whole, without those of known keys.

        Args:
            known: keys of deliveries that are not looked into.

        Raises:
            OSError: the place cannot be read.
        """
        found = [one for one in self._place.deliveries() if one.key not in known]
        now = {one.key: self._place.files(one.name) for one in found}
        whole = [one for one in found if self._last.get(one.key) == now[one.key] and self._all_there(one, now[one.key])]
        self._last = now
        return whole

    def _all_there(self, delivery: Delivery, files: Mapping[str, str]) -> bool:
        try:
            named = contract.read_ready(self._place.ready(delivery.name))
        except (PermissionError, ValueError):
            return True  # ingestion refuses it, and a person is told
        return named.keys() <= files.keys() or _UNREADABLE in files.values()


class BatchTrigger(BaseEventTrigger):
    """Says what has arrived, until it is written down that a delivery was taken; see the module's docstring.

    It outlives what a look can meet: a folder that is not mounted or a server that is down is logged, and looked at
    again.

    Args:
        where: the incoming folder, or `s3://bucket/prefix`.
        poll_seconds: between two looks.
        queue: URL of a queue of SQS whose messages wake it earlier; "" for none.
    """

    def __init__(self, where: str, poll_seconds: float = POLL_SECONDS, queue: str = "") -> None:
        super().__init__()  # type: ignore[no-untyped-call] # Airflow's says no types
        self.where = where
        self.poll_seconds = poll_seconds
        self.queue = queue

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """The class and its arguments, for the triggerer."""
        arguments: dict[str, Any] = {"where": self.where, "poll_seconds": self.poll_seconds}
        arguments |= {"queue": self.queue} if self.queue else {}
        return f"{type(self).__module__}.{type(self).__qualname__}", arguments

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look for ever; an event for each delivery that is whole and was not taken."""
        watch = Watch(place_of(self.where))
        taken: set[str] = set()
        told: dict[str, float] = {}
        trouble = ""
        queue = Queue(self.queue) if self.queue else None
        woken = False
        while True:
            try:
                whole = await asyncio.to_thread(watch.look, frozenset(taken))
            except OSError as error:
                whole = []
                if str(error) != trouble:
                    trouble = str(error)
                    self.log.warning("%s cannot be looked at; looking again: %s", self.where, trouble)
            else:
                trouble = ""
            for delivery in whole:
                if await self._was_taken(delivery.key):
                    taken.add(delivery.key)
                elif time.monotonic() - told.get(delivery.key, -AGAIN_SECONDS) >= AGAIN_SECONDS:
                    told[delivery.key] = time.monotonic()
                    yield TriggerEvent(delivery.payload())  # type: ignore[no-untyped-call] # Airflow's says no types
            woken = await self._pause(queue, woken)

    async def _pause(self, queue: Queue | None, woken: bool) -> bool:
        """Wait until the next look; say whether a message came. After one, the second look is soon."""
        if woken:
            await asyncio.sleep(min(self.poll_seconds, SETTLE_SECONDS))
            return False
        until = time.monotonic() + self.poll_seconds
        while queue is not None and (left := until - time.monotonic()) >= 1:
            try:
                if await asyncio.to_thread(queue.wait, left):
                    return True
            except OSError as error:
                left = max(0.0, until - time.monotonic())
                self.log.warning("the next look at %s is in %.0f s: %s", self.where, left, error)
                break
        await asyncio.sleep(max(0.0, until - time.monotonic()))
        return False

    async def _was_taken(self, key: str) -> bool:
        if self.asset_state_store is None:  # outside a triggerer
            return False
        return await self.asset_state_store.aget(key) is not None


def arrived(events: Iterable[Any]) -> list[dict[str, Any]]:
    """What the events of the Asset say, as arguments for runs of `cxr_ingest`: each delivery once.

    Args:
        events: of the Asset; those that no trigger sent say nothing of a delivery, and are passed over.
    """
    payloads = [(event.extra or {}).get("payload") for event in events]
    found = {payload["key"]: payload for payload in payloads if isinstance(payload, dict) and "key" in payload}
    return [
        {
            "trigger_run_id": f"arrival__{payload['batch']}__{payload['key']}",
            "conf": {"path": payload["path"], "batch": payload["batch"]},
        }
        for payload in found.values()
    ]


def mark_taken(store: Any, runs: Iterable[Mapping[str, Any]]) -> None:
    """Write down that deliveries were taken, so that the trigger says nothing of them any more.

    Args:
        store: the state of the Asset.
        runs: what `arrived` returned.
    """
    for run in runs:
        run_id = str(run["trigger_run_id"])
        store.set(run_id.rpartition("__")[2], {"run_id": run_id, "path": str(run["conf"]["path"])})


def _raise(error: OSError) -> None:
    raise error
