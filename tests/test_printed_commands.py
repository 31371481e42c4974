"""Every command that README, docs and error messages print can be typed as it stands; cheap ones are run."""

from __future__ import annotations

import io
import lzma
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from printed import Fence, fences, inline, is_name, messages, unknown, words
from test_compare import Files

from cxr_ops.edges.ledger import Folder, Ledger

PROJECT = Path(__file__).resolve().parents[1]
DOCS = (PROJECT / "docs").rglob("*.md")
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", PROJECT / "docker" / "README.md", *sorted(DOCS)]
FENCES = [fence for page in PAGES for fence in fences(page, PROJECT)]
BIN = Path(sys.executable).parent

# Fences whose commands are only parsed here, each with the reason; all others are run.
PARSED = {
    "README.md: git clone ... && cd cxr-ops": "tests/e2e/test_fresh_clone.py runs these three, for minutes",
    "README.md: cxr-ops ingest nih FOLDER --batch NAME": "the same command of docs/your-data.md is run",
    "CONTRIBUTING.md: make test": "this is what runs this test, and what takes hours",
    "docs/compatibility.md: make compare-with REV=6965aa7": "two whole runs; tests/tools compares small ones",
    "docs/plan.md: cxr-ops plan check pccp.yaml --truth Data_Entry_2017_v2020.csv --split-test": (
        "the release's labels are not part of this project"
    ),
    "docs/plan.md: cxr-ops plan power pccp.yaml --truth Data_Entry_2017_v2020.csv --split-test --auc 0.84": (
        "the release's labels are not part of this project"
    ),
    "docs/your-data.md: cxr-ops ingest folder chest_xray --batch kermany": (
        "retrains for minutes; tests/e2e/test_folders.py runs the loop on such a folder"
    ),
    "docs/your-data.md: cxr-ops ingest dicom FOLDER --batch 2026-03": (
        "FOLDER holds the NIH's layout here; tests/data/sources/test_dicom.py reads DICOM"
    ),
    "docs/your-data.md: cxr-ops data log": "needs several versions; tests/stages/test_versions.py runs these on three",
    "docs/your-data.md: cxr-ops backup /mnt/backups": "writes to /mnt and /srv; tests/stages/test_backup.py runs both",
    "docs/your-data.md: cxr-ops backup /mnt/share/backups": "writes to /mnt, for a second machine; as above",
    "docs/audit.md: cxr-ops bundle RUN": "needs a run; tests/stages/test_bundle.py bundles two by this command",
    "docs/serving.md: cxr-ops model fetch champion model": "needs a champion, and serves it; tests/serve does both",
    "docs/serving.md: cxr-ops receipts verify": "needs predictions; tests/commands/test_receipts.py runs both",
    "docs/monitoring.md: cxr-ops serve model --answers answers.jsonl": (
        "needs a champion and weeks of its answers; tests/stages/test_monitor.py monitors eight, by this command too"
    ),
    "docs/audit.md: cxr-ops replay RUN": "repeats a run; tests/stages/test_replay.py does so with small ones",
    "docs/serving.md: docker build --file docker/serve/Dockerfile --tag cxr-serve .": "tests/stack runs both",
    "docs/airflow.md: systemctl --user daemon-reload": "makes a service of the person who runs the tests",
    "docs/training.md: cxr-ops train --ablate": "trains for hours; tests/test_ablation.py runs small ones",
    "docker/README.md: docker build --file docker/Dockerfile --tag cxr-ops .": "tests/stack runs it, with an engine",
    'docker/README.md: chown -R 10001:10001 "$CXR_HOME"': "gives files to another user, which only root may",
}


