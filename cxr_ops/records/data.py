"""Records of the data set: batches, and the states that it goes through; and what marks generated data as such."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import Kept, Record

# Data of people who do not exist. Their source and the start of their ids are no real source's, so that they cannot be
# taken for real ones, nor for the same people as real ones.
GENERATED: Final = "generated"
GENERATED_ID: Final = "generated-"
# What `make retrain` drew under version 0.1, when generated data still had the source and the ids of the NIH's.
_EARLIER_BATCH: Final = "synthetic-1"
NOTICE: Final = (
    "Generated pictures of people who do not exist. For trying software only: not for clinical use, and no ground for "
    "any statement about patients."
)


def is_generated(source: str, batch: str = "") -> bool:
    """Whether the images of a source, or a batch that an earlier version made, are of people who do not exist.

    >>> is_generated("generated"), is_generated("nih", "2026-03"), is_generated("nih", "synthetic-1")
    (True, False, True)
    """
    return source == GENERATED or batch == _EARLIER_BATCH


def data_notice(sources: Iterable[str], batches: Iterable[str] = ()) -> str:
    """The sentence that a report or a model on generated data carries, "" for real ones."""
    return NOTICE if GENERATED in sources or _EARLIER_BATCH in batches else ""


class Batch(Record):
    """What one ingestion added, and what it must still hold: `dataset/<batch>/batch.json`.

    `files` maps the name of every other file of the batch to its SHA-256. `findings` are those that its source labels;
    batches of earlier versions have labels of all.
    """

    name: str
    source: str
    images: int
    patients: int
    files: dict[str, str]
    findings: list[str] = list(FINDINGS)


class DataRevision(Record):
    """A state of the data set: a commit of the store, and the digest of each batch's `batch.json`."""

    revision: str
    batches: dict[str, str]


class Side(Record):
    """What is on one side of a split: images, patients, and positive images of each finding."""

    images: int
    patients: int
    positives: dict[str, int]


class Division(Kept):
    """Which patients are trained on and which are tested on: `split/split.json`.

    `salt`, `validation` and `test` are the settings that divided the patients; `test_digest` names the test set;
    `splits` has the sides train, validation, test and retired (tested in an earlier period), and not-frontal where
    there are images of other or unknown views.
    """

    salt: str
    validation: float
    test: float
    test_digest: str
    splits: dict[str, Side]
