"""What a training tells of itself."""

from __future__ import annotations

import io
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from cxr_ops.model import progress as module
from cxr_ops.model.progress import Progress, busy, progress

STEP: dict[str, Any] = {"loss": 0.5, "rate": 0.001, "auc": None, "pace": 10.0, "waiting": 0.0}


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CXR_PROGRESS", str(tmp_path / "progress.jsonl"))
    return tmp_path / "progress.jsonl"


@pytest.fixture
def out() -> io.StringIO:
    return io.StringIO()


def lines(spool: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in spool.read_text().splitlines()] if spool.exists() else []


def until(spool: Path, word: str) -> dict[str, Any]:
    """The first line whose text holds a word, as soon as it is there."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if found := [line for line in lines(spool) if word in line["text"]]:
            return found[0]
        time.sleep(0.05)
    raise AssertionError(f"nobody said {word!r}: {lines(spool)}")


def test_a_long_validation_is_not_silent(spool: Path, out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing else is told, the file and standard error say what goes on, for how long, and the time left."""
    monkeypatch.setattr(module, "FILE_SECONDS", 0.2)
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    with progress(Console(file=out, width=20), 2, 100) as told:
        told.show(epoch=0, done=40, **STEP)
        told.show(epoch=0, done=50, **STEP)
        told.doing("validation", 40, 200)
        said = until(spool, "validation (40 of 200 images), for")
    assert (said["done"], said["total"], said["epoch"], said["epochs"]) == (50, 200, 1, 2)
    assert said["seconds_left"] >= 0
    assert "train: epoch 1/2  loss 0.500  10 images/s  validation (40 of 200 images)" in out.getvalue()
    assert "left, or less" in out.getvalue()


def test_the_ends_of_a_training_are_not_silent(spool: Path, out: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is done before the first step or after the last is named at once, and again while it lasts."""
    monkeypatch.setattr(module, "FILE_SECONDS", 0.2)
    with busy(Console(file=out), "checks the pictures"):
        assert lines(spool)[0]["text"] == "checks the pictures"
        until(spool, "checks the pictures, for")
    assert "train: checks the pictures, for" in out.getvalue()


@pytest.mark.parametrize(("epoch", "left"), [(0, 15), (1, 5)])
def test_time_left_is_of_the_pace_so_far(
    spool: Path, out: io.StringIO, monkeypatch: pytest.MonkeyPatch, epoch: int, left: int
) -> None:
    """It is counted from where this process began, also when that went on from a checkpoint."""
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    told = Progress(Console(file=out), lambda *_: None, 2, 100)
    now[0] += 5  # 50 images, at 10 a second
    told.show(epoch=epoch, done=50, **STEP)
    assert lines(spool)[-1]["seconds_left"] == left


def test_a_process_that_does_not_tell_is_silent(spool: Path, out: io.StringIO) -> None:
    """Of several processes the others write nothing, and start no thread."""
    before = threading.active_count()
    with progress(Console(file=out), 2, 100, tells=False) as told, busy(Console(file=out), "waits", tells=False):
        told.show(epoch=0, done=50, **STEP)
        told.doing("validation")
        assert threading.active_count() == before
    assert (lines(spool), out.getvalue()) == ([], "")
