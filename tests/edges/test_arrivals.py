"""A delivery is brought from a bucket: whole, or not at all, on a real S3 server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty import Proxy
from projects import make_home, make_project
from services import S3Server

from cxr_ops.edges import s3
from cxr_ops.edges.arrivals import _target, _targets, brought
from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError, StorageError

BUCKET = "cxr-brought"


@pytest.fixture(scope="module")
def client(s3_server: S3Server) -> Any:
    client = s3_server.client()
    client.create_bucket(Bucket=BUCKET)
    return client


@pytest.fixture
def home(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Home:
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    return make_home(tmp_path / "home", make_project(tmp_path / "project"), CXR_S3_ENDPOINT=s3_server.endpoint)


def test_a_delivery_is_brought_and_removed(home: Home, client: Any) -> None:
    """Every object below the address, and no neighbour's, stands in the folder while it is used, and not afterwards."""
    for key in ("a/one/images/0.png", "a/one/READY", "a/one/folder/", "a/one-more/1.png"):
        client.put_object(Bucket=BUCKET, Key=key, Body=key.encode() if key[-1] != "/" else b"")
    left = home.root / "tmp" / "arrival-one" / "left.png"
    left.parent.mkdir(parents=True)
    left.touch()  # by an attempt that was killed
    with brought(home, f"s3://{BUCKET}/a/one", "one") as folder:
        files = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert files == {"images/0.png": "a/one/images/0.png", "READY": "a/one/READY"}
    assert not folder.exists()


def test_no_proxy_is_asked_for_a_server_of_this_machine(home: Home, client: Any, monkeypatch) -> None:
    """Where the environment names a proxy, a delivery comes straight from a server on this machine all the same."""
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nothing listens there
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "")
    client.put_object(Bucket=BUCKET, Key="straight/READY", Body=b"{}")
    with brought(home, f"s3://{BUCKET}/straight", "straight") as folder:
        assert (folder / "READY").read_bytes() == b"{}"


def test_a_key_that_is_a_file_and_a_folder_is_refused(tmp_path: Path) -> None:
    """A bucket can hold both, and a disk cannot; the same delivery would fail again."""
    for keys in (["images", "images/0.png", "READY"], ["a/b/0.png", "a/b"]):
        with pytest.raises(DataError, match="is a file and a folder of others; nothing was brought"):
            _targets(tmp_path, keys, "s3://bucket/a")
    assert _targets(tmp_path, ["a/0.png", "ab"], "s3://bucket/a") == [tmp_path / "a" / "0.png", tmp_path / "ab"]


def test_a_key_that_leads_elsewhere_brings_nothing(home: Home, client: Any) -> None:
    """A name that is no file's is refused before anything is written, also of objects that come before it."""
    for key in ("d/a.png", "d/new\nline.png"):
        client.put_object(Bucket=BUCKET, Key=key, Body=b"pixels")
    before = sorted(home.root.rglob("*"))
    with pytest.raises(DataError, match="no name of a file"), brought(home, f"s3://{BUCKET}/d", "d"):
        pytest.fail("it was brought")
    assert sorted(home.root.rglob("*")) == before


@pytest.mark.parametrize("key", ["../up.png", "a/../../up.png", "/etc/passwd", "a//b.png", "a\\..\\b.png", "./a.png"])
def test_keys_that_other_servers_take_are_refused(tmp_path: Path, key: str) -> None:
    """What Amazon's S3 keeps as a key, and this server does not, leads out of no folder either."""
    with pytest.raises(DataError, match="no name of a file"):
        _target(tmp_path, key, "s3://bucket/d")


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    with Proxy(s3_server.endpoint).running() as proxy:
        yield proxy


@pytest.fixture
def disturbed(home: Home, client: Any, proxy: Proxy) -> Home:
    """An installation that reaches the server through the proxy, and a delivery there.

    It was sent without checksums of its own, as older programs do: the library has nothing to compare with.
    """
    older = s3.client(client.meta.endpoint_url, request_checksum_calculation="when_required")
    older.put_object(Bucket=BUCKET, Key="e/images/0.png", Body=PICTURE)
    older.put_object(Bucket=BUCKET, Key="e/READY", Body=b"")
    return make_home(home.root, home.project, CXR_S3_ENDPOINT=proxy.endpoint)


PICTURE = bytes(range(256)) * 40


def pictures(method: str, path: str) -> bool:
    return method == "GET" and path.split("?")[0].endswith(".png")


@pytest.mark.parametrize("fault", ["503", "reset", "slow", "short", "cut", "altered"])
def test_what_breaks_off_or_arrives_as_another_is_asked_for_again(disturbed: Home, proxy: Proxy, fault: str) -> None:
    """A busy server, a lost connection, half an object under a 200 and one with another byte: what comes is right."""
    proxy.inject(fault, meets=pictures)
    with brought(disturbed, f"s3://{BUCKET}/e", "e") as folder:
        assert (folder / "images" / "0.png").read_bytes() == PICTURE
    assert proxy.met == 1


@pytest.mark.parametrize("fault", ["short", "cut", "altered"])
def test_what_stays_wrong_is_not_brought(disturbed: Home, proxy: Proxy, fault: str) -> None:
    """Where every answer is half of the object or another one, that is said after three, and nothing is left."""
    proxy.inject(meets=pictures, rest=fault)
    with pytest.raises(StorageError) as caught, brought(disturbed, f"s3://{BUCKET}/e", "e"):
        pytest.fail("it was brought")
    assert f"s3://{BUCKET}/e" in str(caught.value.where)
    assert proxy.met == 3
    assert not (disturbed.root / "tmp" / "arrival-e").exists()


def test_nothing_and_no_bucket_are_told(home: Home, client: Any) -> None:
    """An address below which nothing is, is bad data; a bucket that is not there is a matter of the store."""
    with pytest.raises(DataError, match="nothing below"), brought(home, f"s3://{BUCKET}/nowhere", "c"):
        pytest.fail("it was brought")
    with pytest.raises(StorageError, match="NoSuchBucket"), brought(home, "s3://cxr-no-such-bucket/a", "c"):
        pytest.fail("it was brought")
