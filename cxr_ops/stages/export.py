"""export: write the data set, or some of its batches, in a format of others. The store is only read."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cxr_ops.data import exports, manifest
from cxr_ops.data.shards import ShardReader
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.records.base import write_atomic
from cxr_ops.voice import count

FORMATS: Final = ("nih", "croissant")


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: where, how many images of the data set, and why the others were left out."""

    folder: Path
    images: int
    left_out: dict[str, int]

    def __str__(self) -> str:
        lines = [f"{count(self.images, 'image')} in {self.folder}"]
        lines += [f"  left out: {count(number, 'image')} {reason}" for reason, number in self.left_out.items()]
        if self.left_out:
            lines.append("  the NIH's table has no word for these; the format croissant keeps them")
        return "\n".join(lines)


def run(
    home: Home,
    form: str,
    out: Path,
    *,
    only: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write the data set as it is now into a folder.

    Args:
        home: the installation.
        form: `nih` or `croissant`.
        out: a folder that is new or empty.
        only: batches; all, if none is named.
        progress: called with the images written so far and their number.

    Raises:
        SettingsError: there is no such format or batch.
        DataError: there is no data set, the format can hold none of its images, or a batch is missing from the store
            or was altered.
        StorageError: the folder is in use or cannot be written, or the store does not answer.
    """
    if form not in FORMATS:
        raise SettingsError(
            f"{form!r} is no format: {' and '.join(FORMATS)} are known", where="data export", fix="data export nih OUT"
        )
    _refuse_used(out)
    revision = batches.data_revision(home)
    if revision is None:
        raise DataError("there is no data set", where=home.store, fix="cxr-ops ingest nih FOLDER --batch NAME")
    if unknown := sorted(set(only) - revision.batches.keys()):
        raise SettingsError(
            f"the data set has no batch {unknown[0]!r}; it has: {', '.join(sorted(revision.batches))}",
            where="--batch",
            fix="see them: cxr-ops data list",
        )
    wanted = {name: digest for name, digest in revision.batches.items() if not only or name in only}
    revision = revision.model_copy(update={"batches": wanted})
    with batches.whole(home, revision) as dataset:
        frame, boxes = manifest.read_dataset(dataset)
        if form == "nih":
            export = exports.nih(frame, boxes)
        else:
            attributes = manifest.read_attributes(manifest.batch_folders(dataset), frame["image_id"].tolist())
            export = exports.croissant(frame, boxes, attributes, name=out.resolve().name, revision=revision.revision)
        if not export.image_ids:
            raise DataError(
                f"none of the {len(frame):,} images fits the NIH's table: "
                + "; ".join(f"{count:,} {reason}" for reason, count in export.left_out.items()),
                where=out,
                fix=f"cxr-ops data export croissant {out}",
            )
        digests = dict(zip(frame["image_id"], frame["sha256"], strict=True))
        with ShardReader(dataset, digests) as reader:
            _write(out, export, reader, progress)
    return Exported(folder=out, images=len(export.image_ids), left_out=dict(export.left_out))


def _refuse_used(out: Path) -> None:
    try:
        used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise StorageError(f"the folder cannot be read: {error.strerror}", where=out) from error
    if used:
        raise StorageError("the folder is not empty, and is left as it is", where=out, fix="name a new folder")


def _write(out: Path, export: exports.Export, reader: ShardReader, progress: Callable[[int, int], None] | None) -> None:
    """Write images, then tables: half an export has no table and cannot be taken for one."""
    try:
        (out / exports.IMAGES).mkdir(parents=True, exist_ok=True)
        for done, image_id in enumerate(export.image_ids, start=1):
            (out / exports.IMAGES / image_id).write_bytes(reader.read(image_id))
            if progress:
                progress(done, len(export.image_ids))
        for name, data in export.tables.items():
            write_atomic(out / name, data)
    except OSError as error:
        shutil.rmtree(out / exports.IMAGES, ignore_errors=True)
        raise StorageError(f"the export cannot be written: {error.strerror}", where=error.filename or out) from error
