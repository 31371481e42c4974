"""The gate's verdicts on simulated scores, and every fault of the evidence or the record, which must not promote."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from evaluations import (
    CHALLENGER,
    CHAMPION,
    FACTS,
    PROJECT,
    REFERENCE,
    TEST,
    change_rules,
    estimate,
    evaluation_of,
    inputs_of,
    performance_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit, ndtr, ndtri

from cxr_ops import plan as plans
from cxr_ops.labels import FINDINGS
from cxr_ops.plan import Bound, Bounds, Composite, HarmfulFlips, SparseFailures
from cxr_ops.records.evidence import Estimate, Evaluation, Flip, Flips, Undefined
from cxr_ops.records.inputs import Allowance, Champion, Level, Period, Reference
from cxr_ops.records.training import StartingWeights
from cxr_ops.stats import auc, codes, evidence, rule

PROMOTE, REJECT, INSUFFICIENT = "PROMOTE", "REJECT", "INSUFFICIENT EVIDENCE"


@pytest.fixture(scope="module")
def demo():
    """The demonstration's plan."""
    return plans.load(PROJECT / "pccp.demo.yaml")


@pytest.fixture(scope="module")
def lean(demo):
    """The demonstration's plan without subgroups, for many seeds."""
    return change_rules(demo, subgroups=None, harm_screen=None)


@pytest.fixture(scope="module")
def production():
    """The production template."""
    return plans.load(PROJECT / "pccp.yaml")


@pytest.fixture(scope="module")
def equal(simulate, demo):
    """Evidence on an equally good challenger, which the demonstration's plan promotes."""
    evaluation = evaluation_of(simulate(1), demo)
    assert rule.decide(evaluation, inputs_of(), demo).verdict == PROMOTE
    return evaluation


@pytest.fixture(scope="module")
def strict(demo):
    """A plan that asks for every kind of check, with the demonstration's margins."""
    return change_rules(
        demo,
        operating_points={"findings": ("Effusion", "Mass"), "min_positive_patients": 20},
        calibration={"findings": ("Effusion",)},
        limited_findings=("Hernia",),
        sparse_failures=SparseFailures(),
        composites=(Composite(name="rare", findings=("Hernia", "Fibrosis"), margin=0.1),),
    )


@pytest.fixture(scope="module")
def study(simulate):
    """A study in which each finding can be judged in each subgroup, and the models are much alike."""
    return simulate(3, patients=500, prevalence=0.2, auc=0.85, correlation=0.97)


@pytest.fixture(scope="module")
def reference(study):
    """Scores of a reference: the champion's with a little noise."""
    noise = np.random.default_rng(0).standard_normal(study.champion.shape)
    return ndtr(ndtri(study.champion) + 0.15 * noise)


@pytest.fixture(scope="module")
def uncertain(study):
    """One label in fifty of two findings is uncertain."""
    marks = np.random.default_rng(1).random(study.truth.shape) < 0.02
    marks[:, :2] = marks[:, 4:] = False
    return marks


@pytest.fixture(scope="module")
def whole(study, reference, uncertain, strict):
    """Evidence that holds all that there can be, against champion and reference, and that is promoted."""
    evaluation = evaluation_of(study, strict, reference=reference, uncertain=uncertain)
    verdict = rule.decide(evaluation, inputs_of(reference=REFERENCE), strict)
    assert (verdict.verdict, codes_of(verdict)) == (PROMOTE, {"NOT_WORSE"})
    return evaluation


def codes_of(verdict):
    """The set of codes of a verdict."""
    return {reason.code for reason in verdict.reasons}


def _replace(items, index, **changes):
    """A list of records in which one is changed."""
    return [*items[:index], items[index].model_copy(update=changes), *items[index + 1 :]]


# ------------------------------------------------------------------------------------------- the three verdicts


def test_a_healthy_first_model_is_promoted(simulate, demo):
    """A first model with AUCs of 0.87 meets the floors of the demonstration, and the verdict holds each check."""
    verdict = rule.decide(evaluation_of(simulate(0), demo, first=True), inputs_of(first=True), demo)
    assert verdict.verdict == verdict.evidence_says == PROMOTE
    assert codes_of(verdict) == {"FLOORS_MET"}
    assert [(check.kind, check.finding) for check in verdict.checks] == [("floor", name) for name in (None, *FINDINGS)]
    assert all(check.outcome == "met" and check.low > check.limit for check in verdict.checks)
    assert (verdict.approvals, verdict.clinical_use, verdict.superior) == (0, False, False)


def test_a_first_model_trained_on_shuffled_labels_is_not_promoted(simulate, lean):
    """Scores without any relation to the labels are rejected: the macro-AUC is below its floor."""
    for seed in range(10):
        study = simulate(seed)
        rows = np.random.default_rng(seed).permutation(len(study.patients))
        shuffled = study._replace(challenger=study.challenger[rows])
        verdict = rule.decide(evaluation_of(shuffled, lean, first=True), inputs_of(first=True), lean)
        assert verdict.verdict == REJECT
        assert "BELOW_FLOOR" in codes_of(verdict)


def test_an_equally_good_challenger_is_mostly_promoted_and_a_better_one_nearly_always(simulate, lean):
    """On a test set like the demonstration's, equal models are promoted in 8 of 10 runs, better ones in 9 of 10."""
    for gain, share in ((0.0, 0.8), (0.02, 0.9)):
        verdicts = Counter(
            rule.judge(evaluation_of(simulate(seed, gain=gain), lean), lean).evidence_says for seed in range(25)
        )
        assert verdicts[PROMOTE] >= 25 * share


def test_a_much_worse_challenger_is_rejected(simulate, lean):
    """A loss of 0.08 in every AUC is seen as harm, with its numbers."""
    for seed in range(10):
        verdict = rule.decide(evaluation_of(simulate(seed, gain=-0.08), lean), inputs_of(), lean)
        assert verdict.verdict == REJECT
        harm = next(reason for reason in verdict.reasons if reason.code == "WORSE" and reason.finding is None)
        assert harm.numbers["high"] < 0
        assert "Macro-AUC" in harm.sentence


def test_a_loss_in_one_finding_alone_is_rejected(simulate, demo):
    """A finding that is lost while the macro-AUC holds its margin is enough to reject, and it is the one named."""
    study = simulate(2, correlation=0.95)
    scores = study.challenger.copy()
    scores[:, 4] = np.random.default_rng(0).random(len(scores))
    scores[:, :4] = np.clip(scores[:, :4] + 0.2 * study.truth[:, :4], 0, 1)  # the others gain, so that the mean holds
    verdict = rule.decide(evaluation_of(study._replace(challenger=scores), demo), inputs_of(), demo)
    assert verdict.verdict == REJECT
    assert {reason.finding for reason in verdict.reasons if reason.code in rule.AGAINST} == {FINDINGS[4]}
    assert next(check for check in verdict.checks if (check.kind, check.finding) == ("margin", None)).outcome == "met"


def test_too_few_patients_give_insufficient_evidence(simulate, lean):
    """On a third of the patients equal models of AUC 0.75 mostly cannot be told apart, and it is said what it takes."""
    seen = Counter()
    for seed in range(20):
        study = simulate(seed, patients=120, prevalence=0.22, auc=0.75, correlation=0.3)
        judgement = rule.judge(evaluation_of(study, lean), lean)
        seen[judgement.evidence_says] += 1
        for reason in judgement.reasons:
            if reason.code == "MARGIN_NOT_SHOWN" and reason.finding is reason.subgroup is None:
                assert reason.numbers["needed"] > reason.numbers["patients"] == 120
                assert f"about {reason.numbers['needed']} patients" in reason.sentence
    assert seen[INSUFFICIENT] >= 12


