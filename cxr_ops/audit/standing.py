"""What is in use, what was decided, and what waits, after a ledger's entries, as it is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cxr_ops.audit import rules
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.history import History, Judged, Reign, history
from cxr_ops.audit.public import Shown
from cxr_ops.audit.state import (
    find_decision,
    last_promotion,
    open_period,
    period_limits,
    reference_after,
    rolled_back,
    taken_looks,
)
from cxr_ops.contract import PROMOTE


@dataclass(frozen=True, kw_only=True)
class Model:
    """A version of the model that was decided on.

    Attributes:
        version: its number in the registry; package: the digest of its package.
        run: the run of its last decision, which was made `decided`, ISO 8601 in UTC, with this `verdict` as it is told.
        standing: `champion`, `was champion`, `rolled back`, or what becomes of the run (`outcome`).
        reference: whether challengers are held against it.
        since, until: of the last time that it was champion; None where it never was, or still is.
    """

    version: str
    package: str
    run: str
    decided: str
    verdict: str
    standing: str
    reference: bool
    since: str | None = None
    until: str | None = None


@dataclass(frozen=True, kw_only=True)
class Standing:
    """Where an installation stands.

    Attributes:
        champion: the model in use, None before the first release.
        reference: the version that challengers are held against.
        waiting: runs whose promotion waits for people, or for the command, with what they wait for.
        last: the last decisions, the newest first, with what became of each.
        period: the open test period; looks: spent in it; max_looks: allowed by the strictest plan that it has seen.
        entries: of the ledger; head: digest of the last one.
    """

    champion: Reign | None
    reference: str | None
    waiting: tuple[tuple[Judged, str], ...]
    last: tuple[tuple[Judged, str], ...]
    period: int
    looks: int
    max_looks: int | None
    entries: int
    head: str | None


def standing(told: Sequence[Shown], *, most: int = 5) -> Standing:
    """Where an installation stands after these entries; `most` decisions are listed."""
    entries = [one.entry for one in told]
    found = history(told)
    outcomes = [(judged, outcome(entries, found, judged)) for judged in found.judged]
    reference, period = reference_after(entries), open_period(entries).number
    limits = period_limits(entries, period)
    return Standing(
        champion=found.reigns[-1] if found.reigns else None,
        reference=reference.version if reference else None,
        waiting=tuple(one for one in outcomes if one[1].startswith("waits")),
        last=tuple(reversed(outcomes[-most:])),
        period=period,
        looks=len(taken_looks(entries, period)),
        max_looks=limits.max_looks if limits else None,
        entries=len(entries),
        head=entries[-1].digest() if entries else None,
    )


def models(told: Sequence[Shown]) -> tuple[Model, ...]:
    """Every version of the model that was decided on, the newest first."""
    entries = [one.entry for one in told]
    found, reference = history(told), reference_after(entries)
    last = {judged.identifiers.model_version: judged for judged in found.judged}
    reigns = {reign.version: reign for reign in found.reigns}
    gone = rolled_back(entries)
    listed = []
    for version, judged in reversed(last.items()):
        package, reign = judged.identifiers.package or "", reigns.get(version or "")
        if reign is None:
            word = outcome(entries, found, judged)
        elif reign.until is None:
            word = "champion"
        else:
            word = "rolled back" if package in gone else "was champion"
        listed.append(
            Model(
                version=version or "",
                package=package,
                run=judged.identifiers.run,
                decided=judged.at,
                verdict=judged.verdict,
                standing=word,
                reference=reference is not None and reference.version == version,
                since=reign.since if reign else None,
                until=reign.until if reign else None,
            )
        )
    return tuple(listed)


def outcome(entries: list[Entry], found: History, judged: Judged) -> str:
    """What became of a run that was decided on, or what its promotion waits for, in a few words.

    Args:
        entries: the ledger.
        found: its history.
        judged: one of the decisions in it.
    """
    if judged.promoted:
        current = found.reigns[-1]
        return "champion" if current.run == judged.identifiers.run else "was champion"
    entry = find_decision(entries, judged.identifiers.run)
    if judged.verdict != PROMOTE or entry is None:
        return "not promoted"
    champion = last_promotion(entries)
    if (champion.digest() if champion else None) != entry.decision.champion:
        return "overtaken by another champion"
    missing = entry.decision.approvals - len(rules.signed(entries, entry))
    if missing > 0:
        return f"waits for {missing} approval{'s' if missing > 1 else ''}"
    return "waits for promote"
