"""The data set: the batches that the data branch points to, and their bytes in the DVC remote.

A pointer holds DVC's digest of the batch's folder and, in `meta.sha256`, the SHA-256 of its `batch.json`, which in turn
holds that of every file: what is pulled is checked against it. A batch belongs to the data set from the moment that
`refs/heads/data` moves, and not before; it leaves by another commit of that branch, and none of its bytes go.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml

from cxr_ops import contract
from cxr_ops.edges import dvc
from cxr_ops.edges.git import git, git_bytes
from cxr_ops.edges.home import Home
from cxr_ops.edges.store.repository import ensure_store, move_ref, resolve_ref, temporary, write_blob, write_tree
from cxr_ops.errors import BusyError, DataError
from cxr_ops.records.base import sha256_file
from cxr_ops.records.data import Batch, DataRevision

DATA_REF: Final = "refs/heads/data"
BATCH: Final = "batch.json"
_BY: Final = "Removed-by"
_REASON: Final = "Reason"
_BATCH_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A batch of the data set: when it entered (UTC), the data revision that brought it, and its size in bytes."""

    batch: str
    when: str
    revision: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A batch that was taken out: when (UTC), by the data revision `revision`, by whom and why."""

    batch: str
    when: str
    revision: str
    by: str
    reason: str


def data_revision(home: Home) -> DataRevision | None:
    """The data set as it is now, None before the first ingestion."""
    commit = resolve_ref(home, DATA_REF)
    return None if commit is None else revision_at(home, commit)


def revision_at(home: Home, commit: str) -> DataRevision:
    """The data set as it was at a commit of the data branch, which may be named as git names them (`<commit>^`).

    Raises:
        StorageError: there is no such commit.
    """
    commit = git(home, home.store, "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}")
    batches = {name: _batch_digest(pointer, name) for name, pointer in read_pointers(home, commit).items()}
    return DataRevision(revision=commit, batches=batches)


def add_batch(home: Home, batch_folder: Path) -> str:
    """Add a batch to the data set: first its files to the DVC remote, then its pointer to the data branch.

    A batch that is there already with the same content is left as it is, so an ingestion that was cut off is simply
    started again. Two at once both enter, one after the other.

    Args:
        home: the installation.
        batch_folder: a folder with `batch.json` and the files that it lists. It is read, not moved.

    Returns:
        The data revision that holds the batch.

    Raises:
        DataError: the folder is not what its `batch.json` says, or the name is taken by other content.
        StorageError: the remote or the disk refused; the data set is as it was.
    """
    batch = Batch.read(batch_folder / BATCH)
    if not _BATCH_NAME.fullmatch(batch.name):
        raise DataError(f"{batch.name!r} cannot name a batch", fix="use small letters, digits and single hyphens")
    digest = sha256_file(batch_folder / BATCH)
    check_batch(batch_folder, digest)
    ensure_store(home)
    pointer: bytes | None = None
    while True:
        before = data_revision(home)
        if before is not None and batch.name in before.batches:
            if before.batches[batch.name] == digest:
                return before.revision
            raise DataError(
                f"the data set already holds another batch named {batch.name!r}",
                where=batch_folder,
                fix="choose another name with --batch",
            )
        pointer = pointer or _upload(home, batch_folder, batch.name, digest)
        commit = _commit_pointers(home, before, {batch.name: pointer}, f"Add batch {batch.name}: {batch.images} images")
        if move_ref(home, DATA_REF, commit, before.revision if before else None):
            return commit


def remove_batch(home: Home, batch: str, before: DataRevision, *, by: str, reason: str) -> str:
    """Take a batch out of the data set: a commit of the data branch without its pointer. Nothing is deleted.

    Args:
        home: the installation.
        batch: a batch of `before`.
        before: the data set as it was when the removal was decided.
        by: who decided it.
        reason: why.

    Returns:
        The data revision without the batch.

    Raises:
        BusyError: the data set has changed since.
    """
    pointers = {name: pointer for name, pointer in read_pointers(home, before.revision).items() if name != batch}
    told = [f"{name}: {' '.join(text.split())}" for name, text in ((_BY, by), (_REASON, reason))]
    message = "\n".join([f"Remove batch {batch}", "", *told])
    commit = _commit(home, pointers, before.revision, message)
    if not move_ref(home, DATA_REF, commit, before.revision):
        raise BusyError("the data set changed meanwhile", where=home.store, fix="type the command again")
    return commit


def history(home: Home) -> tuple[list[Held], list[Removed]]:
    """The batches of the data set in the order in which they entered, and those that were taken out.

    A batch that was taken out and entered again is held, and its removal is listed too.
    """
    revision = data_revision(home)
    if revision is None:
        return [], []
    trailers = "%x1f".join(f"%(trailers:key={key},valueonly,separator=%x20)" for key in (_BY, _REASON))
    log = git(
        home,
        home.store,
        *("log", "--reverse", "--name-status", "--no-renames", f"--format=%x00%H%x1f%ct%x1f{trailers}%x1f"),
        *(revision.revision, "--", contract.DATASET),
    )
    sizes = {name: _size(pointer) for name, pointer in read_pointers(home, revision.revision).items()}
    held: dict[str, Held] = {}
    removed: list[Removed] = []
    for entry in log.split("\0")[1:]:
        commit, seconds, by, reason, changes = entry.split("\x1f")
        when = datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")
        for line in changes.split("\n"):
            kind, _, path = line.partition("\t")
            name = Path(path).name.removesuffix(".dvc")
            if kind == "A" and path.endswith(".dvc") and name in sizes:
                held.pop(name, None)  # it comes last where it entered again
                held[name] = Held(batch=name, when=when, revision=commit, size=sizes[name])
            elif kind == "D" and path.endswith(".dvc"):
                removed.append(Removed(batch=name, when=when, revision=commit, by=by, reason=reason))
    return list(held.values()), removed


def batch_files(
    home: Home,
    names: Collection[str] = (BATCH, "manifest.csv", "boxes.csv"),
    revision: DataRevision | None = None,
    *,
    optional: Collection[str] = (),
) -> dict[str, Path]:
    """Fetch the named files of every batch of the data set, or of the batches that `revision` lists.

    Args:
        home: the installation.
        names: files that every batch has.
        revision: a state of the data set; by default the present one.
        optional: files that are fetched where a batch has them.

    Returns:
        For each batch the folder in which they can be read. The folders are kept, by digest, and must not be written.

    Raises:
        DataError: a file is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    revision = revision or data_revision(home)
    if revision is None:
        return {}
    folders = {batch: home.root / "batches" / digest for batch, digest in revision.batches.items()}
    _fetch(home, revision, folders, {batch: {BATCH, *names} for batch in folders})
    more = {batch: set(optional) & Batch.read(path / BATCH).files.keys() for batch, path in folders.items()}
    _fetch(home, revision, folders, {batch: {BATCH, *found} for batch, found in more.items() if found})
    return folders


