"""The network file that every package carries."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
from torch.nn import functional

from cxr_ops.data import contrast
from cxr_ops.data.checking import decode
from cxr_ops.model import network, package
from cxr_ops.params import Prepare

CONTRASTS = [
    contrast.terms(Prepare()),
    contrast.terms(Prepare(contrast="percentile")),
    contrast.terms(Prepare(contrast="percentile", window_low=0, window_high=100)),
    contrast.terms(Prepare(contrast="percentile", window_low=20, window_high=60)),
    contrast.terms(Prepare(contrast="equalize")),
    contrast.terms(Prepare(contrast="clahe")),
    contrast.terms(Prepare(contrast="clahe", clahe_clip=40, clahe_tiles=32)),
    contrast.terms(Prepare(contrast="clahe", clahe_clip=0.1, clahe_tiles=1)),
]


def with_contrast(terms: dict, how: dict) -> dict:
    return {**terms, "input": {**terms["input"], "contrast": how}}


def test_stands_alone() -> None:
    """The file imports numpy, OpenCV, torch, torchvision and what Python brings: a package outlives the project."""
    tree = ast.parse(Path(network.__file__).read_text())
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    allowed = {"numpy", "cv2", "torch", "torchvision", *sys.stdlib_module_names}
    assert {module.split(".")[0] for module in modules} <= allowed


@pytest.mark.parametrize("how", CONTRASTS, ids=str)
@pytest.mark.parametrize("shape", [(100, 100), (64, 64), (90, 131), (131, 90), (20, 31), (1, 300), (1, 1)])
def test_preprocessing_is_that_of_prepare(shape: tuple[int, int], how: dict, terms: dict) -> None:
    """At serving and evaluation a picture reaches the network with the pixels that `prepare` trained it on."""
    for seed, top in ((0, 256), (1, 9)):
        pixels = np.random.default_rng(seed).integers(0, top, shape, dtype=np.uint8)
        for picture in (pixels, np.asfortranarray(pixels)):
            prepared = decode.to_square(contrast.adjust(picture, how), 64)
            assert np.array_equal(network.preprocess(picture, with_contrast(terms, how)), prepared)


@pytest.mark.parametrize(
    "pixels", [np.zeros((9, 9, 3), np.uint8), np.zeros((9, 9), np.float32), np.zeros((0, 9), np.uint8)]
)
def test_refuses_what_is_not_a_grey_picture(pixels: np.ndarray, terms: dict) -> None:
    """Colours, other types and empty arrays are refused, not reinterpreted."""
    with pytest.raises(ValueError, match="uint8 of height x width"):
        network.preprocess(pixels, terms)


def test_refuses_a_contract_of_another_network(terms: dict) -> None:
    """A contract that asks for an architecture, a contrast or a resizing that the file does not know is refused."""
    for odd in (
        {"name": "densenet169"},
        {"channels": 3},
        {"head": "transformer"},
        {"head": "mlp", "width": 0},
        {"head": "mlp", "width": 8, "dropout": "much"},
        {"head": "linear", "width": 8},
        {"depth": 3},
    ):
        with pytest.raises(ValueError, match=r"densenet169|3|transformer|width|depth"):
            network.build({**terms, "architecture": {**terms["architecture"], **odd}})
    with pytest.raises(ValueError, match="nearest"):
        network.preprocess(np.zeros((9, 9), np.uint8), {**terms, "input": {**terms["input"], "resize": "nearest"}})
    with pytest.raises(ValueError, match="gamma"):
        network.preprocess(np.zeros((9, 9), np.uint8), with_contrast(terms, {"name": "gamma"}))


# ----------------------------------------------------------------------------------------------------- contrast


@pytest.mark.parametrize("how", CONTRASTS, ids=str)
@pytest.mark.parametrize("grey", [0, 1, 100, 255])
def test_a_picture_of_one_grey_value_stays(grey: int, how: dict) -> None:
    """No contrast is made where there is none."""
    pixels = np.full((40, 30), grey, np.uint8)
    assert np.array_equal(network.adjust_contrast(pixels, how), pixels)


def test_old_contracts_have_no_contrast(terms: dict) -> None:
    """A contract from before there was a choice, and one that says `none`, leave the grey values alone."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    old = {**terms, "input": {key: value for key, value in terms["input"].items() if key != "contrast"}}
    assert np.array_equal(network.preprocess(pixels, old), pixels)
    assert np.array_equal(network.preprocess(pixels, terms), pixels)


