"""CheXpert and CheXpert-small (Irvin et al., AAAI 2019), and CheXpert Plus (Chambon et al., 2024), as published.

    PATH/
      train.csv, valid.csv            one or both: Path, Sex, Age, Frontal/Lateral, AP/PA and 14 columns of labels
      train/patient00001/study1/view1_frontal.jpg ...

    PATH/                             CheXpert Plus
      df_chexpert_plus_240401.csv     path_to_image, frontal_lateral, ap_pa, deid_patient_id, age, sex, ...
      chexbert_labels/findings_fixed.json, or impression_fixed.json or report_fixed.json: a line of labels an image
      PNG/train/patient00001/study1/view1_frontal.png ...

223,414 radiographs of 64,540 patients in train.csv, 32,387 of them lateral, which are kept and not trained on. Labels
were mined from reports: 1, 0, -1 (uncertain) or nothing, and nothing is missing, not 0. `No Finding` 1 says that the
seven findings with a counterpart are absent where their column says nothing. What has no counterpart among the 14 is
dropped and counted, and so is a row of which nothing is left:

    Atelectasis, Cardiomegaly, Consolidation, Edema, Pneumonia, Pneumothorax    the same
    Pleural Effusion                                                           Effusion
    Enlarged Cardiomediastinum, Lung Lesion, Lung Opacity, Pleural Other,
    Fracture, Support Devices                                                  none

Infiltration, Mass, Nodule, Emphysema, Fibrosis, Pleural_Thickening and Hernia are missing on every row. An uncertain
label follows `--uncertain`, a finding or all. Age 0 is missing (three rows), and so is the sex `Unknown`. The patient
is read of the path. Paths may begin with the name of the release (`CheXpert-v1.0-small/train/...`).
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from cxr_ops import voice
from cxr_ops.data import tables
from cxr_ops.data.manifest import IMAGE_ID
from cxr_ops.data.sources.source import (
    Listing,
    Options,
    Problem,
    Row,
    Source,
    first_line,
    flat_name,
    of_row,
    one_each,
    sex_problems,
)
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, NO_FINDING

TABLES: Final = ("train.csv", "valid.csv")
PLUS: Final = "df_chexpert_plus_240401.csv"
# Of CheXpert Plus: labels of the findings section first, since that describes the picture.
PLUS_LABELS: Final = tuple(f"chexbert_labels/{part}_fixed.json" for part in ("findings", "impression", "report"))
# What the labeller of CheXpert and MIMIC-CXR says, and which of the 14 findings it is.
COUNTERPARTS: Final = {
    "Atelectasis": "Atelectasis",
    "Cardiomegaly": "Cardiomegaly",
    "Consolidation": "Consolidation",
    "Edema": "Edema",
    "Pneumonia": "Pneumonia",
    "Pneumothorax": "Pneumothorax",
    "Pleural Effusion": "Effusion",
}
WITHOUT: Final = (
    "Enlarged Cardiomediastinum",
    "Lung Lesion",
    "Lung Opacity",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
LABELLED: Final = tuple(name for name in FINDINGS if name in COUNTERPARTS.values())
VALUES: Final = {"1": 1, "1.0": 1, "0": 0, "0.0": 0, "-1": -1, "-1.0": -1}
_SEXES: Final = {"Female": "F", "Male": "M", "F": "F", "M": "M", "Unknown": ""}
_PATIENT: Final = re.compile(r"patient[0-9]+")
_COLUMNS: Final = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_PLUS_COLUMNS: Final = {
    "path_to_image": "Path",
    "sex": "Sex",
    "age": "Age",
    "frontal_lateral": "Frontal/Lateral",
    "ap_pa": "AP/PA",
}
_LATERAL: Final = ("LL", "RL")


class Labeller:
    """Brings what the CheXpert labeller says of a picture to the 14 findings, and counts what it leaves out.

    Args:
        options: how uncertain labels are settled.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self.dropped: Counter[str] = Counter()  # positive labels without a counterpart
        self.empty = 0  # images of which no label is left

    def read(self, said: Mapping[str, str], found: list[str]) -> tuple[int | None, ...] | None:
        """The labels of an image, or None where nothing is left; what is wrong goes to `found`.

        Args:
            said: the text of each of the labeller's columns.
            found: problems of the row.
        """
        values: dict[str, int | None] = {}
        for name, text in said.items():
            if tables.missing(text):
                values[name] = None
            elif text in VALUES:
                values[name] = VALUES[text]
            else:
                found.append(f"{name} is {text!r}, not 1, 0, -1 or nothing")
        normal = values.get(NO_FINDING) == 1
        positive = [name for name in COUNTERPARTS if values.get(name) == 1]
        if normal and positive:
            found.append(f"{NO_FINDING!r} is 1, and so is {positive[0]!r}")
        for name in WITHOUT:
            self.dropped[name] += values.get(name) == 1
        labels = {
            finding: self._options.settle(finding, 0 if normal and values.get(name) is None else values.get(name))
            for name, finding in COUNTERPARTS.items()
        }
        if not found and all(value is None for value in labels.values()):
            self.empty += 1
            return None
        return tuple(labels.get(finding) for finding in FINDINGS)

    def notes(self, images: int) -> list[str]:
        """What was left out, for a person to know."""
        notes: list[str] = []
        if self.dropped.total():
            counts = ", ".join(f"{name} {count:,}" for name, count in self.dropped.items() if count)
            notes.append(f"labels without a counterpart among the 14 findings were dropped: {counts} positive images")
        if self.empty:
            told = voice.part(self.empty, images, "image", "was", "were")
            notes.append(f"{told} left out: none of the labels has a counterpart")
        return notes


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """Read the tables of a CheXpert folder and look for each image's file.

    Raises:
        DataError: the folder or its tables are missing, a file is not CSV, a column is missing, or there are no rows.
            What concerns single rows and files is not raised but listed in `problems`.
    """
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, fix="name the folder that holds train.csv")
    names = [name for name in TABLES if (folder / name).is_file()]
    plus = (folder / PLUS).is_file()
    if plus and names:
        raise DataError(
            f"{PLUS} and {names[0]} are here, and one release says what the images show",
            where=folder,
            fix="keep the one whose labels you want",
        )
    if not plus and not names:
        raise DataError(
            f"{' and '.join((*TABLES, PLUS))} are missing", where=folder, fix="name the folder that holds one of them"
        )
    result = Listing(source="chexpert", table=PLUS if plus else names[0], findings=LABELLED)
    labeller = Labeller(options or Options())
    problems: list[Problem] = []
    rows: list[Row] = []
    for name in [PLUS] if plus else names:
        table = tables.read(folder / name, _PLUS_COLUMNS if plus else {})
        labels = _plus_labels(folder, table) if plus else _own_labels(table)
        result.notes += table.notes
        result.total += len(table) + len(table.cut)
        problems += [Problem(str(cut), name, cut.line, cut.first) for cut in table.cut]
        for row, found in _rows(folder, table, labels, labeller, result):
            problems += [of_row(what, name, row) for what in found]
            if not found:
                rows.append(row)
    if not result.total:
        raise DataError("the batch is empty: there are no rows", where=folder, fix="take the tables from their source")
    problems += sex_problems(result, rows)
    problems += _twice(result, rows)
    result.notes += labeller.notes(result.total)
    result.total -= labeller.empty
    result.problems = one_each(problems)
    bad = {(one.file, one.line) for one in result.problems}
    result.rows = [row for row in rows if (row.table, row.line) not in bad]
    return result


