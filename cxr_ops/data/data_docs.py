"""great-expectations' own pages on the expectations (its Data Docs), on demand, for people who know them.

They are that library's pages, made so that they open without a network: scripts, styles, pictures and links of other
servers are taken out, and a style sheet of ours stands in for theirs. Unlike the project's own page they show values
that failed, image ids and patient ids among them: they are not to be passed on.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxr_ops.data.validation import Prepared, evaluate, table_of
from cxr_ops.errors import SettingsError
from cxr_ops.records.base import write_atomic

STYLE: Final = "data-docs.css"
INDEX: Final = "index.html"

# What asks another server for something, and all scripts: they need libraries that would come from there.
_SCRIPT: Final = re.compile(r"<script\b.*?</script\s*>", re.IGNORECASE | re.DOTALL)
_FOREIGN: Final = re.compile(r"<(?:link|img)\b[^>]*?(?:href|src)\s*=\s*[\"']?(?:https?:)?//[^>]*>", re.IGNORECASE)
# Addresses of other pages of a site that is not made here, and what scripts would do. Places within a page stay.
_LINK: Final = re.compile(r"\s(?:href|action|on\w+)\s*=\s*([\"'])(?!#).*?\1", re.IGNORECASE | re.DOTALL)
_HEAD: Final = re.compile(r"<head[^>]*>", re.IGNORECASE)
_BODY: Final = re.compile(r"<body[^>]*>", re.IGNORECASE)
# A browser that reads this asks no server for anything, whatever a value in the page may hold.
_POLICY: Final = (
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; style-src 'self' file: 'unsafe-inline'\">"
)
_CSS: Final = """\
:root { color-scheme: light dark }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; margin: .5rem 0 1rem }
th, td { border: 1px solid #8886; padding: .25rem .6rem; text-align: left; vertical-align: top }
td { overflow-wrap: anywhere }
ul { padding-left: 1.2rem } .ge-toc-container, .btn, .modal, button, svg, footer, .breadcrumb { display: none }
.fa-check-circle::before { content: "\\2713" } .fa-times::before { content: "\\2717" }
.fa-exclamation-triangle::before { content: "!" }
.alert-secondary { border-bottom: 1px solid #8886; margin-top: 1.5rem; font-weight: 600 }
.badge { border: 1px solid #8886; border-radius: .3rem; padding: 0 .3rem; margin-right: .2rem }
.failed { color: #b3261e } .passed { color: #1a7f4b }
"""


def write(out: Path, prepared: Prepared) -> Path:
    """Write a page for each suite and table, and an index.

    Args:
        out: a folder that is new or empty.
        prepared: the suites and their tables.

    Returns:
        The index.

    Raises:
        SettingsError: the folder holds something, or great-expectations refuses a suite.
        OSError: it cannot be written.
    """
    from great_expectations.render.renderer import ValidationResultsPageRenderer
    from great_expectations.render.view import DefaultJinjaPageView

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError("the folder is not empty", where=out, fix="name a folder that is new or empty")
    out.mkdir(parents=True, exist_ok=True)
    write_atomic(out / STYLE, _CSS.encode())
    rows = []
    for suite in prepared.suites:
        for name, table in prepared.tables.items():
            of_table = [item for item in suite["expectations"] if table_of(item) == name]
            items = {at: (suite["name"], item) for at, item in enumerate(of_table)}
            if not items:
                continue
            results = evaluate(f"{suite['name']}: {name}", table, items, prepared.parameters, "SUMMARY")
            for one in results.results:
                one.result = _plain(one.result)
            page = DefaultJinjaPageView().render(ValidationResultsPageRenderer().render(results))
            path = out / f"{suite['name']}-{name}.html"
            write_atomic(path, offline(page).encode())
            failed = sum(not one.success for one in results.results)
            rows.append((path.name, suite["name"], name, len(results.results), failed))
    write_atomic(out / INDEX, _index(rows).encode())
    return out / INDEX


def _plain(value: Any) -> Any:
    """A result with Python's own numbers: great-expectations cannot write those of numpy, and shows -- for them."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def offline(page: str) -> str:
    """A page of great-expectations as it opens without a network."""
    for pattern in (_SCRIPT, _FOREIGN, _LINK):
        page = pattern.sub("", page)
    page = _HEAD.sub(lambda head: f'{head[0]}\n{_POLICY}\n<link rel="stylesheet" href="{STYLE}">', page, count=1)
    return _BODY.sub(lambda body: f'{body[0]}\n<p><a href="{INDEX}">All pages</a></p>', page, count=1)


def _index(rows: Sequence[tuple[str, str, str, int, int]]) -> str:
    lines = [
        f'<tr><td><a href="{html.escape(path)}">{html.escape(suite)}</a></td><td>{html.escape(table)}</td>'
        f'<td>{count}</td><td class="{"failed" if failed else "passed"}">{failed or "none"}</td></tr>'
        for path, suite, table, count, failed in rows
    ]
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Data Docs</title>',
            f'{_POLICY}<link rel="stylesheet" href="{STYLE}"></head><body><h1>Data Docs of great-expectations</h1>',
            "<p>These pages show values that failed, image ids and patient ids among them. Do not pass them on.</p>",
            "<table><thead><tr><th>suite</th><th>table</th><th>expectations</th><th>failed</th></tr></thead><tbody>",
            *lines,
            "</tbody></table></body></html>",
            "",
        ]
    )
