"""What a purge takes out of a quarantine: one patient's rows, pictures and lines, and nothing of others."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data.checking import quarantine
from cxr_ops.data.purging import quarantines
from cxr_ops.data.purging.subject import Subject
from cxr_ops.data.sources.source import Listing, Problem, Row
from cxr_ops.labels import FINDINGS
from cxr_ops.records.acceptance import Acceptance
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.validation import Checked

TABLE = "table.csv"
PAGE = b"<html>purged</html>"
WORDS = "no 1 warning refused three"  # each is a patient's id in a test, and none of them names one here
# The id is a number that stands everywhere, and is never told by itself.
ONE = Subject(patient="1", images=["held.png"], sha256=[sha256_bytes(b"held")])


def keep(folder: Path, came: Path) -> Path:
    """The quarantine of a batch: patients 1 and 2, three pictures each, and a stray file."""
    (came / "images").mkdir(parents=True)
    rows, lines = [], ["Image Index,Patient ID,Patient Age"]
    for line, (name, patient) in enumerate((f"{kind}{at}.png", at) for kind in "abc" for at in ("1", "2")):
        path = came / "images" / name
        path.write_bytes(name.encode())
        labels = (0,) * len(FINDINGS)
        rows.append(Row(line + 2, name, patient, labels, 1, "F", "PA", path, table=TABLE))
        lines.append(f"{name},{patient.zfill(8)},1")
    (came / TABLE).write_text("\n".join(lines) + "\n")
    (came / "images" / "stray.png").write_bytes(b"stray")
    (came / "images" / "copy.png").write_bytes(b"held")
    listing = Listing(source="nih", table=TABLE, total=6, rows=rows)
    problems = [
        *(listing.problem(row, "it is blank: 1 grey on 1 of 1 pixels") for row in rows[:4]),
        listing.problem(rows[4], "the patient has two sexes: F on 1 rows, M on 1 rows"),
        Problem("the table may have been cut after 1 row", TABLE, 9),
        Problem("no row names this file", "images/stray.png", None, "stray.png"),
        Problem("no row names this file", "images/copy.png", None, "copy.png"),
    ]
    quarantine.keep(folder, came, listing, problems)
    return folder


def listed(folder: Path) -> pd.DataFrame:
    """The list, as text."""
    return pd.read_csv(folder / quarantine.PROBLEMS, dtype=str, keep_default_na=False)


def bytes_of(folder: Path) -> set[bytes]:
    """What is kept; each file has the name of its digest."""
    found = {path.name: path.read_bytes() for path in (folder / quarantine.FILES).iterdir()}
    assert all(name == sha256_bytes(data) for name, data in found.items())
    return set(found.values())


def test_one_patients_rows_and_pictures_go_and_those_of_others_stay(tmp_path: Path) -> None:
    """Rows, pictures and lines of the table go by the patient's id, a stray copy by its bytes; all else stays, and a
    picture of which nobody knows whose it is is named, with how to remove it.
    """
    folder = keep(tmp_path / "kept" / "three", tmp_path / "came")
    before = bytes_of(folder)
    assert b"held" in before
    told = quarantines.without(folder, ONE, PAGE)
    assert bytes_of(folder) == before
    assert (told.rows, told.files, told.empty) == (4, 5, False)  # three pictures, the copy, and the table
    (stray,) = told.unknown
    assert "three: pictures that no row gives a patient" in stray
    assert stray.endswith(f"rm files/{sha256_bytes(b'stray')}")
    told.write()
    left = listed(folder)
    assert left["image_id"].tolist() == ["a2.png", "b2.png", "", "stray.png"]
    assert set(left["patient_id"]) == {"2", ""}
    table = b"Image Index,Patient ID,Patient Age\n" + b"".join(f"{one}2.png,00000002,1\n".encode() for one in "abc")
    assert bytes_of(folder) == {b"a2.png", b"b2.png", b"stray", table}
    assert left.loc[2, "sha256"] == sha256_bytes(table)
    assert not quarantines.without(folder, ONE, PAGE).concerned
    assert (folder / quarantine.PROBLEMS).stat().st_mode & 0o077 == 0


def test_a_quarantine_of_nobody_else_goes(tmp_path: Path) -> None:
    """Where a batch had nothing but the patient's rows left out, the folder goes with them."""
    folder, came = tmp_path / "three", tmp_path / "came"
    came.mkdir()
    (came / "a.png").write_bytes(b"a")
    row = Row(2, "a.png", "1", (0,) * len(FINDINGS), 1, "F", "PA", came / "a.png")
    listing = Listing(source="nih", table=TABLE, total=1, rows=[row])
    quarantine.keep(folder, came, listing, [listing.problem(row, "blank")])
    assert quarantines.owned([folder], "1").images == {"a.png"}
    assert quarantines.owned([folder], "2") == ({*()}, {*()}, {"a.png"}, {sha256_bytes(b"a")})
    quarantines.without(folder, ONE, PAGE).write()
    assert not folder.exists()


def test_a_table_that_many_rows_share_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without a picture of their own all have their table's digest, which shows nobody by itself."""
    folder, came = tmp_path / "three", tmp_path / "came"
    came.mkdir()
    (came / TABLE).write_text("Image Index,Patient ID\na.png,1\nb.png,2\nc.png,1\n")
    problems = [Problem("the sex is none", TABLE, 2 + at, patient_id=patient) for at, patient in enumerate("121")]
    quarantine.keep(folder, came, Listing(source="nih", table=TABLE), problems)
    asked = []
    monkeypatch.setattr(quarantines, "_is_table", lambda path, of=quarantines._is_table: asked.append(path) or of(path))
    assert quarantines.owned([folder], "1") == (set(), set(), set(), set())
    assert asked == [folder / quarantine.FILES / sha256_bytes((came / TABLE).read_bytes())]


