"""Tests of cxr_ops.data.score_files: tables that people bring along."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from cxr_ops.data import score_files, splits
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS

NIH = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]\n"
    "00000001_000.png,Cardiomegaly|Hernia,0,1,57,M,PA,2682,2749,0.143,0.143\n"
    "00000002_000.png,No Finding,0,00000002,414,F,AP,2500,2048,0.171,0.171\n"
)
PLAIN = "image_id,patient_id,Mass,Nodule,score_date\na.png,p1,1,,x\nb.png,p1,-1,0.0,y\n"


def _read(folder: Path, text: str) -> score_files.Truth:
    path = folder / "truth.csv"
    path.write_text(text, encoding="utf-8")
    return score_files.read_truth(path)


def test_the_nih_table_is_read(tmp_path: Path) -> None:
    """The NIH's own table gives all labels, patients under one spelling, and attributes; an age of 414 is unknown."""
    truth = _read(tmp_path, NIH)
    assert truth.image_ids == ("00000001_000.png", "00000002_000.png")
    assert truth.patients == ("1", "2")
    assert [finding for finding, value in zip(FINDINGS, truth.truth[0], strict=True) if value] == [
        "Cardiomegaly",
        "Hernia",
    ]
    assert truth.truth[1].tolist() == [0.0] * 14
    assert truth.attributes == {"sex": ("M", "F"), "age": ("57", ""), "view": ("PA", "AP")}
    assert score_files.positive_patients(truth) == tuple(int(f in ("Cardiomegaly", "Hernia")) for f in FINDINGS)


def test_the_corrected_release_says_sex(tmp_path: Path) -> None:
    """The corrected release's header is another by one word, and gives the same."""
    assert _read(tmp_path, NIH.replace("Gender", "Sex")).attributes["sex"] == ("M", "F")


def test_missing_uncertain_and_absent_labels_are_told_apart(tmp_path: Path) -> None:
    """Empty is missing, -1 is missing and uncertain, and a finding without a column is missing everywhere."""
    truth = _read(tmp_path, PLAIN)
    mass, nodule, hernia = (FINDINGS.index(name) for name in ("Mass", "Nodule", "Hernia"))
    np.testing.assert_array_equal(truth.truth[:, mass], [1, np.nan])
    np.testing.assert_array_equal(truth.truth[:, nodule], [np.nan, 0])
    assert np.isnan(truth.truth[:, hernia]).all()
    assert truth.uncertain[:, mass].tolist() == [False, True]
    assert truth.uncertain.sum() == 1


def test_a_table_without_patients_is_read_but_not_counted(tmp_path: Path) -> None:
    """Patients are None where the table has no such column, and counting them then says which column to add."""
    truth = _read(tmp_path, "Image Index,Mass\na.png,1\n")
    assert truth.patients is None
    for count in (score_files.positive_patients, score_files.owned):
        with pytest.raises(DataError, match="whose image") as caught:
            count(truth)
        assert "Patient ID" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image_id,Mass\n", "no rows"),
        ("picture,Mass\na.png,1\n", "no column holds the image"),
        ("image_id,patient_id\na.png,1\n", "no column holds labels"),
        ("image_id,Mass\na.png,2\n", "'Mass' is '2'.*line 2"),
        ("image_id,Mass\na.png,1\na.png,0\n", "named twice, first on line 2.*line 3"),
        ("image_id,Mass\n,1\n", "image id is empty"),
        ("image_id,Mass\na.png\n", "1 fields, not 2"),
        ("image_id,Mass,Mass\na.png,1,1\n", "two columns are called 'Mass'"),
        ("image_id,Image Index,Mass\na.png,a.png,1\n", "'image_id' and 'Image Index' hold the same"),
        ("image_id,Pleural Thickening\na.png,1\n", "nearest is 'Pleural_Thickening'"),
        ("image_id,effusion\na.png,1\n", "nearest is 'Effusion'"),
        ("image_id,patient_id,Mass\na.png,,1\n", "patient id is empty.*line 2"),
        ("Image Index,Finding Labels\na.png,Masss\n", "'Masss' is not one of the 14.*line 2"),
    ],
)
def test_a_table_that_cannot_be_trusted_is_refused(tmp_path: Path, text: str, said: str) -> None:
    """What is wrong with a table is said with its line, and nothing is guessed."""
    with pytest.raises(DataError) as caught:
        _read(tmp_path, text)
    assert re.search(said, str(caught.value), re.DOTALL)


RELEASE = NIH.replace("Height],OriginalImagePixelSpacing[x,y]", "Height],OriginalImagePixelSpacing[x,y],")


