"""Tests of cxr_ops.edges.supervisor, with real processes: what is killed here is killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from projects import PYTHON, environ, make_home, make_project

from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.supervisor import hold_workspace, supervise
from cxr_ops.errors import BusyError, CxrError, DataError, SettingsError, StorageError

RUN = "run-1"
# What the command does, without the start-up of the command.
SUPERVISE = """
import json, sys
from cxr_ops.edges.home import Home
from cxr_ops.edges.supervisor import supervise
from cxr_ops.errors import CxrError
try:
    print(json.dumps(supervise(Home.find(), sys.argv[1], sys.argv[2])))
except CxrError as error:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(error.exit_code)
"""
RAISES = """
    from cxr_ops import errors

    def run(root, params):
        raise errors.{kind}("bad thing", where="row 7", fix="mend row 7")
"""


def open_run(home: Home, run: str = RUN, epochs: int = 3) -> Path:
    """Copy the project to where a run works, as far as the supervisor needs it."""
    import shutil

    workspace = home.workspace(run)
    shutil.copytree(home.project, workspace)
    params = workspace / "params.yaml"
    params.write_text(re.sub(r"epochs: \d+", f"epochs: {epochs}", params.read_text()))
    (workspace / "dataset" / "one").mkdir(parents=True)
    (workspace / "dataset" / "one" / "batch.json").write_text("{}\n")
    (workspace / "image.json").write_text('{"image": null}\n')
    (workspace / "inputs.json").write_text("{}\n")
    (home.run(run) / "run.json").write_text("{}\n")
    return workspace


def start(home: Home, stage: str, run: str = RUN, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [PYTHON, "-c", SUPERVISE, run, stage],
        env=environ(home, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def epochs(home: Home, run: str = RUN) -> list[str]:
    log = home.run(run) / "epochs.log"
    return log.read_text().splitlines() if log.exists() else []


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.05)


def trainer(home: Home, run: str = RUN) -> int:
    """Process id of the stage that was started last."""
    return int([line for line in epochs(home, run) if line.startswith("start")][-1].split()[1])


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_stage_runs_once_and_is_restored_in_another_workspace(home: Home) -> None:
    """A stage runs; again it is unchanged; in a second run with the same inputs it comes from the run cache."""
    open_run(home)
    open_run(home, "run-2")

    first = supervise(home, RUN, "validate")
    again = supervise(home, RUN, "validate")
    second = supervise(home, "run-2", "validate")

    assert (first["ran"], again["ran"], second["ran"]) == (True, False, False)
    assert first["outs"] == again["outs"] == second["outs"]
    assert first["inputs"] == second["inputs"]
    assert (home.workspace("run-2") / "validate" / "names.txt").read_text() == "dataset/one/batch.json\n"


def test_workspace_runs_its_own_code(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage imports the workspace's modules, whatever is installed and however Python is told to search."""
    workspace = open_run(home)
    monkeypatch.setenv("PYTHONSAFEPATH", "1")
    monkeypatch.setenv("PYTHONPATH", str(home.project))
    source = workspace / "cxr_ops" / "stages" / "validate.py"
    source.write_text(source.read_text() + "\n    (out / 'where.txt').write_text(__file__)\n")

    supervise(home, RUN, "validate")

    assert (workspace / "validate" / "where.txt").read_text() == str(source)


