"""The RSNA pneumonia challenge of 2018: DICOM with boxes around opacities, and three classes.

    PATH/
      stage_2_train_images/<id>.dcm ...
      stage_2_train_labels.csv                       a row a box, or one without: patientId,x,y,width,height,Target
      stage_2_detailed_class_info.csv                optional: Normal, Lung Opacity, No Lung Opacity / Not Normal
      pneumonia-challenge-dataset-mappings_2018.json optional: which picture of the NIH's release each one is

Target 1 says that a radiologist saw an opacity that may be pneumonia. That is not the finding: whether it counts as
Pneumonia is for you to declare, `--uncertain Pneumonia=ones` (it does), `=zeros` or `=ignore` (it is uncertain).
Without Target, a picture has no pneumonia; `Normal` has none of the 14 findings; of the others nothing more is known.

`patientId` names a picture. **The pictures are the NIH's**: with the mapping file, which the makers published, patients
get the NIH's own numbers, so that nobody stands on two sides of a split of both. Without it each picture counts as a
patient of its own, and the batch does not enter a data set with pictures of the NIH's. Ages above 120 years are none.

Headers were de-identified by the makers: the name and id of a patient are the picture's id, and dates are dummies. What
else names a patient is looked for.

Source: Shih et al., "Augmenting the NIH Chest Radiograph Dataset with Expert Annotations of Possible Pneumonia",
Radiology: Artificial Intelligence 1(1), 2019.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from cxr_ops import voice
from cxr_ops.data import tables
from cxr_ops.data.checking.dicom import Facts
from cxr_ops.data.checking.headers import find_files, read_published
from cxr_ops.data.sources.source import Box, Listing, Options, Problem, Reading, Row, Source, one_each
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS, UNCERTAIN

TABLE: Final = "stage_2_train_labels.csv"
CLASSES: Final = "stage_2_detailed_class_info.csv"
MAPPINGS: Final = "pneumonia-challenge-dataset-mappings_2018.json"
SAME_PEOPLE: Final = {"rsna": "nih"}  # a source, and the one whose patients its pictures show
PICTURES: Final = "stage_2_train_images"
FINDING: Final = "Pneumonia"
NORMAL: Final = "Normal"
_KINDS: Final = {NORMAL: 0, "No Lung Opacity / Not Normal": 0, "Lung Opacity": 1}  # with their Target
_PLACES: Final = ("x", "y", "width", "height")
_NIH_NAME: Final = re.compile(r"([0-9]{8})_[0-9]{3}\.png")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass
class _Image:
    """What the tables say of a picture: the line that names it first, its target, its class and its boxes.

    One that is not sound has a problem of its own, and does not enter.
    """

    line: int
    target: int
    kind: str = ""
    boxes: list[Box] = field(default_factory=list)
    sound: bool = True


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """Read the tables and the headers.

    Raises:
        DataError: the folder or its table is missing, a file is not CSV or JSON, a column is missing, or there are no
            rows. What concerns single rows and files is not raised but listed in `problems`.
        SettingsError: nobody declared whether an opacity counts as pneumonia.
        StorageError: a folder cannot be listed.
    """
    options = options or Options()
    path = folder / TABLE
    table = tables.read(path)
    _check_columns(table, ("patientId", *_PLACES, "Target"))
    result = Listing(source=SOURCE.kind, table=TABLE, boxes_from=TABLE, notes=list(table.notes), findings=(FINDING,))
    problems = [Problem(str(cut), TABLE, cut.line, cut.first) for cut in table.cut]
    images = _read_boxes(table, problems)
    if not images:
        raise DataError("the batch is empty: the table has a header and no rows", where=path)
    if any(image.target for image in images.values()) and not {FINDING, ""} & set(options.uncertain):
        raise SettingsError(
            "nobody said whether an opacity (Target 1) counts as pneumonia",
            where="ingest rsna",
            fix=f"--uncertain {FINDING}=ones takes it as pneumonia, --uncertain {FINDING}=ignore as uncertain",
        )
    if (folder / CLASSES).is_file():
        _read_classes(folder / CLASSES, images, problems)
        result.findings = FINDINGS
    patients = _read_mappings(folder / MAPPINGS, images, result)
    result.total = len(images)
    _read_pictures(folder, images, patients, result, problems, options)
    result.problems = one_each(problems, {f"{key}.png": patients.get(key, key) for key in images})
    return result


def recognise(folder: Path) -> str | None:
    """Whether its table is here; see `Source.recognise`."""
    return f"{TABLE} is here" if (folder / TABLE).is_file() else None


SOURCE: Final = Source(
    kind="rsna",
    read=read_folder,
    takes=("deidentified", "uncertain", "view"),
    looks_for=f"{TABLE} beside {PICTURES}/",
    recognise=recognise,
)


def _check_columns(table: tables.Table, names: tuple[str, ...]) -> None:
    absent = [name for name in names if name not in table.columns]
    if absent:
        raise DataError(
            f"the header is not the challenge's: there is no column {' nor '.join(map(repr, absent))}",
            where=f"{table.path}, line 1",
            fix="take the table from its source again",
        )


def _read_boxes(table: tables.Table, problems: list[Problem]) -> dict[str, _Image]:
    images: dict[str, _Image] = {}
    columns = (table.columns[name] for name in ("patientId", "Target", *_PLACES))
    for line, key, target, *places in zip(table.lines, *columns, strict=True):
        image_id = f"{key}.png"
        if target not in ("0", "1") or not _ID.fullmatch(key):
            what = (
                f"Target is {target[:16]!r}, not 1 or 0"
                if _ID.fullmatch(key)
                else f"{key[:64]!r} is no id of a picture"
            )
            problems.append(Problem(what, TABLE, line, image_id))
            images.setdefault(key, _Image(line, 0)).sound = False
            continue
        image = images.setdefault(key, _Image(line, int(target)))
        if image.target != int(target):
            image.sound = False
            problems.append(Problem(f"line {image.line} says the other Target", TABLE, line, image_id))
        sides = [table.place(text) for text in places]
        if all(tables.missing(text) for text in places) and target == "0":
            continue
        if target == "0" or min(sides[:2]) < 0 or min(sides[2:]) <= 0:
            image.sound = False
            what = f"the box {','.join(places)} with Target {target} is not left, top, width and height of an opacity"
            problems.append(Problem(what, TABLE, line, image_id))
        else:
            image.boxes.append(Box(line, image_id, FINDING, *sides))
    return images


def _read_classes(path: Path, images: Mapping[str, _Image], problems: list[Problem]) -> None:
    table = tables.read(path).whole()
    _check_columns(table, ("patientId", "class"))
    for line, key, kind in zip(table.lines, table.columns["patientId"], table.columns["class"], strict=True):
        image = images.get(key)
        if image is None:
            continue
        image.kind = kind
        if _KINDS.get(kind) != image.target:
            image.sound = False
            what = f"the class {kind[:48]!r} is beside Target {image.target} of {TABLE}, line {image.line}"
            problems.append(Problem(what, path.name, line, f"{key}.png"))


def _read_mappings(path: Path, images: Mapping[str, _Image], result: Listing) -> dict[str, str]:
    """The NIH's number of each picture's patient; none without the file.

    Raises:
        DataError: the file is not the makers', or lacks a picture of the table.
    """
    if not path.is_file():
        result.notes.append(
            f"{MAPPINGS} is not here: each picture counts as a patient of its own, and these are pictures of the NIH's"
        )
        return {}
    try:
        entries: list[dict[str, Any]] = json.loads(path.read_bytes())
        named = {str(entry["subset_img_id"]): _NIH_NAME.fullmatch(str(entry["img_id"])) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            "the file is not the makers': a list of pictures with subset_img_id and img_id", where=path
        ) from error
    absent = [key for key in images if not named.get(key)]
    if absent:
        raise DataError(
            f"{voice.count(len(absent), 'picture')} of {TABLE} without a picture of the NIH's, first {absent[0]}",
            where=path,
            fix="take the file from its source again, or take it away: then each picture is a patient of its own",
        )
    return {key: str(int(match[1])) for key, match in named.items() if match}


def _read_pictures(
    folder: Path,
    images: Mapping[str, _Image],
    patients: Mapping[str, str],
    result: Listing,
    problems: list[Problem],
    options: Options,
) -> None:
    files, odd = find_files(folder / PICTURES, below=folder)
    problems += odd
    of_id: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() == ".dcm" and file.stem in images and file.stem not in of_id:
            of_id[file.stem] = file
        else:
            what = "no row names this file: the table may have been cut"
            problems.append(Problem(what, file.relative_to(folder).as_posix(), None, file.stem))
    headers = read_published(of_id, deidentified=options.deidentified)
    ages = tables.read_ages([one.age if isinstance(one := headers.get(key), Facts) else "" for key in images])
    for at, (key, image) in enumerate(images.items()):
        header, image_id = headers.get(key), f"{key}.png"
        if not isinstance(header, Facts):
            what = f"the image is missing: {PICTURES}/ holds no file {key}.dcm"
            what = what if header is None else f"{of_id[key].relative_to(folder).as_posix()}: {header.what}"
            problems.append(Problem(what, TABLE, image.line, image_id))
            continue
        if not image.sound:
            continue
        pneumonia = options.settle(FINDING, UNCERTAIN if image.target else 0)
        others = 0 if image.kind == NORMAL else None
        result.rows.append(
            Row(
                line=image.line,
                image_id=image_id,
                patient_id=patients.get(key, key),
                labels=tuple(pneumonia if finding == FINDING else others for finding in FINDINGS),
                age=ages.years[at],
                sex=header.sex,
                view=header.view or options.view,
                path=of_id[key],
                reading=Reading(kind="dicom"),
            )
        )
        if pneumonia == 1:
            result.boxes += image.boxes
