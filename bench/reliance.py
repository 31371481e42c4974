"""Are planted shortcuts found, and clean models left in peace? Trains small models on real radiographs; writes a page.

    python -m bench.reliance --minutes 60

Into the radiographs of `CXR_SHARED` (1,019 patients of the NIH's, 256 x 256) marks are burned that come with a finding:
in most of its positive images and few of the others, in training, validation and test alike, as a hospital's habit
would be. A model of the platform's own network is trained on each such set, and on clean ones, and its test side is
scored whole and with each region blurred. What each model lost is kept in `docs/reliance.jsonl`, a line a model, so
that the command goes on where it was ended, here or on another machine. Remove a line to train its model again.

What a model does with a mark is known from a third scoring, which no hospital has: of the same pictures with the marks
drawn at random. A mark counts as learned where that costs at least 0.05 of AUC; what a model did not learn cannot be
found in it, and need not be. The limits of the plan's template are judged; figures are of models with an even and with
an odd number apart, so that what was tried on one half is shown on the other.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ops import api
from cxr_ops import plan as plans
from cxr_ops.data import regions
from cxr_ops.labels import FINDINGS
from cxr_ops.records.evidence import Estimate
from cxr_ops.stats.checks import holm, p_above
from cxr_ops.stats.reliance import measure

Pixels = npt.NDArray[np.uint8]
# Finding -> `shuffled` or a region -> the AUC that is lost; of findings that are judged.
Losses = dict[str, dict[str, Estimate]]

KEPT: Final = Path("docs") / "reliance.jsonl"
MEASURED: Final = "## Measured"
LEARNED: Final = 0.05  # of AUC that random marks cost: from here on a mark counts as learned
POSITIVES: Final = 20  # images of the test side; a finding with fewer is not judged
WITH, WITHOUT = 0.9, 0.1  # share of positive and of negative images that bear the mark
MARKED: Final = ("Pneumonia", "Effusion", "Atelectasis", "Infiltration")  # with enough positive patients here


@dataclass(frozen=True)
class Mark:
    """A mark, where its centre stands in shares of the side, and the region whose blur must find it.

    kind: `letter` as technicians lay on the cassette, `text` as machines burn in, `bar` a bright edge of the picture,
        `line` a drain-like line inside the lung, which no rule of place can find.
    """

    kind: str
    x: float
    y: float
    found_by: tuple[str, ...]


MARKS: Final = {
    "letter in the upper left corner": Mark("letter", 0.08, 0.09, ("corners", "outside")),
    "letter in the upper right corner": Mark("letter", 0.91, 0.08, ("corners", "outside")),
    "text in the lower right corner": Mark("text", 0.86, 0.95, ("corners", "outside")),
    "letter in the lower left corner": Mark("letter", 0.07, 0.92, ("corners", "outside")),
    "text at the lower edge": Mark("text", 0.5, 0.96, ("outside",)),
    "bar at the left edge": Mark("bar", 0.01, 0.5, ("outside",)),
    "letter above the shoulder": Mark("letter", 0.2, 0.05, ("outside",)),
    "letter at the right edge": Mark("letter", 0.96, 0.4, ("outside",)),
    "drain-like line in the lung": Mark("line", 0.3, 0.45, ()),
}
# Model number -> (finding, mark) pairs; every third model is clean.
SETS: Final[tuple[tuple[tuple[str, str], ...], ...]] = tuple(
    ()
    if number % 3 == 2
    else (
        (MARKED[number % 4], list(MARKS)[number % 4]),
        (MARKED[(number + 1) % 4], list(MARKS)[4 + (number // 2) % 5]),
    )
    for number in range(24)
)


def draw(pixels: Pixels, mark: Mark, rng: np.random.Generator) -> Pixels:
    """Burn a mark in, shifted by up to 2 % of the side."""
    side = pixels.shape[0]
    x, y = (int((place + rng.uniform(-0.02, 0.02)) * side) for place in (mark.x, mark.y))
    out = pixels.copy()
    white = int(rng.integers(215, 250))
    if mark.kind == "letter":
        cv2.putText(out, str(rng.choice(["L", "R"])), (x - 6, y + 7), cv2.FONT_HERSHEY_SIMPLEX, 0.75, white, 2)
    elif mark.kind == "text":
        cv2.putText(out, "PORTABLE", (x - 30, y + 4), cv2.FONT_HERSHEY_PLAIN, 0.8, white, 1)
    elif mark.kind == "bar":
        out[side // 4 : 3 * side // 4, : max(4, x + 4)] = white
    else:
        curve = np.array([(x, y), (x + 12, y + 30), (x + 10, y + 70), (x - 20, y + 95)], np.int32)
        cv2.polylines(out, [curve], isClosed=False, color=white, thickness=2)
    return out


def make(number: int, source: Path, out: Path) -> Path:
    """Write the pictures of one set with their marks, and a table; returns the table."""
    table = pd.read_csv(next(source.glob("Data_Entry*.csv")))
    rng = np.random.default_rng([number, 7])
    (out / "images").mkdir(parents=True)
    for name, labels in zip(table["Image Index"], table["Finding Labels"], strict=True):
        pixels = _read(source / "images" / name)
        for finding, mark in SETS[number]:
            if rng.random() < (WITH if finding in labels.split("|") else WITHOUT):
                pixels = draw(pixels, MARKS[mark], rng)
        cv2.imwrite(str(out / "images" / name), pixels)
    path = out / "labels.csv"
    table.to_csv(path, index=False)
    return path


def train(number: int, source: Path) -> Losses:
    """Train one model, score its test side whole and in each other way, and measure what it loses."""
    with TemporaryDirectory() as folder:
        return _train(number, source, Path(folder))


def _train(number: int, source: Path, work: Path) -> Losses:
    table = make(number, source, work)
    data = api.pack(
        work / "images", table, work / "packed", image_size=96, validation=0.1, test=0.4, salt=f"set {number}"
    )
    model = api.train(data, weights="none", epochs=8, batch_size=32, learning_rate=1e-3, seed=number, threads=1)
    rng = np.random.default_rng([number, 8])

    def shuffled(name: str) -> Pixels:
        pixels = _read(source / "images" / name)
        for _, mark in SETS[number]:
            if rng.random() < 0.5:
                pixels = draw(pixels, MARKS[mark], rng)
        return pixels

    def less(region: regions.Region) -> Callable[[str], Pixels]:
        return lambda name: regions.blurred(_read(work / "images" / name), region)

    ways = {"shuffled": shuffled} | {region: less(region) for region in regions.REGIONS}
    scores = {way: score(model, data, picture) for way, picture in ways.items()}
    whole = score(model, data, lambda name: _read(work / "images" / name))
    truth = data.test[list(FINDINGS)].to_numpy(np.float64, na_value=np.nan)
    patients = data.test["patient_id"].to_numpy(str)
    blurred = {way: {"challenger": held} for way, held in scores.items()}
    rows = measure(FINDINGS, truth, patients, {"challenger": whole}, blurred, 0.95)
    return {
        row.finding: {
            way: loss
            for way, figures in row.regions.items()
            if isinstance(loss := figures.loss["challenger"], Estimate) and positives >= POSITIVES
        }
        for row, positives in zip(rows, np.nansum(truth, axis=0), strict=True)
    }


def score(model: api.Model, data: api.Data, picture: Callable[[str], Pixels]) -> npt.NDArray[np.float32]:
    """Scores of the test side, (N, 14), of each image's picture as given."""
    from cxr_ops.model import scoring

    return scoring.score(model.loaded, (picture(name) for name in data.test["image_id"]))


