"""Packages: written in one way, and refused when they are not what they say."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from cxr_ops import contract
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.package import patient_key
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network, package


@pytest.fixture
def copy(package_folder: Path, tmp_path: Path) -> Path:
    """A package that may be spoiled."""
    return Path(shutil.copytree(package_folder, tmp_path / "copy"))


def test_same_content_gives_the_same_bytes(
    net: network.ChestNet, terms: dict, package_folder: Path, tmp_path: Path
) -> None:
    """Writing a package twice gives the same digest, which is over the names and bytes of its four files."""
    keys = {patient_key("s", patient) for patient in ("2", "1")}
    again = package.write(tmp_path / "again", state=net.state_dict(), contract=terms, patients=keys)
    assert again == package_digest(package_folder)
    files = {name: hashlib.sha256((package_folder / name).read_bytes()).hexdigest() for name in contract.PACKAGE_FILES}
    assert hashlib.sha256((json.dumps(files, sort_keys=True, indent=2) + "\n").encode()).hexdigest() == again


def test_loads_the_same_network(net: network.ChestNet, package_folder: Path, terms: dict) -> None:
    """A loaded package gives the logits of the network that was written, and its contract, digest and patients."""
    model = package.load(package_folder, package_digest(package_folder))
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.net(x), net(x), atol=1e-5)
    assert not model.net.training
    assert model.contract == terms
    assert model.digest == package_digest(package_folder)
    assert model.patients == {hashlib.sha256(f"s\0{patient}".encode()).hexdigest()[:16] for patient in "12"}


def test_both_heads_are_packed_and_loaded(mlp_net: network.ChestNet, mlp_folder: Path, mlp_terms: dict) -> None:
    """A head of two layers and a contrast come back as they were: logits, contract and preprocessing."""
    model = package.load(mlp_folder, package_digest(mlp_folder))
    assert model.contract == mlp_terms
    assert model.contract["architecture"] == {
        "name": "densenet121",
        "channels": 1,
        "head": "mlp",
        "width": 24,
        "dropout": 0.3,
    }
    x = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(model.net(x), mlp_net(x), atol=1e-5)
    pixels = np.random.default_rng(0).integers(0, 256, (80, 70), dtype=np.uint8)
    assert np.array_equal(model.preprocess(pixels), network.preprocess(pixels, mlp_terms))
    plain = {**mlp_terms, "input": {**mlp_terms["input"], "contrast": {"name": "none"}}}
    assert not np.array_equal(model.preprocess(pixels), network.preprocess(pixels, plain))


def test_a_package_from_before_there_was_a_choice_is_read(copy: Path) -> None:
    """A contract that says nothing of contrast, of the architecture of old, loads and leaves the grey values alone."""
    said = json.loads((copy / "model.json").read_bytes())
    del said["input"]["contrast"]
    assert said["architecture"] == {"name": "densenet121", "channels": 1, "head": "linear"}
    (copy / "model.json").write_text(json.dumps(said))
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    assert np.array_equal(package.load(copy).preprocess(pixels), pixels)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_what_was_not_trained_is_listed_and_silent(
    net: network.ChestNet, mlp_net: network.ChestNet, terms: dict, mlp_terms: dict, tmp_path: Path, head: str
) -> None:
    """A package of some findings lists them under another format, and its own network gives 0 for the others."""
    made, whole = (net, terms) if head == "linear" else (mlp_net, mlp_terms)
    some = {**whole, "format": 2, "trained": ["Effusion", "Mass"]}
    package.write(tmp_path / "package", state=made.state_dict(), contract=some, patients=set())
    model = package.load(tmp_path / "package")
    kept = [FINDINGS.index(name) for name in model.trained]
    assert model.trained == ("Effusion", "Mass")
    x = torch.randn(2, 1, 64, 64)
    logits, before = model.net(x), made(x)
    assert torch.allclose(logits[:, kept], before[:, kept], atol=1e-5)
    assert not logits[:, [f for f in range(14) if f not in kept]].any()


def test_a_package_of_all_findings_has_no_list(terms: dict) -> None:
    """Where every finding was trained, the contract is byte for byte that of earlier versions."""
    given = {"image_size": 64, "mean": 0.449, "std": 0.226, "training": terms["training"]}
    assert package.contract(**given, trained=FINDINGS) == terms
    assert terms["format"] == 1
    assert "trained" not in terms
    for wrong in ([], ["Mass", "Effusion"], ["Mass", "Mass"], ["Masses"]):
        with pytest.raises(ValueError, match="not findings in their order"):
            package.contract(**given, trained=wrong)


def test_an_unknown_contrast_is_refused_with_the_picture(copy: Path) -> None:
    """A contrast that the package's code does not know stops the first picture, and nothing is guessed."""
    said = json.loads((copy / "model.json").read_bytes())
    _spoil_contract(copy, {"input": {**said["input"], "contrast": {"name": "gamma"}}})
    with pytest.raises(DataError, match="gamma"):
        package.load(copy).preprocess(np.zeros((9, 9), np.uint8))


def test_the_networks_output_has_the_shape_of_the_contract(package_folder: Path) -> None:
    """What the contract says of input and output is what the network takes and gives."""
    model = package.load(package_folder)
    said = model.contract
    side = said["input"]["image_size"]
    logits = model.net(torch.zeros(3, said["input"]["channels"], side, side))
    assert list(logits.shape) == [3, said["output"]["shape"][1]] == [3, len(said["findings"])]
    assert str(logits.dtype) == f"torch.{said['output']['dtype']}"
    assert said["findings"] == list(FINDINGS)
    assert "Not for clinical use" in said["intended_use"]


