"""The three plans that ship, and what is said of a plan that is wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from cxr_ops import plan as plans
from cxr_ops.errors import SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.records import sha256_bytes

SHIPPED = ("pccp.yaml", "pccp.demo.yaml", "pccp.nih-sample-demo.yaml")


@pytest.fixture
def document(project: Path) -> dict:
    """The production template, parsed, to be broken."""
    return yaml.safe_load((project / "pccp.yaml").read_text(encoding="utf-8"))


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


@pytest.mark.parametrize("name", ["pccp.demo.yaml", "pccp.nih-sample-demo.yaml"])
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


def test_an_unknown_key_names_the_nearest(document):
    """A misspelt key is refused with its place and the key that was meant."""
    rules = document["modification_protocol"]["performance_evaluation"]
    rules["max_look"] = rules.pop("max_looks")
    refusal = _refusal(document)
    assert "performance_evaluation.max_look is not a setting; did you mean 'max_looks'?" in refusal
    assert "performance_evaluation.max_looks: Field required" in refusal


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
