"""A delivery, held against the file that ends it: `READY`, empty or with the SHA-256 of every other file.

`READY` is written last by whoever delivers; `sha256sum` writes one that says what the delivery is:

    cd FOLDER && find . -type f ! -name READY -exec sha256sum {} + > ../READY && mv ../READY .
"""

from __future__ import annotations

from pathlib import Path

from cxr_ops import voice
from cxr_ops.contract import READY, read_ready
from cxr_ops.errors import DataError
from cxr_ops.records.base import sha256_file

_TOLD = 10  # files that an error names


def check(folder: Path) -> str | None:
    """Compare a folder with its `READY`.

    Args:
        folder: of the delivery.

    Returns:
        What was found, in words; None where there is no `READY`, or an empty one.

    Raises:
        DataError: a line of `READY` is no checksum, a file is missing, is another, or is not named.
    """
    ready = folder / READY
    if not ready.is_file():
        return None
    try:
        named = read_ready(ready.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{READY} is not what sha256sum prints: {error}", where=ready, fix=_fix(folder)) from error
    if not named:
        return None
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()} - {READY}
    wrong = [f"{name}: missing" for name in sorted(named.keys() - there)]
    wrong += [f"{name}: not named in {READY}" for name in sorted(there - named.keys())]
    wrong += [f"{name}: other content" for name in sorted(named.keys() & there) if _differs(folder / name, named[name])]
    if wrong:
        lines = [*wrong[:_TOLD], *([f"and {len(wrong) - _TOLD:,} more"] if len(wrong) > _TOLD else [])]
        raise DataError(
            f"{voice.count(len(wrong), 'file is', 'files are')} not what {READY} says; nothing was ingested\n  "
            + "\n  ".join(lines),
            where=folder,
            fix=f"deliver them again; where the files are right, write {READY} anew: {_fix(folder)}",
        )
    return f"{voice.count(len(named), 'file is', 'files are')} as {READY} says, by SHA-256"


def _differs(path: Path, digest: str) -> bool:
    # Of a pipe or a device reading might never end.
    return path.is_symlink() or not path.is_file() or sha256_file(path) != digest


def _fix(folder: Path) -> str:
    return f"cd {folder} && find . -type f ! -name {READY} -exec sha256sum {{}} + > ../{READY} && mv ../{READY} ."
