"""The ledger: an append-only, hash-chained record of looks, decisions, approvals, promotions, test periods and plans.

    $CXR_HOME/ledger/00000001.json, 00000002.json, ...

One entry a file, in canonical JSON. `prev` is the SHA-256 of the file before it, so that `sha256sum` is enough to
check the chain by hand. `seal` is the SHA-256 of the entry's other fields: it betrays a damaged last entry, which
nothing follows yet. An entry is created and never replaced: of two writers that want the same number one wins, and the
other reads again and decides again. The champion is whatever the last promotion says, the reference and the open test
period follow from the entries too; nothing else is asked.

What the chain cannot show by itself is that its end was cut off, or that all of it was written anew. For that each run
keeps, in the `inputs.json` that is committed with it, where the ledger stood: `Ledger.verify(state)` compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from pydantic import ValidationError

from cxr_ops.audit.entries import BODIES, Entry, Kind, Look, make, seal
from cxr_ops.audit.state import (
    allowance,
    find_decision,
    find_look,
    last_promotion,
    open_period,
    period_limits,
    same_scoring,
    state_after,
    strictest,
    taken_looks,
)
from cxr_ops.errors import ConflictError, RefusedError, StorageError
from cxr_ops.records.base import NEWER, NEWER_FIX, Record
from cxr_ops.records.inputs import LedgerState, Period

ANY_HEAD: Final = "any head"


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


class Ledger:
    """The ledger of one installation; see the module's docstring. A storage that holds nothing is an empty ledger."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def entries(self) -> list[Entry]:
        """All entries in order, each checked against the one before it.

        Raises:
            StorageError: an entry is damaged, altered, missing from the middle or of a kind that does not exist; it is
                named.
        """
        found: list[Entry] = []
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
            entry = make(kind, made, entries)
            if self.storage.create(_name(entry.seq), entry.to_bytes()):
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

    def period(self) -> Period:
        """The open test period."""
        return open_period(self.entries())

    def champion(self) -> Entry | None:
        """The promotion in force, None before the first release."""
        return last_promotion(self.entries())

    def decision(self, run: str) -> Entry | None:
        """The decision on a run, None where there is none."""
        return find_decision(self.entries(), run)

    def record_look(self, look: Look, *, level: float | None = None) -> Entry:
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
            for entry in entries:
                if entry.kind == "look" and same_scoring(entry.look, look):
                    self._check_repeated(entries, look, level)
                    return entry
            if look.period != (now := open_period(entries).number):
                raise RefusedError(
                    f"{look.run} was opened in test period {look.period}, and period {now} is open",
                    where=self.storage.place(),
                    fix="retrain in a new run; it is opened in the period of now",
                )
            limits = strictest([look.limits, period_limits(entries, look.period)])
            if level is not None and limits is not None and limits.spending:
                left = allowance(entries, limits, look.period).next.checks
                if left < level:
                    raise RefusedError(
                        f"another look was taken since {look.run} was opened: this one may spend {100 * left:.3g} %, "
                        f"and the run was opened to spend {100 * level:.3g} %; nothing was scored or spent",
                        where=self.storage.place(),
                        fix="retrain in a new run; it is opened with what the ledger leaves then",
                    )
            return look

        return self.append_if("look", decide)

    def _check_repeated(self, entries: list[Entry], look: Look, level: float | None) -> None:
        """A look that another run took meanwhile may spend what its own place leaves, and no more."""
        limits = strictest([look.limits, period_limits(entries, look.period)])
        place = find_look(taken_looks(entries, look.period), look.model, look.test_digest, look.claim)
        if level is None or place is None or limits is None or not limits.spending:
            return
        left = allowance(entries, limits, look.period).taken[place].checks
        if left < level:
            raise RefusedError(
                f"another run took the look of {look.run} since it was opened, as number {place + 1} of the test "
                f"period: it may spend {100 * left:.3g} %, and the run was opened to spend {100 * level:.3g} %",
                where=self.storage.place(),
                fix="retrain in a new run; it is opened with what the ledger leaves then",
            )

    def _check(self, name: str, data: bytes, before: list[Entry]) -> Entry:
        try:
            entry = Entry.model_validate_json(data)
            BODIES[entry.kind].model_validate(entry.body)
        except ValidationError as error:
            first = error.errors()[0]
            if newer := [one["msg"] for one in error.errors() if one["type"] == NEWER]:
                raise StorageError(f"{name}: {newer[0]}", where=self.storage.place(name), fix=NEWER_FIX) from error
            place = ".".join(str(part) for part in first["loc"])
            raise self._broken(name, f"it is not an entry: {place + ': ' if place else ''}{first['msg']}") from error
        if entry.to_bytes() != data:
            raise self._broken(name, "its bytes are not those that were written")
        if entry.seq != len(before) + 1:
            raise self._broken(name, f"it says that it is entry {entry.seq}")
        if entry.seal != seal(entry):
            raise self._broken(name, "its seal does not fit what it says: it was altered")
        if entry.prev != (before[-1].digest() if before else None):
            raise self._broken(name, "it does not follow the entry before it: one of the two was altered")
        return entry

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
