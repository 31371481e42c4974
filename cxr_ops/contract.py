"""What the DAGs, the command and the stages agree on. Standard library only: DAG files import this at parse time.

A stage is one verb, and the same word is its module in `cxr_ops/stages`, its command, its section in `params.yaml`,
its stage in `dvc.yaml`, its task in Airflow and the folder of its outputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

# Deterministic stages, in the order in which they run. DVC owns them.
DETERMINISTIC: Final = ("validate", "split", "prepare", "train", "evaluate", "explain", "gate", "report")
STAGES: Final = ("ingest", "open", *DETERMINISTIC, "publish", "promote")

# What Airflow starts besides, by the same command.
OPERATIONS: Final = ("request", "answer", "rollback", "watch", "gc", "backup", "monitor")

DAG_ID: Final = "cxr_retrain"
PROMOTE_DAG_ID: Final = "cxr_promote"
ROLLBACK_DAG_ID: Final = "cxr_rollback"
MAINTENANCE_DAG_ID: Final = "cxr_maintenance"
INGEST_DAG_ID: Final = "cxr_ingest"
MONITOR_DAG_ID: Final = "cxr_monitor"
# The Asset of what has arrived, which `cxr_arrivals` waits for, and the file that ends a delivery.
ARRIVALS_DAG_ID: Final = "cxr_arrivals"
ARRIVALS_ASSET: Final = "cxr_arrivals"
ARRIVALS_URI: Final = "x-cxr://incoming"
READY: Final = "READY"
# The Asset that ingestion updates and that `cxr_retrain` waits for.
DATASET_ASSET: Final = "cxr_dataset"
DATASET_URI: Final = "x-cxr://store/dataset"
MODEL_NAME: Final = "cxr-densenet121"

# Kinds of folders that `cxr-ops ingest KIND` takes; `auto` is found out. One module each in `cxr_ops/data/sources`.
AUTO: Final = "auto"
KINDS: Final = (AUTO, "nih", "padchest", "vindr", "rsna", "dicom", "folder", "chexpert", "mimic", "csv")
# What a person may say of a folder besides; params of the DAG, and options of the command with `-` for `_`.
INGEST_OPTIONS: Final = ("attributes", "uncertain", "mapping", "view", "own_split", "deidentified")
ON_BAD: Final = ("refuse", "quarantine")  # what becomes of a batch in which some rows are bad

# Names in a run's workspace.
DATASET: Final = "dataset"  # dataset/<batch>/{batch.json,manifest.csv,boxes.csv,shard-NNNNN.tar}
INPUTS: Final = "inputs.json"
LOOK: Final = "look.json"  # which scoring of the test set is on the ledger; without one the test set is not scored
IMAGE: Final = "image.json"
PERIOD: Final = "test-period.json"
CHAMPION: Final = "champion"  # champion/champion.json, and champion/package where there is one
REFERENCE: Final = "reference"  # reference/reference.json; reference/package where that is not the champion
START: Final = "start"  # start/start.json; start/package where training starts from the champion
PACKAGE: Final = "package"  # train/package/
PACKAGE_FILES: Final = ("weights.safetensors", "model.json", "network.py", "patients.txt")

# Exit codes. 10 and 11 say that a second attempt would fail in the same way: they are never retried.
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_DATA: Final = 10
EXIT_SETTINGS: Final = 11
EXIT_STORAGE: Final = 12
EXIT_BUSY: Final = 13
EXIT_CONFLICT: Final = 14
EXIT_REFUSED: Final = 15
EXIT_ALARM: Final = 16  # of `cxr-ops monitor` alone: it did its work, and what is watched has changed
EXIT_STOPPED: Final = 143  # 128 + SIGTERM: stopped after a checkpoint, to be resumed
NEVER_RETRIED: Final = (EXIT_USAGE, EXIT_DATA, EXIT_SETTINGS, EXIT_CONFLICT, EXIT_REFUSED)

# Verdicts of the gate, and the one that needs no gate.
PROMOTE: Final = "PROMOTE"
REJECT: Final = "REJECT"
INSUFFICIENT: Final = "INSUFFICIENT EVIDENCE"
NO_CHANGE: Final = "NO_CHANGE"

# Small letters and digits with single hyphens between: a part of a path that is never a path.
BATCH_NAME: Final = r"(?=.{1,63}\Z)[a-z0-9]+(-[a-z0-9]+)*"
_RUN_NAME: Final = re.compile(r"(?=.{1,100}\Z)[a-z0-9]+(-[a-z0-9]+)*")
# A line of `sha256sum`: the digest, how the file was read, and its path, which `find` begins with ./
_CHECKSUM: Final = re.compile(r"([0-9a-f]{64}) [ *](?:\./)*(.+)")


def slug(run_id: str) -> str:
    """Name a run so that the name is legal as a folder, a git ref, a container name and an S3 key.

    Airflow's run ids hold `:` and `+`. Eight characters of the id's SHA-256 keep two ids apart that differ only in
    characters that are replaced.

    >>> slug("manual__2026-03-01T04:05:06+00:00")
    'manual-2026-03-01t04-05-06-00-00-f9d495f5'
    """
    words = re.sub(r"[^a-z0-9]+", "-", run_id.lower()).strip("-")[:60].strip("-")
    return f"{words or 'run'}-{hashlib.sha256(run_id.encode()).hexdigest()[:8]}"


def is_run_name(name: str) -> bool:
    """Whether a run may have a name: one that `slug` gives, or another that cannot lead out of its folder.

    >>> is_run_name(slug("manual__2026-03-01")), is_run_name("../../elsewhere"), is_run_name("/tmp/elsewhere")
    (True, False, False)
    """
    return _RUN_NAME.fullmatch(name) is not None


def batch_name(text: str) -> str:
    """The legal name of a batch that is nearest to a text.

    >>> batch_name("March_2026"), batch_name("a--b"), batch_name("---")
    ('march-2026', 'a-b', 'batch-1')
    """
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-") or "batch-1"


def read_ready(text: str) -> dict[str, str]:
    """Read the file that ends a delivery: empty, or what `sha256sum` prints of its other files.

    Returns:
        The SHA-256 of each file that it names, by the file's path in the folder.

    Raises:
        ValueError: a line is no checksum with a path in the folder.

    >>> read_ready("0f" * 32 + "  ./images/a.png")["images/a.png"][:4]
    '0f0f'
    """
    named: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        found = _CHECKSUM.fullmatch(line.rstrip("\r"))
        if found is None or {"", ".", ".."} & set(found[2].split("/")) or re.search(r"[\\\x00-\x1f\x7f]", found[2]):
            raise ValueError(f"line {number} is no SHA-256 with a path in the folder")
        named[found[2]] = found[1]
    return named


def way_of(published: Mapping[str, Any], *, backfill: bool, names: bool) -> tuple[str, str]:
    """The task that follows what `publish` returned, and why.

    Args:
        published: its result: `next`, `approvals` and `run` are read.
        backfill: whether the run was made for an old date.
        names: whether Airflow knows its users by name, so that it can ask one of them.

    >>> way_of({"next": None}, backfill=False, names=True)
    ('keep', 'the champion stays')
    """
    if published["next"] is None:
        return "keep", "the champion stays"
    if backfill:
        return "keep", "a backfill run promotes nothing; next: trigger a run by hand"
    if published["next"] == "promote":
        return "promote", "the plan asks nobody"
    if names:
        return "approve", f"the plan asks for {published['approvals']} approval(s)"
    return "keep", (
        f"the plan asks for {published['approvals']} approval(s), and this Airflow knows nobody by name; "
        f"next: cxr-ops promote --run {published['run']} --approved-by NAME"
    )


def report_progress(stage: str, done: float, total: float, *, unit: str = "", text: str = "", **extras: object) -> None:
    """Append a line to the file that `CXR_PROGRESS` names, for whoever watches the run; without it, do nothing.

    Best effort: progress is never evidence, and a full disk must not end a training for its sake. `at` in the line is
    the time in seconds since 1970.
    """
    path = os.environ.get("CXR_PROGRESS")
    if not path:
        return
    at = round(datetime.now(UTC).timestamp(), 3)
    line = json.dumps({"stage": stage, "done": done, "total": total, "unit": unit, "text": text, "at": at, **extras})
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError:
        return
