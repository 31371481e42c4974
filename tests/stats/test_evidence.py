"""What `assess` finds, held against `auc.compare` on the same rows, and faults of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from cxr_ops import plan
from cxr_ops.plan import Composite, Subgroups
from cxr_ops.records.evidence import Estimate, Undefined
from cxr_ops.stats import auc, evidence

NAMES = ("Mass", "Nodule", "Hernia")
AGES = ["0", "39", "39.5", "40", "64", "65", "150", "151", "411", "-1", "", "unknown", "nan", " 41 "]


@pytest.fixture(scope="module")
def rules(project):
    """The demonstration's rules, with pairs and age bands."""
    performance = plan.load(Path(project) / "pccp.demo.yaml").performance
    subgroups = Subgroups(attributes=("sex", "age", "sex, view"), margin=0.1)
    return performance.model_copy(update={"subgroups": subgroups})


@pytest.fixture(scope="module")
def case(simulate):
    """A test set of three models, a validation set, and attributes of the test images."""

    def scored(seed, patients):
        truth, owner, a, b = simulate(seed, patients=patients, findings=3, prevalence=0.3)
        scores = {"challenger": a, "champion": b, "reference": (a + b) / 2}
        return evidence.Scored(truth=truth, patients=np.array([f"p{i}" for i in owner], dtype=object), scores=scores)

    test = scored(1, 300)
    rng = np.random.default_rng(0)
    images = len(test.patients)
    attributes = {
        "sex": rng.choice(["F", "M", ""], images, p=[0.5, 0.4, 0.1]).tolist(),
        "age": rng.choice(AGES, images).tolist(),
        "view": rng.choice(["PA", "AP"], images).tolist(),
    }
    return test, scored(2, 150), attributes


def _assess(case, rules, **changes):
    test, validation, attributes = case
    given = {"test": test, "validation": validation, "attributes": attributes, **changes}
    return evidence.assess(
        NAMES, given["test"], validation=given["validation"], attributes=given["attributes"], rules=rules, level=0.9
    )


def _compared(test, rules, rows=slice(None), truth=None):
    truth = test.truth if truth is None else truth
    return auc.compare(
        NAMES,
        truth[rows],
        test.patients[rows],
        *(test.scores[role][rows] for role in evidence.ROLES),
        level=0.9,
        min_positive_patients=rules.min_positive_patients,
        min_negative_patients=rules.min_negative_patients,
    )


def test_evidence_is_that_of_all_images(case, rules):
    """The evidence is `auc.compare` on all images, with figures of three models for each finding."""
    found = _assess(case, rules)
    assert _without_falls(found.evidence) == _compared(case[0], rules)
    assert [row.finding for row in found.performance] == list(NAMES)
    assert set(found.performance[0].thresholds) == set(evidence.ROLES)
    assert isinstance(found.performance[0].brier.reference_difference, Estimate)


def _without_falls(found):
    rows = [row.model_copy(update={"falls": None, "reference_falls": None}) for row in found.findings]
    return found.model_copy(update={"findings": rows})


def test_ranks_of_a_limited_findings_patients_are_listed_by_the_name_of_a_picture(case, rules):
    """Each patient of a limited finding whose rank fell is listed with its first picture; others have counts."""
    test = case[0]
    limited = rules.model_copy(update={"limited_findings": ("Hernia",)})
    names = [f"picture {image}" for image in range(len(test.patients))]
    named = evidence.Scored(truth=test.truth, patients=test.patients, scores=test.scores, cases=names)
    mass, _, hernia = _assess(case, limited, test=named).evidence.findings
    assert mass.falls.patients == []
    assert sum(patients for _, patients in mass.falls.positive.sizes) == mass.support.positive_patients
    shown = test.truth[:, 2] == 1
    first = {patient: image for image, patient in reversed(list(enumerate(test.patients))) if shown[image]}
    listed = {row.case for row in hernia.falls.patients}
    assert listed <= {names[image] for image in first.values()}
    assert 0 < len(listed) == len(hernia.falls.patients) < len(first)
    [worst, *_] = hernia.falls.patients
    place = int(worst.case.split()[1])
    images = shown & (test.patients == test.patients[place])
    for role, placed in (("champion", worst.before), ("challenger", worst.after)):
        scores = test.scores[role][:, 2]
        below = np.mean([(score > scores[test.truth[:, 2] == 0]).mean() for score in scores[images]])
        assert placed == pytest.approx(below)


