"""Weights that a training starts from."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torchvision

from cxr_ops.audit.package import Package, patient_key
from cxr_ops.audit.package import read as read_package
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.model import network, package, pretrained, training
from cxr_ops.params import Params, Split, Train
from cxr_ops.records.base import sha256_file
from cxr_ops.records.training import Start, StartingWeights


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
    layers = pretrained.read(Train(weights=str(path), weights_sha256=sha256_file(path)), tmp_path).state
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
    new = pretrained.read(Train(weights=str(path), weights_sha256=sha256_file(path)), tmp_path)
    assert pretrained.read(settings, tmp_path).state.keys() == new.state.keys()


def file_of(state: dict[str, torch.Tensor], folder: Path) -> Train:
    """Settings that start from a state, which is written into a folder."""
    path = folder / "given.safetensors"
    safetensors.torch.save_file(state, path)
    return Train(weights=str(path), weights_sha256=sha256_file(path))


@pytest.mark.parametrize("prefix", ["module.densenet121.", "_orig_mod.", "bare"])
def test_a_wrappers_prefix_is_taken_off(colour: tuple[torch.nn.Module, Path], tmp_path: Path, prefix: str) -> None:
    """Names as DataParallel, CheXNet and torch.compile write them, and those of the layers alone, are the same."""
    net, path = colour
    state = net.features.state_dict() if prefix == "bare" else net.state_dict()
    given = {name if prefix == "bare" else prefix + name: tensor for name, tensor in state.items()}
    if prefix == "module.densenet121.":  # CheXNet's file has torch 0.3's names and a head of its own
        given = {
            name.replace("norm1", "norm.1").replace("conv2", "conv.2").replace("classifier", "classifier.0"): tensor
            for name, tensor in given.items()
            if not name.endswith("num_batches_tracked")
        }

    found = pretrained.read(file_of(given, tmp_path), tmp_path).state

    expected = pretrained.read(Train(weights=str(path), weights_sha256=sha256_file(path)), tmp_path).state
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert {name for name in expected.keys() - found.keys() if not name.endswith("num_batches_tracked")} == set()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("nan", r"damaged: 1024 of the 1024 numbers of module\.features\.norm5\.weight are NaN or infinite"),
        ("infinite", r"damaged: 1 of the 1024 numbers of module\.features\.norm5\.weight are NaN or infinite"),
        ("lacks", r"lacks 1 of its layers, such as module\.features\.norm5\.weight"),
        ("more", r"1 layers that it does not have, such as module\.features\.norm6\.weight"),
        ("shape", r"module\.features\.norm5\.weight is \[3\], and there it is \[1024\]"),
        ("two", r"more than one network: ema\.features\.conv0\.weight, module\.features\.conv0\.weight"),
        ("none", r"none of the 1 names in the file ends in conv0\.weight; its first is stem\.weight"),
    ],
)
def test_weights_that_do_not_fit_are_named_with_a_next_step(
    colour: tuple[torch.nn.Module, Path], tmp_path: Path, change: str, what: str
) -> None:
    """What is wrong in a file is said by the file's own names, and never as a matter of the learning rate."""
    state = {f"module.{name}": tensor.clone() for name, tensor in colour[0].state_dict().items()}
    last = "module.features.norm5.weight"
    if change == "nan":
        state[last] *= float("nan")
    elif change == "infinite":
        state[last][7] = float("-inf")
    elif change == "lacks":
        del state[last]
    elif change == "more":
        state["module.features.norm6.weight"] = torch.zeros(3)
    elif change == "shape":
        state[last] = torch.zeros(3)
    elif change == "two":
        state["ema.features.conv0.weight"] = torch.zeros(3)
    else:
        state = {"stem.weight": torch.zeros(3)}

    with pytest.raises(SettingsError, match=what) as caught:
        pretrained.read(file_of(state, tmp_path), tmp_path)

    assert caught.value.where == str(tmp_path / "given.safetensors")
    assert caught.value.fix
    assert "learning_rate" not in caught.value.fix


def test_none_starts_afresh(tmp_path: Path) -> None:
    """`none` reads nothing."""
    nothing = pretrained.Weights(state={}, origin=StartingWeights(start="none", patients="none"))
    assert pretrained.read(Train(weights="none"), tmp_path) == nothing


