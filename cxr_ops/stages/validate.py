"""validate: check the whole data set against the expectations, and join it into one manifest.

That is its batches, changed by its events.

Reads `dataset/`; writes `validate/manifest.csv`, `validate/boxes.csv`, `validate/sides.csv` (patients whose source's
own split is kept), `validate/attributes.csv` (what side tables say of images), `validate/withdrawn.csv` (patient and
batch of each withdrawn image, by which it is known who was scored), `validate/validation.json`, the page
`validate/validation.html` and `validate/failures.csv` (every row that failed a check and was let pass). On failure none
of these is left: the page and `failures.csv` are in `failed/validate/` instead.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Final

import pandas as pd

from cxr_ops import contract
from cxr_ops.data import events, manifest, near_copies, validation
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import DataError
from cxr_ops.params import Params
from cxr_ops.records.base import write_atomic

_FIX: Final = (
    "correct the rows (batch:line of the manifest): labels with cxr-ops data relabel FILE.csv --reason TEXT --by NAME; "
    "for anything else take the batch out with cxr-ops data remove BATCH --reason TEXT --by NAME, and ingest it "
    "corrected under the same name"
)


def run(root: Path, params: Params) -> None:
    """Validate the data set.

    Args:
        root: the workspace.
        params: `validate` is used; its suites are paths from `root`.

    Raises:
        DataError: there is no data set, a batch is not what its `batch.json` says, images and rows do not match, or a
            critical check fails. The failing rows are named.
        SettingsError: a suite is missing or is not one.
    """
    out, failed = root / "validate", root / "failed" / "validate"
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(failed, ignore_errors=True)
    data = manifest.read_digests(root / contract.DATASET)
    frame, boxes, withdrawn = manifest.read_version(root / contract.DATASET)
    _check_images(root / contract.DATASET, {*frame["image_id"], *withdrawn["image_id"]})
    settings = params.validate_
    folders = manifest.batch_folders(root / contract.DATASET)
    found = validation.validate(
        frame,
        boxes,
        [root / suite for suite in settings.suites],
        min_images=settings.min_images,
        min_patients=settings.min_patients,
        **validation.beside(root / contract.DATASET, frame),
    )
    copies = near_copies.checks(frame, near_copies.read(folders), manifest.read_sides(folders))
    found = replace(found, checks=(*found.checks, *copies))
    page = validation.page(found, frame).encode()
    failures = manifest.to_csv(validation.failing_rows(found, frame), validation.FAILURE_COLUMNS)
    if not found.passed:
        failed.mkdir(parents=True)
        write_atomic(failed / ".gitignore", b"*\n")  # never part of a run's record
        write_atomic(failed / "validation.html", page)
        write_atomic(failed / validation.FAILURES, failures)
        raise validation.failure(found, frame, page=failed / "validation.html", fix=_FIX)
    out.mkdir(parents=True)
    write_atomic(out / "manifest.csv", manifest.to_csv(frame, manifest.COLUMNS))
    write_atomic(out / "boxes.csv", manifest.to_csv(boxes, manifest.BOX_COLUMNS))
    write_atomic(out / manifest.SIDES, manifest.to_csv(_sides(root / contract.DATASET), manifest.SIDE_COLUMNS))
    more = manifest.read_attributes(folders, frame["image_id"].tolist())
    write_atomic(out / manifest.ATTRIBUTES, manifest.to_csv(more, tuple(more.columns)))
    write_atomic(out / events.WITHDRAWN, manifest.to_csv(withdrawn, events.WITHDRAWN_COLUMNS))
    validation.record(found, frame).model_copy(update={"data": data}).write(out / "validation.json")
    write_atomic(out / "validation.html", page)
    write_atomic(out / validation.FAILURES, failures)


def _sides(dataset: Path) -> pd.DataFrame:
    sides = manifest.read_sides(manifest.batch_folders(dataset))
    return pd.DataFrame(sorted(sides.items()), columns=list(manifest.SIDE_COLUMNS))


def _check_images(dataset: Path, image_ids: set[str]) -> None:
    with ShardReader(dataset) as reader:
        odd = sorted(reader.ids ^ image_ids)
    if odd:
        raise DataError(
            f"{len(odd)} images stand in the shards or in the manifests, but not in both: {', '.join(odd[:5])}",
            where=dataset,
            fix="bring the data set here again: cxr-ops open",
        )
