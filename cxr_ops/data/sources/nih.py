"""Folders in the layout of the NIH's ChestX-ray14 release, as the NIH, Kaggle and others hand it on.

    PATH/
      images/00000001_000.png ...     or the release's own images_001/images/ ... images_012/images/, Kaggle's
                                      images-224/images-224/, or the pictures beside the tables
      Data_Entry_2017.csv             or Data_Entry_2017_v2020.csv, the release's corrected labels, or Kaggle's
                                      sample_labels.csv
      BBox_List_2017.csv              optional
      train_val_list.txt, test_list.txt   optional: the release's own split, which is kept where that is asked for

112,120 frontal radiographs of 30,805 patients, 1992 to 2015; all 14 findings, each 1 or 0, mined from reports. Resized
copies may be PNG or JPEG; the table's names may still end in .png then.

All that is wrong with a folder's tables and names is found in one reading, with the line it stands on. The pictures
themselves are opened elsewhere: nothing here reads their bytes. How the tables differ from one edition to the next is
the business of `cxr_ops.data.tables`.

Source: Wang et al., "ChestX-ray8", CVPR 2017, and the release's README.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.data import tables
from cxr_ops.data.manifest import IMAGE_ID
from cxr_ops.data.sources.source import (
    Box,
    Listing,
    Options,
    Problem,
    Row,
    Source,
    first_line,
    keep_split,
    of_row,
    one_each,
    sex_problems,
)
from cxr_ops.data.tables import FOLLOW_UP, IMAGE, LABELS, PATIENT
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import BOX_NAMES, DEVELOPMENT, FINDINGS, SEXES, VIEWS, UnknownLabelError, nearest, parse_labels
from cxr_ops.records.data import GENERATED, GENERATED_ID

ENTRIES: Final = ("Data_Entry_2017.csv", "Data_Entry_2017_v2020.csv", "sample_labels.csv")
BOXES: Final = "BBox_List_2017.csv"
LISTS: Final = {"train_val_list.txt": DEVELOPMENT, "test_list.txt": "test"}
BOXES_SIZE: Final = 1024  # pixels: the side of the release's pictures, which its boxes are given in

# What must be there, by the NIH's name. The other columns of the release are passed over.
COLUMNS: Final = {
    IMAGE: "Image Index",
    LABELS: LABELS,
    PATIENT: "Patient ID",
    "age": "Patient Age",
    "sex": "Patient Gender",
    "view": "View Position",
}
BOX_COLUMNS: Final = {IMAGE: "Image Index", "finding": "Finding Label", "x": "Bbox [x", "y": "y", "w": "w", "h": "h]"}
_BOX_ALIASES: Final = {name: ours for ours, name in BOX_COLUMNS.items()}

_NIH_NAME: Final = re.compile(rf"((?:{GENERATED_ID})?)([0-9]{{8}})_[0-9]{{3}}\.(?:png|jpe?g)")
_SHEET: Final = "synth.json"  # `cxr-ops data synth` leaves it
_WHOLE: Final = re.compile(r"[0-9]{1,6}")
_ENDINGS: Final = (".png", ".jpg", ".jpeg")
_NOT_IMAGES: Final = ("Thumbs.db", "desktop.ini")  # what file browsers leave behind, besides names with a leading dot


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """Read the tables of a folder in NIH layout and look for each image's file.

    Raises:
        DataError: the folder, its images or its entries are missing, a file is not CSV, a column is missing, or there
            are no rows; or the release's own split is asked for, and is missing or puts a patient on two sides. What
            concerns single rows and files is not raised but listed in `problems`.
        StorageError: a folder cannot be listed.
    """
    if not folder.is_dir():
        raise DataError(
            "there is no such folder",
            where=folder,
            fix="name a folder in NIH layout, or make one: cxr-ops data synth --out FOLDER",
        )
    path = _find_entries(folder)
    files, unusable = _find_images(folder)
    table = tables.read(path)
    _check_columns(table, COLUMNS)
    table, renamed = _by_file(table, files)
    result = Listing(
        source=_source(table, folder), table=path.name, total=len(table) + len(table.cut), notes=list(table.notes)
    )
    if not result.total:
        raise DataError(
            "the batch is empty: the table has a header and no rows",
            where=path,
            fix="take the table from its source again",
        )
    problems = [Problem(str(cut), path.name, cut.line, cut.first) for cut in table.cut]
    parsed: list[Row] = []
    owners: dict[int | None, str] = {}
    for row, found in _rows(table, files, {entry.image_id: entry for entry in unusable}, result.notes):
        problems += [of_row(what, path.name, row) for what in found]
        owners[row.line] = row.patient_id
        if not found:
            parsed.append(row)
    claimed = {*table.columns[IMAGE], *(cut.first for cut in table.cut)}
    problems += [replace(problem, patient_id=owners[problem.line]) for problem in _name_problems(table)]
    problems += [entry for entry in unusable if entry.image_id not in claimed]
    for name in sorted(files.keys() - claimed):
        what = "no row names this file: the table may have been cut"
        problems.append(Problem(what, files[name].relative_to(folder).as_posix(), None, name))
    problems += sex_problems(result, parsed)
    result.problems = one_each(problems)
    bad = {problem.line for problem in result.problems if problem.file == path.name}
    result.rows = [row for row in parsed if row.line not in bad]
    if renamed:
        told = voice.part(len(renamed), len(table), "image", "is a JPEG copy", "are JPEG copies")
        result.notes.append(f"{told} of what {path.name} calls PNG: the name of the file counts")
    if (folder / BOXES).exists():
        _read_boxes(folder / BOXES, {row.image_id: row for row in parsed}, claimed, result, renamed)
    _keep_lists(folder, result, renamed, options or Options())
    return result


def recognise(folder: Path) -> str | None:
    """Whether a folder holds one of the release's tables with its columns; see `Source.recognise`."""
    for name in ENTRIES:
        if (folder / name).is_file():
            first = first_line(folder / name)
            if "Image Index" in first and LABELS in first:
                return f"{name} is here, with the NIH's columns"
    return None


