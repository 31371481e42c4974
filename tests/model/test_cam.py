"""Heat maps, against the definition of Grad-CAM by autograd and against the library pytorch-grad-cam."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ops.errors import DataError
from cxr_ops.model import cam, heads, network, package
from cxr_ops.stats import heat_maps

TOLERANCE = 5e-6  # of maps scaled to at most 1


@pytest.fixture(scope="module")
def model(package_folder: Path) -> package.LoadedModel:
    return package.load(package_folder)


@pytest.fixture(scope="module")
def mlp(mlp_folder: Path) -> package.LoadedModel:
    return package.load(mlp_folder)


@pytest.fixture(scope="module", params=["linear", "mlp"])
def either(request: pytest.FixtureRequest, model: package.LoadedModel, mlp: package.LoadedModel) -> package.LoadedModel:
    """A model of each head."""
    return mlp if request.param == "mlp" else model


def prepared(model: package.LoadedModel, radiographs: list[np.ndarray]) -> torch.Tensor:
    return model.to_tensor(torch.from_numpy(np.stack([model.preprocess(pixels) for pixels in radiographs])))


def test_equals_grad_cam_by_its_definition(either: package.LoadedModel, radiographs: list[np.ndarray]) -> None:
    """A map is h w times ReLU(sum over c of mean(d logit / d A_c) A_c), with the gradients taken by autograd."""
    found = cam.grad_cam(either, radiographs, batch_size=2)
    assert found.maps.shape == (5, 14, 2, 2)
    a = either.net.activations(prepared(either, radiographs)).requires_grad_(True)
    logits = either.net.classifier(a.mean(dim=(2, 3)))
    for finding in range(14):
        (gradient,) = torch.autograd.grad(logits[:, finding].sum(), a, retain_graph=True)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        expected = 4 * torch.relu((weights * a).sum(dim=1)).detach().numpy()
        assert np.abs(found.maps[:, finding] - expected).max() <= TOLERANCE * max(1.0, expected.max())
    assert np.allclose(found.probabilities, torch.sigmoid(logits).detach().numpy(), atol=1e-5)


def test_equals_the_library(either: package.LoadedModel, radiographs: list[np.ndarray]) -> None:
    """Scaled and enlarged in pytorch-grad-cam's own way, the maps are the library's to 5e-6."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    maps = cam.grad_cam(either, radiographs).maps
    # The target is a ReLU that does not work in place, and a target an image: the library goes wrong otherwise.
    with GradCAM(model=either.net, target_layers=[either.net.relu]) as library:
        for finding in (0, 5, 13):
            targets = [ClassifierOutputTarget(finding)] * len(radiographs)
            theirs = library(input_tensor=prepared(either, radiographs).requires_grad_(True), targets=targets)
            ours = scale_cam_image(scale_cam_image(maps[:, finding], (64, 64)))  # once a layer, once over layers
            assert np.abs(ours - theirs).max() <= TOLERANCE
            assert theirs.max() > 0.5


def test_hires_cam_and_grad_cam_plus_plus_equal_the_library(
    either: package.LoadedModel, radiographs: list[np.ndarray]
) -> None:
    """Scaled in pytorch-grad-cam's own way, maps of both other methods are the library's to 1e-5.

    The library adds 1e-6 to Grad-CAM++'s denominator, which matters beside gradients as small as these. So logits are
    taken 10,000 times as large for it.
    """
    from pytorch_grad_cam import GradCAMPlusPlus, HiResCAM
    from pytorch_grad_cam.utils.image import scale_cam_image
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    head = either.net.classifier
    last = head if isinstance(head, torch.nn.Linear) else head.last
    before = last.weight.clone(), last.bias.clone()
    try:
        for kind, method, larger in ((HiResCAM, "hires_cam", 1), (GradCAMPlusPlus, "grad_cam_plus_plus", 1e4)):
            last.weight.mul_(larger), last.bias.mul_(larger)
            # Logits so large are not added up to within the tolerance of those that networks have.
            maps = heads.maps(either.net, prepared(either, radiographs), "", method, check=larger == 1)[0].numpy()
            with kind(model=either.net, target_layers=[either.net.relu]) as library:
                for finding in (0, 5, 13):
                    targets = [ClassifierOutputTarget(finding)] * len(radiographs)
                    theirs = library(input_tensor=prepared(either, radiographs).requires_grad_(True), targets=targets)
                    ours = scale_cam_image(scale_cam_image(maps[:, finding], (64, 64)))
                    assert np.abs(ours - theirs).max() <= 1e-5
                    assert theirs.max() > 0.5
    finally:
        last.weight.copy_(before[0]), last.bias.copy_(before[1])


def test_a_larger_input_gives_a_finer_map_of_the_same_weights(
    either: package.LoadedModel, radiographs: list[np.ndarray]
) -> None:
    """At 160 pixels the map has 5 x 5 cells, and is that of the same network on the picture prepared at 160 pixels."""
    found = cam.grad_cam(either, radiographs, size=160)
    assert found.maps.shape == (5, 14, 5, 5)
    terms = {**either.contract, "input": {**either.contract["input"], "image_size": 160}}
    squares = [network.preprocess(pixels, terms) for pixels in radiographs]
    logits = either.net(network.to_tensor(torch.from_numpy(np.stack(squares)), terms))
    assert np.allclose(found.probabilities, torch.sigmoid(logits).numpy(), atol=1e-5)
    assert either.contract["input"]["image_size"] == 64


