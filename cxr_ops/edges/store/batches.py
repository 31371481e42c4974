"""The data set: the batches and events that the data branch points to, and their bytes in the DVC remote.

A pointer holds DVC's digest of the batch's folder and, in `meta.sha256`, the SHA-256 of its `batch.json`, which in turn
holds that of every file: what is pulled is checked against it. A batch belongs to the data set from the moment that
`refs/heads/data` moves, and not before; it leaves by another commit of that branch, and none of its bytes go. An event
is kept like a batch, in a folder with `event.json` alone, because it names people and git forgets nothing: a commit
says how many they are, and not who.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
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
from cxr_ops.edges.store import purges
from cxr_ops.edges.store.repository import ensure_store, move_ref, resolve_ref, temporary, write_blob, write_tree
from cxr_ops.errors import BusyError, DataError
from cxr_ops.records.base import sha256_file
from cxr_ops.records.data import EVENT, Batch, DataRevision, Event, is_event
from cxr_ops.records.purge import Replacement

DATA_REF: Final = "refs/heads/data"
BATCH: Final = "batch.json"
_BY: Final = "Removed-by"
_REASON: Final = "Reason"
# How `git log` is asked for both.
BY_AND_REASON: Final = "%x1f".join(f"%(trailers:key={key},valueonly,separator=%x20)" for key in (_BY, _REASON))
_BATCH_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Held:
    """A batch of the data set: when it entered (UTC), the data revision that brought it, and its size in bytes."""

    batch: str
    when: str
    revision: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Happened:
    """An event: when it was recorded (UTC), and the data revision that brought it."""

    event: Event
    when: str
    revision: str


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
    found = {name: batch_digest(pointer, name) for name, pointer in sorted(read_pointers(home, commit).items())}
    return DataRevision(
        revision=commit,
        batches={name: digest for name, digest in found.items() if not is_event(name)},
        events={name: digest for name, digest in found.items() if is_event(name)},
    )


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
    if digest in purges.read(home).replaced:
        raise DataError(
            f"a patient of this batch {batch.name!r} was purged: with the same rows it does not come back",
            where=batch_folder,
            fix="take the patient's rows out, and ingest the rest",
        )
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


def add_event(home: Home, event: Event, before: DataRevision) -> str:
    """Add an event to the data set: first its file to the DVC remote, then its pointer to the data branch.

    Args:
        home: the installation.
        event: of the name that follows those of `before`.
        before: the data set as it was when the event was made.

    Returns:
        The data revision that holds the event.

    Raises:
        BusyError: the data set has changed since.
        StorageError: the remote or the disk refused; the data set is as it was.
    """
    with temporary(home) as folder:
        event.write(folder / event.name / EVENT)
        pointer = _upload(home, folder / event.name, event.name, sha256_file(folder / event.name / EVENT))
    count = len({one.image_id for one in event.labels}) if event.kind == "relabel" else len(event.images)
    message = f"{event.kind.capitalize()} {count} image{'' if count == 1 else 's'}"
    commit = _commit_pointers(home, before, {event.name: pointer}, message)
    if not move_ref(home, DATA_REF, commit, before.revision):
        raise _moved(home)
    return commit


def read_events(home: Home, revision: DataRevision | None = None) -> list[Event]:
    """The events of the data set as it is now, or at a revision, in their order.

    Raises:
        DataError: one is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    revision = revision or data_revision(home)
    if revision is None or not revision.events:
        return []
    folders = {name: home.root / "batches" / digest for name, digest in revision.events.items()}
    _fetch(home, revision, folders, {name: {EVENT} for name in folders})
    return [Event.read(folders[name] / EVENT) for name in sorted(folders)]


