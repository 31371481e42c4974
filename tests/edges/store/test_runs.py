"""Tests of cxr_ops.edges.store.runs."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from projects import Installation, make_batch, run_git, second_home

from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches, runs, snapshots
from cxr_ops.errors import DataError
from cxr_ops.records.base import tree_digest

RUN = "run-1"


def _open(home: Home) -> Path:
    data = batches.data_revision(home)
    workspace = home.workspace(RUN)
    runs.make_workspace(home, workspace, RUN, snapshots.snapshot(home), data)
    runs.pull(home, workspace, data)
    (workspace / "image.json").write_text('{"image": null}\n')
    (workspace / "inputs.json").write_text("{}\n")
    runs.commit_workspace(home, workspace, "Open")
    return workspace


def _repro(home: Home, workspace: Path, stage: str) -> None:
    dvc.dvc(home, workspace, "repro", "--single-item", stage)


def test_workspace_is_a_clone_of_its_own_with_the_data(installed: Installation) -> None:
    """A workspace borrows no object from another repository, is on its run's branch, and holds the batches."""
    home, batch = installed.home, installed.batch
    (home.project / "new.py").write_text("new = 1\n")

    workspace = _open(home)

    assert run_git(workspace, "rev-parse", "--abbrev-ref", "HEAD") == f"runs/{RUN}"
    assert (workspace / "new.py").read_text() == "new = 1\n"
    assert not (workspace / ".git" / "objects" / "info" / "alternates").exists()
    assert tree_digest(workspace / "dataset" / "one") == tree_digest(batch)
    assert run_git(workspace, "status", "--porcelain") == ""
    assert run_git(workspace, "log", "-1", "--format=%ae") == "cxr-ops@localhost"


@pytest.mark.parametrize("place", ["remote", "cache"])
def test_altered_object_is_refused(installed: Installation, tmp_path: Path, place: str) -> None:
    """A shard that was altered in the remote, or in the cache, does not reach a run."""
    home = installed.home
    target = second_home(home, tmp_path) if place == "remote" else home
    root = Path(home.dvc_remote) if place == "remote" else home.dvc_cache
    (shard,) = [path for path in root.rglob("*") if path.is_file() and path.read_bytes().startswith(b"one pixels")]
    shard.chmod(0o644)
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    times = (shard.stat().st_atime_ns, shard.stat().st_mtime_ns)
    shard.write_bytes(data)
    os.utime(shard, ns=times)  # as if nobody had been there; DVC trusts a read-only object of the cache
    shard.chmod(0o444)

    with pytest.raises(DataError):
        _open(target)


def test_lost_object_is_said_to_be_missing(installed: Installation, tmp_path: Path) -> None:
    """A batch whose object is gone from the remote is a data error that names the remote, not a traceback."""
    home = installed.home
    other = second_home(home, tmp_path)
    for path in Path(home.dvc_remote).rglob("*"):
        if path.is_file() and path.read_bytes().startswith(b"one pixels"):
            path.unlink()

    with pytest.raises(DataError, match="missing from the store") as error:
        _open(other)

    assert home.dvc_remote in str(error.value)


def test_run_counts_as_pushed_only_when_all_of_it_is(installed: Installation) -> None:
    """Commit, outs and tracked results must have left the workspace; taking any of them back shows."""
    home = installed.home
    workspace = _open(home)
    _repro(home, workspace, "validate")
    assert not runs.run_pushed(home, RUN)

    commit = runs.commit_run(home, RUN, "Publish")

    assert runs.run_pushed(home, RUN)
    assert runs.run_pushed(home, RUN, commit)
    assert not runs.run_pushed(home, RUN, "0" * 40)
    assert runs.commit_run(home, RUN, "Publish") == commit
    assert run_git(home.store, "rev-parse", f"runs/{RUN}", f"refs/cxr/runs/{commit}").split() == [commit, commit]
    files = run_git(home.store, "ls-tree", "-r", "--name-only", commit).splitlines()
    assert {"dvc.lock", "dataset/one.dvc", "inputs.json", "params.yaml", "image.json"} <= set(files)
    assert not [name for name in files if name.startswith(("validate/", "dataset/one/"))]
    assert runs.run_file(home, commit, "inputs.json") == b"{}\n"
    assert runs.run_file(home, commit, "nothing.json") is None

    shutil.rmtree(home.dvc_remote)
    assert not runs.run_pushed(home, RUN)
    runs.commit_run(home, RUN, "Publish")
    (workspace / "inputs.json").write_text('{"other": 1}\n')
    assert not runs.run_pushed(home, RUN)


def test_batches_of_another_revision_leave_the_checkout(installed: Installation, tmp_path: Path) -> None:
    """A checkout's dataset folder is made to hold the revision's batches, and a stranger in it is named and kept."""
    home = installed.home
    old = tmp_path / "old"
    old.mkdir()
    batches.add_batch(home, make_batch(tmp_path, "gone"))
    both = batches.data_revision(home)
    runs.write_pointers(home, old, both)
    (old / "dataset" / "gone").mkdir()
    pointers = batches.read_pointers(home, both.revision)
    alone = {"one": pointers["one"]}
    commit = batches._commit_pointers(home, None, alone, "Without it")
    revision = both.model_copy(update={"revision": commit, "batches": {"one": both.batches["one"]}})

    runs.write_pointers(home, old, revision)

    assert sorted(path.name for path in (old / "dataset").iterdir()) == [".gitignore", "one.dvc"]
    (old / "dataset" / "precious").mkdir()
    with pytest.raises(DataError, match="precious in dataset/"):
        runs.write_pointers(home, old, revision)
    assert (old / "dataset" / "precious").is_dir()
