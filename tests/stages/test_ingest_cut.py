"""Ingestions that are killed: what they leave is true, and the next one finishes it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from disks import grow, shrink, small_disk

from cxr_ops.data import manifest
from cxr_ops.data.checking import batch as building
from cxr_ops.data.checking import isolate, quarantine
from cxr_ops.edges import deliveries
from cxr_ops.edges.home import Home
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, StorageError
from cxr_ops.records.acceptance import Acceptance, Unfinished
from cxr_ops.stages import ingest, portray

MakeNih = Callable[..., Path]

# Where an ingestion is killed, in its order: as soon as a function has returned.
MOMENTS: list[tuple[Any, str]] = [
    (portray, "run"),
    (portray, "write"),
    (quarantine, "keep"),
    (building, "build"),
    (Unfinished, "write"),
    (batches, "_upload"),
    (batches, "move_ref"),
    (portray, "turn"),
    (Acceptance, "write"),
]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    # the process that is killed is a fork of this one, and starts no others
    monkeypatch.setattr(isolate, "each", lambda function, items, **_: map(function, items))


@pytest.fixture
def home(tmp_path: Path, project: Path) -> Home:
    """An installation of its own."""
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)})


@pytest.fixture
def folder(make_nih: MakeNih) -> Path:
    """A folder with one bad row of 20."""
    made = make_nih(patients=10, size=48)
    cv2.imwrite(str(made / "images" / "00000003_000.png"), np.full((48, 48), 50, np.uint8))
    return made


def take(home: Home, folder: Path) -> ingest.IngestResult:
    return ingest.run("nih", folder, batch="first", home=home, on_bad="quarantine")


def kill_after(home: Home, folder: Path, owner: Any, name: str) -> None:
    """Ingest in another process, which is killed when a function has returned."""
    child = os.fork()
    if child:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        return
    try:
        function = getattr(owner, name)

        def last(*given: Any, **named: Any) -> None:
            function(*given, **named)
            if owner is not Unfinished or given[0].record:  # the record is written twice
                os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, last)
        take(home, folder)
    finally:
        os._exit(1)


def left(home: Home) -> dict[str, bytes]:
    """What an ingestion leaves for people."""
    places = [home.pictures, home.quarantine, home.root / "unfinished"]
    return {
        path.relative_to(home.root).as_posix(): path.read_bytes()
        for place in places
        for path in sorted(place.rglob("*"))
        if path.is_file()
    }


def test_wherever_it_is_killed_the_next_one_finishes(home: Home, folder: Path, tmp_path: Path, project: Path) -> None:
    """Killed at any moment, an ingestion leaves nothing untrue, and the next one leaves what one alone would have."""
    alone = Home.find({"CXR_HOME": str(tmp_path / "alone"), "CXR_PROJECT": str(project)})
    result = take(alone, folder)
    assert (result.quarantined, result.acceptance and result.acceptance.outcome) == (1, "quarantine")

    page = home.pictures / "first" / portray.PAGE
    for owner, name in MOMENTS:
        kill_after(home, folder, owner, name)
        assert ": refused" not in (page.read_text() if page.exists() else ""), name
        assert deliveries.refused(home) == []
        (said,) = deliveries.listed(home)
        assert (said.batch, said.state) == ("first", "cut off"), name
        entered = batches.data_revision(home) is not None
        assert entered == (name in ("move_ref", "turn") or owner is Acceptance), name

    again = take(home, folder)
    assert (again.already, again.finished, again.acceptance) == (True, True, result.acceptance)
    assert take(home, folder).finished is False
    assert left(home) == left(alone)
    assert [one.state for one in deliveries.listed(home)] == ["entered in part"]


def test_the_next_ingestion_finishes_another(home: Home, folder: Path, make_nih: MakeNih, tmp_path: Path) -> None:
    """An ingestion of another batch, and a refused one, finish what a killed one had left to do."""
    kill_after(home, folder, batches, "move_ref")
    page = home.pictures / "first" / portray.PAGE
    assert "first: not finished" in page.read_text()
    with pytest.raises(DataError, match="there is no such folder"):
        ingest.run("auto", tmp_path / "nowhere", batch="second", home=home)
    assert "first: accepted with quarantine" in page.read_text()
    assert Acceptance.read(home.quarantine / "first" / "acceptance.json").outcome == "quarantine"
    assert [(one.batch, one.state) for one in deliveries.listed(home)][::-1] == [
        ("first", "entered in part"),
        ("second", "refused"),
    ]
    assert (home.quarantine / "second" / "refusal.txt").read_text().startswith("there is no such folder")


def test_an_error_of_the_store_is_no_refusal(home: Home, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the store fails, the page says that the batch is not finished, and nothing says that it was refused."""

    def fail(*_: object) -> None:
        raise StorageError("the remote does not answer")

    monkeypatch.setattr(batches, "_upload", fail)
    with pytest.raises(StorageError):
        take(home, folder)
    assert deliveries.listed(home) == []
    assert "first: not finished" in (home.pictures / "first" / portray.PAGE).read_text()
    assert not (home.pictures / "first" / portray.NEXT).exists()


@pytest.mark.parametrize("spare", [2**17, 3 * 2**19])
def test_a_disk_that_fills_up_in_the_midst(stored: Home, make_nih: MakeNih, tmp_path: Path, spare: int) -> None:
    """Wherever it is full, that is said, nothing has entered and nothing was refused; with room the batch enters whole.

    That there is room was found before: others may have taken it since.
    """
    folder = make_nih("three", patients=40, first=41, size=96)
    with small_disk(tmp_path) as disk:
        shutil.copytree(stored.root, disk / "home", symlinks=True)
        home = Home.find({"CXR_HOME": str(disk / "home"), "CXR_PROJECT": str(stored.project)})
        batches.batch_files(home, names=("pixels.csv",))
        before = batches.data_revision(home)
        shrink(disk, spare)
        with pytest.raises(StorageError, match=r"disk is full|No space left") as full:
            ingest.run("nih", folder, batch="three", home=home, free_bytes=lambda _: 2**40)
        assert str(full.value.fix).startswith("free some room")
        assert batches.data_revision(home) == before
        assert deliveries.refused(home) == []
        grow(disk)
        result = ingest.run("nih", folder, batch="three", home=home)
        assert (result.images, result.acceptance and result.acceptance.outcome) == (80, "whole")
        with batches.whole(home, batches.data_revision(home)) as dataset:
            assert len(manifest.read_version(dataset).frame) == 140
