"""A training's metrics in MLflow while it runs.

The stage knows nothing of MLflow: it appends lines to its progress file (`contract.report_progress`). Its supervisor
follows that file in a thread, adds lines about processor, memory and GPUs, and sends what is new to the MLflow run that
`publish` completes later. The file is the spool, and beside it stands how far it has been sent: what MLflow could not
take is sent when it answers again, when the stage is run again, or by `publish`. No error of MLflow reaches the
training. Its end waits `END_SECONDS` for what is still to be sent, and not at all where MLflow did not answer last.

Sent are a finished epoch's row, as `publish` writes it (step: epoch); what the stage says of itself within an epoch, as
`live/...` (step: images); and the machine, as `system/...` (step: sample). Of the stages' lines only those of `train`
are read, and training sees no test image.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import psutil

from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow import tracking
from cxr_ops.errors import CxrError, StoppedError, StorageError
from cxr_ops.records.base import canonical_json, write_atomic

STAGE: Final = "train"
LOOK_SECONDS = 2.0  # between looks at the spool
SAMPLE_SECONDS = 10.0  # between samples of the machine
THIN_SECONDS = 5.0  # between lines within an epoch that are sent: a GPU's training writes several a second
RETRY_SECONDS = (2.0, 60.0)  # after a first failure, and at most; doubled each time
END_SECONDS = 5.0
_CHUNK: Final = 1 << 20  # bytes of the spool that are worked on at a time
_SYSTEM: Final = "system"
# What in a line says where the training stands, and not how it goes; the AUC is the last finished epoch's.
_POSITION: Final = frozenset({"at", "done", "total", "epoch", "epochs", "validation_auc", "seconds_left"})


@dataclass(frozen=True, kw_only=True)
class _Place:
    """How far a run's spool has been sent.

    Attributes:
        training: digest of what the training is given. Another training starts anew.
        start: where in the spool its lines begin, in bytes.
        offset: up to where they have been sent.
        run_id: the MLflow run that they were sent to.
        epoch: the last epoch whose row was sent.
        images: the furthest line within an epoch that was sent. A training that goes on from a checkpoint says again
            what was said before.
        at: that line's time, in seconds since 1970.
        samples: samples of the machine that were sent.
    """

    training: str
    start: int
    offset: int
    run_id: str | None = None
    epoch: int = 0
    images: float = 0.0
    at: float = 0.0
    samples: int = 0


@contextmanager
def follow(home: Home, run: str, training: str, pid: int) -> Iterator[None]:
    """Send to MLflow what a training reports, in a thread, for as long as the block runs.

    The MLflow run ends as the block does: FINISHED, KILLED (stopped on request) or FAILED.

    Args:
        home: the installation.
        run: the run's name.
        training: digest of the stage's inputs.
        pid: the process whose use of the machine is measured, with all that it starts.
    """
    follower = _Follower(home, run, pid)
    follower.start(training)
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except StoppedError:
        status = "KILLED"
        raise
    finally:
        follower.end(status)


def replay(home: Home, run: str, status: str | None = None) -> None:
    """Send what a run's spool holds and MLflow has not been sent, in order.

    Sent again after a crash, a point is the same point: MLflow has it once.

    Args:
        home: the installation.
        run: the run's name.
        status: the status that the MLflow run takes afterwards, if there is one; None: it is left as it is.

    Raises:
        StorageError: MLflow does not answer or refuses.
        OSError: the spool cannot be read, or how far it was sent cannot be written.
    """
    place = _load(_place_file(home, run))
    if place is None:
        return
    run_id: str | None = None
    while data := _whole_lines(home.progress(run), place.offset):
        points, after = _take(data, place)
        if points:
            if run_id is None:
                run_id = tracking.live_run(home, run, place.training)
                if run_id is None:  # it has been published
                    return
                if run_id != place.run_id:  # the first, or one in place of a lost one: it holds nothing
                    place = _Place(training=place.training, start=place.start, offset=place.start, run_id=run_id)
                    continue
            tracking.log_points(home, run_id, points)
        _save(_place_file(home, run), after)
        place = after
    if status is not None and place.run_id is not None:
        tracking.end_run(home, place.run_id, status)


class _Follower:
    """The thread, which alone sends while it runs. An error of MLflow or of the disk makes it wait, and nobody else."""

    def __init__(self, home: Home, run: str, pid: int) -> None:
        self._home, self._run = home, run
        self._usage = _Usage(pid)
        self._size = 0  # of the spool at the beginning
        self._retry = 0.0  # seconds from the last attempt to the next; 0: the last one was well
        self._status: str | None = None
        self._ending = threading.Event()
        # A daemon: the process may end while a server lets it wait.
        self._thread = threading.Thread(target=self._work, name="live metrics", daemon=True)

    def start(self, training: str) -> None:
        path = _place_file(self._home, self._run)
        try:
            self._size = _size(self._home.progress(self._run))
            place = _load(path)
            if place is None or place.training != training:
                _save(path, _Place(training=training, start=self._size, offset=self._size))
        except OSError as error:
            _tell(f"metrics are not sent to MLflow while it runs: {error}")
        else:
            self._thread.start()

    def end(self, status: str) -> None:
        if _size(self._home.progress(self._run)) > self._size:  # else it has not run, but was restored or unchanged
            self._status = status
        self._ending.set()
        if self._thread.is_alive() and not self._retry:
            self._thread.join(END_SECONDS)

    def _work(self) -> None:
        sample_at, attempt_at = time.monotonic() + SAMPLE_SECONDS / 2, 0.0
        while not self._ending.wait(LOOK_SECONDS):
            if time.monotonic() >= sample_at:
                sample_at = time.monotonic() + SAMPLE_SECONDS
                self._sample()
            if time.monotonic() >= attempt_at:
                self._attempt()
                attempt_at = time.monotonic() + self._retry
        if not self._retry:
            self._attempt(self._status)

    def _attempt(self, status: str | None = None) -> None:
        try:
            replay(self._home, self._run, status)
        except (StorageError, OSError) as error:
            if not self._retry:
                what = error.what if isinstance(error, CxrError) else error
                _tell(f"metrics are kept, to be sent to MLflow later: {what}")
            first, most = RETRY_SECONDS
            self._retry = min(most, 2 * self._retry or first)
        else:
            if self._retry:
                _tell("the metrics that were kept have been sent to MLflow")
            self._retry = 0.0

    def _sample(self) -> None:
        line = {"stage": _SYSTEM, "at": round(time.time(), 3), **self._usage.sample(), **gpu_usage()}
        with suppress(OSError), self._home.progress(self._run).open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(f"{STAGE}: {text}\n")


# ------------------------------------------------------------------------------------------------------ the spool


def _take(data: bytes, place: _Place) -> tuple[list[tracking.Point], _Place]:
    """What of some whole lines is sent, and the place behind them."""
    points: list[tracking.Point] = []
    for text in data.splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # torn by a full disk
            continue
        if line.get("stage") == _SYSTEM:
            place = replace(place, samples=place.samples + 1)
            points += _points("system/", line, {"at"}, line["at"], place.samples)
        elif line.get("stage") == STAGE and "at" in line:
            row = line.get("history", {})
            if row.get("epoch", 0) > place.epoch:
                place = replace(place, epoch=int(row["epoch"]))
                points += _points("", row, {"epoch"}, line["at"], place.epoch)
            if line["done"] > place.images and line["at"] >= place.at + THIN_SECONDS:
                place = replace(place, images=line["done"], at=line["at"])
                points += _points("live/", line, _POSITION, line["at"], int(line["done"]))
    return points, replace(place, offset=place.offset + len(data))


def _points(
    prefix: str, values: Mapping[str, Any], without: Set[str], at: float, step: int
) -> Iterator[tracking.Point]:
    for key, value in values.items():
        if key not in without and isinstance(value, float | int) and math.isfinite(value):
            yield tracking.Point(key=prefix + key, value=float(value), at=round(1000 * at), step=step)


def _whole_lines(spool: Path, offset: int) -> bytes:
    """Lines of the spool from an offset on, as many as are worked on at a time."""
    try:
        with spool.open("rb") as file:
            file.seek(offset)
            data = file.read(_CHUNK)
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]  # the last one may still be in the writing


def _size(spool: Path) -> int:
    try:
        return spool.stat().st_size
    except FileNotFoundError:
        return 0


def _place_file(home: Home, run: str) -> Path:
    return home.run(run) / "live.json"


def _load(path: Path) -> _Place | None:
    """The place on record; None where there is none, or none that this version wrote."""
    try:
        return _Place(**json.loads(path.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def _save(path: Path, place: _Place) -> None:
    write_atomic(path, canonical_json(asdict(place)))


# ---------------------------------------------------------------------------------------------------- the machine


class _Usage:
    """What a process and all that it started use of the machine."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._spent: dict[int, float] = {}  # seconds of processor time by process, at the last sample
        self._at = time.monotonic()

    def sample(self) -> dict[str, float]:
        """Processor time since the last sample in per cent (100: one core), resident memory in megabytes.

        What shares memory counts it each time. What has started and ended between two samples is not seen.
        """
        spent, memory = {}, 0
        for process in self._processes():
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    memory += process.memory_info().rss
                    spent[process.pid] = times.user + times.system
            except psutil.Error:  # gone meanwhile
                continue
        now, since = time.monotonic(), self._at
        used = sum(max(0.0, seconds - self._spent.get(pid, 0.0)) for pid, seconds in spent.items())
        self._spent, self._at = spent, now
        return {
            "process_cpu_percentage": round(100 * used / max(now - since, 1e-3), 1),
            "process_memory_megabytes": round(memory / 1e6, 1),
        }

    def _processes(self) -> list[psutil.Process]:
        try:
            first = psutil.Process(self._pid)
            return [first, *first.children(recursive=True)]
        except psutil.Error:
            return []


def gpu_usage() -> dict[str, float]:
    """Use in per cent and memory in megabytes of each GPU that training may use, as nvidia-smi says; empty without it.

    The driver brings nvidia-smi; a Python package for the same would be one more dependency.
    """
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    command = ["nvidia-smi", "--query-gpu=index,utilization.gpu,memory.used", "--format=csv,noheader,nounits"]
    if chosen is not None:
        command.append(f"--id={chosen}")
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    usage = {}
    for line in said.splitlines():
        index, *numbers = (word.strip() for word in line.split(","))
        with suppress(ValueError):  # "[N/A]": this GPU does not say
            busy, mebibytes = (float(number) for number in numbers)
            usage[f"gpu_{index}_utilization_percentage"] = busy
            usage[f"gpu_{index}_memory_usage_megabytes"] = round(mebibytes * 1.048576, 1)
    return usage
