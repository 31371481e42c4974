"""evaluate: score challenger, champion and reference on the same locked test set, and weigh them against one another.

The test set is scored only where `look.json` names this challenger and this test set: the supervisor of a run writes it
when the look is on the ledger. In a checkout the validation set is scored instead, and all figures are of it.

Reads `inputs.json`, `look.json`, `champion/`, `reference/`, `validate/manifest.csv`, `validate/boxes.csv` (which heat
maps are held against), `validate/attributes.csv` (what side tables say of images, for subgroups),
`validate/withdrawn.csv` (whose withdrawn images were scored), `split/`, the shards of `dataset/`, `train/package` and
the plan. Writes
`evaluate/evaluation.json` (the evidence), `scores.csv` and `validation_scores.csv` (one row an image of the two sets;
both of the validation set where the test set is not scored),
`metrics.json` (for `dvc metrics`) and `roc.csv` (for `dvc plots`).

All models are scored from source pixels, each through the code in its own package, which runs in a process of its own:
labels are in this one. Every image is decoded once.
Where the plan limits what scores may rest on, the same images are scored again with each region blurred.
Where it limits how heat maps behave, those of a sample are made again with random weights and after small changes.
Images that the champion was judged on, and that are in the test set no more, are scored too, so that a better model can
be told from an easier test set.
The validation set is there to choose thresholds and to recalibrate, so that neither is done on the test set.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import ValidationError

from cxr_ops import contract
from cxr_ops import plan as plans
from cxr_ops.audit.facts import settings
from cxr_ops.audit.fit import misnamed_models
from cxr_ops.audit.package import Described, Package, patient_key
from cxr_ops.audit.package import read as read_package
from cxr_ops.data import manifest, splits
from cxr_ops.data.checking import isolate
from cxr_ops.data.checking.decode import decode_grey
from cxr_ops.data.regions import REGIONS, Region, blurred
from cxr_ops.data.shards import ShardReader
from cxr_ops.data.small_changes import changed
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS
from cxr_ops.model.apart import parent as apart
from cxr_ops.model.apart.parent import Nursery
from cxr_ops.params import Params, Split
from cxr_ops.plan import HeatMaps, PerformanceEvaluation
from cxr_ops.records.base import canonical_json, write_atomic
from cxr_ops.records.data import Division
from cxr_ops.records.evidence import (
    Alike,
    Change,
    Estimate,
    Evaluation,
    Evidence,
    Facts,
    Figure,
    Localization,
    MapChecks,
    Reliance,
    Undefined,
)
from cxr_ops.records.inputs import Earlier, Inputs, Period, RecordedLook
from cxr_ops.records.training import StartingWeights, Trained
from cxr_ops.stats import auc, change, checks, evidence, heat_maps, localization, reliance
from cxr_ops.stats.codes import Code
from cxr_ops.stats.evidence import CHALLENGER, CHAMPION, REFERENCE, Scored
from cxr_ops.stats.localization import Box, Boxed
from cxr_ops.voice import steps

Scores = npt.NDArray[np.float32]
Maps = npt.NDArray[np.float32]
Problem = tuple[str, str]

MAPPED: Final = 32  # images at a time
_UNRECORDED: Final = "No look at the test set is on the ledger, so the test set was not scored."
_SPLIT_CODES: Final = {
    CHALLENGER: Code.SPLIT_MISMATCH,
    CHAMPION: Code.CHAMPION_SPLIT_MISMATCH,
    REFERENCE: Code.REFERENCE_SPLIT_MISMATCH,
}


def run(root: Path, params: Params) -> None:
    """Evaluate the challenger, against champion and reference if there are such.

    Args:
        root: the workspace.
        params: `evaluate` is used; of `split` the salt, of `gate` the plan, of `train` device and threads.

    Raises:
        DataError: an earlier stage has not run, a package or an image is not the one on record, or a model gives no
            number.
        SettingsError: the plan is not the one that the run was opened with, or a GPU is asked for and there is none.
        CxrError: the process of a model died, or did not answer.
    """
    out = root / "evaluate"
    shutil.rmtree(out, ignore_errors=True)
    inputs = Inputs.read(root / contract.INPUTS)
    plan = plans.load_bound(root, params.gate.plan, inputs.plan)
    frame = manifest.read_split(root)
    test, validation = (frame[frame["split"] == side].reset_index(drop=True) for side in ("test", "validation"))
    models = _load(root, inputs)
    recorded = _is_recorded(root, models[CHALLENGER].digest, splits.test_digest(test))
    if not recorded:
        sys.stderr.write(f"{_UNRECORDED} Figures are of the validation set.\n")
    rows = test if recorded else validation
    before = _earlier(root, frame, inputs.earlier, params.split)
    gone = before[~before["image_id"].isin(rows["image_id"])]
    with apart.nursery() as nursery:
        sets = (test, gone, validation) if recorded else (validation,)
        scores, *_ = found_scores = _score(nursery, root, params, sets, models)
        validation_scores = found_scores[-1]
        located = _localize(nursery, root, params, rows, models)
        checked = _check_maps(nursery, root, params, plan.performance.heat_maps, rows, models)
        relied = [] if plan.performance.reliance is None else _rely(nursery, root, params, rows, models, scores)
    found = evidence.assess(
        FINDINGS,
        _scored(rows, scores),
        validation=_scored(validation, validation_scores),
        attributes=attributes_of(root, rows),
        rules=plan.performance,
        level=params.evaluate.level,
    )
    evaluation = Evaluation(
        **found.figures(),
        test_digest=splits.test_digest(test),
        test_images=len(rows),
        test_patients=int(rows["patient_id"].nunique()),
        challenger=models[CHALLENGER].digest,
        champion=inputs.champion.package,
        reference=inputs.reference.package if inputs.reference else None,
        period=inputs.period.number,
        problems=[
            *([] if recorded else [(Code.UNRECORDED_LOOK, _UNRECORDED)]),
            *_test_set_problems(root, frame, inputs.period),
            *_split_problems(models, test, params.split.salt),
            *_not_scored(models[CHALLENGER], found.evidence, plan.performance),
            *evidence.score_problems(
                FINDINGS,
                manifest.label_array(rows),
                scores,
                {role: [name for name in FINDINGS if name not in model.trained] for role, model in models.items()},
            ),
        ],
        localization=located,
        reliance=relied,
        heat_maps=checked,
        change=_change(
            inputs.earlier,
            params,
            plan.performance,
            models,
            rows,
            before,
            dict(zip(("now", "gone"), found_scores, strict=False)),
            recorded=recorded,
        ),
        facts=facts(models[CHALLENGER], frame),
        scored="test" if recorded else "validation",
    )
    out.mkdir(parents=True)
    evaluation.write(out / "evaluation.json")
    write_atomic(out / "scores.csv", scores_table(rows, scores))
    write_atomic(out / "validation_scores.csv", scores_table(validation, validation_scores))
    write_atomic(out / "metrics.json", canonical_json(metrics(evaluation)))
    write_atomic(out / "roc.csv", roc_table(rows, scores))


def _earlier(root: Path, frame: pd.DataFrame, earlier: Earlier | None, settings: Split) -> pd.DataFrame:
    """The images of the test set that the champion was judged on, as far as they are still here.

    Its patients may have retired since. A patient's side does not depend on the other patients, so that the side of
    then can be found again.
    """
    if earlier is None:
        return frame.iloc[:0]
    known = frame[frame["batch"].isin(earlier.batches)]
    sides = splits.assign(
        known,
        salt=settings.salt,
        validation=settings.validation,
        test=settings.test,
        closed_batches=earlier.closed_batches,
        pinned=manifest.read_sides([root / "validate"]),
        withdrawn=manifest.read_withdrawn(root),
    )
    return known[sides == "test"].reset_index(drop=True)


def _change(
    earlier: Earlier | None,
    params: Params,
    rules: PerformanceEvaluation,
    models: Mapping[str, Package],
    rows: pd.DataFrame,
    before: pd.DataFrame,
    scores: Mapping[str, Mapping[str, Scores]],
    *,
    recorded: bool,
) -> Change | None:
    """What changed since the champion was judged, taken apart; None without a champion.

    Args:
        earlier: the test set that the champion was judged on, as the ledger has it.
        params: the run's.
        rules: the plan's.
        models: by role.
        rows: the scored images.
        before: the images of the earlier test set that are still here.
        scores: `now` -> role -> of `rows`, and `gone` -> role -> of those of `before` that are not among them.
        recorded: whether the test set was scored.
    """
    if CHAMPION not in models:
        return None
    if not recorded:
        return change.undefined(Undefined(reason="the test set was not scored", needed="a recorded look at it"))
    if earlier is None:
        return change.undefined(Undefined(reason="the ledger does not say what the champion was judged on"))
    images, patients = len(before), int(before["patient_id"].nunique())
    if not images:
        return change.undefined(Undefined(reason="no image that the champion was judged on is in the data set"))
    keys = {patient_key(params.split.salt, patient) for patient in before["patient_id"].unique()}
    for role in (CHALLENGER, CHAMPION):
        if shared := len(keys & models[role].patients):
            reason = f"the {role} was trained on {_people(shared)} of the earlier test set"
            return change.undefined(Undefined(reason=reason), images, patients)
    every = pd.concat([rows, before[~before["image_id"].isin(rows["image_id"])]], ignore_index=True)
    is_earlier = every["image_id"].isin(before["image_id"]).to_numpy()
    is_now = np.arange(len(every)) < len(rows)
    mean, by_finding, over = change.take_apart(
        FINDINGS,
        manifest.label_array(every).astype(np.float64),
        every["patient_id"].to_numpy(),
        *(np.concatenate([scores[part][role] for part in ("now", "gone")]) for role in (CHALLENGER, CHAMPION)),
        earlier=is_earlier,
        now=is_now,
        level=params.evaluate.level,
        min_positive_patients=rules.min_positive_patients,
        min_negative_patients=rules.min_negative_patients,
    )
    return Change(
        images=images,
        patients=patients,
        shared=int((is_earlier & is_now).sum()),
        exact=splits.test_digest(before) == earlier.test_digest,
        over=over,
        mean=mean,
        findings=by_finding,
    )


def attributes_of(root: Path, rows: pd.DataFrame) -> dict[str, list[str]]:
    """What images can be told apart by: columns of the manifest, and those of side tables."""
    own = {name: rows[name].astype("string").fillna("").tolist() for name in plans.ATTRIBUTES}
    more = manifest.read_attributes([root / "validate"], rows["image_id"].tolist())
    return {**{name: more[name].tolist() for name in more.columns if name != "image_id"}, **own}


def _is_recorded(root: Path, challenger: str, test_digest: str) -> bool:
    """Whether the scoring of this model on this test set is on the ledger, as the supervisor says in `look.json`.

    Raises:
        DataError: the file is missing, or the look that it names is another model's or on another test set.
    """
    path = root / contract.LOOK
    if not path.is_file():
        raise DataError(f"{path.name} is missing", where=path, fix="open the run again: cxr-ops open")
    look = RecordedLook.read(path)
    if look.entry is None:
        return False
    if (look.package, look.test_digest) != (challenger, test_digest):
        raise DataError(
            "the look on the ledger is that of another model, or on another test set",
            where=path,
            fix="cxr-ops stage evaluate --run RUN, which records this one; in a checkout: cxr-ops open",
        )
    return True


def _load(root: Path, inputs: Inputs) -> dict[str, Package]:
    """The models to score, by role. A reference that is the champion is not another model."""
    _check_network(root)
    trained = Trained.read(root / "train" / "train.json")
    models = {CHALLENGER: read_package(root / "train" / contract.PACKAGE, trained.package)}
    champion, reference = inputs.champion.package, inputs.reference
    _check_opened(root, inputs)
    if champion is not None:
        models[CHAMPION] = read_package(root / CHAMPION / contract.PACKAGE, champion)
    if reference is not None and reference.package != champion:
        models[REFERENCE] = read_package(root / REFERENCE / contract.PACKAGE, reference.package)
    return models


def _check_network(root: Path) -> None:
    """The code in the challenger's package must be the workspace's own, before any of it runs.

    `publish` compares the workspace's code with the commit. A folder without code, as tests make it, has nothing to
    compare with.
    """
    packed, own = root / "train" / contract.PACKAGE / "network.py", root / "cxr_ops" / "model" / "network.py"
    if own.is_file() and packed.is_file() and own.read_bytes() != packed.read_bytes():
        raise DataError(
            "the challenger's network.py is not the code that it was trained with",
            where=packed,
            fix="train again: cxr-ops stage train --run RUN",
        )


def _check_opened(root: Path, inputs: Inputs) -> None:
    """The folders that `open` filled must be of the run that `inputs.json` is of."""
    paths = {role: root / role / f"{role}.json" for role in (CHAMPION, REFERENCE)}
    for role in misnamed_models(inputs, **{role: _parsed(path) for role, path in paths.items()}):
        raise DataError(
            f"{role}.json names another {role} than inputs.json",
            where=paths[role],
            fix="open the run again: cxr-ops open",
        )


def _parsed(path: Path) -> object:
    try:
        found: object = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path.name} is missing", where=path, fix="cxr-ops open") from error
    except ValueError as error:
        raise DataError(f"{path.name} is not JSON: {error}", where=path, fix="cxr-ops open") from error
    return found


# ------------------------------------------------------------------------------------------------- scores


def _score(
    nursery: Nursery, root: Path, params: Params, sets: Sequence[pd.DataFrame], models: Mapping[str, Package]
) -> list[dict[str, Scores]]:
    """For each set of images, in its order, the scores of each model, (images, 14). A package is scored once."""
    distinct = {model.digest: model for model in models.values()}
    size = params.evaluate.batch_size
    digests = {name: sha256 for rows in sets for name, sha256 in zip(rows["image_id"], rows["sha256"], strict=True)}
    found: list[dict[str, Scores]] = []
    with (
        ShardReader(root / contract.DATASET, digests) as reader,
        steps("evaluate") as show,
        ExitStack() as open_until_scored,
    ):
        processes = {
            digest: open_until_scored.enter_context(nursery.of(model, params.train))
            for digest, model in distinct.items()
        }
        done = 0
        for rows in sets:
            parts: dict[str, list[Scores]] = {digest: [np.empty((0, len(FINDINGS)), np.float32)] for digest in distinct}
            for pixels in _decoded(rows["image_id"].tolist(), reader.read, size):
                for digest, process in processes.items():
                    parts[digest].append(process.score(pixels))
                done += len(pixels)
                show(done, len(digests))
                contract.report_progress("evaluate", done, len(digests), unit="images")
            found.append({role: np.concatenate(parts[model.digest]) for role, model in models.items()})
    return found


def _rely(
    nursery: Nursery,
    root: Path,
    params: Params,
    rows: pd.DataFrame,
    models: Mapping[str, Package],
    whole: Mapping[str, Scores],
) -> list[Reliance]:
    """What challenger and champion lose on the scored images with each region blurred, a record a finding."""
    asked = {role: models[role] for role in (CHALLENGER, CHAMPION) if role in models}
    distinct = {model.digest: model for model in asked.values()}
    parts: dict[Region, dict[str, list[Scores]]] = {
        region: {digest: [np.empty((0, len(FINDINGS)), np.float32)] for digest in distinct} for region in REGIONS
    }
    digests = dict(zip(rows["image_id"], rows["sha256"], strict=True))
    with (
        ShardReader(root / contract.DATASET, digests) as reader,
        steps("evaluate, regions blurred") as show,
        ThreadPoolExecutor(isolate.processors()) as pool,
        ExitStack() as open_until_scored,
    ):
        processes = {
            digest: open_until_scored.enter_context(nursery.of(model, params.train))
            for digest, model in distinct.items()
        }
        done = 0
        for pixels in _decoded(rows["image_id"].tolist(), reader.read, params.evaluate.batch_size):
            for region, of_region in parts.items():
                less = list(pool.map(blurred, pixels, itertools.repeat(region)))
                for digest, process in processes.items():
                    of_region[digest].append(process.score(less))
            done += len(pixels)
            show(done, len(digests))
            contract.report_progress("evaluate", done, len(digests), unit="images")
    return reliance.measure(
        FINDINGS,
        manifest.label_array(rows).astype(np.float64),
        rows["patient_id"].to_numpy(),
        {role: whole[role] for role in asked},
        {
            region: {role: np.concatenate(of_region[model.digest]) for role, model in asked.items()}
            for region, of_region in parts.items()
        },
        params.evaluate.level,
    )


def _localize(
    nursery: Nursery, root: Path, params: Params, rows: pd.DataFrame, models: Mapping[str, Package]
) -> list[Localization]:
    """Where each model's maps lie on the scored images that have a box, a record a finding."""
    shapes = dict(zip(rows["image_id"], zip(rows["height"], rows["width"], strict=True), strict=True))
    owners = dict(zip(rows["image_id"], rows["patient_id"], strict=True))
    boxes: dict[str, dict[str, list[Box]]] = {}
    for box in manifest.read_boxes(root / "validate" / "boxes.csv").to_dict("records"):
        image_id, finding = box["image_id"], box["finding"]
        if image_id in shapes and finding in models[CHALLENGER].trained:
            place = localization.in_square((box["x"], box["y"], box["w"], box["h"]), shapes[image_id])
            boxes.setdefault(finding, {}).setdefault(image_id, []).append(place)
    wanted = sorted({image_id for of_finding in boxes.values() for image_id in of_finding})
    maps: dict[str, dict[str, Maps]] = {}
    with ShardReader(root / contract.DATASET, dict(zip(rows["image_id"], rows["sha256"], strict=True))) as reader:
        for role, model in models.items():
            try:
                maps[role] = _maps(nursery, params, model, wanted, reader)
            except DataError:
                if role == CHALLENGER:  # no report could explain it
                    raise
    roles, unmapped = [*models], [role for role in models if role not in maps]
    return [
        localization.localize(
            finding,
            [
                Boxed(
                    patient=owners[image_id],
                    boxes=places,
                    maps={role: of_role[image_id][f] for role, of_role in maps.items()},
                )
                for image_id, places in sorted(boxes.get(finding, {}).items())
            ],
            [role for role in roles if finding in models[role].trained],
            params.evaluate.level,
            unmapped=unmapped,
        )
        for f, finding in enumerate(FINDINGS)
        if finding in models[CHALLENGER].trained
    ]


