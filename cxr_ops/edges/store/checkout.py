"""A published run brought back: its commit and all that it was given and made, in a folder of its own.

Every other run's commit is in that folder's repository as well, so that `dvc metrics diff` and `dvc plots diff` find
the revisions that they are asked for.
"""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Final

from cxr_ops.edges import dvc
from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches, objects, purges
from cxr_ops.errors import CxrError, StorageError

_FOLDER = "proof"
# How DVC names an object that it did not get.
_TRANSFER: Final = re.compile(r"failed to transfer '([0-9a-f]{32})")


def check_out(home: Home, commit: str, folder: Path) -> None:
    """Bring a run back into a folder that is new or empty.

    Nobody else may read the folder: it holds what a plan may withhold from people who tune.

    Args:
        home: the installation.
        commit: the run commit.
        folder: where to.

    Raises:
        StorageError: the folder is in use or cannot be made, the store has no such commit, or the remote does not
            answer.
        DataError: an object is missing from the remote, or is not what its digest says.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise StorageError(f"the folder cannot be made: {error.strerror}", where=folder) from error
    if used:
        raise StorageError("the folder is not empty, and is left as it is", where=folder, fix="name a new folder")
    git(home, folder, "init", "--quiet")
    git(home, folder, "remote", "add", "origin", str(home.store))
    branches, runs = "+refs/heads/*:refs/remotes/origin/*", "+refs/cxr/runs/*:refs/cxr/runs/*"
    git(home, folder, "fetch", "--quiet", "--update-shallow", "origin", branches, runs)
    git(home, folder, "checkout", "--quiet", "--detach", commit)
    dvc.write_local_config(home, folder)
    dvc.write_plots_template(home, folder)
    if not purged_of(home, commit):
        dvc.dvc(home, folder, "pull", "--force")
        return
    lost: set[str] = set()
    try:
        dvc.dvc(home, folder, "fetch")
    except CxrError as error:
        lost = set(_TRANSFER.findall(error.what))
        if not lost or not lost <= set(purges.read(home).objects):
            raise
    dvc.dvc(home, folder, "checkout", "--force", "--allow-missing")
    sys.stderr.write(
        f"{len(lost):,} objects of this run were purged because they showed a patient, and are not brought back\n"
    )


def purged_of(home: Home, commit: str) -> set[str]:
    """The objects of a run commit, and of the data that it points to, that a purge has removed."""
    gone = set(purges.read(home).objects)
    if not gone:
        return set()
    named = set().union(*objects.of_commits(home, [commit]).values())
    for pointer in batches.entered_pointers(home, commit).values():
        named |= objects.of_outs(pointer)
    found, unlisted = objects.spread(named, home.object_folders)
    return (found & gone) | unlisted  # of a folder that cannot be listed here, DVC finds out what it lacks


def plain_commands(home: Home, commit: str) -> list[str]:
    """The commands that bring a run back with git and DVC alone, for those who may read store and remote."""
    commands = [
        f"git clone --no-checkout {shlex.quote(str(home.store))} {_FOLDER}",
        f"cd {_FOLDER}",
        f"git checkout --quiet {commit}",
        f"dvc remote add --local --default store {shlex.quote(home.dvc_remote)}",
    ]
    if home.remote_folder is None and home.s3_endpoint:
        commands.append(f"dvc remote modify --local store endpointurl {shlex.quote(home.s3_endpoint)}")
    return [*commands, "dvc pull"]
