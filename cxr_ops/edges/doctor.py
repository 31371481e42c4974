"""Whether an installation can work here: its settings, its folders, and what it talks to, each asked for real."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cxr_ops import locks, settings
from cxr_ops.addresses import without_password
from cxr_ops.edges import loopback, machine, s3
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger.bucket import RACERS
from cxr_ops.errors import CxrError, SettingsError, StorageError
from cxr_ops.settings import VARIABLES, Settings

# A run of the NIH's size keeps its clone, its cache and its package; a demonstration needs a tenth.
ROOM: Final = 5_000_000_000
_SECONDS: Final = 10  # that a server is given
_IMAGE: Final = re.compile(r"(?:\S+@)?sha256:[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A setting as it holds here; `value` is None where nothing is set, and `without` then says what holds."""

    name: str
    value: str | None
    without: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """What was looked at, whether it is well, what was found, and what to do where it is not."""

    name: str
    ok: bool
    found: str
    fix: str | None = None


@dataclass(frozen=True, kw_only=True)
class Examination:
    """The settings, and all checks that could be made."""

    settings: tuple[Shown, ...]
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check is well."""
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The same for machines; `source` is `environment` or `default`."""
        return {
            "ok": self.ok,
            "settings": [
                {
                    "name": one.name,
                    "value": one.value,
                    "source": "default" if one.value is None else "environment",
                    "without": one.without,
                }
                for one in self.settings
            ],
            "checks": [
                {"name": check.name, "ok": check.ok, "found": check.found, "fix": check.fix} for check in self.checks
            ],
        }


def examine(environ: Mapping[str, str] | None = None, start: Path | None = None) -> Examination:
    """Look at an installation; nothing is written but `CXR_HOME` with its folder of locks, where there is none yet.

    Args:
        environ: the environment; None: that of this process.
        start: the folder from which the project is looked for; None: the current one.
    """
    env = os.environ if environ is None else environ
    checks = [_checked("names", lambda: _names(env)), _checked("settings", lambda: _settings(env))]
    home: Home | None = None
    if checks[-1].ok:

        def find() -> str:
            nonlocal home
            home = Home.find(env, start)
            loopback.shield(home.servers)
            return f"{home.project}; CXR_HOME is {home.root}"

        checks.append(_checked("project", find))
    of_a_machine: dict[str, Callable[[], str]] = {
        "python": machine.python,
        "git": _git,
        "dvc": _dvc,
        "gpu": lambda: machine.gpu(env),
        "shared memory": machine.shared_memory,
        "proxies": lambda: machine.proxies(env),
        "certificates": lambda: machine.certificates(env),
    }
    checks += [_checked(name, look) for name, look in of_a_machine.items()]
    if home is not None:
        found = home
        checks.append(_checked("docker", lambda: machine.docker(found, env)))
        checks.append(_checked("telemetry", lambda: machine.telemetry(found, env)))
        for name, ask in _OF_A_HOME.items():
            checks.append(_checked(name, lambda ask=ask: ask(found)))  # type: ignore[misc]  # bound now, not later
    return Examination(settings=tuple(_shown(env)), checks=tuple(checks))


def _checked(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name=name, ok=True, found=look())
    except CxrError as error:
        where = f" ({error.where})" if error.where and error.where not in error.what else ""
        return Check(name=name, ok=False, found=without_password(f"{error.what}{where}"), fix=error.fix)
    except OSError as error:
        return Check(name=name, ok=False, found=str(error), fix="mend what it names")


def _shown(env: Mapping[str, str]) -> Iterator[Shown]:
    for variable in VARIABLES.values():
        try:
            alone = {variable.name: env[variable.name]} if env.get(variable.name) else {}
            value = Settings.read(alone).shown()[variable.name]
        except SettingsError:
            value = without_password(env[variable.name])
        yield Shown(name=variable.name, value=value, without=variable.without)


def _names(env: Mapping[str, str]) -> str:
    strange = settings.unknown(env)
    if strange:
        raise SettingsError(
            f"nothing reads {', '.join(strange)}",
            fix=", ".join(f"{name}: did you mean {near}?" for name, near in strange.items()),
        )
    return "every variable CXR_* that is set is read"


def _settings(env: Mapping[str, str]) -> str:
    read = Settings.read(env)
    if read.launcher == "docker" and not _IMAGE.fullmatch(read.image or ""):
        raise SettingsError(
            f"CXR_IMAGE is {read.image or 'not set'}: containers want an image by its digest or id",
            where="the environment",
            fix="docker image inspect --format '{{.Id}}' cxr-ops",
        )
    return f"{len(read.given)} of {len(VARIABLES)} are set"


