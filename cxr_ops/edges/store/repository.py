"""The bare git repository of an installation: made when there is none, its objects and refs, and the recipes in it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cxr_ops import contract
from cxr_ops.edges import dvc
from cxr_ops.edges.git import GitError, git, git_bytes
from cxr_ops.edges.home import Home
from cxr_ops.errors import StorageError
from cxr_ops.records.base import canonical_json, sha256_bytes

RECIPE: Final = "recipe.json"
# What `open` and the stages write into a checkout. It is no code: it is left out of snapshots and of a run's start.
RUN_STATE: Final = (
    contract.DATASET,
    dvc.LOCK,
    contract.INPUTS,
    contract.LOOK,
    contract.IMAGE,
    contract.PERIOD,
    RECIPE,
    contract.CHAMPION,
    contract.REFERENCE,
    contract.START,
    *contract.DETERMINISTIC,
)
_NO_SUCH_REF: Final = 1  # what `git rev-parse` ends with; also of a ref that it cannot read
_NOBODY = "0" * 40  # for `git update-ref`: the ref must not exist yet


def ensure_store(home: Home) -> Path:
    """Return the bare repository, which is made when there is none.

    It is made aside and moved into its place: two commands may both be the first, and git reads the settings that
    another git is still writing.
    """
    if not (home.store / "HEAD").is_file():
        try:
            home.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home.root, prefix=".store-") as aside:
                fresh = Path(aside) / home.store.name
                git(home, home.root, "init", "--quiet", "--bare", "--initial-branch=data", str(fresh))
                try:
                    fresh.rename(home.store)
                except OSError:
                    if not (home.store / "HEAD").is_file():  # nobody was faster
                        raise
        except OSError as error:
            raise StorageError(
                f"the store cannot be made: {error}", where=home.store, fix="set CXR_HOME to a folder of yours"
            ) from error
    return home.store


@contextmanager
def temporary(home: Home) -> Iterator[Path]:
    """A folder on the disk of the store, removed at the end."""
    parent = home.root / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def save_recipe(home: Home, parts: Mapping[str, Any]) -> str:
    """Keep what a recipe consists of, so that a later one can be compared with it; return its digest."""
    data = canonical_json(parts)
    digest = sha256_bytes(data)
    ensure_store(home)
    git(home, home.store, "update-ref", f"refs/cxr/recipes/{digest}", write_blob(home, data))
    return digest


def read_recipe(home: Home, digest: str) -> dict[str, Any] | None:
    """What a recipe consists of, None where it is not known here."""
    try:
        data = git_bytes(home, home.store, "cat-file", "blob", f"refs/cxr/recipes/{digest}")
    except StorageError:
        return None
    return dict(json.loads(data)) if sha256_bytes(data) == digest else None


def resolve_ref(home: Home, ref: str) -> str | None:
    """What a ref points to, None where there is none of that name.

    Raises:
        StorageError: the store cannot be read, or the ref is damaged. Were that taken for no ref, a data set would be
            empty, and a patient who was purged unknown.
    """
    if not home.store.is_dir() or not any(home.store.iterdir()):
        return None
    path = home.store / ref
    try:
        return _rev_parse(home, ref)
    except GitError as error:
        if error.returncode == _NO_SUCH_REF and not path.exists():
            return None
        if not path.exists():
            raise
    try:
        return _rev_parse(home, ref)  # it may have been made meanwhile
    except GitError as error:
        raise StorageError(
            f"the store's ref {ref} is damaged: it names no commit",
            where=path,
            fix="restore a backup into a new folder: CXR_HOME=NEWFOLDER cxr-ops restore FROM",
        ) from error


def _rev_parse(home: Home, ref: str) -> str:
    return git(home, home.store, "rev-parse", "--verify", "--quiet", ref)


def move_ref(home: Home, ref: str, new: str, old: str | None) -> bool:
    """Move a ref from where it was; False where somebody has moved it meanwhile."""
    try:
        git(home, home.store, "update-ref", ref, new, old or _NOBODY)
    except GitError:
        if resolve_ref(home, ref) == old:  # it did not move, so it was not a race
            raise
        return False
    return True


def read_objects(home: Home, names: Sequence[str]) -> dict[str, bytes | None]:
    """The bytes of objects by the names that git gives them (`<commit>:<path>`), None for one that is not there."""
    if not names:
        return {}
    data = git_bytes(home, home.store, "cat-file", "--batch", stdin="".join(f"{name}\n" for name in names).encode())
    found: dict[str, bytes | None] = {}
    at = 0
    for name in names:
        end = data.index(b"\n", at)
        words = data[at:end].split(b" ")
        if words[-1] == b"missing":
            found[name], at = None, end + 1
        else:
            size = int(words[-1])
            found[name], at = data[end + 1 : end + 1 + size], end + 1 + size + 1
    return found


def write_blob(home: Home, data: bytes) -> str:
    """Write bytes as an object and return its id."""
    return git(home, home.store, "hash-object", "-w", "--stdin", stdin=data)


def write_tree(home: Home, entries: list[tuple[str, str, str, str]]) -> str:
    """Write a tree and return its id; an entry is its mode, kind, object id and name."""
    lines = "".join(f"{mode} {kind} {sha}\t{name}\n" for mode, kind, sha, name in entries)
    return git(home, home.store, "mktree", stdin=lines.encode())