def test_a_failure_before_a_lack_before_a_pass(whole, strict):
    """One failed check rejects whatever else is lacking, and one lacking check holds back whatever else is met."""
    lacking = whole.model_copy(update={"test_patients": 99})
    assert rule.judge(lacking, strict).evidence_says == INSUFFICIENT
    failed = lacking.model_copy(update={"problems": [("PERMUTED_FINDINGS", "Permuted.")]})
    assert rule.judge(failed, strict).evidence_says == REJECT


def test_the_production_plan_finds_the_demonstrations_data_insufficient(simulate, production):
    """On data as small as the demonstration's, good models give INSUFFICIENT EVIDENCE under the production template."""
    for first in (True, False):
        evaluation = evaluation_of(simulate(1), production, first=first)
        verdict = rule.decide(evaluation, inputs_of(first=first), production)
        assert verdict.verdict == INSUFFICIENT
        assert "TOO_FEW_PATIENTS" in codes_of(verdict)


def test_a_weak_model_on_few_images_does_not_pass_the_demonstrations_floors(simulate, lean):
    """A model of AUC 0.65 on 250 patients, as from scratch on the real sample, is not promoted as a first release."""
    for seed in range(10):
        study = simulate(seed, patients=250, images=1.28, auc=0.65, prevalence=0.12)
        verdict = rule.decide(evaluation_of(study, lean, first=True), inputs_of(first=True), lean)
        assert verdict.verdict == INSUFFICIENT
        assert "FLOOR_NOT_SHOWN" in codes_of(verdict)


def test_the_error_of_the_macro_check_is_alpha_at_its_margin(simulate):
    """A challenger worse by exactly the margin passes the macro check in about alpha of the studies."""
    passed = 0
    for seed in range(400):
        study = simulate(seed, patients=200, gain=-0.03, findings=3)
        found = auc.compare(["x", "y", "z"], *study, min_positive_patients=2).macro_difference
        passed += auc.bounds(found, 0.05)[0] > -0.03
    assert passed / 400 == pytest.approx(0.05, abs=0.033)  # three standard errors


# ----------------------------------------------------------------------------------------- what the plan asks for


def test_every_kind_of_check_is_made_against_champion_and_reference(whole, strict):
    """Floors, margins, failures, composites, subgroups, operating points, calibration: each check is made once."""
    verdict = rule.decide(whole, inputs_of(reference=REFERENCE), strict)
    made = Counter((check.kind, check.against) for check in verdict.checks)
    for role in ("champion", "reference"):
        assert made["margin", role] == 15 + 4  # macro, findings, two sexes and two views
        assert (made["sparse", role], made["composite", role]) == (15, 1)  # findings and the composite
        assert (made["sensitivity", role], made["specificity", role], made["brier", role]) == (2, 2, 1)
    assert (made["floor", None], made["slope", None]) == (15, 1)
    limits = {(check.kind, check.limit, check.upper) for check in verdict.checks}
    assert limits == {
        ("floor", 0.65, None),
        ("floor", 0.5, None),
        ("margin", -0.03, None),
        ("margin", -0.2, None),
        ("margin", -0.15, None),
        ("sparse", -0.2, None),
        ("sparse", -0.1, None),
        ("composite", -0.1, None),
        ("sensitivity", -0.05, None),
        ("specificity", -0.02, None),
        ("slope", 0.8, 1.25),
        ("brier", None, 0.005),
    }
    assert {check.subgroup for check in verdict.checks} == {None, "sex=F", "sex=M", "view=AP", "view=PA"}
    assert "champion or the reference" in verdict.reasons[0].sentence
    assert (verdict.reference.package, verdict.limited_findings) == (REFERENCE, ["Hernia"])


def test_a_reference_that_is_the_champion_is_not_judged_twice(equal, demo):
    """With the champion as reference there is one set of checks, the champion's."""
    verdict = rule.decide(equal, inputs_of(reference=CHAMPION), demo)
    assert {check.against for check in verdict.checks} == {None, "champion"}
    assert verdict.verdict == PROMOTE


def test_a_chain_of_small_losses_ends_at_the_reference(study, strict):
    """A model as good as a champion that has drifted, and worse than the reference, is rejected for that alone."""
    noise = np.random.default_rng(2).standard_normal((2, *study.champion.shape))
    champion = ndtr(ndtri(study.champion) + noise[0])
    drifted = study._replace(challenger=ndtr(ndtri(champion) + 0.1 * noise[1]), champion=champion)
    evaluation = evaluation_of(drifted, strict, reference=study.champion)
    verdict = rule.decide(evaluation, inputs_of(reference=REFERENCE), strict)
    macro = {
        check.against: check.outcome for check in verdict.checks if (check.finding, check.subgroup) == (None, None)
    }
    assert (macro["champion"], macro["reference"], verdict.verdict) == ("met", "failed", REJECT)
    alone = evaluation_of(drifted, strict)
    assert rule.judge(alone, strict).evidence_says == PROMOTE


def test_a_loss_in_a_subgroup_stops_a_promotion(study, strict):
    """A model that fails on AP views alone does not pass, and the subgroup is named."""
    scores = study.challenger.copy()
    ap = np.arange(len(scores)) % 3 == 0
    scores[ap] = ndtr(ndtri(scores[ap]) + 2.0 * np.random.default_rng(0).standard_normal(scores[ap].shape))
    lenient = change_rules(strict, macro={"margin": 0.3}, finding={"margin": 0.5}, composites=())
    judgement = rule.judge(evaluation_of(study._replace(challenger=scores), lenient), lenient)
    assert judgement.evidence_says == REJECT
    stopping = {reason.subgroup for reason in judgement.reasons if reason.code in rule.AGAINST}
    assert stopping == {"view=AP"}


def test_a_subgroup_with_too_few_findings_is_a_note_and_a_missing_one_stops(whole, strict):
    """Where the plan names ages and no image has one, nothing is promoted; a small subgroup is only named."""
    asks = change_rules(strict, subgroups={"attributes": ("sex", "view", "age")})
    judgement = rule.judge(whole, asks)
    assert judgement.evidence_says == INSUFFICIENT
    assert [r.subgroup for r in judgement.reasons if r.code == "SUBGROUP_MISSING"] == ["age"]

    rows = whole.subgroups[0].findings
    few = [row.model_copy(update={"support": row.support.model_copy(update={"positive_patients": 3})}) for row in rows]
    nowhere = Undefined(reason="no finding has enough patients", needed="more patients")
    macro = dict.fromkeys(("macro_challenger", "macro_champion", "macro_difference"), nowhere)
    macro |= dict.fromkeys(("macro_reference", "macro_reference_difference"), nowhere)
    small = _replace(whole.subgroups, 0, findings=few, macro_over=[], **macro)
    judgement = rule.judge(whole.model_copy(update={"subgroups": small}), strict)
    assert judgement.evidence_says == PROMOTE
    note = next(reason for reason in judgement.reasons if reason.code == "NOT_EVALUABLE")
    assert (note.subgroup, note.numbers["findings"]) == ("sex=F", 0)