@pytest.mark.parametrize(
    ("kind", "code"),
    [("DataError", 10), ("SettingsError", 11), ("StorageError", 12), ("RefusedError", 15), ("StoppedError", 143)],
)
def test_error_of_a_stage_arrives_whole(tmp_path: Path, kind: str, code: int) -> None:
    """Class, exit code, place and next step of a stage's error are those that the caller sees."""
    project = make_project(tmp_path / "project", validate=RAISES.format(kind=kind))
    home = make_home(tmp_path / "home", project)
    open_run(home)

    with pytest.raises(CxrError) as error:
        supervise(home, RUN, "validate")

    assert (type(error.value).__name__, error.value.exit_code) == (kind, code)
    assert (error.value.what, error.value.where, error.value.fix) == ("bad thing", "row 7", "mend row 7")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1 / 0", "without giving a reason"),
        ("os.kill(os.getpid(), 9)", "without giving a reason"),
        ("raise OSError(28, 'No space left on device', 'x.bin')", "No space left on device"),
        ("pass", "DVC could not run validate"),
    ],
)
def test_bug_kill_full_disk_and_missing_output_fail(
    tmp_path: Path, capfd: pytest.CaptureFixture, body: str, words: str
) -> None:
    """A bug keeps its traceback; a killed stage, a full disk and a stage without output are told apart from it."""
    project = make_project(tmp_path / "project", validate=f"def run(root, params):\n    {body}\n")
    home = make_home(tmp_path / "home", project)
    open_run(home)

    with pytest.raises(CxrError, match=words) as error:
        supervise(home, RUN, "validate")

    shown = capfd.readouterr()
    assert ("ZeroDivisionError" in shown.err) == ("1 / 0" in body)
    assert shown.out == ""
    assert isinstance(error.value, StorageError) == ("kill" not in body and "/ 0" not in body)
    assert error.value.exit_code == (12 if isinstance(error.value, StorageError) else 1)


def test_mistakes_of_the_caller_are_named(home: Home) -> None:
    """A run that was not opened, an unknown stage and a stage out of order each say what to do."""
    with pytest.raises(DataError, match="has not been opened") as error:
        supervise(home, RUN, "validate")
    assert error.value.fix == f"cxr-ops stage open --run {RUN}"
    open_run(home)
    with pytest.raises(SettingsError, match="no stage 'valdate'"):
        supervise(home, RUN, "valdate")
    with pytest.raises(DataError, match=r"which validate makes"):
        supervise(home, RUN, "train")


def test_sigterm_ends_the_stage_after_its_checkpoint_and_the_retry_resumes(home: Home) -> None:
    """SIGTERM to the supervisor reaches the stage, which saves and ends; started again, it goes on from there."""
    open_run(home, epochs=60)
    supervise(home, RUN, "validate")
    process = start(home, "train")
    wait_for(lambda: len(epochs(home)) > 5)
    child = trainer(home)

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=60) == 143
    assert not alive(child)
    assert epochs(home)[-1] == "stopped"
    done = len([line for line in epochs(home) if line.startswith("epoch")])
    assert 0 < done < 60

    result = supervise(home, RUN, "train")

    assert result["ran"]
    lines = epochs(home)
    assert [line.split()[2] for line in lines if line.startswith("start")] == ["0", str(done)]
    assert [line for line in lines if line.startswith("epoch")] == [f"epoch {i}" for i in range(60)]
    assert not list(home.checkpoints.iterdir())


def test_killed_supervisor_leaves_one_training_that_the_retry_ends_and_resumes(home: Home) -> None:
    """After kill -9 of the supervisor the stage lives on; the retry ends it, clears DVC's lock, and alone goes on."""
    workspace = open_run(home, epochs=200)
    supervise(home, RUN, "validate")
    process = start(home, "train")
    wait_for(lambda: len(epochs(home)) > 5)
    orphan = trainer(home)
    process.kill()
    process.wait()
    before = len(epochs(home))
    wait_for(lambda: len(epochs(home)) > before)  # it does live on
    assert json.loads((workspace / ".dvc" / "tmp" / "rwlock").read_text())["write"]
    params = workspace / "params.yaml"
    assert "epochs: 200" in params.read_text()

    retry = start(home, "train")

    wait_for(lambda: trainer(home) != orphan)
    assert not alive(orphan)
    output, errors = retry.communicate(timeout=120)
    assert retry.returncode == 0, errors
    assert json.loads(output)["ran"]
    lines = epochs(home)
    assert [line for line in lines if line.startswith("epoch")] == [f"epoch {i}" for i in range(200)]
    assert lines.count("stopped") == 1


