"""Records of what a run is opened with: `inputs.json` and the files beside it."""

from __future__ import annotations

from cxr_ops.records.base import Kept, Record
from cxr_ops.records.data import DataRevision


class Code(Record):
    """The code of a run: a commit, and whether it is a snapshot of uncommitted changes."""

    commit: str
    dirty: bool


class Champion(Record):
    """The model in use when the run was opened: `champion/champion.json`.

    `package` is the digest of its package, None before the first release; `version` its number in the registry;
    `entry` the ledger's promotion entry that made it champion; `recipe` the digest of what its training depended on.
    """

    package: str | None = None
    version: str | None = None
    entry: str | None = None
    recipe: str | None = None


class Reference(Record):
    """The frozen model that every challenger is also judged against: package digest and number in the registry."""

    package: str
    version: str


class Epoch(Record):
    """A test epoch: the test set that looks are counted on.

    `number` counts from 1. `closed_batches` are the batches of earlier epochs: a test patient with an image in one of
    them has been scored before and is no longer asked.
    """

    number: int = 1
    closed_batches: list[str] = []


class LedgerState(Record):
    """Where the ledger stood: number of entries, digest of the last one, promotions so far, looks.

    `looks` are those spent in the open test epoch; `looked` are their (model, test digest), so that scoring the same
    model on the same test set again is known to be no new look.
    """

    entries: int
    head: str | None
    looks: int
    looked: list[tuple[str, str]] = []
    promotions: int = 0


class Plan(Record):
    """Which change-control plan governs the run: its name and the SHA-256 of its file."""

    name: str
    path: str
    sha256: str


class Inputs(Kept):
    """All that DVC cannot see, in one file (`inputs.json`) that `evaluate` and `gate` depend on.

    `ledger` is None for a run opened without one: its look is unrecorded and it cannot promote.
    """

    code: Code
    data: DataRevision
    champion: Champion
    reference: Reference | None = None
    epoch: Epoch = Epoch()
    ledger: LedgerState | None
    plan: Plan
    image: str | None = None
