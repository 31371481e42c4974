"""Records of a purge: what stands in the place of what is gone. They name nobody."""

from __future__ import annotations

from typing import ClassVar

from cxr_ops.records.base import Kept, Record


class Replacement(Record):
    """A batch or event without the patient: the SHA-256 of its `record`, and the pointer that DVC follows to it."""

    record: str
    pointer: str


class Purged(Kept):
    """What purges have replaced and removed: a blob of the store, at `refs/cxr/purged`.

    `replaced` maps the digest of the record of a batch or event to what stands in its place in every version; None
    where nothing is left of it. `objects` are those of DVC that were deleted, by MD5: data and outputs of runs.
    `patients` are the patients who do not come in again, by keyed hashes; what an earlier version wrote has none.
    """

    newest: ClassVar[int] = 2

    format: int = newest
    replaced: dict[str, Replacement | None] = {}
    objects: list[str] = []
    patients: list[str] = []
