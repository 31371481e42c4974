"""What a served model answered, as its callers or the server kept it, and what became known of its pictures since.

A receipt holds digests, and no score. So the answers of `POST /predict` are what a monitor reads: the probabilities,
each with its receipt, whose digest of the answer says that the probabilities are those that were given.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cxr_ops.data import receipts, tables
from cxr_ops.data.checking import isolate
from cxr_ops.errors import DataError, StorageError, as_record, from_record
from cxr_ops.labels import FINDINGS, SEXES, UNCERTAIN

SHA256: Final = "sha256"
LABELLED: Final = "labelled"
_KINDS: Final = (".json", ".jsonl")
_KEEP: Final = "keep what POST /predict answers, or name a file: cxr-ops serve MODEL --answers FILE"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One answer.

    Attributes:
        image: SHA-256 of the picture's bytes.
        at: when, in UTC.
        model: digest of the package that answered.
        scores: (14,) probabilities, NaN where the model was not trained on the finding.
        receipt: its digest of the answer.
    """

    image: str
    at: datetime
    model: str
    scores: npt.NDArray[np.float64]
    receipt: str


def append(path: Path, given: Sequence[Mapping[str, Any]]) -> None:
    """Add answers at the end of a file, a line each; the file is made with mode 0600.

    Raises:
        OSError: it cannot be written.
    """
    lines = "".join(json.dumps(one, sort_keys=True, separators=(",", ":")) + "\n" for one in given).encode()
    with receipts.opened(path) as file:
        _, whole = receipts.last_line(file)
        receipts.write(file, lines if whole else b"\n" + lines)


def read(folder: Path) -> list[Answer]:
    """Read all answers in a folder or file, in the order of time; one that was kept twice counts once.

    Args:
        folder: of `*.json` and `*.jsonl`, or one such file. Each holds what `POST /predict` answered, whole or a
            prediction a line.

    Raises:
        StorageError: it cannot be read.
        DataError: there are none, one is damaged or was altered, or only receipts are there.
    """
    try:
        if folder.is_dir():
            paths = sorted(path for path in folder.rglob("*") if path.suffix in _KINDS and path.is_file())
        else:
            paths = [folder] if folder.exists() else []
        found = {(one.image, one.at, one.receipt): one for path in paths for one in _in_file(path)}
    except OSError as error:
        raise StorageError(f"the answers cannot be read: {error.strerror}", where=folder) from error
    if not found:
        raise DataError("there are no answers of a served model", where=folder, fix=_KEEP)
    return sorted(found.values(), key=lambda one: (one.at, one.image))


def _in_file(path: Path) -> Iterator[Answer]:
    data = path.read_bytes()
    lines = data.split(b"\n")
    try:
        whole = [(None, json.loads(data))] if path.suffix == ".json" else None
    except (ValueError, RecursionError):
        whole = None  # some write a line an answer and call it .json
    for number, one in whole or _parsed(path, lines):
        where = path if number is None else f"{path}, line {number}"
        for prediction in one if isinstance(one, list) else [one]:
            inner = prediction.get("predictions") if isinstance(prediction, dict) else None
            for each in inner if isinstance(inner, list) else [prediction]:
                yield _answer(each, where)


def _parsed(path: Path, lines: Sequence[bytes]) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # without an end: a crash cut it off, and no answer was given
                return
            raise DataError(
                "this is no answer: it is not JSON", where=f"{path}, line {number}", fix="take the line out"
            ) from error


