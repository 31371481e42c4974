"""Records of the versions of a data set: what two of them differ in, and the history of an image or a patient."""

from __future__ import annotations

from cxr_ops.records.base import Record
from cxr_ops.records.validation import Labels


class FindingChange(Record):
    """One finding in two versions.

    `before` and `after` are over all images of each version. `added` and `removed` are the labels of images that only
    one of them holds. `relabelled` counts images that both hold, by `OLD -> NEW`: 1, 0, uncertain or missing.
    """

    before: Labels
    after: Labels
    added: Labels
    removed: Labels
    relabelled: dict[str, int]


class Difference(Record):
    """What two versions of a data set differ in.

    Pairs are before and after. Lists of images and patients are sorted. `kept_patients` are in both. An image is in
    `changed_images` where both hold its id and a column of the manifest differs; `changed_columns` counts such images
    by column, findings aside.
    """

    before: str
    after: str
    images: tuple[int, int]
    patients: tuple[int, int]
    kept_patients: int
    added_batches: list[str]
    removed_batches: list[str]
    added_images: list[str]
    removed_images: list[str]
    changed_images: list[str]
    added_patients: list[str]
    removed_patients: list[str]
    changed_columns: dict[str, int]
    sources: dict[str, tuple[int, int]]
    views: dict[str, tuple[int, int]]
    findings: dict[str, FindingChange]


class UsedBy(Record):
    """A run that used an image: on which side of the split it stood there.

    `side` is None where the run's workspace, which says it, is not here any more.
    """

    run: str
    data_revision: str
    side: str | None


class Held(Record):
    """An image in the versions from `since` up to, and without, `until` (None: it is so now), with its labels there.

    `batch_digest` is the SHA-256 of the batch's `batch.json`, `origin_sha256` that of the source's own file where the
    image was converted from it. A label is 1, 0, -1 (uncertain) or None (missing).
    """

    batch: str
    batch_digest: str
    source: str
    sha256: str
    origin_sha256: str | None
    view: str
    age: int | None
    sex: str
    width: int
    height: int
    labels: dict[str, int | None]
    since: int
    until: int | None


class Touched(Record):
    """An event that took an image out or corrected its labels: `now` has the labels that it gave, by finding."""

    event: str
    version: int
    kind: str
    by: str
    reason: str
    now: dict[str, int | None]


class ImageHistory(Record):
    """All that is known of one image: each state that it was in, the events of it, and the runs that used it.

    `side` is where the next run would put it, and where one that is withdrawn would be: its patient stays on that side.
    It is None where the latest version holds no batch with it.
    """

    image_id: str
    patient_id: str
    states: list[Held]
    events: list[Touched]
    side: str | None
    runs: list[UsedBy]


class Shown(Record):
    """The images that an id is of: one image's, or all of a patient's."""

    asked: str
    kind: str
    images: list[ImageHistory]
