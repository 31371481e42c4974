"""Records of the data set: batches, and the states that it goes through; and what marks generated data as such."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import Kept, Record

# Data of people who do not exist. Their source and the start of their ids are no real source's, so that they cannot be
# taken for real ones, nor for the same people as real ones.
GENERATED: Final = "generated"
GENERATED_ID: Final = "generated-"
# What `make retrain` drew under version 0.1, when generated data still had the source and the ids of the NIH's.
_EARLIER_BATCH: Final = "synthetic-1"
EVENT: Final = "event.json"
_EVENT_NAME: Final = re.compile(r"event\.([0-9]{5})")  # no batch has a full stop in its name
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


class Relabelled(Record):
    """A label that was corrected: of an image and a finding, what it was and what it is.

    A label is 1, 0, -1 (uncertain) or None (missing).
    """

    image_id: str
    finding: str
    was: Literal[1, 0, -1] | None
    now: Literal[1, 0, -1] | None


def event_name(number: int) -> str:
    """What the event of a number, from 1, is called.

    >>> event_name(7)
    'event.00007'
    """
    return f"event.{number:05d}"


def is_event(name: str) -> bool:
    """Whether a name in `dataset/` is an event's; no batch can have such a one.

    >>> is_event("event.00007"), is_event("event-7"), is_event("2026-03")
    (True, False, False)
    """
    return _EVENT_NAME.fullmatch(name) is not None


class Event(Kept):
    """What happened to images that had entered: `dataset/<event>/event.json`.

    It is never changed, and comes after the events of lower numbers. `withdraw` takes out `images`, all that the data
    set held of the `patients` among them; of such a patient no other image enters later. `relabel` gives images the
    `labels`. `by` decided it, for the `reason`.
    """

    name: str
    kind: Literal["withdraw", "relabel"]
    by: str
    reason: str
    patients: list[str] = []
    images: list[str] = []
    labels: list[Relabelled] = []


class DataRevision(Record):
    """A state of the data set: a commit of the store, and the digest of each batch's `batch.json`.

    `events` has the digest of each event's `event.json`: the data set is the batches, changed by these in their order.
    """

    revision: str
    batches: dict[str, str]
    events: dict[str, str] = {}

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without events a revision is written as it was before there were any."""
        document: dict[str, Any] = write(self)
        if not self.events:
            document.pop("events", None)
        return document

    def digests(self) -> dict[str, str]:
        """The digest of the record of every batch and event, by name."""
        return {**self.batches, **self.events}


class SplitSide(Record):
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
    splits: dict[str, SplitSide]
