"""Waits for a stage's command, and writes down how it ended: a process that outlives the worker that started it.

    python -P -m cxr_ops.launchers.keeper FOLDER LOCK_FD SECONDS RECORD COMMAND...

The lock on LOCK_FD belongs to this process and to the command: while it is held, one of them lives, and nobody starts
another. Its file then holds RECORD, a JSON object, with the id of their group. SIGTERM to the group reaches the
command, which ends after a checkpoint; SECONDS later it is killed. The exit code is kept in FOLDER, the attempt's.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from cxr_ops import attempt, locks

PAUSE_SECONDS = 0.2


def main(folder: str, lock: str, seconds: str, told: str, *command: str) -> None:
    """Run the command to its end, and write its exit code; a negative number is the signal that ended it."""
    asked: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        asked.append(number)

    # A handler, which does not go on to the command as an ignored signal would.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop)
    locks.record(int(lock), json.dumps({**json.loads(told), "group": os.getpid()}))
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(int(lock),))
    while not asked:
        try:
            process.wait(PAUSE_SECONDS)
        except subprocess.TimeoutExpired:
            continue
        break
    try:
        process.wait(float(seconds) if asked else None)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    attempt.end(Path(folder), process.returncode)


if __name__ == "__main__":
    main(*sys.argv[1:])
