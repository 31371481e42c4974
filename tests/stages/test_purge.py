"""Purging a patient: nothing of the patient is left anywhere, and all the rest is."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import typer.testing
import yaml
from disks import grow, shrink, small_disk

from cxr_ops.commands.app import app
from cxr_ops.data import manifest
from cxr_ops.data.checking import quarantine
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
from cxr_ops.edges import deliveries, supervisor
from cxr_ops.edges.git import git_bytes
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches, checkout, purges, runs, versions
from cxr_ops.errors import DataError, RefusedError, SettingsError, StorageError
from cxr_ops.records.acceptance import Acceptance, Unfinished
from cxr_ops.records.base import sha256_file
from cxr_ops.stages import ingest, portray, purge, relabel, withdraw
from cxr_ops.stages import open as opening

# It is nowhere in the code, of which a run takes a snapshot.
PATIENT = str(5550000 + 4441)
IMAGES = (f"0{PATIENT}_000.png", f"0{PATIENT}_001.png")
TOLD = {"by": "dr_lee", "reason": "consent was withdrawn"}


@pytest.fixture
def home(stored: Home, make_nih: Callable[..., Path], tmp_path: Path) -> Home:
    """Three batches, the last with the patient and two others, and a correction that names the patient."""
    folder = make_nih("folder", patients=3, first=int(PATIENT))
    (tmp_path / "built").mkdir()
    build(tmp_path / "built" / "three", check(nih.read_folder(folder), "three", processes=1))
    batches.add_batch(stored, tmp_path / "built" / "three")
    table = tmp_path / "fixes.csv"
    table.write_text(f"image_id,Hernia\n{IMAGES[0]},-1\n00000003_000.png,-1\n", encoding="utf-8")
    relabel.run(stored, table, by="dr_lee", reason=f"{IMAGES[0]} was read again")
    return stored


@pytest.fixture
def sources(home: Home, tmp_path: Path) -> list[bytes]:
    """What must not be found: the id, as it stands in the image ids too, and the bytes of the pictures."""
    with tarfile.open(tmp_path / "built" / "three" / "shard-00000.tar") as tar:
        found = [file.read() for name in IMAGES if (file := tar.extractfile(name)) is not None]
    assert len(found) == 2
    assert home.root.is_dir()
    return [PATIENT.encode(), *found]


def search(home: Home, wanted: list[bytes]) -> list[str]:
    """The files of an installation, and the objects of its store, that hold one of these bytes."""
    found = [
        str(Path(above) / name)
        for above, _, names in os.walk(home.root)
        for name in names
        if any(one in (Path(above) / name).read_bytes() for one in wanted)
    ]
    store = git_bytes(home, home.store, "cat-file", "--batch-all-objects", "--batch", "--buffer")
    return found + (["store.git"] if any(one in store for one in wanted) else [])


def use(home: Home) -> Path:
    """A run on all of it, as far as `prepare`, and published objects; pages and pictures of it everywhere."""
    opening.run(
        home, run="first", overrides={"prepare.image_size": 32, "validate.min_images": 20, "validate.min_patients": 10}
    )
    for stage in ("validate", "split", "prepare"):
        supervisor.supervise(home, "first", stage)
    root = home.workspace("first")
    digest = batches_digest(root)
    page = f"<html><body>case {digest[:12]}</body></html>"
    (root / "report").mkdir()
    (root / "report" / "report.html").write_text(page)
    (root / "evaluate").mkdir()
    (root / "evaluate" / "evaluation.json").write_text(json.dumps({"cases": [digest[:12]]}))
    runs.commit_run(home, "first", "Run first")
    for folder in (home.reports, home.restricted, home.root / "mlflow" / "artifacts" / "1" / "report"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "first.html").write_text(page)
        (folder / "first.pdf").write_bytes(b"%PDF-1.4 compressed")  # what `report --pdf` prints of the page
    (home.reports / "other.html").write_text("<html>another</html>")
    (home.reports / "other.pdf").write_bytes(b"%PDF-1.4 another")
    refused = home.quarantine / "four"
    refused.mkdir(parents=True)
    (refused / "problems.csv").write_text(f"file,line,image_id,problem\nx,1,{IMAGES[0]},blank\n")
    return root


def batches_digest(root: Path) -> str:
    frame = manifest.read_manifest(root / "dataset" / "three" / "manifest.csv")
    return str(frame.set_index("image_id").loc[IMAGES[0], "sha256"])


def test_nothing_of_the_patient_is_left(home: Home, sources: list[bytes], tmp_path: Path) -> None:
    """After a purge no file and no object of git holds the id or a picture; all others are there, and all digests."""
    root = use(home)
    before, made = withdraw.as_it_is(home), versions.versions(home)
    first = made[-2].data
    others = sha256_file(Path(home.dvc_remote) / next_object(home, "one"))
    assert search(home, sources)

    told = purge.run(home, PATIENT, **TOLD)
    assert not told.done
    assert "nothing was changed" in str(told)
    assert told.runs == ("first",)
    assert set(told.holders) == {"three", "event.00001"}
    assert told.quarantines == ("four",)
    assert "quarantines, without what is in them of others: four (1 row of the patient)" in str(told)
    assert "four: an earlier version kept it, and did not say whose the rows are" in str(told)
    assert f"remove it: rm -r {home.quarantine / 'four'}" in str(told)
    assert batches.data_revision(home) == made[-1].data

    done = purge.run(home, PATIENT, yes=True, **TOLD)
    assert done.done
    assert search(home, sources) == []

    now = withdraw.as_it_is(home)
    kept = before.frame[before.frame["patient_id"] != PATIENT].drop(columns="line").reset_index(drop=True)
    assert now.frame.drop(columns="line").equals(kept)
    data = batches.data_revision(home)
    assert data is not None
    assert data.batches["one"] == first.batches["one"]
    assert data.batches["three"] != first.batches["three"]
    with batches.whole(home, data) as dataset:
        assert manifest.read_version(dataset).frame["image_id"].tolist() == kept["image_id"].tolist()
    assert sha256_file(Path(home.dvc_remote) / next_object(home, "one")) == others
    earlier = withdraw.as_it_is(home, batches.revision_at(home, first.revision)).frame
    assert PATIENT not in set(earlier["patient_id"])
    held = [set(one.data.batches) for one in versions.versions(home)]
    assert held[:4] == [set(one.data.batches) for one in made]
    (event,) = batches.read_events(home)
    assert [one.image_id for one in event.labels] == ["00000003_000.png"]
    assert event.reason == "(purged)"

    entry = open_ledger(home).entries()[-1]
    assert (entry.kind, entry.purge.images, entry.purge.by) == ("purge", 2, "dr_lee")
    assert entry.purge.replaced[first.batches["three"]] == data.batches["three"]
    assert not root.exists()  # it was not decided on, and could only go on with what is gone
    assert "has been removed" in (home.reports / "first.html").read_text()
    assert "has been removed" in (home.restricted / "first.html").read_text()
    assert (home.reports / "other.html").read_text() == "<html>another</html>"
    assert [path.name for path in home.root.rglob("*.pdf")] == ["other.pdf"]
    assert not list(home.root.glob("purge*.json"))

    commit = git_bytes(home, home.store, "rev-parse", "refs/heads/runs/first").decode().strip()
    assert checkout.purged_of(home, commit)
    checkout.check_out(home, commit, tmp_path / "proof")
    assert (tmp_path / "proof" / "dataset" / "one" / "batch.json").is_file()
    assert not any(PATIENT.encode() in path.read_bytes() for path in (tmp_path / "proof").rglob("*") if path.is_file())
    with pytest.raises(DataError, match="no version of the data set holds an image"):
        purge.run(home, PATIENT, yes=True, **TOLD)


def next_object(home: Home, batch: str) -> str:
    """The path in the remote of a file of a batch."""
    data = batches.data_revision(home)
    assert data is not None
    md5 = yaml.safe_load(batches.read_pointers(home, data.revision)[batch])["outs"][0]["md5"]
    (file,) = [
        one["md5"]
        for one in json.loads((Path(home.dvc_remote) / "files" / "md5" / md5[:2] / md5[2:]).read_bytes())
        if one["relpath"] == "shard-00000.tar"
    ]
    return f"files/md5/{file[:2]}/{file[2:]}"


@pytest.mark.parametrize("after", ["replaced", "committed", "deleted", "swept"])
def test_a_purge_that_was_cut_off_goes_on(
    home: Home, sources: list[bytes], after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut off at any step, it is ended by typing it again, with one entry on the ledger. Another patient's purge says
    so, and does not wait: a purge that cannot go on keeps nobody from theirs.
    """
    step = {"replaced": (batches, "record_purge"), "committed": (purge, "_objects"), "deleted": (purge, "_sweep")}
    module, name = step.get(after, (purge, "_record"))

    def fail(*_: object, **__: object) -> None:
        raise StorageError("the power went")

    with monkeypatch.context() as cut:
        cut.setattr(module, name, fail)
        with pytest.raises(StorageError, match="the power went"):
            purge.run(home, PATIENT, yes=True, **TOLD)
    (journal,) = home.root.glob("purge*.json")
    assert journal.stat().st_mode & 0o077 == 0
    assert f"was cut off, and is not done; end it: cxr-ops data purge {PATIENT} " in str(purge.run(home, "3", **TOLD))
    if after == "replaced":  # as an earlier version called it, and with another patient's purge between
        journal.rename(home.root / "purge.json")
        assert purge.run(home, "3", yes=True, **TOLD).done
    assert purge.run(home, PATIENT, yes=True, **TOLD).done
    assert search(home, sources) == []
    assert [entry.kind for entry in open_ledger(home).entries()] == ["purge"] * (1 + (after == "replaced"))
    assert not list(home.root.glob("purge*.json"))


