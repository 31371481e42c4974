"""promote: the one way to a new champion, and all that stops it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from finished import RUN, Case, finish
from mlflow import MlflowClient

from cxr_ops import plan as plans
from cxr_ops.audit import judgement
from cxr_ops.audit.entries import Look, PeriodOpened, PlanAdopted
from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.mlflow import aliases, versions
from cxr_ops.edges.store import runs
from cxr_ops.errors import ConflictError, CxrError, RefusedError, StorageError
from cxr_ops.params import Params
from cxr_ops.records.inputs import Champion, Inputs, Limits, Reference
from cxr_ops.records.run import Opened, Result
from cxr_ops.stages import answer, promote, publish

FIRST, SECOND, THIRD = RUN["first"], RUN["second"], RUN["third"]


def alias(home: Home, name: str = "champion") -> str | None:
    found = MlflowClient(home.mlflow_uri, home.mlflow_uri).get_registered_model(MODEL_NAME).aliases
    return str(found[name]) if name in found else None


def promotions(home: Home) -> list[str]:
    return [entry.body["run"] for entry in open_ledger(home).entries() if entry.kind == "promotion"]


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
    entry = open_ledger(published).champion()
    decision = open_ledger(published).decision(FIRST)
    assert answer == {"model_version": "1", "promotion": entry.digest(), "champion": True, "already": False}
    assert json.loads(json.dumps(answer)) == answer
    assert entry.promotion.decision == decision.digest()
    assert (entry.promotion.package, entry.promotion.replaces) == (decision.decision.package, None)
    assert entry.promotion.reference == entry.promotion.package  # the first champion is the reference
    assert (alias(published), alias(published, "reference")) == ("1", "1")
    assert Result.read(published.run(FIRST) / "result.json").promotion == entry.digest()
    assert entry.digest() in (published.reports / f"{FIRST}.html").read_text()


def test_second_promotion_of_a_run_says_already(champion: Home) -> None:
    """Promoting a promoted run again changes nothing but what had to be mended."""
    before = open_ledger(champion).state()
    assert promote.run(champion, FIRST)["already"] is True
    assert open_ledger(champion).state() == before


def test_promotion_that_was_cut_off_before_the_alias_is_mended(published: Home, monkeypatch) -> None:
    """Killed between ledger and alias, the next call finds the promotion on record and moves the alias."""
    with monkeypatch.context() as patch:
        patch.setattr(aliases, "reconcile", lambda home: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            promote.run(published, FIRST)
    assert promotions(published) == [FIRST]
    assert alias(published) is None
    assert promote.run(published, FIRST) == {
        "model_version": "1",
        "promotion": open_ledger(published).champion().digest(),
        "champion": True,
        "already": True,
    }
    assert promotions(published) == [FIRST]
    assert alias(published) == "1"


def test_challenger_judged_against_an_older_champion_loses(champion: Home) -> None:
    """A run that was judged before another was promoted gets ConflictError and must be judged again."""
    error = refused(champion, SECOND, ConflictError, f"{MODEL_NAME}/1 is the champion")
    assert "retrain" in str(error)


def against_champion(home: Home, **changes: Any) -> Case:
    """A run that was judged against the champion and reference of now."""
    old = open_ledger(home).champion()
    against = Champion(package=old.promotion.package, version="1", entry=old.digest(), recipe=old.promotion.recipe)
    reference = Reference(package=old.promotion.reference, version="1")
    return Case(**{"name": "third", "package": "b", "champion": against, "reference": reference} | changes)


def test_challenger_judged_against_the_champion_replaces_it(champion: Home, packages: dict[str, Path]) -> None:
    """The next release names the one it replaces, the old promotion stays on record, and the reference is as it was."""
    old = open_ledger(champion).champion()
    run = finish(champion, packages, against_champion(champion))
    publish.run(champion, run)
    answer = promote.run(champion, run)
    new = open_ledger(champion).champion()
    assert (answer["promotion"], new.promotion.replaces) == (new.digest(), old.digest())
    assert new.promotion.reference == old.promotion.package
    assert (alias(champion), alias(champion, "reference")) == ("2", "1")
    assert answer["model_version"] == "2"
    assert promote.run(champion, FIRST) == {
        "model_version": "1",
        "promotion": old.digest(),
        "champion": False,
        "already": True,
    }
    assert alias(champion) == "2"


@pytest.mark.parametrize(("superior", "raises"), [(True, True), (True, False), (False, True)])
def test_reference_rises_to_what_beat_it_and_never_falls(
    champion: Home, packages: dict[str, Path], monkeypatch, superior: bool, raises: bool
) -> None:
    """Only macro superiority under a plan that says so makes the new champion the reference."""
    old = open_ledger(champion).champion().promotion.package
    run = redecide(champion, packages, against_champion(champion, superior=superior), raise_on_superiority=raises)
    for name in ("_check_stored", "_check_reviewed", "check_not_edited", "finish"):
        monkeypatch.setattr(promote, name, lambda *_: None)
    monkeypatch.setattr(aliases, "reconcile", lambda _: False)
    promote.run(champion, run)
    new = open_ledger(champion).champion().promotion
    assert new.package != old
    assert new.reference == (new.package if superior and raises else old)


def test_plan_that_asks_for_nobody_is_no_way_around_one_that_asks(
    champion: Home, packages: dict[str, Path], monkeypatch
) -> None:
    """After a release that two people agreed to, a run under another plan needs two people as well."""
    strict = redecide(champion, packages, against_champion(champion, plan="pccp.yaml", approvals=2, new_period=True))
    for name in ("_check_stored", "_check_reviewed", "check_not_edited", "finish"):
        monkeypatch.setattr(promote, name, lambda *_: None)
    monkeypatch.setattr(aliases, "reconcile", lambda _: False)
    promote.run(champion, strict, ["dr_lee", "dr_ito"])
    run = redecide(champion, packages, against_champion(champion, name="fourth", package="c"))
    assert open_ledger(champion).decision(run).decision.approvals == 2
    refused(champion, run, RefusedError, "2 persons must agree")


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
    assert alias(published) == open_ledger(published).champion().promotion.model_version


def test_champion_that_changes_during_the_checks_is_seen(published: Home, monkeypatch) -> None:
    """The comparison holds at the moment of the entry: a promotion that slips in after the first check still wins."""
    real = versions.fetch_package

    def slip_in(home: Home, *arguments: Any) -> None:
        real(home, *arguments)
        monkeypatch.setattr(versions, "fetch_package", real)
        promote.run(home, SECOND)

    monkeypatch.setattr(versions, "fetch_package", slip_in)
    with pytest.raises(ConflictError):
        promote.run(published, FIRST)
    assert promotions(published) == [SECOND]
    assert alias(published) == "2"


def test_look_that_is_taken_during_the_checks_is_seen(published: Home, packages: dict[str, Path], monkeypatch) -> None:
    """Where error is recycled, a look that slips in after the first check shuts the promotion out all the same."""
    run = finish(published, packages, Case(name="third", plan="pccp.yaml", new_period=True))
    publish.run(published, run)
    known = next(entry.look for entry in open_ledger(published).entries()[::-1] if entry.kind == "look")
    real = versions.fetch_package

    def slip_in(home: Home, *arguments: Any) -> None:
        real(home, *arguments)
        open_ledger(home).record_look(known.model_copy(update={"model": "other", "run": "other"}))

    monkeypatch.setattr(versions, "fetch_package", slip_in)
    error = refused(published, run, RefusedError, r"1 look was taken after that of .* \(other\)", "dr_lee")
    assert "train.seed" in str(error)


# ------------------------------------------------------------------------------------------- what stops it


def redecide(home: Home, packages: dict[str, Path], case: Case, **rules: Any) -> str:
    """A decided run made without MLflow and the store, for refusals that come before these are asked.

    `rules` are keys of the plan that have another value in this run.
    """
    run = finish(home, packages, case, tracked=False, **rules)
    outputs = publish.read_outputs(home, run)
    made = {"mlflow_run_id": "m", "model_version": "1", "run_commit": "0" * 40}
    publish._decide(home, outputs, outputs.identifiers.model_copy(update=made))
    return run


@pytest.mark.parametrize("verdict", ["REJECT", "INSUFFICIENT EVIDENCE"])
def test_other_verdict_is_refused(published: Home, packages: dict[str, Path], verdict: str) -> None:
    """Only PROMOTE promotes, and which of the others it was is not told here."""
    run = redecide(published, packages, Case(name="third", verdict=verdict))
    error = refused(published, run, RefusedError, "the gate did not decide PROMOTE")
    assert verdict not in str(error)


def test_run_without_a_decision_is_refused(published: Home, packages: dict[str, Path]) -> None:
    """A finished run that was not published, such as one that ended NO_CHANGE, has nothing to promote by."""
    finish(published, packages, Case(name="third"), tracked=False)
    error = refused(published, THIRD, RefusedError, "no decision on")
    assert "publish" in str(error)


@pytest.mark.parametrize(
    ("case", "match"),
    [
        pytest.param(Case(name="third", package="c", recorded_look=False), "no look of", id="unrecorded look"),
        pytest.param(Case(name="third", with_ledger=False, claimed=True), "opened without a ledger", id="no ledger"),
        pytest.param(Case(name="third", airflow_run_id="backfill__2026-01-01"), "backfill", id="backfill"),
        pytest.param(
            Case(name="third", plan="pccp.yaml", dirty=True, claimed=True),
            "asks for committed code",
            id="dirty under production plan",
        ),
        pytest.param(
            Case(name="third", plan="pccp.yaml", new_period=True),
            "1 person must agree .* nobody did, 1 more is",
            id="nobody",
        ),
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
    run = redecide(published, packages, Case(name="third", plan="pccp.yaml", new_period=True))
    refused(published, run, RefusedError, match, *approvals)
    assert not [entry for entry in open_ledger(published).entries() if entry.kind == "approval"]


def approvals(home: Home) -> list[str]:
    return [entry.approval.by for entry in open_ledger(home).entries() if entry.kind == "approval"]


def test_same_person_twice_is_one_approval(published: Home, packages: dict[str, Path]) -> None:
    """Two approvals asked for are two people, in one call or in two."""
    run = redecide(published, packages, Case(name="third", plan="pccp.yaml", approvals=2))
    for people in (("dr_lee", "Dr_Lee"), ("DR_LEE ",)):
        refused(published, run, RefusedError, "2 persons must agree .* dr_lee did, 1 more is needed", *people)
    assert approvals(published) == ["dr_lee"]


def test_second_person_comes_later(champion: Home, packages: dict[str, Path]) -> None:
    """A held run keeps the first approval, says who has agreed and what holds it, and the second person promotes it."""
    published = champion
    run = finish(published, packages, against_champion(published, plan="pccp.yaml", gains=True, new_period=True))
    assert publish.run(published, run)["approvals"] == 2
    match = r"2 persons must agree .*SUSPICIOUS_IMPROVEMENT.*so far dr_lee did, 1 more is needed"
    error = refused(published, run, RefusedError, match, "dr_lee")
    assert f"promote --run {run} --approved-by NAME" in str(error)
    promote.run(published, run, ["dr_ito"])
    signed = [entry.digest() for entry in open_ledger(published).entries() if entry.kind == "approval"]
    assert approvals(published) == ["dr_lee", "dr_ito"]
    assert open_ledger(published).champion().promotion.approvals == signed


def test_approved_run_records_who_agreed(published: Home, packages: dict[str, Path]) -> None:
    """Under a plan that asks for it, another person's approval is an entry of its own, which the promotion names."""
    run = finish(published, packages, Case(name="third", plan="pccp.yaml", new_period=True))
    assert publish.run(published, run)["approvals"] == 1
    client = MlflowClient(published.mlflow_uri, published.mlflow_uri)
    told = [Result.read(published.run(run) / "result.json").verdict]
    promote.run(published, run, [{"by": "dr_lee", "at": "2026-03-01T09:00:00+00:00"}])
    ledger = open_ledger(published)
    # The plan tells promotions alone: that it waits is for those who approve.
    result = Result.read(published.run(run) / "result.json")
    assert [*told, result.verdict] == ["NOT PROMOTED", "PROMOTE"]
    assert client.get_model_version(MODEL_NAME, result.model_version).tags["cxr.verdict"] == "PROMOTE"
    assert client.get_run(result.mlflow_run_id).data.tags["cxr.verdict"] == "PROMOTE"
    assert "The challenger is the champion." in (published.reports / f"{run}.html").read_text()
    [approval] = [entry for entry in ledger.entries() if entry.kind == "approval"]
    assert (approval.approval.by, approval.approval.at) == ("dr_lee", "2026-03-01T09:00:00+00:00")
    assert approval.approval.decision == ledger.decision(run).digest()
    assert ledger.champion().promotion.approvals == [approval.digest()]
    for folder in (published.reports, published.restricted):
        assert "dr_lee, 2026-03-01T09:00:00+00:00" in (folder / f"{run}.html").read_text()


