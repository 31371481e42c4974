"""Where results are written: files are replaced whole, links followed, and what is no file is written to as it is."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from cxr_ops.commands import places
from cxr_ops.errors import SettingsError, StorageError


def _put(path: Path, data: bytes = b"new") -> None:
    places.check({"--json": path}, {})
    places.write(path, data)


def test_a_file_is_replaced_whole_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    """The new file is another one than the old, which a reader may still hold open."""
    path = tmp_path / "x.json"
    path.write_bytes(b"old and longer")
    with path.open("rb") as held:
        _put(path)
        assert held.read() == b"old and longer"
    assert path.read_bytes() == b"new"
    assert [one.name for one in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_a_link_and_its_target_is_written(tmp_path: Path, exists: bool) -> None:
    """Through a link the file that it leads to gets the result, whether it was there or not."""
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    if exists:
        target.write_bytes(b"old")
    link.symlink_to(target)
    _put(link)
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_a_pipe_is_written_to_and_stays_a_pipe(tmp_path: Path) -> None:
    """Who reads from a named pipe gets the result, and the pipe is no file afterwards."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()), daemon=True)
    reader.start()
    _put(pipe, b"x" * 100_000)
    reader.join(timeout=30)
    assert found == [b"x" * 100_000]
    assert stat.S_ISFIFO(pipe.lstat().st_mode)


def test_a_terminal_is_written_to(tmp_path: Path) -> None:
    """A link to a terminal leads the result there."""
    ours, theirs = os.openpty()
    link = tmp_path / "screen"
    link.symlink_to(os.ttyname(theirs))
    _put(link)
    assert os.read(ours, 100) == b"new"
    assert link.is_symlink()
    for one in (ours, theirs):
        os.close(one)


def test_an_open_descriptor_is_written_where_it_stands(tmp_path: Path) -> None:
    """`/dev/fd/N` of a file that is half written gets the result at its end, and the file is not emptied."""
    path = tmp_path / "log"
    with path.open("wb", buffering=0) as file:
        file.write(b"before ")
        _put(Path(f"/dev/fd/{file.fileno()}"))
        _put(Path(f"/proc/self/fd/{file.fileno()}"), b" again")
    assert path.read_bytes() == b"before new again"
    assert [places.descriptor(Path(name)) for name in ("-", "/dev/stdout", "/dev/stderr", "x")] == [1, 1, 2, None]


def _file(folder: Path) -> Path:
    (folder / "file").write_text("")
    return folder / "file"


def _link(folder: Path) -> Path:
    (folder / "link").symlink_to(folder / "gone" / "x")
    return folder / "link"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder / "no" / "x", "mkdir -p"),
        (lambda folder: folder, "names a folder"),
        (lambda folder: _file(folder) / "x", "not a folder"),
        (_link, "does not exist"),
        (lambda folder: folder / ("x" * 300), "cannot be written"),
        (lambda _: Path("/dev/fd/987"), "cannot be written"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_with_a_next_step(tmp_path: Path, make, said: str) -> None:
    """Each kind of place that cannot be written is refused by the check, by the option's name, with what to do."""
    with pytest.raises(StorageError, match="--json") as caught:
        places.check({"--html": None, "--json": make(tmp_path)}, {})
    assert said in str(caught.value)
    assert caught.value.fix


def test_no_input_and_no_other_output_is_overwritten(tmp_path: Path) -> None:
    """Two options that lead to one file, by whatever names, are refused."""
    truth = tmp_path / "truth.csv"
    truth.write_text("")
    (tmp_path / "link").symlink_to(truth)
    for outputs in ({"--json": tmp_path / "link"}, {"--json": tmp_path / "x", "--html": tmp_path / "." / "x"}):
        with pytest.raises(SettingsError, match="same file"):
            places.check(outputs, {"--truth": truth})
    with pytest.raises(SettingsError, match="same file"):
        places.check({"--json": Path("-"), "--html": Path("/dev/stdout")}, {})


def test_a_place_that_goes_away_meanwhile_is_an_error_and_no_traceback(tmp_path: Path) -> None:
    """A folder that was removed during the work gives an error of storage."""
    folder = tmp_path / "out"
    folder.mkdir()
    places.check({"--json": folder / "x"}, {})
    folder.rmdir()
    with pytest.raises(StorageError, match="cannot be written"):
        places.write(folder / "x", b"new")
