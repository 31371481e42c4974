"""A plan in words: every executed key is said, every change has a direction, and reviewers' objections are found."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from cxr_ops import plan as plans
from cxr_ops.errors import SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import NOT_OF_THE_MODEL, Params
from cxr_ops.report import plans as words

RULES = "modification_protocol.performance_evaluation"
WATCH = "modification_protocol.update_procedures.monitoring.watch"

# Every key that something executes, another value for it, and how that moves the production plan.
CHANGES: list[tuple[str, Any, str]] = [
    ("clinical_use", True, "unordered"),
    ("description_of_modifications.bounds.architecture", "resnet50", "unordered"),
    ("description_of_modifications.bounds.sources", "any", "looser"),
    ("description_of_modifications.bounds.sources", ["nih", "chexpert"], "looser"),
    ("description_of_modifications.bounds.sources", ["chexpert"], "unordered"),
    ("description_of_modifications.bounds.other_settings", "free", "looser"),
    (f"{RULES}.alpha", 0.004, "stricter"),
    (f"{RULES}.max_looks", 5, "stricter"),
    (f"{RULES}.period_alpha", 0.06, "looser"),
    (f"{RULES}.period_alpha", None, "looser"),
    (f"{RULES}.disclosure", "all", "looser"),
    (f"{RULES}.min_test_patients", 900, "looser"),
    (f"{RULES}.min_positive_patients", 10, "looser"),
    (f"{RULES}.min_negative_patients", 30, "stricter"),
    (f"{RULES}.required_findings", ["Mass"], "looser"),
    (f"{RULES}.limited_findings", [], "looser"),
    (f"{RULES}.macro.floor", 0.8, "stricter"),
    (f"{RULES}.macro.floor", None, "looser"),
    (f"{RULES}.macro.margin", 0.02, "looser"),
    (f"{RULES}.finding.floor", 0.5, "looser"),
    (f"{RULES}.finding.margins.Hernia", 0.05, "stricter"),
    (f"{RULES}.sparse_failures", None, "looser"),
    (f"{RULES}.sparse_failures.findings", ["Mass"], "looser"),
    (f"{RULES}.composites", [], "looser"),
    (f"{RULES}.reference.raise_on_superiority", False, "unordered"),
    (f"{RULES}.subgroups.attributes", ["sex", "view", "age", "sex, view"], "stricter"),
    (f"{RULES}.subgroups.age_bands", [50], "unordered"),
    (f"{RULES}.subgroups.margin", 0.05, "looser"),
    (f"{RULES}.subgroups.min_findings", 3, "looser"),
    (f"{RULES}.harm_screen", None, "looser"),
    (f"{RULES}.harm_screen.error", 0.01, "looser"),
    (f"{RULES}.harm_screen.loss", 0.02, "stricter"),
    (f"{RULES}.harm_screen.approvals", 3, "stricter"),
    (f"{RULES}.suspicious_gain", None, "looser"),
    (f"{RULES}.suspicious_gain.gain", 0.05, "looser"),
    (f"{RULES}.suspicious_gain.approvals", 1, "looser"),
    (f"{RULES}.operating_points", None, "looser"),
    (f"{RULES}.operating_points.rule", "sensitivity", "unordered"),
    (f"{RULES}.operating_points.target", 0.95, "unordered"),
    (f"{RULES}.operating_points.findings", ["Mass"], "stricter"),
    (f"{RULES}.operating_points.sensitivity_margin", 0.1, "looser"),
    (f"{RULES}.operating_points.specificity_margin", 0.01, "stricter"),
    (f"{RULES}.operating_points.min_positive_patients", 500, "looser"),
    (f"{RULES}.harmful_flips", {"findings": ["Mass"], "missed": 0.1}, "stricter"),
    (f"{RULES}.reliance", None, "looser"),
    (f"{RULES}.reliance.corners", 0.05, "looser"),
    (f"{RULES}.reliance.outside", None, "looser"),
    (f"{RULES}.reliance.remains", 0.7, "stricter"),
    (f"{RULES}.reliance.error", 0.01, "looser"),
    (f"{RULES}.map_places", None, "looser"),
    (f"{RULES}.map_places.pointing_margin", 0.1, "stricter"),
    (f"{RULES}.map_places.energy_margin", 0.1, "stricter"),
    (f"{RULES}.map_places.energy_floor", 0.1, "stricter"),
    (f"{RULES}.map_places.pointing_floor", 0.2, "stricter"),
    (f"{RULES}.map_places.overlap_margin", 0.2, "stricter"),
    (f"{RULES}.map_places.overlap_floor", 0.2, "stricter"),
    (f"{RULES}.map_places.overlap_at", 0.5, "unordered"),
    (f"{RULES}.map_places.min_patients", 30, "looser"),
    (f"{RULES}.map_places.error", 0.01, "looser"),
    (f"{RULES}.heat_maps", None, "looser"),
    (f"{RULES}.heat_maps.random", 0.4, "stricter"),
    (f"{RULES}.heat_maps.steady", 0.4, "stricter"),
    (f"{RULES}.heat_maps.images", 64, "stricter"),
    (f"{RULES}.heat_maps.draws", 1, "looser"),
    (f"{RULES}.heat_maps.error", 0.01, "looser"),
    (f"{RULES}.calibration", None, "looser"),
    (f"{RULES}.calibration.findings", ["Mass"], "stricter"),
    (f"{RULES}.calibration.slope", [0.9, 1.2], "stricter"),
    (f"{RULES}.calibration.slope", [0.9, 1.3], "unordered"),
    (f"{RULES}.calibration.brier_margin", 0.01, "looser"),
    ("modification_protocol.update_procedures.approvals", 2, "stricter"),
    ("modification_protocol.update_procedures.require_clean_code", False, "looser"),
    ("modification_protocol.update_procedures.code_source", "https://git.example.org/a.git#main", "unordered"),
    ("modification_protocol.update_procedures.monitoring.review_after_days", 90, "stricter"),
    (f"{WATCH}.kinds", ["inputs", "labels"], "looser"),
    (f"{WATCH}.tolerance", 0.05, "looser"),
    (f"{WATCH}.false_alarms_a_year", 0.01, "unordered"),
    (f"{WATCH}.then", "retrain", "unordered"),
    (WATCH, None, "looser"),
    ("modification_protocol.update_procedures.serving", None, "looser"),
    ("modification_protocol.update_procedures.serving.tolerance", 0.001, "looser"),
    ("modification_protocol.update_procedures.serving.seconds", 1.0, "stricter"),
]


@pytest.fixture
def document(project: Path) -> dict[str, Any]:
    """The production template with all keys, those that it leaves to their defaults too."""
    found = plans.load(project / "pccp.yaml").model_dump(mode="json")
    watch = plans.Watch(false_alarms_a_year=0.05, then="notify").model_dump(mode="json")
    found["modification_protocol"]["update_procedures"]["monitoring"]["watch"] = watch
    return found


def _equal(document: dict[str, Any]) -> dict[str, Any]:
    """With equal looks of 0.005, which may promise nothing and disclose all."""
    changed = copy.deepcopy(document)
    changed["modification_protocol"]["performance_evaluation"] |= {"looks": {"method": "equal"}, "alpha": 0.005}
    return changed


def _parse(document: dict[str, Any]) -> plans.ChangePlan:
    return plans.ChangePlan.model_validate(document)


def _with(document: dict[str, Any], key: str, value: Any) -> plans.ChangePlan:
    changed = copy.deepcopy(document)
    place = changed
    *parents, last = key.split(".")
    for parent in parents:
        place = place[parent]
    assert last in place, key
    place[last] = value
    return _parse(changed)


def _leaves(value: Any, place: str = "") -> set[str]:
    if not isinstance(value, dict):
        return {place}
    return {leaf for name, inner in value.items() for leaf in _leaves(inner, f"{place}.{name}".lstrip("."))}


def test_no_executed_key_is_forgotten(document: dict[str, Any]) -> None:
    """The list of keys that these tests go through is the whole plan, but for its words and for names and bounds."""
    spoken = {"format", "name", "notice"}
    keys = {
        key
        for key in _leaves(document)
        if key not in spoken
        and not key.startswith(("impact_assessment", "description_of_modifications.bounds.settings"))
        and key.rpartition(".")[2] not in ("summary", "may_change", "must_not_change")
        and not key.startswith(f"{RULES}.finding.margin")
    }
    listed = {key for key, _, _ in CHANGES}
    # A named package must come with another key, and the looks with others: tests of their own have them.
    # `own_attributes` only lets `attributes` name something.
    others = ("reference.package", "looks.method", "looks.success_weight", "subgroups.own_attributes")
    assert keys - listed == {f"{RULES}.{name}" for name in others}


@pytest.mark.parametrize(("key", "value", "direction"), CHANGES)
def test_each_executed_key_is_explained_and_its_change_has_a_direction(
    document: dict[str, Any], key: str, value: Any, direction: str
) -> None:
    """Another value of an executed key changes the explanation, and the difference names that key and its direction."""
    document = _equal(document)
    old, new = _parse(document), _with(document, key, value)
    assert words.markdown(words.explain(old)) != words.markdown(words.explain(new))
    changes = words.diff(old, new)
    place = key.replace("finding.margins.", "finding.margin.")
    assert [(change.key, change.direction) for change in changes] == [(place, direction)]
    assert bool(changes[0].why) == (direction == "unordered")
    back = {"looser": "stricter", "stricter": "looser", "unordered": "unordered"}[direction]
    assert [change.direction for change in words.diff(new, old)] == [back]


def test_a_composites_margin_and_findings_are_compared(document: dict[str, Any]) -> None:
    """A wider margin of a composite is looser; other findings in it have no direction; a further one is stricter."""
    old = _parse(document)
    [rare] = document["modification_protocol"]["performance_evaluation"]["composites"]
    changed = [
        ({**rare, "margin": 0.1}, "composites.rare.margin", "looser"),
        ({**rare, "findings": ["Hernia", "Mass"]}, "composites.rare.findings", "unordered"),
    ]
    for composite, place, direction in changed:
        new = _with(document, f"{RULES}.composites", [composite])
        assert [(change.key, change.direction) for change in words.diff(old, new)] == [(f"{RULES}.{place}", direction)]
    more = _with(document, f"{RULES}.composites", [rare, {**rare, "name": "others"}])
    assert [(change.name, change.direction) for change in words.diff(old, more)] == [("composites", "stricter")]


def test_a_named_reference_is_explained(document: dict[str, Any]) -> None:
    """A plan that names its reference says which package it is, and that only the plan changes it."""
    document["modification_protocol"]["performance_evaluation"]["reference"] = {
        "package": "ab" * 32,
        "raise_on_superiority": False,
    }
    text = words.markdown(words.explain(_parse(document)))
    assert f"The reference is the package {'ab' * 32}. It changes only with this plan." in text


@pytest.mark.parametrize(
    ("bound", "direction", "said"),
    [
        ({"range": [1, 200]}, "looser", "1 to 100 -> 1 to 200"),
        ({"range": [5, 50]}, "stricter", "1 to 100 -> 5 to 50"),
        ({"range": [50, 150]}, "unordered", "1 to 100 -> 50 to 150"),
        ({"equals": 30}, "stricter", "1 to 100 -> 30"),
        ({"one_of": [30, 300]}, "unordered", "1 to 100 -> 30 or 300"),
        ({"range": [1, 100], "or_unset": True}, "looser", "1 to 100 -> 1 to 100 or unset"),
        ({"range": [5, 50], "or_unset": True}, "unordered", "1 to 100 -> 5 to 50 or unset"),
        ({"range": [1, 200], "or_unset": True}, "looser", "1 to 100 -> 1 to 200 or unset"),
        ({"range": [30, 30]}, "stricter", "1 to 100 -> 30 to 30"),
        (None, "stricter", "1 to 100 -> not listed, none"),
    ],
)
def test_bounds_of_settings_are_compared(document: dict[str, Any], bound: Any, direction: str, said: str) -> None:
    """A wider range is looser, a narrower one stricter, and a setting that is no longer listed is outside the plan."""
    settings = copy.deepcopy(document)
    bounds = settings["description_of_modifications"]["bounds"]["settings"]
    if bound is None:
        del bounds["train.epochs"]
    else:
        bounds["train.epochs"] = bound
    (change,) = words.diff(_parse(document), _parse(settings))
    told = "cannot be ordered: neither allows all that the other does" if direction == "unordered" else direction
    assert str(change) == f"bound of train.epochs {said} ({told})"


def test_a_bound_in_other_words_is_no_change(document: dict[str, Any]) -> None:
    """A range of one number allows what that number does."""
    settings = copy.deepcopy(document)
    for plan, bound in ((document, {"equals": 30}), (settings, {"range": [30, 30]})):
        plan["description_of_modifications"]["bounds"]["settings"]["train.epochs"] = bound
    assert words.diff(_parse(document), _parse(settings)) == words.diff(_parse(settings), _parse(document)) == []


def test_another_method_of_looks_is_a_change_without_a_direction(document: dict[str, Any]) -> None:
    """Neither recycled nor equal looks ask for less; the diff names method, weight and alpha."""
    changes = words.diff(_parse(_equal(document)), _parse(document))
    assert {change.direction for change in changes} == {"unordered"}
    told = [str(change).partition(" (cannot be ordered: ") for change in changes]
    assert [(change, why[:30]) for change, _, why in told] == [
        ("looks method equal -> recycled", "recycled looks begin with more"),
        ("looks success weight null -> 0.80", "the more a look spends, the le"),
        ("alpha 0.005 -> null", "what a recycled look may spend"),
    ]


def test_fewer_patients_for_a_finding_are_looser_only_where_every_finding_is_required(document: dict[str, Any]) -> None:
    """Where one is not required, fewer patients let required findings pass and others be judged that were left out."""
    for required, wanted in (("all", "looser"), (["Mass"], "unordered"), ([], "unordered")):
        old = _with(document, f"{RULES}.required_findings", required)
        new = _with(old.model_dump(mode="json"), f"{RULES}.min_positive_patients", 10)
        [change] = words.diff(old, new)
        assert (change.name, change.direction) == ("min positive patients", wanted)


def test_a_margin_reads_as_people_say_it(document: dict[str, Any]) -> None:
    """A changed margin is one line with both values and the direction; a changed default is one for each finding."""
    new = _with(document, f"{RULES}.finding.margins.Hernia", 0.05)
    assert str(words.diff(_parse(document), new)[0]) == "finding margin Hernia 0.15 -> 0.05 (stricter)"
    for_all = words.diff(_parse(document), _with(document, f"{RULES}.finding.margin", 0.04))
    own = set(document["modification_protocol"]["performance_evaluation"]["finding"]["margins"])
    assert [change.name for change in for_all] == [f"finding margin {f}" for f in FINDINGS if f not in own]


def test_the_same_plan_has_no_differences_and_words_have_no_direction(document: dict[str, Any]) -> None:
    """A plan does not differ from itself, and another sentence is a change without a direction."""
    plan = _parse(document)
    assert words.diff(plan, plan) == []
    (change,) = words.diff(plan, plan.model_copy(update={"notice": "x" * 300}))
    assert (change.direction, str(change)) == ("other", "notice: other words (other)")


def test_the_limited_finding_is_explained_with_its_consequence(document: dict[str, Any]) -> None:
    """The explanation says what a finding may lose, and has the three parts of the FDA's guidance."""
    text = words.markdown(words.explain(_parse(document)))
    assert "Hernia may lose at most 0.15" in text
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## Part 1: description of modifications",
        "## Part 2: modification protocol",
        "## Part 3: impact assessment",
    ]


