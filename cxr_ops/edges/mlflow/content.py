"""What the MLflow run and the model version of a retraining say of it."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cxr_ops.audit.fit import Made
from cxr_ops.contract import DATASET, INPUTS, MODEL_NAME
from cxr_ops.edges import links
from cxr_ops.edges.home import Home
from cxr_ops.edges.mlflow.tracking import Dataset, RunContent
from cxr_ops.errors import DataError
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file
from cxr_ops.records.data import Batch
from cxr_ops.records.evidence import Estimate, Evaluation, Figure
from cxr_ops.records.run import Identifiers
from cxr_ops.records.verdict import Reason

# Files of the workspace that the MLflow run holds, in folders of the same names.
_ARTIFACTS: Final = (
    INPUTS,
    "params.yaml",
    "validate/validation.html",
    "validate/validation.json",
    "split/split.json",
    "train/history.csv",
    "train/train.json",
)
# What of them shows the test set; so do the pictures in `explain/`. `dvc.lock` has the sizes of the others, and a
# verdict with many reasons is a longer file.
_DISCLOSING: Final = (
    "evaluate/evaluation.json",
    "gate/verdict.json",
    "report/report.html",
    "report/report.json",
    "report/report.md",
    "dvc.lock",
)


def of_run(
    home: Home,
    root: Path,
    made: Made,
    identifiers: Identifiers,
    *,
    told: str,
    reasons: Sequence[Reason],
    withheld: bool,
) -> RunContent:
    """All that the MLflow run holds.

    Args:
        home: the installation.
        root: the run's workspace.
        made: what its stages made.
        identifiers: of the run, as far as they are known.
        told: the verdict, as far as people who tune may know it.
        reasons: of the verdict, as they may read them.
        withheld: whether what the test set shows is left out.

    Raises:
        DataError: a file of the workspace is missing.
    """
    inputs, evaluation = made.inputs, made.evaluation
    params = Params.load(root / "params.yaml").model_dump(mode="json", by_alias=True)
    files = [root / name for name in _ARTIFACTS] + [root / inputs.plan.path]
    metrics = {f"validation_auc/{role}": value for role, value in evaluation.validation_macro.items()}
    if not withheld:
        files += [*(root / name for name in _DISCLOSING), *sorted((root / "explain").glob("*.png"))]
        metrics |= _metrics(evaluation)
    return RunContent(
        run=identifiers.run,
        tags=tags(root, made, identifiers, told, withheld=withheld),
        params={f"{section}.{key}": str(value) for section, keys in params.items() for key, value in keys.items()},
        metrics=metrics,
        history=_history(root / "train" / "history.csv"),
        datasets=_datasets(home, root, made),
        artifacts=[(path.parent.relative_to(root).as_posix().strip("."), path) for path in files if path.is_file()],
        note=note(made, identifiers, told, reasons, links.of_run(home, identifiers, dirty=inputs.code.dirty)),
    )


def tags(root: Path, made: Made, identifiers: Identifiers, told: str, *, withheld: bool) -> dict[str, str]:
    """The tags of the MLflow run: the run's identifiers, and digests of all that the verdict rests on.

    While it is withheld, the verdict file's digest is left out: who knows all digests that a decision names needs only
    a few guesses to find the one whose entry in the ledger has the digest that is told.
    """
    inputs, verdict = made.inputs, made.verdict
    found = {
        **identifiers.tags(),
        "cxr.verdict": told,
        "cxr.plan": verdict.plan.name,
        "cxr.plan_sha256": verdict.plan.sha256,
        "cxr.clinical_use": str(verdict.clinical_use).lower(),
        "cxr.code_dirty": str(inputs.code.dirty).lower(),
        "cxr.inputs": sha256_file(root / INPUTS),
        "cxr.champion": verdict.champion.entry,
        "cxr.reference": inputs.reference and inputs.reference.package,
        "cxr.period": str(verdict.period),
        "cxr.test_digest": verdict.test_digest,
        "cxr.evaluation": sha256_file(root / "evaluate/evaluation.json"),
        "cxr.verdict_digest": None if withheld else sha256_file(root / "gate/verdict.json"),
        "cxr.report": sha256_file(root / "report/report.html"),
        "mlflow.source.name": "cxr-ops",
        "mlflow.source.git.commit": inputs.code.commit,
    }
    return {key: value for key, value in found.items() if value}


def of_version(run_tags: Mapping[str, str]) -> dict[str, str]:
    """The tags of the model version: those of its MLflow run that say what it is without looking there."""
    names = ("run", "verdict", "plan", "clinical_use", "data_revision", "code_commit", "report")
    return {f"cxr.{name}": run_tags[f"cxr.{name}"] for name in names}


def _metrics(evaluation: Evaluation) -> dict[str, float]:
    """AUC of each model and differences from champion and reference, with bounds; what is undefined is left out."""
    figures: dict[str, Figure | None] = {
        "auc/macro": evaluation.macro_challenger,
        "champion_auc/macro": evaluation.macro_champion,
        "difference/macro": evaluation.macro_difference,
        "reference_auc/macro": evaluation.macro_reference,
        "reference_difference/macro": evaluation.macro_reference_difference,
    }
    for row in evaluation.findings:
        figures |= {
            f"auc/{row.finding}": row.challenger,
            f"champion_auc/{row.finding}": row.champion,
            f"difference/{row.finding}": row.difference,
            f"reference_auc/{row.finding}": row.reference,
            f"reference_difference/{row.finding}": row.reference_difference,
        }
    metrics: dict[str, float] = {}
    for name, figure in figures.items():
        if isinstance(figure, Estimate):
            what, _, finding = name.partition("/")
            metrics[name] = figure.value
            metrics[f"{what}_low/{finding}"], metrics[f"{what}_high/{finding}"] = figure.ci
    return metrics


def _history(path: Path) -> list[tuple[int, dict[str, float]]]:
    if not path.is_file():
        raise DataError(f"{path.name} is missing", where=path, fix="run train again")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    history = []
    for row in rows:
        values = {key: float(value) for key, value in row.items() if key != "epoch" and value}
        history.append((int(row["epoch"]), {key: value for key, value in values.items() if math.isfinite(value)}))
    return history


def _datasets(home: Home, root: Path, made: Made) -> list[Dataset]:
    data, evaluation = made.inputs.data, made.evaluation
    found = []
    for name, digest in data.batches.items():
        batch = Batch.read(root / DATASET / name / "batch.json")
        found.append(
            Dataset(
                name=name,
                digest=digest,
                source=f"{home.store}@{data.revision}:{DATASET}/{name}.dvc",
                context="batch",
                profile={"images": batch.images, "patients": batch.patients},
            )
        )
    found.append(
        Dataset(
            name="test",
            digest=evaluation.test_digest,
            source=f"{home.store}@{data.revision}:{DATASET}",
            context="test",
            profile={"images": evaluation.test_images, "patients": evaluation.test_patients},
        )
    )
    return found


def note(
    made: Made, identifiers: Identifiers, told: str, reasons: Sequence[Reason], addresses: Mapping[str, str]
) -> str:
    """The description that MLflow shows beside the run, in Markdown; `addresses` are links by name (`edges.links`)."""
    inputs, verdict = made.inputs, made.verdict
    judged = {
        "plan": verdict.plan.name,
        "champion judged against": verdict.champion.version and f"{MODEL_NAME}/{verdict.champion.version}",
        "reference judged against": inputs.reference and f"{MODEL_NAME}/{inputs.reference.version}",
    }
    rows = identifiers.linked(addresses) | {name: f"`{value}`" for name, value in judged.items() if value}
    lines = [f"**{told}**" + ("" if verdict.clinical_use else ", not for clinical use"), ""]
    lines += [f"* {reason.sentence}" for reason in reasons]
    lines += ["", "| | |", "|-|-|", *(f"| {key} | {value} |" for key, value in rows.items())]
    lines += ["", f"The report is the artifact `report/published.html`. All: `cxr-ops lineage {identifiers.run}`."]
    return "\n".join(lines)
