"""Exports, read by those that they are for: torchxrayvision and mlcroissant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_ops.data import exports, manifest
from cxr_ops.data.checking.batch import Checked, check
from cxr_ops.data.sources import nih
from cxr_ops.data.sources.source import Listing
from cxr_ops.labels import FINDINGS


def checked(listing: Listing) -> Checked:
    return check(listing, "first", processes=1)


def write(folder: Path, export: exports.Export, source: Path) -> Path:
    """The export as files, as the stage writes it."""
    (folder / exports.IMAGES).mkdir(parents=True)
    for image_id in export.image_ids:
        (folder / exports.IMAGES / image_id).write_bytes((source / "images" / image_id).read_bytes())
    for name, data in export.tables.items():
        (folder / name).write_bytes(data)
    return folder


def test_the_nihs_layout_is_read_back_and_by_torchxrayvision(make_nih: Callable[..., Path], tmp_path: Path) -> None:
    """Our own reader finds the rows that went out, and torchxrayvision's NIH_Dataset the same labels and pixels."""
    import torchxrayvision as xrv

    source = make_nih()
    before = checked(nih.read_folder(source))
    folder = write(tmp_path / "out", exports.nih(before.frame, before.boxes), source)
    after = checked(nih.read_folder(folder))
    pd.testing.assert_frame_equal(before.frame, after.frame)
    pd.testing.assert_frame_equal(before.boxes, after.boxes)
    theirs = xrv.datasets.NIH_Dataset(
        imgpath=str(folder / exports.IMAGES),
        csvpath=str(folder / exports.ENTRIES),
        bbox_list_path=str(folder / exports.BOXES),
        views=["PA", "AP"],
        unique_patients=False,
    )
    assert theirs.csv["Image Index"].tolist() == before.frame["image_id"].tolist()
    assert theirs.csv["patientid"].tolist() == before.frame["patient_id"].tolist()
    ours = before.frame[list(theirs.pathologies)].to_numpy(np.float32)
    assert (theirs.labels == ours).all()
    assert sorted(theirs.pathologies) == sorted(FINDINGS)
    assert theirs[3]["img"].shape == (1, 32, 32)
    assert theirs.csv["has_masks"].sum() == 1


def test_what_the_nihs_table_cannot_say_is_left_out_and_counted(make_nih: Callable[..., Path]) -> None:
    """Missing and uncertain labels, laterals and unknown sexes stay behind, each counted once."""
    found = checked(nih.read_folder(make_nih()))
    frame = found.frame.copy()
    frame.loc[0, "Hernia"] = pd.NA
    frame.loc[1, "Mass"] = -1
    frame.loc[[1, 2, 3], "view"] = ["LL", "LL", ""]
    frame.loc[4, "sex"] = ""
    frame.loc[5, "age"] = pd.NA
    export = exports.nih(frame, found.boxes)
    assert export.left_out == {
        "without a 1 or 0 for each finding": 2,
        "of a lateral or unknown view": 2,
        "of unknown sex": 1,
    }
    assert export.image_ids == frame["image_id"].tolist()[5:]
    assert exports.BOXES not in export.tables  # its image was left out
    assert b"00000003_001.png" in export.tables[exports.ENTRIES]


def test_mlcroissant_validates_and_reads_the_description(make_nih: Callable[..., Path], tmp_path: Path) -> None:
    """The description is valid without an error, its digests hold, and the records are the manifest's rows."""
    import mlcroissant

    source = make_nih()
    found = checked(nih.read_folder(source))
    frame = found.frame.copy()
    frame.loc[0, "Hernia"] = pd.NA
    more = pd.DataFrame({"image_id": frame["image_id"], "scanner": "GE"})
    export = exports.croissant(frame, found.boxes, more, name="sample", revision="0123456789abcdef")
    folder = write(tmp_path / "out", export, source)
    dataset = mlcroissant.Dataset(str(folder / exports.METADATA))
    assert not dataset.metadata.issues.errors
    rows = list(dataset.records("images"))
    assert [row["images/image_id"].decode() for row in rows] == frame["image_id"].tolist()
    assert [row["images/Mass"] for row in rows] == frame["Mass"].tolist()
    assert [row["boxes/finding"].decode() for row in dataset.records("boxes")] == ["Infiltration"]
    assert next(iter(dataset.records("attributes")))["attributes/scanner"] == b"GE"
    assert manifest.read_manifest(folder / "manifest.csv")["Hernia"].isna().tolist() == [True] + [False] * 39
    files = {one["@id"]: one for one in json.loads(export.tables[exports.METADATA])["distribution"]}
    assert files["images-png"]["includes"] == "images/*.png"
    (folder / "boxes.csv").write_text("image_id,finding,x,y,w,h\n")
    with pytest.raises(Exception, match=r"Download\(boxes\.csv\)"):
        list(mlcroissant.Dataset(str(folder / exports.METADATA)).records("boxes"))
