"""Events of the data set: images that are withdrawn, labels that are corrected. What has entered is never rewritten.

    dataset/event.00001/event.json, dataset/event.00002/event.json, ...

A version is its batches, changed by its events in the order of their numbers. An event names images by their ids, which
are compared as text. One that names an image of a batch that was taken out holds again when the batch comes back.

A box says where a finding is: it goes where an event has made that finding of its image something else than positive,
and only there. A withdrawn image leaves its patient and batch behind (`withdrawn`): they still show who was scored.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pandas as pd

from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, nearest
from cxr_ops.records.data import EVENT, Event, event_name, is_event

WITHDRAWN: Final = "withdrawn.csv"  # of the stage validate
WITHDRAWN_COLUMNS: Final = ("patient_id", "batch")


class Applied(NamedTuple):
    """A data set after its events.

    Attributes:
        frame: the manifest (see `manifest.read_manifest`) without withdrawn images, with the labels of now.
        boxes: the boxes that still hold.
        withdrawn: `image_id`, `patient_id` and `batch` of the images that are withdrawn, in the order of the manifest.
    """

    frame: pd.DataFrame
    boxes: pd.DataFrame
    withdrawn: pd.DataFrame


def read_events(folders: Iterable[Path]) -> list[Event]:
    """The events in folders of theirs, in their order.

    Raises:
        DataError: one is missing or is no event, or has another name than its folder.
    """
    found = []
    for folder in sorted(folders, key=lambda path: path.name):
        event = Event.read(folder / EVENT)
        if event.name != folder.name:
            raise DataError(f"the event calls itself {event.name}", where=folder / EVENT, fix="cxr-ops open")
        found.append(event)
    return found


def event_folders(dataset: Path) -> list[Path]:
    """The folders of a data set's events, in their order.

    Raises:
        DataError: one is missing: the numbers have a gap, or a folder is empty, as a purge leaves it.
    """
    found = sorted(path for path in dataset.glob("event.*") if path.is_dir() and is_event(path.name))
    for number, path in enumerate(found, start=1):
        if path.name != event_name(number):
            raise DataError(
                f"{event_name(number)} is missing, and {path.name} is there", where=dataset, fix="cxr-ops open"
            )
        if not (path / EVENT).is_file():
            raise DataError(f"{EVENT} of {path.name} is missing", where=path / EVENT, fix="cxr-ops open")
    return found


def apply(frame: pd.DataFrame, boxes: pd.DataFrame, events: Sequence[Event]) -> Applied:
    """Change a data set by its events.

    Args:
        frame: all batches as they entered; see `manifest.read_manifest`.
        boxes: their boxes; see `manifest.read_boxes`.
        events: in their order.
    """
    gone = {image_id for event in events for image_id in event.images}
    labels = {(one.image_id, one.finding): one.now for event in events for one in event.labels}
    out = frame["image_id"].isin(gone)
    withdrawn = frame.loc[out, ["image_id", *WITHDRAWN_COLUMNS]].reset_index(drop=True)
    changed = frame[~out].reset_index(drop=True)
    for finding in FINDINGS:
        of_finding = {image_id: now for (image_id, name), now in labels.items() if name == finding}
        if of_finding:
            touched = changed["image_id"].isin(of_finding.keys())
            values = [pd.NA if (now := of_finding[one]) is None else now for one in changed.loc[touched, "image_id"]]
            changed.loc[touched, finding] = pd.array(values, dtype="Int64")
    kept = [
        image_id not in gone and labels.get((image_id, finding), 1) == 1
        for image_id, finding in zip(boxes["image_id"], boxes["finding"], strict=True)
    ]
    return Applied(changed, boxes[np.array(kept, dtype=bool)].reset_index(drop=True), withdrawn)


def withdrawn_images(events: Iterable[Event]) -> dict[str, str]:
    """The images that are withdrawn, with the name of the event."""
    return {image_id: event.name for event in events for image_id in event.images}


def withdrawn_patients(events: Iterable[Event]) -> dict[str, str]:
    """The patients who have withdrawn as a whole, with the name of the event."""
    return {patient: event.name for event in events for patient in event.patients}


def withdrawal(
    name: str,
    frame: pd.DataFrame,
    events: Sequence[Event],
    who: Collection[str] = (),
    *,
    patients: Collection[str] = (),
    images: Collection[str] = (),
    **told: str,
) -> Event:
    """Make the event that takes out patients and images.

    Args:
        name: of the event.
        frame: all batches as they entered.
        events: that were before.
        who: ids of patients or of images.
        patients: ids of patients, where an image may have the same one.
        images: ids of images, where a patient may have the same one.
        told: `by` and `reason`.

    Raises:
        DataError: an id is unknown, is a patient's and an image's and it was not said whose, or has nothing left to
            withdraw; all are listed.
    """
    gone = {image_id for event in events for image_id in event.images}
    owners = dict(zip(frame["image_id"], frame["patient_id"], strict=True))
    known = set(owners.values())
    already = withdrawn_patients(events)
    wrong: list[str] = []
    unknown: list[str] = []
    whole: list[str] = []
    out: set[str] = set()
    asked = dict.fromkeys([(one, "") for one in who])
    asked |= dict.fromkeys([*((one, "patient") for one in patients), *((one, "image") for one in images)])
    for one, kind in asked:
        as_patient, as_image = one in known and kind != "image", one in owners and kind != "patient"
        if as_patient and as_image:
            wrong.append(
                f"{one} is the id of a patient and of an image: say which, with --patient {shlex.quote(one)} or "
                f"--image {shlex.quote(one)}"
            )
        elif as_patient and one in already:
            wrong.append(f"the patient {one} was withdrawn by {already[one]}")
        elif as_patient:
            whole.append(one)
            out |= {image_id for image_id, patient in owners.items() if patient == one} - gone
        elif as_image and one in gone:
            wrong.append(f"the image {one} is withdrawn already")
        elif as_image:
            out.add(one)
        else:
            wrong.append(f"{one} is the id of no {kind}" if kind else f"{one} is the id of no patient and of no image")
            unknown.append(one)
    if wrong:
        raise _listed(wrong, "withdrawn", "data withdraw", unknown, [*owners, *known])
    return Event(name=name, kind="withdraw", patients=sorted(set(whole)), images=sorted(out), **_checked(told))


def correction(
    name: str, now: Applied, table: Sequence[tuple[int, dict[str, str]]], where: object, **told: str
) -> Event:
    """Make the event that corrects labels.

    Args:
        name: of the event.
        now: the data set as it is.
        table: line and cells of each row, by column: `image_id` and findings. A cell is 1, 0, -1 (uncertain),
            `missing`, or empty, which leaves the label as it is.
        where: the table, for errors.
        told: `by` and `reason`.

    Raises:
        DataError: an image is unknown, withdrawn or named twice, a cell is no label, or a row changes nothing; all are
            listed.
    """
    rows = {image_id: at for at, image_id in enumerate(now.frame["image_id"])}
    gone = set(now.withdrawn["image_id"])
    wrong: list[str] = []
    unknown: list[str] = []
    labels: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for line, cells in table:
        image_id = cells["image_id"]
        bad = [f"{key} is {text!r}" for key, text in cells.items() if key != "image_id" and text not in _LABELS]
        if image_id in seen:
            wrong.append(f"line {line}: {image_id} stands on line {seen[image_id]} too")
        elif image_id not in rows:
            why = "is withdrawn" if image_id in gone else "is not in the data set"
            wrong.append(f"line {line}: the image {image_id!r} {why}")
            unknown += [image_id] if image_id not in gone else []
        elif bad:
            wrong.append(f"line {line}: {', '.join(bad)}, not 1, 0, -1, missing or empty")
        else:
            row = now.frame.iloc[rows[image_id]]
            before = {key: None if pd.isna(row[key]) else int(row[key]) for key in cells if key != "image_id"}
            after = {key: _LABELS[cells[key]] for key in before if cells[key]}
            fresh = {key: value for key, value in after.items() if value != before[key]}
            labels += [
                {"image_id": image_id, "finding": key, "was": before[key], "now": value} for key, value in fresh.items()
            ]
            if not fresh:
                wrong.append(f"line {line}: {image_id} has these labels already")
        seen.setdefault(image_id, line)
    if not table:
        wrong.append("it has no rows")
    if wrong:
        raise _listed(wrong, "relabelled", where, unknown, rows)
    labels.sort(key=lambda one: (one["image_id"], FINDINGS.index(one["finding"])))
    return Event.model_validate({"name": name, "kind": "relabel", "labels": labels, **_checked(told)})


_LABELS: Final[dict[str, int | None]] = {"1": 1, "0": 0, "-1": -1, "missing": None, "": None}


def _checked(told: dict[str, str]) -> dict[str, str]:
    return {key: " ".join(text.split()) for key, text in told.items()}


def _listed(wrong: Sequence[str], done: str, where: object, unknown: Sequence[str], known: Iterable[str]) -> DataError:
    """The error that lists what is wrong; of ids that are unknown, the known one most like the first is named."""
    problems = f"{len(wrong):,} problem{'' if len(wrong) == 1 else 's'}; nothing was {done}"
    near = nearest(unknown[0], known) if unknown else None
    step = f"the nearest id to {unknown[0]} is {near}: cxr-ops data show {shlex.quote(near)}" if near else ""
    return DataError(
        "\n  ".join([problems, *wrong]),
        where=where,
        fix=f"correct them; {step or 'what is known of an image or a patient: cxr-ops data show ID'}",
    )
