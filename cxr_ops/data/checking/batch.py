"""From what a source lists to a batch: its pictures decoded, duplicates found, its files written.

The same for every source. A picture is decoded in a process whose death is survivable; every row that cannot enter
gets one reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import Final

import pandas as pd

from cxr_ops import contract, voice
from cxr_ops.data import manifest, shards
from cxr_ops.data.checking import convert, decode, duplicates, fingerprints, isolate
from cxr_ops.data.checking.fingerprints import Table
from cxr_ops.data.sources.source import Box, Listing, Problem, Row, one_each
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.acceptance import ACCEPTANCE, Acceptance
from cxr_ops.records.base import sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.data import Batch

_GIVEN: Final = 1  # pixel by which a box may reach out of its picture: the release's boxes are rounded


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A listing whose pictures have been decoded.

    Attributes:
        source: where the images come from.
        table: the file of the rows.
        frame: manifest rows that are good, with `line` of the source's table, in the canonical order.
        boxes: boxes of those rows.
        pixels: `image_id` and the digest of the pixels.
        origins: `image_id`, SHA-256 of the source's own file and how that was coded, of pictures that were converted.
        paths: the file of each image, as it is stored.
        problems: everything that is wrong with the rest, one for each row or file.
        notes: what was read in another way than it stands.
        total: rows of the source's table.
        boxes_left_out: boxes that were refused, though their images may be good.
        findings: what the source labels.
        sides: where the source's own split is kept, `patient_id` and `side` of the patients that are good.
        attributes: where the batch has any, `image_id` and a column an attribute.
        copies: near copies that enter, `manifest.COPY_COLUMNS`; without any, None.
        fingerprints: of the pictures that are good, in the order of `frame`.
    """

    source: str
    table: str
    frame: pd.DataFrame
    boxes: pd.DataFrame
    pixels: pd.DataFrame
    origins: pd.DataFrame
    paths: dict[str, Path]
    problems: list[Problem]
    notes: tuple[str, ...]
    total: int
    boxes_left_out: int = 0
    findings: tuple[str, ...] = FINDINGS
    sides: pd.DataFrame | None = None
    attributes: pd.DataFrame | None = None
    copies: pd.DataFrame | None = None
    fingerprints: Table = field(default_factory=lambda: fingerprints.Spool().table([]))


