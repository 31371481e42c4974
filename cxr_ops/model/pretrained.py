"""Where a training starts: fresh weights, torchvision's ImageNet weights, the champion, or a file of weights.

A radiograph has one channel and ImageNet has three. The kernels of the first layer are summed over the three, which
gives a grey picture the same activations as the network would give three equal channels.

What the weights had seen before travels with the model, for the gate: weights that saw test patients are no evidence.

The champion was trained on patients of this data set, so what it has seen is worked out, not declared. It is harmless
where its patients are among those that are trained and tuned on now, or the split is its own: then none of them can be
on the test side.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
import torch
import torchvision
from pydantic import ValidationError

from cxr_ops.audit.package import Package, patient_key
from cxr_ops.audit.package import read as read_package
from cxr_ops.contract import PACKAGE, START
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.model import network, package
from cxr_ops.params import Split, Train
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.training import Start, StartingWeights

# What the input is normalised with: ImageNet's, averaged over colour, so that its weights see what they are used to.
MEAN: Final = 0.449
STD: Final = 0.226

IMAGENET_URL: Final = torchvision.models.DenseNet121_Weights.IMAGENET1K_V1.url
IMAGENET_FILE: Final = IMAGENET_URL.rsplit("/", 1)[1]
# torchvision writes the first digits of the file's SHA-256 into its name.
IMAGENET_SHA256: Final = IMAGENET_FILE.removesuffix(".pth").rsplit("-", 1)[1]

IMAGENET_DATA: Final = "ImageNet-1k"

_STEM: Final = "conv0.weight"
_HEADS: Final = ("classifier.", "fc.")  # beside the layers, in a file whose names do not begin with features
_SAVE: Final = "save the state_dict of a torchvision.models.densenet121 by safetensors.torch.save_file"

State = dict[str, torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class Weights:
    """What a training starts from.

    Attributes:
        state: tensors of the layers before the head, by torchvision's names, with one input channel; none for fresh
            weights. The head always starts afresh.
        origin: what they are.
        patients: keyed hashes, under the salt of now, of the patients that they are known to have seen.
    """

    state: State
    origin: StartingWeights
    patients: frozenset[str] = field(default=frozenset())


def read(settings: Train, root: Path, *, split: Split | None = None, patients: Iterable[str] = ()) -> Weights:
    """Read the weights that a training starts from.

    Where `weights` is `champion` and there is none yet, these are the ImageNet weights: a first training starts as one
    does by default, and those after it from what came of it.

    Args:
        settings: `weights` and, for a file, `weights_sha256` and what is declared of it.
        root: the workspace. A relative path of a file starts there, and `start/` stands there for `champion`.
        split: how patients are split now; for `champion`.
        patients: ids of those that will be trained and tuned on; for `champion`.

    Raises:
        SettingsError: the weights cannot be had, or are not those of a DenseNet121; the workspace was opened for a
            training that does not start from the champion.
        DataError: the champion's package is not the one on record.
    """
    if settings.weights == "none":
        return Weights(state={}, origin=StartingWeights(start="none", patients="none"))
    if settings.weights == "champion":
        record = _read_start(root / START)
        if record.package is not None:
            champion = read_package(root / START / PACKAGE, record.package)
            return _of_champion(champion, package.tensors(champion), split, set(patients))
    if settings.weights in ("imagenet", "champion"):
        path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_FILE
        data = _fetch_imagenet(path, settings)
        # torchvision's file is a pickle. Its digest has been checked, and this reader takes tensors only.
        state = torch.load(path, map_location="cpu", weights_only=True)
        origin = StartingWeights(
            start="imagenet", sha256=sha256_bytes(data), training_data=[IMAGENET_DATA], patients="none"
        )
    else:
        path = root / settings.weights
        data, state = _read_file(path, settings)
        origin = StartingWeights(
            start=path.name,
            sha256=sha256_bytes(data),
            training_data=list(settings.weights_data),
            patients=settings.weights_patients or "unknown",
        )
    return Weights(state=_grey_layers(state, path), origin=origin)


def _read_start(folder: Path) -> Start:
    try:
        record = Start.read(folder / f"{START}.json")
    except DataError as error:
        raise DataError(error.what, where=error.where, fix="cxr-ops open") from error
    if not record.asked:
        raise SettingsError(
            "this workspace was opened before train.weights was champion, so that the champion is not in it",
            where=folder,
            fix="cxr-ops open",
        )
    return record


def _of_champion(model: Package, state: State, split: Split | None, patients: set[str]) -> Weights:
    told = model.contract["training"]
    try:
        before = StartingWeights.model_validate(told.get("starting_weights"))
    except ValidationError:
        before = StartingWeights(start="unknown", patients="unknown")
    now = {patient_key(str(told.get("patient_salt")), patient) for patient in patients}
    same_split = split is not None and told.get("split") == split.model_dump(mode="json")
    seen = before.patients
    if seen in ("none", "training"):
        seen = "training" if model.patients and (same_split or model.patients <= now) else "unknown"
    comparable = split is not None and told.get("patient_salt") == split.salt
    layers = {name: tensor for name, tensor in state.items() if name.startswith("features.")}
    return Weights(
        state=layers,
        origin=StartingWeights(
            start="champion", sha256=model.digest, training_data=before.training_data, patients=seen
        ),
        patients=model.patients if comparable else frozenset(),
    )


def _fetch_imagenet(path: Path, settings: Train) -> bytes:
    by_hand = f"download {IMAGENET_URL} to {path}, or set train.weights: none"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET_URL, str(path), hash_prefix=IMAGENET_SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise SettingsError(
                f"torchvision's ImageNet weights cannot be fetched: {error}",
                where=f"train.weights: {settings.weights}",
                fix=by_hand,
            ) from error
    data = path.read_bytes()
    if not sha256_bytes(data).startswith(IMAGENET_SHA256):
        raise SettingsError("the file of ImageNet weights is not torchvision's", where=path, fix=by_hand)
    return data


def _read_file(path: Path, settings: Train) -> tuple[bytes, State]:
    where = f"train.weights: {settings.weights}"
    if path.suffix != ".safetensors":
        raise SettingsError(
            "train.weights must be none, imagenet, champion or the path of a .safetensors file",
            where=where,
            fix="write it anew with safetensors.torch.save_file, and name that file"
            if path.suffix in (".pth", ".pt", ".tar", ".ckpt", ".bin")
            else "edit params.yaml",
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"the weights cannot be read: {error.strerror}", where=path, fix="edit params.yaml"
        ) from error
    found = sha256_bytes(data)
    if settings.weights_sha256 != found:
        raise SettingsError(
            "train.weights_sha256 does not name this file's content",
            where=path,
            fix=f"if these are the weights that you mean, set train.weights_sha256: {found}",
        )
    try:
        return data, safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise SettingsError(f"the weights are not a whole safetensors file: {error}", where=path) from error


def _grey_layers(state: State, path: Path) -> State:
    """Keep the layers before the head, under torchvision's names, with the first kernels summed over colour.

    What stands before the names of the layers, as wrappers write it (`module.`, `densenet121.features.`), is found by
    where the first layer is, and taken off.
    """
    # Files older than torchvision 0.3 write norm.1 where the layer is named norm1.
    named = {re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", name): tensor for name, tensor in state.items()}
    prefix = _prefix(named, path)
    layers = {
        f"features.{inner}": tensor
        for name, tensor in named.items()
        if name.startswith(prefix) and not (inner := name.removeprefix(prefix)).startswith(_HEADS)
    }
    stem = layers["features.conv0.weight"]
    if stem.ndim == 4 and stem.shape[1] == 3:
        layers["features.conv0.weight"] = stem.sum(dim=1, keepdim=True)
    _check_layers(layers, prefix, path)
    return layers


def _prefix(state: State, path: Path) -> str:
    """What stands before the name of each layer, such as `features.` or `module.densenet121.features.`."""
    stems = [name for name in state if re.search(rf"(^|\.){re.escape(_STEM)}$", name)]
    if not stems:
        example = f"; its first is {min(state)}" if state else ""
        raise SettingsError(
            f"the weights are not those of a DenseNet121 of torchvision: none of the {len(state)} names in the file "
            f"ends in {_STEM}{example}",
            where=path,
            fix=_SAVE,
        )
    if len(stems) > 1:
        raise SettingsError(
            f"the file holds more than one network: {', '.join(sorted(stems))}", where=path, fix=f"leave one; {_SAVE}"
        )
    return stems[0].removesuffix(_STEM)


def _check_layers(layers: State, prefix: str, path: Path) -> None:
    """Compare the layers with the network's own: names, shapes, and that every number is one."""
    with torch.device("meta"):  # names and shapes alone
        wanted = {f"features.{name}": tensor for name, tensor in network.ChestNet(1).features.state_dict().items()}
    # Files of torch before 0.4 do not count batches, and torch does without.
    lacking = [name for name in wanted.keys() - layers.keys() if not name.endswith("num_batches_tracked")]
    odd = sorted(layers.keys() - wanted.keys())
    other = [name for name in sorted(wanted.keys() & layers.keys()) if wanted[name].shape != layers[name].shape]
    problem = None
    if lacking:
        problem = f"the file lacks {len(lacking)} of its layers, such as {_as_given(min(lacking), prefix)}"
    elif odd:
        problem = f"the file has {len(odd)} layers that it does not have, such as {_as_given(odd[0], prefix)}"
    elif other:
        found, asked = (list(tensors[other[0]].shape) for tensors in (layers, wanted))
        problem = f"{_as_given(other[0], prefix)} is {found}, and there it is {asked}"
    if problem:
        raise SettingsError(
            f"the weights are not those of a DenseNet121 of torchvision: {problem}", where=path, fix=_SAVE
        )
    for name, tensor in layers.items():
        if tensor.is_floating_point() and (bad := int((~torch.isfinite(tensor)).sum())):
            raise SettingsError(
                f"the weights to start from are damaged: {bad} of the {tensor.numel()} numbers of "
                f"{_as_given(name, prefix)} are NaN or infinite",
                where=path,
                fix="take the file from its source again, or an earlier checkpoint of that training",
            )


def _as_given(name: str, prefix: str) -> str:
    return f"{prefix}{name.removeprefix('features.')}"
