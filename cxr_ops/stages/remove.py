"""remove: take a batch out of the data set, and say what follows for the test set.

The data branch gets a commit that no longer points to the batch; its bytes stay in the store, and runs that were opened
on it can be made again. What an earlier test period rests on cannot be taken out: its test patients would be tested
again as if nobody had ever scored them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import pandas as pd

from cxr_ops import voice
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import open_period
from cxr_ops.data import events, manifest, room, splits
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches
from cxr_ops.errors import BusyError, RefusedError, SettingsError
from cxr_ops.labels import nearest
from cxr_ops.locks import Lock
from cxr_ops.params import Params, Split
from cxr_ops.voice import count


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What a removal did.

    Attributes:
        batch: which batch is out.
        revision: the data revision without it.
        images: images that left with it.
        patients: patients who left with it: those who have no image in another batch.
        test_images: images of the test set before and after.
        test_patients: patients of the test set before and after.
        scored: whether a model was scored on the batch in the open test period.
    """

    batch: str
    revision: str
    images: int
    patients: int
    test_images: tuple[int, int]
    test_patients: tuple[int, int]
    scored: bool

    def __str__(self) -> str:
        """A line for what left, and one for each thing that follows."""
        patients = f"{count(self.patients, 'patient')} who {'has' if self.patients == 1 else 'have'} no other"
        left = f"{count(self.images, 'image')}, and {patients}"
        lines = [f"batch {self.batch} is out of the data set: {left}"]
        lines += tell_test_set(self.test_images, self.test_patients, relabelled=0)
        if self.scored:
            lines.append(
                "  models were scored on its test patients: they may come back in a batch of the same name, and in no "
                "other, for the name is what shows that they were tested"
            )
        lines.append("  nothing is lost: the store keeps the batch; the same folder and name bring it back")
        return "\n".join([*lines, f"  data revision {self.revision}"])


def tell_test_set(images: tuple[int, int], patients: tuple[int, int], *, relabelled: int) -> list[str]:
    """What becomes of the test set, a line each.

    Args:
        images: of the test set before and after.
        patients: of the test set before and after.
        relabelled: its images with a corrected label.
    """
    if images[0] == images[1] and not relabelled:
        return ["  the test set stays as it is"]
    if images[0] == images[1]:
        how = f"labels of {relabelled:,} of its {count(images[1], 'image')} are corrected"
    else:
        told = (f"{name} {before:,} -> {after:,}" for name, (before, after) in _named(images, patients))
        how = ", ".join(told)
    return [
        f"  the test set becomes another one: {how}",
        "  looks that were spent stay spent; the next run scores every model on it anew",
    ]


def _named(images: tuple[int, int], patients: tuple[int, int]) -> Iterable[tuple[str, tuple[int, int]]]:
    return (("images", images), ("patients", patients))


