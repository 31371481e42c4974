"""promote: the one way to a new champion, and all that stops it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from finished import RUN, Case, finish
from mlflow import MlflowClient

from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges import registry
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import Decision, Ledger
from cxr_ops.errors import ConflictError, CxrError, RefusedError, StorageError
from cxr_ops.records import Champion, Result
from cxr_ops.stages import promote, publish

FIRST, SECOND, THIRD = RUN["first"], RUN["second"], RUN["third"]


def alias(home: Home, name: str = "champion") -> str | None:
    found = MlflowClient(home.mlflow_uri, home.mlflow_uri).get_registered_model(MODEL_NAME).aliases
    return str(found[name]) if name in found else None


def promotions(home: Home) -> list[str]:
    return [entry.body["run"] for entry in Ledger(home.ledger).entries() if entry.kind == "promotion"]


def refused(home: Home, run: str, error: type[CxrError], match: str, *approvals: Any) -> CxrError:
    """A promotion that must fail, and leave champion and alias as they were."""
    before = (promotions(home), alias(home))
    with pytest.raises(error, match=match) as caught:
        promote.run(home, run, list(approvals))
    assert (promotions(home), alias(home)) == before
    return caught.value


def test_promotion_is_recorded_and_the_alias_follows(published: Home) -> None:
    """A PROMOTE under a plan without approvals makes the challenger champion in ledger, alias, result and report."""
    answer = promote.run(published, FIRST)
    entry = Ledger(published.ledger).champion()
    decision = Ledger(published.ledger).decision(FIRST)
    assert answer == {"model_version": "1", "promotion": entry.digest(), "champion": True, "already": False}
    assert json.loads(json.dumps(answer)) == answer
    assert entry.promotion.decision == decision.digest()
    assert (entry.promotion.package, entry.promotion.replaces) == (decision.decision.package, None)
    assert alias(published) == "1"
    assert Result.read(published.run(FIRST) / "result.json").promotion == entry.digest()
    assert entry.digest() in (published.reports / f"{FIRST}.html").read_text()


def test_second_promotion_of_a_run_says_already(champion: Home) -> None:
    """Promoting a promoted run again changes nothing but what had to be mended."""
    before = Ledger(champion.ledger).state()
    assert promote.run(champion, FIRST)["already"] is True
    assert Ledger(champion.ledger).state() == before


def test_promotion_that_was_cut_off_before_the_alias_is_mended(published: Home, monkeypatch) -> None:
    """Killed between ledger and alias, the next call finds the promotion on record and moves the alias."""
    with monkeypatch.context() as patch:
        patch.setattr(registry, "reconcile", lambda home: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote.run(published, FIRST)
    assert promotions(published) == [FIRST]
    assert alias(published) is None
    assert promote.run(published, FIRST) == {
        "model_version": "1",
        "promotion": Ledger(published.ledger).champion().digest(),
        "champion": True,
        "already": True,
    }
    assert promotions(published) == [FIRST]
    assert alias(published) == "1"


def test_challenger_judged_against_an_older_champion_loses(champion: Home) -> None:
    """A run that was judged before another was promoted gets ConflictError and must be judged again."""
    error = refused(champion, SECOND, ConflictError, f"{MODEL_NAME}/1 is the champion")
    assert "retrain" in str(error)


def test_challenger_judged_against_the_champion_replaces_it(champion: Home, packages: dict[str, Path]) -> None:
    """The next release names the one it replaces, and the old run's promotion stays on record as past."""
    old = Ledger(champion.ledger).champion()
    against = Champion(package=old.promotion.package, version="1", entry=old.digest(), recipe=old.promotion.recipe)
    run = finish(champion, packages, Case(name="third", package="b", champion=against))
    publish.run(champion, run)
    answer = promote.run(champion, run)
    new = Ledger(champion.ledger).champion()
    assert (answer["promotion"], new.promotion.replaces) == (new.digest(), old.digest())
    assert alias(champion) == answer["model_version"] == "2"
    assert promote.run(champion, FIRST) == {
        "model_version": "1",
        "promotion": old.digest(),
        "champion": False,
        "already": True,
    }
    assert alias(champion) == "2"


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
except ConflictError as error:
    print("conflict", error)
else:
    print("won")
