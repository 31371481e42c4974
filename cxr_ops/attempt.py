"""How an attempt at a stage ended, as a file: the stage's command leaves it (`edges.attempt`), and a launcher reads it.

Each attempt has a folder of its own, which its launcher makes and names to the command (`--attempt FOLDER`):

    $CXR_HOME/airflow/stages/<run>/<verb>/<number>/
      started.json     what the launcher wanted: the recipe, and whose wish it serves
      stdout, stderr   what the command said, where the launcher starts it as a process
      result.json      how it ended: exit code, and what came out or the error
      exit_code        how it ended, as whoever waited for it saw
      stop             somebody has asked it to stop, and not to go on

The command writes `result.json` aside and renames it once the end is known, so that the file is there whole or not at
all. What was killed leaves none. Standard library only: launchers import this when a DAG file is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final

from cxr_ops import errors
from cxr_ops.errors import CxrError, DataError, StorageError

FORMAT: Final = 1
RESULT: Final = "result.json"
STARTED: Final = "started.json"
EXIT_CODE: Final = "exit_code"
STOP: Final = "stop"
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
    return _first_free(home, run, verb, number, lambda path: path.mkdir())


def go_on(home: Path, run: str, verb: str, number: int, folder: Path) -> Path:
    """Let an attempt have the folder of an earlier one that it goes on with: its own is a link there.

    Raises:
        OSError: it cannot be made.
    """
    return _first_free(home, run, verb, number, lambda path: path.symlink_to(folder.name))


def _first_free(home: Path, run: str, verb: str, number: int, make: Callable[[Path], None]) -> Path:
    above = home / "airflow" / "stages" / run / verb
    above.mkdir(parents=True, exist_ok=True)
    for again in count(1):
        path = above / _name(number, again)
        with suppress(FileExistsError):
            make(path)
            return path
    raise AssertionError("numbers do not end")


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


# ------------------------------------------------------------------- what a launcher keeps, to find it after its death


def installation(home: Path) -> str:
    """The id by which an installation knows what it started, among all that a machine or an engine runs.

    It is made of the folder's path and of a random word in it: two folders have two ids, whatever stands in them.

    Args:
        home: `$CXR_HOME`.

    Raises:
        OSError: the word can neither be read nor written.
    """
    path = home / "airflow" / "installation"
    while True:
        try:
            word = _read_regular(path)
            break
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = path.with_name(f".installation-{secrets.token_hex(8)}")
            _write_new(aside, secrets.token_hex(16).encode())
            with suppress(FileExistsError):  # another process was faster, and its word holds
                os.link(aside, path)
            aside.unlink()
    return hashlib.sha256(os.fsencode(home.resolve()) + b"\0" + word).hexdigest()[:12]


def begin(folder: Path, mark: Mapping[str, str]) -> None:
    """Keep what an attempt is of: `recipe`, and the `wish` that it serves. The launcher does so before it starts it.

    Raises:
        OSError: it cannot be written.
    """
    _write_aside(folder / STARTED, json.dumps(dict(mark), sort_keys=True).encode() + b"\n")


def end(folder: Path, exit_code: int) -> None:
    """Keep with which exit code an attempt ended. Whoever saw it end does so, before anybody acts on it.

    Raises:
        OSError: it cannot be written.
    """
    _write_aside(folder / EXIT_CODE, f"{exit_code}\n".encode())


def exit_code(folder: Path) -> int | None:
    """The exit code that `end` kept; None where nobody saw the attempt end."""
    try:
        return int(_read_regular(folder / EXIT_CODE))
    except (OSError, ValueError):
        return None


def mark_of(folder: Path) -> dict[str, str]:
    """What `begin` kept; empty where it kept nothing that can be read."""
    try:
        told = json.loads(_read_regular(folder / STARTED))
    except (OSError, ValueError, RecursionError):
        return {}
    return {str(key): str(value) for key, value in told.items()} if isinstance(told, dict) else {}


def finished(home: Path, run: str, verb: str, mark: Mapping[str, str]) -> Path | None:
    """The folder of an attempt of the same mark that ended well and left its result; None where there is none.

    Its task may have died between the end and the report of it to Airflow.
    """
    above = home / "airflow" / "stages" / run / verb
    for folder in sorted(above.iterdir() if above.is_dir() else (), reverse=True):
        if mark_of(folder) == dict(mark) and exit_code(folder) == 0:
            with suppress(CxrError):
                if read(folder, verb).exit_code == 0:
                    return folder
    return None


def _write_aside(path: Path, data: bytes) -> None:
    aside = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    _write_new(aside, data)
    aside.replace(path)


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that was not there, and have it on the disk; no link is followed."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    with os.fdopen(file, "wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(file)


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
