"""Tables that people bring along: a truth to judge models by, or to plan with, and the scores of a model.

Three layouts of a truth are read, told apart by their headers:

* the NIH's `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv` (`Image Index`, `Finding Labels`, ...);
* a manifest of this project (`image_id`, `patient_id`, ..., one column a finding);
* any CSV with an image id (`Image Index` or `image_id`), a patient id (`Patient ID` or `patient_id`; optional) and
  columns named like the findings. `sex`, `age`, `view` and `source` are taken along.

A label is 1, 0, -1 (uncertain) or empty (missing; not the same as 0). A finding without a column is missing everywhere.

Scores are a CSV with an image id, a patient id if there is one, and a number for each finding.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_ops.data import splits, tables
from cxr_ops.data.manifest import read_rows
from cxr_ops.data.synthetic import entries as generated
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN, UnknownLabelError, nearest, parse_labels
from cxr_ops.plan import ATTRIBUTES

IMAGE: Final = "image_id"
PATIENT: Final = "patient_id"
LABELS: Final = "Finding Labels"
# The NIH's names of columns that have another name here.
ALIASES: Final = {
    "Image Index": IMAGE,
    "Patient ID": PATIENT,
    "Patient Age": "age",
    "Patient Gender": "sex",
    "Patient Sex": "sex",
    "View Position": "view",
}
_VALUES: Final = {"": np.nan, "1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": UNCERTAIN, "-1.0": UNCERTAIN}


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of N images.

    Attributes:
        image_ids: (N,) no two alike.
        patients: (N,) whose image it is; None where the file does not say.
        truth: (N, 14) 1, 0 or NaN (missing or uncertain), in the order of `FINDINGS`.
        uncertain: (N, 14) where the label is uncertain.
        attributes: `sex`, `age` (years), `view`, `source`, as far as the file has them, as (N,) text; "" is unknown.
    """

    image_ids: tuple[str, ...]
    patients: tuple[str, ...] | None
    truth: npt.NDArray[np.float64]
    uncertain: npt.NDArray[np.bool_]
    attributes: Mapping[str, tuple[str, ...]]

    def where(self, keep: npt.NDArray[np.bool_]) -> Truth:
        """The images for which `keep`, (N,), is true."""

        def only(values: Sequence[str]) -> tuple[str, ...]:
            return tuple(value for value, here in zip(values, keep, strict=True) if here)

        return Truth(
            image_ids=only(self.image_ids),
            patients=None if self.patients is None else only(self.patients),
            truth=self.truth[keep],
            uncertain=self.uncertain[keep],
            attributes={name: only(values) for name, values in self.attributes.items()},
        )


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A table of text by column, the NIH's names replaced by ours; `lines` are those of the file."""

    path: Path
    lines: tuple[int, ...]
    values: Mapping[str, tuple[str, ...]]

    def at(self, row: int) -> str:
        """Where a row stands, for a message."""
        return f"{self.path}, line {self.lines[row]}"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of N images.

    Attributes:
        path: the file.
        image_ids: (N,) no two alike.
        patients: (N,) whose image it is; None where the file does not say.
        findings: those that the file has a column for, in the order of `FINDINGS`.
        scores: (N, 14) in the order of `FINDINGS`; NaN where there is none.
    """

    path: Path
    image_ids: tuple[str, ...]
    patients: tuple[str, ...] | None
    findings: tuple[str, ...]
    scores: npt.NDArray[np.float64]


def read_columns(path: Path) -> Columns:
    """Read a CSV with an image id in each row.

    Raises:
        DataError: the file is missing or damaged, has no rows or no image id, names a column or an image twice, a row
            is longer or shorter than the header, or a column is called almost like a finding.
    """
    rows = read_rows(path)
    if len(rows) < 2:
        raise DataError("the table has no rows", where=path)
    names = [ALIASES.get(name.strip(), name.strip()) for name in rows[0][1]]
    for name in names:
        guess = difflib.get_close_matches(name.lower(), [finding.lower() for finding in FINDINGS], n=1, cutoff=0.8)
        if guess and name not in FINDINGS:
            raise DataError(
                f"{name!r} is not one of the 14 findings; the nearest is {nearest(guess[0], FINDINGS)!r}",
                where=f"{path}, line 1",
                fix="call the column so, or take it out",
            )
        if name and names.count(name) > 1:
            raise DataError(f"two columns are called {name!r}", where=f"{path}, line 1")
    if IMAGE not in names:
        raise DataError(
            f"no column holds the image: neither 'Image Index' nor {IMAGE!r} is in the header",
            where=f"{path}, line 1",
        )
    for line, fields in rows[1:]:
        if len(fields) != len(names):
            raise DataError(
                f"the row has {len(fields)} fields, not {len(names)}: the table may have been cut",
                where=f"{path}, line {line}",
            )
    columns = zip(*(fields for _, fields in rows[1:]), strict=True)
    table = Columns(path=path, lines=tuple(line for line, _ in rows[1:]), values=dict(zip(names, columns, strict=True)))
    first: dict[str, int] = {}
    for row, image_id in enumerate(table.values[IMAGE]):
        if not image_id:
            raise DataError("the image id is empty", where=table.at(row))
        if image_id in first:
            raise DataError(
                f"the image {image_id!r} is named twice, first on line {table.lines[first[image_id]]}",
                where=table.at(row),
            )
        first[image_id] = row
    return table


def read_truth(path: Path) -> Truth:
    """Read a truth in one of the three layouts; see the module's docstring.

    Raises:
        DataError: as `read_columns`; there is no label at all, a label is none of 1, 0, -1 and empty or not the NIH's,
            a patient id is empty, or an age is not a whole number of years.
    """
    table = read_columns(path)
    labels = _nih_labels(table) if LABELS in table.values else _finding_columns(table)
    uncertain = labels == UNCERTAIN
    return Truth(
        image_ids=table.values[IMAGE],
        patients=read_patients(table),
        truth=np.where(uncertain, np.nan, labels),
        uncertain=uncertain,
        attributes={name: _attribute(table, name) for name in ATTRIBUTES if name in table.values},
    )


def read_scores(path: Path) -> Scores:
    """Read the scores of a model.

    Raises:
        DataError: as `read_columns`; no column is called like a finding, or a score is not a number.
    """
    table = read_columns(path)
    findings = tuple(finding for finding in FINDINGS if finding in table.values)
    if not findings:
        raise _no_findings(table, "no column holds scores: the name of no finding is in the header")
    scores = np.full((len(table.lines), len(FINDINGS)), np.nan)
    for finding in findings:
        for row, text in enumerate(table.values[finding]):
            try:
                scores[row, FINDINGS.index(finding)] = float(text) if text else np.nan
            except ValueError as error:
                raise DataError(f"the score of {finding!r} is {text!r}, not a number", where=table.at(row)) from error
    return Scores(
        path=path, image_ids=table.values[IMAGE], patients=read_patients(table), findings=findings, scores=scores
    )


def read_patients(table: Columns) -> tuple[str, ...] | None:
    """Whose image each row is, None without such a column; `00000001` and `1` are one patient.

    Raises:
        DataError: a patient id is empty.
    """
    if PATIENT not in table.values:
        return None
    patients = table.values[PATIENT]
    if "" in patients:
        raise DataError("the patient id is empty", where=table.at(patients.index("")))
    return tuple(map(tables.canonical_patient, patients))


def test_side(truth: Truth, *, salt: str, validation: float, test: float) -> Truth:
    """The images whose patients the keyed hash puts on the test side; see `cxr_ops.data.splits.side`.

    Raises:
        DataError: there is no patient id.
    """
    owners = owned(truth)
    chosen = {one: splits.side(one, salt=salt, validation=validation, test=test) == "test" for one in set(owners)}
    return truth.where(np.array([chosen[one] for one in owners], dtype=bool))


test_side.__test__ = False  # type: ignore[attr-defined]  # pytest takes a name that begins with test_ for a test


def owned(truth: Truth) -> tuple[str, ...]:
    """Whose image each one is.

    Raises:
        DataError: there is no patient id.
    """
    if truth.patients is None:
        raise DataError(
            "the truth does not say whose image each one is, and patients are counted",
            fix=f"add a column 'Patient ID' or {PATIENT!r}",
        )
    return truth.patients


def positive_patients(truth: Truth) -> tuple[int, ...]:
    """How many patients have a positive image, for each of the 14 findings.

    Raises:
        DataError: there is no patient id.
    """
    owners = np.array(owned(truth))
    return tuple(len(np.unique(owners[column == 1])) for column in truth.truth.T)


def drawn_truth(patients: int) -> Truth:
    """Labels of patients who do not exist, like those of `cxr_ops.data.synthetic.entries`, always the same.

    Args:
        patients: how many, at least 1. Each has one to ten images.
    """
    # A patient has 2.2 images in the mean: so many hold the last patient's too.
    entries = generated.draw_entries(images=3 * patients + 100, seed=0, min_prevalence=0.0)
    entries = [entry for entry in entries if entry.patient <= patients]
    return Truth(
        image_ids=tuple(entry.name for entry in entries),
        patients=tuple(str(entry.patient) for entry in entries),
        truth=np.array([[float(finding in entry.findings) for finding in FINDINGS] for entry in entries]),
        uncertain=np.zeros((len(entries), len(FINDINGS)), dtype=bool),
        attributes={
            "sex": tuple(entry.sex for entry in entries),
            "age": tuple(str(entry.age) for entry in entries),
            "view": tuple(entry.view for entry in entries),
        },
    )


def _nih_labels(table: Columns) -> npt.NDArray[np.float64]:
    rows = []
    for row, text in enumerate(table.values[LABELS]):
        try:
            rows.append(parse_labels(text))
        except UnknownLabelError as error:
            raise DataError(str(error), where=table.at(row)) from error
    return np.array(rows, dtype=np.float64)


def _finding_columns(table: Columns) -> npt.NDArray[np.float64]:
    labels = np.full((len(table.lines), len(FINDINGS)), np.nan)
    for f, finding in enumerate(FINDINGS):
        for row, text in enumerate(table.values.get(finding, ())):
            if text not in _VALUES:
                raise DataError(
                    f"{finding!r} is {text!r}, not 1, 0, -1 (uncertain) or empty (missing)", where=table.at(row)
                )
            labels[row, f] = _VALUES[text]
    if not set(FINDINGS) & set(table.values):
        raise _no_findings(
            table, f"no column holds labels: neither {LABELS!r} nor the name of a finding is in the header"
        )
    return labels


def _no_findings(table: Columns, what: str) -> DataError:
    fix = f"name columns like the findings: {', '.join(FINDINGS)}"
    return DataError(what, where=f"{table.path}, line 1", fix=fix)


def _attribute(table: Columns, name: str) -> tuple[str, ...]:
    if name != "age":
        return table.values[name]
    for row, text in enumerate(table.values[name]):
        if text and not text.isdecimal():
            raise DataError(f"the age {text!r} is not a whole number of years", where=table.at(row))
    # The NIH's release holds ages such as 414, which are slips of the pen.
    return tuple(text if text and int(text) <= tables.OLDEST else "" for text in table.values[name])
