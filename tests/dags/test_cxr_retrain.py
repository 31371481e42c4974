from __future__ import annotations

import pytest
from airflow_runs import Runs

from cxr_ops import contract

pytestmark = pytest.mark.airflow

JUDGING = {"evaluate", "explain", "gate", "report", "publish", "route", "approve", "promote"}


def test_a_promoted_run_takes_every_stage_once_and_in_order(runs: Runs) -> None:
    """Without an approval in the plan, PROMOTE runs all stages in the contract's order and skips only `approve`."""
    outcome = runs.run()
    assert outcome.state == "success"
    assert outcome.skipped == {"approve"}
    assert [call["verb"] for call in outcome.calls] == list(contract.STAGES[1:])


def test_nothing_new_ends_after_open(runs: Runs) -> None:
    """When `open` finds the champion's recipe, nothing else runs and the run is a success."""
    outcome = runs.run(open={"result": {"no_change": True}})
    assert outcome.state == "success"
    assert [call["verb"] for call in outcome.calls] == ["open"]
    assert outcome.skipped == {"validate", "split", "prepare", "train", "differs"} | JUDGING


def test_open_is_told_the_run_and_its_settings(runs: Runs) -> None:
    """`open` gets slug and id of a run without a date, who asked for it, and its params as YAML of the same value."""
    conf = {"epochs": 3, "learning_rate": 1e-05, "settings": {"train.weights": "none"}, "force": True}
    outcome = runs.run(conf=conf, open={"result": {"no_change": True}})
    assert outcome.called("open") == [
        [
            *("--run", contract.slug(outcome.run_id)),
            *("--airflow-run-id", outcome.run_id),
            *("--requested-by", "dag_test"),  # whom Airflow names for dag.test()
            *("--set", 'train.weights="none"'),
            *("--set", "train.epochs=3"),
            *("--set", "train.learning_rate=1.0e-05"),
            "--force",
        ]
    ]


def test_the_same_package_ends_before_a_look_is_spent(runs: Runs) -> None:
    """When training gives the champion's package, `evaluate` does not run."""
    outcome = runs.run(train={"result": {"no_change": True}})
    assert outcome.state == "success"
    assert outcome.skipped == JUDGING


def test_another_verdict_is_no_failure(runs: Runs) -> None:
    """A verdict that does not promote ends the run in success, with `promote` skipped."""
    outcome = runs.run(publish={"result": {"verdict": contract.REJECT}})
    assert outcome.state == "success"
    assert outcome.skipped == {"approve", "promote"}


def test_what_would_fail_again_is_not_tried_again(runs: Runs) -> None:
    """Bad data end the run at the first attempt, and what comes after them does not run."""
    outcome = runs.run(validate={"exit_codes": [contract.EXIT_DATA]})
    assert outcome.state == "failed"
    assert len(outcome.called("validate")) == 1
    assert outcome.states["split"] == "upstream_failed"


def test_what_may_pass_is_tried_again(runs: Runs) -> None:
    """A store that did not answer is asked again, and the run goes on when it does."""
    outcome = runs.run(open={"result": {"no_change": True}, "exit_codes": [contract.EXIT_STORAGE]})
    assert outcome.state == "success"
    assert len(outcome.called("open")) == 2


def test_an_approval_carries_its_name(runs: Runs) -> None:
    """Where the plan asks for an approval, `promote` waits for it and is told who gave it."""
    outcome = runs.run(answer=("dr_lee", "Approve"), publish={"result": {"approvals": 1}})
    assert outcome.states["approve"] == outcome.states["promote"] == "success"
    assert outcome.called("promote") == [["--run", contract.slug(outcome.run_id), "--approved-by", "dr_lee"]]


def test_who_is_asked_is_told_what_to_look_at(runs: Runs) -> None:
    """The question shows verdict, number of persons, holds in words, findings with wide margins and the full report."""
    published = {
        "approvals": 2,
        "withheld": True,
        "holds": {"HARM_SIGNAL": "A finding seems worse in a subgroup."},
        "limited_findings": ["Hernia", "Edema"],
    }
    outcome = runs.run(answer=("dr_lee", "Approve"), publish={"result": published})
    lines = [line for line in outcome.question.splitlines() if line]
    for line in (
        "| verdict | PROMOTE |",
        "| persons who must agree | 2 |",
        "| judged by a wide margin, having few patients | Hernia, Edema |",
        "**HARM_SIGNAL**: A finding seems worse in a subgroup.",
        "It shows the test set, which is withheld from people who tune models: do not pass it on.",
    ):
        assert line in lines
    run = contract.slug(outcome.run_id)
    assert f"| full report | withheld; it is {run}.html in the folder for auditors and approvers |" in lines
    assert f"`cxr-ops promote --run {run} --approved-by NAME`" in outcome.question


def test_who_is_asked_about_an_ordinary_run_reads_no_more_than_needed(runs: Runs) -> None:
    """Without holds and with nothing withheld, the question names the report and says that nothing is limited."""
    outcome = runs.run(answer=("dr_ito", "Reject"), publish={"result": {"approvals": 1}})
    assert "| judged by a wide margin, having few patients | no finding |" in outcome.question
    assert "| full report | r.html |" in outcome.question
    assert "do not pass it on" not in outcome.question
    assert "--approved-by" not in outcome.question


def test_a_rejection_by_a_person_promotes_nothing(runs: Runs) -> None:
    """When the person asked says no, `promote` is skipped."""
    outcome = runs.run(answer=("dr_ito", "Reject"), publish={"result": {"approvals": 1}})
    assert outcome.state == "success"
    assert outcome.skipped == {"promote"}


def test_nobody_in_particular_cannot_approve(runs: Runs) -> None:
    """Where everybody is an administrator without a login, a plan with approvals neither asks nor promotes."""
    outcome = runs.run(all_admins=True, publish={"result": {"approvals": 1}})
    assert outcome.state == "success"
    assert outcome.skipped == {"approve", "promote"}


def test_a_backfill_promotes_nothing(runs: Runs) -> None:
    """A run that was made for an old date is judged and not promoted."""
    outcome = runs.run(run_type="backfill")
    assert outcome.state == "success"
    assert outcome.skipped == {"approve", "promote"}
