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