@pytest.mark.parametrize(
    ("strict", "dirty", "match"),
    [
        pytest.param(
            {"approvals": 2}, False, "2 persons must agree .*strictest plan of the test period", id="approvals"
        ),
        pytest.param({"max_looks": 2}, False, "took look 3 .* the strictest plan of the period allows 2", id="looks"),
        pytest.param(
            {"require_clean_code": True}, True, "a plan of the test period asks for committed", id="dirty code"
        ),
    ],
)
@pytest.mark.parametrize("how", ["in force", "used by another run", "put in force after the decision"])
def test_looser_plan_of_a_run_is_no_way_around(
    published: Home, packages: dict[str, Path], strict: dict[str, Any], dirty: bool, match: str, how: str
) -> None:
    """A run under the demonstration's plan is bound by the strictest plan that its test period has seen."""
    limits = Limits(**{"max_looks": 1000, "approvals": 0, "disclosure": "all", "require_clean_code": False} | strict)
    adopted = PlanAdopted(name="strict", sha256="5" * 64, limits=limits, by="dr_lee", reason="reviewed", document={})
    case = Case(name="third", package="c", dirty=dirty, claimed=True)
    ledger = open_ledger(published)
    if how == "in force":
        ledger.append("plan", adopted)
    elif how == "used by another run":
        known = next(entry.look for entry in ledger.entries() if entry.kind == "look")
        ledger.append("look", known.model_copy(update={"role": "champion", "limits": limits}))
    run = redecide(published, packages, case)
    if how == "put in force after the decision":
        ledger.append("plan", adopted)
    refused(published, run, RefusedError, match)