def test_a_composite_is_the_mean_of_its_findings(case, rules):
    """Its AUCs and differences are means of those of its findings, and its patients are those of any."""
    asked = rules.model_copy(
        update={"composites": (Composite(name="rare", findings=("Nodule", "Hernia"), margin=0.1),)}
    )
    found = _assess(case, asked)
    [rare] = found.composites
    parts = found.evidence.findings[1:]
    for name in ("challenger", "champion", "difference", "reference", "reference_difference"):
        mean = np.mean([getattr(part, name).value for part in parts])
        assert getattr(rare, name).value == pytest.approx(mean)
    test = case[0]
    assert rare.positive_patients == len(set(test.patients[(test.truth[:, 1:] == 1).any(axis=1)]))
    assert sum(patients for _, patients in rare.falls.positive.sizes) == rare.positive_patients


def test_a_subgroup_is_as_if_the_other_images_were_not_there(case, rules):
    """Each subgroup's evidence is `auc.compare` on its rows, its figures those of its rows; counts are right."""
    test, validation, attributes = case
    sex, view, age = (np.asarray(attributes[name]) for name in ("sex", "view", "age"))
    masks = {
        "sex=F": sex == "F",
        "age=0 to 39": np.isin(age, ["0", "39", "39.5"]),
        "age=40 to 64": np.isin(age, ["40", "64", " 41 "]),
        "age=65 and over": np.isin(age, ["65", "150"]),
        "sex=M, view=AP": (sex == "M") & (view == "AP"),
    }
    found = {group.name: group for group in _assess(case, rules).subgroups}
    for name, mask in masks.items():
        rows = np.flatnonzero(mask)
        group, expected = found[name], _compared(test, rules, rows)
        for field in type(expected).model_fields:
            assert getattr(group, field) == getattr(expected, field), (name, field)
        assert (group.images, group.patients) == (rows.size, np.unique(test.patients[rows]).size)
        scores = {role: table[rows] for role, table in test.scores.items()}
        alone = evidence.Scored(truth=test.truth[rows], patients=test.patients[rows], scores=scores)
        few = _assess((alone, validation, {}), rules.model_copy(update={"subgroups": None}))
        for one, two in zip(group.performance, few.performance, strict=True):
            assert one.sensitivity.difference == two.sensitivity.difference
            assert one.brier.difference.se == pytest.approx(two.brier.difference.se)


def test_subgroups_stand_in_the_order_of_the_plan(case, rules):
    """Attributes come in the plan's order, values sorted, age bands rising, pairs by their first value."""
    names = [group.name for group in _assess(case, rules).subgroups]
    assert names == [
        "sex=F",
        "sex=M",
        "age=0 to 39",
        "age=40 to 64",
        "age=65 and over",
        "sex=F, view=AP",
        "sex=F, view=PA",
        "sex=M, view=AP",
        "sex=M, view=PA",
    ]


def test_unknown_attributes_form_no_subgroup_and_are_counted(case, rules):
    """Images of unknown sex, or of an age that is none, are in no subgroup and counted in a sentence."""
    attributes = case[2]
    no_sex = attributes["sex"].count("")
    no_age = sum(attributes["age"].count(age) for age in ("151", "411", "-1", "", "unknown", "nan"))
    images = len(attributes["sex"])
    assert _assess(case, rules).missing_groups == [
        f"{no_sex} of {images} images are in no subgroup by sex, because it is not known for them.",
        f"{no_age} of {images} images are in no subgroup by age, because it is not known for them.",
        f"{no_sex} of {images} images are in no subgroup by sex, view, because it is not known for them.",
    ]


def test_groups_that_cannot_be_formed_are_named(case, rules):
    """An attribute that no image says, and an age band without an image, stand in sentences."""
    images = len(case[2]["sex"])
    found = _assess(case, rules, attributes={"age": ["50"] * images, "sex": [""] * images})
    assert [group.name for group in found.subgroups] == ["age=40 to 64"]
    assert found.missing_groups == [
        "There is no subgroup by sex: no image has it on record.",
        "No image is in the subgroup age=0 to 39.",
        "No image is in the subgroup age=65 and over.",
        "There is no subgroup by sex, view: no image has it on record.",
    ]