def _git() -> str:
    try:
        done = subprocess.run(["git", "--version"], capture_output=True, text=True, check=True, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise StorageError(f"git cannot be started: {error}", fix="install git, and put it on PATH") from error
    return done.stdout.strip()


def _need(module: str, extra: str) -> None:
    """See that a library is installed, of those that some commands do without."""
    if find_spec(module) is None:
        raise StorageError(
            f"{module} is not installed",
            where=sys.executable,
            fix=f'in the project\'s folder: make setup, or pip install ".[{extra}]"',
        )


def _dvc() -> str:
    _need("dvc", "stages")
    command = [sys.executable, "-m", "dvc", "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=6 * _SECONDS)
    except (OSError, subprocess.SubprocessError) as error:
        raise StorageError("DVC cannot be started", where=sys.executable, fix="make setup") from error
    return f"dvc version {done.stdout.strip()}"


# ------------------------------------------------------------------------------------------------- of an installation


def _locks(home: Home) -> str:
    home.locks.mkdir(exist_ok=True)
    if not locks.works(home.locks):
        raise StorageError(
            "this file system lets two processes hold the same lock, or none",
            where=home.locks,
            fix="set CXR_HOME to a local disk, or to a network disk that knows locks (NFS 4)",
        )
    return "one process holds a lock, and keeps another out"


def _room(home: Home) -> str:
    free = shutil.disk_usage(home.root).free
    if free < ROOM:
        raise StorageError(
            f"{free / 1e9:.1f} GB are free; a run may need {ROOM / 1e9:.0f} GB",
            where=home.root,
            fix="free some, or set CXR_HOME to a larger disk",
        )
    return f"{free / 1e9:.0f} GB are free"


def _remote(home: Home) -> str:
    folder = home.remote_folder
    if folder is not None:
        return _folder(folder, "CXR_DVC_REMOTE")
    return _bucket(home, home.dvc_remote)


def _artifacts(home: Home) -> str:
    if home.mlflow_artifacts.startswith("s3://"):
        return _bucket(home, home.mlflow_artifacts)
    if home.mlflow_uri.startswith("http"):
        return "kept by the MLflow server"
    from cxr_ops.addresses import folder

    return _folder(folder(home.mlflow_artifacts, "CXR_MLFLOW_ARTIFACTS", home.project), "CXR_MLFLOW_ARTIFACTS")


def _folder(folder: Path, name: str) -> str:
    """See that a folder can be written, or made where there is none yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise StorageError(
            f"{folder} cannot be {'written' if there == folder else 'made'}",
            where=there,
            fix=f"mend the folder's rights, or set {name} to another",
        )
    return f"{folder}" if there == folder else f"{folder} (made when it is needed)"


def _bucket(home: Home, address: str) -> str:
    _need("boto3", "stages")
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, prefix = s3.split(address)
    try:
        client = s3.client(
            home.s3_endpoint,
            connect_timeout=_SECONDS,
            read_timeout=_SECONDS,
            retries={"total_max_attempts": 1},
        )
        client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
    except (BotoCoreError, ClientError, ValueError) as error:
        raise StorageError(
            f"the bucket {bucket} does not answer: {error}",
            where=home.s3_endpoint or "Amazon S3",
            fix="check that the bucket is there (cxr-ops makes none), CXR_S3_ENDPOINT, AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY",
        ) from error
    return f"{address} answers"


def _mlflow(home: Home) -> str:
    _need("mlflow", "stages")
    from cxr_ops.edges.mlflow import client

    if not client.has_store(home):
        return "an SQLite file in CXR_HOME, made at the first run"
    if home.mlflow_uri.startswith("http"):
        _host_check(home.mlflow_uri)
    with client.connected(home) as mlflow:
        mlflow.search_experiments(max_results=1)
    return f"{without_password(home.mlflow_uri)} answers"


def _host_check(uri: str) -> None:
    """See that the server takes requests under this name: it refuses those for a host that it was not told of."""
    try:
        urllib.request.urlopen(f"{uri.rstrip('/')}/version", timeout=_SECONDS).close()  # noqa: S310 - http(s), by its start
    except urllib.error.HTTPError as error:
        if error.code == HTTPStatus.FORBIDDEN and b"host" in error.read(2000).lower():
            raise StorageError(
                f"the MLflow server refuses requests under the name {urlsplit(uri).netloc}",
                where=without_password(uri),
                fix=f"mlflow server --allowed-hosts {urlsplit(uri).hostname},{urlsplit(uri).netloc}",
            ) from error
    except OSError:
        return  # that it does not answer is told by who asks next


def _ledger(home: Home) -> str:
    from cxr_ops.edges.ledger import Bucket, open_anchors, open_ledger

    for address in (home.ledger_address, home.anchor_address or ""):
        if address.startswith("s3://"):
            _need("boto3", "stages")
    ledger, kept = open_ledger(home), open_anchors(home)
    told = f"{ledger.verify()} entries, chain whole"
    for storage in (ledger.storage, kept.storage if kept else None):
        if isinstance(storage, Bucket):
            if (won := storage.race()) != 1:
                raise StorageError(
                    f"of {RACERS} writers that wanted the same name {won} were told that they had won: a ledger there "
                    "would lose entries",
                    where=storage.place(),
                    fix="use a store that honours If-None-Match, or a folder: CXR_LEDGER, CXR_ANCHOR",
                )
            told += f"; of {RACERS} writers one wins in {storage.place()}"
    return f"{told}; {kept.check(ledger.entries()) if kept else 'no anchor (CXR_ANCHOR)'}"


def _airflow(home: Home) -> str:
    from cxr_ops.edges.airflow.client import Api

    if home.settings.airflow_url:
        try:
            Api(home.settings.airflow_url, home.settings.airflow_token).health()
        except CxrError as error:
            raise StorageError(
                error.what, where=home.settings.airflow_url, fix="check CXR_AIRFLOW_URL, and start that Airflow"
            ) from error
        return f"{without_password(home.settings.airflow_url)} answers"
    _need("airflow", "airflow")
    from cxr_ops.edges.airflow.processes import running_instance

    instance = running_instance(home)
    return f"the embedded one is up at {instance.url}" if instance else "the embedded one, started when it is needed"


_OF_A_HOME: Final[dict[str, Callable[[Home], str]]] = {
    "locks": _locks,
    "hard links": machine.hard_links,
    "clock": machine.clock,
    "room": _room,
    "data remote": _remote,
    "mlflow": _mlflow,
    "artifacts": _artifacts,
    "ledger": _ledger,
    "airflow": _airflow,
}