SOURCE: Final = Source(
    kind="nih",
    read=read_folder,
    looks_for=f"{' or '.join(ENTRIES)} beside images/",
    recognise=recognise,
    takes=("own_split",),
)


def _by_file(table: tables.Table, files: Mapping[str, Path]) -> tuple[tables.Table, dict[str, str]]:
    """The table with the names that the files have where they are JPEG copies of PNGs, and those names by the PNG's."""
    renamed: dict[str, str] = {}
    for name in table.columns[IMAGE]:
        if name not in files and name.endswith(".png"):
            stem = name.removesuffix(".png")
            copies = [copy for copy in (f"{stem}.jpg", f"{stem}.jpeg") if copy in files]
            if len(copies) == 1:
                renamed[name] = copies[0]
    if not renamed:
        return table, renamed
    names = tuple(renamed.get(name, name) for name in table.columns[IMAGE])
    return replace(table, columns={**table.columns, IMAGE: names}), renamed


def _keep_lists(folder: Path, result: Listing, renamed: Mapping[str, str], options: Options) -> None:
    """The release's own split, where its lists are here."""
    here = [name for name in LISTS if (folder / name).is_file()]
    if len(here) < len(LISTS):
        if options.own_split:
            missing = next(name for name in LISTS if name not in here)
            raise DataError(f"the release's own split is not here: {missing} is missing", where=folder / missing)
        return
    side_of: dict[str, str] = {}
    for name, side in LISTS.items():
        for image in tables.read_text(folder / name).split():
            image_id = renamed.get(image, image)
            if side_of.setdefault(image_id, side) != side:
                raise DataError(f"{image} is in both lists", where=folder / name, fix="take the lists away")
    keep_split(result, side_of, options, where=folder / "test_list.txt")


def _find_entries(folder: Path) -> Path:
    found = [folder / name for name in ENTRIES if (folder / name).is_file()]
    if len(found) > 1:
        raise DataError(
            f"{' and '.join(path.name for path in found)} are here, and one table says what the images show",
            where=folder,
            fix="keep the one whose labels you want",
        )
    if not found:
        raise DataError(
            f"{ENTRIES[0]} is missing, and so are {' and '.join(ENTRIES[1:])}",
            where=folder,
            fix=f"put {ENTRIES[0]} beside images/",
        )
    return found[0]


