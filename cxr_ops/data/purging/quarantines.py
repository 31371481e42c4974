"""What a purge takes out of the quarantine of a batch: the patient's rows and pictures, and nothing of others.

A row is the patient's if the list says so, or names one of the patient's images, or if its problem names the patient:
then its picture is the same as one of the patient's, or nearly. Of a kept table the patient's lines go, and what is
left is kept under its new digest. In sentences each line that names the patient goes.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import pandas as pd

from cxr_ops.data import manifest, tables
from cxr_ops.data.checking import quarantine
from cxr_ops.data.purging.subject import Subject, names, scrub, scrubbed
from cxr_ops.data.sources.source import flat_name
from cxr_ops.errors import CxrError, DataError, StorageError
from cxr_ops.records.acceptance import ACCEPTANCE, PROBLEMS, Acceptance
from cxr_ops.records.base import sha256_bytes, write_private

PATIENT: Final = "patient_id"
# What tables call the column of patients, in small letters and digits alone.
_CALLED: Final = ("patientid", "patient", "subjectid", "subject", "deidpatientid", "pseudonym")


class Owned(NamedTuple):
    """Images and digests of kept files, as the rows of quarantines give them to a patient, and to others."""

    images: set[str]
    sha256: set[str]
    images_of_others: set[str]
    sha256_of_others: set[str]


@dataclass(frozen=True, kw_only=True)
class Without:
    """A quarantine without a patient, not written yet.

    Attributes:
        folder: of the quarantine.
        rows: of the list that go.
        files: kept files that go, or that lose lines.
        unknown: what cannot be checked, by name, and how to remove it.
        changes: new bytes of each file that changes, None of one that goes; in the order in which they are written.
        empty: whether nothing is left, so that the folder goes.
    """

    folder: Path
    rows: int
    files: int
    unknown: tuple[str, ...]
    changes: Mapping[Path, bytes | None] = field(default_factory=dict)
    empty: bool = False

    @property
    def concerned(self) -> bool:
        """Whether the patient is in it."""
        return bool(self.changes)

    def write(self) -> None:
        """Write what is left; the list last, so that a purge that was cut off finds the rest by it.

        Raises:
            OSError: a file cannot be written or removed.
        """
        for path, data in self.changes.items():
            if data is None:
                path.unlink(missing_ok=True)
            else:
                write_private(path, data)
        if self.empty:
            for path in sorted(self.folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            self.folder.rmdir()


def owned(folders: Iterable[Path], patient: str) -> Owned:
    """Which images the lists of quarantines give to a patient, and which to others.

    Args:
        folders: of quarantines.
        patient: the id, as sources read it.

    Raises:
        DataError: a list is damaged.
    """
    found = Owned(set(), set(), set(), set())
    for folder in folders:
        rows = [row for row in _listed(folder)[1] if row.get(PATIENT)]
        digests = {row.get("sha256", "") for row in rows}  # rows without a picture have their table's, all of them one
        shared = {digest for digest in digests if _is_table(folder / quarantine.FILES / digest)}
        for row in rows:
            images, sha256 = (found.images, found.sha256) if row[PATIENT] == patient else found[2:]
            images.add(row.get("image_id", ""))
            sha256.update({row.get("sha256", "")} - shared)
    for part in found:
        part.discard("")
    return found


def without(folder: Path, subject: Subject, page: bytes) -> Without:
    """What a quarantine is without a patient; nothing is written.

    Args:
        folder: of the quarantine.
        subject: who goes.
        page: what stands in the place of a page that shows the patient.

    Raises:
        DataError: the list or the record is damaged.
        StorageError: a file cannot be read.
    """
    try:
        return _without(folder, subject, page)
    except OSError as error:
        if isinstance(error, CxrError):
            raise
        raise StorageError(
            f"the quarantine cannot be read: {error.strerror}",
            where=error.filename or folder,
            fix="type the command again as the owner of CXR_HOME",
        ) from error


def _without(folder: Path, subject: Subject, page: bytes) -> Without:
    header, rows = _listed(folder)
    own = {row.get("image_id", "") for row in rows if row.get(PATIENT) == subject.patient} - {""}
    shown = subject.model_copy(
        update={"images": sorted({*subject.searched, *own} - {*subject.others}), "refused": [], "others": []}
    )
    named = subject.model_copy(update={"images": sorted({*subject.searched, *own}), "refused": [], "others": []})
    gone = [_is_of(row, shown, named) for row in rows]
    places = [row.get("line", "") for row in rows if row.get(PATIENT) == subject.patient]
    lines = {int(line) for line in places if line.isdecimal()}
    files: dict[Path, bytes | None] = {}
    moved: dict[str, str] = {}
    kept = {path.name: path for path in sorted((folder / quarantine.FILES).glob("*")) if path.is_file()}
    wanted = {row.get("sha256", "") for row, is_gone in zip(rows, gone, strict=True) if is_gone}
    needed = {row.get("sha256", "") for row, is_gone in zip(rows, gone, strict=True) if not is_gone}
    for name, path in kept.items():
        text = _table_without(path, named, lines)
        if text is not None and text != path.read_bytes():
            moved[name] = sha256_bytes(text)
            files[path.with_name(moved[name])] = text
            files[path] = None
        elif shown.shown_by(path) or (name in wanted and not (text is not None and name in needed)):
            moved[name] = ""
            files[path] = None
    changes = dict(files)
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != PROBLEMS:
            after = _sentences_without(path, named, page)
            if after != path.read_bytes():
                changes[path] = after
    left = [dict(row) for row, is_gone in zip(rows, gone, strict=True) if not is_gone]
    for row in left:
        row["sha256"] = moved.get(row.get("sha256", ""), row.get("sha256", ""))
    if any(gone) or files:
        changes[folder / PROBLEMS] = _csv(header, left)
    staying = kept.keys() - moved.keys()
    remaining = staying | {name for name in moved.values() if name}
    record = folder / ACCEPTANCE
    refused = record.is_file() and Acceptance.read(record).outcome == "refused"
    others = {path.name for path in folder.iterdir() if path.is_file()} - {PROBLEMS, ACCEPTANCE}
    return Without(
        folder=folder,
        rows=sum(gone),
        files=len(moved),
        unknown=_unknown(folder, header, left, staying),
        changes=changes,
        empty=bool(changes) and not (left or remaining or others or refused),
    )


def _listed(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The header of a quarantine's list, and its rows; nothing where there is no list."""
    path = folder / PROBLEMS
    if not path.is_file():
        return [], []
    lines = manifest.read_rows(path)
    header = lines[0][1] if lines else []
    for line, fields in lines[1:]:
        if len(fields) != len(header):
            raise DataError(
                f"the row has {len(fields)} fields, not {len(header)}",
                where=f"{path}, line {line}",
                fix=f"look into the folder, and remove it: rm -r {shlex.quote(str(folder))}",
            )
    return header, [dict(zip(header, fields, strict=True)) for _, fields in lines[1:]]


