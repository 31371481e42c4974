"""The three plans that ship, and what is said of a plan that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cxr_ops import plan as plans
from cxr_ops.errors import SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import sha256_bytes
from cxr_ops.stats.power import margin_tier

SHIPPED = ("pccp.yaml", "pccp.demo.yaml", "pccp.nih-sample-demo.yaml", "pccp.pneumonia-demo.yaml")


@pytest.fixture
def document(project: Path) -> dict:
    """The production template, parsed, to be broken."""
    return yaml.safe_load((project / "pccp.yaml").read_text(encoding="utf-8"))


@pytest.fixture
def equal(document: dict) -> dict:
    """The same with equal looks of 0.005."""
    document["modification_protocol"]["performance_evaluation"] |= {"looks": {"method": "equal"}, "alpha": 0.005}
    return document


def _refusal(document: object) -> str:
    with pytest.raises(SettingsError) as caught:
        plans.parse(yaml.safe_dump(document).encode(), "pccp.yaml")
    assert caught.value.exit_code == 11
    return str(caught.value)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_plan_that_ships_is_valid(project, name):
    """Each plan loads, has the three parts of the FDA's guidance, and is identified by the SHA-256 of its file."""
    plan = plans.load(project / name)
    assert set(plan.model_dump()) >= {"description_of_modifications", "modification_protocol", "impact_assessment"}
    record = plans.identify(project, name)
    assert (record.name, record.path, record.sha256) == (plan.name, name, sha256_bytes((project / name).read_bytes()))


def test_the_production_template_cannot_promote_unattended(project):
    """The production template asks for an approval, for committed code and for all findings."""
    plan = plans.load(project / "pccp.yaml")
    assert plan.approvals >= 1
    assert plan.require_clean_code
    assert plan.performance.required == FINDINGS
    assert plan.performance.finding.margin_of("Hernia") > plan.performance.finding.margin_of("Mass")


@pytest.mark.parametrize("name", ["pccp.demo.yaml", "pccp.nih-sample-demo.yaml", "pccp.pneumonia-demo.yaml"])
def test_demonstrations_are_marked(project, name):
    """A demonstration's plan needs no approval, and says that it is not for clinical use."""
    plan = plans.load(project / name)
    assert (plan.approvals, plan.clinical_use) == (0, False)
    assert "Not for clinical use" in plan.notice
    assert "demo" in plan.name


def test_the_demonstrations_floors_are_the_stated_ones(project):
    """The demonstration asks for a macro-AUC above 0.65, findings above 0.50, and a macro margin of 0.03."""
    rules = plans.load(project / "pccp.demo.yaml").performance
    assert (rules.macro.floor, rules.finding.floor, rules.macro.margin) == (0.65, 0.50, 0.03)


def test_the_production_margins_are_the_tiers_of_the_releases_counts(project):
    """The margins and limited findings of the production template follow the positive patients on its own test side.

    The counts were taken from the release's labels (see docs/plan.md), which are not part of this project.
    """
    counts = (1231, 375, 1079, 1989, 689, 885, 253, 383, 538, 276, 275, 306, 513, 31)
    rules = plans.load(project / "pccp.yaml").performance
    assert [rules.finding.margin_of(finding) for finding in FINDINGS] == [margin_tier(count) for count in counts]
    assert list(rules.limited_findings) == [f for f in FINDINGS if rules.finding.margin_of(f) >= 0.10] == ["Hernia"]


def test_the_production_template_spends_its_error_over_the_period(project):
    """Its looks recycle 0.05, the test set is withheld from those who tune, and subgroups are judged."""
    rules = plans.load(project / "pccp.yaml").performance
    assert (rules.looks.method, rules.looks.success_weight, rules.period_alpha) == ("recycled", 0.8, 0.05)
    assert rules.alpha is None
    assert rules.disclosure in ("promotion", "verdict")
    assert rules.subgroups.attributes == ("sex", "view", "age")
    assert (rules.macro.floor, rules.macro.margin, rules.finding.floor) == (0.78, 0.01, 0.60)


