"""Judge the scores of any models by a change-control plan: `cxr-ops compare`, without the rest of the platform.

The statistics and the rule are those of `evaluate` and `gate`. What a file of scores cannot tell (which code and data
a model is from, whom it was trained on, who looked at the test set before) is not judged, and the output says so: what
comes out is what the evidence says, not a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from cxr_ops import plan as plans
from cxr_ops.data import score_files
from cxr_ops.data.score_files import Scores, Truth
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file
from cxr_ops.records.evidence import Estimate, Evaluation, Evidence, Figure, FindingEvidence
from cxr_ops.report.comparison import Compared
from cxr_ops.report.figures import Model
from cxr_ops.report.page import Curves
from cxr_ops.stats import auc, rule
from cxr_ops.stats.codes import Code
from cxr_ops.stats.evidence import CHALLENGER, CHAMPION, Scored, assess, score_problems

LEVEL: Final = 0.95
NOTES: Final = (
    "Scores alone were judged: not where the models come from, whom they were trained on, or who looked before.",
)


def run(
    truth: Path,
    a: Path,
    b: Path | None = None,
    *,
    plan: Path = Path("pccp.yaml"),
    validation: Path | None = None,
) -> Compared:
    """Compare two models, or describe one.

    Args:
        truth: labels, in one of the layouts of `cxr_ops.data.score_files`.
        a: scores of the challenger.
        b: scores of the model that it is compared with, on the same images.
        plan: whose checks are made.
        validation: labels of further images in the files of scores, on which thresholds are chosen and probabilities
            recalibrated. Without it, figures that need it are undefined.

    Raises:
        DataError: a file is damaged, or the images of the files do not fit one another.
        SettingsError: the plan cannot be read.
    """
    change_plan = plans.load(plan)
    labels = score_files.read_truth(truth)
    files = {CHALLENGER: score_files.read_scores(a)} | ({CHAMPION: score_files.read_scores(b)} if b else {})
    _check_same_images(files)
    before = None if validation is None else score_files.read_truth(validation)
    _check_known(files[CHALLENGER], labels, before)
    missing = [finding for finding in FINDINGS if any(finding not in one.findings for one in files.values())]
    notes = list(NOTES)
    if missing:
        notes.append(f"Without scores in every file, and so left out: {', '.join(missing)}.")
    test, patients = _gather(labels, files, missing)
    if not len(test.patients):
        raise DataError("no image of the scores is in the truth", where=a, fix="compare the image ids of both files")
    left = len(labels.image_ids) - len(test.patients)
    if left:
        notes.append(f"{left} images of the truth have no scores and were left out.")
    kept = labels.where(np.isin(labels.image_ids, list(files[CHALLENGER].image_ids)))
    rules = change_plan.performance
    found = assess(
        FINDINGS,
        test,
        validation=_gather(before, files, missing)[0] if before else None,
        attributes=kept.attributes,
        rules=rules,
        level=LEVEL,
    )
    problems = score_problems(FINDINGS, test.truth, _blank(test.scores, missing))
    if not patients:
        problems.append(
            (Code.NO_PATIENT_IDS, "No file says whose images these are; each image was taken for a patient of its own.")
        )
    evaluation = Evaluation(
        **{name: getattr(found.evidence, name) for name in Evidence.model_fields},
        test_digest=sha256_bytes(canonical_json([list(kept.image_ids), np.nan_to_num(kept.truth, nan=-1).tolist()])),
        test_images=len(test.patients),
        test_patients=len(np.unique(test.patients)),
        challenger=sha256_file(a),
        champion=sha256_file(b) if b else None,
        problems=problems,
        subgroups=found.subgroups,
        missing_groups=found.missing_groups,
        performance=found.performance,
        uncertain=found.uncertain,
        scenarios=found.scenarios,
        validation_macro=found.validation_macro,
    )
    return Compared(
        challenger=a.name,
        champion=b.name if b else None,
        plan=change_plan,
        plan_sha256=sha256_file(plan),
        evaluation=evaluation,
        judgement=rule.judge(evaluation, change_plan),
        level=LEVEL,
        curves=_curves(test, missing),
        notes=tuple(notes),
    )


def as_json(compared: Compared) -> dict[str, Any]:
    """The comparison as plain values: each finding under its name, with `auc`, `se`, `se_image`, `ci` and counts.

    `ci` is the two-sided interval at `level`. A difference also has `bounds`: the lower and the upper one-sided bound,
    each at half of what the level leaves, made as the plan's checks make theirs at `plan.alpha` (under `checks`). What
    cannot be computed is null, and `undefined` says why.
    """
    evaluation, judgement = compared.evaluation, compared.judgement
    return {
        "a": {"file": compared.challenger, "sha256": evaluation.challenger},
        "b": {"file": compared.champion, "sha256": evaluation.champion} if compared.champion else None,
        "plan": {"name": compared.plan.name, "sha256": compared.plan_sha256, "alpha": compared.plan.performance.alpha},
        "level": compared.level,
        "images": evaluation.test_images,
        "patients": evaluation.test_patients,
        "evidence_says": judgement.evidence_says,
        "reasons": [reason.model_dump(mode="json") for reason in judgement.reasons],
        "checks": [check.model_dump(mode="json") for check in judgement.checks],
        "superior": judgement.superior,
        "superior_findings": judgement.superior_findings,
        "macro": {"over": evaluation.macro_over}
        | _three(evaluation.macro_challenger, evaluation.macro_champion, evaluation.macro_difference),
        "findings": {row.finding: _finding(row) for row in evaluation.findings},
        "performance": {
            one.finding: one.model_dump(mode="json", exclude={"finding", "support"}) for one in evaluation.performance
        },
        "subgroups": {
            group.name: {
                "images": group.images,
                "patients": group.patients,
                "macro": {"over": group.macro_over}
                | _three(group.macro_challenger, group.macro_champion, group.macro_difference),
                "findings": {row.finding: _finding(row) for row in group.findings},
            }
            for group in evaluation.subgroups
        },
        "notes": list(compared.notes),
    }


def _finding(row: FindingEvidence) -> dict[str, Any]:
    return row.support.model_dump() | _three(row.challenger, row.champion, row.difference)


def _three(challenger: Figure, champion: Figure | None, difference: Figure | None) -> dict[str, Any]:
    """The challenger's figure at once, the other model's under `b`, and challenger minus the other."""
    values = _plain(challenger, "auc")
    if champion is not None and difference is not None:
        values |= {"b": _plain(champion, "auc"), "difference": _plain(difference, "value")}
    return values


def _plain(figure: Figure, name: str) -> dict[str, Any]:
    values: dict[str, Any]
    if isinstance(figure, Estimate):
        values = {name: figure.value, "se": figure.se, "se_image": figure.se_image, "ci": list(figure.ci)}
        return values | ({"bounds": [figure.low, figure.high]} if name == "value" else {})
    why = {"reason": figure.reason, "needed": figure.needed}
    values = {name: None, "se": None, "se_image": None, "ci": None, "undefined": why}
    return values | ({"bounds": None} if name == "value" else {})


# ----------------------------------------------------------------------------------------------- the files


def _check_same_images(files: Mapping[str, Scores]) -> None:
    """Two models can be compared only on the same images."""
    if CHAMPION not in files:
        return
    first, second = files[CHALLENGER], files[CHAMPION]
    for one, other in ((first, second), (second, first)):
        lacking = sorted(set(one.image_ids) - set(other.image_ids))
        if lacking:
            raise DataError(
                f"{len(lacking)} images have scores in {one.path.name} and none in {other.path.name}, "
                f"the first of them {lacking[0]!r}",
                where=other.path,
                fix="score the same images with both models",
            )


def _check_known(scores: Scores, labels: Truth, before: Truth | None) -> None:
    """Every scored image must have a label file that it belongs to, and one only."""
    known = set(labels.image_ids)
    earlier = set(before.image_ids) if before else set()
    for images, what, fix in (
        (known & earlier, "stand in the truth and in the validation set", "take them out of one of the two"),
        (
            set(scores.image_ids) - known - earlier,
            "have scores and are not in the truth",
            "compare the image ids of both files",
        ),
    ):
        if images:
            raise DataError(
                f"{len(images)} images {what}, the first of them {min(images)!r}", where=scores.path, fix=fix
            )


def _gather(labels: Truth, files: Mapping[str, Scores], missing: list[str]) -> tuple[Scored, bool]:
    """Truth and scores of the scored images in the truth's order, and whether anybody says whose images they are."""
    kept = labels.where(np.isin(labels.image_ids, list(files[CHALLENGER].image_ids)))
    truth, uncertain = kept.truth.copy(), kept.uncertain.copy()
    left_out = [FINDINGS.index(finding) for finding in missing]
    truth[:, left_out], uncertain[:, left_out] = np.nan, False
    scores = {}
    owners = None if kept.patients is None else np.array(kept.patients)
    for role, one in files.items():
        rows = {image_id: row for row, image_id in enumerate(one.image_ids)}
        order = np.array([rows[image_id] for image_id in kept.image_ids], dtype=np.int64)
        scores[role] = one.scores[order]
        if owners is None and one.patients is not None:
            owners = np.array(one.patients)[order]
    patients = np.array(kept.image_ids) if owners is None else owners
    return Scored(truth=truth, patients=patients, scores=scores, uncertain=uncertain), owners is not None


def _blank(scores: Mapping[str, npt.NDArray[Any]], missing: list[str]) -> dict[str, npt.NDArray[np.float64]]:
    """Scores with something harmless in the columns that nobody gave: their absence is told elsewhere."""
    blanked = {}
    for role, values in scores.items():
        blanked[role] = np.array(values, dtype=np.float64)
        for finding in missing:
            blanked[role][:, FINDINGS.index(finding)] = np.linspace(0.0, 1.0, len(values))
    return blanked


def _curves(test: Scored, missing: list[str]) -> Curves:
    curves: dict[Model, dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]] = {}
    for role in (CHALLENGER, CHAMPION):
        if role not in test.scores:
            continue
        values = test.scores[role]
        curves[role] = {}
        for f, finding in enumerate(FINDINGS):
            known = ~np.isnan(test.truth[:, f])
            both = {0.0, 1.0} <= set(test.truth[known, f].tolist())
            if finding not in missing and both and np.isfinite(values[known, f]).all():
                curves[role][finding] = auc.roc_curve(test.truth[:, f], values[:, f])
    return curves
