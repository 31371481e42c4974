"""Records of what training starts from and what it made."""

from __future__ import annotations

from typing import Any, Literal

from cxr_ops.records.base import Kept, Record


class Start(Record):
    """What training starts from, if from the champion: `start/start.json`, with `start/package` beside it.

    asked: whether `train.weights` was `champion` when the run was opened. package: the champion's digest then; None
    before the first release. Where it was not asked for, this file is always the same, whoever is champion, so that a
    new champion makes no other training stale.
    """

    asked: bool
    package: str | None = None


class StartingWeights(Record):
    """What the challenger's weights started from, and what those had seen.

    start: `none`, `imagenet`, `champion` or the name of a file. training_data: what is declared of it.
    patients: `none` (no patient of this data set), `training` (only patients of its training and validation sides),
    `test` (patients of its test side among them), `unknown`.
    """

    start: str
    sha256: str | None = None
    training_data: list[str] = []
    patients: Literal["none", "training", "test", "unknown"]


class Prepared(Kept):
    """The packed pictures: `prepare/prepare.json`.

    `image_size` is their side in pixels, `contrast` what was done to their grey values; `train_mean` and `train_std`
    are of the training pixels, 0 to 1. `files` maps `images.npy` and `index.csv` to their SHA-256.
    """

    image_size: int
    contrast: dict[str, Any] = {"name": "none"}
    rows: int
    train_mean: float
    train_std: float
    files: dict[str, str]


class Trained(Kept):
    """What training made: `train/train.json`. `package` is the digest of the package, `validation_auc` of its epoch."""

    package: str
    best_epoch: int
    epochs_run: int
    validation_auc: float
    train_images: int
    validation_images: int
    patients: int
    seed: int
    device: str
    precision: str
    threads: int
