"""Watch the model in use once a week, tell people of an alarm, and start a retraining if the plan says so.

`CXR_ANSWERS` names the folder or file of answers that `cxr-ops serve --answers` keeps; without it there is no such
DAG. `CXR_LABELS` names the table of labels. The plan in force says what is watched, how rare false alarms are, and what
follows: `notify` or `retrain`. Nothing here promotes: what is retrained goes through the gate like any other.

| task | what it does |
|---|---|
| `monitor` | looks at all answers since the promotion; its log and a page in `$CXR_HOME/monitoring` say what it saw |
| `wanted` | goes on only if something is in alarm and the plan says `retrain` |
| `retrain` | updates the Asset of the data set, which starts `cxr_retrain`; the event says why |

An alarm is no failure: this run is green, and whoever `CXR_NOTIFY` names is told. While the alarm lasts, each week
tells it again. A retraining without new data ends NO_CHANGE: bring the new patients in first, with their labels.

## When it fails

1. Exit code 10: answers or labels are damaged, or do not fit the champion; the log names the line. Mend it, and clear
   the task. Is the server that answers serving the champion?
2. Exit code 12: a file cannot be read. Mend its rights, and clear the task.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from cxr_ops import contract

if os.environ.get("CXR_ANSWERS"):
    from airflow.sdk import DAG, Asset, Param, chain, task

    from cxr_ops.launchers.arguments import monitor_arguments
    from cxr_ops.launchers.defaults import TASKS, at
    from cxr_ops.launchers.notices import Notify
    from cxr_ops.launchers.stage import stage_operator

    dataset = Asset(name=contract.DATASET_ASSET, uri=contract.DATASET_URI)
    PARAMS = {
        "answers": Param(
            os.environ["CXR_ANSWERS"],
            type="string",
            pattern="^/",
            title="Answers",
            description="Absolute path of a folder or file of answers, as the workers see it.",
        ),
        "labels": Param(
            os.environ.get("CXR_LABELS") or None,
            type=["null", "string"],
            pattern="^/",
            title="Labels",
            description="Absolute path of a CSV of what is known of the pictures. Empty: errors are not watched.",
        ),
    }

    with DAG(
        contract.MONITOR_DAG_ID,
        doc_md=__doc__,
        schedule=at("0 2 * * 1"),
        catchup=False,
        max_active_runs=1,
        params=PARAMS,
        default_args={**TASKS, "execution_timeout": timedelta(hours=6), "on_failure_callback": Notify("failed")},
        tags=["cxr-ops"],
    ) as dag:
        monitor = stage_operator(
            "monitor",
            arguments=monitor_arguments,
            reads=("{{ params.answers }}", "{{ params.labels or '' }}"),
            on_success_callback=Notify("alarm"),
        )

        @task.short_circuit
        def wanted(ti: Any) -> bool:
            """Go on if something is in alarm, and the plan has a retraining follow."""
            found = ti.xcom_pull(task_ids="monitor")
            return bool(found["alarm"] and found["then"] == "retrain")

        @task(outlets=[dataset])
        def retrain(ti: Any, outlet_events: Any) -> str:
            """Start a retraining, and say why."""
            why = f"the monitor: {ti.xcom_pull(task_ids='monitor')['headline']}"
            outlet_events[dataset].extra = {"why": why}
            return why

        chain(monitor, wanted(), retrain())
