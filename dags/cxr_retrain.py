"""Retrain the chest X-ray classifier, judge it beside the champion, and promote it if the plan allows.

The challenger is trained on the training side of the whole data set. Then the change-control plan judges challenger and
champion on the same locked test set. The DAG runs every week, when ingestion adds a batch, or by hand with the params
of the trigger form.

| task | what it does |
|---|---|
| `open` | clones the code, pins the data, fetches the champion, writes `inputs.json` |
| `changed` | ends the run NO_CHANGE if nothing that training depends on differs from the champion's training |
| `validate` `split` `prepare` `train` | make the challenger; DVC's run cache gives what an earlier run already made |
| `differs` | ends the run NO_CHANGE if the challenger is equal to the champion, byte for byte |
| `evaluate` `explain` `gate` `report` | spend a look at the test set, judge, and say why |
| `publish` | writes the MLflow run, the registered version, the report and the decision in the ledger |
| `route` | goes on to `approve` or `promote` on PROMOTE, and to `keep` on any other verdict. A verdict is no failure |
| `approve` | waits for a person if the plan asks for one; no answer within a week is a rejection |
| `promote` | writes the promotion into the ledger and moves the `champion` alias |
| `keep` | is reached where the champion stays; it does nothing |

The note of a run says its verdict, the reasons as far as the plan tells them, and where all of it is in MLflow, DVC and
git. The logs of `gate` and `publish` say it too.

## When it fails

1. Open the failed task's log. Its last lines say what was wrong, where, and what to type next.
2. After exit codes 10 (data), 11 (settings), 14 (another promotion came first) and 15 (the plan refuses), Airflow does
   not try again, because the same inputs would fail in the same way. Mend the cause and trigger a new run.
3. After any other error, Airflow tried three times. Clear the failed task to try again: training goes on from its
   checkpoint.
4. `promote` fails with 15 if the plan asks for more than one person. The approval given here is on record. Trigger
   `cxr_promote` with this run: it asks the others one after the other, and promotes when the last one has agreed.
5. A run that is stuck in `queued` waits for the run before it, or for a slot of the GPU pool.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import (
    DAG,
    Asset,
    AssetOrTimeSchedule,
    Param,
    TaskGroup,
    TriggerRule,
    chain,
    conf,
    task,
)

from cxr_ops import contract
from cxr_ops.launchers.arguments import open_arguments, people, promote_arguments
from cxr_ops.launchers.defaults import TASKS, at
from cxr_ops.launchers.notices import Notify
from cxr_ops.launchers.reports import PREFIX, base
from cxr_ops.launchers.stage import stage_operator

DATASET = Asset(name=contract.DATASET_ASSET, uri=contract.DATASET_URI)

PARAMS = {
    "epochs": Param(
        None, type=["null", "integer"], minimum=1, maximum=1000, title="Epochs", description="Empty: as in params.yaml."
    ),
    "learning_rate": Param(
        None,
        type=["null", "number"],
        exclusiveMinimum=0,
        maximum=10,
        title="Learning rate",
        description="Empty: as in params.yaml.",
    ),
    "seed": Param(None, type=["null", "integer"], minimum=0, title="Seed", description="Empty: as in params.yaml."),
    "settings": Param(
        {},
        type="object",
        propertyNames={"pattern": r"^[a-z]+\.[a-z_]+$"},
        title="Other settings",
        description='Any key of params.yaml for this run only, for example {"train.batch_size": 64}.',
    ),
    "force": Param(False, type="boolean", title="Force", description="Retrain even when nothing has changed."),
}

APPROVAL = """
{% set published = ti.xcom_pull(task_ids="publish") %}
{% set withheld = "withheld; it is " ~ published["run"] ~ ".html in the folder for auditors and approvers" %}
{% set place = "@reports" ~ ("/full/" if published["withheld"] else "/reports/") ~ published["run"] %}
| | |
|---|---|
| verdict | PROMOTE |
| persons who must agree | {{ published["approvals"] }} |
| judged by a wide margin, having few patients | {{ published["limited_findings"] | join(", ") or "no finding" }} |
| run | {{ run_id }} |
| registered version | {{ published["model_version"] }} |
| MLflow run | {{ published["mlflow_run_id"] }} |
| full report | {{ withheld if published["withheld"] else published["report"] }} |
| the same here | [open it in Airflow]({{ place }}) |
{% for code, meaning in published["holds"].items() %}
**{{ code }}**: {{ meaning }}
{% endfor %}
![The first cases of the test set]({{ "@reports/thumbnails/" ~ published["run"] }})

