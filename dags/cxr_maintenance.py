"""Look after an installation once a day: what was left running, the registry, garbage, a backup.

| task | what it does |
|---|---|
| `sweep` | ends containers and processes of this installation whose task is over in Airflow; others' are not touched |
| `watch` | compares MLflow's registry with the ledger, and sets the aliases again where they are elsewhere |
| `show` | says what could be removed because it can be made again; removes nothing |
| `wanted` | goes on to `gc` only if the param `gc` says so |
| `gc` | removes it |
| `named` | goes on to `backup` only if the param `backup`, or `CXR_BACKUP`, names a folder |
| `backup` | copies the installation into that folder, and reads the copy again |

The parts do not wait for each other: one that fails holds up no other.

## When it fails

1. `sweep`: the engine or Airflow's own API does not answer. Nothing is ended while that is so. Mend it, and clear the
   task.
2. `watch` fails with 15: the registry has lost or altered a model, which nothing repairs by itself. The log names it.
   Restore MLflow from a backup, or go back to another champion with `cxr_rollback`.
3. `show` or `gc` fails: a run is being opened, or the disk does not answer. Nothing that is needed was removed. Clear
   the task.
4. `backup` fails with 12: the folder is full or cannot be written. The backups from before are whole. Free space, and
   clear the task.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any

from airflow.sdk import DAG, Param, chain, task

from cxr_ops import contract
from cxr_ops.launchers.arguments import backup_arguments, gc_yes, nothing
from cxr_ops.launchers.defaults import TASKS, at
from cxr_ops.launchers.stage import stage_operator

PARAMS = {
    "gc": Param(
        "show",
        type="string",
        enum=["show", "remove"],
        title="Garbage",
        description="Say what could be removed, or remove it too.",
    ),
    "backup": Param(
        os.environ.get("CXR_BACKUP") or None,
        type=["null", "string"],
        pattern="^/",
        title="Backup",
        description="Absolute path of a folder of backups, as the workers see it. Empty: none is made.",
    ),
}

with DAG(
    contract.MAINTENANCE_DAG_ID,
    doc_md=__doc__,
    schedule=at("0 1 * * *"),
    catchup=False,
    max_active_runs=1,
    max_active_tasks=1,
    params=PARAMS,
    default_args={**TASKS, "execution_timeout": timedelta(days=1)},
    tags=["cxr-ops"],
) as dag:

    @task
    def sweep(ti: Any) -> list[str]:
        """End what was left running."""
        from cxr_ops.launchers import sweep as sweeping

        return sweeping.run(ti)

    @task.short_circuit
    def wanted(params: dict[str, Any]) -> bool:
        """Go on if garbage is to be removed."""
        return bool(params["gc"] == "remove")

    @task.short_circuit
    def named(params: dict[str, Any]) -> bool:
        """Go on if there is a folder for a backup."""
        return bool(params["backup"])

    sweep()
    stage_operator("watch", arguments=nothing)
    chain(stage_operator("gc", task_id="show", arguments=nothing), wanted(), stage_operator("gc", arguments=gc_yes))
    chain(named(), stage_operator("backup", arguments=backup_arguments, writes=("{{ params.backup or '' }}",)))
