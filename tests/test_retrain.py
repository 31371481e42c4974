"""`cxr-ops retrain` and the embedded Airflow: its scheduler, DAG processor and API server, really started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from airflow_runs import calls, make_project, script
from projects import make_batch, make_home

from cxr_ops import attempt, contract
from cxr_ops.edges.airflow import announce, client, processes
from cxr_ops.edges.home import Home
from cxr_ops.edges.loopback import opener
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, SettingsError, as_record
from cxr_ops.records.run import Result
from cxr_ops.records.task import TaskState
from cxr_ops.report.watch import Reports
from cxr_ops.retrain import _left_by

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(600)]  # Airflow starts in a minute on a busy machine

PROJECT = Path(__file__).resolve().parents[1]
NOTHING_NEW = {"open": {"result": {"no_change": True}}}


def make_installation(root: Path) -> Home:
    """An installation with a data set of one batch, whose stages answer from a script."""
    project = make_project(root / "project")
    for name in ("defaults", "expectations", "requirements"):
        shutil.copytree(PROJECT / name, project / name)
    for plan in PROJECT.glob("pccp*.yaml"):
        shutil.copy(plan, project / plan.name)
    home = make_home(root / "home", project)
    batches.add_batch(home, make_batch(root, "first"))
    return home


def start(home: Home, *arguments: str, verb: str = "retrain") -> subprocess.Popen[str]:
    """Start the command in the background."""
    return subprocess.Popen(
        [sys.executable, "-c", "from cxr_ops.commands.app import main; main()", verb, *arguments],
        env=os.environ | {"CXR_HOME": str(home.root), "CXR_PROJECT": str(home.project)},
        cwd=home.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(true: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def called(home: Home) -> list[str]:
    return [call["verb"] for call in calls(home.project)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An installation in a folder whose name holds what addresses and settings give a meaning to."""
    return make_installation(tmp_path_factory.mktemp("shared") / "a%2Fb #?$c")


@pytest.fixture(scope="module")
def api(home: Home) -> Iterator[client.Api]:
    """An Airflow that stays up between the tests, as `make ui` keeps one up, where every proxy is dead."""
    with pytest.MonkeyPatch.context() as environ:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY"):
            environ.setenv(name, "http://127.0.0.1:9")
        environ.setenv("ALL_PROXY", "socks5://127.0.0.1:9")
        environ.delenv("c", raising=False)
        yield from _kept_up(home)


def _kept_up(home: Home) -> Iterator[client.Api]:
    with processes.running(home) as session:
        yield session.ready()
        parts = json.loads((home.airflow / "instance.json").read_text())["parts"]
    assert not any(psutil.pid_exists(part["pid"]) for part in parts.values())


def test_one_at_a_time(home: Home, api: client.Api) -> None:
    """A second command is refused with the run, the address and the logs of the first, which ends undisturbed."""
    script(home.project, {"open": {"held": True, "result": {"no_change": True}}})
    first = start(home)
    until(lambda: called(home) == ["open"])
    (run_id,) = api.unfinished_runs(contract.DAG_ID)
    second = start(home)
    _, said = second.communicate(timeout=240)
    (home.project / "go").touch()
    assert second.returncode == contract.EXIT_BUSY, said
    assert run_id in said
    assert api.url in said
    assert str(processes.log_folder(home)) in said
    summary, said = first.communicate(timeout=240)
    assert first.returncode == 0, said
    assert contract.NO_CHANGE in summary
    assert f"using the Airflow at {api.url}" in said


def test_a_failure_is_told(home: Home, api: client.Api) -> None:
    """When a stage fails, the command names it, says why, quotes its log and what to do, and ends with 1."""
    script(home.project, {"validate": {"exit_codes": [contract.EXIT_DATA]}})
    command = start(home)
    _, said = command.communicate(timeout=240)
    assert command.returncode == contract.EXIT_FAILED
    lines = [line.strip() for line in said.splitlines()]
    told = lines[lines.index("validate failed") + 1 :]
    folder = told[4].removeprefix("log:").strip()
    assert told == [
        *("error: validate was told to fail", "where: scenario.json"),
        *("the end of its log:", "error: validate was told to fail, says its log"),
        *(f"log:  {folder}", "next: mend the cause, then make retrain"),
    ]
    assert json.loads((Path(folder) / "result.json").read_text())["exit_code"] == contract.EXIT_DATA
    assert called(home) == ["open", "validate"]