def test_a_first_release_without_a_subgroup_is_told_what_will_be_asked(simulate, demo):
    """At a first release nothing is compared, so a missing subgroup is a note."""
    asks = change_rules(demo, subgroups={"attributes": ("source",)})
    judgement = rule.judge(evaluation_of(simulate(0), asks, first=True), asks)
    assert judgement.evidence_says == PROMOTE
    assert next(r for r in judgement.reasons if r.code == "NOT_EVALUABLE").subgroup == "source"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"loss": 0.06}, "WORSE"),
        ({"loss": 0.018, "se": 0.006}, "WORSE"),
        ({"se": 0.05}, "MARGIN_NOT_SHOWN"),
        ({"slope": 0.6}, "MISCALIBRATED"),
        ({"slope": 1.3, "se": 0.001}, "MISCALIBRATED"),
    ],
)
def test_operating_points_and_calibration_stop_a_promotion(whole, strict, change, code):
    """A loss of sensitivity or specificity, a higher Brier score and a bad slope are seen, in the findings named."""
    roles = ("champion", "reference")
    damaged = [performance_of(row, roles=roles, **change) for row in whole.findings]
    judgement = rule.judge(whole.model_copy(update={"performance": damaged}), strict)
    assert judgement.evidence_says == (INSUFFICIENT if code.endswith("SHOWN") else REJECT)
    assert {r.finding for r in judgement.reasons if r.code == code} <= {"Effusion", "Mass"}
    assert code in codes_of(judgement)


def test_a_finding_with_too_few_patients_has_no_operating_point(whole, strict):
    """Below the plan's number of positive patients, sensitivity and specificity are not judged, and it is said."""
    many = change_rules(strict, operating_points={"min_positive_patients": 400})
    judgement = rule.judge(whole, many)
    assert judgement.evidence_says == PROMOTE
    assert not {check.kind for check in judgement.checks} & {"sensitivity", "specificity"}
    assert {r.finding for r in judgement.reasons if r.code == "NOT_EVALUABLE"} == {"Effusion", "Mass"}


def _with_flips(evaluation, share: float, *, positives=True, se=0.004):
    """An evaluation in which this share of each finding's images flips to the worse, and as much to the better."""
    rows = []
    for row in evaluation.performance:
        images = row.support.positives, row.support.negatives

        def flip(of: int, part: float) -> Flip:
            count = round(part * of)
            value = count / of
            figure = Estimate(value=value, se=se, low=value - 2 * se, high=value + 2 * se, level=0.95, method="logit")
            return Flip(share=figure, images=count, patients=min(count, 10))

        parts = (share, 0.01) if positives else (0.01, share)
        flips = Flips(
            missed=flip(images[0], parts[0]),
            found=flip(images[0], parts[0]),
            alarmed=flip(images[1], parts[1]),
            cleared=flip(images[1], parts[1]),
        )
        rows.append(row.model_copy(update={"flips": flips}))
    return evaluation.model_copy(update={"performance": rows})


@pytest.fixture(scope="module")
def limited(strict):
    """A plan that limits what flips in Effusion and Mass."""
    flips = HarmfulFlips(findings=("Effusion", "Mass"), missed=0.1, alarmed=0.1, min_positive_patients=20)
    return change_rules(strict, harmful_flips=flips)


@pytest.mark.parametrize("positives", [True, False])
@pytest.mark.parametrize(
    ("share", "says", "code"),
    [(0.04, PROMOTE, None), (0.25, REJECT, "HARMFUL_FLIPS"), (0.095, INSUFFICIENT, "FLIPS_NOT_EXCLUDED")],
)
def test_harmful_flips_stop_a_promotion(whole, limited, positives, share, says, code):
    """Right calls that become wrong are limited by the plan, however many other images the challenger rights."""
    judgement = rule.judge(_with_flips(whole, share, positives=positives), limited)
    assert judgement.evidence_says == says
    assert {reason.finding for reason in judgement.reasons if reason.code == code} == (
        {"Effusion", "Mass"} if code else set()
    )
    made = [check for check in judgement.checks if check.kind in ("missed", "alarmed")]
    assert {(check.kind, check.finding, check.against, check.upper) for check in made} == {
        (kind, finding, "champion", 0.1) for kind in ("missed", "alarmed") for finding in ("Effusion", "Mass")
    }


def test_flips_that_are_missing_or_do_not_add_up_never_promote(whole, limited):
    """Without flips the limit cannot be judged; flips that are at odds with the sensitivities are not believed."""
    assert codes_of(rule.judge(whole, limited)) >= {"UNDEFINED_EVIDENCE"}
    told = _with_flips(whole, 0.04)
    rows = [
        row.model_copy(update={"flips": row.flips.model_copy(update={"found": row.flips.cleared})})
        for row in told.performance
    ]
    damaged = rule.judge(told.model_copy(update={"performance": rows}), limited)
    assert "EVIDENCE_INCOMPLETE" in codes_of(damaged)
    assert damaged.evidence_says == INSUFFICIENT


def test_what_flips_is_not_judged_at_a_first_release_or_with_too_few_patients(whole, study, limited):
    """A first release changes no call; a finding below the plan's number of patients is a note."""
    first = evaluation_of(study, limited, first=True)
    assert not {check.kind for check in rule.judge(first, limited).checks} & {"missed", "alarmed"}
    many = change_rules(limited, harmful_flips={"min_positive_patients": 400})
    judgement = rule.judge(_with_flips(whole, 0.4), many)
    assert judgement.evidence_says == PROMOTE
    assert {r.finding for r in judgement.reasons if "What flips" in r.sentence} == {"Effusion", "Mass"}


def test_the_calibration_of_a_first_release_is_judged(study, strict):
    """A first release has nothing to compare with, but its slope has limits."""
    evaluation = evaluation_of(study, strict, first=True)
    made = {(check.kind, check.against) for check in rule.judge(evaluation, strict).checks}
    assert made == {("floor", None), ("slope", None)}
    bad = [performance_of(row, roles=(), slope=0.5) for row in evaluation.findings]
    assert rule.judge(evaluation.model_copy(update={"performance": bad}), strict).evidence_says == REJECT


def test_a_required_finding_without_patients_is_insufficient_and_another_is_a_note(simulate, demo):
    """A finding with 3 positive patients blocks where the plan requires it, and is only named where it does not."""
    study = simulate(1)
    truth = study.truth.copy()
    with_hernia = np.unique(study.patients[truth[:, 13] == 1])
    truth[np.isin(study.patients, with_hernia[3:]), 13] = 0
    study = study._replace(truth=truth)
    limited = change_rules(demo, limited_findings=("Hernia", "Mass"))
    judgement = rule.judge(evaluation_of(study, limited), limited)
    assert (judgement.evidence_says, judgement.limited_findings) == (INSUFFICIENT, ["Mass"])
    reason = next(reason for reason in judgement.reasons if reason.finding == "Hernia")
    assert (reason.code, reason.numbers["positive_patients"]) == ("TOO_FEW_PATIENTS", 3)
    assert "17 more positive patients" in reason.sentence

    lenient = change_rules(demo, required_findings=(), subgroups=None, harm_screen=None)
    judgement = rule.judge(evaluation_of(study, lenient), lenient)
    assert judgement.evidence_says == PROMOTE
    assert codes_of(judgement) == {"NOT_WORSE", "NOT_EVALUABLE"}


# ------------------------------------------------------------------------------------------- uncertain labels


def test_a_pass_that_hangs_on_uncertain_labels_is_none(study, reference, uncertain, strict):
    """Where the model has the uncertain labels wrong, it passes without them, and with them it does not."""
    many = uncertain.copy()
    many[:, 2] |= np.random.default_rng(4).random(len(many)) < 0.2
    scores = np.where(many, 0.0001, study.challenger)
    evaluation = evaluation_of(study._replace(challenger=scores), strict, reference=reference, uncertain=many)
    judgement = rule.judge(evaluation, strict)
    assert judgement.evidence_says == INSUFFICIENT
    assert codes_of(judgement) == {"UNCERTAIN_LABELS"}
    (reason,) = judgement.reasons
    assert reason.numbers == {"uncertain_as": 1}
    assert "taken as positive" in reason.sentence
    assert "the margin of Effusion against the champion" in reason.sentence


