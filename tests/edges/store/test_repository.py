"""Tests of cxr_ops.edges.store.repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from projects import run_git

from cxr_ops.edges import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import repository
from cxr_ops.errors import StorageError


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


def test_recipe_is_found_by_its_digest(home: Home) -> None:
    """What a recipe consists of can be read again, and an unknown digest is None."""
    parts = {"params": {"train": {"epochs": 3}}, "image": None}

    digest = repository.save_recipe(home, parts)

    assert repository.read_recipe(home, digest) == parts
    assert repository.read_recipe(home, "0" * 64) is None


@pytest.mark.parametrize("content", [b"", b"no commit\n"])
@pytest.mark.parametrize("ref", ["refs/heads/data", "refs/cxr/purged"])
def test_a_damaged_ref_is_not_taken_for_none(home: Home, ref: str, content: bytes) -> None:
    """A ref that was cut, as by a loss of power, is an error: it must not read as a store without data or purges."""
    repository.ensure_store(home)
    assert repository.resolve_ref(home, ref) is None
    path = home.store / ref
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    with pytest.raises(StorageError, match=f"the store's ref {ref} is damaged"):
        repository.resolve_ref(home, ref)


def test_a_store_that_is_no_repository_is_not_taken_for_an_empty_one(home: Home) -> None:
    """Where git cannot read the store, nobody knows what is in it; an empty folder holds nothing."""
    home.store.mkdir(parents=True)
    assert repository.resolve_ref(home, "refs/heads/data") is None
    (home.store / "objects").mkdir()
    with pytest.raises(StorageError, match="git rev-parse failed"):
        repository.resolve_ref(home, "refs/heads/data")


def test_a_lock_that_a_killed_git_left_is_told_with_what_to_type(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ref stays where it was, and the command that the error names frees it."""
    monkeypatch.setattr(git, "_CONFIG", git._CONFIG.replace("filesRefLockTimeout = 10000", "filesRefLockTimeout = 10"))
    repository.ensure_store(home)
    blob = repository.write_blob(home, b"x")
    lock = home.store / "refs" / "cxr" / "purged.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    with pytest.raises(StorageError, match="another git holds its lock, or was killed") as refused:
        repository.move_ref(home, "refs/cxr/purged", blob, None)
    assert repository.resolve_ref(home, "refs/cxr/purged") is None
    subprocess.run(["sh", "-c", str(refused.value.fix).split(": ", 1)[1].split(";")[0]], check=True)
    assert repository.move_ref(home, "refs/cxr/purged", blob, None)
