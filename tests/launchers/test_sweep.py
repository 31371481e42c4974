from __future__ import annotations

import pytest
from airflow_runs import Apart

pytestmark = pytest.mark.airflow


@pytest.mark.parametrize(
    ("state", "ended"),
    [
        *((state, True) for state in ("success", "failed", "skipped", "upstream_failed", "removed", "gone")),
        *(
            (state, False)
            for state in (None, "running", "queued", "scheduled", "up_for_retry", "restarting", "deferred")
        ),
    ],
)
def test_what_is_of_a_task_that_is_over_is_ended(airflow: Apart, state: str | None, ended: bool) -> None:
    """Only what is of a task that can run no more is ended; what may still be followed by a try stays."""
    assert airflow.call("workers.swept", state) == ([["x"], ["x"]] if ended else [[], []])
