"""The picture of a batch: one page on what comes in, for a person who decides whether to trust it.

Everything is in the page: thumbnails as data URIs, bars as SVG. It names no image and no patient: thumbnails have
numbers, and what was refused is told by the rule, in words that are chosen here and hold nothing of the table.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple

import pandas as pd

from cxr_ops.labels import FINDINGS, SEXES, VIEWS
from cxr_ops.report.page import fill

LEVEL: Final = 0.95  # of the intervals
PAGE_BYTES: Final = 2_000_000  # what a page may weigh
AGES: Final = ((0, 19), (20, 39), (40, 59), (60, 79), (80, 120))

# What a rule says, by words that stand in the reason of a refused row. The first that fits is taken, and the reason
# itself is never shown: it may hold names of images and patients, and values of the table.
RULES: Final = (
    ("near copy of", "A near copy of another picture, under another patient"),
    ("the same file as", "The same file as another picture"),
    ("the same picture, in another file", "The same picture as another, in another file"),
    ("the same pixels, in another encoding", "The same pixels as another picture, in another encoding"),
    ("the data set holds this picture", "The data set holds the same pixels"),
    ("this picture was withdrawn", "The same pixels were withdrawn from the data set"),
    ("an image of this name was withdrawn", "An image of this name was withdrawn from the data set"),
    ("the patient was withdrawn", "The patient was withdrawn from the data set"),
    ("the data set holds an image of this name", "The data set holds an image of this name"),
    ("in the data set and", "The patient has another sex in the data set"),
    ("was purged from this data set", "The patient was purged from the data set"),
    ("was tested in the batch", "The patient was tested in a batch that was taken out"),
    ("the picture is blank", "The picture is blank"),
    ("the image is missing", "The image is missing"),
    ("the file cannot be read", "The file cannot be read"),
    ("0 bytes", "The file is empty"),
    ("cut short", "The file is cut short"),
    ("checksum", "The file is altered: a checksum is wrong"),
    ("has colours", "The picture has colours"),
    ("transparen", "The picture is transparent"),
    ("nothing says how they map to grey", "Nothing says what the picture's grey values mean"),
    ("its name says", "The file's name says another format than it has"),
    ("neither PNG nor JPEG", "The file is no picture of a kind that is read"),
    ("end of the PNG", "The file goes on after its picture"),
    ("do not decode", "The picture's data do not decode"),
    ("ends the process", "Decoding it ends the process that tries"),
    ("is not a whole number of years", "The age is no whole number of years"),
    ("the patient has two sexes", "The patient has two sexes in the batch"),
    ("the sex ", "The sex is none that is known"),
    ("says that the sex is", "The table and the file say different sexes"),
    ("the view ", "The view is none that is known"),
    ("Frontal/Lateral is", "The view is none that is known"),
    ("AP/PA is", "The view is none that is known"),
    ("is not one of the 14 NIH findings", "A label is none of the findings"),
    ("stands for none of the findings", "A label stands for none of the findings"),
    ("and names a finding as well", "The labels say that there is no finding, and name one"),
    ("'No Finding' is 1, and so is", "The labels say that there is no finding, and name one"),
    ("' twice", "The labels name a finding twice"),
    ("not 1, 0, -1 or", "A label is not 1, 0, -1 or missing"),
    ("are no list of names", "The labels are no list of names"),
    ("is not a patient id", "The patient id is none"),
    ("names no patient", "The patient id is none"),
    ("the name speaks of patient", "The image's name speaks of another patient than the row"),
    ("the image is named", "The table names the image twice"),
    ("rows name this image", "The table names the image twice"),
    ("no row names this file", "No row names the file"),
    ("is a link", "The file is a link"),
    ("a link, which may lead", "The file is a link"),
    ("the row has", "The row is cut"),
    ("in different classes", "Copies of one picture stand in different classes"),
    ("the header may name somebody", "The DICOM header may name somebody"),
    ("something is burnt into the picture", "The DICOM header says that something is burnt into the picture"),
    ("the modality is", "The picture is no radiograph of CR or DX"),
    ("the body part is", "The picture is not of the chest"),
    ("the detector's raw one", "The picture is the detector's raw one"),
    ("box", "A box is wrong"),
)
OTHER_RULE: Final = "Another rule, which problems.csv names"

# A page says `not finished` from the moment that it is drawn until it is known what becomes of the batch.
Outcome = Literal["accepted", "accepted with quarantine", "refused", "not finished"]


class Share(NamedTuple):
    """A share with its interval, in per cent; None where nothing is known."""

    found: int
    known: int
    percent: float | None
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One line of a comparison: a share of the batch beside that of the data set, which is None before there is one."""

    name: str
    batch: Share
    before: Share | None


