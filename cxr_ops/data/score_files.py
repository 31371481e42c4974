"""Tables that people bring along: a truth to judge models by, or to plan with, and the scores of a model.

Three layouts of a truth are read, told apart by their headers:

* the NIH's `Data_Entry_2017.csv` or `Data_Entry_2017_v2020.csv`, in any edition, and Kaggle's sample (`Image Index`,
  `Finding Labels`, ...);
* a manifest of this project (`image_id`, `patient_id`, ..., one column a finding);
* any CSV with an image id (`Image Index` or `image_id`), a patient id (`Patient ID` or `patient_id`; optional) and
  columns named like the findings. `sex`, `age`, `view` and `source` are taken along.

A label is 1, 0, -1 (uncertain) or empty (missing; not the same as 0), also as pandas and Excel write it: `1.0`,
`True`, `nan`. A finding without a column is missing everywhere. Where a table has `Finding Labels` and columns of
findings, they must agree. Names that CheXpert gives to the same findings are known (`Pleural Effusion`).

Scores are a CSV with an image id, a patient id if there is one, and a probability for each finding.

How CSV differs from one program to the next is the business of `cxr_ops.data.tables`. What was read in another way than
it stands, and columns that nobody reads, are told in `notes`.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from cxr_ops.data import splits, tables
from cxr_ops.data.synthetic import entries as generated
from cxr_ops.data.tables import ALIASES, FOLLOW_UP, IMAGE, LABELS, PATIENT, Table
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, NO_FINDING, UNCERTAIN, UnknownLabelError, nearest, parse_labels
from cxr_ops.plan import ATTRIBUTES, PerformanceEvaluation

_MOST_DRAWN: Final = 200_000  # patients; the release has 30,805

# What CheXpert, MIMIC-CXR, PadChest, VinDr and the NIH's list of boxes call the same findings.
SAME_FINDING: Final[Mapping[str, str]] = {
    "Pleural Effusion": "Effusion",
    "Pleural effusion": "Effusion",
    "Pulmonary Edema": "Edema",
    "Pulmonary fibrosis": "Fibrosis",
    "Pulmonary Fibrosis": "Fibrosis",
    "Infiltrate": "Infiltration",
}
# What others call the columns that the NIH has too.
_OTHERS: Final[Mapping[str, str]] = {
    "ImageID": IMAGE,  # PadChest
    "dicom_id": IMAGE,  # MIMIC-CXR
    "PatientID": PATIENT,
    "subject_id": PATIENT,
    "Sex": "sex",  # CheXpert
    "Age": "age",
}
# Columns that tables of images have and nobody needs here: no note is made of them.
_USUAL: Final = re.compile(
    rf"{re.escape(FOLLOW_UP)}|OriginalImage.*|Height\]|y\]|sha256|batch|width|height|line|split|{NO_FINDING}"
)
_TRUE_FALSE: Final = {"true": 1.0, "false": 0.0}
_SHOWN: Final = 6  # names in a note


@dataclass(frozen=True, kw_only=True)
class Truth:
    """What is known of N images.

    Attributes:
        image_ids: (N,) no two alike.
        patients: (N,) whose image it is; None where the file does not say.
        truth: (N, 14) 1, 0 or NaN (missing or uncertain), in the order of `FINDINGS`.
        uncertain: (N, 14) where the label is uncertain.
        attributes: `sex`, `age` (years), `view`, `source`, as far as the file has them, as (N,) text; "" is unknown.
        notes: what was read in another way than it stands or passed over, for a person to know.
    """

    image_ids: tuple[str, ...]
    patients: tuple[str, ...] | None
    truth: npt.NDArray[np.float64]
    uncertain: npt.NDArray[np.bool_]
    attributes: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...] = ()

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
            notes=self.notes,
        )


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What a model says of N images.

    Attributes:
        path: the file.
        sha256: of its bytes as they were read; a pipe can be read once.
        image_ids: (N,) no two alike.
        patients: (N,) whose image it is; None where the file does not say.
        findings: those that the file holds scores for, in the order of `FINDINGS`; at least one.
        scores: (N, 14) in 0 to 1, in the order of `FINDINGS`; NaN for the other findings.
        notes: as of a truth.
    """

    path: Path
    sha256: str
    image_ids: tuple[str, ...]
    patients: tuple[str, ...] | None
    findings: tuple[str, ...]
    scores: npt.NDArray[np.float64]
    notes: tuple[str, ...] = ()


