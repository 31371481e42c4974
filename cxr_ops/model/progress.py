"""How far a training is: a bar in a terminal or lines on standard error, and JSON lines in the file of `CXR_PROGRESS`.

Nobody waits for minutes without a word: a thread repeats what is going on, and for how long, when nothing else was
said. It looks at clocks and counts alone, so a training that is watched computes what an unwatched one does.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from cxr_ops import contract, voice

FILE_SECONDS = 10.0  # the longest silence in the file
LINE_SECONDS = 30.0  # the longest silence on standard error, where that is no terminal


class Progress:
    """What a training tells of itself. Made by `progress`; where another process tells, every method does nothing."""

    def __init__(self, console: Console, draw: Callable[[float, float, str], None], epochs: int, images: int) -> None:
        self._console, self._draw = console, draw
        self._epochs, self._images, self._total = epochs, images, epochs * images
        self._lock = threading.Lock()
        self._began = self._at = self._said = self._reported = time.monotonic()
        self._first: int | None = None  # images that a training which goes on had behind it
        self._done = 0
        self._facts: dict[str, Any] = {}
        self._text = self._doing = ""

    def show(
        self,
        *,
        epoch: int,
        done: int,
        loss: float,
        rate: float,
        auc: float | None,
        pace: float,
        waiting: float,
        history: Mapping[str, float] | None = None,
    ) -> None:
        """Tell where the training stands.

        Args:
            epoch: from 0.
            done: images of the epoch.
            loss: mean over them.
            rate: of learning.
            auc: last mean validation AUC, or None.
            pace: images a second.
            waiting: share of the time in which the loop waited for data.
            history: at the end of an epoch, its row.
        """
        with self._lock:
            self._done = epoch * self._images + done
            if self._first is None:
                # The pace tells when this process began, whatever an earlier one had done.
                self._first = max(0, self._done - round(pace * (time.monotonic() - self._began)))
            self._facts = {
                "epoch": epoch + 1,
                "epochs": self._epochs,
                "loss": round(loss, 4),
                "learning_rate": float(f"{rate:.4g}"),
                "validation_auc": None if auc is None else round(auc, 4),
                "images_per_second": round(pace, 1),
                "data_wait": round(waiting, 4),
            }
            self._text = (
                f"epoch {epoch + 1}/{self._epochs}  loss {loss:.3f}  {pace:.{0 if pace >= 9.5 else 1}f} images/s"
            )
            self._doing = ""
            self._report({} if history is None else {"history": dict(history)})

    def doing(self, what: str, done: int = 0, of: int = 0) -> None:
        """Note what goes on within a step or between two: `what`, and how much of it is done where that is counted."""
        with self._lock:
            now = time.monotonic()
            if not self._doing.startswith(what):
                self._at = now
            self._doing = what + (f" ({done} of {of} images)" if of else "")
            self._draw(self._done, self._total, self._words(now))

    def keep_on(self) -> None:
        """Say again what goes on, if nobody has said anything for a while."""
        with self._lock:
            if time.monotonic() - self._reported >= FILE_SECONDS:
                self._report({})

    def _report(self, more: Mapping[str, Any]) -> None:
        now = time.monotonic()
        left = self._seconds_left(now)
        text = self._words(now)
        self._draw(self._done, self._total, text)
        facts = {**self._facts, **({} if left is None else {"seconds_left": round(left)}), **more}
        contract.report_progress("train", self._done, self._total, unit="images", text=text, **facts)
        self._reported = now
        if not self._console.is_terminal and now - self._said >= LINE_SECONDS:
            until = "" if left is None else f"  about {in_words(left)} left, or less"
            self._console.print(f"train: {text}{until}", highlight=False, markup=False, soft_wrap=True)
            self._said = now

    def _words(self, now: float) -> str:
        lasting = f", for {in_words(now - self._at)}" if self._doing and now - self._at >= FILE_SECONDS else ""
        return "  ".join(part for part in (self._text, self._doing + lasting) if part)

    def _seconds_left(self, now: float) -> float | None:
        """Until the last epoch that the settings allow, at the pace so far, validation included; None at first."""
        if self._first is None or self._done <= self._first:
            return None
        return (now - self._began) / (self._done - self._first) * (self._total - self._done)


class _Silent(Progress):
    """Another process tells."""

    def __init__(self) -> None:
        return

    def show(self, **_: object) -> None:
        """Say nothing."""

    def doing(self, what: str, done: int = 0, of: int = 0) -> None:
        """Say nothing."""


@contextmanager
def progress(console: Console, epochs: int, images: int, *, tells: bool = True) -> Iterator[Progress]:
    """Tell how far a training of so many epochs is, each of so many images, unless another process `tells`."""
    if not tells:
        yield _Silent()
        return
    with voice.bar("train", console, transient=True) as draw:
        found = Progress(console, draw, epochs, images)
        with _kept_up(found.keep_on):
            yield found


@contextmanager
def busy(console: Console, what: str, *, tells: bool = True) -> Iterator[None]:
    """Tell that a training is busy with something of unknown length before its first step or after its last."""
    if not tells:
        yield
        return
    began = said = time.monotonic()

    def keep_on() -> None:
        nonlocal said
        now = time.monotonic()
        text = f"{what}, for {in_words(now - began)}"
        if now - said >= FILE_SECONDS:
            contract.report_progress("train", 0, 0, text=text)
            console.print(f"train: {text}", highlight=False, markup=False, soft_wrap=True)
            said = now

    contract.report_progress("train", 0, 0, text=what)
    with _kept_up(keep_on):
        yield


@contextmanager
def _kept_up(tick: Callable[[], None]) -> Iterator[None]:
    """Call a function every second, in a thread, for as long as the block runs."""
    ending = threading.Event()

    def work() -> None:
        while not ending.wait(1.0):
            tick()

    thread = threading.Thread(target=work, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


def in_words(seconds: float) -> str:
    """A time as people say it.

    >>> in_words(9.6), in_words(95), in_words(7300)
    ('10 s', '2 min', '2 h 2 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