def test_weights_are_drawn_from_the_head_down_and_the_model_stays(
    either: package.LoadedModel, radiographs: list[np.ndarray]
) -> None:
    """The first step is the model's activations under a random head; the last is a network that was never trained.

    Activations under a head that is drawn again from the same seed are computed here without hooks. No step's maps are
    the model's, the same seed gives the same maps and another seed others, and the model is as it was.
    """
    before = {name: tensor.clone() for name, tensor in either.net.state_dict().items()}
    found = cam.randomized(either, radiographs, seed=3)
    assert found.shape == (len(heat_maps.STEPS), 5, 14, 2, 2)
    assert np.array_equal(found, cam.randomized(either, radiographs, seed=3))
    assert not np.array_equal(found, cam.randomized(either, radiographs, seed=4))
    own = cam.grad_cam(either, radiographs).maps
    a = either.net.activations(prepared(either, radiographs))
    assert len({maps.tobytes() for maps in (own, *found)}) == len(heat_maps.STEPS) + 1
    if isinstance(either.net.classifier, torch.nn.Linear):
        with torch.random.fork_rng():
            torch.manual_seed(3)
            fresh = torch.nn.Linear(1024, 14)
        expected = torch.einsum("kc,nchw->nkhw", fresh.weight, a).clamp(min=0).detach().numpy()
        assert np.allclose(found[0], expected, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in either.net.state_dict().items())
    never = either.net.state_dict().keys()
    drawn = {name for part in sum(cam.CASCADE, ()) for name in never if name.startswith(f"{part}.")}
    assert drawn == set(never)


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


def test_maps_of_two_layers_add_up_with_their_intercepts(
    mlp: package.LoadedModel, radiographs: list[np.ndarray]
) -> None:
    """Where a picture's hidden units stay on or off, the head is linear: map's mean plus intercept is the logit.

    The intercept is what the layers' offsets alone give with the same units on (the full gradient of Srinivas and
    Fleuret, NeurIPS 2019); worked out here in float64, from the weights.
    """
    state = {name: tensor.double() for name, tensor in mlp.net.classifier.state_dict().items()}
    p = mlp.net.activations(prepared(mlp, radiographs)).double().mean(dim=(2, 3))
    stretch = state["norm.weight"] / (state["norm.running_var"] + 1e-5).sqrt()
    offset = state["norm.bias"] - state["norm.running_mean"] * stretch
    hidden = (p * stretch + offset) @ state["hidden.weight"].T + state["hidden.bias"]
    on = (hidden > 0).double()
    assert 0.2 < on.mean() < 0.8
    logits = (on * hidden) @ state["last.weight"].T + state["last.bias"]
    intercept = (on * (offset @ state["hidden.weight"].T + state["hidden.bias"])) @ state["last.weight"].T
    expected = logits - intercept - state["last.bias"]
    weight, bias = mlp.net.classifier.last.weight, mlp.net.classifier.last.bias
    # A finding and its opposite: the two maps before their ReLU differ by the sign alone.
    before = weight.clone(), bias.clone()
    try:
        maps = cam.grad_cam(mlp, radiographs).maps
        weight.neg_(), bias.neg_()
        opposite = cam.grad_cam(mlp, radiographs).maps
    finally:
        weight.copy_(before[0]), bias.copy_(before[1])
    assert np.allclose((maps - opposite).mean(axis=(2, 3)), expected.numpy(), atol=1e-5)


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


def test_refuses_a_network_whose_maps_do_not_add_up(package_folder: Path, radiographs: list[np.ndarray]) -> None:
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
    with pytest.raises(DataError, match="no head that can be explained"):
        cam.grad_cam(crooked, radiographs)


def test_refuses_a_gradient_that_is_not_the_heads(mlp_folder: Path, radiographs: list[np.ndarray]) -> None:
    """A head of two layers that is not the network's, or not behind a mean over places, has no maps either."""
    for crooked_head in (
        lambda net, a: net.classifier(a.mean(dim=(2, 3)).detach()) + 0 * a.sum(),
        lambda net, a: net.classifier(a.mean(dim=(2, 3))) * 1.01,
        lambda net, a: net.classifier(a.square().mean(dim=(2, 3))),
    ):
        crooked = package.load(mlp_folder)
        original = type(crooked.net).head
        crooked.net.forward = lambda x, net=crooked.net, head=original: head(net, net.activations(x))
        crooked.net.head = lambda a, net=crooked.net, head=crooked_head: head(net, a)
        with pytest.raises(DataError, match="do not add up"):
            cam.grad_cam(crooked, radiographs)


def test_network_goes_to_the_device_of_the_maps(
    model: package.LoadedModel, radiographs: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever scored before may have left the network on a GPU: it is fetched to where the pictures are."""
    asked = []
    monkeypatch.setattr(model.net, "to", lambda device: asked.append(device) or model.net)
    cam.grad_cam(model, radiographs)
    assert asked == ["cpu"]


def test_no_images_give_no_maps(either: package.LoadedModel) -> None:
    """Without images there are no maps."""
    assert cam.grad_cam(either, []).maps.shape[:2] == (0, 14)
