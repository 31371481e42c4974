"""Pictures taken in and prepared: PNG files of 1024 x 1024 pixels, images a second beside Pillow."""

from __future__ import annotations

import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from bench.measure import rates, table

SIZE = 224
REPEATS = 5
COPIES = 36  # of each picture, each with other pixels, for `ingest` refuses one that it has seen; a batch has many
MANY = 1008  # pictures that are enough for `prepare` to start processes


def section(originals: Path | None) -> str:
    """`prepare`, on the real NIH originals, or on generated radiographs where those are not here."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from cxr_ops.data import shards
    from cxr_ops.data.cache import Picture, pack

    with _pictures(originals) as (work, files, what):
        (work / "batch").mkdir()
        shards.write_shards(work / "batch", ((f.name, f.read_bytes()) for f in files))
        (work / "folder").mkdir()
        (work / "folder" / "all").symlink_to(files[0].parent)
        folder = ImageFolder(
            work / "folder",
            transform=v2.Compose([v2.Grayscale(), v2.Resize((SIZE, SIZE), antialias=True), v2.PILToTensor()]),
        )
        with shards.ShardReader(work / "batch", _digests(files)) as reader:
            pictures = [Picture(file.name, reader.place(file.name), True) for file in files]

        def image_folder(workers: int) -> int:
            return sum(len(x) for x, _ in DataLoader(folder, batch_size=16, num_workers=workers))

        def ours(workers: int, images: int = len(files)) -> int:
            taken = [pictures[n % len(pictures)] for n in range(images)]
            pack(work / "rows.npy", taken, shards.read_place, SIZE, workers=workers)
            return len(taken)

        rows = rates(
            {
                "Pillow, plain loop, one core": lambda: _pillow(files),
                "torchvision ImageFolder, DataLoader, no workers": lambda: image_folder(0),
                "cxr-ops prepare, one thread": lambda: ours(1),
                "torchvision ImageFolder, DataLoader, 2 workers": lambda: image_folder(2),
                "cxr-ops prepare, two threads": lambda: ours(2),
                f"cxr-ops prepare, {MANY:,} pictures, two processes": lambda: ours(2, MANY),
            },
            repeats=REPEATS,
        )
    note = (
        f"{what}, to {SIZE} x {SIZE} grey. cxr-ops reads from a tar shard, compares the SHA-256, checks every chunk of "
        "the PNG before it decodes, resizes by area and writes a memory-mapped file; the peers decode and resize "
        "(Pillow bilinear) only. OpenCV and torch have one thread. Processes are started within the time."
    )
    return table("Image preparation", "images/s", rows, note=note, repeats=REPEATS)


def ingest_section(originals: Path | None) -> str:
    """`ingest`: a batch checked and built, on the same pictures."""
    from cxr_ops.data.checking import batch
    from cxr_ops.data.sources.source import Listing, Row
    from cxr_ops.labels import FINDINGS

    with _pictures(originals) as (work, files, what):
        (work / "images").mkdir()
        listed = []
        for number, file in enumerate(files):
            for copy, data in enumerate(_copies(file.read_bytes())):
                path = work / "images" / f"{number:08d}_{copy:03d}.png"
                path.write_bytes(data)
                listed.append(path)
        image_rows = [
            Row(
                image_id=path.name,
                patient_id=path.name[:8],
                path=path,
                view="PA",
                age=50,
                sex="F",
                labels=(0,) * len(FINDINGS),
                line=line,
            )
            for line, path in enumerate(listed, start=2)
        ]
        names = count()

        def ours(processes: int) -> int:
            listing = Listing(source="bench", table="Data_Entry_2017.csv", rows=image_rows, total=len(image_rows))
            checked = batch.check(listing, "bench", processes=processes)
            if checked.problems:
                raise RuntimeError(checked.problems[0].what)
            return batch.build(work / f"bench-{next(names)}", checked).images

        rows = rates(
            {
                "Pillow, plain loop, one core": lambda: _pillow(listed[::COPIES]),
                "cxr-ops ingest, one process": lambda: ours(1),
                "cxr-ops ingest, two processes": lambda: ours(2),
            },
            repeats=REPEATS,
        )
    note = (
        f"{what}, each {COPIES} times with other pixels under the same row filters. cxr-ops checks every chunk of the "
        "PNG, decodes it, takes the SHA-256 of the file and of the pixels, looks for blank pictures and duplicates, "
        "writes shards and tables and compares each file's SHA-256 again; processes are started within the time, and "
        f"DVC's part (`dvc add` and push) is not in it. Pillow decodes and resizes to {SIZE} x {SIZE} (bilinear) only."
    )
    return table("Image ingestion", "images/s", rows, note=note, repeats=REPEATS)


@contextmanager
def _pictures(originals: Path | None) -> Iterator[tuple[Path, list[Path], str]]:
    """A scratch folder, the pictures' files and what they are, with one thread for whatever would take more."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as scratch:
        if originals is None:
            from cxr_ops.data.synthetic.synth import synthesize

            synthesize(Path(scratch) / "made", images=28, seed=0, size=1024)
            found = sorted((Path(scratch) / "made" / "images").glob("*.png"))
            yield Path(scratch), found, "28 generated radiographs"
        else:
            found = sorted((originals / "images").glob("*.png"))
            yield Path(scratch), found, f"{len(found)} real NIH radiographs as released"


def _pillow(files: list[Path]) -> int:
    import numpy as np
    from PIL import Image

    rows = np.empty((len(files), SIZE, SIZE), np.uint8)
    for i, file in enumerate(files):
        rows[i] = np.asarray(Image.open(file).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return len(rows)


def _digests(files: list[Path]) -> dict[str, str]:
    from cxr_ops.records.base import sha256_file

    return {file.name: sha256_file(file) for file in files}


def _copies(data: bytes) -> Iterator[bytes]:
    """A PNG again and again, each time with another first pixel, and so with other pixels after it."""
    parts, position = [], 8
    while position < len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        parts.append((kind, data[position + 8 : position + 8 + length]))
        position += 12 + length
    header = next(content for kind, content in parts if kind == b"IHDR")
    rows = bytearray(zlib.decompress(b"".join(content for kind, content in parts if kind == b"IDAT")))
    values = 3 if header[9] in (2, 6) else 1  # of a colour picture all three, so that it stays grey
    for step in range(COPIES):
        for at in range(1, 1 + values):
            rows[at] = (rows[at] + step) % 256
        packed = zlib.compress(bytes(rows), 6)
        pieces = [(b"IHDR", header)]
        pieces += [(b"IDAT", packed[start : start + 8192]) for start in range(0, len(packed), 8192)]
        yield data[:8] + b"".join(_part(kind, content) for kind, content in [*pieces, (b"IEND", b"")])


def _part(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))
