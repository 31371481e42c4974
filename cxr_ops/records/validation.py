"""Records of what `validate` checked."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer

from cxr_ops.records.base import Kept, Record


class Checked(Record):
    """One expectation of a suite and what came of it.

    `says` is the expectation in words. A failed one of severity `warning` lets the data pass. `rows` is the number of
    rows that failed, `first_rows` the first of them as batch:line (`failures.csv` beside the record has all); `found`
    is what was observed where the check is of a column as a whole.
    """

    suite: str
    says: str
    severity: Literal["critical", "warning"]
    passed: bool
    rows: int
    first_rows: list[str]
    found: str

    @property
    def outcome(self) -> str:
        """What came of it, in words."""
        if self.passed:
            return "passed"
        return f"not so, and let pass as a {self.severity}: {self.found or f'{self.rows} rows'}"


class Labels(Record):
    """How many images of a group have a finding, a label of 1 or 0 for it, and an uncertain one."""

    positive: int
    known: int
    uncertain: int

    @property
    def prevalence(self) -> float | None:
        """Share of positive images among those with a 1 or 0; None where there are none."""
        return self.positive / self.known if self.known else None


class Group(Record):
    """Images and patients of all the data, or of a batch, a view or a sex, and their labels by finding."""

    kind: Literal["all", "batch", "view", "sex"]
    name: str
    images: int
    patients: int
    findings: dict[str, Labels]


class Validated(Kept):
    """What was checked and found, and the counts of the data: `validate/validation.json`. It holds no identifiers.

    `suites` maps the name of each suite to the SHA-256 of its file. `data` has the SHA-256 of the record of every batch
    and event that was read; a file of an earlier version has none.
    """

    passed: bool
    suites: dict[str, str]
    images: int
    patients: int
    checks: list[Checked]
    groups: list[Group]
    data: dict[str, str] = {}

    @model_serializer(mode="wrap")
    def _as_before(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A record of an earlier version is written as it was."""
        document: dict[str, Any] = write(self)
        if not self.data:
            document.pop("data", None)
        return document
