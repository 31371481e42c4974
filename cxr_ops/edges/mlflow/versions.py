"""The registered versions of the model, and the packages in them."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cxr_ops.addresses import without_password
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.package import MLMODEL, POINTS, configured, patient_key
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.package import read as read_package
from cxr_ops.audit.signature import Signed
from cxr_ops.audit.state import directory_of
from cxr_ops.contract import CHAMPION, MODEL_NAME, PACKAGE, PACKAGE_FILES, REFERENCE
from cxr_ops.edges import signing
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Anchors, Ledger, open_ledger
from cxr_ops.edges.mlflow.client import connected, has_store, made
from cxr_ops.edges.mlflow.script import script
from cxr_ops.errors import DataError, RefusedError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import canonical_json, write_atomic
from cxr_ops.records.inputs import Champion, Reference

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel
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


@dataclass(frozen=True, kw_only=True)
class Registered:
    """A registered version of the model: its number, and the digest of its whole signed directory."""

    version: str
    directory: str


def register(
    home: Home,
    package: Path,
    run_id: str,
    tags: Mapping[str, str],
    claims: Mapping[str, Mapping[str, Any]],
    points: Mapping[str, float] | None = None,
) -> Registered:
    """Register a package as a signed version of the model, unless a version with these bytes is registered already.

    A version counts as registered only where it calls findings at the same operating points.

    The directory is made and signed here, before any of it is in the store: what is signed is what was written.

    Args:
        home: the installation.
        package: the folder with the package's four files.
        run_id: the MLflow run that the version belongs to.
        tags: further tags of a new version.
        claims: what is claimed of a new version; see `signing.sign`.
        points: finding -> probability from which it is called, chosen on the validation set; None: of a version that is
            there, whichever it has, and of a new one none.

    Raises:
        SettingsError: the signing key is of no use.
        StorageError: see `log_run`.
    """
    digest = package_digest(package)
    with connected(home) as client:
        registered = _usable_version(home, client, digest, points)
        if registered is not None:
            return registered
        import mlflow

        with tempfile.TemporaryDirectory() as aside:
            folder = Path(aside) / "model"
            model = _record(client, run_id)
            _save(folder, package, {PACKAGE: digest, POINTS: dict(points or {})}, model)
            signing.sign(home, folder, claims)
            client.log_model_artifacts(model.model_id, str(folder))
            client.finalize_logged_model(model.model_id, "READY")
        # The version comes after its files, with its tags: a crash leaves no version that is half there.
        mlflow.register_model(f"models:/{model.model_id}", MODEL_NAME, tags={"cxr.package": digest, **tags})
        registered = _usable_version(home, client, digest, points)
        if registered is None:
            raise StorageError(
                "MLflow does not hand back the package that was registered a moment ago",
                where=f"{MODEL_NAME} at {without_password(home.mlflow_uri)}",
                fix="check that the artifact store keeps what is written, then retry",
            )
        return registered


def _record(client: MlflowClient, run_id: str) -> LoggedModel:
    """Make MLflow's record of a model that a run has made, without files yet."""
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, name=MODEL_NAME, source_run_id=run_id)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return model


def _save(folder: Path, package: Path, config: dict[str, Any], model: LoggedModel) -> None:
    """Write the whole model directory: `MLmodel`, the script that serves, the package, and what both need."""
    import mlflow
    from mlflow.models import Model

    # MLflow keeps a folder with all that is in it, under the folder's own name.
    copy = made(folder.with_name("artifacts") / PACKAGE)
    for name in PACKAGE_FILES:
        shutil.copyfile(package / name, copy / name)
    serving = folder.with_name("serving.py")
    serving.write_text(script(), encoding="utf-8")
    mlflow.pyfunc.save_model(
        str(folder),
        mlflow_model=Model(
            artifact_path=model.artifact_location,
            run_id=model.source_run_id,
            model_uuid=model.model_id,
            model_id=model.model_id,
        ),
        python_model=str(serving),
        artifacts={PACKAGE: str(copy)},
        model_config=config,
        signature=_signature(),
        input_example=_input_example(),
        pip_requirements=[f"{name}=={installed(name)}" for name in _REQUIREMENTS],
    )
    for cache in folder.rglob("__pycache__"):
        shutil.rmtree(cache)