def test_uncertain_labels_need_both_ways_to_take_them(whole, strict):
    """Evidence that counts uncertain labels, and does not hold both ways or counts others, has a hole."""
    first, second = whole.scenarios
    for change in (
        {"scenarios": []},
        {"scenarios": [first]},
        {"scenarios": [second, second]},
        {"scenarios": [first, first.model_copy(update={"uncertain_as": 1})]},
        {"uncertain": {}},
        {"uncertain": whole.uncertain | {"Mass": 1}},
        {"uncertain": whole.uncertain | {"Fever": 1}},
        {"uncertain": {"Infiltration": whole.uncertain["Infiltration"]}},
    ):
        judgement = rule.judge(whole.model_copy(update=change), strict)
        assert (judgement.evidence_says, codes_of(judgement)) == (INSUFFICIENT, {"EVIDENCE_INCOMPLETE"})


# -------------------------------------------------------------------------------- holds, superiority, what is said


def test_a_gain_too_good_to_be_true_is_held(simulate, production, demo):
    """A lower bound of the macro gain above the plan's limit asks for more people, and the verdict stays."""
    leaking = simulate(1, gain=0.12, correlation=0.9)
    watched = change_rules(demo, suspicious_gain={"gain": 0.03, "approvals": 2})
    judgement = rule.judge(evaluation_of(leaking, watched), watched)
    assert (judgement.evidence_says, judgement.approvals) == (PROMOTE, 2)
    hold = next(reason for reason in judgement.reasons if reason.code == "SUSPICIOUS_IMPROVEMENT")
    assert hold.numbers["low"] > 0.03
    assert judgement.superior
    assert len(judgement.superior_findings) > 7
    modest = rule.judge(evaluation_of(simulate(1, gain=0.02), watched), watched)
    assert (modest.approvals, codes_of(modest) & codes.HOLDS) == (0, set())
    assert production.performance.suspicious_gain.approvals == 2


def test_a_loss_in_a_cell_of_subgroup_and_finding_is_held(study, strict):
    """A finding that is worse in one sex asks for another person, the cell is named; noise and small losses do not."""
    screened = change_rules(strict, harm_screen={"error": 0.05, "loss": 0.03, "approvals": 2})
    scores = study.challenger.copy()
    women = study.patients % 2 == 0
    noise = np.random.default_rng(0).standard_normal(women.sum())
    scores[women, 5] = ndtr(ndtri(scores[women, 5]) + 2.5 * noise)
    worse = evaluation_of(study._replace(challenger=scores), screened)
    judgement = rule.judge(worse, screened)
    signals = [reason for reason in judgement.reasons if reason.code == "HARM_SIGNAL"]
    assert ("sex=F", "Nodule") in {(signal.subgroup, signal.finding) for signal in signals}
    assert {signal.finding for signal in signals} == {"Nodule"}
    assert (judgement.evidence_says, judgement.approvals) == (PROMOTE, 2)
    assert all(signal.numbers["p_harm"] <= 0.05 and signal.numbers["value"] < -0.03 for signal in signals)
    tolerated = rule.judge(worse, change_rules(screened, harm_screen={"loss": 0.5}))
    assert (tolerated.approvals, codes_of(tolerated)) == (0, {"NOT_WORSE"})
    quiet = rule.judge(evaluation_of(study, screened), screened)
    assert (quiet.approvals, codes_of(quiet)) == (0, {"NOT_WORSE"})


def test_superiority_is_against_the_reference(whole, strict):
    """The macro-AUC must beat the reference's, not the champion's, and by its lower bound."""
    assert not rule.judge(whole, strict).superior
    for field, superior in (("macro_difference", False), ("macro_reference_difference", True)):
        better = whole.model_copy(update={field: estimate(0.02)})
        assert rule.judge(better, strict).superior is superior
    unsure = whole.model_copy(update={"macro_reference_difference": estimate(0.02, 0.02)})
    assert not rule.judge(unsure, strict).superior


def test_superior_findings_are_corrected_for_their_number(equal, demo):
    """Of one finding with p = 0.01 nothing is claimed among fourteen, and with p = 0.001 it is."""
    for se, claimed in ((0.05 / 2.326, []), (0.05 / 3.09, ["Mass"])):
        rows = [row.model_copy(update={"difference": estimate(0.0)}) for row in equal.findings]
        rows = _replace(rows, FINDINGS.index("Mass"), difference=estimate(0.05, se))
        assert rule.judge(equal.model_copy(update={"findings": rows}), demo).superior_findings == claimed


def test_every_code_has_a_meaning_without_numbers():
    """What each code means is said in one sentence, without a figure of any test set."""
    assert set(rule.MEANING) == set(rule.Code)
    for sentence in rule.MEANING.values():
        assert sentence.endswith(".")
        assert not any(character.isdigit() for character in sentence)
    assert not (codes.AGAINST & codes.NOT_STOPPING)


def test_every_reason_has_a_code_of_the_closed_set_and_a_sentence(simulate, demo, production):
    """Whatever is decided, codes are known and sentences are sentences."""
    for plan in (demo, production):
        for gain in (-0.08, 0.0):
            evaluation = evaluation_of(simulate(4, gain=gain), plan, facts=None)
            for reason in rule.decide(evaluation, inputs_of(looks=None), plan).reasons:
                assert reason.code in set(rule.Code)
                assert reason.sentence.endswith(".")


# ------------------------------------------------------------------------------ nothing wrong can be promoted


@pytest.mark.parametrize("code", [code.value for code in rule.Code] + ["A_CODE_OF_ANOTHER_VERSION"])
def test_no_problem_that_evaluate_names_is_passed_over(equal, demo, code):
    """Any problem on record stops a promotion, even with a code that is unknown or that means good news."""
    evaluation = equal.model_copy(update={"problems": [(code, "Something is wrong.")]})
    judgement = rule.judge(evaluation, demo)
    assert judgement.evidence_says == (REJECT if code in rule.AGAINST else INSUFFICIENT)
    assert "Something is wrong." in [reason.sentence for reason in judgement.reasons]


NOWHERE = Undefined(reason="no positives", needed="20 more positive patients")
PERFECT = Estimate(value=0.99, se=0.001, low=0.98, high=0.995, level=0.95)


def _with_finding(evaluation, **changes):
    return {"findings": _replace(evaluation.findings, 0, **changes)}


def _with_group(evaluation, **changes):
    return {"subgroups": _replace(evaluation.subgroups, 0, **changes)}


def _with_support(evaluation, **changes):
    return _with_finding(evaluation, support=evaluation.findings[0].support.model_copy(update=changes))


def _with_measure(evaluation, measure, **figures):
    place = FINDINGS.index("Effusion")
    changed = getattr(evaluation.performance[place], measure).model_copy(update=figures)
    return {"performance": _replace(evaluation.performance, place, **{measure: changed})}


