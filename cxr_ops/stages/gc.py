"""gc: remove what an installation keeps and nobody needs any more, or list it first.

Local copies alone go: workspaces of runs that have ended and are pushed, records of attempts, checkpoints and packed
rows that nothing goes on from, objects of DVC's cache that no version of the data and no checkout points to, old
quarantines, and what killed commands left. The DVC remote, the ledger, the store, MLflow and reports are never touched:
what an entry of the ledger needs is there, and a workspace goes only when it is.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import yaml

from cxr_ops import contract
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import find_decision, find_promotion, last_promotion, reference_after
from cxr_ops.data import room
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import objects, runs, versions
from cxr_ops.errors import CxrError, StorageError
from cxr_ops.locks import Lock
from cxr_ops.records.run import OPENED, Result

_DAY: Final = 86400.0
# What is younger may be half done: of a command that has not written yet what points to it.
_FRESH: Final = _DAY


@dataclass(frozen=True, kw_only=True)
class Item:
    """Something that nobody needs: what it is, where, why it may go, and the bytes that are free without it.

    A file that has another name elsewhere frees nothing until both go, and counts with the last of them.
    """

    kind: str
    path: Path
    why: str
    size: int


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What may go or went (`removed`), and what stays though it is old, with the reason."""

    items: tuple[Item, ...]
    kept: tuple[str, ...]
    removed: bool

    @property
    def size(self) -> int:
        """Bytes that are free without the items."""
        return sum(item.size for item in self.items)

    def as_json(self) -> dict[str, Any]:
        """The same for machines."""
        items = [{**vars(item), "path": str(item.path)} for item in self.items]
        return {"removed": self.removed, "bytes": self.size, "items": items, "kept": list(self.kept)}

    def __str__(self) -> str:
        counts, sizes = Counter(item.kind for item in self.items), Counter[str]()
        for item in self.items:
            sizes[item.kind] += item.size
        lines = [f"  {kind}: {counts[kind]:,}, {room.told(sizes[kind])}" for kind in counts]
        lines += [f"  kept: {sentence}" for sentence in self.kept]
        if not self.items:
            return "\n".join(["nothing can go", *lines])
        head = "removed" if self.removed else "may go"
        next_step = [] if self.removed else ["  nothing was removed; next: cxr-ops data gc --yes"]
        return "\n".join([f"{head}: {len(self.items):,} things, {room.told(self.size)}", *lines, *next_step])


@dataclass
class _Found:
    """What has been found so far; links are counted by inode."""

    items: list[Item] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    links: Counter[tuple[int, int]] = field(default_factory=Counter)

    def add(self, kind: str, path: Path, why: str) -> None:
        size = 0
        for file in _files(path):
            found = file.lstat()
            inode = (found.st_dev, found.st_ino)
            self.links[inode] += 1
            if self.links[inode] == found.st_nlink:
                size += found.st_size
        self.items.append(Item(kind=kind, path=path, why=why, size=size))


def run(home: Home, *, yes: bool = False, now: Callable[[], float] = time.time) -> Collected:
    """Look for what nobody needs, and remove it if told so.

    Args:
        home: the installation. Its settings `CXR_KEEP_WORKSPACES`, `CXR_KEEP_ATTEMPTS` and `CXR_KEEP_QUARANTINE` say
            how long things stay.
        yes: remove it; otherwise nothing is changed.
        now: the time in seconds since 1970.

    Raises:
        StorageError: the ledger is damaged, or something cannot be read or removed.
    """
    entries = open_ledger(home).entries()
    found = _Found()
    at = now()
    with ExitStack() as held:
        free = {name: _hold(held, home, name) for name in _run_names(home)}
        going = _workspaces(home, entries, found, at, free)
        _attempts(home, found, at)
        _checkpoints(home, found, at, [name for name in free if name not in going])
        _packed(home, found, at)
        _leftovers(home, found, at)
        busy = [name for name, is_free in free.items() if not is_free]
        ingest = held.enter_context(Lock(home.locks / "ingest"))
        alone = ingest.try_acquire()
        if alone:  # an ingestion may be about to write there
            _quarantines(home, found, at)
        if busy:
            found.kept.append(f"DVC's cache, because {', '.join(busy)} is being worked on")
        elif not alone:
            found.kept.append("DVC's cache, because an ingestion is going on")
        else:
            _cache(home, entries, found, at, going)
        if yes:
            for item in found.items:
                _remove(home, item)
    return Collected(items=tuple(found.items), kept=tuple(found.kept), removed=yes)


