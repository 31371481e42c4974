"""Table work at the size of the NIH release: 112,120 rows read, checked, built, validated and split."""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

IMAGES = 112_120
PATIENTS = 30_805
SIDE = 32  # pixels, the least that the suite takes: what is measured is the table
REPEATS = 3
PROJECT = Path(__file__).resolve().parents[1]
SUITES = [PROJECT / "expectations" / name for name in ("table.json", "images.json")]
# The expectations of those suites that pandera has a like of: 13, by column and the end of their names.
ALIKE = {
    "image_id": ("not_be_null", "be_unique", "match_regex"),
    "patient_id": ("not_be_null", "match_regex"),
    "sha256": ("not_be_null", "be_unique", "match_regex"),
    "view": ("be_in_set",),
    "sex": ("be_in_set",),
    "age": ("be_between",),
    "width": ("be_between",),
    "height": ("be_between",),
}


def section() -> str:
    """Each step in seconds, and the most memory that the process held."""
    told = [_in_a_process() for _ in range(REPEATS)]
    note = (
        f"{IMAGES:,} generated rows of {PATIENTS:,} patients in the NIH release's layout, each with a picture of its "
        f"own of {SIDE} x {SIDE} pixels. DVC's part is not in it. Memory is the most that the process held up to the "
        "end of the step, without the processes that decode. The last two rows are the same 13 checks, of a frame that "
        "is in memory, after the libraries are imported."
    )
    lines = [
        "## The table of the whole release",
        "",
        note,
        "",
        f"| step | seconds, median of {REPEATS} | range | MB held at most |",
        "|---|---|---|---|",
    ]
    for step in told[0]["steps"]:
        seconds = sorted(run["steps"][step][0] for run in told)
        held = max(run["steps"][step][1] for run in told)
        lines.append(
            f"| {step} | {seconds[len(seconds) // 2]:.3g} | {seconds[0]:.3g} to {seconds[-1]:.3g} | {held:.0f} |"
        )
    return "\n".join(lines) + "\n"


def _in_a_process() -> dict[str, object]:
    command = [sys.executable, "-m", "bench.tables"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=PROJECT)
    return json.loads(done.stdout.splitlines()[-1])


def _make(folder: Path) -> None:
    import cv2
    import numpy as np

    from cxr_ops.labels import FINDINGS

    rng = np.random.default_rng(0)
    names = [name.replace("_", " ") if name != "Pleural_Thickening" else name for name in FINDINGS]
    (folder / "images").mkdir()
    patients = np.sort(np.concatenate([np.arange(PATIENTS), rng.integers(0, PATIENTS, IMAGES - PATIENTS)]))
    with (folder / "Data_Entry_2017.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(
            (
                *("Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender"),
                *("View Position", "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]", ""),
            )
        )
        follow_up = 0
        for number, patient in enumerate(patients):
            follow_up = follow_up + 1 if number and patients[number - 1] == patient else 0
            name = f"{patient + 1:08d}_{follow_up:03d}.png"
            found = [names[at] for at in np.flatnonzero(rng.random(len(names)) < 0.05)]
            sex, view = "MF"[patient % 2], ("PA", "AP")[number % 5 > 2]
            labels = "|".join(found) or "No Finding"
            size = (2500, 2048, 0.168, 0.168, "")
            table.writerow((name, labels, follow_up, patient + 1, 20 + patient % 60, sex, view, *size))
            picture = rng.integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
            (folder / "images" / name).write_bytes(cv2.imencode(".png", picture)[1].tobytes())


def _measure() -> dict[str, object]:
    import great_expectations as gx  # noqa: F401 - its import is not measured

    from cxr_ops.data import manifest, splits, validation
    from cxr_ops.data.checking import batch
    from cxr_ops.data.sources import nih
    from cxr_ops.params import Params

    steps: dict[str, tuple[float, float]] = {}

    def timed(name: str, work: Callable[[], object]) -> object:
        start = time.perf_counter()
        found = work()
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        steps[name] = (time.perf_counter() - start, held)
        return found

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _make(folder)
        listing = timed("read the table", lambda: nih.read_folder(folder))
        checked = timed("decode the pictures, look for duplicates", lambda: batch.check(listing, "release"))
        if checked.problems:
            raise RuntimeError(checked.problems[0])
        timed("write shards and tables", lambda: batch.build(folder / "release", checked))
        frame = timed("read the manifest again", lambda: manifest.read_manifest(folder / "release" / "manifest.csv"))
        boxes = checked.boxes
        suites = [PROJECT / name for name in Params().validate_.suites]
        pixels = checked.pixels["pixels_sha256"]
        found = timed("validate by all suites", lambda: validation.validate(frame, boxes, suites, pixels=pixels))
        if not found.passed:
            raise RuntimeError(found.failures[0].says)
        timed("write the page", lambda: validation.page(found, frame))
        timed("split", lambda: splits.assign(frame, **Params().split.model_dump()))
        alike = _alike(folder)
        schema = _schema(alike)
        validation.validate(frame.head(100), boxes, [alike])  # warm-up
        schema.validate(frame.head(100), lazy=True)
        timed("13 checks by great-expectations", lambda: validation.validate(frame, boxes, [alike]))
        timed("13 checks by pandera", lambda: schema.validate(frame, lazy=True))
    return {"steps": steps}


def _alike(folder: Path) -> Path:
    """The suites cut down to the checks that pandera has, as one file."""
    suite: dict[str, Any] = {"name": "alike"}
    suite["expectations"] = [
        one
        for path in SUITES
        for one in json.loads(path.read_text(encoding="utf-8"))["expectations"]
        if one["type"].endswith(ALIKE.get(one["kwargs"]["column"], ())) and "mostly" not in one["kwargs"]
    ]
    if len(suite["expectations"]) != 13:
        raise RuntimeError(f"the suites have {len(suite['expectations'])} of the 13 checks: mend bench/tables.py")
    path = folder / "alike.json"
    path.write_text(json.dumps(suite), encoding="utf-8")
    return path


def _schema(suite: Path) -> Any:
    """Those checks as a pandera schema."""
    import pandera.pandas as pa

    columns: dict[str, dict[str, Any]] = {}
    for one in json.loads(suite.read_text(encoding="utf-8"))["expectations"]:
        says = one["kwargs"]
        column = columns.setdefault(says["column"], {"checks": [], "nullable": True})
        if one["type"].endswith("not_be_null"):
            column["nullable"] = False
        elif one["type"].endswith("be_unique"):
            column["unique"] = True
        elif one["type"].endswith("match_regex"):
            column["checks"].append(pa.Check.str_matches(says["regex"]))
        elif one["type"].endswith("be_in_set"):
            column["checks"].append(pa.Check.isin(says["value_set"]))
        else:
            column["checks"].append(pa.Check.in_range(says["min_value"], says["max_value"]))
    return pa.DataFrameSchema({name: pa.Column(**says) for name, says in columns.items()})


if __name__ == "__main__":
    print(json.dumps(_measure()))