def tag_version(home: Home, version: str, tags: Mapping[str, str]) -> None:
    """Set tags of a registered version.

    Raises:
        StorageError: see `log_run`.
    """
    with connected(home) as client:
        for key, value in tags.items():
            client.set_model_version_tag(MODEL_NAME, version, key, value)


def fetch_package(home: Home, version: str, digest: str, dest: Path) -> None:
    """Bring the package of a registered version into the folder `dest`, which is replaced.

    Where the ledger names the version's whole directory, that is compared and its signature checked first; of an
    earlier version's the package alone is on record.

    Raises:
        RefusedError: the directory is not the one on record, or its signature is missing or wrong.
        StorageError: the version is gone, or its bytes are not those with this digest; `dest` is as it was.
    """
    directory = directory_of(open_ledger(home).entries(), version, digest)
    with connected(home) as client, tempfile.TemporaryDirectory(dir=made(dest.parent), prefix=".fetch-") as aside:
        whole = Path(aside) / "model"
        found = _download(client, version, whole)
        if found is None:
            raise lost(home, version, "is not in the registry, or its files are not in the artifact store")
        if _digest_or_none(found) != digest:
            raise lost(
                home, version, "does not hold the bytes that were registered: its digest is not the one on record"
            )
        if directory is not None:
            signing.check(home, whole, directory)
        fresh = Path(aside) / "checked"
        fresh.mkdir()
        for name in PACKAGE_FILES:
            shutil.move(found / name, fresh / name)
        shutil.rmtree(dest, ignore_errors=True)
        fresh.rename(dest)


def fetch_model(home: Home, version: str, dest: Path) -> Signed:
    """Bring the whole directory of a version that was decided on into a new folder, and check it before it is there.

    Args:
        home: the installation.
        version: the version's number.
        dest: the folder, which must not be there.

    Raises:
        DataError: the ledger knows of no decision on a directory of that version.
        RefusedError: the directory is not the one on record, or its signature is missing or wrong.
        StorageError: `dest` is there, or the version is lost.
    """
    entries = open_ledger(home).entries()
    decisions = [entry.decision for entry in entries if entry.kind == "decision"]
    decision = next((one for one in reversed(decisions) if one.model_version == version and one.directory), None)
    if decision is None:
        raise DataError(
            f"the ledger names no signed directory of {MODEL_NAME}/{version}",
            where=home.ledger_address,
            fix="cxr-ops models",
        )
    if dest.exists():
        raise StorageError("the folder is there, and is left as it is", where=dest, fix="name a new folder")
    with connected(home) as client, tempfile.TemporaryDirectory(dir=made(dest.parent), prefix=".fetch-") as aside:
        whole = Path(aside) / "model"
        if _download(client, version, whole) is None:
            raise lost(home, version, "is not in the registry, or its files are not in the artifact store")
        signed = signing.check(home, whole, decision.directory)
        whole.rename(dest)
    return signed


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
    refuse_unknown_promotions(home)
    entry = open_ledger(home).champion()
    shutil.rmtree(dest, ignore_errors=True)
    dest.mkdir(parents=True)
    if entry is None:
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
    """Refuse to go on from a ledger that was lost or cut: a version that was promoted carries the digest of its entry.

    Where anchors prove that the ledger is whole up to its last promotion, such a tag is somebody's doing, and says
    nothing.

    Raises:
        StorageError: a version carries a promotion that the ledger does not have; or the anchors contradict the ledger.
    """
    if not has_store(home):
        return
    with connected(home) as client:
        tagged = {
            str(one.version): one.tags["cxr.promotion"] for one in all_versions(client) if one.tags.get("cxr.promotion")
        }
    ledger = open_ledger(home)
    entries = ledger.entries()  # after the tags: they follow the entries, so none of them is newer than what is read
    promotions = {entry.digest(): entry.seq for entry in entries if entry.kind == "promotion"}
    unknown = [version for version, digest in tagged.items() if digest not in promotions]
    if unknown and not _proven(ledger, entries, max(promotions.values(), default=1)):
        raise StorageError(
            f"{MODEL_NAME}/{unknown[0]} was promoted, and the ledger does not know of "
            f"{'that' if promotions else 'any'} promotion",
            where=home.ledger_address,
            fix="restore the ledger from a backup, or set CXR_HOME to the installation that promoted it; if instead "
            "somebody changed the tag cxr.promotion in MLflow, remove it there",
        )


