"""The entries of the ledger: a closed vocabulary, each kind with a record of its own.

`prev` is the SHA-256 of the file before, so that `sha256sum` is enough to check the chain by hand. `seal` is the
SHA-256 of the entry's other fields: it betrays a damaged last entry, which nothing follows yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal

from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, ValidationError, model_serializer

from cxr_ops.records.base import NEWER, Kept, Record, canonical_json, sha256_bytes
from cxr_ops.records.inputs import Limits
from cxr_ops.records.run import Identifiers

Kind = Literal["look", "decision", "approval", "rejection", "promotion", "period", "plan", "incident", "purge"]


# An entry of a format before 3 calls a test period an epoch.
_PERIOD: Final = AliasChoices("period", "epoch")

Role = Literal["challenger", "champion", "reference"]


class Look(Record):
    """The first scoring of a model on a test set, recorded before the scores exist.

    A challenger's spends one of the looks that the plan allows in a test period; no claim is made on the champion and
    the reference, and theirs spend none. `batches` are those that were scored; entries from before there were periods
    name none. `plan` is the SHA-256 of the plan that the run is judged under, and `limits` what that limits; entries of
    format 1 name neither. `claim` is what a challenger is claimed to be as good as (`records.inputs.claim_of`); None in
    entries of an earlier version.
    """

    model: str
    test_digest: str
    run: str
    role: Role = "challenger"
    period: int = Field(1, validation_alias=_PERIOD)
    batches: tuple[str, ...] = ()
    plan: str | None = None
    limits: Limits | None = None
    claim: str | None = None


class Decision(Identifiers):
    """What the gate decided on a run, and the digest of everything that it was decided on.

    `champion` is the ledger's entry that the challenger was judged against, None where there was no champion;
    `reference` the digest of the reference's package. `report` is the digest of `report/report.html`, the part of the
    report that can be made again. `requested_by` is who started the run, where that is known. `holds` are the codes
    for which more people than usual must agree. `directory` is the digest of the whole model directory in the registry
    (`audit.signature`); None in entries of an earlier version.
    """

    mlflow_run_id: str
    model_version: str
    package: str
    run_commit: str
    data_revision: str
    code_commit: str
    requested_by: str | None = None
    verdict: Literal["PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"]
    plan: str
    plan_sha256: str
    approvals: int
    recipe: str | None
    champion: str | None
    test_digest: str
    evaluation: str
    verdict_digest: str
    inputs: str
    report: str
    code_dirty: bool
    reference: str | None = None
    period: int = Field(1, validation_alias=_PERIOD)
    limited_findings: tuple[str, ...] = ()
    holds: tuple[str, ...] = ()
    directory: str | None = None


class Approval(Record):
    """A person's consent to promote what one decision is about; `at` is when that person answered.

    `reason` is that person's own; None where none was asked for, as by an earlier version.
    """

    run: str
    decision: str
    by: str
    at: str
    reason: str | None = None


class Rejection(Record):
    """A person's refusal to promote what one decision is about. Approvals of it from before count no more.

    `by` is None where nobody answered in time.
    """

    run: str
    decision: str
    by: str | None
    at: str
    reason: str


class Rollback(Record):
    """That a promotion brings an earlier champion back: to which promotion entry, who did it, and why."""

    to: str
    by: str
    reason: str


class Promotion(Record):
    """From here on this package is the champion.

    `replaces` is the promotion entry that stood before, None at first. `reference` is the package of the reference
    from here on; an entry from before there was one names none. `raises` says that this package becomes the reference
    when the next test period opens: within one, only promotions may tell what the test set has shown. With `rollback`
    the package was champion before: all else is what the promotion said that it goes back to, but for `replaces` and
    `reference`.
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
    raises: bool = False
    rollback: Rollback | None = None


class PeriodOpened(Record):
    """A new test period: patients with an image in one of `closed_batches` are not asked any more."""

    number: int
    closed_batches: list[str]
    by: str
    reason: str


class PlanAdopted(Record):
    """From here on this change-control plan is in force.

    `by` is who put it there, None where the first look of an installation did. `document` is the whole plan as it was
    read, so that the ledger alone shows what a later one changes.
    """

    name: str
    sha256: str
    limits: Limits
    by: str | None
    reason: str
    document: dict[str, Any]


class Incident(Record):
    """What in the registry was not as the ledger says: `found`, a clause each, and what of it was `repaired`."""

    found: list[str]
    repaired: list[str]