@pytest.mark.parametrize(("low", "high"), [(0.5, 99.5), (0, 100), (12.5, 70), (0, 55.5)])
def test_percentiles_are_numpys(low: float, high: float) -> None:
    """Grey values are stretched between two percentiles by the definition that numpy calls inverted_cdf."""
    how = {"name": "percentile", "low": low, "high": high}
    for seed in range(5):
        rng = np.random.default_rng(seed)
        pixels = np.clip(rng.normal(90, 20, (57, 43)), 0, 255).astype(np.uint8)
        ends = np.percentile(pixels, [low, high], method="inverted_cdf").astype(float)
        expected = np.interp(pixels, ends, [0, 255])
        assert np.abs(network.adjust_contrast(pixels, how) - expected).max() <= 0.5 + 1e-9


def test_a_picture_that_is_nearly_one_grey_value_stays() -> None:
    """Where both percentiles are the same grey value there is nothing to stretch between."""
    pixels = np.full((100, 100), 7, np.uint8)
    pixels[0, :9] = 200
    how = {"name": "percentile", "low": 0.5, "high": 99.5}
    assert np.array_equal(network.adjust_contrast(pixels, how), pixels)


def test_equalisation_is_by_its_formula() -> None:
    """A grey value becomes 255 times the share that do not exceed it of the pixels above the darkest value."""
    pixels = np.random.default_rng(0).poisson(60, (90, 70)).astype(np.uint8)
    above = np.array([((pixels <= grey) & (pixels > pixels.min())).sum() for grey in range(256)])
    expected = (255 * above / above[-1])[pixels]
    assert np.abs(network.adjust_contrast(pixels, {"name": "equalize"}) - expected).max() <= 0.5 + 1e-4