def test_disclosure_of_a_period_is_that_of_its_strictest_plan(published: Home) -> None:
    """A run under a plan that discloses all shows nothing while a plan of the open period withholds it."""
    demo = plans.load(published.workspace(FIRST) / "pccp.demo.yaml")
    ledger = open_ledger(published)
    assert not publish.withholds(demo, 1, ledger.entries())
    limits = demo.limits.model_copy(update={"disclosure": "verdict"})
    body = PlanAdopted(name="s", sha256="5" * 64, limits=limits, by="dr_lee", reason="reviewed", document={})
    ledger.append("plan", body)
    assert publish.withholds(demo, 1, ledger.entries())
    ledger.append("period", PeriodOpened(number=2, closed_batches=["batch-1"], by="dr_lee", reason="spent"))
    assert not publish.withholds(demo, 1, ledger.entries())
    assert publish.withholds(demo, 2, ledger.entries())


@pytest.mark.parametrize("name", ["gate/verdict.json", "evaluate/evaluation.json", "inputs.json", "report/report.html"])
def test_altered_output_is_refused(published: Home, name: str) -> None:
    """One blank added to a file that was decided on stops the promotion."""
    path = published.workspace(FIRST) / name
    path.write_bytes(path.read_bytes() + b" ")
    refused(published, FIRST, RefusedError, "is not what the ledger's decision")


