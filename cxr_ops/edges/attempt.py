"""Does a stage's work, and leaves how it ended for whoever started it; see `cxr_ops.attempt` for the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from cxr_ops import contract, errors
from cxr_ops.attempt import RESULT, Attempt
from cxr_ops.errors import CxrError, StorageError
from cxr_ops.records.base import write_atomic

_INTERRUPTED: Final = 130  # 128 + SIGINT


def run(verb: str, folder: Path | None, work: Callable[[], Mapping[str, Any]]) -> None:
    """Do a stage's work, and leave in the attempt's folder how it ended.

    Args:
        verb: the stage.
        folder: where `result.json` goes; made if it is not there. None: nothing is left.
        work: does the work and returns the result.

    Raises:
        StorageError: the folder cannot be written; before the work is begun, if that shows then.
        BaseException: whatever `work` raises, after it was written down.
    """
    if folder is None:
        work()
        return
    _clear(folder)
    try:
        _leave(folder, Attempt(verb=verb, exit_code=0, result=dict(work())))
    except CxrError as error:
        _leave_error(folder, verb, error.exit_code, errors.as_record(error))
        raise
    except KeyboardInterrupt:
        stopped = {"kind": "KeyboardInterrupt", "what": "stopped by Ctrl-C", "where": None, "fix": "run it again"}
        _leave_error(folder, verb, _INTERRUPTED, stopped)
        raise
    except Exception as error:
        _leave_error(folder, verb, contract.EXIT_FAILED, _of_a_fault(error))
        raise


def _clear(folder: Path) -> None:
    """Make the folder, and remove an older attempt's file: were this one killed, that would pass for its own."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RESULT).unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(
            f"the attempt's folder cannot be written: {error.strerror}",
            where=folder,
            fix="mend the rights of the folder, then run the stage again",
        ) from error


def _leave(folder: Path, ended: Attempt) -> None:
    data = ended.to_bytes()
    try:
        write_atomic(folder / RESULT, data)
    except OSError as error:
        raise StorageError(
            f"how the stage ended cannot be written: {error.strerror}",
            where=folder / RESULT,
            fix="free space or mend the rights, then run the stage again",
        ) from error


def _leave_error(folder: Path, verb: str, exit_code: int, error: dict[str, str | None]) -> None:
    """Leave an error; where that fails too, the first one counts, and the exit code and the log still tell it."""
    try:
        _leave(folder, Attempt(verb=verb, exit_code=exit_code, error=error))
    except StorageError:
        return


def _of_a_fault(error: Exception) -> dict[str, str | None]:
    """What is said of an error in the program itself: its traceback is in the log."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else None
    what = f"{type(error).__name__}: {error}"
    return {"kind": type(error).__name__, "what": what, "where": where, "fix": "read the traceback in its log"}
