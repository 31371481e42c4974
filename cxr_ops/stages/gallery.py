"""gallery: a page of pictures of a version of the data set, for each finding. The store is only read."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from cxr_ops.data import manifest
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import versions
from cxr_ops.edges.store.versions import Version
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_bytes
from cxr_ops.report.versions import Thumbnail, gallery_page
from cxr_ops.stages import diff


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """A page, and which image each of its numbers is: `number`, `image_id`, `batch`, `sha256` as CSV."""

    version: Version
    page: str
    key: bytes
    shown: int


def run(home: Home, version: str, *, count: int = diff.SHOWN) -> Gallery:
    """Choose images of a version and make a page of them.

    Args:
        home: the installation.
        version: as `versions.find` takes it.
        count: images for each finding, and of those without one. An image of several findings counts for each.

    Raises:
        SettingsError: there is no such version, or `count` is not positive.
        DataError: the version holds no image, a batch is missing from the store or was altered, or an image does not
            decode.
        StorageError: the remote does not answer.
    """
    if count < 1:
        raise SettingsError(f"{count} images cannot be shown", where="--images", fix=f"--images {diff.SHOWN}")
    chosen = versions.find(home, versions.versions(home), version)
    frame = diff.read(home, chosen.data)
    if frame.empty:
        raise DataError("this version of the data set holds no image", where=f"version {chosen.number}")
    rows = _choose(frame, count)
    made = diff.thumbnails(home, [(chosen, rows)])
    return Gallery(
        version=chosen,
        page=gallery_page(
            f"version {chosen.number}",
            len(frame),
            frame["patient_id"].nunique(),
            numbered(rows, made),
            {finding: int((frame[finding] == 1).sum()) for finding in FINDINGS},
            set(frame["source"]),
        ),
        key=manifest.to_csv(rows.assign(number=range(1, len(rows) + 1)), ("number", "image_id", "batch", "sha256")),
        shown=len(rows),
    )


def numbered(rows: pd.DataFrame, pictures: dict[tuple[str, str], bytes], *, first: int = 1) -> list[Thumbnail]:
    """The pictures of some rows with numbers in their order, and what may be said of them."""
    return [
        Thumbnail(
            number=number,
            jpeg=pictures[str(row["batch"]), str(row["image_id"])],
            findings=tuple(finding for finding in FINDINGS if row[finding] == 1),
            uncertain=tuple(finding for finding in FINDINGS if row[finding] == -1),
            absent=sum(row[finding] == 0 for finding in FINDINGS),
            view=str(row["view"] or ""),
        )
        for number, row in enumerate(rows.to_dict("records"), first)
    ]


def _choose(frame: pd.DataFrame, count: int) -> pd.DataFrame:
    """Rows for each finding and of images without one, each row once, in an order that tells nothing of the ids."""
    none = frame[~(frame[list(FINDINGS)] == 1).any(axis=1)]
    parts = [diff.sample(frame[frame[finding] == 1], count) for finding in FINDINGS]
    rows = pd.concat([*parts, diff.sample(none, count)]).drop_duplicates("image_id")
    order = {digest: sha256_bytes(digest.encode()) for digest in rows["sha256"]}
    return rows.assign(_order=rows["sha256"].map(order)).sort_values("_order", kind="stable").drop(columns="_order")
