"""A second truth in a published report: where it stands, and what stops it."""

from __future__ import annotations

from pathlib import Path

import pytest
from evaluations import estimate
from finished import RUN

from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.errors import DataError, RefusedError
from cxr_ops.records.evidence import Paired
from cxr_ops.records.second_truth import Compared, SecondTruth, UnderTruth
from cxr_ops.stages import publish, reread

FIRST = RUN["first"]


def test_a_second_truth_changes_the_page_and_no_record(published: Home, tmp_path: Path) -> None:
    """The published page gets the comparison, of the evidence that was decided on alone; the decision stays."""
    decision = open_ledger(published).decision(FIRST)
    paired = Paired(challenger=estimate(0.8))
    under = UnderTruth(positives=9, auc=paired, sensitivity=paired, specificity=paired)
    counts = {"images": 40, "patients": 30, "both": 7, "first_only": 2, "second_only": 3, "neither": 28}
    mass = Compared(finding="Mass", kappa=estimate(0.6), first=under, second=under, **counts)
    facts = {"name": "again.csv", "sha256": "a" * 64, "scored": "test", "images": 99, "labelled": 40, "others": 0}
    found = SecondTruth(**facts, level=0.95, evaluation=decision.decision.evaluation, findings=[mass])
    path, page = published.run(FIRST) / publish.SECOND_TRUTH, published.reports / f"{FIRST}.html"
    found.write(path)
    publish.finish(published, FIRST)
    assert "By a second truth" in page.read_text()
    assert "again.csv" in page.read_text()
    found.model_copy(update={"evaluation": "b" * 64}).write(path)
    publish.finish(published, FIRST)
    assert "By a second truth" not in page.read_text()
    assert open_ledger(published).decision(FIRST) == decision


def test_what_cannot_be_compared_leaves_the_report_as_it_is(published: Home, tmp_path: Path) -> None:
    """A run without a decision, a table that is not there, and scores that are not the evidence's are named."""
    page, table = published.reports / f"{FIRST}.html", tmp_path / "again.csv"
    before = page.read_bytes()
    with pytest.raises(RefusedError, match="not published"):
        reread.run(published, "another-run", table)
    with pytest.raises(DataError, match=r"scores\.csv of the run is not here"):
        reread.run(published, FIRST, table)
    table.write_text("image_id,Mass\na.png,1\n")
    (published.workspace(FIRST) / "evaluate" / "scores.csv").write_text("image_id\na.png\n")
    with pytest.raises(DataError, match="has no column patient_id"):
        reread.run(published, FIRST, table)
    assert page.read_bytes() == before
    assert not (published.run(FIRST) / publish.SECOND_TRUTH).exists()