DAMAGE: list[tuple[Callable[[Evaluation], dict[str, Any]], str]] = [
    (lambda e: {"macro_challenger": NOWHERE}, "UNDEFINED_EVIDENCE"),
    (lambda e: {"macro_difference": NOWHERE}, "UNDEFINED_EVIDENCE"),
    (lambda e: {"macro_difference": None}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"macro_champion": None}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"macro_reference_difference": None}, "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_finding(e, difference=None), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_finding(e, challenger=NOWHERE), "UNDEFINED_EVIDENCE"),
    (lambda e: _with_finding(e, difference=NOWHERE), "UNDEFINED_EVIDENCE"),
    (lambda e: _with_finding(e, reference_difference=NOWHERE), "UNDEFINED_EVIDENCE"),
    (lambda e: {"findings": e.findings[1:], "macro_over": e.macro_over[1:]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"findings": [e.findings[1], e.findings[0], *e.findings[2:]]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"findings": [*e.findings, e.findings[0]]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"findings": []}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"macro_over": e.macro_over[2:]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"macro_over": []}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"macro_over": e.macro_over[::-1]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"macro_challenger": PERFECT}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"macro_difference": PERFECT}, "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_finding(e, challenger=PERFECT), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_finding(e, challenger=PERFECT.model_copy(update={"value": 1.7})), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_finding(e, difference=PERFECT.model_copy(update={"se": -1.0})), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_support(e, positive_patients=10_000), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_support(e, positives=10), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_support(e, negatives=10_000), "EVIDENCE_INCOMPLETE"),
    (lambda e: {"test_images": 0}, "EMPTY_TEST_SET"),
    (lambda e: {"test_patients": 0}, "EMPTY_TEST_SET"),
    (lambda e: {"test_patients": 99}, "TOO_FEW_PATIENTS"),
    (lambda e: {"champion": None}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"reference": None}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"reference": e.champion}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"champion": e.reference}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"subgroups": []}, "SUBGROUP_MISSING"),
    (lambda e: {"subgroups": e.subgroups[:2]}, "SUBGROUP_MISSING"),
    (lambda e: {"subgroups": e.subgroups[1:]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"subgroups": [*e.subgroups, e.subgroups[0]]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"subgroups": [e.subgroups[1], *e.subgroups[1:]]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"subgroups": [*e.subgroups, e.subgroups[0].model_copy(update={"value": "X"})]}, "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_group(e, attribute="source"), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_group(e, macro_difference=NOWHERE), "UNDEFINED_EVIDENCE"),
    (lambda e: _with_group(e, macro_difference=None), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_group(e, macro_over=[]), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_group(e, findings=e.subgroups[0].findings[1:]), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_group(e, patients=1), "EVIDENCE_INCOMPLETE"),
    (lambda e: {"performance": []}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"performance": e.performance * 2}, "EVIDENCE_INCOMPLETE"),
    (lambda e: {"performance": e.performance[:2]}, "UNDEFINED_EVIDENCE"),
    (lambda e: {"performance": _replace(e.performance, 2, support=e.findings[0].support)}, "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_measure(e, "sensitivity", champion=estimate(0.9)), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_measure(e, "specificity", reference_difference=estimate(0.1)), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_measure(e, "brier", reference=None), "EVIDENCE_INCOMPLETE"),
    (lambda e: _with_measure(e, "slope", challenger=NOWHERE), "UNDEFINED_EVIDENCE"),
    (lambda e: _with_measure(e, "slope", challenger=estimate(1.0, 0.0)), "UNDEFINED_EVIDENCE"),
    (lambda e: {"performance": e.performance[::-1], "findings": e.findings[::-1]}, "EVIDENCE_INCOMPLETE"),
]  # fmt: skip


@pytest.mark.parametrize("case", range(len(DAMAGE)))
def test_evidence_with_a_hole_or_a_contradiction_is_insufficient(whole, strict, case):
    """A figure that is missing, undefined or at odds with the others stops a promotion, and the code says which."""
    change, code = DAMAGE[case]
    judgement = rule.judge(whole.model_copy(update=change(whole)), strict)
    assert judgement.evidence_says == INSUFFICIENT
    assert code in codes_of(judgement)


