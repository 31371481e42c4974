"""What a source is: something that lists the rows of a folder, each with all that is known of one image.

A source opens tables and looks at names; it reads no picture. What its tables say is brought to the 14 findings of the
NIH and to one spelling of patients, and what is wrong is listed, not raised, so that one reading finds all of it.
Decoding, duplicates and building the batch are the same for every source: see `cxr_ops.data.checking`.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from cxr_ops import voice
from cxr_ops.errors import DataError, printable
from cxr_ops.labels import DEVELOPMENT, FINDINGS

Uncertain = Literal["ignore", "zeros", "ones"]
_SLIP: Final = 0.85  # how alike two words are of which one is a slip
EVERY: Final = ""  # the finding that a policy for all of them is given under


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a file becomes grey, where the file alone does not say it. Such a file is stored as 16-bit PNG: see `grey`.

    Attributes:
        kind: `dicom`, whose header says how; or `png16`, of which the source's table says it.
        bits: of a `png16`, how many of the 16 are used; 0 where the table does not say.
        inverted: of a `png16`, whether the lowest sample is white.
        window: of a `png16`, centre and width as DICOM has them; None is all of the bits.
    """

    kind: Literal["dicom", "png16"]
    bits: int = 0
    inverted: bool = False
    window: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a person may say of a folder that its files do not.

    Attributes:
        uncertain: for a finding, or `EVERY`, what an uncertain label (-1) becomes: `ignore` keeps it as uncertain,
            which is never trained on, and which a promotion must bear both ways; `zeros` and `ones` make it 0 or 1.
        mapping: the file that says which columns are what.
        view: the view of images whose files say none.
        own_split: whether the sides that the folder gives its patients are kept.
        deidentified: the person says that DICOM headers which look as if they named somebody name nobody.
    """

    uncertain: Mapping[str, Uncertain] = field(default_factory=dict)
    mapping: Path | None = None
    view: str = ""
    own_split: bool = False
    deidentified: bool = False

    @property
    def given(self) -> set[str]:
        """The names of what was said."""
        return {one.name for one in fields(self) if getattr(self, one.name)}

    def settle(self, finding: str, value: int | None) -> int | None:
        """A label under the policy for uncertain ones.

        >>> Options(uncertain={"Edema": "ones"}).settle("Edema", -1), Options().settle("Edema", -1)
        (1, -1)
        """
        if value != -1:
            return value
        policy = self.uncertain.get(finding, self.uncertain.get(EVERY, "ignore"))
        return {"ignore": -1, "zeros": 0, "ones": 1}[policy]


@dataclass(frozen=True)
class Row:
    """A row of a source, checked.

    Attributes:
        line: of the table that names the image, 0 where none does.
        image_id: a file's name, unlike every other's in the data set.
        patient_id: whose image it is.
        labels: (14,) in the order of `FINDINGS`: 1, 0, -1 (uncertain) or None (missing, which is not 0).
        age: whole years; None is missing.
        sex: F, M, or "" where it is missing.
        view: PA, AP, or what else the source calls it (LL, RL); "" where it is missing.
        path: the file: a PNG or a JPEG, or what `reading` says.
        reading: how the file becomes grey, where it is neither.
        table: the file that `line` is of, or the image's own place where no table names it; "" is the listing's.
    """

    line: int
    image_id: str
    patient_id: str
    labels: tuple[int | None, ...]
    age: int | None
    sex: str
    view: str
    path: Path
    reading: Reading | None = None
    table: str = ""


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
    """What is wrong, and where: a file, its line, and the image if it is one image's.

    `keep` says whether the quarantine may keep the bytes that it is about, and a page show them. `patient_id` is whose
    row it is, "" where that cannot be read; the list in the quarantine has it, so that a purge finds what it must
    remove. `row` is the row, as far as it could be read, where the picture may be shown.
    """

    what: str
    file: str
    line: int | None = None
    image_id: str = ""
    keep: bool = True
    patient_id: str = ""
    row: Row | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Spell out what cannot be written: the name of a file may be any bytes."""
        for name in ("what", "file", "image_id", "patient_id"):
            if not (text := getattr(self, name)).isprintable():
                object.__setattr__(self, name, printable(text))

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        named = self.image_id in ("", self.file.rpartition("/")[2])  # a file that no table lists is its image
        return f"{place}: {'' if named else self.image_id + ': '}{self.what}"


def of_row(what: str, file: str, row: Row) -> Problem:
    """What is wrong with a row of a file."""
    return Problem(what, file, row.line or None, row.image_id, patient_id=row.patient_id, row=row)


