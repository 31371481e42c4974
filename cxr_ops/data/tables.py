"""Tables that people bring along, read in one place: `ingest`, `compare`, `plan` and `api.pack` all come through here.

Columns are found by their names, whatever their order and whatever else the table holds. What the NIH, Kaggle, Excel
and pandas write differently, and what has one meaning, is read, and told as a note with a count:

* a header or rows that end in separators (the NIH's first release has 12 names and rows of 11 fields), names that
  hold a comma (`OriginalImage[Width,Height]`), unnamed columns, empty rows;
* tables packed with gzip (`.csv.gz`), UTF-16 with its mark, semicolons or tabs between fields, decimal commas then;
* ages as `058Y`, `011M`, `009D` (DICOM's age string) or `58.0`, and patients as `00000001`.

A value is text until somebody asks for it as something else: nothing is guessed.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.errors import DataError, StorageError
from cxr_ops.records.base import sha256_bytes

IMAGE: Final = "image_id"
PATIENT: Final = "patient_id"
LABELS: Final = "Finding Labels"
FOLLOW_UP: Final = "Follow-up #"
# Names that others give to columns that have another name here.
ALIASES: Final[Mapping[str, str]] = {
    "Image Index": IMAGE,
    "Patient ID": PATIENT,
    "Patient Age": "age",
    "Patient Gender": "sex",  # the first release; the corrected one says Sex
    "Patient Sex": "sex",
    "View Position": "view",
}
OLDEST: Final = 120  # years; the NIH's release holds ages such as 414, which are slips of the pen

_LARGEST: Final = 512 * 2**20  # bytes that a packed table may unpack to; MIMIC-CXR's largest has 60 MiB

# How files begin that are called tables and are no text.
_OTHER_KINDS: Final = (
    (b"PK\x03\x04", "a workbook or an archive", "save the sheet as text (in Excel: CSV UTF-8)"),
    (b"\xd0\xcf\x11\xe0", "a workbook of old Excel", "save the sheet as text (in Excel: CSV UTF-8)"),
    (b"\x1f\x8b", "compressed", "unpack it first: gunzip"),
    (b"PAR1", "Parquet", "write it as CSV (in pandas: to_csv(..., index=False))"),
)
_ENCODINGS: Final = ((b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_SEPARATORS: Final = {",": "commas", ";": "semicolons", "\t": "tabs"}
_WITH_COMMA: Final = re.compile(r"([^\[\],]*\[[^\[\],]*),([^\[\]]*\])")  # OriginalImage[Width,Height], Bbox [x,y,w,h]
_NOTHING: Final = ("nan", "NaN", "NA", "N/A", "<NA>", "None", "null", "NULL")  # how a missing value is spelt
_AGE: Final = re.compile(r"([0-9]{1,6})(?:(\.0+)|([YMWD]))?")
PATIENT_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_PATIENT_NUMBER: Final = re.compile(r"([0-9]+)(?:\.0+)?")
# What spreadsheets make of ids such as 3-1: 03-Jan, Jan-03, 2026-01-03.
_DATE: Final = re.compile(
    r"(?i)[0-9]{1,2}-(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*(?:-[0-9]{2,4})?"
    r"|(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*-[0-9]{1,4}"
    r"|(?:19|20)[0-9]{2}-[01][0-9]-[0-3][0-9]"
)
_A_YEAR: Final = {"Y": 1, "M": 12, "W": 52, "D": 365}


@dataclass(frozen=True)
class Cut:
    """A row with too few or too many fields: where it ends, its first field, and how many it has and should have."""

    line: int
    first: str
    fields: int
    expected: int

    def __str__(self) -> str:
        return f"the row has {self.fields} fields, not {self.expected}: the table may have been cut"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text by column.

    Attributes:
        path: the file.
        sha256: of its bytes.
        lines: (N,) the line of the file on which each row ends; the header is line 1.
        columns: (N,) texts of each column as they stand, by our name of the column, in the file's order.
        written: the name that the header gives to each column.
        cut: rows with a wrong number of fields; they are not among the N.
        decimal_comma: whether a comma in a number stands for a point.
        notes: what was read in another way than it stands, for a person to know.
    """

    path: Path
    sha256: str
    lines: tuple[int, ...]
    columns: Mapping[str, tuple[str, ...]]
    written: Mapping[str, str]
    cut: tuple[Cut, ...] = ()
    decimal_comma: bool = False
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)

    def at(self, row: int) -> str:
        """Where a row stands, for a message."""
        return f"{self.path}, line {self.lines[row]}"

    def whole(self) -> Table:
        """The table itself, if no row was cut.

        Raises:
            DataError: a row has too few or too many fields.
        """
        for row in self.cut:
            raise DataError(str(row), where=f"{self.path}, line {row.line}", fix="take the table from its source again")
        return self

    def number(self, text: str) -> float:
        """A field as a number: `0.5`, or `0,5` where fields are not separated by commas; NaN where it is missing.

        Raises:
            ValueError: it is no number.
        """
        if missing(text):
            return math.nan
        return float(text.replace(",", ".", 1) if self.decimal_comma else text)

    def place(self, text: str) -> float:
        """A field as a place in a picture: a finite number, or -1 for what is none, since no place is negative."""
        try:
            value = self.number(text)
        except ValueError:
            return -1.0
        return value if math.isfinite(value) else -1.0


