"""The gate's verdicts on simulated scores, and every fault of the evidence or the record, which must not promote."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cxr_ops import plan as plans
from cxr_ops.labels import FINDINGS
from cxr_ops.records import (
    Champion,
    Code,
    DataRevision,
    Estimate,
    Evaluation,
    Inputs,
    LedgerState,
    Undefined,
)
from cxr_ops.stats import auc, rule

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def demo():
    """The demonstration's plan."""
    return plans.load(PROJECT / "pccp.demo.yaml")


@pytest.fixture(scope="module")
def production():
    """The production template."""
    return plans.load(PROJECT / "pccp.yaml")


def evaluation_of(study, plan, *, first=False, **changes) -> Evaluation:
    """What evaluate would write for a simulated study."""
    found = auc.compare(
        FINDINGS,
        study.truth,
        study.patients,
        study.challenger,
        None if first else study.champion,
        min_positive_patients=plan.performance.min_positive_patients,
        min_negative_patients=plan.performance.min_negative_patients,
    )
    known = dict(vars(found)) | {
        "test_digest": "t" * 64,
        "test_images": len(study.patients),
        "test_patients": len(np.unique(study.patients)),
        "challenger": "a" * 64,
        "champion": None if first else "b" * 64,
        "problems": [],
    }
    return Evaluation(**(known | changes))


def inputs_of(*, first=False, dirty=False, looks: int | None = 0, champion: Champion | None = None) -> Inputs:
    """The file that such a run was opened with; `looks` None is a run without a ledger."""
    return Inputs(
        code=Code(commit="c" * 40, dirty=dirty),
        data=DataRevision(revision="d" * 40, batches={}),
        champion=champion or Champion(package=None if first else "b" * 64, entry=None if first else "e" * 64),
        ledger=None if looks is None else LedgerState(entries=looks, head=None, looks=looks),
        plan=plans.identify(PROJECT, "pccp.demo.yaml"),
    )


@pytest.fixture(scope="module")
def equal(simulate, demo):
    """Evidence on an equally good challenger, which the demonstration's plan promotes."""
    evaluation = evaluation_of(simulate(1), demo)
    assert rule.decide(evaluation, inputs_of(), demo).verdict == "PROMOTE"
    return evaluation


def codes(verdict):
    """The set of codes of a verdict."""
    return {reason.code for reason in verdict.reasons}


# ------------------------------------------------------------------------------------------- the three verdicts


def test_a_healthy_first_model_is_promoted(simulate, demo):
    """A first model with AUCs of 0.87 meets the floors of the demonstration, and the verdict holds each check."""
    verdict = rule.decide(evaluation_of(simulate(0), demo, first=True), inputs_of(first=True), demo)
    assert verdict.verdict == verdict.evidence_says == "PROMOTE"
    assert codes(verdict) == {"FLOORS_MET"}
    assert [(check.kind, check.finding) for check in verdict.checks] == [("floor", name) for name in (None, *FINDINGS)]
    assert all(check.outcome == "met" and check.low > check.limit for check in verdict.checks)
    assert (verdict.approvals, verdict.clinical_use) == (0, False)


def test_a_first_model_trained_on_shuffled_labels_is_not_promoted(simulate, demo):
    """Scores without any relation to the labels are rejected: the macro-AUC is below its floor."""
    for seed in range(10):
        study = simulate(seed)
        rows = np.random.default_rng(seed).permutation(len(study.patients))
        shuffled = study._replace(challenger=study.challenger[rows])
        verdict = rule.decide(evaluation_of(shuffled, demo, first=True), inputs_of(first=True), demo)
        assert verdict.verdict == "REJECT"
        assert "BELOW_FLOOR" in codes(verdict)


