"""The MLflow run of a retraining, with all that belongs to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow.client import connected
from cxr_ops.records.base import canonical_json

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EXPERIMENT: Final = "cxr-ops"
_MAX_DIGEST: Final = 36  # characters of a dataset's digest that MLflow takes
_MAX_BATCH: Final = 100  # params that MLflow takes at a time
_MAX_METRICS: Final = 1000
_TRAINING: Final = "cxr.training"  # tag: digest of what the training was given whose metrics are in the run


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A data set that a run used: its name, its digest, where to fetch it again, and for what it was used."""

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
    with connected(home) as client:
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
    with connected(home) as client:
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
    with connected(home) as client:
        from mlflow.entities import Metric

        metrics = [Metric(point.key, point.value, point.at, point.step) for point in points]
        for first in range(0, len(metrics), _MAX_METRICS):
            client.log_batch(run_id, metrics=metrics[first : first + _MAX_METRICS])


def end_run(home: Home, run_id: str, status: str) -> None:
    """Set how an MLflow run ended: FINISHED, FAILED or KILLED. See `log_run` for what can go wrong."""
    with connected(home) as client:
        client.set_terminated(run_id, status)


def tag_run(home: Home, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of an MLflow run; see `log_run` for what can go wrong."""
    with connected(home) as client:
        from mlflow.entities import RunTag

        client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def add_text(home: Home, run_id: str, name: str, text: str) -> None:
    """Put a text file into an MLflow run, over one of the same name; see `log_run` for what can go wrong."""
    with connected(home) as client:
        client.log_text(run_id, text, name)


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
