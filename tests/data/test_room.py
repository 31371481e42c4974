"""The check for room: needs on one disk are added up, and the error says where and how much."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cxr_ops.data import room
from cxr_ops.errors import StorageError


def test_needs_on_one_disk_are_added_up(tmp_path: Path) -> None:
    """Two folders on one disk must fit together, though each alone would, and though neither exists yet."""
    one, two = tmp_path / "a" / "b", tmp_path / "c"
    left = room.check({one: 2**20, two: 2**20}, "it", fix="free some", free_bytes=lambda _: 2 * 2**20)
    assert left == {one: 0, two: 0}
    with pytest.raises(StorageError, match="too little disk: 2 MiB are free, and it needs 3 MiB") as caught:
        room.check({one: 2**20, two: 2 * 2**20}, "it", fix="free some", free_bytes=lambda _: 2 * 2**20)
    assert str(one) in str(caught.value)
    assert "free some" in str(caught.value)


def test_another_disk_has_room_of_its_own(tmp_path: Path) -> None:
    """What is written to another disk does not count on this one."""
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is one disk here")
    left = room.check({tmp_path: 10, other: 10}, "it", fix="", free_bytes=lambda _: 12)
    assert left == {tmp_path: 2, other: 2}


def test_free_room_is_the_systems(tmp_path: Path) -> None:
    """The free room of a path that is not there is that of the disk it would be on."""
    assert abs(room.free(tmp_path / "not" / "there") - shutil.disk_usage(tmp_path).free) < 2**30


@pytest.mark.parametrize(
    ("free", "told"), [(1000, "the disk is full: 39 requested"), (2**30, "cannot be read or written")]
)
def test_a_full_disk_is_told_where_the_error_has_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, told: str
) -> None:
    """NumPy says that fewer bytes were written, and not why."""
    monkeypatch.setattr(room, "free", lambda _: free)
    with pytest.raises(StorageError, match=told), room.storage_errors(tmp_path):
        raise OSError("39 requested and 0 written")