def read(path: Path, aliases: Mapping[str, str] = ALIASES, *, packed: bool | None = None, pipes: bool = False) -> Table:
    """Read a table with a header.

    Args:
        path: a CSV file.
        aliases: names that the header may give to columns, and ours for them.
        packed: whether it is packed with gzip; None: as its name says.
        pipes: whether it may be a pipe that has a name, for which somebody may have to be waited.

    Raises:
        DataError: the file is missing, not text or not CSV, has no header, or names a column twice.
        StorageError: it cannot be read.
    """
    if not pipes:
        refuse_pipe(path)
    data = _bytes(path, packed)
    text, notes = _decode(path, data)
    separator, body = _separator(text)
    if separator != ",":
        notes.append(f"fields are separated by {_SEPARATORS[separator]}")
    rows = _split(path, body, separator, first_line=1 + text[: len(text) - len(body)].count("\n"))
    if not rows:
        raise DataError(
            "the table is empty: it has no header and no rows", where=path, fix="take the table from its source again"
        )
    (header_line, header), *below = rows
    filled = [(line, fields) for line, fields in below if any(field.strip() for field in fields)]
    if empty := len(below) - len(filled):
        notes.append(f"{empty:,} empty row{'s' if empty > 1 else ''} left out")
    names = _names(header, filled)
    written: dict[str, str] = {}
    for name in filter(None, names):
        ours = aliases.get(name, name)
        if ours in written:
            same = written[ours] == name
            what = f"two columns are called {name!r}" if same else f"{written[ours]!r} and {name!r} hold the same"
            raise DataError(what, where=f"{path}, line {header_line}", fix="take one of them out")
        written[ours] = name
    kept, cut = _fit(filled, len(names), ends=body.endswith("\n"))
    texts = list(zip(*(fields for _, fields in kept), strict=True)) or [()] * len(names)
    return Table(
        path=path,
        sha256=sha256_bytes(data),
        lines=tuple(line for line, _ in kept),
        columns={aliases.get(name, name): tuple(column) for name, column in zip(names, texts, strict=True) if name},
        written=written,
        cut=tuple(cut),
        decimal_comma=separator != ",",
        notes=tuple(notes),
    )


def read_text(path: Path, *, packed: bool | None = None) -> str:
    """The text of a file, in UTF-8 or in UTF-16 with its mark; `packed` as in `read`.

    Raises:
        DataError: the file is missing or not text.
        StorageError: it cannot be read.
    """
    refuse_pipe(path)
    return _decode(path, _bytes(path, packed))[0]


def missing(text: str) -> bool:
    """Whether a field holds nothing: it is empty, or says so as pandas, R or a spreadsheet do."""
    return not text or text in _NOTHING


@dataclass(frozen=True, kw_only=True)
class Ages:
    """Ages of N rows.

    Attributes:
        years: (N,) whole years; None is missing.
        bad: rows whose text is no age; their years are None.
        notes: what was read in another way than it stands.
    """

    years: tuple[int | None, ...]
    bad: tuple[int, ...]
    notes: tuple[str, ...]


