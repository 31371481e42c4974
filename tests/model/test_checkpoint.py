"""Checkpoints: exact, whole or unused, of the same inputs or unused."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
import torch

from cxr_ops.errors import StorageError
from cxr_ops.model import checkpoint

INPUTS = {"data": "a", "threads": "2"}


def save(folder: Path, steps: int, inputs: dict[str, str] = INPUTS) -> None:
    tensors = {"net.w": torch.full((3, 4), steps / 3), "net.n": torch.tensor(steps)}
    checkpoint.save(folder, steps, tensors=tensors, state={"step": steps, "loss": steps / 7}, inputs=inputs)


def test_gives_back_every_bit(tmp_path: Path) -> None:
    """Tensors of every layout and numbers come back exactly."""
    laid_out = torch.randn(2, 3, 5, 5).to(memory_format=torch.channels_last)
    tensors = {"a": laid_out, "b": torch.tensor(7), "c": torch.randn(4, dtype=torch.float64)}
    checkpoint.save(tmp_path, 3, tensors=tensors, state={"loss": 0.1 + 0.2, "history": [{"epoch": 1}]}, inputs=INPUTS)
    found, remarks = checkpoint.latest(tmp_path, INPUTS)
    assert found is not None
    assert remarks == []
    assert found.state == {"loss": 0.1 + 0.2, "history": [{"epoch": 1}]}
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_keeps_two_and_reads_the_newest(tmp_path: Path) -> None:
    """The last two checkpoints are kept and the newest is read; leftovers of a kill are cleared away."""
    (tmp_path / ".checkpoint-x.safetensors.77.part").write_bytes(b"torn")
    for steps in (9, 10, 100):
        save(tmp_path, steps)
    assert len(list(tmp_path.iterdir())) == checkpoint.KEEP == 2
    found, _ = checkpoint.latest(tmp_path, INPUTS)
    assert found is not None
    assert found.state["step"] == 100


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data[:50] + b"?" + data[51:], lambda _data: b""]
)
def test_a_damaged_one_is_refused_and_the_one_before_is_used(tmp_path: Path, spoil) -> None:
    """A torn, altered or empty newest checkpoint is not used, a sentence says so, and the one before is."""
    save(tmp_path, 1)
    save(tmp_path, 2)
    newest = max(tmp_path.iterdir())
    newest.write_bytes(spoil(newest.read_bytes()))
    found, remarks = checkpoint.latest(tmp_path, INPUTS)
    assert found is not None
    assert found.state["step"] == 1
    assert len(remarks) == 1
    assert "damaged" in remarks[0]


def test_other_inputs_are_never_gone_on_from(tmp_path: Path) -> None:
    """A checkpoint of other data, settings, code or threads is not used, is left alone, and a sentence says so."""
    save(tmp_path, 50, {**INPUTS, "threads": "1"})
    found, remarks = checkpoint.latest(tmp_path, INPUTS)
    assert found is None
    assert "threads" in remarks[0]
    for steps in (1, 2, 3):
        save(tmp_path, steps)
    found, _ = checkpoint.latest(tmp_path, INPUTS)
    assert found is not None
    assert found.state["step"] == 3
    found, _ = checkpoint.latest(tmp_path, {**INPUTS, "threads": "1"})
    assert found is not None
    assert found.state["step"] == 50


def test_a_full_disk_leaves_the_one_before_whole(tmp_path: Path) -> None:
    """When a checkpoint cannot be written to its end, the error says so and the earlier one is still read."""
    save(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(StorageError, match="cannot be written"):
            save(tmp_path, 2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    found, remarks = checkpoint.latest(tmp_path, INPUTS)
    assert found is not None
    assert found.state["step"] == 1
    assert remarks == []
    assert [path for path in tmp_path.iterdir() if path.name.endswith(".part")] == []


def test_removal_takes_checkpoints_only(tmp_path: Path) -> None:
    """Removing takes all checkpoints, and the folder when nothing else stands in it."""
    folder = tmp_path / "checkpoints"
    checkpoint.remove(folder)
    save(folder, 1)
    (folder / "note").touch()
    checkpoint.remove(folder)
    assert [path.name for path in folder.iterdir()] == ["note"]
    (folder / "note").unlink()
    save(folder, 1)
    checkpoint.remove(folder)
    assert not folder.exists()
    assert checkpoint.latest(folder, INPUTS) == (None, [])