@dataclass(frozen=True, kw_only=True)
class Mosaic:
    """Thumbnails of one finding or of one rule, as JPEG files; None for one that cannot be shown.

    `places` says of each where it is listed for who holds the data, such as `problems.csv:7`; it may be empty.
    """

    name: str
    count: int
    thumbnails: Sequence[bytes | None]
    places: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two near copies: their thumbnails, what they are in words, and whether they stand under one patient."""

    one: bytes
    other: bytes
    says: str
    same_patient: bool


class Shown(NamedTuple):
    """A radiograph on the page: whose it is, the SHA-256 of its file, and the digest of its pixels, "" if not known."""

    patient_id: str
    sha256: str
    pixels_sha256: str


@dataclass(frozen=True, kw_only=True)
class Portrait:
    """What the page shows.

    Attributes:
        batch: its name, which is public.
        source: what kind of folder it came from.
        notice: that the pictures are generated, or "".
        total: rows of the source's table.
        images: rows that are good.
        patients: of those.
        held: images of the data set without the batch.
        findings: prevalence, finding by finding.
        people: view, sex and age.
        mosaics: pictures by finding.
        failed: pictures by rule, of rows and files that were left out or refused, and of expectations that failed.
        pairs: near copies.
        more_pairs: how many pairs there are besides.
        shown: whose radiographs these are. It is not on the page.
    """

    batch: str
    source: str
    notice: str
    total: int
    images: int
    patients: int
    held: int
    findings: Sequence[Compared]
    people: Mapping[str, Sequence[Compared]]
    mosaics: Sequence[Mosaic]
    failed: Sequence[Mosaic]
    pairs: Sequence[Pair]
    more_pairs: int
    shown: Sequence[Shown] = ()


def share(found: int, known: int) -> Share:
    """A share and its Wilson interval.

    Args:
        found: how many have it.
        known: of how many.

    Source: Wilson, JASA 22 (1927) 209-212, as SciPy has it.

    >>> [round(x, 1) for x in share(5, 20)[2:]]
    [25.0, 11.2, 46.9]
    """
    from scipy.stats import binomtest

    if known == 0:
        return Share(0, 0, None, 0.0, 100.0)
    interval = binomtest(found, known).proportion_ci(LEVEL, method="wilson")
    return Share(found, known, 100 * found / known, 100 * float(interval.low), 100 * float(interval.high))


def findings(frame: pd.DataFrame, before: pd.DataFrame | None, labelled: Sequence[str]) -> list[Compared]:
    """The share of patients with each finding, of those of whom it is known, in the batch and in the data set.

    Patients are counted and not images, whose labels depend on one another: so the interval is right.

    Args:
        frame: manifest rows of the batch.
        before: those of the data set, None before there is one.
        labelled: the findings that the batch's source labels.
    """

    def of(rows: pd.DataFrame, finding: str) -> Share:
        known = rows[rows[finding].isin([0, 1])]
        most = known.groupby("patient_id")[finding].max()
        return share(int((most == 1).sum()), len(most))

    return [
        Compared(name=name, batch=of(frame, name), before=None if before is None else of(before, name))
        for name in FINDINGS
        if name in labelled
    ]


def people(frame: pd.DataFrame, before: pd.DataFrame | None) -> dict[str, list[Compared]]:
    """The shares of views (of images), and of sexes and ages (of patients, the age being that of the first image).

    Args:
        frame: manifest rows of the batch.
        before: those of the data set, None before there is one.
    """

    def compared(names: Mapping[str, pd.Series], others: Mapping[str, pd.Series] | None) -> list[Compared]:
        return [
            Compared(
                name=name,
                batch=share(int(given.sum()), len(given)),
                before=None if others is None else share(int(others[name].sum()), len(others[name])),
            )
            for name, given in names.items()
        ]

    both = [frame] if before is None else [frame, before]
    firsts = [rows.groupby("patient_id", sort=True).first() for rows in both]
    views = [_named(rows["view"].fillna(""), (*VIEWS, "")) for rows in both]
    sexes = [_named(rows["sex"].fillna(""), (*SEXES, "")) for rows in firsts]
    ages = [_by_age(rows["age"]) for rows in firsts]
    return {
        title: compared(parts[0], parts[1] if len(parts) > 1 else None)
        for title, parts in (("View, of images", views), ("Sex, of patients", sexes), ("Age, of patients", ages))
    }


def _named(values: pd.Series, known: Sequence[str]) -> dict[str, pd.Series]:
    parts = {name or "unknown": values == name for name in known}
    return {**parts, "other": ~values.isin(known)}


def _by_age(ages: pd.Series) -> dict[str, pd.Series]:
    parts = {f"{low} to {high}": ages.between(low, high).fillna(value=False).astype(bool) for low, high in AGES}
    return {**parts, "unknown": ages.isna()}


def rule(reason: str) -> str:
    """The rule that a refused row broke, in words that hold nothing of the row.

    >>> rule("under the patient 25, and a near copy of 00000003_000.png under the patient 3")
    'A near copy of another picture, under another patient'
    >>> rule("the name is Jane Doe") == OTHER_RULE
    True
    """
    return next((says for words, says in RULES if words in reason), OTHER_RULE)


class _Thumb(NamedTuple):
    number: int
    uri: str


def render(portrait: Portrait, outcome: Outcome) -> str:
    """The page, as one HTML file without scripts or addresses; equal bytes for equal data.

    Thumbnails are left out from the end where the page would weigh more than `PAGE_BYTES`, and it says so.

    Args:
        portrait: what it shows.
        outcome: what became of the batch.
    """
    budget = PAGE_BYTES - 250_000  # the rest of the page weighs 60,000 bytes, and a pair has words
    number = left_out = 0

    def thumb(data: bytes | None) -> _Thumb | None:
        nonlocal budget, number, left_out
        if data is None:
            return None
        uri = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        if len(uri) > budget:
            left_out += 1
            return None
        budget -= len(uri)
        number += 1
        return _Thumb(number, uri)

    failed = [(one, [thumb(data) for data in one.thumbnails]) for one in portrait.failed]
    pairs = [(one, thumb(one.one), thumb(one.other)) for one in portrait.pairs]
    mosaics = [(one, [thumb(data) for data in one.thumbnails]) for one in portrait.mosaics]
    return fill(
        "batch.html.j2",
        portrait=portrait,
        outcome=outcome,
        failed=failed,
        pairs=pairs,
        mosaics=mosaics,
        tables={"Prevalence, of patients": (portrait.findings, _scale(portrait.findings))}
        | {title: (rows, _scale(rows)) for title, rows in portrait.people.items()},
        left_out=left_out,
        level=f"{LEVEL:.0%}",
    )


def _scale(rows: Sequence[Compared]) -> float:
    """The end of the axis in per cent: that of the longest interval that says something, in steps of 10."""
    ends = [part.high for row in rows for part in (row.batch, row.before) if part and part.percent is not None]
    return max(10.0, min(100.0, 10.0 * -(-max(ends, default=100.0) // 10)))
