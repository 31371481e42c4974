"""Withdrawing patients and images: the new version, what follows for the test set, and what may not be done."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import typer.testing
from rich.console import Console

from cxr_ops.audit.entries import PeriodOpened
from cxr_ops.audit.fit import Made, misfits
from cxr_ops.commands import data
from cxr_ops.commands.app import app
from cxr_ops.data import manifest, splits
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.events import withdrawn_patients
from cxr_ops.data.sources import nih
from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches, runs
from cxr_ops.errors import BusyError, DataError, RefusedError, SettingsError
from cxr_ops.params import Params
from cxr_ops.records.base import tree_digest
from cxr_ops.records.data import Event
from cxr_ops.records.inputs import Period
from cxr_ops.records.validation import Validated
from cxr_ops.report.versions import history
from cxr_ops.stages import (
    ingest,
    open,  # noqa: A004 - the stage's name
    purge,
    relabel,
    remove,
    show,
    split,
    validate,
    withdraw,
)

TOLD = {"by": "dr_lee", "reason": "consent was\nwithdrawn"}


@pytest.fixture
def home(stored: Home) -> Home:
    """A data set of two batches: `one` has the patients 1 to 20, `two` the patients 21 to 30."""
    return stored


def patients_of_the_test_set(home: Home) -> list[str]:
    """The patients whom the split's own rule tests."""
    settings = Params.load(home.project / "params.yaml").split.model_dump()
    patients = withdraw.as_it_is(home).frame["patient_id"].unique()
    return [patient for patient in patients if splits.side(patient, **settings) == "test"]


