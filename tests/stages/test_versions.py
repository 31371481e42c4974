"""Looking at versions: log, diff, show and gallery, on a data set of three versions."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from cxr_ops.commands.app import app
from cxr_ops.data import manifest, splits
from cxr_ops.data.shards import ShardReader
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches, versions
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.report import versions as told_of
from cxr_ops.stages import diff, gallery, log, relabel, show, withdraw


class _Page(HTMLParser):
    """The parts of a page that tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pictures: list[bytes] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.addresses += [str(given[name]) for name in ("src", "href") if given.get(name)]
        if tag == "img":
            self.pictures.append(base64.b64decode(str(given["src"]).partition(",")[2]))


def test_log_lists_versions_and_counts(versioned: Home) -> None:
    """The newest comes first, with the images and patients that the manifests hold; a run is named at its version."""
    run = versioned.run("a-run")
    run.mkdir(parents=True)
    made = versions.versions(versioned)
    (run / "run.json").write_text(json.dumps({"data": {"revision": made[1].revision}}))

    found = log.run(versioned)

    assert [(one.version.number, one.images, one.patients, one.runs) for one in found] == [
        (3, 20, 10, ()), (2, 60, 30, ("a-run",)), (1, 40, 20, ())
    ]  # fmt: skip
    assert [one.version.number for one in log.run(versioned, last=1)] == [3]
    with pytest.raises(SettingsError):
        log.run(versioned, last=0)


def test_diff_tells_what_left(versioned: Home) -> None:
    """Between the versions with and without a batch, its images, patients and labels are those that left."""
    frame = manifest.read_manifest(batches.batch_files(versioned, revision=_at(versioned, 1))["one"] / "manifest.csv")
    found = diff.run(versioned, "2", "latest").difference
    assert (found.images, found.patients, found.kept_patients) == ((60, 20), (30, 10), 10)
    assert found.removed_images == sorted(frame["image_id"])
    assert found.removed_patients == sorted(set(frame["patient_id"]))
    assert (found.added_images, found.changed_images, found.removed_batches) == ([], [], ["one"])
    for finding in FINDINGS:
        change = found.findings[finding]
        assert change.removed.positive == int((frame[finding] == 1).sum())
        assert change.before.positive - change.removed.positive == change.after.positive


def _at(home: Home, number: int):
    return versions.versions(home)[number - 1].data


def test_show_tells_an_images_history(versioned: Home) -> None:
    """An image is shown from the version that brought it to the one that lost it, with side, labels and runs."""
    made = versions.versions(versioned)
    frame = manifest.read_manifest(batches.batch_files(versioned, revision=made[0].data)["one"] / "manifest.csv")
    row = frame.iloc[4]
    workspace = versioned.workspace("a-run")
    (workspace / "split").mkdir(parents=True)
    (versioned.run("a-run") / "run.json").write_text(json.dumps({"data": {"revision": made[1].revision}}))
    (workspace / "split" / "split.csv").write_text(
        f"image_id,patient_id,split\n{row['image_id']},{row['patient_id']},train\n"
    )

    (image,) = show.run(versioned, row["image_id"].upper()).images
    (state,) = image.states

    assert (image.image_id, image.patient_id, image.side) == (row["image_id"], row["patient_id"], None)
    assert (state.batch, state.since, state.until, state.sha256) == ("one", 1, 3, row["sha256"])
    assert state.labels == {finding: int(row[finding]) for finding in FINDINGS}
    assert [(one.run, one.side) for one in image.runs] == [("a-run", "train")]
    assert show.run(versioned, row["sha256"]).images == [image]


def test_show_takes_a_patient_and_gives_the_side_of_now(versioned: Home) -> None:
    """All images of a patient are shown, on the side that the split's own rule gives; an unknown id is refused."""
    shown = show.run(versioned, "25")
    split = Params.load(versioned.project / "params.yaml").split.model_dump()
    assert (shown.kind, len(shown.images)) == ("patient", 2)
    assert {image.side for image in shown.images} == {splits.side("25", **split)}
    assert [state.until for image in shown.images for state in image.states] == [None, None]
    with pytest.raises(SettingsError, match="no version of the data set holds an image or a patient '31'"):
        show.run(versioned, "31")


def test_an_unknown_id_is_told_with_the_nearest_one(versioned: Home, tmp_path: Path) -> None:
    """A slip in an id gives the id that was meant; without a data set the error says that there is none."""
    with pytest.raises(SettingsError) as caught:
        show.run(versioned, "0000025_000.png")
    assert "the nearest id is 00000025_000.png: cxr-ops data show 00000025_000.png" in str(caught.value.fix)
    empty = Home.find({"CXR_HOME": str(tmp_path / "empty"), "CXR_PROJECT": str(versioned.project)})
    with pytest.raises(DataError, match="there is no data set"):
        show.run(empty, "25")


def test_gallery_shows_pictures_and_names_nobody(versioned: Home) -> None:
    """Each number's picture is that of the image in the key; the page has no id, no script and no other address."""
    made = gallery.run(versioned, "2", count=2)
    page = _Page(made.page)
    key = pd.read_csv(io.BytesIO(made.key), dtype=str)
    assert len(page.pictures) == len(key) == made.shown
    assert "script" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    frame = diff.read(versioned, _at(versioned, 2))
    assert not [one for one in (*frame["image_id"], *frame["sha256"]) if one in made.page]
    for finding in FINDINGS:
        of_it = set(frame.loc[frame[finding] == 1, "image_id"])
        assert len(of_it & set(key["image_id"])) >= min(2, len(of_it))
    with batches.whole(versioned, _at(versioned, 2)) as dataset, ShardReader(dataset) as reader:
        for picture, image_id in zip(page.pictures, key["image_id"], strict=True):
            shown, whole = (
                cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
                for data in (picture, reader.read(image_id))
            )
            assert shown.shape == (128, 128)
            assert (
                np.corrcoef(cv2.resize(shown, whole.shape, interpolation=cv2.INTER_AREA).ravel(), whole.ravel())[0, 1]
                > 0.9
            )