def test_a_batch_that_came_in_while_a_purge_was_cut_off_goes_too(
    home: Home, make_nih: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed again, the purge looks anew; and what it took out whole does not come back under the same rows."""
    with monkeypatch.context() as patch:
        patch.setattr(batches, "record_purge", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            purge.run(home, PATIENT, yes=True, **TOLD)
    folder = make_nih("later", patients=1, first=int(PATIENT), size=40)
    for old in sorted((folder / "images").iterdir()):
        old.rename(old.with_name(old.name.replace("_0", "_5")))
    table = folder / "Data_Entry_2017.csv"
    table.write_text(table.read_text().replace(f"{PATIENT}_0", f"{PATIENT}_5"))
    build(tmp_path / "built" / "four", check(nih.read_folder(folder), "four", processes=1))
    batches.add_batch(home, tmp_path / "built" / "four")
    assert purge.run(home, PATIENT, yes=True, **TOLD).done
    assert "four" not in batches.data_revision(home).batches
    assert search(home, [PATIENT.encode()]) == []
    with pytest.raises(DataError, match="was purged: with the same rows it does not come back"):
        batches.add_batch(home, tmp_path / "built" / "four")


def test_pages_of_batches_that_showed_the_patient_say_so(
    home: Home, make_nih: Callable[..., Path], tmp_path: Path
) -> None:
    """A page names nobody: by the list beside it the pages go that showed the patient's pixels under another's name, or
    the patient's other pictures, and so does a page without a list; a page of others stays, and each says what it was.
    """
    original = cv2.imread(str(tmp_path / "folder" / "images" / IMAGES[0]), cv2.IMREAD_UNCHANGED)
    copied = make_nih("copied", patients=2, first=301)
    cv2.imwrite(str(copied / "images" / "00000301_000.png"), original, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    returning = make_nih("returning", patients=2, first=int(PATIENT))
    for number, path in enumerate(sorted((returning / "images").iterdir())):
        noise = np.random.default_rng(99 + number).integers(0, 256, (32, 32), dtype=np.uint8)
        cv2.imwrite(str(path), noise)
    others = make_nih("others", patients=2, first=303)
    for folder in (returning, others):
        (folder / "images" / "stray.png").write_bytes(b"")
    for batch, folder in (("copied", copied), ("returning", returning), ("others", others)):
        with pytest.raises(DataError, match="the batch is refused"):
            ingest.run("nih", folder, batch=batch, home=home)
    listed = home.pictures / "copied" / portray.LIST
    assert listed.stat().st_mode & 0o777 == 0o600
    assert PATIENT.encode() not in listed.read_bytes()
    shown = manifest.read_table(listed, list(pd.read_csv(listed).columns))
    assert set(shown["patient_id"]) == {"301", "302"}
    older = home.pictures / "older"
    older.mkdir()
    (older / portray.PAGE).write_text("<html>radiographs</html>")
    kept = (home.pictures / "others" / portray.PAGE).read_bytes()

    told = purge.run(home, PATIENT, **TOLD)
    assert told.pages == ("copied", "older", "returning")
    assert told.quarantines == ("copied", "returning")
    assert "pages of batches, which show the patient or may: copied, older, returning" in str(told)
    purge.run(home, PATIENT, yes=True, **TOLD)
    for batch in ("copied", "returning", "older"):
        assert [path.name for path in (home.pictures / batch).iterdir()] == [portray.PAGE]
        assert "has been removed from the data set, or may have" in (home.pictures / batch / portray.PAGE).read_text()
    assert (home.pictures / "others" / portray.PAGE).read_bytes() == kept


def test_a_patient_who_was_purged_does_not_come_in_again(
    home: Home, make_nih: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Purged after a withdrawal, such rows are refused and nothing of them is kept. The store knows it without the
    ledger, whose name of a patient changes with the salt; what an earlier version purged is known by the ledger alone.
    """
    withdraw.run(home, [PATIENT], **TOLD)
    purge.run(home, PATIENT, yes=True, **TOLD)
    folder = make_nih("again", patients=22, first=int(PATIENT) - 20)
    for number, path in enumerate(sorted((folder / "images").iterdir())):
        cv2.imwrite(str(path), np.random.default_rng(99 + number).integers(0, 256, (32, 32), dtype=np.uint8))
    pictures = [(folder / "images" / name).read_bytes() for name in IMAGES]
    told = f"{IMAGES[0]}: the patient was purged from this data set, and does not come in again"
    for module, name in ((ingest, "patient_key"), (purges, "name_of")):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, lambda *_: "nobody")
            with pytest.raises(DataError, match=told):
                ingest.run("nih", folder, batch="four", home=home)
        assert search(home, pictures) == []
    assert "The patient was purged from the data set" in (home.pictures / "four" / portray.PAGE).read_text()
    entered = ingest.run("nih", folder, batch="four", home=home, on_bad="quarantine")
    assert (entered.quarantined, entered.images) == (4, 40)
    assert search(home, pictures) == []
    assert PATIENT not in set(withdraw.as_it_is(home).frame["patient_id"])