def test_an_equally_good_challenger_is_mostly_promoted_and_a_better_one_nearly_always(simulate, demo):
    """On a test set like the demonstration's, equal models are promoted in 8 of 10 runs, better ones in 9 of 10."""
    for gain, share in ((0.0, 0.8), (0.02, 0.9)):
        verdicts = Counter(
            rule.decide(evaluation_of(simulate(seed, gain=gain), demo), inputs_of(), demo).verdict for seed in range(25)
        )
        assert verdicts["PROMOTE"] >= 25 * share


def test_a_much_worse_challenger_is_rejected(simulate, demo):
    """A loss of 0.08 in every AUC is seen as harm, with its numbers."""
    for seed in range(10):
        verdict = rule.decide(evaluation_of(simulate(seed, gain=-0.08), demo), inputs_of(), demo)
        assert verdict.verdict == "REJECT"
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
    assert verdict.verdict == "REJECT"
    assert {reason.finding for reason in verdict.reasons if reason.code in rule.AGAINST} == {FINDINGS[4]}
    assert next(check for check in verdict.checks if (check.kind, check.finding) == ("margin", None)).outcome == "met"


def test_too_few_patients_give_insufficient_evidence(simulate, demo):
    """On a third of the patients equal models of AUC 0.75 mostly cannot be told apart, and it is said what it takes."""
    seen = Counter()
    for seed in range(20):
        study = simulate(seed, patients=120, prevalence=0.22, auc=0.75, correlation=0.3)
        verdict = rule.decide(evaluation_of(study, demo), inputs_of(), demo)
        seen[verdict.verdict] += 1
        for reason in verdict.reasons:
            if reason.code == "MARGIN_NOT_SHOWN" and reason.finding is None:
                assert reason.numbers["needed"] > reason.numbers["patients"] == 120
                assert f"about {reason.numbers['needed']} patients" in reason.sentence
    assert seen["INSUFFICIENT EVIDENCE"] >= 12


@pytest.mark.parametrize(("claims", "loss"), [(1, 0.015), (14, 0.11)])
def test_a_claim_that_fails_with_enough_patients_is_rejected(equal, demo, claims, loss):
    """Below the standard error at which 80 % of true families are shown a failure rejects, and above it does not."""
    rules = demo.performance
    margin = rules.macro.margin if claims == 1 else rules.finding.margin
    limit = margin / (stats.norm.isf(rules.alpha) + stats.norm.isf(0.2 / claims))
    for se, verdict, code in (
        (0.999 * limit, "REJECT", "MARGIN_NOT_MET"),
        (1.001 * limit, "INSUFFICIENT EVIDENCE", "MARGIN_NOT_SHOWN"),
    ):
        own = equal.macro_challenger if claims == 1 else equal.findings[3].challenger
        other = Estimate(value=own.value + loss, se=0.01, low=0.0, high=1.0, level=0.95)
        lost = Estimate(value=-loss, se=se, low=-1.0, high=1.0, level=0.95)
        if claims == 1:
            worse = equal.model_copy(update={"macro_champion": other, "macro_difference": lost})
        else:
            row = equal.findings[3].model_copy(update={"champion": other, "difference": lost})
            worse = equal.model_copy(update={"findings": [*equal.findings[:3], row, *equal.findings[4:]]})
        decided = rule.decide(worse, inputs_of(), demo)
        assert (decided.verdict, codes(decided)) == (verdict, {code})


def test_the_patients_needed_are_enough(equal, demo):
    """With as many patients as the verdict asks for, an equal model meets the macro margin in 80 % of studies."""
    unsure = equal.macro_difference.model_copy(update={"se": 0.04})
    verdict = rule.decide(equal.model_copy(update={"macro_difference": unsure}), inputs_of(), demo)
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    needed = next(reason.numbers["needed"] for reason in verdict.reasons if reason.code == "MARGIN_NOT_SHOWN")
    se = 0.04 * np.sqrt(equal.test_patients / needed)  # what would be left with that many patients
    estimates = np.random.default_rng(0).normal(0.0, se, 40_000)
    shown = estimates - stats.norm.ppf(1 - demo.performance.alpha) * se > -demo.performance.macro.margin
    assert shown.mean() == pytest.approx(0.8, abs=0.01)


