"""The store with its large objects on a real S3 server: one installation ingests, another opens with an empty cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from projects import make_batch, make_home, make_project
from services import S3Server

from cxr_ops.edges import supervisor
from cxr_ops.edges.store import batches, runs
from cxr_ops.errors import DataError, StorageError
from cxr_ops.records.base import tree_digest
from cxr_ops.stages import open as stage


def test_data_travel_by_s3_and_are_checked(
    tmp_path: Path, s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one machine ingests, another opens and publishes, whatever proxies are set; what was altered is refused."""
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    client = s3_server.client()
    bucket = s3_server.make_bucket()
    for name in ("HTTP_PROXY", "http_proxy", "https_proxy"):  # the server is on this machine: nobody asks them for it
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
    project = make_project(tmp_path / "project")
    settings = {"CXR_DVC_REMOTE": f"S3://{bucket}/dvc/", "CXR_S3_ENDPOINT": s3_server.endpoint}
    batch = make_batch(tmp_path, "one")

    first = make_home(tmp_path / "first", project, **settings)
    batches.add_batch(first, batch)
    assert not (first.root / "dvc-remote").exists()

    second = make_home(tmp_path / "second", project, **settings)
    shutil.copytree(first.store, second.store)
    stage.run(second, run="run-1")
    assert tree_digest(second.workspace("run-1") / "dataset" / "one") == tree_digest(batch)
    supervisor.supervise(second, "run-1", "validate")
    runs.commit_run(second, "run-1", "Publish")
    assert runs.run_pushed(second, "run-1")

    third = make_home(tmp_path / "third", project, **settings)
    shutil.copytree(first.store, third.store)
    (shard,) = [
        item["Key"]
        for item in client.list_objects_v2(Bucket=bucket)["Contents"]
        if client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read().startswith(b"one pixels")
    ]
    original = client.get_object(Bucket=bucket, Key=shard)["Body"].read()
    client.put_object(Bucket=bucket, Key=shard, Body=original[:-1] + b"?")
    with pytest.raises(DataError, match="not what its digest says"):
        stage.run(third, run="run-1")
    client.delete_object(Bucket=bucket, Key=shard)
    with pytest.raises(DataError, match="missing from the store"):
        stage.run(third, run="run-1")

    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError) as error:
        stage.run(third, run="run-1")
    assert "AWS_ACCESS_KEY_ID" in str(error.value.fix)
    assert "wrong" not in str(error.value)