def _fetch(
    home: Home, revision: DataRevision, folders: Mapping[str, Path], wanted: Mapping[str, Collection[str]]
) -> None:
    """Bring the wanted files of each batch into its folder, those that are not there."""
    missing = [batch for batch in wanted if not all((folders[batch] / name).is_file() for name in wanted[batch])]
    if not missing:
        return
    with _scratch(home) as scratch:
        for batch, pointer in read_pointers(home, revision.revision).items():
            if batch in missing:
                (scratch / contract.DATASET / f"{batch}.dvc").write_bytes(pointer)
        targets = [f"{contract.DATASET}/{batch}/{name}" for batch in missing for name in sorted(wanted[batch])]
        dvc.dvc(home, scratch, "pull", *targets)
        for batch in missing:
            came = scratch / contract.DATASET / batch
            check_batch(came, revision.batches[batch], wanted[batch])
            folders[batch].mkdir(parents=True, exist_ok=True)
            for name in wanted[batch]:
                (came / name).replace(folders[batch] / name)


def check_batch(folder: Path, digest: str, names: Collection[str] | None = None) -> Batch:
    """Check a batch's files, or those named, against the SHA-256 of its `batch.json` and those that this lists.

    Raises:
        DataError: a file is missing, too many, or not what it was when it was ingested.
    """
    if not (folder / BATCH).is_file() or sha256_file(folder / BATCH) != digest:
        raise _altered(folder, BATCH)
    batch = Batch.read(folder / BATCH)
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    if names is None and (extra := found - {BATCH, *batch.files}):
        raise DataError(f"the batch {batch.name} has a file that it should not have: {min(extra)}", where=folder)
    for name in sorted(batch.files if names is None else set(names) - {BATCH}):
        path = folder / name
        if path.is_symlink() or not path.is_file() or sha256_file(path) != batch.files.get(name):
            raise _altered(folder, name)
    return batch


