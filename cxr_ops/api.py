"""Train on pictures and labels of your own, from Python: the platform's stages without the platform.

    data = api.pack("pictures", "labels.csv", "work", image_size=224)
    model = api.train(data, epochs=10, loss="asymmetric")
    model.save("model")

What is trained is what `cxr-ops train` trains, by the same code: the folder `work` is laid out as a workspace is, so a
training that was ended goes on from its checkpoint when the same lines run again. There is no ledger here: nobody
counts how often the test side is looked at, and a package made here is judged again before the platform promotes it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pandas as pd
import yaml

from cxr_ops import contract
from cxr_ops.audit.package import digest as package_digest
from cxr_ops.audit.package import patient_key
from cxr_ops.data import manifest, score_files, splits
from cxr_ops.data.checking import decode, isolate, pictures
from cxr_ops.errors import DataError, SettingsError, StorageError
from cxr_ops.labels import FINDINGS
from cxr_ops.params import Params, Prepare, Split, Train
from cxr_ops.records.base import Record, sha256_bytes, write_atomic
from cxr_ops.records.evidence import Estimate, Evidence, Undefined
from cxr_ops.stages import prepare
from cxr_ops.stats import auc
from cxr_ops.voice import steps

if TYPE_CHECKING:
    from cxr_ops.model.package import LoadedModel

_RECORD: Final = "data.json"
_TEST: Final = "test.csv"
_TEST_COLUMNS: Final = ("image_id", "patient_id", "sha256", *FINDINGS)
_TOLD: Final = 10  # pictures that an error lists
Device = Literal["auto", "cpu", "cuda"]


class Packed(Record):
    """How a folder was packed: `data.json`. `images` is where the pictures stand."""

    images: str
    split: Split
    prepare: Prepare


@dataclass(frozen=True, kw_only=True)
class Data:
    """Pictures that were packed, divided by patient.

    Attributes:
        folder: `prepare/` holds what is trained and validated on, `test.csv` names what is tested on.
        packed: how it was made.
        index: `image_id`, `patient_id`, `split` (train or validation) and the 14 findings, a row a packed picture.
        test: `image_id`, `patient_id`, `sha256` and the 14 findings of the test side, which is not packed: it is read
            from its pictures when it is scored.
    """

    folder: Path
    packed: Packed
    index: pd.DataFrame
    test: pd.DataFrame


@dataclass(frozen=True, kw_only=True)
class Model:
    """A trained model in memory.

    Attributes:
        folder: where its package stands.
        loaded: the package, checked and read.
        history: loss, validation AUC and learning rate of each epoch; empty for a model that was read from a folder.
    """

    folder: Path
    loaded: LoadedModel
    history: pd.DataFrame

    @property
    def trained(self) -> tuple[str, ...]:
        """The findings that the model was trained on: those with positive and negative images to train on."""
        return self.loaded.trained

    def save(self, folder: str | Path) -> str:
        """Copy the package, the platform's own format: four files, no pickle.

        Returns:
            The package's digest.

        Raises:
            DataError: the package is not what it was when the model was read.
            StorageError: the folder holds something or cannot be written.
        """
        out = Path(folder)
        if out.is_dir() and any(out.iterdir()):
            raise StorageError("a package is written into an empty folder", where=out, fix=f"remove {out}")
        try:
            shutil.copytree(self.folder, out, dirs_exist_ok=True)
        except OSError as error:  # shutil.Error is one
            raise StorageError(f"the package cannot be written: {error}", where=out) from error
        if package_digest(out) != self.loaded.digest:
            raise DataError("the package has been altered since the model was read", where=self.folder)
        return self.loaded.digest

    def score(self, pictures: Sequence[str | Path], *, batch_size: int = 64, device: Device = "auto") -> pd.DataFrame:
        """Score PNG, JPEG or DICOM files.

        Args:
            pictures: paths.
            batch_size: pictures at a time.
            device: `auto` takes a GPU where there is one.

        Returns:
            A row a picture, indexed by the path as given, and a column of probabilities a finding; NaN for a finding
            that is not in `trained`.

        Raises:
            DataError: a file is missing, or is no picture that is read.
        """
        return self._score([str(path) for path in pictures], lambda path: _read(Path(path)), batch_size, device)

    def maps(self, pictures: Sequence[str | Path]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Draw Grad-CAM heat maps of PNG, JPEG or DICOM files, on the processor.

        Args:
            pictures: paths.

        Returns:
            (pictures, 14, h, w) in logits, the findings in the order of `cxr_ops.labels.FINDINGS`, and h x w the cells
            that the network has: 3 x 3 of 96 pixels, 7 x 7 of 224. A cell is no finer than that, however it is drawn.

        Raises:
            DataError: a file is missing, or is no picture that is read; or the network is not one that has such maps.
        """
        from cxr_ops.model import cam

        return cam.grad_cam(self.loaded, _pixels([str(path) for path in pictures], lambda path: _read(Path(path)))).maps

    def evaluate(
        self, data: Data, *, level: float = 0.95, min_patients: int = 20, batch_size: int = 64, device: Device = "auto"
    ) -> pd.DataFrame:
        """Score the test side, and say how well the model ranks it. A test set wears out: look once.

        Args:
            data: whose test side is scored, from its source pictures.
            level: of the two-sided intervals, in (0, 1), clustered by patient.
            min_patients: with fewer positive or negative patients a finding does not count in the mean.
            batch_size: pictures at a time.
            device: `auto` takes a GPU where there is one.

        Returns:
            A row a finding and one for the `mean` of those that were trained: `auc`, `low`, `high`, `positives` and
            `positive_patients`. A number that does not exist is NaN, and `undefined` says why.

        Raises:
            DataError: a test patient was trained on, or may have been; a picture is missing or altered.
        """
        self._check_unseen(data)
        images, digests = Path(data.packed.images), dict(zip(data.test["image_id"], data.test["sha256"], strict=True))

        def read(image_id: str) -> bytes:
            content = _read(images / image_id)
            if sha256_bytes(content) != digests[image_id]:
                raise DataError("the picture is not the one that was packed", where=images / image_id, fix="pack again")
            return content

        scores = self._score(data.test["image_id"].tolist(), read, batch_size, device)
        truth = pd.DataFrame(manifest.label_array(data.test), columns=list(FINDINGS))

        def over(findings: Sequence[str]) -> Evidence:
            return auc.compare(
                findings,
                truth[list(findings)].to_numpy(),
                data.test["patient_id"].to_numpy(),
                scores[list(findings)].to_numpy(),
                level=level,
                min_positive_patients=min_patients,
                min_negative_patients=min_patients,
            )

        untrained = Undefined(reason="the model was not trained on this finding")
        rows = {
            row.finding: _row(row.challenger if row.finding in self.trained else untrained) | row.support.model_dump()
            for row in over(FINDINGS).findings
        }
        mean = over(self.trained).macro_challenger
        table = pd.DataFrame.from_dict({**rows, "mean": _row(mean)}, orient="index")
        return table[["auc", "low", "high", "positives", "positive_patients", "undefined"]]

    def _score(self, names: list[str], read: Callable[[str], bytes], batch_size: int, device: Device) -> pd.DataFrame:
        from cxr_ops.model import scoring
        from cxr_ops.model.machine import choose_machine

        where = choose_machine(Train(device=device)).device
        with steps("scoring") as show:
            scores = scoring.score(
                self.loaded,
                _pixels(names, read),
                batch_size=batch_size,
                device=where,
                progress=lambda n: show(n, len(names)),
            )
        return pd.DataFrame(scores, index=pd.Index(names, name="image"), columns=list(FINDINGS))

    def _check_unseen(self, data: Data) -> None:

        salt = self.loaded.contract["training"].get("patient_salt")
        if not self.loaded.patients or salt is None:
            raise DataError("the package does not say whom the model was trained on, so its test would prove nothing")
        tested = {patient_key(salt, patient) for patient in data.test["patient_id"]}
        if seen := len(tested & self.loaded.patients):
            raise DataError(
                f"the model was trained or tuned on {seen} of the {len(tested)} test patients",
                where=data.folder / _TEST,
                fix="evaluate it on data that were split with the salt and the fractions of its training",
            )


