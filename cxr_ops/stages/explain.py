"""explain: heat maps of selected test cases, by challenger and champion.

Reads `evaluate/`, `validate/` (labels' boxes, digests of images), the shards of `dataset/`, `train/package` and
`champion/`; writes `explain/explain.json` (cases, maps, boxes) and a PNG a case, which is the radiograph as the network
sees it, larger. The report draws the maps on it. Files are named by finding and kind, never by image or patient.

Which cases are shown, `cxr_ops.stats.cases` says. The packages' code runs in processes of their own, as in `evaluate`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ops import contract
from cxr_ops.audit.package import Package
from cxr_ops.audit.package import read as read_package
from cxr_ops.data import manifest
from cxr_ops.data.checking.decode import Pixels, decode_grey, to_square
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.model.apart import parent as apart
from cxr_ops.params import MapMethod, Params
from cxr_ops.records.base import write_atomic
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.explanation import Explanation, HeatMap, Seen
from cxr_ops.stats import cases
from cxr_ops.stats.cases import CHALLENGER, CHAMPION, Chosen, Scale
from cxr_ops.stats.localization import Box, cells_in_boxes, in_square
from cxr_ops.voice import steps

METHODS: Final[dict[MapMethod, str]] = {
    "grad_cam": "Grad-CAM",
    "hires_cam": "HiRes-CAM (behind global average pooling the numbers of Grad-CAM)",
    "grad_cam_plus_plus": "Grad-CAM++",
}
SIDE: Final = 512  # of a picture in the report, in pixels; a smaller source keeps its size
BATCH: Final = 32
DIGITS: Final = 4  # of a map's numbers, behind the point
_EVALUATE: Final = "cxr-ops stage evaluate --run RUN; in a checkout: dvc repro evaluate"
Map = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Material:
    """What the maps are judged by.

    Attributes:
        sha256: of each image's file.
        boxes: (image id, finding) -> boxes, as shares of the square that the network sees.
    """

    sha256: dict[str, str]
    boxes: dict[tuple[str, str], list[Box]]


@dataclass(frozen=True)
class Scored:
    """The images of `evaluate/scores.csv`.

    Attributes:
        image_ids: N.
        truth: (N, 14) 1, 0 or NaN; uncertain is NaN.
        scores: role -> (N, 14), NaN where the model was not trained.
        scales: role -> 14 ways to read them.
    """

    image_ids: list[str]
    truth: npt.NDArray[np.float64]
    scores: dict[str, npt.NDArray[np.float64]]
    scales: dict[str, list[Scale]]


def run(root: Path, params: Params) -> None:
    """Explain the challenger, beside the champion.

    Args:
        root: the workspace.
        params: `explain`, and of `train` the number of threads.

    Raises:
        DataError: an earlier stage has not run; a package is not the one that was evaluated; an image is not the one
            on record.
    """
    out = root / "explain"
    shutil.rmtree(out, ignore_errors=True)
    evaluation = Evaluation.read(root / "evaluate" / "evaluation.json")
    models = {CHALLENGER: read_package(root / "train" / contract.PACKAGE, evaluation.challenger)}
    if evaluation.champion is not None:
        models[CHAMPION] = read_package(root / CHAMPION / contract.PACKAGE, evaluation.champion)
    scored = _read_scores(root / "evaluate" / "scores.csv", evaluation, models)
    material = _read_material(root, set(scored.image_ids), models[CHALLENGER].trained)
    chosen, missing = cases.choose(
        FINDINGS,
        scored.image_ids,
        scored.truth,
        scored.scores,
        scored.scales,
        per_kind=params.explain.cases_per_finding,
    )
    wanted = sorted({scored.image_ids[case.row] for case in chosen})
    out.mkdir(parents=True)
    with ShardReader(root / contract.DATASET, material.sha256) as reader:
        maps, unmapped = _maps(reader, wanted, models, params)
        for case in chosen:
            pixels = _decode(reader, scored.image_ids[case.row])
            write_atomic(out / _picture(case), _png(to_square(pixels, min(SIDE, max(pixels.shape)))))
    records = [_record(case, scored, maps, material, models) for case in chosen]
    grids = {found.shape[1:] for of_model in maps.values() for found in of_model.values()}
    sizes = {model.image_size for model in models.values()}
    resolution = None if sizes == {params.explain.resolution} else params.explain.resolution
    by_rank = any(scale.threshold is None for scale in scored.scales[CHALLENGER])
    Explanation(
        package=models[CHALLENGER].digest,
        champion=evaluation.champion,
        rule=" ".join(
            [_method(params.explain.method, resolution, models), cases.RULE, *([cases.RULE_BY_RANK] if by_rank else [])]
        ),
        grid=grids.pop() if len(grids) == 1 else None,
        image_size=models[CHALLENGER].image_size,
        method=params.explain.method,
        resolution=resolution,
        scale=_scale(records),
        alpha=params.explain.alpha,
        cases=records,
        missing=[*unmapped, *missing],
    ).write(out / "explain.json")


def _method(method: MapMethod, resolution: int | None, models: Mapping[str, Package]) -> str:
    """How maps were made, in sentences."""
    said = f"{METHODS[method]} on the last layer, all findings of a picture in one forward pass."
    if resolution is None:
        return said
    trained = " and ".join({str(size): None for model in models.values() if (size := model.image_size) != resolution})
    return (
        f"{said} The maps are on another grid than the model's own: the weights that were trained at {trained} pixels "
        f"read the picture at {resolution} pixels here, which they never saw. Probabilities and calls are of the "
        "picture as the model reads it."
    )


def _maps(
    reader: ShardReader, wanted: Sequence[str], models: Mapping[str, Package], params: Params
) -> tuple[dict[str, dict[str, Map]], list[str]]:
    """Role -> image -> (14, h, w) maps, and in a sentence why a champion has none. Each image is decoded once."""
    maps: dict[str, dict[str, Map]] = {role: {} for role in models}
    unmapped: list[str] = []
    with apart.nursery() as nursery, steps("explain") as show, ExitStack() as until_done:
        processes = {role: until_done.enter_context(nursery.of(model, params.train)) for role, model in models.items()}
        pictures = _decoded(reader, wanted, show)
        done = 0
        while batch := list(islice(pictures, BATCH)):
            for role, process in [*processes.items()]:
                try:
                    found = process.maps(batch, method=params.explain.method, size=params.explain.resolution)
                except DataError as error:
                    if role == CHALLENGER:
                        raise
                    unmapped.append(f"The {role} has no heat maps: {error.what}.")
                    maps[role].clear()
                    del processes[role]
                else:
                    maps[role] |= zip(wanted[done : done + len(batch)], found, strict=True)
            done += len(batch)
    return maps, unmapped


def _record(
    case: Chosen,
    scored: Scored,
    maps: Mapping[str, Mapping[str, Map]],
    material: Material,
    models: Mapping[str, Package],
) -> HeatMap:
    image_id, f = scored.image_ids[case.row], FINDINGS.index(case.finding)
    boxes = material.boxes.get((image_id, case.finding), [])

    def seen(role: str) -> Seen | None:
        if role not in models or case.finding not in models[role].trained:
            return None
        scale = scored.scales[role][f]
        heat = maps[role][image_id][f] if image_id in maps[role] else np.zeros((0, 0), np.float32)
        inside = cells_in_boxes(boxes, heat.shape) if heat.any() else None
        score, at = float(scored.scores[role][case.row, f]), scale.threshold
        return Seen(
            probability=scale.calibrate(score),
            calibrated=scale.calibrates,
            threshold=None if at is None else scale.calibrate(at),
            called=None if at is None else score >= at,
            map=[[round(float(value), DIGITS) for value in row] for row in heat],
            peak_in_box=bool(inside.flat[heat.argmax()]) if boxes and inside is not None else None,
        )

    challenger = seen(CHALLENGER)
    if challenger is None:  # the challenger has a score of each case
        raise DataError(f"the challenger was not trained on {case.finding}", where=image_id)
    return HeatMap(
        finding=case.finding,
        kind=case.kind,
        truth=bool(scored.truth[case.row, f] == 1),
        probability=float(scored.scores[CHALLENGER][case.row, f]),
        picture=_picture(case),
        sha256=material.sha256[image_id][:12],
        empty=challenger.empty,
        peak_in_box=challenger.peak_in_box,
        challenger=challenger,
        champion=seen(CHAMPION),
        boxes=[(round(x, DIGITS), round(y, DIGITS), round(w, DIGITS), round(h, DIGITS)) for x, y, w, h in boxes],
    )


def _picture(case: Chosen) -> str:
    return f"{case.finding}-{case.kind.replace(' ', '-')}-{case.number}.png"


def _scale(records: Sequence[HeatMap]) -> float | None:
    """Where the colours end: the first of 1, 2, 5, 10, ... logits above 95 % of the peaks that are shown."""
    peaks = [
        max(max(row) for row in one.map)
        for record in records
        for one in (record.challenger, record.champion)
        if one is not None and not one.empty
    ]
    if not peaks:
        return None
    high = float(np.quantile(peaks, 0.95))
    decade = 10.0 ** np.floor(np.log10(high))
    return float(next(step * decade for step in (1.0, 2.0, 5.0, 10.0) if step * decade >= high))


def _png(pixels: Pixels) -> bytes:
    written, data = cv2.imencode(".png", pixels)
    if not written:
        raise StorageError("OpenCV could not encode a PNG")
    return bytes(data)


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


def _read_scores(path: Path, evaluation: Evaluation, models: Mapping[str, Package]) -> Scored:
    try:
        table = pd.read_csv(path, dtype={"image_id": str, "patient_id": str})
    except FileNotFoundError as error:
        raise DataError("evaluate/scores.csv is missing", where=path, fix=_EVALUATE) from error
    wanted = {"image_id", *(f"{finding}_{what}" for finding in FINDINGS for what in ("truth", *models))}
    if lacking := sorted(wanted - set(table.columns)):
        raise DataError(f"evaluate/scores.csv has no column {lacking[0]}", where=path, fix=_EVALUATE)
    truth = table[[f"{finding}_truth" for finding in FINDINGS]].to_numpy(np.float64)
    measured = {row.finding: row for row in evaluation.performance}

    def scale(role: str, finding: str) -> Scale:
        found = measured.get(finding)
        if found is None:
            return Scale()
        intercept, slope = found.recalibration.get(role, (0.0, 1.0))
        return Scale(threshold=found.thresholds.get(role), intercept=intercept, slope=slope)

    return Scored(
        image_ids=table["image_id"].tolist(),
        truth=np.where(truth == UNCERTAIN, np.nan, truth),
        scores={role: table[[f"{name}_{role}" for name in FINDINGS]].to_numpy(np.float64) for role in models},
        scales={role: [scale(role, finding) for finding in FINDINGS] for role in models},
    )


def _read_material(root: Path, test: set[str], findings: Collection[str]) -> Material:
    """What is known of the test images; of boxes those of findings that the challenger scores."""
    rows = manifest.read_manifest(root / "validate" / "manifest.csv")
    rows = rows[rows["image_id"].isin(test)]
    shapes = dict(zip(rows["image_id"], zip(rows["height"], rows["width"], strict=True), strict=True))
    boxes: dict[tuple[str, str], list[Box]] = {}
    for box in manifest.read_boxes(root / "validate" / "boxes.csv").to_dict("records"):
        image_id = box["image_id"]
        if image_id in test and box["finding"] in findings:
            place = in_square((box["x"], box["y"], box["w"], box["h"]), shapes[image_id])
            boxes.setdefault((image_id, box["finding"]), []).append(place)
    return Material(sha256=dict(zip(rows["image_id"], rows["sha256"], strict=True)), boxes=boxes)
