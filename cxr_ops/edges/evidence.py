"""The evidence of a run that was decided on, as the ledger names it: wherever a copy of it is, its digest decides."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ValidationError

from cxr_ops.edges.home import Home
from cxr_ops.edges.store.outs import Outs
from cxr_ops.errors import DataError
from cxr_ops.records.base import NEWER_FIX, sha256_bytes
from cxr_ops.records.evidence import Evaluation

EVALUATION: Final = "evaluate/evaluation.json"


def evaluation(home: Home, run: str, commit: str | None, digest: str) -> Evaluation | None:
    """Read a run's evidence from its workspace, the store, DVC's cache or a remote that is a folder.

    Args:
        home: the installation.
        run: the run's name.
        commit: the run commit.
        digest: SHA-256 of the file, which the decision names. A copy with another one is passed over.

    Returns:
        The evidence; None where no copy of it is on this machine.

    Raises:
        DataError: a later version wrote it.
    """
    for data in (_read(home.workspace(run) / EVALUATION), *(_of_commit(home, commit) if commit else ())):
        if data is not None and sha256_bytes(data) == digest:
            try:
                return Evaluation.model_validate_json(data)
            except ValidationError as error:
                raise DataError(
                    f"the evidence of {run} is not understood: {error.errors()[0]['msg']}", where=digest, fix=NEWER_FIX
                ) from error
    return None


def _of_commit(home: Home, commit: str) -> list[bytes | None]:
    """The file as a run commit holds it, or as DVC keeps on this machine what the commit points to."""
    return [Outs(home, commit, remote=False).read(EVALUATION)] if home.store.is_dir() else []


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