def spend(home: Home, looks: int) -> None:
    """Other challengers' looks of the open period, until so many are spent."""
    for number in range(open_ledger(home).state().looks, looks):
        open_ledger(home).record_look(Look(model=f"m{number}", test_digest="t", run="other"))


@pytest.mark.parametrize(("before", "match"), [(9, "1 person must agree"), (10, "took look 11 of .* allows 10")])
def test_look_beyond_the_budget_is_refused(published: Home, packages: dict[str, Path], before: int, match: str) -> None:
    """Of runs that were opened together, one whose look came after the last that the plan allows cannot promote."""
    spend(published, before)
    error = refused(
        published,
        redecide(published, packages, Case(name="third", plan="pccp.yaml", package="c", claimed=True)),
        RefusedError,
        match,
    )
    assert error.fix


def test_run_judged_at_more_than_the_ledger_leaves_is_refused(published: Home, packages: dict[str, Path]) -> None:
    """Of two runs that were opened together the ledger's order decides; the later one was judged at what is spent."""
    case = Case(name="third", plan="pccp.yaml", package="c", recorded_look=False, new_period=True)
    run = finish(published, packages, case, tracked=False)
    inputs = Inputs.read(published.workspace(run) / "inputs.json")
    outputs = publish.read_outputs(published, run)
    limits = plans.load(published.workspace(run) / "pccp.yaml").limits
    about = {"test_digest": outputs.verdict.test_digest, "claim": inputs.claim, "period": 2, "limits": limits}
    for model, by in (("other", "earlier"), (outputs.package, run)):
        open_ledger(published).record_look(Look(model=model, run=by, **about))
    made = {"mlflow_run_id": "m", "model_version": "1", "run_commit": "0" * 40}
    publish._decide(published, outputs, outputs.identifiers.model_copy(update=made))
    error = refused(
        published, run, RefusedError, r"number 2 of test period 2, may spend 0\.8 % on each check, .* to spend 4 %"
    )
    assert "retrain --force" in str(error)


