"""The docker launcher on a real engine, with workers that die, and a stand-in for the stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import workers
from airflow_runs import Apart
from workers import Site, until

from cxr_ops import attempt, contract

pytestmark = [pytest.mark.stack, pytest.mark.timeout(300)]  # a light image is built, and each container takes seconds

BASE = "python:3.11-slim-bookworm"
USER = 10001 if os.getuid() == 0 else os.getuid()
LATER = ("after exit", "before the end is kept", "after the end is kept", "after removal", "after the result was read")
EARLIER = ("before create", "after create", "before start", "after start", "while it trains")

SAID = {"training", "a line that is no result", "the last words"}


def docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The id of a light image with the stand-in as its command."""
    folder = tmp_path_factory.mktemp("image")
    (folder / "stage.py").write_text(workers.STAGE)
    home = 'RUN mkdir -p /home/cxr && chmod 1777 /home/cxr\nENV HOME=/home/cxr\nENTRYPOINT ["python3", "/stage.py"]\n'
    (folder / "Dockerfile").write_text(f"FROM {BASE}\nCOPY stage.py /stage.py\n{home}")
    env = os.environ | {"DOCKER_BUILDKIT": "0"}
    subprocess.run(["docker", "build", "--tag", "cxr-ops-stand-in", str(folder)], env=env, check=True)
    return docker("image", "inspect", "--format", "{{.Id}}", "cxr-ops-stand-in")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    apart = Apart({"AIRFLOW_HOME": str(tmp_path_factory.mktemp("airflow"))})
    assert apart.call("workers.prepare") is None
    yield apart
    apart.close()


class Engine(Site):
    """An installation whose stages run in containers."""

    @property
    def containers(self) -> list[str]:
        label = f"label=cxr-ops.installation={attempt.installation(self.home)}"
        return docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()


@pytest.fixture
def site(apart: Apart, image: str, tmp_path: Path) -> Iterator[Engine]:
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)  # pytest's folders are for its own user, and containers run as another
    home = tmp_path / "home"
    home.mkdir()
    if os.getuid() == 0:
        os.chown(home, USER, USER)
    site = Engine("docker", apart, home, CXR_PROJECT=str(tmp_path), CXR_IMAGE=image)
    yield site
    for box in site.containers:
        docker("rm", "--force", box)


@pytest.mark.parametrize("point", EARLIER)
def test_a_worker_that_is_killed_leaves_one_training(site: Engine, point: str) -> None:
    """After kill -9 of the worker before the end, the retry goes on with the one container and tells its whole log."""
    site.die(kill=point)
    if point not in ("before create", "after create", "before start"):
        until(lambda: bool(site.events))
    before = site.containers
    retry = site.start(number=2)
    until(lambda: bool(site.events))
    assert len(site.containers) == 1
    assert point == "before create" or site.containers == before
    site.go()
    told = site.wait(retry)
    assert told["result"]["arguments"] == ["--run", "r-1"]
    assert site.events == ["start", "end"]
    # The engine reads the two streams for themselves: the order between them is not certain.
    assert sorted(line for line in told["log"] if line in SAID) == sorted(SAID)
    assert site.containers == []


@pytest.mark.parametrize("point", LATER)
def test_an_end_that_nobody_was_told_of_arrives(site: Engine, point: str) -> None:
    """After kill -9 of the worker at the end, the retry returns the one container's result, and starts no other."""
    site.go()
    site.die(kill=point)
    assert site.work(number=2)["result"]["arguments"] == ["--run", "r-1"]
    assert site.events == ["start", "end"]
    assert site.containers == []


def test_a_failure_that_nobody_was_told_of_arrives(site: Engine) -> None:
    """After kill -9 of the worker at a final failure, the retry fails with its exit code and its words, for good."""
    (site.home / "code").write_text(str(contract.EXIT_DATA))
    site.go()
    site.die(kill="after exit")
    told = site.work(number=2)
    assert told["kind"] == "AirflowFailException"
    assert f"exit code {contract.EXIT_DATA}: told to fail" in told["message"]
    assert site.events == ["start", "end"]
    assert site.containers == []


def test_two_tries_at_once_share_one_container(site: Engine) -> None:
    """A worker that Airflow believes dead and the retry follow the same container, and both are told its end."""
    zombie = site.start()
    until(lambda: bool(site.events))
    retry = site.start(number=2)
    site.go()
    assert site.wait(retry)["result"] == site.wait(zombie)["result"]
    assert site.events == ["start", "end"]
    assert site.containers == []


def test_a_stop_by_somebody_else_is_made_good(site: Engine) -> None:
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
    assert site.containers == []


@pytest.mark.parametrize(
    ("number", "kind"), [(signal.SIGTERM, "AirflowException"), (signal.SIGALRM, "AirflowTaskTimeout")]
)
def test_a_stop_and_a_timeout_wait_for_the_checkpoint(site: Engine, number: signal.Signals, kind: str) -> None:
    """A task that is stopped, or has no time left, ends its stage by SIGTERM, after a checkpoint; nothing is left."""
    worker = site.start()
    until(lambda: bool(site.events))
    os.kill(worker[0], number)
    assert site.wait(worker)["kind"] == kind
    assert site.events == ["start", "checkpoint", "end"]
    assert site.containers == []


