"""Where everything of one installation stands: `$CXR_HOME`, and the addresses that the environment gives.

    $CXR_HOME/
      store.git/         bare repository: data revisions, code snapshots, run commits
      dvc-remote/        the DVC remote, unless CXR_DVC_REMOTE names another
      dvc-cache/         DVC's cache and run cache, shared by all workspaces
      dvc-config/        DVC's settings for this installation (DVC_GLOBAL_CONFIG_DIR)
      runs/<run>/        one folder a run: workspace/ (a full clone), run.json, progress.jsonl, live.json
      checkpoints/       under the digest of the stage's inputs
      locks/             OS locks and what each supervisor runs
      ledger/            the hash-chained record of looks, decisions, approvals, promotions and test epochs
      mlflow/            mlflow.db and artifacts/, unless MLFLOW_TRACKING_URI names a server
      airflow/           the embedded Airflow's home
      reports/<run>.html published reports
      restricted/<run>.html full reports that a plan withholds while a test epoch is open; mode 0700
      quarantine/<batch> what ingestion refused, with reasons

Environment: CXR_HOME, CXR_PROJECT, CXR_DVC_REMOTE (a folder or s3://...), CXR_S3_ENDPOINT, CXR_MLFLOW_ARTIFACTS (a
folder or s3://...), MLFLOW_TRACKING_URI, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, CXR_LAUNCHER, CXR_IMAGE.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cxr_ops import contract
from cxr_ops.errors import RefusedError, SettingsError, StorageError


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

    @classmethod
    def find(cls, environ: Mapping[str, str] | None = None, start: Path | None = None) -> Home:
        """Read the environment; the project is `CXR_PROJECT` or the nearest folder above `start` with a `dvc.yaml`.

        Raises:
            SettingsError: no project is found.
            StorageError: `CXR_HOME` cannot be written.
        """
        env = os.environ if environ is None else environ
        project = Path(env["CXR_PROJECT"]).resolve() if env.get("CXR_PROJECT") else _project_above(start or Path.cwd())
        root = Path(env.get("CXR_HOME") or project / ".cxr").resolve()
        try:
            root.mkdir(parents=True, exist_ok=True)
            usable = os.access(root, os.W_OK | os.X_OK)
        except OSError as error:
            raise StorageError(
                f"CXR_HOME cannot be made: {error.strerror}", where=root, fix="set CXR_HOME to a folder of yours"
            ) from error
        if not usable:
            raise StorageError("CXR_HOME cannot be written", where=root, fix="set CXR_HOME to a folder of yours")
        return cls(
            root=root,
            project=project,
            dvc_remote=env.get("CXR_DVC_REMOTE") or str(root / "dvc-remote"),
            mlflow_uri=env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow' / 'mlflow.db'}",
            mlflow_artifacts=env.get("CXR_MLFLOW_ARTIFACTS") or str(root / "mlflow" / "artifacts"),
            s3_endpoint=env.get("CXR_S3_ENDPOINT") or None,
            image=env.get("CXR_IMAGE") or None,
        )

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
            RefusedError: a link stands in the place of the run's folder or of its workspace.
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
