"""Which entries of a ledger were checked already, so that reading it costs what is new.

    $CXR_HOME/checked/<ledger>/00000001-00000256-<sha256>.json, ...

Each file holds 256 entries that were checked one by one, and its name says the SHA-256 of its bytes. It is written
aside and renamed, and is the same whoever writes it. What is remembered is what was checked: an entry that is altered
in the store afterwards changes nothing that is decided here, and `cxr-ops ledger verify` finds it, which reads every
entry.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final

from cxr_ops.audit.entries import Entry
from cxr_ops.edges.ledger.chain import SIZE
from cxr_ops.errors import StorageError
from cxr_ops.records.base import canonical_json, sha256_bytes, write_atomic

_NAME: Final = re.compile(r"(\d{8})-(\d{8})-([0-9a-f]{64})\.json")


class Memory:
    """Remembers the checked entries of one ledger in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def recall(self) -> list[Entry]:
        """The entries that are remembered, from the first on; what is damaged, and all after it, is forgotten."""
        try:
            listed = [match for path in self.folder.iterdir() if (match := _NAME.fullmatch(path.name))]
        except OSError:
            return []
        found: list[Entry] = []
        for match in sorted(listed, key=lambda one: one[0]):
            if int(match[1]) != len(found) + 1 or int(match[2]) != len(found) + SIZE:
                break
            try:
                data = (self.folder / match[0]).read_bytes()
            except OSError:
                break
            if sha256_bytes(data) != match[3]:
                break
            # They were checked before they were written: what they hold is taken as it is, which is fast.
            found += [Entry.model_construct(**document) for document in json.loads(data)]
        return found

    def remember(self, entries: list[Entry], known: int) -> None:
        """Keep what was checked, in whole files; `known` entries are remembered already.

        Raises:
            StorageError: the folder cannot be written.
        """
        for first in range(known - known % SIZE, len(entries) - SIZE + 1, SIZE):
            data = canonical_json([one.model_dump(mode="json") for one in entries[first : first + SIZE]])
            name = f"{first + 1:08d}-{first + SIZE:08d}-{sha256_bytes(data)}.json"
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                write_atomic(self.folder / name, data)
            except OSError as error:
                raise StorageError(
                    f"what was checked of the ledger cannot be remembered: {error.strerror}",
                    where=self.folder,
                    fix="free space, or mend the folder's rights",
                ) from error