class PatientPurged(Record):
    """A patient was removed from every version of the data set.

    `patient` is the name that packages give the patient (`audit.package.patient_key`): it tells which models were
    trained on the patient, and hides nobody whose id can be guessed. `replaced` maps the digest of each batch or event
    that held the patient to that of what stands in its place, None where nothing is left. `models` are the registered
    versions that were trained on the patient, `by` who decided it.
    """

    patient: str
    images: int
    replaced: dict[str, str | None]
    models: list[str]
    by: str
    reason: str


BODIES: Final[Mapping[str, type[Record]]] = {
    "look": Look,
    "decision": Decision,
    "approval": Approval,
    "rejection": Rejection,
    "promotion": Promotion,
    "period": PeriodOpened,
    "epoch": PeriodOpened,
    "plan": PlanAdopted,
    "incident": Incident,
    "purge": PatientPurged,
}


class Entry(Kept):
    """One entry. `digest()` is the SHA-256 of its file, and what other entries and records call it by.

    An entry of format 1 was written before formats had numbers, and names none. Format 2 came with the plan in force;
    before format 3 a test period was called an epoch, by its kind too.
    """

    newest: ClassVar[int] = 3

    seq: int
    prev: str | None
    kind: Literal[Kind, "epoch"]
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
    def rejection(self) -> Rejection:
        """The body of a `rejection`."""
        return Rejection.model_validate(self.body)

    @property
    def promotion(self) -> Promotion:
        """The body of a `promotion`."""
        return Promotion.model_validate(self.body)

    @property
    def opens_period(self) -> bool:
        """Whether it opens a new test period."""
        return self.kind in ("period", "epoch")

    @property
    def period(self) -> PeriodOpened:
        """The body of a `period`."""
        return PeriodOpened.model_validate(self.body)

    @property
    def plan(self) -> PlanAdopted:
        """The body of a `plan`."""
        return PlanAdopted.model_validate(self.body)

    @property
    def incident(self) -> Incident:
        """The body of an `incident`."""
        return Incident.model_validate(self.body)

    @property
    def purge(self) -> PatientPurged:
        """The body of a `purge`."""
        return PatientPurged.model_validate(self.body)

    @model_serializer(mode="wrap")
    def _as_written(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """An entry of format 1 is written as it was, or its digest would be another."""
        document: dict[str, Any] = write(self)
        if self.format == 1:
            document.pop("format", None)
        return document


def make(kind: Kind, body: Record | Mapping[str, Any], before: list[Entry]) -> Entry:
    """Make the entry that follows those before it; its body is checked against the kind's record."""
    checked = BODIES[kind].model_validate(body.model_dump() if isinstance(body, Record) else dict(body))
    entry = Entry(
        format=Entry.newest,
        seq=len(before) + 1,
        prev=before[-1].digest() if before else None,
        kind=kind,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        body=checked.model_dump(mode="json"),
        seal="",
    )
    return entry.model_copy(update={"seal": seal(entry)})


class NoEntryError(ValueError):
    """Bytes are not the entry that follows others; `newer` says that a later version wrote them."""

    def __init__(self, why: str, *, newer: bool = False) -> None:
        super().__init__(why)
        self.newer = newer


def follow(data: bytes, before: Sequence[Entry]) -> Entry:
    """Read the bytes of the entry that follows others, and check it against the last of them.

    Raises:
        NoEntryError: they are damaged or altered, or do not follow.
    """
    try:
        entry = Entry.model_validate_json(data)
        BODIES[entry.kind].model_validate(entry.body)
    except ValidationError as error:
        first = error.errors()[0]
        if newer := [one["msg"] for one in error.errors() if one["type"] == NEWER]:
            raise NoEntryError(newer[0], newer=True) from error
        place = ".".join(str(part) for part in first["loc"])
        raise NoEntryError(f"it is not an entry: {place + ': ' if place else ''}{first['msg']}") from error
    if entry.to_bytes() != data:
        raise NoEntryError("its bytes are not those that were written")
    if entry.seq != len(before) + 1:
        raise NoEntryError(f"it says that it is entry {entry.seq}")
    if entry.seal != seal(entry):
        raise NoEntryError("its seal does not fit what it says: it was altered")
    if entry.prev != (before[-1].digest() if before else None):
        raise NoEntryError("it does not follow the entry before it: one of the two was altered")
    return entry


class Anchor(Kept):
    """Where a ledger stood: `entries` of them, of which the `first` and the last (`head`) have these digests."""

    newest: ClassVar[int] = 1

    format: int = newest
    entries: int
    head: str
    first: str


def seal(entry: Entry) -> str:
    """SHA-256 of all of an entry but its seal."""
    return sha256_bytes(canonical_json(entry.model_dump(mode="json", exclude={"seal"})))
