"""A purge where the data stand in a bucket: a real S3 server that keeps versions of what it holds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from services import S3Server

from cxr_ops.data import manifest
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.stages import purge, withdraw

# It is nowhere in the code, and stands in the names of the patient's pictures.
PATIENT = str(5550000 + 4441)


def test_nothing_of_the_patient_is_left_in_a_bucket(
    make_nih: Callable[..., Path],
    tmp_path: Path,
    project: Path,
    s3_server: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a purge no object of the bucket, in any version of it, holds the id or a picture; a second installation
    with an empty cache reads all the others from there.
    """
    for name, value in s3_server.environ.items():
        monkeypatch.setenv(name, value)
    client = s3_server.client()
    bucket = s3_server.make_bucket()
    client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    folder = make_nih("folder", patients=3, first=int(PATIENT))
    wanted = [PATIENT.encode(), *(path.read_bytes() for path in (folder / "images").glob(f"0{PATIENT}_*"))]

    def found() -> list[str]:
        told = client.list_object_versions(Bucket=bucket)
        assert not told["IsTruncated"]
        hits = []
        for one in told.get("Versions", ()):
            at = {"Bucket": bucket, "Key": one["Key"], "VersionId": one["VersionId"]}
            data = client.get_object(**at)["Body"].read()
            hits += [one["Key"] for text in wanted if text in data]
        return hits

    def installation(name: str) -> Home:
        return Home.find(
            {
                "CXR_HOME": str(tmp_path / name),
                "CXR_PROJECT": str(project),
                "CXR_DVC_REMOTE": f"s3://{bucket}/dvc",
                "CXR_S3_ENDPOINT": s3_server.endpoint,
            }
        )

    first = installation("first")
    build(tmp_path / "three", check(nih.read_folder(folder), "three", processes=1))
    batches.add_batch(first, tmp_path / "three")
    withdraw.run(first, [PATIENT], by="dr_lee", reason="consent")
    assert len(found()) >= 4  # the manifest, the shard with two pictures, the event
    told = purge.run(first, PATIENT, by="dr_lee", reason="consent", yes=True)
    assert (told.done, told.images, told.holders) == (True, 2, ("event.00001", "three"))
    assert found() == []

    second = installation("second")
    shutil.copytree(first.store, second.store)
    data = batches.data_revision(second)
    assert data is not None
    with batches.whole(second, data) as dataset:
        rows = manifest.read_version(dataset).frame
    assert set(rows["patient_id"]) == {str(int(PATIENT) + 1), str(int(PATIENT) + 2)}
    assert len(rows) == 4
