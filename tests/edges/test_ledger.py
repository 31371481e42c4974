"""The ledger: order, chain, exclusive writes, and what is derived from them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from cxr_ops.audit.entries import Entry, Look, PeriodOpened, Promotion
from cxr_ops.audit.state import reference_after
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Ledger, open_ledger
from cxr_ops.edges.ledger.folder import Folder
from cxr_ops.errors import ConflictError, RefusedError, SettingsError, StorageError
from cxr_ops.records.base import canonical_json, sha256_bytes
from cxr_ops.records.inputs import LedgerState, Level, Limits, Period, Reference, Spending


def look(number: int = 0) -> Look:
    return Look(model=f"model-{number}", test_digest="t", run="r")


def promotion(run: str, replaces: str | None = None, package: str = "p", reference: str | None = None) -> Promotion:
    return Promotion(
        run=run,
        decision="d",
        approvals=[],
        package=package,
        recipe=None,
        model_version=f"version of {package}",
        run_commit="c",
        replaces=replaces,
        reference=reference,
    )


def period(number: int, *closed: str) -> PeriodOpened:
    return PeriodOpened(number=number, closed_batches=list(closed), by="dr_lee", reason="budget spent")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(Folder(tmp_path / "ledger"))


def test_empty_folder_is_an_empty_ledger(ledger: Ledger) -> None:
    """A ledger that was never written holds nothing, has no champion and no spent looks, and makes no folder."""
    assert ledger.entries() == []
    assert ledger.champion() is None
    assert ledger.period() == Period(number=1, closed_batches=[])
    assert reference_after(ledger.entries()) is None
    assert ledger.state() == LedgerState(entries=0, head=None, looks=0)
    assert not ledger.storage.path.exists()


def test_chain_can_be_checked_with_sha256sum(ledger: Ledger) -> None:
    """Each entry names the SHA-256 of the file before it, as an outsider computes it without our code."""
    for number in range(3):
        ledger.append("look", look(number))
    files = sorted(ledger.storage.path.iterdir())
    assert [file.name for file in files] == ["00000001.json", "00000002.json", "00000003.json"]
    before = None
    for file in files:
        assert json.loads(file.read_bytes())["prev"] == before
        before = hashlib.sha256(file.read_bytes()).hexdigest()
    looked = [(f"model-{number}", "t") for number in range(3)]
    assert ledger.state() == LedgerState(entries=3, head=before, looks=3, looked=looked)


def test_entry_is_read_back_as_it_was_written(ledger: Ledger) -> None:
    """What append returns is what the next reader finds, to the digest."""
    written = ledger.append("promotion", promotion("r"))
    assert ledger.entries() == [written]
    assert ledger.champion() == written
    assert written.promotion == promotion("r")


def test_entry_of_an_earlier_version_is_read_and_followed(ledger: Ledger) -> None:
    """An entry without a format keeps its bytes and digest, new ones say format 3, and the chain is whole."""
    old = {"seq": 1, "prev": None, "kind": "look", "at": "2026-01-01T00:00:00.000+00:00"}
    old["body"] = {"model": "m", "test_digest": "t", "run": "r"}
    old["seal"] = hashlib.sha256(canonical_json(old)).hexdigest()
    data = canonical_json(old)
    ledger.storage.create("00000001.json", data)
    new = ledger.append("look", look(1))
    first, second = ledger.entries()
    assert (first.format, first.to_bytes(), first.digest()) == (1, data, hashlib.sha256(data).hexdigest())
    assert (second, second.prev) == (new, first.digest())
    assert json.loads(second.to_bytes())["format"] == 3
    (ledger.storage.path / "00000001.json").write_bytes(data.replace(b'"kind"', b'"format": 1,\n  "kind"'))
    with pytest.raises(StorageError, match="its bytes are not those that were written"):
        ledger.entries()


def test_entry_of_a_later_version_is_refused_with_what_to_do(ledger: Ledger) -> None:
    """What a newer version wrote is not called damaged: it is said which format it has and what to install."""
    ledger.append("look", look(0))
    path = ledger.storage.path / "00000001.json"
    later = path.read_bytes().replace(b'"format": 3', b'"format": 4').replace(b'"kind": "look"', b'"kind": "watch"')
    path.write_bytes(later)
    with pytest.raises(StorageError, match="format 4, and this version of cxr-ops reads formats up to 3") as caught:
        ledger.entries()
    assert "install the version" in str(caught.value.fix)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_altered_entry_is_found(ledger: Ledger, number: int) -> None:
    """A changed word in any entry, the last one included, is a StorageError that names the entry."""
    for i in range(3):
        ledger.append("look", look(i))
    path = ledger.storage.path / f"0000000{number}.json"
    path.write_bytes(path.read_bytes().replace(b"model-", b"MODEL-"))
    with pytest.raises(StorageError, match=f"0000000{number}.json") as caught:
        ledger.verify()
    assert "backup" in str(caught.value)


def test_entry_altered_and_sealed_again_breaks_the_chain(ledger: Ledger) -> None:
    """Whoever rewrites an entry, seal and all, is given away by the entry that follows."""
    ledger.append("look", look(0))
    ledger.append("look", look(1))
    forged = Ledger(Folder(ledger.storage.path.parent / "forged")).append("look", look(7))
    (ledger.storage.path / "00000001.json").write_bytes(forged.to_bytes())
    with pytest.raises(StorageError, match=r"00000002\.json.*does not follow"):
        ledger.entries()


def test_missing_entry_is_a_gap_and_not_an_end(ledger: Ledger) -> None:
    """An entry lost from the middle stops every reader and every writer."""
    for i in range(3):
        ledger.append("look", look(i))
    (ledger.storage.path / "00000002.json").unlink()
    with pytest.raises(StorageError, match=r"00000002\.json.*missing"):
        ledger.entries()
    with pytest.raises(StorageError, match=r"00000002\.json"):
        ledger.append("look", look(9))
    assert sorted(path.name for path in ledger.storage.path.iterdir()) == ["00000001.json", "00000003.json"]


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
    path = ledger.storage.path / "00000001.json"
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
        (ledger.storage.path / name).unlink()
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


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(root=tmp_path, project=tmp_path, dvc_remote="", mlflow_uri="", mlflow_artifacts="")


CLAIM: Final = "c" * 64
FIRST, SECOND = (Level(checks=level, superiority=0.001) for level in (0.04, 0.008))


def test_look_is_recorded_once_for_a_model_and_a_test_set(home: Home) -> None:
    """The same model on the same test set is one look, whoever looks; another model, or a larger test set, spends."""
    ledger = open_ledger(home)
    first = open_ledger(home).record_look(Look(model="a", test_digest="t1", run="run-1", claim=CLAIM, batches=("one",)))
    assert open_ledger(home).record_look(Look(model="a", test_digest="t1", run="run-2", claim=CLAIM)) == first
    open_ledger(home).record_look(Look(model="b", test_digest="t1", run="run-2", claim=CLAIM))
    open_ledger(home).record_look(Look(model="a", test_digest="t2", run="run-2", claim=CLAIM))
    assert ledger.state().looked == [("a", "t1"), ("b", "t1"), ("a", "t2")]
    assert ledger.state().looks == len(ledger.entries()) == 3


def test_another_claim_on_a_model_is_another_look(home: Home) -> None:
    """Against another champion, or by another plan, the same model on the same test set spends a look of its own."""
    looks = [Look(model="a", test_digest="t", run="r", claim=claim) for claim in ("1" * 64, "2" * 64, "1" * 64)]
    entries = [open_ledger(home).record_look(look) for look in looks]
    assert entries[0] == entries[2] != entries[1]
    assert open_ledger(home).state().looks == 2


def test_look_that_the_ledger_leaves_less_is_not_taken(home: Home) -> None:
    """Of two runs that were opened together the later one is refused before it is scored, and spends nothing."""
    terms = Spending(method="recycled", period_alpha=0.05, success_weight=0.8, max_looks=10)
    limits = Limits(max_looks=10, approvals=0, disclosure="promotion", require_clean_code=False, spending=(terms,))
    first, second = (Look(model=name, test_digest="t", run=name, claim=CLAIM, limits=limits) for name in "ab")
    taken = open_ledger(home).record_look(first, level=FIRST)
    with pytest.raises(RefusedError, match=r"number 2 .* may spend 0\.8 % on each check, .* to spend 4 %") as raised:
        open_ledger(home).record_look(second, level=FIRST)
    assert "retrain" in raised.value.fix
    assert open_ledger(home).record_look(first, level=FIRST) == taken
    assert open_ledger(home).state().looks == 1
    repeated = open_ledger(home).record_look(second, level=SECOND)
    with pytest.raises(RefusedError, match=r"look of c, number 2 .* may spend 0\.8 % on each check, .* to spend 4 %"):
        open_ledger(home).record_look(second.model_copy(update={"run": "c"}), level=FIRST)
    assert open_ledger(home).record_look(second, level=SECOND) == repeated


def test_champion_and_reference_are_recorded_and_spend_nothing(home: Home) -> None:
    """Only a challenger spends; a model that was scored as champion spends when it comes back as challenger."""
    ledger = open_ledger(home)
    for role in ("champion", "reference", "champion"):
        open_ledger(home).record_look(Look(model=role, test_digest="t", run="r", claim=CLAIM, role=role))
    assert [entry.look.role for entry in ledger.entries()] == ["champion", "reference"]
    assert ledger.state().looks == 0
    open_ledger(home).record_look(Look(model="champion", test_digest="t", run="r", claim=CLAIM))
    assert ledger.state().looked == [("champion", "t")]
    for role in ("challenger", "champion", "reference"):
        open_ledger(home).record_look(Look(model="champion", test_digest="t", run="r2", claim=CLAIM, role=role))
    assert len(ledger.entries()) == 3


def test_looks_belong_to_their_period(home: Home) -> None:
    """A new period begins without spent looks, and a run of a closed one may repeat its look and take no new one."""
    ledger = open_ledger(home)
    old = open_ledger(home).record_look(Look(model="a", test_digest="t", run="r", claim=CLAIM))
    ledger.append("period", period(2, "one"))
    assert ledger.period() == Period(number=2, closed_batches=["one"])
    assert (ledger.state().looks, ledger.state().looked) == (0, [])
    assert open_ledger(home).record_look(Look(model="a", test_digest="t", run="r", claim=CLAIM)) == old
    with pytest.raises(RefusedError, match="opened in test period 1, and period 2 is open"):
        open_ledger(home).record_look(Look(model="b", test_digest="t", run="r", claim=CLAIM))
    open_ledger(home).record_look(Look(model="a", test_digest="t", run="r2", claim=CLAIM, period=2))
    assert ledger.state().looks == 1


def write_old(ledger: Ledger, kind: str, body: dict) -> None:
    """Add an entry in the format of before there were periods and references."""
    before = ledger.entries()
    head = before[-1].digest() if before else None
    fields = {"seq": len(before) + 1, "prev": head, "kind": kind, "at": "2026-01-01T00:00:00.000+00:00", "body": body}
    entry = fields | {"seal": sha256_bytes(canonical_json(fields))}
    assert ledger.storage.create(f"{len(before) + 1:08d}.json", canonical_json(entry))


def test_entries_of_an_older_format_stay_valid(ledger: Ledger) -> None:
    """Old entries verify byte for byte, count for the first period, and name the first champion as reference."""
    write_old(ledger, "look", {"model": "m", "test_digest": "t", "run": "r"})
    for package in "pq":
        body = promotion("r", package=package).model_dump(mode="json")
        del body["reference"]
        write_old(ledger, "promotion", body)
    ledger.append("look", look(1))
    assert ledger.verify() == 4
    assert ledger.entries()[0].body.keys() == {"model", "test_digest", "run"}
    assert ledger.state().looked == [("m", "t"), ("model-1", "t")]
    assert ledger.state().promotions == 2
    assert reference_after(ledger.entries()) == Reference(package="p", version="version of p")


def test_reference_is_what_the_last_promotion_says(ledger: Ledger) -> None:
    """The reference stays where promotions leave it, a plan's own goes before, and one never promoted is refused."""
    ledger.append("promotion", promotion("a", package="p", reference="p"))
    ledger.append("promotion", promotion("b", package="q", reference="p"))
    assert reference_after(ledger.entries()) == Reference(package="p", version="version of p")
    assert reference_after(ledger.entries(), "q") == Reference(package="q", version="version of q")
    ledger.append("promotion", promotion("c", package="s", reference="s"))
    assert reference_after(ledger.entries()) == Reference(package="s", version="version of s")
    with pytest.raises(SettingsError, match="never promoted") as caught:
        reference_after(ledger.entries(), "x" * 64)
    assert "ledger show" in str(caught.value)


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
from typing import Final
from cxr_ops.edges.ledger import Ledger, open_ledger
from cxr_ops.edges.ledger.folder import Folder
folder, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
sys.stdin.readline()
for i in range(count):
    Ledger(Folder(folder)).append("look", {"model": f"{name}-{i}", "test_digest": "t", "run": name})
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_processes_that_append_at_once_lose_nothing(ledger: Ledger) -> None:
    """Three processes that race for every number write 90 entries without a gap, each in its own order."""
    writers = [start(WRITER, ledger.storage.path, name, 30) for name in "abc"]
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
from typing import Final
from cxr_ops.edges.ledger import Ledger, open_ledger
from cxr_ops.edges.ledger.folder import Folder
from cxr_ops.errors import ConflictError
folder, name, head = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
sys.stdin.readline()
try:
    Ledger(Folder(folder)).append("look", {"model": name, "test_digest": "t", "run": name}, expect_head=head)
