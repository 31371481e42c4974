"""The published page: a report with the block of identifiers in front of it that only publishing knows.

The same identifiers stand as a strip at the page's top, and at the end of the text for chats and pull requests.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.contract import PROMOTE
from cxr_ops.errors import DataError
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.run import Spent
from cxr_ops.records.second_truth import SecondTruth
from cxr_ops.records.verdict import Reason
from cxr_ops.report import markdown, words
from cxr_ops.report.page import PUBLISHED_MARK, TOLD_MARK, fill
from cxr_ops.stats.codes import Code


@dataclass(frozen=True, kw_only=True)
class Told:
    """What people who tune may know of a verdict, as the plans of now have it.

    Attributes:
        verdict: the word.
        reasons: general sentences.
        reasons_told: whether reasons that follow from the test set are among them.
        outside: which settings lie outside the plan, in sentences.
        champion: whether there was a model in use when the run was opened.
    """

    verdict: str
    reasons: Sequence[Reason]
    reasons_told: bool
    outside: Sequence[str]
    champion: bool


def render(
    report: str,
    decision: Entry,
    promotion: Entry | None,
    entries: list[Entry],
    *,
    proof: Sequence[str] = (),
    told: Told | None = None,
    links: Mapping[str, str] | None = None,
    spent: Spent | None = None,
    second: SecondTruth | None = None,
) -> str:
    """Put a block of identifiers in front of a report.

    Args:
        report: the report as it was made: `report/report.html`, or `report/summary.html` where that is withheld.
        decision: the ledger's decision on the run.
        promotion: the ledger's promotion of the run's model, if there is one.
        entries: the ledger, for the approvals and the champion.
        proof: the commands that bring the run back, where the page may tell them.
        told: what is said of the verdict, where the report is the summary.
        links: addresses of what the run is known by elsewhere, by name.
        spent: what the training took, where that was measured.
        second: what a second truth says beside the first, where one was given.

    Returns:
        The page. Taking the strip and the block out again, and what a summary's first section says, gives the bytes
        whose digest the block states.
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
        **spent_facts(spent),
        "Requested by": body.requested_by or "not recorded",
        "Test period": str(body.period),
        "Decision": f"entry {decision.seq} of the ledger, {decision.at}, sha256 {decision.digest()}",
        "Approvals": "; ".join(approvals) or ("none yet" if body.approvals else "none asked for by the plan"),
        "Promotion": (
            f"entry {promotion.seq} of the ledger, {promotion.at}, sha256 {promotion.digest()}" if promotion else "none"
        ),
        "This report without this block": f"sha256 {own}",
    }
    if told is not None and told.verdict != PROMOTE:
        del facts["Approvals"]  # only a PROMOTE is approved
    if told is None and body.verdict == PROMOTE and body.approvals and promotion is None:
        facts["To approve"] = f"cxr-ops promote --run {body.run} --approved-by NAME"
    if own != body.report:
        facts["Full report"] = f"sha256 {body.report}; withheld while test period {body.period} is open"
    at = links or {}
    where = {name[:1].upper() + name[1:]: address for name, address in at.items()}
    rows = "".join(
        f"<div><dt>{html.escape(key)}</dt><dd>{_linked(html.escape(value), where.get(key))}</dd></div>"
        for key, value in facts.items()
    )
    beside = fill("second.html.j2", m=second) if second is not None else ""
    back = _ways_back(body, entries, proof) if proof else ""
    shown = [(name, _linked(_shown(value), at.get(name))) for name, value in _strip(decision)]
    strip = "".join(f"<span><b>{name}</b> {value}</span>" for name, value in shown)
    block = (
        f'<section class="strip" aria-label="Run and links">{strip}</section>'
        f'<section class="published" aria-label="Published record"><dl class="facts">{rows}</dl>'
        f"{beside}{back}</section>"
    )
    mark = PUBLISHED_MARK if PUBLISHED_MARK in report else "<body>"
    before, found, after = report.partition(mark)
    if not found:
        raise DataError(
            "report/report.html has no <body>",
            where=body.run,
            fix=f"run report again: cxr-ops stage report --run {body.run}",
        )
    page = f"{before}{found}{block}{after}"
    return page.replace(TOLD_MARK, f"{TOLD_MARK}{_verdict(told, promoted=promotion is not None)}", 1) if told else page


