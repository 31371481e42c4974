"""great-expectations' own pages, as they open without a network."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from cxr_ops.data import data_docs
from cxr_ops.data.validation import BATCHES, IMAGES, Prepared
from cxr_ops.errors import SettingsError

VIEWS = {
    "name": "table",
    "expectations": [
        {
            "type": "expect_column_values_to_be_in_set",
            "kwargs": {"column": "view", "value_set": ["PA", "AP"]},
            "severity": "critical",
            "meta": {"says": "The view is PA or AP."},
        },
        {
            "type": "expect_column_values_to_not_be_null",
            "kwargs": {"column": "name"},
            "severity": "critical",
            "meta": {"says": "A batch has a name.", "of": BATCHES},
        },
    ],
}
SHARES = {
    "name": "labels",
    "expectations": [
        {
            "type": "expect_column_mean_to_be_between",
            "kwargs": {"column": "Mass", "min_value": 0.001, "max_value": most},
            "severity": "critical",
            "meta": {"says": "Some have a mass."},
        }
        for most in (0.5, 0.2)
    ],
}
HOSTILE = '"><img src="https://elsewhere.example/x.png"><script src=//elsewhere.example></script>'


class Requests(HTMLParser):
    """What a page would ask somebody else for, its scripts, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.scripts = 0
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.asked += [value or "" for name, value in attrs if name in ("src", "href", "action", "srcset", "data")]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages on two tables, one of which holds a value that tries to reach a server."""
    out = tmp_path_factory.mktemp("docs") / "pages"
    tables = {IMAGES: pd.DataFrame({"view": ["PA", "side", HOSTILE]}), BATCHES: pd.DataFrame({"name": ["first"]})}
    index = data_docs.write(out, Prepared(tables=tables, suites=[VIEWS], parameters={}, unasked=()))
    assert index == out / "index.html"
    return out


def test_a_page_for_each_suite_and_table(pages: Path) -> None:
    """The index leads to a page a suite and table, each with what was expected and the values that failed."""
    assert {path.name for path in pages.iterdir()} == {
        "index.html",
        "data-docs.css",
        "table-images.html",
        "table-batches.html",
    }
    index = Requests((pages / "index.html").read_text(encoding="utf-8"))
    assert index.asked == ["data-docs.css", "table-images.html", "table-batches.html"]
    images = Requests((pages / "table-images.html").read_text(encoding="utf-8")).text
    assert "values must belong to this set" in images
    assert "side" in images


def test_no_page_asks_a_server_for_anything(pages: Path) -> None:
    """No page has a script or an address elsewhere, a value that looks like one included; each forbids the rest."""
    for path in pages.glob("*.html"):
        page = path.read_text(encoding="utf-8")
        found = Requests(page)
        assert found.scripts == 0
        own = {"data-docs.css", "index.html", "table-images.html", "table-batches.html"}
        assert not [asked for asked in found.asked if asked not in own and not asked.startswith("#")]
        assert "default-src 'none'" in page
        assert page.count("data-docs.css") == 1


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    """Pages go into a folder that is new or empty."""
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(SettingsError, match="not empty"):
        data_docs.write(tmp_path, Prepared(tables={}, suites=[], parameters={}, unasked=()))


def test_means_are_on_the_page_and_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A mean stands on the page as a number, whether it passes or fails, and great-expectations complains of none."""
    tables = {IMAGES: pd.DataFrame({"Mass": [0.0, 1.0, 0.0]})}
    data_docs.write(tmp_path / "pages", Prepared(tables=tables, suites=[SHARES], parameters={}, unasked=()))
    page = Requests((tmp_path / "pages" / "labels-images.html").read_text(encoding="utf-8")).text
    assert page.count("0.3333333333") == 2
    assert "--" not in page
    assert capfd.readouterr() == ("", "")
