"""The store: a bare git repository for what is small, and the DVC remote for what is large.

    refs/heads/data              the data set: dataset/<batch>.dvc, one commit an ingestion
    refs/heads/runs/<run>        a run's latest commit: code, params, pointers, inputs.json, dvc.lock, small results
    refs/cxr/runs/<commit>       every run commit that was ever published
    refs/cxr/code/<commit>       commits of the project that a run used
    refs/cxr/snapshots/<commit>  uncommitted code that a run used
    refs/cxr/recipes/<digest>    what a recipe's digest was taken of (a blob)

A pointer holds DVC's digest of the batch's folder and, in `meta.sha256`, the SHA-256 of its `batch.json`, which in turn
holds that of every file: what is pulled is checked against it. A batch belongs to the data set from the moment that
`refs/heads/data` moves, and not before. The project's own repository is only ever read.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from cxr_ops import contract
from cxr_ops.edges import dvc
from cxr_ops.edges.git import GitError, git, git_bytes
from cxr_ops.edges.home import Home
from cxr_ops.errors import DataError, RefusedError, SettingsError, StorageError
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.data import Batch, DataRevision
from cxr_ops.records.inputs import Code

DATA_REF: Final = "refs/heads/data"
RECIPE: Final = "recipe.json"
BATCH: Final = "batch.json"
# What `open` and the stages write into a checkout. It is no code: it is left out of snapshots and of a run's start.
RUN_STATE: Final = (
    contract.DATASET,
    dvc.LOCK,
    contract.INPUTS,
    contract.IMAGE,
    contract.EPOCH,
    RECIPE,
    contract.CHAMPION,
    contract.REFERENCE,
    contract.START,
    *contract.DETERMINISTIC,
)
MAX_UNTRACKED: Final = 10_000_000  # bytes of one new file that a snapshot takes; code is smaller
_BATCH_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NOBODY = "0" * 40  # for `git update-ref`: the ref must not exist yet
_EPOCH = "946684800 +0000"  # the date of a snapshot that has no commit to take one from: 2000-01-01


def ensure_store(home: Home) -> Path:
    """Return the bare repository, which is made when there is none.

    It is made aside and moved into its place: two commands may both be the first, and git reads the settings that
    another git is still writing.
    """
    if not (home.store / "HEAD").is_file():
        try:
            home.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=home.root, prefix=".store-") as aside:
                fresh = Path(aside) / home.store.name
                git(home, home.root, "init", "--quiet", "--bare", "--initial-branch=data", str(fresh))
                try:
                    fresh.rename(home.store)
                except OSError:
                    if not (home.store / "HEAD").is_file():  # nobody was faster
                        raise
        except OSError as error:
            raise StorageError(
                f"the store cannot be made: {error}", where=home.store, fix="set CXR_HOME to a folder of yours"
            ) from error
    return home.store


# ------------------------------------------------------------------------------------------------------ data


def data_revision(home: Home) -> DataRevision | None:
    """The data set as it is now, None before the first ingestion."""
    commit = _resolve(home, DATA_REF)
    if commit is None:
        return None
    batches = {name: _batch_digest(pointer, name) for name, pointer in _pointers(home, commit).items()}
    return DataRevision(revision=commit, batches=batches)


def add_batch(home: Home, batch_folder: Path) -> str:
    """Add a batch to the data set: first its files to the DVC remote, then its pointer to the data branch.

    A batch that is there already with the same content is left as it is, so an ingestion that was cut off is simply
    started again. Two at once both enter, one after the other.

    Args:
        home: the installation.
        batch_folder: a folder with `batch.json` and the files that it lists. It is read, not moved.

    Returns:
        The data revision that holds the batch.

    Raises:
        DataError: the folder is not what its `batch.json` says, or the name is taken by other content.
        StorageError: the remote or the disk refused; the data set is as it was.
    """
    batch = Batch.read(batch_folder / BATCH)
    if not _BATCH_NAME.fullmatch(batch.name):
        raise DataError(f"{batch.name!r} cannot name a batch", fix="use small letters, digits and single hyphens")
    digest = sha256_file(batch_folder / BATCH)
    check_batch(batch_folder, digest)
    ensure_store(home)
    pointer: bytes | None = None
    while True:
        before = data_revision(home)
        if before is not None and batch.name in before.batches:
            if before.batches[batch.name] == digest:
                return before.revision
            raise DataError(
                f"the data set already holds another batch named {batch.name!r}",
                where=batch_folder,
                fix="choose another name with --batch",
            )
        pointer = pointer or _upload(home, batch_folder, batch.name, digest)
        commit = _commit_pointers(home, before, {batch.name: pointer}, f"Add batch {batch.name}: {batch.images} images")
        if _move(home, DATA_REF, commit, before.revision if before else None):
            return commit


def batch_files(home: Home, names: Collection[str] = (BATCH, "manifest.csv", "boxes.csv")) -> dict[str, Path]:
    """Fetch the named small files of every batch of the data set.

    Returns:
        For each batch the folder in which they can be read. The folders are kept, by digest, and must not be written.

    Raises:
        DataError: a file is missing from the store or was altered.
        StorageError: the remote does not answer.
    """
    revision = data_revision(home)
    if revision is None:
        return {}
    folders = {batch: home.root / "batches" / digest for batch, digest in revision.batches.items()}
    wanted = {BATCH, *names}
    missing = [batch for batch, path in folders.items() if not all((path / name).is_file() for name in wanted)]
    if missing:
        with _scratch(home) as scratch:
            for batch, pointer in _pointers(home, revision.revision).items():
                if batch in missing:
                    (scratch / contract.DATASET / f"{batch}.dvc").write_bytes(pointer)
            targets = [f"{contract.DATASET}/{batch}/{name}" for batch in missing for name in sorted(wanted)]
            dvc.dvc(home, scratch, "pull", *targets)
            for batch in missing:
                came = scratch / contract.DATASET / batch
                check_batch(came, revision.batches[batch], wanted)
                folders[batch].mkdir(parents=True, exist_ok=True)
                for name in wanted:
                    (came / name).replace(folders[batch] / name)
    return folders


def check_batch(folder: Path, digest: str, names: Collection[str] | None = None) -> Batch:
    """Check a batch's files, or those named, against the SHA-256 of its `batch.json` and those that this lists.

    Raises:
        DataError: a file is missing, too many, or not what it was when it was ingested.
    """
    if not (folder / BATCH).is_file() or sha256_file(folder / BATCH) != digest:
        raise _altered(folder, BATCH)
    batch = Batch.read(folder / BATCH)
    found = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    if names is None and (extra := found - {BATCH, *batch.files}):
        raise DataError(f"the batch {batch.name} has a file that it should not have: {min(extra)}", where=folder)
    for name in sorted(batch.files if names is None else set(names) - {BATCH}):
        path = folder / name
        if path.is_symlink() or not path.is_file() or sha256_file(path) != batch.files.get(name):
            raise _altered(folder, name)
    return batch


def _altered(folder: Path, name: str) -> DataError:
    return DataError(
        f"{name} of the batch {folder.name} is missing or is not what was ingested",
        where=folder / name,
        fix="put the object back from a copy of the store; nothing was trained on it",
    )


def _upload(home: Home, batch_folder: Path, name: str, digest: str) -> bytes:
    """Put a batch's files into the cache and the remote; return its pointer."""
    with _scratch(home) as scratch:
        target = scratch / contract.DATASET / name
        shutil.copytree(batch_folder, target, copy_function=_link_or_copy)
        dvc.dvc(home, scratch, "add", f"{contract.DATASET}/{name}")
        dvc.dvc(home, scratch, "push", f"{contract.DATASET}/{name}.dvc")
        pointer = yaml.safe_load((scratch / contract.DATASET / f"{name}.dvc").read_text(encoding="utf-8"))
        pointer["meta"] = {"sha256": digest}
        return yaml.safe_dump(pointer, sort_keys=False).encode()


