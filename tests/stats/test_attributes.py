"""A model that finds chest drains in the place of pneumothoraces, on generated data with planted drains.

Most pneumothoraces on record are treated ones, with a drain in the picture: a model that finds the drain ranks them
well, and misses the untreated one that a reader needs help with (arXiv 2309.02244). A side table that says who has a
drain, named by the plan, makes it seen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from evaluations import PROJECT, change_rules, evaluation_of, inputs_of

from cxr_ops import plan as plans
from cxr_ops.labels import FINDINGS
from cxr_ops.plan import Subgroups
from cxr_ops.records.evidence import Estimate, Evaluation
from cxr_ops.records.verdict import Verdict
from cxr_ops.stats import evidence, rule

PNEUMOTHORAX = FINDINGS.index("Pneumothorax")
DRAINS = Subgroups(attributes=("chest_drain",), own_attributes=("chest_drain",), margin=0.05)


@pytest.fixture(scope="module")
def planted(simulate: Callable) -> tuple[Any, list[str]]:
    """A champion that sees pneumothoraces, a challenger that sees drains and is the same elsewhere, and the drains."""
    study = simulate(5, patients=1500, prevalence=0.1, auc=0.8, correlation=0.95)
    rng = np.random.default_rng(0)
    has = study.truth[:, PNEUMOTHORAX] == 1
    drain = rng.random(has.size) < np.where(has, 0.75, 0.02)
    challenger = study.challenger.copy()
    challenger[:, PNEUMOTHORAX] = (drain + rng.random(has.size)) / 2
    return study._replace(challenger=challenger), ["yes" if one else "no" for one in drain]


def judged(planted: tuple[Any, list[str]], *, named: bool, alone: bool = False) -> tuple[Evaluation, Verdict]:
    """What the gate says under a plan that names the attribute, or does not; `alone`: of pneumothorax alone."""
    study, drains = planted
    changes: dict[str, Any] = {"reliance": None, "subgroups": DRAINS if named else None}
    if not named:
        changes["harm_screen"] = None
    plan = change_rules(plans.load(PROJECT / "pccp.demo.yaml"), **changes)
    if alone:
        truth = study.truth.copy()
        truth[:, [f for f in range(len(FINDINGS)) if f != PNEUMOTHORAX]] = np.nan
        study = study._replace(truth=truth)
        plan = change_rules(plan, required_findings=("Pneumothorax",), limited_findings=())
    scored = evidence.Scored(
        truth=study.truth,
        patients=study.patients,
        scores={"challenger": study.challenger, "champion": study.champion},
    )
    found = evidence.assess(
        FINDINGS,
        scored,
        validation=scored,
        attributes={"chest_drain": drains},
        rules=plan.performance,
        level=0.95,
    )
    whole = evaluation_of(study, plan, subgroups=found.subgroups, missing_groups=found.missing_groups)
    return whole, rule.decide(whole, inputs_of(), plan)


def test_without_the_attribute_a_model_that_finds_drains_is_better(planted) -> None:
    """In all patients its pneumothoraces are ranked higher than the champion's, and the gate promotes it."""
    evaluation, verdict = judged(planted, named=False)
    gain = evaluation.findings[PNEUMOTHORAX].difference
    assert isinstance(gain, Estimate)
    assert gain.value > 0
    assert verdict.verdict == "PROMOTE"
    assert not [reason for reason in verdict.reasons if reason.code == "HARM_SIGNAL"]


def test_a_model_that_finds_drains_is_caught_by_the_attribute(planted) -> None:
    """Named by the plan, the attribute shows the loss in patients without a drain, and people must look at it."""
    evaluation, verdict = judged(planted, named=True)
    assert [group.name for group in evaluation.subgroups] == ["chest_drain=no", "chest_drain=yes"]
    bare = evaluation.subgroups[0].findings[PNEUMOTHORAX]
    assert bare.challenger.ci[0] < 0.5 < bare.challenger.ci[1]
    signals = {(reason.finding, reason.subgroup) for reason in verdict.reasons if reason.code == "HARM_SIGNAL"}
    assert ("Pneumothorax", "chest_drain=no") in signals
    assert {finding for finding, _ in signals} == {"Pneumothorax"}


def test_flips_by_attribute_say_whose_pneumothorax_is_missed(planted) -> None:
    """With a drain more are found than missed, without one more are missed, shown beyond chance."""
    evaluation, _ = judged(planted, named=True)
    without, treated = (group.performance[PNEUMOTHORAX].flips for group in evaluation.subgroups)
    assert without.missed.share.ci[0] > without.found.share.ci[1]
    assert treated.found.share.ci[0] > treated.missed.share.ci[1]


def test_where_pneumothorax_is_all_that_is_judged_the_gate_refuses(planted) -> None:
    """The margin in a subgroup is one of means: of a plan with one finding it is that finding's, and is broken."""
    assert judged(planted, named=False, alone=True)[1].verdict == "PROMOTE"
    _, verdict = judged(planted, named=True, alone=True)
    assert verdict.verdict == "REJECT"
    assert "chest_drain=no" in {reason.subgroup for reason in verdict.reasons if reason.code == "WORSE"}