def test_a_finding_without_positives_in_a_subgroup_is_left_out_of_its_mean(case, rules):
    """In a subgroup where a finding has no positives it is undefined there, and the mean is over the others."""
    test, _, attributes = case
    truth = test.truth.copy()
    truth[np.asarray(attributes["sex"]) == "M", 0] = 0
    bare = evidence.Scored(truth=truth, patients=test.patients, scores=test.scores)
    found = _assess(case, rules, test=bare)
    men = next(group for group in found.subgroups if group.name == "sex=M")
    assert found.evidence.macro_over == list(NAMES)
    assert men.macro_over == list(NAMES[1:])
    assert isinstance(men.findings[0].difference, Undefined)
    assert isinstance(men.performance[0].sensitivity.challenger, Undefined)
    assert isinstance(men.macro_difference, Estimate)


def test_uncertain_labels_are_tried_both_ways(case, rules):
    """Uncertain labels are counted, and both scenarios are `auc.compare` with all of them set to 0, or to 1."""
    test = case[0]
    uncertain = np.zeros(test.truth.shape, bool)
    uncertain[::7, 1] = uncertain[::11, 2] = True
    truth = np.where(uncertain, np.nan, test.truth)
    unsure = evidence.Scored(truth=truth, patients=test.patients, scores=test.scores, uncertain=uncertain)
    found = _assess(case, rules, test=unsure)
    assert found.uncertain == {"Nodule": int(uncertain[:, 1].sum()), "Hernia": int(uncertain[:, 2].sum())}
    assert _without_falls(found.evidence) == _compared(unsure, rules)
    assert [scenario.uncertain_as for scenario in found.scenarios] == [0, 1]
    for scenario in found.scenarios:
        expected = _compared(unsure, rules, truth=np.where(uncertain, float(scenario.uncertain_as), truth))
        for field in type(expected).model_fields:
            assert getattr(scenario, field) == getattr(expected, field)


def test_without_uncertain_labels_there_is_no_scenario(case, rules):
    """A test set whose labels are all known or plainly missing has no scenarios."""
    found = _assess(case, rules)
    assert (found.uncertain, found.scenarios) == ({}, [])
    nothing = np.zeros(case[0].truth.shape, bool)
    same = evidence.Scored(truth=case[0].truth, patients=case[0].patients, scores=case[0].scores, uncertain=nothing)
    found = _assess(case, rules, test=same)
    assert (found.uncertain, found.scenarios) == ({}, [])


def test_the_validation_macro_is_the_mean_auc_of_each_model(case, rules):
    """Each model's macro-AUC on the validation set is scikit-learn's mean over findings with both kinds of patients."""
    validation = case[1]
    truth = validation.truth.copy()
    truth[:, 2] = 0
    truth[::5, 1] = np.nan
    small = evidence.Scored(truth=truth, patients=validation.patients, scores=validation.scores)
    found = _assess(case, rules, validation=small).validation_macro
    known = ~np.isnan(truth[:, 1])
    for role, table in validation.scores.items():
        one, two = roc_auc_score(truth[:, 0], table[:, 0]), roc_auc_score(truth[known, 1], table[known, 1])
        assert found[role] == pytest.approx((one + two) / 2)
    assert _assess(case, rules, validation=None).validation_macro == {}


def test_identical_models_differ_by_exactly_nothing(case, rules):
    """A challenger with the champion's scores differs by exactly 0 in all images and in every subgroup."""
    test, validation, _ = case

    def twice(scored):
        scores = {role: scored.scores["challenger"].copy() for role in ("challenger", "champion")}
        return evidence.Scored(truth=scored.truth, patients=scored.patients, scores=scores)

    found = _assess(case, rules, test=twice(test), validation=twice(validation))
    for part in (found.evidence, *found.subgroups):
        figures = [part.macro_difference, *(row.difference for row in part.findings)]
        assert {(figure.value, figure.low, figure.high) for figure in figures} == {(0, 0, 0)}
    for row in (*found.performance, *(row for group in found.subgroups for row in group.performance)):
        for name in ("average_precision", "sensitivity", "specificity", "brier", "slope", "intercept", "ece"):
            figure = getattr(row, name).difference
            assert (figure.value, figure.low, figure.high) == (0, 0, 0), name


