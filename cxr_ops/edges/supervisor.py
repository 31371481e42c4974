"""Runs one deterministic stage of a run through DVC, and answers for all the processes that this takes.

What `dvc repro` alone does not do: hand a SIGTERM to the stage and wait for its checkpoint, keep two trainings from
running on the same inputs, find what a killed predecessor left running, and tell the true exit code.

Each supervisor holds two OS locks, on the workspace and on the digest of the stage's inputs, which the kernel releases
when it dies, however it dies. A lock's file names the processes under it by a token that all of them carry in their
environment: unlike a process id it is never given to another process, and it also marks those that left the process
group. Whoever takes a lock and finds such a name there ends what still carries it.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import psutil

from cxr_ops import errors
from cxr_ops.contract import EXIT_FAILED
from cxr_ops.edges import dvc, live, resources
from cxr_ops.edges.home import Home
from cxr_ops.errors import BusyError, CxrError, DataError, SettingsError, StoppedError, StorageError
from cxr_ops.locks import Lock
from cxr_ops.records.base import canonical_json, sha256_bytes
from cxr_ops.records.run import OPENED

_TOKEN = "CXR_SUPERVISED"  # noqa: S105 - a mark on processes, no secret
_POLL = 0.2  # seconds
_KILLED = 10.0  # seconds in which a killed process must be gone


def supervise(home: Home, run: str, stage: str, *, before: Callable[[], None] | None = None) -> dict[str, Any]:
    """Run a stage in a run's workspace, or restore it from DVC's run cache.

    Waits while another supervisor works in this workspace (one that was asked to end may still wait for its
    checkpoint) or on the same inputs, so that they are worked on once. SIGTERM and SIGINT are handed on; a stage that
    has not ended CXR_GRACE_SECONDS (120) later is killed.

    Args:
        home: the installation.
        run: the run's name.
        stage: a stage of the workspace's `dvc.yaml`.
        before: called with both locks held, right before the stage may run. It may write what the stage depends on.

    Returns:
        `run`, `stage`, `inputs` (digest of all that the outputs depend on), `outs` (digest of what DVC recorded of
        them) and `ran` (False: unchanged, or restored).

    Raises:
        BusyError: a process that was left running cannot be ended.
        DataError: the run has not been opened, or an earlier stage has not run.
        StoppedError: ended on request.
        CxrError: whatever error the stage ended with, of the same class and with the same exit code.
    """
    workspace = home.workspace(run)
    if not (home.run(run) / OPENED).is_file():
        raise DataError(f"the run {run} has not been opened", where=workspace, fix=f"cxr-ops stage open --run {run}")
    grace = home.settings.grace_seconds
    with _Signals() as signals, hold_workspace(home, run, signals.check) as lock:
        stages = dvc.read_pipeline(workspace)
        if stage not in stages:
            raise SettingsError(f"{dvc.PIPELINE} has no stage {stage!r}", where=workspace)
        digest = dvc.stage_digest(workspace, stages, stage)
        with _locked(home.locks / f"{digest}.lock", signals.check, "the same inputs", grace) as shared:
            if before is not None:
                before()
                digest = dvc.stage_digest(workspace, stages, stage)  # it may have written what the stage depends on
            ran = _repro(home, run, stage, digest, signals, (lock, shared), grace)
        outs = dvc.read_lock(workspace)[stage].get("outs", [])
        return {"run": run, "stage": stage, "inputs": digest, "outs": sha256_bytes(canonical_json(outs)), "ran": ran}


@contextmanager
def hold_workspace(home: Home, run: str, meanwhile: Callable[[], None] | None = None) -> Iterator[Lock]:
    """Own a run's workspace: end what a killed predecessor left running in it, and remove DVC's record of its locks.

    Args:
        home: the installation.
        run: the run's name.
        meanwhile: called while another process owns it; None: do not wait.

    Raises:
        BusyError: another process owns it, and there is no waiting.
    """
    workspace = home.workspace(run)
    with _locked(home.workspace_lock(run), meanwhile, f"the run {run}", home.settings.grace_seconds) as lock:
        # DVC believes a lock whose process id lives on in another process. Nobody but the owner may be at work here.
        (workspace / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)
        yield lock


def _repro(
    home: Home, run: str, stage: str, digest: str, signals: _Signals, locks: tuple[Lock, ...], grace: float
) -> bool:
    """Run `dvc repro` for one stage; return whether the stage's command ran."""
    token = secrets.token_hex(16)
    exit_file = home.locks / f"{token}.exit"
    checkpoints = home.checkpoints / digest
    checkpoints.mkdir(parents=True, exist_ok=True)
    env = dvc.environment(home) | {
        _TOKEN: token,
        "CXR_EXIT_FILE": str(exit_file),
        "CXR_CHECKPOINTS": str(checkpoints),
        "CXR_PACKED": str(home.packed),
        "CXR_PROGRESS": str(home.progress(run)),
    }
    for lock in locks:
        lock.record(token)
    try:
        signals.check()
        process = subprocess.Popen(
            dvc.command("repro", "--single-item", stage),
            cwd=home.workspace(run),
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what DVC advises a person to type next; stages and errors use standard error
            start_new_session=True,
        )
        with ExitStack() as measuring:
            attempt = None
            if stage == live.STAGE:
                attempt = measuring.enter_context(resources.measure(home, run, digest))
                measuring.enter_context(live.follow(home, run, digest, process.pid))
            code = _wait(process, signals)
            _end(token, grace, hurry=lambda: signals.hurry)
            process.wait()
            for lock in locks:
                lock.record("")
            signals.check()
            word = _read_word(exit_file)
            if code or (word is not None and word["code"] != 0):
                raise _failure(home, stage, word)
            if attempt is not None:
                attempt.ran = word is not None
    finally:
        exit_file.unlink(missing_ok=True)
    shutil.rmtree(checkpoints, ignore_errors=True)
    ran = word is not None
    sys.stderr.write(f"{stage}: {'done' if ran else 'nothing to do: unchanged, or restored from the run cache'}\n")
    return ran


