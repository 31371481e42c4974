"""What 1,000 more images cost: in time, disk and transfer, beside a small data set and beside a large one."""

from __future__ import annotations

import contextlib
import io
import resource
import shutil
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
HELD = (5_000, 50_000)
MORE = 1_000
BATCH = 5_000  # images of a batch of those that are held
SIDE = 256  # pixels of a picture that is added
HELD_SIDE = 32  # pixels of those that are held: no ingestion looks at them again
REPEATS = 3
IMAGES_A_PATIENT = 4


@dataclass(frozen=True)
class Cost:
    """What one ingestion took: seconds, processor seconds, bytes more under `CXR_HOME`, bytes more in the remote."""

    seconds: float
    cpu: float
    disk: int
    transfer: int


def section() -> str:
    """The cost of 1,000 images more beside each data set, as a table."""
    with tempfile.TemporaryDirectory(prefix="growth-") as folder:
        return told(measure(Path(folder)))


def measure(folder: Path, *, warm: bool = True) -> dict[int, list[Cost]]:
    """The cost of more images beside each data set; they take turns, and each batch is a new one.

    Args:
        folder: where the installations are made.
        warm: whether a batch is added to each before, so that the tables of the last batch held are at hand.
    """
    homes = {held: _installation(folder / str(held), held) for held in HELD}
    for held in HELD if warm else ():
        _add(folder, homes[held], held, -1)
    costs: dict[int, list[Cost]] = {held: [] for held in HELD}
    for repeat in range(REPEATS):
        for held in HELD:
            costs[held].append(_add(folder, homes[held], held, repeat))
    return costs


def told(costs: dict[int, list[Cost]]) -> str:
    """The medians side by side."""
    note = (
        f"`ingest` of {MORE:,} generated pictures of {SIDE} x {SIDE} pixels, of {MORE // IMAGES_A_PATIENT:,} new "
        f"patients, into a data set of {HELD[0]:,} and of {HELD[1]:,} images, with all checks, DVC's part and the push "
        f"to a local remote: median of {REPEATS}, the two taking turns. Disk is what CXR_HOME grows by, the remote "
        "included; transfer what the remote grows by."
    )
    names = ("seconds", "processor seconds", "MB of disk", "MB of transfer")
    lines = [
        f"## {MORE:,} images more",
        "",
        note,
        "",
        f"| | {HELD[0]:,} held | {HELD[1]:,} held | ratio |",
        "|---|---|---|---|",
    ]
    for at, name in enumerate(names):
        small, large = (
            statistics.median((one.seconds, one.cpu, one.disk / 1e6, one.transfer / 1e6)[at] for one in costs[held])
            for held in HELD
        )
        lines.append(f"| {name} | {small:.3g} | {large:.3g} | {large / small:.2f} |")
    return "\n".join(lines) + "\n"


def _installation(root: Path, held: int):
    from cxr_ops.edges.home import Home

    root.mkdir()
    home = Home.find({"CXR_HOME": str(root), "CXR_PROJECT": str(PROJECT)})
    for number, start in enumerate(range(0, held, BATCH)):
        _ingest(root.parent, home, f"held-{number}", start, min(BATCH, held - start), HELD_SIDE)
    return home


def _add(folder: Path, home, held: int, repeat: int) -> Cost:
    before = _sizes(home)
    start, used = _ingest(folder, home, f"more-{repeat + 1}", held + (repeat + 1) * MORE, MORE, SIDE)
    seconds, cpu = time.perf_counter() - start, _cpu() - used
    after = _sizes(home)
    return Cost(seconds, cpu, after[0] - before[0], after[1] - before[1])


def _ingest(folder: Path, home, name: str, first: int, count: int, side: int) -> tuple[float, float]:
    """Make a folder in the NIH's layout, ingest it, and give the time and processor time when that began."""
    from cxr_ops.stages import ingest

    source = folder / f"source-{home.root.name}"
    shutil.rmtree(source, ignore_errors=True)
    _draw(source, first, count, side)
    start, used = time.perf_counter(), _cpu()
    with contextlib.redirect_stderr(io.StringIO()):
        ingest.run("nih", source, batch=name, home=home)
    return start, used


def _draw(folder: Path, first: int, count: int, side: int) -> None:
    """Noise with the labels of each finding on a tenth of the images; the same number gives the same picture."""
    import cv2
    import numpy as np

    from cxr_ops.labels import FINDINGS, format_labels

    (folder / "images").mkdir(parents=True)
    columns = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    lines = [f"{columns}OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"]
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        patient = 1 + number // IMAGES_A_PATIENT
        labels = format_labels(rng.random(len(FINDINGS)) < 0.1)
        name = f"{patient:08d}_{number % IMAGES_A_PATIENT:03d}.png"
        sex, view = "FM"[patient % 2], ("PA", "AP")[int(rng.integers(2))]
        lines.append(
            f"{name},{labels},{number % IMAGES_A_PATIENT},{patient},{20 + patient % 60},{sex},{view},64,64,0.1,0.1"
        )
        cv2.imwrite(str(folder / "images" / name), rng.integers(0, 256, (side, side), dtype=np.uint8))
    (folder / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _sizes(home) -> tuple[int, int]:
    """Bytes under CXR_HOME, a file with several names counted once, and bytes in the remote."""
    inodes = {}
    remote = 0
    for path in home.root.rglob("*"):
        if path.is_file() and not path.is_symlink():
            found = path.stat()
            inodes[found.st_ino] = found.st_size
            remote += found.st_size if path.is_relative_to(home.remote_folder) else 0
    return sum(inodes.values()), remote


def _cpu() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)