def read_columns(path: Path) -> Table:
    """Read a CSV with an image id in each row; columns have our names, findings the NIH's.

    Raises:
        DataError: the file is missing or damaged, has no rows or no image id, names a column or an image twice, a row
            is longer or shorter than the header, or a column is called almost like a finding.
    """
    table = tables.read(path, {**ALIASES, **SAME_FINDING, **_OTHERS}, pipes=True).whole()
    if not len(table):
        raise DataError("the table has no rows", where=path, fix="take the table from its source again")
    _check_names(table)
    if IMAGE not in table.columns:
        names = [name for name in table.columns if name not in FINDINGS]
        guess = next((name for name in names if re.search("image|file|path|dicom|study", name, re.IGNORECASE)), None)
        raise DataError(
            f"no column holds the image: neither 'Image Index' nor {IMAGE!r} is in the header",
            where=f"{path}, line 1",
            fix=f"call the column with the image ids {IMAGE!r}" + (f", if {guess!r} is it" if guess else ""),
        )
    first: dict[str, int] = {}
    for row, image_id in enumerate(table.columns[IMAGE]):
        if not image_id:
            raise DataError("the image id is empty", where=table.at(row), fix="name the image, or take the row out")
        if image_id in first:
            raise DataError(
                f"the image {image_id!r} is named twice, first on line {table.lines[first[image_id]]}",
                where=table.at(row),
                fix="keep one of the two rows",
            )
        first[image_id] = row
    return table


def read_truth(path: Path) -> Truth:
    """Read a truth in one of the three layouts; see the module's docstring.

    Raises:
        DataError: as `read_columns`; there is no label at all, a label is none of 1, 0, -1 and empty or not the NIH's,
            two columns contradict each other, or a patient id is empty.
    """
    table = read_columns(path)
    notes = list(table.notes)
    labels = _labels(table, notes)
    uncertain = labels == UNCERTAIN
    attributes = {name: _attribute(table, name, notes) for name in ATTRIBUTES if name in table.columns}
    patients = read_patients(table, notes)
    _note_columns(table, notes)
    return Truth(
        image_ids=table.columns[IMAGE],
        patients=patients,
        truth=np.where(uncertain, np.nan, labels),
        uncertain=uncertain,
        attributes=attributes,
        notes=tuple(notes),
    )


def read_images(path: Path, truth: Truth) -> Truth:
    """Those images of a truth that a list names, one a line, such as the NIH's `test_list.txt`.

    Raises:
        DataError: the file is missing, not text or empty, or names an image that the truth does not have.
    """
    named = {line.strip() for line in tables.read_text(path).splitlines()} - {""}
    if not named:
        raise DataError("the list names no image", where=path, fix="write an image id on each line")
    if unknown := sorted(named - set(truth.image_ids)):
        raise DataError(
            f"{len(unknown):,} of {len(named):,} images of the list are not in the truth, the first is {unknown[0]!r}",
            where=path,
            fix=f"compare the image ids of both files: those of the truth are like {truth.image_ids[0]!r}",
        )
    return truth.where(np.array([image_id in named for image_id in truth.image_ids], dtype=bool))


def read_scores(path: Path) -> Scores:
    """Read the scores of a model. A finding whose column is empty all through has no scores.

    Raises:
        DataError: as `read_columns`; no column holds scores, a score is not a number, is missing or not finite while
            others of its finding are there, or lies outside 0 to 1.
    """
    table = read_columns(path)
    notes = list(table.notes)
    present = [finding for finding in FINDINGS if finding in table.columns]
    if not present:
        raise _no_findings(table, "no column holds scores: the name of no finding is in the header")
    scores = np.full((len(table), len(FINDINGS)), np.nan)
    for finding in present:
        scores[:, FINDINGS.index(finding)] = _column_of_scores(table, finding)
    findings = tuple(finding for finding in present if not np.isnan(scores[:, FINDINGS.index(finding)]).all())
    if not findings:
        raise _no_findings(table, "every score is missing")
    patients = read_patients(table, notes)
    _note_columns(table, notes)
    return Scores(
        path=path,
        sha256=table.sha256,
        image_ids=table.columns[IMAGE],
        patients=patients,
        findings=findings,
        scores=scores,
        notes=tuple(notes),
    )


def read_patients(table: Table, notes: list[str]) -> tuple[str, ...] | None:
    """Whose image each row is, None without such a column; `00000001`, `1` and `1.0` are one patient.

    Args:
        table: with a patient id in each row, or without the column.
        notes: what is told of other spellings is added.

    Raises:
        DataError: a patient id is empty.
    """
    if PATIENT not in table.columns:
        return None
    texts = table.columns[PATIENT]
    for row, text in enumerate(texts):
        if tables.missing(text):
            raise DataError(
                "the patient id is empty",
                where=table.at(row),
                fix="say whose image it is; where nobody knows, take the image out",
            )
    # pandas makes numbers with a point of whole numbers as soon as one is missing.
    if all(re.fullmatch(r"[0-9]+[.,]0+", text) for text in texts):
        texts = tuple(re.split("[.,]", text)[0] for text in texts)
        notes.append("patient ids are written like 1.0 and were read as whole numbers")
    patients, told = tables.read_patients(texts)
    notes.extend(told)
    return patients


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


