"""A browser without a window that prints a page: Chromium, or one that is built on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

from cxr_ops.errors import SettingsError, StorageError
from cxr_ops.records.base import write_atomic

NAMES: Final = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
_TIMEOUT: Final = 180  # seconds: a report of 15 MB on a slow machine
_NETWORK: Final = "--host-resolver-rules=MAP * ~NOTFOUND"  # no name leads anywhere: a page loads nothing


def find() -> str | None:
    """The path of an installed browser, or None."""
    return next((path for path in map(shutil.which, NAMES) if path), None)


def flags(profile: Path) -> list[str]:
    """What the browser is started with: without a window, with a profile of its own, without a network.

    It refuses its own sandbox to root, as whom containers run.
    """
    alone = ["--no-sandbox"] if os.geteuid() == 0 else []
    quiet = ["--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-background-networking"]
    return ["--headless", *alone, *quiet, _NETWORK, f"--user-data-dir={profile}"]


def print_pdf(page: Path, out: Path) -> None:
    """Print a page as a PDF file.

    Args:
        page: an HTML file.
        out: the file to write; it is whole, or as it was before.

    Raises:
        SettingsError: there is no browser.
        StorageError: the browser failed, or the file cannot be written.
    """
    browser = find()
    if browser is None:
        raise SettingsError(
            "a PDF is printed by a browser, and there is none",
            where="--pdf",
            fix=f"install one of {', '.join(NAMES)}; on Debian: apt-get install chromium",
        )
    with tempfile.TemporaryDirectory(prefix="cxr-pdf-") as folder:
        made = Path(folder) / "page.pdf"
        command = [browser, *flags(Path(folder) / "profile"), "--no-pdf-header-footer", f"--print-to-pdf={made}"]
        try:
            done = subprocess.run(
                [*command, page.absolute().as_uri()], capture_output=True, text=True, timeout=_TIMEOUT
            )
        except subprocess.TimeoutExpired as error:
            raise StorageError(f"the browser did not print the page within {_TIMEOUT} s", where=page) from error
        if done.returncode or not made.is_file():
            said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise StorageError(f"the browser could not print the page (exit {done.returncode}): {said}", where=page)
        try:
            write_atomic(out, made.read_bytes())
        except OSError as error:
            why = error.strerror or "no reason given"
            raise StorageError(f"the PDF cannot be written: {why}", where=out, fix="give another --out") from error