@pytest.mark.parametrize(("clip", "tiles"), [(2.0, 4), (40.0, 2), (1.0, 1)])
def test_clahe_is_by_its_formula(clip: float, tiles: int) -> None:
    """Each tile has its own equalisation with a clipped histogram; between centres of tiles they are interpolated."""
    side = 16 * tiles
    pixels = np.random.default_rng(0).poisson(60, (side, side)).astype(np.uint8)
    tables = np.empty((tiles, tiles, 256))
    for row, column in np.ndindex(tiles, tiles):
        counts = np.bincount(pixels[16 * row : 16 * row + 16, 16 * column : 16 * column + 16].ravel(), minlength=256)
        limit = max(int(clip * 256 / 256), 1)
        cut = int(np.maximum(counts - limit, 0).sum())
        counts = np.minimum(counts, limit) + cut // 256
        left = cut % 256
        if left:
            counts[:: max(256 // left, 1)][:left] += 1
        tables[row, column] = np.rint(np.cumsum(counts) * np.float32(255 / 256))
    expected = np.empty((side, side))
    for y, x in np.ndindex(side, side):
        (top, down), (first, across) = (divmod(place / 16 - 0.5, 1) for place in (y, x))
        rows, columns = (np.clip([place, place + 1], 0, tiles - 1).astype(int) for place in (top, first))
        four = tables[rows][:, columns, pixels[y, x]]
        expected[y, x] = np.array([1 - down, down]) @ four @ np.array([1 - across, across])
    found = network.adjust_contrast(pixels, {"name": "clahe", "clip": clip, "tiles": tiles})
    assert np.abs(found - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("how", CONTRASTS, ids=str)
def test_threads_change_no_pixel(how: dict) -> None:
    """On one thread and on four, a contrast gives the same bytes."""
    pixels = np.random.default_rng(0).integers(0, 200, (701, 500), dtype=np.uint8)
    before = cv2.getNumThreads()
    try:
        found = []
        for threads in (1, 4):
            cv2.setNumThreads(threads)
            found.append(network.adjust_contrast(pixels, how))
    finally:
        cv2.setNumThreads(before)
    assert np.array_equal(*found)


# -------------------------------------------------------------------------------------------------- the network


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


def test_contract_of_the_linear_head_is_as_it_was() -> None:
    """Without dropout the linear head's architecture is written as before there was another."""
    assert json.dumps(network.architecture()) == '{"name": "densenet121", "channels": 1, "head": "linear"}'
    assert network.architecture("linear", width=99) == network.architecture()
    said = package.contract(image_size=64, mean=0.4, std=0.2, training={})
    assert said["architecture"] == network.architecture()
    assert said["input"]["contrast"] == {"name": "none"}


@pytest.mark.parametrize("size", [64, 100, 224, 512])
def test_every_input_size_gives_torchvisions_logits(
    size: int, net: network.ChestNet, mlp_net: network.ChestNet, mlp_terms: dict
) -> None:
    """From 64 to 512 pixels, a picture goes through; torchvision's network with the same weights gives the same."""
    terms = {**mlp_terms, "input": {**mlp_terms["input"], "image_size": size}}
    pixels = np.random.default_rng(0).integers(0, 256, (300, 280), dtype=np.uint8)
    x = network.to_tensor(torch.from_numpy(network.preprocess(pixels, terms))[None], terms)
    theirs = torchvision.models.densenet121(num_classes=14).eval()
    theirs.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    theirs.load_state_dict(net.state_dict())
    with torch.inference_mode():
        a = net.activations(x)
        assert a.shape == (1, 1024, size // 32, size // 32)
        expected = theirs(x)
        assert torch.allclose(net.head(a), expected, atol=1e-4 * (1 + float(expected.abs().max())))
        assert mlp_net.head(a).shape == (1, 14)


def test_head_of_two_layers_by_its_formula(mlp_net: network.ChestNet, mlp_terms: dict) -> None:
    """Batch normalisation, a layer with ReLU and the last layer, of the mean of the activations."""
    assert mlp_terms["architecture"]["width"] == 24
    a = torch.rand(3, 1024, 2, 2, generator=torch.Generator().manual_seed(0))
    w = {name: tensor.double() for name, tensor in mlp_net.classifier.state_dict().items()}
    p = a.double().mean(dim=(2, 3))
    p = (p - w["norm.running_mean"]) / (w["norm.running_var"] + 1e-5).sqrt() * w["norm.weight"] + w["norm.bias"]
    hidden = (p @ w["hidden.weight"].T + w["hidden.bias"]).clamp(min=0)
    expected = hidden @ w["last.weight"].T + w["last.bias"]
    assert torch.allclose(mlp_net.head(a).double(), expected, atol=1e-4)
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mlp_net(x), mlp_net.head(mlp_net.activations(x)))


def test_dropout_leaves_out_a_share_while_training() -> None:
    """A share of the features becomes 0 and the others grow so that the mean stays; the draws follow torch's seed."""
    layer = network.Dropout(0.3)
    x = torch.ones(200, 500)
    torch.manual_seed(1)
    first, second = layer(x), layer(x)
    torch.manual_seed(1)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert torch.equal(first.unique(), torch.tensor([0, 1 / 0.7]))
    assert float((first == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert torch.equal(layer.eval()(x), x)


def test_compiled_dropout_draws_as_it_does_uncompiled() -> None:
    """Draws stay outside of what is compiled, whose generators are others: the same seed drops the same features."""
    graphs: list[torch.fx.GraphModule] = []

    def compiler(graph: torch.fx.GraphModule, _: object) -> object:
        graphs.append(graph)
        return graph.forward

    layer = network.Dropout(0.5).train()
    compiled = torch.compile(layer, backend=compiler, dynamic=False)
    found = []
    for forward in (layer, compiled):
        torch.manual_seed(0)
        found.append(forward(torch.ones(4, 8)))
    assert torch.equal(*found)
    assert graphs
    assert not [node for graph in graphs for node in graph.graph.nodes if node.target is torch.rand]


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_dropout_is_in_both_heads(head: str, terms: dict) -> None:
    """Dropout of the contract acts while training and not in evaluation, and adds no tensor to a package."""
    made, plain = (
        network.build({**terms, "architecture": network.architecture(head, width=16, dropout=share)}).eval()
        for share in (0.5, 0.0)
    )
    assert made.state_dict().keys() == plain.state_dict().keys()
    plain.load_state_dict(made.state_dict())
    a = torch.rand(8, 1024, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made.head(a), plain.head(a))
    layers = [layer.train() for layer in made.modules() if isinstance(layer, network.Dropout) and layer.share]
    assert len(layers) == (1 if head == "linear" else 2)
    for layer in layers:
        whole = made.head(a)
        layer.eval()
        assert not torch.equal(made.head(a), whole)
