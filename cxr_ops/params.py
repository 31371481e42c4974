"""The settings of the science: `params.yaml`, one section a stage, each a frozen class, checked when it is built.

An unknown key is an error that names the nearest known one. Rules of promotion are in `pccp.yaml`; addresses and
secrets in the environment; nothing anywhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cxr_ops.errors import SettingsError
from cxr_ops.labels import nearest

# Settings that say something of the machine or of a file, and nothing of the model: a plan cannot bound them.
NOT_OF_THE_MODEL: Final = frozenset(
    f"train.{key}"
    for key in (
        "device",
        "devices",
        "compile",
        "threads",
        "precision",
        "weights_sha256",
        "weights_data",
        "weights_patients",
    )
)


_SHOWN: Final = 60  # characters of a wrong value; a whole part of a plan would hide what is wrong with it


class Section(BaseModel):
    """A section of `params.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Validate(Section):
    """What the data must be like. The expectations themselves are files, so that they can be read and reviewed."""

    suites: tuple[str, ...] = (
        "expectations/table.json",
        "expectations/labels.json",
        "expectations/images.json",
        "expectations/dataset.json",
    )
    min_images: int = Field(100, ge=1)
    min_patients: int = Field(50, ge=3)


class Ingest(Section):
    """When a new batch enters the data set.

    max_quarantined: with `--on-bad quarantine`, the largest share of a batch's rows that may be left out; a batch with
        more bad rows is refused.
    drift: what it means that shares of findings, views, sexes or ages in a batch are not those of the data set:
        `warning` lets it enter and says so, `failure` refuses it.
    drift_alpha: probability of such a finding, of any share at all, in a batch of patients like those of the data set.
    """

    max_quarantined: float = Field(0.2, ge=0, lt=1)
    drift: Literal["warning", "failure"] = "warning"
    drift_alpha: float = Field(0.01, gt=0, lt=1)


class Split(Section):
    """Which patients are trained on and which are tested on, decided by a keyed hash of the patient id.

    The salt is public. Changing it, or a fraction, moves patients, and so starts a new lineage.
    """

    salt: str = Field("cxr-ops-1", min_length=1)
    validation: float = Field(0.1, gt=0, lt=1)
    test: float = Field(0.25, gt=0, lt=1)

    @model_validator(mode="after")
    def _leaves_training(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation + test must leave patients to train on: their sum must be below 1")
        return self


class Prepare(Section):
    """The picture that the network sees. It is the same at training, evaluation and serving, and part of the contract.

    image_size: side in pixels.
    contrast: what is done to the grey values before the picture is resized. `none`; `percentile`: stretched so that
        `window_low` per cent of the pixels are black and those above `window_high` per cent white; `equalize`:
        histogram equalisation; `clahe`: the same in `clahe_tiles` x `clahe_tiles` tiles, with the contrast limited to
        `clahe_clip`.
    """

    image_size: int = Field(96, ge=32, le=1024)
    contrast: Literal["none", "percentile", "equalize", "clahe"] = "none"
    window_low: float = Field(0.5, ge=0, lt=50)
    window_high: float = Field(99.5, gt=50, le=100)
    clahe_clip: float = Field(2.0, gt=0, le=40)
    clahe_tiles: int = Field(8, ge=1, le=32)


class Train(Section):
    """How the network is trained. Budgets are epochs, never time, so that a slow machine gives the same model.

    weights: `imagenet` (torchvision's, downloaded once), `none` (from scratch), `champion` (the model in use; before
        there is one, `imagenet`) or the path of a .safetensors file.
    weights_sha256: SHA-256 of that file. DVC sees settings, not the file: other weights must be another setting.
    weights_data: the data sets that the file's weights have seen, by name. Declared here and not beside the file, for
        the same reason, and not inside, so that the file may stay as its publisher made it.
    weights_patients: which patients of this data set are among them: `none`, `training` (those of its training and
        validation sides only), `test` or `unknown`. A file with nothing declared counts as unknown, and such a model is
        not promoted.

    head: `linear` (one layer behind global average pooling) or `mlp` (batch normalisation, dropout, a layer of
        `head_width` units with ReLU, dropout, the last layer).
    dropout: share of the features that are left out before each layer of the head.

    epochs: of both phases together.
    freeze_epochs: the first phase. Only the head learns; the backbone's weights and the statistics of its batch
        normalisation stand still.
    frozen_blocks: how many of the five parts of the backbone (stem, four dense blocks) stand still in the second phase.
    rate_decay: learning rate of each part of the backbone, as a multiple of the next one's towards the head.
    patience: epochs without a better mean validation AUC after which training stops.

    loss: `bce`, `focal` (Lin et al., ICCV 2017), `asymmetric` (Ridnik et al., ICCV 2021) or `auc` (a squared hinge on
        pairs of a positive and a negative).
    label_smoothing: how far labels are drawn from 0 and 1 towards 0.5; not of `auc`.
    class_weights: weight of a finding's positives. `none`, `inverse` (negatives / positives) or `effective` (effective
        numbers, Cui et al., CVPR 2019); not of `auc`.
    max_positive_weight: the largest such weight.
    focal_gamma, asymmetric_positive, asymmetric_negative, asymmetric_clip, auc_margin: of these losses.
    sampler: `shuffle` (every image once an epoch) or `balanced` (as many draws, images with rare findings more often).

    batch_size: images that a step learns from, over all devices.
    accumulate: parts that a batch is worked through in. The same step with less memory, but for batch normalisation,
        which sees a part at a time.
    optimizer: `adamw`, `adam` or `sgd` (with `momentum`).
    learning_rate: the highest one, of the head.
    schedule: `cosine` (a straight rise, half a cosine down), `one_cycle` (Smith and Topin 2018) or `plateau` (times
        `plateau_factor` after `plateau_patience` epochs without a better mean validation AUC).
    clip_norm: largest norm of the gradient, or None.
    ema: decay of a moving average of the weights, which is then what is validated and packaged; or None.
    calibrate: how logits are brought to probabilities on the validation set: `none`, `temperature` (Guo et al., ICML
        2017; one a finding) or `platt` (a shift too). Neither changes how images are ranked.

    augment_rotation: largest turn in degrees.
    augment_shift: largest move, as a share of the side.
    augment_scale, augment_contrast: largest change, as a share.
    augment_brightness: largest change, in standard deviations of the input.
    augment_noise: standard deviation of noise, in the same unit.
    augment_erase: chance that a rectangle is blanked.
    augment_flip: chance of a mirror image; 0, because a heart on the right is a finding.

    precision: `auto` takes bf16 where the processor or the GPU has it, else fp32.
    compile: whether torch.compile is used; it takes minutes and pays on a GPU.
    device: `auto` takes a GPU where there is one.
    devices: processes that share a batch, one a GPU; more than one are started by torchrun.
    threads: threads on the CPU, or None for OMP_NUM_THREADS or else one a core. Another number gives other rounding, so
        another digest.
    """

    weights: str = "imagenet"
    weights_sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    weights_data: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    weights_patients: Literal["none", "training", "test", "unknown"] | None = None
    head: Literal["linear", "mlp"] = "linear"
    head_width: int = Field(512, ge=1, le=8192)
    dropout: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(6, ge=1, le=1000)
    freeze_epochs: int = Field(0, ge=0, le=1000)
    frozen_blocks: int = Field(0, ge=0, le=5)
    rate_decay: float = Field(1.0, gt=0, le=1)
    patience: int = Field(4, ge=1)
    loss: Literal["bce", "focal", "asymmetric", "auc"] = "bce"
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: Literal["none", "inverse", "effective"] = "inverse"
    max_positive_weight: float = Field(10.0, ge=1)
    focal_gamma: float = Field(2.0, ge=0, le=10)
    asymmetric_positive: float = Field(0.0, ge=0, le=10)
    asymmetric_negative: float = Field(4.0, ge=0, le=10)
    asymmetric_clip: float = Field(0.05, ge=0, lt=1)
    auc_margin: float = Field(1.0, gt=0, le=10)
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    batch_size: int = Field(32, ge=2, le=4096)
    accumulate: int = Field(1, ge=1, le=1024)
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    momentum: float = Field(0.9, ge=0, lt=1)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    weight_decay: float = Field(1e-4, ge=0, le=10)
    schedule: Literal["cosine", "one_cycle", "plateau"] = "cosine"
    plateau_factor: float = Field(0.1, gt=0, lt=1)
    plateau_patience: int = Field(2, ge=1)
    clip_norm: float | None = Field(None, gt=0)
    ema: float | None = Field(None, gt=0, lt=1)
    calibrate: Literal["none", "temperature", "platt"] = "none"
    augment_rotation: float = Field(7.0, ge=0, le=45)
    augment_shift: float = Field(0.05, ge=0, le=0.5)
    augment_scale: float = Field(0.08, ge=0, lt=0.5)
    augment_contrast: float = Field(0.15, ge=0, lt=1)
    augment_brightness: float = Field(0.2, ge=0, le=2)
    augment_noise: float = Field(0.0, ge=0, le=1)
    augment_erase: float = Field(0.0, ge=0, le=1)
    augment_flip: float = Field(0.0, ge=0, le=0.5)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    device: Literal["auto", "cpu", "cuda"] = "auto"
    devices: int = Field(1, ge=1, le=1024)
    threads: int | None = Field(None, ge=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _declares_a_file(self) -> Self:
        declared = bool(self.weights_data) or self.weights_patients is not None
        if declared and self.weights in ("none", "imagenet", "champion"):
            raise ValueError(f"weights_data and weights_patients are of a file; what {self.weights} has seen is known")
        if self.weights_patients in ("none", "training", "test") and not self.weights_data:
            raise ValueError(
                f"weights_patients: {self.weights_patients} needs weights_data, the names of the data sets"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.freeze_epochs > self.epochs:
            raise ValueError(f"freeze_epochs ({self.freeze_epochs}) is more than epochs ({self.epochs})")
        if self.batch_size < 2 * self.accumulate * self.devices:
            raise ValueError("batch_size must leave 2 images for each part: at least 2 * accumulate * devices")
        return self


class Evaluate(Section):
    """How the models are compared."""

    level: float = Field(0.95, gt=0.5, lt=1)
    batch_size: int = Field(64, ge=1)


MapMethod = Literal["grad_cam", "hires_cam", "grad_cam_plus_plus"]


class Explain(Section):
    """Which cases get a heat map, and how it is drawn. The evidence is of Grad-CAM at the model's own size in any case.

    cases_per_finding: of each kind, the surest ones.
    alpha: opacity of the hottest places.
    method: `grad_cam` (Selvaraju et al. 2017), `hires_cam` (Draelos and Carin 2020; behind global average pooling the
        same numbers) or `grad_cam_plus_plus` (Chattopadhay et al. 2018).
    resolution: side in pixels of the input that maps are computed on: a larger one gives a finer grid of the same
        weights; None for the size that the model was trained on. A cell is 32 pixels of it wide.
    """

    cases_per_finding: int = Field(1, ge=1, le=20)
    alpha: float = Field(0.45, ge=0, le=1)
    method: MapMethod = "grad_cam"
    resolution: int | None = Field(None, ge=64, le=2048)


class Gate(Section):
    """Which change-control plan is executed."""

    plan: str = "pccp.demo.yaml"


class Report(Section):
    """What the report shows.

    title: its heading.
    prevalences: shares of images with a finding at which predictive values are given, besides that of the test set.
    """

    title: str = "Chest X-ray retraining"
    prevalences: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.01, 0.1)


class Params(BaseModel):
    """All of `params.yaml`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingest: Ingest = Field(default_factory=Ingest)
    validate_: Validate = Field(default_factory=Validate, alias="validate")
    split: Split = Field(default_factory=Split)
    prepare: Prepare = Field(default_factory=Prepare)
    train: Train = Field(default_factory=Train)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    explain: Explain = Field(default_factory=Explain)
    gate: Gate = Field(default_factory=Gate)
    report: Report = Field(default_factory=Report)

    @classmethod
    def load(cls, path: Path) -> Params:
        """Read `params.yaml`.

        Raises:
            SettingsError: the file is missing or not YAML, or a key is unknown, of the wrong type or out of range.
        """
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise SettingsError(
                "params.yaml is missing", where=path, fix="run the command in the project's folder"
            ) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise SettingsError(f"params.yaml is not YAML: {error}", where=path) from error
        return cls.check(document, path)

    @classmethod
    def check(cls, document: Any, where: object) -> Params:
        """Check a parsed document; see `load`."""
        if not isinstance(document, dict):
            raise SettingsError("params.yaml must hold one section a stage", where=where)
        try:
            return cls.model_validate(document)
        except ValidationError as error:
            raise explain_validation(error, cls, where) from error


def explain_validation(error: ValidationError, model: type[BaseModel], where: object) -> SettingsError:
    """Say in one error what is wrong with every setting, and name the nearest known key for each unknown one.

    A key that is missing because it is misspelt gives one error, which names the wrong spelling.
    """
    lines: list[str] = []
    meant: set[tuple[int | str, ...]] = set()
    for problem in error.errors():
        if problem["type"] == "extra_forbidden":
            *place, wrong = problem["loc"]
            guess = nearest(str(wrong), known_keys(model, tuple(place)))
            if guess:
                meant.add((*place, guess))
            lines.append(
                f"{_dotted(problem['loc'])} is not a setting" + (f"; did you mean {guess!r}?" if guess else "")
            )
    for problem in error.errors():
        if problem["type"] == "missing":
            if problem["loc"] not in meant:
                lines.append(f"{_dotted(problem['loc'])} is missing")
        elif problem["type"] != "extra_forbidden":
            found = repr(problem["input"])
            shown = found if len(found) <= _SHOWN else f"{found[:_SHOWN]}..."
            lines.append(f"{_dotted(problem['loc']) or 'the file'}: {problem['msg']} (found {shown})")
    fix = f"give {where} another value" if str(where).startswith("-") else f"edit {where}"
    return SettingsError("; ".join(lines), where=where, fix=fix)


def _dotted(loc: tuple[int | str, ...]) -> str:
    return ".".join(map(str, loc))


def known_keys(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Keys that a settings class knows at a place."""
    for part in loc:
        fields = {field.alias or name: field for name, field in model.model_fields.items()}
        inner = fields[str(part)].annotation if str(part) in fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]
