"""Ingestion: all or nothing, with every reason."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import pandas as pd
import pytest
from dicoms import ROOT, dicom
from folders import make_folders
from PIL import Image

from cxr_ops.data import manifest, splits
from cxr_ops.data.checking import batch as building
from cxr_ops.data.checking import isolate
from cxr_ops.data.sources import nih
from cxr_ops.data.sources.source import Options, Problem
from cxr_ops.data.synthetic import synth
from cxr_ops.edges import deliveries
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import BusyError, DataError, RefusedError, SettingsError, StorageError
from cxr_ops.params import Params
from cxr_ops.records.acceptance import Acceptance
from cxr_ops.records.base import sha256_file
from cxr_ops.stages import ingest, remove, withdraw

MakeNih = Callable[..., Path]
ENTRIES = "Data_Entry_2017.csv"


@pytest.fixture
def home(tmp_path: Path, project: Path) -> Home:
    """An installation of its own."""
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})


def image(folder: Path, name: str) -> Path:
    return folder / "images" / name


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / ENTRIES
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def refused(folder: Path, home: Home, **options: object) -> str:
    """The refusal, after which the data set is as it was and nothing is left aside."""
    before = batches.data_revision(home)
    with pytest.raises(DataError) as caught:
        ingest.run("nih", folder, batch="first", home=home, **options)  # type: ignore[arg-type]
    assert batches.data_revision(home) == before
    assert list((home.root / "tmp").glob("ingest-*")) == []
    return str(caught.value)


def test_a_batch_enters_once(make_nih: MakeNih, home: Home) -> None:
    """A batch enters the data set; again it changes nothing and says so; its name with other content is refused."""
    folder = make_nih()
    result = ingest.run("nih", folder, batch="first", home=home)
    assert (result.images, result.patients, result.quarantined, result.already) == (40, 20, 0, False)
    assert result.findings["Infiltration"] == (folder / ENTRIES).read_text().count("Infiltration")
    again = ingest.run("nih", folder, batch="first", home=home)
    assert again.already
    assert again.revision == result.revision
    assert "nothing was changed" in str(again)
    edit(folder, ",PA,", ",AP,")
    assert "has a batch 'first' with other content" in refused(folder, home)


def test_what_the_data_set_holds_is_refused(make_nih: MakeNih, home: Home) -> None:
    """An image of a known name, a known picture under a new name, and a patient of another sex are named."""
    first = make_nih("one", patients=10)
    ingest.run("nih", first, batch="zero", home=home)
    second = make_nih("two", patients=12, first=10)  # patient 10 is in both
    shutil.copy(image(first, "00000003_000.png"), image(second, "00000015_000.png"))
    for view in ("PA", "AP"):
        edit(second, f",21,41,M,{view}", f",21,41,F,{view}")
    message = refused(second, home)
    assert "line 2: 00000010_000.png: the data set holds an image of this name, in the batch 'zero'" in message
    assert (
        "00000015_000.png: under the patient 15, and the data set holds this picture as 00000003_000.png under the "
        "patient 3, in the batch 'zero'"
    ) in message
    result = ingest.run("nih", second, batch="next", home=home, on_bad="quarantine")
    assert (result.images, result.quarantined) == (21, 3)
    third = make_nih("three", patients=3, first=21)
    message = refused(third, home)
    assert "00000021_000.png: the data set holds an image of this name, in the batch 'next'" in message
    assert "the patient is F in the data set and M here" in message


def _altered(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda path: path.unlink(), "the image is missing"),
        (_altered, "checksum"),
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "cut short"),
        (lambda path: path.write_bytes(b""), "0 bytes"),
        (lambda path: path.write_bytes(b"<html>503</html>"), "web page"),
        (lambda path: Image.new("P", (32, 32)).save(path, "gif"), "GIF"),
        (lambda path: Image.new("RGB", (32, 32), "red").save(path, "png"), "colours"),
    ],
    ids=["missing", "one byte", "truncated", "empty", "html", "gif", "colour"],
)
def test_a_bad_image_is_named_and_nothing_enters(
    make_nih: MakeNih, home: Home, spoil: Callable[[Path], None], why: str
) -> None:
    """A batch with one bad image is refused with its row and the reason, which stand in the quarantine too."""
    folder = make_nih(patients=4)
    spoil(image(folder, "00000003_000.png"))
    message = refused(folder, home)
    assert "1 problem; nothing was ingested" in message
    assert f"{ENTRIES}, line 6: 00000003_000.png: " in message
    assert why in message
    assert "--on-bad quarantine" in message
    listed = (home.quarantine / "first" / "problems.csv").read_text(encoding="utf-8")
    assert listed.startswith("file,line,image_id,problem,sha256,patient_id\nData_Entry_2017.csv,6,00000003_000.png,")
    assert why in listed


def test_quarantine_leaves_out_the_bad_rows_and_says_so(make_nih: MakeNih, home: Home) -> None:
    """With on_bad=quarantine the good rows enter, and those left out are counted and listed."""
    folder = make_nih()
    _altered(image(folder, "00000003_000.png"))
    image(folder, "00000004_001.png").unlink()
    edit(folder, "Nodule", "Nodul")
    result = ingest.run("nih", folder, batch="first", home=home, on_bad="quarantine")
    assert (result.images, result.quarantined) == (37, 3)
    assert result.problems == home.quarantine / "first" / "problems.csv"
    assert len(result.problems.read_text(encoding="utf-8").splitlines()) == 4
    assert "left out 3 rows" in str(result)
    assert "they come in as a folder with those rows alone, under a new batch name" in str(result)
    assert "accepted with quarantine (3 of 40 rows left out: 7.5% of the rows, at most 20.0% are allowed)" in str(
        result
    )
    held = manifest.read_manifest(batches.batch_files(home)["first"] / "manifest.csv")
    assert not {"00000003_000.png", "00000004_001.png"} & set(held["image_id"])
    assert ingest.run("nih", folder, batch="first", home=home, on_bad="quarantine").already


@pytest.mark.parametrize(("bad", "allowed"), [(2, True), (3, False)])
def test_no_more_than_the_stated_share_is_left_out(make_nih: MakeNih, bad: int, allowed: bool) -> None:
    """Of ten rows two may be bad where a fifth may be left out, and three may not."""
    folder = make_nih(patients=5)
    for number in range(1, 1 + bad):
        _altered(image(folder, f"{number:08d}_000.png"))
    checked = building.check(nih.read_folder(folder), "first", processes=1)
    why = ingest._too_many(checked, Params().ingest.model_copy(update={"max_quarantined": 0.2}), "quarantine")
    assert why == ("" if allowed else "nothing was ingested: 3 of 10 rows are bad, and at most 20.0% may be left out")


@pytest.mark.parametrize(("bad", "allowed"), [(29, True), (30, False)])
def test_a_share_is_compared_exactly(make_nih: MakeNih, bad: int, allowed: bool) -> None:
    """29 of 100 rows are no more than 0.29 of them, though 0.29 times 100 is a little less than 29."""
    checked = building.check(nih.read_folder(make_nih(patients=5)), "first", processes=1)
    problem = Problem(file="images/a.png", line=2, image_id="a.png", what="it is damaged")
    frame = checked.frame.iloc[[0] * (100 - bad)]
    checked = replace(checked, frame=frame, total=100, problems=[problem])
    assert bad == 30 or bad > 0.29 * 100
    why = ingest._too_many(checked, Params().ingest.model_copy(update={"max_quarantined": 0.29}), "quarantine")
    assert (why == "") is allowed


def acceptance_of(home: Home, batch: str) -> Acceptance:
    """The record in the data set of how a batch was taken."""
    folders = batches.batch_files(home, names=("batch.json",), optional=(ingest.ACCEPTANCE,))
    return Acceptance.read(folders[batch] / ingest.ACCEPTANCE)


def test_the_record_says_how_a_batch_was_taken(make_nih: MakeNih, home: Home) -> None:
    """Whole, with quarantine, or refused, with counts: in the batch or, of a refused one, in the quarantine alone."""
    whole = ingest.run("nih", make_nih("whole"), batch="whole", home=home)
    assert "batch whole is in the data set, accepted whole: 40 images" in str(whole)
    record = acceptance_of(home, "whole")
    assert record == whole.acceptance
    assert (record.outcome, record.rows, record.images, record.problems) == ("whole", 40, 40, 0)
    assert record.comparisons == []  # there was nothing to compare with
    assert {check.suite for check in record.checks} >= {"table", "labels", "images", "dataset"}
    assert not (home.quarantine / "whole").exists()

    bad = make_nih("bad", first=31)
    _altered(image(bad, "00000033_000.png"))
    part = ingest.run("nih", bad, batch="part", home=home, on_bad="quarantine")
    record = acceptance_of(home, "part")
    assert (record.outcome, record.rows, record.images, record.quarantined) == ("quarantine", 40, 39, 1)
    assert len(record.comparisons) == 25
    assert Acceptance.read(home.quarantine / "part" / ingest.ACCEPTANCE) == record == part.acceptance
    assert deliveries.refused(home) == []

    worse = make_nih("worse", first=61)
    for number in range(61, 70):
        _altered(image(worse, f"{number:08d}_000.png"))
    before = batches.data_revision(home)
    with pytest.raises(DataError, match=r"9 of 40 rows are bad, and at most 20\.0% may be left out") as caught:
        ingest.run("nih", worse, batch="worse", home=home, on_bad="quarantine")
    assert "ingest.max_quarantined" in str(caught.value.fix)
    record = Acceptance.read(home.quarantine / "worse" / ingest.ACCEPTANCE)
    assert (record.outcome, record.rows, record.images, record.why) == ("refused", 40, 31, str(caught.value))
    assert batches.data_revision(home) == before
    assert deliveries.refused(home) == ["worse"]


def test_the_quarantine_holds_the_bytes(make_nih: MakeNih, home: Home) -> None:
    """What was left out is kept byte for byte under its digest, beside the reasons, until the batch enters whole."""
    folder = make_nih()
    _altered(image(folder, "00000003_000.png"))
    edit(folder, "Nodule", "Nodul")
    (folder / "images" / "new.png").write_bytes(b"<html>503</html>")
    refused(folder, home)
    kept = home.quarantine / "first"
    listed = pd.read_csv(kept / "problems.csv", dtype=str).set_index("image_id")
    for name in listed.index.dropna():
        digest = listed.loc[name, "sha256"]
        assert (kept / "files" / digest).read_bytes() == image(folder, name).read_bytes()
        assert sha256_file(kept / "files" / digest) == digest
    stray = listed.loc[listed["file"] == "images/new.png", "sha256"].item()
    assert (kept / "files" / stray).read_bytes() == b"<html>503</html>"
    table = (folder / ENTRIES).read_bytes()
    assert table in [path.read_bytes() for path in (kept / "files").iterdir()]
    ingest.run("nih", make_nih("mended"), batch="first", home=home)
    assert not kept.exists()


def test_drift_is_told_and_may_refuse(make_nih: MakeNih, home: Home, tmp_path: Path) -> None:
    """A batch of other views is let in with a warning and the figures; where the settings say failure, it is not."""
    ingest.run("nih", make_nih("held", patients=40), batch="held", home=home)
    folder = make_nih("other", patients=40, first=61)
    (folder / ENTRIES).write_text((folder / ENTRIES).read_text().replace(",PA,", ",AP,"))
    strict = tmp_path / "strict"
    shutil.copytree(home.project / "expectations", strict / "expectations")
    text = (home.project / "params.yaml").read_text()
    (strict / "params.yaml").write_text(text.replace("drift: warning", "drift: failure"))
    for name in ("dvc.yaml", "pccp.demo.yaml"):
        shutil.copy(home.project / name, strict / name)
    with pytest.raises(DataError, match="no share differs") as caught:
        ingest.run("nih", folder, batch="other", home=replace(home, project=strict))
    assert re.search(r"2 of 25: view PA: 0.0% of 40 patients here, \d+.\d% of 40 in the data set", str(caught.value))
    record = Acceptance.read(home.quarantine / "other" / ingest.ACCEPTANCE)
    assert (record.outcome, [one.what for one in record.changed]) == ("refused", ["view PA", "view AP"])
    told = ingest.run("nih", folder, batch="other", home=home)
    assert "warning: The batch's findings, views, sexes and ages are those of the data set" in str(told)
    assert acceptance_of(home, "other").comparisons == record.comparisons


def test_a_picture_twice_is_refused(make_nih: MakeNih, home: Home) -> None:
    """The same file, and the same pixels in another encoding, under two ids are named with both lines."""
    folder = make_nih(patients=6)
    shutil.copy(image(folder, "00000001_000.png"), image(folder, "00000005_000.png"))
    pixels = cv2.imread(str(image(folder, "00000002_000.png")), cv2.IMREAD_GRAYSCALE)
    Image.fromarray(pixels).save(image(folder, "00000006_001.png"), compress_level=0)
    message = refused(folder, home)
    assert "4 problems" in message
    assert "line 2: 00000001_000.png: the same file as 00000005_000.png on line 10" in message
    assert "line 13: 00000006_001.png: the same pixels, in another encoding, as 00000002_000.png on line 4" in message


def test_an_empty_batch_and_only_bad_rows_are_refused(make_nih: MakeNih, home: Home) -> None:
    """No rows are refused, and so are rows of which none is good, whatever is asked for."""
    folder = make_nih(patients=1)
    edit(folder, "00000001_000.png,", "00000001_000.png,X")
    edit(folder, "00000001_001.png,", "00000001_001.png,X")
    message = refused(folder, home, on_bad="quarantine")
    assert "2 problems; nothing was ingested: 2 of 2 rows are bad, and at most 20.0% may be left out" in message
    (folder / ENTRIES).write_text((folder / ENTRIES).read_text().splitlines()[0] + "\n")
    assert "the batch is empty" in refused(folder, home, on_bad="quarantine")


def test_a_folder_that_came_before_is_known_again(make_nih: MakeNih, home: Home) -> None:
    """The same folder under another name is told to be there; a withdrawn picture is told with the event."""
    folder = make_nih(patients=10)
    ingest.run("nih", folder, batch="zero", home=home)
    for on_bad in ("refuse", "quarantine"):
        message = refused(folder, home, on_bad=on_bad)
        assert "this folder is in the data set as 'zero', with 20 pictures, byte for byte" in message
        assert "cxr-ops data relabel" in message
    withdraw.run(home, ["00000003_000.png"], by="dr_lee", reason="consent")
    message = refused(folder, home)
    assert "an image of this name was withdrawn from the data set (event.00001), of the batch 'zero'" in message
    image(folder, "00000003_000.png").rename(image(folder, "00000003_009.png"))
    edit(folder, "00000003_000.png", "00000003_009.png")
    message = refused(folder, home)
    assert (
        "00000003_009.png: this picture was withdrawn from the data set (event.00001), where it stood as "
        "00000003_000.png of the batch 'zero'"
    ) in message


def test_many_problems_are_counted(make_nih: MakeNih, home: Home) -> None:
    """The error lists twenty problems, of one reason five, and counts the rest; the quarantine's file has them all."""
    folder = make_nih()
    lines = (folder / ENTRIES).read_text().splitlines()
    ages = [line.replace(",M,", f",X{n},").replace(",F,", f",X{n},") for n, line in enumerate(lines[13:], 13)]
    views = [line.replace(",PA,", ",LL,").replace(",AP,", ",LL,") for line in lines[1:13]]
    (folder / ENTRIES).write_text("\n".join([lines[0], *views, *ages]) + "\n")
    shutil.copy(image(folder, "00000001_000.png"), image(folder, "stray.png"))
    message = refused(folder, home)
    assert message.count("view position 'LL'") == 5
    assert "'LL' is not one of" in message.splitlines()[5]
    assert message.splitlines()[6].strip() == "and 7 more for this reason"
    assert len([line for line in message.splitlines() if "the sex 'X" in line]) == 14  # with 5 and a count, 20 lines
    assert "  and 15 more\n" in message
    assert len((home.quarantine / "first" / "problems.csv").read_text().splitlines()) == 42


