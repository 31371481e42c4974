"""The summary tells in a terminal of 80 columns, without colour, what a run came to and where to look."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.evidence import Estimate
from cxr_ops.records.inputs import Champion, OtherPlan
from cxr_ops.records.run import Result
from cxr_ops.records.verdict import Reason
from cxr_ops.report import summary


@pytest.fixture
def finished(tmp_path, evidence, decision) -> Callable[..., Path]:
    """Write the files of a finished run and return its folder."""

    def make(word: str = "PROMOTE", *, champion: bool = True, **changes: object) -> Path:
        folder = tmp_path / "runs" / "manual-1"
        evaluation = evidence(champion=champion)
        verdict = decision(evaluation, word)
        evaluation.write(folder / "workspace" / "evaluate" / "evaluation.json")
        verdict.write(folder / "workspace" / "gate" / "verdict.json")
        values: dict[str, object] = {
            "run": "manual-1",
            "airflow_run_id": "manual__1",
            "verdict": word,
            "reasons": verdict.reasons,
            "champion": verdict.champion,
            "package": "ab" * 32,
            "mlflow_run_id": "0123456789abcdef",
            "model_version": "2",
            "run_commit": "cd" * 20,
            "report": str(tmp_path / "reports" / "manual-1.html"),
        }
        Result.model_validate(values | changes).write(folder / "result.json")
        return folder

    return make


def printed(folder: Path, width: int = 80) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None).print(summary.render(folder), crop=False)
    return out.getvalue()


def test_every_finding_has_its_line_with_both_models_interval_difference_and_counts(finished, evidence):
    """Each of the 14 lines holds what the evidence holds, to three digits."""
    lines = printed(finished()).splitlines()
    for one in evidence().findings:
        (line,) = [line for line in lines if line.startswith(one.finding.replace("_", " ") + " ")]
        assert line.split()[-1] == f"{one.support.positives}/{one.support.positive_patients}"
        if isinstance(one.challenger, Estimate):
            numbers = (one.challenger.value, one.challenger.low, one.challenger.high, one.champion.value)
            assert all(f"{number:.3f}" in line for number in numbers)
            signed = (one.difference.value, one.difference.low, one.difference.high)
            assert all(f"{number:+.3f}".replace("0.", ".", 1) in line for number in signed)
        else:
            assert "not evaluable" in line
    assert any(line.startswith("mean of 13") and "0.861 [0.848,0.874]" in line for line in lines)


def test_generated_data_are_told_at_the_top(finished, evidence):
    """A run on generated pictures says so before any figure; a run on others does not."""
    folder = finished()
    assert "people who do not exist" not in printed(folder)
    given = evidence()
    generated = given.model_copy(update={"facts": given.facts.model_copy(update={"sources": ["generated"]})})
    generated.write(folder / "workspace" / "evaluate" / "evaluation.json")
    assert "data: generated pictures of people who do not exist" in printed(folder).split("AUC by finding")[0]


@pytest.mark.parametrize("champion", [True, False])
def test_it_fits_80_columns_and_cuts_nothing(finished, champion):
    """At 80 columns no line is longer but that of a path, and nothing was shortened to fit."""
    text = printed(finished("INSUFFICIENT EVIDENCE", champion=champion))
    assert max(len(line) for line in text.partition("where to look")[0].splitlines()) <= 80
    assert "…" not in text
    heads = ["challenger", "positive"] + (["champion", "difference"] if champion else [])
    assert all(head in text for head in heads)
    assert (
        sum(line.split("  ")[0].startswith(tuple(f.replace("_", " ") for f in FINDINGS)) for line in text.splitlines())
        >= 14
    )


def test_it_prints_where_only_ascii_can_be_written(finished):
    """On an output that knows ASCII alone, the summary is printed all the same."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=out, width=80, color_system=None).print(summary.render(finished()))
    out.flush()


def test_it_says_where_to_look(finished, tmp_path):
    """Report, registry version, MLflow run, Airflow run, run commit and the command for the rest are named whole."""
    text = printed(finished(), width=200)
    for place in (
        str(tmp_path / "reports" / "manual-1.html"),
        "cxr-densenet121 version 2",
        "0123456789abcdef",
        "manual__1",
        "cd" * 20,
        "cxr-ops lineage manual-1",
        "make ui",
    ):
        assert place in text


def test_a_long_path_stands_on_one_line(finished, tmp_path):
    """A path that is longer than the terminal is wide is neither folded nor cut, so that it can be copied."""
    report = str(tmp_path / ("long-" * 20) / "manual-1.html")
    assert f"  report   {report}\n" in printed(finished(report=report))


@pytest.mark.parametrize(
    ("changes", "commands"),
    [
        ({"approvals": 2}, ["promote --run manual-1 --approved-by NAME"]),
        ({}, ["promote --run manual-1"]),
        ({"promotion": "ee" * 32, "approvals": 1}, []),
        ({"word": "REJECT", "approvals": 1}, []),
    ],
)
def test_where_a_verdict_waits_the_command_to_type_is_told(finished, changes, commands):
    """A PROMOTE that is not carried out yet names the command that carries it out, and nothing else does."""
    lines = [line.split("cxr-ops ", 1)[1] for line in printed(finished(**changes)).splitlines() if "cxr-ops " in line]
    assert lines == ["checkout manual-1 FOLDER", "lineage manual-1", *commands]


