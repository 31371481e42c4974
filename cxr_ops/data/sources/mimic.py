"""MIMIC-CXR-JPG (Johnson et al., 2019), as PhysioNet hands it on.

    PATH/
      mimic-cxr-2.0.0-chexpert.csv    or -negbio.csv: labels by subject_id and study_id; any may end in .csv.gz
      mimic-cxr-2.0.0-metadata.csv    dicom_id, subject_id, study_id, ViewPosition, ...
      mimic-cxr-2.0.0-split.csv       optional: the release's own split by dicom_id
      patients.csv                    optional, of MIMIC-IV: subject_id, gender, anchor_age
      files/p10/p10000032/s50414267/<dicom_id>.jpg ...

377,110 radiographs of 65,379 patients. A label is that of a study, so every image of the study has it, laterals too:
they are kept and not trained on. What labels mean, what has no counterpart and what becomes of uncertain ones is as in
`chexpert`. Version numbers in the names may be others. Images that the metadata name and the folder does not hold are
counted and left out, since few people have all 570 GB. Age is `anchor_age`, that of another year than the image's by a
few years; without patients.csv, age and sex are missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.data import tables
from cxr_ops.data.sources.chexpert import COUNTERPARTS, LABELLED, WITHOUT, Labeller, check_columns
from cxr_ops.data.sources.source import Listing, Options, Problem, Row, Source, keep_split, one_each
from cxr_ops.errors import DataError
from cxr_ops.labels import NO_FINDING

_VIEWS: Final = {"PA": "PA", "AP": "AP", "LL": "LL", "RL": "RL", "LATERAL": "LATERAL"}
_SIDES: Final = {"train": "train", "validate": "validation", "test": "test"}
_LABELS: Final = ("chexpert", "negbio")


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """Join labels, metadata and files.

    Raises:
        DataError: the folder or a table is missing, a file is not CSV, a column is missing, or no image is here; or the
            release's own split is asked for, and is missing or puts a patient on two sides.
    """
    options = options or Options()
    if not folder.is_dir():
        raise DataError("there is no such folder", where=folder, fix="name the folder that holds files/")
    metadata = tables.read(_table(folder, "metadata", required=True) or folder)
    check_columns(metadata, ("dicom_id", "subject_id", "study_id", "ViewPosition"))
    labels_path = next((path for kind in _LABELS if (path := _table(folder, kind)) is not None), None)
    if labels_path is None:
        raise DataError(
            "mimic-cxr-...-chexpert.csv is missing, and so is -negbio.csv",
            where=folder,
            fix="put one of them beside files/",
        )
    labels = _labels(tables.read(labels_path).whole())
    result = Listing(source="mimic", table=metadata.path.name, findings=LABELLED, notes=list(metadata.notes))
    labeller = Labeller(options)
    people = _people(folder)
    problems = [Problem(str(cut), result.table, cut.line, cut.first) for cut in metadata.cut]
    rows: list[Row] = []
    here = unlabelled = 0
    for at, line in enumerate(metadata.lines):
        dicom_id, subject, study, view = (
            metadata.columns[name][at].strip() for name in ("dicom_id", "subject_id", "study_id", "ViewPosition")
        )
        path = _file(folder, subject, study, dicom_id)
        if path is None:
            continue
        here += 1
        found: list[str] = []
        if (said := labels.get((subject, study))) is None:
            unlabelled += 1
            continue
        values = labeller.read(said, found)
        if values is None:
            continue
        if path.is_symlink():
            found.append("the image is a link, which may lead anywhere")
        age, sex = people.get(subject, (None, ""))
        known = _VIEWS.get(view, "OTHER" if view else "")
        row = Row(line, path.name, f"p{subject}", values, age, sex, known, path)
        problems += [result.problem(row, what) for what in found]
        if not found:
            rows.append(row)
    if not here:
        raise DataError("the folder holds none of the images that the metadata name", where=folder / "files")
    result.total = here - labeller.empty - unlabelled + len(metadata.cut)
    if absent := len(metadata) - here:
        result.notes.append(
            f"{result.table}: {voice.part(absent, len(metadata), 'image', 'is', 'are')} not here, and left out"
        )
    if unlabelled:
        told = voice.count(unlabelled, "image was", "images were")
        result.notes.append(f"{told} left out: {labels_path.name} does not name the study")
    result.notes += labeller.notes(here)
    result.problems = one_each(problems)
    bad = {problem.line for problem in result.problems}
    result.rows = [row for row in rows if row.line not in bad]
    _keep_split(folder, result, options)
    return result


def recognise(folder: Path) -> str | None:
    """Whether a folder holds MIMIC-CXR's metadata; see `Source.recognise`."""
    path = _table(folder, "metadata") if folder.is_dir() else None
    return f"{path.name} is here" if path else None


