"""Weights that a training starts from."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from cxr_ops.errors import SettingsError
from cxr_ops.model import network, pretrained, training
from cxr_ops.params import Params, Train
from cxr_ops.records import StartingWeights, sha256_file


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    """torchvision's network of three channels with random weights, and its file."""
    torch.manual_seed(0)
    net = torchvision.models.densenet121(num_classes=14)
    net(torch.randn(4, 3, 64, 64))
    path = tmp_path_factory.mktemp("weights") / "colour.safetensors"
    safetensors.torch.save_file(net.state_dict(), path)
    return net.eval(), path


def test_grey_gives_what_equal_colours_give(colour: tuple[torch.nn.Module, Path], terms: dict, tmp_path: Path) -> None:
    """Started from colour weights, the grey network computes what torchvision's computes of three equal channels."""
    net, path = colour
    layers, _ = pretrained.read(Train(weights=str(path), weights_sha256=sha256_file(path)), tmp_path)
    grey = training.fresh_network(terms, layers, seed=0).eval()
    assert isinstance(grey, network.ChestNet)
    grey.classifier.load_state_dict(net.classifier.state_dict())
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(grey(x), net(x.expand(-1, 3, -1, -1)), atol=1e-4)


def test_old_names_are_understood(colour: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """torchvision's file writes `norm.1` where the layer is called `norm1`; both are read."""
    net, path = colour
    old = {
        name.replace("norm1", "norm.1").replace("conv2", "conv.2"): tensor for name, tensor in net.state_dict().items()
    }
    safetensors.torch.save_file(old, tmp_path / "old.safetensors")
    settings = Train(weights="old.safetensors", weights_sha256=sha256_file(tmp_path / "old.safetensors"))
    new, _ = pretrained.read(Train(weights=str(path), weights_sha256=sha256_file(path)), tmp_path)
    assert pretrained.read(settings, tmp_path)[0].keys() == new.keys()


def test_none_starts_afresh(tmp_path: Path) -> None:
    """`none` reads nothing."""
    assert pretrained.read(Train(weights="none"), tmp_path) == ({}, StartingWeights(start="none", patients="none"))


def test_a_file_is_what_the_settings_declare_it_to_be(colour: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """Data and patients that a file's weights have seen are those declared; with nothing declared they are unknown."""
    _, path = colour
    of_file = {"weights": str(path), "weights_sha256": sha256_file(path)}
    _, silent = pretrained.read(Train(**of_file), tmp_path)
    assert silent == StartingWeights(start=path.name, sha256=sha256_file(path), training_data=[], patients="unknown")
    _, told = pretrained.read(Train(**of_file, weights_data=("CheXpert",), weights_patients="none"), tmp_path)
    assert (told.training_data, told.patients) == (["CheXpert"], "none")
    _, half = pretrained.read(Train(**of_file, weights_data=("NIH",)), tmp_path)
    assert half.patients == "unknown"


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"weights": "a.safetensors", "weights_patients": "none"}, "needs weights_data"),
        ({"weights": "a.safetensors", "weights_data": [""], "weights_patients": "none"}, "at least 1 character"),
        ({"weights": "a.safetensors", "weights_data": ["NIH"], "weights_patients": "some"}, "'none', 'training'"),
        ({"weights": "imagenet", "weights_patients": "none"}, "what imagenet has seen is known"),
        ({"weights_data": ["NIH"]}, "what none has seen is known"),
    ],
)
def test_a_declaration_that_says_nothing_is_refused(declared: dict, why: str) -> None:
    """Patients without data, a nameless data set, another word, and a declaration of what is known are errors."""
    with pytest.raises(SettingsError, match=why):
        Params.check({"train": declared}, "params.yaml")


def test_imagenet_has_seen_no_radiograph(
    colour: tuple[torch.nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision's weights are declared by us: ImageNet, and no patient."""
    net, _ = colour
    path = tmp_path / "hub" / "checkpoints" / pretrained.IMAGENET_FILE
    path.parent.mkdir(parents=True)
    torch.save(net.state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "IMAGENET_SHA256", sha256_file(path)[:8])  # it cannot be downloaded here
    _, origin = pretrained.read(Train(weights="imagenet"), tmp_path)
    assert origin == StartingWeights(
        start="imagenet", sha256=sha256_file(path), training_data=["ImageNet-1k"], patients="none"
    )


def test_a_file_is_pinned_by_its_digest(colour: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """A file whose digest is not in the settings, which is all that DVC sees, is refused with the line to write."""
    _, path = colour
    with pytest.raises(SettingsError, match="weights_sha256") as caught:
        pretrained.read(Train(weights=str(path)), tmp_path)
    assert f"train.weights_sha256: {sha256_file(path)}" in str(caught.value)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    """A pickle, a missing file, a file that is not safetensors and one of another network are refused."""
    with pytest.raises(SettingsError, match=r"none, imagenet or the path of a \.safetensors"):
        pretrained.read(Train(weights="model.pth"), tmp_path)
    with pytest.raises(SettingsError, match="cannot be read"):
        pretrained.read(Train(weights="gone.safetensors"), tmp_path)
    (tmp_path / "text.safetensors").write_text("no tensors")
    with pytest.raises(SettingsError, match="not a whole safetensors"):
        pretrained.read(
            Train(weights="text.safetensors", weights_sha256=sha256_file(tmp_path / "text.safetensors")), tmp_path
        )
    safetensors.torch.save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(SettingsError, match="not those of a DenseNet121"):
        pretrained.read(
            Train(weights="other.safetensors", weights_sha256=sha256_file(tmp_path / "other.safetensors")), tmp_path
        )


def test_layers_of_another_network_are_refused(terms: dict) -> None:
    """Weights that lack a layer, have one too many or one of another shape do not start a training."""
    stem = {"features.conv0.weight": torch.zeros(64, 1, 7, 7)}
    for layers in (stem, {"features.conv0.weight": torch.zeros(96, 1, 7, 7)}):
        with pytest.raises(SettingsError, match="another network"):
            training.fresh_network(terms, layers, seed=0)


def test_imagenet_without_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ImageNet weights cannot be fetched, the error names the file to put where, and what needs none."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a port where nobody listens
    with pytest.raises(SettingsError) as caught:
        pretrained.read(Train(weights="imagenet"), tmp_path)
    assert str(tmp_path / "hub" / "checkpoints" / "densenet121-a639ec97.pth") in str(caught.value)
    assert "train.weights: none" in str(caught.value)


def test_an_altered_imagenet_file_is_not_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file under the name of torchvision's whose digest is another is refused before it is read."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = tmp_path / "hub" / "checkpoints" / "densenet121-a639ec97.pth"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"not torchvision's")
    with pytest.raises(SettingsError, match="is not torchvision's"):
        pretrained.read(Train(weights="imagenet"), tmp_path)