def test_models_that_were_trained_on_the_patient_are_listed(champion: Home, project: Path) -> None:
    """A version whose package lists the patient is named, also on the ledger, and that the champion is one of them."""
    shutil.copy(project / "params.yaml", champion.project)
    refused = champion.quarantine / "four"
    refused.mkdir(parents=True)
    rows = [f"x,{line},p{patient}.png,blank,,{patient}" for line, patient in enumerate("129", 2)]
    (refused / "problems.csv").write_text("\n".join([",".join(quarantine.COLUMNS), *rows]) + "\n")
    asked = {patient: purge.run(champion, patient, **TOLD) for patient in "129"}
    assert {patient: (told.models, told.champion) for patient, told in asked.items()} == {
        "1": (("1",), True),  # the first version, which was promoted
        "2": (("2",), False),
        "9": ((), False),
    }
    assert "models that were trained on the patient, and stay: version 1\n" in str(asked["1"])
    assert "the champion is one of them; next: cxr-ops retrain" in str(asked["1"])
    assert "models that were trained" not in str(asked["9"])
    assert purge.run(champion, "1", yes=True, **TOLD).models == ("1",)
    assert open_ledger(champion).entries()[-1].purge.models == ["1"]


def test_what_cannot_be_purged_changes_nothing(home: Home) -> None:
    """An unknown id, an id written otherwise, a reason that names the patient, and none."""
    before = batches.data_revision(home)
    for patient in (f"0{PATIENT}", "99", IMAGES[0]):
        with pytest.raises(DataError, match="no version of the data set holds an image"):
            purge.run(home, patient, yes=True, **TOLD)
    with pytest.raises(SettingsError, match="the reason names the patient"):
        purge.run(home, PATIENT, by="dr_lee", reason=f"patient {PATIENT} asked for it", yes=True)
    with pytest.raises(SettingsError, match="needs a name and a reason"):
        purge.run(home, PATIENT, by="dr_lee", reason=" ", yes=True)
    assert batches.data_revision(home) == before
    assert purges.read(home).replaced == {}