def _proven(ledger: Ledger, entries: list[Entry], upto: int) -> bool:
    """Whether anchors prove that nothing is missing from a ledger up to an entry."""
    kept = ledger.witness
    return isinstance(kept, Anchors) and kept.check(entries).upto >= upto


def trained_on(home: Home, patient: str) -> list[str]:
    """The numbers of the registered versions that were trained on a patient, by the lists in their packages.

    Args:
        home: the installation.
        patient: the patient's id, which is compared under the salt of each package.

    Raises:
        StorageError: see `log_run`; or a version's files are not in the artifact store, so that nobody can tell.
    """
    if not has_store(home):
        return []
    found: list[str] = []
    with connected(home) as client, tempfile.TemporaryDirectory() as aside:
        for version in all_versions(client):
            place = made(Path(aside) / str(version.version))
            folder = _download(client, str(version.version), place / "whole")
            if folder is None:
                raise lost(
                    home, str(version.version), "has no files in the artifact store: who was trained on is unknown"
                )
            package = read_package(folder, package_digest(folder))
            salt = str(package.contract["training"].get("patient_salt"))
            if patient_key(salt, patient) in package.patients:
                found.append(str(version.version))
            shutil.rmtree(place)
    return found


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import AnyType, Map

    said = [ColSpec(Map("boolean"), "flags"), ColSpec(AnyType(), "receipt")]
    return ModelSignature(
        inputs=Schema([ColSpec("binary", "image")]),
        outputs=Schema([*(ColSpec("double", finding) for finding in FINDINGS), *said]),
        params=ParamSchema([ParamSpec("maps", "boolean", default=False)]),
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


def all_versions(client: MlflowClient) -> list[ModelVersion]:
    """All versions, the first registered first."""
    found: list[ModelVersion] = []
    token: str | None = None
    while True:
        page = client.search_model_versions(f"name = '{MODEL_NAME}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return sorted(found, key=lambda version: int(version.version))


def _usable_version(
    home: Home, client: MlflowClient, digest: str, points: Mapping[str, float] | None
) -> Registered | None:
    """The first version that is tagged with a package's digest, holds its bytes, and is signed by a key of here.

    It must have these operating points too, where they are given.

    Two writers that register the same package at once make two versions and agree on the first.
    """
    for version in all_versions(client):
        if version.tags.get("cxr.package") == digest and version.status == "READY":
            with tempfile.TemporaryDirectory() as aside:
                whole = Path(aside) / "model"
                found = _download(client, version.version, whole)
                if found is None or _digest_or_none(found) != digest:
                    continue
                try:
                    signed = signing.check(home, whole)
                    if points is not None and configured((whole / MLMODEL).read_bytes(), whole).get(POINTS) != points:
                        continue
                except (DataError, RefusedError):  # of an earlier version, or altered: it is registered anew
                    continue
                return Registered(version=str(version.version), directory=signed.directory)
    return None


def _download(client: MlflowClient, version: str, dest: Path) -> Path | None:
    """Bring a version's whole directory into a folder that is not there, as the artifact store has it.

    Returns:
        The package in it; None where the version, or a file of the package, does not exist.
    """
    from mlflow.artifacts import download_artifacts, list_artifacts
    from mlflow.exceptions import MlflowException

    try:
        uri = client.get_model_version_download_uri(MODEL_NAME, version)
        listed = {Path(file.path).name for file in list_artifacts(f"{uri}/artifacts/{PACKAGE}")}
        if not listed.issuperset(PACKAGE_FILES):
            return None
        here = Path(download_artifacts(uri, dst_path=str(made(dest.parent / "download"))))
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    here.rename(dest)
    return dest / "artifacts" / PACKAGE


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
