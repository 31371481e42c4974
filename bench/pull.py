"""A cold `dvc pull` of a batch as tar shards, beside the same images as loose files: from a folder, and from S3."""

from __future__ import annotations

import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

from bench.measure import Row, seconds

IMAGES = 5_000
BYTES = 20_000  # of an image: of the size of a PNG of 224 x 224 pixels; their content does not compress
REPEATS = 3
PROJECT = Path(__file__).resolve().parents[1]
LOOSE, SHARDS = "loose files", "tar shards, as a batch is kept"


def section() -> str:
    """Seconds of a pull into an empty cache and an empty folder."""
    sys.path.insert(0, str(PROJECT / "tests"))
    from services import seaweed  # the tests' own S3 server

    note = (
        f"{IMAGES:,} images of {BYTES // 1000} kB, pulled by DVC into an empty cache and an empty folder, with this "
        "platform's settings (hard links, and every object compared with its digest). S3 is SeaweedFS on this machine."
    )
    lines = ["## A cold pull", "", note, ""]
    lines += [f"| from | kept as | s, median of {REPEATS} | range | ratio |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as until_done:
        root = Path(folder)
        images = _images(root / "images")
        lines += _lines("a folder", _measured(root / "local", images, {}))
        server = until_done.enter_context(seaweed(_made(root / "s3")))
        server.client().create_bucket(Bucket="store")
        there = {**server.environ, "CXR_DVC_REMOTE": "s3://store/dvc"}
        until_done.enter_context(mock.patch.dict(os.environ, there))
        lines += _lines("S3", _measured(root / "remote", images, there))
    return "\n".join(lines) + "\n"


def _lines(source: str, rows: list[Row]) -> list[str]:
    return [
        f"| {source} | {row.name} | {row.median:.3g} | {row.low:.3g} to {row.high:.3g} | {row.ratio:.1f} |"
        for row in rows
    ]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _images(folder: Path) -> Path:
    rng = random.Random(0)
    _made(folder)
    for number in range(IMAGES):
        (folder / f"{number:08d}_000.png").write_bytes(rng.randbytes(BYTES))
    return folder


def _measured(root: Path, images: Path, environ: dict[str, str]) -> list[Row]:
    from cxr_ops.data.shards import write_shards
    from cxr_ops.edges import git
    from cxr_ops.edges.dvc import dvc
    from cxr_ops.edges.home import Home

    home = Home.find({"CXR_HOME": str(_made(root / "home")), "CXR_PROJECT": str(PROJECT), **environ})
    work = _made(root / "work")
    git.git(home, work, "init", "--quiet")
    dvc(home, work, "init", "--quiet")
    shutil.copytree(images, work / "loose")
    write_shards(_made(work / "shards"), ((path.name, path.read_bytes()) for path in sorted(images.iterdir())))
    dvc(home, work, "add", "--quiet", "loose", "shards")
    dvc(home, work, "push", "--quiet")

    def pull(name: str) -> Callable[[], float]:
        def cold() -> float:
            shutil.rmtree(home.dvc_cache)
            shutil.rmtree(work / name)
            start = time.perf_counter()
            dvc(home, work, "pull", "--quiet", f"{name}.dvc")
            taken = time.perf_counter() - start
            assert sum(path.stat().st_size for path in (work / name).iterdir()) >= IMAGES * BYTES
            return taken

        return cold

    return seconds({LOOSE: pull("loose"), SHARDS: pull("shards")}, repeats=REPEATS)
