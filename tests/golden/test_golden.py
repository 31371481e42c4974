"""What earlier versions wrote is read by this one: records, ledger, and a whole installation.

`next/` holds files as this version writes them, from two releases of the demonstration, and in `bundle.tar.xz` a
bundle, which tests/stages/test_bundle.py makes; when it is released the folder gets its number, and a new one is made.
`0.1/` holds files as version 0.1 wrote them (commit 6965aa7). `home.tar.xz` is an installation of that version: a data
set of one batch, a run that was promoted, one that was rejected and one that was only opened. The packages' weights are
zeros, so that they pack well; all else is as 0.1 left it, under the folder `/tmp/oldhome`.
"""

from __future__ import annotations

import json
import lzma
import shutil
import sqlite3
import tarfile
from contextlib import closing
from pathlib import Path

import pytest
from projects import make_home
from rich.console import Console

from cxr_ops import plan as plans
from cxr_ops.audit import package as packages
from cxr_ops.audit import verification
from cxr_ops.audit.entries import Entry, seal
from cxr_ops.contract import MODEL_NAME, slug
from cxr_ops.edges import lineage
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Ledger, open_ledger
from cxr_ops.edges.ledger.folder import Folder
from cxr_ops.edges.mlflow import versions
from cxr_ops.edges.store import batches
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.model import package
from cxr_ops.records.base import Kept, Record, sha256_bytes, sha256_file
from cxr_ops.records.data import Batch, Division
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Inputs, Period, RecordedLook
from cxr_ops.records.run import Opened, Result
from cxr_ops.records.training import Prepared, Trained
from cxr_ops.records.validation import Validated
from cxr_ops.records.verdict import Verdict
from cxr_ops.report import summary
from cxr_ops.stages import open as opening
from cxr_ops.stages import promote, publish

GOLDEN = Path(__file__).parent
RECORDS: dict[str, type[Record]] = {
    "batch.json": Batch,
    "explain.json": Explanation,
    "inputs.json": Inputs,
    "look.json": RecordedLook,
    "prepare.json": Prepared,
    "result.json": Result,
    "run.json": Opened,
    "split.json": Division,
    "train.json": Trained,
    "validation.json": Validated,
    "verdict.json": Verdict,
}
FIRST, SECOND = (slug(f"manual__2026-03-0{number}T04:05:06+00:00") for number in (1, 2))
MADE_AT = "/tmp/oldhome"


@pytest.mark.parametrize(
    ("version", "name"),
    [(path.parent.name, path.name) for path in sorted(GOLDEN.glob("*/*.json")) if path.name in RECORDS],
)
def test_record_of_each_version_is_read(version: str, name: str) -> None:
    """Each record reads back with every value that the file holds; what it did not say has a default."""
    path = GOLDEN / version / name
    said = json.loads(path.read_bytes())
    found = RECORDS[name].read(path).model_dump(mode="json", exclude_unset=True)
    if "epoch" in said:  # as a test period was called before format 2 of these records
        said["period"] = said.pop("epoch")
    assert {key: found[key] for key in said} == said


@pytest.mark.parametrize("name", RECORDS)
def test_record_of_this_version_is_written_as_it_was(name: str) -> None:
    """What is read from a file of this version and written again has the same bytes: no format changes unseen."""
    path = GOLDEN / "next" / name
    assert RECORDS[name].read(path).to_bytes() == path.read_bytes()


def test_ledger_of_this_version_is_whole(tmp_path: Path) -> None:
    """A plan, two looks with their decisions and promotions: the chain verifies, and each entry says its format."""
    for path in (GOLDEN / "next").glob("0000*.json"):
        shutil.copy(path, tmp_path)
    entries = Ledger(Folder(tmp_path)).entries()
    assert [entry.kind for entry in entries if entry.kind != "look"] == ["plan"] + 2 * ["decision", "promotion"]
    assert {entry.format for entry in entries} == {3}
    assert entries[-1].promotion.replaces == next(entry for entry in entries if entry.kind == "promotion").digest()


