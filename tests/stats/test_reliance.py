"""What is lost with a region blurred, beside other ways to compute it, and how the plan judges it."""

from __future__ import annotations

import numpy as np
import pytest
from evaluations import PROJECT, evaluation_of, inputs_of, resting
from sklearn.metrics import roc_auc_score

from cxr_ops import plan as plans
from cxr_ops.labels import FINDINGS
from cxr_ops.plan import Reliance as Limits
from cxr_ops.records.evidence import Undefined
from cxr_ops.stats import rule
from cxr_ops.stats.reliance import measure


@pytest.fixture(scope="module")
def plan():
    """The demonstration's, which allows 0.02 in the corners and 0.10 outside."""
    return plans.load(PROJECT / "pccp.demo.yaml")


def scored(rng, patients, truth, strength):
    """Scores that rank by truth so strongly; what a patient's images have in common too."""
    shared = rng.standard_normal((patients.max() + 1, truth.shape[1]))[patients]
    return strength * truth + shared + rng.standard_normal(truth.shape)


@pytest.fixture(scope="module")
def study():
    """900 images of 300 patients, two findings; the challenger leans on the corners for the first one."""
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(300), 3)
    truth = (rng.random((900, 2)) < 0.3).astype(float)
    champion = scored(rng, patients, truth, 1.0)
    challenger = champion + 0.3 * rng.standard_normal(truth.shape)
    less = challenger + 0.1 * rng.standard_normal(truth.shape)
    challenger = challenger + np.array([1.0, 0.0]) * truth
    blurred = {"corners": {"challenger": less, "champion": champion + 0.1 * rng.standard_normal(truth.shape)}}
    return truth, patients, {"challenger": challenger, "champion": champion}, blurred


def test_values_are_scikit_learns_and_errors_those_of_a_bootstrap_of_patients(study) -> None:
    """AUCs and losses are scikit-learn's; the standard errors those of a bootstrap that draws patients."""
    truth, patients, whole, blurred = study
    found = measure(["Mass", "Nodule"], truth, patients, whole, blurred, 0.95)

    def areas(rows):
        return {
            (role, kind): np.array([roc_auc_score(truth[rows, f], table[rows, f]) for f in range(2)])
            for kind, tables in (("whole", whole), ("less", blurred["corners"]))
            for role, table in tables.items()
        }

    def losses(of):
        ours, theirs = (of[role, "whole"] - of[role, "less"] for role in ("challenger", "champion"))
        return np.stack([ours, theirs, ours - theirs])

    seen, rng = areas(np.arange(900)), np.random.default_rng(0)
    places = np.arange(900).reshape(300, 3)
    drawn = np.array([losses(areas(places[rng.integers(0, 300, 300)].ravel())) for _ in range(160)])
    for f, row in enumerate(found):
        at = row.regions["corners"]
        figures = (at.loss["challenger"], at.loss["champion"], at.excess)
        assert [figure.value for figure in figures] == pytest.approx(losses(seen)[:, f], abs=1e-12)
        assert [figure.se for figure in figures] == pytest.approx(drawn[:, :, f].std(axis=0), rel=0.25)
        assert at.auc["challenger"].value == pytest.approx(seen["challenger", "less"][f], abs=1e-12)


def test_without_a_champion_there_is_no_excess_and_without_patients_a_reason(study) -> None:
    """A first model has losses alone; a finding that one patient has says that more are needed."""
    truth, patients, whole, blurred = study
    rare = truth.copy()
    rare[:, 1] = 0.0
    rare[0, 1] = 1.0
    first = measure(
        ["Mass", "Hernia"],
        rare,
        patients,
        {"challenger": whole["challenger"]},
        {"corners": {"challenger": blurred["corners"]["challenger"]}},
        0.95,
    )
    assert first[0].regions["corners"].excess is None
    assert set(first[0].regions["corners"].loss) == {"challenger"}
    assert isinstance(first[1].regions["corners"].loss["challenger"], Undefined)


# ------------------------------------------------------------------------------------------- what the plan says


def judged(simulate, plan, *, first=False, **changes):
    """The verdict on an equally good challenger whose evidence is changed so."""
    evaluation = evaluation_of(simulate(1), plan, first=first)
    if "reliance" not in changes and changes:
        rows = [row for row in evaluation.findings if row.finding in evaluation.macro_over]
        changes = {"reliance": resting(rows, plan, **changes)}
    return rule.decide(evaluation.model_copy(update=changes), inputs_of(first=first), plan)


