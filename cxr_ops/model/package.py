"""A trained model as four files that stand alone: weights, contract, network and who it was trained on.

    weights.safetensors   the network's tensors, float32, nothing that unpickles
    model.json            the contract: findings in order, input, normalisation, intended use, where it comes from
    network.py            the code that builds the network and prepares its input, as it was at training
    patients.txt          keyed hashes of the patients of train and validation, and of those that the champion had seen
                          if training started from it, sorted, one a line

The digest of a package is over the names and bytes of the four. A folder with a fifth file is no package.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from torch import nn

from cxr_ops.audit.package import PATIENT_DIGITS, check_names
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.contract import PACKAGE_FILES
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network
from cxr_ops.records.base import canonical_json, sha256_bytes, write_atomic

WEIGHTS: Final = "weights.safetensors"
CONTRACT: Final = "model.json"
NETWORK: Final = "network.py"
PATIENTS: Final = "patients.txt"

INTENDED_USE: Final = (
    "Ranks frontal chest radiographs of adults by how likely each of 14 findings is. For research and demonstration. "
    "Not for clinical use."
)
# How many hexadecimal digits name a patient: 64 bits keep a hundred thousand patients apart.


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A package in memory, in evaluation mode on the CPU, with its own network and its own preprocessing.

    Attributes:
        contract: `model.json`.
        digest: the package's digest.
        net: the network; `net.relu`, `net.classifier` and `net.head` are what heat maps need.
        patients: keyed hashes of the patients that it was trained or tuned on.
        module: the package's `network.py`.
    """

    contract: dict[str, Any]
    digest: str
    net: nn.Module
    patients: frozenset[str]
    module: ModuleType

    @property
    def trained(self) -> tuple[str, ...]:
        """The findings that the model was trained on, and that alone it scores."""
        return tuple(self.contract.get("trained", self.contract["findings"]))

    @property
    def image_size(self) -> int:
        """Side of the network's input in pixels."""
        return int(self.contract["input"]["image_size"])

    def preprocess(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Bring a decoded radiograph, uint8 H x W, to the network's size, in the package's own way.

        Raises:
            DataError: not a grey 8-bit image.
        """
        try:
            prepared: npt.NDArray[np.uint8] = self.module.preprocess(pixels, self.contract)
        except ValueError as error:
            raise DataError(f"the model cannot read this image: {error}") from error
        return prepared

    def to_tensor(self, batch_NSS: torch.Tensor) -> torch.Tensor:
        """Normalise uint8 N x S x S to float32 N x 1 x S x S, in the package's own way."""
        x_N1SS: torch.Tensor = self.module.to_tensor(batch_NSS, self.contract)
        return x_N1SS


def contract(
    *,
    image_size: int,
    mean: float,
    std: float,
    training: dict[str, Any],
    head: str = "linear",
    head_width: int = 512,
    dropout: float = 0.0,
    contrast: Mapping[str, Any] | None = None,
    trained: Sequence[str] = FINDINGS,
) -> dict[str, Any]:
    """Write the contract of a network of this version.

    Args:
        image_size: side of the input in pixels.
        mean: grey value, in 0..1, that the network sees as 0.
        std: distance from it, in 0..1, that the network sees as 1.
        training: what the weights come from: settings, digests of the data, precision. No time, place or person.
        head: `linear` or `mlp`.
        head_width: units of the hidden layer of `mlp`.
        dropout: of the head, while training.
        contrast: what is done to the grey values first, see `network.adjust_contrast`; None for nothing.
        trained: the findings that the weights were trained on, in the order of `FINDINGS`. Where some are missing, the
            contract lists them and is of format 2, so that no earlier version scores what was never trained.

    Raises:
        ValueError: there is no such head, or no such list of findings.
    """
    if not _is_part(trained):
        raise ValueError(f"{list(trained)} are not findings in their order")
    some = {} if len(trained) == len(FINDINGS) else {"trained": list(trained)}
    return {
        "format": 2 if some else 1,
        **some,
        "architecture": network.architecture(head, width=head_width, dropout=dropout),
        "findings": list(FINDINGS),
        "input": {
            "channels": 1,
            "dtype": "uint8",
            "range": [0, 255],
            "contrast": dict(contrast or {"name": "none"}),
            "image_size": image_size,
            "resize": network.RESIZE,
            "mean": mean,
            "std": std,
        },
        "output": {
            "shape": ["images", len(FINDINGS)],
            "dtype": "float32",
            "values": "logits",
            "probability": "sigmoid",
        },
        "intended_use": INTENDED_USE,
        "training": training,
    }


def _is_part(findings: object) -> bool:
    """Whether something is a list of findings, at least one, in the order of `FINDINGS`."""
    if not isinstance(findings, list | tuple) or not findings:
        return False
    return list(findings) == [name for name in FINDINGS if name in findings]


def _silenced(state: dict[str, torch.Tensor], contract: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The weights, with zeros for findings that were not trained: who passes over the list sees 0.5 for every image."""
    untrained = [f for f, name in enumerate(FINDINGS) if name not in contract.get("trained", FINDINGS)]
    last = "classifier.last" if "classifier.last.weight" in state else "classifier"
    found = dict(state)
    for name in (f"{last}.weight", f"{last}.bias"):
        if untrained:
            found[name] = state[name].clone()
            found[name][untrained] = 0.0
    return found


def write(folder: Path, *, state: dict[str, torch.Tensor], contract: dict[str, Any], patients: set[str]) -> str:
    """Write a package into an empty or missing folder; the same arguments give the same bytes.

    Args:
        folder: where to.
        state: the network's tensors by name.
        contract: see `contract`.
        patients: keyed hashes, see `cxr_ops.audit.package.patient_key`.

    Returns:
        The package's digest.

    Raises:
        DataError: a weight is not finite.
        StorageError: the folder holds something or cannot be written.
    """
    state = _silenced(state, contract)
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"the weights {name!r} are not finite: the package was not written", where=folder)
    tensors = {name: tensor.detach().to("cpu").contiguous() for name, tensor in state.items()}
    if folder.is_dir() and any(folder.iterdir()):
        raise StorageError("a package is written into an empty folder", where=folder, fix=f"remove {folder}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # No metadata: safetensors writes several entries of it in an order that differs from run to run.
        write_atomic(folder / WEIGHTS, safetensors.torch.save(tensors))
        write_atomic(folder / CONTRACT, canonical_json(contract))
        write_atomic(folder / NETWORK, Path(network.__file__).read_bytes())
        write_atomic(folder / PATIENTS, "".join(f"{key}\n" for key in sorted(patients)).encode())
    except OSError as error:
        raise StorageError(f"the package cannot be written: {error.strerror}", where=folder) from error
    return package_digest(folder)


def load(folder: Path, expected_digest: str | None = None) -> LoadedModel:
    """Read a package, check it, and build its network with its own code.

    What was hashed is what is used: every file is read once. The code of `network.py` runs only after the digest has
    been found to be the expected one. Without `expected_digest`, whoever wrote the folder is trusted.

    Raises:
        DataError: a file is missing, or one too many is there; the digest is another; the findings are others or in
            another order; the weights do not fit the network or are not finite.
    """
    check_names(folder)
    files = {name: (folder / name).read_bytes() for name in PACKAGE_FILES}
    found = sha256_bytes(canonical_json({name: sha256_bytes(data) for name, data in files.items()}))
    if expected_digest is not None and found != expected_digest:
        raise DataError(
            f"the package is not the one on record: its digest is {found[:12]}, expected {expected_digest[:12]}",
            where=folder,
            fix="fetch the package again: cxr-ops open",
        )
    terms = _read_contract(files[CONTRACT], folder)
    patients = _read_patients(files[PATIENTS], folder)
    try:
        state = safetensors.torch.load(files[WEIGHTS])
    except safetensors.SafetensorError as error:
        raise DataError(f"{WEIGHTS} is not a whole safetensors file: {error}", where=folder) from error
    module = _import_source(files[NETWORK], folder, found)
    try:
        net: nn.Module = module.build(terms)
    except ValueError as error:
        raise DataError(f"{CONTRACT} and {NETWORK} do not fit: {error}", where=folder) from error
    _fill(net, state, folder)
    net.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    return LoadedModel(contract=terms, digest=found, net=net, patients=patients, module=module)


def _read_contract(data: bytes, folder: Path) -> dict[str, Any]:
    where = folder / CONTRACT
    try:
        terms = json.loads(data)
    except ValueError as error:
        raise DataError(f"{CONTRACT} is not JSON: {error}", where=where) from error
    if not isinstance(terms, dict) or terms.get("format") not in (1, 2):
        raise DataError(f"{CONTRACT} is not of format 1 or 2", where=where)
    if missing := sorted({"architecture", "findings", "input", "output", "training"} - terms.keys()):
        raise DataError(f"{CONTRACT} lacks {', '.join(missing)}", where=where)
    if terms["findings"] != list(FINDINGS):
        raise DataError("the package names other findings, or in another order, than this version", where=where)
    if ("trained" in terms) != (terms["format"] == 2) or ("trained" in terms and not _is_part(terms["trained"])):
        raise DataError("a contract of format 2, and no other, lists the trained findings in their order", where=where)
    side, std = terms["input"].get("image_size"), terms["input"].get("std")
    if not (isinstance(side, int) and side > 0 and isinstance(std, float) and std > 0):
        raise DataError("the input of the contract needs an image_size and a std above 0", where=where)
    return terms


def _read_patients(data: bytes, folder: Path) -> frozenset[str]:
    lines = data.decode("ascii", errors="replace").splitlines()
    plain = all(len(line) == PATIENT_DIGITS and set(line) <= set("0123456789abcdef") for line in lines)
    if not plain or lines != sorted(set(lines)):
        raise DataError(f"{PATIENTS} is not a sorted list of keyed hashes", where=folder / PATIENTS)
    return frozenset(lines)


class _SourceInMemory(importlib.abc.InspectLoader):
    """Imports bytes that have been hashed already; nothing is read again and no bytecode is left in the package."""

    def __init__(self, source: str) -> None:
        self._source = source

    def get_source(self, fullname: str) -> str:  # noqa: ARG002 the interface has it
        return self._source


def _import_source(source: bytes, folder: Path, found: str) -> ModuleType:
    name = f"_cxr_package_{found[:16]}"
    try:
        loader = _SourceInMemory(source.decode())
        module = importlib.util.module_from_spec(ModuleSpec(name, loader, origin=str(folder / NETWORK)))
        sys.modules[name] = module  # dataclasses and annotations look their module up by name
        loader.exec_module(module)
    except (UnicodeDecodeError, SyntaxError, ImportError) as error:
        sys.modules.pop(name, None)
        raise DataError(f"{NETWORK} of the package cannot be imported: {error}", where=folder / NETWORK) from error
    if missing := [part for part in ("build", "preprocess", "to_tensor") if not callable(getattr(module, part, None))]:
        raise DataError(f"{NETWORK} of the package lacks {', '.join(missing)}", where=folder / NETWORK)
    return module


def _fill(net: nn.Module, state: dict[str, torch.Tensor], folder: Path) -> None:
    where = folder / WEIGHTS
    wanted = net.state_dict()
    if wanted.keys() != state.keys():
        odd = sorted(wanted.keys() ^ state.keys())
        raise DataError(
            f"the weights are not those of the network: {len(odd)} names differ, such as {odd[0]}", where=where
        )
    for name, tensor in state.items():
        if tensor.shape != wanted[name].shape or tensor.dtype != wanted[name].dtype:
            raise DataError(
                f"the weights {name} are {tensor.dtype} {list(tensor.shape)}, "
                f"and the network wants {wanted[name].dtype} {list(wanted[name].shape)}",
                where=where,
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"the weights {name} are not finite", where=where)
    net.load_state_dict(state)
