"""The ledger: an append-only, hash-chained record of looks, decisions, approvals, promotions and test epochs.

    $CXR_HOME/ledger/00000001.json, 00000002.json, ...

One entry a file, in canonical JSON. `prev` is the SHA-256 of the file before it, so that `sha256sum` is enough to
check the chain by hand. `seal` is the SHA-256 of the entry's other fields: it betrays a damaged last entry, which
nothing follows yet. An entry is created and never replaced: of two writers that want the same number one wins, and the
other reads again and decides again. The champion is whatever the last promotion says, the reference and the open test
epoch follow from the entries too; nothing else is asked.

What the chain cannot show by itself is that its end was cut off, or that all of it was written anew. For that each run
keeps, in the `inputs.json` that is committed with it, where the ledger stood: `Ledger.verify(state)` compares.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import ValidationError

from cxr_ops.edges.home import Home
from cxr_ops.errors import ConflictError, RefusedError, SettingsError, StorageError
from cxr_ops.records import Epoch, LedgerState, Record, Reference, canonical_json, sha256_bytes

Kind = Literal["look", "decision", "approval", "promotion", "epoch"]
Role = Literal["challenger", "champion", "reference"]

ANY_HEAD: Final = "any head"
_NAME = re.compile(r"(\d{8})\.json")


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


_BODIES: Final[Mapping[str, type[Record]]] = {
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


class Folder:
    """Where entries stand: three operations, of which `create` must be atomic, exclusive and durable.

    On S3 these are a listing, a GET, and a PUT with `If-None-Match: *`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        """Names of all that is here."""
        try:
            return [path.name for path in self.path.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"the ledger cannot be listed: {error.strerror}", where=self.path) from error

    def read(self, name: str) -> bytes | None:
        """The bytes under a name, or None."""
        try:
            return (self.path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(
                f"an entry of the ledger cannot be read: {error.strerror}", where=self.path / name
            ) from error

    def create(self, name: str, data: bytes) -> bool:
        """Put bytes under a name that nobody has used; False when somebody has.

        The bytes are on the disk under a name of their own before they are linked under the final one, so a reader
        never sees a part; the folder is flushed before this returns, so that what was recorded outlives a power cut.
        """
        aside = self.path / f".{name}.{secrets.token_hex(8)}.part"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            try:
                with aside.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                try:
                    os.link(aside, self.path / name)
                except FileExistsError:
                    return False
            finally:
                aside.unlink(missing_ok=True)
            folder = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            no_links = error.errno in (errno.EPERM, errno.EOPNOTSUPP)
            fix = (
                "set CXR_HOME to a file system with hard links"
                if no_links
                else "free space, or mend the folder's rights"
            )
            raise StorageError(
                f"the ledger cannot be written: {error.strerror}", where=self.path / name, fix=fix
            ) from error
        return True


class Ledger:
    """The ledger of one installation; see the module's docstring. A folder that does not exist is an empty ledger."""

    def __init__(self, folder: Path) -> None:
        self.folder = Folder(folder)

    def entries(self) -> list[Entry]:
        """All entries in order, each checked against the one before it.

        Raises:
            StorageError: an entry is damaged, altered, missing from the middle or of a kind that does not exist; it is
                named.
        """
        found: list[Entry] = []
        while True:
            name = _name(len(found) + 1)
            data = self.folder.read(name)
            if data is not None:
                found.append(self._check(name, data, found))
                continue
            # A listing made after the failed read shows a later entry only if this one is lost or was added meanwhile.
            later = [number for number in map(_number, self.folder.names()) if number > len(found)]
            if not later:
                return found
            if self.folder.read(name) is None:
                raise self._broken(name, f"entry {len(found) + 1} is missing, though entry {max(later)} exists")

    def append(self, kind: Kind, body: Record | Mapping[str, Any], *, expect_head: str | None = ANY_HEAD) -> Entry:
        """Add an entry after the last one.

        Args:
            kind: one of the closed vocabulary.
            body: what happened; checked against the kind's record.
            expect_head: digest of the entry that must be the last one (None: the ledger must be empty).

        Raises:
            ConflictError: the last entry is another than expected.
            StorageError: the ledger is damaged or cannot be written; nothing was added.
        """

        def decide(entries: list[Entry]) -> Record | Mapping[str, Any]:
            head = entries[-1].digest() if entries else None
            if expect_head not in (ANY_HEAD, head):
                raise ConflictError(
                    f"the ledger has moved on: its last entry is {len(entries)}, not the one expected",
                    where=self.folder.path,
                    fix="read the ledger again and decide again",
                )
            return body

        return self.append_if(kind, decide)

    def append_if(self, kind: Kind, decide: Callable[[list[Entry]], Record | Mapping[str, Any] | Entry]) -> Entry:
        """Add what `decide` makes of the entries so far, or return the entry that it finds among them.

        `decide` is called again whenever another writer was faster, so what it checked still holds when its entry
        stands: compare and swap over the whole ledger. It refuses by raising.
        """
        while True:
            entries = self.entries()
            made = decide(entries)
            if isinstance(made, Entry):
                return made
            entry = _make(kind, made, entries)
            if self.folder.create(_name(entry.seq), entry.to_bytes()):
                return entry

    def verify(self, state: LedgerState | None = None) -> int:
        """Check the chain, and with `state` that the ledger still holds what it held when that was taken.

        Returns:
            The number of entries.

        Raises:
            StorageError: see `entries`; or the ledger is shorter than `state`, or was written anew since.
        """
        entries = self.entries()
        if state is not None and state.entries:
            name = _name(state.entries)
            if len(entries) < state.entries:
                raise self._broken(name, f"the ledger held {state.entries} entries and now holds {len(entries)}")
            if entries[state.entries - 1].digest() != state.head:
                raise self._broken(name, f"entry {state.entries} is another one than it was")
        return len(entries)

    def state(self) -> LedgerState:
        """Where the ledger stands now."""
        return state_after(self.entries())

    def epoch(self) -> Epoch:
        """The open test epoch."""
        return open_epoch(self.entries())

    def champion(self) -> Entry | None:
        """The promotion in force, None before the first release."""
        return last_promotion(self.entries())

    def decision(self, run: str) -> Entry | None:
        """The decision on a run, None where there is none."""
        return find_decision(self.entries(), run)

    def _check(self, name: str, data: bytes, before: list[Entry]) -> Entry:
        try:
            entry = Entry.model_validate_json(data)
            _BODIES[entry.kind].model_validate(entry.body)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise self._broken(name, f"it is not an entry: {place + ': ' if place else ''}{first['msg']}") from error
        if entry.to_bytes() != data:
            raise self._broken(name, "its bytes are not those that were written")
        if entry.seq != len(before) + 1:
            raise self._broken(name, f"it says that it is entry {entry.seq}")
        if entry.seal != _seal(entry):
            raise self._broken(name, "its seal does not fit what it says: it was altered")
        if entry.prev != (before[-1].digest() if before else None):
            raise self._broken(name, "it does not follow the entry before it: one of the two was altered")
        return entry

    def _broken(self, name: str, why: str) -> StorageError:
        return StorageError(
            f"the ledger is damaged at {name}: {why}",
            where=self.folder.path / name,
            fix="restore the ledger folder from a backup; nothing is promoted until then",
        )


def record_look(home: Home, look: Look) -> Entry:
    """Record that a model is about to be scored on a test set, unless that scoring is on record.

    The same model on the same test set is the same look in any run of the epoch. A champion or reference that was
    scored there as a challenger is not recorded again; the other way round it is, because a claim is new.

    Raises:
        RefusedError: the look's epoch is closed: the test set of now may hold its patients.
    """

    def decide(entries: list[Entry]) -> Look | Entry:
        for entry in entries:
            if entry.kind == "look" and _same_scoring(entry.look, look):
                return entry
        if look.epoch != (now := open_epoch(entries).number):
            raise RefusedError(
                f"{look.run} was opened in test epoch {look.epoch}, and epoch {now} is open",
                where=home.ledger,
                fix="retrain in a new run; it is opened in the epoch of now",
            )
        return look

    return Ledger(home.ledger).append_if("look", decide)


def _same_scoring(old: Look, new: Look) -> bool:
    same = (old.epoch, old.model, old.test_digest) == (new.epoch, new.model, new.test_digest)
    return same and (old.role == "challenger" or new.role != "challenger")


def open_epoch(entries: list[Entry]) -> Epoch:
    """The test epoch that is open after these entries; the first one needs no entry."""
    last = next((entry.epoch for entry in reversed(entries) if entry.kind == "epoch"), None)
    return Epoch(number=last.number, closed_batches=last.closed_batches) if last else Epoch()


def spent_looks(entries: list[Entry], epoch: int) -> list[tuple[str, str]]:
    """The looks spent in a test epoch, as (model, test digest), in the order in which they were spent."""
    looks = (entry.look for entry in entries if entry.kind == "look")
    return list(
        dict.fromkeys(
            (look.model, look.test_digest) for look in looks if (look.role, look.epoch) == ("challenger", epoch)
        )
    )


def state_after(entries: list[Entry]) -> LedgerState:
    """Where the ledger stands after these entries."""
    looked = spent_looks(entries, open_epoch(entries).number)
    return LedgerState(
        entries=len(entries),
        head=entries[-1].digest() if entries else None,
        looks=len(looked),
        looked=looked,
        promotions=sum(entry.kind == "promotion" for entry in entries),
    )


def reference_after(entries: list[Entry], named: str | None = None) -> Reference | None:
    """The frozen model that challengers are judged against after these entries, None before the first release.

    Args:
        entries: the ledger.
        named: the package that the plan names; without one it is what the last promotion says, and where that says
            nothing, the first champion.

    Raises:
        SettingsError: the package that the plan names was never promoted.
    """
    promotions = [entry.promotion for entry in entries if entry.kind == "promotion"]
    wanted = named
    if named is None:
        for promotion in promotions:
            wanted = promotion.reference or wanted or promotion.package
    if wanted is None:
        return None
    found = next((promotion for promotion in reversed(promotions) if promotion.package == wanted), None)
    if found is None:
        raise SettingsError(
            f"the reference {wanted[:12]}... was never promoted",
            where="reference.package of the plan",
            fix="name a package that `cxr-ops ledger show` lists in a promotion, or null for the first champion",
        )
    return Reference(package=found.package, version=found.model_version)


def last_promotion(entries: list[Entry]) -> Entry | None:
    """The promotion in force after these entries."""
    return next((entry for entry in reversed(entries) if entry.kind == "promotion"), None)


def last_decision(entries: list[Entry]) -> Entry | None:
    """The last decision among these entries."""
    return next((entry for entry in reversed(entries) if entry.kind == "decision"), None)


def approvals_to_leave(entries: list[Entry], plan_sha256: str) -> int:
    """How many people must agree to promote under a plan that is not the one of the last promotion, else 0.

    A run may name any plan. Without this, one that asks for nobody would be the way around one that asks for two.
    """
    promotion = last_promotion(entries)
    decision = promotion and find_decision(entries, promotion.promotion.run)
    if decision is None or decision.decision.plan_sha256 == plan_sha256:
        return 0
    return decision.decision.approvals


def find_decision(entries: list[Entry], run: str) -> Entry | None:
    """The decision on a run among these entries."""
    return next((entry for entry in entries if entry.kind == "decision" and entry.body["run"] == run), None)


def find_promotion(entries: list[Entry], run: str) -> Entry | None:
    """The promotion of a run's model among these entries."""
    return next((entry for entry in entries if entry.kind == "promotion" and entry.body["run"] == run), None)


def _name(seq: int) -> str:
    return f"{seq:08d}.json"


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0


def _make(kind: Kind, body: Record | Mapping[str, Any], before: list[Entry]) -> Entry:
    checked = _BODIES[kind].model_validate(body.model_dump() if isinstance(body, Record) else dict(body))
    entry = Entry(
        seq=len(before) + 1,
        prev=before[-1].digest() if before else None,
        kind=kind,
        at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        body=checked.model_dump(mode="json"),
        seal="",
    )
    return entry.model_copy(update={"seal": _seal(entry)})


def _seal(entry: Entry) -> str:
    return sha256_bytes(canonical_json(entry.model_dump(mode="json", exclude={"seal"})))
