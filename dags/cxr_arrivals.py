"""Watch the incoming folder, and start `cxr_ingest` for each batch that arrives, once.

`CXR_INCOMING` names a folder or `s3://bucket/prefix`; without it there is no such DAG. A batch is a folder in it. It is
taken when its file `READY` is there, every file that `READY` names is there, and nothing moves any more. A message of
the queue that `CXR_INCOMING_QUEUE` names makes it look at once.

| task | what it does |
|---|---|
| `arrived` | reads from the Asset's events which batches have arrived |
| `hand_over` | starts a run of `cxr_ingest` for each; its id names the batch, so that no second one can start |
| `mark` | writes down that they were taken, in the state of the Asset |

## When it fails

Nothing is lost: a batch that is not marked is announced again after ten minutes, or when the triggerer starts. Clear
the failed task, or wait.

* A batch is not taken: look into the triggerer's log. It says whether the folder can be read. Is the triggerer running?
  Are all files there that `READY` names? Does something still write into the folder?
* A batch was refused: that is a failed run of `cxr_ingest`. Mend the folder, then write its `READY` anew: it is taken
  again.
* A run of `cxr_arrivals` that a person starts does nothing.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from cxr_ops import contract

if os.environ.get("CXR_INCOMING"):
    from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
    from airflow.sdk import DAG, Asset, AssetWatcher, TriggerRule, task

    from cxr_ops.launchers import arrivals
    from cxr_ops.launchers.defaults import TASKS
    from cxr_ops.launchers.notices import Notify

    arrivals.place_of(os.environ["CXR_INCOMING"])
    queue = os.environ.get("CXR_INCOMING_QUEUE") or ""
    if queue:
        arrivals.Queue(queue)
    trigger = arrivals.BatchTrigger(
        os.environ["CXR_INCOMING"], float(os.environ.get("CXR_INCOMING_SECONDS") or arrivals.POLL_SECONDS), queue
    )
    incoming = Asset(
        name=contract.ARRIVALS_ASSET,
        uri=contract.ARRIVALS_URI,
        watchers=[AssetWatcher(name=contract.ARRIVALS_ASSET, trigger=trigger)],
    )

    with DAG(
        contract.ARRIVALS_DAG_ID,
        doc_md=__doc__,
        schedule=[incoming],
        catchup=False,
        max_active_runs=1,
        default_args={**TASKS, "execution_timeout": timedelta(hours=1), "on_failure_callback": Notify("failed")},
        tags=["cxr-ops"],
    ) as dag:

        @task
        def arrived(triggering_asset_events: Any) -> list[dict[str, Any]]:
            """Read which batches have arrived."""
            return arrivals.arrived(event for events in triggering_asset_events.values() for event in events)

        runs = arrived()
        hand_over = TriggerDagRunOperator.partial(
            task_id="hand_over",
            trigger_dag_id=contract.INGEST_DAG_ID,
            logical_date=None,
            skip_when_already_exists=True,
        ).expand_kwargs(runs)

        @task(inlets=[incoming], trigger_rule=TriggerRule.NONE_FAILED)
        def mark(started: Any, asset_state_store: Any) -> None:
            """Write down that they were taken."""
            arrivals.mark_taken(asset_state_store[incoming], started)

        hand_over >> mark(runs)