def _figures(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the figures that the strict plan judges stand in a dumped evaluation."""
    if isinstance(value, dict):
        if "se" in value:
            yield path
            return
        if "sensitivity" in value:  # one finding's probabilities
            if value["finding"] not in ("Effusion", "Mass"):
                return
            judged = ("sensitivity", "specificity", *(("brier",) if value["finding"] == "Effusion" else ()))
            value = {name: value[name] for name in judged}
        for key, part in value.items():
            if key != "inside":  # what is left without the thorax is told, and this plan does not limit it
                yield from _figures(part, (*path, key))
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _figures(part, (*path, index))


SPOIL: dict[str, Callable[[dict[str, Any]], Any]] = {
    "undefined": lambda figure: NOWHERE.model_dump(),
    "missing": lambda figure: None,
    "another value": lambda figure: figure | {"value": figure["value"] + 0.01, "high": 1.0},
    "impossible value": lambda figure: figure | {"value": 7.0, "high": 7.0},
    "outside its interval": lambda figure: figure | {"low": figure["high"] + 0.1, "high": figure["high"] + 0.2},
    "negative error": lambda figure: figure | {"se": -figure["se"]},
    "no degrees of freedom": lambda figure: figure | {"df": 0.0},
    "another method": lambda figure: (
        figure | {"method": "separated_difference" if figure["method"] in ("logit", "separated") else "separated"}
    ),
}


@settings(max_examples=120, deadline=None)  # a busy machine is not a fault
@given(st.data())
def test_no_figure_can_be_spoilt(whole, strict, data):
    """Whatever is done to any one figure of what the plan judges, the evidence is not promoted."""
    dumped = whole.model_dump()
    *path, last = data.draw(st.sampled_from(list(_figures(dumped))))
    always_there = last in ("challenger", "macro_challenger") or ("reliance" in path and last != "excess")
    how = data.draw(st.sampled_from(sorted(SPOIL.keys() - ({"missing"} if always_there else set()))))
    place = dumped
    for key in path:
        place = place[key]
    place[last] = SPOIL[how](place[last])
    assert rule.judge(Evaluation.model_validate(dumped), strict).evidence_says != PROMOTE


@settings(max_examples=60, deadline=None)  # a busy machine is not a fault
@given(st.data())
def test_a_lower_difference_never_makes_a_promotion(whole, strict, data):
    """From any evidence, near the border too, lowering the challenger in any figures promotes nothing that was not."""
    shift = st.lists(st.floats(-0.2, 0.03), min_size=14, max_size=14)
    before = _lower(whole, [-s for s in data.draw(shift)])
    after = _lower(before, data.draw(st.lists(st.sampled_from([0.0, 0.0, 0.005, 0.05]), min_size=14, max_size=14)))
    first, second = rule.judge(before, strict), rule.judge(after, strict)
    assert (second.evidence_says == PROMOTE) <= (first.evidence_says == PROMOTE)
    assert "EVIDENCE_INCOMPLETE" not in codes_of(first) | codes_of(second)


def _lower(evaluation: Evaluation, losses: list[float]) -> Evaluation:
    """The same evidence with a challenger whose AUCs are lower, each by its loss, in all patients and subgroups."""

    def lower(figure: Any, loss: float) -> Any:
        return figure.model_copy(update={name: getattr(figure, name) - loss for name in ("value", "low", "high")})

    def of(evidence: Any) -> Any:
        rows = [
            row.model_copy(
                update={
                    name: lower(getattr(row, name), loss)
                    for name in ("challenger", "difference", "reference_difference")
                }
            )
            for row, loss in zip(evidence.findings, losses, strict=True)
        ]
        macros = ("macro_challenger", "macro_difference", "macro_reference_difference")
        mean = float(np.mean(losses))
        macro = {name: lower(getattr(evidence, name), mean) for name in macros}
        return evidence.model_copy(update={"findings": rows, **macro})

    parts = {name: [of(part) for part in getattr(evaluation, name)] for name in ("subgroups", "scenarios")}
    parts["reliance"] = [
        part.model_copy(
            update={
                "regions": {
                    name: at.model_copy(update={"auc": at.auc | {"challenger": lower(at.auc["challenger"], loss)}})
                    for name, at in part.regions.items()
                }
            }
        )
        for part, loss in zip(evaluation.reliance, losses, strict=True)
    ]
    parts["composites"] = [
        part.model_copy(
            update={
                name: lower(getattr(part, name), float(np.mean([losses[FINDINGS.index(one)] for one in part.findings])))
                for name in ("challenger", "difference", "reference_difference")
            }
        )
        for part in evaluation.composites
    ]
    return of(evaluation).model_copy(update=parts)


def test_patients_who_fail_stop_a_margin_that_is_met(study, demo):
    """Where the margin alone is met, patients put last give REJECT, if there are enough of the others."""
    plain = change_rules(
        demo,
        subgroups=None,
        harm_screen=None,
        macro={"margin": 0.1},
        finding={"margins": {"Hernia": 0.08}},
    )
    asked = change_rules(plain, sparse_failures=SparseFailures(findings=("Hernia",)))
    hernia = FINDINGS.index("Hernia")
    ill = np.unique(study.patients[study.truth[:, hernia] == 1])
    scores = study.challenger.copy()
    scores[np.isin(study.patients, ill[:4]) & (study.truth[:, hernia] == 1), hernia] = 1e-6
    evaluation = evaluation_of(study._replace(challenger=scores), asked)
    assert rule.judge(evaluation, plain).evidence_says == PROMOTE
    judgement = rule.judge(evaluation, asked)
    assert judgement.evidence_says == REJECT
    [told] = judgement.reasons
    assert (told.code, told.finding, told.numbers["fallen"]) == ("PATIENTS_FAILED", "Hernia", 4)
    assert f"4 of {ill.size} positive patients fell by more than half of all ranks" in told.sentence
    assert [check.finding for check in judgement.checks if check.kind == "sparse"] == ["Hernia"]


def test_where_nobody_fell_the_reason_is_the_loss(study, demo):
    """A margin that small losses of many break is not met although nobody fell far, and the code says no more."""
    asked = change_rules(
        demo,
        subgroups=None,
        harm_screen=None,
        macro={"margin": 0.5},
        finding={"margin": 0.5, "margins": {"Hernia": 0.08}},
        sparse_failures=SparseFailures(findings=("Hernia",)),
    )
    hernia = FINDINGS.index("Hernia")
    scores = study.challenger.copy()
    ill = study.truth[:, hernia] == 1
    scores[ill, hernia] = expit(logit(scores[ill, hernia]) - 0.65)
    judgement = rule.judge(evaluation_of(study._replace(challenger=scores), asked), asked)
    [told] = [reason for reason in judgement.reasons if "fail outright" in reason.sentence]
    assert (told.code, told.numbers["fallen"], told.numbers["fallen_negative"]) == ("MARGIN_NOT_MET", 0, 0)
    assert -0.08 < told.numbers["value"] < -0.03
    assert judgement.evidence_says == REJECT
    assert "PATIENTS_FAILED" not in codes_of(judgement)


def test_too_few_patients_to_exclude_failures_are_insufficient_with_the_number_needed(whole, strict):
    """A margin that no fall contradicts, and that too few patients support, asks for a number of patients."""
    row = next(row for row in whole.findings if row.finding == "Hernia")
    patients = row.support.positive_patients
    margin = 1 - 0.01 ** (1 / patients)  # a failure of this share is missed in one test set of 100
    tight = change_rules(strict, alpha=0.005, finding={"margins": {"Hernia": margin}}, composites=())
    judgement = rule.judge(whole.model_copy(update={"composites": []}), tight)
    assert judgement.evidence_says == INSUFFICIENT
    codes = [reason.code for reason in judgement.reasons if reason.finding == "Hernia"]
    assert set(codes) == {"FAILURES_NOT_EXCLUDED"}
    for check in judgement.checks:
        if (check.kind, check.finding) == ("sparse", "Hernia"):
            assert check.outcome == "unclear"
            assert patients < check.needed < 3 * patients
            assert check.low < -margin


def test_evidence_of_an_earlier_version_does_not_exclude_failures(whole, strict):
    """Evidence that does not say how ranks moved is undefined where the plan asks, and judged as before where not."""
    rows = [row.model_copy(update={"falls": None, "reference_falls": None}) for row in whole.findings]
    old = whole.model_copy(update={"findings": rows, "composites": []})
    assert "UNDEFINED_EVIDENCE" in codes_of(rule.judge(old, change_rules(strict, composites=())))
    assert rule.judge(old, change_rules(strict, composites=(), sparse_failures=None)).evidence_says == PROMOTE


def test_ranks_that_do_not_fit_the_evidence_are_a_hole(whole, strict):
    """Falls of other patients, more images fallen than there are, or an error beyond the difference's are noticed."""
    row = whole.findings[0]
    side = row.falls.positive
    for change in (
        {"positive": side.model_copy(update={"sizes": [*side.sizes, (90, 3)]})},
        {"positive": side.model_copy(update={"fallen": row.support.positives + 1})},
        {"positive": side.model_copy(update={"fallen": -1})},
        {"error": 0.0},
        {"error": 6 * row.difference.se},
    ):
        spoilt = row.model_copy(update={"falls": row.falls.model_copy(update=change)})
        evidence = whole.model_copy(update={"findings": [spoilt, *whole.findings[1:]]})
        assert "EVIDENCE_INCOMPLETE" in codes_of(rule.judge(evidence, strict)), change


def test_patients_with_images_of_both_kinds_are_no_contradiction(demo):
    """Where most patients have images with and without a finding, the error without falls is the larger one by far."""
    rng = np.random.default_rng(7)
    owner = np.repeat(np.arange(400), 12)
    truth = (rng.random((owner.size, len(FINDINGS))) < 0.3).astype(float)
    own = rng.standard_normal((2, 400, len(FINDINGS)))[:, owner]
    shared = rng.standard_normal((owner.size, len(FINDINGS)))
    champion, challenger = ndtr(truth * 2.0 + shared + own - 2.0)
    plan = change_rules(demo, sparse_failures=SparseFailures())
    made = SimpleNamespace(truth=truth, patients=owner, challenger=challenger, champion=champion)
    evaluation = evaluation_of(made, plan)
    ratios = [row.falls.error / row.difference.se for row in evaluation.findings]
    assert max(ratios) > 1.5
    assert "EVIDENCE_INCOMPLETE" not in codes_of(rule.judge(evaluation, plan))


def test_a_composite_is_judged_by_its_own_margin(whole, study, strict):
    """A loss that single findings bear stops a composite with a narrower margin; one that is missing is a hole."""
    rare = ("Hernia", "Fibrosis")
    scores = study.challenger.copy()
    columns = [FINDINGS.index(finding) for finding in rare]
    scores[:, columns] = ndtr(ndtri(scores[:, columns]) - 0.2 * study.truth[:, columns])
    asked = change_rules(
        strict,
        composites=(Composite(name="rare", findings=rare, margin=0.02),),
        macro={"margin": 0.2},
        harm_screen=None,
    )
    judgement = rule.judge(evaluation_of(study._replace(challenger=scores), asked), asked)
    assert judgement.evidence_says == REJECT
    assert {reason.finding for reason in judgement.reasons} == {"rare"}
    assert {check.kind for check in judgement.checks if check.finding == "rare"} == {"composite", "sparse"}
    assert "EVIDENCE_INCOMPLETE" in codes_of(rule.judge(whole.model_copy(update={"composites": []}), strict))


def test_a_check_that_was_not_made_is_not_taken_for_met(whole, strict, monkeypatch):
    """Were the rule to lose any one check through an error of its own, it would still not promote."""
    made = rule.checks.judge
    number = len(rule.judge(whole, strict).checks)
    for lost in range(number):
        monkeypatch.setattr(rule.checks, "judge", lambda *given, lost=lost: _without(made(*given), lost))
        judgement = rule.judge(whole, strict)
        assert judgement.evidence_says == INSUFFICIENT
        assert codes_of(judgement) <= {"EVIDENCE_INCOMPLETE", "UNCERTAIN_LABELS"}


def _without(judged, lost):
    made, reasons = judged
    return made[:lost] + made[lost + 1 :], reasons


def test_what_the_evidence_door_makes_is_judged_whole(study, reference, uncertain, strict):
    """Evidence as `assess` makes it, thresholds and calibration from a validation set and all, has no hole."""
    scores = {"challenger": study.challenger, "champion": study.champion, "reference": reference}
    truth = np.where(uncertain, np.nan, study.truth)
    scored = evidence.Scored(truth=truth, patients=study.patients, scores=scores, uncertain=uncertain)
    made = evaluation_of(study, strict, reference=reference, uncertain=uncertain)
    found = evidence.assess(
        FINDINGS,
        scored,
        validation=scored,
        attributes={"sex": ["FM"[p % 2] for p in study.patients], "view": ["PA"] * len(study.patients)},
        rules=strict.performance,
        level=0.95,
    )
    update = {"subgroups": found.subgroups, "performance": found.performance, "missing_groups": found.missing_groups}
    judgement = rule.judge(made.model_copy(update=update), strict)
    assert not codes_of(judgement) & {"EVIDENCE_INCOMPLETE", "UNDEFINED_EVIDENCE", "SUBGROUP_MISSING"}
    outcomes = {check.kind: check.outcome for check in judgement.checks if check.finding == "Effusion"}
    assert set(outcomes) == {"floor", "margin", "sparse", "sensitivity", "specificity", "slope", "brier"}
    assert "undefined" not in outcomes.values()


# ---------------------------------------------------------------------------------------- the record and the plan


@pytest.mark.parametrize(
    ("change", "inputs", "code"),
    [
        ({"champion": "f" * 64}, {}, "CHAMPION_MISMATCH"),
        ({}, {"champion": Champion(package="f" * 64, entry="e" * 64)}, "CHAMPION_MISMATCH"),
        ({}, {"champion": Champion(entry="e" * 64)}, "CHAMPION_MISMATCH"),
        ({}, {"champion": Champion()}, "CHAMPION_MISMATCH"),
        ({"reference": None}, {}, "REFERENCE_MISMATCH"),
        ({}, {"reference": None}, "REFERENCE_MISMATCH"),
        ({"reference": None}, {"reference": None}, "REFERENCE_MISMATCH"),
        ({}, {"reference": Reference(package="f" * 64, version="3")}, "REFERENCE_MISMATCH"),
        ({"period": 2}, {}, "TEST_SET_MISMATCH"),
        ({}, {"period": Period(number=2)}, "TEST_SET_MISMATCH"),
        ({"facts": None}, {}, "OUTSIDE_PLAN"),
    ],
)
def test_evidence_of_another_run_is_not_promoted(equal, demo, change, inputs, code):
    """Champion, reference and test period must be those that the run was opened with."""
    record = inputs_of().model_copy(update=inputs)
    verdict = rule.decide(equal.model_copy(update=change), record, demo)
    assert verdict.verdict == INSUFFICIENT
    assert code in codes_of(verdict)


def test_a_missing_champion_does_not_make_a_first_release(simulate, demo):
    """Where the ledger has a promotion, or names a champion that did not come, floors alone do not promote."""
    evaluation = evaluation_of(simulate(0), demo, first=True)
    record = inputs_of(first=True)
    assert rule.decide(evaluation, record, demo).verdict == PROMOTE
    promoted = record.ledger.model_copy(update={"promotions": 1})
    for change in ({"champion": Champion(entry="e" * 64)}, {"ledger": promoted}):
        verdict = rule.decide(evaluation, record.model_copy(update=change), demo)
        assert verdict.verdict == INSUFFICIENT
        assert "CHAMPION_MISMATCH" in codes_of(verdict)


def test_a_champion_without_a_promotion_is_a_contradiction(equal, demo):
    """A run whose ledger has no promotion has no champion to be judged against."""
    record = inputs_of()
    none = record.ledger.model_copy(update={"promotions": 0})
    verdict = rule.decide(equal, record.model_copy(update={"ledger": none}), demo)
    assert (verdict.verdict, codes_of(verdict)) == (INSUFFICIENT, {"CHAMPION_MISMATCH", *_notes(equal, demo)})


def _notes(evaluation, plan):
    return codes_of(rule.judge(evaluation, plan))


def test_a_look_is_judged_at_what_it_may_spend(equal, demo):
    """The level is that of the look's place on the ledger: of a new look the next, of a repeat its own."""
    low, high = Level(checks=0.001, superiority=0.0001), Level(checks=0.04, superiority=0.005)
    record = inputs_of()
    seen = [("x" * 64, "t"), (equal.challenger, equal.test_digest)]
    ledger = record.ledger.model_copy(update={"looked": seen, "looks": 2})
    promoted, claims = [True, False], [None, record.claim]
    allowed = Allowance(taken=[high, low], claims=claims, promoted=promoted, next=high)
    repeat = record.model_copy(update={"ledger": ledger, "allowance": allowed})
    other = allowed.model_copy(update={"claims": [None, "another claim"]})
    new = repeat.model_copy(update={"allowance": other})
    assert rule.decide(equal, record, demo).alpha == demo.performance.alpha == 0.025
    for inputs, level, looks in ((repeat, low, 2), (new, high, 3)):
        verdict = rule.decide(equal, inputs, demo)
        assert (verdict.alpha, verdict.looks) == (level.checks, looks)
        assert all(check.low < check.value for check in verdict.checks if check.kind == "margin")
    bounds = [
        {check.low for check in rule.decide(equal, inputs, demo).checks if check.kind == "floor"}
        for inputs in (repeat, new)
    ]
    assert max(bounds[0]) < max(bounds[1])


def test_superiority_has_a_level_of_its_own(simulate, strict):
    """A model that beats the reference at 5 % does not raise it where the look leaves that claim next to nothing."""
    better = evaluation_of(simulate(0, gain=0.02), strict)
    raised = [rule.judge(better, strict, Level(checks=0.025, superiority=level)).superior for level in (0.4, 1e-9)]
    assert raised == [True, False]


def test_a_period_with_nothing_left_promotes_nothing(equal, demo):
    """A look with less to spend than any test set shows is told that the period is spent, and has finite bounds."""
    nothing = Allowance(next=Level(checks=1e-12, superiority=1e-13))
    verdict = rule.decide(equal, inputs_of().model_copy(update={"allowance": nothing}), demo)
    assert verdict.verdict != PROMOTE
    assert "TEST_SET_EXHAUSTED" in codes_of(verdict)
    assert verdict.alpha == 1e-12


def test_a_reference_that_the_plan_names_is_the_one(equal, demo):
    """A plan that names its reference is not satisfied with another, nor with the champion."""
    for package, verdict in ((CHAMPION, PROMOTE), (REFERENCE, INSUFFICIENT)):
        named = change_rules(demo, reference={"package": package, "raise_on_superiority": False})
        assert rule.decide(equal, inputs_of(), named).verdict == verdict


BOUNDED = Bounds(
    architecture="densenet121",
    sources=("nih",),
    other_settings="none",
    settings={
        **{
            key: Bound(range=(0, 100), or_unset=True) if value is None else Bound(equals=value)
            for key, value in FACTS.settings.items()
            if key != "train.epochs"
        },
        "train.epochs": Bound(range=(1, 100)),
    },
)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"architecture": "resnet50"}, "architecture is resnet50; the plan allows densenet121"),
        ({"findings": list(FINDINGS[::-1])}, "not the plan's 14 in their order"),
        ({"findings": [*FINDINGS, "Fever"]}, "not the plan's 14 in their order"),
        ({"settings": FACTS.settings | {"train.epochs": 500}}, "train.epochs is 500; the plan allows 1 to 100"),
        ({"settings": FACTS.settings | {"train.epochs": "12"}}, "train.epochs is 12; the plan allows 1 to 100"),
        ({"settings": FACTS.settings | {"split.salt": "other"}}, "split.salt is other; the plan allows cxr-ops-1"),
        ({"settings": FACTS.settings | {"train.mixup": 0.2}}, "train.mixup is 0.2; the plan does not name"),
        ({"settings": {k: v for k, v in FACTS.settings.items() if k != "split.test"}}, "split.test is not on record"),
        ({"sources": ["nih", "elsewhere"]}, "come from elsewhere; the plan allows nih"),
        ({"sources": []}, "not on record"),
    ],
)
def test_a_challenger_outside_the_plan_says_where_and_cannot_be_promoted(equal, demo, change, words):
    """Each bound that is left is named with what was found; what the evidence says stays."""
    description = demo.description_of_modifications.model_copy(update={"bounds": BOUNDED})
    bounded = demo.model_copy(update={"description_of_modifications": description})
    assert rule.decide(equal, inputs_of(), bounded).verdict == PROMOTE
    evaluation = equal.model_copy(update={"facts": FACTS.model_copy(update=change)})
    verdict = rule.decide(evaluation, inputs_of(), bounded)
    assert (verdict.verdict, verdict.evidence_says) == (INSUFFICIENT, PROMOTE)
    (reason,) = (reason for reason in verdict.reasons if reason.code == "OUTSIDE_PLAN")
    assert words in reason.sentence


