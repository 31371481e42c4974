"""VinDr-CXR, as PhysioNet and Kaggle hand it on: DICOM, read by three radiologists each, with a box a finding.

    PATH/
      train/<image id>.dicom ...                    test/ of PhysioNet's
      train.csv                                     Kaggle's; 14 classes
      annotations/annotations_train.csv             PhysioNet's; 22 classes of boxes. annotations_test.csv likewise
      annotations/image_labels_train.csv            PhysioNet's, optional: Pneumonia stands there alone

A row is one box of one reader, or says that the reader found nothing. A finding that most readers of an image saw is 1,
one that fewer saw is uncertain (-1), one that nobody saw is 0: of the published pairs of image and finding, four in ten
have one vote of three. The test table is a consensus, and each of its rows a fact. Boxes of all readers are kept where
the finding is 1, and counted where it is uncertain.

| VinDr's class | here |
|---|---|
| Atelectasis, Cardiomegaly, Consolidation, Infiltration, Pneumothorax | the same |
| Pleural effusion, Pleural thickening, Pulmonary fibrosis | Effusion, Pleural_Thickening, Fibrosis |
| Edema, Emphysema (boxes), Pneumonia (image labels) | the same; PhysioNet's alone, else missing |
| Nodule/Mass | nothing: it does not say which |
| all others | nothing; counted |

Mass, Nodule and Hernia are missing on every image. The release names no patient: every picture counts as a patient of
its own, so two of one person may fall on two sides of the split. Sex and age come from the header where it has them (an
age of 0 is none: the release is of adults), and so does the view; without one it is PA, of which the release says it is
made. Its headers were de-identified by its makers; what names a patient is looked for all the same.

Source: Nguyen et al., "VinDr-CXR", Scientific Data 9:429, 2022.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cxr_ops import voice
from cxr_ops.data import tables
from cxr_ops.data.checking.dicom import Facts
from cxr_ops.data.checking.headers import find_files, read_published
from cxr_ops.data.sources.source import (
    Box,
    Listing,
    Options,
    Problem,
    Reading,
    Row,
    Source,
    first_line,
    one_each,
    slip,
)
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN

# Tables of boxes with the folder of their pictures, those of training first.
TABLES: Final[Mapping[str, str]] = {
    "train.csv": "train",
    "annotations/annotations_train.csv": "train",
    "annotations_train.csv": "train",
    "annotations/annotations_test.csv": "test",
    "annotations_test.csv": "test",
}
CLASSES: Final[Mapping[str, str]] = {
    **{name: name for name in ("Atelectasis", "Cardiomegaly", "Consolidation", "Infiltration", "Pneumothorax")},
    "Pleural effusion": "Effusion",
    "Pleural thickening": "Pleural_Thickening",
    "Pulmonary fibrosis": "Fibrosis",
}
PHYSIONET: Final[Mapping[str, str]] = {"Edema": "Edema", "Emphysema": "Emphysema"}
NOTHING: Final = "No finding"
_IMAGE_LABELS: Final = "Pneumonia"
_VIEW: Final = "PA"
_ENDINGS: Final = (".dicom", ".dcm")
_CORNERS: Final = ("x_min", "y_min", "x_max", "y_max")
_COLUMNS: Final = ("image_id", "class_name", *_CORNERS)


@dataclass
class _Image:
    """What the tables say of an image: the line that names it first, its readers, and who saw which finding.

    One that is not sound has a problem of its own, and does not enter.
    """

    line: int
    readers: set[str] = field(default_factory=set)
    votes: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    boxes: list[Box] = field(default_factory=list)
    nothing: set[str] = field(default_factory=set)
    sound: bool = True


def read_folder(folder: Path, options: Options | None = None) -> Listing:
    """Read the boxes, the votes and the headers.

    Raises:
        DataError: the folder or its table is missing, a file is not CSV, a column is missing, or there are no rows.
            What concerns single rows and files is not raised but listed in `problems`.
        StorageError: a folder cannot be listed.
    """
    options = options or Options()
    name, path = _find_table(folder)
    table = tables.read(path)
    absent = [column for column in _COLUMNS if column not in table.columns]
    if absent:
        raise DataError(
            f"the header is not VinDr's: there is no column {' nor '.join(map(repr, absent))}", where=f"{path}, line 1"
        )
    known = dict(CLASSES) if name == "train.csv" else {**CLASSES, **PHYSIONET}
    result = Listing(source=SOURCE.kind, table=path.name, boxes_from=path.name, notes=list(table.notes))
    problems = [Problem(str(cut), path.name, cut.line, cut.first) for cut in table.cut]
    images, dropped = _read_votes(table, known, problems)
    if not images:
        raise DataError("the batch is empty: the table has a header and no rows", where=path)
    findings = {*known.values(), *_read_image_labels(path, images)}
    result.total = len(images)
    result.findings = tuple(finding for finding in FINDINGS if finding in findings)
    _read_pictures(folder / TABLES[name], folder, images, result, problems, options)
    _note(result, images, dropped)
    for other in sorted(set(TABLES) - {name}):
        if (folder / other).is_file():
            result.notes.append(f"{other} is here too and was not read: one table makes one batch")
    result.problems = one_each(problems, {f"{key}.png": key for key in images})
    return result


def recognise(folder: Path) -> str | None:
    """Whether one of the tables is here, with VinDr's columns; see `Source.recognise`."""
    for name in TABLES:
        header = first_line(folder / name).split(",") if (folder / name).is_file() else []
        if {"class_name", "x_min"} <= set(header):
            return f"{name} is here, with the columns class_name and x_min"
    return None