def _check_maps(
    nursery: Nursery,
    root: Path,
    params: Params,
    asked: HeatMaps | None,
    rows: pd.DataFrame,
    models: Mapping[str, Package],
) -> MapChecks | None:
    """How alike challenger's and champion's maps are with random weights and after small changes, on a sample.

    The sample is one image a patient, first by its digest: each run on the same images takes the same ones.
    """
    if asked is None:
        return None
    sample = rows.sort_values("sha256").drop_duplicates("patient_id").head(asked.images)
    trained = [f for f, finding in enumerate(FINDINGS) if finding in models[CHALLENGER].trained]
    names, own = [FINDINGS[f] for f in trained], dict[str, Maps]()
    draws: dict[str, list[Maps]] = {}
    after: dict[str, dict[str, Alike]] = {how: {} for how in heat_maps.CHANGES}
    with ShardReader(root / contract.DATASET, dict(zip(sample["image_id"], sample["sha256"], strict=True))) as reader:
        pictures = [*itertools.chain(*_decoded(sample["image_id"].tolist(), reader.read, MAPPED))]
    level = params.evaluate.level
    lists = [pictures[start : start + MAPPED] for start in range(0, len(pictures), MAPPED)]
    for role in (role for role in (CHALLENGER, CHAMPION) if role in models):
        try:
            with nursery.of(models[role], params.train) as process:
                own[role] = np.concatenate([process.maps(some) for some in lists])[:, trained]
                draws[role] = [
                    np.concatenate([process.randomized(some, seed) for some in lists], axis=1)[:, :, trained]
                    for seed in range(asked.draws)
                ]
                for how in heat_maps.CHANGES:
                    moved = [process.maps([changed(one, how) for one in some]) for some in lists]
                    others = np.concatenate(moved)[:, trained]
                    after[how][role] = heat_maps.alike(names, own[role], [others], level)
        except DataError:
            if role == CHALLENGER:  # no report could explain it
                raise
    random = heat_maps.by_step(names, own, draws, level)
    return MapChecks(images=len(sample), draws=asked.draws, random=random, steady=after)


