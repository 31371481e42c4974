"""The process launcher with workers that die, and a stand-in for the stage: real processes, and no Airflow database."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import workers
from airflow_runs import Apart
from workers import Site, until

from cxr_ops import contract

pytestmark = [pytest.mark.airflow, pytest.mark.timeout(120)]  # each wait is for what takes a second

KEEPER = "cxr_ops.launchers.keeper"
EARLIER = ("before start", "after start", "while it trains")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    apart = Apart({"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))})
    assert apart.call("workers.prepare") is None
    yield apart
    apart.close()


@pytest.fixture
def site(apart: Apart, tmp_path: Path) -> Iterator[Site]:
    module = tmp_path / "project" / "cxr_ops"
    module.mkdir(parents=True)
    (module / "__init__.py").touch()
    (module / "__main__.py").write_text(workers.STAGE)
    home = tmp_path / "home"
    home.mkdir()
    yield Site("process", apart, home, CXR_PROJECT=str(module.parent), CXR_PYTHON=sys.executable)
    for process in running(home):
        process.kill()


def running(home: Path) -> list[psutil.Process]:
    """The live processes of an installation's stages: keepers and commands."""
    found = []
    for process in psutil.process_iter():
        try:
            if str(home) in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone meanwhile
            continue
    return found


@pytest.mark.parametrize("point", EARLIER)
def test_a_worker_that_is_killed_leaves_one_training(site: Site, point: str) -> None:
    """After kill -9 of the worker before the end, the retry goes on with the one process and tells its whole log."""
    site.die(kill=point)
    if point != "before start":
        until(lambda: bool(site.events))
    before = running(site.home)
    retry = site.start(number=2)
    until(lambda: bool(site.events))
    assert point == "before start" or running(site.home) == before
    site.go()
    told = site.wait(retry)
    assert told["result"]["arguments"] == ["--run", "r-1"]
    assert site.events == ["start", "end"]
    assert [line for line in told["log"] if line in ("training", "the last words")] == ["training", "the last words"]
    assert running(site.home) == []


@pytest.mark.parametrize("point", ["after exit", "after the result was read"])
def test_an_end_that_nobody_was_told_of_arrives(site: Site, point: str) -> None:
    """After kill -9 of the worker at the end, the retry returns the one process's result, and starts no other."""
    site.go()
    site.die(kill=point)
    assert site.work(number=2)["result"]["arguments"] == ["--run", "r-1"]
    assert site.events == ["start", "end"]


def test_an_end_without_a_worker_arrives(site: Site) -> None:
    """A stage that ends while no worker lives has its result, and a final failure its exit code, told by the retry."""
    site.die(kill="while it trains")
    (site.home / "code").write_text(str(contract.EXIT_DATA))
    site.go()
    until(lambda: not running(site.home))
    told = site.work(number=2)
    assert told["kind"] == "AirflowFailException"
    assert f"exit code {contract.EXIT_DATA}: told to fail" in told["message"]
    assert site.events == ["start", "end"]


def test_two_tries_at_once_share_one_process(site: Site) -> None:
    """A worker that Airflow believes dead and the retry follow the same process, and both are told its end."""
    zombie = site.start()
    until(lambda: bool(site.events))
    retry = site.start(number=2)
    until(site.attempt(2).exists)
    site.go()
    assert site.wait(retry)["result"] == site.wait(zombie)["result"]
    assert site.events == ["start", "end"]


def test_a_stop_by_somebody_else_is_made_good(site: Site) -> None:
    """What a worker that was given up stops after its checkpoint goes on in the try that follows it."""
    zombie = site.start()
    until(lambda: bool(site.events))
    retry = site.start(number=2)
    until(site.attempt(2).exists)
    os.kill(zombie[0], signal.SIGTERM)
    until(lambda: site.events.count("start") == 2)
    site.go()
    assert "result" in site.wait(retry)
    assert "stopped by SIGTERM" in site.wait(zombie)["message"]
    assert site.events == ["start", "checkpoint", "end", "start", "end"]


def test_a_timeout_waits_for_the_checkpoint(site: Site) -> None:
    """A task that runs out of time asks its stage to stop, and the retry goes on after the checkpoint."""
    worker = site.start()
    until(lambda: bool(site.events))
    os.kill(worker[0], signal.SIGALRM)
    assert site.wait(worker)["kind"] == "AirflowTaskTimeout"
    until(lambda: not running(site.home))
    assert site.events == ["start", "checkpoint", "end"]
    site.go()
    assert "result" in site.work(number=2)


def test_a_stage_that_does_not_stop_is_killed(site: Site) -> None:
    """After the grace its keeper kills what did not stop, though the worker that asked for it was killed meanwhile."""
    (site.home / "deaf").touch()
    site.environ["CXR_GRACE_SECONDS"] = "-20"  # at once: with what the launcher waits beyond it, nothing
    worker = site.start()
    until(lambda: bool(site.events))
    until(site.attempt(1).joinpath("stderr").read_text)
    os.kill(worker[0], signal.SIGTERM)
    message = site.wait(worker)["message"]
    assert "exit code -9 (SIGKILL); it left no result.json" in message
    assert running(site.home) == []


def test_another_command_takes_the_place(site: Site) -> None:
    """A process of other arguments is stopped after its checkpoint, before one of the new ones is started."""
    site.die(kill="while it trains")
    retry = site.start(number=2, arguments=("--run", "r-1", "--force"))
    until(lambda: site.events.count("start") == 2)
    site.go()
    assert site.wait(retry)["result"]["arguments"] == ["--run", "r-1", "--force"]
    assert site.events == ["start", "checkpoint", "end", "start", "end"]


def test_a_cleared_task_and_a_removed_result_are_done_again(site: Site) -> None:
    """A result of before the clear is not taken for the new wish, nor is an end without its result a success."""
    site.go()
    site.die(kill="after the result was read")
    assert "result" in site.work(number=2, wish=4)
    assert site.events == ["start", "end"] * 2
    site.die(number=3, wish=6, kill="after start")
    until(lambda: not running(site.home))
    site.attempt(3).joinpath("result.json").unlink()
    assert "left no result.json" in site.work(number=4, wish=6)["message"]
    assert "result" in site.work(number=5, wish=6)
    assert site.events == ["start", "end"] * 4


def test_a_keeper_that_is_killed_is_no_second_training(site: Site) -> None:
    """While the command of a killed keeper lives, nobody starts another; its end, which nobody saw, is no success."""
    site.die(kill="while it trains")
    keeper = next(
        process for process in running(site.home) if "cxr_ops.launchers.keeper" in " ".join(process.cmdline())
    )
    keeper.kill()
    retry = site.start(number=2)
    until(site.attempt(2).exists)
    site.go()
    assert "but its result.json says exit code 0" in site.wait(retry)["message"]
    assert site.events == ["start", "end"]


def test_a_sweep_sees_what_runs_and_ends_it(site: Site, apart: Apart) -> None:
    """What the launcher lists is what runs, with the task that it is of; it ends it after a checkpoint."""
    site.die(kill="while it trains")
    assert apart.call("workers.left", "process", str(site.home)) == [["cxr_retrain", workers.RUN_ID, "train"]]
    assert apart.call("workers.end_all", "process", str(site.home)) is None
    assert site.events == ["start", "checkpoint", "end"]
    assert running(site.home) == []
    assert apart.call("workers.left", "process", str(site.home)) == []
