"""Records of what `evaluate` found: estimates, and values that do not exist with the reason why."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import AliasChoices, Field

from cxr_ops.records.base import Kept, Record
from cxr_ops.records.training import StartingWeights


class Undefined(Record):
    """A number that cannot be computed, why, and what would be needed to compute it."""

    undefined: Literal[True] = True
    reason: str
    needed: str | None = None


class Estimate(Record):
    """A number with its patient-clustered standard error, its bounds, and its confidence interval.

    `low` and `high` are one-sided bounds, each at half of what `level` leaves; they are what a plan's checks judge, and
    `method` and `df` say how they were made, so that a bound at another level can be computed
    (`cxr_ops.stats.auc.bounds`); without `df` the normal distribution is meant. Both bounds together are the confidence
    interval too, but for a difference of AUCs, which has an `interval` of its own (`cxr_ops.stats.difference`): people
    read `ci`. Records of earlier versions have no `interval`.

    `se_image` is the standard error that one would state if images of one patient were independent; it is for
    comparison only. A `logit_difference` of two AUCs also holds the `other` one, which was subtracted, and the standard
    error of the difference of their logits.
    """

    value: float
    se: float
    low: float
    high: float
    level: float
    df: float | None = None
    method: Literal["wald", "logit", "logit_difference", "separated", "separated_difference"] = "wald"
    se_image: float | None = None
    other: float | None = None
    se_logit: float | None = None
    interval: tuple[float, float] | None = None

    @property
    def ci(self) -> tuple[float, float]:
        """The confidence interval at `level`; the bounds where there is no other."""
        return (self.low, self.high) if self.interval is None else self.interval


Figure = Estimate | Undefined


class Support(Record):
    """How many images and patients an estimate is made from. A patient with both kinds counts in both."""

    positives: int
    negatives: int
    positive_patients: int
    negative_patients: int


class Side(Record):
    """The patients with an image of one kind, and those of them whose mean rank fell by more than half of all ranks.

    sizes: (images, how many patients have so many), rising. Of a mean over findings they are ten-thousandths of weight.
    fallen: images of the patients who fell so far, in the same measure; fallen_patients: how many they are.
    """

    sizes: list[tuple[int, int]]
    fallen: int
    fallen_patients: int


class Fallen(Record):
    """A patient whose rank fell: the mean placement of its positive images among the negative ones, in [0, 1].

    case: the digest of its first picture, as the report's pictures are called; "" where scores came without pictures.
    images: positive ones.
    """

    case: str = ""
    images: int
    before: float
    after: float


class Falls(Record):
    """How the ranks of patients moved from another model to the challenger; see `cxr_ops.stats.sparse`.

    error: standard error of the difference with each fall cut at half of all ranks.
    positive, negative: of patients with the finding, and without.
    patients: with the finding, whose rank fell, the largest fall first; only where a finding is limited.
    """

    error: float
    positive: Side
    negative: Side
    patients: list[Fallen] = []


class FindingEvidence(Record):
    """AUC of one finding: each model, and challenger minus champion and minus reference, on the same rows.

    `unscored` names the models that give no image a score for it. Such a finding is not judged, whoever has it.
    `falls` and `reference_falls` say how patients' ranks moved from champion and reference, in all patients only and
    where both models rank them in another order; records of earlier versions have none.
    """

    finding: str
    support: Support
    challenger: Figure
    champion: Figure | None
    difference: Figure | None
    reference: Figure | None = None
    reference_difference: Figure | None = None
    unscored: list[str] = []
    falls: Falls | None = None
    reference_falls: Falls | None = None


class Evidence(Record):
    """AUCs of all findings and their mean over `macro_over`, the findings that have enough patients and all scores.

    The figures of the reference are None where there is none, and where the champion is the reference.
    """

    findings: list[FindingEvidence]
    macro_challenger: Figure
    macro_champion: Figure | None
    macro_difference: Figure | None
    macro_reference: Figure | None = None
    macro_reference_difference: Figure | None = None
    macro_over: list[str]


class Paired(Record):
    """One figure of each model on the same rows, and challenger minus champion and minus reference."""

    challenger: Figure
    champion: Figure | None = None
    difference: Figure | None = None
    reference: Figure | None = None
    reference_difference: Figure | None = None


class ReliabilityBin(Record):
    """One point of a reliability curve: images of similar probability, their mean, and how many have the finding."""

    images: int
    predicted: float
    observed: float


class Flip(Record):
    """Images of one kind that the champion and the challenger call differently, in one direction.

    share: of all images of that kind. images, patients: how many flip, and of how many patients.
    """

    share: Figure
    images: int
    patients: int


class Flips(Record):
    """What the change from the champion to the challenger does to single images, each model at its own threshold.

    missed, found: images with the finding that the champion calls and the challenger does not, and the other way round.
    alarmed, cleared: images without it that the challenger calls and the champion does not, and the other way round.
    Equal sensitivities can hide many of them, since they add up to no difference (Yan et al., CVPR 2021, call the first
    of each pair negative flips).
    """

    missed: Flip
    found: Flip
    alarmed: Flip
    cleared: Flip


class Composite(Paired):
    """The mean AUC of findings that a plan judges together: of each model, and the paired differences.

    positive_patients: who have one of the findings. falls, reference_falls: as in `FindingEvidence`.
    """

    name: str
    findings: list[str]
    positive_patients: int
    falls: Falls | None = None
    reference_falls: Falls | None = None


class Performance(Record):
    """What a finding's probabilities are worth at a threshold and as probabilities.

    thresholds: model -> probability from which the finding is called, chosen on the validation set alone.
    recalibration: model -> (intercept, slope) on the logit scale, fitted on the validation set alone. Brier score,
    slope, intercept, expected calibration error (`ece`) and `reliability` are of the recalibrated probabilities.
    flips: from the champion to the challenger; None without a champion or without both thresholds, and in records of
    earlier versions.
    """

    finding: str
    support: Support
    average_precision: Paired
    thresholds: dict[str, float]
    sensitivity: Paired
    specificity: Paired
    recalibration: dict[str, tuple[float, float]]
    brier: Paired
    slope: Paired
    intercept: Paired
    ece: Paired
    reliability: dict[str, list[ReliabilityBin]]
    flips: Flips | None = None


class Localization(Record):
    """Where the heat maps of a finding lie, on the images that have an annotated box; see `stats.localization`.

    images, patients: that have a box. area: mean share of the picture that boxes cover, which is what a map without any
    place has as energy. chance: mean share of the challenger's cells that count as in a box, which a blind guess hits.
    Both are None where there is no box. overlap: threshold of the intersection over union, as text, -> share of images.
    """

    finding: str
    images: int
    patients: int
    area: float | None
    chance: float | None
    pointing: Paired
    energy: Paired
    overlap: dict[str, Paired]


class Blurred(Record):
    """What a region of the pictures is to a finding: the AUC that is left once it is blurred; see `stats.reliance`.

    auc: model -> its AUC with the region blurred. loss: model -> its AUC on the whole pictures, minus that.
    excess: the challenger's loss minus the champion's; None without a champion.
    """

    auc: dict[str, Figure]
    loss: dict[str, Figure]
    excess: Figure | None = None


class Reliance(Record):
    """What each model's scores of a finding rest on: region (of `data.regions`) -> what is lost without it."""

    finding: str
    regions: dict[str, Blurred]