def test_paths_below_the_current_folder_are_short(finished, tmp_path, monkeypatch):
    """A path is written from the current folder on, so that it fits a line."""
    folder = finished()
    monkeypatch.chdir(tmp_path)
    assert "  report   reports/manual-1.html\n" in printed(folder)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"promotion": "ee" * 32}, "Version 2 of cxr-densenet121 is the champion now."),
        ({"approvals": 2}, "waits for the approval of 2 persons"),
        ({}, "is not promoted yet"),
        ({"word": "REJECT"}, "was not promoted; version 2 stays in use"),
        ({"word": "INSUFFICIENT EVIDENCE", "champion": False}, "was not promoted; no model is in use"),
    ],
)
def test_the_outcome_says_what_is_in_use_now(finished, changes, sentence):
    """The headline tells whether the model in use has changed: a PROMOTE that is not carried out is not called done."""
    text = printed(finished(**changes), width=200)
    assert sentence in text
    assert "NOT FOR CLINICAL USE" in text


def test_many_reasons_are_counted_and_what_concerns_all_comes_first(finished):
    """A reason for each finding does not push the table off the screen."""
    text = printed(finished("REJECT"), width=200)
    why = text[text.index("\nwhy") :]
    assert why.index("Macro-AUC") < why.index("Atelectasis")
    assert why.count("  - ") == 9
    assert "and 7 more, in the report" in why


def test_what_is_said_of_many_findings_in_the_same_words_is_said_once(finished):
    """Findings that nobody labelled share a line that says what they lack."""
    folder = finished("REJECT")
    result = Result.read(folder / "result.json")
    sentence = "cannot be judged: 15 more positive patients would be needed. The plan does not require this finding."
    names = ("Mass", "Edema", "Hernia")
    reasons = [Reason(code="NOT_EVALUABLE", finding=name, sentence=f"{name} {sentence}") for name in names]
    result.model_copy(update={"reasons": reasons}).write(folder / "result.json")
    why = printed(folder, width=300)
    told = f"Mass, Edema, Hernia {sentence.replace('this finding', 'these findings')} [NOT_EVALUABLE]"
    assert told in why
    assert why.count("[NOT_EVALUABLE]") == 1


def test_a_run_without_change_says_so_and_needs_no_evidence(tmp_path):
    """NO_CHANGE is told from `result.json` alone."""
    folder = tmp_path / "runs" / "manual-2"
    Result(run="manual-2", verdict="NO_CHANGE", champion=Champion(package="ab", version="2")).write(
        folder / "result.json"
    )
    text = printed(folder)
    assert "NO_CHANGE" in text
    assert "Nothing has changed since version 2 was trained" in text
    assert list(summary.as_json(folder)) == ["result"]


def test_subgroups_reference_period_and_holds_have_a_line_each(finished, evidence):
    """The subgroup that lost most, the mean against the reference, the test period and who must agree are told."""
    text = printed(finished(approvals=2, holds=["HARM_SIGNAL"], limited_findings=["Hernia"]))
    evaluation = evidence()
    figures = [
        (figure.value, group.name, against)
        for group in evaluation.subgroups
        for against, figure in (
            ("champion", group.macro_difference),
            ("reference", group.macro_reference_difference),
        )
    ]
    value, name, against = min(figures)
    (line,) = [line for line in text.splitlines() if line.startswith("worst of 6 subgroups")]
    assert f"{name}, mean {value:+.3f}".replace("0.", ".") in line
    assert line.endswith(f"against the {against}")
    assert f"mean against the reference: {evaluation.macro_reference_difference.value:+.3f}".replace("0.", ".") in text
    assert "test period 1, look 3" in text
    assert "held for people: HARM_SIGNAL; 2 must agree" in text
    assert "judged by the widest margin: Hernia" in text


def test_withheld_results_are_not_printed(finished, tmp_path, evidence):
    """Where a plan withholds, verdict, meanings, validation figures and places are told, and no test figure."""
    reasons = [Reason(code="WORSE", sentence="The challenger loses against an earlier model.")]
    restricted = str(tmp_path / "restricted" / "manual-1.html")
    folder = finished("REJECT", reasons=reasons, restricted=restricted)
    text = printed(folder, width=200)
    for told in ("REJECT", reasons[0].sentence, "challenger: 0.842", "champion: 0.836", "withheld", "period 1, look 3"):
        assert told in text
    assert "0.861" not in text
    assert not any(finding.replace("_", " ") in text for finding in FINDINGS)
    assert "subgroup" not in text
    for place in (restricted, "dvc metrics", "store.git", "workspace", str(folder)):  # each leads to test figures
        assert place not in text
    found = summary.as_json(folder)
    assert list(found) == ["result", "validation_macro"]
    assert found["validation_macro"] == evidence().validation_macro


def test_another_plan_than_expected_is_said_at_the_top(finished, evidence, decision):
    """The lines before the table name the plan that was expected, and what is looser; an unknown plan is said to be."""
    for looser, told in ((["approvals 2 -> 0"], "Looser: approvals 2 -> 0."), (None, "asked for is not known here.")):
        other = OtherPlan(than="the last decision's plan", name="strict", sha256="5" * 64, looser=looser)
        folder = finished()
        verdict = decision(evidence(), "PROMOTE").model_copy(update={"other_plan": other})
        verdict.write(folder / "workspace" / "gate" / "verdict.json")
        head = printed(folder, width=300).partition("AUC by finding")[0]
        assert "another plan than the last decision's plan: demonstration instead of strict." in head
        assert told in head


def test_as_json_holds_the_same_evidence(finished, evidence):
    """The plain form is JSON, and its numbers are those of the evidence."""
    found = json.loads(json.dumps(summary.as_json(finished())))
    assert found["result"]["model_version"] == "2"
    assert found["evaluation"] == evidence().model_dump(mode="json")
    assert found["verdict"]["verdict"] == "PROMOTE"


def test_a_run_that_has_not_ended_is_an_error_that_says_so(tmp_path):
    """Without a result there is nothing to summarise."""
    with pytest.raises(DataError, match=r"result\.json is missing"):
        summary.render(tmp_path)
