"""Records of what a report adds to the evidence, and the report itself for machines."""

from __future__ import annotations

from typing import Literal

from cxr_ops.records.base import Kept, Record
from cxr_ops.records.evidence import Evaluation, Facts, Figure
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Inputs, Plan
from cxr_ops.records.verdict import Verdict


class Ages(Record):
    """Ages of patients in years, each patient's at the first image; `unknown` counts the patients without one."""

    youngest: float
    lower_quartile: float
    median: float
    upper_quartile: float
    oldest: float
    unknown: int


class Characteristics(Record):
    """Who the patients of a part of the data are.

    sexes: sex -> patients; "" is unknown, `several` a patient whose images say different ones. views: view -> images.
    ages: None where none is on record.
    """

    name: str
    images: int
    patients: int
    sexes: dict[str, int]
    views: dict[str, int]
    ages: Ages | None


class SettingChange(Record):
    """A setting that the challenger was made with and the champion was not, both as text: `not on record` is one."""

    name: str
    champion: str
    challenger: str


class Predictive(Record):
    """Predictive values of the challenger's calls for a finding at a prevalence.

    origin: whether the prevalence is that of the scored images, or one that the settings state.
    """

    finding: str
    prevalence: float
    origin: Literal["scored", "stated"]
    positive: Figure
    negative: Figure


class Excluded(Record):
    """Images, and the patients of them, that leave the flow at a step, with the reason in words."""

    reason: str
    images: int
    patients: int | None = None


class Counted(Record):
    """A part of the data by its name: images, and patients who have one among them."""

    name: str
    images: int
    patients: int


class Flow(Record):
    """How images come from batches to the sides of the split.

    left_out: rows of the sources' tables that never entered, with the reason: left out of a batch that was accepted
    with quarantine, or of a batch that was refused; nobody knows of how many patients. unrecorded: batches of an
    earlier version, of which nobody knows what was left out. batches: as they entered the data set. total: all of
    them, each patient once. corrected: images of which labels were corrected after they had entered. excluded: what is
    on no side of the split, with the reason. sides: train, validation, test.
    """

    left_out: list[Excluded] = []
    unrecorded: list[str] = []
    corrected: int = 0
    batches: list[Counted]
    total: Counted
    excluded: list[Excluded]
    sides: list[Counted]


class Answered(Record):
    """An item of a guideline: what it asks for, what the records say, and which sections of the report say more.

    Where `says` is empty, no record answers it: a person must.
    """

    item: str
    asks: str
    says: list[str]
    sections: list[str]


class Guideline(Record):
    """What a guideline asks a report for, item by item; `origin` is where it stands."""

    name: str
    origin: str
    items: list[Answered]

    @property
    def filled(self) -> int:
        """How many items the records answer."""
        return sum(bool(one.says) for one in self.items)


class Told(Record):
    """What stands at the top of a report: sentences and notices, "" where there is none.

    headline: what changes, and for whom. outcome: what the verdict means for the model in use. missing: sentences on
    what could not be shown, because a file is missing or damaged.
    """

    headline: list[str]
    outcome: str
    notice: str
    data_notice: str
    other_plan: str
    unscored: str
    missing: list[str] = []


class Report(Kept):
    """A report for machines: `report/report.json`, with what `report/report.html` shows but its pictures.

    The verdict, the evidence, the inputs and the cases are those records as they are. changes: None where the champion
    does not say what it was made with, or where there is none. training, model: facts by name, as text.
    """

    title: str
    told: Told
    verdict: Verdict
    evaluation: Evaluation
    inputs: Inputs
    flow: Flow
    characteristics: list[Characteristics]
    positives: dict[str, dict[str, int]]
    changes: list[SettingChange] | None
    predictive: list[Predictive]
    training: dict[str, str]
    model: dict[str, str]
    explanation: Explanation
    guidelines: list[Guideline]
    digests: dict[str, str]


class Summary(Kept):
    """What people who tune may see while the test period is open: nothing that was measured on the test set.

    It is `report/summary.json`, for machines, and `report/summary.html` is made from it. `data_notice` says what
    generated data may not be used for; `other_plan` that another plan was expected, and in what this one asks for less;
    `unscored` that the test set was not scored; each is "" where there is nothing to say. `period`: the test period and
    how many looks it has had, in words. validation_macro: model -> macro-AUC on the validation set. training, model: as
    in `Report`. digests: what -> SHA-256 or commit.
    """

    title: str
    plan: Plan
    clinical_use: bool
    notice: str
    data_notice: str
    other_plan: str
    unscored: str
    period: str
    validation_macro: dict[str, float]
    facts: Facts | None
    training: dict[str, str]
    model: dict[str, str]
    digests: dict[str, str]
