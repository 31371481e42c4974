"""restore: make an installation from a backup, in a `CXR_HOME` that holds none.

Everything is written aside and compared with its digest first; then each part is renamed into its place, the ledger
last. From the first byte until the end, `.restoring` in `CXR_HOME` says that the installation is not whole, and which
places are written to; where it is found, other commands refuse. After a restoration that was cut off, the same command
does it again, and removes what stands in those places alone.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_ops.addresses import folder_of, sqlite_path
from cxr_ops.audit.state import state_after
from cxr_ops.data import room
from cxr_ops.edges import backups
from cxr_ops.edges.git import git
from cxr_ops.edges.home import RESTORING, Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.records.backup import Backup
from cxr_ops.records.base import write_atomic
from cxr_ops.stages.backup import ARTIFACTS, DATABASE, LEDGER, REMOTE, STORE

_PARTS: Final = (STORE, DATABASE, ARTIFACTS, REMOTE, LEDGER)
# Columns of MLflow's database with addresses of artifacts; which tables have them differs between versions.
_ADDRESSES: Final = ("artifact_location", "artifact_uri", "source", "storage_location")


@dataclass(frozen=True, kw_only=True)
class Restored:
    """An installation that was made from a backup."""

    name: str
    home: Path
    files: int
    entries: int
    data_revision: str | None
    left_out: tuple[str, ...]

    def __str__(self) -> str:
        state = f"{self.entries:,} entries on the ledger, data revision {self.data_revision or 'none'}"
        lines = [f"{self.home} was made from backup {self.name}: {self.files:,} files, {state}"]
        lines += [f"  was not in the backup: {sentence}" for sentence in self.left_out]
        return "\n".join([*lines, "  next: cxr-ops doctor"])


def run(
    home: Home,
    source: Path,
    *,
    name: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    free_bytes: Callable[[Path], int] = room.free,
) -> Restored:
    """Make an installation from a backup.

    Args:
        home: the installation, of which nothing is there yet.
        source: a folder of backups.
        name: which backup; None: the newest.
        progress: called with the bytes that are done and their number.
        free_bytes: gives the free room of the disk that holds a path.

    Raises:
        SettingsError: there is no such backup, or something is in a place that would be written to.
        DataError: an object of the backup is missing or damaged, or what was restored is not what was saved.
        StorageError: there is too little room, or something cannot be written.
    """
    chosen, record = backups.read(source, name)
    targets = _targets(home, record)
    mark = home.root / RESTORING
    begun = _begun(mark)
    _refuse_used({str(one) for one in (*targets.values(), home.store)} - begun)
    for target in targets.values():
        _remove(_aside(target))
    needs = dict.fromkeys((target.parent for target in targets.values()), 0)
    for path, stored in record.files.items():
        needs[targets[_part(path)].parent] += stored.size
    room.check(needs, "the installation", fix="free some, or set CXR_HOME to a larger disk", free_bytes=free_bytes)
    write_atomic(
        mark, "\n".join([chosen, *sorted(map(str, targets.values())), ""]).encode()
    )  # others refuse from now on
    done = 0
    try:
        for path, stored in record.files.items():
            backups.take(source, stored, _written(path, targets))
            done += stored.size
            if progress:
                progress(done, record.size)
        if STORE in targets:
            (_aside(targets[STORE]) / "refs").mkdir(exist_ok=True)  # git knows a repository by it, empty or not
            git(home, _aside(targets[STORE]), "fsck", "--connectivity-only", "--no-dangling", "--no-progress")
        if DATABASE in targets:
            _move_addresses(_aside(targets[DATABASE]), record.artifacts, home.mlflow_artifacts)
        begun |= {str(target) for target in targets.values()}
        for part in sorted(targets, key=lambda part: part == LEDGER):
            _remove(targets[part])
            _aside(targets[part]).rename(targets[part])
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"a part of the installation cannot be put into its place: {error.strerror}", where=error.filename
        ) from error
    finally:
        if not begun:  # nothing was put into its place
            mark.unlink(missing_ok=True)
        for target in targets.values():
            _remove(_aside(target))
    _compare(home, record)
    mark.unlink()
    return Restored(
        name=chosen,
        home=home.root,
        files=len(record.files),
        entries=record.ledger.entries,
        data_revision=record.data_revision,
        left_out=tuple(record.left_out),
    )


def _targets(home: Home, record: Backup) -> dict[str, Path]:
    """Where each part of the backup goes.

    Raises:
        SettingsError: the environment names a bucket or a server where the backup holds files.
    """
    places = {
        STORE: home.store,
        LEDGER: None if home.ledger_in_bucket else home.ledger,
        DATABASE: sqlite_path(home.mlflow_uri),
        ARTIFACTS: folder_of(home.mlflow_artifacts),
        REMOTE: home.remote_folder,
    }
    variables = {
        LEDGER: "CXR_LEDGER",
        DATABASE: "MLFLOW_TRACKING_URI",
        ARTIFACTS: "CXR_MLFLOW_ARTIFACTS",
        REMOTE: "CXR_DVC_REMOTE",
    }
    found: dict[str, Path] = {}
    for part in dict.fromkeys(map(_part, record.files)):
        place = places.get(part, home.root / part)
        if place is None:
            raise SettingsError(
                f"the backup holds {part}, and {variables[part]} names no folder of this machine to put it into",
                where=variables[part],
                fix=f"unset {variables[part]}; move what was restored to the server or bucket afterwards",
            )
        found[part] = place
    return found


def _part(path: str) -> str:
    """The part that a path of the backup belongs to.

    >>> _part("mlflow/mlflow.db"), _part("runs/a-run/result.json"), _part("dvc-remote/files/md5/00/1")
    ('mlflow/mlflow.db', 'runs', 'dvc-remote')
    """
    known = next((part for part in _PARTS if path == part or path.startswith(f"{part}/")), None)
    return known or path.partition("/")[0]


def _written(path: str, targets: Mapping[str, Path]) -> Path:
    part = _part(path)
    inner = path.removeprefix(part).removeprefix("/")
    if ".." in Path(inner).parts or Path(inner).is_absolute() or "\0" in inner:
        raise DataError("a file of the backup would be written elsewhere", where=path, fix="restore another backup")
    return _aside(targets[part]) / inner if inner else _aside(targets[part])


def _aside(target: Path) -> Path:
    return target.with_name(f"{RESTORING}-{target.name}")


def _begun(mark: Path) -> set[str]:
    """The places that a restoration which was cut off may have put something into: those alone may hold something."""
    return set(mark.read_text(encoding="utf-8").splitlines()[1:]) if mark.is_file() else set()


def _refuse_used(places: Collection[str]) -> None:
    for target in map(Path, sorted(places)):
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise SettingsError(
                "something is here already, and is left as it is: a backup is restored where no installation is",
                where=target,
                fix="CXR_HOME=EMPTY_FOLDER cxr-ops restore FROM",
            )


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _move_addresses(database: Path, old: str, new: str) -> None:
    """Let MLflow's database find its artifacts where they are now: it keeps their addresses."""
    if old == new:
        return
    try:
        with closing(sqlite3.connect(database)) as base, base:
            tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
            for table in tables:
                columns = {row[1] for row in base.execute(f'PRAGMA table_info("{table}")')}
                for column in sorted(columns & set(_ADDRESSES)):
                    base.execute(
                        f'UPDATE "{table}" SET "{column}" = ? || substr("{column}", ?) '  # noqa: S608 - names of its own
                        f'WHERE "{column}" = ? OR substr("{column}", 1, ?) = ?',
                        (new, len(old) + 1, old, len(old) + 1, f"{old}/"),
                    )
    except sqlite3.Error as error:
        raise DataError(f"MLflow's database of the backup cannot be read: {error}", where=database) from error


def _compare(home: Home, record: Backup) -> None:
    """See that ledger and data stand where they stood."""
    state, revision = state_after(open_ledger(home).entries()), batches.data_revision(home)
    if state != record.ledger or (revision.revision if revision else None) != record.data_revision:
        raise DataError(
            "what was restored is not what was saved: ledger or data stand elsewhere",
            where=home.root,
            fix="restore another backup (--backup NAME)",
        )