class Alike(Record):
    """How alike a model's heat maps and others of the same images are: mean rank correlations over cells.

    overall: of all findings; `findings` of each one. See `stats.heat_maps`.
    """

    overall: Figure
    findings: dict[str, Figure]


class MapChecks(Record):
    """Whether heat maps depend on the weights, and whether they stay where the image hardly changes.

    images: of the sample, one a patient. draws: of random weights. random: step (`stats.heat_maps.STEPS`) -> model ->
    how alike its maps and those with random weights are. steady: change (`data.small_changes`) -> model -> the same of
    its maps of the changed images.
    """

    images: int
    draws: int
    random: dict[str, dict[str, Alike]]
    steady: dict[str, dict[str, Alike]]


class Parts(Record):
    """What a finding's AUC, or the mean, was when the champion was judged, what it is now, and what lies between.

    finding: None for the mean. learning: challenger minus champion, on the test set of now. potential: champion on the
    test set of now minus champion on the earlier one. retention: challenger minus champion, on the earlier one.
    """

    finding: str | None = None
    champion_earlier: Figure
    champion_now: Figure
    challenger_earlier: Figure
    challenger_now: Figure
    learning: Figure
    potential: Figure
    retention: Figure


class Change(Record):
    """A better model told from an easier test set; see `cxr_ops.stats.change`.

    images, patients: of the earlier test set that are here; shared: images that are in the test set of now too. exact:
    whether they are the images and labels that the champion was judged on; None where nobody knows. over: the findings
    that `mean` is over.
    """

    images: int
    patients: int
    shared: int = 0
    exact: bool | None = None
    over: list[str] = []
    mean: Parts
    findings: list[Parts] = []


