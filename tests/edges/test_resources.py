"""Time and energy of a training are what the machine says, and nothing where it says nothing."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
from projects import make_home

from cxr_ops.edges import resources
from cxr_ops.edges.home import Home
from cxr_ops.errors import StoppedError

RUN, TRAINING = "run-1", "a" * 64


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An installation with a run, on a machine that says nothing of its energy."""
    monkeypatch.setattr(resources, "POWERCAP", tmp_path / "powercap")
    monkeypatch.setattr(resources, "SAMPLE_SECONDS", 0.02)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    home = make_home(tmp_path / "home", tmp_path)
    home.run(RUN).mkdir(parents=True)
    return home


def counter(name: str, microjoules: int) -> None:
    """What the kernel shows of a processor; a stand-in, because few machines have the folder and may read it."""
    folder = resources.POWERCAP / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "name").write_text("package-0\n" if name.count(":") == 1 else "core\n")
    (folder / "max_energy_range_uj").write_text("999999999\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")


def test_what_is_not_measured_is_not_told(home: Home) -> None:
    """Without RAPL and nvidia-smi there is a time, and no energy; without a training there is neither."""
    assert resources.read(home, RUN) is None
    began = time.monotonic()
    with resources.measure(home, RUN, TRAINING):
        pass
    spent = resources.read(home, RUN)
    assert 0 <= spent.seconds <= time.monotonic() - began + 0.1
    assert (spent.attempts, spent.processor_joules, spent.gpu_joules) == (1, None, None)


def test_processors_are_counted_over_attempts_and_the_counters_end(home: Home) -> None:
    """Each package once, parts of it not again; a counter that begins anew, and a second attempt, add up."""
    counter("intel-rapl:0", 999_000_000)
    counter("intel-rapl:0:0", 0)

    def stopped() -> None:
        with resources.measure(home, RUN, TRAINING):
            counter("intel-rapl:0", 4_999_999)  # 6 J later
            counter("intel-rapl:0:0", 900_000_000)
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        stopped()
    assert resources.read(home, RUN).processor_joules == pytest.approx(6.0, abs=0.1)
    with resources.measure(home, RUN, TRAINING):
        counter("intel-rapl:0", 6_999_999)
    spent = resources.read(home, RUN)
    assert (spent.attempts, spent.processor_joules) == (2, pytest.approx(8.0, abs=0.1))
    with resources.measure(home, RUN, "b" * 64):  # another training of the same run
        pass
    assert resources.read(home, RUN).attempts == 1


def test_energy_that_was_not_always_readable_is_unknown(home: Home) -> None:
    """A part of the time is no measurement of the whole."""
    counter("intel-rapl:0", 0)
    with resources.measure(home, RUN, TRAINING):
        (resources.POWERCAP / "intel-rapl:0" / "energy_uj").unlink()
    assert resources.read(home, RUN).processor_joules is None


def test_what_was_restored_took_nothing(home: Home) -> None:
    """A stage that DVC restored was not trained here: what was on record of an earlier attempt stays, and no more."""
    with resources.measure(home, RUN, TRAINING) as attempt:
        attempt.ran = False
    assert resources.read(home, RUN) is None
    with resources.measure(home, RUN, TRAINING):
        pass
    with resources.measure(home, RUN, TRAINING) as attempt:
        attempt.ran = False
    assert resources.read(home, RUN).attempts == 1


def test_a_killed_supervisor_loses_little(home: Home) -> None:
    """What was measured stands in the file while the training runs."""
    late = time.monotonic() + 60

    def over() -> bool:
        return time.monotonic() > late

    with resources.measure(home, RUN, TRAINING):
        while (found := resources.read(home, RUN)) is None or found.seconds < 0.1:
            assert not over()
    assert resources.read(home, RUN).attempts == 1


def test_gpus_are_asked_for_their_power(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Power over time is energy; a GPU that does not say its power makes it unknown."""
    script = tmp_path / "bin" / "nvidia-smi"  # a stand-in: there is no GPU where tests run
    script.write_text(f"#!{sys.executable}\nprint('300.0\\n100.0')\n")
    script.chmod(0o755)
    assert resources.gpu_watts() == 400
    with resources.measure(home, RUN, TRAINING):
        time.sleep(0.1)  # energy is power over time
    spent = resources.read(home, RUN)
    assert spent.gpu_joules == pytest.approx(400 * spent.seconds, rel=0.2, abs=25)
    script.write_text(f"#!{sys.executable}\nprint('300.0\\n[N/A]')\n")
    assert resources.gpu_watts() is None
