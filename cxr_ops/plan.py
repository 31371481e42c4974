"""The change-control plan: what may change without a new review, how it is shown to be safe, and who must agree.

Three parts, as in the FDA's guidance on predetermined change control plans (final, December 2024, issued again in
August 2025): description of modifications, modification protocol, impact assessment. All keys but the sentences are
executed by `cxr_ops.stats.rule`; the sentences are for the people who approve the plan. The SHA-256 of the file stands
in every decision.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxr_ops.errors import SettingsError
from cxr_ops.labels import FINDINGS, nearest
from cxr_ops.params import explain_validation
from cxr_ops.records.base import NEWER_FIX, sha256_bytes
from cxr_ops.records.inputs import Limits, Plan, Spending


def _finding(name: str) -> str:
    if name not in FINDINGS:
        guess = nearest(name, FINDINGS)
        raise ValueError(f"{name!r} is not a finding" + (f"; did you mean {guess!r}?" if guess else ""))
    return name


# What `cxr_ops.stats.evidence` can tell images apart by in any data set: columns of the manifest.
ATTRIBUTES: Final = ("sex", "age", "view", "source")
_OWN: Final = r"[a-z][a-z0-9_]{0,31}"  # a column of a side table; see `cxr_ops.data.side_table`


# Thresholds of the intersection over union at which boxes of heat maps are held against annotated ones, as Wang et al.
# (CVPR 2017) have them.
OVERLAPS: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)

FindingName = Annotated[str, AfterValidator(_finding)]
Scalar = bool | int | float | str
Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A part of the plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Bound(Part):
    """What one setting may be: exactly one of a value, a list of values, or a range with its ends included.

    With `or_unset` it may also be left unset, as `train.clip_norm: null` is.
    """

    equals: Scalar | None = None
    one_of: tuple[Scalar, ...] = ()
    range: tuple[float, float] | None = None
    or_unset: bool = False

    @model_validator(mode="after")
    def _is_one_kind(self) -> Self:
        if sum((self.equals is not None, bool(self.one_of), self.range is not None)) != 1:
            raise ValueError("give exactly one of equals, one_of and range")
        if self.range is not None and self.range[0] > self.range[1]:
            raise ValueError("the range ends below its start")
        return self

    def allows(self, value: object) -> bool:
        """Whether a setting may be this.

        >>> Bound(range=(1, 10)).allows(3), Bound(one_of=("none", "imagenet")).allows("a.safetensors")
        (True, False)
        """
        if value is None:
            return self.or_unset
        if self.range is not None:
            return (
                isinstance(value, int | float)
                and not isinstance(value, bool)
                and self.range[0] <= value <= self.range[1]
            )
        return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in self._values())

    def __str__(self) -> str:
        """The bound in words."""
        unset = " or unset" if self.or_unset else ""
        if self.range is not None:
            return f"{self.range[0]:.12g} to {self.range[1]:.12g}{unset}"
        return " or ".join(str(value) for value in self._values()) + unset

    def _values(self) -> tuple[Scalar, ...]:
        return self.one_of or (() if self.equals is None else (self.equals,))


class Bounds(Part):
    """What a challenger must be for this plan to cover it.

    Attributes:
        architecture: as its package names it.
        settings: dotted keys of `params.yaml` (sections split, prepare and train) and what each may be.
        other_settings: whether a setting that is not listed may be anything (`free`) or is outside the plan (`none`).
        sources: where data may come from, as the manifest's `source` says: `any`, or a list.
    """

    architecture: Text
    settings: dict[str, Bound] = {}
    other_settings: Literal["free", "none"]
    sources: Literal["any"] | tuple[Text, ...]

    def outside(self, settings: Mapping[str, object]) -> list[str]:
        """Say, a sentence each, which settings (dotted key to value) this plan does not cover; none is within it."""
        found: list[str] = []
        for key, bound in self.settings.items():
            if key not in settings:
                found.append(f"{key} is not on record; the plan allows {bound}.")
            elif not bound.allows(settings[key]):
                found.append(f"{key} is {settings[key]}; the plan allows {bound}.")
        if self.other_settings == "none":
            found += [
                f"{key} is {settings[key]}; the plan does not name this setting, and allows no other."
                for key in sorted(settings.keys() - self.settings.keys())
            ]
        return found

    def foreign(self, sources: Iterable[str]) -> list[str]:
        """Say in a sentence which sources of data this plan does not cover; nothing where it covers all."""
        others = [] if self.sources == "any" else sorted(set(sources) - set(self.sources))
        return [f"Data come from {', '.join(others)}; the plan allows {', '.join(self.sources)}."] if others else []


class DescriptionOfModifications(Part):
    """Part 1: what this plan lets change, and what needs a new review. `bounds` is what the gate compares with."""

    summary: Text
    may_change: tuple[Text, ...] = Field(min_length=1)
    must_not_change: tuple[Text, ...] = Field(min_length=1)
    bounds: Bounds


class DataManagement(Part):
    """How data are chosen, checked and kept apart."""

    summary: Text


class Retraining(Part):
    """How a challenger is made."""

    summary: Text


class Thresholds(Part):
    """What an AUC must show.

    Attributes:
        floor: the lower bound of the challenger's AUC must lie above it, at every release. Null asks for nothing.
        margin: the lower bound of challenger minus champion must lie above minus this.
    """

    floor: float | None = Field(ge=0, lt=1)
    margin: float = Field(gt=0, lt=1)


class FindingThresholds(Thresholds):
    """What each finding's AUC must show; `margins` names the findings whose margin is another."""

    margins: dict[FindingName, Annotated[float, Field(gt=0, lt=1)]] = {}

    def margin_of(self, finding: str) -> float:
        """The margin of a finding."""
        return self.margins.get(finding, self.margin)


