"""The ledger: order, chain, exclusive writes, and what is derived from them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Entry, Ledger, Look, Promotion, record_look
from cxr_ops.errors import ConflictError, StorageError
from cxr_ops.records import LedgerState


def look(number: int = 0) -> Look:
    return Look(model=f"model-{number}", test_digest="t", run="r")


def promotion(run: str, replaces: str | None = None) -> Promotion:
    return Promotion(
        run=run,
        decision="d",
        approvals=[],
        package="p",
        recipe=None,
        model_version="1",
        run_commit="c",
        replaces=replaces,
    )


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


def test_empty_folder_is_an_empty_ledger(ledger: Ledger) -> None:
    """A ledger that was never written holds nothing, has no champion and no spent looks, and makes no folder."""
    assert ledger.entries() == []
    assert ledger.champion() is None
    assert ledger.looks_spent() == 0
    assert ledger.state() == LedgerState(entries=0, head=None, looks=0)
    assert not ledger.folder.path.exists()


def test_chain_can_be_checked_with_sha256sum(ledger: Ledger) -> None:
    """Each entry names the SHA-256 of the file before it, as an outsider computes it without our code."""
    for number in range(3):
        ledger.append("look", look(number))
    files = sorted(ledger.folder.path.iterdir())
    assert [file.name for file in files] == ["00000001.json", "00000002.json", "00000003.json"]
    before = None
    for file in files:
        assert json.loads(file.read_bytes())["prev"] == before
        before = hashlib.sha256(file.read_bytes()).hexdigest()
    assert ledger.state() == LedgerState(entries=3, head=before, looks=3)


def test_entry_is_read_back_as_it_was_written(ledger: Ledger) -> None:
    """What append returns is what the next reader finds, to the digest."""
    written = ledger.append("promotion", promotion("r"))
    assert ledger.entries() == [written]
    assert ledger.champion() == written
    assert written.promotion == promotion("r")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_altered_entry_is_found(ledger: Ledger, number: int) -> None:
    """A changed word in any entry, the last one included, is a StorageError that names the entry."""
    for i in range(3):
        ledger.append("look", look(i))
    path = ledger.folder.path / f"0000000{number}.json"
    path.write_bytes(path.read_bytes().replace(b"model-", b"MODEL-"))
    with pytest.raises(StorageError, match=f"0000000{number}.json") as caught:
        ledger.verify()
    assert "backup" in str(caught.value)


def test_entry_altered_and_sealed_again_breaks_the_chain(ledger: Ledger) -> None:
    """Whoever rewrites an entry, seal and all, is given away by the entry that follows."""
    ledger.append("look", look(0))
    ledger.append("look", look(1))
    forged = Ledger(ledger.folder.path.parent / "forged").append("look", look(7))
    (ledger.folder.path / "00000001.json").write_bytes(forged.to_bytes())
    with pytest.raises(StorageError, match=r"00000002\.json.*does not follow"):
        ledger.entries()


def test_missing_entry_is_a_gap_and_not_an_end(ledger: Ledger) -> None:
    """An entry lost from the middle stops every reader and every writer."""
    for i in range(3):
        ledger.append("look", look(i))
    (ledger.folder.path / "00000002.json").unlink()
    with pytest.raises(StorageError, match=r"00000002\.json.*missing"):
        ledger.entries()
    with pytest.raises(StorageError, match=r"00000002\.json"):
        ledger.append("look", look(9))
    assert sorted(path.name for path in ledger.folder.path.iterdir()) == ["00000001.json", "00000003.json"]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut in half"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: data + b" ", id="a byte more"),
        pytest.param(lambda data: data.replace(b'"look"', b'"note"'), id="unknown kind"),
        pytest.param(lambda data: data.replace(b'"run": "r"', b'"who": "r"'), id="unknown key"),
        pytest.param(lambda data: data.replace(b'"seq": 1', b'"seq": 2'), id="another number"),
    ],
)
def test_damaged_entry_is_named(ledger: Ledger, damage) -> None:
    """Bytes that are no entry are a StorageError that names the file, never skipped."""
    ledger.append("look", look())
    path = ledger.folder.path / "00000001.json"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(StorageError, match=r"00000001\.json"):
        ledger.entries()


def test_cut_off_end_is_found_by_an_earlier_state(ledger: Ledger) -> None:
    """A chain whose end was cut off is whole in itself, and is betrayed by a state taken before."""
    ledger.append("look", look(0))
    ledger.append("look", look(1))
    state = ledger.state()
    assert ledger.verify(state) == 2
    ledger.append("look", look(2))
    assert ledger.verify(state) == 3
    for name in ("00000002.json", "00000003.json"):
        (ledger.folder.path / name).unlink()
    assert ledger.verify() == 1
    with pytest.raises(StorageError, match="held 2 entries and now holds 1"):
        ledger.verify(state)
    ledger.append("look", look(8))
    with pytest.raises(StorageError, match="entry 2 is another one"):
        ledger.verify(state)


def test_unknown_kind_or_key_is_never_written(ledger: Ledger) -> None:
    """The vocabulary is closed: another kind, or a body with another key, is refused before anything is written."""
    with pytest.raises(KeyError):
        ledger.append("note", look())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="colour"):
        ledger.append("look", {"model": "m", "test_digest": "t", "run": "r", "colour": "red"})
    assert ledger.entries() == []


def test_expected_head_must_be_the_last_entry(ledger: Ledger) -> None:
    """An append that names another last entry than there is loses with ConflictError and writes nothing."""
    first = ledger.append("look", look(0), expect_head=None)
    second = ledger.append("look", look(1), expect_head=first.digest())
    for stale in (None, first.digest()):
        with pytest.raises(ConflictError, match="moved on"):
            ledger.append("look", look(2), expect_head=stale)
    assert [entry.digest() for entry in ledger.entries()] == [first.digest(), second.digest()]


def test_look_is_recorded_once_for_a_model_and_a_test_set(tmp_path: Path) -> None:
    """The same model on the same test set is one look, whoever looks; another test set or model is another."""
    home = Home(root=tmp_path, project=tmp_path, dvc_remote="", mlflow_uri="", mlflow_artifacts="")
    first = record_look(home, "a", "t1", "run-1")
    assert record_look(home, "a", "t1", "run-2") == first
    record_look(home, "b", "t1", "run-2")
    record_look(home, "a", "t2", "run-2")
    ledger = Ledger(home.ledger)
    assert (ledger.looks_spent(), ledger.looks_spent("t1"), ledger.looks_spent("t2"), ledger.looks_spent("x")) == (
        3,
        2,
        1,
        0,
    )


def test_champion_is_the_last_promotion(ledger: Ledger) -> None:
    """Looks after a promotion change nothing; the next promotion does."""
    first = ledger.append("promotion", promotion("a"))
    ledger.append("look", look())
    assert ledger.champion() == first
    second = ledger.append("promotion", promotion("b", first.digest()))
    assert ledger.champion() == second


WRITER = """
import sys
from pathlib import Path
from cxr_ops.edges.ledger import Ledger
folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
for i in range(count):
    Ledger(folder).append("look", {"model": f"{name}-{i}", "test_digest": "t", "run": name})
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_append_at_once_lose_nothing(ledger: Ledger) -> None:
    """Three processes that race for every number write 90 entries without a gap, each in its own order."""
    writers = [start(WRITER, ledger.folder.path, name, 30) for name in "abc"]
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [writer.communicate()[0] for writer in writers] == ["", "", ""]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    models = [entry.look.model for entry in ledger.entries()]
    assert len(models) == 90
    for name in "abc":
        assert [model for model in models if model.startswith(name)] == [f"{name}-{i}" for i in range(30)]