def _commit_pointers(home: Home, before: DataRevision | None, new: Mapping[str, bytes], message: str) -> str:
    """Write a commit of the data branch that has further pointers; no ref moves yet."""
    pointers = {**(_pointers(home, before.revision) if before else {}), **new}
    files = {f"{name}.dvc": pointer for name, pointer in pointers.items()}
    files[".gitignore"] = "".join(f"/{name}\n" for name in sorted(pointers)).encode()
    inner = _tree(home, [("100644", "blob", _blob(home, data), name) for name, data in files.items()])
    tree = _tree(home, [("040000", "tree", inner, contract.DATASET)])
    parents = ["-p", before.revision] if before else []
    return git(home, home.store, "commit-tree", tree, *parents, "-m", message)


def _pointers(home: Home, commit: str) -> dict[str, bytes]:
    """The pointer files of a data revision, by the batch's name."""
    archive = git_bytes(home, home.store, "archive", "--format=tar", commit, contract.DATASET)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {
            Path(member.name).stem: file.read()
            for member in tar
            if member.name.endswith(".dvc") and (file := tar.extractfile(member)) is not None
        }


def _batch_digest(pointer: bytes, name: str) -> str:
    try:
        return str(yaml.safe_load(pointer)["meta"]["sha256"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"the pointer of batch {name} does not hold the digest of its {BATCH}", where=name) from error


@contextmanager
def _scratch(home: Home) -> Iterator[Path]:
    """A DVC project without git, thrown away at the end, on the disk of the cache so that files can be linked."""
    with _temporary(home) as folder:
        (folder / ".dvc").mkdir()
        (folder / ".dvc" / "config").write_text("[core]\n    no_scm = true\n", encoding="utf-8")
        (folder / contract.DATASET).mkdir()
        yield folder


@contextmanager
def _temporary(home: Home) -> Iterator[Path]:
    parent = home.root / "tmp"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent, ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target)


