"""A small disk of its own, for tests of what is said and left when it is full."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = "256m"


@contextmanager
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk in memory, with room for everything at first."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(mounted)], check=False)
    if done.returncode:
        pytest.skip("no disk can be mounted here: it needs root")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "--lazy", str(mounted)], check=True)


def shrink(disk: Path, spare: int) -> None:
    """Leave so many bytes of the disk free."""
    now = os.statvfs(disk)
    size = (now.f_blocks - now.f_bfree) * now.f_frsize + spare
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


def grow(disk: Path) -> None:
    """Give the disk the room back that it had at first."""
    subprocess.run(["mount", "-o", f"remount,size={SIZE}", str(disk)], check=True)