@pytest.mark.parametrize(
    ("bound", "inside", "outside"),
    [
        ({"range": [1, 10]}, [1, 10, 2.5], [0, 10.1, "5", True, None, float("nan")]),
        ({"one_of": ["imagenet", "none"]}, ["none"], ["a.safetensors", None, 0]),
        ({"equals": 224}, [224, 224.0], [96, "224", True]),
        ({"equals": 1}, [1], [True]),
        ({"equals": False}, [False], [0, None]),
        ({"range": [0.1, 100], "or_unset": True}, [None, 1.0], [0, "none", False]),
    ],
)
def test_a_bound_holds_what_it_allows(bound, inside, outside):
    """A range includes its ends, a list and a value only themselves; a truth value is no number."""
    bound = plans.Bound.model_validate(bound)
    assert all(bound.allows(value) for value in inside)
    assert not any(bound.allows(value) for value in outside)


@pytest.mark.parametrize("bound", [{}, {"equals": 1, "range": [0, 2]}, {"range": [2, 1]}, {"one_of": []}])
def test_a_bound_is_of_exactly_one_kind(document, bound):
    """A bound without a kind, of two kinds, or with its range turned round is refused with its place."""
    document["description_of_modifications"]["bounds"]["settings"]["train.epochs"] = bound
    assert "bounds.settings.train.epochs" in _refusal(document)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("max_looks", 11, "11 looks of 0.005 spend 0.055, more than period_alpha: 0.05"),
        ("subgroups", None, "harm_screen needs subgroups"),
        ("reference", {"package": "0" * 64, "raise_on_superiority": True}, "raise_on_superiority must be false"),
        ("reference", {"package": "abc", "raise_on_superiority": False}, "reference.package"),
        ("operating_points", {"rule": "youden", "target": 0.9}, "youden has no target"),
        ("operating_points", {"rule": "sensitivity"}, "need one"),
        ("operating_points", {"rule": "youden", "findings": ["Hernja"]}, "did you mean 'Hernia'?"),
        ("calibration", {"slope": [1.1, 1.2]}, "around 1"),
        ("subgroups", {"attributes": ["sexx"], "margin": 0.03}, "did you mean 'sex'?"),
        ("subgroups", {"attributes": ["sex, sex"], "margin": 0.03}, "names an attribute twice"),
        ("subgroups", {"attributes": ["age"], "age_bands": [65, 40], "margin": 0.03}, "rising years"),
        ("limited_findings", ["Hernja"], "did you mean 'Hernia'?"),
        ("sparse_failures", {"findings": ["Hernja"]}, "did you mean 'Hernia'?"),
        ("composites", [{"name": "rare", "findings": ["Hernia"], "margin": 0.1}], "composites.0.findings"),
        ("composites", [{"name": "Rare", "findings": ["Hernia", "Mass"], "margin": 0.1}], "composites.0.name"),
        ("composites", [{"name": "rare", "findings": ["Mass", "Mass"], "margin": 0.1}], "names a finding twice"),
        ("composites", [{"name": "rare", "findings": ["Hernia", "Mass"], "margin": 0.1}] * 2, "have the same name"),
    ],
)
def test_combinations_that_contradict_themselves_are_refused(equal, key, value, said):
    """Looks that spend more than the period has, screens without subgroups, and the like are settings errors."""
    equal["modification_protocol"]["performance_evaluation"][key] = value
    assert said in _refusal(equal)


def test_a_key_that_is_there_twice_is_refused():
    """YAML takes the last of two equal keys and people read the first: the plan is refused, and the line is named."""
    text = (
        Path("pccp.yaml")
        .read_text(encoding="utf-8")
        .replace("    approvals: 1\n", "    approvals: 1\n    approvals: 0\n")
    )
    with pytest.raises(SettingsError, match=r"'approvals' is there twice(.|\n)*line \d+"):
        plans.parse(text.encode(), "pccp.yaml")


