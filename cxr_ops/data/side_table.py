"""Attributes of images beyond the manifest's: scanner, site, drain, or what else a hospital knows and a subgroup needs.

They come with a batch, as `attributes.csv`: one row an image, `image_id` first, then a column an attribute, empty where
it is not known. Images of other batches have none. A plan names them in `subgroups.own_attributes`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.data import manifest, tables
from cxr_ops.data.sources.source import Row
from cxr_ops.data.tables import IMAGE, PATIENT
from cxr_ops.errors import DataError

LONGEST: Final = 60  # characters of a value: a group's name, not a text
MOST_VALUES: Final = 200  # different values of an attribute; more make an identifier, and no subgroup
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,31}")
_TAKEN: Final = frozenset(name.lower() for name in (*manifest.COLUMNS, "split", "line", "all"))


def read(path: Path, rows: Sequence[Row]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Read a table with a row an image or a row a patient.

    Args:
        path: a CSV file with `image_id` or `patient_id` (or the NIH's names of them) and a column an attribute.
        rows: the images of the batch.

    Returns:
        For each image of the batch that the table speaks of, its attributes; and notes on what it does not.

    Raises:
        DataError: the file is missing or no table, has neither or both columns, a column's name cannot be an
            attribute's, or a row contradicts another.
    """
    table = tables.read(path).whole()
    keys = [key for key in (IMAGE, PATIENT) if key in table.columns]
    if len(keys) != 1:
        have = "both 'image_id' and 'patient_id'" if keys else "neither 'image_id' nor 'patient_id'"
        raise DataError(
            f"a side table is by image or by patient, and the header has {have}",
            where=f"{path}, line 1",
            fix="keep one of the two" if keys else "name the column that holds one of them so",
        )
    [key] = keys
    names = {column: attribute_name(column, path) for column in table.columns if column != key}
    if not names:
        raise DataError(f"the table has no column but {key!r}", where=f"{path}, line 1", fix="add one an attribute")
    owners = tables.read_patients(table.columns[key])[0] if key == PATIENT else table.columns[key]
    known: dict[str, dict[str, str]] = {}
    for at, owner in enumerate(owners):
        texts = {name: " ".join(table.columns[column][at].split()) for column, name in names.items()}
        said = {name: "" if tables.missing(text) else text for name, text in texts.items()}
        if known.setdefault(owner, said) != said:
            raise DataError(f"{owner!r} is named twice, with other values", where=table.at(at), fix="keep one row")
    found = {
        row.image_id: known[one] for row in rows if (one := row.image_id if key == IMAGE else row.patient_id) in known
    }
    notes = []
    if absent := len(rows) - len(found):
        notes.append(
            f"{path.name} says nothing of {absent:,} of {voice.count(len(rows), 'image')}: their attributes are missing"
        )
    used = {row.image_id if key == IMAGE else row.patient_id for row in rows}
    if others := len(known.keys() - used):
        what = "image" if key == IMAGE else "patient"
        told = voice.part(others, len(known), what, "is", "are")
        notes.append(f"{path.name}: {told} not in the batch, and passed over")
    return found, notes


def attribute_name(text: str, where: object) -> str:
    """A column's name as an attribute's: small letters, digits and underscores.

    Raises:
        DataError: it cannot be one, or is that of a column of the manifest.

    >>> attribute_name("Chest Drain", "x.csv")
    'chest_drain'
    """
    name = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if not _NAME.fullmatch(name) or name in _TAKEN:
        why = "the manifest has a column of this name" if name in _TAKEN else "it must begin with a letter"
        raise DataError(f"{text!r} cannot name an attribute: {why}", where=where, fix="give the column another name")
    return name


def check(attributes: Mapping[str, Mapping[str, str]], where: object) -> None:
    """See that attributes name groups of images, and neither hold texts nor tell people apart.

    Args:
        attributes: for an image, its attributes by name.
        where: what they came from, for a message.

    Raises:
        DataError: a value is longer than `LONGEST`, or an attribute has more than `MOST_VALUES` different ones.
    """
    values: dict[str, set[str]] = {}
    for said in attributes.values():
        for name, value in said.items():
            values.setdefault(name, set()).add(value)
    for name, different in values.items():
        longest = max(different, key=len)
        if len(longest) > LONGEST:
            raise DataError(
                f"the {name} {longest[:LONGEST]!r}... has more than {LONGEST} characters: it names no group",
                where=where,
                fix="leave the column out, or shorten its values",
            )
        if len(different) > MOST_VALUES:
            raise DataError(
                f"{name!r} has {len(different):,} different values: it tells images or people apart, not groups",
                where=where,
                fix="leave the column out: what identifies people must not enter the data set",
            )
