"""Every kind of folder that `ingest` takes, from the folder to a data set that is validated and split.

All of them enter one data set, by the kind `auto`: what each says is brought to one manifest.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from releases import RELEASES, Told

from cxr_ops.data import manifest
from cxr_ops.data.checking import decode, isolate
from cxr_ops.data.shards import ShardReader
from cxr_ops.data.sources import registry
from cxr_ops.data.sources.source import Options
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.labels import FINDINGS, VIEWS
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file
from cxr_ops.records.inputs import Period
from cxr_ops.stages import ingest, split, validate

OPTIONS = {"rsna": Options(uncertain={"Pneumonia": "ones"})}  # which nobody can leave out


@dataclass(frozen=True)
class Entered:
    """A workspace with all batches, what each ingestion said, and what it had to say of each picture."""

    root: Path
    results: dict[str, ingest.IngestResult]
    told: dict[str, dict[str, Told]]


@pytest.fixture(scope="module")
def entered(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Entered:
    top = tmp_path_factory.mktemp("kinds")
    home = Home.find({"CXR_HOME": str(top / "home"), "CXR_PROJECT": str(project)})
    root, results, told = top / "workspace", {}, {}
    with pytest.MonkeyPatch.context() as patch:
        # to start processes for each batch would take longer than all else; test_isolate.py starts them
        patch.setattr(isolate, "each", lambda function, items, **_: map(function, items))
        for kind, make in RELEASES.items():
            (top / kind).mkdir()
            told[kind] = make(top / kind)
            options = OPTIONS.get(kind)
            results[kind] = ingest.run("auto", top / kind, batch=f"of-{kind}", home=home, options=options)
    revision = batches.data_revision(home)
    assert revision is not None
    with batches.whole(home, revision) as dataset:
        shutil.copytree(dataset, root / "dataset")
    shutil.copytree(project / "expectations", root / "expectations")
    Period().write(root / "test-period.json")
    return Entered(root, results, told)


def test_every_kind_is_here() -> None:
    """No kind that the registry knows is left out."""
    assert set(RELEASES) == set(registry.SOURCES)


@pytest.mark.parametrize("kind", RELEASES)
def test_a_folder_of_each_kind_enters(entered: Entered, kind: str) -> None:
    """The kind is found out, and each row says what the folder says: what it does not say is missing, and not 0."""
    result, told = entered.results[kind], entered.told[kind]
    assert result.notes[0].startswith(f"the folder was taken to be of the kind {kind}: ")
    assert (result.images, result.quarantined, result.already) == (len(told), 0, False)
    frame = manifest.read_manifest(entered.root / "dataset" / f"of-{kind}" / "manifest.csv")
    assert set(frame["source"]) == {kind}
    assert set(frame["image_id"]) == set(told)
    for row in frame.to_dict("records"):
        one = told[row["image_id"]]
        age = None if pd.isna(row["age"]) else row["age"]
        assert (row["patient_id"], row["view"], age, row["sex"]) == (one.patient, one.view, one.age, one.sex)
        given = {finding: row[finding] for finding in FINDINGS if not pd.isna(row[finding])}
        assert given == one.labels, row["image_id"]


@pytest.mark.parametrize("kind", RELEASES)
def test_the_pictures_of_each_kind_are_the_sources(entered: Entered, kind: str) -> None:
    """A file of 8 bits is kept byte for byte; of any other the samples are, and the digest of the source's own file."""
    folder = entered.root / "dataset" / f"of-{kind}"
    origins = {}
    if (folder / manifest.ORIGINS).is_file():
        table = manifest.read_table(folder / manifest.ORIGINS, manifest.ORIGIN_COLUMNS)
        origins = dict(zip(table["image_id"], table["origin_sha256"], strict=True))
    with ShardReader(folder) as reader:
        for image_id, one in entered.told[kind].items():
            data = reader.read(image_id)
            if one.grey is None:
                assert data == one.file.read_bytes()
                assert image_id not in origins
            else:
                assert origins[image_id] == sha256_file(one.file)
                assert np.array_equal(decode.decode_grey(data), one.grey), image_id


def test_together_they_are_one_data_set(entered: Entered) -> None:
    """All batches are validated and split as one; laterals are kept, counted, and on nobody's side."""
    params = Params.check({"validate": {"min_images": 20, "min_patients": 10}}, "params of the test")
    validate.run(entered.root, params)
    split.run(entered.root, params)
    frame = manifest.read_split(entered.root)
    told = {image_id: one for of_kind in entered.told.values() for image_id, one in of_kind.items()}
    assert len(frame) == len(told) == sum(len(of_kind) for of_kind in entered.told.values())
    lateral = {image_id for image_id, one in told.items() if one.view not in VIEWS}
    assert len(lateral) == 4
    assert set(frame.loc[frame["split"] == "not-frontal", "image_id"]) == lateral
    assert set(frame["split"]) == {"train", "validation", "test", "not-frontal"}
    for kind, of_kind in entered.told.items():
        count = sum(one.view not in VIEWS for one in of_kind.values())
        notes = [note for note in entered.results[kind].notes if "of no frontal view" in note]
        assert [note.split(" ")[0] for note in notes] == ([str(count)] if count else [])


def test_boxes_of_all_kinds_are_the_projects(entered: Entered) -> None:
    """Left, top, width and height in pixels of the picture, around findings of the 14, whatever the source has."""
    boxes = pd.concat(
        manifest.read_boxes(entered.root / "dataset" / f"of-{kind}" / "boxes.csv").assign(kind=kind)
        for kind in RELEASES
    )
    by_kind = dict(list(boxes.groupby("kind")))
    assert set(by_kind) == {"nih", "vindr", "rsna"}
    places = {
        kind: sorted(set(rows[["x", "y", "w", "h"]].itertuples(index=False, name=None)))
        for kind, rows in by_kind.items()
    }
    assert places == {"nih": [(1.5, 2, 10, 12.25)], "vindr": [(1, 2, 10, 20.5)], "rsna": [(3, 4, 10, 12.5)]}
    named = boxes.groupby("kind")["image_id"].count().to_dict()
    positive = [one.labels for one in entered.told["vindr"].values()]
    assert named["vindr"] == 3 * sum(value == 1 for labels in positive for value in labels.values())
    assert (named["nih"], named["rsna"]) == (1, 2)
