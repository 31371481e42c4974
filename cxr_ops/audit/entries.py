"""The entries of the ledger: a closed vocabulary, each kind with a record of its own.

`prev` is the SHA-256 of the file before, so that `sha256sum` is enough to check the chain by hand. `seal` is the
SHA-256 of the entry's other fields: it betrays a damaged last entry, which nothing follows yet.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal

from cxr_ops.records.base import Record, canonical_json, sha256_bytes

Kind = Literal["look", "decision", "approval", "promotion", "epoch"]


Role = Literal["challenger", "champion", "reference"]


class Look(Record):
    """The first scoring of a model on a test set, recorded before the scores exist.

    A challenger's spends one of the looks that the plan allows in a test epoch; no claim is made on the champion and
    the reference, and theirs spend none. `batches` are those that were scored; entries from before there were epochs
    name none.
    """

    model: str
    test_digest: str
    run: str
    role: Role = "challenger"
    epoch: int = 1
    batches: tuple[str, ...] = ()


class Decision(Record):
    """What the gate decided on a run, and the digest of everything that it was decided on.

    `champion` is the ledger's entry that the challenger was judged against, None where there was no champion;
    `reference` the digest of the reference's package. `report` is the digest of `report/report.html`, the part of the
    report that can be made again. `requested_by` is who started the run, where that is known. `holds` are the codes
    for which more people than usual must agree.
    """

    run: str
    airflow_run_id: str | None
    requested_by: str | None = None
    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
    plan: str
    plan_sha256: str
    approvals: int
    package: str
    recipe: str | None
    champion: str | None
    test_digest: str
    evaluation: str
    verdict_digest: str
    inputs: str
    report: str
    data_revision: str
    code_commit: str
    code_dirty: bool
    image: str | None
    run_commit: str
    mlflow_run_id: str
    model_version: str
    reference: str | None = None
    epoch: int = 1
    limited_findings: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()


class Approval(Record):
    """A person's consent to promote what one decision is about; `at` is when that person answered."""

    run: str
    decision: str
    by: str
    at: str


class Promotion(Record):
    """From here on this package is the champion.

    `replaces` is the promotion entry that stood before, None at first. `reference` is the package of the reference
    from here on; an entry from before there was one names none.
    """

    run: str
    decision: str
    approvals: list[str]
    package: str
    recipe: str | None
    model_version: str
    run_commit: str
    replaces: str | None
    reference: str | None = None


class EpochOpened(Record):
    """A new test epoch: patients with an image in one of `closed_batches` are not asked any more."""

    number: int
    closed_batches: list[str]
    by: str
    reason: str


BODIES: Final[Mapping[str, type[Record]]] = {
    "look": Look,
    "decision": Decision,
    "approval": Approval,
    "promotion": Promotion,
    "epoch": EpochOpened,
}


class Entry(Record):
    """One entry. `digest()` is the SHA-256 of its file, and what other entries and records call it by."""

    seq: int
    prev: str | None
    kind: Kind
    at: str
    body: dict[str, Any]
    seal: str

    @property
    def look(self) -> Look:
        """The body of a `look`."""
        return Look.model_validate(self.body)

    @property
    def decision(self) -> Decision:
        """The body of a `decision`."""
        return Decision.model_validate(self.body)

    @property
    def approval(self) -> Approval:
        """The body of an `approval`."""
        return Approval.model_validate(self.body)

    @property
    def promotion(self) -> Promotion:
        """The body of a `promotion`."""
        return Promotion.model_validate(self.body)

    @property
    def epoch(self) -> EpochOpened:
        """The body of an `epoch`."""
        return EpochOpened.model_validate(self.body)


def make(kind: Kind, body: Record | Mapping[str, Any], before: list[Entry]) -> Entry:
    """Make the entry that follows those before it; its body is checked against the kind's record."""
    checked = BODIES[kind].model_validate(body.model_dump() if isinstance(body, Record) else dict(body))
    entry = Entry(
        seq=len(before) + 1,
        prev=before[-1].digest() if before else None,
        kind=kind,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        body=checked.model_dump(mode="json"),
        seal="",
    )
    return entry.model_copy(update={"seal": seal(entry)})


def seal(entry: Entry) -> str:
    """SHA-256 of all of an entry but its seal."""
    return sha256_bytes(canonical_json(entry.model_dump(mode="json", exclude={"seal"})))