SOURCE: Final = Source(
    kind="vindr",
    read=read_folder,
    takes=("deidentified", "uncertain", "view"),
    looks_for="train.csv or annotations/annotations_train.csv with the columns class_name and x_min",
    recognise=recognise,
)


def _find_table(folder: Path) -> tuple[str, Path]:
    for name in TABLES:
        if (folder / name).is_file():
            return name, folder / name
    raise DataError(
        f"none of VinDr's tables is here: {', '.join(TABLES)}", where=folder, fix="put train.csv beside train/"
    )


def _read_votes(
    table: tables.Table, known: Mapping[str, str], problems: list[Problem]
) -> tuple[dict[str, _Image], Counter[str]]:
    """Images by id, and how often each class that has no counterpart was seen."""
    nobody = ("consensus",) * len(table)  # of the test table, whose rows are agreed on
    readers = table.columns.get("rad_id", nobody)
    images: dict[str, _Image] = {}
    dropped: Counter[str] = Counter()
    rows = zip(table.lines, table.columns["image_id"], table.columns["class_name"], readers, strict=True)
    for at, (line, image_id, name, reader) in enumerate(rows):
        image = images.setdefault(image_id, _Image(line))
        image.readers.add(reader)
        if name == NOTHING:
            image.nothing.add(reader)
        elif name not in known and (meant := slip(name, (*known, NOTHING))):
            image.sound = False
            what = f"the class {name[:48]!r} is none of VinDr's: {meant!r} may be meant"
            problems.append(Problem(what, table.path.name, line, f"{image_id}.png"))
        elif name not in known:
            dropped[name] += 1
        else:
            image.votes[known[name]].add(reader)
            corners = [table.place(table.columns[column][at]) for column in _CORNERS]
            left, top, right, bottom = corners
            if not (left >= 0 and top >= 0 and right > left and bottom > top):
                image.sound = False
                what = (
                    f"the box {','.join(table.columns[column][at] for column in _CORNERS)} is not two corners in pixels"
                )
                problems.append(Problem(what, table.path.name, line, f"{image_id}.png"))
            else:
                image.boxes.append(Box(line, f"{image_id}.png", known[name], left, top, right - left, bottom - top))
    return images, dropped


