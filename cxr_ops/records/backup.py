"""Records of a backup: what it holds, and where an installation stood when it was taken."""

from __future__ import annotations

from cxr_ops.records.base import Kept, Record
from cxr_ops.records.inputs import LedgerState


class Stored(Record):
    """A file of a backup: the SHA-256 of its bytes, which is its object's name, its size in bytes and its rights.

    `modified` is when the file was changed last, in nanoseconds since 1970: of a file whose size and time are those of
    the backup before, the bytes are not read again.
    """

    sha256: str
    size: int
    modified: int
    mode: int


class Backup(Kept):
    """One backup: `backups/<name>.json`, which is written when all of its objects are there.

    `files` are by path, under `$CXR_HOME` as an installation without settings has it. `artifacts` is where MLflow's
    artifacts were, whose addresses its database holds. `left_out` says in sentences what the installation uses and the
    backup does not hold.
    """

    made_at: str
    version: str
    ledger: LedgerState
    data_revision: str | None
    artifacts: str
    files: dict[str, Stored]
    left_out: list[str] = []

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())
