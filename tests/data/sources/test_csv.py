"""Tables of others, read as a mapping file says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cxr_ops.data.sources import csv
from cxr_ops.data.sources.source import Options
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS

MAPPING = """
table: export.csv
images: pictures
image: file
patient: pid
age: years
sex: {column: gender, values: {female: F, male: M}}
view: {column: projection, values: {lat: LATERAL}}
findings:
  Pneumonia: pneumonia
  Effusion: {column: fluid, values: {"yes": 1, "no": 0, "?": -1, "n/a": null}}
attributes: [Scanner]
"""
TABLE = """file,pid,years,gender,projection,pneumonia,fluid,Scanner
a/1.png,007,58,female,PA,1,yes,GE
a/2.JPG,7,58Y,female,lat,,?,GE
b/1.png,x-9,,male,AP,0,no,
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of two patients; their bytes are read elsewhere."""
    for name in ("a/1.png", "a/2.JPG", "b/1.png"):
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pictures" / name).write_bytes(b"")
    (tmp_path / "export.csv").write_text(TABLE)
    (tmp_path / csv.MAPPING).write_text(MAPPING)
    return tmp_path


def put(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_a_mapped_table_gives_canonical_rows(folder: Path) -> None:
    """Columns, values and paths become the manifest's; what is not said is missing and not 0."""
    read = csv.read_folder(folder)
    assert read.problems == []
    assert read.findings == ("Effusion", "Pneumonia")
    assert [(r.image_id, r.patient_id, r.age, r.sex, r.view) for r in read.rows] == [
        ("a-1.png", "7", 58, "F", "PA"),
        ("a-2.jpg", "7", 58, "F", "LATERAL"),
        ("b-1.png", "x-9", None, "M", "AP"),
    ]
    labels = [dict(zip(FINDINGS, row.labels, strict=True)) for row in read.rows]
    assert [one["Pneumonia"] for one in labels] == [1, None, 0]
    assert [one["Effusion"] for one in labels] == [1, -1, 0]
    assert {one["Mass"] for one in labels} == {None}
    assert read.attributes == {"a-1.png": {"scanner": "GE"}, "a-2.jpg": {"scanner": "GE"}, "b-1.png": {"scanner": ""}}


@pytest.mark.parametrize(
    ("policy", "becomes"), [({"Effusion": "ones"}, 1), ({"": "zeros"}, 0), ({"": "zeros", "Effusion": "ignore"}, -1)]
)
def test_uncertain_labels_follow_the_policy(folder: Path, policy: dict, becomes: int) -> None:
    """A policy for one finding goes before that for all."""
    row = csv.read_folder(folder, Options(uncertain=policy)).rows[1]
    assert row.labels[FINDINGS.index("Effusion")] == becomes


def test_a_column_of_names_is_read(folder: Path) -> None:
    """Names joined by a separator: an empty field says nothing; unknown names are problems, or ignored and counted."""
    (folder / csv.MAPPING).write_text(
        "table: export.csv\nimages: pictures\nimage: file\npatient: pid\n"
        "labels: {column: dx, separator: ';', names: {fluid: Effusion, lung infection: Pneumonia, normal: No Finding}}"
    )
    (folder / "export.csv").write_text("file,pid,dx\na/1.png,1,Fluid; lung infection\na/2.JPG,1,normal\nb/1.png,2,\n")
    rows = csv.read_folder(folder).rows
    at = [FINDINGS.index(name) for name in ("Effusion", "Pneumonia")]
    assert [[row.labels[i] for i in at] for row in rows] == [[1, 1], [0, 0], [None, None]]
    put(folder / "export.csv", "normal", "normal;fluid")
    put(folder / "export.csv", "2,", "2,fluids")
    found = [str(one) for one in csv.read_folder(folder).problems]
    assert "names a finding as well" in found[0]
    assert "'fluids' stands for none of the findings in the mapping; the nearest is 'fluid'" in found[1]
    put(folder / csv.MAPPING, "column: dx,", "column: dx, others: ignore,")
    read = csv.read_folder(folder)
    assert "1 name stands for none of the findings: fluids (1)" in read.notes
    assert [row.labels[at[0]] for row in read.rows if row.image_id == "b-1.png"] == [0]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("a/1.png", "../1.png", "is not the path of a picture in pictures"),
        ("a/1.png", "/etc/1.png", "is not the path of a picture in pictures"),
        ("a/1.png", "a/9.png", "the image is missing: there is no pictures/a/9.png"),
        ("a/1.png", "a/2.JPG", "named twice"),
        (",58,", ",old,", "not a whole number of years"),
        ("female,PA", "woman,PA", "the sex 'woman' is not one of F, M, and the mapping gives it no meaning"),
        ("female,PA", "male,PA", "the patient has two sexes"),
        (",PA,", ",frontal,", "the view 'frontal' is not one of PA, AP"),
        (",1,yes", ",2,yes", "Pneumonia is '2', which is not 1, 0, -1 or nothing"),
        ("007", "a b", "not a patient id"),
        ("007", "nan", "nothing says whose image it is"),
        ("a/1.png", "b\\1.png", "its path gives the image id b-1.png, and so does 'b/1.png' on line 4"),
    ],
)
def test_each_fault_is_named_with_its_line(folder: Path, old: str, new: str, why: str) -> None:
    """A row with a fault is left out, and its file, line and reason are told."""
    put(folder / "export.csv", old, new)
    read = csv.read_folder(folder)
    assert any(str(one).startswith("export.csv, line ") and why in str(one) for one in read.problems), read.problems
    assert len(read.rows) < 3