def test_the_production_plan_finds_the_demonstrations_data_insufficient(simulate, production):
    """On data as small as the demonstration's, good models give INSUFFICIENT EVIDENCE under the production template."""
    for first in (True, False):
        evaluation = evaluation_of(simulate(1), production, first=first)
        verdict = rule.decide(evaluation, inputs_of(first=first), production)
        assert verdict.verdict == "INSUFFICIENT EVIDENCE"
        assert "TOO_FEW_PATIENTS" in codes(verdict)


def test_a_weak_model_on_few_images_does_not_pass_the_demonstrations_floors(simulate, demo):
    """A model of AUC 0.65 on 250 patients, as from scratch on the real sample, is not promoted as a first release."""
    for seed in range(10):
        study = simulate(seed, patients=250, images=1.28, auc=0.65, prevalence=0.12)
        verdict = rule.decide(evaluation_of(study, demo, first=True), inputs_of(first=True), demo)
        assert verdict.verdict == "INSUFFICIENT EVIDENCE"
        assert "FLOOR_NOT_SHOWN" in codes(verdict)


def test_the_error_of_the_macro_check_is_alpha_at_its_margin(simulate, demo):
    """A challenger worse by exactly the margin passes the macro check in about alpha of the studies."""
    passed = 0
    for seed in range(400):
        study = simulate(seed, patients=200, gain=-0.03, findings=3)
        found = auc.compare(["x", "y", "z"], *study, min_positive_patients=2).macro_difference
        passed += auc.bounds(found, 0.05)[0] > -0.03
    assert passed / 400 == pytest.approx(0.05, abs=0.033)  # three standard errors


def test_holm_is_the_textbooks():
    """Holm's example of four p-values, adjusted by hand, and never below the p-value itself."""
    assert rule.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert rule.holm([]) == []


# ------------------------------------------------------------------------------ nothing wrong can be promoted


@pytest.mark.parametrize("code", [code.value for code in rule.Code] + ["A_CODE_OF_ANOTHER_VERSION"])
def test_no_problem_that_evaluate_names_is_passed_over(equal, demo, code):
    """Any problem on record stops a promotion, even with a code that is unknown or that means good news."""
    evaluation = equal.model_copy(update={"problems": [(code, "Something is wrong.")]})
    verdict = rule.decide(evaluation, inputs_of(), demo)
    assert verdict.verdict == ("REJECT" if code in rule.AGAINST else "INSUFFICIENT EVIDENCE")
    assert "Something is wrong." in [reason.sentence for reason in verdict.reasons]


def test_every_reason_has_a_code_of_the_closed_set_and_a_sentence(simulate, demo, production):
    """Whatever is decided, codes are known and sentences are sentences."""
    for plan in (demo, production):
        for gain in (-0.08, 0.0):
            for reason in rule.decide(evaluation_of(simulate(4, gain=gain), plan), inputs_of(looks=None), plan).reasons:
                assert reason.code in set(rule.Code)
                assert reason.sentence.endswith(".")


NOWHERE = Undefined(reason="no positives", needed="20 more positive patients")
PERFECT = Estimate(value=0.99, se=0.001, low=0.98, high=0.995, level=0.95)


