"""Augmentation: each picture of a batch is moved, turned, scaled and exposed a little differently, where it lies.

What is drawn is what differs between two frontal radiographs of the same person. By default nothing is mirrored: that
would put the heart, the stomach and the side marker on the wrong side, and a heart on the right is a finding.

Draws are made on the CPU for a whole batch, so that every device gets the same and a picture's augmentation does not
depend on how the batch is cut into parts. The functions of torchvision.transforms.v2 draw once for all pictures that
they are given, so here each operation is written for a batch of draws; tests hold it against torchvision's.

Shape suffixes: N images, S side of the picture in pixels; 6, 4, 2 numbers a picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from cxr_ops.params import Train

ERASED_AREA: Final = (0.02, 0.2)  # of a blanked rectangle, as a share of the picture
ERASED_STRETCH: Final = 3.3  # how often the longer side of it holds the shorter one, at most


@dataclass(frozen=True, kw_only=True)
class Draws:
    """What is drawn for N pictures. None stands for what the settings leave out.

    Attributes:
        place_N6: rows of the 2 x 3 matrix from a place in the new picture to one in the old; the side is from -1 to 1.
        tone_N2: what pixels are multiplied with, and what is then added.
        noise_N: seed of each picture's noise, a whole number below 2 ** 32.
        noise: standard deviation of the noise.
        erased_N4: left, top, right and bottom of the blanked rectangle as shares of the side; 0, 0, 0, 0 for none.
    """

    place_N6: npt.NDArray[np.float32] | None
    tone_N2: npt.NDArray[np.float32]
    noise_N: npt.NDArray[np.int64] | None
    noise: float
    erased_N4: npt.NDArray[np.float32] | None

    def __getitem__(self, rows: npt.NDArray[np.int64] | slice) -> Draws:
        """Draws of some of the pictures."""
        return Draws(
            place_N6=None if self.place_N6 is None else self.place_N6[rows],
            tone_N2=self.tone_N2[rows],
            noise_N=None if self.noise_N is None else self.noise_N[rows],
            noise=self.noise,
            erased_N4=None if self.erased_N4 is None else self.erased_N4[rows],
        )


def draw(n: int, rng: np.random.Generator, settings: Train) -> Draws:
    """Draw the augmentation of n pictures.

    Everything is drawn whatever the settings, so that a setting changes its own part of the pictures and no other.

    >>> draws = draw(4, np.random.default_rng(0), Train(augment_contrast=0.5))
    >>> bool((abs(draws.tone_N2[:, 0] - 1) <= 0.5).all()), draws[:2].tone_N2.shape, draws.erased_N4 is None
    (True, (2, 2), True)
    """
    turn, scale, shift = settings.augment_rotation, settings.augment_scale, 2 * settings.augment_shift  # side: 2
    contrast, brightness = settings.augment_contrast, settings.augment_brightness
    angle_N, zoom_N = np.deg2rad(rng.uniform(-turn, turn, n)), 1 / rng.uniform(1 - scale, 1 + scale, n)
    shift_2N = rng.uniform(-shift, shift, (2, n))
    tone_2N = [rng.uniform(1 - contrast, 1 + contrast, n), rng.uniform(-brightness, brightness, n)]
    mirror_N = np.where(rng.random(n) < settings.augment_flip, -1.0, 1.0)
    noise_N = rng.integers(2**32, size=n)
    erased_N = rng.random(n) < settings.augment_erase
    area_N, stretch_N = rng.uniform(*ERASED_AREA, n), ERASED_STRETCH ** rng.uniform(-1, 1, n)
    size_2N = np.sqrt([area_N / stretch_N, area_N * stretch_N])
    corner_2N = rng.random((2, n)) * (1 - size_2N)
    erased_4N = np.concatenate([corner_2N, corner_2N + size_2N]) * erased_N

    cos_N, sin_N = np.cos(angle_N) * zoom_N, np.sin(angle_N) * zoom_N
    place_6N = [cos_N * mirror_N, -sin_N, shift_2N[0], sin_N * mirror_N, cos_N, shift_2N[1]]
    moves = turn or scale or shift or settings.augment_flip
    return Draws(
        place_N6=np.stack(place_6N, axis=1).astype(np.float32) if moves else None,
        tone_N2=np.stack(tone_2N, axis=1).astype(np.float32),
        noise_N=noise_N if settings.augment_noise else None,
        noise=settings.augment_noise,
        erased_N4=erased_4N.T.astype(np.float32) if settings.augment_erase else None,
    )


def apply(x_N1SS: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Augment pictures as drawn, on the device where they are.

    In this order: geometry (bilinear; what lies beyond the border is the border's grey), contrast, brightness, noise,
    and the blanked rectangle (Zhong et al., AAAI 2020), which gets 0, the mean grey.

    Args:
        x_N1SS: normalised pictures.
        draws: of these pictures, in this order.

    >>> x = torch.ones(2, 1, 8, 8)
    >>> still = Train(augment_contrast=0, augment_brightness=0)  # a plain picture stays as it is wherever it is moved
    >>> torch.allclose(apply(x, draw(2, np.random.default_rng(0), still)), x)
    True
    """
    n, _, side, _ = x_N1SS.shape
    device = x_N1SS.device

    def there(drawn: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> torch.Tensor:
        held = torch.from_numpy(drawn)
        # From pinned memory, because a copy from any other makes the processor wait for the GPU.
        return (held.pin_memory() if device.type == "cuda" else held).to(device, non_blocking=True)

    if draws.place_N6 is not None:
        grid_NSS2 = functional.affine_grid(there(draws.place_N6).view(n, 2, 3), list(x_N1SS.shape), align_corners=False)
        x_N1SS = functional.grid_sample(x_N1SS, grid_NSS2, padding_mode="border", align_corners=False)
    tone_N2 = there(draws.tone_N2)
    x_N1SS = x_N1SS * tone_N2[:, 0].view(n, 1, 1, 1) + tone_N2[:, 1].view(n, 1, 1, 1)
    if draws.noise_N is not None:
        x_N1SS = x_N1SS + draws.noise * _normal(there(draws.noise_N), side)
    if draws.erased_N4 is not None:
        left, top, right, bottom = there(draws.erased_N4).view(n, 4, 1, 1, 1).unbind(1)
        centre_S = (torch.arange(side, device=device) + 0.5) / side
        across, down = centre_S.view(1, 1, 1, side), centre_S.view(1, 1, side, 1)
        x_N1SS = x_N1SS.masked_fill((across >= left) & (across < right) & (down >= top) & (down < bottom), 0.0)
    return x_N1SS


def _normal(seed_N: torch.Tensor, side: int) -> torch.Tensor:
    """Normal noise (N, 1, S, S) that follows from each picture's seed alone, on every device the same but for rounding.

    A hash of seed and pixel makes 23 random bits, and the normal quantile a number of them: nothing but the seeds
    travels to the device, and torch's own generators give each device other numbers.
    """
    pixel_1P = _hash(torch.arange(side * side, device=seed_N.device)).view(1, -1)
    bits_NP = _hash(pixel_1P ^ seed_N.view(-1, 1)) >> 9
    noise_NP: torch.Tensor = torch.special.ndtri((2 * bits_NP + 1).float() / 2**24)
    return noise_NP.view(-1, 1, side, side)


def _hash(x: torch.Tensor) -> torch.Tensor:
    """Mix 32 bits (int64, from 0 to 2 ** 32 - 1) well: `lowbias32` of Wellons' hash-prospector.

    The second factor is taken less 2 ** 32, which is the same modulo 2 ** 32 and keeps the product within 64 bits.
    """
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    x = ((x ^ (x >> 15)) * (0x846CA68B - 2**32)) & 0xFFFFFFFF
    return x ^ (x >> 16)