def workspace(home: Home, folder: Path, period: Period) -> tuple[Path, Params]:
    """A folder with the data set as it is, as `open` makes it, validated and split."""
    data = batches.data_revision(home)
    assert data is not None
    folder.mkdir()
    (folder / ".dvc").mkdir()
    (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
    (folder / "expectations").symlink_to(home.project / "expectations")
    runs.write_pointers(home, folder, data)
    runs.pull(home, folder, data)
    period.write(folder / "test-period.json")
    params = Params.check({"validate": {"min_images": 20, "min_patients": 10}}, "params of the test")
    validate.run(folder, params)
    split.run(folder, params)
    return folder, params


def test_a_new_version_is_without_the_images(home: Home, tmp_path: Path) -> None:
    """Batches and earlier versions stay as they are; the new manifest lacks the images, and the shards are whole."""
    before, first = batches.data_revision(home), withdraw.as_it_is(home).frame
    assert before is not None
    pointers = batches.read_pointers(home, before.revision)
    gone = first.loc[first["patient_id"].isin(["3", "21"]), "image_id"].tolist()
    done = withdraw.run(home, ["3", "21"], **TOLD)

    after = batches.data_revision(home)
    assert after is not None
    assert (done.revision, after.batches, list(after.events)) == (after.revision, before.batches, ["event.00001"])
    assert "event.00001: 4 images withdrawn, 2 patients as a whole" in str(done)
    now = batches.read_pointers(home, after.revision)
    assert {name: now[name] for name in pointers} == pointers
    assert withdraw.as_it_is(home, before).frame.equals(first)

    root, _ = workspace(home, tmp_path / "work", Period())
    frame = manifest.read_manifest(root / "validate" / "manifest.csv")
    assert set(first["image_id"]) - set(frame["image_id"]) == set(gone)
    table = pd.read_csv(root / "validate" / "withdrawn.csv", dtype=str)
    assert table.to_numpy().tolist() == [["3", "one"], ["3", "one"], ["21", "two"], ["21", "two"]]
    (event,) = batches.read_events(home)
    assert (event.reason, event.by) == ("consent was withdrawn", "dr_lee")
    (when,) = batches.happened(home)
    assert when.revision == after.revision
    assert [one.batch for one in batches.history(home)[0]] == ["one", "two"]


def test_git_holds_no_name(home: Home) -> None:
    """What git keeps for ever of a withdrawal says how many images they are, and neither whose nor why."""
    withdraw.run(home, ["00000003_000.png"], **TOLD)
    log = git(home, home.store, "log", "-p", "--format=%B", "data")
    assert "Withdraw 1 image" in log
    assert "00000003" not in log
    assert "consent" not in log


def test_who_was_scored_stays_scored(home: Home, tmp_path: Path, make_nih: Callable[..., Path]) -> None:
    """A test patient with an image left in a new batch, and a withdrawn one in a closed batch, retires all the same."""
    patient = patients_of_the_test_set(home)[0]
    image = f"{int(patient):08d}"
    more = make_nih("more", patients=1, first=int(patient))
    for path in sorted((more / "images").iterdir()):
        path.rename(path.with_name(path.name.replace("_00", "_10")))
    for name in ("Data_Entry_2017.csv", "BBox_List_2017.csv"):
        text = (more / name).read_text(encoding="utf-8").replace(f"{image}_00", f"{image}_10")
        (more / name).write_text(text, encoding="utf-8")
    for number, path in enumerate(sorted((more / "images").iterdir())):
        cv2.imwrite(str(path), np.random.default_rng(900 + number).integers(0, 256, (32, 32), dtype=np.uint8))
    build(tmp_path / "three", check(nih.read_folder(more), "three", processes=1))
    batches.add_batch(home, tmp_path / "three")
    withdraw.run(home, [f"{image}_000.png", f"{image}_001.png"], **TOLD)
    root, _ = workspace(home, tmp_path / "work", Period(number=2, closed_batches=["one"]))
    table = pd.read_csv(root / "split" / "split.csv", dtype=str)
    assert set(table.loc[table["patient_id"] == patient, "split"]) == {"retired"}


def test_the_test_set_becomes_another_one(home: Home, tmp_path: Path) -> None:
    """Its digest is another after a test patient has withdrawn, and stays when one of the others does."""
    period = Period()

    def digest(name: str) -> str:
        root, _ = workspace(home, tmp_path / name, period)
        return str(json.loads((root / "split" / "split.json").read_bytes())["test_digest"])

    ones = patients_of_the_test_set(home)
    others = set(withdraw.as_it_is(home).frame["patient_id"]) - set(ones)
    first = digest("first")
    done = withdraw.run(home, [min(others)], **TOLD)
    assert "the test set stays as it is" in str(done)
    assert digest("second") == first
    done = withdraw.run(home, [ones[0]], **TOLD)
    assert f"patients {len(ones)} -> {len(ones) - 1}" in str(done)
    assert "scores every model on it anew" in str(done)
    assert digest("third") != first


def test_a_withdrawn_patient_does_not_come_back(home: Home, make_nih: Callable[..., Path], made: Path) -> None:
    """No batch brings the patient in again, not even the one of before; that batch as it is held changes nothing."""
    folder = make_nih("two-again", patients=10, first=21)
    withdraw.run(home, ["21"], **TOLD)
    assert ingest.run("nih", folder, batch="two", home=home).already
    remove.run(home, "two", by="dr_lee", reason="wrong labels")
    with pytest.raises(DataError, match=r"the patient was withdrawn from the data set \(event\.00001\)"):
        ingest.run("nih", folder, batch="two", home=home)
    assert ingest.run("nih", folder, batch="two", home=home, on_bad="quarantine").patients == 9
    assert withdrawn_patients(batches.read_events(home)) == {"21": "event.00001"}


def test_events_are_part_of_what_training_depends_on(home: Home) -> None:
    """A recipe names the events where there are any, and says what is new; without them it is as it was."""
    data = batches.data_revision(home)
    assert data is not None
    params = open.params_of(home.project, {})
    before = open.recipe_parts(home.project, params, data, None)
    assert "events" not in before
    withdraw.run(home, ["3"], **TOLD)
    data = batches.data_revision(home)
    assert data is not None
    after = open.recipe_parts(home.project, params, data, None)
    assert open.explain_change(before, after) == ["event.00001 withdraws images or corrects labels"]


def test_an_edit_around_validate_is_noticed(home: Home, tmp_path: Path) -> None:
    """Where an event was edited before validate and restored, the record of what was read does not fit."""
    withdraw.run(home, ["3"], **TOLD)
    data = batches.data_revision(home)
    assert data is not None
    root, params = workspace(home, tmp_path / "work", Period())
    assert read(root, data.digests()) == []
    path = root / "dataset" / "event.00001" / "event.json"
    good = path.read_bytes()
    path.unlink()  # a link into the cache
    path.write_bytes(good.replace(b'"00000003_001.png"', b'"00000004_001.png"'))
    validate.run(root, params)
    path.write_bytes(good)
    assert read(root, data.digests()) == ["validate read another event.00001 than inputs.json names"]


def read(root: Path, digests: dict[str, str]) -> list[str]:
    """What does not fit of a workspace whose run was opened with these batches and events."""
    anything = SimpleNamespace(data=SimpleNamespace(digests=lambda: digests), period=SimpleNamespace(number=1))
    for name in ("champion", "reference", "plan"):
        setattr(anything, name, SimpleNamespace(package=None))
    verdict = SimpleNamespace(
        evaluation="e", inputs="i", challenger="c", champion=anything.champion, reference=anything.reference, period=1,
        plan=anything.plan, test_digest="t",
    )  # fmt: skip
    evaluation = SimpleNamespace(challenger="c", champion=None, test_digest="t")
    validated = Validated.read(root / "validate" / "validation.json").data
    return misfits(
        Made(
            inputs=anything,  # type: ignore[arg-type]
            inputs_sha256="i",
            evaluation=evaluation,  # type: ignore[arg-type]
            evaluation_sha256="e",
            verdict=verdict,  # type: ignore[arg-type]
            trained="c",
            validated=validated,
        )
    )


@pytest.mark.parametrize("told", [{"by": " ", "reason": "x"}, {"by": "x", "reason": ""}])
def test_an_event_has_a_name_and_a_reason(home: Home, told: dict[str, str]) -> None:
    """A withdrawal without either is refused."""
    with pytest.raises(SettingsError, match="needs a name and a reason"):
        withdraw.run(home, ["3"], **told)


def test_what_cannot_be_done_changes_nothing(home: Home) -> None:
    """The last image stays, and nothing happens beside an ingestion."""
    before = batches.data_revision(home)
    everybody = sorted(withdraw.as_it_is(home).frame["patient_id"].unique())
    with pytest.raises(RefusedError, match="no image would be left"):
        withdraw.run(home, everybody, **TOLD)
    home.locks.mkdir(exist_ok=True)
    with (home.locks / "ingest").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="an ingestion is going on"):
            withdraw.run(home, ["3"], **TOLD)
    assert batches.data_revision(home) == before


