"""Probabilities from source pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ops.data.checking import decode
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network, package, scoring


def test_scores_are_the_networks(
    package_folder: Path, net: network.ChestNet, terms: dict, radiographs: list[np.ndarray]
) -> None:
    """Scores are the sigmoid of the network's logits of each picture, resized and normalised as the contract says."""
    scores = scoring.score(package.load(package_folder), iter(radiographs), batch_size=2)
    small = np.stack([decode.to_square(pixels, 64) for pixels in radiographs])
    logits = net(torch.from_numpy((small[:, None] / 255 - 0.449) / 0.226).float()).numpy()
    assert scores.shape == (5, 14)
    assert scores.dtype == np.float32
    assert np.allclose(scores, 1 / (1 + np.exp(-logits)), atol=1e-5)


def test_the_same_list_gives_the_same_bits(package_folder: Path, radiographs: list[np.ndarray]) -> None:
    """Scored twice, a list has the same bits; in batches of another size it has the same probabilities to 1e-5."""
    model = package.load(package_folder)
    together = scoring.score(model, radiographs, batch_size=4)
    assert np.array_equal(together, scoring.score(model, radiographs, batch_size=4))
    alone = [scoring.score(model, [pixels]) for pixels in radiographs]
    assert np.abs(together - np.concatenate(alone)).max() < 1e-5


def test_float32_is_not_rounded_on_a_gpu(package_folder: Path, radiographs: list[np.ndarray]) -> None:
    """While the network works cuDNN may not take ten bits for a float32, nor choose its kernels by timing them."""
    model = package.load(package_folder)
    seen = []

    def look(*_: object) -> None:
        cudnn = torch.backends.cudnn
        seen.append((cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic))

    model.net.register_forward_pre_hook(look)
    before = torch.backends.cudnn.allow_tf32
    scoring.score(model, radiographs)
    assert seen == [(False, False, True)]
    assert torch.backends.cudnn.allow_tf32 == before


def test_a_finding_that_was_not_trained_has_no_score(
    net: network.ChestNet, terms: dict, package_folder: Path, radiographs: list[np.ndarray], tmp_path: Path
) -> None:
    """The columns of findings that the contract does not list are NaN, the others as without the list."""
    some = ["Cardiomegaly", "Mass", "Hernia"]
    listed = package.contract(image_size=64, mean=0.449, std=0.226, training=terms["training"], trained=some)
    package.write(tmp_path / "package", state=net.state_dict(), contract=listed, patients=set())
    model, whole = package.load(tmp_path / "package"), package.load(package_folder)
    assert model.trained == tuple(some)
    for pixels, score in (
        (radiographs, scoring.score),
        (np.stack([whole.preprocess(image) for image in radiographs]), scoring.score_packed),
    ):
        scores, others = score(model, pixels), score(whole, pixels)
        kept = [FINDINGS.index(name) for name in some]
        assert np.array_equal(scores[:, kept], others[:, kept])
        assert np.isnan(np.delete(scores, kept, axis=1)).all()


def test_progress_counts_images(package_folder: Path, radiographs: list[np.ndarray]) -> None:
    """Progress names the images done so far; no images give an empty table."""
    done: list[int] = []
    model = package.load(package_folder)
    scoring.score(model, radiographs, batch_size=2, progress=done.append)
    assert done == [2, 4, 5]
    assert scoring.score(model, []).shape == (0, 14)


def test_refuses_what_is_not_a_number(package_folder: Path, radiographs: list[np.ndarray]) -> None:
    """A model that gives no number is refused, and so is an image that is not grey 8-bit."""
    model = package.load(package_folder)
    with pytest.raises(DataError, match="cannot read this image"):
        scoring.score(model, [radiographs[0].astype(np.float64)])
    model.net.classifier.bias[3] = float("nan")
    with pytest.raises(DataError, match="gives no number"):
        scoring.score(replace(model), radiographs)