def _read_image_labels(path: Path, images: Mapping[str, _Image]) -> tuple[str, ...]:
    """Votes on what has no box, of the table beside that of the boxes; which findings these are."""
    labels = path.with_name(path.name.replace("annotations_", "image_labels_"))
    if labels == path or not labels.is_file():
        return ()
    table = tables.read(labels).whole()
    if "image_id" not in table.columns or _IMAGE_LABELS not in table.columns:
        raise DataError(
            f"the header is not VinDr's: there is no column 'image_id' or {_IMAGE_LABELS!r}", where=f"{labels}, line 1"
        )
    readers = table.columns.get("rad_id", ("consensus",) * len(table))
    rows = zip(table.columns["image_id"], readers, table.columns[_IMAGE_LABELS], strict=True)
    for at, (image_id, reader, text) in enumerate(rows):
        if text.strip() not in ("0", "1", "0.0", "1.0"):
            raise DataError(f"{_IMAGE_LABELS} is {text!r}, not 1 or 0", where=table.at(at))
        if image_id in images:
            images[image_id].readers.add(reader)
            if float(text) == 1:
                images[image_id].votes[_IMAGE_LABELS].add(reader)
    return (_IMAGE_LABELS,)


def _read_pictures(
    place: Path,
    folder: Path,
    images: Mapping[str, _Image],
    result: Listing,
    problems: list[Problem],
    options: Options,
) -> None:
    """Rows and boxes of the images whose files can be used, with what their headers say."""
    files, odd = find_files(place, below=folder)
    problems += odd
    of_id: dict[str, Path] = {}
    for file in files:
        if file.suffix.lower() not in _ENDINGS or file.stem not in images or file.stem in of_id:
            twice = "the second of two files of this name" if file.stem in of_id else ""
            what = twice or "no row names this file: the table may have been cut"
            problems.append(Problem(what, file.relative_to(folder).as_posix(), None, file.stem))
        else:
            of_id[file.stem] = file
    headers = read_published(of_id, deidentified=options.deidentified)
    ages = tables.read_ages([one.age if isinstance(one := headers.get(key), Facts) else "" for key in images])
    for at, (key, image) in enumerate(images.items()):
        header, image_id = headers.get(key), f"{key}.png"
        if not isinstance(header, Facts):
            missing = f"the image is missing: {place.name}/ holds no file {key[:64]}.dicom"
            what = missing if header is None else f"{of_id[key].relative_to(folder).as_posix()}: {header.what}"
            problems.append(Problem(what, result.table, image.line, image_id))
            continue
        if not image.sound:
            continue
        labels = {finding: options.settle(finding, _vote(image, finding)) for finding in result.findings}
        row = Row(
            line=image.line,
            image_id=image_id,
            patient_id=key,
            labels=tuple(labels.get(finding) for finding in FINDINGS),
            age=ages.years[at] or None,
            sex=header.sex,
            view=header.view or options.view or _VIEW,
            path=of_id[key],
            reading=Reading(kind="dicom"),
        )
        result.rows.append(row)
        result.boxes += [box for box in image.boxes if labels[box.finding] == 1]


def _vote(image: _Image, finding: str) -> int:
    votes = len(image.votes[finding])
    return 1 if 2 * votes > len(image.readers) else UNCERTAIN if votes else 0


def _note(result: Listing, images: Mapping[str, _Image], dropped: Counter[str]) -> None:
    read = {row.image_id for row in result.rows}
    boxes = sum(len(image.boxes) for key, image in images.items() if f"{key}.png" in read)
    result.notes.append(
        "the release names no patients: each picture counts as a patient of its own, and two of one person may fall on "
        "two sides of the split"
    )
    if boxes > len(result.boxes):
        left = boxes - len(result.boxes)
        result.notes.append(
            f"{voice.count(left, 'box is', 'boxes are')} around findings that most readers did not see, and left out"
        )
    if dropped:
        most = ", ".join(f"{name} ({count:,})" for name, count in dropped.most_common(5))
        result.notes.append(
            f"{voice.count(dropped.total(), 'box is', 'boxes are')} of classes without a counterpart: {most}"
        )
    both = sum(
        bool(image.nothing) and any(image.nothing & seen for seen in image.votes.values()) for image in images.values()
    )
    if both:
        result.notes.append(
            f"of {voice.count(both, 'image')} a reader says {NOTHING!r} and draws a box: the box counts"
        )