def test_looks_of_champions_take_nothing_from_the_budget(published: Home, packages: dict[str, Path]) -> None:
    """Scorings of champion and reference stand on the ledger and are not counted."""
    spend(published, 9)
    for role in ("champion", "reference"):
        open_ledger(published).record_look(Look(model=role, test_digest="t", run="other", role=role))
    run = redecide(published, packages, Case(name="third", plan="pccp.yaml", package="c", claimed=True))
    refused(published, run, RefusedError, "1 person must agree")


def test_run_of_a_closed_period_is_refused(published: Home) -> None:
    """A PROMOTE of a period that was closed meanwhile must be judged on the test set of now."""
    opened = PeriodOpened(number=2, closed_batches=["batch-1"], by="dr_lee", reason="spent")
    open_ledger(published).append("period", opened)
    error = refused(published, FIRST, RefusedError, "judged in test period 1, and period 2 is open")
    assert "retrain" in str(error)


@pytest.mark.parametrize("reference", [None, Reference(package="f" * 64, version="9")])
def test_challenger_judged_against_another_reference_loses(
    champion: Home, packages: dict[str, Path], reference: Reference | None
) -> None:
    """A run that was judged against the champion but not against the reference on the ledger is judged again."""
    run = redecide(champion, packages, against_champion(champion, reference=reference, claimed=True))
    refused(champion, run, ConflictError, f"{MODEL_NAME}/1 is the reference")


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
    decision = open_ledger(published).decision(run)
    for path in entries[2:]:
        path.unlink()
    open_ledger(published).append("decision", decision.decision)
    with pytest.raises(StorageError, match="held 4 entries"):
        promote.run(published, run)


# ------------------------------------------------------------------------------------------- what was edited


def edit_verdict(root: Path) -> None:
    """What the gate withheld, somebody grants."""
    path = root / "gate/verdict.json"
    path.write_bytes(path.read_bytes().replace(b'"INSUFFICIENT EVIDENCE"', b'"PROMOTE"'))


def test_verdict_that_was_edited_before_it_was_published_goes_no_further(
    published: Home, packages: dict[str, Path]
) -> None:
    """INSUFFICIENT EVIDENCE made PROMOTE by an editor is refused by `publish`, and decides nothing."""
    run = finish(published, packages, Case(name="third", package="c", verdict="INSUFFICIENT EVIDENCE"))
    edit_verdict(published.workspace(run))
    before = open_ledger(published).state()
    with pytest.raises(RefusedError, match=r"not what the stages left.*gate/verdict\.json"):
        publish.run(published, run)
    assert open_ledger(published).state() == before


@pytest.mark.parametrize("claim", [{"verdict": "INSUFFICIENT EVIDENCE"}, {"approvals": 3}, {"superior": True}])
def test_verdict_that_the_rule_does_not_give_is_refused(
    published: Home, packages: dict[str, Path], claim: dict[str, Any]
) -> None:
    """With every digest made to fit, the rule is still executed again on the evidence, and says otherwise."""
    run = finish(published, packages, Case(name="third", package="c", **claim))
    with pytest.raises(RefusedError, match="the rule makes"):
        publish.run(published, run)


