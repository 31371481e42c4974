"""Correcting labels: what a table may say, and what a corrected test set is."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data import splits
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.stages import relabel, withdraw

TOLD = {"by": "dr_lee", "reason": "read again"}


def write(folder: Path, text: str) -> Path:
    path = folder / "fixes.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_labels_named_change_and_no_other(stored: Home, tmp_path: Path) -> None:
    """Each cell sets one label, an empty one none; the table of before with these cells set is the table of now."""
    before = withdraw.as_it_is(stored)
    image, other = before.frame["image_id"].tolist()[:2]
    was = dict(zip(FINDINGS, before.frame.iloc[0][list(FINDINGS)], strict=True))
    table = write(tmp_path, f"image_id,Hernia,Mass\n{image},{1 - was['Hernia']},\n{other},missing,-1\n")
    done = relabel.run(stored, table, **TOLD)
    expected = before.frame.copy()
    expected.loc[0, "Hernia"] = 1 - was["Hernia"]
    expected.loc[1, "Hernia"], expected.loc[1, "Mass"] = pd.NA, -1
    pd.testing.assert_frame_equal(withdraw.as_it_is(stored).frame, expected)
    assert "event.00001: 3 labels of 2 images corrected" in str(done)


def test_a_box_goes_where_its_finding_is_no_more(stored: Home, tmp_path: Path) -> None:
    """The one box of a batch is of Infiltration: a correction of that takes it, and one of another finding does not."""
    before = withdraw.as_it_is(stored)
    image = before.boxes["image_id"].iloc[0]
    row = before.frame.set_index("image_id").loc[image]
    relabel.run(stored, write(tmp_path, f"image_id,Hernia\n{image},{1 - row['Hernia']}\n"), **TOLD)
    assert len(withdraw.as_it_is(stored).boxes) == len(before.boxes)
    label = "missing" if row["Infiltration"] == 0 else "0"
    done = relabel.run(stored, write(tmp_path, f"image_id,Infiltration\n{image},{label}\n"), **TOLD)
    assert "1 box of no positive finding any more" in str(done)
    assert len(withdraw.as_it_is(stored).boxes) == len(before.boxes) - 1


def test_a_corrected_test_set_is_another_one(stored: Home, tmp_path: Path) -> None:
    """The digest by which looks are counted is another, though images and patients are the same."""
    settings = Params.load(stored.project / "params.yaml").split.model_dump()

    def tests() -> pd.DataFrame:
        frame = withdraw.as_it_is(stored).frame
        return frame[splits.assign(frame, **settings) == "test"]

    before = tests()
    image, label = before["image_id"].iloc[0], 1 - before["Hernia"].iloc[0]
    done = relabel.run(stored, write(tmp_path, f"image_id,Hernia\n{image},{label}\n"), **TOLD)
    after = tests()
    assert after["image_id"].tolist() == before["image_id"].tolist()
    assert splits.test_digest(after) != splits.test_digest(before)
    assert f"the test set becomes another one: labels of 1 of its {len(after)} images are corrected" in str(done)
    assert "looks that were spent stay spent" in str(done)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("image_id,Hernia\n00000001_000.png,2\n", "Hernia is '2', not 1, 0, -1, missing or empty"),
        ("image_id,Hernya\n00000001_000.png,1\n", "'Hernya' is no finding; the nearest one is Hernia"),
        ("image,Hernia\n00000001_000.png,1\n", "the header has no image_id"),
        ("image_id\n00000001_000.png\n", "no finding besides"),
        ("image_id,Hernia,Hernia\n00000001_000.png,1,0\n", "stands in the header twice"),
        ("image_id,Hernia\n00000001_000.png,1,0\n", "3 fields, not 2"),
        ("image_id,Hernia\n1_000.png,1\n", "the image '1_000.png' is not in the data set"),
        ("image_id,Hernia\n", "it has no rows"),
        ("", "the header has no image_id"),
    ],
)
def test_a_table_that_is_wrong_changes_nothing(stored: Home, tmp_path: Path, text: str, what: str) -> None:
    """A header, an image or a label that is not one is named, and the data set stays."""
    before = batches.data_revision(stored)
    with pytest.raises(DataError) as caught:
        relabel.run(stored, write(tmp_path, text), **TOLD)
    assert what in str(caught.value)
    assert batches.data_revision(stored) == before


def test_labels_are_checked_as_at_ingestion(stored: Home, tmp_path: Path) -> None:
    """A correction after which a finding has no label at all is refused by the suites, and nothing changes."""
    before = batches.data_revision(stored)
    frame = withdraw.as_it_is(stored).frame
    rows = "".join(f"{image},missing\n" for image in frame["image_id"])
    with pytest.raises(DataError, match="Hernia"):
        relabel.run(stored, write(tmp_path, f"image_id,Hernia\n{rows}"), **TOLD)
    assert batches.data_revision(stored) == before
