"""A client of this installation's MLflow, and its database where there is no server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cxr_ops.addresses import sqlite_path, sqlite_url, without_password
from cxr_ops.edges import loopback
from cxr_ops.edges.home import Home
from cxr_ops.errors import CxrError, StorageError

if TYPE_CHECKING:
    from mlflow import MlflowClient

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


def has_store(home: Home) -> bool:
    """Whether there is an MLflow store to ask; a database that was never made holds nothing."""
    path = sqlite_path(home.mlflow_uri)
    return path is None or path.is_file()


@contextmanager
def connected(home: Home) -> Iterator[MlflowClient]:
    """Give a client of this installation's MLflow, and say in our words what goes wrong with it.

    MLflow takes settings and addresses from the process: they are set here, for the command that this process runs.
    """
    for key, value in _SETTINGS.items():
        os.environ.setdefault(key, value)
    loopback.shield(home.servers)
    if home.s3_endpoint:
        os.environ["MLFLOW_S3_ENDPOINT_URL"] = home.s3_endpoint
    import mlflow
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        if (database := sqlite_path(home.mlflow_uri)) is not None and not database.is_file():
            _make_database(home, database)
        mlflow.set_tracking_uri(home.mlflow_uri)
        mlflow.set_registry_uri(home.mlflow_uri)
        yield mlflow.MlflowClient()
    except CxrError:
        raise
    except (MlflowException, Boto3Error, BotoCoreError, ClientError, SQLAlchemyError, OSError) as error:
        raise StorageError(
            f"MLflow or its artifact store failed: {without_password(' '.join(str(error).split()))[:300]}",
            where=f"{without_password(home.mlflow_uri)}, artifacts in {home.mlflow_artifacts}",
            fix="check MLFLOW_TRACKING_URI, CXR_MLFLOW_ARTIFACTS and CXR_S3_ENDPOINT, start the server, then retry",
        ) from error


def _make_database(home: Home, path: Path) -> None:
    """Make MLflow's database aside: one whose making was cut off is refused by MLflow for ever."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    with tempfile.TemporaryDirectory(dir=made(path.parent), prefix=".new-") as aside:
        fresh = Path(aside) / path.name
        SqlAlchemyStore(sqlite_url(fresh), home.mlflow_artifacts).engine.dispose()
        with suppress(FileExistsError):  # somebody was faster
            os.link(fresh, path)


def made(folder: Path) -> Path:
    """The folder, which exists afterwards."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder
