"""Heat maps, against the definition of Grad-CAM by autograd and against the library pytorch-grad-cam."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ops.errors import DataError
from cxr_ops.model import cam, network, package

TOLERANCE = 5e-6  # of maps scaled to at most 1


@pytest.fixture(scope="module")
def model(package_folder: Path) -> package.LoadedModel:
    return package.load(package_folder)


def prepared(model: package.LoadedModel, radiographs: list[np.ndarray]) -> torch.Tensor:
    return model.to_tensor(torch.from_numpy(np.stack([model.preprocess(pixels) for pixels in radiographs])))


def test_equals_grad_cam_by_its_definition(model: package.LoadedModel, radiographs: list[np.ndarray]) -> None:
    """A map is h w times ReLU(sum over c of mean(d logit / d A_c) A_c), with the gradients taken by autograd."""
    found = cam.grad_cam(model, radiographs, batch_size=2)
    assert found.maps.shape == (5, 14, 2, 2)
    a = model.net.activations(prepared(model, radiographs)).requires_grad_(True)
    logits = model.net.classifier(a.mean(dim=(2, 3)))
    for finding in range(14):
        (gradient,) = torch.autograd.grad(logits[:, finding].sum(), a, retain_graph=True)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        expected = 4 * torch.relu((weights * a).sum(dim=1)).detach().numpy()
        assert np.abs(found.maps[:, finding] - expected).max() <= TOLERANCE * max(1.0, expected.max())
    assert np.allclose(found.probabilities, torch.sigmoid(logits).detach().numpy(), atol=1e-5)


def test_equals_the_library(model: package.LoadedModel, radiographs: list[np.ndarray]) -> None:
    """Scaled and enlarged in pytorch-grad-cam's own way, the maps are the library's to 5e-6."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps = cam.grad_cam(model, radiographs).maps
    # The target is a ReLU that does not work in place, and a target an image: the library goes wrong otherwise.
    with GradCAM(model=model.net, target_layers=[model.net.relu]) as library:
        for finding in (0, 5, 13):
            targets = [ClassifierOutputTarget(finding)] * len(radiographs)
            theirs = library(input_tensor=prepared(model, radiographs).requires_grad_(True), targets=targets)
            ours = scale_cam_image(scale_cam_image(maps[:, finding], (64, 64)))  # once a layer, once over layers
            assert np.abs(ours - theirs).max() <= TOLERANCE
            assert theirs.max() > 0.5


def test_maps_add_up_to_the_logits(model: package.LoadedModel, radiographs: list[np.ndarray]) -> None:
    """A finding whose weights are all positive has no place cut off: its map's mean plus the bias is the logit."""
    weight = model.net.classifier.weight
    before = weight[2].clone()
    try:
        weight[2] = before.abs()
        found = cam.grad_cam(model, radiographs)
        logits = model.net(prepared(model, radiographs))[:, 2].numpy()
        bias = float(model.net.classifier.bias[2])
        assert np.allclose(found.maps[:, 2].mean(axis=(1, 2)) + bias, logits, atol=1e-4)
    finally:
        weight[2] = before


def test_no_evidence_is_said(model: package.LoadedModel, radiographs: list[np.ndarray]) -> None:
    """A finding for which nothing in the picture speaks has a map of zeros, which is reported as empty."""
    weight = model.net.classifier.weight
    before = weight[4].clone()
    try:
        weight[4] = -before.abs()
        found = cam.grad_cam(model, radiographs)
        assert found.empty.shape == (5, 14)
        assert found.empty[:, 4].all()
        assert (found.maps[:, 4] == 0).all()
        assert not found.empty.all()
    finally:
        weight[4] = before


def test_refuses_a_network_that_is_not_linear_in_its_activations(
    package_folder: Path, tmp_path: Path, radiographs: list[np.ndarray]
) -> None:
    """Where the maps do not add up to the logits, there are no maps rather than wrong ones."""
    crooked = package.load(package_folder)

    class Crooked(network.ChestNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) ** 2

    crooked.net.__class__ = Crooked
    crooked.net.forward = lambda x: type(crooked.net).activations(crooked.net, x).mean(dim=(2, 3))[:, :14]
    with pytest.raises(DataError, match="do not add up"):
        cam.grad_cam(crooked, radiographs)
    del crooked.net.forward
    crooked.net.classifier = torch.nn.Sequential(torch.nn.Linear(1024, 14), torch.nn.ReLU())
    with pytest.raises(DataError, match="no linear head"):
        cam.grad_cam(crooked, radiographs)


def test_no_images_give_no_maps(model: package.LoadedModel) -> None:
    """Without images there are no maps."""
    assert cam.grad_cam(model, []).maps.shape[:2] == (0, 14)
