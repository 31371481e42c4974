"""Folders in the layout of the NIH's ChestX-ray14 release.

    PATH/
      images/00000001_000.png ...     or the release's own images_001/images/ ... images_012/images/
      Data_Entry_2017.csv             or Data_Entry_2017_v2020.csv, the release's corrected labels
      BBox_List_2017.csv              optional

All that is wrong with a folder's tables and names is found in one reading, with the line it stands on. The pictures
themselves are opened elsewhere: nothing here reads their bytes.

Source: Wang et al., "ChestX-ray8", CVPR 2017, and the release's README.
"""

from __future__ import annotations

import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cxr_ops.data.manifest import IMAGE_ID, read_rows
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import BOX_NAMES, FINDINGS, SEXES, VIEWS, UnknownLabelError, nearest, parse_labels

SOURCE: Final = "nih"
ENTRIES: Final = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv")
BOXES: Final = "BBox_List_2017.csv"
OLDEST: Final = 120  # years; the release holds ages such as 414, which are slips of the pen

# The release's header as CSV splits it: two of its names hold a comma. The corrected release says Sex for Gender.
HEADER: Final = (
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
)
BOX_HEADER: Final = ("Image Index", "Finding Label", "Bbox [x", "y", "w", "h]")

_PATIENT: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NIH_NAME: Final = re.compile(r"([0-9]{8})_[0-9]{3}\.png")
_WHOLE: Final = re.compile(r"[0-9]{1,6}")
_NOT_IMAGES: Final = ("Thumbs.db", "desktop.ini")  # what file browsers leave behind, besides names with a leading dot


@dataclass(frozen=True)
class Row:
    """A row of the entries, checked: `line` of the file, age in years or None, `labels` in the order of `FINDINGS`."""

    line: int
    image_id: str
    patient_id: str
    labels: tuple[int, ...]
    age: int | None
    sex: str
    view: str
    path: Path


@dataclass(frozen=True)
class Box:
    """A box around a finding, in pixels of the file: left, top, width, height."""

    line: int
    image_id: str
    finding: str
    x: float
    y: float
    w: float
    h: float


@dataclass(frozen=True)
class Problem:
    """What is wrong, and where: a file, its line, and the image if it is one image's."""

    what: str
    file: str
    line: int | None = None
    image_id: str = ""

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{place}: {self.image_id + ': ' if self.image_id else ''}{self.what}"


@dataclass
class NihFolder:
    """What a folder holds. Rows and boxes with a problem are not among `rows` and `boxes`; `total` counts all rows.

    `notes` are what was read in another way than it stands, for a person to know.
    """

    entries: str
    rows: list[Row] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    total: int = 0


