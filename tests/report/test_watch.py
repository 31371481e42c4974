"""A run while it goes on, in lines."""

from __future__ import annotations

from typing import Any

import pytest

from cxr_ops.records.task import TaskState
from cxr_ops.report import watch


def report(done: int, **more: Any) -> dict[str, dict[str, Any]]:
    return {"train": {"stage": "train", "done": done, "total": 200, "unit": "images", "text": "", "epoch": 1, **more}}


def test_a_quiet_minute_ends_with_how_far_a_stage_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within an epoch a line comes after a minute, with the time left; a stage that stands still gets no second one."""
    now, said = [1000.0], []
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    lines = watch.Lines(said.append)
    running = [TaskState(task="train", state="running", attempt=1, started=1.0, ended=None)]

    lines.show(running, report(10))
    assert said == ["train: running", "train: 10 of 200 images"]
    now[0] += 59
    lines.show(running, report(40, seconds_left=600))
    assert len(said) == 2
    now[0] += 2
    lines.show(running, report(50, seconds_left=600))
    assert said[2:] == ["train: 50 of 200 images, about 10 min left, or less"]
    now[0] += 300
    lines.show(running, report(50, seconds_left=600))
    assert len(said) == 3
    ended = [TaskState(task="train", state="success", attempt=1, started=1.0, ended=400.0)]
    lines.show(ended, report(200))
    assert len(said) == 4
