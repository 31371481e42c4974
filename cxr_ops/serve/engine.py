"""Decodes and scores pictures for many callers at once.

A picture is decoded in a process of its own kind, which a hostile file may kill, and scored in the process that the
package's code runs in (`cxr_ops.model.apart`), which has no way to this one but numbers. While that is busy, pictures
wait, and all that wait are its next batch: alone, a picture waits for nobody. In other company a probability may differ
in its last digits, by less than 1e-5.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cxr_ops.data.checking import isolate
from cxr_ops.errors import CxrError, DataError, as_record, from_record
from cxr_ops.labels import FINDINGS
from cxr_ops.model.apart import parent as apart
from cxr_ops.params import Train
from cxr_ops.serve.directory import Model

Pixels = npt.NDArray[np.uint8]
Maps = Mapping[str, list[list[float]]]

BATCH: Final = 16  # pictures that are scored together at most


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the model says of a picture.

    Attributes:
        probabilities: finding -> probability in [0, 1], None where the model was not trained on it.
        flags: finding -> whether it is called, of those with an operating point.
        maps: finding -> heat map, rows of numbers of at least 0 in logits; None where nobody asked.
    """

    probabilities: Mapping[str, float | None]
    flags: Mapping[str, bool]
    maps: Maps | None


@dataclass
class _Waiting:
    pixels: Pixels
    maps: bool
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Engine:
    """Scores pictures with one model; `running` makes one."""

    def __init__(self, model: Model, threads: int) -> None:
        self.model = model
        self.batches: list[int] = [0] * (BATCH + 1)  # how many batches of each size were scored
        self._settings = Train(device="cpu", threads=threads)
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue()
        self._decoders = _decoders()
        self._stack = ExitStack()
        self._nursery: apart.Nursery | None = None
        self._process: apart.Process | None = None
        self._held: ExitStack | None = None
        self.failed: CxrError | None = None

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and answers."""
        return self._process is not None

    @property
    def waiting(self) -> int:
        """How many pictures wait for a batch."""
        return self._queue.qsize()

    # ------------------------------------------------------------------------------------------- asking

    async def decode(self, data: bytes) -> Pixels:
        """Decode a picture as ingestion does.

        Raises:
            DataError: it is no picture that is read, is damaged, or the process that decoded it died.
        """
        decoders = self._decoders
        try:
            found = await asyncio.get_running_loop().run_in_executor(decoders, _decode, data)
        except BrokenProcessPool:
            if self._decoders is decoders:
                decoders.shutdown(wait=False)
                self._decoders = _decoders()
            found = await asyncio.to_thread(_decode_alone, data)
        if isinstance(found, dict):
            raise from_record(found)
        return found

    async def answer(self, pixels: Sequence[Pixels], *, maps: bool = False) -> list[Answer]:
        """Score decoded pictures.

        Raises:
            DataError: the model cannot read one.
            CxrError: the model's process ended, and could not be started again.
        """
        waiting = [_Waiting(one, maps) for one in pixels]
        for one in waiting:
            self._queue.put_nowait(one)
        return list(await asyncio.gather(*(one.answer for one in waiting)))

    # ----------------------------------------------------------------------------------------- start and end

    def start(self) -> None:
        """Start the process that the package's comes from; in the thread that lives as long as the server."""
        self._nursery = self._stack.enter_context(apart.nursery())

    def load(self) -> None:
        """Build the model in its process, and have it score one picture, so that the first caller does not wait."""
        if self._nursery is None:
            raise RuntimeError("start comes first")
        self._drop()
        with ExitStack() as held:
            process = held.enter_context(self._nursery.of(self.model.package, self._settings))
            side = self.model.package.contract["input"]["image_size"]
            process.score([np.zeros((side, side), np.uint8)])
            self._held, self._process = held.pop_all(), process

    def _drop(self) -> None:
        self._process = None
        if self._held is not None:
            with suppress(CxrError, OSError):
                self._held.close()
            self._held = None

    def close(self) -> None:
        """End all processes."""
        self._drop()
        self._stack.close()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    async def work(self) -> None:
        """Score what waits, batch after batch, until cancelled."""
        while True:
            first = await self._queue.get()
            batch = [first]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            batch = [one for one in batch if not one.answer.done()]  # whoever gave up needs no answer
            for maps in (False, True):
                if part := [one for one in batch if one.maps == maps]:
                    await self._score(part, maps=maps)

    async def _score(self, batch: list[_Waiting], *, maps: bool, last: bool = False) -> None:
        """Score a batch; if that ends the process, each of its pictures once more, alone."""
        try:
            found = await asyncio.to_thread(self._scored, [one.pixels for one in batch], maps)
        except CxrError as error:
            try:
                await asyncio.to_thread(self.load)
            except CxrError as fatal:
                self.failed = fatal
                for one in batch:
                    _fail(one, fatal)
                return
            if last or (len(batch) == 1 and isinstance(error, DataError)):
                _fail(batch[0], error)
                return
            for one in batch:  # one of them may be to blame, and the others are not
                await self._score([one], maps=maps, last=True)
            return
        self.batches[len(batch)] += 1
        for one, answer in zip(batch, found, strict=True):
            if not one.answer.done():
                one.answer.set_result(answer)

    def _scored(self, pixels: list[Pixels], maps: bool) -> list[Answer]:
        if self._process is None:
            raise CxrError("the model is not loaded", fix="ask again")
        scores = self._process.score(pixels)
        drawn = self._process.maps(pixels) if maps else None
        return told(scores, drawn, self.model.package.trained, self.model.points)