def _answer(one: Any, where: object) -> Answer:
    if isinstance(one, dict) and "answer" in one and "probabilities" not in one:
        raise DataError("this is a receipt without its answer: it holds digests and no score", where=where, fix=_KEEP)
    try:
        said, receipt = one["probabilities"], one["receipt"]
        unknown = sorted(set(said) - set(FINDINGS))
        numbers = {name: None if value is None else float(value) for name, value in said.items()}
        at = datetime.fromisoformat(receipt["at"])
        image, model, digest = (str(receipt[name]) for name in ("input", "model", "answer"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            "this is no answer of POST /predict: it lacks probabilities or a receipt that can be read", where=where
        ) from error
    if unknown or any(value is not None and not 0 <= value <= 1 for value in numbers.values()):
        what = f"{unknown[0]!r} is no finding" if unknown else "a probability lies outside 0 to 1"
        raise DataError(f"the answer is damaged: {what}", where=where, fix="take it from its source again")
    if receipts.digest_of(numbers) != digest:
        raise DataError(
            "the probabilities are not those of their receipt: one of the two was altered",
            where=where,
            fix="take the answer from its source again, or leave it out",
        )
    scores = np.array([math.nan if (value := numbers.get(name)) is None else value for name in FINDINGS])
    stamp = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    return Answer(image=image, at=stamp, model=model, scores=scores, receipt=digest)


# --------------------------------------------------------------------------------------------------- what is known


@dataclass(frozen=True, kw_only=True)
class Known:
    """What a table says of pictures, by their SHA-256.

    Attributes:
        patient: the patient's id, where the table has one.
        truth: (14,) 1, 0 or NaN.
        labelled: when the label came, in UTC; None where the table does not say.
        inputs: `view` (1 PA, 0 AP), `sex` (1 female, 0 male) and `age` in years; missing ones are left out.
    """

    patient: str | None
    truth: npt.NDArray[np.float64]
    labelled: datetime | None
    inputs: Mapping[str, float]


def read_known(path: Path, digests: Mapping[str, str]) -> dict[str, Known]:
    """Read a table of labels, patients and attributes, one row a picture.

    Args:
        path: a CSV file with `sha256` or `image_id`, and of `patient_id`, `labelled`, `view`, `sex`, `age` and the
            findings (1, 0, or empty) those that are known.
        digests: SHA-256 of each picture by the name of its file, for `image_id`.

    Raises:
        DataError: no such table, a field is none of these, or a picture stands in it twice.
    """
    table = tables.read(path).whole()
    if SHA256 not in table.columns and tables.IMAGE not in table.columns:
        raise DataError(
            f"no column says which picture a row is about: {SHA256!r}, or {tables.IMAGE!r} beside --images",
            where=f"{path}, line 1",
        )
    patients = tables.read_patients(table.columns[tables.PATIENT])[0] if tables.PATIENT in table.columns else None
    ages = tables.read_ages(table.columns["age"]).years if "age" in table.columns else None
    found: dict[str, Known] = {}
    for row in range(len(table)):
        fields = {name: texts[row].strip() for name, texts in table.columns.items()}
        image = _image(table, row, fields, digests)
        if image in found:
            raise DataError("the picture stands in the table twice", where=table.at(row), fix="keep one row")
        inputs = _coded(fields) | ({"age": float(age)} if ages is not None and (age := ages[row]) is not None else {})
        found[image] = Known(
            patient=None if patients is None or tables.missing(patients[row]) else patients[row],
            truth=np.array([_label(table, row, name, fields.get(name, "")) for name in FINDINGS]),
            labelled=_when(table, row, fields.get(LABELLED, "")),
            inputs=inputs,
        )
    return found


def _image(table: tables.Table, row: int, fields: Mapping[str, str], digests: Mapping[str, str]) -> str:
    if fields.get(SHA256):
        return fields[SHA256].lower()
    name = fields.get(tables.IMAGE, "")
    if name not in digests:
        raise DataError(
            f"no picture is called {name!r}",
            where=table.at(row),
            fix=f"name the folder that holds it: --images FOLDER; or give its {SHA256}",
        )
    return digests[name]


def _label(table: tables.Table, row: int, name: str, text: str) -> float:
    try:
        value = table.number(text)
    except ValueError:
        value = 2.0
    if math.isnan(value) or value == UNCERTAIN:
        return math.nan
    if value not in (0.0, 1.0):
        raise DataError(
            f"{name!r} is {text!r}, not 1, 0, -1 (uncertain) or empty (not known)",
            where=table.at(row),
            fix=f"write 1 where {name} is there and 0 where it is not",
        )
    return value


def _when(table: tables.Table, row: int, text: str) -> datetime | None:
    if tables.missing(text):
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise DataError(
            f"{LABELLED!r} is {text!r}, no date", where=table.at(row), fix="write it like 2026-03-01"
        ) from error
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)


def _coded(fields: Mapping[str, str]) -> dict[str, float]:
    found = {}
    view, sex = fields.get("view", "").upper(), fields.get("sex", "").upper()[:1]
    if view in ("PA", "AP"):
        found["view"] = float(view == "PA")
    if sex in SEXES:
        found["sex"] = float(sex == "F")
    return found


def coded(column: str, values: Sequence[Any]) -> npt.NDArray[np.float64]:
    """A column of the manifest as the numbers that are watched; NaN where one is missing.

    >>> coded("view", ["PA", "AP", ""]).tolist(), coded("age", [50, None]).tolist()
    ([1.0, 0.0, nan], [50.0, nan])
    """
    if column == "age":
        return np.array([math.nan if value is None or value != value else float(value) for value in values])
    return np.array([_coded({column: str(value)}).get(column, math.nan) for value in values])


# ------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The pictures of a folder.

    Attributes:
        digests: SHA-256 by the name of the file.
        grey: SHA-256 -> (mean, standard deviation) of its grey, from 0 to 255, of those that were asked for.
    """

    digests: Mapping[str, str]
    grey: Mapping[str, tuple[float, float]]


def read_pictures(folder: Path, wanted: frozenset[str]) -> Pictures:
    """Read the pictures of a folder, and the grey of those that are wanted.

    Raises:
        StorageError: the folder or a file cannot be read.
        DataError: a picture that was answered is damaged now.
    """
    if not folder.is_dir():
        raise StorageError("there is no such folder", where=folder, fix="name the folder with the pictures: --images")
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    try:
        by_path = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    except OSError as error:
        raise StorageError(f"a picture cannot be read: {error.strerror}", where=error.filename) from error
    asked = [path for path in paths if by_path[path] in wanted]
    grey = {}
    for path, found in zip(asked, isolate.each(_grey, asked), strict=True):
        if isinstance(found, isolate.DiedError):
            raise DataError("the process that decoded the picture died: it is damaged, or hostile", where=path)
        if isinstance(found, dict):
            raise from_record(found)
        grey[by_path[path]] = found
    return Pictures(digests={path.name: digest for path, digest in by_path.items()}, grey=grey)


def _grey(path: Path) -> tuple[float, float] | dict[str, Any]:
    from cxr_ops.data.checking.pictures import decode_any

    try:
        pixels = decode_any(path.read_bytes())
    except DataError as error:
        return as_record(DataError(error.what, where=path, fix=error.fix))
    return float(pixels.mean()), float(pixels.std())