def run(home: Home, batch: str, *, by: str, reason: str) -> Removal:
    """Take a batch out of the data set.

    Args:
        home: the installation.
        batch: its name.
        by: who decided it.
        reason: why, for those who read the history of the data later.

    Raises:
        SettingsError: there is no such batch, or `by` or `reason` is blank.
        RefusedError: no batch or no image would be left, patients of it were tested in an earlier test period, or its
            source's own split is what keeps patients of other batches on their side.
        BusyError: an ingestion is going on.
        DataError: a batch is missing from the store or was altered.
        StorageError: the ledger or the store cannot be read or written.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError("a removal needs a name and a reason", where="data remove", fix="--by NAME --reason TEXT")
    again = "and type the command again: the data set is as it was"
    with room.storage_errors(home.root, then=again), Lock(home.locks / "ingest") as lock:
        if not lock.try_acquire():
            raise BusyError("an ingestion is going on", where=lock.path, fix="take the batch out when it has ended")
        revision = batches.data_revision(home)
        held = revision.batches if revision else {}
        if revision is None or batch not in held:
            raise _unknown(batch, held)
        if len(held) == 1:
            raise RefusedError(
                f"{batch} is the only batch: no data set would be left",
                where=home.store,
                fix="ingest another batch first, or begin an installation of its own: CXR_HOME=FOLDER",
            )
        folders = batches.batch_files(home, optional=(manifest.SIDES,))
        frame = manifest.concatenate(manifest.read_manifest(path / "manifest.csv") for path in folders.values())
        entries = open_ledger(home).entries()
        closed = open_period(entries).closed_batches
        split = Params.load(home.project / dvc.PARAMS).split
        happened = batches.read_events(home, revision)
        now, _, withdrawn = events.apply(frame, manifest.no_boxes(), happened)
        leaving, staying = now[now["batch"] == batch], now[now["batch"] != batch]
        if staying.empty:
            raise RefusedError(
                f"all images of the other batches are withdrawn: without {batch} no image would be left",
                where=home.store,
                fix="ingest another batch first, or begin an installation of its own: CXR_HOME=FOLDER",
            )
        pins = manifest.read_sides(folders.values())
        left = manifest.read_sides(path for name, path in folders.items() if name != batch)
        if batch in closed:
            _refuse_retired(batch, frame[frame["batch"] == batch], split, pins)
        _refuse_moves(batch, staying, split, pins, left)
        before = test_set(now, split, closed, pins, withdrawn)
        after = test_set(staying, split, closed, pins, withdrawn[withdrawn["batch"] != batch])
        commit = batches.remove_batch(home, batch, revision, by=by, reason=reason)
    return Removal(
        batch=batch,
        revision=commit,
        images=len(leaving),
        patients=len(set(leaving["patient_id"]) - set(staying["patient_id"])),
        test_images=(len(before), len(after)),
        test_patients=(before["patient_id"].nunique(), after["patient_id"].nunique()),
        scored=_scored(entries, batch) and batch in set(before["batch"]),
    )


def tested_and_gone(home: Home, *, but: str) -> dict[str, str]:
    """Test patients of batches that models were scored on and that were taken out, with the name of the batch.

    That they were tested is known by the name of their batch: under another name they would be tested as new.

    Args:
        home: the installation.
        but: a batch whose patients do not count: the one that is about to enter.

    Raises:
        DataError: a batch is missing from the store or was altered.
        StorageError: the ledger or the store cannot be read.
    """
    held, removed = batches.history(home)
    here = {but, *(one.batch for one in held)}
    gone = {one.batch: f"{one.revision}^" for one in removed if one.batch not in here}
    entries = open_ledger(home).entries() if gone else []
    tested: dict[str, str] = {}
    for name in filter(lambda name: _scored(entries, name), gone):
        before = batches.revision_at(home, gone[name])
        if name not in before.batches:
            continue  # its only patient was purged, from the earlier versions too
        only = before.model_copy(update={"batches": {name: before.batches[name]}})
        names = (batches.BATCH, "manifest.csv")
        folder = batches.batch_files(home, names, only, optional=(manifest.SIDES,))[name]
        rows = manifest.read_manifest(folder / "manifest.csv")
        split = Params.load(home.project / dvc.PARAMS).split
        tested |= dict.fromkeys(test_set(rows, split, (), manifest.read_sides([folder]), None)["patient_id"], name)
    return tested


def test_set(
    rows: pd.DataFrame,
    split: Split,
    closed: Collection[str],
    pins: Mapping[str, str],
    withdrawn: pd.DataFrame | None,
) -> pd.DataFrame:
    """The rows of a manifest that are tested on; see `splits.assign`."""
    sides = splits.assign(rows, **split.model_dump(), closed_batches=closed, pinned=pins, withdrawn=withdrawn)
    return rows[sides == "test"]


test_set.__test__ = False  # type: ignore[attr-defined]  # pytest takes a name that begins with test_ for a test


def _refuse_moves(
    batch: str, rows: pd.DataFrame, split: Split, pins: Mapping[str, str], left: Mapping[str, str]
) -> None:
    """See that patients of other batches stay where the own split of this batch's source has put them."""
    was, now = (splits.assign(rows, **split.model_dump(), pinned=pinned) for pinned in (pins, left))
    if moved := rows.loc[was != now, "patient_id"].nunique():
        told = voice.count(moved, "patient of another batch is", "patients of other batches are")
        raise RefusedError(
            f"{told} on the side where the split of {batch} itself puts them: without it they would change sides",
            where=batch,
            fix="leave it; or take out first the batches that hold the same patients",
        )


def _refuse_retired(batch: str, rows: pd.DataFrame, split: Split, pins: Mapping[str, str]) -> None:
    """See that no test patient of an earlier test period has only this batch to show it."""
    retired = test_set(rows, split, (), pins, None)["patient_id"].nunique()
    if retired:
        told = f"{voice.count(retired, 'patient')} of {batch} {'was' if retired == 1 else 'were'}"
        raise RefusedError(
            f"{told} tested in an earlier test period, and the batch is what shows it: without it they would be tested "
            "again",
            where=f"closed batch {batch}",
            fix="leave it: its test patients are neither tested nor trained on any more",
        )


def _scored(entries: list[Entry], batch: str) -> bool:
    return any(entry.kind == "look" and batch in entry.look.batches for entry in entries)


def _unknown(batch: str, held: Collection[str]) -> SettingsError:
    guess = nearest(batch, held)
    known = ", ".join(sorted(held)) or "none"
    return SettingsError(
        f"the data set has no batch {batch!r}; it has: {known}",
        where="data remove",
        fix=f"cxr-ops data remove {guess} --reason TEXT --by NAME" if guess else "see them: cxr-ops data list",
    )
