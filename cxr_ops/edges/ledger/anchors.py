"""Where a ledger stood, put into a second domain of trust: what shows that its end was cut off, or all written anew.

An anchor is a small file in another folder or bucket (`CXR_ANCHOR`), which whoever can write the ledger should not be
able to write: it names the number of entries, the digest of the last one, and that of the first, by which ledgers that
share a place are told apart. One is made after each decision and promotion, under the name of its entry, and never
replaced. Anchors prove what lies up to the last of them, and nothing of what came after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from cxr_ops.audit.entries import Anchor, Entry
from cxr_ops.edges.ledger.chain import Storage
from cxr_ops.errors import StorageError


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """What anchors prove of a ledger.

    Attributes:
        place: where they are.
        count: how many were compared.
        upto: the entry of the last one, 0 without any: up to it nothing was altered, removed or written anew.
        after: entries after it, which rest on the chain alone.
    """

    place: str
    count: int
    upto: int
    after: int

    def __str__(self) -> str:
        """What is proven, in a sentence or two."""
        if not self.count:
            return f"no anchor of this ledger yet in {self.place}: that its end is whole is not proven"
        rest = f"; the {self.after} after it rest on the chain alone" if self.after else ""
        return (
            f"{self.count} anchors in {self.place}: up to entry {self.upto} nothing was altered, removed or written "
            f"anew{rest}"
        )


NONE = (
    "no anchor: the chain shows an entry that was altered or lost in the midst, and not that the end was cut off or "
    "all written anew; to prove that too, set CXR_ANCHOR to a place that others own"
)


class Anchors:
    """The anchors of ledgers in a storage."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def put(self, entries: Sequence[Entry]) -> None:
        """Anchor the last of these entries, unless it is anchored already.

        Raises:
            StorageError: the place cannot be written, or holds another anchor of that ledger and entry.
        """
        anchor = Anchor(entries=len(entries), head=entries[-1].digest(), first=entries[0].digest())
        name = _name(anchor)
        if not self.storage.create(name, anchor.to_bytes()) and self._read(name) != anchor:
            raise self._contradicts(anchor, "entry {0} is another one than it was")

    def check(self, entries: Sequence[Entry], *, last: bool = False) -> Anchored:
        """Compare a ledger with its anchors.

        Args:
            entries: the ledger.
            last: compare the last anchor alone, which is enough where the chain was checked.

        Raises:
            StorageError: the ledger lacks an entry that was anchored, or holds another one; or an anchor is damaged.
        """
        if not entries:
            if found := self._names(None):
                raise StorageError(
                    f"the ledger is empty, and {len(found)} anchors say that it, or another one, held entries",
                    where=self.storage.place(),
                    fix="restore the ledger from a backup; for a new ledger, set CXR_ANCHOR to a place of its own",
                )
            return Anchored(place=self.storage.place(), count=0, upto=0, after=0)
        first = entries[0].digest()
        names = self._names(first)
        if not names and (strange := self._names(None)):
            raise StorageError(
                f"the ledger begins with another entry than those that {len(strange)} anchors are of: it was written "
                "anew, or is another ledger",
                where=self.storage.place(),
                fix="restore the ledger from a backup; for another ledger, set CXR_ANCHOR to a place of its own",
            )
        for name in names[-1:] if last else names:
            anchor = self._read(name)
            if anchor is None:
                continue
            if anchor.entries > len(entries):
                raise self._contradicts(anchor, f"the ledger held {{0}} entries and now holds {len(entries)}")
            if entries[anchor.entries - 1].digest() != anchor.head:
                raise self._contradicts(anchor, "entry {0} is another one than it was")
        upto = _upto(names[-1]) if names else 0
        return Anchored(place=self.storage.place(), count=len(names), upto=upto, after=len(entries) - upto)

    def files(self, entries: Sequence[Entry]) -> dict[str, bytes]:
        """The anchors of a ledger, or of the beginning of it that these entries are: bytes by name."""
        names = self._names(entries[0].digest()) if entries else []
        found = {name: self.storage.read(name) for name in names if _upto(name) <= len(entries)}
        return {name: data for name, data in found.items() if data is not None}

    def _names(self, first: str | None) -> list[str]:
        start = f"{first[:16]}-" if first else ""
        return sorted(
            name
            for name in self.storage.names()
            if name.startswith(start) and name.endswith(".json") and not name.startswith(".")
        )

    def _read(self, name: str) -> Anchor | None:
        data = self.storage.read(name)
        if data is None:
            return None
        try:
            anchor = Anchor.model_validate_json(data)
        except ValidationError as error:
            raise StorageError(
                f"an anchor is damaged: {error.errors()[0]['msg']}",
                where=self.storage.place(name),
                fix="restore it from a backup; until then the ledger is not proven up to it",
            ) from error
        if _name(anchor) != name:
            raise StorageError(
                f"an anchor stands under the name of another: {name}",
                where=self.storage.place(name),
                fix="restore it from a backup",
            )
        return anchor

    def _contradicts(self, anchor: Anchor, why: str) -> StorageError:
        return StorageError(
            f"the ledger is not the one that was anchored: {why.format(anchor.entries)}",
            where=self.storage.place(_name(anchor)),
            fix="restore the ledger from a backup; nothing is promoted until then",
        )


def _name(anchor: Anchor) -> str:
    return f"{anchor.first[:16]}-{anchor.entries:08d}.json"


def _upto(name: str) -> int:
    """The number of entries that an anchor is about, by its name."""
    return int(name.rpartition("-")[2][:8])
