"""Tests of cxr_ops.edges.store."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from projects import PROJECT, PYTHON, Installation, commit_all, environ, make_batch, make_home, make_project, run_git

from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches, repository, runs, snapshots
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.records.base import sha256_file, tree_digest

RUN = "run-1"


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


def test_store_that_two_commands_make_at_once_is_made_once(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees the store before it is whole, and who comes second keeps what the first has put there."""
    git = repository.git

    def slow(home: Home, folder: Path, *arguments: str) -> str:
        said = git(home, folder, *arguments)
        assert not home.store.exists()
        monkeypatch.setattr(repository, "git", git)
        repository.ensure_store(home)  # another command, which is faster
        (home.store / "description").write_text("the first")
        return said

    monkeypatch.setattr(repository, "git", slow)

    assert repository.ensure_store(home) == home.store
    assert (home.store / "description").read_text() == "the first"
    assert run_git(home.store, "rev-parse", "--is-bare-repository") == "true"
    assert not list(home.root.glob(".store-*"))


def test_folder_in_the_place_of_the_store_is_left_alone(home: Home) -> None:
    """A folder that is no store is not written into: the error names it."""
    home.store.mkdir(parents=True)
    (home.store / "mine").write_text("x")

    with pytest.raises(StorageError, match="store cannot be made") as caught:
        repository.ensure_store(home)

    assert "CXR_HOME" in str(caught.value)
    assert [path.name for path in home.store.iterdir()] == ["mine"]


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
    elsewhere = _second_home(home, tmp_path)

    found = batches.batch_files(elsewhere, ("batch.json", "manifest.csv"))

    assert sorted(found) == ["one", "two"]
    for name, path in found.items():
        assert (path / "manifest.csv").read_bytes() == (folders[name] / "manifest.csv").read_bytes()
        assert not (path / "shard-00000.tar").exists()
    shards = {sha256_file(folder / "shard-00000.tar") for folder in folders.values()}
    assert shards.isdisjoint(sha256_file(path) for path in elsewhere.dvc_cache.rglob("*") if path.is_file())


# ------------------------------------------------------------------------------------------------------ code


def _everything(folder: Path) -> dict[str, tuple[float, str]]:
    """Every byte and every time of change of a folder, git's own files included."""
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_mtime_ns, sha256_file(path) if path.is_file() else "")
        for path in folder.rglob("*")
    }


def test_clean_checkout_is_its_own_commit(home: Home) -> None:
    """The code of a clean checkout is the commit that is checked out, and the store holds it."""
    code = snapshots.snapshot(home)

    assert (code.commit, code.dirty) == (run_git(home.project, "rev-parse", "HEAD"), False)
    assert run_git(home.store, "cat-file", "-t", code.commit) == "commit"


def test_uncommitted_changes_are_copied_and_the_project_is_untouched(home: Home) -> None:
    """Staged, unstaged and new files are in the snapshot; not a byte nor a date in the project has changed."""
    project = home.project
    (project / "staged.py").write_text("staged = 1\n")
    run_git(project, "add", "staged.py")
    (project / "staged.py").write_text("staged = 2\n")
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + "# changed\n")
    (project / "new.py").write_text("new = 1\n")
    (project / "cxr_ops" / "labels.py").unlink()
    head, status, before = (
        run_git(project, "rev-parse", "HEAD"),
        run_git(project, "status", "--porcelain"),
        _everything(project),
    )

    code = snapshots.snapshot(home)

    assert _everything(project) == before
    assert (run_git(project, "rev-parse", "HEAD"), run_git(project, "status", "--porcelain")) == (head, status)
    assert code.dirty
    assert code.commit != head
    files = run_git(home.store, "ls-tree", "-r", "--name-only", code.commit).splitlines()
    assert {"staged.py", "new.py", "params.yaml"} <= set(files)
    assert "cxr_ops/labels.py" not in files
    assert run_git(home.store, "show", f"{code.commit}:staged.py") == "staged = 2"
    assert run_git(home.store, "rev-parse", f"{code.commit}^") == head
    assert run_git(home.store, "rev-parse", f"refs/cxr/snapshots/{code.commit}") == code.commit


def test_same_changes_give_the_same_snapshot(tmp_path: Path) -> None:
    """Two installations snapshot the same uncommitted changes as the same commit, hours apart."""
    project = make_project(tmp_path / "project")
    (project / "new.py").write_text("new = 1\n")

    first = snapshots.snapshot(make_home(tmp_path / "a", project))
    os.utime(project / "new.py", (1, 1))

    assert snapshots.snapshot(make_home(tmp_path / "b", project)) == first


def test_what_open_and_the_stages_write_is_no_code(home: Home) -> None:
    """A checkout that was opened and run, with its results beside the code, is still clean."""
    for path in ("dataset/one.dvc", "inputs.json", "image.json", "recipe.json", "dvc.lock", "champion/champion.json"):
        (home.project / path).parent.mkdir(exist_ok=True)
        (home.project / path).write_text("x")
    (home.project / "gate").mkdir()
    (home.project / "gate" / "verdict.json").write_text("x")

    assert not snapshots.snapshot(home).dirty


