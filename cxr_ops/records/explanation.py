"""Records of what `explain` made."""

from __future__ import annotations

from typing import ClassVar

from cxr_ops.records.base import Kept, Record


class Seen(Record):
    """What a model makes of a case.

    probability: calibrated on the validation set where `calibrated` says so, else as the model gives it. threshold:
    from which it calls the finding, on the same scale; None where no operating point is known. called: whether it does.
    map: in logits (of Grad-CAM++ without a unit), one row of numbers a row of the grid; nothing where it cannot be
    computed. peak_in_box: whether the map's peak falls in an annotated box; None where there is no box or no peak.
    """

    probability: float
    calibrated: bool
    threshold: float | None
    called: bool | None
    map: list[list[float]]
    peak_in_box: bool | None

    @property
    def empty(self) -> bool:
        """Whether nothing in the picture speaks for the finding."""
        return not any(value > 0 for row in self.map for value in row)


class HeatMap(Record):
    """One explained case: `picture` is a file in `explain/`, `sha256` the first digits of the image's (no id travels).

    kind: which sort of case, in words. probability, empty, peak_in_box: of the challenger, as it gives it; `challenger`
    and `champion` say more. boxes: annotated, (left, top, width, height) as shares of the picture's side. Formats
    before 2 have neither boxes nor maps, and their picture shows the map.
    """

    finding: str
    kind: str
    truth: bool
    probability: float
    picture: str
    sha256: str
    empty: bool
    peak_in_box: bool | None
    challenger: Seen | None = None
    champion: Seen | None = None
    boxes: list[tuple[float, float, float, float]] = []


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
    """What `explain` made: `explain/explain.json`. `missing` says in sentences which cases do not exist.

    package, champion: whose maps these are. grid: rows and columns of a map. image_size: what the network sees, in
    pixels. method: `grad_cam`, `hires_cam` or `grad_cam_plus_plus`. resolution: side of the input that maps were
    computed on, where it is another than image_size. scale: what the colours of all maps end at, in the maps' unit.
    alpha: opacity of the hottest places. pointing: in format 1 alone; `Evaluation.localization` says more.
    """

    newest: ClassVar[int] = 2

    format: int = newest

    package: str
    champion: str | None = None
    rule: str
    grid: tuple[int, int] | None = None
    image_size: int | None = None
    method: str = "grad_cam"
    resolution: int | None = None
    scale: float | None = None
    alpha: float = 0.45
    cases: list[HeatMap]
    missing: list[str]
    pointing: list[Pointing] = []