def drawn_for(rules: PerformanceEvaluation) -> Truth:
    """Labels of so many patients who do not exist that every finding which a plan requires can be judged.

    Args:
        rules: the plan's. There are at least its fewest test patients, and at most 200,000.
    """
    patients = rules.min_test_patients
    while True:
        drawn = drawn_truth(patients)
        owners = np.array(owned(drawn))
        counts = [
            [len(np.unique(owners[drawn.truth[:, FINDINGS.index(name)] == label])) for name in rules.required]
            for label in (1, 0)
        ]
        least = (rules.min_positive_patients, rules.min_negative_patients)
        lacking = [asked / max(1, min(there, default=asked)) for asked, there in zip(least, counts, strict=True)]
        if max(lacking) <= 1 or patients >= _MOST_DRAWN:
            return drawn
        # Counts of a rare finding in a small draw say little: on by half at least, and by ten times at most.
        patients = min(_MOST_DRAWN, math.ceil(patients * min(10.0, max(1.5, 1.1 * max(lacking)))))


def _check_names(table: Table) -> None:
    """Refuse a column that is called almost like a finding, or holds the name of one that has no column of its own."""
    for ours, name in table.written.items():
        if ours in FINDINGS or ours in (IMAGE, PATIENT, LABELS, *ATTRIBUTES):
            continue
        guess = _almost(name) or _part(name, table)
        if guess:
            raise DataError(
                f"{name!r} is not one of the 14 findings; the nearest is {guess!r}",
                where=f"{table.path}, line 1",
                fix=f"call the column {guess!r} if it is that, or take it out",
            )


def _almost(name: str) -> str | None:
    close = difflib.get_close_matches(name.lower(), [finding.lower() for finding in FINDINGS], n=1, cutoff=0.8)
    return nearest(close[0], FINDINGS) if close else None


def _part(name: str, table: Table) -> str | None:
    """The finding whose name is a word of this one, such as `Lung Mass`; one with a column of its own is not meant."""
    words = set(re.findall("[a-z]+", name.lower()))
    absent = [finding for finding in FINDINGS if finding not in table.columns and LABELS not in table.columns]
    return next((finding for finding in absent if set(finding.lower().split("_")) <= words), None)


def _note_columns(table: Table, notes: list[str]) -> None:
    """Name the columns that were taken for a finding of another name, and those that nobody reads.

    Columns that every such table has, and that nobody needs here, are not worth a word.
    """
    of_findings = [(ours, name) for ours, name in table.written.items() if ours in FINDINGS]
    notes += [f"{name!r} was read as {ours}" for ours, name in of_findings if ours != name]
    known = {IMAGE, PATIENT, LABELS, *FINDINGS, *ATTRIBUTES}
    names = [name for ours, name in table.written.items() if ours not in known and not _USUAL.fullmatch(name)]
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        notes.append(f"columns that are not read: {', '.join(names[:_SHOWN])}{more}")


def _labels(table: Table, notes: list[str]) -> npt.NDArray[np.float64]:
    """(N, 14) 1, 0, `UNCERTAIN` or NaN."""
    columns = _finding_columns(table)
    named = [finding for finding in FINDINGS if finding in table.columns]
    if LABELS not in table.columns:
        if not named:
            raise _no_findings(
                table, f"no column holds labels: neither {LABELS!r} nor the name of a finding is in the header"
            )
        _check_no_finding(table, columns)
        if np.isnan(columns).all():
            raise DataError("every label is missing", where=table.path, fix="write 1 where a finding is there, else 0")
        for value, kind in ((0, "negative"), (1, "positive")):
            if not (columns == value).any():
                notes.append(
                    f"no label is {value} ({kind}): an empty or nan field is a missing label, not a negative one"
                )
        return columns
    labels = _nih_labels(table)
    against = ~np.isnan(columns) & (columns != labels)
    for f in np.flatnonzero(against.any(axis=0)):
        row = int(np.argmax(against[:, f]))
        raise DataError(
            f"the column {FINDINGS[f]!r} and {LABELS!r} contradict each other on {np.count_nonzero(against[:, f])} of "
            f"{len(table)} images, first {table.columns[FINDINGS[f]][row]!r} beside {table.columns[LABELS][row]!r}",
            where=table.at(row),
            fix="keep the labels that are right, and take the other column out",
        )
    if named:
        notes.append(f"{LABELS!r} and {len(named)} columns of findings say the same")
    return labels


