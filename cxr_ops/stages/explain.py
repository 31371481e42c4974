"""explain: heat maps of selected test cases, and how often a map's peak falls in the annotated box.

Reads `evaluate/`, `validate/` (labels' boxes, digests of images), the shards of `dataset/` and `train/package`; writes
`explain/explain.json` and a PNG a case: the radiograph, and beside it the same under the map of the finding. Files
are named by finding and kind, never by image or patient.

Which scores count as positive is decided by rank: with P positive test images of a finding, the P highest scores.
Operating points are no matter of this stage.

The package's code runs in a process of its own, as in `evaluate`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ops import contract
from cxr_ops.audit.package import read as read_package
from cxr_ops.data import manifest
from cxr_ops.data.checking.decode import Pixels, decode_grey, to_square
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.model.apart import parent as apart
from cxr_ops.params import Params
from cxr_ops.records.base import write_atomic
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.explanation import Explanation, HeatMap, Pointing
from cxr_ops.voice import steps

RULE: Final = (
    "Grad-CAM on the last layer, all findings of a picture in one forward pass. With P positive test images of a "
    "finding, its P highest scores count as positive. Shown are the highest scores among true and false positives and "
    "the lowest among false negatives."
)
KINDS: Final = ("true positive", "false positive", "false negative")
SIDE: Final = 256  # of a picture in the report, in pixels
BATCH: Final = 32
BOX_COLOUR: Final = (255, 255, 0)  # cyan, in OpenCV's order: in no colour map of heat and in no radiograph
_EVALUATE: Final = "cxr-ops stage evaluate --run RUN; in a checkout: dvc repro evaluate"
Box = tuple[float, float, float, float]
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """An image chosen for a finding, the `number`-th of its kind."""

    finding: str
    kind: str
    image_id: str
    truth: bool
    probability: float
    number: int

    @property
    def picture(self) -> str:
        """Name of the file that shows it."""
        return f"{self.finding}-{self.kind.replace(' ', '-')}-{self.number}.png"


@dataclass(frozen=True)
class Material:
    """What the maps are judged by.

    Attributes:
        sha256: of each image's file.
        shapes: height and width of each image.
        boxes: (image id, finding) -> boxes (x, y, w, h) in source pixels.
    """

    sha256: dict[str, str]
    shapes: dict[str, tuple[int, int]]
    boxes: dict[tuple[str, str], list[Box]]


def run(root: Path, params: Params) -> None:
    """Explain the challenger.

    Args:
        root: the workspace.
        params: `explain`, and of `train` the number of threads.

    Raises:
        DataError: an earlier stage has not run; the package is not the one that was evaluated; an image is not the one
            on record.
    """
    out = root / "explain"
    shutil.rmtree(out, ignore_errors=True)
    evaluation = Evaluation.read(root / "evaluate" / "evaluation.json")
    model = read_package(root / "train" / contract.PACKAGE, evaluation.challenger)
    scores = _read_scores(root / "evaluate" / "scores.csv")
    material = _read_material(root, set(scores["image_id"]), model.trained)
    cases, missing = select(scores, params.explain.cases_per_finding)
    wanted = sorted({case.image_id for case in cases} | {image_id for image_id, _ in material.boxes})
    out.mkdir(parents=True)
    with (
        apart.nursery() as nursery,
        ShardReader(root / contract.DATASET, material.sha256) as reader,
        nursery.of(model, params.train) as process,
        steps("explain") as show,
    ):
        pictures = _decoded(reader, wanted, show)
        maps: dict[str, Map] = {}
        while batch := list(islice(pictures, BATCH)):
            maps |= zip(wanted[len(maps) :], process.maps(batch), strict=False)  # the rest is of later batches
        for case in cases:
            pixels = _decode(reader, case.image_id)
            boxes = material.boxes.get((case.image_id, case.finding), [])
            heat = maps[case.image_id][FINDINGS.index(case.finding)]
            write_atomic(out / case.picture, draw(pixels, heat, boxes, params.explain.alpha))
    Explanation(
        package=model.digest,
        rule=RULE,
        cases=[_record(case, maps, material) for case in cases],
        missing=missing,
        pointing=[point(finding, maps, material) for finding in FINDINGS],
    ).write(out / "explain.json")


def select(scores: pd.DataFrame, cases_per_finding: int) -> tuple[list[Case], list[str]]:
    """Choose the cases of every finding by `RULE`; of equal scores, the smaller image id comes first.

    Args:
        scores: a row a test image: `image_id`, and `<finding>_truth` (1, 0, -1 for uncertain, or NaN) and
            `<finding>_challenger`. Images whose label is uncertain or missing are not shown.
        cases_per_finding: of each kind, at most.

    Returns:
        The cases, and a sentence for each kind that a finding has none of.
    """
    cases: list[Case] = []
    missing: list[str] = []
    for finding in FINDINGS:
        if scores[f"{finding}_challenger"].isna().all():
            missing.append(f"{finding}: the challenger was not trained on it.")
            continue
        rows = scores[["image_id", f"{finding}_truth", f"{finding}_challenger"]].dropna()
        rows.columns = pd.Index(["image_id", "truth", "score"])
        rows = rows[rows["truth"] != UNCERTAIN]
        rows = rows.sort_values(["score", "image_id"], ascending=[False, True], ignore_index=True)
        positive = rows["truth"] == 1
        called = rows.index < int(positive.sum())
        if not positive.any():
            missing.append(f"{finding}: no test image has it.")
            continue
        for kind, chosen in (
            (KINDS[0], rows[positive & called]),
            (KINDS[1], rows[~positive & called]),
            (KINDS[2], rows[positive & ~called].iloc[::-1]),
        ):
            if chosen.empty:
                missing.append(f"{finding}: there is no {kind}.")
            cases += [
                Case(finding, kind, row["image_id"], row["truth"] == 1, float(row["score"]), number)
                for number, row in enumerate(chosen.head(cases_per_finding).to_dict("records"), 1)
            ]
    return cases, missing


def point(finding: str, maps: Mapping[str, Map], material: Material) -> Pointing:
    """How often the peak of a finding's map falls in its box (the pointing game of Zhang et al., ECCV 2016).

    An empty map points nowhere: it counts, and misses. `cells_in_boxes` says when a peak is in a box.
    """
    hits, empty, chances = 0, 0, []
    for (image_id, of), boxes in sorted(material.boxes.items()):
        if of != finding:
            continue
        heat = maps[image_id][FINDINGS.index(finding)]
        inside = cells_in_boxes(boxes, heat.shape, material.shapes[image_id])
        chances.append(float(inside.mean()))
        empty += not heat.any()
        hits += bool(heat.any() and inside.flat[heat.argmax()])
    count = len(chances)
    return Pointing(
        finding=finding,
        images=count,
        hits=hits,
        empty=empty,
        share=hits / count if count else None,
        chance=float(np.mean(chances)) if count else None,
    )


def cells_in_boxes(boxes: Sequence[Box], cells: tuple[int, ...], shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Which cells of a map count as in one of the boxes: those whose centre is in it, and the cell of its own centre.

    The latter is for boxes smaller than a cell: a map of 3 x 3 cells cannot point at them more closely.

    Args:
        boxes: (x, y, w, h) in source pixels.
        cells: rows and columns of the map, which spans the square that the picture was padded to.
        shape: height and width of the source.

    >>> cells_in_boxes([(0, 0, 20, 20)], (2, 2), (40, 40)).astype(int).tolist()
    [[1, 0], [0, 0]]
    >>> cells_in_boxes([(22, 2, 3, 3)], (2, 2), (40, 40)).astype(int).tolist()
    [[0, 1], [0, 0]]
    """
    side, left, top = _square(shape)
    rows, columns = cells
    x = (np.arange(columns) + 0.5) * side / columns - left
    y = ((np.arange(rows) + 0.5) * side / rows - top)[:, None]
    inside = np.zeros(cells, np.bool_)
    for bx, by, bw, bh in boxes:
        inside |= (bx <= x) & (x < bx + bw) & (by <= y) & (y < by + bh)
        row, column = (by + bh / 2 + top) * rows / side, (bx + bw / 2 + left) * columns / side
        inside[min(max(int(row), 0), rows - 1), min(max(int(column), 0), columns - 1)] = True
    return inside