def test_dicom_files_with_one_reason_are_counted(tmp_path: Path, home: Home) -> None:
    """A reason that begins with the file that it is about is one reason, of all files that have it."""
    for number in range(1, 9):
        header = {"PatientName": "Doe"} if number > 1 else {"Modality": "CT"}
        (tmp_path / "export" / "study").mkdir(parents=True, exist_ok=True)
        (tmp_path / "export" / "study" / f"IM{number}").write_bytes(dicom(uid=f"{ROOT}.{number}", **header))
    rows = [f"{ROOT}.{number},p{number},0" for number in range(1, 9)]
    (tmp_path / "export" / "labels.csv").write_text("\n".join(["SOPInstanceUID,patient_id,Mass", *rows]) + "\n")
    with pytest.raises(DataError) as caught:
        ingest.run("dicom", tmp_path / "export", batch="first", home=home)
    lines = str(caught.value).splitlines()
    assert [line.rpartition("study/")[2][:3] for line in lines[1:7]] == ["IM1", "IM2", "IM3", "IM4", "IM5", "IM6"]
    assert lines[7].strip() == "and 2 more for this reason"


def test_a_refused_folder_is_told_with_the_kind_that_it_was_taken_for(make_nih: MakeNih, home: Home) -> None:
    """Of a folder whose kind was found out, the refusal says which it is and why; a file is named once."""
    folder = make_nih(patients=1)
    shutil.copy(image(folder, "00000001_000.png"), image(folder, "stray.png"))
    with pytest.raises(DataError) as caught:
        ingest.run("auto", folder, batch="first", home=home)
    assert "the folder was taken to be of the kind nih: Data_Entry_2017.csv is here" in str(caught.value)
    assert "images/stray.png: no row names this file" in str(caught.value)
    assert "of the kind" not in refused(folder, home)


