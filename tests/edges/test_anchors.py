"""Anchors: what a chain cannot show by itself, and what it costs to read a ledger that was checked before."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from books import Book
from finished import make_home
from typer.testing import CliRunner

from cxr_ops.audit.entries import Entry, Look
from cxr_ops.commands import app as command
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Anchors, Folder, Ledger, open_ledger
from cxr_ops.edges.ledger.chain import SIZE
from cxr_ops.edges.ledger.memory import Memory
from cxr_ops.errors import SettingsError, StorageError


class Counting(Folder):
    """A folder that counts what is read."""

    reads = 0

    def read(self, name: str) -> bytes | None:
        self.reads += 1
        return super().read(name)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return replace(make_home(tmp_path), anchor_address=str(tmp_path / "anchors"))


def look(number: int) -> Look:
    return Look(model=f"m{number}", test_digest="t", run="r")


def fill(ledger: Ledger, *names: str) -> None:
    """A look, a decision and a promotion for each name, with bodies of the right shape."""
    for name in names:
        book = Book()
        book.entries = ledger.entries()
        seen = len(book.entries)
        book.promote(name)
        for entry in book.entries[seen:]:
            body = entry.body
            if entry.kind == "promotion":  # it names entries as they stand on this ledger
                last = ledger.entries()
                body = body | {"decision": last[-2].digest(), "approvals": [last[-1].digest()]}
            ledger.append(entry.kind, body)  # type: ignore[arg-type]


def test_each_decision_and_promotion_is_anchored(home: Home) -> None:
    """Looks and approvals are not, and the anchors name the entries that are."""
    ledger = open_ledger(home)
    fill(ledger, "1", "2")
    kinds = [entry.kind for entry in ledger.entries()]
    names = sorted(path.name for path in Path(home.anchor_address).iterdir())
    assert [int(name[-13:-5]) for name in names] == [
        place for place, kind in enumerate(kinds, 1) if kind in ("decision", "promotion")
    ]
    found = ledger.witness.check(ledger.entries())
    assert (found.count, found.upto, found.after) == (4, 8, 0)
    ledger.append("look", look(9))
    assert "1 after it rest on the chain alone" in str(ledger.witness.check(ledger.entries()))


def test_writer_that_was_overtaken_decides_again(home: Home) -> None:
    """What another anchored after this one had read the ledger is no sign of a cut: the ledger is read again."""
    fill(open_ledger(home), "1")
    read: list[int] = []

    def decide(entries: list[Entry]) -> Entry | Mapping[str, Any]:
        read.append(len(entries))
        if len(read) == 1:
            fill(open_ledger(home), "2")
        return entries[-1].body

    made = open_ledger(home).append_if("promotion", decide)
    assert made.seq == read[1] + 1 > read[0] + 1
    assert open_ledger(home).entries()[-1] == made


def test_tail_that_was_cut_is_found_where_the_chain_is_whole(home: Home, tmp_path: Path) -> None:
    """A newest promotion that was removed, and a ledger re-sealed behind it, pass the chain and not the anchors."""
    ledger = open_ledger(home)
    fill(ledger, "1", "2")
    (home.ledger / "00000008.json").unlink()
    assert Ledger(ledger.storage).verify() == 7
    with pytest.raises(StorageError, match="held 8 entries and now holds 7") as raised:
        ledger.witness.check(ledger.entries())
    assert "backup" in str(raised.value.fix)
    ledger.append("look", look(9))
    with pytest.raises(StorageError, match="entry 8 is another one"):
        ledger.witness.check(ledger.entries())
    before = len(ledger.entries())
    with pytest.raises(StorageError, match="not the one that was anchored"):
        fill(ledger, "3")
    kinds = [entry.kind for entry in ledger.entries()[before:]]
    assert kinds == ["look"]  # the decision that follows it was refused


def test_ledger_that_was_written_anew_is_found(home: Home) -> None:
    """An empty ledger, or another one, beside the anchors of the first is refused, and says so."""
    fill(open_ledger(home), "1")
    shutil.rmtree(home.ledger)
    with pytest.raises(StorageError, match="the ledger is empty"):
        open_ledger(home).witness.check([])
    with pytest.raises(StorageError, match=r"the ledger (is empty|begins with another entry)"):
        fill(open_ledger(home), "7")
    assert all(entry.kind == "look" for entry in open_ledger(home).entries())


def test_altered_anchor_proves_nothing_silently(home: Home) -> None:
    """An anchor that is damaged, or stands under another's name, is an error and not one anchor less."""
    ledger = open_ledger(home)
    fill(ledger, "1")
    [first, second] = sorted(Path(home.anchor_address).iterdir())
    data = first.read_bytes()
    first.write_bytes(data[:-9])
    with pytest.raises(StorageError, match="an anchor is damaged"):
        ledger.witness.check(ledger.entries())
    first.write_bytes(second.read_bytes())
    with pytest.raises(StorageError, match="under the name of another"):
        ledger.witness.check(ledger.entries())