def test_what_the_person_ignores_is_no_code(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files ignored by the person's own git settings, or by .git/info/exclude, do not make a checkout dirty."""
    (tmp_path / "mine").write_text("*.swp\n")
    (tmp_path / "gitconfig").write_text(f"[core]\n    excludesFile = {tmp_path / 'mine'}\n")
    (home.project / ".git" / "info").mkdir(exist_ok=True)
    (home.project / ".git" / "info" / "exclude").write_text("/scratch.py\n")
    (home.project / "a.swp").write_text("x")
    (home.project / "scratch.py").write_text("x")

    assert snapshots.snapshot(home).dirty
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    assert not snapshots.snapshot(home).dirty


def test_home_inside_the_project_is_no_code(tmp_path: Path) -> None:
    """The default $CXR_HOME, a folder of the project, is left out even where .gitignore does not name it."""
    project = make_project(tmp_path / "project")
    home = make_home(project / "somewhere", project)
    repository.ensure_store(home)

    assert not snapshots.snapshot(home).dirty


def test_ignored_folders_of_ours_do_not_hinder_a_snapshot(tmp_path: Path) -> None:
    """With our folders in .gitignore, as they are, an uncommitted change is copied all the same."""
    project = make_project(tmp_path / "project")
    (project / ".gitignore").write_text("/.cxr\n/validate\n")
    (project / "validate").mkdir()
    (project / "validate" / "manifest.csv").write_text("image_id\n")
    home = make_home(project / ".cxr", project)
    (project / "new.py").write_text("x = 1\n")

    code = snapshots.snapshot(home)

    assert code.dirty
    names = run_git(home.store, "ls-tree", "-r", "--name-only", code.commit).split()
    assert "new.py" in names
    assert not [name for name in names if name.startswith((".cxr", "validate"))]


def test_file_too_large_for_code_is_refused_by_name(home: Home) -> None:
    """Data left in the checkout, neither tracked nor ignored, are not copied but named."""
    with (home.project / "images.bin").open("wb") as file:
        file.truncate(snapshots.MAX_UNTRACKED + 1)

    with pytest.raises(SettingsError, match=r"images\.bin \(10 MB\)") as refusal:
        snapshots.snapshot(home)

    assert refusal.value.fix == "add /images.bin to .gitignore, or move it out of the project"


@pytest.mark.parametrize("kind", ["no repository", "no commit", "inside another repository"])
def test_project_without_a_commit_is_copied_as_it_is(tmp_path: Path, kind: str) -> None:
    """Code from an archive, or from a repository without a commit, becomes a snapshot without a parent."""
    project = make_project(tmp_path / "outer" / "project")
    shutil.rmtree(project / ".git")
    if kind == "no commit":
        run_git(project, "init", "--quiet")
    elif kind == "inside another repository":
        run_git(tmp_path / "outer", "init", "--quiet")
        (tmp_path / "outer" / "other.txt").write_text("x")
        commit_all(tmp_path / "outer", "Outer")
    home = make_home(tmp_path / "home", project)

    code = snapshots.snapshot(home)

    assert code.dirty
    assert run_git(home.store, "rev-list", "--count", code.commit) == "1"
    assert "params.yaml" in run_git(home.store, "ls-tree", "--name-only", code.commit).splitlines()


def test_shallow_clone_and_hostile_settings_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shallow clone, a hook's environment and a person's settings change nothing in what is snapshotted."""
    origin = make_project(tmp_path / "origin")
    commit_all_twice = [(origin / "more.txt").write_text("x"), commit_all(origin, "Second")]
    run_git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{origin}", "project")
    home = make_home(tmp_path / "home", tmp_path / "project")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "nowhere" / "index"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "somebody")

    code = snapshots.snapshot(home)

    assert (code.commit, code.dirty) == (commit_all_twice[1], False)


# ------------------------------------------------------------------------------------------------------ runs


def _second_home(home: Home, tmp_path: Path) -> Home:
    """Another installation on the same store and remote, with nothing in its cache."""
    other = make_home(tmp_path / "second", home.project, CXR_DVC_REMOTE=home.dvc_remote)
    shutil.copytree(home.store, other.store)
    return other


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
    target = _second_home(home, tmp_path) if place == "remote" else home
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
    other = _second_home(home, tmp_path)
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


def test_recipe_is_found_by_its_digest(home: Home) -> None:
    """What a recipe consists of can be read again, and an unknown digest is None."""
    parts = {"params": {"train": {"epochs": 3}}, "image": None}

    digest = repository.save_recipe(home, parts)

    assert repository.read_recipe(home, digest) == parts
    assert repository.read_recipe(home, "0" * 64) is None


def test_real_project_is_snapshotted_without_its_environment(tmp_path: Path) -> None:
    """The snapshot of this project holds its code and not its virtual environment."""
    home = make_home(tmp_path / "home", PROJECT)

    code = snapshots.snapshot(home)

    files = run_git(home.store, "ls-tree", "-r", "--name-only", code.commit).splitlines()
    assert "cxr_ops/edges/store/runs.py" in files
    assert len(files) < 1000