def _attribute(name: Any, known: Sequence[str]) -> str:
    parts = [part.strip() for part in str(name).split(",")]
    for part in parts:
        if part not in known:
            guess = nearest(part, known)
            hint = f"; did you mean {guess!r}?" if guess else ""
            own = f"; if a side table brings it, write own_attributes: [{part}]" if re.fullmatch(_OWN, part) else ""
            raise ValueError(f"{part!r} is not one of {', '.join(known)}{hint}{own}")
    if len(set(parts)) != len(parts):
        raise ValueError(f"{name!r} names an attribute twice")
    return ", ".join(parts)


class Subgroups(Part):
    """The macro-AUC must not fall in a subgroup either.

    Attributes:
        attributes: what patients or images are grouped by; `sex, view` with a comma is every pair of values.
        own_attributes: those of them that no manifest has and a side table brings, such as `scanner`. They are named
            here too, so that a slip of the pen in `attributes` is found.
        age_bands: first years of the second, third, ... band; `[40, 65]` makes 0 to 39, 40 to 64, 65 and over.
        margin: of the macro-AUC in each subgroup.
        min_findings: a subgroup with fewer evaluable findings is not judged, and said not to be.
    """

    attributes: tuple[str, ...] = Field(min_length=1)
    own_attributes: tuple[Annotated[str, Field(pattern=f"^{_OWN}$")], ...] = ()
    age_bands: tuple[int, ...] = (40, 65)
    margin: float = Field(gt=0, lt=1)
    min_findings: int = Field(1, ge=1, le=len(FINDINGS))

    @model_validator(mode="before")
    @classmethod
    def _attributes_are_known(cls, value: Any) -> Any:
        """Check each attribute, and write pairs in one way."""
        if not isinstance(value, dict) or not isinstance(value.get("attributes"), list | tuple):
            return value
        known = (*ATTRIBUTES, *(value.get("own_attributes") or ()))
        return {**value, "attributes": [_attribute(name, known) for name in value["attributes"]]}

    @model_validator(mode="after")
    def _bands_rise(self) -> Self:
        if list(self.age_bands) != sorted(set(self.age_bands)) or any(not 0 < year < 150 for year in self.age_bands):
            raise ValueError("age_bands must be rising years between 1 and 149")
        return self


class SparseFailures(Part):
    """A margin must hold even if the challenger fails outright on a few patients (`cxr_ops.stats.sparse`).

    Attributes:
        findings: whose margins: `all`, or a list. Composites follow too.
    """

    findings: Literal["all"] | tuple[FindingName, ...] = "all"

    @property
    def named(self) -> tuple[str, ...]:
        """The findings."""
        return FINDINGS if self.findings == "all" else self.findings


