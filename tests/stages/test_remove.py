"""Taking a batch out of the data set: what it does, what follows, and what it may not do."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from cxr_ops.audit.entries import Look, PeriodOpened
from cxr_ops.commands.app import app
from cxr_ops.data import manifest, splits
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches
from cxr_ops.errors import BusyError, DataError, RefusedError, SettingsError
from cxr_ops.params import Params
from cxr_ops.records.base import tree_digest
from cxr_ops.stages import ingest, remove

MakeNih = Callable[..., Path]


@pytest.fixture
def home(stored: Home) -> Home:
    """A data set of two batches: `one` has the patients 1 to 20, `two` the patients 21 to 30."""
    return stored


def count_tested(home: Home, batch: str) -> int:
    """Test patients of a batch, by the split's own rule."""
    split = Params.load(home.project / "params.yaml").split.model_dump()
    frame = manifest.read_manifest(batches.batch_files(home)[batch] / "manifest.csv")
    return sum(splits.side(patient, **split) == "test" for patient in frame["patient_id"].unique())


def test_a_batch_leaves_and_nothing_is_lost(home: Home, made: Path) -> None:
    """The data set no longer points to it, the store keeps its bytes, and the same batch enters again as it was."""
    before = batches.data_revision(home)
    stored = tree_digest(Path(home.dvc_remote))
    here, all_of_them = count_tested(home, "two"), count_tested(home, "one") + count_tested(home, "two")

    done = remove.run(home, "two", by="dr_lee", reason="consent\nwas withdrawn")

    after = batches.data_revision(home)
    assert before is not None
    assert after is not None
    assert after.batches == {"one": before.batches["one"]}
    assert (done.revision, done.images, done.patients, done.scored) == (after.revision, 20, 10, False)
    assert here > 0
    assert done.test_patients == (all_of_them, all_of_them - here)
    assert f"patients {all_of_them} -> {all_of_them - here}" in str(done)
    assert tree_digest(Path(home.dvc_remote)) == stored
    held, (removed,) = batches.history(home)
    assert [one.batch for one in held] == ["one"]
    assert (removed.batch, removed.by, removed.reason) == ("two", "dr_lee", "consent was withdrawn")
    assert batches.read_pointers(home, before.revision).keys() == {"one", "two"}

    again = batches.add_batch(home, made / "two")
    restored = batches.data_revision(home)
    assert restored is not None
    assert (restored.revision, restored.batches) == (again, before.batches)
    assert [one.batch for one in batches.history(home)[0]] == ["one", "two"]


def test_scored_patients_come_back_under_their_batchs_name_alone(home: Home, make_nih: MakeNih) -> None:
    """Where a model was scored on the batch, its test patients are refused in any other, and that is said first."""
    open_ledger(home).record_look(Look(model="m", test_digest="t", run="r", batches=("one", "two")))
    in_two = count_tested(home, "two")
    done = remove.run(home, "two", by="dr_lee", reason="wrong labels")
    assert done.scored
    assert "in a batch of the same name" in str(done)
    again = make_nih("again", patients=10, first=21)
    with pytest.raises(DataError, match=f"{2 * in_two} problems"):
        ingest.run("nih", again, batch="three", home=home)
    listed = (home.quarantine / "three" / "problems.csv").read_text(encoding="utf-8").splitlines()[1:]
    assert all("the patient was tested in the batch 'two', which was taken out" in line for line in listed)
    assert ingest.run("nih", again, batch="two", home=home).patients == 10
    assert remove.tested_and_gone(home, but="three") == {}


def test_what_retired_patients_rest_on_stays(home: Home) -> None:
    """A closed batch with test patients is refused: without it they would be tested again."""
    opened = PeriodOpened(number=2, closed_batches=["one"], by="dr_lee", reason="budget spent")
    open_ledger(home).append_if("period", lambda _: opened)
    before = batches.data_revision(home)
    count, in_two = count_tested(home, "one"), count_tested(home, "two")
    with pytest.raises(RefusedError, match=f"{count} patients of one were tested in an earlier test period"):
        remove.run(home, "one", by="dr_lee", reason="wrong labels")
    assert batches.data_revision(home) == before
    assert remove.run(home, "two", by="dr_lee", reason="wrong labels").test_patients == (in_two, 0)


@pytest.mark.parametrize(
    ("batch", "by", "reason", "what"),
    [
        ("tow", "dr_lee", "wrong", r"no batch 'tow'; it has: one, two"),
        ("two", " ", "wrong", "needs a name and a reason"),
        ("two", "dr_lee", "", "needs a name and a reason"),
    ],
)
def test_what_is_asked_for_must_make_sense(home: Home, batch: str, by: str, reason: str, what: str) -> None:
    """A batch that is not there, nobody and no reason are settings errors with the command to type."""
    before = batches.data_revision(home)
    with pytest.raises(SettingsError, match=what) as caught:
        remove.run(home, batch, by=by, reason=reason)
    assert "--reason TEXT" in str(caught.value)
    assert batches.data_revision(home) == before


def test_the_last_batch_stays_and_an_ingestion_goes_first(home: Home) -> None:
    """The only batch is not taken out, and no batch is while an ingestion is going on."""
    home.locks.mkdir(exist_ok=True)
    with (home.locks / "ingest").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="an ingestion is going on"):
            remove.run(home, "two", by="dr_lee", reason="wrong labels")
    remove.run(home, "two", by="dr_lee", reason="wrong labels")
    with pytest.raises(RefusedError, match="one is the only batch"):
        remove.run(home, "one", by="dr_lee", reason="wrong labels")


def test_the_commands_list_and_remove(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data list` shows what is held and what was taken out, for people and as JSON; `data remove` takes out."""
    from typer.testing import CliRunner

    for name, value in {"CXR_HOME": home.root, "CXR_PROJECT": home.project}.items():
        monkeypatch.setenv(name, str(value))

    def typed(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["data", *arguments], catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    listed = json.loads(typed("list", "--json"))
    assert [(row["batch"], row["images"], row["patients"], row["source"]) for row in listed["batches"]] == [
        ("one", 40, 20, "nih"),
        ("two", 20, 10, "nih"),
    ]
    assert listed["batches"][1]["revision"] == listed["revision"]
    assert all(row["size"] > 0 and row["when"].endswith("+00:00") for row in listed["batches"])
    assert listed["removed"] == []
    assert "batch two is out of the data set" in typed("remove", "two", "--by", "dr_lee", "--reason", "wrong labels")
    text = typed("list")
    assert "by dr_lee: wrong labels" in text
    assert text.splitlines()[2].split()[:4] == ["one", "nih", "40", "20"]
