"""validate: the whole data set, or nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cxr_ops.commands import stages
from cxr_ops.data import manifest
from cxr_ops.data.checking.batch import build, check
from cxr_ops.data.sources import nih
from cxr_ops.errors import DataError
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file, tree_digest
from cxr_ops.records.data import Batch
from cxr_ops.stages import evaluate, split, validate


def plant(root: Path, batch: str, old: str, new: str) -> None:
    """Alter a batch's manifest, and its record so that only the expectations can notice."""
    folder = root / "dataset" / batch
    text = (folder / "manifest.csv").read_text(encoding="utf-8")
    assert old in text
    (folder / "manifest.csv").write_text(text.replace(old, new, 1), encoding="utf-8")
    record = Batch.read(folder / "batch.json")
    files = {**record.files, "manifest.csv": sha256_file(folder / "manifest.csv")}
    record.model_copy(update={"files": files}).write(folder / "batch.json")


def test_sound_data_make_one_manifest(workspace: Path, small_params: Params) -> None:
    """Batches are joined in canonical order; the record and the page say that the data passed; again, equal bytes."""
    validate.run(workspace, small_params)
    out = workspace / "validate"
    assert {path.name for path in out.iterdir()} == {
        "manifest.csv",
        "boxes.csv",
        "sides.csv",
        "attributes.csv",
        "failures.csv",
        "withdrawn.csv",
        "validation.json",
        "validation.html",
    }
    frame = manifest.read_manifest(out / "manifest.csv")
    assert frame["batch"].tolist() == ["first"] * 40 + ["second"] * 20
    assert frame["image_id"].is_monotonic_increasing
    assert len(manifest.read_boxes(out / "boxes.csv")) == 2
    record = json.loads((out / "validation.json").read_bytes())
    assert (record["passed"], record["images"], record["patients"]) == (True, 60, 30)
    assert 'Data validation: <span class="ok">passed' in (out / "validation.html").read_text(encoding="utf-8")
    first = tree_digest(out)
    validate.run(workspace, small_params)
    assert tree_digest(out) == first


def test_a_failing_batch_leaves_a_page_and_no_output(workspace: Path, small_params: Params) -> None:
    """A planted error ends the stage with its row named; the page is left, and no output to take for success."""
    validate.run(workspace, small_params)
    plant(workspace, "second", ",PA,", ",side,")
    with pytest.raises(DataError, match="The view position is PA, AP, LL") as caught:
        validate.run(workspace, small_params)
    assert "second:2  00000021_000.png" in str(caught.value)
    page = workspace / "failed" / "validate" / "validation.html"
    assert str(page) in str(caught.value)
    assert "second:2" in page.read_text(encoding="utf-8")
    assert "00000021" not in page.read_text(encoding="utf-8")
    assert not (workspace / "validate").exists()
    plant(workspace, "second", ",side,", ",PA,")
    validate.run(workspace, small_params)
    assert not page.exists()


def test_the_command_writes_data_docs_of_data_that_fail(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`validate --data-docs` writes great-expectations' pages before it ends with the error that the data have."""
    plant(workspace, "second", ",PA,", ",side,")
    (workspace / "params.yaml").write_text("validate: {min_images: 20, min_patients: 10}\n", encoding="utf-8")
    monkeypatch.chdir(workspace)
    done = CliRunner().invoke(stages.app, ["validate", "--data-docs", "docs"])
    assert isinstance(done.exception, DataError)
    pages = {path.name for path in (workspace / "docs").glob("*.html")}
    suites = {"table", "labels", "images", "dataset"}
    assert pages == {"index.html", "dataset-batches.html", *(f"{suite}-images.html" for suite in suites)}
    assert "side" in (workspace / "docs" / "table-images.html").read_text(encoding="utf-8")


def test_the_command_says_that_the_data_passed(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`validate` alone says of how many images and patients every check passed, and where they stand."""
    (workspace / "params.yaml").write_text("validate: {min_images: 20, min_patients: 10}\n", encoding="utf-8")
    monkeypatch.chdir(workspace)
    done = CliRunner().invoke(stages.app, ["validate"])
    assert done.exit_code == 0, done.output
    assert "the data passed: " in done.output
    assert "checks of 60 images of 30 patients" in done.output


def test_too_few_images_fail(workspace: Path) -> None:
    """The least number of images is a setting, and it is kept."""
    params = Params.check({"validate": {"min_images": 61, "min_patients": 10}}, "test")
    with pytest.raises(DataError, match=r"at least 61 images\. Not so: 60 images") as caught:
        validate.run(workspace, params)
    assert str(caught.value.fix).startswith("ingest more, or lower validate.min_images")  # no row is wrong
    assert "correct the rows" not in str(caught.value.fix)


def test_images_and_rows_must_match(workspace: Path, small_params: Params) -> None:
    """A data set whose shards lack an image of the manifest is refused, and so is one without any batch."""
    (workspace / "dataset" / "second" / "shard-00000.tar").unlink()
    with pytest.raises(DataError, match="20 images stand in the shards or in the manifests, but not in both"):
        validate.run(workspace, small_params)
    shutil.rmtree(workspace / "dataset")
    with pytest.raises(DataError, match="no data set"):
        validate.run(workspace, small_params)
    assert not (workspace / "validate").exists()


def test_side_tables_and_kept_splits_reach_the_stages_that_use_them(
    make_nih: Callable[..., Path], workspace: Path, small_params: Params
) -> None:
    """Attributes of one batch stand beside images of all, empty where nobody knows; pins put patients on their side."""
    listing = nih.read_folder(make_nih("third", patients=10, first=61, size=48))
    listing.attributes = {row.image_id: {"scanner": "GE" if row.line % 3 else ""} for row in listing.rows}
    listing.sides = {"61": "test", "62": "validation", "63": "development"}
    build(workspace / "dataset" / "third", check(listing, "third", processes=1))
    validate.run(workspace, small_params)
    split.run(workspace, small_params)
    frame = manifest.read_split(workspace)
    sides = dict(zip(frame["patient_id"], frame["split"], strict=True))
    assert (sides["61"], sides["62"]) == ("test", "validation")
    assert sides["63"] in ("train", "validation")
    more = evaluate.attributes_of(workspace, frame)
    assert set(more) == {"sex", "age", "view", "source", "scanner"}
    known = dict(zip(frame["image_id"], more["scanner"], strict=True))
    assert {known[row.image_id] for row in listing.rows} == {"GE", ""}
    assert {known[image_id] for image_id in frame.loc[frame["batch"] != "third", "image_id"]} == {""}
    (workspace / "dataset" / "third" / "attributes.csv").write_text("image_id,scanner\n")
    with pytest.raises(DataError, match=r"attributes\.csv is not the file that batch\.json names"):
        validate.run(workspace, small_params)