SOURCE: Final = Source(
    kind="mimic",
    read=read_folder,
    looks_for="mimic-cxr-...-metadata.csv beside files/",
    recognise=recognise,
    takes=("own_split", "uncertain"),
)


def _table(folder: Path, kind: str, *, required: bool = False) -> Path | None:
    """The release's table of a kind, packed or not.

    Raises:
        DataError: there are several, or there is none and one is required.
    """
    found = sorted([*folder.glob(f"mimic-cxr-*-{kind}.csv"), *folder.glob(f"mimic-cxr-*-{kind}.csv.gz")])
    if len(found) > 1:
        raise DataError(f"{found[0].name} and {found[1].name} are here", where=folder, fix="keep one of them")
    if not found and required:
        raise DataError(f"mimic-cxr-...-{kind}.csv is missing", where=folder, fix="put it beside files/")
    return found[0] if found else None


def _labels(table: tables.Table) -> dict[tuple[str, str], Mapping[str, str]]:
    check_columns(table, ("subject_id", "study_id", *COUNTERPARTS))
    names = [name for name in (NO_FINDING, *COUNTERPARTS, *WITHOUT) if name in table.columns]
    found: dict[tuple[str, str], Mapping[str, str]] = {}
    for at in range(len(table)):
        study = table.columns["subject_id"][at].strip(), table.columns["study_id"][at].strip()
        said = {name: table.columns[name][at].strip() for name in names}
        if found.setdefault(study, said) != said:
            raise DataError(
                f"the study {study[1]} of {study[0]} stands here twice, with other labels",
                where=table.at(at),
                fix="take the table from its source again",
            )
    return found


def _people(folder: Path) -> dict[str, tuple[int | None, str]]:
    """Age and sex of each patient, where MIMIC-IV's table is here."""
    path = next((folder / name for name in ("patients.csv", "patients.csv.gz") if (folder / name).is_file()), None)
    if path is None:
        return {}
    table = tables.read(path).whole()
    check_columns(table, ("subject_id", "gender", "anchor_age"))
    ages = tables.read_ages(table.columns["anchor_age"])
    sexes = [sex if sex in ("F", "M") else "" for sex in table.columns["gender"]]
    return dict(zip(table.columns["subject_id"], zip(ages.years, sexes, strict=True), strict=True))


def _file(folder: Path, subject: str, study: str, dicom_id: str) -> Path | None:
    """The image's file: in the release's folders, or all of them in files/."""
    if not (subject.isalnum() and study.isalnum() and dicom_id.replace("-", "").isalnum()):
        return None
    places = (f"files/p{subject[:2]}/p{subject}/s{study}/{dicom_id}.jpg", f"files/{dicom_id}.jpg")
    return next((folder / place for place in places if (folder / place).is_file()), None)


def _keep_split(folder: Path, result: Listing, options: Options) -> None:
    path = _table(folder, "split", required=options.own_split)
    if path is None:
        return
    table = tables.read(path).whole()
    check_columns(table, ("dicom_id", "split"))
    side_of = {
        f"{image}.jpg": _SIDES[side]
        for image, side in zip(table.columns["dicom_id"], table.columns["split"], strict=True)
        if side in _SIDES
    }
    keep_split(result, side_of, options, where=path)
