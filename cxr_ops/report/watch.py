"""A run while it goes on, for people in a terminal: what its stages report, and where its tasks stand."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops import contract
from cxr_ops.records.task import TaskState

if TYPE_CHECKING:
    from rich.console import Console


class Reports:
    """Reads what the stages of a run report, as it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = 0
        self._latest: dict[str, dict[str, Any]] = {}

    def read(self) -> dict[str, dict[str, Any]]:
        """The latest report of each stage."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return self._latest
        whole, _, _ = text.rpartition(b"\n")  # the last line may still be in the writing
        self._read += len(whole) + bool(whole)
        for line in whole.splitlines():
            with suppress(json.JSONDecodeError):  # a full disk, or a kill, cuts a line short; the next one tells more
                report = json.loads(line)
                self._latest[report["stage"]] = report
        return self._latest


def _detail(report: Mapping[str, Any] | None) -> str:
    """How far a stage is, in a few words."""
    if report is None:
        return ""
    said = report["text"] or f"{report['done']:.0f} of {report['total']:.0f} {report['unit']}".strip()
    auc = report.get("validation_auc")
    return f"{said}  validation AUC {auc:.3f}" if auc is not None else str(said)


QUIET_SECONDS = 60.0  # the longest silence about a stage that goes on reporting


class Lines:
    """Progress without a terminal: a line for what began, ended or failed, for each epoch, and after a quiet minute."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._states: dict[str, tuple[str | None, int]] = {}
        self._epoch: int | None = None
        self._last, self._said = "", time.monotonic()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def show(self, tasks: list[TaskState], reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Print what is new."""
        for task in _in_order(tasks):
            before, now = self._states.get(task.task), (task.state, task.attempt)
            if now != before and task.state in _WORDS:
                took = f" after {task.ended - task.started:.0f} s" if task.started and task.ended else ""
                self._tell(f"{task.task}: {_WORDS[task.state]}{took if task.state != 'running' else ''}")
            self._states[task.task] = now
        training = reports.get("train")
        if training is not None and training.get("epoch") != self._epoch:
            self._epoch = training.get("epoch")
            self._tell(f"train: {_detail(training)}")
        for task in _in_order(tasks):
            report = reports.get(task.task)
            if task.state == "running" and report is not None and time.monotonic() - self._said >= QUIET_SECONDS:
                left = report.get("seconds_left")
                until = f", about {left / 60:.0f} min left, or less" if left is not None and left >= 30 else ""
                line = f"{task.task}: {_detail(report)}{until}"
                if line != self._last:  # what no longer moves is not made to look alive
                    self._tell(line)

    def _tell(self, text: str) -> None:
        self._say(text)
        self._last, self._said = text, time.monotonic()


class Table:
    """Progress in a terminal: one line a stage, drawn again and again."""

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self._live = Live(console=console, refresh_per_second=4, transient=False)

    def __enter__(self) -> Table:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def show(self, tasks: list[TaskState], reports: Mapping[str, Mapping[str, Any]]) -> None:
        """Draw the stages as they are."""
        from rich.spinner import Spinner
        from rich.table import Table as Grid

        table = Grid.grid(padding=(0, 1))
        now = time.time()
        for task in _in_order(tasks):
            if task.state == "skipped":
                continue
            mark, style = _MARKS.get(task.state or "", (".", "dim"))
            took = f"{(task.ended or now) - task.started:.0f} s" if task.started else ""
            words = _WORDS.get(task.state or "", "") if task.state in ("failed", "up_for_retry") else ""
            detail = _detail(reports.get(task.task)) if task.state == "running" else words
            shown = Spinner("line") if task.state == "running" else mark
            table.add_row(shown, task.task, took, detail, style=style)
        self._live.update(table)


_WORDS: Final = {
    "running": "running",
    "success": "done",
    "failed": "failed",
    "up_for_retry": "failed, will be tried again",
}
_MARKS: Final = {
    "success": ("+", "green"),
    "failed": ("x", "red"),
    "running": ("*", "bold"),
    "up_for_retry": ("!", "yellow"),
}
_SHOWN: Final = (*contract.STAGES[1:-1], "approve", contract.STAGES[-1])


def _in_order(tasks: list[TaskState]) -> list[TaskState]:
    """The stages, in the order in which they run; the branches between them are left out."""
    found = {task.task: task for task in tasks}
    return [found[name] for name in _SHOWN if name in found]