@pytest.mark.parametrize("left", ["an error", "nothing", "no log"])
def test_what_an_attempt_left_is_told_once(tmp_path: Path, left: str) -> None:
    """The error is not repeated at the end of its log; a kill leaves the log alone, a container the error alone."""
    home = make_home(tmp_path, PROJECT)
    folder = attempt.make_folder(home.root, "r-1", "train", 2)
    error = DataError("a row is bad", where="row 7")
    ended = attempt.Attempt(verb="train", exit_code=10, error=as_record(error))
    if left != "nothing":
        (folder / "result.json").write_bytes(ended.to_bytes())
    if left != "no log":
        said = f"error: {error}\n" if left == "an error" else ""
        (folder / "stderr").write_text("epoch 1\nepoch 2\n" + said)
    why, log, where = _left_by(
        home, "r-1", TaskState(task="train", state="failed", attempt=2, started=None, ended=None)
    )
    assert str(why) == ("None" if left == "nothing" else str(error))
    assert log == (None if left == "no log" else ["epoch 1", "epoch 2"])
    assert where == folder
    assert _left_by(home, "r-1", TaskState(task="train", state="failed", attempt=3, started=None, ended=None))[:2] == (
        None,
        None,
    )


def test_new_data_start_a_run(home: Home, api: client.Api) -> None:
    """The announcement of new data starts a run of the DAG in the Airflow that is up."""
    script(home.project, NOTHING_NEW)
    assert "cxr_retrain starts" in announce.announce_dataset(home, "1f" * 20)
    until(lambda: called(home))
    (arguments,) = [call["arguments"] for call in calls(home.project)]
    assert arguments[3].startswith("asset_triggered__")
    until(lambda: not api.unfinished_runs(contract.DAG_ID))


def test_a_run_carries_its_verdict_as_a_note(home: Home, api: client.Api) -> None:
    """What came of a run stands beside it in the Airflow that ran it, and in the log of the task that knows it."""
    script(home.project, NOTHING_NEW)
    run_id = api.trigger(contract.DAG_ID, {})
    until(lambda: not api.unfinished_runs(contract.DAG_ID))
    run = contract.slug(run_id)
    (home.run(run) / "result.json").unlink()  # the stand-in's
    assert announce.note_verdict(home, run) == []
    Result(run=run, airflow_run_id=run_id, verdict="REJECT", run_commit="2c" * 20).write(home.run(run) / "result.json")
    told = announce.note_verdict(home, run)
    assert told[0] == "**REJECT**: the champion stays"
    assert api._call("GET", client._run_path(contract.DAG_ID, run_id))["note"].splitlines() == told


def test_wrong_params_are_refused(api: client.Api) -> None:
    """A run is not made from params that its form would not take."""
    with pytest.raises(SettingsError, match="epochs"):
        api.trigger(contract.DAG_ID, {"epochs": 0})


def test_installations_keep_apart(api: client.Api, tmp_path: Path) -> None:
    """A second installation on the machine takes another address at once, and is never ready at another's."""
    other = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    with processes.running(other) as session:
        assert session.url != api.url
        record = processes.Instance.read(other.airflow / "instance.json")
        assert processes._lacking(api, record.model_copy(update={"url": api.url, "started": 0.0}))


def test_ui_serves_airflow_and_mlflow_until_it_is_stopped(home: Home, api: client.Api) -> None:
    """`ui` names two addresses that answer, Airflow's with the DAG; SIGTERM ends its MLflow and leaves no process."""
    ui = start(home, verb="ui")
    said = dict[str, str]()
    for line in ui.stderr:
        words = line.split()
        if words[-1].startswith("http"):
            said[words[-2]] = words[-1]
        if "Ctrl-C" in line:
            break
    health = f"{said['MLflow']}/health"
    with opener(health).open(health, timeout=30) as answer:
        assert answer.status == 200
    assert client.Api(said["Airflow"]).parsed_at(contract.DAG_ID) is not None
    children = psutil.Process(ui.pid).children(recursive=True)
    assert any("mlflow" in " ".join(child.cmdline()) for child in children)
    ui.terminate()
    assert ui.wait(240) == 0
    assert not [child for child in psutil.wait_procs(children, timeout=10)[1] if child.is_running()]


def test_nobody_is_told_where_no_airflow_runs(tmp_path: Path) -> None:
    """Without an Airflow, the announcement says so and what to do next."""
    home = make_home(tmp_path / "home", make_project(tmp_path / "project"))
    assert "make retrain" in announce.announce_dataset(home, "1f")
    Result(run="r-1", airflow_run_id="manual__1", verdict="REJECT").write(home.run("r-1") / "result.json")
    assert "CXR_AIRFLOW_URL" in announce.note_verdict(home, "r-1")[-1]