def _with_finding(evaluation, **changes):
    return {"findings": [evaluation.findings[0].model_copy(update=changes), *evaluation.findings[1:]]}


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda e: {"macro_challenger": NOWHERE}, "UNDEFINED_EVIDENCE"),
        (lambda e: {"macro_difference": NOWHERE}, "UNDEFINED_EVIDENCE"),
        (lambda e: {"macro_difference": None}, "EVIDENCE_INCOMPLETE"),
        (lambda e: {"macro_champion": None}, "EVIDENCE_INCOMPLETE"),
        (lambda e: _with_finding(e, difference=None), "EVIDENCE_INCOMPLETE"),
        (lambda e: _with_finding(e, challenger=NOWHERE), "UNDEFINED_EVIDENCE"),
        (lambda e: _with_finding(e, difference=NOWHERE), "UNDEFINED_EVIDENCE"),
        (lambda e: {"findings": e.findings[1:], "macro_over": e.macro_over[1:]}, "EVIDENCE_INCOMPLETE"),
        (lambda e: {"findings": [e.findings[1], e.findings[0], *e.findings[2:]]}, "EVIDENCE_INCOMPLETE"),
        (lambda e: {"findings": []}, "EVIDENCE_INCOMPLETE"),
        (lambda e: {"macro_over": e.macro_over[2:]}, "EVIDENCE_INCOMPLETE"),
        (lambda e: {"macro_over": []}, "EVIDENCE_INCOMPLETE"),
        (lambda e: {"macro_challenger": PERFECT}, "EVIDENCE_INCOMPLETE"),
        (lambda e: {"macro_difference": PERFECT}, "EVIDENCE_INCOMPLETE"),
        (lambda e: _with_finding(e, challenger=PERFECT), "EVIDENCE_INCOMPLETE"),
        (lambda e: _with_finding(e, challenger=PERFECT.model_copy(update={"value": 1.7})), "EVIDENCE_INCOMPLETE"),
        (lambda e: _with_finding(e, difference=PERFECT.model_copy(update={"se": -1.0})), "EVIDENCE_INCOMPLETE"),
        (lambda e: {"test_images": 0}, "EMPTY_TEST_SET"),
        (lambda e: {"test_patients": 99}, "TOO_FEW_PATIENTS"),
        (lambda e: {"champion": None}, "CHAMPION_MISMATCH"),
        (lambda e: {"champion": "f" * 64}, "CHAMPION_MISMATCH"),
    ],
)
def test_evidence_with_a_hole_or_a_contradiction_is_insufficient(equal, demo, change, code):
    """A figure that is missing, undefined or at odds with the others stops a promotion, and the code says which."""
    verdict = rule.decide(equal.model_copy(update=change(equal)), inputs_of(), demo)
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    assert code in codes(verdict)


@settings(max_examples=40, deadline=None)  # a busy machine is not a fault
@given(st.data())
def test_no_subset_of_the_evidence_is_better_than_all_of_it(equal, demo, data):
    """Whatever figures are taken away from evidence, it does not promote."""
    gone = data.draw(st.sets(st.integers(0, 13), min_size=1))
    part = data.draw(st.sampled_from(["challenger", "champion", "difference"]))
    lost = data.draw(st.sampled_from([NOWHERE, None])) if part != "challenger" else NOWHERE
    rows = [row.model_copy(update={part: lost}) if f in gone else row for f, row in enumerate(equal.findings)]
    if part == "champion" and lost is NOWHERE:
        rows = [row.model_copy(update={"difference": NOWHERE}) if f in gone else row for f, row in enumerate(rows)]
    verdict = rule.decide(equal.model_copy(update={"findings": rows}), inputs_of(), demo)
    assert verdict.verdict != "PROMOTE"


def test_a_required_finding_without_patients_is_insufficient_and_another_is_a_note(simulate, demo):
    """A finding with 3 positive patients blocks where the plan requires it, and is only named where it does not."""
    study = simulate(1)
    truth = study.truth.copy()
    with_hernia = np.unique(study.patients[truth[:, 13] == 1])
    truth[np.isin(study.patients, with_hernia[3:]), 13] = 0
    study = study._replace(truth=truth)
    verdict = rule.decide(evaluation_of(study, demo), inputs_of(), demo)
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    reason = next(reason for reason in verdict.reasons if reason.finding == "Hernia")
    assert (reason.code, reason.numbers["positive_patients"]) == ("TOO_FEW_PATIENTS", 3)
    assert "17 more positive patients" in reason.sentence

    protocol = demo.modification_protocol
    rules = protocol.performance_evaluation.model_copy(update={"required_findings": ()})
    lenient = demo.model_copy(
        update={"modification_protocol": protocol.model_copy(update={"performance_evaluation": rules})}
    )
    verdict = rule.decide(evaluation_of(study, lenient), inputs_of(), lenient)
    assert verdict.verdict == "PROMOTE"
    assert codes(verdict) == {"NOT_WORSE", "NOT_EVALUABLE"}