class Composite(Part):
    """Rare findings that are judged together too: their mean AUC may not fall by more than a margin of its own.

    Attributes:
        name: short; shown wherever the check is.
        findings: at least two. Each keeps its own margin and floor.
        margin: of the mean AUC of these findings.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=40)
    findings: tuple[FindingName, ...] = Field(min_length=2)
    margin: float = Field(gt=0, lt=1)

    @model_validator(mode="after")
    def _findings_differ(self) -> Self:
        if len(set(self.findings)) != len(self.findings):
            raise ValueError(f"the composite {self.name!r} names a finding twice")
        return self


class HarmScreen(Part):
    """A look at every cell of subgroup and finding: a loss there may be hidden in a mean.

    Attributes:
        error: Holm's family-wise error over all cells.
        loss: a signal with a larger loss than this asks for more people.
        approvals: how many people must then agree, at least.
    """

    error: float = Field(gt=0, lt=0.5)
    loss: float = Field(ge=0, lt=1)
    approvals: int = Field(ge=0, le=9)


class SuspiciousGain(Part):
    """A macro-AUC whose lower bound beats the champion's by more than `gain` is held until people look for a leak.

    Attributes:
        gain: of the macro-AUC.
        approvals: how many people must then agree, at least.
    """

    gain: float = Field(gt=0, lt=1)
    approvals: int = Field(ge=0, le=9)


class OperatingPoints(Part):
    """Sensitivity and specificity at a threshold that is chosen on the validation set, before the test set is seen.

    Attributes:
        rule: the threshold's: `sensitivity` or `specificity` reaches `target` on the validation set; `youden` has the
        largest sum of both, and no target. findings: those that are checked; figures are reported for all.
        sensitivity_margin, specificity_margin: of the difference from champion and reference.
        min_positive_patients: a finding with fewer is not checked, and said not to be.
    """

    rule: Literal["sensitivity", "specificity", "youden"]
    target: float | None = Field(None, gt=0, lt=1)
    findings: tuple[FindingName, ...] = ()
    sensitivity_margin: float = Field(0.05, gt=0, lt=1)
    specificity_margin: float = Field(0.02, gt=0, lt=1)
    min_positive_patients: int = Field(400, ge=2)

    @model_validator(mode="after")
    def _has_its_target(self) -> Self:
        if (self.rule == "youden") != (self.target is None):
            raise ValueError("youden has no target; sensitivity and specificity need one")
        return self


class HarmfulFlips(Part):
    """A limit on the images that the champion calls rightly and the challenger does not, each at its own threshold.

    Two models that are equally good flip some images too, so that a limit of hardly more than 0 is met by none.

    Attributes:
        findings: those that are checked; figures are reported for all.
        missed: of the images with the finding, the share that the champion calls and the challenger does not must be
            shown to lie below this; null asks for nothing.
        alarmed: the same of the images without the finding, called by the challenger alone.
        min_positive_patients: a finding with fewer is not checked, and said not to be.
    """

    findings: tuple[FindingName, ...] = Field(min_length=1)
    missed: float | None = Field(None, gt=0, lt=1)
    alarmed: float | None = Field(None, gt=0, lt=1)
    min_positive_patients: int = Field(100, ge=2)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.missed is None and self.alarmed is None:
            raise ValueError("give missed, alarmed or both a limit, or write harmful_flips: null")
        return self


class Reliance(Part):
    """Limits on what a model's scores may rest on outside of the thorax; see `cxr_ops.stats.reliance`.

    Each limit is of every finding that is judged. It is passed unless the test set shows the contrary: a challenger is
    accused where the figure lies beyond the limit, and beyond the champion's own, after Holm's correction over all
    findings and limits.

    Attributes:
        corners: AUC that may be lost with the corners blurred; null asks for nothing.
        outside: AUC that may be lost with all blurred that is outside the thorax.
        remains: AUC that may be left with the thorax blurred.
        error: chance that a model which keeps the limits is accused, over all findings and limits.
    """

    corners: float | None = Field(None, gt=0, lt=0.5)
    outside: float | None = Field(None, gt=0, lt=0.5)
    remains: float | None = Field(None, gt=0.5, lt=1)
    error: float = Field(0.05, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.limits:
            raise ValueError("give corners, outside or remains a limit, or write reliance: null")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Region -> its limit, of those that have one."""
        given = {"corners": self.corners, "outside": self.outside, "inside": self.remains}
        return {region: limit for region, limit in given.items() if limit is not None}