def test_a_killed_command_is_taken_over_and_stopped_in_order(tmp_path: Path) -> None:
    """After a `kill -9`, the next command follows the run; SIGTERM then lets training save, and leaves no process."""
    home = make_installation(tmp_path)
    script(home.project, {"train": {"seconds": 600, "checkpoint": 1}})
    killed = start(home)
    until(lambda: "train" in called(home))
    killed.kill()
    killed.wait()
    second = start(home)
    lines: list[str] = []
    assert second.stderr is not None
    for line in second.stderr:
        lines.append(line)
        if "run manual__" in line:
            break
    second.terminate()
    said = "".join([*lines, second.stderr.read()])
    assert second.wait(timeout=200) == contract.EXIT_STOPPED
    assert "following it" in said
    assert "goes on from its checkpoint" in said
    assert called(home).count("train") == 1
    assert (home.project / "train.stopped").exists()
    stage = next(call["pid"] for call in calls(home.project) if call["verb"] == "train")
    parts = json.loads((home.airflow / "instance.json").read_text())["parts"]
    assert not any(psutil.pid_exists(pid) for pid in (stage, *(part["pid"] for part in parts.values())))


def test_a_dry_run_says_what_and_why(tmp_path: Path) -> None:
    """`--dry-run` names the data, the reasons and the stages, and starts nothing."""
    home = make_installation(tmp_path)
    command = start(home, "--dry-run")
    told, said = command.communicate(timeout=60)
    assert command.returncode == 0, said
    assert "(first)" in told
    assert "there is no champion yet" in told
    assert not home.airflow.exists()


def test_the_secret_is_nobody_elses(tmp_path: Path) -> None:
    """The secret that signs tokens has 64 bytes or more, stays the same, and only its owner may read it."""
    home = make_home(tmp_path / "home", PROJECT)
    home.airflow.mkdir()
    first, second = (processes.environment(home, 8080)["AIRFLOW__API_AUTH__JWT_SECRET"] for _ in range(2))
    assert first == second
    assert len(first) >= 64
    assert (home.airflow / "secret").stat().st_mode & 0o777 == 0o600


def test_other_airflows_settings_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller says of an Airflow of their own does not reach the embedded one, but for notices."""
    monkeypatch.setenv("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql://production")
    monkeypatch.setenv("AIRFLOW_CONN_PRODUCTION", "secret")
    monkeypatch.setenv("AIRFLOW_CONN_CXR_CHAT", "http://chat.example")
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(PROJECT), "CXR_NOTIFY": "cxr_chat"})
    home.airflow.mkdir(parents=True)
    env = processes.environment(home, 8080)
    assert env["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] == f"sqlite:///{home.airflow}/airflow.db"
    assert "AIRFLOW_CONN_PRODUCTION" not in env
    assert env["AIRFLOW_CONN_CXR_CHAT"] == "http://chat.example"


def test_another_connection_asks_for_no_other_airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Airflow that runs is the one to use until a connection changes that notices go by; others do not matter."""
    home = Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(PROJECT), "CXR_NOTIFY": "cxr_chat"})
    monkeypatch.setenv("AIRFLOW_CONN_CXR_CHAT", "http://chat.example")
    before = processes._settings(home)
    monkeypatch.setenv("AIRFLOW_CONN_PRODUCTION", "secret")
    assert processes._settings(home) == before
    monkeypatch.setenv("AIRFLOW_CONN_CXR_CHAT", "http://another.example")
    assert processes._settings(home) != before


def test_progress_is_read_by_whole_lines(tmp_path: Path) -> None:
    """The latest report of each stage counts; a line in the writing waits for its end, one cut short is passed over."""
    path = tmp_path / "progress.jsonl"
    progress = Reports(path)
    assert progress.read() == {}
    first, second = ({"stage": "train", "done": done, "total": 9, "unit": "", "text": ""} for done in (1, 2))
    path.write_text(json.dumps(first) + "\n" + json.dumps(second)[:10])
    assert progress.read() == {"train": first}
    path.write_text(json.dumps(first) + "\n" + json.dumps(second) + "\n")
    assert progress.read() == {"train": second}
    with path.open("a") as file:
        file.write(json.dumps(first)[:10] + "\n" + json.dumps(first) + "\n")
    assert progress.read() == {"train": first}
