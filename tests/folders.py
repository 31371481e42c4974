"""Folders of pictures by class: generated, tiny, and named like Kermany's pictures and Roboflow's exports."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def picture(rng: np.random.Generator, *, ill: bool, size: int = 48) -> np.ndarray:
    """Noise, and a bright patch in one of the lungs of the ill."""
    pixels = rng.integers(40, 120, (size, size)).astype(np.uint8)
    if ill:
        top, left = rng.integers(4, size - 20, 2)
        pixels[top : top + 14, left : left + 14] += 90
    return pixels


def make_folders(root: Path, *, patients: int = 40, size: int = 48, copies: bool = False, seed: int = 0) -> Path:
    """train/, val/ and test/ with NORMAL and PNEUMONIA in Kermany's names, or in Roboflow's with `copies` in train.

    Half of the patients are ill, with two pictures each, one a bacterial and one a viral cause.
    """
    rng = np.random.default_rng(seed)
    for number in range(patients):
        split = ("train", "train", "train", "val" if not copies else "valid", "test")[number % 5]
        ill = number % 2 == 0
        names = (
            [f"person{number}_bacteria_{3 * number}", f"person{number}_virus_{3 * number + 1}"]
            if ill
            else [f"IM-{number:04d}-0001", f"NORMAL2-IM-{number:04d}-0002"]
        )
        folder = root / split / ("PNEUMONIA" if ill else "NORMAL")
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            pixels = picture(rng, ill=ill, size=size)
            if not copies:
                cv2.imwrite(str(folder / f"{name}.jpeg"), pixels)
                continue
            for copy in range(2 if split == "train" else 1):
                hash_ = f"{number:04x}{copy:04x}".ljust(32, "a")
                cv2.imwrite(str(folder / f"{name}_jpeg.rf.{hash_}.jpg"), cv2.flip(pixels, 1) if copy else pixels)
    return root
