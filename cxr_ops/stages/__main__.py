"""What `dvc.yaml` runs: `python -m cxr_ops.stages <verb>`, in the folder of the checkout.

The exit code says what kind of error it was. DVC turns every code into 255, so the code and the error also go to the
file that `CXR_EXIT_FILE` names, where there is one.

Each process of a training by several runs `python -m cxr_ops.stages train <workspace> <params.yaml>`, and leaves its
error where torchrun looks for it.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from cxr_ops.contract import DETERMINISTIC, EXIT_USAGE
from cxr_ops.errors import CxrError, StoppedError, StorageError, as_record
from cxr_ops.params import Params

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def main(arguments: list[str]) -> int:
    """Run one stage and return its exit code. An error of ours, as against one of the user's, keeps its traceback."""
    if len(arguments) not in (1, 3) or arguments[0] not in DETERMINISTIC:
        sys.stderr.write(f"usage: python -m cxr_ops.stages {{{','.join(DETERMINISTIC)}}} [WORKSPACE PARAMS]\n")
        return EXIT_USAGE
    verb, root, settings = arguments if arguments[1:] else (arguments[0], ".", "params.yaml")
    signal.signal(signal.SIGTERM, _stop)
    # Until the end is known: whoever is killed, or ends with a traceback, leaves this behind.
    _leave_word(None, None)
    try:
        _run(verb, Path(root).resolve(), Path(settings).resolve())
    except CxrError as error:
        if not _leave_word(error.exit_code, error):
            sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    _leave_word(0, None)
    return 0


def _run(verb: str, root: Path, settings: Path) -> None:
    try:
        import_module(f"cxr_ops.stages.{verb}").run(root, Params.load(settings))
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise StorageError(
            f"{verb} could not write: {error.strerror}",
            where=error.filename or root,
            fix="free space or mend the rights, then run the stage again; it goes on from its last checkpoint",
        ) from error


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """End at the next step, with cleaning up. Training replaces this by a handler that saves a checkpoint first."""
    raise StoppedError("stopped on request", fix="run the stage again")


def _leave_word(code: int | None, error: CxrError | None) -> bool:
    """Tell whoever started the stage how it ended: torchrun or the supervisor; False where neither did."""
    word: dict[str, Any] = {"code": code, "error": error and as_record(error)}
    path = os.environ.get("CXR_EXIT_FILE")
    if torchrun := os.environ.get("TORCHELASTIC_ERROR_FILE"):  # the process that started torchrun tells the supervisor
        path = torchrun if error else os.devnull
        word |= {"message": str(error), "timestamp": int(time.time())}  # what torchrun reads
    if not path:
        return False
    Path(path).write_text(json.dumps(word), encoding="utf-8")
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