Read the full report before you answer. Your name goes into the ledger.
{% if published["withheld"] %}
It shows the test set, which is withheld from people who tune models: do not pass it on.
{% endif %}{% if published["approvals"] > 1 %}
You are the first of {{ published["approvals"] }}. Until the last one has agreed, the task `promote` fails. Then trigger
`cxr_promote` with the run `{{ published["run"] }}`, which asks the others one after the other; or each of them types
`cxr-ops promote --run {{ published["run"] }} --approved-by NAME`.
{% endif %}""".replace("@reports", base() + PREFIX)


with DAG(
    contract.DAG_ID,
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=at(os.environ.get("CXR_SCHEDULE") or "0 3 * * 1"),
        assets=[DATASET],
    ),
    catchup=False,
    # 1 on one machine, where two trainings would fight for the cores; more where a pool and an executor spread them.
    max_active_runs=int(os.environ.get("CXR_MAX_ACTIVE_RUNS") or 1),
    params=PARAMS,
    default_args={**TASKS, "execution_timeout": timedelta(days=1), "on_failure_callback": Notify("failed")},
    tags=["cxr-ops"],
) as dag:
    with TaskGroup("make", prefix_group_id=False, tooltip="make the challenger"):
        open_run = stage_operator("open", arguments=open_arguments, on_success_callback=Notify("no change"))

        @task.short_circuit(ignore_downstream_trigger_rules=True)
        def changed(ti: Any) -> bool:
            """Go on unless `open` found the champion's own recipe."""
            return not ti.xcom_pull(task_ids="open")["no_change"]

        validate = stage_operator("validate")
        split = stage_operator("split")
        prepare = stage_operator("prepare")
        train = stage_operator(
            "train", gpu=True, execution_timeout=timedelta(days=14), on_success_callback=Notify("no change")
        )

        @task.short_circuit(ignore_downstream_trigger_rules=True)
        def differs(ti: Any) -> bool:
            """Go on unless the challenger is the champion."""
            return not ti.xcom_pull(task_ids="train")["no_change"]

        changes, differences = changed(), differs()

    with TaskGroup("judge", prefix_group_id=False, tooltip="judge challenger and champion"):
        evaluate = stage_operator("evaluate", gpu=True)
        explain = stage_operator("explain", gpu=True)
        gate = stage_operator("gate")
        report = stage_operator("report")
        publish = stage_operator("publish", on_success_callback=Notify("verdict"))

    with TaskGroup("decide", prefix_group_id=False, tooltip="promote the challenger, or keep the champion"):

        @task.branch
        def route(ti: Any, dag_run: Any) -> str:
            """Choose the way of a verdict, and say why."""
            published = ti.xcom_pull(task_ids="publish")
            way, why = contract.way_of(
                published,
                backfill=dag_run.run_type == "backfill",
                names=not conf.getboolean("core", "simple_auth_manager_all_admins", fallback=False),
            )
            print(f"{published['verdict']}: {why}")  # noqa: T201 - Airflow logs it
            return way

        approve = ApprovalOperator(
            task_id="approve",
            subject="Make this challenger the champion?",
            body=APPROVAL,
            assigned_users=people(os.environ.get("CXR_APPROVERS", "")) or None,
            response_timeout=timedelta(days=7),
            defaults=ApprovalOperator.REJECT,
            execution_timeout=None,
            notifiers=Notify("approval"),
        )
        promote = stage_operator(
            "promote",
            arguments=promote_arguments,
            trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
            on_success_callback=Notify("promotion"),
        )
        keep = EmptyOperator(task_id="keep")
        routed = route()

    chain(open_run, changes, validate, split, prepare, train, differences)
    chain(differences, evaluate, explain, gate, report, publish)
    chain(publish, routed, [approve, keep])
    chain([routed, approve], promote)