def _pixels(names: Sequence[str], read: Callable[[str], bytes]) -> Iterator[np.ndarray[Any, np.dtype[np.uint8]]]:
    for name in names:
        try:
            yield pictures.decode_any(read(name))
        except DataError as error:
            raise DataError(error.what, where=error.where or name, fix=error.fix) from error


# -------------------------------------------------------------------------------------------------- data


def pack(
    images: str | Path,
    labels: str | Path,
    out: str | Path,
    *,
    salt: str = "cxr-ops-1",
    validation: float = 0.1,
    test: float = 0.25,
    **settings: Any,
) -> Data:
    """Check, divide, decode and pack pictures.

    Each picture is decoded in another process first, so that a broken file cannot end this one.
    Those processes import the script that calls: its lines belong under `if __name__ == "__main__":`. The patients are
    divided by a keyed hash of their id, as the platform divides them: data that are added later move nobody.

    Args:
        images: folder of grey 8-bit PNG or JPEG files; an image id is a file's path in it.
        labels: a CSV with an image id, a patient id and labels, in a layout of `cxr_ops.data.score_files`. A label is
            1, 0, -1 (uncertain) or empty (missing): a missing one is left out of loss and statistics.
        out: folder for what is packed, trained and kept to go on from; what an earlier packing left is replaced.
        salt: key of the hash, see `cxr_ops.params.Split`.
        validation: expected share of patients in validation.
        test: expected share of patients in test.
        settings: `prepare` of params.yaml, such as `image_size` and `contrast`; see `cxr_ops.params.Prepare`.

    Raises:
        DataError: a picture is missing or cannot be used, or shows two patients; there is no patient id; a column is
            called almost like a finding; a side of the split has no patient.
        SettingsError: a setting is unknown or out of range.
        StorageError: the folder cannot be written.
    """
    source, table, folder = Path(images).resolve(), Path(labels), Path(out)
    given = {"split": {"salt": salt, "validation": validation, "test": test}, "prepare": {"image_size": 224} | settings}
    params = Params.check(given, "the call of api.pack")
    packed = Packed(images=str(source), split=params.split, prepare=params.prepare)
    truth = score_files.read_truth(table)
    owners = score_files.owned(truth)
    digests = _inspect(source, table, truth.image_ids, owners)
    frame = pd.DataFrame(
        {
            "image_id": truth.image_ids,
            "patient_id": owners,
            "sha256": digests,
            "split": [splits.side(owner, **packed.split.model_dump()) for owner in owners],
            **{name: pd.array(_label(truth.truth[:, f]), dtype="Int64") for f, name in enumerate(FINDINGS)},
        }
    )
    if empty := [side for side in splits.SIDES if not (frame["split"] == side).any()]:
        raise DataError(
            f"no patient falls to {' and '.join(empty)}: {len(set(owners))} patients are too few",
            where=table,
            fix="bring more patients, or give larger fractions",
        )
    tested = frame["split"] == "test"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in (_RECORD, _TEST):  # the record is written last: without it there are no data
            (folder / name).unlink(missing_ok=True)
        trained = frame[~tested].reset_index(drop=True)
        paths = [source / image_id for image_id in trained["image_id"]]
        prepare.pack(folder / "prepare", trained, paths, _read, packed.prepare)
        write_atomic(folder / _TEST, manifest.to_csv(frame[tested], _TEST_COLUMNS))
        packed.write(folder / _RECORD)
    except OSError as error:
        if isinstance(error, StorageError):
            raise
        raise StorageError(f"the data cannot be packed: {error.strerror}", where=folder) from error
    return read(folder)


