"""Pictures that are there twice, in a batch or in the data set, by file or by pixels; and patients who contradict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from cxr_ops.data import manifest
from cxr_ops.data.checking.decode import Inspected
from cxr_ops.data.sources.source import Row


def within(rows: Sequence[Row], inspected: Mapping[str, Inspected]) -> Iterator[tuple[Row, str]]:
    """Rows of one batch that show a picture again, each with the reason.

    The first of them stays if all give one patient the same findings; else which of them is right cannot be told.

    Args:
        rows: whose pictures decode.
        inspected: what decoding said of each image.
    """
    groups: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        groups[inspected[row.image_id].pixels_sha256].append(row)
    for group in groups.values():
        agree = len({(row.patient_id, row.labels) for row in group}) == 1
        for row in group[1:] if agree else group if len(group) > 1 else ():
            twin = next(other for other in group if other is not row)
            same_file = inspected[row.image_id].sha256 == inspected[twin.image_id].sha256
            what = "the same file as" if same_file else "the same pixels, in another encoding, as"
            why = "" if agree else ", and the rows contradict each other"
            yield row, f"{what} {twin.image_id}{_at(twin)}{why}"


def _at(row: Row) -> str:
    return f" on line {row.line}" if row.line else ""


def across(
    rows: Sequence[Row], inspected: Mapping[str, Inspected], held: Mapping[str, Path]
) -> Iterator[tuple[Row, str]]:
    """Rows that the data set holds already, or that contradict it, each with the reason.

    Args:
        rows: whose pictures decode.
        inspected: what decoding said of each image.
        held: for each other batch of the data set, a folder with its `manifest.csv` and `pixels.csv`.

    Raises:
        DataError: a batch of the data set cannot be read.
    """
    names: dict[str, str] = {}
    pictures: dict[str, str] = {}
    sexes: dict[str, str] = {}
    for batch, folder in held.items():
        frame = manifest.read_manifest(folder / "manifest.csv")
        pixels = manifest.read_table(folder / "pixels.csv", manifest.PIXEL_COLUMNS)
        names |= {image_id.lower(): batch for image_id in frame["image_id"]}
        pictures |= {
            digest: f"{image_id} of the batch {batch!r}" for image_id, digest in pixels.itertuples(index=False)
        }
        sexes |= {patient: sex for patient, sex in zip(frame["patient_id"], frame["sex"], strict=True) if sex}
    for row in rows:
        picture = inspected[row.image_id]
        if row.image_id.lower() in names:
            yield row, f"the data set holds an image of this name, in the batch {names[row.image_id.lower()]!r}"
        elif picture.pixels_sha256 in pictures:
            yield row, f"the data set holds this picture as {pictures[picture.pixels_sha256]}"
        if row.sex and sexes.get(row.patient_id, row.sex) != row.sex:
            yield row, f"the patient is {sexes[row.patient_id]} in the data set and {row.sex} here"
