"""The ledger as people who tune may read it while a test period is open: no more of a run than its plans tell.

The files of the ledger hold everything, because the record must be whole. This is for what is printed of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from cxr_ops.audit import telling
from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.audit.state import open_period, period_limits
from cxr_ops.contract import PROMOTE
from cxr_ops.records.inputs import Limits


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An entry as it is told.

    Attributes:
        entry: as it stands on the ledger.
        body: what may be told of it; None where even its kind is withheld.
        verdict: of a decision, as it is told.
        withheld: the keys of the body that may have another value on the ledger, or `*`.
    """

    entry: Entry
    body: dict[str, Any] | None
    verdict: telling.Told | None = None
    withheld: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry as it is told, with its digest, and with the keys of the body that may be others on the ledger."""
        said = {**self.entry.model_dump(mode="json"), "body": self.body, "digest": self.entry.digest()}
        if self.body is None:
            said["kind"] = "withheld"
        if self.withheld:  # the seal is one more digest that guesses can be held against
            said |= {"seal": None, "withheld": list(self.withheld)}
        return said


def verdict(entries: Sequence[Entry], decision: Entry) -> telling.Told:
    """The verdict of a decision on the ledger, as it is told now."""
    return _Plans(entries).verdict(decision.decision)


def whole(entries: Sequence[Entry]) -> list[Shown]:
    """Each entry with all that the ledger says, for auditors and approvers."""
    verdicts = [entry.decision.verdict if entry.kind == "decision" else None for entry in entries]
    return [Shown(entry=entry, body=entry.body, verdict=word) for entry, word in zip(entries, verdicts, strict=True)]


def shown(entries: Sequence[Entry]) -> list[Shown]:
    """Each entry as people who tune may read it.

    Of a decision the verdict, the people who must agree and the holds are told as `publish` tells them. The digest of
    the verdict's file is left out too: with it, few guesses would find the decision that has the entry's digest. An
    approval or a rejection is withheld until the model is promoted, since only a PROMOTE is asked about.
    """
    plans = _Plans(entries)
    decisions = {entry.digest(): entry.decision for entry in entries if entry.kind == "decision"}
    found: list[Shown] = []
    for entry in entries:
        if entry.kind == "decision":
            found.append(_decision(plans, entry))
        elif entry.kind in ("approval", "rejection") and (about := decisions.get(entry.body["decision"])) is not None:
            hidden = plans.verdict(about) != about.verdict
            found.append(Shown(entry=entry, body=None if hidden else entry.body, withheld=("*",) if hidden else ()))
        else:
            found.append(Shown(entry=entry, body=entry.body))
    return found


def _decision(plans: _Plans, entry: Entry) -> Shown:
    body = entry.decision
    limits, told = plans.of(body), plans.verdict(body)
    if limits is None:
        return Shown(entry=entry, body=entry.body, verdict=told)
    reasons = telling.tells_reasons(limits) or told == PROMOTE
    said = {
        "verdict": told,
        "approvals": telling.approvals(body.approvals, told, limits),
        "holds": list(body.holds) if reasons else [],
        "verdict_digest": None,
    }
    # All of these keys, also those that are as on the ledger: which they are would tell of the others.
    return Shown(entry=entry, body={**entry.body, **said}, verdict=told, withheld=tuple(said))


class _Plans:
    """What the plans of the open test period let be told of decisions, worked out once for a ledger."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        known = list(entries)
        self._period = open_period(known).number
        limits = period_limits(known, self._period)
        self._limits = None if limits is None or limits.disclosure == "all" else limits
        self._promoted = {entry.promotion.run for entry in known if entry.kind == "promotion"}

    def of(self, decision: Decision) -> Limits | None:
        """The limits by which a decision is told; None where nothing of it is withheld."""
        return self._limits if decision.period == self._period else None

    def verdict(self, decision: Decision) -> telling.Told:
        """The verdict as it is told."""
        return telling.verdict(decision.verdict, self.of(decision), promoted=decision.run in self._promoted)