def test_a_picture_is_without_finding_only_where_all_are_labelled() -> None:
    """What a source does not label is not shown as absent, and an uncertain label is shown."""
    rows = pd.DataFrame(
        [
            dict.fromkeys(FINDINGS, 0),
            {**dict.fromkeys(FINDINGS), "Pneumonia": 0, "Effusion": 0},
            {**dict.fromkeys(FINDINGS), "Pneumonia": 0, "Effusion": -1},
            {**dict.fromkeys(FINDINGS), "Pneumonia": 1},
            dict.fromkeys(FINDINGS),
        ],
        dtype=float,
    ).assign(batch="one", view="PA", image_id=[f"{n}.png" for n in range(5)])
    pictures = {("one", f"{n}.png"): b"" for n in range(5)}
    said = [one.labels for one in gallery.numbered(rows, pictures)]
    assert said == ["no finding", "none of the 2 labelled findings", "Effusion uncertain", "Pneumonia", "not labelled"]


def test_a_sample_takes_patients_in_turn_and_repeats_itself() -> None:
    """No patient gives a second image before each gave one; the order of rows does not matter."""
    rows = pd.DataFrame(
        {"patient_id": ["a"] * 5 + ["b", "c"], "sha256": [f"{n:064x}" for n in range(7)], "image_id": list("1234567")}
    )
    assert sorted(diff.sample(rows, 3)["patient_id"]) == ["a", "b", "c"]
    assert list(diff.sample(rows, 5)["image_id"]) == list(diff.sample(rows.iloc[::-1], 5)["image_id"])
    assert len(diff.sample(rows, 99)) == 7


def test_the_commands_print_and_write(
    versioned: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Text for people, JSON for machines, and a page with the pictures of what left, by number."""
    monkeypatch.setenv("CXR_HOME", str(versioned.root))
    monkeypatch.setenv("CXR_PROJECT", str(versioned.project))

    def typed(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            app(["data", *arguments])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "Remove batch one, by Ann: wrong folder" in typed("log")
    logged = json.loads(typed("log", "--json"))
    assert [(one["number"], one["images"], one["removed"]) for one in logged] == [
        (3, 20, ["one"]),
        (2, 60, []),
        (1, 40, []),
    ]
    html = tmp_path / "diff.html"
    told = json.loads(typed("diff", "2", "3", "--html", str(html), "--images", "3", "--json"))
    assert len(told["removed_images"]) == 40
    page = _Page(html.read_text())
    assert len(page.pictures) == 3
    assert not re.search(r"\d{8}_\d{3}\.png", html.read_text())
    card = " ".join(typed("diff", "1", "2").split())
    assert "images 40 60 20 0 40" in card
    assert "batch that came: two" in card
    assert "patient 25: 2 images" in typed("show", "25")
    assert json.loads(typed("show", "25", "--json"))["kind"] == "patient"
    out, key = tmp_path / "g.html", tmp_path / "k.csv"
    assert "of version 3" in typed("gallery", str(out), "--key", str(key), "--images", "1")
    assert key.read_text().startswith("number,image_id,batch,sha256\n1,")
    assert out.stat().st_size < 2_000_000


def printed(what: object) -> str:
    """What rich prints, in lines as long as they come."""
    out = io.StringIO()
    Console(file=out, width=4000).print(what)
    return out.getvalue()


def test_events_are_part_of_the_history(versioned: Home, tmp_path: Path) -> None:
    """A corrected label and a withdrawn patient make versions, which log counts, diff compares and show tells."""
    before = diff.read(versioned, _at(versioned, 3))
    image = before.loc[before["patient_id"] == "22", "image_id"].iloc[0]
    was = int(before.set_index("image_id").loc[image, "Mass"])
    (tmp_path / "labels.csv").write_text(f"image_id,Mass\n{image},{1 - was}\n")
    relabel.run(versioned, tmp_path / "labels.csv", by="Ann", reason="read again")
    withdraw.run(versioned, ["22", "25"], by="Bob", reason="consent")

    found = log.run(versioned, last=2)
    assert [(one.images, one.patients, one.by, one.reason) for one in found] == [
        (16, 8, "Bob", "consent"), (20, 10, "Ann", "read again")
    ]  # fmt: skip
    difference = diff.run(versioned, "3", "5").difference
    assert difference.removed_patients == ["22", "25"]
    assert diff.run(versioned, "3", "4").difference.findings["Mass"].relabelled == {f"{was} -> {1 - was}": 1}
    (told,) = show.run(versioned, image).images
    assert [(state.since, state.until, state.labels["Mass"]) for state in told.states] == [(2, 4, was), (4, 5, 1 - was)]
    assert [(one.kind, one.version, one.now) for one in told.events] == [
        ("relabel", 4, {"Mass": 1 - was}), ("withdraw", 5, {})
    ]  # fmt: skip
    shown = printed(told_of.history(show.run(versioned, image)))
    assert "version 4, which holds it with other labels" in shown
    assert "version 5, which does not hold it" in shown
    split = Params.load(versioned.project / "params.yaml").split.model_dump()
    assert told.side == splits.side(told.patient_id, **split)  # withdrawn, the patient stays on it
    assert image not in pd.read_csv(io.BytesIO(gallery.run(versioned, "latest").key))["image_id"].tolist()