def test_a_free_plan_lets_settings_be_anything(equal, demo):
    """Where the plan leaves other settings and sources free, they are not asked about."""
    free = FACTS.model_copy(update={"settings": {"train.anything": 1}, "sources": ["elsewhere"]})
    assert rule.decide(equal.model_copy(update={"facts": free}), inputs_of(), demo).verdict == PROMOTE


@pytest.mark.parametrize(
    ("patients", "verdict"),
    [("none", PROMOTE), ("training", PROMOTE), ("test", INSUFFICIENT), ("unknown", INSUFFICIENT)],
)
def test_weights_that_may_have_seen_test_patients_stop_a_promotion(equal, demo, patients, verdict):
    """Starting weights that have seen test patients, or may have, stop a promotion, and it is said what to do."""
    weights = StartingWeights(start="chexnet.safetensors", patients=patients)
    facts = FACTS.model_copy(update={"starting_weights": weights})
    decided = rule.decide(equal.model_copy(update={"facts": facts}), inputs_of(), demo)
    assert decided.verdict == decided.evidence_says == verdict
    reasons = [reason for reason in decided.reasons if reason.code == "UNKNOWN_WEIGHTS"]
    assert len(reasons) == (verdict != PROMOTE)
    assert all("chexnet.safetensors" in reason.sentence for reason in reasons)
    assert all(("train.weights_patients" in r.sentence) == (patients == "unknown") for r in reasons)