@pytest.mark.parametrize(
    "text",
    [
        RELEASE,  # the first release: its header ends in a comma
        RELEASE.replace("0.143,0.143", "0.143,0.143,").replace("0.171,0.171", "0.171,0.171,"),  # rows do too
        RELEASE.replace("Gender", "Sex").replace(",57,", ",057Y,").replace(",1,57", ",00000001,57"),
        NIH.replace(",57,", ",57.0,").replace(",414,", ",,"),  # pandas
        NIH.replace(",", ";").replace("Width;Height", "Width,Height").replace("x;y", "x,y").replace(";57;", ";57,0;"),
        NIH + ",,,,,,,,,,\n,,,,,,,,,,\n",  # Excel's empty rows
        NIH.replace("View Position,", "View Position,Image ID again,")
        .replace(",PA,", ",PA,z,")
        .replace(",AP,", ",AP,z,"),
    ],
)
def test_every_edition_of_the_nihs_table_is_the_same_truth(tmp_path: Path, text: str) -> None:
    """Commas at the ends, ages as 057Y or 57.0, semicolons, empty rows and further columns change nothing."""
    whole, found = _read(tmp_path, NIH), _read(tmp_path, text)
    assert (found.image_ids, found.patients) == (whole.image_ids, whole.patients)
    assert found.attributes == whole.attributes
    np.testing.assert_array_equal(found.truth, whole.truth)


def test_what_was_read_in_another_way_is_told(tmp_path: Path) -> None:
    """Notes name ages in another spelling, ages that are none, patients in another spelling, and unread columns."""
    text = "image_id,patient_id,age,Mass,Lung Opacity\na.png,01,058Y,1,0\nb.png,2,old,0,1\n"
    told = " ".join(_read(tmp_path, text).notes)
    for said in ("written like 058Y", "'old' on line 3", "leading zeros", "not read: Lung Opacity"):
        assert said in told
    assert _read(tmp_path, text).attributes["age"] == ("58", "")


def test_labels_are_read_as_pandas_and_excel_write_them(tmp_path: Path) -> None:
    """True and False, 1.0 and 0.0, nan and <NA>, and decimal commas mean what they mean there; patients may be 1.0."""
    plain = _read(tmp_path, "image_id,patient_id,Mass,Nodule\na.png,1,1,0\nb.png,2,0,\nc.png,2,,-1\n")
    for rows in (
        "image_id,patient_id,Mass,Nodule\na.png,1.0,True,False\nb.png,2.0,False,nan\nc.png,2.0,<NA>,-1.0\n",
        "image_id;patient_id;Mass;Nodule\na.png;1;1,0;0,0\nb.png;2;0,0;\nc.png;2;;-1,0\n",
        ",image_id,patient_id,Mass,Nodule\n0,a.png,1,TRUE,0.0\n1,b.png,2,FALSE,NaN\n2,c.png,2,None,-1\n",
    ):
        found = _read(tmp_path, rows)
        np.testing.assert_array_equal(found.truth, plain.truth)
        np.testing.assert_array_equal(found.uncertain, plain.uncertain)
        assert found.patients == plain.patients == ("1", "2", "2")


def test_a_table_in_utf16_is_read(tmp_path: Path) -> None:
    """Excel's text in Unicode, with tabs, gives the same truth."""
    (tmp_path / "t.csv").write_bytes(PLAIN.replace(",", "\t").encode("utf-16"))
    found = score_files.read_truth(tmp_path / "t.csv")
    np.testing.assert_array_equal(found.truth, _read(tmp_path, PLAIN).truth)


def test_a_truth_of_positives_and_gaps_says_that_nothing_is_negative(tmp_path: Path) -> None:
    """Where every other label is nan, the note says that a missing label is no negative one."""
    truth = _read(tmp_path, "image_id,Mass,Nodule\na.png,1.0,nan\nb.png,nan,1.0\n")
    assert any("no label is 0 (negative)" in note for note in truth.notes)


def test_columns_of_other_data_sets_are_found_by_name(tmp_path: Path) -> None:
    """CheXpert's and PadChest's columns are read; findings that the NIH does not have are named and not read."""
    text = (
        "ImageID,PatientID,Sex,Age,Frontal/Lateral,No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,"
        "Lung Lesion,Edema,Pleural Effusion,Pleural Other,Fracture,Support Devices\n"
        "a.png,7,Female,61,Frontal,,1.0,0.0,1.0,,-1.0,1.0,,,\n"
    )
    truth = _read(tmp_path, text)
    assert (truth.image_ids, truth.patients) == (("a.png",), ("7",))
    assert truth.attributes == {"sex": ("Female",), "age": ("61",)}
    assert truth.truth[0, FINDINGS.index("Effusion")] == 1
    assert truth.uncertain[0, FINDINGS.index("Edema")]
    told = " ".join(truth.notes)
    assert "Enlarged Cardiomediastinum" in told
    assert "and 1 more" in told


