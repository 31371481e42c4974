"""One winner, and a registry that follows: many promoters, death at each point, and a registry that others write to."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from books import Book
from finished import RUN
from mlflow import MlflowClient
from services import MlflowServer
from typer.testing import CliRunner

from cxr_ops.audit.entries import Decision
from cxr_ops.commands import app as command
from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Folder, Ledger, open_ledger
from cxr_ops.edges.mlflow import aliases
from cxr_ops.edges.mlflow.watch import watch
from cxr_ops.errors import StorageError
from cxr_ops.stages import promote, rollback

FIRST, SECOND = RUN["first"], RUN["second"]


@pytest.fixture(scope="module")
def server(installation: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A real MLflow server on the installation's database."""
    found = MlflowServer(tmp_path_factory.mktemp("server"))
    found.database = installation.mlflow_uri
    (installation.root / "mlflow").mkdir(parents=True, exist_ok=True)
    try:
        found.start()
        yield found
    finally:
        found.kill()


def environ(home: Home) -> dict[str, str]:
    return {
        **os.environ,
        "CXR_HOME": str(home.root),
        "CXR_PROJECT": str(home.project),
        "MLFLOW_TRACKING_URI": home.mlflow_uri,
    }


def alias(home: Home, name: str = "champion") -> str | None:
    found = MlflowClient(home.mlflow_uri, home.mlflow_uri).get_registered_model(MODEL_NAME).aliases
    return str(found[name]) if name in found else None


PROMOTERS = 20
PROMOTER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from cxr_ops.audit import rules
from cxr_ops.audit.entries import Promotion
from cxr_ops.edges.ledger import Folder, Ledger
from cxr_ops.errors import ConflictError
folder, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
ledger = Ledger(Folder(folder))
decisions = [entry for entry in ledger.entries() if entry.kind == "decision"][first : first + count]
barrier = Barrier(count)
print("ready", flush=True)
sys.stdin.readline()
def promote(decision):
    body = decision.decision
    def decide(now):
        rules.check_champion(now, body)
        return Promotion(
            run=body.run, decision=decision.digest(), approvals=[], package=body.package, recipe=None,
            model_version=body.model_version, run_commit="e" * 40, replaces=None, reference=body.package,
        )
    barrier.wait()
    try:
        ledger.append_if("promotion", decide)
    except ConflictError:
        return "conflict"
    return "won"
with ThreadPoolExecutor(count) as pool:
    print(*pool.map(promote, decisions))
"""


def test_of_twenty_promoters_one_wins(tmp_path: Path) -> None:
    """Twenty runs judged against the same champion, in two processes behind a barrier: 19 conflicts, one promotion."""
    ledger = Ledger(Folder(tmp_path / "ledger"))
    for number in range(PROMOTERS):
        book = Book()
        decision: Decision = book.decide(str(number)).decision
        ledger.append("decision", decision)
    half = PROMOTERS // 2
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, str(tmp_path / "ledger"), str(first), str(half)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for first in (0, half)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [word for racer in racers for word in racer.communicate()[0].split()]
    assert sorted(said) == ["conflict"] * (PROMOTERS - 1) + ["won"]
    promotions = [entry.promotion for entry in ledger.entries() if entry.kind == "promotion"]
    assert [one.model_version for one in promotions] == [str(said.index("won"))]


RACER = """
import sys
from cxr_ops.edges.home import Home
from cxr_ops.errors import ConflictError
from cxr_ops.stages import promote
home = Home.find()
print("ready", flush=True)
sys.stdin.readline()
try:
    promote.run(home, sys.argv[1])
except ConflictError:
    print("conflict")
else:
    print("won")
