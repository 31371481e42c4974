"""Repeat a run from its commit and its data, and compare what comes out with what is on record.

Nothing that the run made is used: the stages run in a clone of the run commit, with an empty cache of DVC and without
its run cache, or a file would be compared with itself. Data and the packages of champion and reference come from the
store and the registry, by their digests. Nothing is written to the ledger, the registry or the run; it is no look,
because the same model on the same test set was looked at before.

On the CPU every byte must be the same. A training on a GPU does not give the same bytes: its model is compared by its
AUC on the validation set, and the recorded model is scored again; scores and figures may then differ by `SCORES`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Final, Literal

from cxr_ops import contract
from cxr_ops.addresses import sqlite_url
from cxr_ops.audit import locked
from cxr_ops.audit.differences import differences, some
from cxr_ops.edges import dvc
from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow import versions
from cxr_ops.edges.store import runs
from cxr_ops.edges.store.outs import Outs
from cxr_ops.edges.supervisor import supervise
from cxr_ops.errors import CxrError, DataError, StorageError
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.run import OPENED, Opened
from cxr_ops.records.training import Start, Trained

SCORES: Final = 1e-3  # by which probabilities and figures may differ on a GPU, which rounds in another order each time
TRAINING: Final = 0.01  # by which the validation AUC of two trainings on a GPU may differ
TRAIN: Final = "train"
_TRAINED: Final = "train/train.json"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MOST: Final = 5

Outcome = Literal["identical", "within tolerance", "differs", "not compared"]


@dataclass(frozen=True, kw_only=True)
class Compared:
    """What came of one file: its path, and where it differs, if it does."""

    path: str
    outcome: Outcome
    where: str = ""


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """What came of a replay.

    Attributes:
        run: that was repeated; commit: its commit.
        files: every file that the stages made, then and now.
        notes: in what this machine is not as the run's was, as far as that is known.
        ended: why the replay stopped before its last stage; None where it did not.
    """

    run: str
    commit: str
    files: tuple[Compared, ...]
    notes: tuple[str, ...]
    ended: str | None = None

    @property
    def same(self) -> bool:
        """Whether all came out as it is on record."""
        return self.ended is None and all(one.outcome != "differs" for one in self.files)


def run(home: Home, run: str, commit: str, *, keep: Path | None = None) -> Replayed:
    """Repeat a run.

    Args:
        home: the installation.
        run: the run's name.
        commit: the run commit.
        keep: a new folder that what is made stays in; without one it is made in `CXR_HOME` and removed.

    Raises:
        StorageError: the folder is in use, the store does not hold the commit, or the remote does not answer.
        DataError: data or a package are lost, or are not what is on record.
    """
    inputs = _inputs(home, commit)
    with _place(home, keep) as place:
        aside = replace(
            home,
            root=place,
            mlflow_uri=sqlite_url(place / "mlflow" / "mlflow.db"),
            mlflow_artifacts=str(place / "mlflow" / "artifacts"),
            ledger_at=str(place / "ledger"),
            anchor_address=None,
        )
        workspace = _clone(home, aside, run, commit)
        recorded = dvc.read_lock(workspace)
        _forget(workspace)
        runs.pull(aside, workspace, inputs.data)
        _fetch_models(home, workspace, inputs)
        _opened(run, inputs).write(aside.run(run) / OPENED)
        then = Outs(home, commit)
        trained = _trained(then)
        gpu = trained is not None and trained.device != "cpu"
        files: list[Compared] = []
        ended = None
        for stage in recorded:
            try:
                supervise(aside, run, stage)
            except CxrError as error:
                ended = f"{stage} failed: {error.what}"
                break
            made = list(_compare_stage(then, workspace, stage, gpu=gpu))
            if stage == TRAIN and gpu and trained is not None:
                made = _compare_training(then, workspace, trained, made)
            files += made
            if stage == TRAIN and any(one.outcome == "differs" for one in made):
                ended = "the training gave another model, so that what follows would be about another one"
                break
        return Replayed(
            run=run, commit=commit, files=tuple(files), notes=tuple(_notes(workspace, inputs, trained)), ended=ended
        )


@contextmanager
def _place(home: Home, keep: Path | None) -> Iterator[Path]:
    """A new folder for the replay, which its owner alone can read: it holds what a plan may withhold."""
    if keep is not None:
        try:
            keep.mkdir(mode=0o700, parents=True, exist_ok=True)
            used = any(keep.iterdir())
        except OSError as error:
            raise StorageError(f"the folder cannot be made: {error.strerror}", where=keep) from error
        if used:
            raise StorageError("the folder is not empty, and is left as it is", where=keep, fix="name a new folder")
        yield keep.resolve()
        return
    with tempfile.TemporaryDirectory(dir=home.root, prefix=".replay-") as folder:
        yield Path(folder).resolve()


def _inputs(home: Home, commit: str) -> Inputs:
    data = runs.run_file(home, commit, contract.INPUTS)
    if data is None:
        raise StorageError(
            f"the store does not hold the run commit {commit[:12]}",
            where=home.store,
            fix="restore the store from a backup: cxr-ops restore FROM",
        )
    return Inputs.model_validate_json(data)


def _clone(home: Home, aside: Home, run: str, commit: str) -> Path:
    """A clone of the run commit, on a branch of the run's name as `open` makes it."""
    workspace = aside.workspace(run)
    workspace.mkdir(parents=True)
    git(home, workspace, "init", "--quiet", f"--initial-branch=runs/{run}")
    git(home, workspace, "remote", "add", "origin", str(home.store))
    git(home, workspace, "fetch", "--quiet", "--update-shallow", "origin", f"refs/cxr/runs/{commit}")
    git(home, workspace, "reset", "--quiet", "--hard", commit)
    return workspace


