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
from cxr_ops import plan_templates
from cxr_ops.data import score_files
from cxr_ops.data.score_files import Scores, Truth
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS
from cxr_ops.records.base import canonical_json, sha256_bytes
from cxr_ops.records.evidence import Estimate, Evaluation, Figure, FindingEvidence
from cxr_ops.report.comparison import Compared
from cxr_ops.report.figures import Model
from cxr_ops.report.page import Curves
from cxr_ops.stats import auc, rule
from cxr_ops.stats.codes import Code
from cxr_ops.stats.evidence import CHALLENGER, CHAMPION, Scored, assess, score_problems

LEVEL: Final = 0.95
PLAN: Final = "pccp.yaml"
TEMPLATE: Final = "nih-production"
MAKE: Final = f"cxr-ops plan template {TEMPLATE} > {PLAN}"
NOTES: Final = (
    "Scores alone were judged: not where the models come from, whom they were trained on, or who looked before.",
)


def run(
    truth: Path,
    a: Path,
    b: Path | None = None,
    *,
    plan: Path | None = None,
    validation: Path | None = None,
    images: Path | None = None,
) -> Compared:
    """Compare two models, or describe one.

    The truth says which images the test set has and whose they are. Images of it that have no scores, and findings of
    it that a model does not score, are missing evidence: they are named, and nothing passes.

    Args:
        truth: labels, in one of the layouts of `cxr_ops.data.score_files`.
        a: scores of the challenger.
        b: scores of the model that it is compared with, on the same images.
        plan: whose checks are made. Without it, `pccp.yaml` of the current folder, or where there is none the template
            for production that the package has.
        validation: labels of further images in the files of scores, on which thresholds are chosen and probabilities
            recalibrated. Without it, figures that need it are undefined.
        images: a list of the test set's images, one a line; without it, all of the truth are the test set.

    Raises:
        DataError: a file is damaged, or the images of the files do not fit one another.
        SettingsError: the plan cannot be read.
    """
    place, chosen = _find_plan(plan)
    wanted = _read_plan(place)
    change_plan = plans.parse(wanted, place)
    known = score_files.read_truth(truth)
    labels = known if images is None else score_files.read_images(images, known)
    files = {CHALLENGER: score_files.read_scores(a)} | ({CHAMPION: score_files.read_scores(b)} if b else {})
    _check_same_images(files)
    before = None if validation is None else score_files.read_truth(validation)
    _check_known(files[CHALLENGER], labels, known, before)
    for given in (known, *([before] if before else [])):
        _check_same_patients(given, files)
    test = _gather(labels, files)
    if not len(test.patients):
        raise DataError("no image of the scores is in the truth", where=a, fix="compare the image ids of both files")
    kept = labels.where(np.isin(labels.image_ids, list(files[CHALLENGER].image_ids)))
    rules = change_plan.performance
    found = assess(
        FINDINGS,
        test,
        validation=_gather(before, files) if before else None,
        attributes=kept.attributes,
        rules=rules,
        level=LEVEL,
    )
    missing = [*_missing_images(labels, kept, files), *_missing_findings(kept, files)]
    problems = [(str(Code.NOT_SCORED), sentence) for sentence in missing]
    problems += _faults(test, files)
    if labels.patients is None:
        problems.append((str(Code.NO_PATIENT_IDS), _whose(files)))
    evaluation = Evaluation(
        **found.figures(),
        test_digest=sha256_bytes(canonical_json([list(kept.image_ids), np.nan_to_num(kept.truth, nan=-1).tolist()])),
        test_images=len(test.patients),
        test_patients=len(np.unique(test.patients)),
        challenger=files[CHALLENGER].sha256,
        champion=files[CHAMPION].sha256 if b else None,
        problems=problems,
    )
    names = [a.name, b.name if b else None]
    if names[0] == names[1]:
        names = [str(a), str(b)]
    return Compared(
        challenger=str(names[0]),
        champion=names[1],
        plan=change_plan,
        plan_sha256=sha256_bytes(wanted),
        evaluation=evaluation,
        judgement=rule.judge(evaluation, change_plan.of_scores()),
        level=LEVEL,
        curves=_curves(test),
        missing=tuple(missing),
        warnings=tuple(_same(files)),
        notes=(*NOTES, *chosen, *_unseen(change_plan), *_notes(truth, labels, files, before, validation)),
    )


