"""What crosses from one stage to the next: small frozen records, written in canonical bytes, and digests of files.

A record that was read has been checked: an unknown key, a missing one or a wrong type is an error. Numbers that cannot
be had are values with a reason (`Undefined`), never NaN.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from cxr_ops.errors import DataError


def canonical_json(value: Any) -> bytes:
    r"""Write a value as JSON in the one way that digests rely on: sorted keys, UTF-8, no NaN, a final newline.

    >>> canonical_json({"b": 1, "a": [0.5]})
    b'{\n  "a": [\n    0.5\n  ],\n  "b": 1\n}\n'
    """
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def sha256_bytes(data: bytes) -> str:
    """SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_digest(folder: Path, names: Iterable[str] | None = None) -> str:
    """SHA-256 over the names and digests of files in a folder: of all of them, or of those named.

    The order in which a file system lists a folder does not matter.
    """
    files = (
        sorted(names)
        if names is not None
        else sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    )
    return sha256_bytes(canonical_json({name: sha256_file(folder / name) for name in files}))


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file aside, flush it and rename it: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)


class Record(BaseModel):
    """A frozen record with canonical bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def to_bytes(self) -> bytes:
        """The record as canonical JSON."""
        return canonical_json(self.model_dump(mode="json"))

    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""
        return sha256_bytes(self.to_bytes())

    def write(self, path: Path) -> None:
        """Write the record; the folder is made when it is missing."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a record and check it.

        Raises:
            DataError: the file is missing, is not JSON, or does not fit the record.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except FileNotFoundError as error:
            raise DataError(f"{path.name} is missing", where=path) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise DataError(f"{path.name} is not a {cls.__name__}: {place}: {first['msg']}", where=path) from error


# --------------------------------------------------------------------------------------------------- data


class Batch(Record):
    """What one ingestion added, and what it must still hold: `dataset/<batch>/batch.json`.

    `files` maps the name of every other file of the batch to its SHA-256.
    """

    name: str
    source: str
    images: int
    patients: int
    files: dict[str, str]


class DataRevision(Record):
    """A state of the data set: a commit of the store, and the digest of each batch's `batch.json`."""

    revision: str
    batches: dict[str, str]


# ------------------------------------------------------------------------------------------------- inputs


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


class Start(Record):
    """What training starts from, if from the champion: `start/start.json`, with `start/package` beside it.

    asked: whether `train.weights` was `champion` when the run was opened. package: the champion's digest then; None
    before the first release. Where it was not asked for, this file is always the same, whoever is champion, so that a
    new champion makes no other training stale.
    """

    asked: bool
    package: str | None = None


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


class Inputs(Record):
    """All that DVC cannot see, in one file (`inputs.json`) that `evaluate` and `gate` depend on.

    `ledger` is None for a run opened without one: its look is unrecorded and it cannot promote.
    """

    format: Literal[1] = 1
    code: Code
    data: DataRevision
    champion: Champion
    reference: Reference | None = None
    epoch: Epoch = Epoch()
    ledger: LedgerState | None
    plan: Plan
    image: str | None = None


# ----------------------------------------------------------------------------------------------- evidence


class Undefined(Record):
    """A number that cannot be had, why, and what would be needed to have it."""

    undefined: Literal[True] = True
    reason: str
    needed: str | None = None


class Estimate(Record):
    """A number with its patient-clustered standard error and confidence interval.

    `method` and `df` say how the interval was made, so that a bound at another level can be had
    (`cxr_ops.stats.auc.bounds`); without `df` the normal distribution is meant. `se_image` is the standard error that
    one would state if images of one patient were independent; it is for comparison only. A `logit_difference` of two
    AUCs also holds the `other` one, which was subtracted, and the standard error of the difference of their logits.
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


Figure = Estimate | Undefined


class Support(Record):
    """How many images and patients an estimate stands on. A patient with both kinds counts in both."""

    positives: int
    negatives: int
    positive_patients: int
    negative_patients: int


class FindingEvidence(Record):
    """AUC of one finding: each model, and challenger minus champion and minus reference, on the same rows."""

    finding: str
    support: Support
    challenger: Figure
    champion: Figure | None
    difference: Figure | None
    reference: Figure | None = None
    reference_difference: Figure | None = None


class Evidence(Record):
    """AUCs of all findings and their mean over `macro_over`, the findings that have enough patients.

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


