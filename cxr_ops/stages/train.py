"""train: train the network on the packed cache and write it as a package.

Reads `prepare/`; writes `train/package/`, `train/history.csv` (a row an epoch) and `train/train.json`. Checkpoints
stand in the folder that `CXR_CHECKPOINTS` names, or else in `.cxr/checkpoints/<digest of the inputs>` of the
workspace: outside the stage's outputs, so that a second attempt goes on where the first was ended. They go when the
package has been written.

With `train.devices` above 1 this process starts as many by torchrun, each of which runs this stage, and waits for them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from cxr_ops import recipe, voice
from cxr_ops.audit.package import patient_key
from cxr_ops.contract import PACKAGE
from cxr_ops.data import contrast
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.model import checkpoint, distributed, machine, package, pretrained, progress, step, training
from cxr_ops.params import Params, Prepare
from cxr_ops.records.base import canonical_json, sha256_bytes, sha256_file, write_atomic
from cxr_ops.records.data import GENERATED_ID, NOTICE
from cxr_ops.records.training import Prepared, Trained
from cxr_ops.stats import ranking

_PARTS = "CXR_PARTS"  # tells processes that are started again into how many parts a batch is cut at least
_PREPARE = "cxr-ops stage prepare --run RUN; in a checkout: dvc repro prepare"
HISTORY = ("epoch", "train_loss", "validation_loss", "validation_auc", "learning_rate")


def run(root: Path, params: Params) -> None:
    """Train, and write the package.

    Args:
        root: the workspace.
        params: `train`; `prepare` and `split` go into the contract, and the salt into the names of patients.

    Raises:
        DataError: `prepare` has not run, or with other settings, or its files were altered; there is too little to
            train or to validate on.
        SettingsError: the weights to start from cannot be had, there are fewer GPUs than asked for, or the loss is no
            longer a number.
        StorageError: a checkpoint or the package cannot be written.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written first.
        CxrError: one of several processes was killed.
    """
    shutil.rmtree(root / "train", ignore_errors=True)
    if params.train.devices > 1 and not distributed.launched():
        _start_processes(root, params)
        return
    with distributed.join(params.train.devices, machine.choose_device(params.train)) as ranks:
        _train(root, params, ranks)


def _start_processes(root: Path, params: Params) -> None:
    """Run this stage in several processes; again, in more parts, as long as one of them runs out of memory."""
    machine.check_processes(params.train)
    parts, short = params.train.accumulate, True
    with tempfile.TemporaryDirectory(prefix="cxr-train-") as folder:
        settings = Path(folder, "params.yaml")
        settings.write_text(yaml.safe_dump(params.model_dump(mode="json", by_alias=True)), encoding="utf-8")
        stage = [sys.executable, "-m", "cxr_ops.stages", "train", str(root.resolve()), str(settings)]
        while short:
            try:
                distributed.launch(["env", f"{_PARTS}={parts}", *stage], params.train.devices)
                short = False
            except distributed.ShortOfMemoryError as error:
                parts = min(2 * parts, params.train.batch_size // 2)
                sys.stderr.write(f"train: {error.what}: from now on a batch is worked through in {parts} parts\n")


def _train(root: Path, params: Params, ranks: distributed.Ranks) -> None:
    """Train in this process, one of `ranks`, of which the first writes the outputs."""
    out = root / "train"
    console = voice.console(quiet=not ranks.first)
    with progress.busy(console, "checks the packed pictures", tells=ranks.first):
        index, data, digests = _read_prepared(root / "prepare", params.prepare)
    data, trained_on = _leave_out(data, root / "prepare" / "index.csv")
    if ranks.first and (untrained := [name for name in FINDINGS if name not in trained_on]):
        sys.stderr.write(
            f"train: not trained, and not scored later, for want of positive or negative images to train on: "
            f"{', '.join(untrained)}\n"
        )
    settings = params.train
    given = machine.choose_machine(settings)
    if not ranks.first:
        ranks.wait()  # what is downloaded, is once
    with progress.busy(console, "reads the weights to start from", tells=ranks.first):
        start = pretrained.read(settings, root, split=params.split, patients=index["patient_id"])
    if ranks.first:
        ranks.wait()
    if settings.weights == "champion" and start.origin.start != "champion" and ranks.first:
        sys.stderr.write(f"there is no champion yet: this first training starts from {start.origin.start} weights\n")
    if start.origin.patients == "unknown" and ranks.first:
        of_file = settings.weights != "champion"
        fix = "set train.weights_data and train.weights_patients" if of_file else "start from other weights"
        sys.stderr.write(
            f"{start.origin.start}: which patients these weights have seen is unknown, so the gate will not promote "
            f"the model; next: {fix}\n"
        )
    provenance: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "data": digests,
        "images": {"train": len(data.train), "validation": len(data.validation)},
        "patients": int(index["patient_id"].nunique()),
        "patient_salt": params.split.salt,
        "split": params.split.model_dump(mode="json"),
        "prepare": params.prepare.model_dump(mode="json"),
        "starting_weights": start.origin.model_dump(mode="json"),
        "machine": asdict(given),
        "software": _versions(),
    }
    if index["patient_id"].str.startswith(GENERATED_ID).any():
        provenance["notice"] = NOTICE
    terms = package.contract(
        image_size=params.prepare.image_size,
        mean=pretrained.MEAN,
        std=pretrained.STD,
        training=provenance,
        head=settings.head,
        head_width=settings.head_width,
        dropout=settings.dropout,
        contrast=contrast.terms(params.prepare),
        trained=trained_on,
    )
    inputs = {
        "contract": sha256_bytes(canonical_json(terms)),
        "code": recipe.code_digest(),
        "processor": machine.processor(given),
    }
    named = os.environ.get("CXR_CHECKPOINTS")
    checkpoints = Path(named) if named else root / ".cxr" / "checkpoints" / sha256_bytes(canonical_json(inputs))
    trained = training.train(
        data,
        settings,
        contract=terms,
        machine=given,
        start=start.state,
        checkpoints=checkpoints,
        inputs=inputs,
        ranks=ranks,
        parts=int(os.environ.get(_PARTS, "1")),
    )
    if not ranks.first:
        return

    provenance.update(
        best_epoch=trained.best_epoch,
        epochs_run=len(trained.history),
        validation_auc=trained.best_auc,
        parts=trained.parts,  # of a batch: more than train.accumulate where memory ran out
    )
    patients = {patient_key(params.split.salt, patient) for patient in index["patient_id"]}
    with progress.busy(console, "writes the package"):
        digest = package.write(out / PACKAGE, state=trained.state, contract=terms, patients=patients | start.patients)
    rows = [",".join(f"{row[column]:.6g}" for column in HISTORY) for row in trained.history]
    write_atomic(out / "history.csv", "\n".join([",".join(HISTORY), *rows, ""]).encode())
    Trained(
        package=digest,
        best_epoch=trained.best_epoch,
        epochs_run=len(trained.history),
        validation_auc=trained.best_auc,
        train_images=len(data.train),
        validation_images=len(data.validation),
        patients=len(patients),
        seed=settings.seed,
        **asdict(given),
    ).write(out / "train.json")
    checkpoint.remove(checkpoints)


def _read_prepared(folder: Path, wanted: Prepare) -> tuple[pd.DataFrame, step.Data, dict[str, str]]:
    """The index, the arrays and their digests, checked against what `prepare` recorded, which must be of `wanted`."""
    index_path, pixels_path, record_path = (folder / name for name in ("index.csv", "images.npy", "prepare.json"))
    for path in (index_path, pixels_path, record_path):
        if not path.is_file():
            raise DataError(f"prepare/{path.name} is missing", where=path, fix=_PREPARE)
    recorded = Prepared.read(record_path)
    made = {"image_size": recorded.image_size, "contrast": recorded.contrast}
    if made != {"image_size": wanted.image_size, "contrast": contrast.terms(wanted)}:
        raise DataError(
            f"the pictures were prepared with other settings than params.yaml has now: {made}",
            where=record_path,
            fix=_PREPARE,
        )
    digests = {path.name: sha256_file(path) for path in (index_path, pixels_path)}
    if recorded.files != digests:
        raise DataError("the files of prepare are not those that it recorded", where=folder, fix=_PREPARE)
    index = pd.read_csv(index_path, dtype={"image_id": str, "patient_id": str, "split": str})
    pixels: npt.NDArray[np.uint8] = np.load(pixels_path, mmap_mode="r")
    sides = {side: np.flatnonzero(index["split"] == side) for side in ("train", "validation")}
    if len(index) != len(pixels) or len(index) != sum(len(rows) for rows in sides.values()):
        raise DataError("prepare/index.csv does not fit prepare/images.npy", where=folder, fix=_PREPARE)
    if len(sides["train"]) < 2 or len(sides["validation"]) == 0:
        raise DataError(
            f"there are {len(sides['train'])} images to train on and {len(sides['validation'])} to validate on",
            where=index_path,
            fix="ingest more data, or change the fractions of split in params.yaml",
        )
    truth = index[list(FINDINGS)].to_numpy(np.float32)
    data = step.Data(
        pixels_RSS=pixels,
        truth_RK=np.where(truth == UNCERTAIN, np.float32(np.nan), truth),
        train=sides["train"],
        validation=sides["validation"],
    )
    return index, data, digests


def _leave_out(data: step.Data, where: Path) -> tuple[step.Data, list[str]]:
    """The data without labels of findings that cannot be learned, and the findings that can.

    Without a positive and a negative image to train on, an output would show what the others have in common.
    """
    learned = ranking.rankable(data.truth_RK[data.train])
    if not learned.any():
        raise DataError(
            "no finding has both a positive and a negative image to train on",
            where=where,
            fix="ingest more data, or change the fractions of split in params.yaml",
        )
    truth = np.where(learned, data.truth_RK, np.float32(np.nan))
    return replace(data, truth_RK=truth), [name for name, kept in zip(FINDINGS, learned, strict=True) if kept]


def _versions() -> dict[str, str]:
    import torch
    import torchvision

    return {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}