def test_promote_that_carries_what_stops_it_is_refused(published: Home, packages: dict[str, Path]) -> None:
    """A PROMOTE beside an unrecorded look is no verdict of the gate."""
    run = finish(published, packages, Case(name="third", package="c", with_ledger=False, recorded_look=False))
    path = published.workspace(run) / "gate/verdict.json"
    text = path.read_text().replace('"verdict": "INSUFFICIENT EVIDENCE"', '"verdict": "PROMOTE"')
    path.write_text(text)
    outputs = publish.read_outputs(published, run)
    wrong = judgement.misjudged(
        outputs.verdict, outputs.evaluation, outputs.inputs, plans.load(outputs.root / "pccp.demo.yaml")
    )
    assert "UNRECORDED_LOOK" in wrong[0]


@pytest.mark.parametrize("name", ["pccp.demo.yaml", "dvc.yaml", "params.yaml", "torch.py"])
def test_code_that_was_edited_in_the_workspace_is_refused(
    published: Home, packages: dict[str, Path], name: str
) -> None:
    """A file of the code commit that was edited, git told not to look, and one put beside them: each is named."""
    run = finish(published, packages, Case(name="third", package="c"))
    root = published.workspace(run)
    path = root / name
    if name == "params.yaml":
        path.write_text(path.read_text().replace("epochs: 12", "epochs: 13"))
    else:
        path.write_text((path.read_text() if path.exists() else "") + "# softer\n")
    if name != "torch.py":
        subprocess.run(["git", "update-index", "--assume-unchanged", name], cwd=root, check=True)
    opened = Opened.read(published.run(run) / "run.json")
    assert runs.code_changes(published, run, opened.code, {}) == [name]
    with pytest.raises(
        CxrError, match=r"the code commit|not the plan that this run was opened with|not what the stages left"
    ):
        publish.run(published, run)


def test_settings_of_the_run_are_no_edit(published: Home, packages: dict[str, Path]) -> None:
    """What `--set` wrote into params.yaml is what the run was opened with."""
    run = finish(published, packages, Case(name="third", package="c"))
    path = published.workspace(run) / "params.yaml"
    path.write_text("# With settings of this run.\n" + path.read_text().replace("epochs: 12", "epochs: 13"))
    opened = Opened.read(published.run(run) / "run.json")
    assert runs.code_changes(published, run, opened.code, {"train.epochs": 13}) == []
    assert runs.code_changes(published, run, opened.code, {"train.epochs": 14}) == ["params.yaml"]


def test_straw_champion_is_refused(champion: Home, packages: dict[str, Path]) -> None:
    """A run that names another package than the ledger's as its champion was judged against a straw man."""
    against = against_champion(champion)
    straw = replace(against, champion=against.champion.model_copy(update={"package": "e" * 64}))
    run = finish(champion, packages, replace(straw, reference=None))
    with pytest.raises(RefusedError, match=r"another model than the ledger's.*the reference that the run"):
        publish.run(champion, run)


def test_facts_that_are_not_the_settings_are_refused(published: Home, packages: dict[str, Path]) -> None:
    """A model that tells another learning rate than params.yaml is no model of this run."""
    run = finish(published, packages, Case(name="third", package="c"))
    outputs = publish.read_outputs(published, run)
    settings = Params.load(outputs.root / "params.yaml")
    assert judgement.other_facts(outputs.evaluation, settings) == []
    lie = outputs.evaluation.facts.model_copy(
        update={"settings": {**outputs.evaluation.facts.settings, "train.learning_rate": 0.5}}
    )
    [said] = judgement.other_facts(outputs.evaluation.model_copy(update={"facts": lie}), settings)
    assert said == "the model says train.learning_rate 0.5, and params.yaml 0.001"


def test_code_that_nobody_reviewed_is_refused(published: Home, packages: dict[str, Path], tmp_path: Path) -> None:
    """Under a plan that asks for committed code, a commit of a private clone is refused, and so is no named branch."""
    run = finish(published, packages, Case(name="third", plan="pccp.yaml", new_period=True))
    publish.run(published, run)
    reviewed = published.settings.code_source.partition("#")[0]
    empty = tmp_path / "empty"
    subprocess.run(["git", "init", "-q", "--initial-branch=main", str(empty)], check=True)
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, "commit", "-q", "--allow-empty", "-m", "Reviewed"], cwd=empty, check=True)
    subprocess.run(["git", "push", "-q", "--force", reviewed, "main"], cwd=empty, check=True)
    refused(published, run, RefusedError, "is not in .*reviewed.git#main", "dr_lee")
    nowhere = replace(published, settings=replace(published.settings, code_source=None))
    refused(nowhere, run, RefusedError, "nothing says which branch holds reviewed code")
    lost = replace(published, settings=replace(published.settings, code_source=f"{tmp_path / 'lost'}#main"))
    refused(lost, run, StorageError, "cannot be fetched")