class Performance(Record):
    """What a finding's probabilities are worth at a threshold and as probabilities.

    thresholds: model -> probability from which the finding is called, chosen on the validation set alone.
    recalibration: model -> (intercept, slope) on the logit scale, fitted on the validation set alone. Brier score,
    slope, intercept, expected calibration error (`ece`) and `reliability` are of the recalibrated probabilities.
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


class StartingWeights(Record):
    """What the challenger's weights started from, and what those had seen.

    start: `none`, `imagenet`, `champion` or the name of a file. training_data: what is declared of it.
    patients: `none` (no patient of this data set), `training` (only patients of its training and validation sides),
    `test` (patients of its test side among them), `unknown`.
    """

    start: str
    sha256: str | None = None
    training_data: list[str] = []
    patients: Literal["none", "training", "test", "unknown"]


class Facts(Record):
    """What the challenger is, for the plan to compare with what may change: from its own package and the manifest.

    settings: dotted keys of `params.yaml` (split, prepare, train) as they were used.
    """

    architecture: str
    findings: list[str]
    settings: dict[str, Any]
    sources: list[str]
    starting_weights: StartingWeights


class Evaluation(Evidence):
    """What `evaluate` found: `evaluate/evaluation.json`.

    `problems` are reasons, as (code, sentence), for which this evidence may not promote (permuted findings, training
    patients in the test set, ...). `uncertain` counts the uncertain labels of each finding that has some; `scenarios`
    holds both ways to take them, and is empty where there are none. `missing_groups` says in sentences which subgroups
    of the plan could not be formed. `validation_macro` is each model's macro-AUC on the validation set.
    """

    test_digest: str
    test_images: int
    test_patients: int
    challenger: str
    champion: str | None
    reference: str | None = None
    epoch: int = 1
    problems: list[tuple[str, str]]
    subgroups: list[Subgroup] = []
    missing_groups: list[str] = []
    performance: list[Performance] = []
    uncertain: dict[str, int] = {}
    scenarios: list[Scenario] = []
    facts: Facts | None = None
    validation_macro: dict[str, float] = {}


class HeatMap(Record):
    """One explained case: `picture` is a file in `explain/`, `sha256` the first digits of the image's (no id travels).

    kind: which sort of case, in words. empty: nothing in the picture speaks for the finding. peak_in_box: whether the
    map's peak falls in an annotated box; None where there is no box or no peak.
    """

    finding: str
    kind: str
    truth: bool
    probability: float
    picture: str
    sha256: str
    empty: bool
    peak_in_box: bool | None


class Pointing(Record):
    """How often the peak of a finding's map falls in its box, over the test images that have one.

    chance: the same share for a place drawn blindly from the map. Both are None where no image has a box.
    """

    finding: str
    images: int
    hits: int
    empty: int
    share: float | None
    chance: float | None


class Explanation(Record):
    """What `explain` made: `explain/explain.json`. `missing` says in sentences which cases do not exist."""

    package: str
    rule: str
    cases: list[HeatMap]
    missing: list[str]
    pointing: list[Pointing]


class Reason(Record):
    """Why a verdict is what it is: a code of the closed set in `cxr_ops.stats.rule`, what it concerns, numbers."""

    code: str
    finding: str | None = None
    subgroup: str | None = None
    sentence: str
    numbers: dict[str, float | int | None] = {}


class Check(Record):
    """One thing that the plan asks for, and what the evidence shows of it.

    kind: `floor` (of the challenger's AUC), `margin` (of an AUC difference), `sensitivity`, `specificity` and `brier`
    (of a difference), `slope` (of the challenger's calibration). against: which model the difference is from.
    finding: None for the macro-AUC. subgroup: None for all patients.
    limit: what `low` must lie above; upper: what `high` must lie below; None where that side is not asked for.
    value, low, high: the estimate, its one-sided bounds at the plan's alpha.
    outcome: `met`; `failed` (evidence against it); `unclear` (too little evidence); `undefined` (there is no number).
    needed: patients (of a finding: positive patients, for its specificity negative ones) that would show it if it is
    true; None where nobody can say.
    """

    kind: Literal["floor", "margin", "sensitivity", "specificity", "slope", "brier"]
    against: Literal["champion", "reference"] | None = None
    finding: str | None = None
    subgroup: str | None = None
    limit: float | None
    upper: float | None = None
    value: float | None = None
    low: float | None = None
    high: float | None = None
    outcome: Literal["met", "failed", "unclear", "undefined"]
    needed: int | None = None


class Verdict(Record):
    """What `gate` decided and on what grounds: `gate/verdict.json`.

    `evidence_says` is what the evidence alone would give; `verdict` differs from it where the record forbids a
    promotion (an unrecorded look). `checks` are all that the plan asked for, each judged one-sided at `alpha`;
    `notice` is the plan's own. `approvals` are the people who must agree: the plan's number, or more where a hold
    (a harm signal, a gain too good to be true) asks for it. `limited_findings` are those that the plan judges by its
    widest margin. `superior` says that the macro-AUC beats the reference's at `alpha`, `superior_findings` which
    findings beat the champion's (Holm's correction). `looks` counts the looks of the test epoch, this one included.
    """

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
    notice: str = ""
    checks: list[Check] = []
    limited_findings: list[str] = []
    superior: bool = False
    superior_findings: list[str] = []
    epoch: int = 1
    looks: int | None = None


# ------------------------------------------------------------------------------------------------- the end


class Result(Record):
    """How a run ended and where everything of it is: `runs/<run>/result.json`.

    Written by `publish`, and again by `promote`; for a run that ended NO_CHANGE by whoever found that out, without the
    identifiers that come with a decision. `champion` is the model in use when the run was opened. `decision` and
    `promotion` are digests of the ledger's entries; `promotion` is None as long as the run has promoted nothing.
    `approvals` are the people who must agree, more than usual where there are `holds` (codes). `report` is the
    published page. `restricted` is the full report where that page withholds what the test set shows; `reasons` then
    say what their codes mean, without numbers and findings.
    """

    run: str
    airflow_run_id: str | None = None
    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE", "NO_CHANGE"]
    reasons: list[Reason] = []
    approvals: int = 0
    limited_findings: list[str] = []
    holds: list[str] = []
    champion: Champion = Champion()
    package: str | None = None
    mlflow_run_id: str | None = None
    model_version: str | None = None
    run_commit: str | None = None
    data_revision: str | None = None
    code_commit: str | None = None
    report: str | None = None
    restricted: str | None = None
    decision: str | None = None
    promotion: str | None = None
