"""withdraw: take patients or images out of the data set, by an event; and what an event means for the test set.

The batches stay as they are, and so do earlier versions; the manifest of the new version is without the images. What
withdrew as a patient does not enter again. To remove a patient's bytes from every version, see `purge`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from cxr_ops.audit.state import open_period
from cxr_ops.data import events, manifest, room, validation
from cxr_ops.data.events import Applied
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches
from cxr_ops.errors import BusyError, DataError, RefusedError, SettingsError
from cxr_ops.locks import Lock
from cxr_ops.params import Params
from cxr_ops.records.data import Batch, DataRevision, Event, event_name
from cxr_ops.stages.remove import tell_test_set, test_set
from cxr_ops.voice import count

_STEPS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Amended:
    """What an event did.

    Attributes:
        event: as it is in the data set.
        revision: the data revision that holds it.
        test_images: images of the test set before and after.
        test_patients: patients of the test set before and after.
        test_relabelled: images of the test set whose labels were corrected.
        boxes: boxes that went.
    """

    event: Event
    revision: str
    test_images: tuple[int, int]
    test_patients: tuple[int, int]
    test_relabelled: int
    boxes: int

    def __str__(self) -> str:
        """A line for what happened, and one for each thing that follows."""
        event = self.event
        if event.kind == "withdraw":
            images, patients = count(len(event.images), "image"), count(len(event.patients), "patient")
            lines = [f"{event.name}: {images} withdrawn, {patients} as a whole"]
        else:
            images = count(len({one.image_id for one in event.labels}), "image")
            lines = [f"{event.name}: {count(len(event.labels), 'label')} of {images} corrected"]
        if self.boxes:
            lines.append(f"  {count(self.boxes, 'box', 'boxes')} of no positive finding any more")
        lines += tell_test_set(self.test_images, self.test_patients, relabelled=self.test_relabelled)
        lines.append("  earlier versions stay as they are")
        return "\n".join([*lines, f"  data revision {self.revision}"])


def run(
    home: Home,
    who: Collection[str] = (),
    *,
    patients: Collection[str] = (),
    images: Collection[str] = (),
    by: str,
    reason: str,
    progress: Callable[[int, int], None] | None = None,
) -> Amended:
    """Withdraw patients and images.

    Args:
        home: the installation.
        who: ids of patients and of images, as the manifest has them; they are compared as text.
        patients: ids of patients alone, where an image may have the same one.
        images: ids of images alone.
        by: who decided it.
        reason: why, for those who read the history of the data later.
        progress: see `amend`.

    Raises:
        SettingsError: `by` or `reason` is blank, or no id is given.
        DataError: an id is unknown, is a patient's and an image's and it was not said whose, or has nothing left to
            withdraw (all such are listed), or there is no data set, or a batch is missing from the store or was
            altered.
        RefusedError: no image would be left.
        BusyError: an ingestion is going on, or the data set changed meanwhile.
        StorageError: the ledger or the store cannot be read or written.
    """
    if not (who or patients or images):
        raise SettingsError(
            "nobody is named",
            where="data withdraw",
            fix="give an id of a patient or of an image, as `data show` takes it",
        )

    def make(name: str, now: Applied, happened: list[Event], revision: DataRevision) -> Event:
        folders = batches.batch_files(home, revision=revision).values()
        entered = manifest.concatenate(manifest.read_manifest(folder / "manifest.csv") for folder in folders)
        event = events.withdrawal(name, entered, happened, who, patients=patients, images=images, by=by, reason=reason)
        if set(now.frame["image_id"]) <= set(event.images):
            raise RefusedError(
                "no image would be left in the data set",
                where="data withdraw",
                fix="ingest another batch first, or begin an installation of its own: CXR_HOME=FOLDER",
            )
        return event

    return amend(home, make, verb="withdraw", by=by, reason=reason, progress=progress)


def amend(
    home: Home,
    make: Callable[[str, Applied, list[Event], DataRevision], Event],
    *,
    verb: str,
    by: str,
    reason: str,
    progress: Callable[[int, int], None] | None = None,
) -> Amended:
    """Add the event that `make` makes of its name, the data set as it is, the events so far and the revision.

    Args:
        home: the installation.
        make: makes the event.
        verb: the command.
        by: who decided it.
        reason: why.
        progress: called with the steps that are done and their number: read, made and checked, compared, stored.

    Raises:
        SettingsError: `by` or `reason` is blank.
        DataError: there is no data set, a batch is missing from the store or was altered, or corrected labels do not
            pass the checks of the data set.
        BusyError: an ingestion is going on, or the data set changed meanwhile.
        StorageError: the ledger or the store cannot be read or written.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError("an event needs a name and a reason", where=f"data {verb}", fix="--by NAME --reason TEXT")
    done = progress or (lambda *_: None)
    again = "and type the command again: the data set is as it was"
    with room.storage_errors(home.root, then=again), Lock(home.locks / "ingest") as lock:
        if not lock.try_acquire():
            raise BusyError("an ingestion is going on", where=lock.path, fix="type the command again when it has ended")
        revision = batches.data_revision(home)
        if revision is None:
            raise _no_data(home)
        done(0, _STEPS)
        before = as_it_is(home, revision)
        done(1, _STEPS)
        happened = batches.read_events(home, revision)
        event = make(event_name(len(revision.events) + 1), before, happened, revision)
        after = events.apply(before.frame, before.boxes, [event])
        if event.kind == "relabel":
            _check_expectations(home, revision, after)
        done(2, _STEPS)
        folders = batches.batch_files(home, revision=revision, optional=(manifest.SIDES,))
        pins = manifest.read_sides(folders.values())
        split = Params.load(home.project / dvc.PARAMS).split
        closed = open_period(open_ledger(home).entries()).closed_batches
        gone = manifest.join_withdrawn(before.withdrawn, after.withdrawn)
        was = test_set(before.frame, split, closed, pins, before.withdrawn)
        now = test_set(after.frame, split, closed, pins, gone)
        done(3, _STEPS)
        commit = batches.add_event(home, event, revision)
    done(_STEPS, _STEPS)
    touched = {one.image_id for one in event.labels}
    return Amended(
        event=event,
        revision=commit,
        test_images=(len(was), len(now)),
        test_patients=(was["patient_id"].nunique(), now["patient_id"].nunique()),
        test_relabelled=int(now["image_id"].isin(touched).sum()),
        boxes=len(before.boxes) - len(after.boxes) if event.kind == "relabel" else 0,
    )