def read_folder(folder: Path) -> NihFolder:
    """Read the tables of a folder in NIH layout and look for each image's file.

    Raises:
        DataError: the folder, its images or its entries are missing, a file is not CSV, a header is wrong, or there are
            no
            rows. What concerns single rows and files is not raised but listed in `problems`.
        StorageError: a folder cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder", where=folder, fix="name a folder in NIH layout, or make one: cxr-ops data synth"
        )
    entries = _find_entries(folder)
    files, problems = _find_images(folder)
    rows = read_rows(entries)
    _check_header(entries, rows)
    result = NihFolder(entries=entries.name, problems=problems, total=len(rows) - 1)
    if not result.total:
        raise DataError("the batch is empty: the table has a header and no rows", where=entries)

    claimed: dict[str, int] = {}
    folded: dict[str, str] = {}
    ages = 0
    parsed: list[Row] = []
    for line, fields in rows[1:]:
        row = _read_row(line, fields, files, entries.name, result.problems)
        image_id = fields[0]
        other = folded.setdefault(image_id.lower(), image_id)
        if image_id in claimed:
            what = f"the image is named twice, first on line {claimed[image_id]}"
            result.problems.append(Problem(what, entries.name, line, image_id))
            result.problems.append(
                Problem(f"the image is named again on line {line}", entries.name, claimed[image_id], image_id)
            )
        elif other != image_id:
            result.problems.append(
                Problem(f"the name differs from {other!r} only in case", entries.name, line, image_id)
            )
        claimed.setdefault(image_id, line)
        if row:
            parsed.append(row)
            ages += row.age is None
    if ages:
        result.notes.append(
            f"{ages} of {result.total} ages are empty or above {OLDEST} years and were taken as missing"
        )

    for name in sorted(files.keys() - claimed.keys()):
        what = "no row names this file: the table may have been cut"
        result.problems.append(Problem(what, files[name].relative_to(folder).as_posix(), None, name))
    result.problems.extend(_sex_problems(parsed, entries.name))
    bad = {problem.line for problem in result.problems if problem.file == entries.name}
    result.rows = [row for row in parsed if row.line not in bad]
    if (folder / BOXES).exists():
        _read_boxes(folder / BOXES, {row.image_id: row for row in parsed}, claimed, result)
    return result


def _find_entries(folder: Path) -> Path:
    found = [folder / name for name in ENTRIES if (folder / name).is_file()]
    if len(found) != 1:
        raise DataError(
            f"both {' and '.join(ENTRIES)} are here" if found else f"{ENTRIES[0]} is missing",
            where=folder,
            fix="keep the one whose labels you want" if found else f"put {ENTRIES[0]} beside images/",
        )
    return found[0]


def _find_images(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Every file in the image folders by name. Links are problems: they may lead out of the folder."""
    places = [folder / "images", *(path / "images" for path in sorted(folder.glob("images_[0-9]*")))]
    places = [place for place in places if place.is_dir()]
    if not places:
        raise DataError("there is no folder of images", where=folder, fix="put the pictures into images/")
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for place in places:
        for part in (place, place.parent):
            if part != folder and part.is_symlink():
                raise DataError(
                    "the folder is a link, which may lead anywhere", where=part, fix="put the folder itself here"
                )
        try:
            listed = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise StorageError(f"the folder cannot be listed: {error.strerror}", where=place) from error
        for entry in listed:
            where = Path(entry.path).relative_to(folder).as_posix()
            if entry.name.startswith(".") or entry.name in _NOT_IMAGES:
                continue
            if not entry.is_file(follow_symlinks=False):
                what = (
                    "a link, which may lead anywhere: put the file itself here" if entry.is_symlink() else "not a file"
                )
                problems.append(Problem(what, where, None, entry.name))
            elif entry.name in files:
                problems.append(Problem("another image folder holds a file of this name", where, None, entry.name))
            else:
                files[entry.name] = Path(entry.path)
    for problem in problems:
        files.pop(problem.image_id, None)
    return files, problems


def _check_header(path: Path, rows: list[tuple[int, list[str]]]) -> None:
    if not rows:
        raise DataError("the batch is empty: the table has no header and no rows", where=path)
    found = ["Patient Gender" if name == "Patient Sex" else name for name in rows[0][1]]
    if found != list(HEADER):
        odd = [name for name in found if name not in HEADER]
        guess = nearest(odd[0], HEADER) if odd else None
        hint = f": {odd[0]!r} is not a column" + (f" (the nearest is {guess!r})" if guess else "") if odd else ""
        raise DataError(
            f"the header is not the NIH's{hint}", where=f"{path}, line 1", fix=f"begin with: {','.join(HEADER)}"
        )