@pytest.mark.parametrize("name", [name for name, kind in RECORDS.items() if issubclass(kind, Kept)])
def test_record_of_a_later_version_is_refused(tmp_path: Path, name: str) -> None:
    """A format that this version does not know is refused with what to install, and not half understood."""
    said = json.loads((GOLDEN / "next" / name).read_bytes())
    (tmp_path / name).write_text(json.dumps({**said, "format": 99}))
    with pytest.raises(DataError, match="format 99, and this version of cxr-ops reads formats up to") as raised:
        RECORDS[name].read(tmp_path / name)
    assert "install" in str(raised.value.fix)


def test_plan_of_the_first_version_is_read() -> None:
    """A plan of format 2, as version 0.1 shipped it, still says what it said."""
    plan = plans.load(GOLDEN / "0.1" / "pccp.yaml")
    assert (plan.format, plan.name, plan.approvals) == (2, "nih-production", 1)
    rules = plan.performance
    assert (rules.alpha, rules.max_looks, rules.period_alpha) == (0.005, 10, 0.05)  # epoch_alpha in format 2


def test_ledger_of_the_first_version_is_whole(tmp_path: Path) -> None:
    """Its entries verify, each by the SHA-256 of the file before it; a changed byte does not."""
    files = sorted((GOLDEN / "0.1").glob("0000*.json"))
    for path in files:
        shutil.copy(path, tmp_path)
    entries = Ledger(Folder(tmp_path)).entries()
    assert [entry.kind for entry in entries] == ["look", "decision", "promotion"]
    assert [entry.prev for entry in entries] == [None, *(sha256_file(path) for path in files[:-1])]
    assert all(Entry.model_validate_json(path.read_bytes()).to_bytes() == path.read_bytes() for path in files)
    (tmp_path / files[0].name).write_bytes(files[0].read_bytes().replace(b'"challenger"', b'"champion"'))
    with pytest.raises(StorageError):
        Ledger(Folder(tmp_path)).entries()


def test_period_of_an_earlier_version_is_counted(tmp_path: Path) -> None:
    """An entry that calls a new test period an epoch is read, counts, and keeps its bytes and digest."""
    ledger = Ledger(Folder(tmp_path))
    look = {"model": "m", "test_digest": "t", "run": "r", "role": "challenger", "epoch": 1, "batches": ["one"]}
    opened = {"number": 2, "closed_batches": ["one"], "by": "dr_lee", "reason": "spent"}
    prev = None
    for seq, (kind, body) in enumerate([("look", look), ("epoch", opened), ("look", {**look, "epoch": 2})], start=1):
        fields = {"format": 2, "seq": seq, "prev": prev, "kind": kind, "at": "2026-01-01T00:00:00.000+00:00"}
        unsealed = Entry(**fields, body=body, seal="")
        data = unsealed.model_copy(update={"seal": seal(unsealed)}).to_bytes()
        (tmp_path / f"{seq:08d}.json").write_bytes(data)
        prev = sha256_bytes(data)
    entries = ledger.entries()
    assert [entry.to_bytes() for entry in entries] == [path.read_bytes() for path in sorted(tmp_path.glob("0*.json"))]
    assert ledger.period() == Period(number=2, closed_batches=["one"])
    assert (entries[0].look.period, entries[2].look.period, entries[1].period.reason) == (1, 2, "spent")
    assert b'"epoch": 2' in entries[2].to_bytes()


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/model.json")), ids=lambda path: path.parent.name)
def test_package_of_each_version_is_read(tmp_path: Path, path: Path) -> None:
    """What a version's package says of itself is understood; one of a later format is refused with what to install."""
    files = {"weights.safetensors": b"", "network.py": b"", "patients.txt": b"", "model.json": path.read_bytes()}
    found = packages.checked(files, tmp_path)
    assert found.contract == json.loads(path.read_bytes())
    assert (found.image_size, found.trained) == (found.contract["input"]["image_size"], FINDINGS)
    later = json.dumps({**found.contract, "format": 99}).encode()
    with pytest.raises(DataError, match="format 99, and this version of cxr-ops reads formats up to 2") as raised:
        packages.checked({**files, "model.json": later}, tmp_path)
    assert "install" in str(raised.value.fix)


def test_plan_of_a_later_version_is_refused() -> None:
    """Its limits may mean something else: what to install is said, and nothing of it is read."""
    text = (GOLDEN / "0.1" / "pccp.yaml").read_bytes()
    with pytest.raises(SettingsError, match="format 99, and this version of cxr-ops reads formats up to 3") as raised:
        plans.parse(text.replace(b"format: 2", b"format: 99", 1), "pccp.yaml")
    assert "install" in str(raised.value.fix)


