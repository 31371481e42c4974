"""Records of a run as a whole: how it ended."""

from __future__ import annotations

from typing import Literal

from cxr_ops.records.base import Record
from cxr_ops.records.inputs import Champion
from cxr_ops.records.verdict import Reason


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