"""


def test_two_promotions_at_once_have_one_winner(published: Home) -> None:
    """Two processes that promote different runs judged against the same champion: one wins, the other conflicts."""
    environ = {**os.environ, "CXR_HOME": str(published.root), "CXR_PROJECT": str(published.project)}
    racers = {
        run: subprocess.Popen(
            [sys.executable, "-c", RACER, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
        )
        for run in (FIRST, SECOND)
    }
    for racer in racers.values():
        assert racer.stdout.readline() == "ready\n"
    for racer in racers.values():
        racer.stdin.write("go\n")
        racer.stdin.flush()
    said = {run: racer.communicate()[0].split()[0] for run, racer in racers.items()}
    assert sorted(said.values()) == ["conflict", "won"]
    [winner] = [run for run, word in said.items() if word == "won"]
    assert promotions(published) == [winner]
    assert alias(published) == Ledger(published.ledger).champion().promotion.model_version


def test_champion_that_changes_during_the_checks_is_seen(published: Home, monkeypatch) -> None:
    """The comparison holds at the moment of the entry: a promotion that slips in after the first check still wins."""
    real = registry.fetch_package

    def slip_in(home: Home, *arguments: Any) -> None:
        real(home, *arguments)
        monkeypatch.setattr(registry, "fetch_package", real)
        promote.run(home, SECOND)

    monkeypatch.setattr(registry, "fetch_package", slip_in)
    with pytest.raises(ConflictError):
        promote.run(published, FIRST)
    assert promotions(published) == [SECOND]
    assert alias(published) == "2"


# ------------------------------------------------------------------------------------------- what stops it


def redecide(home: Home, packages: dict[str, Path], case: Case, **changes: Any) -> str:
    """A decided run made without MLflow and the store, for refusals that come before these are asked."""
    run = finish(home, packages, case, tracked=False)
    outputs = publish.read_outputs(home, run)
    publish._decide(home, run, outputs, mlflow_run_id="m", version="1", commit="0" * 40)
    return run


@pytest.mark.parametrize("verdict", ["REJECT", "INSUFFICIENT EVIDENCE"])
def test_other_verdict_is_refused(published: Home, packages: dict[str, Path], verdict: str) -> None:
    """Only PROMOTE promotes."""
    run = redecide(published, packages, Case(name="third", verdict=verdict))
    refused(published, run, RefusedError, f"the gate decided {verdict}")


def test_run_without_a_decision_is_refused(published: Home, packages: dict[str, Path]) -> None:
    """A finished run that was not published, such as one that ended NO_CHANGE, has nothing to promote by."""
    finish(published, packages, Case(name="third"), tracked=False)
    error = refused(published, THIRD, RefusedError, "no decision on")
    assert "publish" in str(error)


@pytest.mark.parametrize(
    ("case", "match"),
    [
        pytest.param(Case(name="third", package="c", recorded_look=False), "no look of", id="unrecorded look"),
        pytest.param(Case(name="third", with_ledger=False), "opened without a ledger", id="no ledger"),
        pytest.param(Case(name="third", airflow_run_id="backfill__2026-01-01"), "backfill", id="backfill"),
        pytest.param(
            Case(name="third", plan="pccp.yaml", dirty=True),
            "asks for committed code",
            id="dirty under production plan",
        ),
        pytest.param(Case(name="third", plan="pccp.yaml"), "asks for 1 approval, and 0 came", id="no approval"),
    ],
)
def test_record_that_lacks_something_is_refused(
    published: Home, packages: dict[str, Path], case: Case, match: str
) -> None:
    """Each gap in the record is refused with its reason and a next step."""
    error = refused(published, redecide(published, packages, case), RefusedError, match)
    assert error.fix


@pytest.mark.parametrize(
    ("approvals", "match"),
    [
        pytest.param([{"by": "dr_ruiz", "at": "2026-03-01T00:00:00Z"}], "requested .* cannot approve", id="requester"),
        pytest.param(["DR_RUIZ "], "requested .* cannot approve", id="requester in capitals"),
        pytest.param([{"by": "Anonymous", "at": "2026-03-01T00:00:00Z"}], "nobody's", id="anonymous"),
        pytest.param([{"by": " ", "at": "2026-03-01T00:00:00Z"}], "nobody's", id="blank"),
        pytest.param([{}], "nobody's", id="empty"),
        pytest.param([{"by": "dr_lee", "at": "soon"}], "not ISO 8601", id="no time"),
    ],
)
def test_approval_that_is_none_is_refused(
    published: Home, packages: dict[str, Path], approvals: list, match: str
) -> None:
    """Nobody, the requester, or nobody knows when: none of these is an approval, and none is recorded."""
    run = redecide(published, packages, Case(name="third", plan="pccp.yaml"))
    refused(published, run, RefusedError, match, *approvals)
    assert not [entry for entry in Ledger(published.ledger).entries() if entry.kind == "approval"]


def test_same_person_twice_is_one_approval(published: Home, packages: dict[str, Path], monkeypatch) -> None:
    """Two approvals asked for are two people."""
    run = redecide(published, packages, Case(name="third", plan="pccp.yaml"))
    real = Decision.model_validate
    monkeypatch.setattr(Decision, "model_validate", lambda body: real({**body, "approvals": 2}))
    refused(published, run, RefusedError, "asks for 2 approvals, and 1 came", "dr_lee", "Dr_Lee")


def test_approved_run_records_who_agreed(published: Home, packages: dict[str, Path]) -> None:
    """Under a plan that asks for it, another person's approval is an entry of its own, which the promotion names."""
    run = finish(published, packages, Case(name="third", plan="pccp.yaml"))
    assert publish.run(published, run)["approvals"] == 1
    promote.run(published, run, [{"by": "dr_lee", "at": "2026-03-01T09:00:00+00:00"}])
    ledger = Ledger(published.ledger)
    [approval] = [entry for entry in ledger.entries() if entry.kind == "approval"]
    assert (approval.approval.by, approval.approval.at) == ("dr_lee", "2026-03-01T09:00:00+00:00")
    assert approval.approval.decision == ledger.decision(run).digest()
    assert ledger.champion().promotion.approvals == [approval.digest()]
    assert "dr_lee, 2026-03-01T09:00:00+00:00" in (published.reports / f"{run}.html").read_text()