def test_a_constant_model_has_no_auc_and_no_calibration(case, rules):
    """A challenger that says 0.5 of every image has no AUC, no recalibration and no difference, and stops nothing."""
    test, validation, _ = case

    def constant(scored):
        scores = {**scored.scores, "challenger": np.full(scored.truth.shape, 0.5)}
        return evidence.Scored(truth=scored.truth, patients=scored.patients, scores=scores)

    found = _assess(case, rules, test=constant(test), validation=constant(validation))
    assert isinstance(found.evidence.macro_difference, Undefined)
    assert found.performance[0].brier.difference.reason == "all scores are the same"
    assert isinstance(found.performance[0].brier.champion, Estimate)
    assert evidence.score_problems(NAMES, test.truth, constant(test).scores)[0][0] == "CONSTANT_SCORES"


def test_an_empty_test_set_has_no_numbers(rules):
    """Without any image, every figure is undefined and no subgroup is formed."""
    empty = evidence.Scored(
        truth=np.empty((0, 3)), patients=np.empty(0, dtype=object), scores={"challenger": np.empty((0, 3))}
    )
    found = evidence.assess(NAMES, empty, validation=None, attributes={}, rules=rules, level=0.95)
    assert isinstance(found.evidence.macro_challenger, Undefined)
    assert isinstance(found.performance[0].average_precision.challenger, Undefined)
    assert found.subgroups == []


@settings(deadline=None, max_examples=5)  # a busy machine is not a fault
@given(seed=st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(case, rules, seed):
    """Images in another order change no count, no list and, but for rounding, no number."""
    test, validation, attributes = case
    order = np.random.default_rng(seed).permutation(len(test.patients))
    scores = {role: table[order] for role, table in test.scores.items()}
    moved = evidence.Scored(truth=test.truth[order], patients=test.patients[order], scores=scores)
    texts = {name: [column[i] for i in order] for name, column in attributes.items()}
    one, two = _assess(case, rules), _assess((moved, validation, texts), rules)
    assert one.missing_groups == two.missing_groups
    for a, b in zip((one.evidence, *one.subgroups), (two.evidence, *two.subgroups), strict=True):
        assert [row.support for row in a.findings] == [row.support for row in b.findings]
        for field in ("macro_challenger", "macro_difference", "macro_reference_difference"):
            first, second = getattr(a, field), getattr(b, field)
            assert (first.value, first.se, first.low) == pytest.approx((second.value, second.se, second.low), abs=1e-9)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scores": {"champion": np.zeros((2, 1))}}, "challenger"),
        ({"scores": {"challenger": np.zeros((2, 1)), "rival": np.zeros((2, 1))}}, "no others"),
        ({"scores": {"challenger": np.zeros((2, 2))}}, "same images"),
        ({"patients": np.zeros(3)}, "same images"),
        ({"uncertain": np.ones((2, 1), bool)}, "known and uncertain"),
    ],
)
def test_what_does_not_fit_together_is_refused(change, words):
    """Shapes that differ, an unknown role, no challenger, or a label both known and uncertain are errors."""
    fields = {"truth": np.zeros((2, 1)), "patients": np.zeros(2), "scores": {"challenger": np.zeros((2, 1))}}
    with pytest.raises(ValueError, match=words):
        evidence.Scored(**{**fields, **change})


@pytest.mark.parametrize(
    ("role", "codes"),
    [
        ("challenger", ("INVALID_SCORES", "CONSTANT_SCORES", "PERMUTED_FINDINGS")),
        ("champion", ("CHAMPION_INVALID",) * 3),
        ("reference", ("REFERENCE_INVALID",) * 3),
    ],
)
def test_faults_of_scores_are_told_for_each_model(case, role, codes):
    """Logits, a constant finding and permuted findings have the code of the model that is at fault, and no other."""
    test = case[0]
    good = test.scores[role]
    constant, permuted = good.copy(), good[:, [1, 0, 2]]
    constant[:, 2] = 0.25
    for faulty, code in zip((good * 9 - 4, constant, permuted), codes, strict=True):
        problems = evidence.score_problems(NAMES, test.truth, {**test.scores, role: faulty})
        assert [found for found, _ in problems] == [code]
        assert role in problems[0][1]
    assert evidence.score_problems(NAMES, test.truth, test.scores) == []