def test_a_link_is_refused(folder: Path) -> None:
    """A picture or a folder of pictures that is a link may lead anywhere."""
    (folder / "pictures" / "b").rename(folder / "elsewhere")
    (folder / "pictures" / "b").symlink_to(folder / "elsewhere")
    assert "is a link" in str(csv.read_folder(folder).problems[0])


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("image: file", "picture: file", "picture is not a setting"),
        ("Pneumonia: pneumonia", "Pnoumonia: pneumonia", "did you mean 'Pneumonia'"),
        ("patient: pid", "patient: id", "names the column 'id', which export.csv does not have; did you mean 'pid'"),
        ("findings:", "labels: {column: fluid}\nfindings:", "give either findings"),
        ("{column: projection, values: {lat: LATERAL}}", "{values: {lat: LATERAL}}", "give a column or a constant"),
    ],
)
def test_a_wrong_mapping_is_told(folder: Path, old: str, new: str, why: str) -> None:
    """What is wrong with a mapping is a settings error that names it and the nearest that is right."""
    put(folder / csv.MAPPING, old, new)
    with pytest.raises(SettingsError, match=why):
        csv.read_folder(folder)


def test_what_is_missing_is_told(folder: Path) -> None:
    """Without a mapping, a table or rows there is no batch."""
    (folder / "export.csv").write_text(TABLE.splitlines()[0] + "\n")
    with pytest.raises(DataError, match="the batch is empty"):
        csv.read_folder(folder)
    (folder / "export.csv").unlink()
    with pytest.raises(DataError, match=r"export\.csv is missing"):
        csv.read_folder(folder)
    (folder / csv.MAPPING).unlink()
    with pytest.raises(SettingsError, match="the mapping is missing"):
        csv.read_folder(folder)


def test_both_rows_of_an_image_are_left_out(folder: Path) -> None:
    """Which of two rows of one image is right cannot be told."""
    put(folder / "export.csv", "a/1.png", "a/2.JPG")
    read = csv.read_folder(folder)
    assert [one.line for one in read.problems] == [2, 3]
    assert [row.image_id for row in read.rows] == ["b-1.png"]


@pytest.mark.parametrize("text", ["", "nan", "NA", " ; ", "None;nan"])
def test_where_no_name_stands_nothing_is_known(folder: Path, text: str) -> None:
    """Labels that are missing as pandas or R write it are missing and not 0, also where other names are ignored."""
    (folder / csv.MAPPING).write_text(
        "table: export.csv\nimages: pictures\nimage: file\npatient: pid\n"
        "labels: {column: dx, separator: ';', names: {fluid: Effusion, normal: No Finding}, others: ignore}"
    )
    (folder / "export.csv").write_text(f"file,pid,dx\na/1.png,1,fluid\na/2.JPG,1,normal\nb/1.png,2,{text}\n")
    rows = csv.read_folder(folder).rows
    assert [row.labels[FINDINGS.index("Effusion")] for row in rows] == [1, 0, None]


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ("{fluid: Effusion, Fluid: Edema}", "'Fluid' stands for Edema and for Effusion"),
        ("{fluid: Effusion, fluid: Edema}", "the key 'fluid' is there twice"),
    ],
)
def test_a_name_of_a_mapping_means_one_thing(folder: Path, names: str, why: str) -> None:
    """A name that stands for two findings is refused: YAML would take the last of two equal keys."""
    (folder / csv.MAPPING).write_text(
        f"table: export.csv\nimage: file\npatient: pid\nlabels: {{column: dx, names: {names}}}"
    )
    with pytest.raises(SettingsError, match=why):
        csv.read_folder(folder)


def test_a_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    """Neither the table nor the mapping may be a pipe."""
    for name in (csv.MAPPING, "export.csv"):
        text = (folder / name).read_text()
        (folder / name).unlink()
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match="is a pipe, not a file"):
            csv.read_folder(folder)
        (folder / name).unlink()
        (folder / name).write_text(text)