def check(
    listing: Listing,
    batch: str,
    *,
    known: duplicates.Asked | None = None,
    aside: Path | None = None,
    barred: Mapping[str, str] | None = None,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Decode the pictures of a listing in other processes, and look for duplicates.

    Args:
        listing: what a source read.
        batch: the batch's name.
        known: gives what the other batches of the data set hold of some rows; without it, there are none.
        aside: a folder for pictures that are stored otherwise than they come, which `build` reads; it may be absent
            where the listing has none.
        barred: patients who may not enter, with the reason.
        processes: how many decode; by default one a processor.
        progress: called with the images decoded so far and their number.

    Raises:
        StorageError: `known` cannot say it.
    """
    inspected: dict[str, decode.Inspected] = {}
    origins: dict[str, convert.Origin] = {}
    stored: dict[str, Path] = {}
    prints = fingerprints.Spool()

    problems = list(listing.problems)
    jobs = [convert.job(row, aside) for row in listing.rows]
    outcomes = isolate.each(convert.inspect, jobs, processes=processes)
    for done, (row, outcome) in enumerate(zip(listing.rows, outcomes, strict=True), start=1):
        if isinstance(outcome, convert.Taken):
            inspected[row.image_id] = outcome.picture
            stored[row.image_id] = outcome.path
            prints.add(row.image_id, outcome.fingerprint)
            if outcome.origin:
                origins[row.image_id] = outcome.origin
        else:
            why = outcome if isinstance(outcome, str) else "decoding it ends the process that tries"
            problems.append(listing.problem(row, why))
        if progress:
            progress(done, len(listing.rows))
        if done % 100 == 0 or done == len(listing.rows):
            contract.report_progress("ingest", done, len(listing.rows), unit="images")
    rows = [row for row in listing.rows if row.image_id in inspected]
    files = {name: origin.sha256 for name, origin in origins.items()}
    problems += [listing.problem(row, what) for row, what in duplicates.within(rows, inspected, files)]
    held_already = known(rows, inspected) if known else duplicates.Known()
    problems += [listing.problem(row, what) for row, what in duplicates.across(rows, inspected, held_already)]
    problems += [listing.problem(row, barred[row.patient_id]) for row in rows if barred and row.patient_id in barred]
    bad = {(item.file, item.line, item.image_id) for item in problems}
    places = {row.image_id: listing.problem(row, "") for row in rows}
    at = {name: (place.file, place.line, place.image_id) for name, place in places.items()}
    good = sorted((row for row in rows if at[row.image_id] not in bad), key=lambda row: row.image_id)

    boxes, refused, notes = _check_boxes(listing, inspected)
    # One problem of the list is one of all its boxes; a box whose picture was refused is not counted again.
    left_out = len(listing.boxes) if any(item.line is None for item in refused) else len(refused)
    kept = {row.image_id for row in good}
    return Checked(
        source=listing.source,
        table=listing.table,
        frame=_frame(good, inspected, batch, listing.source),
        boxes=pd.DataFrame(
            sorted((b.image_id, b.finding, b.x, b.y, b.w, b.h) for b in boxes if b.image_id in kept),
            columns=list(manifest.BOX_COLUMNS),
        ),
        pixels=pd.DataFrame(
            [(row.image_id, inspected[row.image_id].pixels_sha256) for row in good],
            columns=list(manifest.PIXEL_COLUMNS),
        ),
        origins=pd.DataFrame(
            [(row.image_id, *astuple(origins[row.image_id])) for row in good if row.image_id in origins],
            columns=list(manifest.ORIGIN_COLUMNS),
        ),
        paths={row.image_id: stored[row.image_id] for row in good},
        problems=_in_order([*problems, *refused], listing.table),
        notes=(*listing.notes, *convert.notes(origins.values()), *notes),
        total=listing.total,
        boxes_left_out=_wrong_boxes(listing) + left_out,
        findings=listing.findings,
        sides=_sides(listing, {row.patient_id for row in good}),
        attributes=_attributes(listing, [row.image_id for row in good]),
        fingerprints=prints.table([row.image_id for row in good]),
    )


def without(checked: Checked, problems: Sequence[Problem]) -> Checked:
    """A checked listing without the images that further problems name, and with these problems.

    Args:
        checked: the listing.
        problems: each of an image of `checked`.
    """
    gone = {item.image_id for item in problems}

    def kept(frame: pd.DataFrame) -> pd.DataFrame:
        return frame[~frame["image_id"].isin(gone)].reset_index(drop=True)

    frame = kept(checked.frame)
    sides = checked.sides
    if sides is not None:
        sides = sides[sides["patient_id"].isin(frame["patient_id"])].reset_index(drop=True)
    return replace(
        checked,
        frame=frame,
        boxes=kept(checked.boxes),
        pixels=kept(checked.pixels),
        origins=kept(checked.origins),
        paths={image_id: path for image_id, path in checked.paths.items() if image_id not in gone},
        problems=_in_order([*checked.problems, *problems], checked.table),
        sides=sides if sides is not None and len(sides) else None,
        attributes=None if checked.attributes is None else kept(checked.attributes),
        fingerprints=checked.fingerprints[(~checked.frame["image_id"].isin(gone)).to_numpy()],
    )


def _in_order(problems: Sequence[Problem], table: str) -> list[Problem]:
    return sorted(one_each(problems), key=lambda item: (item.file != table, item.file, item.line or 0, item.what))


def _wrong_boxes(listing: Listing) -> int:
    """Boxes that were wrong themselves: problems of their list, where it is another file than the rows'."""
    own = listing.boxes_from != listing.table
    return sum(own and item.file == listing.boxes_from for item in listing.problems)


def _attributes(listing: Listing, image_ids: list[str]) -> pd.DataFrame | None:
    said = [listing.attributes.get(image_id, {}) for image_id in image_ids]
    names = sorted({name for one in said for name in one})
    columns = {name: [one.get(name, "") for one in said] for name in names}
    return pd.DataFrame({"image_id": image_ids, **columns}, dtype=str) if names else None


def _sides(listing: Listing, patients: set[str]) -> pd.DataFrame | None:
    kept = sorted((patient, side) for patient, side in listing.sides.items() if patient in patients)
    return pd.DataFrame(kept, columns=list(manifest.SIDE_COLUMNS)) if kept else None


def build(out: Path, checked: Checked, acceptance: Acceptance | None = None) -> Batch:
    """Write a batch's folder: shards, manifest, boxes, digests of pixels, fingerprints, and `batch.json` last.

    Args:
        out: the folder to make; its name is the batch's.
        checked: what goes in.
        acceptance: how the batch was taken; without it nothing says so.

    Raises:
        DataError: a picture has changed since it was checked.
        OSError: the folder exists or cannot be written.
    """
    out.mkdir(parents=True)
    digests = dict(zip(checked.frame["image_id"], checked.frame["sha256"], strict=True))
    shards.write_shards(
        out, ((image_id, _read_same(checked.paths[image_id], digests[image_id])) for image_id in digests)
    )
    for name, data in tables_of(checked).items():
        write_atomic(out / name, data)
    fingerprints.write(out / fingerprints.FILE, checked.fingerprints)
    if checked.copies is not None:
        write_atomic(out / manifest.COPIES, manifest.to_csv(checked.copies, manifest.COPY_COLUMNS))
    if acceptance is not None:
        acceptance.write(out / ACCEPTANCE)
    record = Batch(
        name=out.name,
        source=checked.source,
        images=len(checked.frame),
        patients=int(checked.frame["patient_id"].nunique()),
        findings=list(checked.findings),
        files={path.name: sha256_file(path) for path in sorted(out.iterdir())},
    )
    record.write(out / "batch.json")
    return record


def tables_of(checked: Checked) -> dict[str, bytes]:
    """The bytes of a batch's tables that follow from its source alone, by name; some only where they say something.

    Near copies are not among them: they follow from the other batches too.
    """
    more = {
        manifest.ORIGINS: (checked.origins if len(checked.origins) else None, manifest.ORIGIN_COLUMNS),
        manifest.SIDES: (checked.sides, manifest.SIDE_COLUMNS),
        manifest.ATTRIBUTES: (
            checked.attributes,
            () if checked.attributes is None else tuple(checked.attributes.columns),
        ),
    }
    return {
        "manifest.csv": manifest.to_csv(checked.frame, manifest.COLUMNS),
        "boxes.csv": manifest.to_csv(checked.boxes, manifest.BOX_COLUMNS),
        "pixels.csv": manifest.to_csv(checked.pixels, manifest.PIXEL_COLUMNS),
        **{name: manifest.to_csv(frame, columns) for name, (frame, columns) in more.items() if frame is not None},
    }


def _frame(rows: list[Row], inspected: dict[str, decode.Inspected], batch: str, source: str) -> pd.DataFrame:
    pictures = [inspected[row.image_id] for row in rows]
    columns = {
        "image_id": [row.image_id for row in rows],
        "patient_id": [row.patient_id for row in rows],
        "sha256": [picture.sha256 for picture in pictures],
        "source": [source] * len(rows),
        "batch": [batch] * len(rows),
        "view": [row.view for row in rows],
        "age": pd.array([row.age for row in rows], dtype="Int64"),
        "sex": [row.sex for row in rows],
        "width": [picture.width for picture in pictures],
        "height": [picture.height for picture in pictures],
        **{name: pd.array([row.labels[at] for row in rows], dtype="Int64") for at, name in enumerate(FINDINGS)},
        "line": [row.line for row in rows],
    }
    return pd.DataFrame(columns)


def _check_boxes(
    listing: Listing, inspected: dict[str, decode.Inspected]
) -> tuple[list[Box], list[Problem], tuple[str, ...]]:
    """The boxes that fit their pictures, what is wrong with the others, and what a person should know of the scale.

    The scale is a property of the list. Where a box reaches out of a picture that has another size than those for which
    the list is published, the list is in the pixels of those, and a box that happens to fit is as wrong as the one that
    does not.
    """
    published = listing.boxes_size
    good: list[Box] = []
    out: list[tuple[Box, decode.Inspected]] = []
    other: set[tuple[int, int]] = set()  # sizes of pictures with boxes, other than the published one
    for box in listing.boxes:
        picture = inspected.get(box.image_id)
        if picture is None:
            continue
        if published and (picture.width, picture.height) != (published, published):
            other.add((picture.width, picture.height))
        reaches = box.x + box.w > picture.width + _GIVEN or box.y + box.h > picture.height + _GIVEN
        if reaches:
            out.append((box, picture))
        else:
            good.append(box)
    owners = {row.image_id: row.patient_id for row in listing.rows}
    scaled = [(b, p) for b, p in out if published and (p.width, p.height) != (published, published)]
    if scaled:
        box, picture = scaled[0]
        told = voice.part(len(out), len(listing.boxes), "box", "reaches", "reach", "boxes")
        what = (
            f"{told} out of the picture, such as line {box.line} out of "
            f"{picture.width} x {picture.height} pixels: the list is not in the pictures' pixels (the release's is in "
            f"those of {published} x {published}), so none of its boxes is right. Scale all of them as the pictures "
            "were, or take the list away"
        )
        return [], [Problem(what, listing.boxes_from)], ()
    problems = [
        Problem(
            f"the box reaches out of the image, which is {picture.width} x {picture.height}",
            listing.boxes_from,
            box.line,
            box.image_id,
            patient_id=owners[box.image_id],
        )
        for box, picture in out
    ]
    return good, problems, _scale_note(listing, other)


def _scale_note(listing: Listing, other: set[tuple[int, int]]) -> tuple[str, ...]:
    if not other:
        return ()
    width, height = min(other)
    sizes = f"{width} x {height}" + (" and other sizes" if len(other) > 1 else "")
    note = f"the boxes of {listing.boxes_from} were taken to be in pixels of the pictures ({sizes}), in which all lie; "
    return (f"{note}the release's own list is in pixels of {listing.boxes_size} x {listing.boxes_size}",)


def _read_same(path: Path, digest: str) -> bytes:
    data = path.read_bytes()
    if sha256_bytes(data) != digest:
        raise DataError(
            "the file has changed since it was checked", where=path, fix="ingest again when nobody writes to it"
        )
    return data
