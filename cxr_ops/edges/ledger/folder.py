"""The ledger's entries in a folder, a file each."""

from __future__ import annotations

import errno
import os
import secrets
from pathlib import Path

from cxr_ops.errors import StorageError


class Folder:
    """Keeps entries in a folder; see `chain.Storage`. A folder that does not exist holds nothing."""

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

    def place(self, name: str | None = None) -> str:
        """Where an entry is, or the whole ledger, for people."""
        return str(self.path / name if name else self.path)
