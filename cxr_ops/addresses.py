"""Addresses of stores, and paths in addresses: each is understood, or refused with what to write instead.

A folder is written as a path or as a `file://` address, and may begin with `~`. A bucket is written `s3://bucket/path`.
Everything else that looks like an address is refused: a library that does not know it would make a folder of that name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from cxr_ops.errors import SettingsError

_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(/*)")
_BUCKET: Final = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_KEY: Final = re.compile(r"[A-Za-z0-9!_.*'()/=+@,-]*")
_DATABASES: Final = ("postgresql", "mysql", "mssql")
_SQLITE: Final = re.compile(r"sqlite(?:\+pysqlite)?://")
# What a path may hold without having to be escaped in an address.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.~/+@=,-]*")


def folder(text: str, name: str, below: Path) -> Path:
    """Understand the name of a folder.

    Args:
        text: a path, which may begin with `~`, or a `file://` address.
        name: the setting that it was given in.
        below: the folder that a relative path starts from.

    Raises:
        SettingsError: it is neither.
    """
    _refuse_control(text, name)
    scheme = _SCHEME.match(text)
    if scheme and scheme[1].lower() == "file":
        return _from_file_address(text, name)
    if scheme and (scheme[2] or len(scheme[1]) == 1 or not _is_path(text)):
        raise SettingsError(
            f"{name} must be a folder, not {_shown(text)}", where=name, fix=f"{name}=/path/of/a/folder, or ./ before it"
        )
    path = Path(text)
    if text.startswith("~"):
        try:
            path = path.expanduser()
        except RuntimeError as error:
            raise SettingsError(
                f"this machine has no home folder {path.parts[0]}", where=name, fix=f"{name}=/path/of/a/folder"
            ) from error
    return (below / path).resolve()


def store(text: str, name: str, below: Path) -> Path | str:
    """Understand the address of a store: a folder, or a place in a bucket.

    Args:
        text: the address.
        name: the setting that it was given in.
        below: the folder that a relative path starts from.

    Returns:
        The folder, absolute, or `s3://bucket/path` without a slash at its end.

    Raises:
        SettingsError: it is of another kind, or is no whole address.
    """
    scheme = _SCHEME.match(text)
    if scheme is None or scheme[1].lower() == "file" or (not scheme[2] and _is_path(text)):
        return folder(text, name, below)
    fix = f"{name}=s3://bucket/path, or a folder"
    kind = scheme[1].lower()
    if len(kind) == 1:
        raise SettingsError(f"{_shown(text)} names a drive, which this system has not", where=name, fix=fix)
    if kind != "s3":
        hint = "; Google's storage speaks S3 at https://storage.googleapis.com" if kind in ("gs", "gcs") else ""
        raise SettingsError(
            f"{name} names a store of the kind {scheme[1]}:, which is not supported{hint}",
            where=_shown(text),
            fix=fix + (", and CXR_S3_ENDPOINT for its server" if hint else ""),
        )
    if scheme[2] != "//":
        raise SettingsError(f"{name} is no whole address: s3: is followed by two slashes", where=_shown(text), fix=fix)
    bucket, _, key = text[scheme.end() :].partition("/")
    if "@" in bucket:
        raise SettingsError(
            f"{name} must not hold a key or a password",
            where=_shown(text),
            fix="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY hold them",
        )
    if not _BUCKET.fullmatch(bucket):
        raise SettingsError(
            f"{bucket!r} cannot name a bucket: 3 to 63 small letters, digits, dots and hyphens",
            where=name,
            fix=fix,
        )
    if odd := _KEY.sub("", key):
        raise SettingsError(
            f"{name} holds {odd[0]!r}, which not all programs that read it write in the same way",
            where=_shown(text),
            fix="use letters, digits and -_./ in the path",
        )
    return f"s3://{bucket}/{key}".rstrip("/")


def server(text: str, name: str) -> str:
    """Understand the address of an HTTP server.

    Returns:
        The address without a slash at its end.

    Raises:
        SettingsError: it is no `http://` or `https://` address with a host.
    """
    _refuse_control(text, name)
    fix = f"for example {name}=https://host.example.org:9000"
    try:
        parts = urlsplit(text.strip())
        usable = parts.scheme.lower() in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:  # a port that is none
        usable = False
    if not usable:
        raise SettingsError(f"{name} is no address of a server: {_shown(text)}", where=name, fix=fix)
    return re.sub("^https?", lambda kind: kind[0].lower(), text.strip(), flags=re.IGNORECASE).rstrip("/")


def tracking(text: str, name: str, below: Path) -> str:
    """Understand MLflow's address: a server, a database server, or an SQLite file.

    Args:
        text: the address.
        name: the setting that it was given in.
        below: the folder that a relative SQLite path starts from.

    Raises:
        SettingsError: it is of another kind.
    """
    fix = f"{name}=http://host:port, or leave it out: MLflow's database is then in CXR_HOME"
    scheme = _SCHEME.match(text)
    kind = scheme[1].lower() if scheme else ""
    if kind in ("http", "https"):
        return server(text, name)
    if kind.startswith("sqlite"):
        path = sqlite_path(text)
        if path is None or path == Path() or "?" in text:
            raise SettingsError(
                f"{name} is no SQLite file: {_shown(text)}", where=name, fix=f"{name}=sqlite:////path/of/a/file.db"
            )
        return sqlite_url((below / path).resolve())
    if kind.partition("+")[0] in _DATABASES:
        return text
    raise SettingsError(f"{name} is of a kind that is not supported: {_shown(text)}", where=name, fix=fix)


def sqlite_url(path: Path, *, driver: bool = True) -> str:
    """The address of an SQLite file, from which SQLAlchemy, MLflow and Airflow find the same file.

    MLflow makes the folder of what follows `sqlite:///` without undoing the escapes, and so would make one of a wrong
    name. Where there are escapes, the driver is named, which it passes over; Airflow takes no driver.

    >>> sqlite_url(Path("/srv/cxr/a.db")), sqlite_url(Path("/srv/50%/a.db"))
    ('sqlite:////srv/cxr/a.db', 'sqlite+pysqlite:////srv/50%25/a.db')
    """
    escaped = quote(str(path), safe="/") if _PLAIN.fullmatch(str(path)) is None else str(path)
    return f"sqlite{'+pysqlite' if driver and escaped != str(path) else ''}:///{escaped}"


def sqlite_path(url: str) -> Path | None:
    """The file of an SQLite address, None for any other address.

    >>> sqlite_path(sqlite_url(Path("/srv/a%2Fb #?$c/a.db"))), sqlite_path("http://host")
    (PosixPath('/srv/a%2Fb #?$c/a.db'), None)
    """
    match = _SQLITE.match(url)
    return Path(unquote(url[match.end() :].removeprefix("/").partition("?")[0])) if match else None


def folder_address(path: Path) -> str:
    """A folder as MLflow takes it: as a path, or, where that holds what an address would have escaped, as an address.

    >>> folder_address(Path("/srv/cxr")), folder_address(Path("/srv/50% #"))
    ('/srv/cxr', 'file:///srv/50%25%20%23')
    """
    return str(path) if _PLAIN.fullmatch(str(path)) else path.as_uri()


def folder_of(address: str) -> Path | None:
    """The folder that `folder_address` gave an address of, None for the address of a bucket or a server.

    >>> folder_of(folder_address(Path("/srv/50% #"))), folder_of("/srv/cxr"), folder_of("s3://bucket/a")
    (PosixPath('/srv/50% #'), PosixPath('/srv/cxr'), None)
    """
    if address.startswith("file:"):
        return Path(unquote(urlsplit(address).path))
    return Path(address) if address.startswith("/") else None


def without_password(text: str) -> str:
    """A text in which the addresses name no user and no password."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _from_file_address(text: str, name: str) -> Path:
    parts = urlsplit(text)
    if parts.netloc.lower() not in ("", "localhost") or not parts.path.startswith("/") or "//" not in text:
        raise SettingsError(
            f"{name} is no whole address of a folder: {_shown(text)}",
            where=name,
            fix=f"{name}=file:///path/of/a/folder",
        )
    if parts.query or parts.fragment or "?" in text or "#" in text:
        raise SettingsError(
            f"? and # end the path of an address: {_shown(text)}",
            where=name,
            fix="write %3F and %23 for them, or the plain path",
        )
    return Path(unquote(parts.path)).resolve()


def _is_path(text: str) -> bool:
    """Whether a text with a colon is a path all the same: one that says so by what it begins with."""
    return text.startswith(("/", "./", "../", "~"))


def _refuse_control(text: str, name: str) -> None:
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise SettingsError(
            f"{name} holds a line break or a control character: {text!r}", where=name, fix="type it anew"
        )


def _shown(text: str) -> str:
    return without_password(text)
