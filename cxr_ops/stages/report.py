"""report: everything that the run found, on one page that an outsider can check, and the part that all may see.

Reads the outputs of all stages before it. Writes `report/report.html`, which holds everything, and
`report/summary.html`, which holds no result on the test set: it is what people who tune models see while the test
period is open. Beside each stands the same for machines (`.json`) and a short text for chats and pull requests (`.md`).
None holds a clock, host, path, run id or identifier of a patient or image. `publish` adds links, approvals and timings
around the pages.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import pandas as pd

from cxr_ops import contract
from cxr_ops.audit import facts
from cxr_ops.audit.fit import misfits, read_made
from cxr_ops.data import manifest, splits
from cxr_ops.errors import DataError
from cxr_ops.params import Params, Report
from cxr_ops.records.acceptance import ACCEPTANCE, Acceptance
from cxr_ops.records.base import sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.data import Division, Event
from cxr_ops.records.evidence import Estimate, Evaluation
from cxr_ops.records.explanation import Explanation
from cxr_ops.records.inputs import Inputs
from cxr_ops.records.report import Characteristics, Counted, Excluded, Flow, SettingChange
from cxr_ops.records.training import Trained
from cxr_ops.records.validation import Validated
from cxr_ops.records.verdict import Verdict
from cxr_ops.report import markdown, page, words
from cxr_ops.report.figures import MODELS, Floats, Model
from cxr_ops.stats.characteristics import describe

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

Shown = TypeVar("Shown")
_DOCUMENT: Final = "report/report.json"
_AGAIN: Final = "run the stages that are stale: dvc repro"


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
    material = read(root, params.report)
    whole, told = page.document(material), page.summary_document(material)
    document = whole.to_bytes()
    # The ledger names the digest of the page, and the page that of the document.
    own = page.Proof(what="This report for machines", digest=sha256_bytes(document), command=f"sha256sum {_DOCUMENT}")
    files = {
        "report.html": page.render(replace(material, proofs=[*material.proofs, own])).encode(),
        "report.json": document,
        "report.md": markdown.render(whole).encode(),
        "summary.html": page.render_summary(material).encode(),
        "summary.json": told.to_bytes(),
        "summary.md": markdown.render_summary(told).encode(),
    }
    out.mkdir(parents=True)
    for name, data in files.items():
        write_atomic(out / name, data)


def read(root: Path, settings: Report) -> page.Material:
    """Read what the page shows and check that it belongs together; see `run`."""
    explanation = Explanation.read(root / "explain" / "explain.json")
    made = read_made(root, explained=explanation.package)
    if wrong := misfits(made):
        raise DataError("; ".join(wrong), where=root, fix=_AGAIN)
    verdict, evaluation, inputs = made.verdict, made.evaluation, made.inputs
    split = Division.read(root / "split" / "split.json")
    validation = Validated.read(root / "validate" / "validation.json")
    training = Trained.read(root / "train" / "train.json")
    model = _json(root / "train" / contract.PACKAGE / "model.json")
    rows = manifest.read_split(root)
    missing: list[str] = []
    history = root / "train" / "history.csv"
    curves, pictures = root / "evaluate" / "roc.csv", _pictures(root / "explain", explanation)
    return page.Material(
        title=settings.title,
        verdict=verdict,
        evaluation=evaluation,
        inputs=inputs,
        batches=[
            page.BatchRow(name=name, images=len(part), patients=part["patient_id"].nunique(), digest=digest)
            for name, digest in sorted(inputs.data.batches.items())
            for part in [rows[rows["batch"] == name]]
        ],
        checks=[(check.says, check.outcome) for check in validation.checks],
        split=[
            page.SplitRow(name=name, images=side.images, patients=side.patients, positives=side.positives)
            for name, side in ((name, split.splits[name]) for name in ("train", "validation", "test", "retired"))
            if side.images  # nobody has retired in the first test period
        ],
        history=_shown(
            lambda: _history(history, training, model["training"]["settings"]["epochs"]), _no_history(training), missing
        ),
        training=words.facts(model["training"]),
        model=words.facts({name: value for name, value in model.items() if name != "training"}),
        curves=_shown(lambda: _curves(curves, evaluation), {}, missing),
        explanation=explanation,
        pictures=pictures,
        proofs=_proofs(root, verdict, evaluation, inputs),
        flow=flow(rows, manifest.read_withdrawn(root), sorted(inputs.data.batches)).model_copy(
            update=_shown(lambda: brought(root, inputs), {"unrecorded": sorted(inputs.data.batches)}, missing)
        ),
        characteristics=characteristics(rows),
        changes=changes(root, evaluation),
        prevalences=settings.prevalences,
        missing=missing,
    )


def _shown(read: Callable[[], Shown], instead: Shown, missing: list[str]) -> Shown:
    """What is only shown: where it is missing or damaged the page says so, and stands without it."""
    try:
        return read()
    except DataError as error:
        missing.append(f"{error.what}.")
        return instead


def flow(rows: pd.DataFrame, withdrawn: pd.DataFrame, batches: Sequence[str]) -> Flow:
    """Count how images come from batches to the sides of the split.

    Args:
        rows: `patient_id`, `batch`, `view` and `split` of each image of the data set.
        withdrawn: `patient_id` and `batch` of each image that was withdrawn from it.
        batches: names of all batches, in the order in which they are shown.
    """

    def counted(name: str, part: pd.DataFrame) -> Counted:
        return Counted(name=name, images=len(part), patients=int(part["patient_id"].nunique()))

    came = pd.concat([rows[["patient_id", "batch"]], withdrawn])
    aside = rows[rows["split"] == splits.NOT_FRONTAL]
    excluded = [counted("withdrawn after ingestion", withdrawn)] if len(withdrawn) else []
    excluded += [
        counted(f"view {view}" if view else "view not known", part)
        for view, part in ((str(view), part) for view, part in aside.groupby("view"))
    ]
    retired = rows[rows["split"] == splits.RETIRED]
    if len(retired):
        excluded.append(counted("tested in an earlier test period", retired))
    return Flow(
        batches=[counted(name, came[came["batch"] == name]) for name in batches],
        total=counted("all", came),
        excluded=[Excluded(reason=one.name, images=one.images, patients=one.patients) for one in excluded],
        sides=[counted(side, rows[rows["split"] == side]) for side in splits.SIDES],
    )


def brought(root: Path, inputs: Inputs) -> dict[str, Any]:
    """What ingestion left out, and what events corrected: `left_out`, `unrecorded` and `corrected` of a flow.

    Raises:
        DataError: a record in the data set is damaged.
    """
    dataset = root / contract.DATASET
    left_out: list[Excluded] = []
    unrecorded: list[str] = []
    for name in sorted(inputs.data.batches):
        record = dataset / name / ACCEPTANCE
        if not record.is_file():
            unrecorded.append(name)
        elif rows := Acceptance.read(record).quarantined:
            left_out.append(Excluded(reason=f"left out of {name} at ingestion", images=rows))
    left_out += [
        Excluded(reason=f"batch {name} was refused", images=rows) for name, rows in sorted(inputs.refused.items())
    ]
    corrected = {
        label.image_id
        for name in inputs.data.events
        if (record := dataset / name / "event.json").is_file()
        for label in Event.read(record).labels
    }
    return {"left_out": left_out, "unrecorded": unrecorded, "corrected": len(corrected)}


def characteristics(rows: pd.DataFrame) -> list[Characteristics]:
    """Describe the patients of train, validation and test.

    Args:
        rows: `patient_id`, `age`, `sex`, `view` and `split` of each image.
    """
    return [
        describe(
            side,
            part["patient_id"].tolist(),
            [None if missing else float(age) for age, missing in zip(part["age"], part["age"].isna(), strict=True)],
            part["sex"].tolist(),
            part["view"].tolist(),
        )
        for side in splits.SIDES
        for part in [rows[rows["split"] == side]]
    ]


def changes(root: Path, evaluation: Evaluation) -> list[SettingChange] | None:
    """Which settings the challenger was made with and the champion was not, by name.

    Args:
        root: the workspace, for what the champion's package says.
        evaluation: the evidence, for what the challenger's says.

    Returns:
        The settings that differ; None where there is no champion, or either does not say what it was made with.

    Raises:
        DataError: the champion's contract is missing or not JSON.
    """
    if evaluation.champion is None or evaluation.facts is None:
        return None
    document = _json(root / contract.CHAMPION / contract.PACKAGE / "model.json")
    try:
        before = facts.settings(document)
    except (KeyError, TypeError, ValueError, AttributeError):  # another version's contract: its champion still reigns
        return None
    return words.changed_settings(before, evaluation.facts.settings)


def _no_history(training: Trained) -> page.History:
    """The history of a training of which no curve can be shown."""
    return page.History(
        epochs=[],
        train_loss=[],
        validation_loss=[],
        validation_auc=[],
        kept=training.best_epoch,
        ended="The curves of the training cannot be shown.",
    )


def _history(path: Path, training: Trained, budget: int) -> page.History:
    rows = _rows(path)
    if len(rows) != training.epochs_run:
        raise DataError(f"history.csv holds {len(rows)} epochs of {training.epochs_run}", where=path, fix=_AGAIN)
    early = len(rows) < budget

    def column(name: str) -> list[float]:
        return [_number(path, row, name, empty=float("nan")) for row in rows]

    return page.History(
        epochs=[int(_number(path, row, "epoch")) for row in rows],
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


def _curves(path: Path, evaluation: Evaluation) -> page.Curves:
    points: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(path):
        place = _number(path, row, "fpr"), _number(path, row, "tpr")
        points[str(row.get("model"))][str(row.get("finding"))].append(place)
    curves: dict[Model, dict[str, tuple[Floats, Floats]]] = {}
    for model in MODELS:
        arrays = {finding: np.array(pairs, dtype=np.float64) for finding, pairs in points[model].items()}
        curves[model] = {finding: (array[:, 0], array[:, 1]) for finding, array in arrays.items()}
    for one in evaluation.findings:
        if isinstance(one.challenger, Estimate) and points["challenger"][one.finding][-1:] != [(1.0, 1.0)]:
            raise DataError(f"roc.csv holds no whole curve of {one.finding}", where=path, fix=_AGAIN)
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
    proofs += [
        file(f"Event {name}", f"{contract.DATASET}/{name}/event.json", digest)
        for name, digest in sorted(inputs.data.events.items())
    ]
    return proofs


def _pictures(folder: Path, explanation: Explanation) -> dict[str, bytes]:
    """The pictures of the cases that are there, by name; the page says which are not."""
    paths = {case.picture: folder / case.picture for case in explanation.cases}
    return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def _number(path: Path, row: dict[str, str], name: str, *, empty: float | None = None) -> float:
    text = row.get(name)
    if text == "" and empty is not None:
        return empty
    try:
        return float(text or "")
    except ValueError as error:
        raise DataError(f"{path.name} holds {text!r} as {name}", where=path, fix=_AGAIN) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", where=path, fix=_AGAIN) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name} is not JSON: {error}", where=path, fix=_AGAIN) from error
    return document


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path.name} is damaged", where=path, fix=_AGAIN) from error
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", where=path, fix=_AGAIN) from error
