"""Image preparation: PNG files of 1024 x 1024 pixels to packed rows of 224 x 224, images a second."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.measure import rates, table

SIZE = 224
REPEATS = 5


def section(originals: Path | None) -> str:
    """Measure on the real NIH originals, or on generated radiographs where those are not here."""
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from cxr_ops.data.cache import pack
    from cxr_ops.data.shards import ShardReader, write_shards

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        if originals is None:
            from cxr_ops.data.synthetic.synth import synthesize

            synthesize(work / "made", images=28, seed=0, size=1024)
            files, what = sorted((work / "made" / "images").glob("*.png")), "28 generated radiographs"
        else:
            files, what = sorted((originals / "images").glob("*.png")), "28 real NIH radiographs as released"
        (work / "batch").mkdir()
        write_shards(work / "batch", ((f.name, f.read_bytes()) for f in files))
        reader = ShardReader(work / "batch")
        (work / "folder").mkdir()
        (work / "folder" / "all").symlink_to(files[0].parent)
        folder = ImageFolder(
            work / "folder",
            transform=v2.Compose([v2.Grayscale(), v2.Resize((SIZE, SIZE), antialias=True), v2.PILToTensor()]),
        )

        def plain_loop() -> int:
            rows = np.empty((len(files), SIZE, SIZE), np.uint8)
            for i, file in enumerate(files):
                rows[i] = np.asarray(Image.open(file).convert("L").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
            return len(rows)

        def image_folder(workers: int) -> int:
            return sum(len(x) for x, _ in DataLoader(folder, batch_size=16, num_workers=workers))

        def ours(threads: int) -> int:
            ids = [file.name for file in files]
            pack(work / "rows.npy", ids, reader.read, SIZE, measured=[True] * len(ids), threads=threads)
            return len(ids)

        rows = rates(
            {
                "PIL, plain loop, one core": plain_loop,
                "torchvision ImageFolder, DataLoader, no workers": lambda: image_folder(0),
                "cxr-ops prepare, one thread": lambda: ours(1),
                "torchvision ImageFolder, DataLoader, 2 workers": lambda: image_folder(2),
                "cxr-ops prepare, two threads": lambda: ours(2),
            },
            repeats=REPEATS,
        )
        reader.close()
    note = (
        f"{what}, to {SIZE} x {SIZE} grey. cxr-ops checks every chunk of the PNG before it decodes, reads from a tar "
        "shard, resizes by area and writes a memory-mapped file; the peers decode and resize (PIL bilinear) only."
    )
    return table("Image preparation", "images/s", rows, note=note, repeats=REPEATS)
