"""What is said beside a run in Airflow."""

from __future__ import annotations

from cxr_ops.edges.airflow.announce import note
from cxr_ops.edges.airflow.client import NOTE_CHARACTERS
from cxr_ops.records.run import Result
from cxr_ops.records.verdict import Reason

LOST = Reason(code="MARGIN_NOT_MET", sentence="Edema lost 0.08.")


def result(**more: object) -> Result:
    names = {"mlflow_run_id": "ab12", "model_version": "3", "run_commit": "2c" * 20, "code_commit": "9e" * 20}
    return Result.model_validate({"run": "r-1", "verdict": "REJECT", "reasons": [LOST], **names, **more})


def test_a_note_says_the_verdict_its_reasons_and_where_everything_is() -> None:
    """Verdict and reasons come first, then MLflow's run as a link, the versions of model and outputs, and the code."""
    lines = note(result(), {"MLflow run": "https://mlflow.example.org/#/runs/ab12"}).splitlines()
    assert lines == [
        "**REJECT**: the champion stays",
        "",
        "* MARGIN_NOT_MET: Edema lost 0.08.",
        "* MLflow run: [`ab12`](https://mlflow.example.org/#/runs/ab12)",
        "* model version: `cxr-densenet121/3`",
        f"* DVC revision: `{'2c' * 20}`",
        f"* code: `{'9e' * 20}`",
    ]


def test_a_note_links_to_no_file() -> None:
    """Where MLflow is a database, its run is named and not linked."""
    assert "* MLflow run: `ab12`" in note(result(), {}).splitlines()


def test_a_note_tells_a_promotion_from_a_proposal() -> None:
    """PROMOTE alone says what the gate decided; that the champion has changed is said when the ledger holds it."""
    assert note(result(verdict="PROMOTE"), {}).startswith("**PROMOTE**\n")
    assert note(result(verdict="PROMOTE", promotion="5f" * 32), {}).startswith("**PROMOTE**: promoted\n")


def test_a_note_is_as_long_as_airflow_takes() -> None:
    """Reasons that have no room are counted, and where everything is stays in."""
    text = note(result(reasons=[LOST] * 100), {})
    shown = text.count("Edema lost")
    assert f"* and {100 - shown} more reasons, in the report" in text.splitlines()
    assert len(text) <= NOTE_CHARACTERS < len(text) + len("* MARGIN_NOT_MET: Edema lost 0.08.\n")
    assert "9e" * 20 in text