def test_near_copies_under_another_patient_go_first(
    stored: Home, make_nih: Callable[..., Path], tmp_path: Path
) -> None:
    """A patient with whom another goes is not purged before that one: the same pictures would stay under its name."""
    guide, follower = PATIENT, str(int(PATIENT) + 1)
    folder = make_nih("folder", patients=3, first=int(PATIENT))
    (tmp_path / "built").mkdir()
    made = check(nih.read_folder(folder), "three", processes=1)
    sides = pd.DataFrame([(follower, f"with:{guide}")], columns=manifest.SIDE_COLUMNS)
    build(tmp_path / "built" / "three", replace(made, sides=sides))
    batches.add_batch(stored, tmp_path / "built" / "three")
    with pytest.raises(RefusedError, match=f"accepted under {follower}, and would stay") as refused:
        purge.run(stored, guide, **TOLD, yes=True)
    assert refused.value.fix.startswith(f"cxr-ops data purge {follower} ")
    assert purge.run(stored, follower, **TOLD, yes=True).done
    assert purge.run(stored, guide, **TOLD, yes=True).done
    left = batches.batch_files(stored)["three"]
    assert manifest.all_sides([left]) == {}
    assert set(manifest.read_manifest(left / "manifest.csv")["patient_id"]).isdisjoint({guide, follower})