class Subgroup(Evidence):
    """The evidence on the images of a subgroup, such as `view` = `AP`, or `sex, view` = `F, AP`."""

    attribute: str
    value: str
    images: int
    patients: int
    performance: list[Performance] = []

    @property
    def name(self) -> str:
        """How the subgroup is called in sentences and checks: `view=AP`."""
        names, values = self.attribute.split(", "), self.value.split(", ")
        return ", ".join(f"{name}={value}" for name, value in zip(names, values, strict=True))


class Scenario(Evidence):
    """The evidence with every uncertain label taken as 0, or as 1."""

    uncertain_as: Literal[0, 1]


class Facts(Record):
    """What the challenger is, for the plan to compare with what may change: from its own package and the manifest.

    settings: dotted keys of `params.yaml` (split, prepare, train) as they were used.
    """

    architecture: str
    findings: list[str]
    settings: dict[str, Any]
    sources: list[str]
    starting_weights: StartingWeights


class Evaluation(Kept, Evidence):
    """What `evaluate` found: `evaluate/evaluation.json`.

    `problems` are reasons, as (code, sentence), for which this evidence may not promote (permuted findings, training
    patients in the test set, ...). `uncertain` counts the uncertain labels of each finding that has some; `scenarios`
    holds both ways to take them, and is empty where there are none. `missing_groups` says in sentences which subgroups
    of the plan could not be formed; `composites` are those of the plan. `localization` is
    empty in records of earlier versions; `reliance` is empty, and `heat_maps` None, where the plan does not ask for it.
    `change` takes apart what changed since the champion was judged; it is None without a champion, and in records of
    earlier versions. `scored` is the set that all figures are of: the test set, or, where no look at it is on the
    ledger, the validation set; `test_images` and `test_patients` count that set, `test_digest` stays the test set's.
    `validation_macro` is each model's macro-AUC on the validation set.
    Formats before 2 call the period `epoch`.
    """

    newest: ClassVar[int] = 2

    format: int = newest

    test_digest: str
    test_images: int
    test_patients: int
    challenger: str
    champion: str | None
    reference: str | None = None
    period: int = Field(1, validation_alias=AliasChoices("period", "epoch"))
    problems: list[tuple[str, str]]
    subgroups: list[Subgroup] = []
    missing_groups: list[str] = []
    composites: list[Composite] = []
    performance: list[Performance] = []
    uncertain: dict[str, int] = {}
    scenarios: list[Scenario] = []
    localization: list[Localization] = []
    reliance: list[Reliance] = []
    heat_maps: MapChecks | None = None
    change: Change | None = None
    facts: Facts | None = None
    validation_macro: dict[str, float] = {}
    scored: Literal["test", "validation"] = "test"

    @property
    def points(self) -> dict[str, float]:
        """The challenger's operating points: finding -> probability from which it is called, where there is one."""
        found = {one.finding: one.thresholds.get("challenger") for one in self.performance}
        return {finding: at for finding, at in found.items() if at is not None}