def test_a_removal_counts_what_is_left_and_who_was_scored(home: Home) -> None:
    """Withdrawn images are not counted as leaving; those of test patients of a closed batch keep it in the data set."""
    withdraw.run(home, ["21", *(f"{int(one):08d}_000.png" for one in patients_of_the_test_set(home))], **TOLD)
    opened = PeriodOpened(number=2, closed_batches=["one"], by="dr_lee", reason="budget spent")
    open_ledger(home).append_if("period", lambda _: opened)
    with pytest.raises(RefusedError, match="patients of one were tested"):
        remove.run(home, "one", by="dr_lee", reason="wrong labels")
    assert remove.run(home, "two", by="dr_lee", reason="wrong labels").patients == 9


def test_nothing_leaves_the_data_set_without_an_image(home: Home) -> None:
    """Where all other images are withdrawn, the last batch with some is neither removed nor its only patient purged."""
    withdraw.run(home, [str(one) for one in range(21, 31)], **TOLD)
    with pytest.raises(RefusedError, match="without one no image would be left"):
        remove.run(home, "one", by="dr_lee", reason="wrong labels")
    withdraw.run(home, [str(one) for one in range(2, 21)], **TOLD)
    with pytest.raises(RefusedError, match="no image would be left"):
        purge.run(home, "1", yes=True, **TOLD)
    assert len(withdraw.as_it_is(home).frame) == 2


def test_a_withdrawn_test_patient_keeps_the_side(home: Home) -> None:
    """`data show` says on which side a withdrawn image would be, which is that of its patient: test, or retired once
    its batch is closed.
    """
    patient = patients_of_the_test_set(home)[0]
    gone = f"{int(patient):08d}_000.png"
    withdraw.run(home, [gone], **TOLD)

    def sides() -> dict[str, str | None]:
        return {one.image_id: one.side for one in show.run(home, patient).images}

    assert set(sides().values()) == {"test"}
    assert len(sides()) == 2
    opened = PeriodOpened(number=2, closed_batches=["one", "two"], by="dr_lee", reason="budget spent")
    open_ledger(home).append_if("period", lambda _: opened)
    assert set(sides().values()) == {"retired"}
    withdraw.run(home, patients=[patient], **TOLD)
    assert sides()[gone] == "retired"
    console = Console(width=200, record=True)
    console.print(history(show.run(home, patient)))
    assert "retired: the image is withdrawn, and its patient stays on this side" in console.export_text()


def test_an_event_that_a_purge_emptied_says_so() -> None:
    """An event of which a purge left nothing is not told as one of 0 images."""
    event = Event(name="event.00001", kind="relabel", **TOLD)
    assert data._done(event) == "relabel, of which a purge left nothing"


def test_the_commands_print_and_list(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`data withdraw`, `data relabel` and `data list` say what happened, and the last one as JSON too."""
    monkeypatch.setenv("CXR_HOME", str(home.root))
    monkeypatch.chdir(home.project)
    stored = tree_digest(Path(home.dvc_remote))
    cli = typer.testing.CliRunner()
    done = cli.invoke(app, ["data", "withdraw", "3", "--by", "dr_lee", "--reason", "consent"])
    assert done.exit_code == 0, done.output
    assert "2 images withdrawn" in done.output
    assert "make retrain" in done.output
    table = tmp_path / "fixes.csv"
    table.write_text("image_id,Hernia\n00000004_000.png,1\n", encoding="utf-8")
    assert relabel.run(home, table, by="dr_kim", reason="read again").event.name == "event.00002"
    shown = cli.invoke(app, ["data", "list", "--json"]).output
    listed = json.loads(shown)["events"]
    assert [one["name"] for one in listed] == ["event.00001", "event.00002"]
    assert listed[0]["images"] == ["00000003_000.png", "00000003_001.png"]
    assert [(one["images"], one["patients"], one["withdrawn"]) for one in json.loads(shown)["batches"]] == [
        (38, 19, 2),
        (20, 10, 0),
    ]
    text = cli.invoke(app, ["data", "list"]).output
    assert "together: 58 images of 29 patients; 2 images withdrawn, and not counted" in text
    assert "event.00001: withdraw 2 images and 1 patient as a whole, " in text
    assert "event.00002: relabel 1 image, " in text
    assert tree_digest(Path(home.dvc_remote)) != stored