# ----------------------------------------------------------------------------------------------------- check


def test_a_bound_on_no_setting_is_an_error(document: dict[str, Any]) -> None:
    """A bound on a misspelt setting, or on one that is about the machine, is refused; the nearest one is named."""
    words.check_bounds(_parse(document))
    document["description_of_modifications"]["bounds"]["settings"]["train.epoch"] = {"range": [1, 2]}
    with pytest.raises(SettingsError, match=r"train\.epoch is not a setting; did you mean 'train\.epochs'"):
        words.check_bounds(_parse(document))
    del document["description_of_modifications"]["bounds"]["settings"]["train.epoch"]
    document["description_of_modifications"]["bounds"]["settings"]["train.device"] = {"equals": "cpu"}
    with pytest.raises(SettingsError, match=r"train\.device says nothing of the model"):
        words.check_bounds(_parse(document))


def test_the_settings_that_can_be_bounded_are_those_that_a_package_tells() -> None:
    """The keys that a plan can bound are those that the evaluation's facts hold, and no others."""
    known = words.settings(Params())
    assert {"split.salt", "split.validation", "split.test", "prepare.image_size", "train.epochs"} <= set(known)
    assert not NOT_OF_THE_MODEL & set(known)


def test_settings_outside_the_plan_are_named(document: dict[str, Any]) -> None:
    """A setting of params.yaml that a bound excludes, or that nothing lists, is named with what the plan allows."""
    params = Params.check({"prepare": {"image_size": 96}, "train": {"weights": "none"}}, "params.yaml")
    found = words.warnings(_parse(document), params)
    assert (
        "prepare.image_size is 96 in params.yaml, and the plan allows 224: a run with it is outside the plan" in found
    )
    del document["description_of_modifications"]["bounds"]["settings"]["train.seed"]
    found = words.warnings(_parse(document), params)
    assert any(line.startswith("train.seed is 0 in params.yaml, and the plan does not list it") for line in found)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (f"{RULES}.period_alpha", None, "period_alpha is null"),
        (f"{RULES}.disclosure", "all", "disclosure is all"),
        (f"{RULES}.sparse_failures", None, "sparse_failures is null"),
        (f"{RULES}.limited_findings", [], "must be in limited_findings: Hernia"),
        (f"{RULES}.required_findings", ["Mass"], "required_findings is not all"),
        (f"{RULES}.macro.floor", None, "a floor is null"),
        ("modification_protocol.update_procedures.approvals", 0, "approvals is 0"),
        ("modification_protocol.update_procedures.require_clean_code", False, "require_clean_code is false"),
        ("description_of_modifications.bounds.other_settings", "free", "other_settings is free"),
        ("description_of_modifications.bounds.sources", "any", "sources is any"),
    ],
)
def test_what_a_reviewer_would_object_to_is_said(document: dict[str, Any], key: str, value: Any, said: str) -> None:
    """Each weakness of a plan is a warning, and the production template has none but that nobody has reviewed it."""
    params = Params.check({"prepare": {"image_size": 224}}, "params.yaml")
    before = words.warnings(_parse(document), params)
    assert [line.partition(":")[0] for line in before] == ["clinical_use is false"]
    free = key in (f"{RULES}.period_alpha", f"{RULES}.disclosure")  # recycled looks do not let them be so
    after = words.warnings(_with(_equal(document) if free else document, key, value), params)
    assert [line for line in after if line not in before and said in line]


