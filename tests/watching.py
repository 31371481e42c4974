"""Watching an incoming folder outside a triggerer, in a process that may import Airflow."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any


class Store:
    """The state of an Asset, as the triggerer gives it to a trigger."""

    def __init__(self, taken: list[str]) -> None:
        self.taken = set(taken)

    async def aget(self, key: str) -> Any:
        return {"run_id": key} if key in self.taken else None


def watch(
    where: str,
    environ: dict[str, str],
    seconds: float,
    taken: list[str],
    steps: list[Any] | None = None,
    poll: float = 0.1,
    queue: str = "",
) -> Any:
    """What the trigger says within some seconds.

    Args:
        where: what is watched.
        environ: variables to set.
        seconds: to watch for at most; a little longer than until something is said.
        taken: keys that are written down as taken.
        steps: what to do meanwhile, each [after seconds, path, text]: a file is written.
        poll: seconds between two looks.
        queue: whose messages wake it.
    """
    from cxr_ops.launchers.arrivals import BatchTrigger

    os.environ.update(environ)
    said: list[dict[str, str]] = []

    async def listen() -> None:
        trigger = BatchTrigger(where, poll, queue)
        trigger.asset_state_store = Store(taken)
        async with aclosing(trigger.run()) as events:
            async for event in events:
                said.append(event.payload)  # noqa: PERF401 - it never ends, and others read what is said

    async def meanwhile() -> None:
        for after, path, text in steps or []:
            await asyncio.sleep(after)
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            Path(path).write_text(text)
        until = time.monotonic() + seconds
        while time.monotonic() < until and not said:
            await asyncio.sleep(0.05)
        await asyncio.sleep(min(seconds, 0.5))  # for what should not be said twice

    async def both() -> None:
        listening = asyncio.create_task(listen())
        await meanwhile()
        assert not listening.done(), listening.exception()
        listening.cancel()

    asyncio.run(both())
    return said


def arguments_of(payloads: list[dict[str, str] | None]) -> list[dict[str, Any]]:
    """The runs that events with these payloads start."""
    from types import SimpleNamespace

    from cxr_ops.launchers.arrivals import arrived

    events = [SimpleNamespace(extra={"from_trigger": True, "payload": payload}) for payload in payloads]
    return arrived([*events, SimpleNamespace(extra=None)])


def marked(payloads: list[dict[str, str] | None]) -> dict[str, Any]:
    """What stands in the state of the Asset when the runs of these events have been started."""
    from types import SimpleNamespace

    from cxr_ops.launchers.arrivals import mark_taken

    state: dict[str, Any] = {}
    mark_taken(SimpleNamespace(set=state.__setitem__), arguments_of(payloads))
    return state


def looked(where: str, environ: dict[str, str]) -> list[dict[str, str]]:
    """What one look at a place finds."""
    from cxr_ops.launchers.arrivals import place_of

    os.environ.update(environ)
    return [one.payload() for one in place_of(where).deliveries()]


def rebuilt(where: str) -> tuple[str, dict[str, Any], str]:
    """A trigger as the triggerer makes it anew, by the class and the arguments that it gives."""
    from importlib import import_module

    from cxr_ops.launchers.arrivals import BatchTrigger

    path, arguments = BatchTrigger(where, 7.0).serialize()
    module, _, name = path.rpartition(".")
    return path, arguments, getattr(import_module(module), name)(**arguments).where