def _run_names(home: Home) -> list[str]:
    folders = (home.root / "runs").glob("*")
    return sorted(path.name for path in folders if contract.is_run_name(path.name) and (path / "workspace").is_dir())


def _hold(held: ExitStack, home: Home, run: str) -> bool:
    """Take a workspace's lock until the end, if nobody has it; whether it was taken."""
    lock = held.enter_context(Lock(home.workspace_lock(run), mode=0o666))
    return lock.try_acquire()


def _workspaces(home: Home, entries: list[Entry], found: _Found, at: float, free: dict[str, bool]) -> set[str]:
    """The runs whose workspaces may go."""
    going: set[str] = set()
    for run, is_free in free.items():
        result = home.run(run) / "result.json"
        if not result.is_file() or not (home.run(run) / OPENED).is_file():
            found.kept.append(f"the workspace of {run}, which has not ended")
            continue
        days = home.settings.keep_workspaces
        if at - result.stat().st_mtime < days * _DAY:
            continue
        why = _needed(home, entries, run) if is_free else "somebody works in it"
        if why:
            found.kept.append(f"the workspace of {run}: {why}")
        else:
            going.add(run)
            why = f"ended more than {days:g} days ago, and all of it is in the store"
            found.add("workspaces", home.workspace(run), why)
    return going


def _needed(home: Home, entries: list[Entry], run: str) -> str:
    """Why an old run's workspace must stay; "" where it need not."""
    champion, reference = last_promotion(entries), reference_after(entries)
    if champion is not None and champion.promotion.run == run:
        return "it made the champion"
    promotions = [entry.promotion for entry in entries if entry.kind == "promotion"]
    if reference is not None and any(one.run == run and one.package == reference.package for one in promotions):
        return "it made the reference"
    decision = find_decision(entries, run)
    if decision is None:
        return "" if Result.read(home.run(run) / "result.json").verdict == "NO_CHANGE" else "it was never published"
    waits = decision.decision.verdict == contract.PROMOTE and find_promotion(entries, run) is None
    if waits and decision.decision.champion == (champion.digest() if champion else None):
        return "it may still be promoted"
    try:
        pushed = runs.run_pushed(home, run, decision.decision.run_commit)
    except CxrError as error:
        return f"whether it is in the store cannot be found out: {error.what}"
    return "" if pushed else "its commit or its outputs are not in the store"


def _attempts(home: Home, found: _Found, at: float) -> None:
    days = home.settings.keep_attempts
    for path in sorted((home.airflow / "stages").glob("*/*/*")):
        ended = (home.root / "runs" / path.parts[-3] / "result.json").is_file()
        if path.is_dir() and at - _newest(path) >= days * _DAY:
            if ended or not (home.root / "runs" / path.parts[-3]).is_dir():
                found.add("attempts", path, f"of a run that has ended, and older than {days:g} days")
            else:
                found.kept.append(f"attempt {path.parts[-2]} {path.name} of {path.parts[-3]}, which has not ended")


def _checkpoints(home: Home, found: _Found, at: float, open_runs: Iterable[str]) -> None:
    """Checkpoints that no workspace would go on from."""
    days = home.settings.keep_attempts
    wanted = {digest for run in open_runs for digest in _inputs(home.workspace(run))}
    for path in sorted(home.checkpoints.glob("*")):
        if path.is_dir() and path.name not in wanted and at - _newest(path) >= days * _DAY:
            with Lock(home.locks / f"{path.name}.lock", mode=0o666) as lock:
                if lock.try_acquire():
                    found.add("checkpoints", path, f"of inputs that no run has, and older than {days:g} days")


def _inputs(workspace: Path) -> Iterator[str]:
    """The digests of the inputs of each stage of a workspace, as far as its earlier stages have run."""
    try:
        stages = dvc.read_pipeline(workspace)
    except CxrError:  # not opened whole
        return
    for name in stages:
        try:
            yield dvc.stage_digest(workspace, stages, name)
        except CxrError:
            return


