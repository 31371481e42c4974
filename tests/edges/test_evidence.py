"""The evidence behind a decision is found wherever a copy is, and by its digest alone."""

from __future__ import annotations

import shutil

from finished import RUN

from cxr_ops.edges.evidence import evaluation
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger

FIRST = RUN["first"]


def test_evidence_is_read_from_workspace_or_store(published: Home) -> None:
    """With the workspace, and without it from the run commit, it is the file that the decision names."""
    decision = open_ledger(published).decision(FIRST).decision
    of = (FIRST, decision.run_commit, decision.evaluation)
    found = evaluation(published, *of)
    assert found.challenger == decision.package
    path = published.workspace(FIRST) / "evaluate/evaluation.json"
    path.write_bytes(path.read_bytes().replace(b"0.9", b"0.8"))
    assert evaluation(published, *of) == found
    shutil.rmtree(published.run(FIRST))
    assert evaluation(published, *of) == found
    assert evaluation(published, FIRST, decision.run_commit, "0" * 64) is None
    assert evaluation(published, FIRST, None, decision.evaluation) is None
