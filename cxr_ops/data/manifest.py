"""The manifest: one row an image, one order of columns, one way of writing it.

A table is read as text and each value is converted on purpose: a value that is not what its column holds is an error
with its line, never a NaN or a number that somebody guessed. A finding is 1, 0, -1 (uncertain) or missing (empty).
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ops import contract
from cxr_ops.data import events
from cxr_ops.data.events import Applied
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.records.base import sha256_file
from cxr_ops.records.data import EVENT, Batch, Event

IDENTITY: Final = ("image_id", "patient_id", "sha256", "source", "batch", "view", "age", "sex", "width", "height")
COLUMNS: Final = (*IDENTITY, *FINDINGS)
BOX_COLUMNS: Final = ("image_id", "finding", "x", "y", "w", "h")
PIXELS: Final = "pixels.csv"
PIXEL_COLUMNS: Final = ("image_id", "pixels_sha256")
ORIGINS: Final = "origins.csv"  # of a batch with pictures that were converted
ORIGIN_COLUMNS: Final = ("image_id", "origin_sha256", "coding")
SIDES: Final = "sides.csv"  # of a batch whose source's own split is kept, or with accepted near copies
COPIES: Final = "copies.csv"  # of a batch with near copies; see `cxr_ops.data.checking.copies`
COPY_COLUMNS: Final = (
    "image_id",
    "patient_id",
    "other_id",
    "other_patient",
    "other_batch",
    "similarity",
    "how",
    "reason",
)
ATTRIBUTES: Final = "attributes.csv"  # of a batch with a side table; see `cxr_ops.data.side_table`
SIDE_COLUMNS: Final = ("patient_id", "side")
_CHECKED: Final = frozenset({SIDES, ATTRIBUTES, PIXELS, COPIES})  # of a data set's batches, where they are there
# A name that is safe as a file, a member of a tar and a word in a message.
IMAGE_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}\.(?:png|jpe?g)")

_WHOLE: Final = re.compile(r"-?[0-9]{1,9}")


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError(f"{path.name} is missing", where=path) from error
    nul = data.find(b"\0")
    if nul >= 0:
        raise DataError("the file holds a NUL byte: it is damaged", where=f"{path}, line {_line_at(data, nul)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError("the file is not UTF-8", where=f"{path}, line {_line_at(data, error.start)}") from error


def _plain_lines(text: str) -> list[str] | None:
    """The lines of a CSV in which nothing is quoted, so that a line is a row; None of another one.

    A row is then split four times as fast as by `csv`.
    """
    if '"' in text or "\r" in text:
        return None
    lines = text.split("\n")
    return lines if max(map(len, lines)) < csv.field_size_limit() else None


def read_rows(path: Path) -> list[tuple[int, list[str]]]:
    """Read a CSV file without interpreting it.

    Returns:
        (line on which the row ends, fields), the header among them; blank lines are left out.

    Raises:
        DataError: the file is missing, a folder, not UTF-8, holds a NUL, or has an open quote.
    """
    text = _text(path)
    lines = _plain_lines(text)
    if lines is not None:
        return [(number, line.split(",")) for number, line in enumerate(lines, start=1) if line]
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        rows.extend((reader.line_num, fields) for fields in reader if fields)
    except csv.Error as error:
        raise DataError(f"the file is not CSV: {error}", where=f"{path}, line {reader.line_num}") from error
    return rows


def read_manifest(path: Path) -> pd.DataFrame:
    """Read a manifest.

    Returns:
        A frame with `COLUMNS` and `line` (of the file; the header is line 1). Text columns hold str; `age` and the
        findings are Int64 with missing values; `width` and `height` int64.

    Raises:
        DataError: the file is missing or damaged, has other columns, or a value is not what its column holds.
    """
    lines, table = _read_table(path, COLUMNS)
    columns: dict[str, Any] = {name: table[name] for name in ("image_id", "patient_id", "sha256", "source", "batch")}
    columns |= {"view": table["view"], "age": _numbers(path, lines, table, "age", missing=True), "sex": table["sex"]}
    for name in ("width", "height"):
        columns[name] = _numbers(path, lines, table, name, missing=False).astype("int64")
    for name in FINDINGS:
        columns[name] = _numbers(path, lines, table, name, missing=True, allowed=("1", "0", str(UNCERTAIN)))
    return pd.DataFrame({**columns, "line": lines})


def read_boxes(path: Path) -> pd.DataFrame:
    """Read a table of boxes.

    Returns:
        A frame with `BOX_COLUMNS`: `x`, `y` (left, top), `w`, `h` in source pixels, float64.

    Raises:
        DataError: the file is missing or damaged, has other columns, or a place is not a finite number.
    """
    lines, table = _read_table(path, BOX_COLUMNS)
    places = {
        name: pd.Series(
            [
                _convert(float, value, f"{path}, line {line}", name)
                for line, value in zip(lines, table[name], strict=True)
            ],
            dtype="float64",
        )
        for name in ("x", "y", "w", "h")
    }
    for name, values in places.items():
        if not np.isfinite(values.to_numpy()).all():
            raise DataError(f"{name!r} holds a value that is not a finite number", where=path)
    return pd.DataFrame({"image_id": table["image_id"], "finding": table["finding"], **places})


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Read a table of text with exactly these columns.

    Raises:
        DataError: the file is missing or damaged, or has other columns.
    """
    return pd.DataFrame(_read_table(path, columns)[1], dtype=str)


