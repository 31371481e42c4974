"""The machine: chosen by what it is, its switches put back, its lack of memory known by what torch says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cxr_ops.errors import SettingsError
from cxr_ops.model import machine
from cxr_ops.params import Train


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="the second source is Linux's /proc/cpuinfo")
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU decides otherwise")
def test_precision_follows_the_processor() -> None:
    """`auto` takes bf16 exactly where the processor's flags name bf16, and a setting overrides it."""
    words = set(Path("/proc/cpuinfo").read_text().split())
    has_bf16 = bool(words & {"avx512_bf16", "amx_bf16", "bf16"})
    chosen = machine.choose_machine(Train())
    assert chosen.precision == ("bf16" if has_bf16 else "fp32")
    assert chosen.device == "cpu"
    assert machine.choose_machine(Train(precision="fp32", threads=3)).precision == "fp32"
    assert machine.choose_machine(Train(threads=3)).threads == 3
    with pytest.raises(SettingsError, match="no GPU"):
        machine.choose_machine(Train(device="cuda"))


def test_switches_are_put_back() -> None:
    """What torch was set to before a training it is set to afterwards."""
    before = torch.get_num_threads()
    with machine.reproducible(machine.Machine(device="cpu", precision="fp32", threads=before + 1)):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == before + 1
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before


def test_knows_that_there_is_no_memory() -> None:
    """What torch raises for more memory than any machine has is known as such; other errors of its class are not."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert machine.out_of_memory(caught.value)
    assert machine.out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError) as caught:
        torch.ones(2) @ torch.ones(3)
    assert not machine.out_of_memory(caught.value)


@pytest.mark.parametrize(("given", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_that_wait_sleep(given: dict[str, str], policy: str) -> None:
    """torch's OpenMP runtime says itself, as it is loaded, that its threads wait asleep, or as the caller wants."""
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run(
        [sys.executable, "-c", "import cxr_ops.model.machine"],
        env={**environment, **given, "OMP_DISPLAY_ENV": "TRUE"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"OMP_WAIT_POLICY = '{policy}'" in done.stderr