def _altered(folder: Path, name: str) -> DataError:
    return DataError(
        f"{name} of the batch {folder.name} is missing or is not what was ingested",
        where=folder / name,
        fix="put the object back from a copy of the store; nothing was trained on it",
    )


def _upload(home: Home, batch_folder: Path, name: str, digest: str) -> bytes:
    """Put a batch's files into the cache and the remote; return its pointer."""
    with _scratch(home) as scratch:
        target = scratch / contract.DATASET / name
        shutil.copytree(batch_folder, target, copy_function=_link_or_copy)
        dvc.dvc(home, scratch, "add", f"{contract.DATASET}/{name}")
        dvc.dvc(home, scratch, "push", f"{contract.DATASET}/{name}.dvc")
        pointer = yaml.safe_load((scratch / contract.DATASET / f"{name}.dvc").read_text(encoding="utf-8"))
        pointer["meta"] = {"sha256": digest}
        return yaml.safe_dump(pointer, sort_keys=False).encode()


def _commit_pointers(home: Home, before: DataRevision | None, new: Mapping[str, bytes], message: str) -> str:
    """Write a commit of the data branch that has further pointers; no ref moves yet."""
    pointers = {**(read_pointers(home, before.revision) if before else {}), **new}
    return _commit(home, pointers, before.revision if before else None, message)


def _commit(home: Home, pointers: Mapping[str, bytes], parent: str | None, message: str) -> str:
    files = {f"{name}.dvc": pointer for name, pointer in pointers.items()}
    files[".gitignore"] = "".join(f"/{name}\n" for name in sorted(pointers)).encode()
    inner = write_tree(home, [("100644", "blob", write_blob(home, data), name) for name, data in files.items()])
    tree = write_tree(home, [("040000", "tree", inner, contract.DATASET)])
    parents = ["-p", parent] if parent else []
    return git(home, home.store, "commit-tree", tree, *parents, "-m", message)


def read_pointers(home: Home, commit: str) -> dict[str, bytes]:
    """The pointer files of a data revision, by the batch's name."""
    archive = git_bytes(home, home.store, "archive", "--format=tar", commit, contract.DATASET)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            Path(member.name).stem: file.read()
            for member in tar
            if member.name.endswith(".dvc") and (file := tar.extractfile(member)) is not None
        }


def _batch_digest(pointer: bytes, name: str) -> str:
    try:
        return str(yaml.safe_load(pointer)["meta"]["sha256"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"the pointer of batch {name} does not hold the digest of its {BATCH}", where=name) from error


def _size(pointer: bytes) -> int:
    """Bytes of a batch's files, as DVC counted them; 0 where the pointer does not say."""
    return sum(int(out.get("size", 0)) for out in yaml.safe_load(pointer).get("outs", ()))


@contextmanager
def _scratch(home: Home) -> Iterator[Path]:
    """A DVC project without git, thrown away at the end, on the disk of the cache so that files can be linked."""
    with temporary(home) as folder:
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
        (folder / contract.DATASET).mkdir()
        yield folder


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)


@contextmanager
def whole(home: Home, revision: DataRevision) -> Iterator[Path]:
    """All batches of a data set with all their files, for as long as the context lasts.

    Yields:
        The folder `dataset`, with a folder a batch; its files may be links into the cache, and must not be written.

    Raises:
        DataError: a file is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    with _scratch(home) as scratch:
        for batch, pointer in read_pointers(home, revision.revision).items():
            (scratch / contract.DATASET / f"{batch}.dvc").write_bytes(pointer)
        dvc.dvc(home, scratch, "pull", *(f"{contract.DATASET}/{batch}.dvc" for batch in sorted(revision.batches)))
        for batch, digest in revision.batches.items():
            check_batch(scratch / contract.DATASET / batch, digest)
        yield scratch / contract.DATASET
