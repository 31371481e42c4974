"""Pictures that are there twice, in a batch or in the data set, by file or by pixels; and patients who contradict."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from cxr_ops.data.checking.decode import Inspected
from cxr_ops.data.index import Index
from cxr_ops.data.sources.source import Row


def within(
    rows: Sequence[Row], inspected: Mapping[str, Inspected], files: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[Row, str]]:
    """Rows of one batch that show a picture again, each with the reason.

    The first of them stays if all give one patient the same findings; else which of them is right cannot be told.

    Args:
        rows: whose pictures decode.
        inspected: what decoding said of each image.
        files: of images that were converted, such as from DICOM, the digest of the source's own file.
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
            if same_file and files.get(row.image_id) != files.get(twin.image_id):
                what = "the same picture, in another file, as"
            why = "" if agree else ", and the rows contradict each other"
            yield row, f"{what} {twin.image_id}{_at(twin)}{why}"


def _at(row: Row) -> str:
    return f" on line {row.line}" if row.line else ""


class Picture(NamedTuple):
    """An image of the data set: its id, its patient, and the batch that holds it."""

    image_id: str
    patient_id: str
    batch: str


class Known(NamedTuple):
    """What a data set holds, or as much of it as may concern some rows.

    Attributes:
        names: image id in small letters -> the batch that holds it.
        pictures: digest of the pixels -> the image.
        sexes: patient id -> the patient's sex, where it is known.
        withdrawn: image id in small letters -> the event that took it out. What it names is in no version from then on.
    """

    names: Mapping[str, str] = MappingProxyType({})
    pictures: Mapping[str, Picture] = MappingProxyType({})
    sexes: Mapping[str, str] = MappingProxyType({})
    withdrawn: Mapping[str, str] = MappingProxyType({})


# Gives what may concern some rows, whose pictures decode, and what decoding said of each image.
Asked = Callable[[Sequence[Row], Mapping[str, Inspected]], Known]


def look_up(
    rows: Sequence[Row],
    inspected: Mapping[str, Inspected],
    index: Index,
    held: Collection[str],
    withdrawn: Mapping[str, str] = MappingProxyType({}),
) -> Known:
    """What a data set holds of the names, pictures and patients of some rows; the rest of it is not looked at.

    Args:
        rows: whose pictures decode.
        inspected: what decoding said of each image.
        index: with the rows of every batch of the data set.
        held: the digests of those batches.
        withdrawn: id of each withdrawn image -> the event that took it out.

    Raises:
        StorageError: the index cannot be read.
    """
    named = index.find("folded", (row.image_id.lower() for row in rows), held)
    shown = index.find("pixels_sha256", (inspected[row.image_id].pixels_sha256 for row in rows), held)
    people = index.find("patient_id", {row.patient_id for row in rows}, held)
    return Known(
        names={one.image_id.lower(): one.batch for one in named},
        pictures={one.pixels_sha256: Picture(one.image_id, one.patient_id, one.batch) for one in shown},
        sexes={one.patient_id: one.sex for one in people if one.sex},
        withdrawn={image_id.lower(): event for image_id, event in withdrawn.items()},
    )


def across(rows: Sequence[Row], inspected: Mapping[str, Inspected], known: Known) -> Iterator[tuple[Row, str]]:
    """Rows that the data set holds already, or that contradict it, each with the reason.

    Args:
        rows: whose pictures decode.
        inspected: what decoding said of each image.
        known: what the other batches of the data set hold.
    """
    for row in rows:
        name, twin = row.image_id.lower(), known.pictures.get(inspected[row.image_id].pixels_sha256)
        if twin and (name not in known.names or twin.patient_id != row.patient_id):
            yield row, _shown_again(row, twin, known.withdrawn)
        elif name in known.names:
            batch, event = known.names[name], known.withdrawn.get(name)
            if event:
                yield row, f"an image of this name was withdrawn from the data set ({event}), of the batch {batch!r}"
            else:
                yield row, f"the data set holds an image of this name, in the batch {batch!r}"
        if row.sex and known.sexes.get(row.patient_id, row.sex) != row.sex:
            yield row, f"the patient is {known.sexes[row.patient_id]} in the data set and {row.sex} here"


def _shown_again(row: Row, twin: Picture, withdrawn: Mapping[str, str]) -> str:
    event = withdrawn.get(twin.image_id.lower())
    held = (
        f"this picture was withdrawn from the data set ({event}), where it stood"
        if event
        else "the data set holds this picture"
    )
    if twin.patient_id == row.patient_id:
        return f"{held} as {twin.image_id} of the batch {twin.batch!r}"
    return (
        f"under the patient {row.patient_id}, and {held} as {twin.image_id} under the patient {twin.patient_id}, "
        f"in the batch {twin.batch!r}"
    )