def test_a_table_without_a_known_column_of_patients(tmp_path: Path) -> None:
    """The column of patients is known by the patient's own line, and a path by the patient's name in it."""
    folder, came = tmp_path / "three", tmp_path / "came"
    came.mkdir()
    (came / TABLE).write_text('"who","where"\n"7","x/patient8/a"\n"8","\n"\n"patient8","y"\n"7","8"\n')
    problem = Problem("the label is none", TABLE, 4, "", patient_id="8")
    quarantine.keep(folder, came, Listing(source="csv", table=TABLE), [problem, Problem("cut", TABLE, 9)])
    quarantines.without(folder, ONE.model_copy(update={"patient": "8", "images": []}), PAGE).write()
    assert bytes_of(folder) == {b'"who","where"\n"7","x/patient8/a"\n"patient8","y"\n"7","8"\n'}
    quarantines.without(folder, ONE.model_copy(update={"patient": "patient8", "images": []}), PAGE).write()
    assert bytes_of(folder) == {b'"who","where"\n"patient8","y"\n"7","8"\n'}


@pytest.mark.parametrize("patient", ["1", "no", "warning", "refused", "three"])
def test_a_record_keeps_its_words_where_an_id_is_one(tmp_path: Path, patient: str) -> None:
    """Only a line that says `patient` before the id, or has an image's id, goes; what is left is a record."""
    why = (
        f"no row is left\n  t.csv, line 1: the patient {patient} has two sexes\n  t.csv, line 2: held.png: blank\n"
        f"{WORDS}"
    )
    check = Checked(
        suite="labels",
        says="no warning",
        severity="warning",
        passed=False,
        rows=1,
        first_rows=["three:1"],
        found=WORDS,
    )
    record = Acceptance(
        batch="three",
        outcome="refused",
        max_quarantined=0.2,
        drift_alpha=0.01,
        drift="warning",
        checks=[check],
        why=why,
    )
    record.write(tmp_path / "acceptance.json")
    (tmp_path / "refusal.txt").write_text(why)
    subject = ONE.model_copy(update={"patient": patient})
    quarantines.without(tmp_path, subject, PAGE).write()
    clean = "no row is left\n(purged)\n(purged)\n" + WORDS
    assert Acceptance.read(tmp_path / "acceptance.json") == record.model_copy(update={"why": clean})
    assert (tmp_path / "refusal.txt").read_text() == clean


def test_an_earlier_list_has_no_patients_and_says_so(tmp_path: Path) -> None:
    """The rows of the patient's images go all the same, and the folder is named as one that cannot be checked."""
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / quarantine.PROBLEMS).write_text(
        "file,line,image_id,problem,sha256\nt,1,held.png,blank,\nt,2,other.png,blank,\n"
    )
    told = quarantines.without(folder, ONE, PAGE)
    assert told.unknown[0].startswith("old: an earlier version kept it, and did not say whose the rows are")
    assert told.unknown[0].endswith(f"rm -r {folder}")
    told.write()
    assert listed(folder)["image_id"].tolist() == ["other.png"]


def test_a_packed_table_loses_the_patients_lines_too(tmp_path: Path) -> None:
    """MIMIC's tables are packed with gzip, and kept without the name that says so; what is left is kept unpacked."""
    folder, came = tmp_path / "three", tmp_path / "came"
    came.mkdir()
    text = "dicom_id,subject_id\naa,1\nbb,2\naa,1\n"
    (came / "table.csv.gz").write_bytes(gzip.compress(text.encode()))
    problem = Problem("the image is named twice", "table.csv.gz", 3, "bb.jpg", patient_id="2")
    quarantine.keep(folder, came, Listing(source="mimic", table="table.csv.gz"), [problem])
    assert quarantines.owned([folder], "2").sha256 == set()  # a table is no picture
    quarantines.without(folder, ONE, PAGE).write()
    assert bytes_of(folder) == {b"dicom_id,subject_id\nbb,2\n"}
    assert listed(folder)["sha256"].tolist() == [sha256_bytes(b"dicom_id,subject_id\nbb,2\n")]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lines_end_as_the_table_was_read(tmp_path: Path, end: str) -> None:
    """A lone carriage return ends a line, also within quotes: the lines that go are those of the patient."""
    folder, came = tmp_path / "three", tmp_path / "came"
    came.mkdir()
    lines = ["image_id,patient_id,note", '2.png,2,"a\rb"', "1.png,1,x", "3.png,3,y", ""]
    (came / TABLE).write_bytes(end.join(lines).encode())
    problem = Problem("the sex is none", TABLE, 2, "2.png", patient_id="2")
    quarantine.keep(folder, came, Listing(source="csv", table=TABLE), [problem])
    quarantines.without(folder, ONE, PAGE).write()
    assert bytes_of(folder) == {end.join([*lines[:2], *lines[3:]]).encode()}


def test_a_line_that_names_the_image_without_its_ending_goes(tmp_path: Path) -> None:
    """Tables of DICOM and of VinDr have the picture's own id, and may say nothing of a patient."""
    folder, came = tmp_path / "three", tmp_path / "came"
    came.mkdir()
    (came / TABLE).write_text("SOPInstanceUID,Mass\n1.2.3,1\n1.2.4,0\n")
    problem = Problem("the file is missing", TABLE, 3, "1.2.4.png", patient_id="2")
    quarantine.keep(folder, came, Listing(source="dicom", table=TABLE), [problem])
    subject = ONE.model_copy(update={"images": ["1.2.3.png"]})
    quarantines.without(folder, subject, PAGE).write()
    assert bytes_of(folder) == {b"SOPInstanceUID,Mass\n1.2.4,0\n"}