def codes(verdict):
    """Of its reasons."""
    return {str(reason.code) for reason in verdict.reasons}


@pytest.mark.parametrize("first", [False, True])
def test_a_model_that_rests_on_the_corners_is_rejected_and_told_why(simulate, plan, first) -> None:
    """A loss of 0.10 with the corners blurred is a SHORTCUT; a sentence says the finding, the figure and the limit."""
    assert judged(simulate, plan, first=first).verdict == "PROMOTE"
    verdict = judged(simulate, plan, first=first, corners=0.10)
    assert verdict.verdict == "REJECT"
    reasons = [reason for reason in verdict.reasons if reason.code == "SHORTCUT"]
    assert {reason.finding for reason in reasons} <= set(FINDINGS)
    assert (
        "0.100 of AUC is lost with the corners blurred, more than the 0.02 that the plan allows" in reasons[0].sentence
    )
    assert ("more than the champion's" in reasons[0].sentence) is not first


def test_a_loss_within_the_limit_and_one_that_the_champion_has_too_are_passed(simulate, plan) -> None:
    """0.019 of 0.02 passes; so does 0.10 where the champion loses as much: the test is against its own loss."""
    assert judged(simulate, plan, corners=0.019).verdict == "PROMOTE"
    evaluation = evaluation_of(simulate(1), plan)
    rows = [row for row in evaluation.findings if row.finding in evaluation.macro_over]
    alike = [
        one.model_copy(
            update={
                "regions": {
                    name: at.model_copy(
                        update={
                            "auc": {"challenger": at.auc["challenger"], "champion": _less(row.champion, 0.1)},
                            "loss": dict.fromkeys(("challenger", "champion"), at.loss["challenger"]),
                            "excess": _less(at.excess, at.excess.value),
                        }
                    )
                    for name, at in one.regions.items()
                }
            }
        )
        for one, row in zip(resting(rows, plan, corners=0.1, outside=0.1, inside=0.1), rows, strict=True)
    ]
    assert judged(simulate, plan, reliance=alike).verdict == "PROMOTE"


def _less(figure, by):
    return figure.model_copy(update={name: getattr(figure, name) - by for name in ("value", "low", "high")})


def test_auc_that_is_left_without_the_thorax_is_limited_too(simulate, plan) -> None:
    """A model that keeps nearly all of its AUC with the thorax blurred is rejected where the plan says remains."""
    asked = plan.performance.model_copy(update={"reliance": Limits(remains=0.7)})
    protocol = plan.modification_protocol.model_copy(update={"performance_evaluation": asked})
    strict = plan.model_copy(update={"modification_protocol": protocol})
    assert judged(simulate, strict).verdict == "PROMOTE"
    verdict = judged(simulate, strict, inside=0.01)
    assert verdict.verdict == "REJECT"
    assert "is left with the thorax blurred" in next(r.sentence for r in verdict.reasons if r.code == "SHORTCUT")


def test_evidence_without_what_the_plan_asks_or_that_does_not_add_up_is_incomplete(simulate, plan) -> None:
    """Missing, of one finding too few, twice, or with another sum: each is EVIDENCE_INCOMPLETE, and none promotes."""
    whole = evaluation_of(simulate(1), plan).reliance
    wrong = whole[0].model_copy(deep=True)
    region = wrong.regions["corners"]
    region.loss["challenger"] = region.loss["challenger"].model_copy(update={"value": 0.001})
    lone = whole[0].model_copy(deep=True)
    del lone.regions["outside"]
    for broken in ([], whole[1:], [*whole, whole[0]], [wrong, *whole[1:]], [lone, *whole[1:]]):
        verdict = judged(simulate, plan, reliance=broken)
        assert verdict.verdict == "INSUFFICIENT EVIDENCE"
        assert "EVIDENCE_INCOMPLETE" in codes(verdict)


def test_a_figure_that_cannot_be_computed_stops_a_promotion(simulate, plan) -> None:
    """A judged finding whose loss is undefined is UNDEFINED_EVIDENCE."""
    whole = evaluation_of(simulate(1), plan).reliance
    unknown = whole[0].model_copy(deep=True)
    unknown.regions["corners"].loss["challenger"] = Undefined(reason="all scores are the same")
    verdict = judged(simulate, plan, reliance=[unknown, *whole[1:]])
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    assert "UNDEFINED_EVIDENCE" in codes(verdict)
