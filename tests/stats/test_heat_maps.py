"""How alike heat maps are, against scipy, and what the plan says of it."""

from __future__ import annotations

import numpy as np
import pytest
from evaluations import PROJECT, behaving, change_rules, evaluation_of, inputs_of
from scipy import stats

from cxr_ops import plan as plans
from cxr_ops.plan import HeatMaps
from cxr_ops.records.evidence import Undefined
from cxr_ops.stats import heat_maps, rule


def test_alike_is_scipys_rank_correlation_and_its_error_that_of_a_mean() -> None:
    """Maps are compared by Spearman's correlation, ties too; a figure is the mean over findings, draws and images."""
    rng = np.random.default_rng(0)
    own = rng.integers(0, 5, (12, 3, 3, 3)).astype(np.float32)
    others = [rng.integers(0, 5, own.shape).astype(np.float32) for _ in range(2)]
    expected = np.array(
        [
            [[stats.spearmanr(own[n, f].ravel(), other[n, f].ravel()).statistic for f in range(3)] for n in range(12)]
            for other in others
        ]
    ).mean(axis=0)
    found = heat_maps.alike(["Mass", "Nodule", "Hernia"], own, others, 0.95)
    by_image = expected.mean(axis=1)
    assert (found.overall.value, found.overall.se) == pytest.approx((by_image.mean(), stats.sem(by_image)), abs=1e-12)
    low, high = stats.t.interval(0.95, 11, by_image.mean(), stats.sem(by_image))
    assert (found.overall.low, found.overall.high) == pytest.approx((low, high))
    assert found.findings["Hernia"].value == pytest.approx(expected[:, 2].mean(), abs=1e-12)


def test_a_map_without_a_place_is_left_out_and_one_that_lost_its_place_is_unlike() -> None:
    """Where the model's map is empty or flat nothing is compared; where only the other is, the two are not alike."""
    own = np.stack([np.eye(3), np.eye(3), np.zeros((3, 3)), np.ones((3, 3))])[:, None]
    other = np.stack([np.eye(3), np.zeros((3, 3)), np.eye(3), np.eye(3)])[:, None]
    found = heat_maps.alike(["Mass"], own, [other], 0.95)
    assert found.overall.value == 0.5
    nothing = heat_maps.alike(["Mass"], own[2:], [other[2:]], 0.95)
    assert isinstance(nothing.overall, Undefined)
    assert "0 patients" in nothing.overall.reason


@pytest.fixture(scope="module")
def strict():
    """The demonstration's plan with limits on how maps behave."""
    return change_rules(plans.load(PROJECT / "pccp.demo.yaml"), heat_maps=HeatMaps(random=0.5, steady=0.8))


@pytest.fixture(scope="module")
def judged(simulate, strict):
    """The verdict on an equally good challenger whose maps behave so, or on evidence that was changed so."""
    whole = evaluation_of(simulate(1), strict)

    def judge(*, change=None, **behaviour):
        checked = behaving(strict, whole.test_patients, **behaviour)
        checked = change(checked) if change else checked
        return rule.decide(whole.model_copy(update={"heat_maps": checked}), inputs_of(), strict)

    return judge


def test_maps_that_stay_with_random_weights_are_rejected(judged) -> None:
    """A correlation of 0.9 with random maps, or of 1 in every image, is MAPS_INSENSITIVE; 0.05 and 0.52 are not."""
    assert [judged(random=value).verdict for value in (0.05, 0.52)] == ["PROMOTE"] * 2
    verdict = judged(random=0.9)
    assert verdict.verdict == "REJECT"
    [reason] = [reason for reason in verdict.reasons if reason.code == "MAPS_INSENSITIVE"]
    assert "0.900 with maps of the same network with random weights; the plan allows at most 0.5" in reason.sentence

    def edges(checked):
        rng = np.random.default_rng(0)
        maps = rng.random((20, 1, 3, 3))
        same = {step: {"challenger": heat_maps.alike(["Mass"], maps, [maps], 0.95)} for step in heat_maps.STEPS}
        return checked.model_copy(update={"random": same})

    assert "MAPS_INSENSITIVE" in {str(reason.code) for reason in judged(change=edges).reasons}


def test_maps_that_move_with_the_image_hardly_changed_are_rejected(judged) -> None:
    """A correlation of 0.6 after small changes, of 0.8 at least, is MAPS_UNSTEADY, said of each change; 0.78 is not."""
    assert judged(steady=0.78).verdict == "PROMOTE"
    verdict = judged(steady=0.6)
    assert verdict.verdict == "REJECT"
    told = [reason.sentence for reason in verdict.reasons if reason.code == "MAPS_UNSTEADY"]
    assert len(told) == len(heat_maps.CHANGES)
    assert "0.600 with maps of the same images, moved right a little; the plan allows no less than 0.8" in told[0]


def test_evidence_without_what_the_plan_asks_is_incomplete(judged) -> None:
    """Nothing measured, another sample, a step or change or the challenger left out, no correlation, or no figure."""
    step, change = heat_maps.STEPS[-1], heat_maps.CHANGES[0]

    def less(name, key):
        return lambda checked: checked.model_copy(
            update={name: {k: v for k, v in getattr(checked, name).items() if k != key}}
        )

    def spoilt(figure):
        def spoil(checked):
            own = checked.random[step]["challenger"]
            wrong = own.model_copy(update={"overall": figure(own.overall)})
            return checked.model_copy(update={"random": {**checked.random, step: {"challenger": wrong}}})

        return spoil

    for broken in (
        lambda _: None,
        lambda checked: checked.model_copy(update={"images": 5}),
        lambda checked: checked.model_copy(update={"draws": 1}),
        less("random", step),
        less("random", heat_maps.STEPS[0]),
        less("steady", change),
        lambda checked: checked.model_copy(update={"steady": {**checked.steady, change: {}}}),
        spoilt(lambda figure: figure.model_copy(update={"value": -3.0, "low": -3.1, "high": -2.9})),
        spoilt(lambda figure: figure.model_copy(update={"value": 0.3})),
        spoilt(lambda _: Undefined(reason="maps of 0 patients alone show any place")),
    ):
        verdict = judged(change=broken)
        assert verdict.verdict == "INSUFFICIENT EVIDENCE"
        assert {str(reason.code) for reason in verdict.reasons} & {"EVIDENCE_INCOMPLETE", "UNDEFINED_EVIDENCE"}
