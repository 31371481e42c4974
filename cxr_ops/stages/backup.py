"""backup: copy store, ledger, registry, reports and data into a folder of backups, while runs go on.

What refers to something is copied before what it refers to: the ledger, then the store, then MLflow's database and
artifacts, then the objects of DVC. All of it is written in the other order and never replaced, so what the copy of the
ledger names is in the copies that follow. That it is, is checked before the record is written: without a record, there
is no backup.

A bucket, an MLflow server and Airflow's own database are not copied, and the record says so.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cxr_ops import __version__
from cxr_ops.addresses import folder_of, sqlite_path, without_password
from cxr_ops.audit.state import state_after
from cxr_ops.data import room
from cxr_ops.edges import backups, dvc
from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches, objects
from cxr_ops.edges.store.repository import temporary
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.records.backup import Backup, Stored

STORE: Final = "store.git"
LEDGER: Final = "ledger"
DATABASE: Final = "mlflow/mlflow.db"
ARTIFACTS: Final = "mlflow/artifacts"
REMOTE: Final = "dvc-remote"
_OTHERS: Final = (
    "reports",
    "restricted",
    "quarantine",
    "pictures",
    "keys",
)  # without its keys no signature would be believed
_NAMED: Final = 5  # objects that an error names


@dataclass(frozen=True, kw_only=True)
class Saved:
    """A backup that was made: its name, files and bytes, how many bytes are new, and what it does not hold."""

    folder: Path
    name: str
    files: int
    size: int
    written: int
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        new = f"{room.told(self.size)}, of which {room.told(self.written)} are new"
        lines = [f"backup {self.name} in {self.folder}: {self.files:,} files, {new}"]
        lines += [f"  not in it: {sentence}" for sentence in self.left_out]
        return "\n".join([*lines, f"  back again: CXR_HOME=EMPTY_FOLDER cxr-ops restore {self.folder}"])


def run(
    home: Home,
    out: Path,
    *,
    allow_missing: bool = False,
    progress: Callable[[int, int], None] | None = None,
    free_bytes: Callable[[Path], int] = room.free,
) -> Saved:
    """Back an installation up.

    Args:
        home: the installation.
        out: the folder of backups: new, empty, or with earlier ones.
        allow_missing: also where an object is missing from the DVC remote; the record then says so.
        progress: called with the bytes that are done and their number.
        free_bytes: gives the free room of the disk that holds a path.

    Raises:
        SettingsError: there is nothing to back up, or the folder is in the installation or holds something else.
        DataError: an object that a version of the data or a run on the ledger needs is missing from the DVC remote.
        StorageError: there is too little room, or something cannot be read or written, or the ledger is damaged.
    """
    entries = open_ledger(home).entries()
    if not home.store.is_dir() and not entries:
        raise SettingsError("there is nothing to back up: no data and no ledger", where=home.root)
    _claim(home, out)
    before = backups.read(out)[1].files if backups.names(out) else {}
    known = list(_sources(home))
    needed = sum(source.stat().st_size for path, source in known if not _unchanged(before.get(path), source))
    # The store and the database are copied beside the installation first, because others may write to them meanwhile.
    copied_first = sum(
        source.stat().st_size for path, source in known if path == DATABASE or path.startswith(f"{STORE}/")
    )
    room.check(
        {out: needed, home.root / "tmp": copied_first},
        "the backup",
        fix="free some, or name a folder on a larger disk",
        free_bytes=free_bytes,
    )
    total = sum(source.stat().st_size for _, source in known)
    files: dict[str, Stored] = {}
    written = done = 0
    with temporary(home) as aside:
        for path, source in _in_order(home, aside, len(entries)):
            try:
                files[path], new = backups.put(out, source, before.get(path))
            except FileNotFoundError:  # a cache file of somebody, or a report that is being replaced
                continue
            written, done = written + new, done + files[path].size
            if progress:
                progress(min(done, total), total)
        copied = replace(home, root=aside)  # the store as it was copied, which an ingestion may have left behind
        revision = batches.data_revision(copied)
        runs = [entry.decision.run_commit for entry in entries if entry.kind == "decision"]
        missing = _missing(copied, files, runs)
    left_out = _left_out(home)
    if missing and not allow_missing:
        raise DataError(
            f"{len(missing):,} objects that the data or runs on the ledger need are missing from the DVC remote: "
            + ", ".join(sorted(missing)[:_NAMED]),
            where=home.dvc_remote,
            fix="put them back from a copy of the remote; or back up what there is: --allow-missing",
        )
    if missing:
        left_out = (*left_out, f"{len(missing):,} objects, which are missing from the DVC remote")
    now = datetime.now(UTC)
    record = Backup(
        made_at=now.isoformat(timespec="seconds"),
        version=__version__,
        ledger=state_after(entries),
        data_revision=revision.revision if revision else None,
        artifacts=home.mlflow_artifacts,
        files=dict(sorted(files.items())),
        left_out=list(left_out),
    )
    name = backups.write(out, now.strftime("%Y%m%dT%H%M%SZ"), record)
    return Saved(folder=out, name=name, files=len(files), size=record.size, written=written, left_out=tuple(left_out))


def check(out: Path, name: str | None = None, *, progress: Callable[[int, int], None] | None = None) -> str:
    """Read every object of a backup, and compare it with its digest.

    Returns:
        A sentence for people.

    Raises:
        SettingsError: there is no such backup.
        DataError: an object is missing or damaged; those are listed.
    """
    chosen, record = backups.read(out, name)
    wrong, done = [], 0
    for size, path in backups.check(out, record.files):
        done += size
        wrong += [path] if path else []
        if progress:
            progress(done, record.size)
    if wrong:
        raise DataError(
            f"{len(wrong):,} files of the backup {chosen} are missing or damaged:\n  " + "\n  ".join(wrong[:20]),
            where=out,
            fix="make another one: cxr-ops backup FOLDER",
        )
    return f"backup {chosen}: {len(record.files):,} files, {room.told(record.size)}, all of them as they were saved"


def _claim(home: Home, out: Path) -> None:
    """Make the folder, for its owner alone, or see that it holds backups and nothing else."""
    if out.resolve().is_relative_to(home.root):
        raise SettingsError(
            "a backup in the installation is lost with it",
            where=out,
            fix="name a folder elsewhere, best on another disk",
        )
    try:
        out.mkdir(mode=0o700, parents=True, exist_ok=True)
        others = {path.name for path in out.iterdir()} - {backups.OBJECTS, backups.RECORDS}
    except OSError as error:
        raise StorageError(f"the folder cannot be made or read: {error.strerror}", where=out) from error
    if others:
        raise SettingsError(
            f"the folder holds something else than backups: {min(others)}", where=out, fix="name a new folder"
        )


def _unchanged(before: Stored | None, source: Path) -> bool:
    found = source.stat()
    return before is not None and (before.size, before.modified) == (found.st_size, found.st_mtime_ns)


def _sources(home: Home) -> Iterator[tuple[str, Path]]:
    """(path in the backup, file) of all that is copied, as it is now; the store and the database as they stand."""
    yield from _tree(LEDGER, home.ledger)
    yield from _tree(STORE, home.store)
    if (database := _database(home)) is not None:
        yield DATABASE, database
    yield from _beside(home)
    yield from _referred(home)


def _beside(home: Home) -> Iterator[tuple[str, Path]]:
    """What nothing else refers to: pages, quarantines, pictures and keys, and what each run's folder says of it."""
    for name in _OTHERS:
        yield from _tree(name, home.root / name)
    for run in sorted((home.root / "runs").glob("*")):
        yield from ((f"runs/{run.name}/{path.name}", path) for path in sorted(run.glob("*")) if path.is_file())


