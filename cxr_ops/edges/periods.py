"""The test period: open a new one, or show the one that is open.

The looks of a test period are counted on patients who were never scored before it. Opening a new one closes every batch
that has been scored: its test patients are retired, asked no more and never trained on. A data set that only grew
restores no look; this does, at the cost of those patients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Entry, Look, PeriodOpened
from cxr_ops.audit.state import allowance, open_period, period_limits, plan_in_force, spent_looks, strictest
from cxr_ops.contract import INPUTS
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store.batches import data_revision
from cxr_ops.errors import RefusedError, SettingsError
from cxr_ops.params import Params
from cxr_ops.records.inputs import Inputs
from cxr_ops.stats import levels


def begin(home: Home, *, by: str, reason: str) -> PeriodOpened:
    """Close the open test period and begin the next one.

    Args:
        home: the installation.
        by: who decided it.
        reason: why, for those who read the ledger later.

    Returns:
        The new period, as it is on the ledger.

    Raises:
        DataError: a look from before there were periods does not say what was scored, and its run is gone.
        RefusedError: no look of the open period is spent, or no batch of the data set would be left.
        SettingsError: `by` or `reason` is blank.
        StorageError: the ledger or the store cannot be read or written.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError("a test period is opened by somebody and for a reason", fix="--by NAME --reason TEXT")
    data = data_revision(home)
    batches = set(data.batches) if data else set()

    def decide(entries: list[Entry]) -> PeriodOpened:
        period = open_period(entries)
        if not spent_looks(entries, period.number):
            raise RefusedError(
                f"no look of test period {period.number} is spent, so a new one would only lose patients",
                fix="retrain: the open period has all its looks",
            )
        scored = (_scored(home, entry.look) for entry in entries if entry.kind == "look")
        closed = set(period.closed_batches).union(*scored)
        if batches <= closed:
            raise RefusedError(
                f"every batch of the data set has been scored: test period {period.number + 1} would have no patient",
                where=f"{len(closed)} batch{'' if len(closed) == 1 else 'es'}: {', '.join(sorted(closed))}",
                fix="ingest patients who were never scored, as a new batch: cxr-ops ingest nih FOLDER --batch NAME",
            )
        return PeriodOpened(
            number=period.number + 1, closed_batches=sorted(closed), by=by.strip(), reason=reason.strip()
        )

    return open_ledger(home).append_if("period", decide).period


@dataclass(frozen=True, kw_only=True)
class OpenPeriod:
    """The open test period, and what is spent of it.

    Attributes:
        number: of the period, from 1.
        looks: looks spent in it.
        max_looks: how many the strictest allows of the plan of `params.yaml` and of those that the period has seen.
        next_level: the error of each check that a look may have which is taken now under the plan of `params.yaml`.
        why: why it is that, in a sentence or two.
        levels: of each look that was taken, what it could spend; `promoted`: whether it ended in a promotion.
        plan: the name of the plan of `params.yaml`.
        in_force: the name of the plan in force; None before the first look.
        closed_batches: batches whose test patients are retired.
    """

    number: int
    looks: int
    max_looks: int
    next_level: float
    why: str
    levels: tuple[float, ...]
    promoted: tuple[bool, ...]
    plan: str
    in_force: str | None
    closed_batches: tuple[str, ...]

    def __str__(self) -> str:
        """A line each for people, the looks that were taken among them."""
        left = "none: its looks are spent" if self.looks >= self.max_looks else f"{100 * self.next_level:.3g} %"
        return "\n".join(
            [
                f"test period     {self.number}",
                f"looks           {self.looks} of {self.max_looks} spent, under the plan {self.plan}",
                *(
                    f"  look {number:<9} {100 * level:.3g} %, {'promoted' if promoted else 'not promoted'}"
                    for number, (level, promoted) in enumerate(zip(self.levels, self.promoted, strict=True), 1)
                ),
                f"next look       {left}",
                f"  why           {self.why}",
                f"plan in force   {self.in_force or 'none yet: the first look puts its own there'}",
                f"closed batches  {', '.join(self.closed_batches) or 'none'}",
            ]
        )


def describe(home: Home) -> OpenPeriod:
    """Say which test period is open, what is spent of its looks, and which batches are closed.

    Raises:
        SettingsError: `params.yaml` or the plan is wrong.
        StorageError: the ledger cannot be read.
    """
    plan = plans.load(home.project / Params.load(home.project / dvc.PARAMS).gate.plan)
    entries = open_ledger(home).entries()
    period = open_period(entries)
    limits = strictest([plan.limits, period_limits(entries, period.number)]) or plan.limits
    now = plan_in_force(entries)
    allowed = allowance(entries, limits, period.number)
    return OpenPeriod(
        number=period.number,
        looks=len(spent_looks(entries, period.number)),
        max_looks=limits.max_looks,
        next_level=allowed.next.checks,
        why=levels.explain(limits.spending, allowed.promoted, allowed.told),
        levels=tuple(level.checks for level in allowed.taken),
        promoted=tuple(allowed.promoted),
        plan=plan.name,
        in_force=now.plan.name if now is not None else None,
        closed_batches=tuple(period.closed_batches),
    )


def _scored(home: Home, look: Look) -> Iterable[str]:
    """The batches of a look. An entry from before there were periods names none; its run's inputs do."""
    return look.batches or Inputs.read(home.workspace(look.run) / INPUTS).data.batches