def _forget(workspace: Path) -> None:
    """Remove what the run's stages left in its commit: `dvc.lock`, and outputs that git keeps."""
    for stage in dvc.read_pipeline(workspace).values():
        for out in stage.outs:
            path = workspace / out
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    (workspace / dvc.LOCK).unlink()


def _fetch_models(home: Home, workspace: Path, inputs: Inputs) -> None:
    """Bring the packages that the run was given into the places where `open` puts them."""
    champion, reference = inputs.champion, inputs.reference
    if champion.package is not None and champion.version is not None:
        target = workspace / contract.CHAMPION / contract.PACKAGE
        versions.fetch_package(home, champion.version, champion.package, target)
        start = workspace / contract.START / f"{contract.START}.json"
        if start.is_file() and Start.read(start).package is not None:
            shutil.copytree(target, start.parent / contract.PACKAGE)
    if reference is not None and reference.package != champion.package:
        target = workspace / contract.REFERENCE / contract.PACKAGE
        versions.fetch_package(home, reference.version, reference.package, target)


def _opened(run: str, inputs: Inputs) -> Opened:
    """What the supervisor looks for beside a workspace."""
    return Opened(
        run=run,
        opened_at="",
        no_change=False,
        code=inputs.code,
        data=inputs.data,
        champion=inputs.champion,
        recipe="",
        recipe_parts={},
    )


def _trained(then: Outs) -> Trained | None:
    data = then.read(_TRAINED)
    try:
        return Trained.model_validate_json(data) if data is not None else None
    except ValueError as error:
        raise DataError(f"{_TRAINED} of the run is damaged", where=_TRAINED) from error


# -------------------------------------------------------------------------------------------------- comparing


def _compare_stage(then: Outs, workspace: Path, stage: str, *, gpu: bool) -> Iterator[Compared]:
    """Every file that a stage made, then and now."""
    for out in dvc.read_lock(workspace)[stage].get("outs", ()):
        path = str(out["path"])
        now = {name: (workspace / name).read_bytes() for name in _files(workspace, path)}
        before = then.digests(path)
        for name in sorted(now.keys() | before.keys()):
            if name not in now or name not in before:
                made = "now" if name in now else "then"
                yield Compared(path=name, outcome="differs", where=f"made only {made}")
            elif hashlib.md5(now[name], usedforsecurity=False).hexdigest() == before[name]:
                yield Compared(path=name, outcome="identical")
            else:
                yield _differs(name, then.read(name), now[name], gpu=gpu)