class MapPlaces(Part):
    """Limits on where heat maps lie against annotated boxes; see `cxr_ops.stats.localization`.

    Each limit is of every finding that is judged and of whose test images enough patients have boxes. It is passed
    unless the test set shows the contrary: a challenger is accused where the figure is shown to lie below the limit,
    after Holm's correction over all findings and limits.

    Attributes:
        pointing_margin: by so much the share of images whose map has its peak in a box may lie below the champion's;
            null asks for nothing.
        pointing_floor: the same share itself may not lie below this.
        energy_margin, energy_floor: of the mean share of a map's sum that lies in the boxes.
        overlap_margin, overlap_floor: of the share of images whose map's box overlaps an annotated one by `overlap_at`.
        overlap_at: intersection over union, one of `OVERLAPS`.
        min_patients: a finding of which fewer patients have boxes is not judged, and said not to be.
        error: chance that a model which keeps the limits is accused, over all findings and limits.
    """

    pointing_margin: float | None = Field(None, gt=0, lt=1)
    pointing_floor: float | None = Field(None, gt=0, lt=1)
    energy_margin: float | None = Field(None, gt=0, lt=1)
    energy_floor: float | None = Field(None, gt=0, lt=1)
    overlap_margin: float | None = Field(None, gt=0, lt=1)
    overlap_floor: float | None = Field(None, gt=0, lt=1)
    overlap_at: float = OVERLAPS[0]
    min_patients: int = Field(20, ge=2)
    error: float = Field(0.05, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if not self.margins and not self.floors:
            raise ValueError("give one of pointing, energy and overlap a margin or a floor, or write map_places: null")
        if self.overlap_at not in OVERLAPS:
            raise ValueError(f"overlap_at must be one of {', '.join(map(str, OVERLAPS))}")
        return self

    @property
    def margins(self) -> dict[str, float]:
        """Measure -> its margin against the champion, of those that have one."""
        given = {"pointing": self.pointing_margin, "energy": self.energy_margin, "overlap": self.overlap_margin}
        return {measure: limit for measure, limit in given.items() if limit is not None}

    @property
    def floors(self) -> dict[str, float]:
        """Measure -> its floor, of those that have one."""
        given = {"pointing": self.pointing_floor, "energy": self.energy_floor, "overlap": self.overlap_floor}
        return {measure: limit for measure, limit in given.items() if limit is not None}


class HeatMaps(Part):
    """Limits on how heat maps depend on the weights, and on small changes of an image; see `cxr_ops.stats.heat_maps`.

    Both are mean rank correlations of maps over their cells, of a sample of the scored images. A challenger is accused
    where a figure is shown to lie beyond its limit, after Holm's correction over all of them.

    Attributes:
        random: the most that maps may be alike with those of a network with random weights; null asks for nothing.
        steady: the least that maps of the same image may be alike after a small move or change of contrast.
        images: of the sample, one a patient.
        draws: of random weights.
        error: chance that a model which keeps the limits is accused, over all figures.
    """

    random: float | None = Field(None, gt=0, lt=1)
    steady: float | None = Field(None, gt=0, lt=1)
    images: int = Field(32, ge=2, le=1000)
    draws: int = Field(2, ge=1, le=10)
    error: float = Field(0.05, gt=0, lt=0.5)

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.random is None and self.steady is None:
            raise ValueError("give random, steady or both a limit, or write heat_maps: null")
        return self


class Calibration(Part):
    """Probabilities, after recalibration on the validation set.

    Attributes:
        findings: those that are checked; figures are reported for all.
        slope: the calibration slope's interval must lie between these two.
        brier_margin: the Brier score may not rise by more than this against champion and reference.
    """

    findings: tuple[FindingName, ...] = ()
    slope: tuple[float, float] = (0.8, 1.25)
    brier_margin: float = Field(0.005, gt=0, lt=1)

    @model_validator(mode="after")
    def _slope_is_around_one(self) -> Self:
        if not 0 < self.slope[0] < 1 < self.slope[1]:
            raise ValueError("slope must be two numbers around 1")
        return self


class ReferenceRule(Part):
    """The frozen model that a chain of slightly worse champions is held against.

    Attributes:
        package: digest of the reference's package; null: the first champion, or the one that it was raised to.
        raise_on_superiority: whether a champion that beats the reference's macro-AUC at alpha becomes the reference.
    """

    package: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    raise_on_superiority: bool = True

    @model_validator(mode="after")
    def _named_is_fixed(self) -> Self:
        if self.package is not None and self.raise_on_superiority:
            raise ValueError("a reference that the plan names is fixed: raise_on_superiority must be false")
        return self


# What a look spends of what its branch holds, where a plan does not say it.
SUCCESS_WEIGHT: Final = 0.8
# Outcomes of a look without promotion that people who tune can tell apart: REJECT, INSUFFICIENT EVIDENCE, and a PROMOTE
# that nobody carried out. Where everything is told they are without number.
TOLD_FAILURES: Final = {"promotion": 1, "verdict": 3}


class Looks(Part):
    """How the error of a test period is spent on its looks; see `cxr_ops.stats.levels`.

    Attributes:
        method: `recycled`: a promotion gives back what its look spent. `equal`: each look is judged at `alpha`.
        success_weight: the share of what its branch holds that a recycled look spends; 0.8 if it is left out.
    """

    method: Literal["recycled", "equal"]
    success_weight: float | None = Field(None, gt=0, lt=1)

    @model_validator(mode="after")
    def _weight_is_of_recycled_looks(self) -> Self:
        if self.method == "equal" and self.success_weight is not None:
            raise ValueError("success_weight belongs to method: recycled")
        return self


class PerformanceEvaluation(Part):
    """What is judged, at which error, on how many patients.

    Attributes:
        looks: how the error of a test period is spent; a plan that does not say it has equal looks.
        alpha: of equal looks, the error of each one-sided check at one look. That of recycled looks follows from the
            ledger.
        max_looks: first scorings of a new challenger that a test period is good for.
        period_alpha: error over a test period; of equal looks at least `alpha` times `max_looks`, and null promises
            nothing.
        disclosure: what people who tune learn of a run while its test period is open, beside the validation set:
            `promotion` (promoted or not), `verdict`, or `all`.
        min_test_patients: fewest patients in the test set.
        min_positive_patients: fewest patients with a positive image for a finding to be judged.
        min_negative_patients: the same for negative images.
        required_findings: findings without which nothing is promoted: `all`, or a list.
        limited_findings: findings with so few positive patients that their margin is wide; shown at approval.
        macro: checks of the macro-AUC over all findings that can be judged.
        finding: checks of each finding that can be judged.
        sparse_failures: the findings whose margins must hold even if a few patients fail; null asks for none.
        composites: groups of rare findings with a margin of their own.
        subgroups, harm_screen, suspicious_gain, operating_points, harmful_flips, reliance, map_places,
            heat_maps, calibration: further checks; null asks for none.
    """

    summary: Text
    looks: Looks = Looks(method="equal")
    alpha: float | None = Field(None, gt=0, lt=0.5)
    max_looks: int = Field(ge=1)
    period_alpha: float | None = Field(gt=0, lt=1)
    disclosure: Literal["promotion", "verdict", "all"]
    min_test_patients: int = Field(ge=2)
    min_positive_patients: int = Field(ge=2)
    min_negative_patients: int = Field(ge=2)
    required_findings: Literal["all"] | tuple[FindingName, ...]
    limited_findings: tuple[FindingName, ...] = ()
    macro: Thresholds
    finding: FindingThresholds
    sparse_failures: SparseFailures | None = None
    composites: tuple[Composite, ...] = ()
    reference: ReferenceRule
    subgroups: Subgroups | None
    harm_screen: HarmScreen | None
    suspicious_gain: SuspiciousGain | None
    operating_points: OperatingPoints | None
    harmful_flips: HarmfulFlips | None = None
    reliance: Reliance | None = None
    map_places: MapPlaces | None = None
    heat_maps: HeatMaps | None = None
    calibration: Calibration | None

    @property
    def required(self) -> tuple[str, ...]:
        """The findings without which nothing is promoted."""
        return FINDINGS if self.required_findings == "all" else self.required_findings

    @property
    def spending(self) -> Spending:
        """How the error of a test period is spent, for the ledger and the rule."""
        recycled = self.looks.method == "recycled"
        return Spending(
            method=self.looks.method,
            alpha=self.alpha,
            period_alpha=self.period_alpha,
            success_weight=(self.looks.success_weight or SUCCESS_WEIGHT) if recycled else None,
            told_failures=TOLD_FAILURES[self.disclosure] if recycled else 1,
            max_looks=self.max_looks,
        )

    @model_validator(mode="after")
    def _looks_have_their_level(self) -> Self:
        if self.looks.method == "equal":
            if self.alpha is None:
                raise ValueError("looks of method equal need alpha, the error of each check at one look")
            return self
        if self.alpha is not None:
            raise ValueError("looks of method recycled have no alpha: their level follows from the ledger")
        if self.period_alpha is None:
            raise ValueError("looks of method recycled need period_alpha, which they spend")
        if self.period_alpha >= 0.5:
            raise ValueError("looks of method recycled need a period_alpha below 0.5")
        if self.disclosure == "all":
            raise ValueError(
                "looks of method recycled need disclosure: promotion or verdict; who sees the whole test set can steal "
                "the error that comes back"
            )
        return self

    @model_validator(mode="after")
    def _looks_fit_the_period(self) -> Self:
        if self.alpha is None or self.period_alpha is None:
            return self
        if self.alpha * self.max_looks > self.period_alpha * (1 + 1e-9):
            raise ValueError(
                f"{self.max_looks} looks of {self.alpha:g} spend {self.alpha * self.max_looks:g}, "
                f"more than period_alpha: {self.period_alpha:g}"
            )
        return self

    @model_validator(mode="after")
    def _composites_have_names(self) -> Self:
        names = [composite.name for composite in self.composites]
        if len(set(names)) != len(names):
            raise ValueError("two composites have the same name")
        return self

    @model_validator(mode="after")
    def _screens_stand_on_subgroups(self) -> Self:
        if self.harm_screen is not None and self.subgroups is None:
            raise ValueError("harm_screen needs subgroups")
        return self

    @model_validator(mode="after")
    def _flips_are_of_operating_points(self) -> Self:
        if self.harmful_flips is not None and self.operating_points is None:
            raise ValueError("harmful_flips needs operating_points, which say when a finding is called")
        return self


class Watch(Part):
    """What `cxr-ops monitor` watches of the model in use, and what follows of an alarm; see `cxr_ops.stats.monitoring`.

    Attributes:
        kinds: of streams: `inputs` (pictures and patients), `scores`, and `labels` (errors, as labels come).
        false_alarms_a_year: chance of an alarm in a year in which nothing changes, over all streams.
        tolerance: how much more a mean error may be than what the gate saw.
        then: `notify` tells people of an alarm; `retrain` starts a retraining besides. Neither promotes anything.
    """

    kinds: tuple[Literal["inputs", "scores", "labels"], ...] = Field(("inputs", "scores", "labels"), min_length=1)
    false_alarms_a_year: float = Field(gt=0, le=0.5)
    tolerance: float = Field(0.0, ge=0, le=0.5)
    then: Literal["notify", "retrain"]

    @model_validator(mode="after")
    def _kinds_differ(self) -> Self:
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("kinds names one twice")
        return self


class Monitoring(Part):
    """What is watched after a release, and when the plan itself is read again.

    Attributes:
        watch: what of it is done by the software; null leaves it to the command's options.
    """

    summary: Text
    review_after_days: int = Field(ge=1)
    watch: Watch | None = None


class Serving(Part):
    """What a model must show before its promotion where it will be served: in fresh processes, and in the image.

    Attributes:
        tolerance: no probability of the golden pictures may differ by more from what the evaluation's own way gives.
        seconds: the longest that `cxr-ops serve` may take for one of them, asked one at a time, at the median.
    """

    tolerance: float = Field(1e-5, gt=0, le=0.01)
    seconds: float = Field(gt=0, le=60)


class UpdateProcedures(Part):
    """How a release is agreed to, made and watched.

    Attributes:
        approvals: how many people must agree besides the gate; 0 promotes unattended.
        require_clean_code: whether only committed code may be promoted.
        code_source: where that code must have been committed, `REPOSITORY#BRANCH`; null leaves it to the installation's
            CXR_CODE_SOURCE.
        serving: what the model must show first where it will be served; null asks for nothing.
    """

    summary: Text
    approvals: int = Field(ge=0, le=9)
    require_clean_code: bool
    code_source: Annotated[str, Field(pattern=r"^[^#\s][^#]*#[^#\s]+$")] | None = None
    serving: Serving | None = None
    monitoring: Monitoring


class ModificationProtocol(Part):
    """Part 2: how a modification is made and shown to be safe."""

    data_management: DataManagement
    retraining: Retraining
    performance_evaluation: PerformanceEvaluation
    update_procedures: UpdateProcedures


class Risk(Part):
    """What may go wrong, and what is done about it."""

    risk: Text
    mitigation: Text


class ImpactAssessment(Part):
    """Part 3: benefits and risks of changing the model in this way."""

    summary: Text
    benefits: tuple[Text, ...] = Field(min_length=1)
    risks: tuple[Risk, ...] = Field(min_length=1)


NEWEST: Final = 3  # format of a plan


class ChangePlan(Part):
    """A change-control plan (`pccp.yaml`).

    Attributes:
        name: short, shown wherever the plan's decisions are.
        clinical_use: whether a model promoted under it may be used on patients. Then approvals and clean code are a
        must. notice: a sentence that the report and the model carry.
    """

    format: Literal[2, 3]
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    clinical_use: bool
    notice: Text
    description_of_modifications: DescriptionOfModifications
    modification_protocol: ModificationProtocol
    impact_assessment: ImpactAssessment

    @model_validator(mode="after")
    def _clinical_use_is_attended(self) -> Self:
        updates = self.modification_protocol.update_procedures
        evaluation = self.modification_protocol.performance_evaluation
        if self.clinical_use and (updates.approvals < 1 or not updates.require_clean_code):
            raise ValueError("clinical_use: true needs approvals of at least 1 and require_clean_code: true")
        if self.clinical_use and (evaluation.period_alpha is None or evaluation.period_alpha > 0.05):
            raise ValueError("clinical_use: true needs a period_alpha of at most 0.05")
        return self

    @property
    def performance(self) -> PerformanceEvaluation:
        """The checks."""
        return self.modification_protocol.performance_evaluation

    def of_scores(self) -> Self:
        """The same plan without what only pictures can tell, for those who have scores alone."""
        protocol = self.modification_protocol
        nothing = {"reliance": None, "map_places": None, "heat_maps": None}
        evaluation = protocol.performance_evaluation.model_copy(update=nothing)
        return self.model_copy(
            update={"modification_protocol": protocol.model_copy(update={"performance_evaluation": evaluation})}
        )

    @property
    def approvals(self) -> int:
        """How many people must agree besides the gate."""
        return self.modification_protocol.update_procedures.approvals

    @property
    def serving(self) -> Serving | None:
        """What a model must show before its promotion where it will be served."""
        return self.modification_protocol.update_procedures.serving

    @property
    def watch(self) -> Watch | None:
        """What is watched of the model in use."""
        return self.modification_protocol.update_procedures.monitoring.watch

    @property
    def limits(self) -> Limits:
        """What of this plan is compared with other plans of a test period, of which the strictest holds."""
        return Limits(
            max_looks=self.performance.max_looks,
            approvals=self.approvals,
            disclosure=self.performance.disclosure,
            require_clean_code=self.require_clean_code,
            spending=(self.performance.spending,),
        )

    @property
    def code_source(self) -> str | None:
        """Where committed code must have been committed, `REPOSITORY#BRANCH`, where the plan says it."""
        return self.modification_protocol.update_procedures.code_source

    @property
    def require_clean_code(self) -> bool:
        """Whether only committed code may be promoted."""
        return self.modification_protocol.update_procedures.require_clean_code


class OneOfEachKey(yaml.SafeLoader):
    """YAML takes the last of two equal keys, and people read the first: a file that has a key twice is refused."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """A mapping of keys that differ; called by the library."""
        seen: set[object] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if key.tag != "tag:yaml.org,2002:merge" and name in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {name!r} is there twice; leave one", key.start_mark
                )
            seen.add(name)
        return super().construct_mapping(node, deep=deep)


def load(path: Path) -> ChangePlan:
    """Read a plan and check it.

    Raises:
        SettingsError: the file is missing or not YAML, or a key is unknown, missing, of the wrong type or out of range.
    """
    return parse(read_bytes(path), path)


def parse(data: bytes, where: object) -> ChangePlan:
    """Check the bytes of a plan; see `load`."""
    try:
        document: Any = yaml.load(data.decode("utf-8"), Loader=OneOfEachKey)  # noqa: S506 - it is a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"the change-control plan is not YAML: {error}", where=where) from error
    if not isinstance(document, dict):
        raise SettingsError("the change-control plan is empty or not a mapping", where=where, fix=f"edit {where}")
    return from_document(document, where)


def from_document(document: dict[str, Any], where: object) -> ChangePlan:
    """Check a plan that is not YAML any more, as the ledger holds it.

    Raises:
        SettingsError: a key is unknown, missing, of the wrong type or out of range.
    """
    number = document.get("format")
    if isinstance(number, int) and number > NEWEST:
        raise SettingsError(
            f"the plan has format {number}, and this version of cxr-ops reads formats up to {NEWEST}",
            where=where,
            fix=NEWER_FIX,
        )
    try:
        return ChangePlan.model_validate(_with_names_of_now(document, where))
    except ValidationError as error:
        raise explain_validation(error, ChangePlan, where) from error


def _with_names_of_now(document: dict[str, Any], where: object) -> dict[str, Any]:
    """A plan of format 2 calls a test period an epoch."""
    protocol = document.get("modification_protocol")
    rules = protocol.get("performance_evaluation") if isinstance(protocol, dict) else None
    if not isinstance(protocol, dict) or not isinstance(rules, dict) or "epoch_alpha" not in rules:
        return document
    if document.get("format") != 2 or "period_alpha" in rules:
        raise SettingsError(
            "epoch_alpha is called period_alpha since format 3 of the plan: an epoch is a pass of training alone",
            where=where,
            fix="write period_alpha in its place",
        )
    renamed = {"period_alpha" if key == "epoch_alpha" else key: value for key, value in rules.items()}
    return {**document, "modification_protocol": {**protocol, "performance_evaluation": renamed}}


def identify(root: Path, name: str) -> Plan:
    """Say which plan a file holds: its name, where it stands under `root`, and the SHA-256 of its bytes.

    Raises:
        SettingsError: as `load`.
    """
    data = read_bytes(root / name)
    return Plan(name=parse(data, root / name).name, path=name, sha256=sha256_bytes(data))


def load_bound(root: Path, name: str, bound: Plan) -> ChangePlan:
    """Read the plan that a run was opened with.

    Raises:
        SettingsError: the file's SHA-256 is not the one in the run's `inputs.json`, or as `load`.
    """
    data = read_bytes(root / name)
    if sha256_bytes(data) != bound.sha256:
        raise SettingsError(
            f"{name} is not the plan that this run was opened with ({bound.path}, sha256 {bound.sha256[:12]}...)",
            where=root / name,
            fix="open the run again: cxr-ops open",
        )
    return parse(data, root / name)


def read_bytes(path: Path) -> bytes:
    """Read the file of a plan, whose SHA-256 is that of these bytes.

    Raises:
        SettingsError: it is missing.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SettingsError(
            "the change-control plan is missing",
            where=path,
            fix="name the file of a plan; a run's is gate.plan in params.yaml",
        ) from error
