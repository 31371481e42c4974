"""What a source is: something that lists the rows of a folder, each with all that is known of one image.

A source opens tables and looks at names; it reads no picture. What its tables say is brought to the 14 findings of the
NIH and to one spelling of patients, and what is wrong is listed, not raised, so that one reading finds all of it.
Decoding, duplicates and building the batch are the same for every source: see `cxr_ops.data.checking`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal


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
    """What a person asks of a source besides its folder.

    Attributes:
        deidentified: the person says that DICOM headers which look as if they named somebody name nobody.
    """

    deidentified: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a source, checked.

    Attributes:
        line: of the source's table.
        image_id: the file's name, unlike every other's in the data set.
        patient_id: whose image it is.
        labels: (14,) in the order of `FINDINGS`: 1, 0, -1 (uncertain) or None (missing, which is not 0).
        age: whole years; None is missing.
        sex: F, M, or "" where it is missing.
        view: PA, AP, or what else the source calls it (LL, RL); "" where it is missing.
        path: the file: a PNG or a JPEG, or what `reading` says.
        reading: how the file becomes grey, where it is neither.
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
class Listing:
    """What a folder holds. Rows and boxes with a problem are not among `rows` and `boxes`.

    Attributes:
        source: where the images come from, as manifests, plans and models name it.
        table: name of the file that the rows stand in.
        total: rows of that table, those with a problem among them.
        rows: those without a problem.
        boxes_from: name of the file that the boxes stand in, "" without one.
        boxes_size: side in pixels of the pictures that this list is published for, 0 where it is not known.
        boxes: those without a problem.
        problems: what is wrong, one for each row or file.
        notes: what was read in another way than it stands, for a person to know.
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


@dataclass(frozen=True, kw_only=True)
class Source:
    """A kind of folder that `cxr-ops ingest KIND FOLDER` takes.

    Attributes:
        kind: its name in commands.
        read: lists what a folder holds. It raises DataError where the folder, a table or a column is missing, and
            StorageError where a folder cannot be listed.
        takes: names of the `Options` that mean something to it.
    """

    kind: str
    read: Callable[[Path, Options], Listing]
    takes: tuple[str, ...] = ()


def one_each(problems: Iterable[Problem]) -> list[Problem]:
    """Problems of one row, or of one file, as one problem that says all of it, where the first of them stood."""
    joined: dict[tuple[str, int | None, str], Problem] = {}
    for problem in problems:
        key = (problem.file, problem.line, problem.image_id)
        before = joined.get(key)
        joined[key] = problem if before is None else replace(before, what=f"{before.what}; {problem.what}")
    return list(joined.values())
