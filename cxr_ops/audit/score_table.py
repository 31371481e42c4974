"""The scores of a run as they travel: by numbers in the place of the names of patients and images.

A row an image: `image` and `patient` (numbers in the order of the names that they stand for, so that all that is
computed from them comes out to the last bit), `case` (what the report calls the picture, where the evidence names it),
the attributes that the plan asks for (an age by the beginning of its band), and for each finding `<finding>_truth` (1,
0, -1 for uncertain, or empty) and `<finding>_<model>`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.plan import ChangePlan
from cxr_ops.stats.evidence import ROLES, Scored, band_of_age

TEST: Final = "scores/test.csv"
VALIDATION: Final = "scores/validation.csv"
_NAMED: Final = ("image_id", "patient_id")
_OWN: Final = ("image", "patient", "case")


def asked(plan: ChangePlan) -> tuple[str, ...]:
    """The attributes that subgroups of a plan are formed by, each once, in order."""
    groups = plan.performance.subgroups
    names = [name for one in (groups.attributes if groups else ()) for name in one.split(", ")]
    return tuple(dict.fromkeys(names))


def without_names(
    table: bytes,
    *,
    attributes: Mapping[str, Sequence[str]] | None = None,
    cases: Sequence[str] | None = None,
    named: Collection[str] = (),
    bands: Sequence[int] = (),
) -> bytes:
    r"""Write a table of scores of `evaluate` with numbers in the place of names.

    Args:
        table: `scores.csv`.
        attributes: name -> text of each image, in the order of the table.
        cases: what the report calls each picture.
        named: the cases that the evidence names; others are left out.
        bands: the beginnings of age bands, of which an age's own is written in its place.

    Raises:
        DataError: it is no such table.

    >>> without_names(b"image_id,patient_id,Mass_truth,Mass_challenger\nb.png,p9,1,0.5\na.png,p3,0,0.25\n")
    b'image,patient,case,Mass_truth,Mass_challenger\n2,2,,1,0.5\n1,1,,0,0.25\n'
    """
    rows = _rows(table, "evaluate/scores.csv")
    head = rows[0]
    if tuple(head[:2]) != _NAMED:
        raise DataError("a table of scores begins with image_id and patient_id", where="evaluate/scores.csv")
    images, patients = (_numbers([row[place] for row in rows[1:]]) for place in (0, 1))
    told = dict(attributes or {})
    if "age" in told and bands:
        told["age"] = [_band(text, bands) for text in told["age"]]
    shown = [case if case in named else "" for case in cases or [""] * len(images)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_OWN, *told, *head[2:]])
    for number, row in enumerate(rows[1:]):
        own = [images[number], patients[number], shown[number], *(values[number] for values in told.values())]
        writer.writerow([*own, *row[2:]])
    return out.getvalue().encode()


def read(data: bytes, name: str) -> tuple[Scored, dict[str, list[str]]]:
    """Read a table that `without_names` wrote.

    Returns:
        What was scored, in the precision in which models give their scores, and the attributes of the images.

    Raises:
        DataError: it is no such table.
    """
    rows = _rows(data, name)
    head, body = rows[0], rows[1:]
    if tuple(head[:3]) != _OWN or len(set(head)) != len(head):
        raise DataError(f"{name} is no table of scores", where=name)
    columns = dict(zip(head, zip(*body, strict=True), strict=True)) if body else dict.fromkeys(head, ())
    models = [role for role in ROLES if f"{FINDINGS[0]}_{role}" in columns]
    wanted = [f"{finding}_{what}" for finding in FINDINGS for what in ("truth", *models)]
    if not models or (lacking := [one for one in wanted if one not in columns]):
        raise DataError(f"{name} lacks {lacking[0] if models else 'the scores of the challenger'}", where=name)
    said = _floats([columns[f"{finding}_truth"] for finding in FINDINGS], len(body), name)
    uncertain = said == UNCERTAIN
    scored = Scored(
        truth=np.where(uncertain, np.nan, said),
        patients=_floats([columns["patient"]], len(body), name)[:, 0].astype(np.int64),
        scores={
            role: _floats([columns[f"{finding}_{role}"] for finding in FINDINGS], len(body), name).astype(np.float32)
            for role in models
        },
        uncertain=uncertain,
        cases=list(columns["case"]),
    )
    return scored, {one: list(columns[one]) for one in head[3:] if one not in wanted}


def _rows(data: bytes, name: str) -> list[list[str]]:
    try:
        rows = list(csv.reader(io.StringIO(data.decode(), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{name} is damaged", where=name) from error
    if not rows or len({len(row) for row in rows}) != 1:
        raise DataError(f"{name} is damaged: its rows are not of one length", where=name)
    return rows


def _numbers(names: Sequence[str]) -> list[int]:
    places = {name: place for place, name in enumerate(sorted(set(names)), start=1)}
    return [places[name] for name in names]


def _floats(columns: Sequence[Sequence[str]], rows: int, name: str) -> npt.NDArray[np.float64]:
    """Columns of texts as (rows, columns) numbers; an empty one is NaN."""
    table = np.empty((rows, len(columns)))
    try:
        for place, column in enumerate(columns):
            table[:, place] = [float(text) if text else np.nan for text in column]
    except ValueError as error:
        raise DataError(f"{name} holds what is no number: {error}", where=name) from error
    return table


def _band(text: str, bands: Sequence[int]) -> str:
    """The beginning of the band of an age; "" for what is no age."""
    place = band_of_age(text, bands)
    return "" if place < 0 else str((0, *bands)[place])
