"""Data travel by a real S3 server behind a network that fails: they arrive right, or nothing wrong is kept."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from faulty import Proxy
from projects import make_batch, make_home, make_project
from services import S3Server

from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, StorageError
from cxr_ops.records.base import tree_digest
from cxr_ops.stages import open as stage

BUCKET = "cxr-faults"
PASSING = ("503", "reset", "slow")


def objects(verb: str, path: str) -> bool:
    """Requests for objects of the data that are read or written, not for lists and tests of what is there."""
    return path.startswith(f"/{BUCKET}/") and "/files/md5/" in path


def reads(method: str, path: str) -> bool:
    return method == "GET" and objects(method, path)


def writes(method: str, path: str) -> bool:
    return method in ("PUT", "POST") and objects(method, path)


@pytest.fixture(scope="module")
def proxy(s3_server: S3Server) -> Iterator[Proxy]:
    s3_server.client().create_bucket(Bucket=BUCKET)
    with Proxy(s3_server.endpoint).running() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("faults") / "project")


@pytest.fixture(autouse=True)
def keys(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> None:
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")  # of each request; the file system above it tries again as well
    proxy.inject(meets=objects)


def home_at(root: Path, project: Path, proxy: Proxy, remote: str) -> Home:
    """An installation whose DVC remote is the server behind the proxy."""
    settings = {"CXR_DVC_REMOTE": f"s3://{BUCKET}/{remote}", "CXR_S3_ENDPOINT": proxy.endpoint}
    return make_home(root, project, **settings)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory, project: Path, proxy: Proxy, s3_server: S3Server) -> Home:
    """An installation that has ingested a batch, over a network without faults."""
    root = tmp_path_factory.mktemp("stored")
    with pytest.MonkeyPatch.context() as environ:
        for name, value in s3_server.environ.items():
            environ.setenv(name, value)
        home = home_at(root / "home", project, proxy, "pull")
        batches.add_batch(home, make_batch(root, "one"))
    return home


def another(stored: Home, root: Path, project: Path, proxy: Proxy) -> Home:
    """An installation on the same stores, with an empty cache."""
    home = home_at(root / "home", project, proxy, "pull")
    shutil.copytree(stored.store, home.store)
    return home


def wrong_in_cache(home: Home) -> list[Path]:
    """Files of DVC's cache that are not what their name says."""
    files = (home.dvc_cache / "files" / "md5").glob("*/*")
    return [
        one
        for one in files
        if hashlib.md5(one.read_bytes()).hexdigest() != one.parent.name + one.name.removesuffix(".dir")
    ]


def test_what_passes_is_survived(stored: Home, tmp_path: Path, project: Path, proxy: Proxy) -> None:
    """A busy server, a connection that is reset and a slow answer: the data arrive, and are what was ingested."""
    home = another(stored, tmp_path, project, proxy)
    proxy.inject(*PASSING, meets=reads)
    stage.run(home, run="run-1")
    assert proxy.met == len(PASSING)
    same = make_batch(tmp_path, "one")
    assert tree_digest(home.workspace("run-1") / "dataset" / "one") == tree_digest(same)


def test_what_stays_is_told_and_leaves_nothing_wrong(stored: Home, tmp_path: Path, project: Path, proxy: Proxy) -> None:
    """Where half of each object arrives with a 200, no run opens, the error says where; the next attempt is right."""
    home = another(stored, tmp_path, project, proxy)
    proxy.inject(meets=reads, rest="short")
    with pytest.raises((StorageError, DataError)) as error:
        stage.run(home, run="run-1")
    assert proxy.met
    assert f"s3://{BUCKET}/pull" in str(error.value.where)
    assert wrong_in_cache(home) == []
    proxy.inject(meets=reads)
    stage.run(home, run="run-1")
    assert [path.name for path in (home.workspace("run-1") / "dataset").iterdir() if path.is_dir()] == ["one"]
    assert wrong_in_cache(home) == []


def test_half_an_object_is_not_taken_for_the_whole(stored: Home, tmp_path: Path, project: Path, proxy: Proxy) -> None:
    """An object of which half arrives with a 200, before the connection ends, is asked for again or refused."""
    home = another(stored, tmp_path, project, proxy)
    proxy.inject("cut", meets=reads)
    with suppress(StorageError, DataError):
        stage.run(home, run="run-1")
    assert proxy.met == 1
    assert wrong_in_cache(home) == []


def test_what_is_sent_arrives(tmp_path: Path, project: Path, proxy: Proxy) -> None:
    """A batch whose sending was disturbed is on the server whole, as another installation finds it."""
    home = home_at(tmp_path / "home", project, proxy, "push")
    batch = make_batch(tmp_path, "one")
    proxy.inject(*PASSING, meets=writes)
    batches.add_batch(home, batch)
    assert proxy.met == len(PASSING)
    second = home_at(tmp_path / "second", project, proxy, "push")
    shutil.copytree(home.store, second.store)
    stage.run(second, run="run-1")
    assert tree_digest(second.workspace("run-1") / "dataset" / "one") == tree_digest(batch)


def test_what_cannot_be_sent_does_not_enter(tmp_path: Path, project: Path, proxy: Proxy) -> None:
    """Where the server takes nothing, the data set has no such batch, and the next attempt adds it."""
    home = home_at(tmp_path / "home", project, proxy, "none")
    batch = make_batch(tmp_path, "one")
    proxy.inject(meets=writes, rest="503")
    with pytest.raises(StorageError) as error:
        batches.add_batch(home, batch)
    assert f"s3://{BUCKET}/none" in str(error.value.where)
    assert batches.data_revision(home) is None
    proxy.inject(meets=writes)
    batches.add_batch(home, batch)
    data = batches.data_revision(home)
    assert data is not None
    assert list(data.batches) == ["one"]