@dataclass
class Listing:
    """What a folder holds. Rows and boxes with a problem are not among `rows` and `boxes`.

    Attributes:
        source: where the images come from, as manifests, plans and models name it.
        table: name of the file of the rows.
        total: rows of that table, those with a problem among them.
        rows: those without a problem.
        boxes_from: name of the file of the boxes, "" without one.
        boxes_size: side in pixels of the pictures that this list is published for, 0 where it is not known.
        boxes: those without a problem.
        problems: what is wrong, one for each row or file.
        notes: what was read in another way than it stands, for a person to know.
        findings: what the source labels; all others are missing on every row.
        sides: where the source's own split is kept, the side of each patient; `DEVELOPMENT` leaves open which of
            training and validation.
        attributes: for an image, what more the source says of it, by the name of the attribute.
    """

    source: str
    table: str
    total: int = 0
    rows: list[Row] = field(default_factory=list)
    boxes_from: str = ""
    boxes_size: int = 0
    boxes: list[Box] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    findings: tuple[str, ...] = FINDINGS
    sides: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)

    def problem(self, row: Row, what: str) -> Problem:
        """What is wrong with a row, at its place."""
        return of_row(what, row.table or self.table, row)


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of folder that `cxr-ops ingest KIND FOLDER` takes.

    Attributes:
        kind: its name in commands.
        read: lists what a folder holds. It raises DataError where the folder, a table or a column is missing, and
            StorageError where a folder cannot be listed.
        takes: names of the `Options` that mean something to it.
        looks_for: what makes a folder one of this kind, in words.
        recognise: of a folder of this kind, says what was found there; None of any other. It reads names and first
            lines, and raises nothing for a folder that can be listed.
    """

    kind: str
    read: Callable[[Path, Options], Listing]
    takes: tuple[str, ...] = ()
    looks_for: str = ""
    recognise: Callable[[Path], str | None] = lambda _: None


def one_each(problems: Iterable[Problem], owners: Mapping[str, str] = MappingProxyType({})) -> list[Problem]:
    """Problems of one row, or of one file, as one problem that says all of it, where the first of them stood.

    Args:
        problems: everything that is wrong.
        owners: the patient of an image, for problems that name none.
    """
    joined: dict[tuple[str, int | None, str], Problem] = {}
    for problem in problems:
        key = (problem.file, problem.line, problem.image_id)
        before = joined.get(key)
        patient = (before and before.patient_id) or problem.patient_id or owners.get(problem.image_id, "")
        what = problem.what if before is None else f"{before.what}; {problem.what}"
        joined[key] = replace(before or problem, what=what, patient_id=patient)
    return list(joined.values())


def sex_problems(listing: Listing, rows: Iterable[Row]) -> list[Problem]:
    """Rows of patients who have two sexes; a missing one contradicts nobody."""
    rows = list(rows)
    counts: defaultdict[str, dict[str, int]] = defaultdict(dict)
    for row in rows:
        if row.sex:
            counts[row.patient_id][row.sex] = counts[row.patient_id].get(row.sex, 0) + 1
    return [
        listing.problem(
            row,
            "the patient has two sexes: "
            + ", ".join(f"{sex} on {count} rows" for sex, count in sorted(counts[row.patient_id].items())),
        )
        for row in rows
        if len(counts[row.patient_id]) > 1
    ]


def first_line(path: Path) -> str:
    """The header of a table, roughly: to recognise it, not to read it. "" for what cannot be read."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return ""
        with path.open("rb") as file:
            return file.readline(10_000).replace(b"\0", b"").decode("utf-8", errors="replace")
    except OSError:
        return ""


def slip(word: str, known: Iterable[str]) -> str | None:
    """The known word that another one must have been meant for: a slip of the pen; None where it is a word of its own.

    >>> slip("Pleural Thickening", FINDINGS), slip("Nodules", FINDINGS), slip("Calcification", FINDINGS)
    ('Pleural_Thickening', 'Nodule', None)
    """
    by_key = {_letters(name): name for name in known}
    close = difflib.get_close_matches(_letters(word), by_key, n=1, cutoff=_SLIP)
    return by_key[close[0]] if close else None


def _letters(word: str) -> str:
    return "".join(filter(str.isalnum, word.lower()))


def flat_name(place: str) -> str:
    """A path within a folder as one name that is safe as an image id: parts joined by hyphens, the ending small.

    >>> flat_name("train/patient00001/study1/view1_frontal.JPG")
    'train-patient00001-study1-view1_frontal.jpg'
    """
    stem, point, ending = place.rpartition(".")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem.replace("/", "-")).lstrip("._-")
    return f"{name}{point}{ending.lower()}"


def keep_split(listing: Listing, side_of: Mapping[str, str], options: Options, *, where: object) -> None:
    """Take a source's own split over, or say why not: it must put each patient on one side.

    Args:
        listing: its rows name the patients; `sides` and `notes` are written.
        side_of: the side of each image that the source gives one: train, validation, test or `DEVELOPMENT`.
        options: whether the split is to be kept.
        where: the file or folder of the split, for a message.

    Raises:
        DataError: it is to be kept, and a patient is on two sides of it.
    """
    sides: defaultdict[str, set[str]] = defaultdict(set)
    for row in listing.rows:
        if row.image_id in side_of:
            sides[row.patient_id].add(side_of[row.image_id])
    torn = sorted(patient for patient, names in sides.items() if len(names) > 1)
    counts = Counter(min(names) for names in sides.values() if len(names) == 1)
    told = ", ".join(
        f"{counts[name]:,} in {name}" for name in ("train", DEVELOPMENT, "validation", "test") if counts[name]
    )
    if torn:
        example = f"{torn[0]} in {' and in '.join(sorted(sides[torn[0]]))}"
        told = voice.count(len(sides), "patient")
        leak = f"its own split leaks: it puts {len(torn):,} of {told} on two sides, such as {example}"
        if options.own_split:
            raise DataError(
                leak, where=where, fix="leave --own-split out: patients are then divided anew, each onto one side"
            )
        listing.notes.append(f"{leak}. Patients are divided anew, each onto one side")
    elif options.own_split:
        listing.sides = {patient: next(iter(names)) for patient, names in sorted(sides.items())}
        others = len({row.patient_id for row in listing.rows}) - len(sides)
        nowhere = voice.count(others, "patient stands in it nowhere, and is", "patients stand in it nowhere, and are")
        rest = f"; {nowhere} divided by the hash of the id" if others else ""
        listing.notes.append(f"its own split is kept, by patient: {told}{rest}")
    elif sides:
        listing.notes.append(
            f"its own split ({told} patients) puts each patient on one side, and was not used: patients are divided "
            "anew. --own-split keeps it"
        )
