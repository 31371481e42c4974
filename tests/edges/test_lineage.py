"""lineage: from any identifier of a run to all the others."""

from __future__ import annotations

import pytest
from evaluations import opened
from finished import AIRFLOW, RUN

from cxr_ops.audit.entries import Decision
from cxr_ops.contract import MODEL_NAME
from cxr_ops.edges.home import Home
from cxr_ops.edges.ledger import open_ledger
from cxr_ops.edges.lineage import trace
from cxr_ops.edges.pipeline import record_no_change
from cxr_ops.errors import DataError
from cxr_ops.records.data import DataRevision
from cxr_ops.records.inputs import Champion, Code

FIRST, SECOND = RUN["first"], RUN["second"]


def test_every_identifier_leads_to_every_other(champion: Home) -> None:
    """Airflow run, MLflow run, DVC revision, version, package, report and ledger entries all give the same lineage."""
    ledger = open_ledger(champion)
    entry, promotion = ledger.decision(FIRST), ledger.champion()
    body = entry.decision
    found = trace(champion, FIRST)
    assert (found.run, found.airflow_run_id, found.mlflow_run_id) == (FIRST, AIRFLOW["first"], body.mlflow_run_id)
    assert (found.model_version, found.package) == ("1", body.package)
    assert (found.run_commit, found.data_revision, found.code_commit) == (
        body.run_commit,
        body.data_revision,
        body.code_commit,
    )
    assert (found.report, found.verdict) == (body.report, "PROMOTE")
    assert (found.decision, found.promotion, found.champion) == (entry.digest(), promotion.digest(), True)
    assert found.report_page == str(champion.reports / f"{FIRST}.html")
    for identifier in (
        AIRFLOW["first"],
        body.mlflow_run_id,
        body.run_commit,
        body.run_commit[:7],
        "1",
        f"{MODEL_NAME}/1",
        f"models:/{MODEL_NAME}/1",
        "champion",
        "reference",
        f"{MODEL_NAME}@champion",
        body.package,
        f"  {body.package[:12]}\n",
        entry.digest(),
        promotion.digest()[:20],
    ):
        assert trace(champion, identifier) == found


@pytest.mark.parametrize(
    ("alias", "said"),
    [("champion", "no model was promoted"), ("reference", "no model was"), ("challenger", "no run was decided on")],
)
def test_an_alias_that_no_model_has_yet_is_told_as_such(home: Home, alias: str, said: str) -> None:
    """Before the first release the next step is a training, and not the same command again."""
    with pytest.raises(DataError, match=f"there is no {alias} yet: {said}") as caught:
        trace(home, alias)
    assert "lineage champion" not in str(caught.value.fix)


def test_other_run_is_not_the_champion(champion: Home) -> None:
    """A run that was decided on and not promoted says so."""
    found = trace(champion, f"{MODEL_NAME}/2")
    assert (found.run, found.champion, found.promotion) == (SECOND, False, None)


def test_the_challenger_is_the_run_that_was_decided_on_last(champion: Home) -> None:
    """The alias `challenger` leads to the same run as in MLflow: the one that was decided on last."""
    assert trace(champion, "challenger") == trace(champion, SECOND)


def test_run_without_a_change_leads_to_the_run_that_made_the_champion(champion: Home) -> None:
    """A run that ended NO_CHANGE is found by its name and by Airflow's id, and names the champion and its maker."""
    entry = open_ledger(champion).champion()
    champion_then = Champion(
        package=entry.promotion.package, version="1", entry=entry.digest(), recipe=entry.promotion.recipe
    )
    opened(
        RUN["third"],
        airflow_run_id=AIRFLOW["third"],
        no_change=True,
        code=Code(commit="c" * 40, dirty=False),
        data=DataRevision(revision="d" * 40, batches={}),
        champion=champion_then,
    ).write(champion.run(RUN["third"]) / "run.json")
    record_no_change(champion, RUN["third"])
    found = trace(champion, RUN["third"])
    assert found == trace(champion, AIRFLOW["third"])
    assert (found.verdict, found.made_by, found.champion) == ("NO_CHANGE", FIRST, True)
    assert (found.model_version, found.package) == ("1", champion_then.package)
    assert (found.decision, found.run_commit, found.report) == (None, None, None)
    assert f"cxr-ops lineage {FIRST}" in str(found)


def test_run_that_has_not_ended_is_told_apart_from_none(published: Home) -> None:
    """A run that was opened and is not published is known, and what is missing is said."""
    folder = published.run(RUN["third"])
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    with pytest.raises(DataError, match="has not ended, or failed") as caught:
        trace(published, RUN["third"])
    assert f"cxr-ops publish --run {RUN['third']}" in str(caught.value)


def test_identifier_of_several_runs_gives_the_promoted_one_and_names_the_others(champion: Home) -> None:
    """A data revision or report that two runs share leads to the promoted run, and to the other by name."""
    for shared in ("d" * 40, open_ledger(champion).decision(FIRST).decision.report):
        found = trace(champion, shared)
        assert (found.run, found.also) == (FIRST, [SECOND])


def test_beginning_of_several_digests_is_asked_for_more(published: Home) -> None:
    """A beginning that fits two different digests names both instead of taking one."""
    ledger = open_ledger(published)
    body = ledger.decision(FIRST).decision.model_dump()
    for run, commit in (("x", "abcdef01" + "0" * 32), ("y", "abcdef02" + "0" * 32)):
        ledger.append("decision", Decision(**{**body, "run": run, "run_commit": commit}))
    assert trace(published, "abcdef01").run == "x"
    with pytest.raises(DataError, match=r"beginning of several: abcdef01.*abcdef02.*"):
        trace(published, "abcdef0")


@pytest.mark.parametrize("identifier", ["nobody-knows-this", "", "d" * 6, f"{MODEL_NAME}/99", RUN["third"]])
def test_unknown_identifier_is_said_so(published: Home, identifier: str) -> None:
    """What belongs to no published run, or is too short to tell, is a DataError with a next step."""
    with pytest.raises(DataError, match="no run has the identifier") as caught:
        trace(published, identifier)
    assert "ledger show" in str(caught.value)


def test_lineage_reads_as_text(champion: Home) -> None:
    """For people it is a line an identifier."""
    lines = str(trace(champion, FIRST)).splitlines()
    assert lines[0].split() == ["run", FIRST]
    assert f"{MODEL_NAME}/1, the champion" in "\n".join(lines)
