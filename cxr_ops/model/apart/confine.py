"""Takes a process's rights away for good: files, programs, TCP and signals, by Landlock, which asks for no rights.

Landlock is part of Linux since 5.13, where the kernel is built with it; TCP came with 6.7, signals and abstract sockets
with 6.12. What a kernel does not know is left as it was. A process that was restricted cannot look into others either
(`/proc/<pid>/mem`, `environ`, `fd`), whoever runs them. Not restricted are sockets that stand as files, and UDP.

Source: https://docs.kernel.org/userspace-api/landlock.html
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

# Of the kernel's include/uapi/linux/landlock.h. Numbers of system calls are the same on all architectures since 2011.
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_VERSION: Final = 1
_RULE_PATH: Final = 1
_READ_FILE, _READ_FOLDER = 1 << 2, 1 << 3
_OF_FILES: Final = 0b111 | 1 << 14  # execute, write, read, truncate: what a rule about a file may name
_ALL_FS: Final = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}  # by version
_ALL_NET: Final = {4: 0b11}
_ALL_SCOPES: Final = {6: 0b11}
_EXECUTE: Final = 1
_PR_SET_NO_NEW_PRIVS: Final = 38


class _Ruleset(ctypes.Structure):
    _fields_ = (("fs", ctypes.c_uint64), ("net", ctypes.c_uint64), ("scopes", ctypes.c_uint64))


class _PathRule(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed", ctypes.c_uint64), ("file", ctypes.c_int32))


def version() -> int:
    """Version of Landlock that this kernel has; 0 without it."""
    return max(_call(_libc(), _CREATE, None, 0, _VERSION), 0)


def confine(*, readable: Iterable[Path], writable: Iterable[Path]) -> bool:
    """Leave this thread, and all threads and processes that it starts, the files named and no others, for good.

    No program can be started any more, and no TCP port bound or reached, where the kernel knows how.

    Args:
        readable: files, and folders with all that is in them. What does not exist is passed over.
        writable: the same, to read and to write.

    Returns:
        Whether it was done: False where the kernel has no Landlock.

    Raises:
        OSError: the kernel has it and refused.
    """
    known = version()
    if known == 0:
        return False
    libc = _libc()
    everything = _newest(_ALL_FS, known)
    wanted = _Ruleset(everything, _newest(_ALL_NET, known), _newest(_ALL_SCOPES, known))
    rules = _checked(_call(libc, _CREATE, ctypes.byref(wanted), ctypes.sizeof(wanted), 0))
    try:
        for paths, rights in ((readable, _READ_FILE | _READ_FOLDER), (writable, everything & ~_EXECUTE)):
            for path in paths:
                _allow(libc, rules, path, rights)
        _checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, *(ctypes.c_ulong(value) for value in (1, 0, 0, 0))))
        _checked(_call(libc, _RESTRICT, rules, 0))
    finally:
        os.close(rules)
    return True


def _allow(libc: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    try:
        file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(file).st_mode):
            rights &= _OF_FILES
        rule = _PathRule(rights, file)
        _checked(_call(libc, _ADD, rules, _RULE_PATH, ctypes.byref(rule), 0))
    finally:
        os.close(file)


def _newest(rights: dict[int, int], known: int) -> int:
    return max((value for since, value in rights.items() if since <= known), default=0)


def _call(libc: ctypes.CDLL, *arguments: Any) -> int:
    """A system call. Its arguments are as wide as registers, which ctypes cannot know."""
    return int(libc.syscall(*(ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)))


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"Landlock: {os.strerror(number)} ({errno.errorcode.get(number, number)})")
    return result


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
