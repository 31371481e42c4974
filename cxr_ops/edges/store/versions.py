"""The versions of the data set: the commits of the data branch, what each changed, and which runs used it."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final

from cxr_ops import contract
from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.run_names import known_runs
from cxr_ops.edges.store import purges
from cxr_ops.edges.store.batches import BY_AND_REASON, DATA_REF, batch_digest
from cxr_ops.edges.store.repository import read_objects, resolve_ref
from cxr_ops.errors import SettingsError
from cxr_ops.records.data import DataRevision, is_event
from cxr_ops.records.run import OPENED

LATEST: Final = "latest"
_BACK: Final = re.compile(rf"{LATEST}~(\d{{1,6}})")
_NUMBER: Final = re.compile(r"\d{1,6}")
_COMMIT: Final = re.compile(r"[0-9a-f]{7,40}")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A state of the data set, which an ingestion, a removal or an event made.

    Attributes:
        number: its place in the history, from 1.
        data: its data revision, and the digest of each batch that it holds.
        when: when it was made, UTC.
        added: batches that came with it.
        removed: batches that left with it.
        changed: batches whose content became another one.
        events: events, and other files of the data set, that came or changed with it.
        what: what was done, in a line.
        by: who did it, where that is on record.
        reason: why, where that is on record.
    """

    number: int
    data: DataRevision
    when: str
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    events: tuple[str, ...]
    what: str
    by: str = ""
    reason: str = ""

    @property
    def revision(self) -> str:
        """The data revision: a commit of the data branch."""
        return self.data.revision


def versions(home: Home) -> list[Version]:
    """All versions of the data set, the first one first; empty before the first ingestion.

    Raises:
        DataError: a pointer does not hold the digest of its batch.
    """
    head = resolve_ref(home, DATA_REF)
    if head is None:
        return []
    log = git(
        home,
        home.store,
        *("log", "--first-parent", "--reverse", "--raw", "--no-abbrev", "--no-renames"),
        *(f"--format=%x00%H%x1f%ct%x1f%s%x1f{BY_AND_REASON}%x1f", head, "--", contract.DATASET),
    )
    entries = [entry.split("\x1f") for entry in log.split("\0")[1:]]
    changes = [_changes(entry[-1]) for entry in entries]
    digests = _digests(home, {blob: name for found in changes for kind, name, blob in found if kind in "AM"})
    batches: dict[str, str] = {}
    events: dict[str, str] = {}
    made: list[Version] = []
    for number, ((commit, seconds, what, by, reason, _), found) in enumerate(zip(entries, changes, strict=True), 1):
        kinds: defaultdict[str, list[str]] = defaultdict(list)
        for kind, name, blob in found:
            if not name.endswith(".dvc"):
                kinds["event"].append(name)
                continue
            batch = name.removesuffix(".dvc")
            held = events if is_event(batch) else batches
            kinds["event" if is_event(batch) else kind].append(batch)
            digest = digests.get(blob)
            if kind == "D" or digest is None:
                held.pop(batch, None)
            else:
                held[batch] = digest
        made.append(
            Version(
                number=number,
                data=DataRevision(revision=commit, batches=dict(batches), events=dict(events)),
                when=datetime.fromtimestamp(int(seconds), UTC).isoformat(timespec="seconds"),
                added=tuple(kinds["A"]),
                removed=tuple(kinds["D"]),
                changed=tuple(kinds["M"]),
                events=tuple(kinds["event"]),
                what=what,
                by=by,
                reason=reason,
            )
        )
    return made


def pointers(home: Home) -> list[bytes]:
    """Every pointer that the data branch has ever held, each once, as purges have left them.

    Raises:
        StorageError: the store cannot be read.
    """
    head = resolve_ref(home, DATA_REF)
    if head is None:
        return []
    log = git(
        home, home.store, "log", "--raw", "--no-abbrev", "--no-renames", "--format=", head, "--", contract.DATASET
    )
    blobs = dict.fromkeys(
        line.split(" ")[3] for line in log.split("\n") if line.endswith(".dvc") and line.split(" ")[4][0] in "AM"
    )
    known = purges.read(home)
    held = [data for data in read_objects(home, list(blobs)).values() if data is not None]
    left = (purges.pointer(known, data) for data in held)
    return list(dict.fromkeys(data for data in left if data is not None))


def find(home: Home, made: list[Version], text: str) -> Version:
    """The version that a person means.

    Args:
        home: the installation.
        made: what `versions` gave.
        text: `latest`, `latest~1` (the one before), its number, the first 7 characters of its revision, or the name of
            a run that used it.

    Raises:
        SettingsError: there is no such version; what there is is named.
    """
    wanted = text.strip()
    at: int | None = None
    if wanted == LATEST:
        at = len(made)
    elif back := _BACK.fullmatch(wanted):
        at = len(made) - int(back[1])
    elif _NUMBER.fullmatch(wanted):
        at = int(wanted)
    if at is not None and 1 <= at <= len(made):
        return made[at - 1]
    if at is None and _COMMIT.fullmatch(wanted):
        hits = [version for version in made if version.revision.startswith(wanted)]
        if len(hits) == 1:
            return hits[0]
    if at is None:
        used = [version for version in made if wanted in runs_by_revision(home).get(version.revision, ())]
        if used:
            return used[0]
    there = f"1 to {len(made)}" if made else "none yet: cxr-ops ingest auto FOLDER --batch NAME"
    raise SettingsError(
        f"the data set has no version {wanted!r}; its versions are {there}",
        where="VERSION",
        fix=f"a number, {LATEST}, {LATEST}~1, a data revision or a run; see them: cxr-ops data log",
    )


def runs_by_revision(home: Home) -> dict[str, list[str]]:
    """The runs that used each data revision, those that were opened last first: by their folders and the ledger."""
    decided = {
        entry.decision.run: entry.decision.data_revision
        for entry in open_ledger(home).entries()
        if entry.kind == "decision"
    }
    found: defaultdict[str, list[str]] = defaultdict(list)
    for run in known_runs(home):
        revision = _opened_on(home, run) or decided.get(run)
        if revision:
            found[revision].append(run)
    return dict(found)


def _opened_on(home: Home, run: str) -> str | None:
    """The data revision that a run's folder names, None where the run was not opened whole."""
    try:
        revision = json.loads((home.run(run) / OPENED).read_bytes())["data"]["revision"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return revision if isinstance(revision, str) else None


def _changes(text: str) -> list[tuple[str, str, str]]:
    """(A, M or D, name of the file, id of its blob afterwards) of each file of the data set that a commit changed."""
    found = []
    for line in filter(None, text.split("\n")):
        facts, _, path = line.partition("\t")
        _, _, _, blob, kind = facts.split(" ")
        name = PurePosixPath(path).relative_to(contract.DATASET).as_posix()
        if name != ".gitignore":
            found.append((kind[0], name, blob))
    return found


def _digests(home: Home, blobs: dict[str, str]) -> dict[str, str | None]:
    """The digest of the batch that each pointer names, by the id of the pointer's blob; None where it was purged."""
    wanted = {blob: name.removesuffix(".dvc") for blob, name in blobs.items() if name.endswith(".dvc")}
    found = read_objects(home, list(wanted))
    known = purges.read(home)
    left = {blob: purges.pointer(known, found[blob] or b"") for blob in wanted}
    return {blob: None if (data := left[blob]) is None else batch_digest(data, name) for blob, name in wanted.items()}