"""


def test_two_promoters_through_a_real_server_have_one_winner(published: Home, server: MlflowServer) -> None:
    """Over two processes and an MLflow server, one run becomes champion, and the alias is that run's."""
    home = replace(published, mlflow_uri=server.url)
    command = [sys.executable, "-c", RACER]
    racers = [
        subprocess.Popen([*command, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ(home))
        for run in (FIRST, SECOND)
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = [racer.communicate()[0].split()[-1] for racer in racers]
    assert sorted(said) == ["conflict", "won"]
    champion = open_ledger(home).champion().promotion
    assert champion.run == (FIRST, SECOND)[said.index("won")]
    assert (alias(home), alias(home, "reference")) == (champion.model_version, champion.model_version)


KILLED = """
import os, signal, sys
import mlflow
from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow import aliases
from cxr_ops.stages import rollback
die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
point = sys.argv[1]
if point == "before the registry":
    aliases.reconcile = die
elif point == "between tag and alias":
    mlflow.MlflowClient.set_registered_model_alias = die
elif point == "before the page":
    rollback.finish = die
rollback.run(Home.find(), "1", by="dr_ito", reason="wrong laterality")
"""


@pytest.mark.parametrize("point", ["before the registry", "between tag and alias", "before the page"])
def test_promoter_that_is_killed_leaves_what_the_next_one_repairs(
    replaced: Home, server: MlflowServer, point: str
) -> None:
    """After kill -9 anywhere behind the entry the champion is the ledger's, and the next command moves the alias."""
    home = replace(replaced, mlflow_uri=server.url)
    done = subprocess.run([sys.executable, "-c", KILLED, point], env=environ(home), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()[-2000:]
    champion = open_ledger(home).champion()
    assert champion.promotion.model_version == "1"
    assert alias(home) == ("1" if point == "before the page" else "2")
    count = len(open_ledger(home).entries())
    aliases.reconcile(home)  # what `open`, `publish`, `promote` and `rollback` begin or end with
    assert alias(home) == "1"
    assert len(open_ledger(home).entries()) == count
    assert watch(home).found == ()


def test_watch_repairs_what_others_moved_and_records_it_once(
    replaced: Home, server: MlflowServer, tmp_path: Path
) -> None:
    """An alias that somebody moved and a tag that somebody changed are the ledger's again, and the ledger says so."""
    home = replace(replaced, mlflow_uri=server.url, anchor_address=str(tmp_path / "anchors"))
    open_ledger(home).witness.put(open_ledger(home).entries())  # so that the tag cannot mean a ledger that was cut
    assert watch(home).found == ()
    client = MlflowClient(server.url, server.url)
    client.set_registered_model_alias(MODEL_NAME, "champion", "1")
    client.delete_registered_model_alias(MODEL_NAME, "reference")
    client.set_model_version_tag(MODEL_NAME, "2", "cxr.promotion", "f" * 64)
    found = watch(home)
    assert len(found.found) == len(found.repaired) == 3
    assert found.left == ()
    assert any("the alias champion was on cxr-densenet121/1" in one for one in found.found)
    assert (alias(home), alias(home, "reference")) == ("2", "1")
    last = open_ledger(home).entries()[-1]
    assert (last.kind, last.digest(), last.incident.found) == ("incident", found.entry, list(found.found))
    assert open_ledger(home).champion().promotion.model_version == "2"
    assert watch(home).found == ()


def test_watch_names_what_it_cannot_repair(replaced: Home, server: MlflowServer) -> None:
    """Altered files of the champion are left to a person, and stand on the ledger once however often one looks."""
    home = replace(replaced, mlflow_uri=server.url)
    client = MlflowClient(replaced.mlflow_uri, replaced.mlflow_uri)
    folder = Path(client.get_model_version_download_uri(MODEL_NAME, "2"))
    text = (folder / "serving.py").read_text()
    (folder / "serving.py").unlink()
    (folder / "serving.py").write_text(text + "# altered\n")
    found = watch(home)
    assert found.repaired == ()
    assert [one for one in found.left if one.startswith("cxr-densenet121/2: the model directory is not the one")]
    count = len(open_ledger(home).entries())
    assert watch(home).entry == found.entry
    assert len(open_ledger(home).entries()) == count


def test_newest_promotion_cut_from_the_ledger_is_found_by_the_registry(
    replaced: Home,
) -> None:
    """Without anchors, a version whose promotion the ledger lacks stops aliases, promotion and rollback."""
    last = open_ledger(replaced).entries()[-1]
    assert last.kind == "promotion"
    (replaced.ledger / f"{last.seq:08d}.json").unlink()
    for go_on in (
        lambda: aliases.reconcile(replaced),
        lambda: promote.run(replaced, RUN["third"]),
        lambda: rollback.run(replaced, "1", by="dr_ito", reason="to see"),
    ):
        with pytest.raises(StorageError, match="cxr-densenet121/2 was promoted, and the ledger does not know of that"):
            go_on()
    assert alias(replaced) == "2"
    assert len(open_ledger(replaced).entries()) == last.seq - 1
    assert any("does not know of that promotion" in one for one in watch(replaced).left)


def test_end_that_was_cut_is_found_by_the_runs_in_the_store(replaced: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """`ledger verify` compares where each run in the store found the ledger, with no anchor and no look at MLflow."""
    monkeypatch.setenv("CXR_HOME", str(replaced.root))
    monkeypatch.setenv("CXR_PROJECT", str(replaced.project))
    verify = ["ledger", "verify"]
    assert "3 runs in the store found it as it is, the last of them after entry 5" in (
        CliRunner().invoke(command.app, verify).stdout
    )
    for entry in open_ledger(replaced).entries()[4:]:
        (replaced.ledger / f"{entry.seq:08d}.json").unlink()
    cut = CliRunner().invoke(command.app, verify)
    assert "the ledger held 5 entries and now holds 4" in str(cut.exception)