@pytest.fixture
def installation(tmp_path: Path, make_nih: Callable[..., Path]) -> Path:
    """A folder with all that the pages name: a project, tables of scores, a copy of a ledger, radiographs."""
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("params.yaml", "dvc.yaml", *(path.name for path in PROJECT.glob("pccp*.yaml"))):
        shutil.copy(PROJECT / name, folder)
    shutil.copytree(PROJECT / "expectations", folder / "expectations")
    (folder / ".venv").symlink_to(BIN.parent)
    paths = Files(tmp_path).paths
    for path, name in zip(paths, ("Data_Entry_2017.csv", "mine.csv", "theirs.csv"), strict=True):
        shutil.copy(path, folder / name)
    ledger = Ledger(Folder(folder / "COPY_OF_A_LEDGER"))
    ledger.append("period", {"number": 2, "closed_batches": [], "by": "me", "reason": "to have an entry"})
    make_nih(patients=60).rename(folder / "FOLDER")
    bundle = lzma.decompress((PROJECT / "tests" / "golden" / "next" / "bundle.tar.xz").read_bytes())
    (folder / "RUN.bundle.tar").write_bytes(bundle)
    with tarfile.open(fileobj=io.BytesIO(bundle)) as tar:
        (folder / "owner.pub").write_bytes(tar.extractfile("model/key.pub").read())
        (folder / "ANCHORS").mkdir()
        for name in tar.getnames():
            if name.startswith("anchors/"):
                (folder / "ANCHORS" / name.partition("/")[2]).write_bytes(tar.extractfile(name).read())
    return folder


@pytest.mark.parametrize("fence", [f for f in FENCES if f.name not in PARSED], ids=lambda fence: fence.name)
def test_printed_commands_run(fence: Fence, installation: Path) -> None:
    """A page's block, typed into a fresh shell, ends well, and prints what the page says that it prints."""
    script = "\n".join(line for line in fence.lines if line not in INSTALLS)
    environment = {"HOME": str(installation), "LANG": "C.UTF-8", "CXR_HOME": str(installation / "home")}
    path = os.defpath if "activate" in script else f"{BIN}:{os.defpath}"
    done = subprocess.run(
        ["bash", "-eu", "-c", script],
        cwd=installation,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    printed = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert not [line for line in fence.shown if " ".join(line.split()) not in printed]


# `pip install .`: tests/test_wheel.py installs the wheel, and runs there what follows in the page.
INSTALLS = ("pip install .",)


def test_no_reason_is_left_over() -> None:
    """What is not run is in a page, and says why it is not run."""
    assert set(PARSED) <= {fence.name for fence in FENCES}
    assert all(len(reason) > 20 for reason in PARSED.values())


@pytest.mark.parametrize("fence", FENCES, ids=lambda fence: fence.name)
def test_printed_commands_are_understood(fence: Fence) -> None:
    """Every command in a page's block exists, and knows each option that it is given."""
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    for program, *arguments in (command for line in fence.lines for command in words(line)):
        match program:
            case "cxr-ops":
                assert unknown(arguments) is None, (arguments, unknown(arguments))
            case "make":
                given = [word.removeprefix("ARGS=") for word in arguments if word.startswith("ARGS=")]
                assert {word for word in arguments if "=" not in word} <= targets
                assert not given or unknown([arguments[0], *shlex.split(given[0])]) is None
            case "source":
                assert arguments == [".venv/bin/activate"]
            case "dvc":
                assert _of_dvc(arguments)
            case _:
                known = ("git", "cd", "find", "mv", "pip", "docker", "chown", "systemctl", "loginctl", "journalctl")
                assert program in known, program


@pytest.mark.parametrize("page", [page for page in PAGES if "decisions" not in page.parts], ids=lambda page: page.name)
def test_commands_in_sentences_are_understood(page: Path) -> None:
    """A command of `cxr-ops` in a sentence of a page exists, and where options follow, it knows each of them."""
    wrong = {}
    for line in inline(page.read_text(encoding="utf-8")):
        arguments = shlex.split(line)[1:]
        if not is_name(arguments) and (why := unknown(arguments)):
            wrong[line] = why
    assert not wrong


def test_commands_in_messages_are_understood() -> None:
    """Every command that an error or a result tells people to type can be typed, with its placeholders filled in."""
    told = {line: path for path in sorted((PROJECT / "cxr_ops").rglob("*.py")) for line in messages(path)}
    assert len(told) > 20
    wrong = {}
    for line, path in told.items():
        filled = line.replace("ingest X", "ingest nih").replace("stage VERB", "stage train")
        if why := unknown(shlex.split(filled)[1:]):
            wrong[f"{path.name}: {line}"] = why
    assert not wrong


def _of_dvc(arguments: list[str]) -> bool:
    from dvc.cli.parser import get_main_parser

    return bool(get_main_parser().parse_args(arguments))
