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
| `route` | goes on to `approve` or `promote` on PROMOTE; ends the run on any other verdict. A verdict is no failure |
| `approve` | waits for a person if the plan asks for one; no answer within a week is a rejection |
| `promote` | writes the promotion into the ledger and moves the `champion` alias |

## When it fails

1. Open the failed task's log. Its last lines say what was wrong, where, and what to type next.
2. After exit codes 10 (data), 11 (settings), 14 (another promotion came first) and 15 (the plan refuses), Airflow does
   not try again, because the same inputs would fail in the same way. Mend the cause and trigger a new run.
3. After any other error, Airflow tried three times. Clear the failed task to try again: training goes on from its
   checkpoint.
4. `promote` fails with 15 if the plan asks for more than one person. The approval given here is on record. Each of the
   other persons types `cxr-ops promote --run RUN --approved-by NAME`, and the last one promotes.
5. A run that is stuck in `queued` waits for the run before it, or for a slot of the GPU pool.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import ApprovalOperator
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable, Param, TriggerRule, chain, conf, task

from cxr_ops import contract
from cxr_ops.launchers.arguments import open_arguments, promote_arguments
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
| | |
|---|---|
| verdict | {{ published["verdict"] }} |
| persons who must agree | {{ published["approvals"] }} |
| judged by a wide margin, having few patients | {{ published["limited_findings"] | join(", ") or "no finding" }} |
| run | {{ run_id }} |
| registered version | {{ published["model_version"] }} |
| MLflow run | {{ published["mlflow_run_id"] }} |
| full report | {{ withheld if published["withheld"] else published["report"] }} |
{% for code, meaning in published["holds"].items() %}
**{{ code }}**: {{ meaning }}
{% endfor %}
Read the full report before you answer. Your name goes into the ledger.
{% if published["withheld"] %}
It shows the test set, which is withheld from people who tune models: do not pass it on.
{% endif %}{% if published["approvals"] > 1 %}
You are the first of {{ published["approvals"] }}. After you, each of the others types
`cxr-ops promote --run {{ published["run"] }} --approved-by NAME`; until the last one has, the task `promote` fails.
{% endif %}"""


def approvers() -> list[dict[str, str]] | None:
    """People who may approve, from `CXR_APPROVERS` (user ids with commas between); None: all who may edit the DAG."""
    names = [name.strip() for name in os.environ.get("CXR_APPROVERS", "").split(",") if name.strip()]
    return [{"id": name, "name": name} for name in names] or None


with DAG(
    contract.DAG_ID,
    doc_md=__doc__,
    schedule=AssetOrTimeSchedule(
        timetable=CronTriggerTimetable(os.environ.get("CXR_SCHEDULE") or "0 3 * * 1", timezone="UTC"),
        assets=[DATASET],
    ),
    catchup=False,
    # 1 on one machine, where two trainings would fight for the cores; more where a pool and an executor spread them.
    max_active_runs=int(os.environ.get("CXR_MAX_ACTIVE_RUNS") or 1),
    params=PARAMS,
    default_args={
        "owner": "cxr-ops",
        "retries": 2,
        "retry_delay": timedelta(seconds=15),
        "retry_exponential_backoff": 4,
        "execution_timeout": timedelta(days=1),
    },
    tags=["cxr-ops"],
) as dag:
    open_run = stage_operator("open", arguments=open_arguments)

    @task.short_circuit(ignore_downstream_trigger_rules=True)
    def changed(ti: Any) -> bool:
        """Go on unless `open` found the champion's own recipe."""
        return not ti.xcom_pull(task_ids="open")["no_change"]

    validate = stage_operator("validate")
    split = stage_operator("split")
    prepare = stage_operator("prepare")
    train = stage_operator("train", gpu=True, execution_timeout=timedelta(days=14))

    @task.short_circuit(ignore_downstream_trigger_rules=True)
    def differs(ti: Any) -> bool:
        """Go on unless the challenger is the champion."""
        return not ti.xcom_pull(task_ids="train")["no_change"]

    evaluate = stage_operator("evaluate", gpu=True)
    explain = stage_operator("explain", gpu=True)
    gate = stage_operator("gate")
    report = stage_operator("report")
    publish = stage_operator("publish")

    @task.branch
    def route(ti: Any, dag_run: Any) -> str | None:
        """Choose the way of a verdict; None ends the run."""
        published = ti.xcom_pull(task_ids="publish")
        if published["verdict"] != contract.PROMOTE:
            return None
        if dag_run.run_type == "backfill":
            print("a backfill run promotes nothing: trigger a run by hand")  # noqa: T201 - Airflow logs it
            return None
        if not published["approvals"]:
            return "promote"
        if conf.getboolean("core", "simple_auth_manager_all_admins", fallback=False):
            run = contract.slug(dag_run.run_id)
            print(  # noqa: T201 - Airflow logs it
                f"the plan asks for {published['approvals']} approval(s), and this Airflow knows nobody by name; "
                f"next: cxr-ops promote --run {run} --approved-by NAME"
            )
            return None
        return "approve"

    approve = ApprovalOperator(
        task_id="approve",
        subject="Make this challenger the champion?",
        body=APPROVAL,
        assigned_users=approvers(),
        response_timeout=timedelta(days=7),
        defaults=ApprovalOperator.REJECT,
        execution_timeout=None,
    )
    promote = stage_operator(
        "promote", arguments=promote_arguments, trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS
    )

    routed = route()
    chain(
        open_run,
        changed(),
        validate,
        split,
        prepare,
        train,
        differs(),
        evaluate,
        explain,
        gate,
        report,
        publish,
        routed,
        approve,
        promote,
    )
    routed >> promote
