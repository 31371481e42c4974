"""Which objects of DVC the versions of the data set and the commits of runs name, and which of them are there."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from cxr_ops.edges import dvc
from cxr_ops.edges.git import git
from cxr_ops.edges.home import Home
from cxr_ops.edges.store.repository import read_objects
from cxr_ops.edges.store.versions import pointers


def of_versions(home: Home) -> set[str]:
    """The objects that some version of the data set points to, before what their folders list."""
    return {name for pointer in pointers(home) for name in of_outs(pointer)}


def of_commits(home: Home, commits: Iterable[str]) -> dict[str, set[str]]:
    """The objects that `dvc.lock` names in each of some run commits; those that git itself holds are left out."""
    wanted = list(dict.fromkeys(commits))
    locks = read_objects(home, [f"{commit}:{dvc.LOCK}" for commit in wanted])
    outs: dict[str, dict[str, str]] = {}
    for commit in wanted:
        lock = locks[f"{commit}:{dvc.LOCK}"]
        outs[commit] = of_lock(lock) if lock else {}
    paths = [f"{commit}:{path}" for commit, found in outs.items() for path in found]
    in_git = _there(home, paths)
    return {
        commit: {md5 for path, md5 in found.items() if f"{commit}:{path}" not in in_git}
        for commit, found in outs.items()
    }


def of_lock(text: bytes) -> dict[str, str]:
    """Path and object of each out in the bytes of a `dvc.lock`."""
    stages = (yaml.safe_load(text) or {}).get("stages", {})
    return {str(out["path"]): str(out["md5"]) for stage in stages.values() for out in stage.get("outs", ())}


def of_outs(text: bytes) -> set[str]:
    """The objects that the bytes of a pointer name."""
    document: dict[str, Any] = yaml.safe_load(text) or {}
    return {str(out["md5"]) for out in document.get("outs", ())}


def spread(names: Iterable[str], folders: Iterable[Path]) -> tuple[set[str], set[str]]:
    """Objects with those that they list, if they are folders.

    Args:
        names: objects.
        folders: caches or remote folders, in which listings are looked for.

    Returns:
        All of them; and the folders of which no listing is to be found.
    """
    places, found, lost = list(folders), set(names), set()
    for name in [one for one in found if one.endswith(".dir")]:
        listing = next((path for folder in places if (path := dvc.place(folder, name)).is_file()), None)
        if listing is None:
            lost.add(name)
        else:
            found |= {str(entry["md5"]) for entry in json.loads(listing.read_bytes())}
    return found, lost


def _there(home: Home, names: list[str]) -> set[str]:
    """Those of some names, as git names objects, that the store holds."""
    if not names:
        return set()
    text = git(home, home.store, "cat-file", "--batch-check", stdin="".join(f"{name}\n" for name in names).encode())
    return {name for name, line in zip(names, text.split("\n"), strict=True) if not line.endswith(" missing")}
