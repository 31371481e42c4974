"""The names that git and DVC give, by git and DVC themselves."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

from cxr_ops.audit import stored

FILES = {"a.txt": b"one\n", "b/c.csv": b"1,2\n", "b.json": b"{}"}


def written(folder: Path) -> Path:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def git(folder: Path, *words: str) -> bytes:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    return subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True).stdout


def test_objects_have_the_names_that_git_gives(tmp_path: Path) -> None:
    """A commit, its tree, and each file and folder that stands in the tree."""
    written(tmp_path)
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    commit, tree = git(tmp_path, "cat-file", "commit", "HEAD"), git(tmp_path, "cat-file", "tree", "HEAD^{tree}")
    assert stored.git_name("commit", commit) == git(tmp_path, "rev-parse", "HEAD").decode().strip()
    assert stored.git_name("tree", tree) == git(tmp_path, "rev-parse", "HEAD^{tree}").decode().strip()
    rows = [line.split() for line in git(tmp_path, "ls-tree", "HEAD").decode().splitlines()]
    listed = dict(stored.git_listed(tree))
    assert listed == {name: digest for _, _, digest, name in rows}
    assert listed["a.txt"] == stored.git_name("blob", FILES["a.txt"])


def test_files_and_folders_have_the_names_that_dvc_gives(tmp_path: Path) -> None:
    """What `dvc.lock` records of a file and of a folder is worked out from their bytes."""
    pipeline = {"stages": {"make": {"cmd": "true", "deps": ["one", "a.txt"]}}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
    written(tmp_path / "one")
    (tmp_path / "a.txt").write_bytes(FILES["a.txt"])
    for words in (("init", "--no-scm", "--quiet"), ("repro", "--quiet")):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True)
    recorded = stored.dvc_recorded((tmp_path / "dvc.lock").read_bytes())
    assert recorded == {"one": stored.dvc_folder(FILES), "a.txt": stored.dvc_name(FILES["a.txt"])}
