"""Real runs of cxr_promote, cxr_rollback and cxr_maintenance, with a stand-in for the command that they start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow_runs import Outcome, Runs

from cxr_ops import contract

pytestmark = pytest.mark.airflow

DECISION = "0f" * 32
ASKED = {
    "run": "r-1",
    "decision": DECISION,
    "model_version": "7",
    "mlflow_run_id": "ab12",
    "plan": "hospital",
    "holds": [],
    "approvals": 2,
    "agreed": [],
    "missing": 2,
}


def promote(runs: Runs, *answer: str, told: dict[str, Any] | None = None, **asked: Any) -> Outcome:
    """Run cxr_promote: a person answers, and the command tells then what is missing."""
    return runs.run(
        contract.PROMOTE_DAG_ID,
        {"run": "manual__1"},
        answer=[(answer[0], answer[1], answer[2])] if answer else None,
        also={"answer": {"result": told}},
        request={"result": {**ASKED, **asked}},
        promote={"result": {"already": True}},
    )


def given(arguments: list[str]) -> list[str]:
    """The arguments of an answer without its time."""
    place = arguments.index("--at")
    assert arguments[place + 1][:2] == "20"
    return [*arguments[:place], *arguments[place + 2 :]]


ABOUT = ["--run", "r-1", "--decision", DECISION]


def test_the_next_person_is_asked(runs: Runs) -> None:
    """A person's name, answer and reason go to the ledger, and while people are missing, a run asks the next one."""
    ended = promote(runs, "dr_lee", "Approve", "I read the report", told={"missing": 1, "rejected": False})
    assert ended.state == "success"
    (call,) = ended.called("answer")
    assert given(call) == [*ABOUT, "--approve", "--by", "dr_lee", "--reason", "I read the report"]
    assert ended.states["again"] == "success"
    assert runs.call("airflow_runs.conf_of", f"{ended.run_id}__next") == {"run": "manual__1"}
    assert not ended.called("promote")
    assert "registered version | 7" in str(ended.question)


def test_the_last_person_promotes(runs: Runs) -> None:
    """After the last answer that was missing, the run is promoted, and nobody else is asked."""
    ended = promote(runs, "dr_ito", "Approve", "the cases look right", told={"missing": 0, "rejected": False})
    assert [call["verb"] for call in ended.calls] == ["request", "answer", "promote"]
    assert ended.called("promote") == [["--run", "manual__1"]]
    assert ended.skipped == {"again", "keep"}


def test_a_rejection_ends_it(runs: Runs) -> None:
    """A person who says no ends the asking: the reason goes to the ledger, and nothing is promoted."""
    ended = promote(runs, "dr_lee", "Reject", "children fare worse", told={"missing": 2, "rejected": True})
    assert ended.state == "success"
    (call,) = ended.called("answer")
    assert given(call) == [*ABOUT, "--reject", "--by", "dr_lee", "--reason", "children fare worse"]
    assert ended.states["keep"] == "success"
    assert "promote" in ended.skipped
    assert not ended.called("promote")


def test_nobody_is_asked_where_nobody_is_missing(runs: Runs) -> None:
    """A run that enough people have agreed to is promoted without another question."""
    ended = promote(runs, missing=0)
    assert [call["verb"] for call in ended.calls] == ["request", "promote"]
    assert ended.question is None


def test_an_answer_that_is_refused_promotes_nothing(runs: Runs) -> None:
    """Where the ledger takes an answer for none, the run fails for good, and nobody else is asked."""
    ended = runs.run(
        contract.PROMOTE_DAG_ID,
        {"run": "manual__1"},
        answer=[("dr_lee", "Approve", "")],
        also={"answer": {"exit_codes": [contract.EXIT_REFUSED]}},
        request={"result": ASKED},
    )
    assert ended.state == "failed"
    assert len(ended.called("answer")) == 1
    assert not ended.called("promote")


def test_a_rollback_is_somebodys(runs: Runs) -> None:
    """Whoever started the run is who rolled back, with the reason of the form."""
    ended = runs.run(contract.ROLLBACK_DAG_ID, {"to": "3", "reason": "worse in use"})
    assert ended.called("rollback") == [["--to", "3", "--by", "dag_test", "--reason", "worse in use"]]


@pytest.mark.parametrize(
    "conf", [{"to": "3"}, {"to": "3", "reason": "short"}, {"to": "--by", "reason": "worse in use"}]
)
def test_a_rollback_has_a_reason(runs: Runs, conf: dict[str, str]) -> None:
    """A form without a reason, with hardly any, or with an option for a version is refused before anything starts."""
    kind, _ = runs.call("airflow_runs.check_params", contract.ROLLBACK_DAG_ID, conf)
    assert kind == "ParamValidationError"
    assert (
        runs.call("airflow_runs.check_params", contract.ROLLBACK_DAG_ID, {"to": "3", "reason": "worse in use"}) is None
    )


def test_maintenance_shows_first_and_removes_when_told(runs: Runs, tmp_path: Path) -> None:
    """By itself it watches and says what could be removed; told so, it removes it after that, and makes a backup."""
    ended = runs.run(contract.MAINTENANCE_DAG_ID)
    assert ended.state == "success"
    assert sorted((call["verb"], *call["arguments"]) for call in ended.calls) == [("gc",), ("watch",)]
    assert ended.skipped == {"gc", "backup"}
    assert ended.results["sweep"] == []
    ended = runs.run(contract.MAINTENANCE_DAG_ID, {"gc": "remove", "backup": str(tmp_path)})
    assert [call["arguments"] for call in ended.calls if call["verb"] == "gc"] == [[], ["--yes"]]
    assert ended.called("backup") == [["--out", str(tmp_path)]]


def test_parts_of_maintenance_hold_up_no_other(runs: Runs, tmp_path: Path) -> None:
    """A registry that is not as the ledger says fails its task alone: the backup is made."""
    ended = runs.run(
        contract.MAINTENANCE_DAG_ID, {"backup": str(tmp_path)}, watch={"exit_codes": [contract.EXIT_REFUSED]}
    )
    assert ended.state == "failed"
    assert (ended.states["watch"], ended.states["backup"]) == ("failed", "success")
