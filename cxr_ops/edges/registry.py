"""MLflow: the run with all that belongs to it, the registered version, and the aliases.

Everything here can be done again: a run is found by its tag `cxr.run`, a version by its tag `cxr.package`, and what is
already there is left or written over with the same. MLflow decides nothing. Who the champion is stands in the ledger
alone; the aliases follow it, and a version counts only while the bytes behind it have the digest on record.
"""

from __future__ import annotations

import io
import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.audit.state import last_decision, last_promotion, reference_after
from cxr_ops.contract import CHAMPION, MODEL_NAME, PACKAGE, PACKAGE_FILES, REFERENCE
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger.chain import Ledger
from cxr_ops.errors import CxrError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import canonical_json, tree_digest, write_atomic
from cxr_ops.records.inputs import Champion, Reference

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

EXPERIMENT: Final = "cxr-ops"
CHALLENGER: Final = "challenger"
# What the served model imports.
_REQUIREMENTS: Final = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pillow",
    "safetensors",
    "torch",
    "torchvision",
)
_SERVING: Final = Path(__file__).parent.parent / "model" / "serving.py"
_MAX_DIGEST: Final = 36  # characters of a dataset's digest that MLflow takes
_MAX_BATCH: Final = 100  # params that MLflow takes at a time
_MAX_METRICS: Final = 1000
_TRAINING: Final = "cxr.training"  # tag: digest of what the training was given whose metrics are in the run
_SETTINGS: Final = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # The requirements are given; a uv.lock in the current folder would have them resolved again, over the network.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # By default a server that is down is asked for 247 seconds; these end after about 10.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that a run used: its name, its digest, where it can be had again, and for what it was used."""

    name: str
    digest: str
    source: str
    context: str
    profile: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Point:
    """A value of a metric: at which step, and when, in milliseconds since 1970."""

    key: str
    value: float
    at: int
    step: int


@dataclass(frozen=True, kw_only=True)
class RunContent:
    """All that the MLflow run of one retraining holds.

    `history` is a list of (step, metrics); `artifacts` maps the folder in the run to the files that go there; `note` is
    Markdown.
    """

    run: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    history: Sequence[tuple[int, Mapping[str, float]]] = ()
    datasets: Sequence[Dataset] = ()
    artifacts: Sequence[tuple[str, Path]] = ()
    note: str = ""


def log_run(home: Home, content: RunContent) -> str:
    """Write the MLflow run of a retraining, or write it again.

    Points of the curves that the run has already, because they were sent while training ran, are left as they are. A
    run that has others than `content.history` is of another training and is set aside.

    Returns:
        The MLflow run's id; the same one for the same `content.run`.

    Raises:
        StorageError: MLflow or its artifact store does not answer or refuses.
    """
    with _mlflow(home) as client:
        from mlflow import entities

        curves = {(key, step): value for step, values in content.history for key, value in values.items()}
        run = _run(home, client, content.run)
        there = _points_of(client, run, {key for key, _ in curves})
        # history.csv keeps six digits.
        if any(not math.isclose(value, curves.get(point, math.nan), rel_tol=1e-5) for point, value in there):
            _set_aside(client, run)
            run, there = _run(home, client, content.run), []
        run_id: str = run.info.run_id
        # One timestamp for all, the run's own: MLflow leaves out a metric that it has with the same step and time.
        at = run.info.start_time
        metrics = [entities.Metric(key, value, at, 0) for key, value in content.metrics.items()]
        missing = curves.keys() - dict(there).keys()
        metrics += [entities.Metric(key, curves[key, step], at, step) for key, step in sorted(missing)]
        params = [entities.Param(key, value) for key, value in content.params.items()]
        for first in range(0, max(len(metrics), len(params)), _MAX_BATCH):
            part = slice(first, first + _MAX_BATCH)
            client.log_batch(run_id, metrics=metrics[part], params=params[part])
        client.log_inputs(
            run_id,
            [
                entities.DatasetInput(
                    entities.Dataset(
                        data.name,
                        data.digest[:_MAX_DIGEST],
                        "dvc",
                        canonical_json({"uri": data.source, "digest": data.digest}).decode(),
                        profile=canonical_json(dict(data.profile)).decode(),
                    ),
                    [entities.InputTag("mlflow.data.context", data.context)],
                )
                for data in content.datasets
            ],
        )
        for folder, path in content.artifacts:
            client.log_artifact(run_id, str(path), folder or None)
        tags = {**content.tags, "mlflow.note.content": content.note}
        client.log_batch(run_id, tags=[entities.RunTag(key, value) for key, value in tags.items()])
        client.set_terminated(run_id, "FINISHED")
        return run_id


