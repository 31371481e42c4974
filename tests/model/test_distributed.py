"""Several processes: what they sum is one process's, and whatever happens to one ends all."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cxr_ops.errors import CxrError, DataError, SettingsError, StoppedError, as_record, from_record
from cxr_ops.model import distributed

SHARES = ((3, 2), (4, 1), (3, 0))  # images of each process in each step; in the last, one has none

# Takes steps with a float64 network on shares of batches, and leaves what came of it.
STEPS = """
import sys
import torch
from cxr_ops.model import distributed
from test_distributed import SHARES, make_network, step
torch.set_num_threads(1)
with distributed.join(2, "cpu") as ranks:
    torch.manual_seed(ranks.rank)
    net = make_network()
    ranks.broadcast(net.state_dict().values())
    net = distributed.synchronise(net, ranks, "cpu")
    filled = torch.zeros(7, 2)
    filled[ranks.rank :: 2] = torch.arange(14.0).view(7, 2)[ranks.rank :: 2]
    ranks.sum([filled])
    torch.save({
        "steps": [step(net, shares, ranks) for shares in SHARES], "state": net.state_dict(), "filled": filled,
        "any": ranks.any(ranks.rank == 1, False), "bytes": ranks.broadcast_bytes(b"of %d" % ranks.rank),
    }, f"{sys.argv[1]}/{ranks.rank}.pt")
"""

# Says that it runs, then waits, and says that it was asked to stop.
WAIT = """
import os, pathlib, signal, sys, time
def stop(*_):
    place.with_suffix(".asked").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
place = pathlib.Path(sys.argv[1], os.environ["RANK"])
place.touch()
time.sleep(60)
"""


def make_network() -> nn.Module:
    """Both kinds of batch normalisation, the one with places in a picture and the one without."""
    layers = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
    head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 14)
    return nn.Sequential(*layers, *head).double()


def step(net: nn.Module, shares: tuple[int, int], ranks: distributed.Ranks) -> torch.Tensor:
    """The gradient of a mean over a batch of which this process sees its share, and the loss."""
    rng = np.random.default_rng(sum(shares))
    x, target = (torch.from_numpy(rng.normal(1, 3, (sum(shares), *rest))) for rest in ((1, 32, 32), (14,)))
    first = sum(shares[: ranks.rank])
    rows = slice(first, first + shares[ranks.rank]) if ranks.world > 1 else slice(None)
    net.train().zero_grad()
    loss = (net(x[rows]) - target[rows]).square().sum() / target.numel()
    loss.backward()
    pieces = [p.grad for p in net.parameters()] + [loss.detach()]
    ranks.sum(pieces)
    return torch.cat([piece.reshape(-1) for piece in pieces])


def launch(script: str, *arguments: object) -> None:
    distributed.launch([sys.executable, "-c", script, *map(str, arguments)], 2)


def test_steps_of_two_processes_are_those_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, gradients, loss and statistics are one process's to ten digits, and both processes have the same."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    launch(STEPS, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    torch.manual_seed(0)
    net = make_network()
    for shares, ours in zip(SHARES, first["steps"], strict=True):
        alone = step(net, shares, distributed.Ranks())
        assert (ours - alone).norm() < 1e-10 * alone.norm()
        assert ours[-1] == pytest.approx(alone[-1].item(), rel=1e-10)
    for name, tensor in net.state_dict().items():
        torch.testing.assert_close(first["state"][name], tensor, rtol=1e-10, atol=1e-12)
    assert list(first["state"]) == list(net.state_dict())
    for kept in (first, second):
        assert all(torch.equal(*both) for both in zip(kept["steps"], first["steps"], strict=True))
        assert all(torch.equal(kept["state"][name], tensor) for name, tensor in first["state"].items())
        assert torch.equal(kept["filled"], torch.arange(14.0).view(7, 2))
        assert kept["any"] == [True, False]
        assert kept["bytes"] == b"of 0"


@pytest.mark.parametrize("world", [1, 2, 3, 8])
def test_shares_hold_every_image_once(world: int) -> None:
    """Shares of a batch of any size are disjoint, complete, and differ by one image at most."""
    for images in range(20):
        shares = [distributed.Ranks(rank=rank, world=world).share(np.arange(images)) for rank in range(world)]
        assert np.concatenate(shares).tolist() == list(range(images))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_killed_process_ends_the_others(tmp_path: Path) -> None:
    """When one is killed the other is asked to stop, and the error names the one and the signal."""
    kill = """
import os, pathlib, signal, sys, time
while os.environ["RANK"] == "1":
    if pathlib.Path(sys.argv[1], "0").exists(): os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.01)
"""
    began = time.monotonic()
    with pytest.raises(CxrError, match=r"process 1 of the training was killed by SIGKILL") as caught:
        launch(kill + WAIT, tmp_path)
    assert caught.type is CxrError
    assert time.monotonic() - began < 30
    with pytest.raises(CxrError, match="process 0 of the training ended with code 3"):
        launch("import os, sys, time\nif os.environ['RANK'] == '0': sys.exit(3)\ntime.sleep(60)")


def test_the_error_of_one_process_is_the_trainings(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """An error that one process left is raised as itself, though the others then stop; torchrun adds no words."""
    script = """
import os, signal, sys, time
from pathlib import Path
from cxr_ops.errors import DataError, StoppedError
from cxr_ops.stages.__main__ import _leave_word
def end(error):
    _leave_word(error.exit_code, error)
    sys.exit(error.exit_code)
signal.signal(signal.SIGTERM, lambda *_: end(StoppedError("stopped")))
Path(sys.argv[1], os.environ["RANK"]).touch()
while len(list(Path(sys.argv[1]).iterdir())) < 2:
    time.sleep(0.01)
if os.environ["RANK"] == sys.argv[2]:
    end(DataError("no rows", where="index.csv", fix="ingest"))
os.kill(os.getpid(), signal.SIGTERM) if sys.argv[2] == "none" else time.sleep(60)
"""
    for number, failing in enumerate(("1", "0")):
        place = tmp_path / str(number)
        place.mkdir()
        with pytest.raises(DataError, match="no rows") as caught:
            launch(script, place, failing)
        assert (caught.value.where, caught.value.fix) == ("index.csv", "ingest")
    with pytest.raises(StoppedError, match="stopped"):
        launch(script, tmp_path, "none")
    assert capfd.readouterr().err == ""


def test_lack_of_memory_is_known_across_processes() -> None:
    """Whoever started a process that ran out of memory gets the error that means: start again."""
    short = distributed.ShortOfMemoryError("process 1 is out of memory")
    assert type(from_record(as_record(short))) is distributed.ShortOfMemoryError


def test_a_request_to_stop_reaches_all(tmp_path: Path) -> None:
    """SIGTERM is handed on to all processes, which have time to save; afterwards signals are handled as before."""

    def ask() -> None:
        while len(list(tmp_path.iterdir())) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    asking = threading.Thread(target=ask)
    asking.start()
    with pytest.raises(StoppedError, match="stopped on request") as caught:
        launch(WAIT, tmp_path)
    assert "run the same command again" in str(caught.value.fix)
    asking.join()
    assert sorted(path.name for path in tmp_path.glob("*.asked")) == ["0.asked", "1.asked"]
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_torchrun_by_hand_must_start_as_many_as_are_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under torchrun, another number of processes than `train.devices` is refused; without torchrun there is one."""
    with distributed.join(1, "cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        assert ranks.any(True, False) == [True, False]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "by-hand")
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(SettingsError, match="torchrun started 4 processes"), distributed.join(2, "cpu"):
        pass
