"""`cxr-ops train --ablate`: what each choice of the training brings, measured on the validation side.

The baseline is plain: from scratch, binary cross-entropy, every image once an epoch, one phase. Each choice changes one
thing of it, and all are trained with the same seeds, by the code of the stage `train`. A cell is one choice with one
seed. A finished cell is kept under a digest of all that it depends on, and one that was ended goes on from its
checkpoint, so that the same command finishes the table.

No test patient is looked at: no look is spent.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from cxr_ops import contract, recipe
from cxr_ops.data import contrast, manifest
from cxr_ops.errors import DataError, SettingsError
from cxr_ops.labels import FINDINGS, nearest
from cxr_ops.params import Params, Prepare, Train
from cxr_ops.records.base import Record, canonical_json, sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.evidence import Estimate, Figure, Undefined
from cxr_ops.records.training import Prepared, StartingWeights, Trained
from cxr_ops.report import ablation as report
from cxr_ops.report.ablation import Ablation, Row
from cxr_ops.stats import auc, ranking

BASELINE: Final = "baseline"
TRANSFER: Final = "transfer"
LEVEL: Final = 0.95
MIN_PATIENTS: Final = 2  # of each kind, for a finding to count in the mean AUC
# The baseline has none of what a choice brings; everything else is as in params.yaml.
PLAIN: Final[Mapping[str, Any]] = {
    "weights": "none",
    "weights_sha256": None,
    "weights_data": (),
    "weights_patients": None,
    "head": "linear",
    "dropout": 0.0,
    "freeze_epochs": 0,
    "frozen_blocks": 0,
    "rate_decay": 1.0,
    "loss": "bce",
    "label_smoothing": 0.0,
    "class_weights": "none",
    "sampler": "shuffle",
    "ema": None,
    "calibrate": "none",
}

SEEN: Final = "The weights of transfer learning may have seen the validation patients, and its gain may be theirs."

Scores = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is changed of the row that it is compared with.

    Attributes:
        name: as in the table.
        says: what it is, in a sentence.
        train: settings of `train`.
        prepare: settings of `prepare`.
        against: name of the choice that it is compared with, and that it builds on.
    """

    name: str
    says: str
    train: Mapping[str, Any] = field(default_factory=dict)
    prepare: Mapping[str, Any] = field(default_factory=dict)
    against: str = BASELINE


class Cell(Record):
    """One choice trained with one seed: the AUC of each epoch as training saw it, and the digest of its scores."""

    key: str
    settings: dict[str, Any]
    validation_auc: list[float]
    best_epoch: int
    scores_sha256: str


