from __future__ import annotations

import pytest
from airflow_runs import Runs
from services import Recorder

from cxr_ops import contract

pytestmark = pytest.mark.airflow

JUDGING = {"evaluate", "explain", "gate", "report", "publish", "route", "approve", "promote", "keep"}


def test_a_promoted_run_takes_every_stage_once_and_in_order(runs: Runs) -> None:
    """Without an approval in the plan, PROMOTE runs all stages in the contract's order and asks nobody."""
    outcome = runs.run()
    assert outcome.state == "success"
    assert outcome.skipped == {"approve", "keep"}
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
    """A verdict that does not promote ends the run in success, on the way that says that the champion stays."""
    outcome = runs.run(publish={"result": {"verdict": contract.REJECT, "next": None}})
    assert outcome.state == outcome.states["keep"] == "success"
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
    assert f"| the same here | [open it in Airflow](/cxr/full/{run}) |" in lines
    assert f"![The first cases of the test set](/cxr/thumbnails/{run})" in lines
    assert f"| full report | withheld; it is {run}.html in the folder for auditors and approvers |" in lines
    assert f"`cxr-ops promote --run {run} --approved-by NAME`" in outcome.question


def test_who_is_asked_about_an_ordinary_run_reads_no_more_than_needed(runs: Runs) -> None:
    """Without holds and with nothing withheld, the question names the report and says that nothing is limited."""
    outcome = runs.run(answer=("dr_ito", "Reject"), publish={"result": {"approvals": 1}})
    assert "| judged by a wide margin, having few patients | no finding |" in outcome.question
    assert "| full report | r.html |" in outcome.question
    assert f"[open it in Airflow](/cxr/reports/{contract.slug(outcome.run_id)})" in outcome.question
    assert "do not pass it on" not in outcome.question
    assert "--approved-by" not in outcome.question


def test_a_rejection_by_a_person_promotes_nothing(runs: Runs) -> None:
    """When the person asked says no, `promote` is skipped."""
    outcome = runs.run(answer=("dr_ito", "Reject"), publish={"result": {"approvals": 1}})
    assert outcome.state == "success"
    assert outcome.skipped == {"promote", "keep"}


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


# What nobody may read in a chat.
REASONS = {
    "holds": {"HARM_SIGNAL": "A finding seems worse in a subgroup."},
    "limited_findings": ["Hernia"],
    "report": "/srv/cxr/reports/r.html",
}


def told(everybody: Recorder, approvers: Recorder) -> dict[str, str]:
    """The environment in which people are told of events."""
    chat, board = everybody.connection("/everybody"), approvers.connection("/approvers")
    named = {"CXR_NOTIFY": "chat", "CXR_NOTIFY_APPROVERS": "board"}
    return named | {"AIRFLOW_CONN_CHAT": chat, "AIRFLOW_CONN_BOARD": board}


def test_a_verdict_is_told_without_reasons(runs: Runs, recorder: Recorder) -> None:
    """One notice says the verdict as it is told, the run and where to look, and nothing that the plan withholds."""
    published = {"verdict": "NOT PROMOTED", "next": None, "withheld": True, "approvals": 0, **REASONS}
    outcome = runs.run(environ=told(recorder, recorder), publish={"result": published})
    assert outcome.state == "success"
    [(path, _, body)] = recorder.posts
    assert (path, body["event"], body["run"]) == ("/everybody", "verdict", outcome.run_id)
    assert body["text"].startswith(f"cxr-ops: NOT PROMOTED (run {contract.slug(outcome.run_id)})")
    assert not [one for one in ("HARM", "subgroup", "Hernia", "r.html") if one in str(body)]


def test_a_run_that_waits_is_told_to_approvers_alone(runs: Runs, recorder: Recorder) -> None:
    """Everybody is told what a rejected run would tell, approvers that they are waited for, then all the promotion."""
    published = {"verdict": "NOT PROMOTED", "withheld": True, "approvals": 1, **REASONS}
    promoted = {"model_version": "7", "already": False}
    outcome = runs.run(
        environ=told(recorder, recorder),
        answer=("dr_lee", "Approve"),
        publish={"result": published},
        promote={"result": promoted},
    )
    assert outcome.states["promote"] == "success"
    assert [(path, body["event"]) for path, _, body in recorder.posts] == [
        ("/everybody", "verdict"),
        ("/approvers", "approval"),
        ("/everybody", "promotion"),
    ]
    assert "waits for an approval" in recorder.posts[1][2]["text"]
    assert "cxr-densenet121/7 was promoted" in recorder.posts[2][2]["text"]
    assert not [one for one in ("HARM", "subgroup", "Hernia", "r.html") if one in str(recorder.posts)]


