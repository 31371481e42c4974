"""A delivery and the checksums that end it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from cxr_ops.data.checking import delivery
from cxr_ops.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A delivery that ends as the module's docstring and its errors say, by the real `sha256sum`."""
    folder = tmp_path / "first"
    (folder / "images").mkdir(parents=True)
    (folder / "Data_Entry_2017.csv").write_text("Image Index\n")
    (folder / "images" / "a b.png").write_bytes(b"pixels")
    subprocess.run(["sh", "-c", delivery._fix(folder)], check=True)
    return folder


def test_what_is_named_is_there(folder: Path) -> None:
    """Files with the digests that sha256sum wrote are whole; without READY, or with an empty one, nothing is said."""
    assert delivery.check(folder) == "2 files are as READY says, by SHA-256"
    (folder / "READY").write_text("")
    assert delivery.check(folder) is None
    (folder / "READY").unlink()
    assert delivery.check(folder) is None


@pytest.mark.parametrize("fault", ["other content", "missing", "not named in READY", "a link", "a pipe"])
def test_what_is_not_as_named_is_refused(folder: Path, fault: str) -> None:
    """A file that is missing, altered, not named or a link is named in the refusal."""
    path = folder / "images" / "a b.png"
    if fault == "other content":
        path.write_bytes(b"pixelS")
    elif fault == "missing":
        path.unlink()
    elif fault == "a pipe":  # that nobody writes into: reading it would never end
        path.unlink()
        os.mkfifo(path)
        fault = "other content"
    elif fault == "a link":
        (folder.parent / "away.png").write_bytes(path.read_bytes())
        path.unlink()
        path.symlink_to(folder.parent / "away.png")
        fault = "other content"
    else:
        path = folder / "images" / "more.png"
        path.touch()
    with pytest.raises(DataError, match="1 file is not") as refusal:
        delivery.check(folder)
    assert f"images/{path.name}: {fault}" in str(refusal.value)


@pytest.mark.parametrize("line", ["done", "0f  a.png", f"{'0f' * 32}  ../a.png", f"{'0f' * 32}  /etc/passwd"])
def test_what_is_no_checksum_is_refused(folder: Path, line: str) -> None:
    """Words, short digests and paths that lead out of the folder are refused with the line."""
    with (folder / "READY").open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(DataError, match="line 3 is no SHA-256"):
        delivery.check(folder)
