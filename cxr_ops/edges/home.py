"""Where everything of one installation stands: `$CXR_HOME`, and the addresses that the environment gives.

    $CXR_HOME/
      store.git/         bare repository: data revisions, code snapshots, run commits
      dvc-remote/        the DVC remote, unless CXR_DVC_REMOTE names another
      dvc-cache/         DVC's cache and run cache, shared by all workspaces
      dvc-config/        DVC's settings for this installation (DVC_GLOBAL_CONFIG_DIR)
      runs/<run>/        one folder a run: workspace/ (a full clone), run.json, progress.jsonl, live.json
      checkpoints/       under the digest of the stage's inputs
      index.sqlite       which batch holds which image; may be removed at any time
      pictures/<batch>/  what a batch looks like, and near copies in it; mode 0700
      fingerprints/      of batches of an earlier version, under the digest of the batch; may be removed at any time
      packed/            rows that `prepare` packed, under the digest of settings and code; may be removed at any time
      locks/             OS locks and what each supervisor runs
      checked/           entries of the ledger that were checked already; may be removed at any time
      keys/              the key that signs models where nobody named one; mode 0700
      ledger/            the hash-chained record of looks, decisions, approvals, promotions, test periods and plans
      mlflow/            mlflow.db and artifacts/, unless MLFLOW_TRACKING_URI names a server
      airflow/           the embedded Airflow's home
      reports/<run>.html published reports
      restricted/<run>.html full reports that a plan withholds while a test period is open; mode 0700
      quarantine/<batch> what ingestion refused, with reasons
      unfinished/<batch>.json an ingestion that goes on, or was killed

The environment says where an installation is and which stores it uses: see `cxr_ops.settings`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cxr_ops import addresses, contract
from cxr_ops.errors import RefusedError, SettingsError, StorageError
from cxr_ops.settings import Settings

RESTORING: Final = ".restoring"  # in CXR_HOME while a backup is put into its place


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
    ledger_at: str | None = None
    anchor_address: str | None = None
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def find(
        cls, environ: Mapping[str, str] | None = None, start: Path | None = None, *, restoring: bool = False
    ) -> Home:
        """Read the environment; the project is `CXR_PROJECT` or the nearest folder above `start` with a `dvc.yaml`.

        Raises:
            SettingsError: no project is found, or a setting is of no use: an address that nobody here understands, a
                store in the midst of the project's code.
            StorageError: `CXR_HOME` cannot be written, or a restoration into it was cut off. That is no error where it
                is to be restored (`restoring`).
        """
        settings = Settings.read(environ)
        project = settings.project or _project_above(start or Path.cwd())
        root = settings.home or (project / ".cxr").resolve()
        _check_places(root, project)
        _make_root(root)
        if not restoring and (root / RESTORING).exists():
            raise StorageError(
                "a restoration into CXR_HOME was cut off, and what is there is not a whole installation",
                where=root / RESTORING,
                fix="restore it again: cxr-ops restore FROM",
            )
        return cls(
            root=root,
            project=project,
            dvc_remote=_store(settings.dvc_remote, "CXR_DVC_REMOTE", root / "dvc-remote", root, project),
            mlflow_uri=_tracking(settings.mlflow_uri, root, project),
            mlflow_artifacts=_artifacts(settings.mlflow_artifacts, root, project),
            s3_endpoint=settings.s3_endpoint,
            image=settings.image,
            ledger_at=_store(settings.ledger, "CXR_LEDGER", root / "ledger", root, project),
            anchor_address=_anchor(settings.anchor, root, project),
            settings=settings,
        )

    @property
    def remote_folder(self) -> Path | None:
        """The folder of the DVC remote, None where it is a bucket."""
        return None if self.dvc_remote.startswith("s3://") else Path(self.dvc_remote)

    @property
    def object_folders(self) -> tuple[Path, ...]:
        """The folders that hold DVC's objects: its cache, and the remote where that is a folder."""
        return (self.dvc_cache, *([self.remote_folder] if self.remote_folder else []))

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
            "CXR_LEDGER": self.ledger_address,
            "CXR_ANCHOR": self.anchor_address,
            "CXR_SIGNING_KEY": str(self.settings.signing_key),
            "CXR_TRUSTED_KEYS": ",".join(map(str, self.settings.trusted_keys)),
            "CXR_INCOMING": self.settings.incoming,
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
    def dvc_notes(self) -> Path:
        """What DVC notes of the folders in which it worked; it makes them again."""
        return self.root / "dvc-site"

    @property
    def dvc_config(self) -> Path:
        """The folder that DVC_GLOBAL_CONFIG_DIR names."""
        return self.root / "dvc-config"

    @property
    def checkpoints(self) -> Path:
        """Checkpoints, a folder a stage-input digest."""
        return self.root / "checkpoints"

    @property
    def packed(self) -> Path:
        """Rows that `prepare` packed."""
        return self.root / "packed"

    @property
    def index(self) -> Path:
        """The index of the images of all batches."""
        return self.root / "index.sqlite"

    @property
    def pictures(self) -> Path:
        """What batches look like: a folder a batch."""
        return self.root / "pictures"

    @property
    def fingerprints(self) -> Path:
        """Fingerprints of pictures of batches that an earlier version made."""
        return self.root / "fingerprints"

    @property
    def locks(self) -> Path:
        """OS locks."""
        return self.root / "locks"

    @property
    def ledger(self) -> Path:
        """The folder of the ledger; where it is in a bucket, the folder that it would have here."""
        return Path(self.ledger_at) if self.ledger_at and not self.ledger_in_bucket else self.root / "ledger"

    @property
    def ledger_in_bucket(self) -> bool:
        """Whether the ledger's entries are in a bucket."""
        return (self.ledger_at or "").startswith("s3://")

    @property
    def ledger_address(self) -> str:
        """Where the ledger's entries are: a folder, or a place in a bucket."""
        return self.ledger_at or str(self.ledger)

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

    def workspace_lock(self, name: str) -> Path:
        """The lock that whoever works in a run's workspace holds."""
        return self.locks / f"workspace-{hashlib.sha256(str(self.workspace(name)).encode()).hexdigest()[:16]}.lock"

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


def _anchor(text: str | None, root: Path, project: Path) -> str | None:
    """The address of the ledger's anchors: never where who can write the ledger can write them by the same right."""
    if text is None:
        return None
    found = _store(text, "CXR_ANCHOR", root, root, project)
    if not found.startswith("s3://") and Path(found).is_relative_to(root):
        raise SettingsError(
            "CXR_ANCHOR is in CXR_HOME, where whoever alters the ledger alters the anchors too",
            where=found,
            fix="CXR_ANCHOR=s3://bucket/path of another owner, or a folder outside CXR_HOME",
        )
    return found


def _artifacts(text: str | None, root: Path, project: Path) -> str:
    """The address of MLflow's artifacts, as MLflow takes it."""
    found = _store(text, "CXR_MLFLOW_ARTIFACTS", root / "mlflow" / "artifacts", root, project)
    return found if found.startswith("s3://") else addresses.folder_address(Path(found))


def _tracking(text: str | None, root: Path, project: Path) -> str:
    if text is None:
        return addresses.sqlite_url(root / "mlflow" / "mlflow.db")
    return addresses.tracking(text, "MLFLOW_TRACKING_URI", project)