def as_it_is(home: Home, revision: DataRevision | None = None) -> Applied:
    """The manifest and boxes of the data set as it is now, or at a revision: its batches, changed by its events.

    Raises:
        DataError: there is no data set, or a batch or event is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    folders = batches.batch_files(home, revision=revision)
    if not folders:
        raise _no_data(home)
    return manifest.joined(folders.values(), batches.read_events(home, revision))


def _no_data(home: Home) -> DataError:
    return DataError("there is no data set", where=home.store, fix="cxr-ops ingest nih FOLDER --batch NAME")


def _check_expectations(home: Home, revision: DataRevision, after: Applied) -> None:
    """Check labels as at ingestion: run the suites over the data set as it would be."""
    settings = Params.load(home.project / dvc.PARAMS).validate_
    names = (batches.BATCH, "manifest.csv", "boxes.csv", "pixels.csv")
    folders = list(batches.batch_files(home, names, revision, optional=(manifest.SIDES,)).values())
    records = [Batch.read(folder / batches.BATCH) for folder in folders]
    found = validation.validate(
        after.frame,
        after.boxes,
        [home.project / suite for suite in settings.suites],
        labelled={record.name: record.findings for record in records},
        pixels=manifest.read_pixels(folders, after.frame["image_id"].tolist()),
        sides=manifest.all_sides(folders),
        batches=manifest.read_stated(folders),
    )
    if not found.passed:
        raise validation.failure(found, after.frame, page=None, fix="correct the labels of these rows in your table")