def test_recycled_looks_cannot_spend_half(document):
    """No check is judged at an error of a half: a plan that would have it is a settings error."""
    document["modification_protocol"]["performance_evaluation"]["period_alpha"] = 0.9
    assert "need a period_alpha below 0.5" in _refusal(document)


def test_the_old_name_of_a_key_is_told_the_new_one(document):
    """A plan of this format that says epoch_alpha is told period_alpha; one of format 2 means it."""
    rules = document["modification_protocol"]["performance_evaluation"]
    rules["epoch_alpha"] = rules.pop("period_alpha")
    assert "epoch_alpha is called period_alpha" in _refusal(document)
    old = plans.from_document({**document, "format": 2}, "old.yaml")
    assert old.performance.period_alpha == rules["epoch_alpha"]


@pytest.mark.parametrize("value", [None, 0.2])
def test_clinical_use_needs_a_periods_error(equal, value):
    """A plan for clinical use promises at most 0.05 over a test period."""
    equal["clinical_use"] = True
    equal["modification_protocol"]["performance_evaluation"]["period_alpha"] = value
    assert "needs a period_alpha of at most 0.05" in _refusal(equal)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"alpha": 0.005}, "looks of method recycled have no alpha"),
        ({"period_alpha": None}, "looks of method recycled need period_alpha"),
        ({"disclosure": "all"}, "need disclosure: promotion or verdict"),
        ({"looks": {"method": "equal"}}, "looks of method equal need alpha"),
        ({"looks": {"method": "equal", "success_weight": 0.8}, "alpha": 0.005}, "success_weight belongs to"),
        ({"looks": {"method": "recycled", "success_weight": 1.0}}, "success_weight"),
        ({"looks": {"method": "recycle"}}, "looks.method"),
    ],
)
def test_looks_have_the_keys_of_their_method(document, change, said):
    """Keys that contradict the method of the looks, or that it lacks, are refused with what is wrong."""
    document["modification_protocol"]["performance_evaluation"] |= change
    assert said in _refusal(document)


def test_spending_follows_from_the_plan(document, equal):
    """A weight that is left out is 0.8; what is told splits the branch of failure; equal looks have their alpha."""
    terms = plans.from_document(equal, "plan").performance.spending
    assert (terms.method, terms.alpha, terms.success_weight, terms.told_failures) == ("equal", 0.005, None, 1)
    rules = document["modification_protocol"]["performance_evaluation"]
    rules |= {"looks": {"method": "recycled"}, "alpha": None}
    for disclosure, told in (("promotion", 1), ("verdict", 3)):
        rules["disclosure"] = disclosure
        terms = plans.from_document(document, "plan").performance.spending
        assert (terms.method, terms.success_weight, terms.told_failures, terms.max_looks) == ("recycled", 0.8, told, 10)


def test_a_plan_of_an_earlier_format_has_equal_looks(equal):
    """A plan that says nothing of its looks, as all did before, judges each of them at its alpha."""
    del equal["modification_protocol"]["performance_evaluation"]["looks"]
    terms = plans.from_document({**equal, "format": 2}, "plan").performance.spending
    assert (terms.method, terms.alpha, terms.max_looks) == ("equal", 0.005, 10)


def test_an_unknown_key_names_the_nearest(document):
    """A misspelt key is refused with its place and the key that was meant, and is not told as missing besides."""
    rules = document["modification_protocol"]["performance_evaluation"]
    rules["max_look"] = rules.pop("max_looks")
    refusal = _refusal(document)
    assert "performance_evaluation.max_look is not a setting; did you mean 'max_looks'?" in refusal
    assert "missing" not in refusal


