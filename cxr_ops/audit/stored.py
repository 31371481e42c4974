"""What git and DVC call the files and folders that they keep, worked out from the bytes, without either of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Literal

import yaml


def git_name(kind: Literal["blob", "commit", "tree"], data: bytes) -> str:
    """The name that git gives to an object.

    >>> git_name("blob", b"")
    'e69de29bb2d1d6434b8b29ae775ad8c2e48c5391'
    """
    return hashlib.sha1(b"%s %d\0" % (kind.encode(), len(data)) + data, usedforsecurity=False).hexdigest()


def git_listed(tree: bytes) -> Iterator[tuple[str, str]]:
    """The files and folders of a tree of git, each with the name of its object.

    Raises:
        ValueError, IndexError: it is no tree.
    """
    place = 0
    while place < len(tree):
        end = tree.index(b"\0", place)
        yield tree[place:end].split(b" ", 1)[1].decode(errors="replace"), tree[end + 1 : end + 21].hex()
        place = end + 21


def dvc_name(data: bytes) -> str:
    """The name that DVC gives to a file.

    >>> dvc_name(b"")
    'd41d8cd98f00b204e9800998ecf8427e'
    """
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def dvc_folder(files: Mapping[str, bytes]) -> str:
    """The name that DVC gives to a folder.

    Args:
        files: all of its files, by their paths in it.
    """
    listing = [{"md5": dvc_name(data), "relpath": path} for path, data in sorted(files.items())]
    return dvc_name(json.dumps(listing, sort_keys=True).encode()) + ".dir"


def dvc_recorded(lock: bytes) -> dict[str, str]:
    """The name of each file and folder that `dvc.lock` records, by its path.

    Raises:
        KeyError, TypeError, AttributeError, yaml.YAMLError: it is no `dvc.lock`.
    """
    stages = yaml.safe_load(lock)["stages"].values()
    both = [one for stage in stages for one in (*stage.get("deps", ()), *stage.get("outs", ()))]
    return {str(one["path"]): str(one["md5"]) for one in both}
