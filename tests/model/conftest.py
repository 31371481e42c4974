"""Packages of the real network with random weights, one for each head, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ops.audit.package import patient_key
from cxr_ops.model import network, package


@pytest.fixture(scope="session")
def terms() -> dict:
    """A contract at 64 pixels: maps of 2 x 2."""
    return package.contract(image_size=64, mean=0.449, std=0.226, training={"patient_salt": "s"})


@pytest.fixture(scope="session")
def mlp_terms() -> dict:
    """The same with a head of two layers, and CLAHE."""
    return package.contract(
        image_size=64,
        mean=0.449,
        std=0.226,
        training={"patient_salt": "s"},
        head="mlp",
        head_width=24,
        dropout=0.3,
        contrast={"name": "clahe", "clip": 2.0, "tiles": 4},
    )


@pytest.fixture(scope="session")
def net(terms: dict) -> network.ChestNet:
    """Random weights, and statistics of batch normalisation that a forward pass has warmed, so that logits differ."""
    return _warmed(terms)


@pytest.fixture(scope="session")
def mlp_net(mlp_terms: dict) -> network.ChestNet:
    """As `net`, with a head of two layers."""
    return _warmed(mlp_terms)


@pytest.fixture(scope="session")
def package_folder(net: network.ChestNet, terms: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of `net`. Not to be changed: copy it."""
    return _packed(net, terms, tmp_path_factory)


@pytest.fixture(scope="session")
def mlp_folder(mlp_net: network.ChestNet, mlp_terms: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of `mlp_net`. Not to be changed: copy it."""
    return _packed(mlp_net, mlp_terms, tmp_path_factory)


@pytest.fixture(scope="session")
def radiographs() -> list[np.ndarray]:
    """Five smooth grey pictures of different sizes."""
    rng = np.random.default_rng(1)
    coarse = [rng.integers(0, 256, (5, 5), dtype=np.uint8) for _ in range(5)]
    return [np.kron(tile, np.ones((20 + i, 18), np.uint8)) for i, tile in enumerate(coarse)]


def _warmed(terms: dict) -> network.ChestNet:
    torch.manual_seed(0)
    made = network.build(terms)
    made.train()
    for _ in range(3):
        made(torch.randn(4, 1, 64, 64))
    return made.eval().requires_grad_(False)


def _packed(net: network.ChestNet, terms: dict, folders: pytest.TempPathFactory) -> Path:
    folder = folders.mktemp("package") / "package"
    keys = {patient_key("s", patient) for patient in ("1", "2")}
    package.write(folder, state=net.state_dict(), contract=terms, patients=keys)
    return folder
