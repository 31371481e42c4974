"""Pictures fed to training: batches from the packed cache beside a DataLoader that decodes a PNG each time."""

from __future__ import annotations

import tempfile
from pathlib import Path

from bench.measure import rates, table

IMAGES = 2000
STORED = 256
SIZE = 224
BATCH = 64
REPEATS = 5


def section() -> str:
    """An epoch of generated pictures, in random order."""
    import cv2
    import numpy as np
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms import v2

    from cxr_ops.data.synthetic.synth import synthesize
    from cxr_ops.model import network, package, pretrained

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    terms = package.contract(image_size=SIZE, mean=pretrained.MEAN, std=pretrained.STD, training={})
    with tempfile.TemporaryDirectory() as scratch:
        synthesize(Path(scratch) / "made", images=100, seed=0, size=STORED)
        drawn = sorted((Path(scratch) / "made" / "images").glob("*.png"))
        files = [drawn[n % len(drawn)] for n in range(IMAGES)]
        pixels = np.lib.format.open_memmap(
            Path(scratch) / "images.npy", mode="w+", dtype=np.uint8, shape=(IMAGES, STORED, STORED)
        )
        for row, file in enumerate(files):
            pixels[row] = np.asarray(Image.open(file))
        pixels.flush()
        rng = np.random.default_rng(0)

        class Pngs(Dataset):
            change = v2.Compose(
                [
                    v2.RandomCrop(SIZE),
                    v2.PILToTensor(),
                    v2.ToDtype(torch.float32, scale=True),
                    v2.Normalize([pretrained.MEAN], [pretrained.STD]),
                ]
            )

            def __len__(self) -> int:
                return IMAGES

            def __getitem__(self, row: int) -> torch.Tensor:
                return self.change(Image.open(files[row]).convert("L"))

        def loader(workers: int) -> int:
            return sum(len(x) for x in DataLoader(Pngs(), batch_size=BATCH, shuffle=True, num_workers=workers))

        def gathered(*, finished: bool) -> int:
            fed = 0
            for rows in np.array_split(rng.permutation(IMAGES), -(-IMAGES // BATCH)):
                batch = torch.from_numpy(pixels[rows])
                if finished:
                    top, left = rng.integers(0, STORED - SIZE + 1, 2)
                    batch = network.to_tensor(batch[:, top : top + SIZE, left : left + SIZE], terms)
                fed += len(batch)
            return fed

        rows = rates(
            {
                "DataLoader, Pillow and transforms.v2, no workers": lambda: loader(0),
                "DataLoader, Pillow and transforms.v2, 2 workers": lambda: loader(2),
                "packed rows: gathered, cropped, normalised": lambda: gathered(finished=True),
                "packed rows: gathered, as `train` does for a device": lambda: gathered(finished=False),
            },
            repeats=REPEATS,
        )
    note = (
        f"{IMAGES:,} pictures of {STORED} x {STORED} in random order, batches of {BATCH}, one thread, files in the "
        f"page cache. Each is cropped to {SIZE} x {SIZE} at random (packed: one crop a batch) and normalised; the last "
        "row stops at the bytes of a batch, which `train` augments and normalises on the device."
    )
    return table("Feeding a batch", "images/s", rows, note=note, repeats=REPEATS)