def test_a_picture_that_was_only_ever_refused_goes(stored: Home, make_nih: Callable[..., Path]) -> None:
    """A patient whom no version of the data set has ever held is found by the quarantine, and leaves it; the others of
    the refused batch stay there, and the patient does not come in again.
    """
    folder = make_nih("refused", patients=3, first=int(PATIENT))
    others = f"0{int(PATIENT) + 1}_000.png"
    for name in (*IMAGES, others):
        path = folder / "images" / name
        path.write_bytes(path.read_bytes()[:-40])
    pictures = [(folder / "images" / name).read_bytes() for name in IMAGES]
    with pytest.raises(DataError, match="the batch is refused"):
        ingest.run("nih", folder, batch="four", home=stored)
    assert search(stored, [PATIENT.encode(), *pictures])
    told = purge.run(stored, PATIENT, **TOLD)
    assert (told.images, told.quarantines, told.quarantined, told.unknown) == (0, ("four",), 2, ())
    before = batches.data_revision(stored)
    assert purge.run(stored, PATIENT, yes=True, **TOLD).done
    assert search(stored, [PATIENT.encode(), *pictures]) == []
    assert batches.data_revision(stored) == before
    listed = pd.read_csv(stored.quarantine / "four" / "problems.csv", dtype=str)
    assert listed[["image_id", "patient_id"]].to_numpy().tolist() == [[others, str(int(PATIENT) + 1)]]
    assert (stored.quarantine / "four" / "files" / listed["sha256"][0]).is_file()
    assert [entry.purge.images for entry in open_ledger(stored).entries()] == [0]
    with pytest.raises(DataError, match=r"no version of the data set holds an image.*no quarantine lists one"):
        purge.run(stored, PATIENT, yes=True, **TOLD)
    with pytest.raises(DataError, match="the patient was purged from this data set"):
        ingest.run("nih", folder, batch="five", home=stored)


def test_an_ingestion_that_was_cut_off_tells_nothing_later(home: Home, make_nih: Callable[..., Path]) -> None:
    """What it had left to say names the patient: it is said before the purge, and not after it."""
    folder = make_nih("four", patients=20, first=700, size=48)
    cv2.imwrite(str(folder / "images" / "00000700_000.png"), np.full((48, 48), 50, np.uint8))
    before = batches.data_revision(home)
    ingest.run("nih", folder, batch="four", home=home, on_bad="quarantine")
    after = batches.data_revision(home)
    assert before
    assert after
    said = Acceptance.read(home.quarantine / "four" / "acceptance.json")
    named = [one.model_copy(update={"found": f"the patient {PATIENT} is F and M"}) for one in said.checks]
    left = Unfinished(
        batch="four",
        after=before.revision,
        record=after.batches["four"],
        acceptance=said.model_copy(update={"checks": named}),
    )
    left.write(deliveries.unfinished(home, "four"))
    purge.run(home, PATIENT, yes=True, **TOLD)
    assert ingest.finish(home) == []
    assert not search(home, [PATIENT.encode()])


