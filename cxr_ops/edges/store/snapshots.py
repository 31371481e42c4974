"""The code that a run used, as a commit in the store. The project's own repository is only ever read."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

from cxr_ops.edges.git import GitError, git
from cxr_ops.edges.home import Home
from cxr_ops.edges.store.repository import RUN_STATE, ensure_store, resolve_ref, temporary
from cxr_ops.errors import SettingsError, StorageError
from cxr_ops.records.inputs import Code

MAX_UNTRACKED: Final = 10_000_000  # bytes of one new file that a snapshot takes; code is smaller
_EPOCH = "946684800 +0000"  # the date of a snapshot that has no commit to take one from: 2000-01-01


def snapshot(home: Home) -> Code:
    """Bring the project's code into the store as a commit, and say which one.

    A clean checkout gives the commit that is checked out. Otherwise a commit is made of the files as they are, with
    that one as its parent and date, so that the same changes always give the same commit. Nothing is written into the
    project's repository: not its index, nor its objects.

    Raises:
        SettingsError: a new file is too large to be code.
    """
    ensure_store(home)
    head = checked_out(home)
    if head is not None and resolve_ref(home, f"refs/cxr/code/{head}") is None:
        fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--update-shallow")
        git(home, home.store, *fetch, str(home.project), f"{head}:refs/cxr/code/{head}")
    with temporary(home) as folder:
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


def is_reviewed(home: Home, commit: str, source: str) -> bool:
    """Whether a branch of a repository holds a commit.

    Args:
        home: the installation.
        commit: the code of a run, as the store has it.
        source: the branch, `REPOSITORY#BRANCH`; the repository is a folder or any address that git fetches from.

    Raises:
        SettingsError: `source` has another form.
        StorageError: the repository or the branch cannot be fetched.
    """
    repository, sign, branch = source.rpartition("#")
    if not sign or not repository or not branch or branch.startswith("-") or repository.startswith("-"):
        raise SettingsError(
            f"{source!r} does not name a branch of a repository",
            where="CXR_CODE_SOURCE, or code_source of the plan",
            fix="for example https://git.example.org/cxr-ops.git#main",
        )
    reviewed = f"refs/cxr/reviewed/{secrets.token_hex(8)}"
    fetch = ("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--update-shallow")
    try:
        git(home, home.store, *fetch, repository, f"+refs/heads/{branch}:{reviewed}")
    except GitError as error:
        raise StorageError(
            f"the branch of reviewed code cannot be fetched: {error}",
            where=source,
            fix="check CXR_CODE_SOURCE, or code_source of the plan, and that git may read the repository",
        ) from error
    try:
        git(home, home.store, "merge-base", "--is-ancestor", commit, reviewed)
    except GitError:
        return False
    finally:
        git(home, home.store, "update-ref", "-d", reviewed)
    return True


def checked_out(home: Home) -> str | None:
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
