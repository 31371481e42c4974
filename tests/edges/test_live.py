"""What MLflow is told while a training runs, and what becomes of it when MLflow is not there."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient
from projects import PYTHON, environ, make_home, make_project

from cxr_ops.edges import live
from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow import tracking
from cxr_ops.errors import DataError, StoppedError

RUN = "run-1"
TRAINING = "a" * 64


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; one takes seconds to make."""
    home = make_home(tmp_path_factory.mktemp("mlflow"), tmp_path_factory.getbasetemp())
    tracking.end_run(home, tracking.live_run(home, "other", TRAINING), "FINISHED")
    return home.root / "mlflow" / "mlflow.db"


@pytest.fixture
def home(tmp_path: Path, database: Path) -> Home:
    """An installation with an embedded MLflow and a run that has been opened."""
    home = make_home(tmp_path / "home", tmp_path)
    for folder in (home.run(RUN), home.root / "mlflow"):
        folder.mkdir(parents=True)
    shutil.copy(database, home.root / "mlflow" / "mlflow.db")
    return home


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(live, "THIN_SECONDS", 0.0)


def begin(home: Home, training: str = TRAINING) -> None:
    """Begin to follow, and end at once."""
    with live.follow(home, RUN, training, os.getpid()):
        pass


def report(home: Home, *lines: dict, stage: str = "train") -> None:
    with home.progress(RUN).open("a") as file:
        for line in lines:
            file.write(json.dumps({"stage": stage, "total": 90, "unit": "images", "text": "", **line}) + "\n")


def within(done: int, at: float, loss: float = 0.5, **more: object) -> dict:
    return {"done": done, "at": at, "epoch": 1, "epochs": 3, "loss": loss, **more}


def ended(epoch: int, at: float, auc: float) -> dict:
    return within(30 * epoch, at, history={"epoch": epoch, "train_loss": 1 / epoch, "validation_auc": auc})


def client(home: Home) -> MlflowClient:
    return MlflowClient(home.mlflow_uri, home.mlflow_uri)


def found(home: Home, run: str = RUN) -> list:
    mlflow = client(home)
    experiment = mlflow.get_experiment_by_name("cxr-ops")
    return mlflow.search_runs([experiment.experiment_id], f"tags.`cxr.run` = '{run}'") if experiment else []


def curve(home: Home, key: str) -> list[tuple[int, float]]:
    """Step and value of each point, in the order of time."""
    [run] = found(home)
    points = client(home).get_metric_history(run.info.run_id, key)
    return [(point.step, point.value) for point in sorted(points, key=lambda point: (point.timestamp, point.step))]


# ------------------------------------------------------------------------------------------- what is sent, and once


def test_lines_become_points_with_their_own_steps_and_times(home: Home) -> None:
    """An epoch's row has epochs for steps, what comes within an epoch images, and all have the time of their line."""
    begin(home)
    report(home, within(10, 100.5, images_per_second=7, text="3 images/s"), ended(1, 101.25, 0.75))
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(1, 0.75)]
    assert curve(home, "train_loss") == [(1, 1.0)]
    assert curve(home, "live/loss") == [(10, 0.5), (30, 0.5)]
    assert curve(home, "live/images_per_second") == [(10, 7.0)]
    [run] = found(home)
    [point] = client(home).get_metric_history(run.info.run_id, "validation_auc")
    assert point.timestamp == 101250
    assert run.data.metrics.keys() == {"validation_auc", "train_loss", "live/loss", "live/images_per_second"}
    assert run.data.tags["cxr.training"] == TRAINING


def test_only_training_is_told(home: Home) -> None:
    """Lines of other stages, evaluation above all, and lines of before this training are never sent."""
    report(home, ended(9, 50.0, 0.99))
    begin(home)
    report(home, ended(2, 101.0, 0.9), stage="evaluate")
    report(home, ended(1, 102.0, 0.75))
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(1, 0.75)]


def test_what_a_resumed_training_says_again_is_not_sent_again(home: Home) -> None:
    """From a checkpoint a training goes through some images and epochs twice; the curves show them once."""
    begin(home)
    report(home, within(10, 100.0), within(20, 101.0), ended(1, 102.0, 0.75), within(40, 103.0))
    live.replay(home, RUN)
    begin(home)
    report(home, within(20, 201.0), ended(1, 202.0, 0.75), within(40, 203.0), ended(2, 204.0, 0.8))
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(1, 0.75), (2, 0.8)]
    assert [step for step, _ in curve(home, "live/loss")] == [10, 20, 30, 40, 60]


