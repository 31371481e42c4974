"""A batch or an event without a patient: what is written in its place when the patient is purged."""

from __future__ import annotations

import os
import shutil
import tarfile
from collections.abc import Collection
from pathlib import Path
from typing import Final

import pandas as pd

from cxr_ops.data import manifest, shards
from cxr_ops.data.checking import fingerprints
from cxr_ops.data.purging.subject import PATIENTS, PURGED, Subject, has_word, names, scrubbed
from cxr_ops.errors import DataError
from cxr_ops.records.acceptance import ACCEPTANCE, Acceptance
from cxr_ops.records.base import sha256_file, write_atomic
from cxr_ops.records.data import Batch, Event

# Columns of tables that hold ids of images; the last is of a list of pairs.
_IMAGES: Final = ("image_id", "other_id")


def rewrite_batch(folder: Path, out: Path, subject: Subject) -> Batch | None:
    """Write a batch without a patient: shards that hold none of the images are the same files.

    Args:
        folder: the batch, checked; it is only read.
        out: the folder to make; files that stay are linked where the disk can.
        subject: who goes.

    Returns:
        The record of the new batch; None where no image would be left, and nothing is written.

    Raises:
        DataError: a file is damaged.
        OSError: the folder exists or cannot be written.
    """
    record = Batch.read(folder / "batch.json")
    frame = manifest.read_manifest(folder / "manifest.csv")
    own, left = frame[frame["patient_id"] == subject.patient], frame[frame["patient_id"] != subject.patient]
    if left.empty:
        return None
    out.mkdir(parents=True)
    # In this batch, what its own rows give the patient is the patient's, whoever else has it in another batch.
    gone = {*subject.searched, *own["image_id"]} - {*left["image_id"]}
    shown = subject.model_copy(
        update={"images": sorted(gone), "others": [], "sha256": sorted({*subject.sha256, *own["sha256"]})}
    )
    for name in sorted(record.files):
        if name.endswith(".tar"):
            _shard_without(folder / name, out / name, gone)
        elif name == fingerprints.FILE:
            rows = fingerprints.read(folder / name, frame["image_id"])
            fingerprints.write(out / name, rows[(frame["patient_id"] != subject.patient).to_numpy()])
        elif name.endswith(".csv"):
            _table_without(folder / name, out / name, subject, gone)
        elif name == ACCEPTANCE:
            scrubbed(Acceptance.read(folder / name), shown).write(out / name)
        else:
            raise DataError(f"{name} is no file of a batch, and nobody knows whom it shows", where=folder)
    if still := [path.name for path in sorted(out.iterdir()) if shown.shown_by(path)]:
        raise DataError(f"{still[0]} still shows the patient, and was not replaced", where=folder / still[0])
    made = record.model_copy(
        update={
            "images": len(left),
            "patients": int(left["patient_id"].nunique()),
            "files": {path.name: sha256_file(path) for path in sorted(out.iterdir())},
        }
    )
    made.write(out / "batch.json")
    return made


def rewrite_event(event: Event, subject: Subject) -> Event:
    """An event without a patient. One that was about nobody else stays, empty, so that the numbers have no gap."""
    gone = set(subject.searched)
    about = subject.patient in event.patients or not gone.isdisjoint(
        [*event.images, *(one.image_id for one in event.labels)]
    )
    # A person wrote the reason: of an event that is about the patient, any word that is the id may mean the patient.
    named = (has_word if about else names)(event.reason, subject)
    return event.model_copy(
        update={
            "reason": PURGED if named else event.reason,
            "patients": [one for one in event.patients if one != subject.patient],
            "images": [one for one in event.images if one not in gone],
            "labels": [one for one in event.labels if one.image_id not in gone],
        }
    )


def _shard_without(path: Path, out: Path, gone: Collection[str]) -> None:
    with tarfile.open(path, "r:") as tar:
        members = [member.name for member in tar]
        if not set(members) & set(gone):
            _link_or_copy(path, out)
            return
        kept = [name for name in members if name not in gone]
        if not kept:
            return
        aside = out.parent / ".rewriting"
        aside.mkdir()
        files = ((name, file.read()) for name in kept if (file := tar.extractfile(name)) is not None)
        (written,) = shards.write_shards(aside, files, per_shard=len(kept))
        written.replace(out)
        aside.rmdir()


def _table_without(path: Path, out: Path, subject: Subject, gone: Collection[str]) -> None:
    header = manifest.read_rows(path)[0][1]
    table = manifest.read_table(path, header)
    hit = pd.Series(data=False, index=table.index)
    for column in {*header} & {*_IMAGES}:
        hit |= table[column].isin(list(gone))
    for column in {*header} & {*PATIENTS}:
        hit |= table[column] == subject.patient
    if not hit.any():
        _link_or_copy(path, out)
    elif not hit.all() or path.name in ("manifest.csv", "boxes.csv", "pixels.csv"):
        write_atomic(out, manifest.to_csv(table[~hit], header))


def _link_or_copy(source: Path, target: Path) -> None:
    """Give a file another name where the disk can, or copy it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target)
