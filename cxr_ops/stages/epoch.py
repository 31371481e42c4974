"""epoch: open a new test epoch, or show the one that is open.

The looks of an epoch are counted on patients who were never scored before it. Opening a new one closes every batch that
has been scored: its test patients are retired, asked no more and never trained on. A data set that only grew restores
no look; this does, at the cost of those patients.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Entry, EpochOpened, Look
from cxr_ops.audit.state import epoch_limits, open_epoch, plan_in_force, spent_looks, strictest
from cxr_ops.contract import INPUTS
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store.batches import data_revision
from cxr_ops.errors import RefusedError, SettingsError
from cxr_ops.params import Params
from cxr_ops.records.inputs import Inputs


def begin(home: Home, *, by: str, reason: str) -> EpochOpened:
    """Close the open test epoch and begin the next one.

    Args:
        home: the installation.
        by: who decided it.
        reason: why, for those who read the ledger later.

    Returns:
        The new epoch, as it stands on the ledger.

    Raises:
        DataError: a look from before there were epochs does not say what was scored, and its run is gone.
        RefusedError: no look of the open epoch is spent, or no batch of the data set would be left.
        SettingsError: `by` or `reason` is blank.
        StorageError: the ledger or the store cannot be read or written.
    """
    if not by.strip() or not reason.strip():
        raise SettingsError("a test epoch is opened by somebody and for a reason", fix="--by NAME --reason TEXT")
    data = data_revision(home)
    batches = set(data.batches) if data else set()

    def decide(entries: list[Entry]) -> EpochOpened:
        epoch = open_epoch(entries)
        if not spent_looks(entries, epoch.number):
            raise RefusedError(
                f"no look of test epoch {epoch.number} is spent, so a new one would only lose patients",
                fix="retrain: the open epoch has all its looks",
            )
        scored = (_scored(home, entry.look) for entry in entries if entry.kind == "look")
        closed = set(epoch.closed_batches).union(*scored)
        if batches <= closed:
            raise RefusedError(
                f"every batch of the data set has been scored: test epoch {epoch.number + 1} would have no patient",
                where=f"{len(closed)} batch{'' if len(closed) == 1 else 'es'}: {', '.join(sorted(closed))}",
                fix="ingest patients who were never scored, as a new batch: cxr-ops ingest nih FOLDER --batch NAME",
            )
        return EpochOpened(number=epoch.number + 1, closed_batches=sorted(closed), by=by.strip(), reason=reason.strip())

    return open_ledger(home).append_if("epoch", decide).epoch


@dataclass(frozen=True, kw_only=True)
class OpenEpoch:
    """The open test epoch, and what is spent of it.

    Attributes:
        number: of the epoch, from 1.
        looks: looks spent in it.
        max_looks: how many the strictest allows of the plan of `params.yaml` and of those that the epoch has seen.
        plan: the name of the plan of `params.yaml`.
        in_force: the name of the plan in force; None before the first look.
        closed_batches: batches whose test patients are retired.
    """

    number: int
    looks: int
    max_looks: int
    plan: str
    in_force: str | None
    closed_batches: tuple[str, ...]

    def __str__(self) -> str:
        """Four lines for people."""
        return "\n".join(
            [
                f"test epoch      {self.number}",
                f"looks           {self.looks} of {self.max_looks} spent, under the plan {self.plan}",
                f"plan in force   {self.in_force or 'none yet: the first look puts its own there'}",
                f"closed batches  {', '.join(self.closed_batches) or 'none'}",
            ]
        )


def describe(home: Home) -> OpenEpoch:
    """Say which test epoch is open, what is spent of its looks, and which batches are closed.

    Raises:
        SettingsError: `params.yaml` or the plan is wrong.
        StorageError: the ledger cannot be read.
    """
    plan = plans.load(home.project / Params.load(home.project / dvc.PARAMS).gate.plan)
    entries = open_ledger(home).entries()
    epoch = open_epoch(entries)
    limits = strictest([plan.limits, epoch_limits(entries, epoch.number)]) or plan.limits
    now = plan_in_force(entries)
    return OpenEpoch(
        number=epoch.number,
        looks=len(spent_looks(entries, epoch.number)),
        max_looks=limits.max_looks,
        plan=plan.name,
        in_force=now.plan.name if now is not None else None,
        closed_batches=tuple(epoch.closed_batches),
    )


def _scored(home: Home, look: Look) -> Iterable[str]:
    """The batches of a look. An entry from before there were epochs names none; its run's inputs do."""
    return look.batches or Inputs.read(home.workspace(look.run) / INPUTS).data.batches
