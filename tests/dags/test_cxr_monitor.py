"""Real runs of cxr_monitor, with a stand-in for the command that it starts."""

from __future__ import annotations

from typing import Any

import pytest
from airflow_runs import Outcome, Runs
from services import Recorder

from cxr_ops import contract

pytestmark = pytest.mark.airflow

HEADLINE = "Alarm since 2026-03-09: Mass, scores."


def monitored(runs: Runs, recorder: Recorder, *, labels: str | None = None, **seen: Any) -> Outcome:
    """Run cxr_monitor, whose command sees this; notices go to the recorder."""
    told = {"alarm": True, "headline": HEADLINE, "then": "retrain", **seen}
    environ = {"CXR_ANSWERS": "/srv/answers", "CXR_NOTIFY": "chat", "AIRFLOW_CONN_CHAT": recorder.connection()}
    return runs.run(
        contract.MONITOR_DAG_ID,
        {"labels": labels},
        environ=environ,
        monitor={"result": told},
    )


def test_an_alarm_starts_a_retraining_that_says_why(runs: Runs, recorder: Recorder) -> None:
    """Where the plan says `retrain`, an alarm updates the Asset of the data set with the reason, people are told that
    there is one and not which, and nothing is promoted."""
    ended = monitored(runs, recorder, labels="/srv/labels.csv")
    assert ended.state == "success"
    assert ended.called("monitor") == [["--answers", "/srv/answers", "--labels", "/srv/labels.csv"]]
    assert ended.asset_events == [{"uri": contract.DATASET_URI, "extra": {"why": f"the monitor: {HEADLINE}"}}]
    assert [call["verb"] for call in ended.calls] == ["monitor"]
    [(_, _, notice)] = recorder.posts
    assert notice["event"] == "alarm"
    assert "Mass" not in str(notice)


@pytest.mark.parametrize(("seen", "notices"), [({"then": "notify"}, 1), ({"alarm": False}, 0)])
def test_nothing_is_started_that_the_plan_does_not_ask_for(
    runs: Runs, recorder: Recorder, seen: dict[str, Any], notices: int
) -> None:
    """With `notify` people are told and nothing starts; in control nobody is told either."""
    ended = monitored(runs, recorder, **seen)
    assert ended.state == "success"
    assert ended.called("monitor") == [["--answers", "/srv/answers"]]
    assert ended.skipped == {"retrain"}
    assert ended.asset_events == []
    assert len(recorder.posts) == notices


def test_without_a_place_of_answers_there_is_no_such_dag(runs: Runs) -> None:
    """cxr_monitor is there where CXR_ANSWERS is, and nowhere else."""
    declared, errors = runs.describe()
    assert not errors
    assert contract.MONITOR_DAG_ID not in declared
    declared, errors = runs.describe(CXR_ANSWERS="/srv/answers")
    assert not errors
    assert list(declared[contract.MONITOR_DAG_ID]["tasks"]) == ["monitor", "wanted", "retrain"]
