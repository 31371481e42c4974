"""Records of what a run is opened with: `inputs.json` and the files beside it."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import AliasChoices, Field, model_validator

from cxr_ops.records.base import Kept, Record, canonical_json, sha256_bytes
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


class Period(Record):
    """A test period: the test set that looks are counted on.

    `number` counts from 1. `closed_batches` are the batches of earlier periods: a test patient with an image in one of
    them has been scored before and is no longer asked.
    """

    number: int = 1
    closed_batches: list[str] = []


class Earlier(Record):
    """The test set that the champion was judged on when it was promoted, as the ledger has it.

    `batches` are those that were scored, `closed_batches` those of the test periods before: a patient with an image in
    one of them was asked no more.
    """

    run: str
    test_digest: str
    period: int
    batches: list[str]
    closed_batches: list[str] = []


class LedgerState(Record):
    """Where the ledger stood: number of entries, digest of the last one, promotions so far, looks.

    `looks` are those spent in the open test period; `looked` are their (model, test digest), so that scoring the same
    model on the same test set again is known to be no new look; but see `Allowance.claims`.
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


class Spending(Record):
    """How a plan spends the error of a test period; see `cxr_ops.stats.levels`.

    `equal`: every look is judged at `alpha`. `recycled`: the period holds `period_alpha`, a look spends
    `success_weight` of what its node holds, and what it leaves goes in equal parts to the `told_failures` outcomes of a
    look without promotion that people who tune can tell apart. `max_looks`: looks in a period.
    """

    method: Literal["equal", "recycled"]
    alpha: float | None = Field(None, gt=0, lt=0.5)
    period_alpha: float | None = Field(None, gt=0, lt=1)
    success_weight: float | None = Field(None, gt=0, lt=1)
    told_failures: int = Field(1, ge=1)
    max_looks: int = Field(ge=1)

    @model_validator(mode="after")
    def _has_its_terms(self) -> Self:
        if self.method == "equal" and (self.alpha is None or self.success_weight is not None):
            raise ValueError("equal looks have alpha, and no success_weight")
        if self.method == "recycled" and (
            self.alpha is not None or self.period_alpha is None or self.success_weight is None
        ):
            raise ValueError("recycled looks have period_alpha and success_weight, and no alpha")
        return self


class Level(Record):
    """What one look may spend.

    `checks`: one-sided error of each check. `superiority`: the same of the claim that a model beats the reference, by
    which the reference rises.
    """

    checks: float = Field(gt=0, lt=0.5)
    superiority: float = Field(gt=0, lt=0.5)


class Allowance(Record):
    """What the looks of a test period may spend, as the ledger had it when the run was opened.

    `taken` are the levels of the looks so far, in the order of `LedgerState.looked`, `promoted` says which of them
    ended in a promotion, `claims` what each was about (`claim_of`; None where nobody knows, as in a look of an earlier
    version without a decision), and `told` how many outcomes without promotion could be told apart (None: without
    number). `next` is the level of a look that is none of these: the same model on the same test set may be one, where
    the claim is another.
    """

    taken: list[Level] = []
    claims: list[str | None] = []
    promoted: list[bool] = []
    told: list[int | None] = []
    next: Level


def claim_of(champion: str | None, reference: str | None, plan_sha256: str) -> str:
    """The digest of what a challenger is claimed to be as good as, and by which plan.

    The same model against another champion, or by other margins, is another claim, and its look is another look.

    Args:
        champion: the ledger's entry that made it champion.
        reference: the digest of the reference's package.
        plan_sha256: of the plan's file.
    """
    return sha256_bytes(canonical_json({"champion": champion, "reference": reference, "plan": plan_sha256}))


class Limits(Record):
    """What a plan limits around the evidence, as far as one plan is stricter in it than another.

    `max_looks`: looks in a test period. `approvals`: people who must agree. `disclosure`: what people who tune see
    while the period is open. `require_clean_code`: whether only committed code is promoted. `spending`: how the error
    of the period is spent, of each plan that has a say in it: a look may spend the least that any allows. An entry of
    an earlier version names none.
    """

    max_looks: int
    approvals: int
    disclosure: Literal["promotion", "verdict", "all"]
    require_clean_code: bool
    spending: tuple[Spending, ...] = ()


class OtherPlan(Record):
    """The plan that would have been expected, where a run is judged under another: the one in force, or the last one.

    `than` says which of the two it is. `looser` says, a clause each, in what the run's own plan asks for less; None
    where the expected plan's text is not known.
    """

    than: Literal["the plan in force", "the last decision's plan"]
    name: str
    sha256: str
    looser: list[str] | None


class RecordedLook(Kept):
    """The look at the test set that the ledger records for a run: `look.json`.

    `open` writes it empty, the supervisor fills it before `evaluate` scores: the challenger's package and the test set,
    as the ledger's `entry` (its digest) names them. Without a look the test set is not scored.
    """

    package: str | None = None
    test_digest: str | None = None
    entry: str | None = None


class Inputs(Kept):
    """All that DVC cannot see, in one file (`inputs.json`) that `evaluate` and `gate` depend on.

    `ledger` is None for a run opened without one: its look is unrecorded and it cannot promote. `limits` are the
    strictest of the run's own plan and of those that were in force or used in its test period when it was opened; None
    in a file of an earlier version, where the plan's own hold. `allowance` is None without a ledger, and in a file of
    an earlier version: then each look is a first one. `other_plan` is None where no other was expected. `earlier` is
    None without a champion, or where the ledger does not say what it was judged on. `refused` are the batches that were
    refused at ingestion and have not entered since, and the rows of each; 0 where that is not on record.
    Formats before 2 call the period `epoch`.
    """

    newest: ClassVar[int] = 2

    format: int = newest

    code: Code
    data: DataRevision
    champion: Champion
    reference: Reference | None = None
    period: Period = Field(Period(), validation_alias=AliasChoices("period", "epoch"))
    ledger: LedgerState | None
    plan: Plan
    limits: Limits | None = None
    allowance: Allowance | None = None
    other_plan: OtherPlan | None = None
    earlier: Earlier | None = None
    refused: dict[str, int] = {}
    image: str | None = None

    @property
    def claim(self) -> str:
        """What the challenger is claimed to be as good as; see `claim_of`."""
        return claim_of(self.champion.entry, self.reference.package if self.reference else None, self.plan.sha256)
