"""PadChest, as the BIMCV hands it on: PNG of 16 bits and one table, whose labels are names of 174 findings.

    PATH/
      PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv   or any one table whose name begins with PADCHEST
      0/1.png ... 54/...                                     or all pictures in one folder, or some of the folders

`Labels` is a list in Python's spelling. Only whole names count: a pseudonodule is no nodule.

| PadChest's label | here |
|---|---|
| atelectasis, lobar / laminar / segmental / round / total atelectasis, atelectasis basal | Atelectasis |
| cardiomegaly | Cardiomegaly |
| pleural effusion, loculated pleural effusion | Effusion |
| infiltrates | Infiltration |
| pulmonary mass | Mass |
| nodule, multiple nodules | Nodule |
| pneumonia, atypical pneumonia | Pneumonia |
| pneumothorax, hydropneumothorax | Pneumothorax |
| consolidation | Consolidation |
| pulmonary edema | Edema |
| emphysema | Emphysema |
| pulmonary fibrosis | Fibrosis |
| pleural thickening, apical / calcified pleural thickening | Pleural_Thickening |
| hiatal hernia | Hernia |
| all others | nothing; counted |

A finding that is not named is 0, as the reports were labelled with all of them; where `Labels` is empty, or says
`exclude`, all are missing. Three quarters of the rows were labelled by a network (`MethodLabel`), which a note counts.

Samples have 10 to 16 bits: `BitsStored_DICOM` says how many, `WindowCenter_DICOM` and `WindowWidth_DICOM` what is
shown, and `PhotometricInterpretation_DICOM` which end is white. A picture with values beyond its bits was stretched to
16 and is read so. `Projection` gives the view; lateral ones are kept, and not trained on. The table has years of birth:
the age is the year of the study less that, one too many for those whose birthday was still to come.

Rows whose folder (`ImageDir`) is not here at all are left out and counted; where it is, a picture that is missing is
wrong.

Source: Bustos et al., "PadChest", Medical Image Analysis 66, 2020.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.data import tables
from cxr_ops.data.checking.headers import find_files
from cxr_ops.data.manifest import IMAGE_ID
from cxr_ops.data.sources.source import Listing, Options, Problem, Reading, Row, Source, of_row, one_each, sex_problems
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

PREFIX: Final = "PADCHEST"
LABELS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (
            "atelectasis",
            "lobar atelectasis",
            "laminar atelectasis",
            "segmental atelectasis",
            "round atelectasis",
            "total atelectasis",
            "atelectasis basal",
        ),
        "Atelectasis",
    ),
    "cardiomegaly": "Cardiomegaly",
    "pleural effusion": "Effusion",
    "loculated pleural effusion": "Effusion",
    "infiltrates": "Infiltration",
    "pulmonary mass": "Mass",
    "nodule": "Nodule",
    "multiple nodules": "Nodule",
    "pneumonia": "Pneumonia",
    "atypical pneumonia": "Pneumonia",
    "pneumothorax": "Pneumothorax",
    "hydropneumothorax": "Pneumothorax",
    "consolidation": "Consolidation",
    "pulmonary edema": "Edema",
    "emphysema": "Emphysema",
    "pulmonary fibrosis": "Fibrosis",
    "pleural thickening": "Pleural_Thickening",
    "apical pleural thickening": "Pleural_Thickening",
    "calcified pleural thickening": "Pleural_Thickening",
    "hiatal hernia": "Hernia",
}
NORMAL: Final = "normal"
EXCLUDED: Final = "exclude"
# The projections of the table. A lying patient is exposed from the front.
VIEWS: Final[Mapping[str, str]] = {"PA": "PA", "AP": "AP", "AP_horizontal": "AP", "L": "LATERAL"}
_COLUMNS: Final = ("ImageID", "PatientID", "Labels", "Projection")
_YEAR: Final = re.compile(r"(1[89][0-9]{2}|20[0-9]{2})([0-9]{4})?(\.0+)?")
_OLDEST: Final = 120
_BY_PEOPLE: Final = "Physician"


def read_folder(folder: Path, options: Options | None = None) -> Listing:  # noqa: ARG001 # none means anything here
    """Read the table and look for each image's file.

    Raises:
        DataError: the folder or its table is missing, a file is not CSV, a column is missing, or there are no rows of
            the folders that are here. What concerns single rows and files is not raised but listed in `problems`.
        StorageError: a folder cannot be listed.
    """
    files, problems = find_files(folder, below=folder)
    path = _find_table(folder)
    table = tables.read(path)
    absent = [name for name in _COLUMNS if name not in table.columns]
    if absent:
        raise DataError(
            f"the header is not PadChest's: there is no column {' nor '.join(map(repr, absent))}",
            where=f"{path}, line 1",
        )
    result = Listing(source=SOURCE.kind, table=path.name, notes=list(table.notes))
    of_name: dict[str, Path] = {}
    for file in files:
        if file.name in of_name:
            problems.append(Problem("the second of two files of this name", _place(file, folder), None, file.name))
        else:
            of_name[file.name] = file
    problems += [Problem(str(cut), path.name, cut.line, cut.first) for cut in table.cut]
    reader = _Rows(table, of_name, folder)
    parsed: list[Row] = []
    for row, found in reader.rows():
        problems += [of_row(what, path.name, row) for what in found]
        if not found:
            parsed.append(row)
    result.notes += reader.notes()
    result.total = reader.here + len(table.cut)
    if not result.total:
        raise DataError(
            "no row of the table is of a picture that is here", where=path, fix="put its folders of pictures beside it"
        )
    named = set(table.columns["ImageID"])
    for name in sorted(of_name.keys() - named):
        what = "no row names this file: the table may have been cut"
        problems.append(Problem(what, _place(of_name[name], folder), None, name))
    problems += sex_problems(result, parsed)
    result.problems = one_each(problems)
    bad = {problem.line for problem in result.problems if problem.file == path.name}
    result.rows = [row for row in parsed if row.line not in bad]
    return result


def recognise(folder: Path) -> str | None:
    """Whether its table is here; see `Source.recognise`."""
    found = next(folder.glob(f"{PREFIX}*.csv"), None) if folder.is_dir() else None
    return f"{found.name} is here" if found else None


SOURCE: Final = Source(
    kind="padchest", read=read_folder, looks_for=f"a table whose name begins with {PREFIX}", recognise=recognise
)


def _find_table(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.name.startswith(PREFIX) and path.suffix == ".csv")
    if len(found) != 1:
        names = " and ".join(path.name for path in found)
        what = f"{names} are here, and one table says what the images show" if found else "PadChest's table is missing"
        raise DataError(
            what, where=folder, fix="keep one" if found else f"put {PREFIX}_..._labels_....csv here, unpacked (gunzip)"
        )
    return found[0]


def _place(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix()


class _Rows:
    """Reads the rows of the table, one after another, and counts what a person should know."""

    def __init__(self, table: tables.Table, of_name: Mapping[str, Path], folder: Path) -> None:
        self._table, self._of_name, self._folder = table, of_name, folder
        self._nothing = ("",) * len(table)
        self._times = Counter(table.columns["ImageID"])
        self._seen: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self.here = 0

    def rows(self) -> list[tuple[Row, list[str]]]:
        """Each row of a folder that is here, and all that is wrong with it."""
        columns = self._table.columns
        folders = self._column("ImageDir")
        present = {
            folder for folder, name in zip(folders, columns["ImageID"], strict=True) if folder and name in self._of_name
        }
        read: list[tuple[Row, list[str]]] = []
        for at, line in enumerate(self._table.lines):
            if folders[at] and folders[at] not in present:
                self._seen["elsewhere"] += 1
                continue
            self.here += 1
            found: list[str] = []
            image_id, patient = columns["ImageID"][at], columns["PatientID"][at]
            path = self._file(image_id, found)
            if why := tables.no_patient(patient):
                found.append(why)
            labels = self._labels(columns["Labels"][at], found)
            sex = self._column("PatientSex_DICOM")[at].strip()
            self._seen["network"] += self._column("MethodLabel")[at].strip() not in ("", _BY_PEOPLE)
            row = Row(
                line=line,
                image_id=image_id,
                patient_id=tables.canonical_patient(patient),
                labels=labels,
                age=self._age(at),
                sex=sex if sex in ("F", "M") else "",
                view=self._view(at),
                path=path,
                reading=self._reading(at, found),
            )
            read.append((row, found))
        return read

    def notes(self) -> list[str]:
        """What was left out, dropped or read in another way than it stands."""
        words = {
            "elsewhere": ("is", "are", "of folders that are not here, and left out"),
            "network": ("was", "were", "labelled by a network, not by a radiologist"),
            "unlabelled": ("has", "have", "no labels: all findings of such a row are missing"),
            "excluded": ("is", "are", f"marked {EXCLUDED!r}: all findings of such a row are missing"),
        }
        notes = [
            f"{voice.part(self._seen[name], len(self._table), 'row', one, many)} {text}"
            for name, (one, many, text) in words.items()
            if self._seen[name]
        ]
        if self._dropped:
            most = ", ".join(f"{name} ({count:,})" for name, count in self._dropped.most_common(5))
            told = voice.count(self._dropped.total(), "label has", "labels have")
            notes.append(f"{told} no counterpart among the findings: {most}")
        return notes

    def _column(self, name: str) -> Sequence[str]:
        return self._table.columns.get(name, self._nothing)

    def _file(self, image_id: str, found: list[str]) -> Path:
        if not IMAGE_ID.fullmatch(image_id):
            found.append(f"{image_id[:120]!r} is not the name of a picture")
        elif self._times[image_id] > 1:
            found.append(f"{self._times[image_id]} rows name this image")
        elif image_id not in self._of_name:
            found.append("the image is missing: no folder holds a file of this name")
        return self._of_name.get(image_id, Path())

    def _labels(self, text: str, found: list[str]) -> tuple[int | None, ...]:
        nothing: tuple[int | None, ...] = (None,) * len(FINDINGS)
        if tables.missing(text.strip()):
            self._seen["unlabelled"] += 1
            return nothing
        names = _listed(text)
        if names is None:
            found.append(f"the labels {text[:60]!r} are no list of names")
            return nothing
        if EXCLUDED in names:
            self._seen["excluded"] += 1
            return nothing
        if not names:
            self._seen["unlabelled"] += 1
            return nothing
        positive = {LABELS[name] for name in names if name in LABELS}
        self._dropped.update(name for name in names if name not in LABELS and name != NORMAL)
        return tuple(int(finding in positive) for finding in FINDINGS)

    def _age(self, at: int) -> int | None:
        born, studied = (
            _YEAR.fullmatch(self._column(name)[at].strip()) for name in ("PatientBirth", "StudyDate_DICOM")
        )
        age = int(studied[1]) - int(born[1]) if born and studied else -1
        return age if 0 <= age <= _OLDEST else None

    def _view(self, at: int) -> str:
        text = self._table.columns["Projection"][at].strip()
        return "" if tables.missing(text) else VIEWS.get(text, "OTHER")

    def _reading(self, at: int, found: list[str]) -> Reading:
        bits = self._number("BitsStored_DICOM", at, found)
        centre, width = self._number("WindowCenter_DICOM", at, found), self._number("WindowWidth_DICOM", at, found)
        kind = self._column("PhotometricInterpretation_DICOM")[at].strip()
        if kind not in ("MONOCHROME1", "MONOCHROME2"):
            found.append(f"the photometric interpretation {kind[:24]!r} does not say which end is white")
        window = None if centre is None or width is None else (centre, width)
        if bits is not None and bits not in range(1, 17):
            found.append(f"BitsStored_DICOM is {bits:g}, not 1 to 16")
            bits = 0
        return Reading(kind="png16", bits=int(bits or 0), inverted=kind == "MONOCHROME1", window=window)

    def _number(self, name: str, at: int, found: list[str]) -> float | None:
        """A number, of a list in brackets the first; None where there is none."""
        text = self._column(name)[at].strip()
        first = text.strip("[]()").split(",")[0].strip().strip("'\"")
        if tables.missing(first):
            return None
        try:
            return float(first)
        except ValueError:
            found.append(f"{name} is {text[:32]!r}, not a number")
            return None


def _listed(text: str) -> set[str] | None:
    """The names of a list in Python's spelling, in small letters; None of anything else."""
    try:
        names = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return {name.strip().lower() for name in names} - {""}