def recognise(folder: Path) -> str | None:
    """Whether a folder holds CheXpert's tables; see `Source.recognise`."""
    for name in TABLES:
        header = first_line(folder / name)
        if "Frontal/Lateral" in header and "Path" in header:
            return f"{name} is here, with CheXpert's columns"
    return f"{PLUS} is here" if (folder / PLUS).is_file() else None


SOURCE: Final = Source(
    kind="chexpert",
    read=read_folder,
    looks_for=f"train.csv with CheXpert's columns, or {PLUS}",
    recognise=recognise,
    takes=("uncertain",),
)


def check_columns(table: tables.Table, names: Iterable[str]) -> None:
    """See that a table has all of these columns.

    Raises:
        DataError: it does not.
    """
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise DataError(
            f"the header lacks {' and '.join(repr(name) for name in absent)}",
            where=f"{table.path}, line 1",
            fix="take the table from its source again",
        )


def _own_labels(table: tables.Table) -> list[Mapping[str, str]]:
    """The labels that stand in the table itself, a mapping a row."""
    check_columns(table, (*_COLUMNS, *COUNTERPARTS))
    names = [name for name in (NO_FINDING, *COUNTERPARTS, *WITHOUT) if name in table.columns]
    return [{name: table.columns[name][at].strip() for name in names} for at in range(len(table))]


