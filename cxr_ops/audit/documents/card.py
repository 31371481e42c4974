"""The card of a model, under the names of the Applied Model Card of the Coalition for Health AI (schema v0.2)."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

from cxr_ops import plan as plans
from cxr_ops.audit.documents.said import BLANK, architecture, intended_use, limitations, picture
from cxr_ops.audit.material import Material
from cxr_ops.contract import MODEL_NAME
from cxr_ops.records.evidence import Estimate, Evaluation, Figure

_NAMESPACE: Final = "https://mc.chai.org/v0.2/schema.xsd"


def applied(material: Material) -> dict[str, Any]:
    """The card under the names, and in the order, of the schema of the Coalition for Health AI."""
    decision, evaluation, plan = material.decision, material.evaluation, material.plan
    impact = plan.impact_assessment
    stage = "promoted by the gate" if material.promotion else "not promoted"
    use = "for clinical use by its plan" if plan.clinical_use else "not for clinical use"
    seen = material.trained
    return {
        "BasicInfo": {"ModelName": MODEL_NAME, "ModelDeveloper": BLANK, "DeveloperContact": BLANK},
        "ReleaseInfo": {
            "ReleaseStage": f"{stage}; {use}",
            "ReleaseDate": material.promotion.at[:10] if material.promotion else "none: the model was not promoted",
            "ReleaseVersion": str(decision.model_version),
            "GlobalAvailability": BLANK,
            "RegulatoryApproval": BLANK,
        },
        "ModelSummary": {
            "Summary": f"{intended_use(material)} {plan.notice}",
            "Keywords": {"Keyword": ["chest radiograph", *(row.finding for row in evaluation.findings)]},
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": f"{intended_use(material)} Its place in the workflow: {BLANK}",
            "PrimaryIntendedUsers": BLANK,
            "HowToUse": BLANK,
            "TargetedPatientPopulation": BLANK,
            "CautionedOutOfScopeSettings": BLANK,
        },
        "Warnings": {
            "KnownRisksAndLimitations": "\n".join(
                [*limitations(material)[:-1], *(f"{one.risk} Mitigation: {one.mitigation}" for one in impact.risks)]
            ),
            "KnownBiasesOrEthicalConsiderations": BLANK,
            "ClinicalRiskLevel": BLANK,
        },
        "TrustIngredients": {
            "AISystemFacts": {
                "OutcomesAndOutputs": f"A probability of each of {len(evaluation.findings)} findings; no decision.",
                "ModelType": architecture(material),
                "FoundationModels": _start(evaluation),
                "InputDataSource": ", ".join(evaluation.facts.sources) if evaluation.facts else BLANK,
                "OutputAndInputDataTypes": f"In: {picture(material)}. Out: numbers between 0 and 1.",
                "DevelopmentDataCharacterization": (
                    f"{seen.train_images} images for training and {seen.validation_images} for validation, of "
                    f"{seen.patients} patients. {_groups(material)}"
                ).strip(),
                "BiasMitigationApproaches": _subgroup_rule(plan),
                "OngoingMaintenance": plan.modification_protocol.update_procedures.monitoring.summary,
                "Security": f"Package sha256 {decision.package}; whole directory {decision.directory or 'not signed'}.",
                "Transparency": f"Decision {material.entry.digest()}; plan {plan.name}, {decision.plan_sha256}.",
            },
            "TransparencyInformation": {"FundingSource": BLANK, "StakeholdersConsulted": BLANK},
        },
        "KeyMetrics": {
            "UsefulnessUsabilityEfficacy": _key(material, "Discrimination of findings", _whole(evaluation)),
            "FairnessEquity": _key(material, "No subgroup loses more than the plan allows", _by_group(evaluation)),
            "SafetyReliability": _key(
                material, "Calibrated probabilities and stable operating points", _safety(evaluation)
            ),
        },
        "Resources": {
            "EvaluationReferences": f"Report sha256 {decision.report}.",
            "PeerReviewedPublications": BLANK,
            "PatientConsentOrDisclosure": BLANK,
        },
        "Bibliography": BLANK,
    }


def _start(evaluation: Evaluation) -> str:
    if evaluation.facts is None:
        return BLANK
    weights = evaluation.facts.starting_weights
    data = f", trained on {', '.join(weights.training_data)}" if weights.training_data else ""
    return f"Training started from: {weights.start}{data}."


def _groups(material: Material) -> str:
    """Images and patients of all the data by view and sex, as `validate` counted them."""
    if material.validated is None:
        return ""
    shown = [one for one in material.validated.groups if one.kind in ("view", "sex")]
    parts = [f"{one.kind} {one.name or 'unknown'}: {one.images} images of {one.patients} patients" for one in shown]
    return f"All data, {'; '.join(parts)}." if parts else ""


def _subgroup_rule(plan: plans.ChangePlan) -> str:
    groups = plan.performance.subgroups
    if groups is None:
        return "The plan asks nothing of subgroups."
    return f"Margins are checked in subgroups by {'; '.join(groups.attributes)}. What else was done: {BLANK}"


def _key(material: Material, goal: str, results: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    evaluation, decision = material.evaluation, material.decision
    return {
        "MetricGoal": f"{goal}, by the plan {material.plan.name}.",
        "Results": {
            "MetricResult": [{"Label": name, "ValueJson": json.dumps(value, sort_keys=True)} for name, value in results]
            or [{"Label": "none", "ValueJson": "null"}]
        },
        "Interpretation": f"The gate decided {decision.verdict}. What it means for patients: {BLANK}",
        "TestType": "Retrospective, on a locked test set that is split off by patient.",
        "TestingDataDescription": (
            f"{evaluation.test_images} images of {evaluation.test_patients} patients, test period {decision.period}, "
            f"digest {decision.test_digest}."
        ),
        "ValidationProcessAndJustification": (
            "Intervals are clustered by patient; thresholds and calibration are chosen on a validation set of other "
            f"patients. Whether this test set stands for the place of use: {BLANK}"
        ),
    }


def _told(figure: Figure | None) -> dict[str, Any] | None:
    if isinstance(figure, Estimate):
        low, high = figure.ci
        return {"value": round(figure.value, 4), "low": round(low, 4), "high": round(high, 4), "level": figure.level}
    return None if figure is None else {"undefined": figure.reason}


def _whole(evaluation: Evaluation) -> list[tuple[str, Any]]:
    return [
        ("AUC, mean of the judged findings", _told(evaluation.macro_challenger)),
        *((f"AUC, {row.finding}", _told(row.challenger)) for row in evaluation.findings),
    ]


def _by_group(evaluation: Evaluation) -> list[tuple[str, Any]]:
    return [(f"AUC, mean, {group.name}", _told(group.macro_challenger)) for group in evaluation.subgroups]


def _safety(evaluation: Evaluation) -> list[tuple[str, Any]]:
    kinds = ("sensitivity", "specificity", "brier", "slope")
    return [
        (f"{kind}, {row.finding}", _told(getattr(row, kind).challenger))
        for row in evaluation.performance
        if row.finding in evaluation.macro_over
        for kind in kinds
    ]


def as_markdown(material: Material, card: Mapping[str, Any]) -> str:
    """The card for people: a heading a part, a paragraph an element."""
    lines = [f"# Model card: {MODEL_NAME}, version {material.decision.model_version}", ""]
    lines += [f"> {material.plan.notice}", "", f"Made from the records of the run `{material.decision.run}`."]
    lines += [f"What only a person can say stands as `{BLANK}`.", ""]
    for name, value in card.items():
        lines += [f"## {_words(name)}", ""]
        lines += [*_told_in_markdown(value, 3)] if isinstance(value, Mapping) else [str(value), ""]
    return "\n".join(lines).rstrip() + "\n"


def _told_in_markdown(part: Mapping[str, Any], depth: int) -> list[str]:
    lines: list[str] = []
    for name, value in part.items():
        if name == "Results":
            rows = [(one["Label"], json.loads(one["ValueJson"])) for one in value["MetricResult"]]
            lines += ["| | value | interval |", "|---|---|---|", *(_row(*row) for row in rows), ""]
        elif name == "Keywords":
            lines += [f"**{_words(name)}**: {', '.join(value['Keyword'])}", ""]
        elif isinstance(value, Mapping):
            lines += [f"{'#' * depth} {_words(name)}", "", *_told_in_markdown(value, depth + 1)]
        else:
            lines += [f"**{_words(name)}**: {str(value).replace(chr(10), '  ' + chr(10))}", ""]
    return lines


def _row(name: str, value: Any) -> str:
    if not isinstance(value, dict) or "undefined" in value:
        return f"| {name} | {'none' if not isinstance(value, dict) else value['undefined']} | |"
    return f"| {name} | {value['value']:.3f} | {value['low']:.3f} to {value['high']:.3f} |"


def _words(name: str) -> str:
    """The name of an element in words.

    >>> _words("KnownRisksAndLimitations"), _words("AISystemFacts")
    ('Known risks and limitations', 'AI system facts')
    """
    parts = re.findall(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+", name)
    return " ".join([parts[0], *(part if part.isupper() else part.lower() for part in parts[1:])])


def as_xml(card: Mapping[str, Any]) -> str:
    """The card in the form of its schema."""

    def element(name: str, value: Any, depth: int) -> str:
        pad = "  " * depth
        if isinstance(value, list):
            return "".join(element(name, one, depth) for one in value)
        if isinstance(value, Mapping):
            inside = "".join(element(key, one, depth + 1) for key, one in value.items())
            return f"{pad}<{name}>\n{inside}{pad}</{name}>\n"
        return f"{pad}<{name}>{escape(str(value))}</{name}>\n"

    inside = "".join(element(name, value, 1) for name, value in card.items())
    head = f'<?xml version="1.0" encoding="UTF-8"?>\n<AppliedModelCard xmlns="{_NAMESPACE}">\n'
    return f"{head}{inside}</AppliedModelCard>\n"