def test_stage_that_ignores_sigterm_is_killed_after_the_grace(tmp_path: Path) -> None:
    """A stage that does not end within the grace is killed, with what it started, even outside its process group."""
    deaf = """
        import signal, subprocess, sys, time

        def run(root, params):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
            log = pathlib.Path(os.environ["CXR_PROGRESS"]).parent / "epochs.log"
            log.write_text(f"start {os.getpid()} {other.pid}\\n")
            time.sleep(600)
    """
    home = make_home(tmp_path / "home", make_project(tmp_path / "project", validate=deaf))
    open_run(home)
    process = start(home, "validate", CXR_GRACE_SECONDS="1")
    wait_for(lambda: bool(epochs(home)) and epochs(home)[0].count(" ") == 2)
    pids = [int(word) for word in epochs(home)[0].split()[1:]]
    assert all(alive(pid) for pid in pids)

    process.send_signal(signal.SIGTERM)

    assert process.wait(timeout=30) == 143
    assert not any(alive(pid) for pid in pids)


def test_second_supervisor_of_a_run_waits_and_finds_it_done(home: Home) -> None:
    """Two supervisors of one stage: the second waits for the first and runs nothing."""
    open_run(home, epochs=40)
    supervise(home, RUN, "validate")
    first = start(home, "train")
    wait_for(lambda: len(epochs(home)) > 1)
    second = start(home, "train")

    results = [process.communicate(timeout=120) for process in (first, second)]

    assert [json.loads(output)["ran"] for output, _ in results] == [True, False]
    assert "waiting" in results[1][1]
    assert len([line for line in epochs(home) if line.startswith("start")]) == 1


def test_same_inputs_in_two_runs_are_trained_once(home: Home) -> None:
    """Two runs with the same inputs at the same time: one trains, the other waits and restores what it made."""
    for run in (RUN, "run-2"):
        open_run(home, run, epochs=40)
        supervise(home, run, "validate")
    first = start(home, "train")
    wait_for(lambda: len(epochs(home)) > 1)
    second = start(home, "train", "run-2")

    results = [process.communicate(timeout=120) for process in (first, second)]

    assert [json.loads(output)["ran"] for output, _ in results] == [True, False]
    assert "the same inputs" in results[1][1]
    assert epochs(home, "run-2") == []
    assert (home.workspace("run-2") / "train" / "weights").read_text() == "40 0\n"


def test_waiting_supervisor_ends_on_sigterm(home: Home) -> None:
    """Whoever only waits for a lock ends at once when asked, and the one that works goes on."""
    open_run(home, epochs=40)
    with hold_workspace(home, RUN):
        process = start(home, "validate")
        assert process.stderr.readline().startswith("waiting")
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 143


def test_owned_workspace_is_refused_to_whoever_does_not_wait(home: Home) -> None:
    """Opening a run anew while it is being worked on is refused."""
    open_run(home)
    with hold_workspace(home, RUN), pytest.raises(BusyError, match=RUN), hold_workspace(home, RUN):
        pass


def test_lock_of_dvc_whose_process_id_lives_on_is_cleared(home: Home) -> None:
    """DVC refuses to work while a recorded process id is alive, though it is another process's; the owner clears it."""
    workspace = open_run(home)
    lock = workspace / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(exist_ok=True)
    stale = {"write": {str(workspace / "validate"): {"pid": os.getpid(), "cmd": "dvc repro"}}, "read": {}}
    lock.write_text(json.dumps(stale))
    with pytest.raises(StorageError, match="is busy"):
        dvc.dvc(home, workspace, "repro", "--single-item", "validate")

    assert supervise(home, RUN, "validate")["ran"]


def test_what_comes_before_runs_under_the_locks_and_may_refuse(home: Home) -> None:
    """`before` is called with the workspace owned; when it raises, the stage does not run."""
    open_run(home)
    owned = []

    def refuse() -> None:
        with pytest.raises(BusyError), hold_workspace(home, RUN):
            pass
        owned.append(True)
        raise DataError("no way")

    with pytest.raises(DataError, match="no way"):
        supervise(home, RUN, "validate", before=refuse)

    assert owned
    assert not (home.workspace(RUN) / "validate").exists()