def as_json(compared: Compared) -> dict[str, Any]:
    """The comparison as plain values: each finding under its name, with `auc`, `se`, `se_image`, `ci` and counts.

    `ci` is the two-sided interval at `level`. A difference also has `bounds`: the lower and the upper one-sided bound,
    each at half of what the level leaves, made as the plan's checks make theirs (under `checks`) at `plan.alpha`, which
    is what a first look may spend. What cannot be computed is null, and `undefined` says why.
    """
    evaluation, judgement = compared.evaluation, compared.judgement
    return {
        "a": {"file": compared.challenger, "sha256": evaluation.challenger},
        "b": {"file": compared.champion, "sha256": evaluation.champion} if compared.champion else None,
        "plan": {"name": compared.plan.name, "sha256": compared.plan_sha256, "alpha": compared.judgement.alpha},
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
        "missing": list(compared.missing),
        "warnings": list(compared.warnings),
        "notes": [*compared.missing, *compared.warnings, *compared.notes],
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


def _check_known(scores: Scores, labels: Truth, known: Truth, before: Truth | None) -> None:
    """Every scored image must have a label file that it belongs to, and one only; `labels` are the test set's."""
    test = set(labels.image_ids)
    earlier = set(before.image_ids) if before else set()
    for images, what, fix in (
        (test & earlier, "are in the truth and in the validation set", "take them out of one of the two"),
        (
            set(scores.image_ids) - set(known.image_ids) - earlier,
            "have scores and are not in the truth",
            f"compare the image ids of both files: those of the truth are like {labels.image_ids[0]!r}",
        ),
    ):
        if images:
            raise DataError(
                f"{len(images)} images {what}, the first of them {min(images)!r}", where=scores.path, fix=fix
            )


def _check_same_patients(labels: Truth, files: Mapping[str, Scores]) -> None:
    """Where a file of scores says whose images these are, it must part them as the truth does, by whatever names."""
    if labels.patients is None:
        return
    for one in files.values():
        theirs = dict(zip(one.image_ids, one.patients or (), strict=False))
        pairs = {
            (ours, theirs[image_id]): image_id
            for image_id, ours in zip(labels.image_ids, labels.patients, strict=True)
            if image_id in theirs
        }
        for side in (0, 1):
            if len({pair[side] for pair in pairs}) < len(pairs):
                seen: dict[str, str] = {}
                first = next(image for pair, image in pairs.items() if seen.setdefault(pair[side], image) != image)
                raise DataError(
                    f"the truth and {one.path.name} contradict each other in whose images these are, "
                    f"first of the image {first!r}",
                    where=one.path,
                    fix=f"take the column of patients out of {one.path.name}: those of the truth count",
                )


def _gather(labels: Truth, files: Mapping[str, Scores]) -> Scored:
    """Truth and scores of the scored images in the truth's order.

    Patients are the truth's. Where it names none, those of the files of scores keep images of a patient together, but
    nothing passes on them (`Code.NO_PATIENT_IDS`): whoever made the scores could have invented a patient an image.
    """
    kept = labels.where(np.isin(labels.image_ids, list(files[CHALLENGER].image_ids)))
    scores = {}
    owners = None if kept.patients is None else np.array(kept.patients)
    for role, one in files.items():
        rows = {image_id: row for row, image_id in enumerate(one.image_ids)}
        order = np.array([rows[image_id] for image_id in kept.image_ids], dtype=np.int64)
        scores[role] = one.scores[order]
        if owners is None and one.patients is not None:
            owners = np.array(one.patients)[order]
    patients = np.array(kept.image_ids) if owners is None else owners
    return Scored(truth=kept.truth, patients=patients, scores=scores, uncertain=kept.uncertain)


def _faults(test: Scored, files: Mapping[str, Scores]) -> list[tuple[str, str]]:
    """Faults of the scores that are there; findings that somebody does not score are looked at nowhere."""
    scored = [all(finding in one.findings for one in files.values()) for finding in FINDINGS]
    here = [f for f, yes in enumerate(scored) if yes]
    names = [FINDINGS[f] for f in here]
    return score_problems(names, test.truth[:, here], {role: table[:, here] for role, table in test.scores.items()})


# ------------------------------------------------------------------------------------ what is missing, what to know


def _find_plan(plan: Path | None) -> tuple[Path, list[str]]:
    """The plan's file, and a note where nobody named it."""
    if plan is None:
        here = Path(PLAN)
        if here.is_file():
            return here, [f"No plan was named: {PLAN} of this folder was taken."]
        note = f"No plan was named, and no {PLAN} is here: the template {TEMPLATE} was taken. To own a plan: {MAKE}"
        return plan_templates.path(TEMPLATE), [note]
    return plan, []


def _read_plan(place: Path) -> bytes:
    try:
        return place.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"the change-control plan cannot be read: {error.strerror}",
            where=place,
            fix=f"name a plan with --plan, or make one: {MAKE}",
        ) from error


