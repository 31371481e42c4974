"""The index of the images: the same answers as reading all batches, from each batch once."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data import index, manifest
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.index import Index
from cxr_ops.data.sources import nih
from cxr_ops.errors import StorageError
from cxr_ops.records.base import sha256_file


@pytest.fixture
def made(make_nih: Callable[..., Path], tmp_path: Path) -> dict[str, Path]:
    """Two batches; the patients 8 to 10 are in both."""
    folders = {}
    for name, first in (("one", 1), ("two", 8)):
        listing = nih.read_folder(make_nih(f"{name}-nih", patients=10, first=first))
        for row in listing.rows:  # an image of a patient of both is another one
            object.__setattr__(row, "image_id", f"{name}-{row.image_id}")
        listing.boxes.clear()
        build(tmp_path / name, check(listing, name, processes=1))
        folders[name] = tmp_path / name
    return folders


def _filled(path: Path, made: dict[str, Path]) -> tuple[Index, dict[str, str]]:
    digests = {name: sha256_file(folder / "batch.json") for name, folder in made.items()}
    opened = Index(path)
    for name in opened.missing(digests.values()) and digests:
        opened.add(digests[name], made[name])
    return opened, digests


def test_it_answers_as_the_manifests_do(made: dict[str, Path], tmp_path: Path) -> None:
    """Counts and rows are those that pandas finds in the manifests; a patient of two batches counts once."""
    whole = pd.concat([manifest.read_manifest(folder / "manifest.csv") for folder in made.values()])
    known, digests = _filled(tmp_path / "index", made)
    with known:
        assert known.counts(digests.values()) == (len(whole), whole["patient_id"].nunique()) == (40, 17)
        assert known.counts([digests["two"]]) == (20, 10)
        assert known.counts([]) == (0, 0)
        found = known.find("patient_id", ["9", "99"], digests.values())
        mine = whole[whole["patient_id"] == "9"].sort_values(["batch", "image_id"])
        assert [(row.batch, row.image_id, row.sha256, row.sex) for row in found] == list(
            mine[["batch", "image_id", "sha256", "sex"]].itertuples(index=False, name=None)
        )
        assert [row.batch for row in known.find("patient_id", ["9"], [digests["one"]])] == ["one", "one"]
        pixels = manifest.read_table(made["one"] / "pixels.csv", manifest.PIXEL_COLUMNS)
        (hit,) = known.find("pixels_sha256", [pixels["pixels_sha256"].iloc[3]], digests.values())
        assert hit.image_id == pixels["image_id"].iloc[3]
        assert [row.image_id for row in known.find("folded", ["one-00000001_000.png"], digests.values())]


def test_a_batch_is_read_once_and_added_once(made: dict[str, Path], tmp_path: Path) -> None:
    """Rows stay between commands; adding a batch again adds nothing, and only new batches are missing."""
    _filled(tmp_path / "index", {"one": made["one"]})[0].close()
    digests = {name: sha256_file(folder / "batch.json") for name, folder in made.items()}
    with Index(tmp_path / "index") as known:
        assert known.missing(digests.values()) == {digests["two"]}
        known.add(digests["one"], made["one"])
        assert known.counts([digests["one"]]) == (20, 10)


@pytest.mark.parametrize("damage", ["no database", "another format", "cut"])
def test_what_cannot_be_read_is_made_again(
    made: dict[str, Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no index, of another format or damaged counts as an empty one, and the log says so."""
    path = tmp_path / "index"
    known, digests = _filled(path, made)
    known.close()
    if damage == "no database":
        path.write_bytes(b"something else" * 1000)
    elif damage == "cut":
        path.write_bytes(b"\0" * 50 + path.read_bytes()[50:])
    else:
        base = sqlite3.connect(path)
        base.execute("PRAGMA user_version = 99")
        base.close()
    with Index(path) as again:
        assert again.missing(digests.values()) == set(digests.values())
        assert again.counts(digests.values()) == (0, 0)
    (said,) = caplog.messages
    assert "is made again from the batches" in said
    assert str(path) in said


def _tear(path: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    base = sqlite3.connect(path)
    ((page,),) = base.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchall()
    ((size,),) = base.execute("PRAGMA page_size").fetchall()
    base.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


def _drop(path: Path, table: str) -> None:
    base = sqlite3.connect(path)
    base.execute(f"DROP TABLE {table}")
    base.close()


@pytest.mark.parametrize("spoil", [_tear, _drop])
@pytest.mark.parametrize("table", ["batch", "image"])
def test_damage_that_shows_later_is_mended(
    made: dict[str, Path],
    tmp_path: Path,
    spoil: Callable[[Path, str], None],
    table: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A torn page or a table that is gone shows at a question: the index is filled again, and gives the same answer.
    The damaged file goes last: a journal that outlived it would be played back into the new one.
    """
    path = tmp_path / "index"
    known, digests = _filled(path, made)
    before = known.find("patient_id", ["9"], digests.values())
    known.close()
    spoil(path, table)

    def fill(index: Index) -> None:
        for name, digest in digests.items():
            if digest in index.missing(digests.values()):
                index.add(digest, made[name])

    removed: list[str] = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda path, **how: removed.append(path.name) or unlink(path, **how))
    with Index(path, fill) as again:
        fill(again)
        assert again.counts(digests.values()) == (40, 17)
        assert again.find("patient_id", ["9"], digests.values()) == before
    assert ["is damaged" in said for said in caplog.messages] == [True]
    assert removed == ["index-journal", "index-wal", "index-shm", "index"]
    spoil(path, table)
    with Index(path) as alone, pytest.raises(StorageError, match="type the command again"):
        alone.find("patient_id", ["9"], digests.values())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """A folder in the place of the file is a storage error that names it."""
    (tmp_path / "index").mkdir()
    with pytest.raises(StorageError, match="the index of the images cannot be opened"):
        Index(tmp_path / "index")
    assert index.FORMAT == 1