# ------------------------------------------------------------------------------------------------------ code


def snapshot(home: Home) -> Code:
    """Bring the project's code into the store as a commit, and say which one.

    A clean checkout gives the commit that is checked out. Otherwise a commit is made of the files as they are, with
    that one as its parent and date, so that the same changes always give the same commit. Nothing is written into the
    project's repository: not its index, nor its objects.

    Raises:
        SettingsError: a new file is too large to be code.
    """
    ensure_store(home)
    head = _project_head(home)
    if head is not None and _resolve(home, f"refs/cxr/code/{head}") is None:
        fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--update-shallow")
        git(home, home.store, *fetch, str(home.project), f"{head}:refs/cxr/code/{head}")
    with _temporary(home) as folder:
        exclude = folder / "exclude"
        # Not by pathspecs: `git add` fails on an exclusion that names a path of .gitignore (seen with 2.39).
        left_out = "".join(f"/{path}\n" for path in _no_code(home)).encode()
        exclude.write_bytes(_personal_excludes(home, in_repository=head is not None) + b"\n" + left_out)
        index = {
            "GIT_INDEX_FILE": str(folder / "index"),
            "GIT_WORK_TREE": str(home.project),
            "GIT_DIR": str(home.store),
        }

        def in_project(*arguments: str) -> str:
            return git(home, home.project, "-c", f"core.excludesFile={exclude}", *arguments, extra=index)

        if head is not None:
            in_project("read-tree", head)
        _refuse_large(home, in_project("ls-files", "-z", "--others", "--exclude-standard"))
        in_project("add", "--all", "--", ".")
        if head is not None:  # those that are tracked stay as they were committed
            in_project("reset", "--quiet", head, "--", *_no_code(home))
        tree = in_project("write-tree")
    if head is not None and tree == git(home, home.store, "rev-parse", f"{head}^{{tree}}"):
        return Code(commit=head, dirty=False)
    date = git(home, home.store, "show", "-s", "--format=%ct +0000", head) if head is not None else _EPOCH
    parents = ["-p", head] if head is not None else []
    commit = git(
        home,
        home.store,
        *("commit-tree", tree, *parents, "-m", f"Uncommitted changes on {head[:12] if head else 'nothing'}"),
        extra={"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date},
    )
    git(home, home.store, "update-ref", f"refs/cxr/snapshots/{commit}", commit)
    return Code(commit=commit, dirty=True)


def _project_head(home: Home) -> str | None:
    """The commit that is checked out, None where the project is no repository of its own or has no commit."""
    try:
        if Path(git(home, home.project, "rev-parse", "--show-toplevel")).resolve() != home.project.resolve():
            return None
        return git(home, home.project, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
    except GitError:
        return None


def _no_code(home: Home) -> list[str]:
    """Paths in the project that a snapshot leaves out."""
    inside = [home.root.relative_to(home.project).as_posix()] if home.root.is_relative_to(home.project) else []
    return [*RUN_STATE, *inside]


def _personal_excludes(home: Home, *, in_repository: bool) -> bytes:
    """What the person has told git to ignore outside `.gitignore`: those files are no part of the code either."""
    parts: list[Path] = []
    own = {name: os.environ[name] for name in ("GIT_CONFIG_GLOBAL",) if name in os.environ}
    own = own or {"GIT_CONFIG_GLOBAL": str(Path("~/.gitconfig").expanduser())}
    try:
        setting = git(home, home.root, "config", "--global", "--type=path", "--get", "core.excludesFile", extra=own)
        parts.append(Path(setting))
    except GitError:
        parts.append(Path(os.environ.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()) / "git" / "ignore")
    if in_repository:
        common = git(home, home.project, "rev-parse", "--path-format=absolute", "--git-common-dir")
        parts.append(Path(common) / "info" / "exclude")
    return b"\n".join(path.read_bytes() for path in parts if path.is_file())


def _refuse_large(home: Home, listing: str) -> None:
    for name in filter(None, listing.split("\0")):
        size = (home.project / name).lstat().st_size
        if size > MAX_UNTRACKED:
            raise SettingsError(
                f"{name} ({size / 1e6:.0f} MB) is neither tracked nor ignored, and is too large to be code",
                where=home.project,
                fix=f"add /{name} to .gitignore, or move it out of the project",
            )


# ------------------------------------------------------------------------------------------------------ runs


def check_workspace(home: Home, run: str) -> None:
    """See that what stands in the place of a run's workspace, if anything does, is a workspace of this run.

    Raises:
        RefusedError: it is something else.
    """
    folder = home.workspace(run)
    if not folder.exists():
        return
    head = folder / ".git" / "HEAD"
    ours = head.is_file() and head.read_text(encoding="utf-8").strip() == f"ref: refs/heads/runs/{run}"
    # What was cut off before git had begun left an empty folder.
    if not ours and not (folder.is_dir() and not any(folder.iterdir())):
        raise RefusedError(
            f"this is no workspace of the run {run}, and is left as it is",
            where=folder,
            fix="move it away, or choose another name for the run",
        )


def clear_workspace(home: Home, run: str) -> None:
    """Remove a run's workspace, if there is one; nothing else is ever removed.

    Raises:
        RefusedError: what stands there is no workspace of this run.
        StorageError: it cannot be removed.
    """
    check_workspace(home, run)
    folder = home.workspace(run)
    try:
        if folder.exists():
            shutil.rmtree(folder)
    except OSError as error:
        raise StorageError(
            f"the workspace of {run} cannot be removed: {error.strerror}", where=folder, fix="mend the folder's rights"
        ) from error


def make_workspace(home: Home, folder: Path, run: str, code: Code, data: DataRevision) -> None:
    """Make a run's workspace: a full clone at the code's commit, on the branch `runs/<run>`, with the data's pointers.

    Args:
        home: the installation.
        folder: a folder that does not exist yet.
        run: the run's name.
        code: what `snapshot` gave.
        data: what `data_revision` gave.
    """
    kind = "snapshots" if code.dirty else "code"
    folder.mkdir(parents=True)
    git(home, folder, "init", "--quiet", f"--initial-branch=runs/{run}")
    git(home, folder, "remote", "add", "origin", str(home.store))
    git(home, folder, "fetch", "--quiet", "--update-shallow", "origin", f"refs/cxr/{kind}/{code.commit}", "data")
    git(home, folder, "reset", "--quiet", "--hard", code.commit)
    for path in RUN_STATE:
        _remove(folder / path)
    write_pointers(home, folder, data)


def write_pointers(home: Home, folder: Path, data: DataRevision) -> None:
    """Make a checkout's `dataset/` point at a data revision, and at nothing else.

    Raises:
        DataError: `dataset/` holds something that is no batch, which is left untouched.
    """
    target = folder / contract.DATASET
    target.mkdir(exist_ok=True)
    pointers = _pointers(home, data.revision)
    there = {path.name for path in target.iterdir()} - {".gitignore"}
    old = {name.removesuffix(".dvc") for name in there if name.endswith(".dvc")} - pointers.keys()
    foreign = there - {f"{name}.dvc" for name in (*old, *pointers)} - {*old, *pointers}
    if foreign:
        raise DataError(
            f"{min(foreign)} in {contract.DATASET}/ is no batch of the data set",
            where=target / min(foreign),
            fix="move it away; data enter with: cxr-ops ingest nih FOLDER --batch NAME",
        )
    for name in old:
        _remove(target / name)
        _remove(target / f"{name}.dvc")
    for name, pointer in pointers.items():
        write_atomic(target / f"{name}.dvc", pointer)
    write_atomic(target / ".gitignore", "".join(f"/{name}\n" for name in sorted(pointers)).encode())


def pull(home: Home, folder: Path, data: DataRevision) -> None:
    """Bring the batches of a checkout's `dataset/` in, and check every byte.

    Raises:
        DataError: a batch is missing from the store, or is not what was ingested.
        StorageError: the remote does not answer, or the disk is full.
    """
    targets = [f"{contract.DATASET}/{batch}.dvc" for batch in sorted(data.batches)]
    dvc.dvc(home, folder, "pull", "--force", *targets)
    for batch, digest in sorted(data.batches.items()):
        check_batch(folder / contract.DATASET / batch, digest)


def commit_run(home: Home, run: str, message: str) -> str:
    """Commit what a run's stages recorded and made, and push commit and outs. Doing it again changes nothing.

    Args:
        home: the installation.
        run: the run's name.
        message: of the commit.

    Returns:
        The run commit: it holds code, params, pointers of the data, `inputs.json`, `dvc.lock` and the small results.

    Raises:
        StorageError: the remote or the store refused.
    """
    workspace = home.workspace(run)
    commit = commit_workspace(home, workspace, message)
    done = list(dvc.read_lock(workspace))
    if done:
        dvc.dvc(home, workspace, "push", *done)
    # A run that is opened again starts a new history; what was published before stays under refs/cxr/runs.
    refs = (f"+HEAD:refs/heads/runs/{run}", f"HEAD:refs/cxr/runs/{commit}")
    git(home, workspace, "push", "--quiet", "--atomic", "origin", *refs)
    return commit


def run_pushed(home: Home, run: str, commit: str | None = None) -> bool:
    """Whether a run's commit is in the store and all its outs are in the DVC remote, with nothing left to commit.

    Args:
        home: the installation.
        run: the run's name.
        commit: the commit that it must be, or None for the workspace's.
    """
    workspace = home.workspace(run)
    head = git(home, workspace, "rev-parse", "HEAD")
    if commit not in (None, head) or _resolve(home, f"refs/cxr/runs/{head}") != head:
        return False
    if git(home, workspace, "status", "--porcelain", "--untracked-files=no"):
        return False
    done = list(dvc.read_lock(workspace))
    missing = json.loads(dvc.dvc(home, workspace, "status", "--cloud", "--json", *done) or "{}")
    return bool(done) and not missing


def run_file(home: Home, commit: str, path: str) -> bytes | None:
    """A file of a run commit, or None where it has none of that name."""
    try:
        return git_bytes(home, home.store, "cat-file", "blob", f"{commit}:{path}")
    except GitError:
        return None


def commit_workspace(home: Home, workspace: Path, message: str) -> str:
    """Commit in a workspace what git keeps of a run; without a change, the commit is the one before."""
    # --force: a project may ignore what its own stages write. What DVC keeps is not in this list.
    present = [path for path in _committed(workspace) if (workspace / path).exists()]
    git(home, workspace, "add", "--force", "--", *present)
    git(home, workspace, "add", "--update", "--", ".")
    if git(home, workspace, "diff", "--cached", "--name-only"):
        git(home, workspace, "commit", "--quiet", "--no-verify", "-m", message)
    return git(home, workspace, "rev-parse", "HEAD")


def _committed(workspace: Path) -> list[str]:
    pointers = sorted((workspace / contract.DATASET).glob("*.dvc"))
    tracked = [path for stage in dvc.read_pipeline(workspace).values() for path in stage.tracked]
    return [
        f"{contract.DATASET}/.gitignore",
        *(f"{contract.DATASET}/{pointer.name}" for pointer in pointers),
        *(dvc.PARAMS, dvc.LOCK, contract.INPUTS, contract.IMAGE, contract.EPOCH, RECIPE),
        *(f"{folder}/{folder}.json" for folder in (contract.CHAMPION, contract.REFERENCE, contract.START)),
        *tracked,
    ]


# --------------------------------------------------------------------------------------------------- recipes


def save_recipe(home: Home, parts: Mapping[str, Any]) -> str:
    """Keep what a recipe consists of, so that a later one can be compared with it; return its digest."""
    data = canonical_json(parts)
    digest = sha256_bytes(data)
    ensure_store(home)
    git(home, home.store, "update-ref", f"refs/cxr/recipes/{digest}", _blob(home, data))
    return digest


def read_recipe(home: Home, digest: str) -> dict[str, Any] | None:
    """What a recipe consists of, None where it is not known here."""
    try:
        data = git_bytes(home, home.store, "cat-file", "blob", f"refs/cxr/recipes/{digest}")
    except StorageError:
        return None
    return dict(json.loads(data)) if sha256_bytes(data) == digest else None


# -------------------------------------------------------------------------------------------------- plumbing


def _resolve(home: Home, ref: str) -> str | None:
    if not home.store.is_dir():
        return None
    try:
        return git(home, home.store, "rev-parse", "--verify", "--quiet", ref)
    except GitError:
        return None


def _move(home: Home, ref: str, new: str, old: str | None) -> bool:
    """Move a ref from where it was; False where somebody has moved it meanwhile."""
    try:
        git(home, home.store, "update-ref", ref, new, old or _NOBODY)
    except GitError:
        if _resolve(home, ref) == old:  # it did not move, so it was not a race
            raise
        return False
    return True


def _blob(home: Home, data: bytes) -> str:
    return git(home, home.store, "hash-object", "-w", "--stdin", stdin=data)


def _tree(home: Home, entries: list[tuple[str, str, str, str]]) -> str:
    lines = "".join(f"{mode} {kind} {sha}\t{name}\n" for mode, kind, sha, name in entries)
    return git(home, home.store, "mktree", stdin=lines.encode())


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
