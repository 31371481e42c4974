"""Augmentation: its geometry against torchvision, its noise against the normal distribution, its bounds and seeds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as vision

from cxr_ops.model.augment import ERASED_AREA, Draws, _hash, apply, draw
from cxr_ops.model.batches import parts
from cxr_ops.params import Train

STILL = dict.fromkeys(
    ("augment_rotation", "augment_shift", "augment_scale", "augment_contrast", "augment_brightness"), 0.0
)
EVERYTHING = Train(augment_noise=0.3, augment_erase=0.5, augment_flip=0.5)


def augmented(x: torch.Tensor, settings: Train, seed: int = 0) -> torch.Tensor:
    return apply(x, draw(len(x), np.random.default_rng(seed), settings))


def smooth_pictures(n: int, side: int) -> torch.Tensor:
    """Noise, blurred so that two ways of resampling agree."""
    noise = np.random.default_rng(5).normal(size=(n, 1, side, side))
    return torch.from_numpy(ndimage.gaussian_filter(noise, (0, 0, 3, 3)) * 10).float()


def test_augmentation_is_small_seeded_and_never_mirrors() -> None:
    """A spot stays within the stated shift, turn and scale of its place and on its side; the seed decides where."""
    x = torch.full((64, 1, 64, 64), -1.0)
    x[:, :, 14:18, 10:14] = 1.0  # centre (11.5, 15.5): 20.5 left of the middle, 16.5 above it
    moved = augmented(x, Train(), 1)
    assert torch.equal(moved, augmented(x, Train(), 1))
    assert not torch.equal(moved, augmented(x, Train(), 2))
    mass = (moved - moved.amin(dim=(1, 2, 3), keepdim=True))[:, 0]
    mass = torch.where(mass > 0.5 * mass.amax(dim=(1, 2), keepdim=True), mass, 0.0)
    grid = torch.arange(64.0)
    columns = (mass.sum(dim=1) * grid).sum(dim=1) / mass.sum(dim=(1, 2))
    rows = (mass.sum(dim=2) * grid).sum(dim=1) / mass.sum(dim=(1, 2))
    # 5 % of 64 for the shift, 8 % and sin(7 degrees) of the distance from the middle, one pixel for the resampling
    bound = 1.08 * 3.2 + 0.09 * 26.4 + 0.122 * 26.4 + 1
    assert (torch.hypot(columns - 11.5, rows - 15.5) < bound * 2**0.5).all()
    assert (columns < 28).all()
    assert columns.std() > 1
    assert rows.std() > 1


def test_geometry_is_torchvisions() -> None:
    """Turn, scale, shift and mirror image are torchvision's affine and horizontal_flip of each picture by itself."""
    side, n = 64, 12
    x = smooth_pictures(n, side)
    settings = Train(augment_contrast=0, augment_brightness=0, augment_flip=0.5, augment_rotation=20, augment_shift=0.1)
    draws = draw(n, np.random.default_rng(3), settings)
    moved = apply(x, draws)
    flipped = 0
    for picture, place, ours in zip(x, draws.place_N6.astype(float), moved, strict=True):
        matrix = place.reshape(2, 3)
        mirrored = np.linalg.det(matrix[:, :2]) < 0
        matrix[:, 0] *= -1 if mirrored else 1
        # new place -> old place is zoom * turn + shift; torchvision takes the way back, in pixels of the new picture
        scale = np.linalg.det(matrix[:, :2]) ** -0.5
        angle = np.rad2deg(np.arctan2(matrix[0, 1], matrix[0, 0]))
        shift = -np.linalg.solve(matrix[:, :2], matrix[:, 2]) * side / 2
        both = torch.cat([picture, torch.ones_like(picture)])  # the second tells what comes from beyond the border
        both = vision.affine(
            both, angle, shift.tolist(), scale, [0.0], interpolation=v2.InterpolationMode.BILINEAR, fill=0
        )
        theirs, inside = (vision.horizontal_flip(both) if mirrored else both).split(1)
        flipped += mirrored
        kept = inside > 0.9999
        assert kept.float().mean() > 0.6
        torch.testing.assert_close(ours[kept], theirs[kept], atol=1e-3, rtol=0)
    assert 0 < flipped < n


@pytest.mark.parametrize(
    ("name", "value"), [("augment_rotation", 12.0), ("augment_scale", 0.3), ("augment_shift", 0.2)]
)
def test_each_geometric_setting_reaches_its_bound_and_no_further(name: str, value: float) -> None:
    """Turn, scale and shift are spread evenly up to the setting, each by itself."""
    place = draw(2000, np.random.default_rng(0), Train(**{**STILL, name: value})).place_N6.astype(float)
    drawn = {
        "augment_rotation": np.rad2deg(np.arctan2(place[:, 3], place[:, 0])),
        "augment_scale": 1 / np.hypot(place[:, 0], place[:, 3]) - 1,
        "augment_shift": place[:, [2, 5]].ravel() / 2,
    }
    for other, values in drawn.items():
        if other == name:
            assert stats.kstest(values, stats.uniform(-value, 2 * value).cdf).pvalue > 1e-3
            assert abs(values).max() <= value * (1 + 1e-5)
        else:
            assert values == pytest.approx(0, abs=1e-5)


