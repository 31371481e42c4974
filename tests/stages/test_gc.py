"""What gc lists and removes, on a real installation with published runs, a champion, DVC's cache and workspaces."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
from finished import RUN
from projects import Installation

from cxr_ops.commands.app import app
from cxr_ops.edges import dvc
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.store import batches, checkout, objects
from cxr_ops.errors import SettingsError
from cxr_ops.locks import Lock
from cxr_ops.records.base import sha256_file
from cxr_ops.records.run import OPENED
from cxr_ops.settings import Settings
from cxr_ops.stages import gc

MONTHS = 90 * 86400.0


def _later() -> float:
    """The time three months from now: everything that the fixtures have made is old then."""
    return time.time() + MONTHS


def _paths(found: gc.Collected, kind: str) -> list[Path]:
    return [item.path for item in found.items if item.kind == kind]


def test_a_run_that_is_in_the_store_gives_its_workspace_back(champion: Home, tmp_path: Path) -> None:
    """The workspace of an old run goes when all of it is pushed; the champion's stays, and the ledger's runs."""
    for name in ("first", "second"):
        if not (champion.run(RUN[name]) / OPENED).is_file():
            (champion.run(RUN[name]) / OPENED).write_text("{}")
    found = gc.run(champion, now=_later)
    assert _paths(found, "workspaces") == [champion.workspace(RUN["second"])]
    assert f"the workspace of {RUN['first']}: it made the champion" in found.kept
    assert next(item.size for item in found.items if item.kind == "workspaces") > 1000
    assert champion.workspace(RUN["second"]).is_dir()

    gc.run(champion, yes=True, now=_later)

    assert not champion.workspace(RUN["second"]).exists()
    assert (champion.run(RUN["second"]) / "result.json").is_file()
    assert champion.workspace(RUN["first"]).is_dir()
    for number, entry in enumerate(one for one in open_ledger(champion).entries() if one.kind == "decision"):
        folder = tmp_path / str(number)
        checkout.check_out(champion, entry.decision.run_commit, folder)
        assert sha256_file(folder / "report" / "report.html") == entry.decision.report


def test_what_is_not_in_the_store_stays(champion: Home) -> None:
    """A workspace whose outputs the remote lacks is kept, and the reason is said."""
    (champion.run(RUN["second"]) / OPENED).write_text("{}")
    shutil.rmtree(Path(champion.dvc_remote))
    found = gc.run(champion, now=_later)
    assert _paths(found, "workspaces") == []
    assert any(RUN["second"] in sentence and "store" in sentence for sentence in found.kept)


@pytest.fixture
def cached(installed: Installation) -> Home:
    """An installation with a batch, whose cache also holds two objects and a run that nothing points to."""
    home = installed.home
    for md5, data in (("aa" * 16, b"old output"), ("bb" * 16, b"another")):
        path = dvc.place(home.dvc_cache, md5)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    entry = home.dvc_cache / "runs" / "cc" / ("cc" * 32) / ("dd" * 32)
    entry.parent.mkdir(parents=True)
    entry.write_text(f"cmd: true\nouts:\n- path: x\n  md5: {'aa' * 16}\n")
    return home


def test_the_cache_keeps_what_versions_point_to(cached: Home) -> None:
    """Objects that nothing names go with the run that would restore them; the data stay, and are still whole."""
    revision = batches.data_revision(cached)
    inside = {path for path in (cached.dvc_cache / "files").rglob("*") if path.is_file()}
    found = gc.run(cached, now=_later)
    assert [path.parent.name + path.name for path in _paths(found, "cached objects")] == ["aa" * 16, "bb" * 16]
    assert len(_paths(found, "run cache")) == 1
    assert found.size >= len(b"old output" + b"another")
    assert {path for path in (cached.dvc_cache / "files").rglob("*") if path.is_file()} == inside

    done = gc.run(cached, yes=True, now=_later)

    assert done.removed
    assert [item.path for item in done.items if item.path.exists()] == []
    with batches.whole(cached, revision) as dataset:
        assert (dataset / "one" / "shard-00000.tar").is_file()
    assert gc.run(cached, now=_later).items == ()
    every, lost = objects.spread(objects.of_versions(cached), [cached.dvc_cache])
    assert lost == set()
    assert all(dvc.place(cached.dvc_cache, md5).is_file() for md5 in every)


def test_what_dvc_noted_of_folders_goes(cached: Home) -> None:
    """Folders that are thrown away leave no notes of DVC's behind; old ones, as earlier versions left them, go."""
    noted = cached.dvc_notes / "repo"
    before = set(noted.glob("*"))
    old = noted / ("ee" * 16)
    (old / "links").mkdir(parents=True)
    (old / "links" / "cache.db").write_bytes(b"notes")
    shutil.rmtree(cached.root / "batches", ignore_errors=True)
    assert batches.batch_files(cached)
    assert set(noted.glob("*")) == {*before, old}
    assert old in _paths(gc.run(cached, yes=True, now=_later), "notes of DVC")
    assert not old.exists()
    shutil.rmtree(cached.root / "batches")
    assert batches.batch_files(cached)