def test_findings_that_a_small_batch_lacks_are_one_warning(make_nih: MakeNih, home: Home) -> None:
    """One sentence names the findings that no image has, each of which the record keeps; what goes on is said."""
    folder = make_nih(patients=2)
    said: list[str] = []
    result = ingest.run("nih", folder, batch="first", home=home, doing=said.append)
    lacking = [finding.replace("_", " ") for finding, count in result.findings.items() if not count]
    assert len(lacking) > 1
    warnings = [line.strip() for line in str(result).splitlines() if "is present in at least one" in line]
    assert warnings == [f"warning: {', '.join(lacking)}: each is present in at least one image. Not so: 0."]
    failed = [check for check in acceptance_of(home, "first").checks if not check.passed]
    assert {check.says for check in failed} >= {f"{one} is present in at least one image." for one in lacking}
    assert said[-1] == "bringing the batch into the data set"


def test_a_batch_without_any_finding_is_refused(make_nih: MakeNih, home: Home) -> None:
    """The expectations that validate runs are run before the batch enters; the page stands in the quarantine."""
    folder = make_nih(patients=4)
    rows = [row.split(",") for row in (folder / ENTRIES).read_text().splitlines()]
    text = "\n".join(",".join([row[0], "No Finding", *row[2:]]) if n else ",".join(row) for n, row in enumerate(rows))
    (folder / ENTRIES).write_text(text + "\n")
    message = refused(folder, home)
    assert "Some image has a finding: the labels are not all negative. Not so" in message
    assert "the batch's name is free" in message
    assert "00000001" not in (home.quarantine / "first" / "validation.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["", "NIH 1", "-a", "a--b", "../up", "a" * 64, "a\n"])
def test_a_batch_name_is_checked(make_nih: MakeNih, home: Home, name: str) -> None:
    """A name that is no lower-case slug is refused, and a legal one is proposed."""
    with pytest.raises(SettingsError, match="is not a batch name") as caught:
        ingest.run("nih", make_nih(patients=1), batch=name, home=home)
    assert "--batch " in str(caught.value)


def test_too_little_disk_is_noticed_first(make_nih: MakeNih, home: Home) -> None:
    """Without room for three copies nothing is written, and the message says how much is needed."""
    folder = make_nih(patients=4)
    with pytest.raises(StorageError, match="too little disk: 0 MiB are free"):
        ingest.run("nih", folder, batch="first", home=home, free_bytes=lambda _: 1000)
    assert batches.data_revision(home) is None
    assert list((home.root / "tmp").glob("ingest-*")) == []


def test_a_place_that_cannot_be_written_is_named(make_nih: MakeNih, home: Home) -> None:
    """A file in the place of a folder is a storage error that names it."""
    (home.root / "tmp").write_text("in the way")
    with pytest.raises(StorageError) as caught:
        ingest.run("nih", make_nih(patients=4), batch="first", home=home)
    assert "tmp" in str(caught.value)
    assert batches.data_revision(home) is None


def test_one_ingestion_at_a_time(make_nih: MakeNih, home: Home) -> None:
    """While one is going on, another is refused; what a killed one left aside is removed by the next."""
    folder = make_nih()
    home.locks.mkdir()
    left = home.root / "tmp" / "ingest-killed"
    left.mkdir(parents=True)
    with (home.locks / "ingest").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another ingestion"):
            ingest.run("nih", folder, batch="first", home=home)
        assert left.is_dir()
    (folder / ENTRIES).unlink()
    refused(folder, home)
    assert not left.exists()


def test_a_name_that_is_no_utf8_or_steers_a_terminal_is_spelt_out(make_nih: MakeNih, home: Home) -> None:
    """Names of files may be any bytes: they are told, written down and kept, and the terminal is left alone."""
    folder = make_nih()
    names = {b"caf\xe9.png": "caf\\udce9.png", b"a\n\x1b[2J.png": "a\\n\\x1b[2J.png"}
    for name in names:
        Path(folder, "images", os.fsdecode(name)).write_bytes(name)
    message = refused(folder, home)
    assert all(f"images/{told}: no row names this file" in message for told in names.values())
    ingest.run("nih", folder, batch="first", home=home, on_bad="quarantine")
    listed = pd.read_csv(home.quarantine / "first" / "problems.csv", dtype=str)
    assert set(listed["image_id"]) == set(names.values())
    kept = {path.name: path.read_bytes() for path in (home.quarantine / "first" / "files").iterdir()}
    assert set(listed["sha256"]) == set(kept)
    assert set(kept.values()) == set(names)


def test_ids_that_are_written_in_two_ways_are_told(make_nih: MakeNih, home: Home) -> None:
    """Ids are compared as text; a person who stands under two spellings would be two patients, and may leak."""
    for batch, first, spelt in (("first", 1, "MRN-0{}"), ("second", 101, "mrn_{}")):
        folder = make_nih(batch, first=first)
        table = folder / "Data_Entry_2017.csv"
        frame = pd.read_csv(table, dtype=str)
        number = (frame.index // 2).astype(str)
        frame["Patient ID"] = [spelt.format(one) if int(one) < 2 else f"{batch}-{one}" for one in number]
        frame["Patient Gender"] = ["FM"[int(one) % 2] for one in number]
        frame.to_csv(table, index=False)
        told = [note for note in ingest.run("nih", folder, batch=batch, home=home).notes if "more than one way" in note]
        assert len(told) == (batch == "second")
    assert told[0].startswith("warning: 2 patient ids are written in more than one way, such as MRN-00 and mrn_0,")


# ------------------------------------------------------------------------------------------- generated patients


def draw(out: Path, images: int = 40, first_patient: int = 1) -> Path:
    """A folder as `cxr-ops data synth` draws it."""
    synth.synthesize(out, images=images, seed=0, size=64, first_patient=first_patient, processes=1)
    return out


def as_drawn_by_an_earlier_version(home: Home, folder: Path, batch: str) -> None:
    """A batch of the data set under the NIH's name, as version 0.1 left it."""
    building.build(home.root / "aside" / batch, building.check(nih.read_folder(folder), batch, processes=1))
    batches.add_batch(home, home.root / "aside" / batch)


def test_generated_and_real_patients_never_mix(make_nih: MakeNih, home: Home, tmp_path: Path) -> None:
    """Real patients are refused beside generated ones, before anything is decoded, with the command to type instead."""
    result = ingest.run("nih", draw(tmp_path / "drawn"), batch="drawn", home=home)
    held = manifest.read_manifest(batches.batch_files(home)["drawn"] / "manifest.csv")
    assert set(held["source"]) == {"generated"}
    assert all(name.startswith("generated-") for name in (*held["image_id"], *held["patient_id"]))
    folder = make_nih()
    _altered(image(folder, "00000003_000.png"))
    message = refused(folder, home)
    assert "the data set holds generated patients (drawn), and these are real: the two never mix" in message
    assert f"CXR_HOME={home.root}-real cxr-ops ingest nih {folder} --batch first" in message
    assert "00000003" not in message
    settings = {"CXR_HOME": str(home.root), "CXR_PROJECT": str(home.project), "MLFLOW_TRACKING_URI": "http://mlflow"}
    assert "(and another MLFLOW_TRACKING_URI)" in refused(folder, Home.find(settings))
    assert result.patients == held["patient_id"].nunique()


def test_generated_pictures_do_not_come_in_as_real_ones(home: Home, tmp_path: Path) -> None:
    """Put into folders by class they would have a source of real patients: their names tell."""
    folder = make_folders(tmp_path / "classes", patients=10)
    for path in sorted(folder.rglob("*.jpeg"))[:3]:
        path.rename(path.with_name(f"Generated-{path.name}"))
    with pytest.raises(DataError, match="3 of 20 pictures are generated, first Generated-"):
        ingest.run("folder", folder, batch="classes", home=home)
    assert batches.data_revision(home) is None


def test_what_an_earlier_version_drew_is_generated_too(make_nih: MakeNih, home: Home, tmp_path: Path) -> None:
    """A batch that version 0.1 drew opens, takes no real patients, and takes generated ones, whose ids are others."""
    as_drawn_by_an_earlier_version(home, make_nih("earlier"), "synthetic-1")
    as_drawn_by_an_earlier_version(home, make_nih("more", first=200), "synthetic-2")
    assert "holds generated patients (synthetic-1)" in refused(make_nih("own", first=500), home)
    ingest.run("nih", draw(tmp_path / "drawn"), batch="drawn", home=home)
    assert set(batches.batch_files(home)) == {"synthetic-1", "synthetic-2", "drawn"}
    with pytest.raises(SettingsError, match="is the name of a batch that an earlier version drew"):
        ingest.run("nih", make_nih("named"), batch="synthetic-1", home=home)


def test_one_person_does_not_enter_under_two_ids(
    make_nih: MakeNih, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures of the RSNA's enter beside the NIH's with the NIH's patient ids alone, whichever came first."""
    monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))
    real = nih.read_folder(make_nih(patients=2))
    with_numbers = replace(real, source="rsna")
    with_names = replace(real, source="rsna", rows=[replace(row, patient_id=f"a{row.line}") for row in real.rows])
    held = {}
    for name, listing in (("first", real), ("numbers", with_numbers), ("names", with_names)):
        building.build(tmp_path / name, building.check(listing, name))
        held[name] = {name: tmp_path / name}
    ingest._refuse_strangers(with_numbers, held["first"])
    ingest._refuse_strangers(real, held["numbers"])
    ingest._refuse_strangers(with_names, held["numbers"])
    for listing, before in ((with_names, held["first"]), (real, held["names"])):
        with pytest.raises(DataError, match="4 of its patients have other ids than there") as caught:
            ingest._refuse_strangers(listing, before)
        assert "pneumonia-challenge-dataset-mappings_2018.json" in str(caught.value)


def test_a_refused_batch_is_remembered_until_it_enters(make_nih: MakeNih, home: Home) -> None:
    """Whatever it was refused for, a batch is among those refused, with its reason, until it has entered."""
    folder = make_nih()
    assert deliveries.refused(home) == []
    (folder / ENTRIES).rename(folder / "table.csv")
    message = refused(folder, home)
    assert deliveries.refused(home) == ["first"]
    assert (home.quarantine / "first" / ingest.REFUSAL).read_text(encoding="utf-8") == message + "\n"
    (folder / "table.csv").rename(folder / ENTRIES)
    ingest.run("nih", folder, batch="first", home=home)
    assert deliveries.refused(home) == []


def put_lists(folder: Path, tested: set[int]) -> None:
    """The release's own lists, with these patients in the test list."""
    names = sorted(path.name for path in (folder / "images").iterdir())
    for file, wanted in (("test_list.txt", True), ("train_val_list.txt", False)):
        (folder / file).write_text("\n".join(name for name in names if (int(name[:8]) in tested) == wanted))


def test_a_kept_split_and_a_side_table_come_with_the_batch(make_nih: MakeNih, home: Home, tmp_path: Path) -> None:
    """They are part of the batch; a split that would move somebody is refused, and so is to take it from others."""
    first = make_nih("one", patients=20)
    # Patient 20 is put on another side than that of the hash, so that it matters where the pin comes from.
    split = Params.load(home.project / "params.yaml").split
    pinned_to_test = splits.side("20", **split.model_dump()) != "test"
    put_lists(first, {*range(1, 11), *([20] if pinned_to_test else [])})
    more = tmp_path / "more.csv"
    more.write_text("patient_id,scanner\n" + "".join(f"{n},{'GE' if n % 2 else 'Philips'}\n" for n in range(1, 21)))
    kept = Options(own_split=True)
    result = ingest.run("auto", first, batch="first", home=home, options=kept, attributes=more)
    assert result.notes[0].startswith("the folder was taken to be of the kind nih")
    folder = batches.batch_files(home, optional=("sides.csv", "attributes.csv"))["first"]
    assert (folder / "sides.csv").read_text().startswith("patient_id,side\n1,test\n10,test\n11,development\n")
    assert (folder / "attributes.csv").read_text().startswith("image_id,scanner\n00000001_000.png,GE\n")
    second = make_nih("two", patients=20, first=20)
    names = sorted(path.name for path in (second / "images").iterdir())
    for name in names[:2]:  # what the data set holds of patient 20
        (second / "images" / name).rename(second / "images" / name.replace("_00", "_01"))
    text = (second / ENTRIES).read_text()
    (second / ENTRIES).write_text(text.replace("00000020_00", "00000020_01"))
    (second / "BBox_List_2017.csv").unlink()
    put_lists(second, set() if pinned_to_test else {20})
    with pytest.raises(DataError, match="would move 1 patient of the data set to another side, such as 20"):
        ingest.run("nih", second, batch="second", home=home, options=kept)
    ingest.run("nih", second, batch="second", home=home)
    with pytest.raises(RefusedError, match="is on the side where the split of first itself puts them"):
        remove.run(home, "first", by="somebody", reason="to see")
