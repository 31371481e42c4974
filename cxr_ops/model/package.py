"""Writes a package, and builds the network of one with the code in it; `cxr_ops.audit.package` says what a package is.

The code of `network.py` runs in the process that builds it. Where that process holds what the code must not see, such
as the labels of the test set, `cxr_ops.model.apart` builds it in another.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
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

from cxr_ops.audit.package import CONTRACT, NETWORK, PATIENTS, WEIGHTS, Described, Package, is_part, read
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import network
from cxr_ops.records.base import canonical_json, write_atomic

INTENDED_USE: Final = (
    "Ranks frontal chest radiographs of adults by how likely each of 14 findings is. For research and demonstration. "
    "Not for clinical use."
)


@dataclass(frozen=True, kw_only=True)
class LoadedModel(Described):
    """A package in memory, in evaluation mode on the CPU, with its own network and its own preprocessing.

    Attributes:
        net: the network; `net.relu`, `net.classifier` and `net.head` are what heat maps need.
        module: the package's `network.py`.
    """

    net: nn.Module
    module: ModuleType

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
    if not is_part(trained):
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

    The code of `network.py` runs only after the digest has been found to be the expected one. Without
    `expected_digest`, whoever wrote the folder is trusted.

    Raises:
        DataError: see `cxr_ops.audit.package.read` and `build`.
    """
    return build(read(folder, expected_digest))


def build(package: Package) -> LoadedModel:
    """Build the network of a package with its own code, which runs here.

    Raises:
        DataError: the code cannot be imported or does not fit the contract; the weights do not fit the network or are
            not finite.
    """
    folder, terms = package.folder, package.contract
    state = tensors(package)
    module = _import_source(package.files[NETWORK], folder, package.digest)
    try:
        net: nn.Module = module.build(terms)
    except ValueError as error:
        raise DataError(f"{CONTRACT} and {NETWORK} do not fit: {error}", where=folder) from error
    _fill(net, state, folder)
    net.eval().requires_grad_(requires_grad=False).to(memory_format=torch.channels_last)
    return LoadedModel(
        folder=folder,
        digest=package.digest,
        contract=terms,
        patients=package.patients,
        net=net,
        module=module,
    )


def tensors(package: Package) -> dict[str, torch.Tensor]:
    """The weights of a package, by name, without its code.

    Raises:
        DataError: they are no whole safetensors file, or not finite.
    """
    try:
        state: dict[str, torch.Tensor] = safetensors.torch.load(package.files[WEIGHTS])
    except safetensors.SafetensorError as error:
        raise DataError(f"{WEIGHTS} is not a whole safetensors file: {error}", where=package.folder) from error
    for name, tensor in state.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DataError(f"the weights {name} are not finite", where=package.folder / WEIGHTS)
    return state


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
    net.load_state_dict(state)