def test_what_is_fresh_or_being_worked_on_stays(cached: Home) -> None:
    """Today nothing goes; while somebody works in a workspace or brings data in, the cache is left alone."""
    assert gc.run(cached).items == ()
    with Lock(cached.locks / "ingest") as lock:
        assert lock.try_acquire()
        found = gc.run(cached, now=_later)
    assert _paths(found, "cached objects") == []
    assert "DVC's cache, because an ingestion is going on" in found.kept
    (cached.workspace("a-run")).mkdir(parents=True)
    with Lock(cached.workspace_lock("a-run")) as lock:
        assert lock.try_acquire()
        found = gc.run(cached, now=_later)
    assert _paths(found, "cached objects") == []
    assert "DVC's cache, because a-run is being worked on" in found.kept


def test_an_open_runs_outputs_stay(cached: Home) -> None:
    """What the dvc.lock of a run that has not ended names stays in the cache, as does its workspace."""
    workspace = cached.workspace("a-run")
    workspace.mkdir(parents=True)
    (workspace / "dvc.lock").write_text(f"stages:\n  train:\n    outs:\n    - path: train\n      md5: {'aa' * 16}\n")
    found = gc.run(cached, now=_later)
    assert [path.parent.name + path.name for path in _paths(found, "cached objects")] == ["bb" * 16]
    assert "the workspace of a-run, which has not ended" in found.kept
    assert _paths(found, "run cache") == []


def test_retention_is_a_setting(cached: Home) -> None:
    """Attempts, checkpoints and packed rows go after the days of the settings; newest rows and open runs stay."""
    attempt = cached.airflow / "stages" / "old-run" / "train" / "1"
    open_one = cached.airflow / "stages" / "a-run" / "train" / "1"
    checkpoint, rows = cached.checkpoints / ("e" * 64), [cached.packed / name for name in ("1", "2")]
    for folder in (attempt, open_one, checkpoint, *rows):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(b"x" * 100)
    cached.workspace("a-run").mkdir(parents=True)
    old = time.time() - 10 * 86400
    os.utime(rows[0], (old, old))
    ten = replace(cached, settings=Settings(keep_attempts=10.0))
    for days, expected in ((9.5, []), (10.5, [attempt]), (10.5, [attempt])):
        found = gc.run(ten, now=lambda days=days: time.time() + days * 86400)
        assert _paths(found, "attempts") == expected
        assert _paths(found, "checkpoints") == ([checkpoint] if expected else [])
        assert _paths(found, "packed rows") == [rows[0]]
    assert any("attempt train 1 of a-run" in sentence for sentence in found.kept)
    assert found.size >= 300


def test_an_old_quarantine_goes_after_its_days(cached: Home) -> None:
    """A quarantine is listed with its bytes when its days are over, and removed if told so; not beside an ingestion."""
    old, fresh = cached.quarantine / "old", cached.quarantine / "fresh"
    for folder in (old, fresh):
        (folder / "files").mkdir(parents=True)
        (folder / "files" / "picture").write_bytes(b"x" * 1000)
    long_ago = time.time() - 100 * 86400
    for path in (old / "files" / "picture", old / "files", old):
        os.utime(path, (long_ago, long_ago))
    found = gc.run(cached)
    assert [(item.path, item.size) for item in found.items if item.kind == "quarantines"] == [(old, 1000)]
    assert "quarantines: 1, " in str(found)
    assert _paths(gc.run(replace(cached, settings=Settings(keep_quarantine=101.0))), "quarantines") == []
    assert old.is_dir()
    with Lock(cached.locks / "ingest") as ingestion:
        assert ingestion.try_acquire()
        assert _paths(gc.run(cached, yes=True), "quarantines") == []
    gc.run(cached, yes=True)
    assert (old.exists(), fresh.is_dir()) == (False, True)


def test_a_file_with_another_name_frees_nothing(cached: Home) -> None:
    """Bytes count when the last of a file's names goes."""
    path = dvc.place(cached.dvc_cache, "aa" * 16)
    os.link(path, cached.root / "elsewhere")
    found = {item.path: item.size for item in gc.run(cached, now=_later).items}
    assert found[path] == 0
    assert found[dvc.place(cached.dvc_cache, "bb" * 16)] == len(b"another")


def test_the_command_lists_and_removes(
    cached: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without --yes nothing goes; leftovers of killed commands are listed with their bytes; both words are an error."""
    monkeypatch.setenv("CXR_HOME", str(cached.root))
    monkeypatch.setenv("CXR_PROJECT", str(cached.project))
    left = cached.root / "tmp" / "left"
    left.mkdir(parents=True)
    (left / "file").write_bytes(b"x" * 2**20)
    old = time.time() - 2 * 86400
    for path in (left / "file", left):
        os.utime(path, (old, old))

    def typed(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            app(["data", "gc", *arguments])
        assert ended.value.code == 0
        return capsys.readouterr().out

    assert "may go: 1 things, 1 MiB" in typed("--dry-run")
    assert json.loads(typed("--json"))["items"][0]["path"] == str(left)
    assert "removed: 1 things, 1 MiB" in typed("--yes")
    assert not left.exists()
    assert typed() == "nothing can go\n"
    with pytest.raises(SettingsError):
        app(["data", "gc", "--yes", "--dry-run"], standalone_mode=False)