def text(
    summary: str,
    decision: Entry,
    promotion: Entry | None,
    *,
    told: Told | None = None,
    links: Mapping[str, str] | None = None,
) -> str:
    """Put what only publishing knows behind a report's Markdown text.

    Args:
        summary: `report/report.md`, or `report/summary.md` where that is withheld.
        decision: the ledger's decision on the run.
        promotion: the ledger's promotion of the run's model, if there is one.
        told: what is said of the verdict, where the text is the summary's.
        links: addresses of what the run is known by elsewhere, by name.
    """
    outcome = []
    if told is not None:
        outcome = [f"**{told.verdict}.** {_follows(told, promoted=promotion is not None)}"]
        lines = [f"* {markdown.escape(words.prose(one.sentence))} `{one.code}`" for one in told.reasons]
        outcome += ["\n".join(lines)] if lines else []
    named = {"decided": f"`{decision.at}`"} | decision.decision.linked(links or {})
    strip = "; ".join(f"{name} {value}" for name, value in named.items())
    return "\n\n".join([summary.rstrip("\n"), *outcome, strip]) + "\n"


def _strip(decision: Entry) -> list[tuple[str, str]]:
    """The one strip that a run has everywhere: when it was decided, and what it is called elsewhere."""
    body = decision.decision
    return [("decided", decision.at), *((name, value) for name, value in body.named().items() if value is not None)]


def _shown(value: str) -> str:
    """A digest by its first characters, with all of it for whoever points at it."""
    if re.fullmatch(r"[0-9a-f]{32,64}", value):
        return f'<code title="{value}">{value[:12]}</code>'
    return f"<code>{html.escape(value)}</code>"


def _linked(shown: str, address: str | None) -> str:
    """What is shown, as a link where there is an address; whoever is linked to learns nothing of this page."""
    return shown if address is None else f'<a href="{html.escape(address)}" rel="noreferrer noopener">{shown}</a>'


def spent_facts(spent: Spent | None) -> dict[str, str]:
    """What a training took, by name and in words; what was not measured says so.

    >>> spent_facts(Spent(training="", attempts=2, seconds=4210.0, processor_joules=7200.0))["Energy of the training"]
    'processors 2 Wh (RAPL, all of the machine); GPUs not measured'
    >>> spent_facts(None)["Training time"]
    'not measured: nobody trained here, or its weights are those of an earlier run'
    """
    if spent is None:
        return {"Training time": "not measured: nobody trained here, or its weights are those of an earlier run"}
    hours, rest = divmod(round(spent.seconds), 3600)
    time = f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
    attempts = f", {spent.attempts} attempts together" if spent.attempts > 1 else ""
    measured = {
        "processors": (spent.processor_joules, " (RAPL, all of the machine)"),
        "GPUs": (spent.gpu_joules, " (their own word, read every few seconds)"),
    }
    energy = [
        f"{name} not measured" if joules is None else f"{name} {joules / 3600:.3g} Wh{how}"
        for name, (joules, how) in measured.items()
    ]
    return {"Training time": time + attempts, "Energy of the training": "; ".join(energy)}


def _follows(told: Told, *, promoted: bool) -> str:
    if promoted:
        return "The challenger is the champion."
    if told.verdict == PROMOTE:
        return "The challenger is not promoted yet."
    return "The champion stays in use." if told.champion else "No model is put in use."


def _verdict(told: Told, *, promoted: bool) -> str:
    """What a summary's first section says of how the run ended."""
    follows = _follows(told, promoted=promoted)
    order = [*Code]  # neither the number of reasons nor their order tells how many findings fell short
    reasons = sorted(told.reasons, key=lambda one: order.index(Code(one.code)))
    said = [(html.escape(words.prose(one.sentence)), html.escape(one.code)) for one in reasons]
    lines = [f'<li><span>{sentence}</span> <code class="code">{code}</code></li>' for sentence, code in said]
    if not lines and told.reasons_told:
        lines = ["<li>The gate gave no reason. Do not rely on a verdict without reasons.</li>"]
    if not told.reasons_told:
        lines.append("<li>The reasons that come from the test set are for people who approve and audit.</li>")
    outside = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in told.outside)
    shade = told.verdict.split()[0].lower()
    return (
        f'<div class="verdict {shade}"><p class="word">{html.escape(told.verdict)}</p><p>{follows}</p></div>'
        f'<h2>Reasons</h2><ul class="reasons">{"".join(lines)}</ul>'
        + (f"<h3>Outside the plan</h3><ul>{outside}</ul>" if outside else "")
    )


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
