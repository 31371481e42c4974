"""Backup and restore: of a real installation with data, MLflow and a champion, into an empty folder elsewhere."""

from __future__ import annotations

import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from projects import make_batch

from cxr_ops.audit.package import digest as package_digest
from cxr_ops.contract import PACKAGE
from cxr_ops.edges import backups, dvc
from cxr_ops.edges.git import git
from cxr_ops.edges.home import RESTORING, Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow.versions import fetch_champion
from cxr_ops.edges.store import batches, checkout
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.records.base import sha256_file, tree_digest
from cxr_ops.stages import backup, restore


def _elsewhere(home: Home, root: Path) -> Home:
    """The home of the same project in another folder."""
    root.mkdir()
    return Home.find({"CXR_HOME": str(root), "CXR_PROJECT": str(home.project)})


def test_an_installation_is_made_again_elsewhere(champion: Home, tmp_path: Path) -> None:
    """Ledger, data, champion and runs are the same in another place, though the first installation is gone."""
    batches.add_batch(champion, make_batch(tmp_path / "batches", "one"))
    saved = backup.run(champion, tmp_path / "backups")
    assert stat.S_IMODE((tmp_path / "backups").stat().st_mode) == 0o700
    before = open_ledger(champion).entries()
    data = batches.data_revision(champion)
    refs = git(champion, champion.store, "for-each-ref")
    with batches.whole(champion, data) as dataset:
        content = tree_digest(dataset)
    away = champion.root.rename(champion.root.with_name("away"))
    try:
        new = _elsewhere(champion, tmp_path / "new")
        restored = restore.run(new, tmp_path / "backups")
        assert (restored.name, restored.files) == (saved.name, saved.files)
        assert open_ledger(new).entries() == before
        assert git(new, new.store, "for-each-ref") == refs
        assert batches.data_revision(new) == data
        with batches.whole(new, data) as dataset:
            assert tree_digest(dataset) == content
        found = fetch_champion(new, tmp_path / "champion")
        assert found.package == package_digest(tmp_path / "champion" / PACKAGE) == before[-1].promotion.package
        assert not (new.root / RESTORING).exists()
        decision = next(entry.decision for entry in before if entry.kind == "decision")
        checkout.check_out(new, decision.run_commit, tmp_path / "proof")
        assert (tmp_path / "proof" / "report" / "report.html").is_file()
        assert not list(new.root.rglob(f"{RESTORING}*"))
    finally:
        away.rename(champion.root)


