"""What the DAGs have in common: how often a task is tried, and when a schedule begins."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final

from airflow.sdk import CronTriggerTimetable

# Three tries: the second after 15 seconds, the third a minute after that.
TASKS: Final[dict[str, Any]] = {
    "owner": "cxr-ops",
    "retries": 2,
    "retry_delay": timedelta(seconds=15),
    "retry_exponential_backoff": 4,
}


def at(cron: str) -> CronTriggerTimetable:
    """The times of a schedule that are still to come, in UTC.

    Left to itself, Airflow also starts the time before, where it first sees a DAG within a tenth of the period after
    it: whoever installs on a Monday would get the run of that morning beside their own. Its documentation says that
    False prevents that; its code takes False for None.

    Args:
        cron: five fields.
    """
    return CronTriggerTimetable(cron, timezone="UTC", run_immediately=timedelta(0))
