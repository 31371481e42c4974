"""Records of the data set: batches, and the states that it goes through."""

from __future__ import annotations

from cxr_ops.records.base import Record


class Batch(Record):
    """What one ingestion added, and what it must still hold: `dataset/<batch>/batch.json`.

    `files` maps the name of every other file of the batch to its SHA-256.
    """

    name: str
    source: str
    images: int
    patients: int
    files: dict[str, str]


class DataRevision(Record):
    """A state of the data set: a commit of the store, and the digest of each batch's `batch.json`."""

    revision: str
    batches: dict[str, str]
