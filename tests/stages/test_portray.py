"""The picture of a batch: what it shows, and what it must not."""

from __future__ import annotations

import base64
import html
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from cxr_ops.data import manifest
from cxr_ops.data.checking import batch as building
from cxr_ops.data.checking import isolate
from cxr_ops.data.sources import nih
from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_file
from cxr_ops.report import batch as page
from cxr_ops.stages import ingest, match, portray

MakeNih = Callable[..., Path]
CHROMIUM = Path("/usr/bin/chromium")


class Parsed(HTMLParser):
    """A page, tag by tag: that each is closed, what is said, and what the pictures are."""

    VOID = frozenset({"meta", "link", "img", "br", "line", "circle"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.said: list[str] = []
        self.addresses: list[str] = []
        self.pictures: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.addresses += [given[name] or "" for name in ("src", "href", "srcset", "action") if name in given]
        if tag == "img":
            self.pictures.append(given["src"] or "")
            assert given["alt"]
        if tag not in self.VOID:
            self.open.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.VOID

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.said.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.said).split())


@pytest.fixture
def home(tmp_path: Path, project: Path) -> Home:
    """An installation of its own."""
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})


@pytest.fixture
def portrait(make_nih: MakeNih, home: Home, tmp_path: Path) -> page.Portrait:
    """Of a batch of 40 images with a blank one, a broken one, a missing one and a near copy, beside a batch of 20."""
    first = tmp_path / "built" / "first"
    building.build(first, building.check(nih.read_folder(make_nih("one", patients=10, first=31)), "first", processes=1))
    folder = make_nih("two", size=64)
    cv2.imwrite(str(folder / "images" / "00000003_000.png"), np.full((64, 64), 50, np.uint8))
    (folder / "images" / "00000004_000.png").write_bytes(b"<script>alert(1)</script>")
    (folder / "images" / "00000005_000.png").unlink()
    source = cv2.imread(str(folder / "images" / "00000006_000.png"), cv2.IMREAD_GRAYSCALE)
    cv2.imwrite(str(folder / "images" / "00000007_001.png"), source[::-1])
    listing = nih.read_folder(folder)
    held = {"first": first}
    checked = building.check(listing, "second", processes=1)
    matched = match.run(checked, listing, batch="second", home=home, held=held)
    frames = {name: manifest.read_manifest(path / "manifest.csv") for name, path in held.items()}
    return portray.run(checked, matched, listing, folder=folder, batch="second", held=frames)


def test_the_page_shows_what_came_and_what_failed(portrait: page.Portrait, home: Home) -> None:
    """Counts, each finding, each rule with its pictures, and the pair stand on a page that is whole and offline."""
    path = portray.write(portrait, "accepted with quarantine", home)
    assert path == home.pictures / "second" / "batch.html"
    assert path.parent.stat().st_mode & 0o777 == 0o700
    text = path.read_text()
    parsed = Parsed(text)
    assert parsed.open == []
    assert "second: accepted with quarantine" in parsed.words
    assert "35 of" in parsed.words
    for finding in FINDINGS:
        assert finding.replace("_", " ") in parsed.words
    for rule in ("The picture is blank", "The image is missing", "is no picture of a kind", "near copy of another"):
        assert rule in parsed.words
    assert "mirrored top to bottom; both come now" in parsed.words
    assert all(uri.startswith("data:") or uri == "#verdict" for uri in parsed.addresses)
    assert "<script" not in text
    assert len(text.encode()) < page.PAGE_BYTES
    numbers = [int(n) for n in re.findall(r"alt=\"Radiograph (\d+),", text)]
    assert numbers == list(range(1, len(parsed.pictures) + 1))
    shown = cv2.imdecode(
        np.frombuffer(base64.b64decode(parsed.pictures[-1].partition(",")[2]), np.uint8), cv2.IMREAD_UNCHANGED
    )
    assert shown.shape == (112, 112)


def _placed(text: str) -> dict[str, list[tuple[str, bool]]]:
    """Of each rule on a page: where its rows are listed, and whether there is a picture."""
    found = {}
    for block in text.partition('id="failed"')[2].partition("</section>")[0].split('<div class="ruled">')[1:]:
        rule = html.unescape(re.search("<strong>(.*?)</strong>", block)[1])
        items = re.findall("<li>(.*?)</li>", block, re.DOTALL)
        found[rule] = [(re.search("<small>(.*?)</small>", one)[1], "<img" in one) for one in items]
    return found


