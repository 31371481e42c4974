"""DICOM files, as an archive exports them, and a table of labels by SOP Instance UID.

    PATH/
      labels.csv                or any one CSV file here
      any/folders/IM0001 ...    DICOM files of CR or DX, one picture each, whatever their names and endings

The table has a column `SOPInstanceUID`, and labels either in `Finding Labels` (names joined by `|`, or `No Finding`) or
in a column for each finding that is labelled: 1, 0, -1 (uncertain) or empty (missing). `patient_id`, `age`, `sex` and
`view` may stand there too; what is missing in the table is taken of the header. Where both say something else about sex
or view, the row is wrong.

Taken of a header are SOP Instance UID (the image's name), patient id, age, sex and view; nothing else of it is kept,
and the stored picture has no header: see docs/decisions/0021. Refused are other modalities, other views than PA and AP,
other parts of the body, raw detector pictures (FOR PROCESSING), more than one frame, colours, a flag that something is
burnt into the picture, and headers that may name somebody (the basic profile of DICOM PS3.15), unless `--deidentified`
says that they do not. A header cannot show that the pixels are clean.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cxr_ops.data import tables
from cxr_ops.data.checking.dicom import Facts, Header, Refused
from cxr_ops.data.checking.headers import find_files, read_headers
from cxr_ops.data.score_files import SAME_FINDING
from cxr_ops.data.sources.source import (
    Listing,
    Options,
    Problem,
    Reading,
    Row,
    Source,
    first_line,
    one_each,
    sex_problems,
    slip,
)
from cxr_ops.data.tables import LABELS, PATIENT
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, SEXES, UNCERTAIN, VIEWS, UnknownLabelError, nearest, parse_labels

TABLE: Final = "labels.csv"
UID: Final = "SOPInstanceUID"
_ALIASES: Final[Mapping[str, str]] = {
    **tables.ALIASES,
    **SAME_FINDING,
    "SOP Instance UID": UID,
    "sop_instance_uid": UID,
    "PatientID": PATIENT,
    "PatientAge": "age",
    "PatientSex": "sex",
    "ViewPosition": "view",
}
_VALUES: Final[Mapping[str, int]] = {"1": 1, "0": 0, "-1": UNCERTAIN, "1.0": 1, "0.0": 0, "-1.0": UNCERTAIN}


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """Read the table and the headers, and bring them together.

    Raises:
        DataError: the folder or its table is missing, a file is not CSV, a column is missing, or there are no rows or
            no DICOM files. What concerns single rows and files is not raised but listed in `problems`.
        StorageError: a folder cannot be listed.
    """
    options = options or Options()
    files, problems = find_files(folder, below=folder)
    path = _find_table(folder)
    table = tables.read(path, _ALIASES)
    labelled = _check_columns(table)
    result = Listing(
        source=SOURCE.kind,
        table=path.name,
        total=len(table) + len(table.cut),
        notes=list(table.notes),
        findings=labelled or FINDINGS,
    )
    if not len(table):
        raise DataError("the batch is empty: the table has a header and no rows", where=path)
    if not files:
        raise DataError("there are no DICOM files", where=folder, fix="put them beside the table, in folders or not")
    headers = read_headers([Header(path=file, deidentified=options.deidentified) for file in files])
    of_uid: defaultdict[str, list[tuple[Path, Facts | Refused]]] = defaultdict(list)
    named = {uid.strip() for uid in table.columns[UID]}
    for file, header in zip(files, headers, strict=True):
        if header.uid in named:
            of_uid[header.uid].append((file, header))
            continue
        what = f"no row names this file, whose SOP Instance UID is {header.uid}: the table may have been cut"
        what = header.what if isinstance(header, Refused) else what
        problems.append(Problem(what, file.relative_to(folder).as_posix()))
    problems += [Problem(str(cut), path.name, cut.line, cut.first) for cut in table.cut]
    parsed: list[Row] = []
    reader = _Rows(table, labelled, folder, of_uid, options)
    for row, found in reader.rows(result.notes):
        problems += [Problem(what, path.name, row.line, row.image_id, patient_id=row.patient_id) for what in found]
        if not found:
            parsed.append(row)
    problems += sex_problems(result, parsed)
    result.problems = one_each(sorted(problems, key=lambda one: (one.file, one.line or 0)))
    bad = {problem.line for problem in result.problems if problem.file == path.name}
    result.rows = [row for row in parsed if row.line not in bad]
    return result


def recognise(folder: Path) -> str | None:
    """Whether a table here has a column of SOP Instance UIDs; see `Source.recognise`."""
    for path in sorted(folder.glob("*.csv")):
        header = first_line(path)
        if any(name in header for name, ours in ((UID, UID), *_ALIASES.items()) if ours == UID):
            return f"{path.name} is here, with a column of SOP Instance UIDs"
    return None


SOURCE: Final = Source(
    kind="dicom",
    read=read_folder,
    looks_for="a CSV file with a column SOPInstanceUID, beside DICOM files",
    recognise=recognise,
    takes=("deidentified", "uncertain", "view"),
)


def _find_table(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".csv")
    if (folder / TABLE) in found:
        return folder / TABLE
    if len(found) != 1:
        many = f"{len(found)} CSV files are here, and none is called {TABLE}" if found else f"{TABLE} is missing"
        raise DataError(many, where=folder, fix=f"put the labels by {UID} into {TABLE}")
    return found[0]


def _check_columns(table: tables.Table) -> tuple[str, ...]:
    """The findings that the table labels, by column; none where it has `Finding Labels`.

    Raises:
        DataError: there is no column of UIDs, or none of labels, or both kinds of labels.
    """
    if UID not in table.columns:
        guess = nearest(UID, table.written.values())
        raise DataError(
            f"there is no column {UID!r}, by which rows find their files",
            where=f"{table.path}, line 1",
            fix=f"call the column {UID!r} so" + (f", if {guess!r} is it" if guess else ""),
        )
    labelled = tuple(name for name in FINDINGS if name in table.columns)
    if bool(labelled) == (LABELS in table.columns):
        raise DataError(
            "labels stand in two kinds of columns" if labelled else "no column holds labels",
            where=f"{table.path}, line 1",
            fix=f"give {LABELS!r}, or a column for each finding, called as the NIH's: {', '.join(FINDINGS[:3])}, ...",
        )
    for name in table.columns if labelled else ():
        if name not in FINDINGS and (meant := slip(name, (*FINDINGS, *SAME_FINDING))):
            raise DataError(
                f"the column {name!r} is called as no finding, and {meant!r} may be meant: it would be left out",
                where=f"{table.path}, line 1",
                fix=f"call it {meant!r} if it is that, or take it out of the table",
            )
    return labelled


class _Rows:
    """Brings rows of the table and headers together."""

    def __init__(
        self,
        table: tables.Table,
        labelled: tuple[str, ...],
        folder: Path,
        of_uid: Mapping[str, list[tuple[Path, Facts | Refused]]],
        options: Options,
    ) -> None:
        self._table, self._labelled, self._folder, self._of_uid = table, labelled, folder, of_uid
        self._options = options
        self._nothing = ("",) * len(table)

    def rows(self, notes: list[str]) -> list[tuple[Row, list[str]]]:
        """Each row, and all that is wrong with it; a row with a fault holds what could be read."""
        columns = self._table.columns
        uids = [uid.strip() for uid in columns[UID]]
        headers = [self._header(uid) for uid in uids]
        patients, told = tables.read_patients(self._merged(PATIENT, [one.patient_id for one in headers]))
        ages = tables.read_ages(self._merged("age", [one.age for one in headers]))
        if "age" in columns:
            notes += ages.notes
        notes += told
        times = Counter(uids)
        read: list[tuple[Row, list[str]]] = []
        for at, line in enumerate(self._table.lines):
            found: list[str] = []
            file = self._file(uids[at], found)
            if times[uids[at]] > 1:
                found.append(f"{times[uids[at]]} rows name this image")
            header = headers[at]
            if not tables.PATIENT_ID.fullmatch(patients[at]) and not found:
                text = (
                    f"{patients[at][:64]!r} is not a patient id" if patients[at] else "nothing says whose image it is"
                )
                found.append(f"{text}: neither the table's patient_id nor the header's")
            if at in ages.bad and "age" in columns:
                found.append(f"the age {columns['age'][at]!r} is not a whole number of years")
            sex = self._agreed("sex", at, header.sex, SEXES, found)
            view = self._agreed("view", at, header.view, VIEWS, found) or self._options.view
            labels = tuple(map(self._options.settle, FINDINGS, self._labels(at, found)))
            image_id = f"{uids[at]}.png"[:104]
            reading = Reading(kind="dicom")
            read.append((Row(line, image_id, patients[at], labels, ages.years[at], sex, view, file, reading), found))
        return read

    def _header(self, uid: str) -> Facts:
        """What the header says; nothing where no file can be used."""
        found = self._of_uid[uid][0][1] if self._of_uid.get(uid) else None
        return found if isinstance(found, Facts) else Facts(uid=uid, patient_id="", age="", sex="", view="")

    def _merged(self, name: str, of_headers: list[str]) -> list[str]:
        """The table's values, and where it has none the headers'."""
        own = self._table.columns.get(name, self._nothing)
        return [
            other if tables.missing(text.strip()) else text.strip() for text, other in zip(own, of_headers, strict=True)
        ]

    def _file(self, uid: str, found: list[str]) -> Path:
        files = self._of_uid.get(uid, [])
        if not files:
            found.append(f"the image is missing: no file that can be read has the SOP Instance UID {uid[:64]!r}")
            return Path()
        file, header = files[0]
        if len(files) > 1:
            names = " and ".join(file.relative_to(self._folder).as_posix() for file, _ in files[:2])
            found.append(f"{len(files)} files have this SOP Instance UID: {names}")
        elif isinstance(header, Refused):
            found.append(f"{file.relative_to(self._folder).as_posix()}: {header.what}")
        return file

    def _agreed(self, name: str, at: int, of_header: str, known: tuple[str, ...], found: list[str]) -> str:
        text = self._table.columns.get(name, self._nothing)[at].strip()
        if tables.missing(text):
            return of_header
        if text not in known:
            found.append(f"the {name} {text[:32]!r} is not one of {', '.join(known)}")
        elif of_header and of_header != text:
            found.append(f"the table says that the {name} is {text}, and the header {of_header}")
        return text

    def _labels(self, at: int, found: list[str]) -> tuple[int | None, ...]:
        columns = self._table.columns
        if not self._labelled:
            try:
                return parse_labels(columns[LABELS][at])
            except UnknownLabelError as error:
                found.append(str(error))
                return (None,) * len(FINDINGS)
        values: dict[str, int | None] = {}
        for name in self._labelled:
            text = columns[name][at].strip()
            values[name] = None if tables.missing(text) else _VALUES.get(text)
            if values[name] is None and not tables.missing(text):
                found.append(f"{name} is {text[:32]!r}, which is not 1, 0, -1 or empty")
        return tuple(values.get(name) for name in FINDINGS)