def test_point_that_was_sent_before_a_crash_is_sent_once(home: Home) -> None:
    """Killed between sending and noting it, the follower sends again; MLflow has each point once, in order."""
    begin(home)
    place = home.run(RUN) / "live.json"
    before = place.read_bytes()
    report(home, within(10, 100.0), ended(1, 101.0, 0.75))
    live.replay(home, RUN)
    noted = json.loads(place.read_bytes())
    place.write_bytes(json.dumps(json.loads(before) | {"run_id": noted["run_id"]}).encode())
    report(home, ended(2, 102.0, 0.8))
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(1, 0.75), (2, 0.8)]
    assert curve(home, "live/loss") == [(10, 0.5), (30, 0.5), (60, 0.5)]


def test_many_lines_are_thinned_and_sent_in_parts(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of lines within an epoch one in THIN_SECONDS is sent, of epochs each, whatever the size of the parts."""
    monkeypatch.setattr(live, "THIN_SECONDS", 5.0)
    monkeypatch.setattr(live, "_CHUNK", 1000)
    begin(home)
    report(home, *(within(i, 100 + i / 4, history={"epoch": i, "validation_auc": i / 100}) for i in range(1, 41)))
    live.replay(home, RUN)
    assert [step for step, _ in curve(home, "live/loss")] == [1, 21]
    assert curve(home, "validation_auc") == [(i, i / 100) for i in range(1, 41)]


def test_line_that_is_torn_or_still_written_stops_nothing(home: Home) -> None:
    """A torn line is passed over, one without an end waits for it, and what is no number is no metric."""
    begin(home)
    report(home, within(10, 100.0, loss=float("nan"), validation_auc=None))
    with home.progress(RUN).open("a") as file:
        file.write('{"stage": "tra' + json.dumps(ended(1, 101.0, 0.6)) + "\n")
        whole = json.dumps({"stage": "train", **ended(2, 102.0, 0.8)})
        file.write(whole[:20])
    live.replay(home, RUN)
    with home.progress(RUN).open("a") as file:
        file.write(whole[20:] + "\n")
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(2, 0.8)]
    assert [step for step, _ in curve(home, "live/loss")] == [60]


def test_mlflow_run_that_was_lost_is_written_anew(home: Home) -> None:
    """After somebody deleted the run, all of the spool goes to a new one."""
    begin(home)
    report(home, ended(1, 101.0, 0.75))
    live.replay(home, RUN)
    client(home).delete_run(found(home)[0].info.run_id)
    report(home, ended(2, 102.0, 0.8))
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(1, 0.75), (2, 0.8)]


def test_other_inputs_begin_other_curves(home: Home) -> None:
    """A run that was opened anew with other settings shares no curve with what was trained before under its name."""
    begin(home)
    report(home, ended(1, 101.0, 0.75), ended(2, 102.0, 0.8))
    live.replay(home, RUN)
    begin(home, "b" * 64)
    report(home, ended(1, 201.0, 0.5))
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(1, 0.5)]


# ----------------------------------------------------------------------------------------------- how a training ends


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (StoppedError("asked"), "KILLED"), (DataError("bad"), "FAILED")]
)
def test_mlflow_run_ends_as_the_training_does(home: Home, error: Exception | None, status: str) -> None:
    """FINISHED, KILLED when stopped on request, else FAILED; gone on with, it is RUNNING again."""
    with suppress(StoppedError, DataError), live.follow(home, RUN, TRAINING, os.getpid()):
        report(home, ended(1, 101.0, 0.75))
        if error:
            raise error
    [run] = found(home)
    assert run.info.status == status
    with live.follow(home, RUN, TRAINING, os.getpid()):
        report(home, ended(2, 102.0, 0.8))
        wait_for(lambda: len(curve(home, "validation_auc")) == 2)
        assert found(home)[0].info.status == "RUNNING"


def test_stage_that_did_not_run_leaves_mlflow_alone(home: Home) -> None:
    """Where nothing was reported, because the stage was restored or unchanged, the MLflow run stays as it is."""
    begin(home)
    report(home, ended(1, 101.0, 0.75))
    live.replay(home, RUN, "KILLED")
    begin(home)
    assert found(home)[0].info.status == "KILLED"


def test_server_that_never_answers_holds_up_no_training(
    home: Home, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    """A server that takes connections and says nothing costs a training's end END_SECONDS; a known lost one, none."""
    monkeypatch.setattr(live, "END_SECONDS", 1.0)
    monkeypatch.setattr(live, "RETRY_SECONDS", (0.3, 0.3))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        elsewhere = replace(home, mlflow_uri=f"http://127.0.0.1:{deaf.getsockname()[1]}")
        with live.follow(elsewhere, RUN, TRAINING, os.getpid()):
            report(home, ended(1, 101.0, 0.75))
            wait_for(lambda: "kept, to be sent to MLflow later" in capfd.readouterr().err)
            deaf.listen()
            time.sleep(1.0)  # the next attempt waits for an answer
            began = time.monotonic()
        assert time.monotonic() - began < 0.9

        with live.follow(elsewhere, RUN, TRAINING, os.getpid()):
            report(home, ended(2, 102.0, 0.8))
            time.sleep(0.5)
            began = time.monotonic()
        assert time.monotonic() - began < 4
    live.replay(home, RUN)
    assert curve(home, "validation_auc") == [(1, 0.75), (2, 0.8)]


def test_disk_that_takes_nothing_holds_up_no_training(home: Home, capfd: pytest.CaptureFixture) -> None:
    """Where it cannot be noted how far the spool was sent, training runs and a line says so."""
    shutil.rmtree(home.run(RUN))
    with live.follow(home, RUN, TRAINING, os.getpid()):
        pass
    assert "not sent to MLflow while it runs" in capfd.readouterr().err
    live.replay(home, RUN)


# --------------------------------------------------------------------------------------------------------- machine


def test_use_of_the_machine_is_that_of_the_process_and_its_children(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples count the processor time and memory of the process and of what it started, as the kernel tells them."""
    monkeypatch.setattr(live, "SAMPLE_SECONDS", 0.4)
    code = (
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'x = bytearray(80_000_000)\\nwhile True: pass'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as parent:
        try:
            wait_for(lambda: len(psutil.Process(parent.pid).children()) == 1)
            [child] = psutil.Process(parent.pid).children()
            wait_for(lambda: child.memory_info().rss > 80e6)
            began, spent = time.monotonic(), child.cpu_times().user
            with live.follow(home, RUN, TRAINING, parent.pid):
                wait_for(
                    lambda: (
                        home.progress(RUN).exists() and len(curve_or_none(home, "system/process_cpu_percentage")) > 3
                    )
                )
            share = 100 * (child.cpu_times().user - spent) / (time.monotonic() - began)
        finally:
            os.killpg(parent.pid, signal.SIGKILL)
    used = curve(home, "system/process_cpu_percentage")
    assert [step for step, _ in used] == list(range(1, len(used) + 1))
    # The first sample has no earlier one to be compared with: it counts all since the process began.
    assert sum(value for _, value in used[1:]) / len(used[1:]) == pytest.approx(share, rel=0.35)
    assert all(80 < value < 200 for _, value in curve(home, "system/process_memory_megabytes"))


def curve_or_none(home: Home, key: str) -> list:
    return curve(home, key) if found(home) else []


def test_gpus_are_those_that_training_may_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each GPU's use and memory as nvidia-smi tells them; without nvidia-smi, or where it fails, nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert live.gpu_usage() == {}
    # A stand-in: there is no GPU where tests run.
    script = tmp_path / "nvidia-smi"
    script.write_text(
        f'#!{sys.executable}\nimport sys\nif sys.argv[1:] == {SMI!r}: print("1, 37, 1000\\n2, [N/A], 5")\n'
    )
    script.chmod(0o755)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    assert live.gpu_usage() == {"gpu_1_utilization_percentage": 37.0, "gpu_1_memory_usage_megabytes": 1048.6}
    script.write_text("#!/bin/sh\nexit 9\n")
    assert live.gpu_usage() == {}


SMI = ["--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=1,2"]


# ------------------------------------------------------------------------- a real server, killed and started again

# An epoch a tenth of a second, until it is told to end.
TRAIN = """
    import time
    from cxr_ops.contract import report_progress

    def run(root, params):
        out, folder = root / "train", pathlib.Path(os.environ["CXR_PROGRESS"]).parent
        shutil.rmtree(out, ignore_errors=True)
        epoch = 0
        while not (folder / "end").exists():
            epoch += 1
            time.sleep(0.1)
            row = {"epoch": epoch, "train_loss": 1 / epoch, "validation_auc": 1 - 1 / (1 + epoch)}
            report_progress("train", 10 * epoch, 1e6, unit="images", loss=1 / epoch, history=row)
        out.mkdir()
        (out / "weights").write_text(str(epoch))
        (folder / "ended").write_text(str(time.time()))
"""
SUPERVISE = """
import sys, time
from pathlib import Path
from cxr_ops.edges import live
from cxr_ops.edges.home import Home
from cxr_ops.edges.supervisor import supervise
live.LOOK_SECONDS, live.SAMPLE_SECONDS, live.THIN_SECONDS, live.RETRY_SECONDS = 0.2, 1.0, 0.0, (0.5, 1.0)
home = Home.find()
assert supervise(home, sys.argv[1], "train")["ran"]
print(time.time() - float((home.run(sys.argv[1]) / "ended").read_text()))
"""


def test_killed_server_loses_nothing_doubles_nothing_and_delays_nothing(mlflow_server, tmp_path: Path) -> None:
    """Curves grow while training runs; a server that is killed gets what it missed when it is back, or from publish."""
    home = make_home(
        tmp_path / "home", make_project(tmp_path / "project", train=TRAIN), MLFLOW_TRACKING_URI=mlflow_server.url
    )
    workspace = home.workspace(RUN)
    shutil.copytree(home.project, workspace)
    (workspace / "image.json").write_text('{"image": null}\n')
    pipeline = workspace / "dvc.yaml"
    pipeline.write_text(re.sub(r"validate/names.txt, ", "", pipeline.read_text()))
    (home.run(RUN) / "run.json").write_text("{}\n")
    stored = replace(home, mlflow_uri=mlflow_server.database)

    def epochs_in_mlflow() -> int:
        return len(curve_or_none(stored, "validation_auc"))

    def reports() -> list[dict]:
        lines = home.progress(RUN).read_text().splitlines() if home.progress(RUN).exists() else []
        return [line for line in map(json.loads, lines) if line["stage"] == "train"]

    said = tmp_path / "said.txt"
    with said.open("wb") as errors:
        process = subprocess.Popen(
            [PYTHON, "-c", SUPERVISE, RUN],
            env=environ(home, MLFLOW_TRACKING_URI=mlflow_server.url, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
    try:
        wait_for(lambda: epochs_in_mlflow() >= 3)
        assert found(stored)[0].info.status == "RUNNING"
        mlflow_server.kill()
        missed = len(reports())
        wait_for(lambda: "kept, to be sent to MLflow later" in said.read_text() and len(reports()) > missed + 10)
        mlflow_server.start()
        wait_for(lambda: "that were kept have been sent" in said.read_text())
        assert epochs_in_mlflow() > missed + 10
        mlflow_server.kill()
        in_time = epochs_in_mlflow()
        wait_for(lambda: len(reports()) > in_time + 5)
        (home.run(RUN) / "end").touch()
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()

    assert process.returncode == 0, said.read_text()
    # What comes after the stage's last line is the end of its interpreter, DVC's work, and no wait for MLflow.
    assert float(output) < 20
    times = [line["at"] for line in reports()]
    assert max(b - a for a, b in itertools.pairwise(times)) < 2.0
    done = int((workspace / "train" / "weights").read_text())
    assert epochs_in_mlflow() < done
    live.replay(stored, RUN)  # as publish does
    assert curve(stored, "validation_auc") == [(epoch, 1 - 1 / (1 + epoch)) for epoch in range(1, done + 1)]
    assert curve(stored, "live/loss") == [(10 * epoch, 1 / epoch) for epoch in range(1, done + 1)]
    samples = [step for step, _ in curve(stored, "system/process_memory_megabytes")]
    assert samples == list(range(1, len(samples) + 1))
    history = [(epoch, {"validation_auc": float(f"{1 - 1 / (1 + epoch):.6g}")}) for epoch in range(1, done + 1)]
    live_id = found(stored)[0].info.run_id
    content = tracking.RunContent(run=RUN, tags={}, params={}, metrics={}, history=history)
    assert tracking.log_run(stored, content) == live_id
    assert len(curve(stored, "validation_auc")) == done


def wait_for(condition: Callable[[], bool], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.1)