def test_each_failed_picture_has_its_rule_and_its_line(
    make_nih: MakeNih, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that fail by age, sex or label are shown under that rule, with the line of problems.csv that names them."""
    monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))
    folder = make_nih(patients=6)
    table = folder / "Data_Entry_2017.csv"
    header, *rows = table.read_text().splitlines()
    rows = [row.split(",") for row in rows]
    for at, (column, value) in {1: (4, "old"), 4: (5, "X"), 7: (1, "Flu"), 9: (6, "up")}.items():
        rows[at][column] = value
    table.write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    with pytest.raises(DataError):
        ingest.run("nih", folder, batch="second", home=home)
    placed = _placed((home.pictures / "second" / portray.PAGE).read_text())
    listed = (home.quarantine / "second" / "problems.csv").read_text().splitlines()
    told = {
        "The age is no whole number of years": rows[1][0],
        "The sex is none that is known": rows[4][0],
        "A label is none of the findings": rows[7][0],
        "The view is none that is known": rows[9][0],
    }
    assert placed.keys() == told.keys()
    for rule, image_id in told.items():
        ((place, shown),) = placed[rule]
        file, _, line = place.partition(":")
        assert (file, shown) == ("problems.csv", True)
        assert image_id in listed[int(line) - 1]
    pictured = pd.read_csv(home.pictures / "second" / portray.LIST, dtype=str)
    digests = {sha256_file(folder / "images" / image_id) for image_id in told.values()}
    assert digests <= set(pictured["sha256"])  # a purge finds the page by them


def test_expectations_that_failed_are_on_the_page(
    make_nih: MakeNih, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that fails the suites is shown with each expectation in its words, and lines of failures.csv."""
    monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))
    folder = make_nih(patients=6)
    table = folder / "Data_Entry_2017.csv"
    header, *rows = table.read_text().splitlines()
    rows = [[name, "Hernia", *rest] for name, _, *rest in (row.split(",") for row in rows)]
    table.write_text("\n".join([header, *map(",".join, rows)]) + "\n")
    small = folder / "images" / "00000002_000.png"
    cv2.imwrite(str(small), np.random.default_rng(0).integers(0, 256, (24, 24), dtype=np.uint8))
    with pytest.raises(DataError, match="the data failed"):
        ingest.run("nih", folder, batch="second", home=home)
    text = (home.pictures / "second" / portray.PAGE).read_text()
    assert "second: refused" in text
    placed = _placed(text)
    assert placed["Hernia is present in at most 95 % of the images."] == []
    ((place, shown),) = placed["Images are 32 to 20,000 pixels wide."]
    failures = (home.quarantine / "second" / "failures.csv").read_text().splitlines()
    file, _, line = place.partition(":")
    assert (file, shown) == ("failures.csv", True)
    assert "pixels wide" in failures[int(line) - 1]
    assert sha256_file(small) in (home.pictures / "second" / portray.LIST).read_text()


def test_the_page_names_no_image_and_no_patient(portrait: page.Portrait) -> None:
    """No id of an image or a patient, no path and no value of the table stands in it, whatever became of the batch."""
    for outcome in ("accepted", "accepted with quarantine", "refused"):
        text = page.render(portrait, outcome)
        plain = re.sub(r"data:image/jpeg;base64,[A-Za-z0-9+/=]+", "", text)
        assert not re.search(r"0000\d{4}|_00\d|\.png|/tmp|images/", plain)
        assert "patient 7" not in plain
        assert page.render(portrait, outcome) == text


def test_prevalence_is_of_patients_and_only_where_it_is_known() -> None:
    """A patient with several images counts once, and one of whom a finding is not known not at all."""

    rows = pd.DataFrame({name: pd.array([1, 1, 0, None, -1], dtype="Int64") for name in FINDINGS})
    rows["patient_id"] = ["a", "a", "b", "c", "d"]
    (one, *_), labelled = page.findings(rows, None, FINDINGS), page.findings(rows, rows, FINDINGS[:2])
    assert (one.batch.found, one.batch.known, one.before) == (1, 2, None)
    assert len(labelled) == 2
    assert labelled[0].before == labelled[0].batch
    # Wilson's interval of 1 in 2 by hand: (p + z2/2n -+ z sqrt(pq/n + z2/4n2)) / (1 + z2/n) with z = 1.959964
    assert one.batch.low == pytest.approx(9.4531, abs=1e-3)
    assert one.batch.high == pytest.approx(90.5469, abs=1e-3)
    assert page.share(0, 0).percent is None


def test_a_page_stays_small(portrait: page.Portrait) -> None:
    """With far too many thumbnails it leaves the last ones out, and says how many."""
    noise = np.random.default_rng(0).integers(0, 256, (700, 700), dtype=np.uint8)
    heavy = cv2.imencode(".jpg", noise)[1].tobytes()
    many = [page.Mosaic(name="Hernia", count=99, thumbnails=[heavy] * 20)]
    text = page.render(replace(portrait, mosaics=many), "accepted")
    assert len(text.encode()) < page.PAGE_BYTES
    assert "thumbnails were left out" in text


def test_names_from_outside_are_escaped(portrait: page.Portrait) -> None:
    """A batch, a source or a finding that is written like HTML is shown as it is written."""
    strange = replace(
        portrait, source="<b>x</b>", mosaics=[page.Mosaic(name="<img src=x>", count=1, thumbnails=[None])]
    )
    text = page.render(strange, "refused")
    assert "<b>x</b>" not in text
    assert "&lt;b&gt;x&lt;/b&gt;" in text
    assert "<img src=x>" not in text
    assert "no picture" in text


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no Chromium is at /usr/bin/chromium")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it(portrait: page.Portrait, home: Home, tmp_path: Path, scheme: str) -> None:
    """Chromium draws the page, with pictures on it, on light and on dark paper."""
    path = portray.write(portrait, "accepted", home)
    shot = tmp_path / "shot.png"
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,3000"),
            *(f"--user-data-dir={tmp_path / 'profile'}", *dark, f"--screenshot={shot}", path.as_uri()),
        ],
        check=True,
        capture_output=True,
        timeout=120,
    )
    drawn = cv2.imread(str(shot), cv2.IMREAD_GRAYSCALE)
    assert drawn.shape == (3000, 1000)
    assert (drawn[:400, :20] > 200).all() == (scheme == "light")
    assert drawn.std() > 10