def _read(path: Path) -> Pixels:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_GRAYSCALE), dtype=np.uint8)


# ------------------------------------------------------------------------------------------------- results


@dataclass
class Tally:
    """What was found of models.

    learned: mark -> (found, learned) as counts. accused: models with a finding accused that bears no learned mark.
    """

    models: int = 0
    findings: int = 0
    accused: int = 0
    wrong: int = 0
    learned: dict[str, list[int]] = field(default_factory=dict)
    unlearned: int = 0


def tally(held: dict[int, Losses], limits: plans.Reliance) -> Tally:
    """Judge the models as a first release is judged: by the plan's limits, with Holm's correction."""
    found = Tally()
    for number, losses in held.items():
        marks = dict(SETS[number])
        ps = {
            (finding, region): p_above(lost[region], limit)
            for finding, lost in losses.items()
            for region, limit in limits.limits.items()
            if region in lost
        }
        adjusted = dict(zip(ps, holm(list(ps.values())), strict=True))
        seen = {finding for (finding, _), p in adjusted.items() if p <= limits.error}
        costs = {finding: lost["shuffled"].value for finding, lost in losses.items() if "shuffled" in lost}
        learned = {finding for finding in marks if costs.get(finding, 0.0) >= LEARNED}
        found.models += 1
        found.findings += len({finding for finding, _ in ps} - learned)
        found.wrong += len(seen - learned)
        found.accused += bool(seen - learned)
        found.unlearned += len(marks) - len(learned)
        for finding in learned:
            count = found.learned.setdefault(marks[finding], [0, 0])
            count[0] += finding in seen
            count[1] += 1
    return found


