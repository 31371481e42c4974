"""What two versions of a data set differ in, as a terminal shows it."""

from __future__ import annotations

import io
import re

import pandas as pd
from rich.console import Console

from cxr_ops.data import changes
from cxr_ops.labels import FINDINGS
from cxr_ops.records.data import DataRevision
from cxr_ops.report import versions

EIGHTHS = "▏▎▍▌▋▊▉"


def manifest(images: int, **positive: int) -> pd.DataFrame:
    """A manifest of which the first images have a finding, as many as are said."""
    facts = {"sha256": "", "source": "nih", "batch": "x", "view": "PA", "age": 50, "sex": "F", "width": 9, "height": 9}
    frame = pd.DataFrame({"image_id": [f"{at}.png" for at in range(images)], "patient_id": "1", **facts, "line": 2})
    for finding in FINDINGS:
        frame[finding] = pd.array([int(at < positive.get(finding, 0)) for at in range(images)], dtype="Int64")
    return frame


def test_bars_are_as_long_as_prevalences() -> None:
    """The highest prevalence of both versions has the longest bar, and each other one its share of that, in eighths."""
    revisions = (DataRevision(revision="a" * 40, batches={}), DataRevision(revision="b" * 40, batches={}))
    found = changes.compare(manifest(10, Mass=8, Edema=2), manifest(20, Mass=8, Edema=5, Hernia=1), revisions)
    out = io.StringIO()
    Console(file=out, width=200).print(versions.card(found, ("one", "two")))
    lines = out.getvalue().splitlines()
    bars: dict[str, list[tuple[int, str]]] = {}
    for finding in ("Mass", "Edema", "Hernia", "Nodule"):
        at = next(number for number, line in enumerate(lines) if line.startswith(finding))
        ends = [re.search(rf"([█{EIGHTHS}]*) +([0-9.]+ % of [0-9]+) *$", line) for line in lines[at : at + 2]]
        bars[finding] = [
            (sum(8 if one == "█" else EIGHTHS.index(one) + 1 for one in bar), told)
            for bar, told in (end.groups() for end in ends if end)
        ]
    assert bars == {
        "Mass": [(128, "80.0 % of 10"), (64, "40.0 % of 20")],
        "Edema": [(32, "20.0 % of 10"), (40, "25.0 % of 20")],
        "Hernia": [(0, "0.0 % of 10"), (8, "5.0 % of 20")],
        "Nodule": [(0, "0.0 % of 10"), (0, "0.0 % of 20")],
    }
