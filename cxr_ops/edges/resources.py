"""How long a training took and what energy it used, as far as the machine says: `resources.json` in a run's folder.

Energy is measured or it is not told. The processors' is what RAPL counts (`/sys/class/powercap`, Intel and AMD): of all
their packages, whoever uses them, without memory, disks and fans. The GPUs' is the power that nvidia-smi says, read
every `SAMPLE_SECONDS` and summed over time. Many machines say neither: RAPL is for root alone since 2020
(CVE-2020-8694), and containers do not see it.

What is measured is written at each sample, so that of a supervisor that is killed little is lost; attempts at the same
training add up. Nothing here ends a training.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cxr_ops.edges.home import Home
from cxr_ops.errors import CxrError
from cxr_ops.records.run import Spent

FILE: Final = "resources.json"
SAMPLE_SECONDS = 10.0
POWERCAP = Path("/sys/class/powercap")


@dataclass
class Attempt:
    """One attempt at a training. `ran`: whether it ran, and was not restored from an earlier run."""

    ran: bool = True


@contextmanager
def measure(home: Home, run: str, training: str) -> Iterator[Attempt]:
    """Measure for as long as the block runs, and add it to what attempts at the same training took.

    Args:
        home: the installation.
        run: the run's name.
        training: digest of the stage's inputs.
    """
    path = home.run(run) / FILE
    before = read(home, run)
    if before is not None and before.training != training:
        before = None
    attempt, meter = Attempt(), _Meter(_packages(), gpu_watts())
    over = threading.Event()

    def keep(spent: Spent | None) -> None:
        with suppress(OSError):  # a full disk is no reason to end a training
            if spent is None:
                path.unlink(missing_ok=True)
            else:
                spent.write(path)

    def sample() -> None:
        while not over.wait(SAMPLE_SECONDS):
            meter.sample(_packages(), gpu_watts())
            keep(meter.added_to(before, training))

    thread = threading.Thread(target=sample, name="resources", daemon=True)
    thread.start()
    try:
        yield attempt
    finally:
        over.set()
        thread.join()
        meter.sample(_packages(), gpu_watts())
        keep(meter.added_to(before, training) if attempt.ran else before)


def read(home: Home, run: str) -> Spent | None:
    """What a run's training took; None where nobody measured it, as where it was restored from an earlier run."""
    path = home.run(run) / FILE
    try:
        return Spent.read(path) if path.is_file() else None
    except CxrError:  # torn or edited: it is told, and never evidence
        return None


@dataclass
class _Meter:
    """Sums energy between samples; what a sample lacks makes the sum unknown."""

    counters: dict[str, tuple[int, int]] | None
    watts: float | None
    joules: float | None = 0.0
    gpu_joules: float | None = 0.0
    began: float = field(default_factory=time.monotonic)
    at: float = field(default_factory=time.monotonic)

    def sample(self, counters: dict[str, tuple[int, int]] | None, watts: float | None) -> None:
        now = time.monotonic()
        if self.joules is not None and self.counters and counters and counters.keys() == self.counters.keys():
            # A counter that has run over begins at 0 again.
            used = sum((new - self.counters[name][0]) % (top + 1) for name, (new, top) in counters.items())
            self.joules += used / 1e6
        else:
            self.joules = None
        if self.gpu_joules is not None and self.watts is not None and watts is not None:
            self.gpu_joules += (self.watts + watts) / 2 * (now - self.at)
        else:
            self.gpu_joules = None
        self.counters, self.watts, self.at = counters, watts, now

    def added_to(self, before: Spent | None, training: str) -> Spent:
        def both(was: float | None, more: float | None) -> float | None:
            return None if more is None or was is None else round(was + more, 1)

        return Spent(
            training=training,
            attempts=1 + (before.attempts if before else 0),
            seconds=round(self.at - self.began + (before.seconds if before else 0.0), 1),
            processor_joules=both(before.processor_joules if before else 0.0, self.joules),
            gpu_joules=both(before.gpu_joules if before else 0.0, self.gpu_joules),
        )


def _packages() -> dict[str, tuple[int, int]] | None:
    """Each processor's energy in microjoules and where its counter ends; None where it is not told or not readable."""
    found: dict[str, tuple[int, int]] = {}
    try:
        for folder in sorted(POWERCAP.glob("intel-rapl:*")):  # AMD's are called so too
            if (folder / "name").read_text().startswith("package"):
                counted, top = ((folder / name).read_text() for name in ("energy_uj", "max_energy_range_uj"))
                found[folder.name] = (int(counted), int(top))
    except (OSError, ValueError):
        return None
    return found or None


def gpu_watts() -> float | None:
    """The power that all GPUs draw that training may use, in watts; None where one of them does not say.

    The driver brings nvidia-smi; a Python package for the same would be one more dependency.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
    if chosen is not None:
        command.append(f"--id={chosen}")
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
        return sum(float(line) for line in said.splitlines()) if said.strip() else None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