def to_csv(frame: pd.DataFrame, columns: Sequence[str]) -> bytes:
    """Write columns of a frame in the one way that digests rely on: UTF-8, a header, newlines, missing values empty."""
    return frame[list(columns)].to_csv(index=False, lineterminator="\n").encode()


def label_array(frame: pd.DataFrame) -> npt.NDArray[np.float32]:
    """The findings of a frame as float32, rows x 14 in the order of `FINDINGS`: 1, 0, or NaN (missing or uncertain)."""
    labels = frame[list(FINDINGS)].to_numpy(dtype=np.float32, na_value=np.nan)
    return np.where(labels == UNCERTAIN, np.float32(np.nan), labels)


def uncertain_array(frame: pd.DataFrame) -> npt.NDArray[np.bool_]:
    """Whether each finding of a frame is uncertain, rows x 14 in the order of `FINDINGS`."""
    uncertain: npt.NDArray[np.bool_] = frame[list(FINDINGS)].to_numpy(np.float32, na_value=np.nan) == UNCERTAIN
    return uncertain


def concatenate(frames: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Join manifests in the canonical order: by batch, then by image id."""
    return pd.concat(list(frames)).sort_values(["batch", "image_id"], kind="stable").reset_index(drop=True)


def read_records(dataset: Path) -> list[Batch]:
    """The records of a data set's batches, by name.

    Raises:
        DataError: one is no record of a batch.
    """
    return [Batch.read(folder / "batch.json") for folder in batch_folders(dataset)]


def batch_folders(dataset: Path) -> list[Path]:
    """The folders of a data set's batches, by name."""
    return sorted(path.parent for path in dataset.glob("*/batch.json"))


def read_digests(dataset: Path) -> dict[str, str]:
    """SHA-256 of the record of every batch and event of a data set, by name; see `records.data.DataRevision`."""
    records = [folder / "batch.json" for folder in batch_folders(dataset)]
    records += [folder / EVENT for folder in events.event_folders(dataset)]
    return {path.parent.name: sha256_file(path) for path in records}


def read_dataset(dataset: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest and the boxes of a data set; see `read_version`."""
    frame, boxes, _ = read_version(dataset)
    return frame, boxes


def read_version(dataset: Path) -> Applied:
    """Read all batches of a data set, check each against its `batch.json`, and change them by the data set's events.

    Args:
        dataset: the folder `dataset`, with a folder a batch and a folder an event.

    Returns:
        The manifest (see `read_manifest`) and the boxes, in the canonical order, and which images are withdrawn.

    Raises:
        DataError: there is no batch, or one is not what its `batch.json` says; an event is missing or none.
    """
    folders = batch_folders(dataset)
    if not folders:
        raise DataError(
            "there is no data set",
            where=dataset,
            fix="bring it here: cxr-ops open; if none was ingested yet: cxr-ops ingest nih FOLDER --batch NAME",
        )
    for folder in folders:
        record = Batch.read(folder / "batch.json")
        named = {"manifest.csv", "boxes.csv", *(record.files.keys() & _CHECKED)}
        for name in sorted(named | {name for name in _CHECKED if (folder / name).exists()}):
            if not (folder / name).is_file() or sha256_file(folder / name) != record.files.get(name):
                raise DataError(
                    f"{name} is not the file that batch.json names: it is missing, cut or altered",
                    where=folder / name,
                    fix="bring it here again: cxr-ops open",
                )
        frame = read_manifest(folder / "manifest.csv")
        if record.name != folder.name or len(frame) != record.images or set(frame["batch"]) != {record.name}:
            raise DataError(
                f"batch.json speaks of {record.images} images of the batch {record.name!r}; the manifest does not",
                where=folder,
            )
    return joined(folders, events.read_events(events.event_folders(dataset)))


def joined(folders: Iterable[Path], happened: Sequence[Event]) -> Applied:
    """Read the batches in these folders, unchecked, and change them by events; see `read_version`."""
    manifests, boxes = [], []
    for folder in folders:
        manifests.append(frame := read_manifest(folder / "manifest.csv"))
        boxes.append(read_boxes(folder / "boxes.csv").assign(batch=frame["batch"].iloc[0]))
    order = ["batch", "image_id", "finding", "x", "y", "w", "h"]
    of_all = pd.concat(boxes).sort_values(order, kind="stable").reset_index(drop=True)
    return events.apply(concatenate(manifests), of_all, happened)


def no_boxes() -> pd.DataFrame:
    """A table of boxes without any."""
    return pd.DataFrame(columns=[*BOX_COLUMNS])


def read_sides(folders: Iterable[Path]) -> dict[str, str]:
    """The sides that sources' own splits and accepted near copies give to patients, of the batches in these folders.

    Returns:
        For a patient train, validation, test or development (training or validation), or `with:` and another patient,
        see `splits.leader`; most patients have none.

    Raises:
        DataError: a file is damaged, or two batches give a patient two sides.
    """
    sides: dict[str, str] = {}
    for path in sorted(folder / SIDES for folder in folders):
        if not path.is_file():
            continue
        for patient, side in read_table(path, SIDE_COLUMNS).itertuples(index=False):
            if sides.setdefault(patient, side) != side:
                raise DataError(f"two batches give the patient {patient} two sides", where=path)
    return sides


def all_sides(folders: Iterable[Path]) -> dict[str, set[str]]:
    """Every side that the sources' own splits give a patient, of the batches in these folders; one, if all is well.

    Raises:
        DataError: a file is damaged.
    """
    sides: dict[str, set[str]] = {}
    for path in sorted(folder / SIDES for folder in folders):
        if path.is_file():
            for patient, side in read_table(path, SIDE_COLUMNS).itertuples(index=False):
                sides.setdefault(patient, set()).add(side)
    return sides


def read_pixels(folders: Iterable[Path], image_ids: Sequence[str]) -> pd.Series[str]:
    """The digests of images' pixels, of the batches in these folders.

    Returns:
        In the order of `image_ids`; "" of an image that has none.

    Raises:
        DataError: a file is damaged.
    """
    known: dict[str, str] = {}
    for path in sorted(folder / PIXELS for folder in folders):
        if path.is_file():
            _, table = _read_table(path, PIXEL_COLUMNS)
            known.update(zip(*(table[name] for name in PIXEL_COLUMNS), strict=True))
    return pd.Series([known.get(image_id, "") for image_id in image_ids], dtype=str)


def read_stated(folders: Iterable[Path]) -> pd.DataFrame:
    """What each batch's `batch.json` states of its manifest, beside what is there.

    Returns:
        `name`, `images`, `images_stated`, `manifest_sha256` and `manifest_sha256_stated`, a row a batch. `images` are
        the rows below the header, as a reader of CSV counts them.

    Raises:
        DataError: a file is missing or damaged.
    """
    rows = []
    for folder in folders:
        record, path = Batch.read(folder / "batch.json"), folder / "manifest.csv"
        found, digest = _count_rows(path) - 1, sha256_file(path)
        rows.append((record.name, found, record.images, digest, record.files.get("manifest.csv", "")))
    return pd.DataFrame(rows, columns=["name", "images", "images_stated", "manifest_sha256", "manifest_sha256_stated"])


def read_attributes(folders: Iterable[Path], image_ids: Sequence[str]) -> pd.DataFrame:
    """What side tables say of images, of the batches in these folders: see `cxr_ops.data.side_table`.

    Returns:
        `image_id` and a column an attribute, as text, a row an image in the order given; "" where one is not known.

    Raises:
        DataError: a file is damaged.
    """
    paths = sorted(path for folder in folders if (path := folder / ATTRIBUTES).is_file())
    parts = [read_table(path, read_rows(path)[0][1]) for path in paths]
    joined = pd.concat([pd.DataFrame({"image_id": []}, dtype=str), *parts])
    names = sorted(set(joined.columns) - {"image_id"})
    return joined.set_index("image_id").reindex(list(image_ids))[names].fillna("").reset_index(names="image_id")


def join_withdrawn(*parts: pd.DataFrame) -> pd.DataFrame:
    """Join tables of withdrawn images (`events.Applied.withdrawn`)."""
    return pd.concat(parts).sort_values(["batch", "image_id"], kind="stable").reset_index(drop=True)


def read_withdrawn(root: Path) -> pd.DataFrame:
    """`patient_id` and `batch` of the withdrawn images of a validated workspace; none where no file says so.

    Raises:
        DataError: the file is damaged.
    """
    path = root / "validate" / events.WITHDRAWN
    return (
        read_table(path, events.WITHDRAWN_COLUMNS)
        if path.is_file()
        else pd.DataFrame(columns=[*events.WITHDRAWN_COLUMNS])
    )


def read_split(root: Path) -> pd.DataFrame:
    """The validated manifest of a workspace with the column `split`, in the canonical order.

    Raises:
        DataError: `validate` or `split` has not run, or they speak of different images.
    """
    frame = read_manifest(root / "validate" / "manifest.csv")
    split = read_table(root / "split" / "split.csv", ("image_id", "patient_id", "split"))
    if not (
        frame["image_id"].tolist() == split["image_id"].tolist()
        and frame["patient_id"].tolist() == split["patient_id"].tolist()
    ):
        raise DataError(
            "split.csv and the validated manifest speak of different images",
            where=root / "split" / "split.csv",
            fix=f"run the stage again: cxr-ops {contract.DETERMINISTIC[1]}",
        )
    return frame.assign(split=split["split"].to_numpy())


def _count_rows(path: Path) -> int:
    """Rows of a CSV, with its header."""
    lines = _plain_lines(_text(path))
    return len(read_rows(path)) if lines is None else sum(map(bool, lines))


def _read_table(path: Path, columns: Sequence[str]) -> tuple[list[int], dict[str, list[str]]]:
    lines = _plain_lines(_text(path))
    if lines is not None and len(lines) > 1 and not lines[-1]:
        rest = lines[1:-1]
        # Whole columns at once, where each line has its fields: a list a row keeps the garbage collector busy.
        if lines[0] == ",".join(columns) and all(line.count(",") == len(columns) - 1 for line in rest) and all(rest):
            fields = ",".join(rest).split(",") if rest else []
            return list(range(2, len(rest) + 2)), {
                name: fields[place :: len(columns)] for place, name in enumerate(columns)
            }
    rows = read_rows(path)
    if not rows or rows[0][1] != list(columns):
        raise DataError(
            f"the header is not the expected one: {','.join(columns)}", where=path, fix="bring the file here again"
        )
    for line, fields in rows[1:]:
        if len(fields) != len(columns):
            raise DataError(f"the row has {len(fields)} fields, not {len(columns)}", where=f"{path}, line {line}")
    values = [list(column) for column in zip(*(fields for _, fields in rows[1:]), strict=True)] or [[] for _ in columns]
    return [line for line, _ in rows[1:]], dict(zip(columns, values, strict=True))


def _numbers(
    path: Path,
    lines: list[int],
    table: dict[str, list[str]],
    name: str,
    *,
    missing: bool,
    allowed: tuple[str, ...] | None = None,
) -> pd.Series[Any]:
    # Each different text is converted once; they come in the order of their first rows, so the first bad row is told.
    places, texts = pd.factorize(np.asarray(table[name], dtype=object))
    values: list[Any] = []
    for place, text in enumerate(texts):
        good = text in allowed if allowed else _WHOLE.fullmatch(text)
        if good:
            values.append(int(text))
        elif missing and not text:
            values.append(pd.NA)
        else:
            what = f"one of {', '.join(allowed)}" if allowed else "a whole number"
            line = lines[int(np.argmax(places == place))]
            raise DataError(f"{name!r} is {text!r}, not {what}", where=f"{path}, line {line}")
    return pd.Series(pd.array(values, dtype="Int64").take(places))


def _convert(kind: Callable[[str], float], text: str, where: str, name: str) -> float:
    try:
        return kind(text)
    except ValueError as error:
        raise DataError(f"{name!r} is {text!r}, not a number", where=where) from error


def _line_at(data: bytes, position: int) -> int:
    return data.count(b"\n", 0, position) + 1