def _find_images(folder: Path) -> tuple[dict[str, Path], list[Problem]]:
    """Every file in the image folders by name, and what cannot be used. Links cannot: they may lead out."""
    places = [_pictures_in(path) for path in sorted(folder.glob("images*")) if path.is_dir()]
    flat = not places
    if flat and not any(path.suffix.lower() in _ENDINGS for path in folder.iterdir()):
        raise DataError("there is no folder of images", where=folder, fix="put the pictures into images/")
    places = places or [folder]
    files: dict[str, Path] = {}
    problems: list[Problem] = []
    for place in places:
        for part in (place, place.parent):
            if part != folder and part.is_relative_to(folder) and part.is_symlink():
                raise DataError(
                    "the folder is a link, which may lead anywhere", where=part, fix="put the folder itself here"
                )
        try:
            listed = sorted(os.scandir(place), key=lambda entry: entry.name)
        except OSError as error:
            raise StorageError(f"the folder cannot be listed: {error.strerror}", where=place) from error
        for entry in listed:
            where = Path(entry.path).relative_to(folder).as_posix()
            if entry.name.startswith(".") or entry.name in _NOT_IMAGES:
                continue
            if flat and Path(entry.name).suffix.lower() not in _ENDINGS:
                continue  # tables, lists and what else stands beside pictures
            if not entry.is_file(follow_symlinks=False):
                link = "a link, which may lead anywhere: put the file itself there (cp -L follows links)"
                problems.append(Problem(link if entry.is_symlink() else "not a file", where, None, entry.name))
            elif entry.name in files:
                problems.append(Problem("the second of two files of this name", where, None, entry.name))
            else:
                files[entry.name] = Path(entry.path)
    for problem in problems:
        files.pop(problem.image_id, None)
    return files, problems


def _pictures_in(folder: Path) -> Path:
    """Archives unpack as images_001/images/, and Kaggle's resized copies as images-224/images-224/."""
    inner = (folder / "images", folder / folder.name)
    return next((path for path in inner if path.is_dir()), folder)


def _check_columns(table: tables.Table, columns: Mapping[str, str]) -> None:
    """See that a table has all columns, which are given by our name with the NIH's."""
    absent = [name for ours, name in columns.items() if ours not in table.columns]
    if not absent:
        return
    unknown = [written for ours, written in table.written.items() if ours not in columns]
    guess = nearest(absent[0], unknown)
    raise DataError(
        f"the header is not the NIH's: there is no column {' nor '.join(repr(name) for name in absent)}",
        where=f"{table.path}, line 1",
        fix=f"call the column {absent[0]!r} so, if {guess!r} is it" if guess else f"add the column {absent[0]!r}",
    )


def _source(table: tables.Table, folder: Path) -> str:
    """Where the images come from: `cxr-ops data synth` writes this layout too, under ids of its own.

    Raises:
        DataError: generated and real patients are in one table, or generated ones have ids that real ones have.
    """
    generated = [
        GENERATED_ID in (image_id.lower()[: len(GENERATED_ID)], patient.lower()[: len(GENERATED_ID)])
        for image_id, patient in zip(table.columns[IMAGE], table.columns[PATIENT], strict=True)
    ]
    if all(generated) and generated:
        return GENERATED
    if any(generated):
        told = voice.part(sum(generated), len(generated), "row", "is", "are")
        raise DataError(
            f"{told} of generated patients, who never mix with real ones",
            where=table.at(generated.index(True)),
            fix=f"take the rows and pictures out whose ids begin with {GENERATED_ID!r}",
        )
    if (folder / _SHEET).is_file():
        raise DataError(
            "the pictures are generated, and an earlier version gave them ids that real patients have",
            where=folder / _SHEET,
            fix="draw them again: cxr-ops data synth --out NEW_FOLDER",
        )
    return SOURCE.kind


