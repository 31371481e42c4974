"""The objects of the DVC remote one by one, in a folder and on a real S3 server."""

from __future__ import annotations

from pathlib import Path

import pytest
from projects import make_batch, make_home, make_project
from services import S3Server

from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.edges.store.remote import Remote
from cxr_ops.errors import StorageError


def check(home: Home, aside: Path) -> None:
    """Every object is listed and read; one that is deleted is gone, twice too, and the others stay."""
    remote = Remote(home)
    names = list(remote.names())
    listings = [name for name in names if name.endswith(".dir")]
    assert len(listings) == 1
    files = {name: path.read_bytes() for name in names if (path := remote.fetch(name, aside)) is not None}
    assert files.keys() == set(names)
    (shard,) = [name for name, data in files.items() if data.startswith(b"one pixels")]
    remote.delete(shard)
    remote.delete(shard)
    assert remote.fetch(shard, aside) is None
    assert sorted(remote.names()) == sorted(set(names) - {shard})


def test_a_folder(tmp_path: Path) -> None:
    """In a folder an object is a file."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    batches.add_batch(home, make_batch(tmp_path, "one"))
    check(home, tmp_path)


def test_a_bucket(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a bucket it is an object; a server that refuses is an error with what to check."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    settings = {"CXR_DVC_REMOTE": f"s3://{s3_server.make_bucket()}/dvc", "CXR_S3_ENDPOINT": s3_server.endpoint}
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"), **settings)
    batches.add_batch(home, make_batch(tmp_path, "one"))
    check(home, tmp_path)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="the DVC remote refused"):
        list(Remote(home).names())


def test_a_bucket_that_is_not_there(tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch for a bucket that nobody made does not enter, and the error says to make the bucket, and no more."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    settings = {"CXR_DVC_REMOTE": "s3://cxr-nobody-made/dvc", "CXR_S3_ENDPOINT": s3_server.endpoint}
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"), **settings)
    with pytest.raises(StorageError, match=r"^dvc push failed: The specified bucket does not exist") as caught:
        batches.add_batch(home, make_batch(tmp_path, "one"))
    assert caught.value.fix == "make the bucket, or set CXR_DVC_REMOTE to one that is there, then retry"
    assert "dvc.org" not in str(caught.value)
    assert batches.data_revision(home) is None
