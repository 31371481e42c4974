"""Where everything of one installation stands: `$CXR_HOME`, and the addresses that the environment gives.

    $CXR_HOME/
      store.git/         bare repository: data revisions, code snapshots, run commits
      dvc-remote/        the DVC remote, unless CXR_DVC_REMOTE names another
      dvc-cache/         DVC's cache and run cache, shared by all workspaces
      dvc-config/        DVC's settings for this installation (DVC_GLOBAL_CONFIG_DIR)
      runs/<run>/        one folder a run: workspace/ (a full clone), run.json, progress.jsonl, live.json
      checkpoints/       under the digest of the stage's inputs
      locks/             OS locks and what each supervisor runs
      ledger/            the hash-chained record of looks, decisions, approvals, promotions, test periods and plans
      mlflow/            mlflow.db and artifacts/, unless MLFLOW_TRACKING_URI names a server
      airflow/           the embedded Airflow's home
      reports/<run>.html published reports
      restricted/<run>.html full reports that a plan withholds while a test period is open; mode 0700
      quarantine/<batch> what ingestion refused, with reasons

The environment says where an installation is and which stores it uses: see `cxr_ops.settings`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxr_ops import addresses, contract
from cxr_ops.errors import RefusedError, SettingsError, StorageError
from cxr_ops.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Home:
    """The folders and addresses of one installation; see the module's docstring."""

    root: Path
    project: Path
    dvc_remote: str
    mlflow_uri: str
    mlflow_artifacts: str
    s3_endpoint: str | None = None
    image: str | None = None
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def find(cls, environ: Mapping[str, str] | None = None, start: Path | None = None) -> Home:
        """Read the environment; the project is `CXR_PROJECT` or the nearest folder above `start` with a `dvc.yaml`.

        Raises:
            SettingsError: no project is found, or a setting is of no use: an address that nobody here understands, a
                store in the midst of the project's code.
            StorageError: `CXR_HOME` cannot be written.
        """
        settings = Settings.read(environ)
        project = settings.project or _project_above(start or Path.cwd())
        root = settings.home or (project / ".cxr").resolve()
        _check_places(root, project)
        _make_root(root)
        return cls(
            root=root,
            project=project,
            dvc_remote=_store(settings.dvc_remote, "CXR_DVC_REMOTE", root / "dvc-remote", root, project),
            mlflow_uri=_tracking(settings.mlflow_uri, root, project),
            mlflow_artifacts=_artifacts(settings.mlflow_artifacts, root, project),
            s3_endpoint=settings.s3_endpoint,
            image=settings.image,
            settings=settings,
        )

    @property
    def remote_folder(self) -> Path | None:
        """The folder of the DVC remote, None where it is a bucket."""
        return None if self.dvc_remote.startswith("s3://") else Path(self.dvc_remote)

    @property
    def servers(self) -> tuple[str, ...]:
        """The addresses of the HTTP servers that are configured."""
        named = (self.s3_endpoint, self.mlflow_uri, self.settings.airflow_url)
        return tuple(url for url in named if url and url.startswith("http"))

    def environment(self) -> dict[str, str]:
        """The settings that name places, as what a process started elsewhere must find in its environment."""
        given = {
            "CXR_DVC_REMOTE": self.dvc_remote,
            "CXR_MLFLOW_ARTIFACTS": self.mlflow_artifacts,
            "MLFLOW_TRACKING_URI": self.mlflow_uri,
            "CXR_S3_ENDPOINT": self.s3_endpoint,
        }
        kept = {name: value for name, value in given.items() if name in self.settings.given and value}
        return {"CXR_HOME": str(self.root), "CXR_PROJECT": str(self.project), **kept}

    @property
    def store(self) -> Path:
        """The bare repository."""
        return self.root / "store.git"

    @property
    def dvc_cache(self) -> Path:
        """DVC's shared cache."""
        return self.root / "dvc-cache"

    @property
    def dvc_config(self) -> Path:
        """The folder that DVC_GLOBAL_CONFIG_DIR names."""
        return self.root / "dvc-config"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, a folder a stage-input digest."""
        return self.root / "checkpoints"

    @property
    def locks(self) -> Path:
        """OS locks."""
        return self.root / "locks"

    @property
    def ledger(self) -> Path:
        """The local ledger."""
        return self.root / "ledger"

    @property
    def airflow(self) -> Path:
        """AIRFLOW_HOME of the embedded Airflow."""
        return self.root / "airflow"

    @property
    def reports(self) -> Path:
        """Published reports."""
        return self.root / "reports"

    @property
    def restricted(self) -> Path:
        """Full reports of runs whose published ones withhold what the test set shows: for auditors and approvers."""
        return self.root / "restricted"

    @property
    def quarantine(self) -> Path:
        """What ingestion refused."""
        return self.root / "quarantine"

    def run(self, name: str) -> Path:
        """The folder of a run; `name` is `contract.slug(run_id)`.

        Every command that is given a run's name comes through here, so that no name leads out of `runs/`.

        Raises:
            SettingsError: the name is no run's name.
            RefusedError: the run's folder or its workspace is a link.
        """
        if not contract.is_run_name(name):
            raise SettingsError(
                f"{name!r} cannot name a run: a name has small letters, digits and single hyphens",
                where="--run",
                fix=f"for example --run {contract.slug(name)}",
            )
        folder = self.root / "runs" / name
        for path in (folder, folder / "workspace"):
            if path.is_symlink():
                raise RefusedError(
                    "a link stands where a run's folder belongs; what it points to is left alone",
                    where=path,
                    fix="remove the link, or choose another name for the run",
                )
        return folder

    def workspace(self, name: str) -> Path:
        """The clone that a run works in."""
        return self.run(name) / "workspace"

    def progress(self, name: str) -> Path:
        """Where a run's stages report how far they are, a JSON object a line."""
        return self.run(name) / "progress.jsonl"


