"""The network file that every package carries."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from cxr_ops.data import decode
from cxr_ops.model import network


def test_stands_alone() -> None:
    """The file imports numpy, OpenCV, torch, torchvision and what Python brings: a package outlives the project."""
    tree = ast.parse(Path(network.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"numpy", "cv2", "torch", "torchvision", *sys.stdlib_module_names}
    assert {module.split(".")[0] for module in modules} <= allowed


@pytest.mark.parametrize("shape", [(100, 100), (64, 64), (90, 131), (131, 90), (20, 31), (1, 300)])
def test_preprocessing_is_that_of_prepare(shape: tuple[int, int], terms: dict) -> None:
    """At serving and evaluation a picture reaches the network with the pixels that `prepare` trained it on."""
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    assert np.array_equal(network.preprocess(pixels, terms), decode.to_square(pixels, 64))


@pytest.mark.parametrize(
    "pixels", [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.float32), np.zeros((0, 9), np.uint8)]
)
def test_refuses_what_is_not_a_grey_picture(pixels: np.ndarray, terms: dict) -> None:
    """Colours, other types and empty arrays are refused, not reinterpreted."""
    with pytest.raises(ValueError, match="uint8 of height x width"):
        network.preprocess(pixels, terms)


def test_refuses_a_contract_of_another_network(terms: dict) -> None:
    """A contract that asks for an architecture or a way of resizing that the file does not know is refused."""
    with pytest.raises(ValueError, match="densenet169"):
        network.build({**terms, "architecture": {**terms["architecture"], "name": "densenet169"}})
    with pytest.raises(ValueError, match="nearest"):
        network.preprocess(np.zeros((9, 9), np.uint8), {**terms, "input": {**terms["input"], "resize": "nearest"}})


def test_normalises_by_the_contract(terms: dict) -> None:
    """A grey value becomes (value / 255 - mean) / std, in float32 and with a channel axis."""
    batch = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    normal = network.to_tensor(batch, terms)
    expected = (np.arange(256).reshape(1, 1, 16, 16) / 255 - 0.449) / 0.226
    assert normal.dtype == torch.float32
    assert np.allclose(normal.numpy(), expected, atol=1e-6)


def test_head_sees_the_mean_of_the_activations(net: network.ChestNet) -> None:
    """Logits are linear in the mean of the activations, which are not negative and stand at S / 32 places a side."""
    x = torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    a = net.activations(x)
    assert a.shape == (2, 1024, 3, 2)
    assert (a >= 0).all()
    pooled = functional.adaptive_avg_pool2d(a, 1).flatten(1)
    assert torch.allclose(net(x), functional.linear(pooled, net.classifier.weight, net.classifier.bias), atol=1e-5)
