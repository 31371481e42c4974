"""Add a folder in the layout of the NIH's ChestX-ray14 to the data set.

Every row and every image is checked first. The data set is an Airflow Asset: when this succeeds, `cxr_retrain` starts.

## When it fails

Nothing of the batch has entered the data set. The end of the log names the rows and files that are wrong;
`$CXR_HOME/quarantine/<batch>` holds them all, with reasons. Mend the folder and trigger again with the same params, or
set `on_bad: quarantine` to leave the bad rows out.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, Param

from cxr_ops import contract
from cxr_ops.launchers.arguments import ingest_arguments
from cxr_ops.launchers.stage import stage_operator

with DAG(
    contract.INGEST_DAG_ID,
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params={
        "path": Param(
            type="string",
            pattern="^/",
            title="Folder",
            description="Absolute path of a folder in NIH layout, as the workers see it.",
        ),
        "batch": Param(
            type="string",
            pattern="^[a-z0-9][a-z0-9-]*$",
            maxLength=63,
            title="Batch",
            description="Name of the batch: small letters, digits, hyphens.",
        ),
        "on_bad": Param("refuse", type="string", enum=["refuse", "quarantine"], title="Bad rows"),
    },
    default_args={
        "owner": "cxr-ops",
        "retries": 2,
        "retry_delay": timedelta(seconds=15),
        "retry_exponential_backoff": 4,
        "execution_timeout": timedelta(days=1),
    },
    tags=["cxr-ops"],
) as dag:
    ingest = stage_operator(
        "ingest",
        arguments=ingest_arguments,
        reads="{{ params.path }}",
        outlets=[Asset(name=contract.DATASET_ASSET, uri=contract.DATASET_URI)],
    )