def draw(pixels: Pixels, heat: Map, boxes: Sequence[Box], alpha: float) -> bytes:
    """The radiograph, and beside it the same under its map, each with the boxes.

    Args:
        pixels: uint8, H x W, in its own size.
        heat: (h, w), at least 0. Shown relative to its peak; an all-zero map colours nothing.
        boxes: (x, y, w, h) in source pixels.
        alpha: opacity of the map at its peak, in [0, 1]; it fades with the heat, so that cold places stay visible.

    Returns:
        A PNG of SIDE x 2 SIDE pixels; the same arguments give the same bytes.
    """
    grey = cv2.cvtColor(to_square(pixels, SIDE), cv2.COLOR_GRAY2BGR)
    share = cv2.resize(heat / max(float(heat.max()), 1e-12), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    colours = cv2.applyColorMap(np.round(255 * share).astype(np.uint8), cv2.COLORMAP_INFERNO)
    opacity = (alpha * share)[..., None]
    under = np.round(grey * (1 - opacity) + colours * opacity).astype(np.uint8)
    side, left, top = _square(pixels.shape)
    scale = SIDE / side
    for panel in (grey, under):
        for x, y, w, h in boxes:
            corners = ((x + left) * scale, (y + top) * scale), ((x + left + w) * scale, (y + top + h) * scale)
            first, last = (tuple(round(value) for value in corner) for corner in corners)
            cv2.rectangle(panel, first, last, BOX_COLOUR, 1)
    written, data = cv2.imencode(".png", np.concatenate([grey, under], axis=1))
    if not written:
        raise StorageError("OpenCV could not encode a PNG")
    return bytes(data)


def _square(shape: Sequence[int]) -> tuple[int, int, int]:
    """Side of the square that a picture is padded to, and how much of that is to its left and above it."""
    height, width = shape
    side = max(height, width)
    return side, (side - width) // 2, (side - height) // 2


def _record(case: Case, maps: Mapping[str, Map], material: Material) -> HeatMap:
    heat = maps[case.image_id][FINDINGS.index(case.finding)]
    boxes = material.boxes.get((case.image_id, case.finding), [])
    inside = cells_in_boxes(boxes, heat.shape, material.shapes[case.image_id])
    return HeatMap(
        finding=case.finding,
        kind=case.kind,
        truth=case.truth,
        probability=case.probability,
        picture=case.picture,
        sha256=material.sha256[case.image_id][:12],
        empty=not heat.any(),
        peak_in_box=bool(inside.flat[heat.argmax()]) if boxes and heat.any() else None,
    )


def _decode(reader: ShardReader, image_id: str) -> Pixels:
    try:
        return decode_grey(reader.read(image_id))
    except DataError as error:
        raise DataError(error.what, where=image_id, fix=error.fix) from error


def _decoded(reader: ShardReader, image_ids: Sequence[str], show: Callable[[int, int], None]) -> Iterator[Pixels]:
    for done, image_id in enumerate(image_ids, 1):
        yield _decode(reader, image_id)
        show(done, len(image_ids))
        if done % BATCH == 0 or done == len(image_ids):
            contract.report_progress("explain", done, len(image_ids), unit="images")


def _read_scores(path: Path) -> pd.DataFrame:
    try:
        scores = pd.read_csv(path, dtype={"image_id": str, "patient_id": str})
    except FileNotFoundError as error:
        raise DataError("evaluate/scores.csv is missing", where=path, fix=_EVALUATE) from error
    wanted = {"image_id", *(f"{finding}_{what}" for finding in FINDINGS for what in ("truth", "challenger"))}
    if lacking := sorted(wanted - set(scores.columns)):
        raise DataError(f"evaluate/scores.csv has no column {lacking[0]}", where=path, fix=_EVALUATE)
    return scores


def _read_material(root: Path, test: set[str], findings: Collection[str]) -> Material:
    """What is known of the test images; of boxes those of findings that the challenger scores."""
    rows = manifest.read_manifest(root / "validate" / "manifest.csv")
    rows = rows[rows["image_id"].isin(test)]
    boxes: dict[tuple[str, str], list[Box]] = {}
    for box in manifest.read_boxes(root / "validate" / "boxes.csv").to_dict("records"):
        if box["image_id"] in test and box["finding"] in findings:
            boxes.setdefault((box["image_id"], box["finding"]), []).append((box["x"], box["y"], box["w"], box["h"]))
    return Material(
        sha256=dict(zip(rows["image_id"], rows["sha256"], strict=True)),
        shapes={row["image_id"]: (row["height"], row["width"]) for row in rows.to_dict("records")},
        boxes=boxes,
    )
