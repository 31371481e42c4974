"""Add a folder of radiographs to the data set, from any source that `cxr-ops ingest` takes.

Every row and every image is checked first. The data set is an Airflow Asset: when this succeeds, `cxr_retrain` starts.
The kind `auto` finds out what the folder is; the log says why.

## When it fails

Nothing of the batch has entered the data set. The end of the log says what is wrong;
`$CXR_HOME/quarantine/<batch>/problems.csv` lists the rows and files, with reasons.

1. Exit code 10 (data): mend the folder and trigger again with the same params, or set `on_bad: quarantine` to leave the
   bad rows out. If the data set has a batch of this name with other content, give the new one another name.
2. Exit code 11 (settings): a param does not fit this kind of folder. If `auto` finds more than one kind, name it.
3. After any other error, Airflow tried three times. Mend the cause (disk, store, another ingestion that goes on) and
   clear the task.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Asset, Param

from cxr_ops import contract
from cxr_ops.launchers.arguments import ingest_arguments
from cxr_ops.launchers.defaults import TASKS
from cxr_ops.launchers.notices import Notify
from cxr_ops.launchers.stage import stage_operator


def file_param(title: str, description: str) -> Param:
    """A file that a person may name, by its absolute path."""
    return Param(None, type=["null", "string"], pattern="^/", title=title, description=description)


PARAMS = {
    "path": Param(
        type="string",
        pattern="^(/|s3://.)",
        title="Folder",
        description="Absolute path of the folder, as the workers see it, or s3://bucket/prefix.",
    ),
    "batch": Param(
        type="string",
        pattern="^[a-z0-9]+(-[a-z0-9]+)*$",
        maxLength=63,
        title="Batch",
        description="Name of the batch: small letters, digits, single hyphens.",
    ),
    "kind": Param(
        contract.AUTO,
        type="string",
        enum=list(contract.KINDS),
        title="Kind",
        description="What the folder is; auto finds out.",
    ),
    "on_bad": Param(
        contract.ON_BAD[0],
        type="string",
        enum=list(contract.ON_BAD),
        title="Bad rows",
        description="Refuse a batch with bad rows, or leave them out.",
    ),
    "attributes": file_param(
        "Attributes", "Absolute path of a CSV by image_id or patient_id: more columns for subgroups."
    ),
    "uncertain": Param(
        [],
        type="array",
        items={"type": "string", "pattern": "^([A-Za-z_]+=)?(ignore|zeros|ones)$"},
        title="Uncertain labels",
        description="What -1 becomes: ignore, zeros or ones, for all findings or for one (Edema=ones).",
    ),
    "mapping": file_param("Mapping", "For csv: absolute path of the mapping file. Empty: mapping.yaml in the folder."),
    "view": Param(
        None,
        type=["null", "string"],
        enum=[None, "PA", "AP"],
        title="View",
        description="The view of images that have none on record.",
    ),
    "own_split": Param(False, type="boolean", title="Own split", description="Keep the folder's own split."),
    "deidentified": Param(
        False,
        type="boolean",
        title="De-identified",
        description="You checked that DICOM headers which seem to name a person do not.",
    ),
}

with DAG(
    contract.INGEST_DAG_ID,
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=1,
    params=PARAMS,
    default_args={**TASKS, "execution_timeout": timedelta(days=1)},
    tags=["cxr-ops"],
) as dag:
    ingest = stage_operator(
        "ingest",
        arguments=ingest_arguments,
        reads=("{{ params.path }}", "{{ params.attributes or '' }}", "{{ params.mapping or '' }}"),
        on_failure_callback=Notify("refused"),
        outlets=[Asset(name=contract.DATASET_ASSET, uri=contract.DATASET_URI)],
    )