def _maps(
    nursery: Nursery, params: Params, model: Package, wanted: Sequence[str], reader: ShardReader
) -> dict[str, Maps]:
    """Image -> (14, h, w)."""
    maps: dict[str, Maps] = {}
    if wanted:
        with nursery.of(model, params.train) as process:
            for pixels in _decoded(wanted, reader.read, MAPPED):
                maps |= zip(wanted[len(maps) :], process.maps(pixels), strict=False)  # the rest is of later lists
    return maps


def _scored(rows: pd.DataFrame, scores: Mapping[str, Scores]) -> Scored:
    return Scored(
        truth=manifest.label_array(rows).astype(np.float64),
        patients=rows["patient_id"].to_numpy(),
        scores=scores,
        uncertain=manifest.uncertain_array(rows),
        cases=[sha256[:12] for sha256 in rows["sha256"]],  # as explain calls its pictures
    )


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


def _test_set_problems(root: Path, frame: pd.DataFrame, period: Period) -> list[Problem]:
    """Whether the test set is the one on record and of this period, and none of its patients has another side too."""
    problems: list[Problem] = []
    test = frame[frame["split"] == "test"]
    if Division.read(root / "split" / "split.json").test_digest != splits.test_digest(test):
        problems.append((Code.TEST_SET_MISMATCH, "The test set is not the one that the split recorded."))
    tested = set(test["patient_id"])
    elsewhere = ~frame["split"].isin(("test", splits.NOT_FRONTAL))
    if both := len(tested & set(frame.loc[elsewhere, "patient_id"])):
        problems.append((Code.SPLIT_MISMATCH, f"{_people(both)} of the test set are on another side of the split too."))
    retired = set(frame.loc[frame["split"] == splits.RETIRED, "patient_id"])
    before = splits.scored_before(frame, period.closed_batches, manifest.read_withdrawn(root))
    if wrong := len(tested & before) + len(retired - before):
        sentence = (
            f"The test set is not that of period {period.number}: {_people(wrong)} are retired, or not, in error."
        )
        problems.append((Code.TEST_SET_MISMATCH, sentence))
    return problems