def test_anchor_beside_the_ledger_is_refused(tmp_path: Path) -> None:
    """A place in CXR_HOME is no second domain of trust."""
    (tmp_path / "project").mkdir()
    environ = {"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(tmp_path / "project")}
    with pytest.raises(SettingsError, match="alters the anchors too"):
        Home.find(environ | {"CXR_ANCHOR": str(tmp_path / "home" / "anchors")})
    assert Home.find(environ | {"CXR_ANCHOR": str(tmp_path / "a")}).anchor_address == str(tmp_path / "a")
    assert Home.find(environ | {"CXR_LEDGER": "s3://bucket/x/"}).ledger_address == "s3://bucket/x"


def test_verify_says_what_is_proven(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ledger verify` names the anchors and how far they reach; without them it says what it cannot show."""
    fill(open_ledger(home), "1")
    monkeypatch.setenv("CXR_HOME", str(home.root))
    monkeypatch.setenv("CXR_PROJECT", str(home.project))

    def cxr(*arguments: str) -> str:
        done = CliRunner().invoke(command.app, list(arguments))
        return done.stdout if done.exit_code == 0 else repr(done.exception)

    assert "not that the end was cut off" in cxr("ledger", "verify")
    assert "no place for anchors is named" in cxr("ledger", "anchor")
    monkeypatch.setenv("CXR_ANCHOR", home.anchor_address)
    assert "up to entry 4 nothing was altered, removed or written anew" in cxr("ledger", "verify")
    open_ledger(home).append("look", look(9))
    assert "1 after it" in cxr("ledger", "verify")
    assert "up to entry 5" in cxr("ledger", "anchor")
    (home.ledger / "00000005.json").unlink()
    assert "held 5 entries and now holds 4" in cxr("ledger", "verify")


# ------------------------------------------------------------------------------------------- what was checked before


def long(tmp_path: Path, count: int) -> tuple[Ledger, Counting]:
    storage = Counting(tmp_path / "ledger")
    ledger = Ledger(storage, Memory(tmp_path / "checked"))
    entries: list[Entry] = []
    from cxr_ops.audit.entries import make

    storage.path.mkdir()
    for number in range(count):
        entries.append(make("look", look(number), entries))
        (storage.path / f"{number + 1:08d}.json").write_bytes(entries[-1].to_bytes())
    return ledger, storage


def test_checked_entries_are_not_read_again(tmp_path: Path) -> None:
    """The second reading of a long ledger reads the last checked entry and what is new, and gives the same entries."""
    ledger, storage = long(tmp_path, 2 * SIZE + 5)
    first = ledger.entries()
    assert len(first) == 2 * SIZE + 5
    storage.reads = 0
    again = Ledger(storage, Memory(tmp_path / "checked")).entries()
    assert again == first
    assert [entry.digest() for entry in again] == [entry.digest() for entry in first]
    assert storage.reads == 1 + 5 + 1  # the last that is remembered, what is new, and one that is not there
    storage.reads = 0
    assert ledger.verify() == len(first)
    assert storage.reads > 2 * SIZE
    assert ledger.append("look", look(9999)).seq == len(first) + 1


def test_memory_is_no_way_around_the_chain(tmp_path: Path) -> None:
    """A cut prefix is found; an altered entry decides nothing and `verify` names it; damaged memory is forgotten."""
    ledger, storage = long(tmp_path, SIZE + 1)
    whole = ledger.entries()
    path = storage.path / "00000007.json"
    data = path.read_bytes()
    path.write_bytes(data.replace(b'"m6"', b'"mX"'))
    assert ledger.entries() == whole
    with pytest.raises(StorageError, match="00000007"):
        ledger.verify()
    path.write_bytes(data)
    [kept] = (tmp_path / "checked").iterdir()
    remembered = kept.read_bytes()
    kept.write_bytes(remembered.replace(b'"m6"', b'"mX"'))
    assert Memory(tmp_path / "checked").recall() == []
    assert ledger.entries() == whole
    kept.write_bytes(remembered)
    last = storage.path / f"{SIZE:08d}.json"
    entry = last.read_bytes()
    last.write_bytes(entry + b" ")
    with pytest.raises(StorageError, match="another one than it was when it was checked"):
        ledger.entries()
    last.unlink()
    (storage.path / f"{SIZE + 1:08d}.json").unlink()
    with pytest.raises(StorageError, match=f"held {SIZE} entries and now holds {SIZE - 1}"):
        ledger.entries()


def test_anchors_of_two_ledgers_stand_in_one_place(tmp_path: Path) -> None:
    """Ledgers are told apart by their first entry."""
    place = Anchors(Folder(tmp_path / "anchors"))
    ledgers = [Ledger(Folder(tmp_path / name), None, place) for name in "ab"]
    for ledger in ledgers:
        ledger.append("look", look(1))
        place.put(ledger.entries())
    for ledger in ledgers:
        fill(ledger, "1")
        assert place.check(ledger.entries()).upto == 5