def read(folder: str | Path) -> Data:
    """Read what `pack` left, without packing again.

    Raises:
        DataError: nothing was packed there, or not to the end.
    """
    root = Path(folder)
    if not (root / _RECORD).is_file():
        raise DataError("nothing was packed here, or not to the end", where=root, fix="call api.pack")
    text = {"image_id": str, "patient_id": str}
    return Data(
        folder=root,
        packed=Packed.read(root / _RECORD),
        index=pd.read_csv(root / "prepare" / "index.csv", dtype=text),
        test=pd.read_csv(root / _TEST, dtype=text),
    )


def _inspect(source: Path, table: Path, image_ids: Sequence[str], owners: Sequence[str]) -> list[str]:
    """SHA-256 of each picture, after all of them were found to decode and to show one patient each."""
    paths = [source / image_id for image_id in image_ids]
    if outside := [i for i, path in zip(image_ids, paths, strict=True) if not path.resolve().is_relative_to(source)]:
        raise DataError(f"the image id {outside[0]!r} leads out of the folder of pictures", where=table)
    if absent := [image_id for image_id, path in zip(image_ids, paths, strict=True) if not path.is_file()]:
        raise DataError(
            f"{len(absent)} of {len(paths)} pictures are not there: {_some(absent)}",
            where=source,
            fix=f"an image id in {table.name} is a file's path in that folder, with its ending",
        )
    digests, problems = list[str](), list[str]()
    patient_of: dict[str, str] = {}
    with steps("checking pictures") as show:
        for done, found in enumerate(_outcomes(paths)):
            if isinstance(found, decode.Inspected):
                digests.append(found.sha256)
                if patient_of.setdefault(found.pixels_sha256, owners[done]) != owners[done]:
                    problems.append(f"{image_ids[done]}: the same pixels are another patient's too")
            else:
                why = found if isinstance(found, str) else "decoding it ends the process that tries"
                problems.append(f"{image_ids[done]}: {why}")
            show(done + 1, len(paths))
    if problems:
        raise DataError(
            f"{len(problems)} of {len(paths)} pictures cannot be used: {_some(problems)}",
            where=source,
            fix=f"mend them, or take their rows out of {table.name}",
        )
    return digests


