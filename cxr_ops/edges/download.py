"""Downloads of large files over HTTP: resumed where they broke off, checked, and never seen half done.

What has come is in `NAME.part` until all of it is there and its checksum is right. A server that breaks off is
asked again for the rest (`Range`); one that has no ranges, or whose file has changed (`ETag`), sends all of it.
"""

from __future__ import annotations

import hashlib
import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from cxr_ops.errors import DataError, StorageError

ATTEMPTS: Final = 8  # in a row that bring nothing; each that brings something begins the count again
_PIECE: Final = 2**20
_TIMEOUT: Final = 60.0  # seconds without a byte
_LATER: Final = (408, 425, 429, 500, 502, 503, 504)  # what a server may say and take back


def download(
    url: str,
    path: Path,
    *,
    md5: str,
    progress: Callable[[int, int], None] | None = None,
    attempts: int = ATTEMPTS,
    pause: Callable[[float], None] = time.sleep,
) -> bool:
    """Bring a file, or the rest of it.

    Args:
        url: where it is, http or https.
        path: where it goes.
        md5: its checksum, in hexadecimal, as its publisher gives it. It finds what was cut or altered on the way; it
            does not prove who made the file.
        progress: called with the bytes that are here and those of the whole file, 0 where the server does not say.
        attempts: how many in a row may bring nothing.
        pause: waits for some seconds.

    Returns:
        Whether anything was downloaded: False where the file was here.

    Raises:
        DataError: what came has another checksum; it is thrown away.
        StorageError: the server does not answer, refuses, or breaks off too often, or the disk cannot be written. What
            has come is kept for the next time.
    """
    if path.is_file():
        if _md5(path) == md5:
            return False
        raise DataError(
            f"{path.name} is here with another checksum", where=path, fix="move it away, and type the command again"
        )
    part, tag = path.with_name(f"{path.name}.part"), path.with_name(f"{path.name}.etag")
    failed = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part, tag, progress)
            break
        except urllib.error.HTTPError as error:
            if error.code not in _LATER:
                raise StorageError(
                    f"the server refuses: {error.code} {error.reason}", where=url, fix="is the address still right?"
                ) from error
            why = f"{error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, _DiskError):
                raise StorageError(f"the file cannot be written: {error.strerror}", where=part) from error
            why = str(getattr(error, "reason", error)) or type(error).__name__
        after = part.stat().st_size if part.exists() else 0
        failed = 0 if after > before else failed + 1
        if failed >= attempts:
            raise StorageError(
                f"the server broke off {failed} times without a byte: {why}",
                where=url,
                fix=f"type the command again: {after:,} bytes are here, and it goes on from there",
            )
        pause(min(60.0, 2.0**failed))
    if (found := _md5(part)) != md5:
        part.unlink()
        tag.unlink(missing_ok=True)
        raise DataError(
            f"what came has the MD5 checksum {found} and not {md5}: it was altered on the way, or at its source",
            where=url,
            fix="type the command again; if it happens twice, compare with the publisher's list",
        )
    part.replace(path)
    tag.unlink(missing_ok=True)
    return True


class _DiskError(OSError):
    """The disk's own fault, which another attempt does not mend."""


def _fetch(url: str, part: Path, tag: Path, progress: Callable[[int, int], None] | None) -> None:
    """Append to `part` what is missing of it; it is whole when this returns."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "cxr-ops", "Accept-Encoding": "identity"}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - addresses are those of a list in code
    known = tag.read_text(encoding="ascii") if tag.exists() else ""
    if have and known:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known)  # a file that has changed comes whole
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)  # noqa: S310 - addresses are those of a list in code
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and have:
            part.unlink()  # more is here than there is: begin again
            raise ConnectionResetError("the file is shorter than what is here") from error
        raise
    with answer:
        resumed = answer.status == HTTPStatus.PARTIAL_CONTENT
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionResetError("the server gave another part than the one asked for")
        start = have if resumed else 0
        length = answer.headers.get("Content-Length")
        total = start + int(length) if length else 0
        _remember(tag, answer.headers.get("ETag"))
        done = start
        with _open(part, append=resumed) as file:
            while piece := answer.read(_PIECE):
                try:
                    file.write(piece)
                except OSError as error:
                    raise _DiskError(error.errno, error.strerror) from error
                done += len(piece)
                if progress:
                    progress(done, total)
    if total and done != total:
        raise ConnectionResetError(f"{total - done:,} bytes are missing")


def _remember(tag: Path, etag: str | None) -> None:
    # A weak one says that the file is alike, and not that its bytes are the same.
    if etag and not etag.startswith("W/") and etag.isascii():
        tag.write_text(etag, encoding="ascii")
    else:
        tag.unlink(missing_ok=True)


def _open(part: Path, *, append: bool) -> io.BufferedWriter:
    try:
        return part.open("ab" if append else "wb")
    except OSError as error:
        raise _DiskError(error.errno, error.strerror) from error


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
