"""split: sides of patients, and what stands on them."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data import manifest, splits
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records.inputs import Period
from cxr_ops.stages import split


@pytest.fixture
def validated(workspace: Path) -> Path:
    """A workspace whose data count as validated."""
    frame, _ = manifest.read_dataset(workspace / "dataset")
    (workspace / "validate").mkdir()
    (workspace / "validate" / "manifest.csv").write_bytes(manifest.to_csv(frame, manifest.COLUMNS))
    return workspace


def test_the_record_counts_what_the_table_holds(validated: Path, small_params: Params) -> None:
    """split.json's counts equal those that pandas takes from split.csv and the manifest; no patient is on two sides."""
    split.run(validated, small_params)
    table = pd.read_csv(validated / "split" / "split.csv", dtype=str)
    frame = pd.read_csv(validated / "validate" / "manifest.csv", dtype={"patient_id": str}).merge(table)
    record = json.loads((validated / "split" / "split.json").read_bytes())
    assert len(frame) == 60
    assert set(table["split"]) == set(splits.SIDES)
    assert set(record["splits"]) == {*splits.SIDES, "retired"}
    assert len(table[["patient_id", "split"]].drop_duplicates()) == 30
    for side, counts in record["splits"].items():
        rows = frame[frame["split"] == side]
        assert counts["images"] == len(rows)
        assert counts["patients"] == rows["patient_id"].nunique()
        assert counts["positives"] == {finding: rows[finding].sum() for finding in FINDINGS}


def test_more_data_move_nobody(validated: Path, small_params: Params) -> None:
    """With the second batch added, the rows of the first keep their side; the digest of the test set is another."""
    path = validated / "validate" / "manifest.csv"
    both = path.read_bytes()
    path.write_bytes(b"".join(both.splitlines(keepends=True)[:41]))
    split.run(validated, small_params)
    before = pd.read_csv(validated / "split" / "split.csv", dtype=str)
    digest = json.loads((validated / "split" / "split.json").read_bytes())["test_digest"]
    path.write_bytes(both)
    split.run(validated, small_params)
    after = pd.read_csv(validated / "split" / "split.csv", dtype=str)
    assert before.equals(after.iloc[:40])
    assert json.loads((validated / "split" / "split.json").read_bytes())["test_digest"] != digest


def test_who_was_tested_in_an_earlier_period_retires(validated: Path, small_params: Params) -> None:
    """With a batch closed, its test patients are retired with all images; the test set on record is what is left."""
    split.run(validated, small_params)
    before = pd.read_csv(validated / "split" / "split.csv", dtype=str)
    Period(number=2, closed_batches=["first"]).write(validated / "test-period.json")
    split.run(validated, small_params)
    after = pd.read_csv(validated / "split" / "split.csv", dtype=str)
    frame = manifest.read_split(validated)
    moved = before["split"] != after["split"]
    assert moved.tolist() == ((before["split"] == "test") & (frame["batch"] == "first")).tolist()
    assert set(after.loc[moved, "split"]) == {"retired"}
    record = json.loads((validated / "split" / "split.json").read_bytes())
    assert record["splits"]["retired"]["images"] == moved.sum() > 0
    assert record["test_digest"] == splits.test_digest(frame[frame["split"] == "test"])

    Period(number=3, closed_batches=["first", "second"]).write(validated / "test-period.json")
    with pytest.raises(DataError, match=r"test set of period 3 is empty: all .* scored before it"):
        split.run(validated, small_params)
    assert not (validated / "split").exists()


def test_without_a_period_there_is_no_split(validated: Path, small_params: Params) -> None:
    """A missing test-period.json says what writes it."""
    (validated / "test-period.json").unlink()
    with pytest.raises(DataError, match=r"period\.json is missing") as caught:
        split.run(validated, small_params)
    assert caught.value.fix == "cxr-ops open"


def test_a_side_without_patients_is_refused(validated: Path, small_params: Params) -> None:
    """Too few patients to fill each side are an error that says which side, and no table is left."""
    path = validated / "validate" / "manifest.csv"
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))  # one patient
    with pytest.raises(DataError, match=r"no patient falls to .* and .*: 1 patients with a frontal view are too few"):
        split.run(validated, small_params)
    assert not (validated / "split").exists()