def read(place: Path) -> dict[int, Losses]:
    """What was kept, by the model's number."""
    if not place.is_file():
        return {}
    lines = [json.loads(line) for line in place.read_text(encoding="utf-8").splitlines()]
    return {
        line["model"]: {
            finding: {way: Estimate(**loss) for way, loss in ways.items()} for finding, ways in line["lost"].items()
        }
        for line in sorted(lines, key=lambda line: int(line["model"]))
    }


def keep(place: Path, number: int, losses: Losses) -> None:
    """Add a model's line."""
    told = {
        finding: {way: _rounded(loss.model_dump(exclude_none=True)) for way, loss in ways.items()}
        for finding, ways in losses.items()
    }
    with place.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"model": number, "lost": told}) + "\n")


def _rounded(values: dict[str, Any]) -> dict[str, Any]:
    """Without the interval, which is not judged; other numbers to six digits."""
    return {
        name: float(f"{value:.6g}") if isinstance(value, float) else value
        for name, value in values.items()
        if name not in ("interval", "se_image")
    }


def page(held: dict[int, Losses], limits: plans.Reliance) -> str:
    """The measured part of docs/reliance.md."""
    done = list(held)
    halves = {
        half: tally({n: losses for n, losses in held.items() if n % 2 == odd}, limits)
        for odd, half in enumerate(("even", "odd"))
    }
    lines = [
        f"{len(done)} models, {sum(not SETS[n] for n in done)} of them on pictures without marks.",
        "",
        "| models | of outer marks that were learned, found | clean findings accused | models accused wrongly |",
        "|---|---|---|---|",
    ]
    for name, half in halves.items():
        outer = [count for mark, count in half.learned.items() if MARKS[mark].found_by]
        hit, of = (sum(column) for column in zip(*outer, strict=True)) if outer else (0, 0)
        lines.append(f"| {half.models} {name} | {hit} of {of} | {half.wrong} of {half.findings} | {half.accused} |")
    lines += ["", "| mark | learned by | found in |", "|---|---|---|"]
    for mark in MARKS:
        counts = [half.learned.get(mark, [0, 0]) for half in halves.values()]
        hit, of = (sum(column) for column in zip(*counts, strict=True))
        tried = sum(mark in dict(SETS[n]).values() for n in done)
        lines.append(f"| {mark} | {of} of {tried} models | {hit} of {of} |")
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no further model after so many")
    given = parser.parse_args()
    source = Path(os.environ["CXR_SHARED"]) / "data" / "nih-sample"
    start = time.monotonic()
    limits = plans.load(Path("pccp.yaml")).performance.reliance
    assert limits is not None
    place = Path("docs") / "reliance.md"
    before, _, _ = place.read_text(encoding="utf-8").partition(MEASURED)
    for number in range(len(SETS)):
        if number not in read(KEPT):
            if time.monotonic() - start > 60.0 * given.minutes:
                break
            keep(KEPT, number, train(number, source))
        place.write_text(f"{before}{MEASURED}\n\n{page(read(KEPT), limits)}", encoding="utf-8")


if __name__ == "__main__":
    main()