def _is_of(row: Mapping[str, str], shown: Subject, named: Subject) -> bool:
    owner, image = row.get(PATIENT, ""), row.get("image_id", "")
    if owner == shown.patient or row.get("sha256", "") in shown.sha256:
        return True
    # Without an owner a name is all that tells; an image that two patients have is the other's where a row says so.
    return (not owner and image in named.images) or image in shown.images or names(row.get("problem", ""), shown)


def _is_table(path: Path) -> bool:
    try:
        return path.is_file() and len(tables.read(path, {}, packed=tables.is_packed(path)).written) > 1
    except CxrError:
        return False


def _table_without(path: Path, subject: Subject, own: Collection[int]) -> bytes | None:
    """The bytes of a table without the lines of a patient; None of what is no table.

    Where no column is called as one of patients, it is one that has the patient's id on a line that is the patient's
    (`own`).
    """
    packed = tables.is_packed(path)  # its name here is its digest, and says nothing; what is left is kept unpacked
    try:
        table, text = tables.read(path, {}, packed=packed), tables.read_text(path, packed=packed)
    except CxrError:
        return None
    if len(table.written) < 2:
        return None
    called = {name for name in table.columns if "".join(filter(str.isalnum, name.lower())) in _CALLED}
    spelled = {subject.patient, subject.patient.removeprefix("p")}  # MIMIC's tables have the number alone
    columns = {name: list(zip(table.lines, values, strict=True)) for name, values in table.columns.items()}
    called = called or {
        name
        for name, cells in columns.items()
        if any(line in own and tables.canonical_patient(value) in spelled for line, value in cells)
    }
    images = set(subject.images)
    gone: set[int] = {cut.line for cut in table.cut if cut.first in images}
    for name, cells in columns.items():
        for line, value in cells:
            is_patient = name in called and tables.canonical_patient(value) in spelled
            parts = value.split("/")  # CheXpert's tables have a path with the patient in it
            is_place = len(parts) > 1 and (subject.patient in parts or flat_name(value) in images)
            is_image = parts[-1] in images or f"{value.strip()}.png" in images  # tables of DICOM have the name alone
            if is_patient or is_place or is_image:
                gone.add(line)
    if not gone:
        return path.read_bytes()
    ends = sorted({*table.lines, *(cut.line for cut in table.cut)})
    starts = {end: before + 1 for before, end in zip([ends[0] - 1, *ends], ends, strict=False)}
    out = {number for end in gone for number in range(starts[end], end + 1)}
    lines = io.StringIO(text, newline="")  # as the table was read: a lone \r ends a line too
    return "".join(line for number, line in enumerate(lines, start=1) if number not in out).encode()


def _sentences_without(path: Path, subject: Subject, page: bytes) -> bytes | None:
    """What a file beside the list is without a patient; None if it goes."""
    data = path.read_bytes()
    if path.name == ACCEPTANCE:
        record = Acceptance.read(path)
        clean = scrubbed(record, subject)
        return data if clean == record else clean.to_bytes()
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None if subject.shown_by(path) else data
    if path.suffix == ".html":
        return page if names(text, subject) or subject.shown_by(path) else data
    return scrub(text, subject).encode()


def _unknown(folder: Path, header: list[str], left: list[dict[str, str]], kept: set[str]) -> tuple[str, ...]:
    """What no row says whose it is."""
    at = shlex.quote(str(folder))
    if not header:
        return (f"{folder.name}: its files have no list; look into it, and remove it: rm -r {at}",) if kept else ()
    if PATIENT not in header:
        why = "an earlier version kept it, and did not say whose the rows are"
        return (f"{folder.name}: {why}; look into it, and remove it: rm -r {at}",)
    nobody = {row["sha256"] for row in left if not row[PATIENT]} & kept
    nobodys = sorted(name for name in nobody if not _is_table(folder / quarantine.FILES / name))
    if not nobodys:
        return ()
    files = " ".join(f"{quarantine.FILES}/{name}" for name in nobodys)
    why = "pictures that no row gives a patient"
    return (f"{folder.name}: {why}; look at them, and remove them: cd {at} && rm {files}",)


def _csv(header: list[str], rows: list[dict[str, str]]) -> bytes:
    return manifest.to_csv(pd.DataFrame(rows, columns=header, dtype=str), header)