except ConflictError:
    print("conflict")
else:
    print("won")
"""


def test_compare_and_swap_has_one_winner(ledger: Ledger) -> None:
    """Of four processes that expect the same last entry one wins and three get ConflictError."""
    head = ledger.append("look", look()).digest()
    racers = [start(SWAPPER, ledger.storage.path, name, head) for name in "abcd"]
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
from typing import Final
from cxr_ops.edges.ledger import Ledger, open_ledger
from cxr_ops.edges.ledger.folder import Folder
from cxr_ops.errors import StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    Ledger(Folder(Path(sys.argv[1]))).append("look", {"model": "m" * 4000, "test_digest": "t", "run": "r"})
except StorageError as error:
    print(error)
"""


def test_disk_that_is_full_leaves_the_ledger_whole(ledger: Ledger) -> None:
    """An entry that does not fit on the disk is a StorageError, leaves nothing behind and takes no number."""
    ledger.append("look", look(0))
    said = subprocess.run(
        [sys.executable, "-c", FULL_DISK, ledger.storage.path], text=True, capture_output=True, check=True
    )
    assert "cannot be written" in said.stdout
    assert [path.name for path in ledger.storage.path.iterdir()] == ["00000001.json"]
    assert ledger.append("look", look(1)).seq == 2


def test_rest_of_a_killed_writer_is_no_entry(ledger: Ledger) -> None:
    """What a writer that was killed left aside is not read and does not stop others."""
    ledger.append("look", look(0))
    (ledger.storage.path / ".00000002.json.deadbeef.part").write_bytes(b"{")
    assert isinstance(ledger.append("look", look(1)), Entry)
    assert len(ledger.entries()) == 2
