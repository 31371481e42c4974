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


class LedgerState(Record):
    """Where the ledger stood: number of entries, digest of the last one, looks spent on test sets."""

    entries: int
    head: str | None
    looks: int


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
    reference: str | None = None
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
    (`cxr_ops.stats.auc.bounds`); without `df` the normal distribution is meant.
    """

    value: float
    se: float
    low: float
    high: float
    level: float
    df: float | None = None
    method: Literal["wald", "logit", "separated", "separated_difference"] = "wald"


Figure = Estimate | Undefined


class Support(Record):
    """How many images and patients an estimate stands on. A patient with both kinds counts in both."""

    positives: int
    negatives: int
    positive_patients: int
    negative_patients: int


class FindingEvidence(Record):
    """AUC of one finding: challenger, champion, and challenger minus champion, on the same rows."""

    finding: str
    support: Support
    challenger: Figure
    champion: Figure | None
    difference: Figure | None


class Evaluation(Record):
    """What `evaluate` found: `evaluate/evaluation.json`.

    `problems` are reasons, as (code, sentence), for which this evidence may not promote (permuted findings, training
    patients in the test set, ...).
    """

    findings: list[FindingEvidence]
    macro_challenger: Figure
    macro_champion: Figure | None
    macro_difference: Figure | None
    macro_over: list[str]
    test_digest: str
    test_images: int
    test_patients: int
    challenger: str
    champion: str | None
    problems: list[tuple[str, str]]


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
    """Why a verdict is what it is: a code of the closed set in `cxr_ops.stats.rule`, the finding concerned, numbers."""

    code: str
    finding: str | None = None
    sentence: str
    numbers: dict[str, float | int | None] = {}


class Check(Record):
    """One thing that the plan asks for, and what the evidence shows of it.

    kind: `floor` (of the challenger's AUC) or `margin` (of challenger minus champion). finding: None for the macro-AUC.
    limit: what `low` must lie above. value, low, high: the estimate, its one-sided bounds at the plan's alpha.
    outcome: `met`; `failed` (evidence against it); `unclear` (too little evidence); `undefined` (there is no number).
    needed: patients (of a finding: positive patients) that would show it if it is true; None where nobody can say.
    """

    kind: Literal["floor", "margin"]
    finding: str | None
    limit: float
    value: float | None = None
    low: float | None = None
    high: float | None = None
    outcome: Literal["met", "failed", "unclear", "undefined"]
    needed: int | None = None


class Verdict(Record):
    """What `gate` decided and on what grounds: `gate/verdict.json`.

    `evidence_says` is what the evidence alone would give; `verdict` differs from it where the record forbids a
    promotion (an unrecorded look). `checks` are all that the plan asked for, each judged one-sided at `alpha`;
    `notice` is the plan's own.
    """

    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
    evidence_says: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
    reasons: list[Reason]
    plan: Plan
    approvals: int
    clinical_use: bool
    challenger: str
    champion: Champion
    test_digest: str
    evaluation: str
    inputs: str
    alpha: float | None = None
    notice: str = ""
    checks: list[Check] = []


# ------------------------------------------------------------------------------------------------- the end


class Result(Record):
    """How a run ended and where everything of it is: `runs/<run>/result.json`.

    Written by `publish`, and again by `promote`; for a run that ended NO_CHANGE by whoever found that out, without the
    identifiers that come with a decision. `champion` is the model in use when the run was opened. `decision` and
    `promotion` are digests of the ledger's entries; `promotion` is None as long as the run has promoted nothing.
    `report` is the published page.
    """

    run: str
    airflow_run_id: str | None = None
    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE", "NO_CHANGE"]
    reasons: list[Reason] = []
    approvals: int = 0
    champion: Champion = Champion()
    package: str | None = None
    mlflow_run_id: str | None = None
    model_version: str | None = None
    run_commit: str | None = None
    data_revision: str | None = None
    code_commit: str | None = None
    report: str | None = None
    decision: str | None = None
    promotion: str | None = None
