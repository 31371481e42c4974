"""Records of what `gate` decided, and on what grounds."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import AliasChoices, Field

from cxr_ops.records.base import Kept, Record
from cxr_ops.records.inputs import Champion, OtherPlan, Plan, Reference

# One of the 14 findings, or a composite of the plan. A finding's name begins with a capital; a composite's has none.
Judged = str


class Reason(Record):
    """Why a verdict is what it is: a code of the closed set in `cxr_ops.stats.rule`, what it concerns, numbers."""

    code: str
    finding: Judged | None = None
    subgroup: str | None = None
    sentence: str
    numbers: dict[str, float | int | None] = {}


class Check(Record):
    """One thing that the plan asks for, and what the evidence shows of it.

    kind: `floor` (of the challenger's AUC), `margin` (of an AUC difference), `sparse` (of the same, if a few patients
    fail outright), `composite` (of the mean over several findings), `sensitivity`, `specificity` and `brier`
    (of a difference), `slope` (of the challenger's calibration), `missed` and `alarmed` (shares of images that the
    challenger alone calls wrongly). against: which model the difference is from, or whose right calls are counted.
    finding: None for the macro-AUC. subgroup: None for all patients.
    limit: what `low` must lie above; upper: what `high` must lie below; None where that side is not asked for.
    value, low, high: the estimate, its one-sided bounds at the plan's alpha.
    outcome: `met`; `failed` (evidence against it); `unclear` (too little evidence); `undefined` (there is no number).
    needed: patients (of a finding: positive patients, for its specificity negative ones) that would show it if it is
    true; None where nobody can say.
    """

    kind: Literal[
        "floor", "margin", "sparse", "composite", "sensitivity", "specificity", "slope", "brier", "missed", "alarmed"
    ]
    against: Literal["champion", "reference"] | None = None
    finding: Judged | None = None
    subgroup: str | None = None
    limit: float | None
    upper: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    outcome: Literal["met", "failed", "unclear", "undefined"]
    needed: int | None = None


class Verdict(Kept):
    """What `gate` decided and on what grounds: `gate/verdict.json`.

    `evidence_says` is what the evidence alone would give; `verdict` differs from it where the record forbids a
    promotion (an unrecorded look). `checks` are all that the plan asked for, each judged one-sided at `alpha`, which is
    the level of the look; `spending` says why it is that, and nothing where the ledger had no say. `notice` is the
    plan's own. `approvals` are the people who must agree: the plan's number, or more where a hold (a harm signal, a
    gain too good to be true) asks for it. `limited_findings` are those that the plan judges by its widest margin.
    `superior` says that the macro-AUC beats the reference's at the level that the look has for that,
    `superior_findings` which findings beat the champion's (Holm's correction). `looks` counts the looks of the test
    period, this one included. `other_plan` is that of `inputs.json`. Formats before 2 call the period `epoch`.
    """

    newest: ClassVar[int] = 2

    format: int = newest

    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
    evidence_says: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
    reasons: list[Reason]
    plan: Plan
    approvals: int
    clinical_use: bool
    challenger: str
    champion: Champion
    reference: Reference | None = None
    test_digest: str
    evaluation: str
    inputs: str
    alpha: float | None = None
    spending: str = ""
    notice: str = ""
    checks: list[Check] = []
    limited_findings: list[str] = []
    superior: bool = False
    superior_findings: list[str] = []
    period: int = Field(1, validation_alias=AliasChoices("period", "epoch"))
    looks: int | None = None
    other_plan: OtherPlan | None = None