def test_a_plan_without_subgroups_is_objected_to(document: dict[str, Any]) -> None:
    """A plan that judges no subgroup is warned of."""
    document["modification_protocol"]["performance_evaluation"] |= {"subgroups": None, "harm_screen": None}
    plan = _parse(document)
    assert any("subgroups is null" in line for line in words.warnings(plan, Params()))
    assert "No subgroup is judged" in words.markdown(words.explain(plan))


def test_tiers_follow_positive_patients(document: dict[str, Any]) -> None:
    """A margin is compared with the tier of the finding's positive patients; below 20 there is none."""
    rules = _parse(document).performance
    counts = [400, 399, 1000, 1000, 1000, 1000, 200, 199, 1000, 200, 200, 200, 1000, 19]
    found = {tier.finding: tier for tier in words.tiers(rules, counts)}
    assert {name: (tier.margin, tier.proposed) for name, tier in found.items() if tier.margin != tier.proposed} == {
        "Pneumothorax": (0.05, 0.10),
        "Hernia": (0.15, None),
    }
    assert str(found["Hernia"]) == "Hernia: 19 positive patients, so it cannot be judged; the plan has 0.15"


@pytest.mark.parametrize(
    ("change", "direction"),
    [
        ({"missed": 0.2}, "looser"),
        ({"missed": None}, "looser"),
        ({"alarmed": None}, "looser"),
        ({"findings": ["Mass", "Nodule"]}, "stricter"),
        ({"min_positive_patients": 50}, "stricter"),
    ],
)
def test_limits_on_flips_are_explained_and_compared(
    document: dict[str, Any], change: dict[str, Any], direction: str
) -> None:
    """Each key of the limits on what flips is told in the explanation, and its change has a direction."""
    flips = {"findings": ["Mass"], "missed": 0.1, "alarmed": 0.05, "min_positive_patients": 100}
    key = f"{RULES}.harmful_flips"
    old, new = (_with(document, key, value) for value in (flips, flips | change))
    told = words.markdown(words.explain(old))
    assert "at most 10 % of the images with it may be called by the champion and missed by the challenger" in told
    assert words.markdown(words.explain(new)) != told
    assert [change.direction for change in words.diff(old, new)] == [direction]
