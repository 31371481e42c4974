"""The ledger on a real S3 server (SeaweedFS), with versions and object lock: one winner for each number."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from finished import make_home
from services import S3Server

from cxr_ops.audit.entries import Look
from cxr_ops.edges import doctor
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Bucket, Ledger, open_ledger
from cxr_ops.errors import StorageError


def look(name: str) -> Look:
    return Look(model=name, test_digest="t", run="r")


@pytest.fixture
def bucket(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with versions and object lock, and the environment to reach it."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    return s3_server.make_bucket(ObjectLockEnabledForBucket=True)


WRITERS = 20
WRITER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from cxr_ops.edges.ledger import Bucket, Ledger
address, endpoint, process, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
ledger = Ledger(Bucket(address, endpoint, days=1))
ledger.entries()
print("ready", flush=True)
sys.stdin.readline()
def write(number):
    return ledger.append("look", {"model": f"{process}-{number}", "test_digest": "t", "run": "r"}).seq
with ThreadPoolExecutor(count) as pool:
    print(*pool.map(write, range(count)))
"""


def test_twenty_writers_lose_nothing(bucket: str, s3_server: S3Server) -> None:
    """Twenty writers in two processes, on a bucket with versions and locks, get twenty numbers, and none twice."""
    address = f"s3://{bucket}/twenty"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, address, s3_server.endpoint, name, str(WRITERS // 2)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [int(number) for process in processes for number in process.communicate()[0].split()]
    assert sorted(told) == list(range(1, WRITERS + 1))
    entries = Ledger(Bucket(address, s3_server.endpoint)).entries()
    assert sorted(entry.look.model for entry in entries) == sorted(
        f"{p}-{n}" for p in "ab" for n in range(WRITERS // 2)
    )
    client = s3_server.client()
    versions = client.list_object_versions(Bucket=bucket, Prefix="twenty/")["Versions"]
    assert len(versions) == WRITERS  # no number was written twice, one version over another


def test_entry_is_locked_and_cannot_be_removed(bucket: str, s3_server: S3Server) -> None:
    """In a bucket with object lock an entry's version has a date before which nobody removes it."""
    from botocore.exceptions import ClientError

    storage = Bucket(f"s3://{bucket}/locked", s3_server.endpoint, days=1)
    entry = Ledger(storage).append("look", look("m"))
    client, key = s3_server.client(), "locked/00000001.json"
    held = client.head_object(Bucket=bucket, Key=key)
    assert held["ObjectLockMode"] == "COMPLIANCE"
    with pytest.raises(ClientError, match=r"AccessDenied|Access Denied|locked|retention"):
        client.delete_object(Bucket=bucket, Key=key, VersionId=held["VersionId"])
    assert Ledger(storage).entries() == [entry]
    assert storage.create("00000001.json", b"{}") is False


def test_installation_keeps_its_ledger_and_anchors_in_buckets(
    bucket: str, s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With CXR_LEDGER and CXR_ANCHOR the same ledger is read from any machine, and a cut tail is found."""
    client = s3_server.client()
    plain, anchors = s3_server.make_bucket(), s3_server.make_bucket()
    environ = {
        "CXR_LEDGER": f"s3://{plain}/of/cxr",
        "CXR_ANCHOR": f"s3://{anchors}",
        "CXR_S3_ENDPOINT": s3_server.endpoint,
        "CXR_PROJECT": str(tmp_path / "project"),
    }
    (tmp_path / "project").mkdir()
    first, second = (Home.find(environ | {"CXR_HOME": str(tmp_path / name)}) for name in "ab")
    for number in range(3):
        open_ledger((first, second)[number % 2]).append("look", look(str(number)))
    assert [entry.look.model for entry in open_ledger(second).entries()] == ["0", "1", "2"]
    assert not first.ledger.exists()
    open_ledger(first).witness.put(open_ledger(first).entries())
    assert doctor._ledger(first).startswith(f"3 entries, chain whole; of 20 writers one wins in s3://{plain}/of/cxr")
    client.delete_object(Bucket=plain, Key="of/cxr/00000003.json")
    with pytest.raises(StorageError, match="held 3 entries and now holds 2"):
        doctor._ledger(second)


def test_store_that_is_down_or_refuses_is_said_so(bucket: str, s3_server: S3Server, monkeypatch) -> None:
    """A wrong key or a bucket that is not there is a StorageError with the settings to check, and no empty ledger."""
    with pytest.raises(StorageError, match="cannot be") as raised:
        Ledger(Bucket("s3://no-such-bucket-here/x", s3_server.endpoint)).append("look", look("m"))
    assert "CXR_LEDGER" in str(raised.value.fix)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="cannot be read") as raised:
        Ledger(Bucket(f"s3://{bucket}/twenty", s3_server.endpoint)).entries()
    assert "wrong" not in str(raised.value)


def test_store_that_lets_two_win_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where more than one of the racing writers is told that it won, `doctor` says that the store is of no use."""
    home = replace(make_home(tmp_path), ledger_at="s3://bucket/x", s3_endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(Bucket, "race", lambda self: 2)
    monkeypatch.setattr(Bucket, "read", lambda self, name: None)
    monkeypatch.setattr(Bucket, "names", lambda self: [])
    with pytest.raises(StorageError, match="2 were told that they had won"):
        doctor._ledger(home)