def test_entry_of_a_later_version_is_refused(tmp_path: Path) -> None:
    """A ledger that a later version went on with is not half understood."""
    shutil.copy(GOLDEN / "next" / "00000001.json", tmp_path)
    second = json.loads((GOLDEN / "next" / "00000002.json").read_bytes())
    (tmp_path / "00000002.json").write_text(json.dumps({**second, "format": 99}))
    with pytest.raises(StorageError, match="format 99, and this version of cxr-ops reads formats up to") as raised:
        Ledger(Folder(tmp_path)).entries()
    assert "install" in str(raised.value.fix)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*/bundle.tar.xz")), ids=lambda path: path.parent.name)
def test_bundle_of_each_version_is_verified(tmp_path: Path, path: Path) -> None:
    """All of a bundle holds that a version wrote, its figures and verdict by the code of today."""
    (tmp_path / "bundle.tar").write_bytes(lzma.decompress(path.read_bytes()))
    found = verification.verify(tmp_path / "bundle.tar")
    assert [line.what for line in found.lines if line.outcome == "fails"] == []
    assert any("executed again" in line.what for line in found.lines)


@pytest.fixture
def earlier(tmp_path: Path) -> Home:
    """The installation of version 0.1, moved to a folder of this test."""
    with tarfile.open(GOLDEN / "0.1" / "home.tar.xz") as archive:
        # Python's filters came with 3.11.4; Debian 12's is 3.11.2. The archive is the project's own.
        archive.extractall(tmp_path, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
    home = make_home(tmp_path / "home", tmp_path / "project")
    # What held the old place: MLflow's database and models, DVC's settings, each clone's remote.
    texts = [*tmp_path.rglob(".git/config"), *tmp_path.rglob("MLmodel"), *home.root.rglob("result.json")]
    for path in (*texts, home.dvc_config / "config", home.root / "gitconfig"):
        path.write_text(path.read_text(encoding="utf-8").replace(MADE_AT, str(tmp_path)), encoding="utf-8")
    with closing(sqlite3.connect(home.root / "mlflow" / "mlflow.db")) as database, database:
        for (table,) in database.execute("select name from sqlite_master where type = 'table'").fetchall():
            for _, column, kind, *_ in database.execute(f"pragma table_info({table})").fetchall():
                if kind.startswith(("VARCHAR", "TEXT")):
                    database.execute(
                        f"update {table} set {column} = replace({column}, ?, ?) where {column} like ?",
                        (MADE_AT, str(tmp_path), f"%{MADE_AT}%"),
                    )
    return home


def test_installation_of_the_first_version_opens(earlier: Home) -> None:
    """Ledger, data, registry, summaries and lineage of an installation that version 0.1 left are all there."""
    ledger = open_ledger(earlier)
    champion = ledger.champion()
    assert champion is not None
    assert champion.promotion.run == FIRST
    assert ledger.verify(Inputs.read(earlier.workspace(SECOND) / "inputs.json").ledger) == len(ledger.entries())
    data = batches.data_revision(earlier)
    assert data is not None
    assert list(data.batches) == ["one"]
    found = versions.fetch_champion(earlier, earlier.root / "fetched")
    assert package.load(earlier.root / "fetched" / "package", found.package).digest == champion.promotion.package
    console = Console(record=True, width=100, file=None)
    for run, word in ((FIRST, "PROMOTE"), (SECOND, "REJECT")):
        console.print(summary.render(earlier.run(run)))
        assert word in console.export_text()
    assert lineage.trace(earlier, f"{MODEL_NAME}/1").run == FIRST
    assert promote.run(earlier, FIRST)["already"] is True
    assert publish.run(earlier, SECOND)["verdict"] == "REJECT"


def test_installation_of_the_first_version_is_worked_on(earlier: Home) -> None:
    """A run that is opened in it now is judged against the champion that the first version promoted."""
    result = opening.run(earlier, run="fourth")
    inputs = Inputs.read(earlier.workspace("fourth") / "inputs.json")
    promoted = open_ledger(earlier).champion()
    assert promoted is not None
    assert (inputs.champion.entry, inputs.champion.package) == (promoted.digest(), promoted.promotion.package)
    assert result.champion == promoted.promotion.package
