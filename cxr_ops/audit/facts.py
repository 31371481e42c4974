"""What a package says of the settings that its model was made with, under the names of `params.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cxr_ops.params import NOT_OF_THE_MODEL

# How a contract calls the settings of contrast; see `cxr_ops.data.contrast.terms`.
_CONTRAST: Final = {
    "name": "contrast",
    "low": "window_low",
    "high": "window_high",
    "clip": "clahe_clip",
    "tiles": "clahe_tiles",
}


def settings(contract: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a model, by dotted key of `params.yaml` (split, prepare, train), without those of the machine.

    Args:
        contract: `model.json` of a package.

    Raises:
        KeyError: it is no such contract.

    >>> settings({"training": {"settings": {"epochs": 6, "threads": 2}}, "input": {"image_size": 96}})
    {'train.epochs': 6, 'prepare.contrast': 'none', 'prepare.image_size': 96}
    """
    told = contract["training"]
    sections = {"split": told.get("split", {}), "prepare": told.get("prepare", {}), "train": told.get("settings", {})}
    found = {f"{part}.{key}": value for part, values in sections.items() for key, value in values.items()}
    # Of the picture, what is done to it counts, and not what is told of it.
    contrast = contract["input"].get("contrast", {"name": "none"})
    found |= {f"prepare.{_CONTRAST[key]}": value for key, value in contrast.items()}
    found["prepare.image_size"] = int(contract["input"]["image_size"])
    return {key: value for key, value in found.items() if key not in NOT_OF_THE_MODEL}
