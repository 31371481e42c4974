"""Papers about a model, made from the records of its run: bill of materials, model card, list of software.

    sbom.cdx.json      CycloneDX 1.6: the model with its card, the data sets and the packages that it was made with
    model-card.md      for people
    model-card.json    the same under the names of the Applied Model Card of the Coalition for Health AI (schema v0.2)
    model-card.xml     the same as XML, which is the form of that schema
    software.csv       the software of unknown provenance, as IEC 62304 asks for it, a row each

What only a person can say is a blank that is marked (`BLANK`), and never a guess. The same records give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar
from xml.sax.saxutils import escape

from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName
from pydantic import ValidationError

from cxr_ops import plan as plans
from cxr_ops.audit.entries import Entry
from cxr_ops.audit.state import find_decision, find_promotion
from cxr_ops.contract import INPUTS, MODEL_NAME
from cxr_ops.errors import DataError
from cxr_ops.records.base import Record, canonical_json
from cxr_ops.records.data import Batch, data_notice
from cxr_ops.records.evidence import Estimate, Evaluation, Figure
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.training import Trained
from cxr_ops.records.validation import Validated
from cxr_ops.records.verdict import Verdict

FOLDER: Final = "documents/"
FORM: Final = (
    1  # rises with every change of what `make` writes: a bundle's papers are made again by the same form alone
)
BLANK: Final = "[TO BE FILLED IN BY A PERSON]"
LOCKED: Final = "run/requirements/image.lock"
_MODEL: Final = "model"
_PINNED: Final = re.compile(
    r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([A-Za-z0-9][A-Za-z0-9.!+_-]*)[ \t]*(?:;[ \t]*([^\\\n]*?))?[ \t]*(?:\\.*)?$",
    re.MULTILINE,
)
# Whoever makes the papers again may do so on another machine: conditions are those of the image that runs stages.
_IMAGE: Final = {
    "implementation_name": "cpython",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "platform_system": "Linux",
    "python_full_version": "3.11.0",
    "python_version": "3.11",
    "sys_platform": "linux",
}
_NAMESPACE: Final = "https://mc.chai.org/v0.2/schema.xsd"
# The columns that 5.3.3, 5.3.4, 7.1.3 and 8.1.2 of IEC 62304 ask for of each item of unknown provenance.
_COLUMNS: Final = (
    "title",
    "version",
    "manufacturer",
    "purpose",
    "functional and performance requirements",
    "hardware and software it needs",
    "known anomalies evaluated",
    "safety class",
)

R = TypeVar("R", bound=Record)


@dataclass(frozen=True, kw_only=True)
class Material:
    """The records of a run that the papers are made from; `terms` is `model.json` of its package, {} where unknown."""

    entry: Entry
    promotion: Entry | None
    verdict: Verdict
    evaluation: Evaluation
    inputs: Inputs
    plan: plans.ChangePlan
    trained: Trained
    validated: Validated | None
    batches: Mapping[str, Batch]
    terms: Mapping[str, Any]
    packages: Sequence[tuple[str, str]]


def read(files: Mapping[str, bytes], entries: list[Entry], run: str) -> Material:
    """Read the records from the files of a bundle.

    Args:
        files: by their names in a bundle.
        entries: the ledger.
        run: that the bundle is about.

    Raises:
        DataError: one is missing or damaged.
    """
    entry = find_decision(entries, run)
    if entry is None:
        raise DataError(f"the ledger holds no decision on {run}")
    inputs = _record(Inputs, files, f"run/{INPUTS}")
    batches = {name: _record(Batch, files, name) for name in sorted(files) if name.startswith("data/")}
    try:
        terms = json.loads(files.get("model/model.json", b"{}"))
    except ValueError as error:
        raise DataError("model/model.json is not JSON") from error
    validated = "run/validate/validation.json"
    return Material(
        entry=entry,
        promotion=find_promotion(entries, run),
        verdict=_record(Verdict, files, "run/gate/verdict.json"),
        evaluation=_record(Evaluation, files, "run/evaluate/evaluation.json"),
        inputs=inputs,
        plan=plans.parse(files.get(f"run/{inputs.plan.path}", b""), inputs.plan.path),
        trained=_record(Trained, files, "run/train/train.json"),
        validated=_record(Validated, files, validated) if validated in files else None,
        batches={batch.name: batch for batch in batches.values()},
        terms=terms if isinstance(terms, dict) else {},
        packages=pinned(files.get(LOCKED, b"")),
    )


def pinned(lock: bytes) -> list[tuple[str, str]]:
    r"""Name and version of each package of a lock file, in the order of their names, as the image has them.

    >>> pinned(b"torch==2.13.0 ; sys_platform == 'linux' \\\n    --hash=sha256:00\npywin32==3 ; os_name == 'nt'\n")
    [('torch', '2.13.0')]
    """
    found = _PINNED.findall(lock.decode(errors="replace"))
    return sorted({(name, version) for name, version, marker in found if _holds(marker)})


def _holds(marker: str) -> bool:
    """Whether a package is installed in the image; one whose condition is not understood is listed."""
    try:
        return not marker or Marker(marker).evaluate(_IMAGE)
    except (InvalidMarker, UndefinedComparison, UndefinedEnvironmentName):
        return True


def make(material: Material) -> dict[str, bytes]:
    """All papers, by their names in a bundle."""
    card = _card(material)
    makers: dict[str, Callable[[], bytes]] = {
        "sbom.cdx.json": lambda: canonical_json(bill_of_materials(material)),
        "model-card.md": lambda: _markdown(material, card).encode(),
        "model-card.json": lambda: canonical_json({"AppliedModelCard": card}),
        "model-card.xml": lambda: _xml(card).encode(),
        "software.csv": lambda: _software(material).encode(),
    }
    return {f"{FOLDER}{name}": made() for name, made in makers.items()}


def _record(kind: type[R], files: Mapping[str, bytes], name: str) -> R:
    try:
        return kind.model_validate_json(files[name])
    except KeyError as error:
        raise DataError(f"{name} is missing") from error
    except ValidationError as error:
        raise DataError(f"{name} is no {kind.__name__}: {error.errors()[0]['msg']}") from error


# ------------------------------------------------------------------------------------------------ bill of materials


def bill_of_materials(material: Material) -> dict[str, Any]:
    """The bill of materials, as CycloneDX 1.6 has it: model, data sets, packages."""
    decision = material.entry.decision
    data = [_data_set(material, name) for name in sorted(material.inputs.data.batches)]
    libraries = [
        {
            "type": "library",
            "bom-ref": f"pkg:pypi/{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{name}@{version}",
        }
        for name, version in material.packages
    ]
    own: dict[str, Any] = {
        "type": "application",
        "bom-ref": "cxr-ops",
        "name": "cxr-ops",
        "version": decision.code_commit,
        "description": "The code that trained and judged the model, by its commit"
        + (" (a snapshot with changes that were not committed)." if decision.code_dirty else "."),
    }
    if decision.image:
        own["properties"] = [{"name": "cxr-ops:image", "value": decision.image}]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, material.entry.digest())}",
        "version": 1,
        "metadata": {
            "timestamp": material.entry.at,
            "tools": {"components": [{"type": "application", "name": "cxr-ops", "version": f"documents {FORM}"}]},
            "component": _model(material),
        },
        "components": [own, *data, *libraries],
        "dependencies": [
            {"ref": _MODEL, "dependsOn": ["cxr-ops", *(one["bom-ref"] for one in data)]},
            {"ref": "cxr-ops", "dependsOn": [one["bom-ref"] for one in libraries]},
        ],
    }


def _model(material: Material) -> dict[str, Any]:
    decision, evaluation = material.entry.decision, material.evaluation
    return {
        "type": "machine-learning-model",
        "bom-ref": _MODEL,
        "name": MODEL_NAME,
        "version": decision.model_version,
        "description": f"{material.plan.notice} Verdict of the gate: {decision.verdict}.",
        "hashes": [{"alg": "SHA-256", "content": decision.package}],
        "modelCard": {
            "modelParameters": {
                "approach": {"type": "supervised"},
                "task": "multi-label classification",
                "architectureFamily": "convolutional neural network",
                "modelArchitecture": evaluation.facts.architecture if evaluation.facts else BLANK,
                "datasets": [{"ref": _ref(name)} for name in sorted(material.inputs.data.batches)],
                "inputs": [{"format": _input(material)}],
                "outputs": [{"format": f"probability of each of {len(evaluation.findings)} findings, 0 to 1"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": [_metric(*one) for one in _aucs(evaluation)]},
            "considerations": {
                "users": [BLANK],
                "useCases": [str(material.terms.get("intended_use", BLANK))],
                "technicalLimitations": _limitations(material),
            },
        },
        "properties": [
            {"name": f"cxr-ops:{name}", "value": value}
            for name, value in sorted(decision.identifiers.model_dump().items())
            if value is not None and name not in ("image", "mlflow_run_id", "airflow_run_id")
        ],
    }


def _metric(name: str, figure: Estimate) -> dict[str, Any]:
    low, high = figure.ci
    return {
        "type": "AUC",
        "slice": name,
        "value": f"{figure.value:.4f}",
        "confidenceInterval": {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"},
    }


def _aucs(evaluation: Evaluation) -> list[tuple[str, Estimate]]:
    rows: list[tuple[str, Figure]] = [("mean of the judged findings", evaluation.macro_challenger)]
    rows += [(row.finding, row.challenger) for row in evaluation.findings]
    for group in evaluation.subgroups:
        rows.append((f"mean, {group.name}", group.macro_challenger))
    return [(name, figure) for name, figure in rows if isinstance(figure, Estimate)]


def _ref(batch: str) -> str:
    return f"data/{batch}"


def _data_set(material: Material, name: str) -> dict[str, Any]:
    batch = material.batches.get(name)
    found: dict[str, Any] = {
        "type": "data",
        "bom-ref": _ref(name),
        "name": name,
        "hashes": [{"alg": "SHA-256", "content": material.inputs.data.batches[name]}],
        "data": [{"type": "dataset", "name": name, "sensitiveData": ["chest radiographs of patients"]}],
    }
    if batch is not None:
        found["description"] = f"{batch.images} images of {batch.patients} patients, from {batch.source}."
        if notice := data_notice([batch.source], [name]):
            found["description"] += f" {notice}"
            found["data"] = [{"type": "dataset", "name": name}]
    return found


def _input(material: Material) -> str:
    terms = material.terms.get("input")
    side = terms.get("image_size") if isinstance(terms, dict) else None
    return "grey chest radiograph, frontal" + (f", brought to {side} x {side} pixels" if side else "")


def _limitations(material: Material) -> list[str]:
    evaluation = material.evaluation
    judged = set(evaluation.macro_over)
    unjudged = [row.finding for row in evaluation.findings if row.finding not in judged]
    found = [material.plan.notice]
    if unjudged:
        found.append(f"Not judged, for want of patients or scores: {', '.join(unjudged)}.")
    found += list(evaluation.missing_groups)
    found += [sentence for _, sentence in evaluation.problems]
    return [*found, BLANK]


# ------------------------------------------------------------------------------------------------------ model card


def _card(material: Material) -> dict[str, Any]:
    """The card under the names, and in the order, of the schema of the Coalition for Health AI."""
    decision, evaluation, plan = material.entry.decision, material.evaluation, material.plan
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
            "Summary": f"{_use(material)} {plan.notice}",
            "Keywords": {"Keyword": ["chest radiograph", *(row.finding for row in evaluation.findings)]},
        },
        "UsesAndDirections": {
            "IntendedUseAndWorkflow": f"{_use(material)} Its place in the workflow: {BLANK}",
            "PrimaryIntendedUsers": BLANK,
            "HowToUse": BLANK,
            "TargetedPatientPopulation": BLANK,
            "CautionedOutOfScopeSettings": BLANK,
        },
        "Warnings": {
            "KnownRisksAndLimitations": "\n".join(
                [*_limitations(material)[:-1], *(f"{one.risk} Mitigation: {one.mitigation}" for one in impact.risks)]
            ),
            "KnownBiasesOrEthicalConsiderations": BLANK,
            "ClinicalRiskLevel": BLANK,
        },
        "TrustIngredients": {
            "AISystemFacts": {
                "OutcomesAndOutputs": f"A probability of each of {len(evaluation.findings)} findings; no decision.",
                "ModelType": evaluation.facts.architecture if evaluation.facts else BLANK,
                "FoundationModels": _start(evaluation),
                "InputDataSource": ", ".join(evaluation.facts.sources) if evaluation.facts else BLANK,
                "OutputAndInputDataTypes": f"In: {_input(material)}. Out: numbers between 0 and 1.",
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


def _use(material: Material) -> str:
    return str(material.terms.get("intended_use", BLANK))


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
    evaluation, decision = material.evaluation, material.entry.decision
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


def _markdown(material: Material, card: Mapping[str, Any]) -> str:
    """The card for people: a heading a part, a paragraph an element."""
    lines = [f"# Model card: {MODEL_NAME}, version {material.entry.decision.model_version}", ""]
    lines += [f"> {material.plan.notice}", "", f"Made from the records of the run `{material.entry.decision.run}`."]
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


def _xml(card: Mapping[str, Any]) -> str:
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


# ------------------------------------------------------------------------------------------------ list of software


def _software(material: Material) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_COLUMNS)
    blanks = [BLANK] * (len(_COLUMNS) - 2)
    writer.writerow(["cxr-ops", material.entry.decision.code_commit, *blanks])
    for name, version in material.packages:
        writer.writerow([name, version, *blanks])
    return out.getvalue()
