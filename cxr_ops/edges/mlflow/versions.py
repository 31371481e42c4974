"""The registered versions of the model, and the packages in them."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.addresses import without_password
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.contract import CHAMPION, MODEL_NAME, PACKAGE, PACKAGE_FILES, REFERENCE
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow.client import connected, has_store, made
from cxr_ops.edges.mlflow.script import script
from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import canonical_json, write_atomic
from cxr_ops.records.inputs import Champion, Reference

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

# What the served model imports.
_REQUIREMENTS: Final = (
    "mlflow",
    "numpy",
    "opencv-python-headless",
    "pandas",
    "pydicom",
    "python-gdcm",
    "safetensors",
    "torch",
    "torchvision",
)


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
    digest = package_digest(package)
    with connected(home) as client:
        version = _usable_version(client, digest)
        if version is not None:
            return version
        import mlflow

        with tempfile.TemporaryDirectory() as aside, mlflow.start_run(run_id=run_id):
            # MLflow keeps a folder with all that is in it, under the folder's own name.
            copy = made(Path(aside) / PACKAGE)
            for name in PACKAGE_FILES:
                shutil.copyfile(package / name, copy / name)
            serving = Path(aside) / "serving.py"
            serving.write_text(script(), encoding="utf-8")
            mlflow.pyfunc.log_model(
                name=MODEL_NAME,
                python_model=str(serving),
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
                where=f"{MODEL_NAME} at {without_password(home.mlflow_uri)}",
                fix="check that the artifact store keeps what is written, then retry",
            )
        return version


def fetch_package(home: Home, version: str, digest: str, dest: Path) -> None:
    """Bring the package of a registered version into the folder `dest`, which is replaced.

    Raises:
        StorageError: the version is gone, or its bytes are not those with this digest; `dest` is as it was.
    """
    with connected(home), tempfile.TemporaryDirectory(dir=made(dest.parent), prefix=".fetch-") as aside:
        found = _download(version, Path(aside))
        if found is None:
            raise lost(home, version, "is not in the registry, or its files are not in the artifact store")
        if _digest_or_none(found) != digest:
            raise lost(
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
            does not: a champion that cannot be read is not the same as none.
    """
    entry = open_ledger(home).champion()
    shutil.rmtree(dest, ignore_errors=True)
    dest.mkdir(parents=True)
    if entry is None:
        refuse_unknown_promotions(home)
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


def refuse_unknown_promotions(home: Home) -> None:
    """Refuse to take a lost ledger for a new one: a version that was promoted by it carries the entry's digest."""
    if not has_store(home):
        return
    with connected(home) as client:
        for version in _versions(client):
            if version.tags.get("cxr.promotion"):
                raise StorageError(
                    f"{MODEL_NAME}/{version.version} was promoted, and the ledger does not know of any promotion",
                    where=home.ledger,
                    fix="restore the ledger folder from a backup, or set CXR_HOME to the installation that promoted it",
                )


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


def find_version(client: MlflowClient, version: str) -> ModelVersion | None:
    """A registered version by its number, None where there is none."""
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
                if found is not None and _digest_or_none(found) == digest:
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


def _digest_or_none(folder: Path) -> str | None:
    """Digest of a package, None where it is not whole."""
    try:
        return package_digest(folder)
    except DataError:
        return None


def lost(home: Home, version: str, why: str) -> StorageError:
    """The error for a version that the ledger names and MLflow does not hand out."""
    return StorageError(
        f"{MODEL_NAME}/{version} {why}",
        where=without_password(home.mlflow_uri),
        fix="restore MLflow's database and artifacts from a backup; the ledger says which bytes belong to the version",
    )