def _outcomes(paths: Sequence[Path]) -> Iterator[decode.Inspected | str | isolate.DiedError]:
    try:
        yield from isolate.each(decode.inspect, paths)
    except RuntimeError as error:  # a new process first runs the script again that started it
        raise SettingsError(
            "the processes that decode pictures cannot be started",
            where="the call of api.pack",
            fix='put your lines under `if __name__ == "__main__":`',
        ) from error


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:_TOLD]) + (" ..." if len(names) > _TOLD else "")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the picture cannot be read: {error.strerror}", where=path) from error


def _label(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[int | None]:
    return [None if np.isnan(value) else int(value) for value in values]


# ------------------------------------------------------------------------------------------------- models


def train(data: Data, **settings: Any) -> Model:
    """Train as `cxr-ops train` does.

    Called again with the same data and settings after it was ended, it goes on from its checkpoint.

    Args:
        data: see `pack`.
        settings: `train` of params.yaml, such as `epochs`, `loss` and `weights`; see `cxr_ops.params.Train`. Without
            `weights`, training starts from ImageNet's, which are downloaded once.

    Raises:
        SettingsError: a setting is unknown or out of range, the weights to start from cannot be fetched, or the loss is
            no longer a number.
        DataError: there is too little to train or to validate on, or the packed files were altered.
        StorageError: a checkpoint or the package cannot be written.
        StoppedError: SIGTERM or SIGINT came; a checkpoint was written first.
    """
    from cxr_ops.stages import train as stage

    chosen = Params.check({"train": settings}, "the call of api.train").train
    params = Params(split=data.packed.split, prepare=data.packed.prepare, train=chosen)
    text = yaml.safe_dump(params.model_dump(mode="json", by_alias=True), sort_keys=False)
    root = data.folder / "trainings" / sha256_bytes(text.encode())[:12]
    root.mkdir(parents=True, exist_ok=True)
    write_atomic(root / "params.yaml", text.encode())  # a workspace: `cxr-ops train` in it does the same
    (root / "prepare").unlink(missing_ok=True)
    (root / "prepare").symlink_to(Path("..", "..", "prepare"))
    stage.run(root, params)
    return _model(root / "train" / contract.PACKAGE, pd.read_csv(root / "train" / "history.csv"))


def load(folder: str | Path) -> Model:
    """Read a package, one of `Model.save` or of the platform. Its code runs: read only what you trust.

    Raises:
        DataError: it is no whole package.
    """
    return _model(Path(folder), pd.DataFrame())


def _model(folder: Path, history: pd.DataFrame) -> Model:
    from cxr_ops.model import package

    return Model(folder=folder, loaded=package.load(folder), history=history)


def _row(figure: Estimate | Undefined) -> dict[str, Any]:
    if isinstance(figure, Undefined):
        return {"auc": np.nan, "low": np.nan, "high": np.nan, "undefined": figure.reason}
    return {"auc": figure.value, "low": figure.low, "high": figure.high, "undefined": ""}