def test_an_unknown_finding_names_the_nearest(document):
    """A misspelt finding among the required ones or the margins is refused with the finding that was meant."""
    rules = document["modification_protocol"]["performance_evaluation"]
    rules["required_findings"] = ["Pleural Thickening"]
    assert "did you mean 'Pleural_Thickening'?" in _refusal(document)
    rules["required_findings"] = "all"
    rules["finding"]["margins"] = {"Hernja": 0.1}
    assert "did you mean 'Hernia'?" in _refusal(document)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("performance_evaluation", "alpha", 0.0),
        ("performance_evaluation", "alpha", 0.7),
        ("performance_evaluation", "alpha", float("nan")),
        ("performance_evaluation", "max_looks", 0),
        ("performance_evaluation", "min_positive_patients", 1),
        ("performance_evaluation", "macro", {"floor": 1.2, "margin": 0.01}),
        ("performance_evaluation", "macro", {"floor": 0.7, "margin": -0.01}),
        ("performance_evaluation", "macro", {"floor": 0.7}),
        ("update_procedures", "approvals", -1),
        ("update_procedures", "approvals", "one"),
    ],
)
def test_a_value_out_of_range_is_refused(document, part, key, value):
    """A number that makes no sense is refused, and the message says where."""
    document["modification_protocol"][part][key] = value
    assert re.search(rf"modification_protocol\.{part}\.{key}", _refusal(document))


@pytest.mark.parametrize(("key", "value"), [("approvals", 0), ("require_clean_code", False)])
def test_clinical_use_cannot_be_unattended(document, key, value):
    """A plan for clinical use without an approval, or with uncommitted code, is an impossible combination."""
    document["clinical_use"] = True
    assert plans.parse(yaml.safe_dump(document).encode(), "pccp.yaml").clinical_use
    document["modification_protocol"]["update_procedures"][key] = value
    assert "clinical_use: true needs approvals" in _refusal(document)


@pytest.mark.parametrize("data", [b"", b"- a list", b"name: [", b"\xff\xfe", b"just words"])
def test_a_file_that_is_no_plan_is_refused(data):
    """An empty file, a list, broken YAML and bytes that are no text are settings errors."""
    with pytest.raises(SettingsError, match="change-control plan"):
        plans.parse(data, "pccp.yaml")


def test_a_missing_plan_says_where_to_name_one(tmp_path):
    """A plan that is not there is a settings error that points to params.yaml."""
    with pytest.raises(SettingsError, match="missing") as caught:
        plans.load(tmp_path / "pccp.yaml")
    assert "gate.plan" in str(caught.value)


def test_a_plan_edited_after_the_run_was_opened_is_refused(project, tmp_path):
    """One blank more in the file than when the run was opened is another plan."""
    data = (project / "pccp.demo.yaml").read_bytes()
    (tmp_path / "pccp.demo.yaml").write_bytes(data)
    bound = plans.identify(tmp_path, "pccp.demo.yaml")
    assert plans.load_bound(tmp_path, "pccp.demo.yaml", bound).name == "demonstration"
    (tmp_path / "pccp.demo.yaml").write_bytes(data + b" ")
    with pytest.raises(SettingsError, match="not the plan that this run was opened with"):
        plans.load_bound(tmp_path, "pccp.demo.yaml", bound)


def test_attributes_of_side_tables_are_named_twice() -> None:
    """A plan may form subgroups by columns of side tables that it names; a slip of the pen is told both ways out."""
    document = yaml.safe_load(Path("pccp.yaml").read_text())
    subgroups = document["modification_protocol"]["performance_evaluation"]["subgroups"]
    subgroups["attributes"] = ["sex,scanner", "drain"]
    with pytest.raises(SettingsError, match="if a side table brings it, write own_attributes"):
        plans.parse(yaml.safe_dump(document).encode(), "plan")
    subgroups["own_attributes"] = ["scanner", "drain"]
    rules = plans.parse(yaml.safe_dump(document).encode(), "plan").performance.subgroups
    assert rules is not None
    assert rules.attributes == ("sex, scanner", "drain")
    subgroups["attributes"] = ["scaner"]
    with pytest.raises(SettingsError, match="did you mean 'scanner'"):
        plans.parse(yaml.safe_dump(document).encode(), "plan")