def _plus_labels(folder: Path, table: tables.Table) -> list[Mapping[str, str]]:
    """The labels of CheXpert Plus, which stand in lines of JSON beside its table, by the path of the image."""
    check_columns(table, _COLUMNS)
    found = [name for name in PLUS_LABELS if (folder / name).is_file()]
    if not found:
        raise DataError(
            f"the labels are missing: {PLUS_LABELS[0]}",
            where=folder,
            fix="put the folder chexbert_labels beside the table",
        )
    known: dict[str, Mapping[str, str]] = {}
    for line, text in enumerate(tables.read_text(folder / found[0]).splitlines(), start=1):
        try:
            said: Any = json.loads(text) if text.strip() else None
        except ValueError as error:
            raise DataError(f"the line is not JSON: {error}", where=f"{folder / found[0]}, line {line}") from error
        if isinstance(said, dict) and "path_to_image" in said:
            known[str(said["path_to_image"])] = {
                name: "" if said.get(name) is None else str(said[name])
                for name in (NO_FINDING, *COUNTERPARTS, *WITHOUT)
            }
    return [known.get(path, {}) for path in table.columns["Path"]]


def _rows(
    folder: Path, table: tables.Table, labels: list[Mapping[str, str]], labeller: Labeller, result: Listing
) -> list[tuple[Row, list[str]]]:
    """Each row with labels, and what is wrong with it; a row of which no label is left is counted and left out."""
    ages = tables.read_ages(["" if text in ("0", "0.0") else text for text in table.columns["Age"]])
    result.notes += ages.notes
    bad_ages = set(ages.bad)
    read: list[tuple[Row, list[str]]] = []
    for at, line in enumerate(table.lines):
        found: list[str] = []
        said = labeller.read(labels[at], found)
        if said is None:
            continue
        place, path = _file(folder, table.columns["Path"][at])
        image_id = flat_name(place)
        patient = _PATIENT.search(place)
        if patient is None:
            found.append(f"{place[:120]!r} names no patient")
        if not IMAGE_ID.fullmatch(image_id) or ".." in place.split("/"):
            found.append(f"{place[:120]!r} is not the path of a PNG or JPEG file")
        elif path is None:
            found.append("the image is missing: no file stands at its path")
        elif any(one.is_symlink() for one in (path, *path.parents) if one != folder and one.is_relative_to(folder)):
            found.append("the image, or its folder, is a link, which may lead anywhere")
        sex = table.columns["Sex"][at].strip()
        if sex and sex not in _SEXES:
            found.append(f"the sex {sex!r} is not one of {', '.join(_SEXES)}")
        if at in bad_ages:
            found.append(f"the age {table.columns['Age'][at]!r} is not a whole number of years")
        view = _view(table.columns["Frontal/Lateral"][at].strip(), table.columns["AP/PA"][at].strip(), found)
        row = Row(
            line=line,
            image_id=image_id,
            patient_id=patient[0] if patient else "",
            labels=said,
            age=ages.years[at],
            sex=_SEXES.get(sex, ""),
            view=view,
            path=path or Path(),
            table=table.path.name,
        )
        read.append((row, found))
    return read


def _file(folder: Path, text: str) -> tuple[str, Path | None]:
    """Where an image stands, from the folder, and its file if there is one.

    A path may begin with the release's name; CheXpert Plus calls its PNGs .jpg.
    """
    parts = [part for part in text.strip().replace("\\", "/").split("/") if part not in ("", ".")]
    if ".." in parts:
        return text, None
    within = next((at for at, part in enumerate(parts) if part in ("train", "valid", "test")), 0)
    place = "/".join(parts[within:])
    stem = place.rpartition(".")[0]
    candidates = (place, f"PNG/{stem}.png", f"PNG/PNG/{stem}.png", f"{stem}.png")
    for candidate in candidates:
        if (folder / candidate).is_file():
            return place if candidate == place else f"{stem}.png", folder / candidate
    return place, None


def _view(frontal: str, projection: str, found: list[str]) -> str:
    """PA or AP of a frontal image, LL, RL or LATERAL of a lateral one, "" where it is not known."""
    if frontal not in ("Frontal", "Lateral", ""):
        found.append(f"Frontal/Lateral is {frontal!r}")
    if frontal == "Lateral":
        return projection if projection in _LATERAL else "LATERAL"
    if tables.missing(projection):
        return ""
    if projection not in ("PA", "AP", *_LATERAL):
        found.append(f"AP/PA is {projection!r}, not one of PA, AP, LL, RL")
        return ""
    return projection


def _twice(result: Listing, rows: list[Row]) -> list[Problem]:
    named: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        named[row.image_id.lower()].append(row)
    problems = []
    for group in named.values():
        for row in group if len(group) > 1 else ():  # which of them is right cannot be told
            other = next(one for one in group if one is not row)
            what = f"the image is named twice, also on line {other.line} of {other.table}"
            problems.append(result.problem(row, what))
    return problems