def _split_problems(models: Mapping[str, Described], test: pd.DataFrame, salt: str) -> list[Problem]:
    """Whether a model was trained on patients of the test set, as far as its package tells."""
    keys = {patient_key(salt, patient) for patient in test["patient_id"].unique()}
    problems: list[Problem] = []
    for role, model in models.items():
        shared = len(keys & model.patients)
        if not model.patients:
            problems.append((_SPLIT_CODES[role], f"It is not on record which patients the {role} was trained on."))
        elif model.contract["training"].get("patient_salt") != salt:
            problems.append(
                (_SPLIT_CODES[role], f"The patients that the {role} was trained on are recorded under another salt.")
            )
        elif shared:
            problems.append((_SPLIT_CODES[role], f"The {role} was trained on {_people(shared)} of the test set."))
    return problems


def _not_scored(model: Described, found: Evidence, rules: PerformanceEvaluation) -> list[Problem]:
    """Whether the challenger was not trained on a finding that the plan judges."""
    judged = [row.finding for row in found.findings if checks.is_evaluable(row.support, rules)]
    names = [finding for finding in judged if finding not in model.trained]
    if not names:
        return []
    sentence = f"The challenger was not trained on {', '.join(names)}, though the plan judges a model by it."
    return [(Code.NOT_SCORED, sentence)]


