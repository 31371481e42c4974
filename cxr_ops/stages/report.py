"""report: everything that the run found, on one page that an outsider can check, and the part that all may see.

Reads the outputs of all stages before it. Writes `report/report.html`, which holds everything, and
`report/summary.html`, which holds no result on the test set: it is what people who tune models see while the test
period is open. Neither holds a clock, host, path, run id or identifier of a patient or image. `publish` adds links,
approvals and timings around them.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from cxr_ops import contract
from cxr_ops.audit.fit import misfits, read_made
from cxr_ops.errors import DataError
from cxr_ops.params import Params
from cxr_ops.records.base import sha256_file, write_atomic
from cxr_ops.records.data import Division
from cxr_ops.records.evidence import Evaluation
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.training import Trained
from cxr_ops.records.validation import Validated
from cxr_ops.records.verdict import Verdict
from cxr_ops.report import page, words
from cxr_ops.report.figures import MODELS, Floats, Model

# What prints the digest of a package in a checkout, with nothing but Python's standard library.
_PACKAGE_COMMAND: Final = """\
python3 -c 'import hashlib, json, pathlib
sha256 = lambda data: hashlib.sha256(data).hexdigest()
files = {file.name: sha256(file.read_bytes()) for file in pathlib.Path("{folder}").iterdir()}
print(sha256((json.dumps(files, indent=2, sort_keys=True) + "\\n").encode()))'"""
# The same for the test set: image id, SHA-256 of the image and labels of each of its rows.
_TEST_SET_COMMAND: Final = """\
python3 -c 'import csv, hashlib, json
side = {row["image_id"]: row["split"] for row in csv.DictReader(open("split/split.csv"))}
rows = [list(row.values()) for row in csv.DictReader(open("validate/manifest.csv"))]
name = {"": "-", "-1": "?"}
rows = [[row[0], row[2], "".join(name.get(v, v) for v in row[10:])] for row in rows if side[row[0]] == "test"]
rows.sort()
print(hashlib.sha256((json.dumps(rows, indent=2, ensure_ascii=False) + "\\n").encode()).hexdigest())'"""


def run(root: Path, params: Params) -> None:
    """Write the report and its summary.

    Args:
        root: the workspace.
        params: `report` is used.

    Raises:
        DataError: an earlier stage has not run, or the files are not of one run: the verdict names other evidence or
            inputs, or the evidence another model, than those that are here.
    """
    out = root / "report"
    shutil.rmtree(out, ignore_errors=True)
    material = read(root, params.report.title)
    pages = {"report.html": page.render(material), "summary.html": page.render_summary(material)}
    out.mkdir(parents=True)
    for name, html in pages.items():
        write_atomic(out / name, html.encode())


def read(root: Path, title: str) -> page.Material:
    """Read what the page shows and check that it belongs together; see `run`."""
    explanation = Explanation.read(root / "explain" / "explain.json")
    made = read_made(root, explained=explanation.package)
    if wrong := misfits(made):
        raise DataError("; ".join(wrong), where=root, fix="run the stages that are stale: dvc repro")
    verdict, evaluation, inputs = made.verdict, made.evaluation, made.inputs
    split = Division.read(root / "split" / "split.json")
    validation = Validated.read(root / "validate" / "validation.json")
    training = Trained.read(root / "train" / "train.json")
    model = _json(root / "train" / contract.PACKAGE / "model.json")
    sizes = {group.name: group for group in validation.groups if group.kind == "batch"}
    return page.Material(
        title=title,
        verdict=verdict,
        evaluation=evaluation,
        inputs=inputs,
        batches=[
            page.BatchRow(name=name, images=sizes[name].images, patients=sizes[name].patients, digest=digest)
            for name, digest in sorted(inputs.data.batches.items())
        ],
        checks=[(check.says, check.outcome) for check in validation.checks],
        split=[
            page.SplitRow(name=name, images=side.images, patients=side.patients, positives=side.positives)
            for name, side in ((name, split.splits[name]) for name in ("train", "validation", "test", "retired"))
            if side.images  # nobody has retired in the first test period
        ],
        history=_history(root / "train" / "history.csv", training, model["training"]["settings"]["epochs"]),
        training=words.facts(model["training"]),
        model=words.facts({name: value for name, value in model.items() if name != "training"}),
        curves=_curves(root / "evaluate" / "roc.csv"),
        explanation=explanation,
        pictures={case.picture: _picture(root / "explain" / case.picture) for case in explanation.cases},
        proofs=_proofs(root, verdict, evaluation, inputs),
    )


def _history(path: Path, training: Trained, budget: int) -> page.History:
    rows = _rows(path)
    early = len(rows) < budget

    def column(name: str) -> list[float]:
        return [float(row[name] or "nan") for row in rows]

    return page.History(
        epochs=[int(row["epoch"]) for row in rows],
        train_loss=column("train_loss"),
        validation_loss=column("validation_loss"),
        validation_auc=column("validation_auc"),
        kept=training.best_epoch,
        ended=(
            f"Training stopped early, after {len(rows)} of at most {budget} epochs."
            if early
            else f"Training ran for all its {budget} epochs."
        ),
    )


def _curves(path: Path) -> page.Curves:
    points: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(path):
        points[row["model"]][row["finding"]].append((float(row["fpr"]), float(row["tpr"])))
    curves: dict[Model, dict[str, tuple[Floats, Floats]]] = {}
    for model in MODELS:
        arrays = {finding: np.array(pairs, dtype=np.float64) for finding, pairs in points[model].items()}
        curves[model] = {finding: (array[:, 0], array[:, 1]) for finding, array in arrays.items()}
    return curves


def _proofs(root: Path, verdict: Verdict, evaluation: Evaluation, inputs: Inputs) -> list[page.Proof]:
    def file(what: str, name: str, digest: str | None = None) -> page.Proof:
        return page.Proof(what=what, digest=digest or sha256_file(root / name), command=f"sha256sum {name}")

    def package(what: str, folder: str, digest: str) -> page.Proof:
        return page.Proof(what=what, digest=digest, command=_PACKAGE_COMMAND.replace("{folder}", folder))

    proofs = [
        file("Verdict", "gate/verdict.json"),
        file("Evidence", "evaluate/evaluation.json", verdict.evaluation),
        file("Scores of every test image", "evaluate/scores.csv"),
        file("Inputs of the run", contract.INPUTS, verdict.inputs),
        file(f"Plan {verdict.plan.name}", verdict.plan.path, verdict.plan.sha256),
        package("Challenger's package", f"train/{contract.PACKAGE}", evaluation.challenger),
    ]
    if evaluation.champion is not None:
        proofs.append(package("Champion's package", f"{contract.CHAMPION}/{contract.PACKAGE}", evaluation.champion))
    if verdict.reference is not None and verdict.reference.package != evaluation.champion:
        proofs.append(
            package("Reference's package", f"{contract.REFERENCE}/{contract.PACKAGE}", verdict.reference.package)
        )
    proofs.append(page.Proof(what="Test set", digest=evaluation.test_digest, command=_TEST_SET_COMMAND))
    proofs += [
        file(f"Batch {name}", f"{contract.DATASET}/{name}/batch.json", digest)
        for name, digest in sorted(inputs.data.batches.items())
    ]
    return proofs


def _picture(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise DataError("a heat map is missing", where=path, fix="run the stages that are stale: dvc repro") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", where=path, fix="run the stages before: dvc repro") from error
    except json.JSONDecodeError as error:
        raise DataError(f"{path.name} is not JSON: {error}", where=path) from error
    return document


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", where=path, fix="run the stages before: dvc repro") from error
