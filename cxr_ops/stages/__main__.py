"""What `dvc.yaml` runs: `python -m cxr_ops.stages <verb>`, in the folder of the checkout.

The exit code says what kind of error it was. DVC turns every code into 255, so the code and the error also go to the
file that `CXR_EXIT_FILE` names, where there is one.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cxr_ops.contract import DETERMINISTIC, EXIT_USAGE
from cxr_ops.errors import CxrError, StoppedError, StorageError
from cxr_ops.params import Params

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)


def main(arguments: list[str]) -> int:
    """Run one stage and return its exit code. An error of ours, as against one of the user's, keeps its traceback."""
    if len(arguments) != 1 or arguments[0] not in DETERMINISTIC:
        sys.stderr.write(f"usage: python -m cxr_ops.stages {{{','.join(DETERMINISTIC)}}}\n")
        return EXIT_USAGE
    signal.signal(signal.SIGTERM, _stop)
    # Until the end is known: whoever is killed, or ends with a traceback, leaves this behind.
    _leave_word(None, None)
    try:
        _run(arguments[0])
    except CxrError as error:
        if not _leave_word(error.exit_code, error):
            sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    _leave_word(0, None)
    return 0


def _run(verb: str) -> None:
    try:
        root = Path.cwd()
        import_module(f"cxr_ops.stages.{verb}").run(root, Params.load(root / "params.yaml"))
    except StorageError:
        raise
    except OSError as error:
        if error.errno not in _DISK:
            raise
        raise StorageError(
            f"{verb} could not write: {error.strerror}",
            where=error.filename or Path.cwd(),
            fix="free space or mend the rights, then run the stage again; it goes on from its last checkpoint",
        ) from error


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    """End at the next step, with cleaning up. Training replaces this by a handler that saves a checkpoint first."""
    raise StoppedError("stopped on request", fix="run the stage again")


def _leave_word(code: int | None, error: CxrError | None) -> bool:
    """Tell the supervisor how the stage ended; False where there is none."""
    path = os.environ.get("CXR_EXIT_FILE")
    if not path:
        return False
    said = error and {"kind": type(error).__name__, "what": error.what, "where": error.where, "fix": error.fix}
    Path(path).write_text(json.dumps({"code": code, "error": said}), encoding="utf-8")
    return True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