def read_ages(texts: Sequence[str]) -> Ages:
    """Read ages in years: `58`, `58.0`, or DICOM's `058Y`, `011M`, `040W`, `009D`, in whole years that have passed.

    An age above `OLDEST` years, or none, is missing.

    >>> read_ages(["58", "058Y", "011M", "414", "old"]).years
    (58, 58, 0, None, None)
    """
    years: list[int | None] = []
    bad: list[int] = []
    seen: Counter[str] = Counter()
    for row, text in enumerate(texts):
        match = _AGE.fullmatch(text)
        if missing(text) or match is None:
            seen["missing"] += missing(text)
            if not missing(text):
                bad.append(row)
            years.append(None)
            continue
        number, point, unit = match.groups()
        age = int(number) // _A_YEAR[unit or "Y"]
        seen["missing"] += age > OLDEST
        seen[unit if unit in (None, "Y") else "shorter"] += 1
        seen["point"] += point is not None
        years.append(age if age <= OLDEST else None)

    def part(number: int) -> str:
        return voice.part(number, len(texts), "age", "is", "are")

    notes = []
    if seen["Y"]:
        notes.append(f"{part(seen['Y'])} written like 058Y and read as whole years")
    if seen["shorter"]:
        notes.append(f"{part(seen['shorter'])} in months, weeks or days and became whole years")
    if seen["point"]:
        notes.append(f"{part(seen['point'])} written like 58.0 and read as whole years")
    if seen["missing"]:
        notes.append(f"{part(seen['missing'])} empty or above {OLDEST} years and taken as missing")
    return Ages(years=tuple(years), bad=tuple(bad), notes=tuple(notes))


def canonical_patient(patient: str) -> str:
    """`00000001`, `1.0` and `1` are one patient: were they two, the patient could stand on two sides of the split.

    pandas writes whole numbers as `1.0` where one of a column is missing.
    """
    number = _PATIENT_NUMBER.fullmatch(patient)
    return str(int(number[1])) if number else patient


def no_patient(text: str) -> str:
    """Why a text is no id of a patient, "" where it is one.

    >>> no_patient("A7"), no_patient("nan"), no_patient("a b")
    ('', 'nothing says whose image it is', "'a b' is not a patient id")
    """
    if missing(text.strip()):
        return "nothing says whose image it is"
    return "" if PATIENT_ID.fullmatch(text) else f"{text[:120]!r} is not a patient id"


def read_patients(texts: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Patient ids in one spelling, and notes on those that had another.

    >>> read_patients(["00000001", "1", "A7"])
    (('1', '1', 'A7'), ('1 of 3 patient ids has leading zeros: ids are read as numbers',))
    """
    patients = tuple(map(canonical_patient, texts))
    other = [text for ours, text in zip(patients, texts, strict=True) if ours != text]
    points = sum("." in text for text in other)
    dates = [text for text in texts if _DATE.fullmatch(text)]

    def part(number: int, one: str, many: str) -> str:
        return voice.part(number, len(texts), "patient id", one, many)

    notes = []
    if zeros := len(other) - points:
        notes.append(f"{part(zeros, 'has', 'have')} leading zeros: ids are read as numbers")
    if points:
        notes.append(f"{part(points, 'is', 'are')} written like 1.0: ids are read as numbers")
    if dates:
        notes.append(
            f"{part(len(dates), 'looks like a date', 'look like dates')}, such as {dates[0]}: if a spreadsheet made it "
            "of an id, one patient may stand here under another id than in other batches"
        )
    return patients, tuple(notes)


# -------------------------------------------------------------------------------------------------- the file


def _decode(path: Path, data: bytes) -> tuple[str, list[str]]:
    for start, what, fix in _OTHER_KINDS:
        if data.startswith(start):
            raise DataError(f"the file is {what}, not text", where=path, fix=fix)
    for mark, encoding in _ENCODINGS:
        if data.startswith(mark):
            try:
                return data.decode(encoding), ["the file is UTF-16"]
            except UnicodeDecodeError as error:
                raise DataError(
                    "the file is UTF-16 and cut short or damaged", where=path, fix="take the file from its source again"
                ) from error
    nul = data.find(b"\0")
    if nul >= 0:
        raise DataError(
            "the file holds a NUL byte: it is damaged",
            where=f"{path}, line {_line_at(data, nul)}",
            fix="take the file from its source again",
        )
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        raise DataError(
            "the file is not UTF-8",
            where=f"{path}, line {_line_at(data, error.start)}",
            fix="save it as UTF-8 (in Excel: CSV UTF-8)",
        ) from error


def refuse_pipe(path: Path) -> None:
    """See that reading a file does not wait for ever. A pipe of the shell, `<(...)`, is none of a folder, and is read.

    Raises:
        DataError: it is a pipe that has a name.
    """
    if path.is_fifo() and path.parts[1:2] not in (("dev",), ("proc",)):
        raise DataError(f"{path.name} is a pipe, not a file", where=path, fix="put the file itself here")


def is_packed(path: Path) -> bool:
    """Whether a file is packed with gzip, whatever its name.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _bytes(path: Path, packed: bool | None = None) -> bytes:
    try:
        return _unpacked(path) if (path.suffix == ".gz" if packed is None else packed) else path.read_bytes()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the file is no gzip, or cut short: {error}", where=path) from error
    except IsADirectoryError as error:
        raise DataError(f"{path.name} is a folder, not a table", where=path, fix="name the file in it") from error
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path.name} is missing", where=path, fix="name a file that is there") from error
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read: {error.strerror}", where=path) from error


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise DataError(f"the table unpacks to more than {_LARGEST // 2**20:,} MiB", where=path, fix="is it a table?")
    return data