def _wait(process: subprocess.Popen[bytes], signals: _Signals) -> int | None:
    """Wait for DVC's end, or for a signal to us (None)."""
    while not signals.received:
        try:
            return process.wait(timeout=_POLL)
        except subprocess.TimeoutExpired:
            continue
    return None


def _end(token: str, grace: float, hurry: Callable[[], bool] = lambda: False) -> None:
    """End all processes that carry a token: ask, wait for `grace` seconds, kill."""
    asked: set[int] = set()
    deadline = time.monotonic() + grace
    while (alive := _carriers(token)) and time.monotonic() < deadline and not hurry():
        for process in alive:
            if process.pid not in asked:  # one that was started after the others were asked is asked as well
                asked.add(process.pid)
                _send(process, signal.SIGTERM)
        time.sleep(_POLL)
    deadline = time.monotonic() + _KILLED
    while alive and time.monotonic() < deadline:
        for process in alive:
            _send(process, signal.SIGKILL)
        time.sleep(0.05)
        alive = _carriers(token)
    if alive:
        raise BusyError(
            f"process {alive[0].pid} cannot be ended", fix="restart the machine, or wait until its disk answers"
        )


def _carriers(token: str) -> list[psutil.Process]:
    """Live processes that carry a token in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_TOKEN) == token and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:  # gone meanwhile, a zombie, or somebody else's
            continue
    return found


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.Error:  # gone meanwhile
        return


def _read_word(exit_file: Path) -> dict[str, Any] | None:
    """What the stage left about its end; None where it did not run."""
    try:
        return dict(json.loads(exit_file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def _failure(home: Home, stage: str, word: dict[str, Any] | None) -> CxrError:
    if word is None or word["code"] == 0:
        return StorageError(
            f"DVC could not run {stage}; what it said stands above",
            where=home.root,
            fix="mend what it names, then run the stage again",
        )
    if word["error"] is None:
        return CxrError(
            f"{stage} ended without giving a reason: see its traceback above; without one it was killed, "
            "for instance for lack of memory",
            fix="run the stage again; it goes on from its last checkpoint",
        )
    error = errors.from_record(word["error"])
    error.exit_code = word["code"] or EXIT_FAILED
    return error


class _Signals:
    """Remembers that the supervisor was asked to end, instead of ending at once."""

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self.hurry = False  # a second Ctrl-C: do not wait for the checkpoint
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self.hurry |= self.received is signal.SIGINT and number == signal.SIGINT
        self.received = signal.Signals(number)

    def check(self) -> None:
        """Raise if a signal has come."""
        if self.received is not None:
            raise StoppedError(f"stopped by {self.received.name}", fix="run the stage again; it resumes")


@contextmanager
def _locked(path: Path, meanwhile: Callable[[], None] | None, what: str, grace: float) -> Iterator[Lock]:
    """Hold a lock, and end what its last owner left running.

    Args:
        path: the file.
        meanwhile: called while waiting for the lock; None: do not wait.
        what: what the lock is on, for the message.
        grace: seconds that what the last owner left running is given.
    """
    with Lock(path, mode=0o666) as lock:
        said = False
        while not lock.try_acquire():
            if meanwhile is None:
                raise BusyError(f"another process works on {what}", where=path, fix="wait until it has ended")
            if not said:
                sys.stderr.write(f"waiting: another process works on {what}\n")
                said = True
            meanwhile()
            time.sleep(_POLL)
        if token := lock.recorded():
            _end(token, grace)
            lock.record("")
        yield lock