def test_one_more_backup_costs_what_is_new(champion: Home, tmp_path: Path) -> None:
    """A second backup shares the objects of the first, and both can be restored."""
    out = tmp_path / "backups"
    first = backup.run(champion, out)
    batches.add_batch(champion, make_batch(tmp_path / "batches", "one", content="x" * 4000))
    second = backup.run(champion, out)
    added = sum(path.stat().st_size for path in (tmp_path / "batches" / "one").iterdir())
    assert first.written > 1_000_000
    assert added < second.written < added + 400_000  # the store and MLflow's database are copied whole
    assert backups.names(out) == [first.name, second.name]
    new = _elsewhere(champion, tmp_path / "new")
    restore.run(new, out, name=first.name)
    assert batches.data_revision(new) is None
    with pytest.raises(SettingsError, match="something is here already"):
        restore.run(new, out)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a small installation and its backup are made once."""
    return tmp_path_factory.mktemp("small")


@pytest.fixture
def saved(small: Path, tmp_path: Path, project: Path) -> tuple[Home, Path]:
    """An installation with one batch and an entry on the ledger, and its backup."""
    if not (small / "backups").exists():
        first = Home.find({"CXR_HOME": str(small / "home"), "CXR_PROJECT": str(project)})
        batches.add_batch(first, make_batch(small, "one"))
        open_ledger(first).append("period", {"number": 2, "closed_batches": [], "by": "me", "reason": "to have one"})
        backup.run(first, small / "backups")
    for name in ("home", "backups"):
        shutil.copytree(small / name, tmp_path / name, symlinks=True)
    return Home.find({"CXR_HOME": str(tmp_path / "home"), "CXR_PROJECT": str(project)}), tmp_path / "backups"


def test_a_backup_is_of_one_moment_though_data_come_in(saved: tuple[Home, Path], tmp_path: Path) -> None:
    """A batch and an entry that come while it is made are in it whole or not at all, and it can be restored."""
    home, out = saved
    come: list[str] = []

    def meanwhile(done: int, total: int) -> None:
        if not come:
            come.append(batches.add_batch(home, make_batch(tmp_path / "more", "two")))
            open_ledger(home).append("period", {"number": 3, "closed_batches": [], "by": "me", "reason": "another"})

    backup.run(home, out, progress=meanwhile)
    new = _elsewhere(home, tmp_path / "new")
    assert restore.run(new, out).entries == 1
    assert batches.data_revision(new).revision == come[0]
    with batches.whole(new, batches.data_revision(new)) as dataset:
        assert sorted(path.name for path in dataset.iterdir() if path.is_dir()) == ["one", "two"]


@pytest.mark.parametrize("damage", ["altered", "cut", "missing"])
def test_a_damaged_object_is_found_and_never_restored(saved: tuple[Home, Path], tmp_path: Path, damage: str) -> None:
    """One wrong byte fails the check and the restoration, which leaves nothing behind that looks like one."""
    home, out = saved
    _, record = backups.read(out)
    path = next(path for path in record.files if path.startswith("dvc-remote/"))
    found = backups.place(out, record.files[path].sha256)
    data = found.read_bytes()
    found.unlink()
    if damage != "missing":
        found.write_bytes(data[:-1] if damage == "cut" else b"\0" + data[1:])
    with pytest.raises(DataError, match="missing or damaged"):
        backup.check(out)
    new = _elsewhere(home, tmp_path / "new")
    with pytest.raises(DataError, match="an object of the backup is"):
        restore.run(new, out)
    assert {path.name for path in new.root.iterdir()} <= {"gitconfig", "dvc-config"}


def test_half_a_backup_is_none(saved: tuple[Home, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is cut off has no record, leaves no part under an object's name, and the next one is whole."""
    home, out = saved
    names = backups.names(out)
    (home.ledger / "00000002.json").write_bytes((home.ledger / "00000001.json").read_bytes())
    with pytest.raises(StorageError):  # a damaged ledger is no ledger
        backup.run(home, out)
    (home.ledger / "00000002.json").unlink()
    batches.add_batch(home, make_batch(out.parent / "more", "two"))

    def end(source: Path, target: Path) -> tuple[str, int]:
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(backups, "_copy", end)
        with pytest.raises(KeyboardInterrupt):
            backup.run(home, out)
    assert backups.names(out) == names
    assert not list(out.rglob("*.part"))
    assert backup.run(home, out).files > len(backups.read(out, names[0])[1].files)
    assert "all of them as they were saved" in backup.check(out)
    for path in (out / backups.OBJECTS).rglob("*"):
        assert path.is_dir() or sha256_file(path) == path.name


def test_what_the_data_need_must_be_there(saved: tuple[Home, Path]) -> None:
    """An object that is missing from the remote refuses the backup; asked to go on, the record says what is missing."""
    home, out = saved
    named = next(path for path in (Path(home.dvc_remote) / "files").rglob("*") if path.is_file())
    named.unlink()
    with pytest.raises(DataError, match="are missing from the DVC remote"):
        backup.run(home, out)
    done = backup.run(home, out, allow_missing=True)
    assert any("missing from the DVC remote" in sentence for sentence in done.left_out)


