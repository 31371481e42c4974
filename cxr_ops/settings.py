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


def _one_of(*words: str) -> _Read:
    def read(text: str, name: str) -> str:
        if text not in words:
            near = difflib.get_close_matches(text, words, 1, 0.0)[0]
            raise SettingsError(
                f"{name} must be {' or '.join(words)}, not {text!r}", where="the environment", fix=f"{name}={near}"
            )
        return text

    return read


def _seconds(text: str, name: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise SettingsError(
            f"{name} must be a number of seconds, not {text!r}", where="the environment", fix=f"{name}=120"
        )
    return seconds


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
    airflow_url: Annotated[
        str | None,
        Variable(
            name="CXR_AIRFLOW_URL",
            meaning="your own Airflow, to which `cxr-ops ingest` reports new data",
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
            meaning="how many runs of the DAG may be active at a time",
            without="1",
            read=_count(1),
            group=RUNNING,
        ),
    ] = 1
    approvers: Annotated[
        tuple[str, ...],
        Variable(
            name="CXR_APPROVERS",
            meaning="people who may approve: Airflow's user ids, separated by commas",
            without="everybody who may edit the DAG",
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
        return addresses.without_password(",".join(value) if isinstance(value, tuple) else str(value))


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