def _missing_images(labels: Truth, kept: Truth, files: Mapping[str, Scores]) -> list[str]:
    """A sentence on images of the truth without scores, and on the positive patients who are lost with them."""
    left = len(labels.image_ids) - len(kept.image_ids)
    if not left:
        return []
    where = " and ".join(dict.fromkeys(one.path.name for one in files.values()))
    sentence = f"{left:,} of {len(labels.image_ids):,} images of the truth have no scores in {where}"
    if labels.patients is not None and kept.patients is not None:
        before, after = score_files.positive_patients(labels), score_files.positive_patients(kept)
        lost = [
            f"{all_ - there:,} of {all_:,} with {finding}"
            for finding, all_, there in zip(FINDINGS, before, after, strict=True)
            if there < all_
        ]
        gone = len(set(labels.patients)) - len(set(kept.patients))
        sentence += f", all images of {gone:,} patients among them"
        sentence += f"; positive patients without a scored positive image: {', '.join(lost)}" if lost else ""
    return [f"{sentence}. Score them; if they are not of the test set, name those that are in a list: --images LIST."]


def _missing_findings(kept: Truth, files: Mapping[str, Scores]) -> list[str]:
    """A sentence for each file that has no scores for findings that the truth has labels for."""
    labelled = [finding for f, finding in enumerate(FINDINGS) if not np.isnan(kept.truth[:, f]).all()]
    found = []
    for one in files.values():
        lacking = [finding for finding in labelled if finding not in one.findings]
        if lacking:
            found.append(f"{one.path.name} has no scores for {', '.join(lacking)}, which the truth has labels for.")
    return found


def _same(files: Mapping[str, Scores]) -> list[str]:
    """A sentence where both files hold the same scores: no difference between them can be found."""
    if CHAMPION not in files:
        return []
    first, second = (one.scores[np.argsort(np.array(one.image_ids))] for one in (files[CHALLENGER], files[CHAMPION]))
    if not np.array_equal(first, second, equal_nan=True):
        return []
    names = " and ".join(dict.fromkeys(str(one.path) for one in files.values()))
    return [f"both models have the same scores for every image ({names}), so that this compares a model with itself."]


def _whose(files: Mapping[str, Scores]) -> str:
    named = [one.path.name for one in files.values() if one.patients is not None]
    if not named:
        return "The truth does not say whose images these are; each image was taken for a patient of its own."
    return (
        f"The truth does not say whose images these are. What {named[0]} says was taken, which whoever made the scores "
        "could have invented."
    )


def _unseen(plan: plans.ChangePlan) -> list[str]:
    """What the plan asks that scores cannot tell."""
    rules = plan.performance
    asked = {
        "What the scores rest on (reliance)": rules.reliance,
        "Where heat maps lie (map_places)": rules.map_places,
        "Whether heat maps can be relied on (heat_maps)": rules.heat_maps,
    }
    return [
        f"{what} was not looked at: the plan asks it, and it takes the pictures."
        for what, part in asked.items()
        if part is not None
    ]


def _notes(
    truth: Path, labels: Truth, files: Mapping[str, Scores], before: Truth | None, validation: Path | None
) -> list[str]:
    """What was read in another way than it stands, by file, and images of the validation set without scores."""
    told = [(truth.name, labels.notes), *((one.path.name, one.notes) for one in files.values())]
    notes = []
    if before is not None and validation is not None:
        told.append((validation.name, before.notes))
        left = len(set(before.image_ids) - set(files[CHALLENGER].image_ids))
        if left:
            notes.append(f"{left:,} images of {validation.name} have no scores and were left out.")
    return [*(f"{name}: {'; '.join(of)}." for name, of in told if of), *notes]


def _curves(test: Scored) -> Curves:
    curves: dict[Model, dict[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]]] = {}
    for role in (CHALLENGER, CHAMPION):
        if role not in test.scores:
            continue
        values = test.scores[role]
        curves[role] = {}
        for f, finding in enumerate(FINDINGS):
            known = ~np.isnan(test.truth[:, f])
            both = {0.0, 1.0} <= set(test.truth[known, f].tolist())
            if both and np.isfinite(values[known, f]).all():
                curves[role][finding] = auc.roc_curve(test.truth[:, f], values[:, f])
    return curves
