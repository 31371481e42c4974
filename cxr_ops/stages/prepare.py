"""prepare: decode the pictures that are trained and validated on, adjust contrast and size, pack them into one array.

Reads `validate/manifest.csv`, `split/split.csv` and the shards of `dataset/`; writes `prepare/images.npy` (uint8,
images x side x side), `prepare/index.csv` (its rows) and `prepare/prepare.json`. Pictures of a test set, of this period
or an earlier one, are never packed: they are scored from their source.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pandas as pd

from cxr_ops import contract
from cxr_ops.data import cache, contrast, manifest
from cxr_ops.data.checking import isolate
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params, Prepare
from cxr_ops.records.base import sha256_file, write_atomic
from cxr_ops.records.training import Prepared
from cxr_ops.voice import steps


def run(root: Path, params: Params) -> None:
    """Pack the pictures.

    Args:
        root: the workspace.
        params: `prepare` is used.

    Raises:
        DataError: an earlier stage has not run, or an image is missing, altered or does not decode.
        StorageError: the disk has too little room.
    """
    shutil.rmtree(root / "prepare", ignore_errors=True)
    frame = manifest.read_split(root)
    frame = frame[frame["split"].isin(("train", "validation"))].reset_index(drop=True)
    digests = dict(zip(frame["image_id"], frame["sha256"], strict=True))
    with ShardReader(root / contract.DATASET, digests) as reader:
        pack(root / "prepare", frame, reader.read, params.prepare)


def pack(out: Path, frame: pd.DataFrame, read: Callable[[str], bytes], settings: Prepare) -> None:
    """Write the outputs of this stage from pictures that stand anywhere.

    Args:
        out: the folder to write anew.
        frame: `image_id`, `patient_id`, `split` (train or validation) and the findings, a row a picture.
        read: gives the bytes of a picture's file, from any thread.
        settings: how a picture is brought to what the network sees.

    Raises:
        DataError: a picture is missing, altered or does not decode.
        StorageError: the disk has too little room.
    """
    size = settings.image_size
    shutil.rmtree(out, ignore_errors=True)
    _check_room(out.parent, len(frame) * size * size)
    out.mkdir(parents=True)
    try:
        with steps("prepare") as show:
            pixels = cache.pack(
                out / "images.npy",
                frame["image_id"].tolist(),
                read,
                size,
                measured=(frame["split"] == "train").tolist(),
                threads=isolate.processors(),
                adjusted=contrast.terms(settings),
                progress=partial(_tell, show),
            )
        write_atomic(out / "index.csv", manifest.to_csv(frame, ("image_id", "patient_id", "split", *FINDINGS)))
        Prepared(
            image_size=size,
            contrast=contrast.terms(settings),
            rows=len(frame),
            train_mean=pixels.mean,
            train_std=pixels.std,
            files={name: sha256_file(out / name) for name in ("images.npy", "index.csv")},
        ).write(out / "prepare.json")
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)  # half an array must not pass for the stage's output
        raise


def _tell(show: Callable[[int, int], None], done: int, total: int) -> None:
    show(done, total)
    if done % 100 == 0 or done == total:
        contract.report_progress("prepare", done, total, unit="images")


def _check_room(root: Path, needed: int) -> None:
    free = shutil.disk_usage(root).free
    if needed > free:
        raise StorageError(
            f"the disk has {free / 2**20:,.0f} MiB free, and the packed pictures need {needed / 2**20:,.0f} MiB",
            where=root,
            fix="free some, or choose a smaller prepare.image_size in params.yaml",
        )
