"""The published page: a report with the block of identifiers in front of it that only publishing knows."""

from __future__ import annotations

import html
from collections.abc import Sequence

from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.errors import DataError
from cxr_ops.records.base import sha256_bytes
from cxr_ops.report.page import PUBLISHED_MARK


def render(
    report: str, decision: Entry, promotion: Entry | None, entries: list[Entry], *, proof: Sequence[str] = ()
) -> str:
    """Put a block of identifiers in front of a report.

    Args:
        report: the report as it was made: `report/report.html`, or `report/summary.html` where that is withheld.
        decision: the ledger's decision on the run.
        promotion: the ledger's promotion of the run's model, if there is one.
        entries: the ledger, for the approvals and the champion.
        proof: the commands that bring the run back, where the page may tell them.

    Returns:
        The page. Taking the block out again gives the bytes whose digest the block states.
    """
    body = decision.decision
    own = sha256_bytes(report.encode())
    approvals = [
        f"{entry.approval.by}, {entry.approval.at}"
        for entry in entries
        if entry.kind == "approval" and entry.approval.decision == decision.digest()
    ]
    snapshot = " (a snapshot of uncommitted changes)" if body.code_dirty else ""
    own_words = {
        "Airflow run": body.airflow_run_id or "none: not started by Airflow",
        "code": body.code_commit + snapshot,
        "image": body.image or "none: not run in a container",
    }
    named = {name: own_words.get(name) or value or "none" for name, value in body.named().items()}
    facts = {name[:1].upper() + name[1:]: value for name, value in named.items()}
    facts |= {
        "Requested by": body.requested_by or "not recorded",
        "Test period": str(body.period),
        "Decision": f"entry {decision.seq} of the ledger, {decision.at}, sha256 {decision.digest()}",
        "Approvals": "; ".join(approvals) or ("none yet" if body.approvals else "none asked for by the plan"),
        "Promotion": (
            f"entry {promotion.seq} of the ledger, {promotion.at}, sha256 {promotion.digest()}" if promotion else "none"
        ),
        "This report without this block": f"sha256 {own}",
    }
    if own != body.report:
        facts["Full report"] = f"sha256 {body.report}; withheld while test period {body.period} is open"
    rows = "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd></div>" for key, value in facts.items()
    )
    back = _ways_back(body, entries, proof) if proof else ""
    block = f'<section class="published" aria-label="Published record"><dl class="facts">{rows}</dl>{back}</section>'
    mark = PUBLISHED_MARK if PUBLISHED_MARK in report else "<body>"
    before, found, after = report.partition(mark)
    if not found:
        raise DataError(
            "report/report.html has no <body>",
            where=body.run,
            fix=f"run report again: cxr-ops stage report --run {body.run}",
        )
    return f"{before}{found}{block}{after}"


def _ways_back(decision: Decision, entries: list[Entry], proof: Sequence[str]) -> str:
    """The commands that bring the run back, and those that compare it with the champion that it was judged against."""
    champion = next((entry.promotion for entry in entries if entry.digest() == decision.champion), None)
    ours = [f"cxr-ops checkout {decision.run} proof", "cd proof"]
    compared = ""
    if champion is not None:
        ours += [f"dvc {what} diff {champion.run_commit} HEAD" for what in ("metrics", "plots")]
        compared = ", and compare it with the champion that it was judged against"
    return "".join(
        f"<p>{sentence}:</p><pre><code>{html.escape(chr(10).join(lines))}</code></pre>"
        for sentence, lines in (
            ("To bring the run back with git and DVC, where these places can be read", proof),
            (f"To bring it back with cxr-ops{compared}", ours),
        )
    )