def _rows(
    table: tables.Table, files: Mapping[str, Path], unusable: Mapping[str, Problem], notes: list[str]
) -> Iterator[tuple[Row, list[str]]]:
    """Each row, and all that is wrong with it; a row with a fault holds what could be read."""
    ages = tables.read_ages(table.columns["age"])
    patients, told = tables.read_patients(table.columns[PATIENT])
    notes += [*told, *ages.notes]
    bad_ages = set(ages.bad)
    follow_ups = table.columns.get(FOLLOW_UP, ("0",) * len(table))
    for at, line in enumerate(table.lines):
        image_id, patient = table.columns[IMAGE][at], patients[at]
        found: list[str] = []
        labels: tuple[int, ...] = ()
        try:
            labels = parse_labels(table.columns[LABELS][at])
        except UnknownLabelError as error:
            found.append(str(error))
        if why := tables.no_patient(table.columns[PATIENT][at]):
            found.append(why)
        if not IMAGE_ID.fullmatch(image_id):
            found.append(f"{image_id[:120]!r} is not the name of a PNG or JPEG file in the image folder")
        elif image_id in unusable:
            found.append(f"{unusable[image_id].file} is {unusable[image_id].what}")
        elif image_id not in files:
            found.append("the image is missing: no image folder holds a file of this name")
        named = _NIH_NAME.fullmatch(image_id)
        spoken = named and f"{named[1]}{int(named[2])}"
        if spoken and spoken != patient and patient.removeprefix(GENERATED_ID).isdecimal():
            found.append(f"the name speaks of patient {spoken}, the row of patient {patient}")
        if not _WHOLE.fullmatch(follow_ups[at]):
            found.append(f"the follow-up {follow_ups[at]!r} is not a whole number")
        if at in bad_ages:
            found.append(f"the age {table.columns['age'][at]!r} is not a whole number of years")
        sex, view = table.columns["sex"][at], table.columns["view"][at]
        for value, known, what in ((sex, SEXES, "sex"), (view, VIEWS, "view position")):
            if value not in known:
                found.append(f"the {what} {value!r} is not one of {', '.join(known)}")
        path = files.get(image_id, Path())
        yield Row(line, image_id, patient, labels, ages.years[at], sex, view, path), found


def _name_problems(table: tables.Table) -> Iterator[Problem]:
    """Images that are named twice, or by names that some disks cannot tell apart."""
    claimed: dict[str, int] = {}
    folded: dict[str, str] = {}
    for line, image_id in zip(table.lines, table.columns[IMAGE], strict=True):
        other = folded.setdefault(image_id.lower(), image_id)
        if image_id in claimed:
            what = f"the image is named twice, first on line {claimed[image_id]}"
            yield Problem(what, table.path.name, line, image_id)
            again = f"the image is named again on line {line}"
            yield Problem(again, table.path.name, claimed[image_id], image_id)
        elif other != image_id:
            yield Problem(f"the name differs from {other!r} only in case", table.path.name, line, image_id)
        claimed.setdefault(image_id, line)


def _read_boxes(
    path: Path, rows: Mapping[str, Row], claimed: set[str], result: Listing, renamed: Mapping[str, str]
) -> None:
    """Read the boxes. One whose image was refused is left out without a word; one of an absent image is counted."""
    table = tables.read(path, _BOX_ALIASES)
    _check_columns(table, BOX_COLUMNS)
    result.boxes_from, result.boxes_size = path.name, 0 if result.source == GENERATED else BOXES_SIZE
    problems = [Problem(str(cut), path.name, cut.line, cut.first) for cut in table.cut]
    columns = (table.columns[name] for name in BOX_COLUMNS)
    unlabelled = absent = 0
    for line, named, written, *places in zip(table.lines, *columns, strict=True):
        image_id = renamed.get(named, named)
        if image_id not in claimed:
            absent += 1
            continue
        finding = BOX_NAMES.get(written, written)
        sides = [table.place(text) for text in places]
        found: list[str] = []
        if finding not in FINDINGS:
            guess = nearest(finding, (*FINDINGS, *BOX_NAMES))
            hint = f"; the nearest is {guess!r}" if guess else ""
            found.append(f"{finding!r} is not one of the 14 NIH findings{hint}")
        if min(sides[:2]) < 0 or min(sides[2:]) <= 0:
            found.append(f"the box {','.join(places)} is not left, top, width and height in pixels")
        owner = rows[image_id].patient_id if image_id in rows else ""
        problems += [Problem(what, path.name, line, image_id, patient_id=owner) for what in found]
        if not found and image_id in rows:
            result.boxes.append(Box(line, image_id, finding, *sides))
            unlabelled += rows[image_id].labels[FINDINGS.index(finding)] != 1
    result.problems += one_each(problems)
    if absent:
        told = voice.part(absent, len(table), "box", "is", "are", "boxes")
        result.notes.append(f"{path.name}: {told} of images that {result.table} does not name, and left out")
    if unlabelled:
        told = voice.count(unlabelled, "box is", "boxes are")
        result.notes.append(f"{told} around a finding that {result.table} does not give to the image")