def test_what_cannot_be_done_is_refused_first(saved: tuple[Home, Path], tmp_path: Path) -> None:
    """No room, a place inside the installation, a folder of something else, a bucket: each is said first."""
    home, out = saved
    with pytest.raises(StorageError, match="too little disk: 0 MiB are free, and the backup needs"):
        backup.run(home, tmp_path / "other", free_bytes=lambda _: 0)
    for place in (home.quarantine / "old" / "files", home.reports, home.root / "keys"):  # they are copied too
        place.mkdir(parents=True, exist_ok=True)
        with (place / "large").open("wb") as file:
            file.truncate(2**25)
        with pytest.raises(StorageError, match="too little disk: 32 MiB are free, and the backup needs"):
            backup.run(home, tmp_path / "other", free_bytes=lambda _: 2**25)
        (place / "large").unlink()
    with pytest.raises(SettingsError, match="lost with it"):
        backup.run(home, home.root / "backups")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter").touch()
    with pytest.raises(SettingsError, match="something else than backups: letter"):
        backup.run(home, tmp_path / "full")
    with pytest.raises(SettingsError, match="holds no backup"):
        restore.run(home, tmp_path / "full")
    new = _elsewhere(home, tmp_path / "new")
    with pytest.raises(StorageError, match="too little disk"):
        restore.run(new, out, free_bytes=lambda _: 0)
    with pytest.raises(SettingsError, match="CXR_DVC_REMOTE names no folder"):
        restore.run(replace(new, dvc_remote="s3://bucket/data"), out)
    with pytest.raises(SettingsError, match="CXR_LEDGER names no folder"):
        restore.run(replace(new, ledger_at="s3://bucket/ledger"), out)
    in_bucket = replace(home, dvc_remote="s3://bucket/data", mlflow_uri="http://mlflow.example.org")
    told = backup.run(in_bucket, tmp_path / "third").left_out
    assert [sentence.partition(":")[0] for sentence in told] == ["MLflow at http", "the data in s3"]


def test_a_restoration_that_was_cut_off_is_done_again(
    saved: tuple[Home, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two renamings, the folder is marked as not whole, and the same command makes it whole."""
    home, out = saved
    new = _elsewhere(home, tmp_path / "new")
    renamed: list[Path] = []
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        renamed.append(target)
        if len(renamed) == 2:
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            restore.run(new, out)
    assert (new.root / RESTORING).is_file()
    assert not new.ledger.exists()
    environ = {"CXR_HOME": str(new.root), "CXR_PROJECT": str(new.project)}
    with pytest.raises(StorageError, match="a restoration into CXR_HOME was cut off"):
        Home.find(environ)
    other = tmp_path / "other" / "remote"
    dvc.place(other, "ab" * 16).parent.mkdir(parents=True)
    dvc.place(other, "ab" * 16).write_bytes(b"another installation's")
    with pytest.raises(SettingsError, match="something is here already"):
        restore.run(Home.find({**environ, "CXR_DVC_REMOTE": str(other)}, restoring=True), out)
    assert dvc.place(other, "ab" * 16).is_file()
    restore.run(Home.find(environ, restoring=True), out)
    assert batches.data_revision(new) == batches.data_revision(home)
    assert not (new.root / RESTORING).exists()
    assert dvc.place(Path(new.dvc_remote), "ab").parent.parent.is_dir()


def test_while_a_backup_is_put_into_its_place_nothing_else_begins(saved: tuple[Home, Path], tmp_path: Path) -> None:
    """From its first byte on other commands refuse the folder; where nothing was put there, it is free again."""
    home, out = saved
    new = _elsewhere(home, tmp_path / "new")
    environ = {"CXR_HOME": str(new.root), "CXR_PROJECT": str(new.project)}

    def interrupt(done: int, total: int) -> None:
        with pytest.raises(StorageError, match="a restoration into CXR_HOME was cut off"):
            Home.find(environ)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore.run(new, out, progress=interrupt)
    assert Home.find(environ).root == new.root
    assert not (new.root / RESTORING).exists()


def test_a_record_writes_nowhere_else(saved: tuple[Home, Path], tmp_path: Path) -> None:
    """A path in the record that leads out of the installation is refused."""
    for inner in ("store.git//tmp/x", "store.git/../x", f"store.git/{tmp_path}/x"):
        with pytest.raises(DataError, match="would be written elsewhere"):
            restore._written(inner, {"store.git": tmp_path / "new" / "store.git"})
