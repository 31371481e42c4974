"""The ledger: an append-only, hash-chained record of all that is looked at, decided and done.

    $CXR_HOME/ledger/00000001.json, 00000002.json, ...   or in a bucket: CXR_LEDGER=s3://bucket/path

One entry a file, in canonical JSON. `prev` is the SHA-256 of the file before it, so that `sha256sum` is enough to
check the chain by hand. `seal` is the SHA-256 of the entry's other fields: it betrays a damaged last entry, which
nothing follows yet. An entry is created and never replaced: of two writers that want the same number one wins, and the
other reads again and decides again. The champion is whatever the last promotion says, the reference and the open test
period follow from the entries too; nothing else is asked.

What the chain cannot show by itself is that its end was cut off, or that all of it was written anew. For that each run
keeps, in the `inputs.json` that is committed with it, where the ledger stood: `Ledger.verify(state)` compares. Anchors
(`ledger.anchors`) keep it in another domain of trust.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from cxr_ops.audit.entries import Entry, Kind, Look, NoEntryError, follow, make
from cxr_ops.audit.state import (
    check_spending,
    find_decision,
    last_promotion,
    open_period,
    recorded_look,
    state_after,
)
from cxr_ops.errors import ConflictError, RefusedError, StorageError
from cxr_ops.records.base import NEWER_FIX, Record, sha256_bytes
from cxr_ops.records.inputs import LedgerState, Level, Period

ANY_HEAD: Final = "any head"
SIZE: Final = 256  # entries that are remembered together
_WITNESSED: Final = ("decision", "promotion")


_NAME = re.compile(r"(\d{8})\.json")


class Storage(Protocol):
    """Where entries are kept: three operations, of which `create` must be atomic, exclusive and durable.

    In a folder these are a listing, a read and an exclusive link; on S3 a listing, a GET, and a PUT with
    `If-None-Match: *`.
    """

    def names(self) -> list[str]:
        """Names of all that is kept."""

    def read(self, name: str) -> bytes | None:
        """The bytes under a name, or None."""

    def create(self, name: str, data: bytes) -> bool:
        """Put bytes under a name that nobody has used; False when somebody has."""

    def place(self, name: str | None = None) -> str:
        """Where an entry is, or the whole ledger, for people."""


class Memory(Protocol):
    """Remembers entries that were checked; see `memory.Memory`."""

    def recall(self) -> list[Entry]:
        """The entries that are remembered, from the first on."""

    def remember(self, entries: list[Entry], known: int) -> None:
        """Keep what was checked; `known` entries are remembered already."""


class Witness(Protocol):
    """Knows where the ledger stood, in another domain of trust; see `anchors.Anchors`."""

    def check(self, entries: Sequence[Entry], *, last: bool = False) -> object:
        """Raise a StorageError where the ledger is not what it was."""

    def put(self, entries: Sequence[Entry]) -> None:
        """Take down where the ledger stands after these entries."""


class Ledger:
    """The ledger of one installation; see the module's docstring. A storage that holds nothing is an empty ledger.

    Args:
        storage: where its entries are kept.
        memory: remembers which of them were checked; None: all are, each time.
        witness: is told of each decision and promotion, and asked before one is made; None: nobody is.
    """

    def __init__(self, storage: Storage, memory: Memory | None = None, witness: Witness | None = None) -> None:
        self.storage = storage
        self.memory = memory
        self.witness = witness

    def entries(self, *, anew: bool = False) -> list[Entry]:
        """All entries in order, each checked against the one before it.

        Those that were checked before are taken as they were then, if the last of them still stands in the storage.

        Args:
            anew: read and check every entry, whatever was checked before.

        Raises:
            StorageError: an entry is damaged, altered, missing from the middle or of a kind that does not exist; it is
                named. Or the ledger lacks what it held when it was checked.
        """
        known = self.memory.recall() if self.memory is not None else []
        if known:
            self._check_remembered(known)
        found = self._read_on([] if anew else list(known))
        if self.memory is not None and len(found) - len(known) >= SIZE:
            self.memory.remember(found, len(known))
        return found

    def _check_remembered(self, known: list[Entry]) -> None:
        name = _name(len(known))
        data = self.storage.read(name)
        if data is None:
            held = max(map(_number, self.storage.names()), default=0)
            raise self._broken(name, f"the ledger held {len(known)} entries and now holds {held}")
        if sha256_bytes(data) != known[-1].digest():
            raise self._broken(name, f"entry {len(known)} is another one than it was when it was checked")

    def _read_on(self, found: list[Entry]) -> list[Entry]:
        """Read and check what follows the entries that are known."""
        while True:
            name = _name(len(found) + 1)
            data = self.storage.read(name)
            if data is not None:
                found.append(self._check(name, data, found))
                continue
            # A listing made after the failed read shows a later entry only if this one is lost or was added meanwhile.
            later = [number for number in map(_number, self.storage.names()) if number > len(found)]
            if not later:
                return found
            if self.storage.read(name) is None:
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
                    where=self.storage.place(),
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
            witness = self.witness if kind in _WITNESSED else None
            if witness is not None:
                try:
                    witness.check(entries, last=True)
                except StorageError:
                    if len(self.entries()) <= len(entries):
                        raise
                    continue  # another writer was faster, and the witness knows of it
            entry = make(kind, made, entries)
            if self.storage.create(_name(entry.seq), entry.to_bytes()):
                if witness is not None:
                    witness.put([*entries, entry])
                return entry

    def verify(self, state: LedgerState | None = None) -> int:
        """Check the chain, and with `state` that the ledger still holds what it held when that was taken.

        Without `state` every entry is read and checked, whatever was checked before.

        Returns:
            The number of entries.

        Raises:
            StorageError: see `entries`; or the ledger is shorter than `state`, or was written anew since.
        """
        entries = self.entries(anew=state is None)
        if state is not None:
            self.compare(entries, state)
        return len(entries)

    def compare(self, entries: Sequence[Entry], state: LedgerState) -> None:
        """See that the ledger, whose entries these are, still holds what it held when a state was taken.

        Raises:
            StorageError: it is shorter, or was written anew since.
        """
        if not state.entries:
            return
        name = _name(state.entries)
        if len(entries) < state.entries:
            raise self._broken(name, f"the ledger held {state.entries} entries and now holds {len(entries)}")
        if entries[state.entries - 1].digest() != state.head:
            raise self._broken(name, f"entry {state.entries} is another one than it was")

    def state(self) -> LedgerState:
        """Where the ledger stands now."""
        return state_after(self.entries())

    def period(self) -> Period:
        """The open test period."""
        return open_period(self.entries())

    def champion(self) -> Entry | None:
        """The promotion in force, None before the first release."""
        return last_promotion(self.entries())

    def decision(self, run: str) -> Entry | None:
        """The decision on a run, None where there is none."""
        return find_decision(self.entries(), run)

    def record_look(self, look: Look, *, level: Level | None = None) -> Entry:
        """Record that a model is about to be scored on a test set, unless that scoring is on record.

        The same claim of the same model on the same test set is the same look in any run of the period. A champion or
        reference that was scored there as a challenger is not recorded again; the other way round it is, because a
        claim is new.

        Args:
            look: what is about to be scored.
            level: what the run was opened to spend on this look; the ledger must still leave it that.

        Raises:
            RefusedError: the look's period is closed: the test set of now may hold its patients. Or another look was
                taken since the run was opened, and the ledger leaves this one less. Then nothing is recorded.
        """

        def decide(entries: list[Entry]) -> Look | Entry:
            known = recorded_look(entries, look)
            if known is None and look.period != (now := open_period(entries).number):
                raise RefusedError(
                    f"{look.run} was opened in test period {look.period}, and period {now} is open",
                    where=self.storage.place(),
                    fix="retrain in a new run; it is opened in the period of now",
                )
            if level is not None:
                check_spending(entries, look, level)
            return known or look

        return self.append_if("look", decide)

    def _check(self, name: str, data: bytes, before: list[Entry]) -> Entry:
        try:
            return follow(data, before)
        except NoEntryError as error:
            if error.newer:
                raise StorageError(f"{name}: {error}", where=self.storage.place(name), fix=NEWER_FIX) from error
            raise self._broken(name, str(error)) from error

    def _broken(self, name: str, why: str) -> StorageError:
        return StorageError(
            f"the ledger is damaged at {name}: {why}",
            where=self.storage.place(name),
            fix="restore the ledger folder from a backup; nothing is promoted until then",
        )


def _name(seq: int) -> str:
    return f"{seq:08d}.json"


def _number(name: str) -> int:
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else 0
