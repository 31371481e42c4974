"""Records of what `explain` made."""

from __future__ import annotations

from cxr_ops.records.base import Kept, Record


class HeatMap(Record):
    """One explained case: `picture` is a file in `explain/`, `sha256` the first digits of the image's (no id travels).

    kind: which sort of case, in words. empty: nothing in the picture speaks for the finding. peak_in_box: whether the
    map's peak falls in an annotated box; None where there is no box or no peak.
    """

    finding: str
    kind: str
    truth: bool
    probability: float
    picture: str
    sha256: str
    empty: bool
    peak_in_box: bool | None


class Pointing(Record):
    """How often the peak of a finding's map falls in its box, over the test images that have one.

    chance: the same share for a place drawn blindly from the map. Both are None where no image has a box.
    """

    finding: str
    images: int
    hits: int
    empty: int
    share: float | None
    chance: float | None


class Explanation(Kept):
    """What `explain` made: `explain/explain.json`. `missing` says in sentences which cases do not exist."""

    package: str
    rule: str
    cases: list[HeatMap]
    missing: list[str]
    pointing: list[Pointing]
