"""Tests of cxr_ops.edges.store.batches."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from projects import PYTHON, Installation, environ, make_batch, make_home, make_project, run_git, second_home

from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, StorageError
from cxr_ops.records.base import sha256_file, tree_digest
from cxr_ops.records.data import Event


def test_batch_enters_the_data_set_once(home: Home, tmp_path: Path) -> None:
    """A batch that is added twice is in the data set once, and the revision does not move."""
    assert batches.data_revision(home) is None
    folder = make_batch(tmp_path, "one")
    before = tree_digest(folder)

    revision = batches.add_batch(home, folder)

    assert batches.add_batch(home, folder) == revision
    data = batches.data_revision(home)
    assert data is not None
    assert (data.revision, data.batches) == (revision, {"one": sha256_file(folder / "batch.json")})
    assert tree_digest(folder) == before
    assert run_git(home.store, "log", "--format=%an <%ae>", revision) == "cxr-ops <cxr-ops@localhost>"


def test_another_batch_of_the_same_name_is_refused(installed: Installation, tmp_path: Path) -> None:
    """A name stands for one content for ever."""
    home = installed.home
    revision = batches.data_revision(home).revision

    with pytest.raises(DataError, match="another batch named 'one'"):
        batches.add_batch(home, make_batch(tmp_path / "b", "one", content="others"))

    assert batches.data_revision(home).revision == revision


@pytest.mark.parametrize("damage", ["changed", "missing", "extra", "link"])
def test_folder_that_is_not_what_its_list_says_does_not_enter(home: Home, tmp_path: Path, damage: str) -> None:
    """A batch enters only if each of its files has the digest that batch.json lists, and there is no other file."""
    folder = make_batch(tmp_path, "one")
    shard = folder / "shard-00000.tar"
    if damage == "changed":
        shard.write_bytes(b"x" + shard.read_bytes()[1:])
    elif damage == "missing":
        shard.unlink()
    elif damage == "extra":
        (folder / "notes.txt").write_text("x")
    else:
        shard.rename(tmp_path / "elsewhere")
        shard.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DataError):
        batches.add_batch(home, folder)

    assert batches.data_revision(home) is None


@pytest.mark.parametrize("name", ["../up", "a b", "Upper", ".hidden", "a--b", ""])
def test_batch_name_that_could_leave_its_folder_is_refused(home: Home, tmp_path: Path, name: str) -> None:
    """Only small letters, digits and single hyphens name a batch."""
    folder = make_batch(tmp_path, "one")
    text = (folder / "batch.json").read_text().replace('"name": "one"', f'"name": "{name}"')
    (folder / "batch.json").write_text(text)

    with pytest.raises(DataError, match="cannot name a batch"):
        batches.add_batch(home, folder)


def test_nothing_enters_when_the_remote_fails_and_a_retry_succeeds(tmp_path: Path) -> None:
    """When the remote refuses, the data set is as it was and the folder is whole; afterwards the same command works."""
    project = make_project(tmp_path / "project")
    (tmp_path / "file").write_text("in the way")
    broken = make_home(tmp_path / "home", project, CXR_DVC_REMOTE=str(tmp_path / "file" / "remote"))
    folder = make_batch(tmp_path, "one")

    with pytest.raises(StorageError, match="dvc push failed"):
        batches.add_batch(broken, folder)

    assert batches.data_revision(broken) is None
    (tmp_path / "file").unlink()
    batches.add_batch(broken, folder)
    assert list(batches.data_revision(broken).batches) == ["one"]


def test_two_ingestions_at_once_both_enter(home: Home, tmp_path: Path) -> None:
    """Of two processes that add a batch each at the same time, neither loses its batch, and the history is a line."""
    code = "import sys; from pathlib import Path; from cxr_ops.edges.home import Home\n"
    code += "from cxr_ops.edges.store import batches\nbatches.add_batch(Home.find(), Path(sys.argv[1]))"
    folders = [make_batch(tmp_path, name) for name in ("one", "two", "three")]
    processes = [subprocess.Popen([PYTHON, "-c", code, str(folder)], env=environ(home)) for folder in folders]

    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]

    assert sorted(batches.data_revision(home).batches) == ["one", "three", "two"]
    assert run_git(home.store, "rev-list", "--count", "--first-parent", "data") == "3"


def test_a_moved_ref_is_not_moved_again(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that was built on a data set that somebody has extended meanwhile is built again on the new one."""
    others = make_batch(tmp_path, "others")
    commit = batches._commit_pointers

    def slow(*arguments):
        made = commit(*arguments)
        monkeypatch.setattr(batches, "_commit_pointers", commit)
        batches.add_batch(home, others)  # in the window between building the commit and moving the ref
        return made

    monkeypatch.setattr(batches, "_commit_pointers", slow)
    batches.add_batch(home, make_batch(tmp_path, "mine"))

    assert sorted(batches.data_revision(home).batches) == ["mine", "others"]


def test_small_files_of_all_batches_are_fetched_without_the_shards(installed: Installation, tmp_path: Path) -> None:
    """With an empty cache, manifests come from the remote and shards stay there."""
    home = installed.home
    folders = {"one": installed.batch, "two": make_batch(tmp_path, "two")}
    batches.add_batch(home, folders["two"])
    elsewhere = second_home(home, tmp_path)

    found = batches.batch_files(elsewhere, ("batch.json", "manifest.csv"))

    assert sorted(found) == ["one", "two"]
    for name, path in found.items():
        assert (path / "manifest.csv").read_bytes() == (folders[name] / "manifest.csv").read_bytes()
        assert not (path / "shard-00000.tar").exists()
    shards = {sha256_file(folder / "shard-00000.tar") for folder in folders.values()}
    assert shards.isdisjoint(sha256_file(path) for path in elsewhere.dvc_cache.rglob("*") if path.is_file())


def test_tables_that_were_fetched_are_compared_each_time(installed: Installation) -> None:
    """A table, record or event in `batches/` that was changed is an error with what to type; that brings it back."""
    home = installed.home
    first = batches.data_revision(home)
    assert first is not None
    event = Event(name="event.00001", kind="withdraw", patients=["9"], images=["9.png"], by="Ann", reason="asked")
    batches.add_event(home, event, first)
    (name,) = first.batches

    def read() -> tuple[bytes, list[Event]]:
        return (batches.batch_files(home)[name] / "manifest.csv").read_bytes(), batches.read_events(home)

    before = read()
    for path in sorted((home.root / "batches").glob("*/*")):
        kept = path.read_bytes()
        path.write_bytes(kept.replace(b"9", b"8") if path.name == "event.json" else kept[:-1] + b" ")
        with pytest.raises(DataError, match=f"{path.name} of .* is not what was fetched") as caught:
            read()
        assert (caught.value.where, shlex.split(caught.value.fix.partition(",")[0])) == (
            str(path),
            ["rm", "-r", str(path.parent)],
        )
        path.write_bytes(kept)
        assert read() == before
    shutil.rmtree(path.parent)  # as the error says
    assert read() == before