def facts(model: Described, rows: pd.DataFrame) -> Facts:
    """What the challenger is, from its own package, and where the data are from.

    A package that does not say what its weights started from is taken to have started from unknown ones.

    Args:
        model: the challenger.
        rows: the manifest.
    """
    try:
        start = StartingWeights.model_validate(model.contract["training"].get("starting_weights"))
    except ValidationError:
        start = StartingWeights(start="unknown", patients="unknown")
    return Facts(
        architecture=model.contract["architecture"]["name"],
        findings=model.contract["findings"],
        settings=settings(model.contract),
        sources=sorted(rows["source"].unique()),
        starting_weights=start,
    )


def _people(count: int) -> str:
    return f"{count} patient{'' if count == 1 else 's'}"


# -------------------------------------------------------------------------------------------------- files


def metrics(evaluation: Evaluation) -> dict[str, float]:
    """The main figures as a flat table for `dvc metrics`; a number that does not exist is left out.

    Where the test set was not scored, each name begins with `validation_`.
    """
    figures: dict[str, Figure | None] = {
        "macro_auc": evaluation.macro_challenger,
        "macro_auc_champion": evaluation.macro_champion,
        "macro_auc_difference": evaluation.macro_difference,
        "macro_auc_reference": evaluation.macro_reference,
        "macro_auc_reference_difference": evaluation.macro_reference_difference,
    }
    figures |= {f"auc_{row.finding}": row.challenger for row in evaluation.findings}
    table = {name: figure.value for name, figure in figures.items() if isinstance(figure, Estimate)}
    losses = [
        group.macro_difference.value for group in evaluation.subgroups if isinstance(group.macro_difference, Estimate)
    ]
    if losses:
        table["worst_subgroup_macro_auc_difference"] = min(losses)
    judged = [
        row.average_precision.challenger for row in evaluation.performance if row.finding in evaluation.macro_over
    ]
    precisions = [figure.value for figure in judged if isinstance(figure, Estimate)]
    if precisions and len(precisions) == len(evaluation.macro_over):
        table["mean_average_precision"] = float(np.mean(precisions))
    return table if evaluation.scored == "test" else {f"validation_{name}": value for name, value in table.items()}


