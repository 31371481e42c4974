"""Checkpoints: what a training needs to go on, in one file that is whole or is not used.

A checkpoint is a safetensors file. Its tensors are the network, the moving average, the optimizer and the best weights
so far; one entry of metadata holds the rest as JSON. Its name carries a digest of what the training was given (its
inputs), the number of steps done, and the file's own SHA-256: one of other inputs is not looked at, and a torn or
altered one is known before it is parsed. Nothing is unpickled.

The last two are kept: when the newest is damaged, the one before it is used.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors
import safetensors.torch
import torch

from cxr_ops.errors import StorageError
from cxr_ops.records.base import canonical_json, sha256_bytes, write_atomic

KEEP: Final = 2
_NAME: Final = re.compile(r"checkpoint-([0-9a-f]{16})-(\d{9})-([0-9a-f]{64})\.safetensors")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What was saved: tensors by name, and the rest as parsed JSON."""

    tensors: dict[str, torch.Tensor]
    state: dict[str, Any]


def save(
    folder: Path, steps: int, *, tensors: dict[str, torch.Tensor], state: dict[str, Any], inputs: dict[str, str]
) -> None:
    """Write a checkpoint aside, flush it, rename it, and remove all but the last two of these inputs.

    Args:
        folder: made when it is missing.
        steps: steps done since the start, at most 999,999,999.
        tensors: by name.
        state: JSON values; numbers come back exactly.
        inputs: what the training was given; see `latest`.

    Raises:
        StorageError: the disk is full or cannot be written; the checkpoints before stay whole.
    """
    data = encode(Checkpoint(tensors=tensors, state=state))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(".checkpoint-*.part"):  # of a kill; first, because the disk may be nearly full
            path.unlink(missing_ok=True)
        write_atomic(folder / f"checkpoint-{_key(inputs)}-{steps:09d}-{sha256_bytes(data)}.safetensors", data)
        _sync_folder(folder)
        for path in _files(folder, inputs)[:-KEEP]:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"a checkpoint cannot be written: {error.strerror}",
            where=folder,
            fix="make room, then run the command again",
        ) from error


def latest(folder: Path, inputs: dict[str, str]) -> tuple[Checkpoint | None, list[str]]:
    """Read the newest whole checkpoint of a training that was given the same inputs; remove damaged ones.

    Args:
        folder: may be missing.
        inputs: what this training is given: digests of data, settings and code, and the kind of machine.

    Returns:
        The checkpoint, or None; and what a person should know about the others, as sentences.
    """
    remarks: list[str] = []
    for path in reversed(_files(folder, inputs)):
        data = path.read_bytes()
        if sha256_bytes(data) == path.stem.rsplit("-", 1)[1]:
            # Who writes a file can write its digest too: what is no checkpoint all the same is damaged.
            with suppress(ValueError, KeyError, TypeError, safetensors.SafetensorError):
                return decode(data), remarks
        remarks.append(f"a damaged checkpoint is not used and was removed: {path.name[:36]}...")
        path.unlink()
    if any(folder.glob("checkpoint-*.safetensors")):
        remarks.append("the checkpoints here are of other data, settings, code, kind of machine or threads: not used")
    return None, remarks


def encode(saved: Checkpoint) -> bytes:
    """A checkpoint's file."""
    data: bytes = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in saved.tensors.items()},
        metadata={"state": json.dumps(saved.state, allow_nan=False)},
    )
    return data


def decode(data: bytes) -> Checkpoint:
    """Read what `encode` made."""
    size = int.from_bytes(data[:8], "little")
    state = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["state"])
    return Checkpoint(tensors=safetensors.torch.load(data), state=state)


def remove(folder: Path) -> None:
    """Remove all checkpoints, and the folder when nothing else is in it."""
    for path in [*folder.glob(".checkpoint-*.part"), *folder.glob("checkpoint-*.safetensors")]:
        path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _key(inputs: dict[str, str]) -> str:
    return sha256_bytes(canonical_json(inputs))[:16]


def _files(folder: Path, inputs: dict[str, str]) -> list[Path]:
    """Checkpoints of these inputs, in the order in which they were made."""
    return sorted(path for path in folder.glob(f"checkpoint-{_key(inputs)}-*") if _NAME.fullmatch(path.name))


def _sync_folder(folder: Path) -> None:
    """Flush the folder itself: without it, a rename may not survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
