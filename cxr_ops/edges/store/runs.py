"""The workspaces of runs, and the commits that keep what a run was given and made."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from cxr_ops import contract
from cxr_ops.edges import dvc
from cxr_ops.edges.git import GitError, git, git_bytes
from cxr_ops.edges.home import Home
from cxr_ops.edges.store.batches import check_folder, read_pointers
from cxr_ops.edges.store.repository import RECIPE, RUN_STATE, resolve_ref
from cxr_ops.errors import DataError, RefusedError, StorageError
from cxr_ops.params import Params
from cxr_ops.records.base import write_atomic
from cxr_ops.records.data import DataRevision
from cxr_ops.records.inputs import Code, LedgerState

# Modes of a run's folder: the owner's alone, or also for all to read.
_CLOSED: Final = 0o700
_OPEN: Final = 0o755


def check_workspace(home: Home, run: str) -> None:
    """See that what is in the place of a run's workspace, if anything, is a workspace of this run.

    Raises:
        RefusedError: it is something else.
    """
    folder = home.workspace(run)
    if not folder.exists():
        return
    head = folder / ".git" / "HEAD"
    ours = head.is_file() and head.read_text(encoding="utf-8").strip() == f"ref: refs/heads/runs/{run}"
    # What was cut off before git had begun left an empty folder.
    if not ours and not (folder.is_dir() and not any(folder.iterdir())):
        raise RefusedError(
            f"this is no workspace of the run {run}, and is left as it is",
            where=folder,
            fix="move it away, or choose another name for the run",
        )


def clear_workspace(home: Home, run: str) -> None:
    """Remove a run's workspace, if there is one; nothing else is ever removed.

    Raises:
        RefusedError: what stands there is no workspace of this run.
        StorageError: it cannot be removed.
    """
    check_workspace(home, run)
    folder = home.workspace(run)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"the workspace of {run} cannot be removed: {error.strerror}", where=folder, fix="mend the folder's rights"
        ) from error


def make_workspace(home: Home, folder: Path, run: str, code: Code, data: DataRevision) -> None:
    """Make a run's workspace: a full clone at the code's commit, on the branch `runs/<run>`, with the data's pointers.

    Args:
        home: the installation.
        folder: a folder that does not exist yet.
        run: the run's name.
        code: what `snapshot` gave.
        data: what `data_revision` gave.
    """
    kind = "snapshots" if code.dirty else "code"
    folder.mkdir(parents=True)
    git(home, folder, "init", "--quiet", f"--initial-branch=runs/{run}")
    git(home, folder, "remote", "add", "origin", str(home.store))
    git(home, folder, "fetch", "--quiet", "--update-shallow", "origin", f"refs/cxr/{kind}/{code.commit}", "data")
    git(home, folder, "reset", "--quiet", "--hard", code.commit)
    for path in RUN_STATE:
        _remove(folder / path)
    write_pointers(home, folder, data)


def guard(home: Home, run: str, *, withheld: bool) -> None:
    """Let nobody but the owner into a run's folder where a plan withholds what the test set shows, else all.

    What is as it should be, or was set to something else by an administrator, is left as it is.

    Raises:
        StorageError: the rights cannot be changed.
    """
    for folder in (home.run(run), home.workspace(run)):
        closed = stat.S_IMODE(folder.stat().st_mode) == _CLOSED
        if closed != withheld:
            try:
                folder.chmod(_CLOSED if withheld else _OPEN)
            except OSError as error:
                raise StorageError(
                    f"the rights of the run's folder cannot be changed: {error.strerror}",
                    where=folder,
                    fix="run this command as the folder's owner",
                ) from error


def write_pointers(home: Home, folder: Path, data: DataRevision) -> None:
    """Make a checkout's `dataset/` point at a data revision, and at nothing else.

    Raises:
        DataError: `dataset/` holds something that is no batch, which is left untouched.
    """
    target = folder / contract.DATASET
    target.mkdir(exist_ok=True)
    pointers = read_pointers(home, data.revision)
    there = {path.name for path in target.iterdir()} - {".gitignore"}
    old = {name.removesuffix(".dvc") for name in there if name.endswith(".dvc")} - pointers.keys()
    foreign = there - {f"{name}.dvc" for name in (*old, *pointers)} - {*old, *pointers}
    if foreign:
        raise DataError(
            f"{min(foreign)} in {contract.DATASET}/ is no batch of the data set",
            where=target / min(foreign),
            fix="move it away; data enter with: cxr-ops ingest nih FOLDER --batch NAME",
        )
    for name in old:
        _remove(target / name)
        _remove(target / f"{name}.dvc")
    for name, pointer in pointers.items():
        write_atomic(target / f"{name}.dvc", pointer)
    write_atomic(target / ".gitignore", "".join(f"/{name}\n" for name in sorted(pointers)).encode())


def pull(home: Home, folder: Path, data: DataRevision) -> None:
    """Bring the batches and events of a checkout's `dataset/` in, and check every byte.

    Raises:
        DataError: one is missing from the store, or is not what entered.
        StorageError: the remote does not answer, or the disk is full.
    """
    targets = [f"{contract.DATASET}/{name}.dvc" for name in sorted(data.digests())]
    dvc.dvc(home, folder, "pull", "--force", *targets)
    for name, digest in sorted(data.digests().items()):
        check_folder(folder / contract.DATASET / name, digest)


def code_changes(home: Home, run: str, code: Code, overrides: Mapping[str, Any]) -> list[str]:
    """The paths of a run's workspace that are not what the run's code commit holds; none is the only good answer.

    Every file of the commit is hashed anew, whatever the workspace's own git believes. `params.yaml` must be the
    commit's with the run's overrides in it. A file that the commit does not hold, and that no stage makes, is named
    too: Python would import it in the place of another.

    Raises:
        StorageError: the store does not hold the commit.
    """
    folder = home.workspace(run)
    try:
        listing = git(home, home.store, "ls-tree", "-r", "-z", code.commit)
    except GitError as error:
        raise StorageError(f"the store does not hold the code {code.commit[:12]}", where=home.store) from error
    held: dict[str, tuple[str, str]] = {}
    for line in filter(None, listing.split("\0")):
        facts, path = line.split("\t", 1)
        mode, _, blob = facts.split(" ")
        if not _is_run_state(path):
            held[path] = (mode, blob)
    wrong = [path for path, (mode, blob) in held.items() if path != dvc.PARAMS and _blob(folder / path, mode) != blob]
    if dvc.PARAMS in held:
        told = yaml.safe_load(git_bytes(home, home.store, "show", f"{code.commit}:{dvc.PARAMS}"))
        for key, value in overrides.items():
            section, _, name = key.partition(".")
            told[section] = {**told[section], name: value}
        if Params.load(folder / dvc.PARAMS) != Params.check(told, dvc.PARAMS):
            wrong.append(dvc.PARAMS)
    there = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file() or path.is_symlink())
    wrong += [
        path.as_posix()
        for path in there
        if path.as_posix() not in held
        and path.parts[0] not in (".git", ".dvc", ".cxr", "failed")
        and "__pycache__" not in path.parts
        and not _is_run_state(path.as_posix())
    ]
    return sorted(wrong)


def _is_run_state(path: str) -> bool:
    return any(path == state or path.startswith(f"{state}/") for state in RUN_STATE)


def _blob(path: Path, mode: str) -> str | None:
    """The name that git gives to a file's bytes, or to what a link points to; None where there is no such file."""
    if mode == "120000":
        data = str(path.readlink()).encode() if path.is_symlink() else None
    else:
        data = path.read_bytes() if path.is_file() and not path.is_symlink() else None
    if data is None:
        return None
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def commit_run(home: Home, run: str, message: str) -> str:
    """Commit what a run's stages recorded and made, and push commit and outs. Doing it again changes nothing.

    Args:
        home: the installation.
        run: the run's name.
        message: of the commit.

    Returns:
        The run commit: it holds code, params, pointers of the data, `inputs.json`, `dvc.lock` and the small results.

    Raises:
        StorageError: the remote or the store refused.
    """
    workspace = home.workspace(run)
    commit = commit_workspace(home, workspace, message)
    done = list(dvc.read_lock(workspace))
    if done:
        dvc.dvc(home, workspace, "push", *done)
    # A run that is opened again starts a new history; what was published before stays under refs/cxr/runs.
    refs = (f"+HEAD:refs/heads/runs/{run}", f"HEAD:refs/cxr/runs/{commit}")
    git(home, workspace, "push", "--quiet", "--atomic", "origin", *refs)
    return commit