def test_a_wrong_id_goes_and_the_right_patient_keeps_the_pictures(
    stored: Home, make_nih: Callable[..., Path], tmp_path: Path
) -> None:
    """A batch with a wrong id was taken out, and came again with the right one: the wrong id is purged from the earlier
    versions, the pictures stay where they are right, and what goes and stays is said.
    """
    listing = nih.read_folder(make_nih("folder", patients=2, first=int(PATIENT)))
    (tmp_path / "built").mkdir()
    for batch, patient in (("mistaken", "wrong-id"), ("mended", "right-id")):
        rows = [
            replace(row, patient_id=patient if row.patient_id == PATIENT else row.patient_id) for row in listing.rows
        ]
        build(tmp_path / "built" / batch, check(replace(listing, rows=rows), batch, processes=1))
        revision = batches.add_batch(stored, tmp_path / "built" / batch)
        if batch == "mistaken":
            before = batches.revision_at(stored, revision)
            batches.remove_batch(stored, batch, before, by="Ann", reason="the id is wrong")
    now = withdraw.as_it_is(stored).frame
    told = purge.run(stored, "wrong-id", yes=True, **TOLD)
    assert (told.done, told.images, told.holders, told.under_others) == (True, 2, ("mistaken",), 2)
    assert "of which 2 stand under another patient too, as another batch has them, and stay there" in str(told)
    assert search(stored, [b"wrong-id"]) == []
    assert withdraw.as_it_is(stored).frame.equals(now)
    assert set(now.loc[now["patient_id"] == "right-id", "image_id"]) == set(IMAGES)
    data = batches.data_revision(stored)
    assert data is not None
    with batches.whole(stored, data) as dataset:
        assert manifest.read_version(dataset).frame["image_id"].tolist() == now["image_id"].tolist()
    (earlier,) = (one for one in versions.versions(stored) if "mistaken" in one.added)
    folder = batches.batch_files(stored, revision=earlier.data)["mistaken"]
    assert set(manifest.read_manifest(folder / "manifest.csv")["patient_id"]) == {str(int(PATIENT) + 1)}


def test_a_full_disk_is_said_and_changes_nothing(stored: Home, project: Path, tmp_path: Path) -> None:
    """On a full disk a withdrawal, a correction and a purge say so and leave the data set as it was; with room again
    the same command does it, and what the purge had begun is ended.
    """
    table = tmp_path / "fixes.csv"
    table.write_text("image_id,Hernia\n00000003_000.png,-1\n", encoding="utf-8")
    with small_disk(tmp_path) as disk:
        shutil.copytree(stored.root, disk / "home", symlinks=True)
        home = Home.find({"CXR_HOME": str(disk / "home"), "CXR_PROJECT": str(project)})
        before = batches.data_revision(home)
        assert not purge.run(home, "3", **TOLD).done  # so that tables are here
        commands: list[Callable[[], object]] = [
            lambda: withdraw.run(home, ["4"], **TOLD),
            lambda: relabel.run(home, table, **TOLD),
            lambda: purge.run(home, "3", yes=True, **TOLD),
        ]
        for command, spare in ((commands[0], 0), (commands[1], 0), (commands[2], 0), (commands[2], 2**18)):
            shrink(disk, spare)
            with pytest.raises(StorageError, match=r"disk is full|disk I/O error|No space left") as full:
                command()
            assert str(full.value.fix).startswith("free some room")
            assert batches.data_revision(home) == before
        assert list(home.root.glob("purge-*.json"))  # with that much room it had begun
        grow(disk)
        assert purge.run(home, "3", yes=True, **TOLD).done
        assert not set(withdraw.as_it_is(home).frame["patient_id"]) & {"3"}


def test_the_command_asks_first(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes the command says what would go and what to type, and the ledger names the purge afterwards."""
    monkeypatch.setenv("CXR_HOME", str(home.root))
    monkeypatch.chdir(home.project)
    cli = typer.testing.CliRunner()
    words = ["data", "purge", PATIENT, "--by", "dr_lee", "--reason", "consent"]
    told = cli.invoke(app, words)
    assert told.exit_code == 0, told.output
    assert "2 images of the patient would go" in told.output
    assert "the same command with --yes" in told.output
    assert "cxr-ops backup NEWFOLDER, then delete the folders of earlier backups" in " ".join(told.output.split())
    done = cli.invoke(app, [*words, "--yes"])
    assert done.exit_code == 0, done.output
    assert "2 images of the patient are gone" in done.output
    assert "purging: 4 of 4" in done.output
    one = purge.Purge(images=1, holders=(), versions=1, runs=(), models=(), champion=False, done=True)
    assert str(one).startswith("1 image of the patient is gone, from 1 version of the data set")
    logged = cli.invoke(app, ["data", "log", "--json", "--last", "1"])
    assert [(line["by"], line["reason"]) for line in json.loads(logged.stdout)] == [("dr_lee", "consent")]
    assert "was purged from every version" in cli.invoke(app, ["ledger", "show"]).output
    assert "chain whole" in cli.invoke(app, ["ledger", "verify"]).output
