"""Calls a function on many items in other processes, and outlives the death of any of them.

A decoder that meets hostile bytes may take its process with it. The pool then says only that some process died; so
every item that was under way is tried again alone, and the one on which a process dies again is the one to name. Nor
may it take the machine's memory: each process has a bound, beyond which it gets a MemoryError or dies.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import resource
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_CHUNK: Final = 16  # items a message: a small picture decodes faster than a message travels
_AHEAD: Final = 4  # messages that wait for each process
_M_TRIM_THRESHOLD: Final = -1  # glibc's malloc.h
_M_MMAP_THRESHOLD: Final = -3
MEMORY: Final = 4 * 2**30  # bytes of a process: the largest picture that is read took 1.4 GiB


class DiedError(RuntimeError):
    """The process that worked on an item died."""


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


def each(
    function: Callable[[Item], Result], items: Sequence[Item], *, processes: int | None = None
) -> Iterator[Result | DiedError]:
    """Yield `function(item)` for each item, in order, or a `DiedError` for an item on which a process died.

    Args:
        function: importable by name, and so are its arguments and results.
        items: what to call it on.
        processes: how many to start; by default one a processor.

    Raises:
        RuntimeError: a process dies before it gets an item.
        Exception: whatever `function` raises.
    """
    count = max(1, min(processes or processors(), -(-len(items) // _CHUNK)))
    chunks = [items[i : i + _CHUNK] for i in range(0, len(items), _CHUNK)]
    while chunks:
        waiting: deque[Future[list[Result]]] = deque()
        given = 0
        with pool(count) as workers:
            try:
                while given < len(chunks) or waiting:
                    while given < len(chunks) and len(waiting) < count * _AHEAD:
                        waiting.append(workers.submit(_call, function, chunks[given]))
                        given += 1
                    yield from waiting[0].result()
                    waiting.popleft()
            except BrokenProcessPool:
                pass
            finally:
                workers.shutdown(cancel_futures=True)
        under_way = chunks[given - len(waiting) : given]
        yield from _alone(function, [item for chunk in under_way for item in chunk])
        chunks = chunks[given:]


def _alone(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result | DiedError]:
    position = 0
    while position < len(items):
        with pool(1) as workers:
            try:
                workers.submit(_call, function, []).result()
            except BrokenProcessPool as error:
                raise RuntimeError("no process can be started to work in: none of the items is to blame") from error
            for item in items[position:]:
                position += 1
                try:
                    yield workers.submit(function, item).result()
                except BrokenProcessPool:
                    yield DiedError("the process that worked on it died")
                    break


def _call(function: Callable[[Item], Result], chunk: Sequence[Item]) -> list[Result]:
    return [function(item) for item in chunk]


def pool(count: int, also: Callable[[], None] | None = None) -> ProcessPoolExecutor:
    """Processes with a bound of memory.

    Args:
        count: how many.
        also: what each calls first; importable by name.
    """
    # spawn: a forked child would inherit locks that a thread of ours may hold
    return ProcessPoolExecutor(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin, initargs=(also,)
    )


def _begin(also: Callable[[], None] | None) -> None:
    if also is not None:
        also()
    _keep_freed_memory()
    _bound_memory()


def _keep_freed_memory() -> None:
    """Have the C library keep what a picture needed for the next one; a fifth of the time went to pages made anew.

    Blocks of more than 32 MiB still come and go by themselves. Other C libraries than glibc are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**25)
        mallopt(_M_TRIM_THRESHOLD, 2**28)


def _bound_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    bound = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (bound, hard))
