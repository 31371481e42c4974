"""A small project for tests of git, DVC and the supervisor: the real dispatcher, and stages of a few lines."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest

from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.records.base import sha256_bytes
from cxr_ops.records.data import Batch

PROJECT = Path(__file__).resolve().parents[1]

# What the dispatcher imports. A workspace runs its own copy, not what is installed.
_CODE = ("__init__", "contract", "errors", "labels", "params", "stages/__init__", "stages/__main__")

_PIPELINE = """
stages:
  validate:
    cmd: python -m cxr_ops.stages validate
    deps: [dataset, image.json, cxr_ops/stages/validate.py]
    params: [validate]
    outs: [validate]
  train:
    cmd: python -m cxr_ops.stages train
    deps: [image.json, validate/names.txt, cxr_ops/stages/train.py]
    params: [train]
    outs: [train]
  gate:
    cmd: python -m cxr_ops.stages gate
    deps: ["${gate.plan}", inputs.json, train, cxr_ops/stages/gate.py]
    params: [gate]
    metrics:
      - gate/verdict.json: {cache: false}
"""

_STAGES = {
    "validate": """
        def run(root, params):
            out = root / "validate"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            names = sorted(p.relative_to(root).as_posix() for p in (root / "dataset").glob("*/*"))
            (out / "names.txt").write_text("".join(f"{name}\\n" for name in names))
        """,
    # Counts to epochs, a twentieth of a second each; a SIGTERM writes a checkpoint, from which it goes on.
    "train": """
        import signal, time
        from cxr_ops.errors import StoppedError

        def run(root, params):
            out, checkpoint = root / "train", pathlib.Path(os.environ["CXR_CHECKPOINTS"]) / "epoch"
            shutil.rmtree(out, ignore_errors=True)
            stopped = []
            signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
            first = int(checkpoint.read_text()) if checkpoint.exists() else 0
            log = pathlib.Path(os.environ["CXR_PROGRESS"]).parent / "epochs.log"
            with log.open("a") as file:
                file.write(f"start {os.getpid()} {first}\\n")
                file.flush()
                for epoch in range(first, params.train.epochs):
                    file.write(f"epoch {epoch}\\n")
                    file.flush()
                    time.sleep(0.05)
                    checkpoint.write_text(str(epoch + 1))
                    if stopped:
                        file.write("stopped\\n")
                        raise StoppedError("stopped after a checkpoint")
            out.mkdir()
            (out / "weights").write_text(f"{params.train.epochs} {params.train.seed}\\n")
        """,
    "gate": """
        def run(root, params):
            out = root / "gate"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            (out / "verdict.json").write_text("{}\\n")
        """,
}


def make_project(folder: Path, **stages: str) -> Path:
    """Make a project in a git repository with one commit; `stages` replaces the source of a stage."""
    for name in _CODE:
        target = folder / "cxr_ops" / f"{name}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / "cxr_ops" / f"{name}.py", target)
    for verb, source in {**_STAGES, **stages}.items():
        text = "import os, pathlib, shutil\n" + textwrap.dedent(source)
        (folder / "cxr_ops" / "stages" / f"{verb}.py").write_text(text)
    (folder / "dvc.yaml").write_text(_PIPELINE)
    for name in ("params.yaml", "pccp.demo.yaml", ".gitignore", ".dvcignore", ".dvc/config", ".dvc/.gitignore"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, folder / name)
    run_git(folder, "init", "--quiet", "--initial-branch=main")
    commit_all(folder, "First")
    return folder


def run_git(folder: Path, *arguments: str) -> str:
    """Run git as a person with an identity of their own."""
    who = {
        f"GIT_{role}_{part}": "someone@example.org" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")
    }
    done = subprocess.run(["git", *arguments], cwd=folder, env=os.environ | who, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rstrip("\n")


def commit_all(folder: Path, message: str) -> str:
    run_git(folder, "add", "--all")
    run_git(folder, "commit", "--quiet", "-m", message)
    return run_git(folder, "rev-parse", "HEAD")


def make_home(root: Path, project: Path, **environ: str) -> Home:
    return Home.find({"CXR_HOME": str(root), "CXR_PROJECT": str(project), **environ})


def second_home(home: Home, tmp_path: Path) -> Home:
    """Another installation on the same store and remote, with nothing in its cache."""
    other = make_home(tmp_path / "second", home.project, CXR_DVC_REMOTE=home.dvc_remote)
    shutil.copytree(home.store, other.store)
    return other


def make_batch(folder: Path, name: str, content: str = "pixels", images: int = 1) -> Path:
    """Make the folder of a batch, with the files that a real one has and a shard of a few bytes."""
    folder = folder / name
    folder.mkdir(parents=True)
    files = {
        "manifest.csv": f"image_id\n{name}_000.png\n".encode(),
        "boxes.csv": b"image_id,finding,x,y,w,h\n",
        "shard-00000.tar": f"{name} {content}".encode() * 50,
    }
    for file, data in files.items():
        (folder / file).write_bytes(data)
    digests = {file: sha256_bytes(data) for file, data in files.items()}
    Batch(name=name, source="test", images=images, patients=1, files=digests).write(folder / "batch.json")
    return folder


def environ(home: Home, **more: str) -> dict[str, str]:
    """The environment of a command of this installation."""
    return os.environ | {
        "CXR_HOME": str(home.root),
        "CXR_PROJECT": str(home.project),
        "CXR_DVC_REMOTE": home.dvc_remote,
        "PYTHONPATH": str(PROJECT),
        **more,
    }


PYTHON = sys.executable


@dataclass(frozen=True)
class Installation:
    """A project and a home of its own, which holds the batch `one`; `batch` is the folder that this was made from."""

    home: Home
    batch: Path


@pytest.fixture(scope="session")
def _installed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is slow to make, once: every start of DVC takes about a second."""
    folder = tmp_path_factory.mktemp("installation")
    home = make_home(folder / "home", make_project(folder / "project"))
    batches.add_batch(home, make_batch(folder, "one"))
    dvc.write_plots_template(home, home.project)
    return folder


@pytest.fixture
def installed(_installed_once: Path, tmp_path: Path) -> Installation:
    """A copy of an installation with one batch, for one test."""
    shutil.copytree(_installed_once, tmp_path, dirs_exist_ok=True, symlinks=True)
    return Installation(make_home(tmp_path / "home", tmp_path / "project"), tmp_path / "one")