def _read_row(line: int, fields: list[str], files: dict[str, Path], file: str, problems: list[Problem]) -> Row | None:
    """Read a row, or note everything that is wrong with it."""
    image_id = fields[0]
    if len(fields) != len(HEADER):
        what = f"the row has {len(fields)} fields, not {len(HEADER)}: the table may have been cut"
        problems.append(Problem(what, file, line, image_id))
        return None
    found: list[str] = []
    _, labels_text, follow_up, patient, age_text, sex, view = fields[:7]
    labels: tuple[int, ...] = ()
    try:
        labels = parse_labels(labels_text)
    except UnknownLabelError as error:
        found.append(str(error))
    if not _PATIENT.fullmatch(patient):
        found.append(f"{patient!r} is not a patient id")
    patient = canonical_patient(patient)
    if not IMAGE_ID.fullmatch(image_id):
        found.append(f"{image_id[:120]!r} is not the name of a PNG file in the image folder")
    elif image_id not in files:
        found.append("the image is missing: no image folder holds a file of this name")
    named = _NIH_NAME.fullmatch(image_id)
    if named and patient.isdecimal() and canonical_patient(named[1]) != patient:
        found.append(f"the name speaks of patient {int(named[1])}, the row of patient {patient}")
    if not _WHOLE.fullmatch(follow_up):
        found.append(f"the follow-up {follow_up!r} is not a whole number")
    if age_text and not _WHOLE.fullmatch(age_text):
        found.append(f"the age {age_text!r} is not a whole number of years")
    for value, known, what in ((sex, SEXES, "sex"), (view, VIEWS, "view position")):
        if value not in known:
            found.append(f"the {what} {value!r} is not one of {', '.join(known)}")
    problems.extend(Problem(what, file, line, image_id) for what in found)
    if found:
        return None
    age = int(age_text) if age_text and int(age_text) <= OLDEST else None
    return Row(line, image_id, patient, labels, age, sex, view, files[image_id])


def canonical_patient(patient: str) -> str:
    """`00000001` and `1` are one patient: were they two, the patient could stand on two sides of the split."""
    return str(int(patient)) if re.fullmatch("[0-9]+", patient) else patient


def _sex_problems(rows: list[Row], file: str) -> Iterator[Problem]:
    sexes: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        sexes[row.patient_id][row.sex] += 1
    for row in rows:
        if len(sexes[row.patient_id]) > 1:
            counts = ", ".join(f"{sex} on {count} rows" for sex, count in sorted(sexes[row.patient_id].items()))
            yield Problem(f"the patient has two sexes: {counts}", file, row.line, row.image_id)


def _read_boxes(path: Path, rows: dict[str, Row], claimed: dict[str, int], result: NihFolder) -> None:
    """Read the boxes; one whose image was refused is left out without a word of its own."""
    table = read_rows(path)
    header = table[0][1] if table else []
    if header[: len(BOX_HEADER)] != list(BOX_HEADER) or any(header[len(BOX_HEADER) :]):
        raise DataError(
            "the header is not the NIH's", where=f"{path}, line 1", fix=f"begin with: {','.join(BOX_HEADER)}"
        )
    unlabelled = 0
    for line, fields in table[1:]:
        image_id = fields[0]
        if len(fields) != len(header):
            what = f"the row has {len(fields)} fields, not {len(header)}: the table may have been cut"
            result.problems.append(Problem(what, path.name, line, image_id))
            continue
        finding = BOX_NAMES.get(fields[1], fields[1])
        sides = [_number(text) for text in fields[2:6]]
        found: list[str] = []
        if image_id not in claimed:
            found.append(f"{result.entries} does not name this image")
        if finding not in FINDINGS:
            guess = nearest(finding, (*FINDINGS, *BOX_NAMES))
            found.append(
                f"{finding!r} is not one of the 14 NIH findings" + (f"; the nearest is {guess!r}" if guess else "")
            )
        if min(sides[:2]) < 0 or min(sides[2:]) <= 0:
            found.append(f"the box {','.join(fields[2:6])} is not left, top, width and height in pixels")
        result.problems.extend(Problem(what, path.name, line, image_id) for what in found)
        if not found and image_id in rows:
            result.boxes.append(Box(line, image_id, finding, *sides))
            unlabelled += not rows[image_id].labels[FINDINGS.index(finding)]
    if unlabelled:
        result.notes.append(f"{unlabelled} boxes are around a finding that {result.entries} does not give to the image")


def _number(text: str) -> float:
    """A finite number, or -1 for what is none: no side of a box is negative."""
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0