def live_run(home: Home, name: str, training: str) -> str | None:
    """Find or begin the MLflow run that a training's metrics go to while it runs: the one that `log_run` completes.

    A run of that name that another training began, and that was never published, is set aside.

    Args:
        home: the installation.
        name: the run's name.
        training: digest of what the training is given.

    Returns:
        The MLflow run's id, None where the run has been published.

    Raises:
        StorageError: see `log_run`.
    """
    with _mlflow(home) as client:
        run = _run(home, client, name, {_TRAINING: training})
        if "cxr.verdict" in run.data.tags:
            return None
        if run.data.tags.get(_TRAINING) != training:
            _set_aside(client, run)
            run = _run(home, client, name, {_TRAINING: training})
        if run.info.status != "RUNNING":
            client.update_run(run.info.run_id, "RUNNING")
        return str(run.info.run_id)


def log_points(home: Home, run_id: str, points: Sequence[Point]) -> None:
    """Add points to the metrics of an MLflow run; those that it has are left. See `log_run` for what can go wrong."""
    with _mlflow(home) as client:
        from mlflow.entities import Metric

        metrics = [Metric(point.key, point.value, point.at, point.step) for point in points]
        for first in range(0, len(metrics), _MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[first : first + _MAX_METRICS])


def end_run(home: Home, run_id: str, status: str) -> None:
    """Set how an MLflow run ended: FINISHED, FAILED or KILLED. See `log_run` for what can go wrong."""
    with _mlflow(home) as client:
        client.set_terminated(run_id, status)


