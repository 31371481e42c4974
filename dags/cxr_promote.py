"""Ask as many people as the plan wants, one after the other, whether a run's challenger is to be promoted.

For a run that `cxr_retrain` has published with the verdict PROMOTE: its plan asks for more people than one, or whoever
was asked has rejected it or has not answered. Nobody needs a shell.

| task | what it does |
|---|---|
| `request` | looks up the run's decision, who has agreed to it, and how many people are missing |
| `first` | goes on to `ask`, or to `promote` where nobody is missing |
| `ask` | asks a person; no answer within a week is a rejection |
| `answer` | checks the answer again and puts it on the ledger, with its reason |
| `more` | goes on to `again` while people are missing, to `promote` after the last one, to `keep` after a rejection |
| `again` | starts this DAG anew for the next person |
| `promote` | writes the promotion into the ledger, if the champion is still the one that the run was judged against |
| `keep` | is reached after a rejection; the champion stays |

An approval and a rejection need a reason of at least 8 letters. Who requested the run cannot approve it, and one person
counts once, however the name is spelt. After a rejection, earlier approvals count no more; whoever wants the model in
spite of it triggers this again, and everybody is asked anew.

## When it fails

1. `request` fails with 15: the run has no PROMOTE, or is not published. With 14: another model has become champion
   since. Retrain.
2. `answer` fails with 15: the answer was the requester's own approval, the second one of a person, nobody's, or had
   no reason. Nothing went on the ledger. Clear `ask` with what follows it: another person is asked.
3. `answer` or `promote` fails with 14: the run was decided anew, or another model has become champion. Retrain.
4. After any other error, Airflow tried three times. Mend the cause and clear the task: an answer is kept once.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import DAG, Param, TriggerRule, chain, task

from cxr_ops import contract
from cxr_ops.launchers.arguments import answer_arguments, people, request_arguments
from cxr_ops.launchers.defaults import TASKS
from cxr_ops.launchers.notices import Notify
from cxr_ops.launchers.stage import stage_operator

PARAMS = {
    "run": Param(
        type="string",
        minLength=1,
        maxLength=250,
        pattern="^[^-]",
        title="Run",
        description="The run to promote, by its name or by Airflow's id of it.",
    ),
}

QUESTION = """
{% set asked = ti.xcom_pull(task_ids="request") %}
| | |
|---|---|
| run | {{ asked["run"] }} |
| verdict | PROMOTE, under the plan {{ asked["plan"] }} |
| registered version | {{ asked["model_version"] }} |
| MLflow run | {{ asked["mlflow_run_id"] }} |
| decision on the ledger | {{ asked["decision"][:12] }} |
| people who must agree | {{ asked["approvals"] }} |
| held by | {{ asked["holds"] | join(", ") or "nothing" }} |

Read the full report of this run before you answer. Your name, your answer and your reason go into the ledger.
"""


with DAG(
    contract.PROMOTE_DAG_ID,
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    # Each waits for a person, a week at most, and must not keep others from being asked. Of two that promote at a time
    # the ledger lets one.
    max_active_runs=16,
    params=PARAMS,
    default_args={**TASKS, "execution_timeout": timedelta(hours=2)},
    tags=["cxr-ops"],
) as dag:
    request = stage_operator("request", arguments=request_arguments)

    @task.branch
    def first(ti: Any) -> str:
        """Ask a person, unless nobody is missing."""
        return "ask" if ti.xcom_pull(task_ids="request")["missing"] else "promote"

    ask = HITLOperator(
        task_id="ask",
        subject="Make this challenger the champion?",
        body=QUESTION,
        options=["Approve", "Reject"],
        defaults=["Reject"],
        params={"reason": Param("", type="string", title="Reason", description="Why; at least 8 letters.")},
        assigned_users=people(os.environ.get("CXR_APPROVERS", "")) or None,
        response_timeout=timedelta(days=7),
        execution_timeout=None,
    )
    answer = stage_operator("answer", arguments=answer_arguments)

    @task.branch
    def more(ti: Any) -> str:
        """Go on to the next person, to the promotion, or to the end."""
        standing = ti.xcom_pull(task_ids="answer")
        if standing["rejected"]:
            return "keep"
        return "again" if standing["missing"] else "promote"

    again = TriggerDagRunOperator(
        task_id="again",
        trigger_dag_id=contract.PROMOTE_DAG_ID,
        trigger_run_id="{{ run_id }}__next",
        conf={"run": "{{ params.run }}"},
        logical_date=None,
        skip_when_already_exists=True,
    )
    promote = stage_operator(
        "promote",
        arguments=request_arguments,
        trigger_rule=TriggerRule.NONE_FAILED_MIN_ONE_SUCCESS,
        on_success_callback=Notify("promotion"),
    )
    keep = EmptyOperator(task_id="keep")

    asked, answered = first(), more()
    chain(request, asked, ask, answer, answered, [again, keep, promote])
    chain(asked, promote)