def test_a_stage_that_does_not_stop_is_killed_by_the_engine(site: Engine) -> None:
    """After the grace the engine kills what did not stop, though the worker that asked for it was killed meanwhile."""
    (site.home / "deaf").touch()
    site.environ["CXR_GRACE_SECONDS"] = "-18"  # two seconds, with what the launcher waits beyond it
    worker = site.start()
    until(lambda: bool(site.events))
    (box,) = site.containers
    os.kill(worker[0], signal.SIGTERM)
    time.sleep(0.5)  # until the worker's call has reached the engine
    os.kill(worker[0], signal.SIGKILL)
    site.apart.call("workers.wait", worker[0])
    assert docker("wait", box) == "137"


def test_a_cleared_task_is_done_again(site: Engine) -> None:
    """A result of before the clear is not taken for the new wish; what still runs is gone on with."""
    site.go()
    site.die(kill="after exit")
    assert "result" in site.work(number=2, wish=4)
    assert site.events == ["start", "end"] * 2
    assert "result" in site.work(number=3, wish=5)
    assert site.events == ["start", "end"] * 3
    (site.home / "go").unlink()
    site.die(number=4, wish=7, kill="while it trains")
    again = site.start(number=5, wish=9)
    until(site.attempt(5).exists)
    site.go()
    assert "result" in site.wait(again)
    assert site.events == ["start", "end"] * 4


def test_another_recipe_takes_the_place(site: Engine) -> None:
    """A container of other arguments is stopped after its checkpoint, and one of the new ones started."""
    site.die(kill="while it trains")
    (old,) = site.containers
    retry = site.start(number=2, arguments=("--run", "r-1", "--force"))
    until(lambda: site.events.count("start") == 2)
    assert old not in site.containers
    site.go()
    assert site.wait(retry)["result"]["arguments"] == ["--run", "r-1", "--force"]
    assert site.events == ["start", "checkpoint", "end", "start", "end"]


def test_a_removed_result_is_made_again(site: Engine) -> None:
    """A container that ended well without its result is no success; the try after that makes it again."""
    site.go()
    site.die(kill="after exit")
    (result,) = site.home.rglob("result.json")
    result.unlink()
    told = site.work(number=2)
    assert told["kind"] == "AirflowException"
    assert "left no result.json" in told["message"]
    assert "result" in site.work(number=3)
    assert site.events == ["start", "end"] * 2


def test_an_engine_that_does_not_answer_is_no_missing_container(site: Engine, tmp_path: Path) -> None:
    """An engine that is away, or a proxy that answers in its place, fails the try; no second container is started."""
    site.die(kill="while it trains")
    site.environ["DOCKER_HOST"] = f"unix://{tmp_path}/nobody.sock"
    assert site.work(number=2)["kind"] == "AirflowException"

    class Forbids(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/_ping": b"OK", "/version": b'{"ApiVersion": "1.41"}'}
            body = known.get(self.path.removeprefix("/v1.41"), b'{"message": "page not found"}')
            self.send_response(200 if body in known.values() else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 - the library's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbids)
    Thread(target=server.serve_forever, daemon=True).start()
    site.environ["DOCKER_HOST"] = f"tcp://127.0.0.1:{server.server_address[1]}"
    assert site.work(number=3)["kind"] == "NotFound"
    server.shutdown()
    del site.environ["DOCKER_HOST"]
    site.go()
    assert "result" in site.work(number=4)
    assert site.events == ["start", "end"]


def test_a_container_may_do_little(site: Engine) -> None:
    """It has no rights, writes in no file of the image, and gets the limits that are set; secrets are its own alone."""
    limits = {"CXR_MEMORY_BYTES": str(2**28), "CXR_CPUS": "0.5", "CXR_SHM_BYTES": str(2**24)}
    site.environ |= {**limits, "AWS_SECRET_ACCESS_KEY": "canary"}
    worker = site.start()
    until(lambda: bool(site.events))
    (box,) = json.loads(docker("inspect", *site.containers))
    site.go()
    told = site.wait(worker)
    host = box["HostConfig"]
    assert (host["Memory"], host["NanoCpus"], host["ShmSize"]) == (2**28, 500_000_000, 2**24)
    assert (host["ReadonlyRootfs"], host["Privileged"], host["PidsLimit"]) == (True, False, 4096)
    facts = told["result"]
    assert (facts["uid"], int(facts["capabilities"], 16), facts["gains"]) == (USER, 0, "1")
    assert [facts[place] for place in ("root", "project", "tmp", "home")] == [False, False, True, True]
    assert facts["secrets"] == ["AWS_SECRET_ACCESS_KEY"]
    assert "canary" not in json.dumps([told, box["Config"]["Labels"]])


def test_a_sweep_sees_our_own_containers_alone(site: Engine, apart: Apart, image: str, tmp_path: Path) -> None:
    """What the launcher lists as ours is ours, with the task that it is of; another installation's is not in it."""
    site.die(kill="while it trains")
    other = docker("run", "--detach", "--label", "cxr-ops.installation=another", "--entrypoint", "sleep", image, "300")
    try:
        assert apart.call("workers.left", "docker", str(site.home)) == [["cxr_retrain", workers.RUN_ID, "train"]]
        apart.call("workers.end_all", "docker", str(site.home))
        assert site.containers == []
        assert site.events == ["start", "checkpoint", "end"]
        assert docker("inspect", "--format", "{{.State.Running}}", other) == "true"
    finally:
        docker("rm", "--force", other)
