"""Tests of cxr_ops.edges.store.snapshots."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from projects import PROJECT, commit_all, make_home, make_project, run_git

from cxr_ops.edges.home import Home
from cxr_ops.edges.store import repository, snapshots
from cxr_ops.errors import SettingsError
from cxr_ops.records.base import sha256_file


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


def test_real_project_is_snapshotted_without_its_environment(tmp_path: Path) -> None:
    """The snapshot of this project holds its code and not its virtual environment."""
    home = make_home(tmp_path / "home", PROJECT)

    code = snapshots.snapshot(home)

    files = run_git(home.store, "ls-tree", "-r", "--name-only", code.commit).splitlines()
    assert "cxr_ops/edges/store/runs.py" in files
    assert len(files) < 1000