def scores_table(rows: pd.DataFrame, scores: Mapping[str, Scores]) -> bytes:
    """Truth and scores of each image; floats have as many digits as give the same float back.

    Columns: `image_id`, `patient_id`, then for each finding `<finding>_truth` (1, 0, -1 for uncertain, or empty) and
    `<finding>_<role>` of each model: challenger, champion and reference, where there are such. A score is empty where
    the model was not trained on the finding.
    """
    columns: dict[str, object] = {"image_id": rows["image_id"], "patient_id": rows["patient_id"]}
    for f, finding in enumerate(FINDINGS):
        columns[f"{finding}_truth"] = rows[finding]
        for role, values in scores.items():
            columns[f"{finding}_{role}"] = ["" if np.isnan(value) else repr(float(value)) for value in values[:, f]]
    return manifest.to_csv(pd.DataFrame(columns), list(columns))


def roc_table(test: pd.DataFrame, scores: Mapping[str, Scores]) -> bytes:
    """ROC curves of all models, thinned: `finding`, `fpr`, `tpr`, `model`. A finding without both kinds has none."""
    truth = manifest.label_array(test)
    tables = [pd.DataFrame({"finding": [], "fpr": [], "tpr": [], "model": []})]
    for f, finding in enumerate(FINDINGS):
        if not ((truth[:, f] == 1).any() and (truth[:, f] == 0).any()):
            continue
        for role, values in scores.items():
            if np.isfinite(values[:, f]).all():
                fpr, tpr = auc.roc_curve(truth[:, f], values[:, f])
                rounded = {"fpr": np.round(fpr, 6), "tpr": np.round(tpr, 6)}
                tables.append(pd.DataFrame({"finding": finding, **rounded, "model": role}))
    return manifest.to_csv(pd.concat(tables), ("finding", "fpr", "tpr", "model"))
