"""A page becomes a PDF by a real browser; where there is none, or it fails, that is said and no file is left."""

from __future__ import annotations

import re
import zlib
from pathlib import Path

import pytest

from cxr_ops.edges import browser
from cxr_ops.errors import SettingsError, StorageError


@pytest.mark.skipif(browser.find() is None, reason="no chromium is installed")
def test_a_page_is_printed_with_what_is_folded(tmp_path):
    """The PDF has a page for each sheet, and a closed section takes its room when the page's style says so."""
    page = tmp_path / "page with a space.html"
    style = "@media print {details::details-content {content-visibility: visible}}"
    body = "<p>one</p>" + "<details><summary>more</summary><p style='height: 400mm'>two</p></details>"
    page.write_text(f"<!DOCTYPE html><html lang='en'><title>t</title><style>{style}</style>{body}")
    out = tmp_path / "page.pdf"
    browser.print_pdf(page, out)
    data = out.read_bytes()
    assert data.startswith(b"%PDF-")
    streams = [data, *_inflated(data)]
    assert sum(len(re.findall(rb"/Type\s*/Page\b", stream)) for stream in streams) >= 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def _inflated(data: bytes) -> list[bytes]:
    found = []
    for stream in re.findall(rb"stream\r?\n(.*?)\r?\nendstream", data, re.DOTALL):
        try:
            found.append(zlib.decompress(stream))
        except zlib.error:
            continue
    return found


def test_without_a_browser_it_is_said_what_to_install(tmp_path, monkeypatch):
    """On a machine without any of the browsers, the error names them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="printed by a browser") as caught:
        browser.print_pdf(tmp_path / "page.html", tmp_path / "page.pdf")
    assert "chromium" in str(caught.value)


def fake(folder: Path, script: str) -> None:
    program = folder / "chromium"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_a_browser_that_fails_leaves_the_earlier_file(tmp_path, monkeypatch):
    """When the browser ends without a PDF, the error says what it said, and an earlier PDF stays."""
    fake(tmp_path, "echo starting >&2; echo it is broken >&2; exit 3")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    out = tmp_path / "page.pdf"
    out.write_bytes(b"earlier")
    with pytest.raises(StorageError, match=r"exit 3\): it is broken"):
        browser.print_pdf(tmp_path / "page.html", out)
    assert out.read_bytes() == b"earlier"


def test_a_browser_that_never_ends_is_ended(tmp_path, monkeypatch):
    """After the time limit the error says so."""
    fake(tmp_path, "exec sleep 60")
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(browser, "_TIMEOUT", 0.5)
    with pytest.raises(StorageError, match="did not print the page within"):
        browser.print_pdf(tmp_path / "page.html", tmp_path / "page.pdf")