def happened(home: Home) -> list[Happened]:
    """The events of the data set as it is now, in their order, with when each was recorded.

    Raises:
        DataError: one is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    revision = data_revision(home)
    if revision is None:
        return []
    known = {event.name: event for event in read_events(home, revision)}
    found: dict[str, tuple[str, str]] = {}
    for commit, when, _, _, changes in _log(home, revision):
        found |= {name: (commit, when) for kind, name in changes if kind == "A" and name in known}
    return [Happened(event=event, when=found[name][1], revision=found[name][0]) for name, event in known.items()]


def replace_purged(home: Home, folder: Path, name: str) -> Replacement:
    """Put a batch or event that a patient was taken out of into the cache and the remote. No version holds it yet.

    Args:
        home: the installation.
        folder: with its files.
        name: of the batch or event.

    Raises:
        StorageError: the remote or the disk refused.
    """
    digest = sha256_file(folder / (EVENT if is_event(name) else BATCH))
    return Replacement(record=digest, pointer=_upload(home, folder, name, digest).decode())


def record_purge(home: Home, images: int, *, by: str, reason: str) -> str:
    """Make the data branch point to what purges have left, by a commit of its own where it does not; return its head.

    Args:
        home: the installation.
        images: how many the patient had.
        by: who decided it.
        reason: why; it names nobody.

    Raises:
        BusyError: the data set has changed meanwhile.
    """
    before = data_revision(home)
    if before is None:
        raise DataError("there is no data set", where=home.store)
    left = read_pointers(home, before.revision)
    if left == entered_pointers(home, before.revision):
        return before.revision
    what = f"Purge a patient: {images} image{'' if images == 1 else 's'}"
    commit = _commit(home, left, before.revision, _told(what, by=by, reason=reason))
    if not move_ref(home, DATA_REF, commit, before.revision):
        raise _moved(home)
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
    commit = _commit(home, pointers, before.revision, _told(f"Remove batch {batch}", by=by, reason=reason))
    if not move_ref(home, DATA_REF, commit, before.revision):
        raise _moved(home)
    return commit


def _told(what: str, *, by: str, reason: str) -> str:
    """A message that says by whom and why."""
    told = [f"{name}: {' '.join(text.split())}" for name, text in ((_BY, by), (_REASON, reason))]
    return "\n".join([what, "", *told])


def _moved(home: Home) -> BusyError:
    return BusyError("the data set changed meanwhile", where=home.store, fix="type the command again")


def history(home: Home) -> tuple[list[Held], list[Removed]]:
    """The batches of the data set in the order in which they entered, and those that were taken out.

    A batch that was taken out and entered again is held, and its removal is listed too.
    """
    revision = data_revision(home)
    if revision is None:
        return [], []
    sizes = {name: _size(pointer) for name, pointer in read_pointers(home, revision.revision).items()}
    held: dict[str, Held] = {}
    removed: list[Removed] = []
    for commit, when, by, reason, changes in _log(home, revision):
        for kind, name in changes:
            if kind == "A" and name in revision.batches:
                held.pop(name, None)  # it comes last where it entered again
                held[name] = Held(batch=name, when=when, revision=commit, size=sizes[name])
            elif kind == "D":
                removed.append(Removed(batch=name, when=when, revision=commit, by=by, reason=reason))
    return list(held.values()), removed


def _log(home: Home, revision: DataRevision) -> Iterator[tuple[str, str, str, str, list[tuple[str, str]]]]:
    """Each commit of the data branch, the oldest first.

    Yields:
        The commit, when it was made (UTC), by whom and why, where it says so, and what became of pointers: `A` (added),
        `M` or `D` (deleted) and the name.
    """
    log = git(
        home,
        home.store,
        *("log", "--reverse", "--name-status", "--no-renames", f"--format=%x00%H%x1f%ct%x1f{BY_AND_REASON}%x1f"),
        *(revision.revision, "--", contract.DATASET),
    )
    for entry in log.split("\0")[1:]:
        commit, seconds, by, reason, changes = entry.split("\x1f")
        lines = (line.partition("\t") for line in changes.split("\n") if line.endswith(".dvc"))
        when = datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds")
        yield commit, when, by, reason, [(kind, Path(path).name.removesuffix(".dvc")) for kind, _, path in lines]


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
        For each batch the folder in which they can be read. The folders are kept, by digest, and must not be written;
        every file is compared with the digests again before it is given.

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
    """Bring the wanted files of each batch into its folder, those that are not there; the others are checked.

    Raises:
        DataError: a file is missing from the store, or was altered there or in the folder.
        StorageError: the remote does not answer.
    """
    missing = [batch for batch in wanted if not all((folders[batch] / name).is_file() for name in wanted[batch])]
    for batch in wanted.keys() - set(missing):
        _check_kept(folders[batch], batch, revision.digests()[batch], wanted[batch])
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
            check_folder(came, revision.digests()[batch], wanted[batch])
            folders[batch].mkdir(parents=True, exist_ok=True)
            for name in wanted[batch]:
                (came / name).replace(folders[batch] / name)


def _check_kept(folder: Path, name: str, digest: str, names: Collection[str]) -> None:
    """Check files of a batch or an event that were fetched by an earlier command.

    Raises:
        DataError: one is not what was fetched.
    """
    record = EVENT if is_event(name) else BATCH
    wrong = record if sha256_file(folder / record) != digest else None
    if wrong is None and record == BATCH:
        files = Batch.read(folder / BATCH).files
        others = sorted(set(names) - {BATCH})
        wrong = next((one for one in others if sha256_file(folder / one) != files.get(one)), None)
    if wrong is not None:
        raise DataError(
            f"{wrong} of {name} is not what was fetched from the store: somebody or something has changed it since",
            where=folder / wrong,
            fix=f"rm -r {shlex.quote(str(folder))}, then type the command again: it is fetched anew",
        )


def check_folder(folder: Path, digest: str, names: Collection[str] | None = None) -> None:
    """Check the folder of a batch (see `check_batch`), or that of an event, which its name tells.

    Raises:
        DataError: it is not what the data set holds.
    """
    if not is_event(folder.name):
        check_batch(folder, digest, names)
    elif [path.name for path in folder.glob("*")] != [EVENT] or sha256_file(folder / EVENT) != digest:
        raise DataError(
            f"{folder.name} is missing or is not what was recorded",
            where=folder / EVENT,
            fix="put the object back from a copy of the store; nothing was trained on it",
        )


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
    """The pointer files of a data revision, by the name of the batch or event, as purges have left them."""
    known = purges.read(home)
    found = {name: purges.pointer(known, data) for name, data in entered_pointers(home, commit).items()}
    return {name: data for name, data in found.items() if data is not None}


def entered_pointers(home: Home, commit: str) -> dict[str, bytes]:
    """The pointer files of a data revision as they were written: what they point to may have been purged."""
    archive = git_bytes(home, home.store, "archive", "--format=tar", commit, contract.DATASET)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            Path(member.name).name.removesuffix(".dvc"): file.read()
            for member in tar
            if member.name.endswith(".dvc") and (file := tar.extractfile(member)) is not None
        }


def batch_digest(pointer: bytes, name: str) -> str:
    """The SHA-256 of a batch's `batch.json`, as its pointer holds it.

    Raises:
        DataError: the pointer holds none.
    """
    try:
        return str(yaml.safe_load(pointer)["meta"]["sha256"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"the pointer of {name} does not hold the digest of its record", where=name) from error


def missing_bytes(home: Home, revision: DataRevision) -> int:
    """About how many bytes of a data set's batches are not in DVC's cache; what is there is not read."""
    needed = 0
    for pointer in read_pointers(home, revision.revision).values():
        have = 0
        for out in yaml.safe_load(pointer).get("outs", ()):
            listing = dvc.place(home.dvc_cache, str(out["md5"]))
            if listing.is_file():
                paths = [dvc.place(home.dvc_cache, str(entry["md5"])) for entry in json.loads(listing.read_bytes())]
                have += sum(path.stat().st_size for path in paths if path.is_file())
        needed += max(0, _size(pointer) - have)
    return needed


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
    """All batches that `revision` lists with all their files, for as long as the context lasts.

    Yields:
        The folder `dataset`, with a folder a batch; its files may be links into the cache, and must not be written.

    Raises:
        DataError: a file is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    with _scratch(home) as scratch:
        for batch, pointer in read_pointers(home, revision.revision).items():
            if batch in revision.digests():
                (scratch / contract.DATASET / f"{batch}.dvc").write_bytes(pointer)
        dvc.dvc(home, scratch, "pull", *(f"{contract.DATASET}/{name}.dvc" for name in sorted(revision.digests())))
        for name, digest in revision.digests().items():
            check_folder(scratch / contract.DATASET / name, digest)
        yield scratch / contract.DATASET