def _project_above(start: Path) -> Path:
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "dvc.yaml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise SettingsError(
        "no cxr-ops project is here",
        where=start,
        fix="cd into the folder that holds dvc.yaml, or set CXR_PROJECT to it",
    )


def _check_places(root: Path, project: Path) -> None:
    if os.pathsep in str(project):
        raise SettingsError(
            f"the project's path holds {os.pathsep!r}, which ends a folder's name in PATH and PYTHONPATH",
            where=project,
            fix="rename the folder",
        )
    if root == project:
        raise SettingsError(
            "CXR_HOME is the project itself, whose code would drown in what runs leave",
            where=root,
            fix="leave it out: it is then .cxr in the project",
        )


def _make_root(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
        usable = os.access(root, os.W_OK | os.X_OK)
    except OSError as error:
        raise StorageError(
            f"CXR_HOME cannot be made: {error.strerror}", where=root, fix="set CXR_HOME to a folder of yours"
        ) from error
    if not usable:
        raise StorageError("CXR_HOME cannot be written", where=root, fix="set CXR_HOME to a folder of yours")


def _store(text: str | None, name: str, default: Path, root: Path, project: Path) -> str:
    """The address of a store: a folder, absolute, or a bucket's."""
    if text is None:
        return str(default)
    found = addresses.store(text, name, project)
    if isinstance(found, Path) and found.is_relative_to(project) and not (found != root and found.is_relative_to(root)):
        raise SettingsError(
            f"{name} is a folder in the project, and would enter the snapshots of its code",
            where=found,
            fix=f"{name}=s3://bucket/path, or a folder outside {project}",
        )
    return str(found)


def _artifacts(text: str | None, root: Path, project: Path) -> str:
    """The address of MLflow's artifacts, as MLflow takes it."""
    found = _store(text, "CXR_MLFLOW_ARTIFACTS", root / "mlflow" / "artifacts", root, project)
    return found if found.startswith("s3://") else addresses.folder_address(Path(found))


def _tracking(text: str | None, root: Path, project: Path) -> str:
    if text is None:
        return addresses.sqlite_url(root / "mlflow" / "mlflow.db")
    return addresses.tracking(text, "MLFLOW_TRACKING_URI", project)
