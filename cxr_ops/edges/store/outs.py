"""What a run's stages made, file by file, by its commit: as git holds it, or as DVC keeps what the commit names."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import objects, runs
from cxr_ops.edges.store.remote import Remote
from cxr_ops.errors import DataError


class Outs:
    """The files of a run commit and the outputs that its `dvc.lock` names, each checked against its MD5.

    Args:
        home: the installation.
        commit: the run commit.
        remote: whether the remote is asked for what no folder of this machine holds.
    """

    def __init__(self, home: Home, commit: str, *, remote: bool = True) -> None:
        self._home, self._commit, self._remote = home, commit, remote
        lock = runs.run_file(home, commit, dvc.LOCK)
        self._outs = objects.of_lock(lock) if lock is not None else {}

    def read(self, path: str) -> bytes | None:
        """The bytes of a file, by its path in the workspace; None where the run made none, or its bytes are lost.

        Raises:
            StorageError: the remote does not answer.
        """
        held = runs.run_file(self._home, self._commit, path)
        if held is not None:
            return held
        md5 = self._outs.get(path) or self._listed(path)
        return self._object(md5) if md5 else None

    def needed(self, path: str, run: str) -> bytes:
        """The bytes of a file that `run` made.

        Raises:
            DataError: they are lost.
            StorageError: the remote does not answer.
        """
        data = self.read(path)
        if data is None:
            raise DataError(
                f"{path} of {run} is lost: neither the store nor the DVC remote holds the bytes on record",
                where=path,
                fix="put the objects back from a backup: cxr-ops restore FROM",
            )
        return data

    def digests(self, out: str) -> dict[str, str]:
        """The MD5 of each file of an output, by its path; of one in a folder that cannot be listed there is none."""
        md5 = self._outs.get(out)
        if md5 is None:
            return {}
        if not md5.endswith(".dir"):
            return {out: md5}
        listing = self._object(md5)
        files = json.loads(listing) if listing is not None else []
        return {f"{out}/{one['relpath']}": str(one["md5"]) for one in files}

    def _listed(self, path: str) -> str | None:
        """The object of a file in a folder that is an output."""
        return next((self.digests(out).get(path) for out in self._outs if path.startswith(f"{out}/")), None)

    def _object(self, name: str) -> bytes | None:
        for folder in self._home.object_folders:
            data = _read(dvc.place(folder, name))
            if data is not None and _fits(data, name):
                return data
        if self._remote and self._home.remote_folder is None:
            with tempfile.TemporaryDirectory(prefix="cxr-out-") as aside:
                found = Remote(self._home).fetch(name, Path(aside))
                data = _read(found) if found is not None else None
                return data if data is not None and _fits(data, name) else None
        return None


def _fits(data: bytes, name: str) -> bool:
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == name.removesuffix(".dir")


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
