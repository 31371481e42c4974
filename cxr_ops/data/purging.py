"""What a purge does to files: which of them show a patient, and a batch or an event without the patient.

A file shows a patient if it holds the id of one of the patient's images, the digest of one, or is a table with a field
that is the patient's id. Shards count too: the names in a tar file stand in clear. What holds pixels and no names, such
as an array or a map, is known by the list beside it; see `cxr_ops.stages.purge`.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import tarfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

import pandas as pd
from pydantic import Field

from cxr_ops.data import manifest, shards
from cxr_ops.data.checking import fingerprints
from cxr_ops.errors import DataError
from cxr_ops.records.acceptance import ACCEPTANCE, Acceptance
from cxr_ops.records.base import Kept, sha256_file, write_atomic
from cxr_ops.records.data import Batch, Event

PURGED: Final = "(purged)"
# How many characters of an image's digest the report and the evidence call a case by.
CASE_DIGITS: Final = 12
_PIECE: Final = 2**24
# An id of so many characters, with a digit among them, is no word of a sentence.
_TELLING: Final = 5
# Columns of tables that hold ids; the last of each is of a list of pairs.
_IMAGES: Final = ("image_id", "other_id")
_PATIENTS: Final = ("patient_id", "other_patient")


class Subject(Kept):
    """Whom a purge is about: a patient, the patient's images, the SHA-256 of their files and of their origins.

    `pixels` are the digests of their pixels: another file may show the same. `refused` are images of the patient that
    never entered. `others` are ids of images that stand under another patient too, such as those whose patient was
    wrong and corrected: they are the other's, and show this patient only where a row says so. Neither list of digests
    has one of theirs.
    """

    patient: str
    images: list[str]
    sha256: list[str]
    pixels: list[str] = Field(default_factory=list)
    refused: list[str] = Field(default_factory=list)
    others: list[str] = Field(default_factory=list)

    @property
    def searched(self) -> list[str]:
        """The ids of images that show the patient wherever they stand."""
        return sorted({*self.images, *self.refused} - {*self.others})

    def shown_by(self, path: Path) -> bool:
        """Whether a file shows the patient.

        A page and a list of pictures call an image by the beginning of its digest. In other files that beginning shows
        nothing and stays, such as in the evidence, which decisions on the ledger name.

        Raises:
            OSError: it cannot be read.
        """
        searched = self.searched
        if members := _members(path):
            return not set(searched).isdisjoint(members)
        digests = [one.encode() for one in (*self.sha256, *self.pixels)]
        pattern = re.compile(_any_of(searched).encode()) if searched else None
        longest = 1 + max(map(len, (*searched, *self.sha256, *self.pixels)), default=0)
        with path.open("rb") as file:
            data = file.read(_PIECE)
            if data.startswith(b"<") or (data.startswith(b"{") and b'"picture"' in data):
                digests += [one[:CASE_DIGITS].encode() for one in self.sha256]
            while data:
                if (pattern and pattern.search(data)) or any(one in data for one in digests):
                    return True
                piece = file.read(_PIECE)
                data = data[-longest:] + piece if piece else b""
        return sha256_file(path) in self.sha256 or self._in_table(path)

    def _in_table(self, path: Path) -> bool:
        """Whether a table has the patient's id in a column of patients, as `sides.csv` may without naming an image."""
        with path.open("rb") as file:
            head = file.readline(4096)
            columns = head.decode("utf-8", errors="replace").strip().split(",")
            places = [at for at, column in enumerate(columns) if column in _PATIENTS]
            if not places:
                return False
            rows = csv.reader(io.StringIO(file.read().decode("utf-8", errors="replace"), newline=""))
            return any(self.patient in (row[at] for at in places if at < len(row)) for row in rows)


def _any_of(ids: Iterable[str]) -> str:
    """A pattern for any of these ids: 1.png is not in 11.png, nor in 1.png2; a sentence may end behind an id."""
    return rf"(?<![A-Za-z0-9._-])(?:{'|'.join(map(re.escape, ids))})(?![A-Za-z0-9_-])"


def _members(path: Path) -> list[str] | None:
    """The names in a tar file; None of any other file."""
    try:
        with tarfile.open(path, "r:") as tar:
            return tar.getnames()
    except tarfile.TarError:  # an empty file too
        return None


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


def names(text: str, subject: Subject) -> bool:
    """Whether a sentence names the patient or one of the images.

    An id that is a common word or a number, such as `no` or `1`, names the patient behind the word patient alone.

    >>> one = Subject(patient="1", images=["1.png"], sha256=[])
    >>> [names(text, one) for text in ("1 of 20 rows", "the patient 1 is F", "as 1.png.", "as 11.png", "patients: 1.5")]
    [False, True, True, False, False]
    """
    if subject.searched and re.search(_any_of(subject.searched), text):
        return True
    own = _word(subject)
    if len(subject.patient) >= _TELLING and any(map(str.isdigit, subject.patient)):
        return re.search(own, text) is not None
    return re.search(rf"(?i:\bpatients?(?: ids?)?:?|\bsuch as) ['\"]?{own}", text) is not None


def has_word(text: str, subject: Subject) -> bool:
    """Whether a sentence has a word that is the patient's id, whatever it means there, or names one of the images."""
    return names(text, subject) or re.search(_word(subject), text) is not None


def _word(subject: Subject) -> str:
    """A pattern for the patient's id as a word: 1 is not in 1.5, nor in 1,000."""
    return rf"{_any_of([subject.patient])}(?![.,][A-Za-z0-9])"


def scrub(text: str, subject: Subject) -> str:
    """A text without the lines that name the patient: each becomes `PURGED`."""
    return "\n".join(PURGED if names(line, subject) else line for line in text.split("\n"))


def scrubbed(record: Acceptance, subject: Subject) -> Acceptance:
    """The record of how a batch was taken, without what names a patient: free text alone can. It is checked anew."""
    checks = [one.model_copy(update={"found": scrub(one.found, subject)}) for one in record.checks]
    made = record.model_copy(update={"why": scrub(record.why, subject), "checks": checks})
    return Acceptance.model_validate_json(made.to_bytes())


def _shard_without(path: Path, out: Path, gone: Collection[str]) -> None:
    with tarfile.open(path, "r:") as tar:
        members = [member.name for member in tar]
        if not set(members) & set(gone):
            link_or_copy(path, out)
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
    for column in {*header} & {*_PATIENTS}:
        hit |= table[column] == subject.patient
    if not hit.any():
        link_or_copy(path, out)
    elif not hit.all() or path.name in ("manifest.csv", "boxes.csv", "pixels.csv"):
        write_atomic(out, manifest.to_csv(table[~hit], header))


def link_or_copy(source: Path, target: Path) -> None:
    """Give a file another name where the disk can, or copy it."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copyfile(source, target)
