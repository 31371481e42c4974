"""The bill of materials of a model, as CycloneDX 1.6 has it."""

from __future__ import annotations

import uuid
from typing import Any, Final

from cxr_ops.audit.documents.said import BLANK, FORM, architecture, intended_use, limitations, picture
from cxr_ops.audit.material import Material
from cxr_ops.contract import MODEL_NAME
from cxr_ops.records.data import data_notice
from cxr_ops.records.evidence import Estimate, Evaluation, Figure

_MODEL: Final = "model"


def of_materials(material: Material) -> dict[str, Any]:
    """The bill of materials, as CycloneDX 1.6 has it: model, data sets, packages."""
    decision = material.decision
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
    decision, evaluation = material.decision, material.evaluation
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
                "modelArchitecture": architecture(material),
                "datasets": [{"ref": _ref(name)} for name in sorted(material.inputs.data.batches)],
                "inputs": [{"format": picture(material)}],
                "outputs": [{"format": f"probability of each of {len(evaluation.findings)} findings, 0 to 1"}],
            },
            "quantitativeAnalysis": {"performanceMetrics": [_metric(*one) for one in _aucs(evaluation)]},
            "considerations": {
                "users": [BLANK],
                "useCases": [intended_use(material)],
                "technicalLimitations": limitations(material),
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
