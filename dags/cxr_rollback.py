"""Bring an earlier champion back, in seconds and without training, with a person's reason.

The ledger records it as a promotion by whoever triggered this, and the aliases in MLflow follow. The model must have
been champion before, and still be what it was. See `cxr-ops history` for those there were.

## When it fails

1. No name: whoever triggered this is not known by name to Airflow. Log in, or type `cxr-ops rollback VERSION --reason
   TEXT`.
2. Exit code 15: the model was never champion, its run commit or its package is lost, or the reason is too short. The
   log names the champions there were. Nothing has changed.
3. Exit code 14: another model has become champion meanwhile. Look at what is in use now, then trigger this again.
4. After any other error, Airflow tried three times. Mend the cause and clear the task: a rollback is done once.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from cxr_ops import contract
from cxr_ops.launchers.arguments import rollback_arguments
from cxr_ops.launchers.defaults import TASKS
from cxr_ops.launchers.stage import stage_operator

PARAMS = {
    "to": Param(
        type="string",
        minLength=1,
        maxLength=250,
        pattern="^[^-]",
        title="To",
        description="An earlier champion: a registered version, or its run.",
    ),
    "reason": Param(
        type="string",
        minLength=8,
        maxLength=2000,
        pattern="^[^-]",
        title="Reason",
        description="Why; the ledger records it, with your name.",
    ),
}

with DAG(
    contract.ROLLBACK_DAG_ID,
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    default_args={**TASKS, "execution_timeout": timedelta(hours=1)},
    tags=["cxr-ops"],
) as dag:
    stage_operator("rollback", arguments=rollback_arguments)