def test_a_check_that_was_not_made_is_not_taken_for_met(equal, demo, monkeypatch):
    """Were the rule to lose a check through an error of its own, it would still not promote."""
    monkeypatch.setattr(rule, "_judge", lambda *_: ([], []))
    verdict = rule.decide(equal, inputs_of(), demo)
    assert (verdict.verdict, codes(verdict)) == ("INSUFFICIENT EVIDENCE", {"EVIDENCE_INCOMPLETE"})


# ------------------------------------------------------------------------------------------------ the record


def test_an_unrecorded_look_cannot_promote_but_says_what_the_evidence_says(equal, demo):
    """A run without a ledger ends INSUFFICIENT EVIDENCE, and keeps what its evidence would have given."""
    verdict = rule.decide(equal, inputs_of(looks=None), demo)
    assert (verdict.verdict, verdict.evidence_says) == ("INSUFFICIENT EVIDENCE", "PROMOTE")
    assert codes(verdict) == {"UNRECORDED_LOOK", "NOT_WORSE"}


def test_looks_run_out(equal, demo):
    """The last look of the plan may promote, the one after it may not."""
    most = demo.performance.max_looks
    assert rule.decide(equal, inputs_of(looks=most - 1), demo).verdict == "PROMOTE"
    spent = rule.decide(equal, inputs_of(looks=most), demo)
    assert (spent.verdict, spent.evidence_says) == ("INSUFFICIENT EVIDENCE", "PROMOTE")
    assert "TEST_SET_EXHAUSTED" in codes(spent)


def test_uncommitted_code_promotes_in_a_demonstration_only(simulate, demo, production):
    """A plan that asks for committed code refuses a snapshot of uncommitted changes."""
    study = simulate(1, patients=6000, correlation=0.95)  # enough for the production template
    for plan, clean, dirty in ((demo, "PROMOTE", "PROMOTE"), (production, "PROMOTE", "INSUFFICIENT EVIDENCE")):
        evaluation = evaluation_of(study, plan)
        assert rule.decide(evaluation, inputs_of(), plan).verdict == clean
        verdict = rule.decide(evaluation, inputs_of(dirty=True), plan)
        assert (verdict.verdict, verdict.evidence_says) == (dirty, clean)


def test_a_missing_champion_does_not_make_a_first_release(simulate, demo):
    """Where the ledger names a promotion but no champion came with it, floors alone do not promote."""
    evaluation = evaluation_of(simulate(0), demo, first=True)
    verdict = rule.decide(evaluation, inputs_of(champion=Champion(entry="e" * 64)), demo)
    assert verdict.verdict == "INSUFFICIENT EVIDENCE"
    assert "CHAMPION_MISMATCH" in codes(verdict)


def test_a_verdict_is_bound_to_what_it_judged(equal, demo):
    """The verdict holds the digests of evaluation and inputs, the plan's hash, and the champion judged against."""
    inputs = inputs_of()
    verdict = rule.decide(equal, inputs, demo)
    assert (verdict.evaluation, verdict.inputs) == (equal.digest(), inputs.digest())
    assert (verdict.plan, verdict.champion) == (inputs.plan, inputs.champion)
    assert rule.decide(equal, inputs, demo).to_bytes() == verdict.to_bytes()