def _in_order(home: Home, aside: Path, entries: int) -> Iterator[tuple[str, Path]]:
    """The same in the order in which it must be copied, each part listed when those before are copied.

    Args:
        home: the installation.
        aside: a folder for copies of what others write to.
        entries: of the ledger; later ones may name what is not copied any more.
    """
    for number in range(1, entries + 1):
        name = f"{number:08d}.json"
        yield f"{LEDGER}/{name}", _from_bucket(home, name, aside) if home.ledger_in_bucket else home.ledger / name
    yield from _beside(home)
    if home.store.is_dir():
        mirror = aside / STORE
        git(home, aside, "clone", "--quiet", "--mirror", "--no-local", str(home.store), str(mirror))
        git(home, mirror, "config", "--remove-section", "remote.origin")  # `git remote remove` would take the refs too
        for name in ("hooks", "info", "branches"):  # samples, and nothing of ours
            for path in (mirror / name).glob("*"):
                path.unlink()
        yield from _tree(STORE, mirror)
    if (database := _database(home)) is not None:
        yield DATABASE, _copy_database(database, aside / "mlflow.db")
    yield from _referred(home)


def _from_bucket(home: Home, name: str, aside: Path) -> Path:
    """Bring an entry of a ledger in a bucket here."""
    data = open_ledger(home).storage.read(name)
    if data is None:
        raise StorageError(f"the ledger has lost {name}", where=home.ledger_address, fix="cxr-ops ledger verify")
    target = aside / name
    target.write_bytes(data)
    return target


