"""validate: check the whole data set against the expectations, and join its batches into one manifest.

Reads `dataset/`; writes `validate/manifest.csv`, `validate/boxes.csv`, `validate/sides.csv` (patients whose source's
own split is kept), `validate/attributes.csv` (what side tables say of images), `validate/validation.json` and the page
`validate/validation.html`. On failure none of these is left: the page is in `failed/validate/` instead.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from cxr_ops import contract
from cxr_ops.data import manifest, validation
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import DataError
from cxr_ops.params import Params
from cxr_ops.records.base import write_atomic


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
    frame, boxes = manifest.read_dataset(root / contract.DATASET)
    _check_images(root / contract.DATASET, frame)
    settings = params.validate_
    found = validation.validate(
        frame,
        boxes,
        [root / suite for suite in settings.suites],
        min_images=settings.min_images,
        min_patients=settings.min_patients,
        labelled={record.name: record.findings for record in manifest.read_records(root / contract.DATASET)},
    )
    page = validation.page(found, frame).encode()
    if not found.passed:
        failed.mkdir(parents=True)
        write_atomic(failed / ".gitignore", b"*\n")  # never part of a run's record
        write_atomic(failed / "validation.html", page)
        raise validation.failure(found, frame, page=failed / "validation.html")
    out.mkdir(parents=True)
    write_atomic(out / "manifest.csv", manifest.to_csv(frame, manifest.COLUMNS))
    write_atomic(out / "boxes.csv", manifest.to_csv(boxes, manifest.BOX_COLUMNS))
    write_atomic(out / manifest.SIDES, manifest.to_csv(_sides(root / contract.DATASET), manifest.SIDE_COLUMNS))
    more = manifest.read_attributes(manifest.batch_folders(root / contract.DATASET), frame["image_id"].tolist())
    write_atomic(out / manifest.ATTRIBUTES, manifest.to_csv(more, tuple(more.columns)))
    validation.record(found, frame).write(out / "validation.json")
    write_atomic(out / "validation.html", page)


def _sides(dataset: Path) -> pd.DataFrame:
    sides = manifest.read_sides(manifest.batch_folders(dataset))
    return pd.DataFrame(sorted(sides.items()), columns=list(manifest.SIDE_COLUMNS))


def _check_images(dataset: Path, frame: pd.DataFrame) -> None:
    with ShardReader(dataset) as reader:
        odd = sorted(reader.ids ^ set(frame["image_id"]))
    if odd:
        raise DataError(
            f"{len(odd)} images stand in the shards or in the manifests, but not in both: {', '.join(odd[:5])}",
            where=dataset,
            fix="bring the data set here again: cxr-ops open",
        )