def _separator(text: str) -> tuple[str, str]:
    """What separates fields, and the text without the line with which Excel declares it."""
    first, _, rest = text.partition("\n")
    declared = re.fullmatch(r"sep=([,;\t])\r?", first)
    if declared:
        return declared[1], rest
    # A header of one name may hold neither; names of the NIH's hold commas, never semicolons or tabs.
    found = max(_SEPARATORS, key=first.count)
    return (found if first.count(found) else ","), text


def _split(path: Path, text: str, separator: str, *, first_line: int) -> list[tuple[int, list[str]]]:
    """Rows with the line on which each ends; blank lines are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend((reader.line_num + first_line - 1, fields) for fields in reader if fields)
    except csv.Error as error:
        line = reader.line_num + first_line - 1
        raise DataError(
            f"the file is not CSV: {error}",
            where=f"{path}, line {line}",
            fix="close what is quoted there or before, or take the table from its source again",
        ) from error
    return rows


def _names(header: Sequence[str], rows: Sequence[tuple[int, list[str]]]) -> list[str]:
    """The header's names, without empty ones at its end; names that were quoted for their comma are split as rows are.

    An empty name before the end is that of a column without one, such as the index that pandas writes.
    """
    names = _without_empty_end(header)
    split = [part for name in names for part in (name.split(",") if _WITH_COMMA.fullmatch(name) else [name])]
    usual = Counter(len(_without_empty_end(fields)) for _, fields in rows).most_common(1)
    return [name.strip() for name in (split if usual and usual[0][0] == len(split) else names)]


def _without_empty_end(fields: Sequence[str]) -> list[str]:
    count = len(fields)
    while count and not fields[count - 1].strip():
        count -= 1
    return list(fields[:count])


def _fit(
    rows: Sequence[tuple[int, list[str]]], expected: int, *, ends: bool
) -> tuple[list[tuple[int, list[str]]], list[Cut]]:
    """Bring rows to the number of names: empty fields at a row's end are no fields."""
    kept: list[tuple[int, list[str]]] = []
    cut: list[Cut] = []
    for at, (line, fields) in enumerate(rows):
        # Only the last row of a file can be cut inside; where it still has enough fields, those before it tell.
        before = len(rows[at - 1][1]) if at and at == len(rows) - 1 and not ends else 0
        if len(fields) < max(before, expected) or any(field.strip() for field in fields[expected:]):
            cut.append(Cut(line, fields[0], len(fields), max(before, expected)))
        else:
            kept.append((line, fields[:expected]))
    return kept, cut


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