def _packed(home: Home, found: _Found, at: float) -> None:
    days = home.settings.keep_attempts
    keys = sorted(home.packed.glob("*/"), key=lambda folder: folder.stat().st_mtime, reverse=True)
    for folder in keys[1:]:
        if at - folder.stat().st_mtime >= days * _DAY:
            found.add("packed rows", folder, f"of settings that no run has used for {days:g} days")


def _quarantines(home: Home, found: _Found, at: float) -> None:
    """What could not enter long ago: it was mended and came again, or nobody wants it."""
    days = home.settings.keep_quarantine
    for folder in sorted(home.quarantine.glob("*/")):
        if at - _newest(folder) >= days * _DAY:
            found.add("quarantines", folder, f"of {folder.name}, in which nothing has changed for {days:g} days")


def _leftovers(home: Home, found: _Found, at: float) -> None:
    for path in sorted((home.root / "tmp").glob("*")):
        if at - _newest(path) >= _FRESH:
            found.add("leftovers", path, "of a command that was killed")
    known = {digest for version in versions.versions(home) for digest in version.data.digests().values()}
    for path in sorted((home.root / "batches").glob("*")):
        if path.name not in known and at - _newest(path) >= _FRESH:
            found.add("tables", path, "of a batch or an event that no version of the data holds")


def _cache(home: Home, entries: list[Entry], found: _Found, at: float, going: set[str]) -> None:
    """Objects of DVC's cache, and entries of its run cache, that nothing here points to."""
    needed = objects.of_versions(home)
    for checkout in (home.project, *(home.workspace(name) for name in _run_names(home) if name not in going)):
        if (checkout / dvc.LOCK).is_file():
            needed |= set(objects.of_lock((checkout / dvc.LOCK).read_bytes()).values())
    used, _ = objects.spread(needed, home.object_folders)
    commits = [entry.decision.run_commit for entry in entries if entry.kind == "decision"]
    recorded, _ = objects.spread(set().union(*objects.of_commits(home, commits).values()), home.object_folders)
    remote = home.remote_folder
    for path in sorted((home.dvc_notes / "repo").glob("*/")):
        if at - _newest(path) >= home.settings.keep_attempts * _DAY:
            why = f"of a folder in which DVC has not worked for {home.settings.keep_attempts:g} days"
            found.add("notes of DVC", path, why)
    used |= {md5 for md5 in recorded if remote is None or not dvc.place(remote, md5).is_file()}
    gone: set[str] = set()
    for path in sorted((home.dvc_cache / "files" / "md5").glob("??/*")):
        md5 = path.parent.name + path.name
        if md5 not in used and at - path.stat().st_mtime >= _FRESH:
            gone.add(md5)
            found.add("cached objects", path, "no version of the data and no checkout points to it")
    for path in sorted((home.dvc_cache / "runs").glob("??/*/*")):
        if at - path.stat().st_mtime >= _FRESH and _outs(path) & gone:
            found.add("run cache", path, "it would restore what is not in the cache any more")


def _outs(path: Path) -> set[str]:
    """The objects that an entry of DVC's run cache would restore."""
    try:
        told = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {str(out.get("md5")) for out in told.get("outs", ())}
    except (yaml.YAMLError, AttributeError, UnicodeDecodeError):  # cut, or of another kind: DVC passes it over
        return set()


def _remove(home: Home, item: Item) -> None:
    """Remove an item; a folder under another name first, so that half of it is never taken for the whole."""
    try:
        if not item.path.is_dir() or item.path.is_symlink():
            item.path.unlink(missing_ok=True)
            return
        aside = home.root / "tmp" / f"gc-{os.getpid()}-{item.path.parent.name}-{item.path.name}"
        aside.parent.mkdir(exist_ok=True)
        item.path.rename(aside)
        shutil.rmtree(aside)
    except OSError as error:
        raise StorageError(
            f"{item.path.name} cannot be removed: {error.strerror}",
            where=error.filename or item.path,
            fix="run this command as the owner of CXR_HOME",
        ) from error


def _files(path: Path) -> Iterator[Path]:
    if path.is_symlink() or not path.is_dir():
        yield path
        return
    for above, _, names in os.walk(path):
        yield from (Path(above) / name for name in names)


def _newest(path: Path) -> float:
    """When anything in a folder was changed last, in seconds since 1970."""
    times = [path.lstat().st_mtime, *(file.lstat().st_mtime for file in _files(path))]
    return max(times)