def run_pushed(home: Home, run: str, commit: str | None = None) -> bool:
    """Whether a run's commit is in the store and all its outs are in the DVC remote, with nothing left to commit.

    Args:
        home: the installation.
        run: the run's name.
        commit: the commit that it must be, or None for the workspace's.
    """
    workspace = home.workspace(run)
    head = git(home, workspace, "rev-parse", "HEAD")
    if commit not in (None, head) or resolve_ref(home, f"refs/cxr/runs/{head}") != head:
        return False
    if git(home, workspace, "status", "--porcelain", "--untracked-files=no"):
        return False
    done = list(dvc.read_lock(workspace))
    missing = json.loads(dvc.dvc(home, workspace, "status", "--cloud", "--json", *done) or "{}")
    return bool(done) and not missing


def run_file(home: Home, commit: str, path: str) -> bytes | None:
    """A file of a run commit, or None where it has none of that name."""
    try:
        return git_bytes(home, home.store, "cat-file", "blob", f"{commit}:{path}")
    except GitError:
        return None


def pinned_ledgers(home: Home) -> dict[str, LedgerState]:
    """Where the ledger stood when each run of the store was opened, as its `inputs.json` says: run commit -> state.

    Runs that were opened without a ledger are left out.

    Raises:
        StorageError: what a run commit says is damaged.
    """
    if not home.store.is_dir():
        return {}
    found: dict[str, LedgerState] = {}
    for commit in git(home, home.store, "for-each-ref", "--format=%(objectname)", "refs/cxr/runs").split():
        data = run_file(home, commit, contract.INPUTS)
        try:
            said = json.loads(data)["ledger"] if data is not None else None
            if said is not None:
                found[commit] = LedgerState.model_validate(said)
        except (ValueError, KeyError, TypeError) as error:
            raise StorageError(
                f"{contract.INPUTS} of the run commit {commit[:12]} does not say where the ledger stood",
                where=home.store,
                fix="restore the store from a backup",
            ) from error
    return found


