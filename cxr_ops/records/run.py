"""Records of a run as a whole: how it was opened, and how it ended."""

from __future__ import annotations

from typing import Any, Final, Literal

from cxr_ops.records.base import Kept
from cxr_ops.records.data import DataRevision
from cxr_ops.records.inputs import Champion, Code
from cxr_ops.records.verdict import Reason

OPENED: Final = "run.json"  # `open` writes it last: without it, a run's workspace is not whole


class Opened(Kept):
    """What a run was opened with: `runs/<run>/run.json`, which stands beside the workspace and not in it.

    `overrides` are settings of this run only; `force` says that it goes on though nothing has changed; `no_change` that
    it ended there. `recipe` is the digest of `recipe_parts`, all that the challenger is made from.
    """

    run: str
    airflow_run_id: str | None = None
    requested_by: str | None = None
    opened_at: str
    overrides: dict[str, Any] = {}
    force: bool = False
    no_change: bool
    code: Code
    data: DataRevision
    champion: Champion
    recipe: str
    recipe_parts: dict[str, Any]


class Result(Kept):
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
    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE", "NO_CHANGE", "NOT PROMOTED"]
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
