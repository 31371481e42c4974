"""Git, called so that neither the user's settings nor an environment left by a hook changes what it does.

The machine may have no identity set, and in a container the files may belong to another user: both are settled by a
configuration file of the installation's own.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cxr_ops.edges import loopback
from cxr_ops.edges.home import Home
from cxr_ops.errors import StorageError
from cxr_ops.records.base import write_atomic

BOT_NAME = "cxr-ops"
BOT_EMAIL = "cxr-ops@localhost"

_CONFIG = f"""\
# Written by cxr-ops; the user's own git settings are not read.
[user]
    name = {BOT_NAME}
    email = {BOT_EMAIL}
[safe]
    directory = *
[core]
    hooksPath = {os.devnull}
    fsmonitor = false
    autocrlf = false
    quotePath = false
    filesRefLockTimeout = 10000
    fsync = committed,reference
    fsyncMethod = batch
[commit]
    gpgSign = false
[gc]
    auto = 0
[advice]
    detachedHead = false
"""


_HELD = re.compile(r"Unable to create '([^'\n]+\.lock)': File exists")


class GitError(StorageError):
    """Git refused or failed; `returncode` is its exit code."""

    def __init__(self, what: str, *, where: object, returncode: int, fix: str | None = None) -> None:
        super().__init__(what, where=where, fix=fix)
        self.returncode = returncode


def environment(home: Home) -> dict[str, str]:
    """The environment in which git, and DVC where it calls git, behaves the same for everybody."""
    config = home.root / "gitconfig"
    if not config.is_file() or config.read_text(encoding="utf-8") != _CONFIG:
        write_atomic(config, _CONFIG.encode())
    # A git hook starts its commands with GIT_DIR, GIT_INDEX_FILE and the like in the environment.
    env = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    return loopback.environment(env, home.servers) | {
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_AUTHOR_NAME": BOT_NAME,
        "GIT_AUTHOR_EMAIL": BOT_EMAIL,
        "GIT_COMMITTER_NAME": BOT_NAME,
        "GIT_COMMITTER_EMAIL": BOT_EMAIL,
        "LC_ALL": "C",
    }


def git(
    home: Home, folder: Path, *arguments: str, extra: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> str:
    """Run git in a folder and return what it prints, without the final newline.

    Args:
        home: the installation.
        folder: where git runs.
        arguments: its arguments.
        extra: variables added to the environment.
        stdin: bytes for its standard input.

    Raises:
        GitError: git ended with another code than 0, or is not installed.
    """
    return git_bytes(home, folder, *arguments, extra=extra, stdin=stdin).decode(errors="replace").rstrip("\n")


def git_bytes(
    home: Home, folder: Path, *arguments: str, extra: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> bytes:
    """Run git and return the bytes that it prints; see `git`."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env=environment(home) | dict(extra or {}),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            check=False,
        )
    except OSError as error:
        fix = None if shutil.which("git") else "install git, and put it on PATH"
        raise StorageError(f"git cannot be started: {error.strerror}", where=folder, fix=fix) from error
    if done.returncode:
        text = done.stderr.decode(errors="replace").strip().removeprefix("fatal: ")
        fix = None
        if held := _HELD.search(text):
            path = folder / held[1]
            text = "another git holds its lock, or was killed while it did"
            fix = f"where no other command of cxr-ops runs: rm {shlex.quote(str(path))}; then retry"
        verb = next((word for word in arguments if not word.startswith("-") and "=" not in word), "")
        raise GitError(f"git {verb} failed: {text}", where=folder, returncode=done.returncode, fix=fix)
    return done.stdout