def tag_run(home: Home, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of an MLflow run; see `log_run` for what can go wrong."""
    with _mlflow(home) as client:
        from mlflow.entities import RunTag

        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def add_text(home: Home, run_id: str, name: str, text: str) -> None:
    """Put a text file into an MLflow run, over one of the same name; see `log_run` for what can go wrong."""
    with _mlflow(home) as client:
        client.log_text(run_id, text, name)


def register(home: Home, package: Path, run_id: str, tags: Mapping[str, str]) -> str:
    """Register a package as a version of the model, unless a version with these bytes is registered already.

    Args:
        home: the installation.
        package: the folder with the package's four files.
        run_id: the MLflow run that the version belongs to.
        tags: further tags of a new version.

    Returns:
        The version's number.

    Raises:
        StorageError: see `log_run`.
    """
    digest = tree_digest(package, PACKAGE_FILES)
    with _mlflow(home) as client:
        version = _usable_version(client, digest)
        if version is not None:
            return version
        import mlflow

        with tempfile.TemporaryDirectory() as aside, mlflow.start_run(run_id=run_id):
            # MLflow keeps a folder with all that is in it, under the folder's own name.
            copy = _made(Path(aside) / PACKAGE)
            for name in PACKAGE_FILES:
                shutil.copyfile(package / name, copy / name)
            mlflow.pyfunc.log_model(
                name=MODEL_NAME,
                python_model=str(_SERVING),
                artifacts={PACKAGE: str(copy)},
                model_config={PACKAGE: digest},
                signature=_signature(),
                input_example=_input_example(),
                pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
                registered_model_name=MODEL_NAME,
                # The version comes after its files, with its tags: a crash leaves no version that is half there.
                tags={"cxr.package": digest, **tags},
            )
        version = _usable_version(client, digest)
        if version is None:
            raise StorageError(
                "MLflow does not hand back the package that was registered a moment ago",
                where=f"{MODEL_NAME} at {_without_password(home.mlflow_uri)}",
                fix="check that the artifact store keeps what is written, then retry",
            )
        return version


def fetch_package(home: Home, version: str, digest: str, dest: Path) -> None:
    """Bring the package of a registered version into the folder `dest`, which is replaced.

    Raises:
        StorageError: the version is gone, or its bytes are not those with this digest; `dest` is as it was.
    """
    with _mlflow(home), tempfile.TemporaryDirectory(dir=_made(dest.parent), prefix=".fetch-") as aside:
        found = _download(version, Path(aside))
        if found is None:
            raise _lost(home, version, "is not in the registry, or its files are not in the artifact store")
        if _package_digest(found) != digest:
            raise _lost(
                home, version, "does not hold the bytes that were registered: its digest is not the one on record"
            )
        fresh = Path(aside) / "checked"
        fresh.mkdir()
        for name in PACKAGE_FILES:
            shutil.move(found / name, fresh / name)
        shutil.rmtree(dest, ignore_errors=True)
        fresh.rename(dest)


def fetch_champion(home: Home, dest: Path) -> Champion:
    """Bring the champion that the ledger names into a folder: `champion.json`, and `package/` where there is one.

    Args:
        home: the installation.
        dest: the folder, which is replaced.

    Returns:
        The champion; one without a package before the first release.

    Raises:
        StorageError: the champion's version is lost or altered, or the registry knows of a promotion that the ledger
            does not: a champion that cannot be had is not the same as none.
    """
    entry = Ledger(home.ledger).champion()
    shutil.rmtree(dest, ignore_errors=True)
    dest.mkdir(parents=True)
    if entry is None:
        _refuse_unknown_promotions(home)
        champion = Champion()
    else:
        promotion = entry.promotion
        fetch_package(home, promotion.model_version, promotion.package, dest / PACKAGE)
        champion = Champion(
            package=promotion.package, version=promotion.model_version, entry=entry.digest(), recipe=promotion.recipe
        )
    champion.write(dest / f"{CHAMPION}.json")
    return champion


def fetch_reference(home: Home, reference: Reference | None, champion: Champion, dest: Path) -> None:
    """Bring the reference into a folder: `reference.json`, and `package/` where it is another than the champion's.

    Args:
        home: the installation.
        reference: what the ledger says, None before the first release.
        champion: the champion, whose package is in its own folder.
        dest: the folder, which is replaced.

    Raises:
        StorageError: the reference's version is lost or altered.
    """
    shutil.rmtree(dest, ignore_errors=True)
    dest.mkdir(parents=True)
    if reference is not None and reference.package != champion.package:
        fetch_package(home, reference.version, reference.package, dest / PACKAGE)
    named = reference.model_dump() if reference else dict.fromkeys(Reference.model_fields)
    write_atomic(dest / f"{REFERENCE}.json", canonical_json(named))


def reconcile(home: Home) -> bool:
    """Make the aliases follow the ledger: `champion` and `reference` its promotions, `challenger` its last decision.

    Returns:
        Whether the alias `champion` or `reference` had to be repaired.

    Raises:
        StorageError: the version that the ledger names is gone, the registry knows of a promotion that the ledger does
            not, or MLflow does not answer.
    """
    entries = Ledger(home.ledger).entries()
    promotion, decision, reference = last_promotion(entries), last_decision(entries), reference_after(entries)
    if promotion is None:
        _refuse_unknown_promotions(home)
        if not _has_store(home):
            return False
    with _mlflow(home) as client:
        aliases = _aliases(client)
        if decision is not None and aliases.get(CHALLENGER) != decision.decision.model_version:
            client.set_registered_model_alias(MODEL_NAME, CHALLENGER, decision.decision.model_version)
        if promotion is None or reference is None:
            unfounded = [alias for alias in (CHAMPION, REFERENCE) if alias in aliases]
            for alias in unfounded:
                client.delete_registered_model_alias(MODEL_NAME, alias)
            return bool(unfounded)
        crowned = promotion.promotion.model_version
        version = _version(client, crowned)
        if version is None:
            raise _lost(home, crowned, "is the champion, and is not in the registry")
        if _version(client, reference.version) is None:
            raise _lost(home, reference.version, "is the reference, and is not in the registry")
        repaired = bool(version.tags.get("cxr.promotion") != promotion.digest())
        if repaired:
            client.set_model_version_tag(MODEL_NAME, crowned, "cxr.promotion", promotion.digest())
        for name, wanted in ((CHAMPION, crowned), (REFERENCE, reference.version)):
            if aliases.get(name) != wanted:
                client.set_registered_model_alias(MODEL_NAME, name, wanted)
                repaired = True
        return repaired


def _refuse_unknown_promotions(home: Home) -> None:
    """Refuse to take a lost ledger for a new one: a version that was promoted by it carries the entry's digest."""
    if not _has_store(home):
        return
    with _mlflow(home) as client:
        for version in _versions(client):
            if version.tags.get("cxr.promotion"):
                raise StorageError(
                    f"{MODEL_NAME}/{version.version} was promoted, and the ledger does not know of any promotion",
                    where=home.ledger,
                    fix="restore the ledger folder from a backup, or set CXR_HOME to the installation that promoted it",
                )


def _has_store(home: Home) -> bool:
    """Whether there is an MLflow store to ask; a database that was never made holds nothing."""
    path = _sqlite_path(home)
    return path is None or path.is_file()


def _sqlite_path(home: Home) -> Path | None:
    prefix = "sqlite:///"
    return Path(home.mlflow_uri.removeprefix(prefix)) if home.mlflow_uri.startswith(prefix) else None


@contextmanager
def _mlflow(home: Home) -> Iterator[MlflowClient]:
    """Give a client of this installation's MLflow, and say in our words what goes wrong with it.

    MLflow takes settings and addresses from the process: they are set here, for the command that this process runs.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    if home.s3_endpoint:
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = home.s3_endpoint
    import mlflow
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if (database := _sqlite_path(home)) is not None and not database.is_file():
            _make_database(home, database)
        mlflow.set_tracking_uri(home.mlflow_uri)
        mlflow.set_registry_uri(home.mlflow_uri)
        yield mlflow.MlflowClient()
    except CxrError:
        raise
    except (MlflowException, Boto3Error, BotoCoreError, ClientError, SQLAlchemyError, OSError) as error:
        raise StorageError(
            f"MLflow or its artifact store failed: {_without_password(' '.join(str(error).split()))[:300]}",
            where=f"{_without_password(home.mlflow_uri)}, artifacts in {home.mlflow_artifacts}",
            fix="check MLFLOW_TRACKING_URI, CXR_MLFLOW_ARTIFACTS and CXR_S3_ENDPOINT, start the server, then retry",
        ) from error


def _make_database(home: Home, path: Path) -> None:
    """Make MLflow's database aside: one whose making was cut off is refused by MLflow for ever."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(dir=_made(path.parent), prefix=".new-") as aside:
        fresh = Path(aside) / path.name
        SqlAlchemyStore(f"sqlite:///{fresh}", home.mlflow_artifacts).engine.dispose()
        with suppress(FileExistsError):  # somebody was faster
            os.link(fresh, path)


def _without_password(text: str) -> str:
    """A text in which the addresses name no user and no password."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _experiment(home: Home, client: MlflowClient) -> str:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment_by_name(EXPERIMENT)
    if known is None:
        # A server keeps artifacts where it was told to; only a bucket is the same place seen from here and from there.
        own = not home.mlflow_uri.startswith("http") or home.mlflow_artifacts.startswith("s3://")
        try:
            return str(client.create_experiment(EXPERIMENT, artifact_location=home.mlflow_artifacts if own else None))
        except MlflowException:
            known = client.get_experiment_by_name(EXPERIMENT)  # somebody was faster
            if known is None:
                raise
    return str(known.experiment_id)


def _run(home: Home, client: MlflowClient, name: str, tags: Mapping[str, str] | None = None) -> Run:
    """The run of a name; a new one, with these tags, where there is none."""
    experiment = _experiment(home, client)
    found = client.search_runs([experiment], f"tags.`cxr.run` = '{name}'", order_by=["attributes.start_time ASC"])
    return found[0] if found else client.create_run(experiment, run_name=name, tags={"cxr.run": name, **(tags or {})})


def _set_aside(client: MlflowClient, run: Run) -> None:
    """Take a run its name: its curves are not those of what is on record, or will be, under the name."""
    client.set_tag(run.info.run_id, "cxr.superseded", run.data.tags["cxr.run"])
    client.set_terminated(run.info.run_id, "KILLED")
    client.delete_tag(run.info.run_id, "cxr.run")


def _points_of(client: MlflowClient, run: Run, keys: set[str]) -> list[tuple[tuple[str, int], float]]:
    """Key and step, and the value, of all points of some metrics."""
    return [
        ((key, point.step), point.value)
        for key in sorted(keys & run.data.metrics.keys())
        for point in client.get_metric_history(run.info.run_id, key)
    ]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([ColSpec("double", finding) for finding in FINDINGS]),
    )


def _input_example() -> Any:
    """A row with a small generated picture: two dark ellipses on grey, no radiograph of anybody."""
    import numpy as np
    import pandas as pd
    from PIL import Image

    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    lungs = ((np.abs(x) - 0.45) / 0.3) ** 2 + (y / 0.7) ** 2 < 1
    data = io.BytesIO()
    Image.fromarray(np.where(lungs, 60, 180).astype(np.uint8)).save(data, "PNG")
    return pd.DataFrame({"image": [data.getvalue()]})


def _aliases(client: MlflowClient) -> dict[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(version) for alias, version in client.get_registered_model(MODEL_NAME).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def _version(client: MlflowClient, version: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(MODEL_NAME, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def _versions(client: MlflowClient) -> list[ModelVersion]:
    """All versions, the first registered first."""
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{MODEL_NAME}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def _usable_version(client: MlflowClient, digest: str) -> str | None:
    """The first version that is tagged with a package's digest and holds its bytes.

    Two writers that register the same package at once make two versions and agree on the first.
    """
    for version in _versions(client):
        if version.tags.get("cxr.package") == digest and version.status == "READY":
            with tempfile.TemporaryDirectory() as aside:
                found = _download(version.version, Path(aside))
                if found is not None and _package_digest(found) == digest:
                    return str(version.version)
    return None


def _download(version: str, dest: Path) -> Path | None:
    """Bring a version's package into a folder; None where the version or one of its files does not exist."""
    from mlflow.artifacts import download_artifacts, list_artifacts
    from mlflow.exceptions import MlflowException

    uri = f"models:/{MODEL_NAME}/{version}"
    try:
        listed = {Path(file.path).name for file in list_artifacts(f"{uri}/artifacts/{PACKAGE}")}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    if not listed.issuperset(PACKAGE_FILES):
        return None
    return Path(download_artifacts(f"{uri}/artifacts/{PACKAGE}", dst_path=str(dest)))


def _package_digest(folder: Path) -> str | None:
    """Digest of a package, None where one of its files is missing."""
    complete = all((folder / name).is_file() for name in PACKAGE_FILES)
    return tree_digest(folder, PACKAGE_FILES) if complete else None


def _lost(home: Home, version: str, why: str) -> StorageError:
    return StorageError(
        f"{MODEL_NAME}/{version} {why}",
        where=_without_password(home.mlflow_uri),
        fix="restore MLflow's database and artifacts from a backup; the ledger says which bytes belong to the version",
    )