def test_runs_the_code_that_it_carries(copy: Path, package_folder: Path) -> None:
    """A package's network is built by the package's own code, not by today's, and nothing is left in its folder."""
    code = (copy / "network.py").read_text()
    (copy / "network.py").write_text(code.replace("return logits_NK", "return logits_NK + 1"))
    x = torch.zeros(1, 1, 64, 64)
    old, new = package.load(package_folder), package.load(copy)
    assert torch.allclose(new.net(x), old.net(x) + 1)
    assert package_digest(copy) == new.digest != old.digest


def test_no_code_of_an_altered_package_runs(copy: Path, tmp_path: Path) -> None:
    """When the digest is another than expected, the package's code is not run."""
    expected = package_digest(copy)
    witness = tmp_path / "witness"
    with (copy / "network.py").open("a") as file:
        file.write(f"\nopen({str(witness)!r}, 'w').close()\n")
    with pytest.raises(DataError, match="not the one on record"):
        package.load(copy, expected)
    assert not witness.exists()
    package.load(copy)
    assert witness.exists()


@pytest.mark.parametrize("name", ["weights.pkl", "__pycache__", "notes.txt"])
def test_refuses_a_file_too_many(copy: Path, name: str) -> None:
    """A folder with anything besides the four files is no package, a pickle least of all."""
    (copy / name).write_bytes(pickle.dumps({}))
    with pytest.raises(DataError, match=name):
        package.load(copy)
    with pytest.raises(DataError, match=name):
        package_digest(copy)


@pytest.mark.parametrize("name", contract.PACKAGE_FILES)
def test_refuses_a_missing_file_and_a_link(copy: Path, package_folder: Path, name: str) -> None:
    """Each of the four files must be there, as a file."""
    (copy / name).unlink()
    with pytest.raises(DataError, match=f"lacks {name}"):
        package.load(copy)
    (copy / name).symlink_to(package_folder / name)
    with pytest.raises(DataError, match="not a plain file"):
        package.load(copy)


def _spoil_contract(folder: Path, change: dict) -> None:
    said = json.loads((folder / "model.json").read_bytes())
    (folder / "model.json").write_text(json.dumps({**said, **change}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"findings": [FINDINGS[1], FINDINGS[0], *FINDINGS[2:]]}, "another order"),
        ({"findings": list(FINDINGS[:13])}, "other findings"),
        ({"format": 3}, "format 3, and this version of cxr-ops reads formats up to 2"),
        ({"format": 0}, "format 1 or 2"),
        ({"format": 2}, "lists the trained findings"),
        ({"trained": ["Mass"]}, "of format 2, and no other"),
        ({"format": 2, "trained": ["Mass", "Effusion"]}, "in their order"),
        ({"input": {"image_size": 64}}, "image_size and a std"),
        ({"architecture": {"name": "resnet18"}}, "resnet18"),
    ],
)
def test_refuses_another_contract(copy: Path, change: dict, says: str) -> None:
    """Findings in another order, another format, an incomplete input and an unknown architecture are refused."""
    _spoil_contract(copy, change)
    with pytest.raises(DataError, match=says):
        package.load(copy)


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("classifier.weight", torch.zeros(13, 1024), "13, 1024"),
        ("classifier.bias", torch.zeros(14, dtype=torch.float64), "float64"),
        ("classifier.bias", torch.full((14,), float("nan")), "not finite"),
        ("classifier.extra", torch.zeros(1), "classifier.extra"),
    ],
)
def test_refuses_weights_that_do_not_fit(copy: Path, name: str, tensor: torch.Tensor, says: str) -> None:
    """Weights of another shape, type or name, or that are not numbers, are refused."""
    state = safetensors.torch.load_file(copy / "weights.safetensors")
    safetensors.torch.save_file({**state, name: tensor}, copy / "weights.safetensors")
    with pytest.raises(DataError, match=says):
        package.load(copy)


def test_refuses_torn_weights_and_patients(copy: Path) -> None:
    """Weights cut short and a list of patients that is not one are refused."""
    whole = (copy / "weights.safetensors").read_bytes()
    (copy / "weights.safetensors").write_bytes(whole[:-100])
    with pytest.raises(DataError, match="whole safetensors"):
        package.load(copy)
    (copy / "weights.safetensors").write_bytes(whole)
    (copy / "patients.txt").write_text("1234\n")
    with pytest.raises(DataError, match="keyed hashes"):
        package.load(copy)


def test_writes_nothing_that_is_not_a_model(net: network.ChestNet, terms: dict, tmp_path: Path) -> None:
    """Weights that are not numbers are not written, and a folder that holds something is not written into."""
    spoiled = {**net.state_dict(), "classifier.bias": torch.full((14,), float("inf"))}
    with pytest.raises(DataError, match=r"classifier\.bias"):
        package.write(tmp_path / "spoiled", state=spoiled, contract=terms, patients=set())
    assert not (tmp_path / "spoiled").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "other").touch()
    with pytest.raises(StorageError, match="empty folder"):
        package.write(tmp_path / "full", state=net.state_dict(), contract=terms, patients=set())