def test_an_unrecorded_look_cannot_promote_but_says_what_the_evidence_says(equal, demo):
    """A run without a ledger ends INSUFFICIENT EVIDENCE, and keeps what its evidence would have given."""
    verdict = rule.decide(equal, inputs_of(looks=None), demo)
    assert (verdict.verdict, verdict.evidence_says, verdict.looks) == (INSUFFICIENT, PROMOTE, None)
    assert "UNRECORDED_LOOK" in codes_of(verdict)


def test_looks_run_out(equal, demo):
    """The last look of the plan may promote, the one after it may not, and the way out is named."""
    ten = change_rules(demo, max_looks=10)
    last = rule.decide(equal, inputs_of(looks=9), ten)
    assert (last.verdict, last.looks, last.period) == (PROMOTE, 10, 1)
    spent = rule.decide(equal, inputs_of(looks=10), ten)
    assert (spent.verdict, spent.evidence_says, spent.looks) == (INSUFFICIENT, PROMOTE, 11)
    reason = next(reason for reason in spent.reasons if reason.code == "TEST_SET_EXHAUSTED")
    assert "cxr-ops period open" in reason.sentence


def test_the_strictest_limits_of_the_period_hold(equal, demo):
    """Under a looser plan the looks, people and clean code of the strictest one are asked, and the reason says so."""
    limits = demo.limits.model_copy(update={"max_looks": 10, "approvals": 2, "require_clean_code": True})
    assert rule.decide(equal, inputs_of(looks=9, limits=demo.limits), demo).approvals == 0
    last = rule.decide(equal, inputs_of(looks=9, limits=limits), demo)
    assert (last.verdict, last.approvals) == (PROMOTE, 2)
    spent = rule.decide(equal, inputs_of(looks=10, limits=limits, dirty=True), demo)
    assert spent.verdict == INSUFFICIENT
    told = {reason.code: reason.sentence for reason in spent.reasons}
    assert "the strictest plan of the period allows 10" in told["TEST_SET_EXHAUSTED"]
    assert "the strictest plan of the period promotes only committed code" in told["DIRTY_CODE"]


def test_a_repeat_spends_no_look_and_buys_none(equal, demo):
    """The same model on the same test set is no new look, a larger test set is one, and a late look stays late."""
    ten = change_rules(demo, max_looks=10)
    others = [("0" * 63 + str(number), TEST) for number in range(9)]
    again = rule.decide(equal, inputs_of(looks=10, looked=[*others, (CHALLENGER, TEST)]), ten)
    assert (again.verdict, again.looks) == (PROMOTE, 10)
    grown = rule.decide(equal, inputs_of(looks=10, looked=[*others, (CHALLENGER, "0" * 64)]), ten)
    assert (grown.verdict, grown.looks) == (INSUFFICIENT, 11)
    late = [*others, ("9" * 64, TEST), (CHALLENGER, TEST)]
    assert rule.decide(equal, inputs_of(looks=11, looked=late), ten).verdict == INSUFFICIENT
    assert rule.decide(equal, inputs_of(looks=0, looked=late), ten).verdict == INSUFFICIENT


def test_uncommitted_code_promotes_in_a_demonstration_only(simulate, demo, production):
    """A plan that asks for committed code refuses a snapshot of uncommitted changes."""
    study = simulate(1, patients=6000, correlation=0.95)  # enough for the production template
    for plan, clean, dirty in ((demo, PROMOTE, PROMOTE), (production, PROMOTE, INSUFFICIENT)):
        evaluation = evaluation_of(study, plan)
        assert rule.decide(evaluation, inputs_of(), plan).verdict == clean
        verdict = rule.decide(evaluation, inputs_of(dirty=True), plan)
        assert (verdict.verdict, verdict.evidence_says) == (dirty, clean)


def test_a_verdict_is_bound_to_what_it_judged(equal, demo):
    """The verdict holds the digests of evaluation and inputs, the plan's hash, and the champion judged against."""
    inputs = inputs_of()
    verdict = rule.decide(equal, inputs, demo)
    assert (verdict.evaluation, verdict.inputs) == (equal.digest(), inputs.digest())
    assert (verdict.plan, verdict.champion, verdict.reference) == (inputs.plan, inputs.champion, inputs.reference)
    assert rule.decide(equal, inputs, demo).to_bytes() == verdict.to_bytes()
