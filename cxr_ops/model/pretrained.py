"""Where a training starts: fresh weights, torchvision's ImageNet weights, or a file of weights.

A radiograph has one channel and ImageNet has three. The kernels of the first layer are summed over the three, which
gives a grey picture the same activations as the network would give three equal channels.

What the weights had seen before travels with the model, for the gate: weights that saw test patients are no evidence.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import safetensors
import safetensors.torch
import torch
import torchvision

from cxr_ops.errors import SettingsError
from cxr_ops.params import Train
from cxr_ops.records import StartingWeights, sha256_bytes

# What the input is normalised with: ImageNet's, averaged over colour, so that its weights see what they are used to.
MEAN: Final = 0.449
STD: Final = 0.226

IMAGENET_URL: Final = torchvision.models.DenseNet121_Weights.IMAGENET1K_V1.url
IMAGENET_FILE: Final = IMAGENET_URL.rsplit("/", 1)[1]
# torchvision writes the first digits of the file's SHA-256 into its name.
IMAGENET_SHA256: Final = IMAGENET_FILE.removesuffix(".pth").rsplit("-", 1)[1]

IMAGENET_DATA: Final = "ImageNet-1k"

State = dict[str, torch.Tensor]


def read(settings: Train, root: Path) -> tuple[State, StartingWeights]:
    """Read the weights that a training starts from.

    Args:
        settings: `weights` and, for a file, `weights_sha256` and what is declared of it.
        root: what a relative path of a file starts at.

    Returns:
        Tensors of the layers before the head, by torchvision's names, with one input channel (nothing for `none`), and
        what they are. The head always starts afresh.

    Raises:
        SettingsError: the weights cannot be had, or are not those of a DenseNet121.
    """
    if settings.weights == "none":
        return {}, StartingWeights(start="none", patients="none")
    if settings.weights == "imagenet":
        path = Path(torch.hub.get_dir()) / "checkpoints" / IMAGENET_FILE
        data = _fetch_imagenet(path)
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
    return _grey_layers(state, path), origin


def _fetch_imagenet(path: Path) -> bytes:
    by_hand = f"download {IMAGENET_URL} to {path}, or set train.weights: none"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(IMAGENET_URL, str(path), hash_prefix=IMAGENET_SHA256, progress=False)
        except (OSError, RuntimeError) as error:
            raise SettingsError(
                f"torchvision's ImageNet weights cannot be fetched: {error}",
                where="train.weights: imagenet",
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
            "train.weights must be none, imagenet or the path of a .safetensors file",
            where=where,
            fix="edit params.yaml",
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
    """Keep the layers before the head, under today's names, with the first kernels summed over colour."""
    # Files older than torchvision 0.3 write norm.1 where the layer is named norm1.
    layers = {re.sub(r"\.(norm|relu|conv)\.([12])\.", r".\1\2.", name): tensor for name, tensor in state.items()}
    layers = {name: tensor for name, tensor in layers.items() if name.startswith("features.")}
    stem = layers.get("features.conv0.weight")
    if stem is None or stem.ndim != 4 or stem.shape[1] not in (1, 3):
        raise SettingsError("the weights are not those of a DenseNet121 of torchvision", where=path)
    layers["features.conv0.weight"] = stem.sum(dim=1, keepdim=True)
    return layers
