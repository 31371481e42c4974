"""The change-control plan: what may change without a new review, how it is shown to be safe, and who must agree.

Three parts, as in the FDA's guidance on predetermined change control plans (final, December 2024): description of
modifications, modification protocol, impact assessment. The keys with numbers are executed by `cxr_ops.stats.rule`; the
sentences are for the people who approve the plan. The SHA-256 of the file stands in every decision.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxr_ops import records
from cxr_ops.errors import SettingsError
from cxr_ops.labels import FINDINGS, nearest
from cxr_ops.params import explain_validation


def _finding(name: str) -> str:
    if name not in FINDINGS:
        guess = nearest(name, FINDINGS)
        raise ValueError(f"{name!r} is not a finding" + (f"; did you mean {guess!r}?" if guess else ""))
    return name


FindingName = Annotated[str, AfterValidator(_finding)]
Text = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    """A part of the plan."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class DescriptionOfModifications(Part):
    """Part 1: what this plan lets change, and what needs a new review."""

    summary: Text
    may_change: tuple[Text, ...] = Field(min_length=1)
    must_not_change: tuple[Text, ...] = Field(min_length=1)


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


class PerformanceEvaluation(Part):
    """What is judged, at which error, on how many patients.

    Attributes:
        alpha: error of each one-sided check at one look.
        max_looks: first scorings of a new model that the test set is good for.
        min_test_patients: fewest patients in the test set.
        min_positive_patients: fewest patients with a positive image for a finding to be judged.
        min_negative_patients: the same for negative images.
        required_findings: findings without which nothing is promoted: `all`, or a list.
        macro: checks of the macro-AUC over all findings that can be judged.
        finding: checks of each finding that can be judged.
    """

    summary: Text
    alpha: float = Field(gt=0, lt=0.5)
    max_looks: int = Field(ge=1)
    min_test_patients: int = Field(ge=2)
    min_positive_patients: int = Field(ge=2)
    min_negative_patients: int = Field(ge=2)
    required_findings: Literal["all"] | tuple[FindingName, ...]
    macro: Thresholds
    finding: FindingThresholds

    @property
    def required(self) -> tuple[str, ...]:
        """The findings without which nothing is promoted."""
        return FINDINGS if self.required_findings == "all" else self.required_findings


class UpdateProcedures(Part):
    """How a release is agreed to and made.

    Attributes:
        approvals: how many people must agree besides the gate; 0 promotes unattended.
        require_clean_code: whether only committed code may be promoted.
    """

    summary: Text
    approvals: int = Field(ge=0, le=9)
    require_clean_code: bool


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


class ChangePlan(Part):
    """A change-control plan (`pccp.yaml`).

    Attributes:
        name: short, shown wherever the plan's decisions are.
        clinical_use: whether a model promoted under it may be used on patients. Then approvals and clean code are a
        must. notice: a sentence that the report and the model carry.
    """

    format: Literal[1] = 1
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=60)
    clinical_use: bool
    notice: Text
    description_of_modifications: DescriptionOfModifications
    modification_protocol: ModificationProtocol
    impact_assessment: ImpactAssessment

    @model_validator(mode="after")
    def _clinical_use_is_attended(self) -> Self:
        updates = self.modification_protocol.update_procedures
        if self.clinical_use and (updates.approvals < 1 or not updates.require_clean_code):
            raise ValueError("clinical_use: true needs approvals of at least 1 and require_clean_code: true")
        return self

    @property
    def performance(self) -> PerformanceEvaluation:
        """The checks."""
        return self.modification_protocol.performance_evaluation

    @property
    def approvals(self) -> int:
        """How many people must agree besides the gate."""
        return self.modification_protocol.update_procedures.approvals

    @property
    def require_clean_code(self) -> bool:
        """Whether only committed code may be promoted."""
        return self.modification_protocol.update_procedures.require_clean_code


def load(path: Path) -> ChangePlan:
    """Read a plan and check it.

    Raises:
        SettingsError: the file is missing or not YAML, or a key is unknown, missing, of the wrong type or out of range.
    """
    return parse(_read(path), path)


def parse(data: bytes, where: object) -> ChangePlan:
    """Check the bytes of a plan; see `load`."""
    try:
        document: Any = yaml.safe_load(data.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"the change-control plan is not YAML: {error}", where=where) from error
    if not isinstance(document, dict):
        raise SettingsError("the change-control plan is empty or not a mapping", where=where, fix=f"edit {where}")
    try:
        return ChangePlan.model_validate(document)
    except ValidationError as error:
        raise explain_validation(error, ChangePlan, where) from error


def identify(root: Path, name: str) -> records.Plan:
    """Say which plan a file holds: its name, where it stands under `root`, and the SHA-256 of its bytes.

    Raises:
        SettingsError: as `load`.
    """
    data = _read(root / name)
    return records.Plan(name=parse(data, root / name).name, path=name, sha256=records.sha256_bytes(data))


def load_bound(root: Path, name: str, bound: records.Plan) -> ChangePlan:
    """Read the plan that a run was opened with.

    Raises:
        SettingsError: the file's SHA-256 is not the one in the run's `inputs.json`, or as `load`.
    """
    data = _read(root / name)
    if records.sha256_bytes(data) != bound.sha256:
        raise SettingsError(
            f"{name} is not the plan that this run was opened with ({bound.path}, sha256 {bound.sha256[:12]}...)",
            where=root / name,
            fix="open the run again: cxr-ops open",
        )
    return parse(data, root / name)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SettingsError(
            "the change-control plan is missing", where=path, fix="name an existing plan in params.yaml, gate.plan"
        ) from error
