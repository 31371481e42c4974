"""What the plan says of where heat maps lie: accused where it is shown, and never passed over without a word."""

from __future__ import annotations

import pytest
from evaluations import PROJECT, change_rules, evaluation_of, inputs_of, lying

from cxr_ops import plan as plans
from cxr_ops.errors import SettingsError
from cxr_ops.plan import MapPlaces
from cxr_ops.records.evidence import Undefined
from cxr_ops.stats import rule


@pytest.fixture(scope="module")
def study(simulate):
    return simulate(1)


@pytest.fixture(scope="module")
def strict():
    """The demonstration's plan with limits on where maps lie."""
    return change_rules(
        plans.load(PROJECT / "pccp.demo.yaml"), map_places=MapPlaces(pointing_margin=0.15, overlap_floor=0.3)
    )


@pytest.fixture(scope="module")
def judged(study, strict):
    """The verdict on an equally good challenger whose maps lie so."""

    def judge(*, first=False, rows=None, plan=strict, **gain):
        evaluation = evaluation_of(study, plan, first=first)
        found = [row for row in evaluation.findings if row.finding in evaluation.macro_over]
        located = lying(found, plan, **gain) if rows is None else rows(evaluation.localization)
        return rule.decide(evaluation.model_copy(update={"localization": located}), inputs_of(first=first), plan)

    return judge


def codes(verdict):
    return {str(reason.code) for reason in verdict.reasons}


def test_maps_that_lie_elsewhere_than_the_champions_are_rejected_and_told_why(judged) -> None:
    """Peaks in a box less often by 0.30, of 0.15 allowed, are MAPS_MISPLACED; by 0.10 they pass, and so by any gain."""
    assert [judged(pointing=gain).verdict for gain in (0.2, 0.0, -0.1)] == ["PROMOTE"] * 3
    verdict = judged(pointing=-0.3)
    assert verdict.verdict == "REJECT"
    reasons = [reason for reason in verdict.reasons if reason.code == "MAPS_MISPLACED"]
    assert len(reasons) == len({reason.finding for reason in reasons}) == 14
    assert "have the map's peak in a box: -0.300 against the champion; the plan allows a loss of 0.15" in (
        reasons[0].sentence
    )
    assert reasons[0].numbers["limit"] == -0.15


def test_a_loss_that_is_not_shown_is_no_accusation(judged) -> None:
    """0.17 of 0.15 with a standard error of 0.02 may be chance: nobody is accused."""
    assert judged(pointing=-0.17).verdict == "PROMOTE"


def test_a_floor_holds_at_a_first_release_and_a_margin_cannot(judged) -> None:
    """Without a champion the share itself is judged: 0.1 of a floor of 0.3 is rejected."""
    assert judged(first=True, pointing=-0.5).verdict == "PROMOTE"
    verdict = judged(first=True, overlap=-0.5)
    assert verdict.verdict == "REJECT"
    told = next(reason.sentence for reason in verdict.reasons if reason.code == "MAPS_MISPLACED")
    assert "0.100; the plan allows no less than 0.3" in told


def test_too_few_boxes_are_said_and_stop_nothing(judged) -> None:
    """Findings of which 5 patients have boxes are not judged, and named."""
    verdict = judged(patients=5, images=5, pointing=-0.5)
    assert verdict.verdict == "PROMOTE"
    [note] = [reason for reason in verdict.reasons if "Where maps lie" in reason.sentence]
    assert (note.code, note.numbers) == ("NOT_EVALUABLE", {"least": 20})
    assert "Mass" in note.sentence


def test_evidence_without_what_the_plan_asks_or_that_contradicts_itself_is_incomplete(judged) -> None:
    """Missing, of one finding too few, twice, more patients than images, or no difference of the two: no promotion."""

    def changed(**update):
        return lambda rows: [rows[0].model_copy(update=update), *rows[1:]]

    def with_pointing(**update):
        return lambda rows: changed(pointing=rows[0].pointing.model_copy(update=update))(rows)

    for rows in (
        lambda rows: [],
        lambda rows: rows[1:],
        lambda rows: [*rows, rows[0]],
        changed(patients=50),
        changed(images=10**6),
        changed(overlap={}),
        with_pointing(difference=None),
        lambda rows: with_pointing(champion=rows[0].pointing.champion.model_copy(update={"value": 0.55}))(rows),
    ):
        verdict = judged(rows=rows)
        assert verdict.verdict == "INSUFFICIENT EVIDENCE"
        assert codes(verdict) & {"EVIDENCE_INCOMPLETE", "UNDEFINED_EVIDENCE"}


def test_a_figure_that_cannot_be_computed_stops_a_promotion(judged) -> None:
    """A champion without heat maps leaves nothing to compare with, and the reason is told."""
    no_map = Undefined(reason="the model's network gives no heat maps")

    def rows(there):
        pointing = there[0].pointing.model_copy(update={"champion": no_map, "difference": no_map})
        return [there[0].model_copy(update={"pointing": pointing}), *there[1:]]

    verdict = judged(rows=rows)
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    told = next(reason.sentence for reason in verdict.reasons if reason.code == "UNDEFINED_EVIDENCE")
    assert "where its maps lie (pointing) cannot be told: the model's network gives no heat maps" in told


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("{min_patients: 20}", "a margin or a floor"),
        ("{pointing_margin: 0.1, overlap_at: 0.25}", "0.1, 0.2, 0.3"),
        ("{pointing_margn: 0.1}", "pointing_margn is not a setting"),
    ],
)
def test_a_part_that_limits_nothing_or_names_no_threshold_is_refused(project, part, said) -> None:
    """The plan's error says what to write instead."""
    text = (project / "pccp.demo.yaml").read_text(encoding="utf-8")
    wrong = text.replace("    calibration:\n", f"    map_places: {part}\n    calibration:\n", 1)
    with pytest.raises(SettingsError, match=said):
        plans.parse(wrong.encode(), "pccp.yaml")