@pytest.mark.parametrize("name", ["Pleural Effusion", "Infiltrate", "Pulmonary Edema"])
def test_names_that_others_give_to_the_same_findings_are_known(tmp_path: Path, name: str) -> None:
    """CheXpert's and others' names are the NIH's findings, in a truth and in scores."""
    ours = score_files.SAME_FINDING[name]
    truth = _read(tmp_path, f"image_id,{name}\na.png,1\nb.png,0\n")
    assert truth.truth[:, FINDINGS.index(ours)].tolist() == [1.0, 0.0]
    assert truth.notes == (f"{name!r} was read as {ours}",)
    (tmp_path / "s.csv").write_text(f"image_id,{name}\na.png,0.7\nb.png,0.1\n")
    assert score_files.read_scores(tmp_path / "s.csv").findings == (ours,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "image_id,Finding Labels,Mass\na.png,Mass,1\nb.png,No Finding,1\n",
            "'Mass' and 'Finding Labels' contradict each other on 1 of 2 images.*'1' beside 'No Finding'.*line 3",
        ),
        ("image_id,Finding Labels,Pleural Effusion\na.png,Effusion,0\n", "'Effusion' and 'Finding Labels' contradict"),
        ("image_id,No Finding,Mass\na.png,1,1\n", "'No Finding' and 'Mass' contradict each other.*line 2"),
        ("image_id,Effusion,Pleural Effusion\na.png,1,1\n", "'Effusion' and 'Pleural Effusion' hold the same"),
        ("image_id,Lung Mass\na.png,1\n", "nearest is 'Mass'"),
        ("image_id,Mass\na.png,yes\n", "'Mass' is 'yes'.*next:"),
        ("image_id,Mass\na.png,nan\n", "every label is missing"),
        ("image_id,patient_id,Mass\na.png,nan,1\n", "patient id is empty"),
        ("filename,Mass\na.png,1\n", "no column holds the image.*'filename'"),
    ],
)
def test_what_contradicts_or_is_not_known_is_an_error_with_a_next_step(tmp_path: Path, text: str, said: str) -> None:
    """Two columns that say different things, and a name that is almost known, end with the place and what to do."""
    with pytest.raises(DataError) as caught:
        _read(tmp_path, text)
    assert re.search(said, str(caught.value), re.DOTALL)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04\x14\0", "workbook.*CSV UTF-8"),
        (b"\x1f\x8b\x08\0", "compressed.*gunzip"),
        (b"PAR1\x15\0", "Parquet.*to_csv"),
    ],
)
def test_a_file_that_is_no_text_is_called_what_it_is(tmp_path: Path, data: bytes, said: str) -> None:
    """A workbook, a compressed table and Parquet are told from damage, with how to make text of them."""
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(DataError) as caught:
        score_files.read_truth(tmp_path / "t.csv")
    assert re.search(said, str(caught.value), re.DOTALL)
    with pytest.raises(DataError, match="is a folder"):
        score_files.read_truth(tmp_path)


def test_labels_that_agree_in_two_kinds_of_columns_are_read(tmp_path: Path) -> None:
    """A table with both kinds of labels is read where they say the same, gaps left aside, and that is told."""
    truth = _read(tmp_path, "image_id,Finding Labels,Mass,Nodule\na.png,Mass,1,\nb.png,No Finding,0,0\n")
    assert truth.truth[:, FINDINGS.index("Mass")].tolist() == [1.0, 0.0]
    assert any("say the same" in note for note in truth.notes)


def test_scores_are_read_with_decimal_commas_and_an_empty_column_is_none(tmp_path: Path) -> None:
    """Semicolons and decimal commas are Excel's; a finding whose column is empty all through has no scores."""
    path = tmp_path / "s.csv"
    path.write_text("image_id;Mass;Nodule\na.png;0,25;\nb.png;1,0;nan\n;;\n")
    found = score_files.read_scores(path)
    assert found.findings == ("Mass",)
    assert found.scores[:, FINDINGS.index("Mass")].tolist() == [0.25, 1.0]
    path.write_text("image_id;Mass\na.png;\n")
    with pytest.raises(DataError, match="every score is missing"):
        score_files.read_scores(path)


def test_the_test_side_is_the_splits(tmp_path: Path) -> None:
    """The test side holds exactly the patients whom the keyed hash puts there, with all their columns."""
    rows = "".join(f"{i}.png,{i % 90},{i % 2},F\n" for i in range(200))
    truth = _read(tmp_path, "image_id,patient_id,Mass,sex\n" + rows)
    side = score_files.test_side(truth, salt="s", validation=0.1, test=0.3)
    wanted = {str(p) for p in range(90) if splits.side(str(p), salt="s", validation=0.1, test=0.3) == "test"}
    assert set(side.patients or ()) == wanted
    assert len(side.image_ids) == len(side.truth) == len(side.uncertain) == len(side.attributes["sex"])
    assert 0 < len(side.image_ids) < 200


def test_drawn_labels_are_always_the_same_and_of_so_many_patients() -> None:
    """Labels that are drawn for planning have the patients asked for, each with all images, and do not change."""
    first, again = score_files.drawn_truth(300), score_files.drawn_truth(300)
    assert len(set(score_files.owned(first))) == 300
    np.testing.assert_array_equal(first.truth, again.truth)
    assert set(first.truth.ravel()) == {0.0, 1.0}
    larger = score_files.drawn_truth(310)
    assert score_files.owned(larger)[: len(first.image_ids)] == score_files.owned(first)