def _nih_labels(table: Table) -> npt.NDArray[np.float64]:
    rows = []
    for row, text in enumerate(table.columns[LABELS]):
        try:
            rows.append(parse_labels(text))
        except UnknownLabelError as error:
            raise DataError(
                str(error), where=table.at(row), fix=f"name findings of the NIH, joined by |, or {NO_FINDING!r}"
            ) from error
    return np.array(rows, dtype=np.float64)


def _finding_columns(table: Table) -> npt.NDArray[np.float64]:
    labels = np.full((len(table), len(FINDINGS)), np.nan)
    for f, finding in enumerate(FINDINGS):
        texts = table.columns.get(finding)
        if texts is not None:
            labels[:, f] = _read_each(table, finding, texts)
    return labels


def _read_each(table: Table, name: str, texts: Sequence[str]) -> npt.NDArray[np.float64]:
    """(N,) labels of a column; each way to write one is read once."""
    values = {text: _label(table, text) for text in set(texts)}
    for row, text in enumerate(texts):
        if values[text] is None:
            raise DataError(
                f"{name!r} is {text!r}, not 1, 0, -1 (uncertain) or empty (missing)",
                where=table.at(row),
                fix=f"write 1 where {name} is there and 0 where it is not",
            )
    return np.array([values[text] for text in texts], dtype=np.float64)


def _label(table: Table, text: str) -> float | None:
    word = text.strip()
    if word.lower() in _TRUE_FALSE:
        return _TRUE_FALSE[word.lower()]
    try:
        value = table.number(word)
    except ValueError:
        return None
    return value if np.isnan(value) or value in (1.0, 0.0, UNCERTAIN) else None


def _check_no_finding(table: Table, labels: npt.NDArray[np.float64]) -> None:
    """A column `No Finding`, as CheXpert has one, must not say so of an image that shows a finding."""
    texts = table.columns.get(NO_FINDING)
    if texts is None:
        return
    healthy = _read_each(table, NO_FINDING, texts) == 1
    against = healthy[:, None] & (labels == 1)
    if against.any():
        row, f = (int(place) for place in np.argwhere(against)[0])
        raise DataError(
            f"the columns {NO_FINDING!r} and {FINDINGS[f]!r} contradict each other: both are 1",
            where=table.at(row),
            fix="correct the one that is wrong, or take it out",
        )


def _column_of_scores(table: Table, finding: str) -> npt.NDArray[np.float64]:
    """(N,) numbers in 0 to 1, or NaN all through.

    Raises:
        DataError: a score is no number, some are missing or not finite, or some lie outside 0 to 1.
    """
    values = np.full(len(table), np.nan)
    for row, text in enumerate(table.columns[finding]):
        try:
            values[row] = table.number(text.strip())
        except ValueError as error:
            raise DataError(
                f"the score of {finding!r} is {text!r}, not a number",
                where=table.at(row),
                fix="write a probability between 0 and 1",
            ) from error
    if np.isnan(values).all():
        return values
    for wrong, what, fix in (
        (np.isnan(values), "missing", "score these images, or take the whole column out"),
        (np.isinf(values), "not finite", "look for what made them: a division by 0, or weights that are damaged"),
        (
            (values < 0) | (values > 1),
            "outside 0 to 1",
            "give probabilities: of a logit x that is 1 / (1 + exp(-x)), which ranks images alike",
        ),
    ):
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{np.count_nonzero(wrong)} of {len(table)} scores of {finding!r} are {what}, "
                f"the first is {table.columns[finding][row]!r}",
                where=table.at(row),
                fix=fix,
            )
    return values


def _no_findings(table: Table, what: str) -> DataError:
    fix = f"name columns like the findings: {', '.join(FINDINGS)}"
    return DataError(what, where=f"{table.path}, line 1", fix=fix)


def _attribute(table: Table, name: str, notes: list[str]) -> tuple[str, ...]:
    texts = table.columns[name]
    if name != "age":
        return tuple("" if tables.missing(text) else text for text in texts)
    ages = tables.read_ages([text.replace(",", ".") for text in texts] if table.decimal_comma else texts)
    notes.extend(ages.notes)
    if ages.bad:
        row = ages.bad[0]
        notes.append(
            f"{len(ages.bad):,} of {len(table):,} ages are no number of years, first {texts[row]!r} on line "
            f"{table.lines[row]}, and were taken as missing"
        )
    return tuple("" if years is None else str(years) for years in ages.years)
