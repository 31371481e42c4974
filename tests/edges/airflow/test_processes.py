"""The parts of the embedded Airflow, and what runs for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from projects import make_home

from cxr_ops.edges.airflow.processes import stages_of


def test_stages_are_found_whoever_started_them(tmp_path: Path) -> None:
    """A stage whose worker is gone is found with its attempt; one of another installation, and other work, is not."""
    home, other = (make_home(tmp_path / name, tmp_path) for name in ("home", "other"))
    package = tmp_path / "cxr_ops"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text("import time; print(flush=True); time.sleep(60)")

    def start(*words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "cxr_ops", *words], cwd=tmp_path, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    folder = home.airflow / "stages" / "r-1" / "train" / "1"
    theirs = other.airflow / "stages" / "r-1" / "train" / "1"
    ours = start("stage", "train", "--attempt", str(folder))
    others = [start("stage", "train", "--attempt", str(theirs)), start("ui"), start("stage", "train")]
    try:
        assert {process.pid: where for process, where in stages_of(home).items()} == {ours.pid: folder}
    finally:
        for process in (ours, *others):
            process.kill()
            process.communicate()