@pytest.mark.parametrize("name", ["gate/verdict.json", "evaluate/evaluation.json", "inputs.json", "report/report.html"])
def test_altered_output_is_refused(published: Home, name: str) -> None:
    """One blank added to a file that was decided on stops the promotion."""
    path = published.workspace(FIRST) / name
    path.write_bytes(path.read_bytes() + b" ")
    refused(published, FIRST, RefusedError, "is not what the ledger's decision")


def test_altered_plan_is_refused(published: Home) -> None:
    """A plan edited after the run was opened does not govern it."""
    path = published.workspace(FIRST) / "pccp.demo.yaml"
    path.write_text(path.read_text() + "# softer\n")
    refused(published, FIRST, CxrError, "not the plan that this run was opened with")


@pytest.mark.parametrize("damage", ["altered", "empty"])
def test_package_that_the_registry_does_not_hold_is_refused(published: Home, damage: str) -> None:
    """What would be promoted is what the registry hands out: altered or emptied there, it stays where it is."""
    client = MlflowClient(published.mlflow_uri, published.mlflow_uri)
    folder = Path(client.get_model_version_download_uri(MODEL_NAME, "1")) / "artifacts" / "package"
    if damage == "empty":
        shutil.rmtree(folder)
    else:
        (folder / "model.json").write_bytes((folder / "model.json").read_bytes() + b" ")
    refused(published, FIRST, StorageError, "digest is not the one on record|its files are not in the artifact store")


def test_run_whose_outs_are_not_stored_is_refused(published: Home) -> None:
    """A promotion whose evidence could not be had again is refused, and publish is named as the way to mend it."""
    shutil.rmtree(Path(published.dvc_remote) / "files")
    error = refused(published, FIRST, RefusedError, "not in the store")
    assert f"publish --run {FIRST}" in str(error)


def test_damaged_ledger_stops_everything(published: Home) -> None:
    """With one altered entry nothing is promoted."""
    path = published.ledger / "00000001.json"
    path.write_bytes(path.read_bytes().replace(b'"look"', b'"LOOK"'))
    with pytest.raises(StorageError, match=r"00000001\.json"):
        promote.run(published, FIRST)


def test_ledger_that_was_cut_since_the_run_was_opened_stops_it(published: Home, packages: dict[str, Path]) -> None:
    """A ledger whose end was cut off after the run had been opened is not the ledger that the run was opened with."""
    run = redecide(published, packages, Case(name="third"))
    entries = sorted(published.ledger.iterdir())
    decision = Ledger(published.ledger).decision(run)
    for path in entries[2:]:
        path.unlink()
    Ledger(published.ledger).append("decision", decision.decision)
    with pytest.raises(StorageError, match="held 4 entries"):
        promote.run(published, run)