def choices(params: Params, images: int) -> list[Choice]:
    """The choices that are compared, the baseline first.

    Args:
        params: what the baseline is made of; weights that `train.weights` names are those of transfer learning, which
            are otherwise ImageNet's.
        images: that are trained on.
    """
    settings = params.train
    start = {
        name: getattr(settings, name) for name in ("weights", "weights_sha256", "weights_data", "weights_patients")
    }
    if settings.weights == "none":
        start = {"weights": "imagenet"}
    steps = settings.epochs * math.ceil(images / settings.batch_size)
    decay = round(1 - 10 / max(100, steps), 4)
    frozen = max(1, settings.epochs // 4)
    still = {name: 0.0 for name in Train.model_fields if name.startswith("augment_")}
    return [
        Choice(name=BASELINE, says="from scratch, binary cross-entropy, every image once an epoch, one phase"),
        Choice(
            name="class_weights",
            says="rebalancing by loss weight: positives count as much as negatives",
            train={"class_weights": "inverse"},
        ),
        Choice(
            name="balanced_sampler",
            says="rebalancing by sampler: images with rare findings are drawn more often",
            train={"sampler": "balanced"},
        ),
        Choice(name="focal", says="focal loss", train={"loss": "focal"}),
        Choice(name="asymmetric", says="asymmetric loss", train={"loss": "asymmetric"}),
        Choice(name="auc_loss", says="a hinge on pairs of a positive and a negative", train={"loss": "auc"}),
        Choice(name="label_smoothing", says="labels drawn by 0.1 towards 0.5", train={"label_smoothing": 0.1}),
        Choice(name="mlp_head", says="a head with a hidden layer and dropout", train={"head": "mlp", "dropout": 0.2}),
        Choice(name="no_augmentation", says="pictures as they are", train=still),
        Choice(name="ema", says="moving average of the weights, over about a tenth of the steps", train={"ema": decay}),
        Choice(name="clahe", says="contrast equalised in tiles, with a limit", prepare={"contrast": "clahe"}),
        Choice(name=TRANSFER, says=f"transfer learning: starts from {_called(start)}", train=start),
        Choice(
            name="two_phases",
            says=f"the backbone stands still for {frozen} of the epochs",
            train={**start, "freeze_epochs": frozen},
            against=TRANSFER,
        ),
        Choice(
            name="layer_rates",
            says="each part of the backbone learns at half the rate of the next one",
            train={**start, "rate_decay": 0.5},
            against=TRANSFER,
        ),
    ]


def _called(start: Mapping[str, Any]) -> str:
    """The weights in words; where a file stands is nobody's business who reads the table."""
    if start["weights"] == "imagenet":
        return "ImageNet's weights"
    if start["weights"] == "champion":
        return "the champion's weights"
    seen = " and ".join(start["weights_data"]) or "data that nobody declared"
    return f"{Path(start['weights']).name}, which was trained on {seen}"


def run(
    root: Path, params: Params, *, out: Path, seeds: int = 3, only: Sequence[str] = (), say: Say = print
) -> Ablation:
    """Train every cell that is not there yet, and write the table after each seed.

    Args:
        root: a workspace in which `prepare` has run. A choice of contrast also needs what `prepare` reads.
        params: the workspace's settings.
        out: folder of the results: `ablation.json`, `.md` and `.html`, and the finished cells.
        seeds: how many, from `train.seed` on.
        only: names of choices; all of them if it is empty. The baseline and what they are compared with come along.
        say: is told what goes on, a line at a time.

    Raises:
        DataError: `prepare` has not run, or the validation side cannot rank any finding.
        SettingsError: a choice is unknown; or the baseline cannot be trained with these settings.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written first.
    """
    from cxr_ops.model.machine import choose_machine

    validation, images, learned = _read_index(root)
    wanted = _wanted(choices(params, images), only)
    starts, skipped = dict[str, StartingWeights](), dict[str, str]()
    for choice in wanted:
        if choice.prepare and not (root / "validate" / "manifest.csv").is_file():
            skipped[choice.name] = "the source pictures are not here, and they would have to be packed anew"
            continue
        try:
            starts[choice.name] = _start(choice, params, root)
        except SettingsError as error:  # weights that are not here and cannot be downloaded
            skipped[choice.name] = error.what
    truth = manifest.label_array(validation).astype(np.float64)
    truth[:, ~learned] = np.nan  # no cell has a score for these
    patients = validation["patient_id"].to_numpy()
    found: dict[str, list[tuple[Cell, Scores]]] = {choice.name: [] for choice in wanted}
    numbers = range(params.train.seed, params.train.seed + seeds)
    result: Ablation | None = None
    for place, seed in enumerate(numbers):
        for choice in wanted:
            if choice.name in skipped:
                continue
            say(f"ablation: {choice.name}, seed {seed} ({place + 1} of {seeds})")
            try:
                found[choice.name].append(_measure(choice, starts[choice.name], seed, root, params, out))
            except SettingsError as error:
                if choice.name == BASELINE:
                    raise
                skipped[choice.name] = error.what  # such as a loss that is no longer a number
        why = {choice.name: skipped.get(choice.name) or skipped.get(choice.against) for choice in wanted}
        rows = [
            Row(**_bare(choice), skipped=why[choice.name]) if why[choice.name] else _row(choice, found, truth, patients)
            for choice in wanted
        ]
        result = Ablation(
            rows=rows,
            seeds=list(numbers[: place + 1]),
            level=LEVEL,
            epochs=params.train.epochs,
            image_size=params.prepare.image_size,
            train_images=images,
            validation_images=len(validation),
            validation_patients=len(np.unique(patients)),
            findings=_findings(truth, patients),
            data=Prepared.read(root / "prepare" / "prepare.json").files,
            machine=asdict(choose_machine(params.train)),
            notes=[SEEN] if any(start.patients in ("training", "unknown") for start in starts.values()) else [],
        )
        _write(result, out)
    if result is None:
        raise SettingsError("an ablation needs at least one seed", where="--seeds")
    return result


def _wanted(known: list[Choice], only: Sequence[str]) -> list[Choice]:
    names = [choice.name for choice in known]
    for name in only:
        if name not in names:
            guess = nearest(name, names)
            raise SettingsError(
                f"{name!r} is not a choice" + (f"; did you mean {guess!r}?" if guess else ""),
                where="--only",
                fix=f"the choices are {', '.join(names)}",
            )
    chosen = set(only or names) | {BASELINE}
    chosen |= {choice.against for choice in known if choice.name in chosen}
    return [choice for choice in known if choice.name in chosen]


def _start(choice: Choice, params: Params, root: Path) -> StartingWeights:
    """What the weights that a choice starts from are."""
    from cxr_ops.model import pretrained

    index = pd.read_csv(root / "prepare" / "index.csv", usecols=["patient_id"], dtype=str)
    settings = _settings(choice, params, params.train.seed, root)
    return pretrained.read(settings, root, split=params.split, patients=index["patient_id"]).origin


# ------------------------------------------------------------------------------------------------- cells


def _settings(choice: Choice, params: Params, seed: int, root: Path) -> Train:
    """The baseline's settings with the choice's. A file of weights is named from the workspace that they stand in."""
    values = params.train.model_dump() | dict(PLAIN) | dict(choice.train) | {"seed": seed}
    if values["weights"] not in ("none", "imagenet", "champion"):
        values["weights"] = str((root / values["weights"]).resolve())
    return Params.check({"train": values}, f"the choice {choice.name}").train


def _measure(
    choice: Choice, start: StartingWeights, seed: int, root: Path, params: Params, out: Path
) -> tuple[Cell, Scores]:
    """Train a cell, or read it: the record, and the probabilities of the validation images, (N, 14)."""
    from cxr_ops.model import package, scoring
    from cxr_ops.model.machine import choose_machine, reproducible
    from cxr_ops.stages import train as stage

    settings = _settings(choice, params, seed, root)
    prepared = _prepared(choice, root, params, out)
    machine = choose_machine(settings)
    key = sha256_bytes(
        canonical_json(
            {
                "settings": settings.model_dump(mode="json", exclude={"weights"}),  # a file may stand elsewhere
                "start": start.model_dump(mode="json"),
                "data": Prepared.read(prepared / "prepare.json").files,
                "machine": [machine.device, machine.precision, machine.threads],
                "code": recipe.code_digest(),
            }
        )
    )[:16]
    kept = _read_cell(out / "cells", key)
    if kept is not None:
        return kept
    work = out / "work" / key
    work.mkdir(parents=True, exist_ok=True)
    for name, target in (("prepare", prepared), (contract.START, root / contract.START)):
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(target.resolve())
    stage.run(work, params.model_copy(update={"train": settings, "prepare": _prepare(choice, params)}))
    index = pd.read_csv(prepared / "index.csv", usecols=["split"])
    pixels: npt.NDArray[np.uint8] = np.load(prepared / "images.npy", mmap_mode="r")
    rows = np.flatnonzero(index["split"] == "validation")
    model = package.load(work / "train" / contract.PACKAGE)
    with reproducible(machine):
        scores = scoring.score_packed(model, pixels[rows], device=machine.device)
    history = pd.read_csv(work / "train" / "history.csv")
    made = Trained.read(work / "train" / "train.json")
    cells = out / "cells"
    cells.mkdir(exist_ok=True)
    with (cells / f"{key}.npy.part").open("wb") as file:
        np.save(file, scores)
        file.flush()
        os.fsync(file.fileno())
    (cells / f"{key}.npy.part").replace(cells / f"{key}.npy")
    cell = Cell(
        key=key,
        settings=settings.model_dump(mode="json"),
        validation_auc=history["validation_auc"].tolist(),
        best_epoch=made.best_epoch,
        scores_sha256=sha256_file(cells / f"{key}.npy"),
    )
    cell.write(cells / f"{key}.json")
    shutil.rmtree(work)
    return cell, scores


def _read_cell(folder: Path, key: str) -> tuple[Cell, Scores] | None:
    """A finished cell; None where there is none, or where its scores are not those on record."""
    if not (folder / f"{key}.json").is_file():
        return None
    cell = Cell.read(folder / f"{key}.json")
    scores = folder / f"{key}.npy"
    if not scores.is_file() or sha256_file(scores) != cell.scores_sha256:
        return None
    return cell, np.load(scores)


def _prepare(choice: Choice, params: Params) -> Prepare:
    return params.prepare.model_copy(update={"contrast": "none", **choice.prepare})


def _prepared(choice: Choice, root: Path, params: Params, out: Path) -> Path:
    """The folder with the pictures that a choice is trained on; packed here where the workspace has others."""
    from cxr_ops.stages import prepare

    settings = _prepare(choice, params)
    there = Prepared.read(root / "prepare" / "prepare.json")
    if (there.image_size, there.contrast) == (settings.image_size, contrast.terms(settings)):
        return root / "prepare"
    index = sha256_file(root / "prepare" / "index.csv")
    key = sha256_bytes(canonical_json({"prepare": settings.model_dump(mode="json"), "index": index}))[:16]
    folder = out / "prepared" / key
    if not (folder / "prepare" / "prepare.json").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        for name in (contract.DATASET, "validate", "split"):
            (folder / name).unlink(missing_ok=True)
            (folder / name).symlink_to((root / name).resolve())
        prepare.run(folder, params.model_copy(update={"prepare": settings}))
    if sha256_file(folder / "prepare" / "index.csv") != index:
        raise DataError("prepare/ is not of the split that stands here", where=root, fix="cxr-ops prepare")
    return folder / "prepare"


def _read_index(root: Path) -> tuple[pd.DataFrame, int, npt.NDArray[np.bool_]]:
    """The validation rows of the packed pictures, how many there are to train on, and which findings these teach."""
    path = root / "prepare" / "index.csv"
    if not path.is_file():
        raise DataError("prepare/index.csv is missing", where=path, fix="cxr-ops open, then dvc repro prepare")
    index = pd.read_csv(path, dtype={"image_id": str, "patient_id": str, "split": str})
    validation = index[index["split"] == "validation"].reset_index(drop=True)
    taught = index[index["split"] == "train"]
    return validation, len(taught), ranking.rankable(manifest.label_array(taught))


# ------------------------------------------------------------------------------------------------ figures


def over_seeds(differences: Sequence[float], level: float) -> Figure:
    """Mean of differences that are paired by seed, with Student's interval.

    >>> found = over_seeds([0.01, 0.02, 0.03], 0.95)
    >>> round(found.value, 3), round(found.low, 3), round(found.high, 3)
    (0.02, -0.005, 0.045)
    """
    n = len(differences)
    if n < 2:
        return Undefined(reason="one seed has no interval", needed="at least 2 seeds")
    value, se = float(np.mean(differences)), float(np.std(differences, ddof=1)) / math.sqrt(n)
    reach = float(special.stdtrit(n - 1, (1 + level) / 2)) * se
    return Estimate(value=value, se=se, low=value - reach, high=value + reach, level=level, df=n - 1)


def over_patients(
    truth: Floats, patients: npt.NDArray[Any], ours: Sequence[Scores], theirs: Sequence[Scores], level: float
) -> Figure:
    """Mean over seeds of the difference of mean AUCs, with an interval clustered by patient.

    Args:
        truth: (N, 14) 1, 0 or NaN.
        patients: (N,) whose image it is.
        ours: (N, 14) scores for each seed.
        theirs: the same of the other choice.
        level: of the two-sided interval, in (0, 1).
    """
    first, second = (_rankings(truth, patients, models) for models in (ours, theirs))
    same = all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
    return auc.mean_difference(first, second, level, same_order=same)


def _rankings(truth: Floats, patients: npt.NDArray[Any], models: Sequence[Scores]) -> list[auc.Ranking]:
    owners = np.unique(patients, return_inverse=True)[1]
    over = [FINDINGS.index(name) for name in _findings(truth, patients)]
    return [auc.rank(truth[:, f], scores[:, f], owners, int(owners.max()) + 1) for scores in models for f in over]


def _findings(truth: Floats, patients: npt.NDArray[Any]) -> list[str]:
    """The findings with enough positive and negative patients for a mean AUC."""
    kept = [
        name
        for f, name in enumerate(FINDINGS)
        if all(len(np.unique(patients[truth[:, f] == kind])) >= MIN_PATIENTS for kind in (0, 1))
    ]
    if not kept:
        raise DataError(
            f"no finding has {MIN_PATIENTS} positive and {MIN_PATIENTS} negative patients in the validation set",
            where="prepare/index.csv",
            fix="ingest more data, or raise split.validation",
        )
    return kept


def reached(history: Sequence[float], target: float) -> int | None:
    """First epoch, counted from 1, whose AUC is at least the target.

    >>> reached([0.5, 0.7, 0.6, 0.8], 0.65), reached([0.5], 0.65)
    (2, None)
    """
    return next((epoch for epoch, value in enumerate(history, start=1) if value >= target), None)


def _row(
    choice: Choice, found: Mapping[str, list[tuple[Cell, Scores]]], truth: Floats, patients: npt.NDArray[Any]
) -> Row:
    """The row of a choice that was measured with every seed."""

    def aucs(name: str) -> list[float]:
        return [float(np.mean([one.value for one in _rankings(truth, patients, [s])])) for _, s in found[name]]

    mine = aucs(choice.name)
    bare: dict[str, Any] = {
        **_bare(choice),
        "aucs": mine,
        "auc": float(np.mean(mine)),
        "cells": [cell.key for cell, _ in found[choice.name]],
    }
    if choice.name == BASELINE:
        return Row(**bare, target=[cell.best_epoch for cell, _ in found[BASELINE]])
    others = aucs(choice.against)
    differences = [one - other for one, other in zip(mine, others, strict=True)]
    pairs = list(zip(found[choice.name], found[choice.against], strict=True))
    first = [reached(one.validation_auc, max(other.validation_auc)) for (one, _), (other, _) in pairs]
    target = [other.best_epoch for _, (other, _) in pairs]
    ours, theirs = ([pair[side][1] for pair in pairs] for side in (0, 1))
    return Row(
        **bare,
        over_seeds=over_seeds(differences, LEVEL),
        over_patients=over_patients(truth, patients, ours, theirs, LEVEL),
        relative=float(np.mean(differences) / np.mean(others)),
        target=target,
        reached=first,
        saved=_saved(first, target),
    )


def _bare(choice: Choice) -> dict[str, Any]:
    changed = {"train": choice.train, "prepare": choice.prepare}
    settings = {f"{section}.{name}": value for section, values in changed.items() for name, value in values.items()}
    against = None if choice.name == BASELINE else choice.against
    return {"name": choice.name, "says": choice.says, "settings": settings, "against": against}


def _saved(first: Sequence[int | None], target: Sequence[int]) -> Figure:
    if missed := sum(epoch is None for epoch in first):
        return Undefined(reason=f"not reached with {missed} of {len(first)} seeds")
    return over_seeds([1 - (mine or 0) / other for mine, other in zip(first, target, strict=True)], LEVEL)


# ------------------------------------------------------------------------------------------------ results


def _write(found: Ablation, out: Path) -> None:
    found.write(out / "ablation.json")
    write_atomic(out / "ablation.md", report.markdown(found).encode())
    write_atomic(out / "ablation.html", report.render(found).encode())
