"""Whom a purge is about: which files and sentences show the patient, and what is left of a text without.

A file shows a patient if it holds the id of one of the patient's images, the digest of one, or is a table with a field
that is the patient's id. Shards count too: the names in a tar file stand in clear. What holds pixels and no names, such
as an array or a map, is known by the list beside it; see `cxr_ops.stages.purge`.
"""

from __future__ import annotations

import csv
import io
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pydantic import Field

from cxr_ops.records.acceptance import Acceptance
from cxr_ops.records.base import Kept, sha256_file

PURGED: Final = "(purged)"
# How many characters of an image's digest the report and the evidence call a case by.
CASE_DIGITS: Final = 12
_PIECE: Final = 2**24
# An id of so many characters, with a digit among them, is no word of a sentence.
_TELLING: Final = 5
# Columns of tables that hold ids of patients; the last is of a list of pairs.
PATIENTS: Final = ("patient_id", "other_patient")


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
            places = [at for at, column in enumerate(columns) if column in PATIENTS]
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