def test_contrast_and_brightness_are_a_line_within_bounds() -> None:
    """Grey g becomes a * g + b, with a and b spread evenly within the settings."""
    x = torch.tensor([0.0, 1.0]).repeat_interleave(32).view(1, 1, 1, 64).expand(1000, 1, 64, 64)
    new = augmented(x, Train(**{**STILL, "augment_contrast": 0.4, "augment_brightness": 0.7}))
    low, high = new[:, 0, :, 0], new[:, 0, :, -1]
    assert (low == low[:, :1]).all()
    assert stats.kstest((high - low)[:, 0].double(), stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3
    assert stats.kstest(low[:, 0].double(), stats.uniform(-0.7, 1.4).cdf).pvalue > 1e-3


def test_noise_is_normal_and_of_its_own_for_each_picture() -> None:
    """Noise has the stated standard deviation and a normal distribution, and no pixel or picture knows of another."""
    noise = augmented(torch.zeros(16, 1, 64, 64), Train(**STILL, augment_noise=0.25)).double()[:, 0]
    assert stats.kstest(noise.ravel(), stats.norm(scale=0.25).cdf).pvalue > 1e-3
    for picture in noise:
        assert stats.kstest(picture.ravel(), stats.norm(scale=0.25).cdf).pvalue > 1e-4
    across = (noise[:, :, 1:] * noise[:, :, :-1]).mean() / 0.25**2
    down = (noise[:, 1:] * noise[:, :-1]).mean() / 0.25**2
    assert abs(across) < 4 / noise.numel() ** 0.5
    assert abs(down) < 4 / noise.numel() ** 0.5
    between = np.corrcoef(noise.reshape(16, -1))[np.triu_indices(16, 1)]
    assert abs(between).max() < 4.5 / 64


def test_the_hash_is_32_bit_arithmetic() -> None:
    """The hash in 64-bit integers is the published one in unsigned 32-bit arithmetic, which wraps."""
    x = np.concatenate([np.arange(4), [2**32 - 1], np.random.default_rng(0).integers(2**32, size=1000)]).astype(
        np.uint32
    )
    expected = x.copy()
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        expected = (expected ^ (expected >> np.uint32(shift))) * np.uint32(factor)
    assert np.array_equal(_hash(torch.from_numpy(x.astype(np.int64))).numpy(), expected)


def test_mirror_images_are_as_frequent_as_asked() -> None:
    """A share of `augment_flip` of the pictures is mirrored, and the others keep their place."""
    x = torch.arange(32.0).expand(2000, 1, 32, 32)
    new = augmented(x, Train(**STILL, augment_flip=0.2))[:, 0, 0]
    mirrored = new[:, 0] > new[:, -1]
    assert mirrored.double().mean() == pytest.approx(0.2, abs=0.04)
    expected = torch.where(mirrored[:, None], x[:, 0, 0].flip(1), x[:, 0, 0])
    torch.testing.assert_close(new, expected, atol=1e-4, rtol=0)


def test_a_rectangle_is_blanked_as_often_as_asked() -> None:
    """The stated share of pictures gets one rectangle of the mean grey with the stated area; the others stay."""
    x = torch.ones(2000, 1, 50, 50)
    new = augmented(x, Train(**STILL, augment_erase=0.3))[:, 0]
    blank = new == 0
    assert torch.equal(new, torch.where(blank, 0.0, 1.0))
    hit = blank.any(dim=(1, 2))
    assert hit.double().mean() == pytest.approx(0.3, abs=0.04)
    height, width = blank[hit].any(dim=2).sum(dim=1), blank[hit].any(dim=1).sum(dim=1)
    assert torch.equal(height * width, blank[hit].sum(dim=(1, 2)))  # whole rectangles
    area = blank[hit].double().mean(dim=(1, 2))
    # rounding to pixels is one either way; the area is spread evenly, so its mean is in the middle
    assert area.mean() == pytest.approx(np.mean(ERASED_AREA), abs=0.01)
    assert ERASED_AREA[0] / 2 < area.min()
    assert area.max() < ERASED_AREA[1] * 1.2
    assert (height > width).double().mean() == pytest.approx(0.47, abs=0.08)  # a few are square
    where = blank[hit].double().mean(dim=0)
    assert torch.allclose(where.mean(dim=0), where.mean(dim=0).flip(0), atol=0.08)


def test_nothing_asked_for_changes_nothing() -> None:
    """With every setting at 0 pictures keep their bits; with nothing drawn they are resampled onto themselves."""
    x = torch.randn(5, 1, 32, 32)
    assert torch.equal(augmented(x, Train(**STILL)), x)
    torch.testing.assert_close(augmented(x, Train(**STILL, augment_flip=1e-12)), x, atol=1e-4, rtol=0)


def test_a_setting_changes_its_own_part_only() -> None:
    """Noise, erasing and mirroring leave all other draws as they are, so that an ablation compares like with like."""
    plain, more = (draw(9, np.random.default_rng(1), settings) for settings in (Train(), EVERYTHING))
    assert np.array_equal(plain.tone_N2, more.tone_N2)
    assert np.array_equal(abs(plain.place_N6), abs(more.place_N6))
    assert (plain.noise_N, plain.erased_N4) == (None, None)


def test_parts_get_what_the_batch_drew() -> None:
    """A picture is augmented alike, to the bit, whether its batch is worked through whole or in parts."""
    x = torch.randn(11, 1, 40, 40)
    draws = draw(11, np.random.default_rng(2), EVERYTHING)
    whole = apply(x, draws)
    for most in (2, 3, 5):
        assert torch.equal(torch.cat([apply(x[rows], draws[rows]) for rows in parts(np.arange(11), most)]), whole)
    assert isinstance(draws[2:4], Draws)
    assert not torch.equal(apply(x, replace(draws, noise_N=draws.noise_N + 1)), whole)
