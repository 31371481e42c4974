"""Who was champion when, by whom and why: the ledger's promotions, rollbacks and decisions as a history.

It is made of entries as they are told (`audit.public`), so that a history tells no more than the ledger does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import zip_longest

from cxr_ops.audit.entries import Decision, Entry
from cxr_ops.audit.public import Shown
from cxr_ops.errors import SettingsError
from cxr_ops.records.run import Identifiers


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A run that was decided on, as it is told.

    Attributes:
        entry: digest of the decision.
        at: when it was decided, ISO 8601 in UTC.
        verdict: as it is told.
        plan: the name of the plan that it was judged under.
        requested_by: who started the run, where that is known.
        identifiers: what the run is known by.
        evaluation: digest of the run's evidence.
        figures_told: whether what the test set shows may be told of it.
        promoted: whether it ended in a promotion.
    """

    entry: str
    at: str
    verdict: str
    plan: str
    requested_by: str | None
    identifiers: Identifiers
    evaluation: str
    figures_told: bool
    promoted: bool


@dataclass(frozen=True, kw_only=True)
class Reign:
    """A time in which one model was the champion.

    Attributes:
        seq: number of the promotion's entry; entry: its digest.
        since: when it became the champion, ISO 8601 in UTC; until: when another did, None for the model in use.
        judged: the decision that it was promoted on; None only in a ledger whose promotion names none.
        package: digest of the package.
        version: of the model.
        approved_by: who agreed, in the order in which they did; nobody where the plan asks nobody.
        rolled_back_by: who brought it back, where a rollback did.
        reason: of the rollback.
        ended_by_rollback: whether a rollback took it out of use.
    """

    seq: int
    entry: str
    since: str
    until: str | None
    judged: Judged | None
    package: str
    version: str
    run: str
    approved_by: tuple[str, ...]
    rolled_back_by: str | None = None
    reason: str | None = None
    ended_by_rollback: bool = False

    @property
    def who(self) -> str:
        """The people who had a part in it, in words."""
        if self.rolled_back_by is not None:
            return self.rolled_back_by
        asked = f"asked for by {self.judged.requested_by}" if self.judged and self.judged.requested_by else ""
        agreed = f"approved by {', '.join(self.approved_by)}" if self.approved_by else ""
        return "; ".join(part for part in (asked, agreed) if part) or "-"

    @property
    def why(self) -> str:
        """Why it became the champion, in words."""
        if self.reason is not None:
            return f"rolled back: {self.reason}"
        return f"{self.judged.verdict} under the plan {self.judged.plan}" if self.judged else "no decision on record"


@dataclass(frozen=True, kw_only=True)
class History:
    """All champions and all decisions, the first first; `periods` are the times at which test periods opened."""

    reigns: tuple[Reign, ...]
    judged: tuple[Judged, ...]
    periods: tuple[tuple[int, str], ...] = ()

    def during(self, begin: datetime, end: datetime) -> tuple[Reign, ...]:
        """The champions that were in use at some instant from `begin` on and before `end`."""
        return tuple(
            reign
            for reign in self.reigns
            if _time(reign.since) < end and (reign.until is None or _time(reign.until) > begin)
        )


def history(told: Sequence[Shown]) -> History:
    """The history that a ledger tells.

    Args:
        told: its entries: `public.shown` for people who tune, `public.whole` for auditors.
    """
    entries = [one.entry for one in told]
    promotions = [entry for entry in entries if entry.kind == "promotion"]
    promoted = {entry.promotion.decision for entry in promotions}
    approvals = {entry.digest(): entry.approval.by for entry in entries if entry.kind == "approval"}
    judged = {
        one.entry.digest(): _judged(one, promoted=one.entry.digest() in promoted)
        for one in told
        if one.entry.kind == "decision"
    }
    reigns = [_reign(entry, after, approvals, judged) for entry, after in zip_longest(promotions, promotions[1:])]
    periods = tuple((entry.period.number, entry.at) for entry in entries if entry.opens_period)
    return History(reigns=tuple(reigns), judged=tuple(judged.values()), periods=periods)


def _judged(one: Shown, *, promoted: bool) -> Judged:
    decision: Decision = one.entry.decision
    return Judged(
        entry=one.entry.digest(),
        at=one.entry.at,
        verdict=one.verdict or decision.verdict,
        plan=decision.plan,
        requested_by=decision.requested_by,
        identifiers=decision.identifiers,
        evaluation=decision.evaluation,
        figures_told=not one.withheld,
        promoted=promoted,
    )


def _reign(entry: Entry, after: Entry | None, approvals: dict[str, str], judged: dict[str, Judged]) -> Reign:
    promotion = entry.promotion
    rollback = promotion.rollback
    return Reign(
        seq=entry.seq,
        entry=entry.digest(),
        since=entry.at,
        until=after.at if after is not None else None,
        judged=judged.get(promotion.decision),
        package=promotion.package,
        version=promotion.model_version,
        run=promotion.run,
        approved_by=tuple(approvals[digest] for digest in promotion.approvals if digest in approvals),
        rolled_back_by=rollback.by if rollback else None,
        reason=rollback.reason if rollback else None,
        ended_by_rollback=after is not None and after.promotion.rollback is not None,
    )


def span(text: str) -> tuple[datetime, datetime]:
    """The time that a person means by a date or an instant: a whole day in UTC, or that instant.

    Raises:
        SettingsError: it is neither.

    >>> [str(end) for end in span("2026-03-01")]
    ['2026-03-01 00:00:00+00:00', '2026-03-02 00:00:00+00:00']
    >>> str(span("2026-03-01T12:00+01:00")[0])
    '2026-03-01 11:00:00+00:00'
    """
    wanted = text.strip()
    try:
        if "T" not in wanted and " " not in wanted:
            day = date.fromisoformat(wanted)
            begin = datetime(day.year, day.month, day.day, tzinfo=UTC)
            return begin, begin + timedelta(days=1)
        begin = datetime.fromisoformat(wanted)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"{text!r} is no date", where="--at", fix="for example --at 2026-03-01, or --at 2026-03-01T14:30 (UTC)"
        ) from error
    begin = begin.replace(tzinfo=UTC) if begin.tzinfo is None else begin.astimezone(UTC)
    return begin, begin + timedelta(microseconds=1)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