def told(
    scores: npt.NDArray[np.float32],
    maps: npt.NDArray[np.float32] | None,
    trained: Collection[str],
    points: Mapping[str, float],
) -> list[Answer]:
    """What a model says of pictures, in words.

    Args:
        scores: (N, 14) probabilities, in the order of `FINDINGS`.
        maps: (N, 14, h, w) heat maps; None where nobody asked.
        trained: the findings that the model was trained on.
        points: finding -> probability from which it is called.
    """
    found = []
    for row, values in enumerate(scores.astype(np.float64)):
        said = {name: float(v) if name in trained else None for name, v in zip(FINDINGS, values, strict=True)}
        flags = {name: (said[name] or 0.0) >= at for name, at in points.items()}
        shown = None
        if maps is not None:
            shown = {name: maps[row, f].tolist() for f, name in enumerate(FINDINGS) if name in trained}
        found.append(Answer(probabilities=said, flags=flags, maps=shown))
    return found


def _fail(one: _Waiting, error: CxrError) -> None:
    if not one.answer.done():
        one.answer.set_exception(error)


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """Start an engine, and end it with the block. The model is loaded meanwhile: `ready` and `failed` say how far."""

    async def load_and_work() -> None:
        try:
            await asyncio.to_thread(engine.load)
        except CxrError as error:
            engine.failed = error
            return
        await engine.work()

    engine.start()
    task = asyncio.create_task(load_and_work())
    try:
        yield engine
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        engine.close()


# ---------------------------------------------------------------------------------- in processes that may die


def _decoders() -> ProcessPoolExecutor:
    return isolate.pool(isolate.processors(), _end_with_parent)


def _end_with_parent() -> None:
    """End this process when the server is gone, however it went."""
    server = multiprocessing.parent_process()
    if server is not None:
        threading.Thread(target=_end_after, args=(server,), daemon=True).start()


def _end_after(server: multiprocessing.process.BaseProcess) -> None:
    server.join()
    os._exit(1)


def _decode(data: bytes) -> Pixels | dict[str, Any]:
    """The pixels, or the record of an error: an exception that travels loses what it says."""
    from cxr_ops.data.checking.pictures import decode_any

    try:
        return decode_any(data)
    except DataError as error:
        return as_record(error)
    except MemoryError:
        return as_record(DataError("the picture needs more memory than one may take"))


def _decode_alone(data: bytes) -> Pixels | dict[str, Any]:
    [found] = isolate.each(_decode, [data], processes=1)
    if isinstance(found, isolate.DiedError):
        return as_record(DataError("the process that decoded the picture died: the file is damaged, or hostile"))
    return found
