"""The ledger for people: a line an entry, what happened and who had a part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cxr_ops import contract
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.public import Shown
from cxr_ops.report import tables

if TYPE_CHECKING:
    from rich.table import Table

DIGITS: Final = 8  # of a digest: enough to tell those of one ledger apart, and `cxr-ops lineage` understands it


@dataclass(frozen=True, kw_only=True)
class Line:
    """An entry in words.

    Attributes:
        seq: its number, from 1.
        at: when it was made, in UTC, to the second.
        kind: the kind of the entry.
        what: what happened, in a clause.
        who: the people who had a part in it, with commas between; empty where nobody is named.
        run: the run that it is about; empty for a new test period or plan.
        digest: the first characters of its digest.
    """

    seq: int
    at: str
    kind: str
    what: str
    who: str
    run: str
    digest: str


def lines(entries: Sequence[Shown]) -> list[Line]:
    """Put entries into words, in their order; people are named as the entries name them."""
    approved = {one.entry.digest(): one.entry.approval.by for one in entries if one.entry.kind == "approval"}
    return [_line(one, approved) for one in entries]


def table(found: Sequence[Line]) -> Table:
    """Tabulate lines, to be printed with rich."""
    made = tables.plain()
    made.add_column("", justify="right", no_wrap=True)
    made.add_column("time (UTC)", no_wrap=True)
    made.add_column("kind", no_wrap=True)
    for name in ("what", "who", "run"):
        made.add_column(name, overflow="fold")  # never cut: it must be possible to copy them
    made.add_column("digest", no_wrap=True)
    for line in found:
        made.add_row(str(line.seq), line.at, line.kind, line.what, line.who or "-", line.run or "-", line.digest)
    return made


def _line(shown: Shown, approved: dict[str, str]) -> Line:
    entry = shown.entry
    if shown.body is None:
        what = "withheld while its test period is open"
        return _named(entry, kind="withheld", what=what, who="", run="")
    run, what, who = "", "", ""
    match entry.kind:
        case "look":
            look = entry.look
            run = look.run
            what = f"{look.role} {_short(look.model)} on test set {_short(look.test_digest)}, period {look.period}"
        case "decision":
            decision = entry.decision
            run, who = decision.run, decision.requested_by or ""
            asks = f", {decision.approvals} must agree" if shown.verdict == contract.PROMOTE else ""
            what = f"{shown.verdict}: version {decision.model_version}, plan {decision.plan}{asks}"
        case "approval":
            approval = entry.approval
            run, who, what = (
                approval.run,
                approval.by,
                f"of decision {_short(approval.decision)}{_why(approval.reason)}",
            )
        case "rejection":
            rejection = entry.rejection
            run, who = rejection.run, rejection.by or ""
            what = f"of decision {_short(rejection.decision)}{_why(rejection.reason)}"
        case "promotion":
            promotion = entry.promotion
            run, who = promotion.run, ", ".join(approved.get(digest, "?") for digest in promotion.approvals)
            what = f"version {promotion.model_version} is the champion, package {_short(promotion.package)}"
            if (rollback := promotion.rollback) is not None:
                who, what = rollback.by, f"rolled back: {what}; {rollback.reason}"
        case "period" | "epoch":
            opened = entry.period
            who = opened.by
            what = f"test period {opened.number}: {opened.reason}; closed {', '.join(opened.closed_batches)}"
        case "purge":
            purge = entry.purge
            who = purge.by
            trained = f"; trained on by version {', '.join(purge.models)}" if purge.models else ""
            what = f"a patient with {purge.images} images was purged from every version{trained}; {purge.reason}"
        case "plan":
            plan, limits = entry.plan, entry.plan.limits
            who = plan.by or ""
            code = ", committed code" if limits.require_clean_code else ""
            what = (
                f"the plan {plan.name} {_short(plan.sha256)} is in force: {limits.max_looks} looks, "
                f"{limits.approvals} must agree, disclosure {limits.disclosure}{code}; {plan.reason}"
            )
        case "incident":
            found = entry.incident
            what = "; ".join(f"{one}{' (repaired)' if one in found.repaired else ''}" for one in found.found)
    return _named(entry, kind=entry.kind, what=what, who=who, run=run)


def _named(entry: Entry, *, kind: str, what: str, who: str, run: str) -> Line:
    return Line(
        seq=entry.seq,
        at=entry.at[:19].replace("T", " "),
        kind=kind,
        what=what,
        who=who,
        run=run,
        digest=_short(entry.digest()),
    )


def _why(reason: str | None) -> str:
    return f"; {reason}" if reason else ""


def _short(digest: str) -> str:
    return digest[:DIGITS]
