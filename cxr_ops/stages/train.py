"""train: train the network on the packed cache and write it as a package.

Reads `prepare/`; writes `train/package/`, `train/history.csv` (a row an epoch) and `train/train.json`. Checkpoints
stand in the folder that `CXR_CHECKPOINTS` names, or else in `.cxr/checkpoints/<digest of the inputs>` of the
workspace: outside the stage's outputs, so that a second attempt goes on where the first was ended. They go when the
package has been written.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxr_ops.contract import PACKAGE
from cxr_ops.errors import DataError
from cxr_ops.labels import FINDINGS, UNCERTAIN
from cxr_ops.model import checkpoint, loss, network, package, pretrained, training
from cxr_ops.params import Params
from cxr_ops.records import canonical_json, sha256_bytes, sha256_file, write_atomic

HISTORY = ("epoch", "train_loss", "validation_loss", "validation_auc", "learning_rate")


def run(root: Path, params: Params) -> None:
    """Train, and write the package.

    Args:
        root: the workspace.
        params: `train`; `split` goes into the contract, and its salt into the names of patients.

    Raises:
        DataError: `prepare` has not run or its files were altered; there is too little to train or to validate on.
        SettingsError: the weights to start from cannot be had, there is no GPU where one is asked for, or the loss is
            no longer a number.
        StorageError: a checkpoint or the package cannot be written.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written first.
    """
    out = root / "train"
    shutil.rmtree(out, ignore_errors=True)
    index, data, digests = _read_prepared(root / "prepare")
    settings = params.train
    machine = training.choose_machine(settings)
    start, origin = pretrained.read(settings, root)
    if origin.patients == "unknown":
        sys.stderr.write(
            f"{origin.start}: which patients these weights have seen is unknown, so the gate will not promote the "
            "model; next: set train.weights_data and train.weights_patients\n"
        )
    provenance: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "data": digests,
        "images": {"train": len(data.train), "validation": len(data.validation)},
        "patients": int(index["patient_id"].nunique()),
        "patient_salt": params.split.salt,
        "split": params.split.model_dump(mode="json"),
        "starting_weights": origin.model_dump(mode="json"),
        "machine": {"device": machine.device, "precision": machine.precision, "threads": machine.threads},
        "software": _versions(),
    }
    terms = package.contract(
        image_size=data.pixels_RSS.shape[1], mean=pretrained.MEAN, std=pretrained.STD, training=provenance
    )
    inputs = {
        "contract": sha256_bytes(canonical_json(terms)),
        "code": _code_digest(),
        "processor": training.processor(machine),
    }
    named = os.environ.get("CXR_CHECKPOINTS")
    checkpoints = Path(named) if named else root / ".cxr" / "checkpoints" / sha256_bytes(canonical_json(inputs))
    trained = training.train(
        data, settings, contract=terms, machine=machine, start=start, checkpoints=checkpoints, inputs=inputs
    )

    provenance.update(best_epoch=trained.best_epoch, epochs_run=len(trained.history), validation_auc=trained.best_auc)
    patients = {package.patient_key(params.split.salt, patient) for patient in index["patient_id"]}
    digest = package.write(out / PACKAGE, state=trained.state, contract=terms, patients=patients)
    rows = [",".join(f"{row[column]:.6g}" for column in HISTORY) for row in trained.history]
    write_atomic(out / "history.csv", "\n".join([",".join(HISTORY), *rows, ""]).encode())
    summary = {
        "package": digest,
        "best_epoch": trained.best_epoch,
        "epochs_run": len(trained.history),
        "validation_auc": trained.best_auc,
        "train_images": len(data.train),
        "validation_images": len(data.validation),
        "patients": len(patients),
        "seed": settings.seed,
        "precision": machine.precision,
        "device": machine.device,
        "threads": machine.threads,
    }
    write_atomic(out / "train.json", canonical_json(summary))
    checkpoint.remove(checkpoints)


def _read_prepared(folder: Path) -> tuple[pd.DataFrame, training.Data, dict[str, str]]:
    """The index, the arrays and their digests, checked against those that `prepare` recorded."""
    index_path, pixels_path, record_path = (folder / name for name in ("index.csv", "images.npy", "prepare.json"))
    for path in (index_path, pixels_path, record_path):
        if not path.is_file():
            raise DataError(f"prepare/{path.name} is missing", where=path, fix="cxr-ops stage prepare")
    recorded = json.loads(record_path.read_bytes())["files"]
    digests = {path.name: sha256_file(path) for path in (index_path, pixels_path)}
    if recorded != digests:
        raise DataError(
            "the files of prepare are not those that it recorded", where=folder, fix="cxr-ops stage prepare"
        )
    index = pd.read_csv(index_path, dtype={"image_id": str, "patient_id": str, "split": str})
    pixels: npt.NDArray[np.uint8] = np.load(pixels_path, mmap_mode="r")
    sides = {side: np.flatnonzero(index["split"] == side) for side in ("train", "validation")}
    if len(index) != len(pixels) or len(index) != sum(len(rows) for rows in sides.values()):
        raise DataError("prepare/index.csv does not fit prepare/images.npy", where=folder, fix="cxr-ops stage prepare")
    if len(sides["train"]) < 2 or len(sides["validation"]) == 0:
        raise DataError(
            f"there are {len(sides['train'])} images to train on and {len(sides['validation'])} to validate on",
            where=index_path,
            fix="ingest more data, or change the fractions of split in params.yaml",
        )
    truth = index[list(FINDINGS)].to_numpy(np.float32)
    data = training.Data(
        pixels_RSS=pixels,
        truth_RK=np.where(truth == UNCERTAIN, np.float32(np.nan), truth),
        train=sides["train"],
        validation=sides["validation"],
    )
    return index, data, digests


def _versions() -> dict[str, str]:
    import torch
    import torchvision

    return {"torch": str(torch.__version__), "torchvision": str(torchvision.__version__)}


def _code_digest() -> str:
    """What decides the weights besides data and settings: a checkpoint of other code is not gone on from."""
    files = [Path(str(module.__file__)) for module in (network, loss, pretrained, training)]
    return sha256_bytes(canonical_json({file.name: sha256_file(file) for file in files}))
