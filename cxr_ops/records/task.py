"""What Airflow says of a task."""

from __future__ import annotations

from cxr_ops.records.base import Record


class TaskState(Record):
    """Where a task of a run stands; times are seconds since 1970."""

    task: str
    state: str | None
    attempt: int
    started: float | None
    ended: float | None
