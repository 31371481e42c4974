"""prepare: decode the pictures that are trained and validated on, adjust contrast and size, pack them into one array.

Reads `validate/manifest.csv`, `split/split.csv` and the shards of `dataset/`; writes `prepare/images.npy` (uint8,
images x side x side), `prepare/index.csv` (its rows) and `prepare/prepare.json`. Pictures of a test set, of this period
or an earlier one, are never packed: they are scored from their source.

Rows that were packed before with the same settings and code are taken from the folder that `CXR_PACKED` names, or else
from `.cxr/packed` of the workspace, and not decoded again; see `cxr_ops.data.packed`. The outputs are the same bytes.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pandas as pd

from cxr_ops import contract
from cxr_ops.data import cache, contrast, manifest, room, shards
from cxr_ops.data.cache import Source
from cxr_ops.data.checking import isolate
from cxr_ops.data.packed import Packed
from cxr_ops.data.shards import ShardReader
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
    named = os.environ.get("CXR_PACKED")
    with ShardReader(root / contract.DATASET, digests) as reader:
        places = [reader.place(image_id) for image_id in frame["image_id"]]
    kept = Path(named) if named else root / ".cxr" / "packed"
    pack(root / "prepare", frame, places, shards.read_place, params.prepare, kept=kept)


def pack(
    out: Path,
    frame: pd.DataFrame,
    sources: Sequence[Source],
    read: Callable[[Source], bytes],
    settings: Prepare,
    *,
    kept: Path | None = None,
) -> None:
    """Write the outputs of this stage from pictures that stand anywhere.

    Args:
        out: the folder to write anew.
        frame: `image_id`, `patient_id`, `split` (train or validation) and the findings, a row a picture; with `kept`
            also `sha256` of its file, which `read` must compare.
        sources: where each picture stands, as `read` takes it.
        read: gives the bytes of a picture's file, in any thread or process; see `cache.pack`.
        settings: how a picture is brought to what the network sees.
        kept: the folder of rows that were packed before; see `packed`.

    Raises:
        DataError: a picture is missing, altered or does not decode.
        StorageError: the disk has too little room.
    """
    size, terms = settings.image_size, contrast.terms(settings)
    shutil.rmtree(out, ignore_errors=True)
    earlier = Packed(kept, size, terms) if kept else None
    need = {out.parent: len(frame) * size * size}
    fix = "free some, or choose a smaller prepare.image_size in params.yaml"
    left = room.check(need, "the array of packed pictures", fix=fix)[out.parent]
    if earlier:
        new = sum(not earlier.holds(sha256) for sha256 in frame["sha256"])
        if left < new * size * size:
            earlier = None  # what would be kept is not worth the room that later stages need
    digests = frame["sha256"] if earlier else [None] * len(frame)
    pictures = [
        cache.Picture(name, source, side == "train", sha256)
        for name, source, side, sha256 in zip(frame["image_id"], sources, frame["split"], digests, strict=True)
    ]
    out.mkdir(parents=True)
    try:
        with steps("prepare") as show, earlier or nullcontext():
            pixels = cache.pack(
                out / "images.npy",
                pictures,
                read,
                size,
                workers=isolate.processors(),
                adjusted=terms,
                kept=earlier,
                progress=partial(_tell, show),
            )
            if earlier:
                earlier.finish()
        write_atomic(out / "index.csv", manifest.to_csv(frame, ("image_id", "patient_id", "split", *FINDINGS)))
        Prepared(
            image_size=size,
            contrast=terms,
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
