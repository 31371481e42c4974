"""What the environment says: every variable `CXR_*`, its type, its default and its meaning. One class reads them.

`docs/settings.md` holds the tables that `tables` writes, and `cxr-ops doctor` shows what holds here.

Two kinds of code read a variable without this class. The launchers and the DAG files run where Airflow does, where
they import the standard library alone besides it. And what one process of ours tells another (`BETWEEN`) is read
where it is used, because nobody sets it and a training must not depend on the settings of people.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, get_type_hints

from cxr_ops import addresses
from cxr_ops.errors import SettingsError

# What one process of ours tells another. Nobody sets these.
BETWEEN: Final = {
    "CXR_CHECKPOINTS": "where a training keeps its checkpoints; the supervisor sets it",
    "CXR_EXIT_FILE": "where a stage says how it ended; the supervisor sets it",
    "CXR_PACKED": "where `prepare` keeps rows that it packed, for later runs; the supervisor sets it",
    "CXR_PARTS": "the least number of parts that a training cuts a batch into, after memory was too small for fewer",
    "CXR_PROGRESS": "where a stage says how far it is; the supervisor sets it",
    "CXR_SUPERVISED": "marks the processes of a supervised stage",
}
# Read by the tests and measurements of this project alone.
DEVELOPMENT: Final = {"CXR_SHARED": "where the tests and measurements find real radiographs"}

PLACES: Final = "Where things are"
RUNNING: Final = "How runs are started"
CONTAINERS: Final = "Stages in containers"

_Read = Callable[[str, str], Any]


@dataclass(frozen=True, kw_only=True)
class Variable:
    """A variable of the environment: what it means, how it is read, and, in words, its default."""

    name: str
    meaning: str
    without: str
    read: _Read
    group: str
    secret: bool = False


def _text(text: str, name: str) -> str:  # noqa: ARG001 - the shape of all readers
    return text


def _folder(text: str, name: str) -> Path:
    return addresses.folder(text, name, Path.cwd())


def _folders(text: str, name: str) -> tuple[Path, ...]:
    return tuple(_folder(part, name) for part in _names(text, name))


def _store(text: str, name: str) -> str:
    return str(addresses.store(text, name, Path.cwd()))


def _one_of(*words: str) -> _Read:
    def read(text: str, name: str) -> str:
        if text not in words:
            near = difflib.get_close_matches(text, words, 1, 0.0)[0]
            raise SettingsError(
                f"{name} must be {' or '.join(words)}, not {text!r}", where="the environment", fix=f"{name}={near}"
            )
        return text

    return read


def _number_of(unit: str, example: int) -> _Read:
    def read(text: str, name: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not 0 <= number < math.inf:
            raise SettingsError(
                f"{name} must be a number of {unit}, not {text!r}", where="the environment", fix=f"{name}={example}"
            )
        return number

    return read


_seconds = _number_of("seconds", 120)
_days = _number_of("days", 30)


def _count(least: int) -> _Read:
    def read(text: str, name: str) -> int:
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) < least:
            raise SettingsError(
                f"{name} must be a whole number of at least {least}, not {text!r}",
                where="the environment",
                fix=f"{name}={least}",
            )
        return int(text)

    return read


def _names(text: str, name: str) -> tuple[str, ...]:  # noqa: ARG001 - the shape of all readers
    return tuple(part.strip() for part in text.split(",") if part.strip())


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the environment says; an attribute is None if its variable is not set and has no default.

    `given` names the variables that are set and not empty.
    """

    home: Annotated[
        Path | None,
        Variable(
            name="CXR_HOME",
            meaning="folder of the installation: runs, ledger, stores",
            without="`.cxr` in the project",
            read=_folder,
            group=PLACES,
        ),
    ] = None
    project: Annotated[
        Path | None,
        Variable(
            name="CXR_PROJECT",
            meaning="folder of the project",
            without="the nearest folder above the current one with a `dvc.yaml`",
            read=_folder,
            group=PLACES,
        ),
    ] = None
    dvc_remote: Annotated[
        str | None,
        Variable(
            name="CXR_DVC_REMOTE",
            meaning="data and outputs: a folder, or `s3://bucket/path`; a relative folder starts from the project",
            without="`dvc-remote` in `CXR_HOME`",
            read=_text,
            group=PLACES,
        ),
    ] = None
    mlflow_uri: Annotated[
        str | None,
        Variable(
            name="MLFLOW_TRACKING_URI",
            meaning="MLflow: `http(s)://`, `postgresql://`, `mysql://`, `mssql://`, or `sqlite:////path`",
            without="an SQLite file in `CXR_HOME`",
            read=_text,
            group=PLACES,
        ),
    ] = None
    mlflow_artifacts: Annotated[
        str | None,
        Variable(
            name="CXR_MLFLOW_ARTIFACTS",
            meaning="MLflow's artifacts: a folder, or `s3://bucket/path`; a relative folder starts from the project",
            without="`mlflow/artifacts` in `CXR_HOME`",
            read=_text,
            group=PLACES,
        ),
    ] = None
    s3_endpoint: Annotated[
        str | None,
        Variable(
            name="CXR_S3_ENDPOINT",
            meaning="address of the S3 server, if it is not Amazon's",
            without="Amazon's",
            read=addresses.server,
            group=PLACES,
        ),
    ] = None
    code_source: Annotated[
        str | None,
        Variable(
            name="CXR_CODE_SOURCE",
            meaning="the branch of reviewed code, `REPOSITORY#BRANCH`: a plan that asks for committed code promotes "
            "only what is on it",
            without="the plan's `code_source`; without either, such a plan promotes nothing",
            read=_text,
            group=PLACES,
        ),
    ] = None
    ledger: Annotated[
        str | None,
        Variable(
            name="CXR_LEDGER",
            meaning="the ledger: a folder, or `s3://bucket/path`; a relative folder starts from the project",
            without="`ledger` in `CXR_HOME`",
            read=_text,
            group=PLACES,
        ),
    ] = None
    ledger_lock_days: Annotated[
        int,
        Variable(
            name="CXR_LEDGER_LOCK_DAYS",
            meaning="for how many days an entry of the ledger cannot be removed, in a bucket with object lock",
            without="3650",
            read=_count(1),
            group=PLACES,
        ),
    ] = 3650
    anchor: Annotated[
        str | None,
        Variable(
            name="CXR_ANCHOR",
            meaning="where the ledger's head is kept once more, after each decision and promotion: a folder outside "
            "`CXR_HOME`, or `s3://bucket/path`, best of another owner",
            without="nowhere: that the ledger's end was cut off cannot be proven",
            read=_text,
            group=PLACES,
        ),
    ] = None
    signing_key: Annotated[
        Path | None,
        Variable(
            name="CXR_SIGNING_KEY",
            meaning="the private key, a PEM file outside the project, that models are signed with: `cxr-ops keys make "
            "FILE`",
            without="a key of the installation, which proves little",
            read=_folder,
            group=PLACES,
        ),
    ] = None
    trusted_keys: Annotated[
        tuple[Path, ...],
        Variable(
            name="CXR_TRUSTED_KEYS",
            meaning="public keys, PEM files separated by commas, whose signatures of models are believed",
            without="the public half of `CXR_SIGNING_KEY` and of the installation's key",
            read=_folders,
            group=PLACES,
        ),
    ] = ()
    receipts: Annotated[
        Path | None,
        Variable(
            name="CXR_RECEIPTS",
            meaning="a file to which a served model adds a receipt of each prediction, for `cxr-ops receipts verify`",
            without="none: receipts stand in the answers alone",
            read=_folder,
            group=PLACES,
        ),
    ] = None
    answers: Annotated[
        Path | None,
        Variable(
            name="CXR_ANSWERS",
            meaning="the answers of a served model, a folder or file, which `cxr_monitor` looks at each week",
            without="there is no such DAG",
            read=_folder,
            group=PLACES,
        ),
    ] = None
    labels: Annotated[
        Path | None,
        Variable(
            name="CXR_LABELS",
            meaning="a table of what became known of those pictures: patients and labels, for `cxr_monitor`",
            without="errors are not watched",
            read=_folder,
            group=PLACES,
        ),
    ] = None
    backup: Annotated[
        Path | None,
        Variable(
            name="CXR_BACKUP",
            meaning="the folder of backups that `cxr_maintenance` writes to every day, best on another disk",
            without="no backup is made by itself",
            read=_folder,
            group=PLACES,
        ),
    ] = None
    incoming: Annotated[
        str | None,
        Variable(
            name="CXR_INCOMING",
            meaning="where batches arrive, which `cxr_arrivals` watches: a folder, or `s3://bucket/prefix`",
            without="nothing is watched",
            read=_store,
            group=PLACES,
        ),
    ] = None
    incoming_queue: Annotated[
        str | None,
        Variable(
            name="CXR_INCOMING_QUEUE",
            meaning="URL of a queue of SQS that the bucket of `CXR_INCOMING` tells of new objects: a message makes "
            "`cxr_arrivals` look at once",
            without="it looks every `CXR_INCOMING_SECONDS` alone",
            read=_text,
            group=PLACES,
        ),
    ] = None
    airflow_url: Annotated[
        str | None,
        Variable(
            name="CXR_AIRFLOW_URL",
            meaning="your own Airflow: `cxr-ops ingest` tells it of new data, and stages write a note beside the run",
            without="the embedded one, if it runs",
            read=addresses.server,
            group=PLACES,
        ),
    ] = None
    airflow_token: Annotated[
        str | None,
        Variable(
            name="CXR_AIRFLOW_TOKEN",
            meaning="the token for that Airflow",
            without="none",
            read=_text,
            group=PLACES,
            secret=True,
        ),
    ] = None
    launcher: Annotated[
        str,
        Variable(
            name="CXR_LAUNCHER",
            meaning="how stages are started: `process` or `docker`",
            without="`process`",
            read=_one_of("process", "docker"),
            group=RUNNING,
        ),
    ] = "process"
    python: Annotated[
        str | None,
        Variable(
            name="CXR_PYTHON",
            meaning="the Python that runs stages as processes, if it is not Airflow's own",
            without="Airflow's",
            read=_text,
            group=RUNNING,
        ),
    ] = None
    grace_seconds: Annotated[
        float,
        Variable(
            name="CXR_GRACE_SECONDS",
            meaning="seconds that a stopped stage has to save its work before it is killed",
            without="120",
            read=_seconds,
            group=RUNNING,
        ),
    ] = 120.0
    keep_workspaces: Annotated[
        float,
        Variable(
            name="CXR_KEEP_WORKSPACES",
            meaning="days for which the workspace of a run that has ended stays; `cxr-ops data gc` removes older ones",
            without="30",
            read=_days,
            group=RUNNING,
        ),
    ] = 30.0
    keep_attempts: Annotated[
        float,
        Variable(
            name="CXR_KEEP_ATTEMPTS",
            meaning="days for which records of attempts, checkpoints and packed rows stay that nothing goes on from",
            without="30",
            read=_days,
            group=RUNNING,
        ),
    ] = 30.0
    keep_quarantine: Annotated[
        float,
        Variable(
            name="CXR_KEEP_QUARANTINE",
            meaning="days for which the quarantine of a batch stays; `cxr-ops data gc` removes older ones",
            without="90",
            read=_days,
            group=RUNNING,
        ),
    ] = 90.0
    incoming_seconds: Annotated[
        float,
        Variable(
            name="CXR_INCOMING_SECONDS",
            meaning="seconds between two looks at `CXR_INCOMING`",
            without="30",
            read=_seconds,
            group=RUNNING,
        ),
    ] = 30.0
    schedule: Annotated[
        str | None,
        Variable(
            name="CXR_SCHEDULE",
            meaning="when the DAG runs by itself: five fields as in cron, UTC",
            without="`0 3 * * 1`",
            read=_text,
            group=RUNNING,
        ),
    ] = None
    max_active_runs: Annotated[
        int,
        Variable(
            name="CXR_MAX_ACTIVE_RUNS",
            meaning="how many runs of the DAG may be active at a time; where a plan recycles the error of a test "
            "period, only the last look can end in a promotion",
            without="1",
            read=_count(1),
            group=RUNNING,
        ),
    ] = 1
    approvers: Annotated[
        tuple[str, ...],
        Variable(
            name="CXR_APPROVERS",
            meaning="who may approve, separated by commas: Airflow's user ids, or `id:name` where these differ",
            without="everybody who may edit the DAG",
            read=_names,
            group=RUNNING,
        ),
    ] = ()
    notify: Annotated[
        tuple[str, ...],
        Variable(
            name="CXR_NOTIFY",
            meaning="connections of Airflow by which people are told of verdicts, promotions, failed runs and refused "
            "batches: ids, separated by commas",
            without="nobody is told",
            read=_names,
            group=RUNNING,
        ),
    ] = ()
    notify_approvers: Annotated[
        tuple[str, ...],
        Variable(
            name="CXR_NOTIFY_APPROVERS",
            meaning="connections by which approvers alone are told that a run waits for them",
            without="those of `CXR_NOTIFY`, where the plan withholds nothing",
            read=_names,
            group=RUNNING,
        ),
    ] = ()
    notify_no_change: Annotated[
        tuple[str, ...],
        Variable(
            name="CXR_NOTIFY_NO_CHANGE",
            meaning="connections by which people are told of runs that ended NO_CHANGE, as most weekly ones do",
            without="nobody is told",
            read=_names,
            group=RUNNING,
        ),
    ] = ()
    gpu_pool: Annotated[
        str | None,
        Variable(
            name="CXR_GPU_POOL",
            meaning="the Airflow pool in which stages wait for a GPU",
            without="none: they do not wait",
            read=_text,
            group=RUNNING,
        ),
    ] = None
    image: Annotated[
        str | None,
        Variable(
            name="CXR_IMAGE",
            meaning="the image, as `name@sha256:...` or `sha256:...`; never a tag",
            without="none",
            read=_text,
            group=CONTAINERS,
        ),
    ] = None
    serve_image: Annotated[
        str | None,
        Variable(
            name="CXR_SERVE_IMAGE",
            meaning="the image of `docker/serve`, in which a plan's `serving` has a model asked before its promotion; "
            "needs `docker` where `cxr-ops promote` runs",
            without="the model is asked in fresh processes alone",
            read=_text,
            group=CONTAINERS,
        ),
    ] = None
    gpus: Annotated[
        str | None,
        Variable(
            name="CXR_GPUS",
            meaning="GPUs of a container: `all`, a number, or device ids separated by commas",
            without="none",
            read=_text,
            group=CONTAINERS,
        ),
    ] = None
    docker_network: Annotated[
        str | None,
        Variable(
            name="CXR_DOCKER_NETWORK",
            meaning="network of the containers",
            without="Docker's default",
            read=_text,
            group=CONTAINERS,
        ),
    ] = None
    shm_bytes: Annotated[
        int,
        Variable(
            name="CXR_SHM_BYTES",
            meaning="largest size of `/dev/shm` in bytes",
            without="8589934592 (8 GiB)",
            read=_count(1),
            group=CONTAINERS,
        ),
    ] = 8 * 2**30
    memory_bytes: Annotated[
        int | None,
        Variable(
            name="CXR_MEMORY_BYTES",
            meaning="the most memory that a container may use, in bytes; it gets no swap beside it",
            without="all that the engine has",
            read=_count(1),
            group=CONTAINERS,
        ),
    ] = None
    cpus: Annotated[
        float | None,
        Variable(
            name="CXR_CPUS",
            meaning="the most processors that a container may use, as `4` or `2.5`",
            without="all that the engine has",
            read=_number_of("processors", 4),
            group=CONTAINERS,
        ),
    ] = None
    given: frozenset[str] = frozenset()

    @classmethod
    def read(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read and check what the environment says; an empty variable counts as unset.

        Args:
            environ: the environment; None: that of this process.

        Raises:
            SettingsError: a variable holds what it cannot hold.
        """
        env = os.environ if environ is None else environ
        found = {key: one for key, one in VARIABLES.items() if env.get(one.name)}
        values = {key: one.read(env[one.name], one.name) for key, one in found.items()}
        return cls(**values, given=frozenset(one.name for one in found.values()))

    def shown(self) -> dict[str, str | None]:
        """The value of each variable that is set, as text, None for the others; secrets are not shown."""
        return {one.name: self._text(key, one) if one.name in self.given else None for key, one in VARIABLES.items()}

    def _text(self, key: str, variable: Variable) -> str:
        if variable.secret:
            return "(set)"
        value = getattr(self, key)
        return addresses.without_password(",".join(map(str, value)) if isinstance(value, tuple) else str(value))


# By the attribute that each fills, in the order of the tables.
VARIABLES: Final[dict[str, Variable]] = {
    key: hint.__metadata__[0]
    for key, hint in get_type_hints(Settings, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}


def unknown(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables `CXR_*` that nothing reads, each with the name of the nearest one that is read.

    >>> unknown({"CXR_DVC_REMOT": "s3://bucket", "CXR_HOME": "/srv"})
    {'CXR_DVC_REMOT': 'CXR_DVC_REMOTE'}
    """
    env = os.environ if environ is None else environ
    people = sorted(one.name for one in VARIABLES.values() if one.name.startswith("CXR_"))
    known = {*people, *BETWEEN, *DEVELOPMENT}
    strange = sorted(name for name in env if name.startswith("CXR_") and name not in known)
    return {name: difflib.get_close_matches(name, people, 1, 0.0)[0] for name in strange}


def tables() -> str:
    """The variables as Markdown tables, for `docs/settings.md`."""
    lines: list[str] = []
    for group in (PLACES, RUNNING, CONTAINERS):
        lines += [f"## {group}", "", "| Variable | Meaning | Without it |", "|---|---|---|"]
        lines += [
            f"| `{one.name}` | {one.meaning} | {one.without} |" for one in VARIABLES.values() if one.group == group
        ]
        lines.append("")
    lines += ["## Between the processes of cxr-ops", "", "Do not set these.", "", "| Variable | Meaning |", "|---|---|"]
    lines += [f"| `{name}` | {meaning} |" for name, meaning in {**BETWEEN, **DEVELOPMENT}.items()]
    return "\n".join(lines) + "\n"