def commit_workspace(home: Home, workspace: Path, message: str) -> str:
    """Commit in a workspace what git keeps of a run; without a change, the commit is the one before."""
    # --force: a project may ignore what its own stages write. What DVC keeps is not in this list.
    present = [path for path in _committed(workspace) if (workspace / path).exists()]
    git(home, workspace, "add", "--force", "--", *present)
    git(home, workspace, "add", "--update", "--", ".")
    if git(home, workspace, "diff", "--cached", "--name-only"):
        git(home, workspace, "commit", "--quiet", "--no-verify", "-m", message)
    return git(home, workspace, "rev-parse", "HEAD")


def _committed(workspace: Path) -> list[str]:
    pointers = sorted((workspace / contract.DATASET).glob("*.dvc"))
    tracked = [path for stage in dvc.read_pipeline(workspace).values() for path in stage.tracked]
    return [
        f"{contract.DATASET}/.gitignore",
        *(f"{contract.DATASET}/{pointer.name}" for pointer in pointers),
        *(dvc.PARAMS, dvc.LOCK, contract.INPUTS, contract.LOOK, contract.IMAGE, contract.PERIOD, RECIPE),
        *(f"{folder}/{folder}.json" for folder in (contract.CHAMPION, contract.REFERENCE, contract.START)),
        *tracked,
    ]


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
