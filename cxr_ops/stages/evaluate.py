"""evaluate: score challenger and champion on the same locked test set, and compare their AUCs.

Reads `inputs.json`, `champion/`, `validate/manifest.csv`, `split/`, the shards of `dataset/`, `train/package` and the
plan. Writes `evaluate/evaluation.json` (the evidence), `scores.csv` (one row a test image), `metrics.json` (for `dvc
metrics`) and `roc.csv` (for `dvc plots`).

Both models are scored here, from source pixels, each through the code in its own package. Every image is decoded once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ops import contract
from cxr_ops import plan as plans
from cxr_ops.data import isolate, manifest, splits
from cxr_ops.data.decode import decode_grey
from cxr_ops.data.shards import ShardReader
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params
from cxr_ops.records import (
    Champion,
    Estimate,
    Evaluation,
    Figure,
    Inputs,
    canonical_json,
    write_atomic,
)
from cxr_ops.report.terminal import steps
from cxr_ops.stats import auc, sanity
from cxr_ops.stats.rule import Code

if TYPE_CHECKING:
    from cxr_ops.model.package import LoadedModel

Scores = npt.NDArray[np.float32]
Problem = tuple[str, str]

CHALLENGER: Final = "challenger"
CHAMPION: Final = "champion"


def run(root: Path, params: Params) -> None:
    """Evaluate the challenger, against the champion if there is one.

    Args:
        root: the workspace.
        params: `evaluate` is used; of `split` the salt, of `gate` the plan, of `train` device and threads.

    Raises:
        DataError: an earlier stage has not run, a package or an image is not the one on record, or a model gives no
        number. SettingsError: the plan is not the one that the run was opened with.
    """
    from cxr_ops.model import package

    out = root / "evaluate"
    shutil.rmtree(out, ignore_errors=True)
    inputs = Inputs.read(root / contract.INPUTS)
    plan = plans.load_bound(root, params.gate.plan, inputs.plan)
    frame = manifest.read_split(root)
    test = frame[frame["split"] == "test"].reset_index(drop=True)
    models = [package.load(root / "train" / contract.PACKAGE)]
    champion = _champion(root, inputs)
    if champion is not None:
        models.append(package.load(root / contract.CHAMPION / contract.PACKAGE, champion))
    scores = _score(root, params, test, models)
    problems = [
        *_test_set_problems(root, frame, test),
        *_split_problems(models, test, params.split.salt),
        *_score_problems(test, scores),
    ]
    rules = plan.performance
    found = auc.compare(
        FINDINGS,
        manifest.label_array(test),
        test["patient_id"].to_numpy(),
        scores[0],
        scores[1] if len(scores) > 1 else None,
        level=params.evaluate.level,
        min_positive_patients=rules.min_positive_patients,
        min_negative_patients=rules.min_negative_patients,
    )
    evaluation = Evaluation(
        findings=found.findings,
        macro_challenger=found.macro_challenger,
        macro_champion=found.macro_champion,
        macro_difference=found.macro_difference,
        macro_over=found.macro_over,
        test_digest=splits.test_digest(test),
        test_images=len(test),
        test_patients=int(test["patient_id"].nunique()),
        challenger=models[0].digest,
        champion=champion,
        problems=problems,
    )
    out.mkdir(parents=True)
    evaluation.write(out / "evaluation.json")
    write_atomic(out / "scores.csv", scores_table(test, scores))
    write_atomic(out / "metrics.json", canonical_json(metrics(evaluation)))
    write_atomic(out / "roc.csv", roc_table(test, scores))


def _champion(root: Path, inputs: Inputs) -> str | None:
    record = Champion.read(root / contract.CHAMPION / "champion.json")
    if record != inputs.champion:
        raise DataError(
            "champion.json names another champion than inputs.json",
            where=root / contract.CHAMPION,
            fix="open the run again: cxr-ops open",
        )
    return record.package


# ------------------------------------------------------------------------------------------------- scores


def _score(root: Path, params: Params, test: pd.DataFrame, models: Sequence[LoadedModel]) -> list[Scores]:
    """Scores of each model, (images, 14), in the order of `test`. The same package twice is scored once."""
    from cxr_ops.model import scoring, training

    distinct = {model.digest: model for model in models}
    parts: dict[str, list[Scores]] = {digest: [np.empty((0, len(FINDINGS)), np.float32)] for digest in distinct}
    machine = training.choose_machine(params.train)
    size = params.evaluate.batch_size
    digests = dict(zip(test["image_id"], test["sha256"], strict=True))
    with (
        training.reproducible(machine),
        ShardReader(root / contract.DATASET, digests) as reader,
        steps("evaluate") as show,
    ):
        done = 0
        for pixels in _decoded(test["image_id"].tolist(), reader.read, size):
            for digest, model in distinct.items():
                parts[digest].append(scoring.score(model, pixels, batch_size=size, device=machine.device))
            done += len(pixels)
            show(done, len(test))
            contract.report_progress("evaluate", done, len(test), unit="images")
    return [np.concatenate(parts[model.digest]) for model in models]


def _decoded(
    image_ids: Sequence[str], read: Callable[[str], bytes], size: int
) -> Iterator[list[npt.NDArray[np.uint8]]]:
    """Decode images in lists of `size`; while one list is scored, the next one is decoded."""

    def decode(image_id: str) -> npt.NDArray[np.uint8]:
        try:
            return decode_grey(read(image_id))
        except DataError as error:
            raise DataError(error.what, where=image_id, fix=error.fix) from error

    with ThreadPoolExecutor(isolate.processors()) as pool:
        waiting = [pool.submit(decode, image_id) for image_id in image_ids[:size]]
        for start in range(size, len(image_ids) + size, size):
            coming = [pool.submit(decode, image_id) for image_id in image_ids[start : start + size]]
            yield [image.result() for image in waiting]
            waiting = coming


# ----------------------------------------------------------------------------------------------- problems


def _test_set_problems(root: Path, frame: pd.DataFrame, test: pd.DataFrame) -> list[Problem]:
    """Whether the test set is the one on record, and none of its patients stands on another side too."""
    problems: list[Problem] = []
    try:
        recorded = json.loads((root / "split" / "split.json").read_bytes())["test_digest"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError("split.json is missing or damaged", where=root / "split") from error
    if recorded != splits.test_digest(test):
        problems.append((Code.TEST_SET_MISMATCH, "The test set is not the one that the split recorded."))
    elsewhere = set(frame.loc[frame["split"] != "test", "patient_id"])
    both = sum(patient in elsewhere for patient in test["patient_id"].unique())
    if both:
        problems.append((Code.SPLIT_MISMATCH, f"{_people(both)} of the test set are on another side of the split too."))
    return problems


def _split_problems(models: Sequence[LoadedModel], test: pd.DataFrame, salt: str) -> list[Problem]:
    """Whether a model was trained on patients of the test set, as far as its package tells."""
    from cxr_ops.model import package

    keys = {package.patient_key(salt, patient) for patient in test["patient_id"].unique()}
    problems: list[Problem] = []
    codes = ((CHALLENGER, Code.SPLIT_MISMATCH), (CHAMPION, Code.CHAMPION_SPLIT_MISMATCH))
    for (name, code), model in zip(codes, models, strict=False):
        shared = len(keys & model.patients)
        if not model.patients:
            problems.append((code, f"Whom the {name} was trained on is not on record."))
        elif model.contract["training"].get("patient_salt") != salt:
            problems.append((code, f"Whom the {name} was trained on is recorded under another salt."))
        elif shared:
            problems.append((code, f"The {name} was trained on {_people(shared)} of the test set."))
    return problems


def _score_problems(test: pd.DataFrame, scores: Sequence[Scores]) -> list[Problem]:
    """Faults of the scores themselves, which no metric shows."""
    truth = manifest.label_array(test)
    problems: list[Problem] = []
    for name, values in zip((CHALLENGER, CHAMPION), scores, strict=False):
        own = name == CHALLENGER
        invalid = sanity.invalid_scores(FINDINGS, values)
        if invalid:
            code = Code.INVALID_SCORES if own else Code.CHAMPION_INVALID
            problems.append((code, f"Scores of the {name} are not probabilities. {'; '.join(invalid)}."))
            continue
        constant = sanity.constant_scores(FINDINGS, values)
        if constant:
            code = Code.CONSTANT_SCORES if own else Code.CHAMPION_INVALID
            problems.append((code, f"The {name} gives every image the same score for {', '.join(constant)}."))
        permuted = sanity.permuted_findings(FINDINGS, truth, values)
        if permuted:
            code = Code.PERMUTED_FINDINGS if own else Code.CHAMPION_INVALID
            pairs = ", ".join(f"{finding} ranks {other}" for finding, other in permuted.items())
            problems.append((code, f"Scores of the {name} stand in one another's place: {pairs}."))
    return problems


def _people(count: int) -> str:
    return f"{count} patient{'' if count == 1 else 's'}"


# -------------------------------------------------------------------------------------------------- files


def metrics(evaluation: Evaluation) -> dict[str, float]:
    """The AUCs as a flat table for `dvc metrics`; a number that cannot be had is left out."""
    figures: dict[str, Figure | None] = {
        "macro_auc": evaluation.macro_challenger,
        "macro_auc_champion": evaluation.macro_champion,
        "macro_auc_difference": evaluation.macro_difference,
    }
    figures |= {f"auc_{row.finding}": row.challenger for row in evaluation.findings}
    return {name: figure.value for name, figure in figures.items() if isinstance(figure, Estimate)}


def scores_table(test: pd.DataFrame, scores: Sequence[Scores]) -> bytes:
    """Truth and scores of each test image; floats have as many digits as give the same float back.

    Columns: `image_id`, `patient_id`, then for each finding `<finding>_truth`, `<finding>_challenger` and, where there
    is one, `<finding>_champion`.
    """
    columns: dict[str, object] = {"image_id": test["image_id"], "patient_id": test["patient_id"]}
    for f, finding in enumerate(FINDINGS):
        columns[f"{finding}_truth"] = test[finding]
        for name, values in zip((CHALLENGER, CHAMPION), scores, strict=False):
            columns[f"{finding}_{name}"] = [repr(float(value)) for value in values[:, f]]
    return manifest.to_csv(pd.DataFrame(columns), list(columns))


def roc_table(test: pd.DataFrame, scores: Sequence[Scores]) -> bytes:
    """ROC curves of both models, thinned: `finding`, `fpr`, `tpr`, `model`. A finding without both kinds has none."""
    truth = manifest.label_array(test)
    tables = [pd.DataFrame({"finding": [], "fpr": [], "tpr": [], "model": []})]
    for f, finding in enumerate(FINDINGS):
        if not ((truth[:, f] == 1).any() and (truth[:, f] == 0).any()):
            continue
        for name, values in zip((CHALLENGER, CHAMPION), scores, strict=False):
            if np.isfinite(values[:, f]).all():
                fpr, tpr = auc.roc_curve(truth[:, f], values[:, f])
                rounded = {"fpr": np.round(fpr, 6), "tpr": np.round(tpr, 6)}
                tables.append(pd.DataFrame({"finding": finding, **rounded, "model": name}))
    return manifest.to_csv(pd.concat(tables), ("finding", "fpr", "tpr", "model"))