@pytest.mark.parametrize(("withheld", "events"), [(True, ["verdict"]), (False, ["verdict", "approval"])])
def test_without_a_channel_of_theirs_approvers_share_one(
    runs: Runs, recorder: Recorder, withheld: bool, events: list[str]
) -> None:
    """Where only everybody has a channel, a run that waits is told there if nothing is withheld, and else to nobody."""
    environ = told(recorder, recorder) | {"CXR_NOTIFY_APPROVERS": ""}
    outcome = runs.run(
        environ=environ, answer=("dr_ito", "Reject"), publish={"result": {"approvals": 1, "withheld": withheld}}
    )
    assert outcome.state == "success"
    assert [body["event"] for _, _, body in recorder.posts] == events


def test_a_notice_that_is_not_sent_changes_nothing(runs: Runs, recorder: Recorder) -> None:
    """A channel that refuses, and one that is not there, are warnings: the run asks, and ends as it would."""
    recorder.answers = [403, 403, 403]
    environ = told(recorder, recorder) | {"CXR_NOTIFY": "chat,nobody", "CXR_NOTIFY_APPROVERS": "board,nobody"}
    outcome = runs.run(environ=environ, answer=("dr_lee", "Approve"), publish={"result": {"approvals": 1}})
    assert outcome.state == outcome.states["promote"] == "success"


def test_a_run_that_fails_is_told_once_without_its_reason(runs: Runs, recorder: Recorder) -> None:
    """A stage that fails for good is named once, with its run; an attempt that is tried again is not told."""
    outcome = runs.run(
        environ=told(recorder, recorder), open={"exit_codes": [contract.EXIT_STORAGE]}, validate={"exit_codes": [10]}
    )
    assert outcome.state == "failed"
    [(path, _, body)] = recorder.posts
    assert (path, body["event"], body["run"]) == ("/everybody", "failed", outcome.run_id)
    run = contract.slug(outcome.run_id)
    assert body["text"].startswith(f"cxr-ops: run {run} of cxr_retrain failed at validate; the task's log says why")
    assert "told to fail" not in body["text"]


@pytest.mark.parametrize("withheld", [True, False])
def test_a_failure_after_a_withheld_verdict_is_told_to_approvers(
    runs: Runs, recorder: Recorder, withheld: bool
) -> None:
    """That `promote` failed says what the verdict was: where that is withheld, approvers alone are told."""
    published = {"verdict": "NOT PROMOTED" if withheld else "PROMOTE", "withheld": withheld, "approvals": 0}
    outcome = runs.run(
        environ=told(recorder, recorder), publish={"result": published}, promote={"exit_codes": [contract.EXIT_REFUSED]}
    )
    assert outcome.states["promote"] == "failed"
    assert [(path, body["event"]) for path, _, body in recorder.posts] == [
        ("/everybody", "verdict"),
        ("/approvers" if withheld else "/everybody", "failed"),
    ]


@pytest.mark.parametrize("stage", ["open", "train"])
@pytest.mark.parametrize("asked", [True, False])
def test_no_change_is_told_where_it_is_asked_for(runs: Runs, recorder: Recorder, stage: str, asked: bool) -> None:
    """A run that ends NO_CHANGE is told by the connections of CXR_NOTIFY_NO_CHANGE, and by no other."""
    environ = told(recorder, recorder) | ({"CXR_NOTIFY_NO_CHANGE": "board"} if asked else {})
    outcome = runs.run(environ=environ, **{stage: {"result": {"no_change": True}}})
    assert outcome.state == "success"
    assert [(path, body["event"]) for path, _, body in recorder.posts] == [("/approvers", "no change")] * asked
    assert not asked or recorder.posts[0][2]["text"].startswith("cxr-ops: NO_CHANGE: the champion stays (run ")