SWAPPER = """
import sys
from pathlib import Path
from cxr_ops.edges.ledger import Ledger
from cxr_ops.errors import ConflictError
folder, name, head = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.stdin.readline()
try:
    Ledger(folder).append("look", {"model": name, "test_digest": "t", "run": name}, expect_head=head)
except ConflictError:
    print("conflict")
else:
    print("won")
"""


def test_compare_and_swap_has_one_winner(ledger: Ledger) -> None:
    """Of four processes that expect the same last entry one wins and three get ConflictError."""
    head = ledger.append("look", look()).digest()
    racers = [start(SWAPPER, ledger.folder.path, name, head) for name in "abcd"]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = sorted(racer.communicate()[0].strip() for racer in racers)
    assert said == ["conflict", "conflict", "conflict", "won"]
    assert len(ledger.entries()) == 2


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from cxr_ops.edges.ledger import Ledger
from cxr_ops.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    Ledger(Path(sys.argv[1])).append("look", {"model": "m" * 4000, "test_digest": "t", "run": "r"})
except StorageError as error:
    print(error)
"""


def test_disk_that_is_full_leaves_the_ledger_whole(ledger: Ledger) -> None:
    """An entry that does not fit on the disk is a StorageError, leaves nothing behind and takes no number."""
    ledger.append("look", look(0))
    said = subprocess.run(
        [sys.executable, "-c", FULL_DISK, ledger.folder.path], text=True, capture_output=True, check=True
    )
    assert "cannot be written" in said.stdout
    assert [path.name for path in ledger.folder.path.iterdir()] == ["00000001.json"]
    assert ledger.append("look", look(1)).seq == 2


def test_rest_of_a_killed_writer_is_no_entry(ledger: Ledger) -> None:
    """What a writer that was killed left aside is not read and does not stop others."""
    ledger.append("look", look(0))
    (ledger.folder.path / ".00000002.json.deadbeef.part").write_bytes(b"{")
    assert isinstance(ledger.append("look", look(1)), Entry)
    assert len(ledger.entries()) == 2
