"""How an attempt at a stage ended, as a file: the stage's command leaves it (`edges.attempt`), and a launcher reads it.

Each attempt has a folder of its own, which its launcher makes and names to the command (`--attempt FOLDER`):

    $CXR_HOME/airflow/stages/<run>/<verb>/<number>/
      stdout, stderr   what the command said, where the launcher starts it as a process
      result.json      how it ended: exit code, and what came out or the error

The command writes `result.json` aside and renames it once the end is known, so that the file is there whole or not at
all. What was killed leaves none. Standard library only: launchers import this when a DAG file is read.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from cxr_ops import errors
from cxr_ops.errors import CxrError, DataError, StorageError

FORMAT: Final = 1
RESULT: Final = "result.json"
STDOUT: Final = "stdout"
STDERR: Final = "stderr"
# A result holds identifiers and digests. An error may quote many rows.
LIMIT_BYTES: Final = 2**20


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """How an attempt ended: exactly one of `result` and `error` is there.

    Attributes:
        verb: the stage.
        exit_code: of its command; 0 with a result, another with an error.
        result: identifiers and digests of what came out.
        error: `kind` (its class), `what`, `where` and `fix`, as `errors.as_record` gives them.
    """

    verb: str
    exit_code: int
    result: dict[str, Any] | None = None
    error: dict[str, str | None] | None = None

    def __post_init__(self) -> None:
        """Check what the class promises.

        Raises:
            ValueError: it does not hold.
        """
        if (self.exit_code == 0) != (self.result is not None) or (self.exit_code == 0) != (self.error is None):
            raise ValueError("a result goes with exit code 0, and an error with any other")

    def to_bytes(self) -> bytes:
        """The file, as JSON with sorted keys.

        Raises:
            TypeError, ValueError: the result is none that JSON holds.
        """
        text = json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True, indent=2, allow_nan=False)
        return text.encode() + b"\n"

    def why(self) -> CxrError | None:
        """The error that it ended with."""
        return errors.from_record(self.error) if self.error else None


def read(folder: Path, verb: str) -> Attempt:
    """Read how an attempt ended.

    Args:
        folder: the attempt's.
        verb: the stage that it was an attempt at.

    Raises:
        DataError: there is no `result.json`, it is damaged, of a later format or of another stage.
        StorageError: it cannot be read.
    """
    path = folder / RESULT
    try:
        text = _read_regular(path)
    except FileNotFoundError:
        raise DataError(f"it left no {RESULT}", where=path) from None
    except OSError as error:
        raise StorageError(f"its {RESULT} cannot be read: {error.strerror}", where=path) from error
    try:
        ended = _parse(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"its {RESULT} is damaged: {error}", where=path) from error
    if ended.verb != verb:
        raise DataError(f"its {RESULT} is of the stage {ended.verb!r}", where=path)
    return ended


# ------------------------------------------------------------------------------------------- where attempts stand


def make_folder(home: Path, run: str, verb: str, number: int) -> Path:
    """Make the folder of an attempt: one in which nobody has written.

    A number comes again where Airflow's database was made anew, or a run deleted and triggered once more under its old
    name. The folder is then called `<number>-2`, `<number>-3` and so on.

    Args:
        home: `$CXR_HOME`.
        run: the run's name, a slug.
        verb: the stage.
        number: of the attempt, as Airflow counts.

    Raises:
        OSError: it cannot be made.
    """
    above = home / "airflow" / "stages" / run / verb
    above.mkdir(parents=True, exist_ok=True)
    again = 1
    while True:
        folder = above / _name(number, again)
        try:
            folder.mkdir()
        except FileExistsError:
            again += 1
        else:
            return folder


def last_folder(home: Path, run: str, verb: str, number: int) -> Path | None:
    """The folder that `make_folder` made last for an attempt; None where it made none."""
    above = home / "airflow" / "stages" / run / verb
    last = None
    for again in count(1):
        folder = above / _name(number, again)
        if not folder.is_dir():
            break
        last = folder
    return last


def _name(number: int, again: int) -> str:
    return str(number) if again == 1 else f"{number}-{again}"


# ------------------------------------------------------------------------------------------------------- the file


def _read_regular(path: Path) -> bytes:
    """Read a file that another user may have left: no link is followed, no pipe waited for, no end awaited."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(file, "rb") as opened:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise OSError(None, "it is no regular file")
        return opened.read(LIMIT_BYTES + 1)


def _parse(data: bytes) -> Attempt:
    """Read the file's bytes. A later version of the same format may add keys; they are passed over."""
    if len(data) > LIMIT_BYTES:
        raise ValueError(f"it has more than {LIMIT_BYTES} bytes")
    told = json.loads(data)
    if not isinstance(told, dict) or "format" not in told:
        raise ValueError("it holds no object with a format")
    if told["format"] != FORMAT:
        raise ValueError(f"its format is {told['format']!r}, and this version reads {FORMAT}")
    verb, exit_code, result, error = (told.get(key) for key in ("verb", "exit_code", "result", "error"))
    if not isinstance(verb, str) or type(exit_code) is not int:
        raise ValueError("verb or exit_code is missing")
    if not (result is None or isinstance(result, dict)):
        raise ValueError("result is no object")
    if not (error is None or (isinstance(error, dict) and _is_error(error))):
        raise ValueError("error does not say kind, what, where and fix")
    return Attempt(verb=verb, exit_code=exit_code, result=result, error=error)


def _is_error(error: dict[str, Any]) -> bool:
    return all(isinstance(error.get(key), str) for key in ("kind", "what")) and all(
        key in error and isinstance(error[key], str | None) for key in ("where", "fix")
    )
