"""The quarantine: reasons for everything, and the bytes that they are about, under no name that came with them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data.checking import quarantine
from cxr_ops.data.sources.source import Listing, Problem, Row
from cxr_ops.errors import StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_bytes

TABLE = "table.csv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a table, pictures of two depths, links out of it and within, and a folder called as a picture."""
    made = tmp_path / "came"
    (made / "images" / "deep").mkdir(parents=True)
    (made / TABLE).write_bytes(b"image,label\n")
    for name, data in (("a.png", b"first"), ("deep/b.PNG", b"second"), ("stray.png", b"third")):
        (made / "images" / name).write_bytes(data)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (made / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (made / "images" / "inner.png").symlink_to("a.png")
    (made / "images" / "folder.png").mkdir()
    return made


def listing(folder: Path) -> Listing:
    """What a source read: one row, whose picture does not decode."""
    row = Row(2, "a.png", "1", (0,) * len(FINDINGS), 40, "F", "PA", folder / "images" / "a.png")
    return Listing(source="nih", table=TABLE, total=1, rows=[row])


def listed(kept: Path) -> dict[str, str]:
    """The digest that stands beside each problem."""
    table = pd.read_csv(kept / quarantine.PROBLEMS, dtype=str, keep_default_na=False)
    assert tuple(table.columns) == quarantine.COLUMNS
    return dict(zip(table["problem"], table["sha256"], strict=True))


def test_each_problem_has_the_bytes_that_it_is_about(folder: Path, tmp_path: Path) -> None:
    """A row's picture, one that a source named by its place, a stray file and a table are kept; nothing else is."""
    kept = tmp_path / "kept"
    problems = [
        Problem("does not decode", TABLE, 2, "a.png"),
        Problem("no label", TABLE, 3, "images-deep-b.png"),
        Problem("no row names it", "images/stray.png"),
        Problem("the table may have been cut", TABLE, 9),
        Problem("it is missing", TABLE, 4, "gone.png"),
        Problem("a link", TABLE, 5, "link.png"),
        Problem("a link within", TABLE, 7, "inner.png"),
        Problem("a folder", TABLE, 6, "folder.png"),
        Problem("leads out", "../secret.png", None, "../secret.png"),
        Problem("no name", "images/\0.png", None, "\0.png"),
    ]
    assert quarantine.keep(kept, folder, listing(folder), problems) == kept / quarantine.PROBLEMS
    table = sha256_bytes(b"image,label\n")
    assert listed(kept) == {
        "does not decode": sha256_bytes(b"first"),
        "no label": sha256_bytes(b"second"),
        "no row names it": sha256_bytes(b"third"),
        "the table may have been cut": table,
        "it is missing": table,  # of a row without a picture, the row
        "a link": table,
        "a link within": table,
        "a folder": table,
        "leads out": "",
        "no name": "",
    }
    files = {path.name: path.read_bytes() for path in (kept / quarantine.FILES).iterdir()}
    assert sorted(files.values()) == [b"first", b"image,label\n", b"second", b"third"]
    assert all(name == sha256_bytes(data) for name, data in files.items())


def test_an_earlier_attempts_bytes_are_replaced(folder: Path, tmp_path: Path) -> None:
    """What a second attempt finds is all that is there."""
    kept = tmp_path / "kept"
    quarantine.keep(kept, folder, listing(folder), [Problem("stray", "images/stray.png")])
    quarantine.keep(kept, folder, listing(folder), [Problem("does not decode", "images/a.png")])
    assert [path.read_bytes() for path in (kept / quarantine.FILES).iterdir()] == [b"first"]


def test_no_more_is_kept_than_asked(folder: Path, tmp_path: Path) -> None:
    """Files beyond the limit stay where they are: the reason is there, the digest is not."""
    kept = tmp_path / "kept"
    problems = [Problem("one", "images/a.png"), Problem("two", "images/stray.png")]
    quarantine.keep(kept, folder, listing(folder), problems, at_most=len(b"first"))
    assert listed(kept) == {"one": sha256_bytes(b"first"), "two": ""}


def test_without_room_the_reasons_are_there(folder: Path, tmp_path: Path) -> None:
    """A full disk is an error before anything is copied; the list is written first."""
    kept = tmp_path / "kept"
    with pytest.raises(StorageError, match="too little disk"):
        quarantine.keep(
            kept, folder, listing(folder), [Problem("one", "images/a.png")], free_bytes=lambda _: len(b"first") - 1
        )
    assert listed(kept) == {"one": ""}
    assert not (kept / quarantine.FILES).exists()


def test_a_quarantine_is_for_its_owner_alone(folder: Path, tmp_path: Path) -> None:
    """Nobody else can look into the folders, also where an earlier version made them for everybody."""
    kept = tmp_path / "kept"
    kept.mkdir(mode=0o755)
    quarantine.keep(kept, folder, listing(folder), [Problem("does not decode", "images/a.png")])
    assert [path.stat().st_mode & 0o777 for path in (kept, kept / quarantine.FILES)] == [0o700, 0o700]