# ------------------------------------------------------------------------------------ answers that Airflow brings


def test_answers_are_kept_with_their_reasons(published: Home, packages: dict[str, Path]) -> None:
    """People agree one after the other, each with a reason; a rejection and silence void what was agreed before."""
    run = redecide(published, packages, Case(name="third", plan="pccp.yaml", approvals=2))
    asked = answer.request(published, run)
    assert (asked["approvals"], asked["missing"], asked["agreed"], asked["promoted"]) == (2, 2, [], False)
    about = {"run": run, "decision": asked["decision"]}
    lee = {"by": "dr_lee", "reason": "read the report", "at": "2026-03-01T09:00:00+00:00"}
    for _ in range(2):  # the same answer, whose task was tried again
        assert answer.run(published, **about, approve=True, **lee)["missing"] == 1
    no = answer.run(published, **about, approve=False, by="dr_ito", reason="children fare worse", at="")
    assert (no["rejected"], no["missing"], no["agreed"]) == (True, 2, [])
    refused(published, run, RefusedError, "2 persons must agree .* nobody did")
    answer.run(published, **about, approve=True, by="dr_lee", reason="looked once more", at="2026-03-02T09:00:00Z")
    silence = answer.run(published, **about, approve=False, by=None, reason="", at="2026-03-09T09:00:00Z")
    assert silence["missing"] == 2
    for name in ("dr_lee", "dr_ito"):
        told = answer.run(published, **about, approve=True, by=name, reason="children fare well now", at="")
    assert (told["missing"], told["agreed"]) == (0, ["dr_lee", "dr_ito"])
    refused(published, run, StorageError, "not hold the code")  # enough have agreed: what is asked next is missing
    entries = open_ledger(published).entries()
    kept = [(one.kind, one.body["by"], one.body["reason"]) for one in entries if one.kind in ("approval", "rejection")]
    assert kept == [
        ("approval", "dr_lee", "read the report"),
        ("rejection", "dr_ito", "children fare worse"),
        ("approval", "dr_lee", "looked once more"),
        ("rejection", None, "nobody answered in time"),
        ("approval", "dr_lee", "children fare well now"),
        ("approval", "dr_ito", "children fare well now"),
    ]


NO_ANSWERS: list[tuple[dict[str, Any], str]] = [
    ({"by": "\uff24r_\u200bRuiz"}, "requested .* cannot approve"),  # wide, and with what cannot be seen
    ({"by": "DR_LEE\u2060 "}, "has approved .* already, as dr_lee"),
    ({"by": "dr_\u3164lee"}, "has approved .* already"),
    ({"by": "\u200b"}, "nobody's"),
    ({"by": "Anonymous"}, "nobody's"),
    ({"by": None}, "somebody's"),
    ({"reason": ""}, "too short"),
    ({"reason": "\u200b" * 30}, "too short"),
    ({"at": "soon"}, "not ISO 8601"),
    ({"decision": "0f" * 32}, "another decision"),
]


def test_an_answer_that_is_none_is_refused(published: Home, packages: dict[str, Path]) -> None:
    """Who asked, who agreed already, however spelt, nobody, no reason, no time: none of it goes on record."""
    run = redecide(published, packages, Case(name="third", plan="pccp.yaml", approvals=2))
    said = {"run": run, "decision": answer.request(published, run)["decision"], "approve": True, "at": ""}
    answer.run(published, **said, by="dr_lee", reason="read the report")
    before = open_ledger(published).entries()
    for given, match in NO_ANSWERS:
        with pytest.raises((RefusedError, ConflictError), match=match):
            answer.run(published, **{**said, "by": "dr_ito", "reason": "read it as well", **given})
    assert open_ledger(published).entries() == before