def test_a_file_is_what_the_settings_declare_it_to_be(colour: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """Data and patients that a file's weights have seen are those declared; with nothing declared they are unknown."""
    _, path = colour
    of_file = {"weights": str(path), "weights_sha256": sha256_file(path)}
    silent = pretrained.read(Train(**of_file), tmp_path).origin
    assert silent == StartingWeights(start=path.name, sha256=sha256_file(path), training_data=[], patients="unknown")
    told = pretrained.read(Train(**of_file, weights_data=("CheXpert",), weights_patients="none"), tmp_path).origin
    assert (told.training_data, told.patients) == (["CheXpert"], "none")
    half = pretrained.read(Train(**of_file, weights_data=("NIH",)), tmp_path).origin
    assert half.patients == "unknown"


@pytest.mark.parametrize(
    ("declared", "why"),
    [
        ({"weights": "a.safetensors", "weights_patients": "none"}, "needs weights_data"),
        ({"weights": "a.safetensors", "weights_data": [""], "weights_patients": "none"}, "at least 1 character"),
        ({"weights": "a.safetensors", "weights_data": ["NIH"], "weights_patients": "some"}, "'none', 'training'"),
        ({"weights": "imagenet", "weights_patients": "none"}, "what imagenet has seen is known"),
        ({"weights": "none", "weights_data": ["NIH"]}, "what none has seen is known"),
        ({"weights": "champion", "weights_patients": "none"}, "what champion has seen is known"),
    ],
)
def test_a_declaration_that_says_nothing_is_refused(declared: dict, why: str) -> None:
    """Patients without data, a nameless data set, another word, and a declaration of what is known are errors."""
    with pytest.raises(SettingsError, match=why):
        Params.check({"train": declared}, "params.yaml")


@pytest.fixture
def imagenet(colour: tuple[torch.nn.Module, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StartingWeights:
    """Something in the place of torchvision's file, which cannot be downloaded here, and what it is."""
    net, _ = colour
    path = tmp_path / "hub" / "checkpoints" / pretrained.IMAGENET_FILE
    path.parent.mkdir(parents=True)
    torch.save(net.state_dict(), path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(pretrained, "IMAGENET_SHA256", sha256_file(path)[:8])
    return StartingWeights(start="imagenet", sha256=sha256_file(path), training_data=["ImageNet-1k"], patients="none")


def test_imagenet_has_seen_no_radiograph(imagenet: StartingWeights, tmp_path: Path) -> None:
    """torchvision's weights are declared by us: ImageNet, and no patient."""
    assert pretrained.read(Train(weights="imagenet"), tmp_path).origin == imagenet


# ------------------------------------------------------------------------------------------------- the champion

CHAMPION = Train(weights="champion")
SPLIT = Split(salt="s")
CLEAN = {"start": "imagenet", "sha256": "a" * 64, "training_data": ["ImageNet-1k"], "patients": "none"}


def crown(root: Path, net: torch.nn.Module, said: dict) -> str:
    """Put a champion, trained on the patients 1 and 2, where `open` puts it, and return its digest."""
    training = {"patient_salt": "s", "split": SPLIT.model_dump(mode="json"), "starting_weights": CLEAN}
    keys = {patient_key("s", patient) for patient in "12"}
    digest = package.write(
        root / "start" / "package",
        state=net.state_dict(),
        contract={**said, "training": training},
        patients=keys,
    )
    Start(asked=True, package=digest).write(root / "start" / "start.json")
    return digest


@pytest.fixture(scope="module")
def champion(net: torch.nn.Module, terms: dict, tmp_path_factory: pytest.TempPathFactory) -> Package:
    root = tmp_path_factory.mktemp("crowned")
    return read_package(root / "start" / "package", crown(root, net, terms))


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_the_champion_gives_its_layers_before_the_head(
    head: str, net: torch.nn.Module, mlp_net: torch.nn.Module, terms: dict, mlp_terms: dict, tmp_path: Path
) -> None:
    """Whatever its head, training starts from the champion's layers before it and from a fresh head of its own."""
    old, said = (net, terms) if head == "linear" else (mlp_net, mlp_terms)
    digest = crown(tmp_path, old, said)
    found = pretrained.read(CHAMPION, tmp_path, split=SPLIT, patients=["1", "2", "3"])
    assert found.origin == StartingWeights(
        start="champion", sha256=digest, training_data=["ImageNet-1k"], patients="training"
    )
    assert found.patients == {patient_key("s", patient) for patient in "12"}
    other = mlp_terms if head == "linear" else terms
    fresh, new = (training.fresh_network(other, layers, seed=3).state_dict() for layers in ({}, found.state))
    for name, tensor in new.items():
        of_champion = name.startswith("features.")
        assert torch.equal(tensor, (old.state_dict() if of_champion else fresh)[name]), name


@pytest.mark.parametrize(
    ("told", "split", "patients", "seen"),
    [
        ({}, SPLIT, "12", "training"),
        ({}, SPLIT, "2", "training"),  # one has withdrawn: the same split would not have him on the test side
        ({}, Split(salt="s", test=0.2), "123", "training"),  # another split, that trains on them all the same
        ({}, Split(salt="s", test=0.2), "2", "unknown"),  # the other one may be on its test side
        ({}, Split(salt="t"), "2", "unknown"),
        ({"patient_salt": None}, None, "2", "unknown"),
        ({"starting_weights": {**CLEAN, "patients": "training"}}, SPLIT, "12", "training"),
        ({"starting_weights": {**CLEAN, "patients": "test"}}, SPLIT, "12", "test"),
        ({"starting_weights": {**CLEAN, "patients": "unknown"}}, SPLIT, "12", "unknown"),
        ({"starting_weights": None}, SPLIT, "12", "unknown"),
        ({"patients": frozenset()}, SPLIT, "12", "unknown"),
    ],
)
def test_what_the_champion_has_seen_is_worked_out(
    champion: Package,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    told: dict,
    split: Split | None,
    patients: str,
    seen: str,
) -> None:
    """Its patients are harmless if all are trained on now or the split is its own; what it started from counts too."""
    contract = {**champion.contract, "training": {**champion.contract["training"], **told}}
    known = told.get("patients", champion.patients)
    changed = dataclasses.replace(champion, contract=contract, patients=known)
    monkeypatch.setattr(pretrained, "read_package", lambda _folder, _digest: changed)
    Start(asked=True, package=champion.digest).write(tmp_path / "start" / "start.json")
    found = pretrained.read(CHAMPION, tmp_path, split=split, patients=patients)
    assert found.origin.patients == seen
    same_salt = split is not None and split.salt == "s" and told.get("patient_salt", "s") == "s"
    assert bool(found.patients) == (same_salt and "patients" not in told)


def test_before_the_first_champion_training_starts_from_imagenet(
    imagenet: StartingWeights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first training that asks for the champion gets the ImageNet weights, and where they are not, the next step."""
    Start(asked=True).write(tmp_path / "start" / "start.json")
    assert pretrained.read(CHAMPION, tmp_path, split=SPLIT).origin == imagenet

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    (tmp_path / "hub" / "checkpoints" / pretrained.IMAGENET_FILE).unlink()
    with pytest.raises(SettingsError, match="cannot be fetched") as caught:
        pretrained.read(CHAMPION, tmp_path, split=SPLIT)
    assert caught.value.where == "train.weights: champion"
    assert "train.weights: none" in caught.value.fix


def test_a_workspace_without_the_champion_is_opened_again(net: torch.nn.Module, terms: dict, tmp_path: Path) -> None:
    """Opened for other weights, not at all, or with an altered package, there is an error and no other start."""
    with pytest.raises(DataError, match=r"start\.json is missing") as caught:
        pretrained.read(CHAMPION, tmp_path)
    assert caught.value.fix == "cxr-ops open"
    Start(asked=False).write(tmp_path / "start" / "start.json")
    with pytest.raises(SettingsError, match="opened before") as caught:
        pretrained.read(CHAMPION, tmp_path)
    assert caught.value.fix == "cxr-ops open"
    crown(tmp_path, net, terms)
    path = tmp_path / "start" / "package" / "patients.txt"
    path.write_text("")
    with pytest.raises(DataError, match="not the one on record"):
        pretrained.read(CHAMPION, tmp_path)


def test_a_file_is_pinned_by_its_digest(colour: tuple[torch.nn.Module, Path], tmp_path: Path) -> None:
    """A file whose digest is not in the settings, which is all that DVC sees, is refused with the line to write."""
    _, path = colour
    with pytest.raises(SettingsError, match="weights_sha256") as caught:
        pretrained.read(Train(weights=str(path)), tmp_path)
    assert f"train.weights_sha256: {sha256_file(path)}" in str(caught.value)


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    """A pickle, a missing file, a file that is not safetensors and one of another network are refused."""
    with pytest.raises(SettingsError, match=r"none, imagenet, champion or the path of a \.safetensors"):
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