def _referred(home: Home) -> Iterator[tuple[str, Path]]:
    """What the ledger, the store and the database refer to."""
    artifacts = folder_of(home.mlflow_artifacts)
    if artifacts is not None:
        yield from _tree(ARTIFACTS, artifacts)
    if home.remote_folder is not None:
        yield from _tree(REMOTE, home.remote_folder)


def _tree(name: str, folder: Path) -> Iterator[tuple[str, Path]]:
    for above, folders, found in os.walk(folder):
        folders.sort()
        for one in sorted(found):
            path = Path(above) / one
            if not path.is_symlink() and not one.endswith((".part", ".lock", ".tmp")):
                yield f"{name}/{path.relative_to(folder).as_posix()}", path


def _database(home: Home) -> Path | None:
    path = sqlite_path(home.mlflow_uri)
    return path if path is not None and path.is_file() else None


def _copy_database(source: Path, target: Path) -> Path:
    """Copy an SQLite database that others may write to, as it is between two of their transactions."""
    try:
        with closing(sqlite3.connect(source, timeout=60)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
    except sqlite3.Error as error:
        raise StorageError(f"MLflow's database cannot be copied: {error}", where=source) from error
    return target


def _left_out(home: Home) -> tuple[str, ...]:
    left = []
    if sqlite_path(home.mlflow_uri) is None:
        left.append(f"MLflow at {without_password(home.mlflow_uri)}: back its database up with its own tools")
    if folder_of(home.mlflow_artifacts) is None:
        left.append(f"MLflow's artifacts in {home.mlflow_artifacts}: a bucket has versions and copies of its own")
    if home.remote_folder is None:
        left.append(f"the data in {home.dvc_remote}: a bucket has versions and copies of its own")
    if home.airflow.is_dir():
        left.append("Airflow's database: an approval that is still waited for must be asked for again")
    open_runs = [path.parent.name for path in (home.root / "runs").glob("*/run.json")]
    open_runs = [name for name in open_runs if not (home.root / "runs" / name / "result.json").is_file()]
    if open_runs:
        left.append(f"what runs that have not ended have made so far: {', '.join(sorted(open_runs))}")
    return tuple(left)


def _missing(home: Home, files: dict[str, Stored], commits: list[str]) -> set[str]:
    """Objects that versions of the data and runs on the ledger name, and that the backup lacks."""
    if home.remote_folder is None or not home.store.is_dir():
        return set()
    named = objects.of_versions(home)
    for found in objects.of_commits(home, commits).values():
        named |= found
    every, lost = objects.spread(named, [home.remote_folder])
    return lost | {md5 for md5 in every if dvc.place(Path(REMOTE), md5).as_posix() not in files}