def _files(workspace: Path, path: str) -> list[str]:
    here = workspace / path
    found = [here] if here.is_file() else sorted(one for one in here.rglob("*") if one.is_file())
    return [one.relative_to(workspace).as_posix() for one in found]


def _differs(name: str, before: bytes | None, now: bytes, *, gpu: bool) -> Compared:
    """Where a file differs, as far as it is numbers, and whether that is within what a GPU may do."""
    if before is None:
        return Compared(path=name, outcome="differs", where="the recorded file is lost")
    parsers: dict[str, Callable[[bytes], Any]] = {".json": json.loads, ".csv": _table}
    parse = parsers.get(Path(name).suffix)
    if parse is None:
        return Compared(path=name, outcome="not compared" if gpu else "differs")
    try:
        said, found = parse(before), parse(now)
    except ValueError:
        return Compared(path=name, outcome="differs", where="it cannot be read")
    if gpu:
        said, found = (_without_digests(one) for one in (said, found))
    wrong, largest = differences(said, found, tolerance=SCORES if gpu else 0.0)
    if gpu and not wrong:
        return Compared(path=name, outcome="within tolerance", where=f"at most {largest:.1e}")
    return Compared(path=name, outcome="differs", where=some(wrong))


def _table(data: bytes) -> list[dict[str, Any]]:
    """A CSV file as a row each, with numbers where there are some."""
    return [
        {key: _value(text) for key, text in row.items()}
        for row in csv.DictReader(io.StringIO(data.decode(), newline=""))
    ]


def _value(text: str | None) -> Any:
    try:
        return float(text or "")
    except ValueError:
        return text


def _without_digests(value: Any) -> Any:
    """A document in which digests of other files, which follow from their last bits, count as equal."""
    if isinstance(value, dict):
        return {key: _without_digests(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_digests(one) for one in value]
    return "" if isinstance(value, str) and _DIGEST.fullmatch(value) else value


def _compare_training(then: Outs, workspace: Path, recorded: Trained, made: list[Compared]) -> list[Compared]:
    """A training on a GPU is compared by its AUC on the validation set; then the recorded model takes its place."""
    if all(one.outcome == "identical" for one in made):
        return made
    now = Trained.read(workspace / _TRAINED)
    where = f"validation AUC {now.validation_auc:.4f}, and {recorded.validation_auc:.4f} on record"
    files = {name: then.read(name) for name in then.digests(TRAIN)}
    if lost := sorted(name for name, data in files.items() if data is None):
        raise DataError(f"{lost[0]} of the run is lost, so that its model cannot be scored again", where=lost[0])
    shutil.rmtree(workspace / TRAIN)
    for name, data in files.items():
        (workspace / name).parent.mkdir(parents=True, exist_ok=True)
        (workspace / name).write_bytes(data or b"")
    return [Compared(path=TRAIN, outcome=alike(now, recorded), where=where)]


def alike(now: Trained, recorded: Trained) -> Literal["within tolerance", "differs"]:
    """Whether two trainings on a GPU are as alike as they can be expected to be."""
    return "within tolerance" if abs(now.validation_auc - recorded.validation_auc) <= TRAINING else "differs"


def _notes(workspace: Path, inputs: Inputs, trained: Trained | None) -> Iterator[str]:
    """In what this machine is not as the run's was."""
    if inputs.image is not None:
        yield f"the run was made in the image {inputs.image}, and the replay in this environment"
    lock = workspace / "requirements" / "image.lock"
    pinned = locked.pinned(lock.read_bytes()) if lock.is_file() else []
    others = [
        f"{name} {here} and not {version}" for name, version in pinned if (here := _here(name)) not in (None, version)
    ]
    if others:
        more = f" and {len(others) - _MOST} more" if len(others) > _MOST else ""
        yield f"packages here are not those of the lock file: {', '.join(others[:_MOST])}{more}"
    if trained is not None and trained.device != "cpu":
        yield f"the run was trained on {trained.device}: figures may differ by {SCORES}, validation AUCs by {TRAINING}"


def _here(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
