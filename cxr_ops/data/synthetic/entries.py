"""Generated patients who do not exist, with their images and findings, before anything is drawn.

A model of the NIH's own labels; see `cxr_ops.data.synthetic.synth`, which draws the pictures. It needs numpy alone, so
that a plan can be sized on drawn labels without a library for pictures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from cxr_ops.labels import FINDINGS, NO_FINDING
from cxr_ops.records.data import GENERATED_ID

# Counted in, or fitted to, the labels of the release's 112,120 images: `Data_Entry_2017_v2020.csv`, which the PyPI
# package torchxrayvision 1.5.7 holds (Wang et al., CVPR 2017). Order of `FINDINGS`.
NIH_IMAGES = 112_120
NIH_POSITIVES = (11559, 2776, 13317, 19894, 5782, 6331, 1431, 5302, 4667, 2303, 2516, 1686, 3385, 227)
# Tetrachoric correlations, below the diagonal: of the two normal variables that, cut at the two prevalences, are both
# above their cuts as often as the two findings are in one image.
_CORRELATIONS: tuple[tuple[float, ...], ...] = (
    (),
    (0.066,),
    (0.369, 0.386),
    (0.207, 0.053, 0.248),
    (0.063, -0.067, 0.201, 0.042),
    (-0.028, -0.074, 0.060, 0.118, 0.301),
    (0.143, 0.025, 0.117, 0.286, -0.007, -0.027),
    (0.103, -0.173, 0.145, 0.002, 0.116, 0.032, -0.086),
    (0.306, 0.081, 0.284, 0.137, 0.252, 0.123, 0.147, 0.002),
    (-0.017, 0.160, 0.226, 0.310, 0.017, 0.002, 0.557, -0.198, 0.111),
    (0.131, -0.059, 0.048, 0.002, 0.113, -0.043, -0.052, 0.506, -0.003, -0.088),
    (0.056, 0.038, -0.015, 0.040, 0.060, 0.120, -0.095, 0.001, 0.022, -0.186, -0.008),
    (0.096, 0.055, 0.232, 0.071, 0.242, 0.193, 0.018, 0.138, 0.131, -0.015, 0.142, 0.262),
    (0.107, 0.030, -0.045, -0.041, 0.131, -0.038, 0.004, -0.026, -0.114, -0.055, -0.031, 0.117, 0.022),
)
# The same correlation between one image of a patient and the next, averaged over the findings.
_PERSISTENCE = 0.62
# Patients with 1, 2, ... 10 images.
_IMAGES_A_PATIENT = (17503, 4113, 2100, 1330, 938, 787, 608, 494, 387, 320)
_PORTABLE = 0.40  # share of AP
_SAME_VIEW = (
    0.50  # share of people who are always taken in one view; consecutive views then agree as often as the NIH's
)
_MALE = 0.565
_AGES = ((0.0, 0.25, 0.5, 0.75, 1.0), (18.0, 36.0, 49.0, 60.0, 95.0))  # quantiles; adults, for adults are drawn
_YEARS = (0.828, 0.115, 0.028, 0.013, 0.016)  # shares of 0, 1, 2, 3, 4 years from one image to the next
# The commonest sizes and pixel spacings, written as the release writes them, with their counts.
_SCANS = {
    "PA": (("2992,2991,0.14300000000000002,0.14300000000000002", 21959), ("2500,2048,0.168,0.168", 6573),
           ("2048,2500,0.168,0.168", 4592), ("2021,2021,0.19431099999999998,0.19431099999999998", 4263)),
    "AP": (("2500,2048,0.168,0.168", 23413), ("3056,2544,0.139,0.139", 13735),
           ("2500,2048,0.171,0.171", 4480), ("2048,2500,0.168,0.168", 1225)),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One image before it is drawn: a row of `Data_Entry_2017.csv`."""

    patient: int
    follow_up: int
    age: int
    sex: str
    view: str
    scan: str
    findings: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name: as the NIH names files, after what no name of the NIH's begins with."""
        return f"{GENERATED_ID}{self.patient:08d}_{self.follow_up:03d}.png"

    @property
    def patient_id(self) -> str:
        """Whose image it is: no patient of any source has this id."""
        return f"{GENERATED_ID}{self.patient}"

    def row(self) -> str:
        """The row of `Data_Entry_2017.csv`; several findings are in the order of the alphabet."""
        labels = "|".join(sorted(self.findings)) or NO_FINDING
        return f"{self.name},{labels},{self.follow_up},{self.patient_id},{self.age},{self.sex},{self.view},{self.scan}"


def draw_entries(*, images: int, seed: int, min_prevalence: float, first_patient: int = 1) -> list[Entry]:
    """Draw who is imaged how often, and with which findings; see the module's docstring.

    Each finding is in at least `min_prevalence` of the images, exactly: where chance leaves one below, its threshold is
    lowered until it is not.

    Returns:
        The rows in the order of patient and follow-up.
    """
    entries: list[Entry] = []
    latent: list[NDArray[np.float64]] = []
    patient = first_patient
    while len(entries) < images:
        for entry, variables in _draw_patient(seed, patient):
            entries.append(entry)
            latent.append(variables)
        patient += 1
    del entries[images:], latent[images:]
    present = np.asarray(latent) > _thresholds(np.asarray(latent), min_prevalence)
    return [
        replace(entry, findings=tuple(finding for finding, here in zip(FINDINGS, row, strict=True) if here))
        for entry, row in zip(entries, present, strict=True)
    ]


def _thresholds(latent: NDArray[np.float64], min_prevalence: float) -> NDArray[np.float64]:
    """The value above which each finding is present; `latent` is images x findings."""
    count = len(latent)
    least = math.ceil(min_prevalence * count - 1e-9)
    normal = NormalDist()
    cuts = np.array([normal.inv_cdf(1 - max(n / NIH_IMAGES, min_prevalence)) for n in NIH_POSITIVES])
    if least:
        descending = -np.sort(-latent, axis=0)
        reached = np.nextafter(descending[least - 1], -np.inf)
        cuts = np.minimum(cuts, reached)
    return cuts


def _draw_patient(seed: int, patient: int) -> Iterator[tuple[Entry, NDArray[np.float64]]]:
    """Yield each of a patient's images, findings left out, with the 14 variables that decide them."""
    rng = stream(seed, "patient", patient)
    visits = 1 + _pick(rng, _IMAGES_A_PATIENT)
    sex = "M" if rng.random() < _MALE else "F"
    age = float(np.interp(rng.random(), *_AGES))
    usual = _view(rng) if rng.random() < _SAME_VIEW else None
    own = rng.standard_normal(len(FINDINGS))
    for follow_up in range(visits):
        rng = stream(seed, "entry", patient, follow_up)
        if follow_up:
            age += _pick(rng, _YEARS)
        view = usual or _view(rng)
        scan = _SCANS[view][_pick(rng, [count for _, count in _SCANS[view]])][0]
        fresh = rng.standard_normal(len(FINDINGS))
        variables = _MIX @ (math.sqrt(_PERSISTENCE) * own + math.sqrt(1 - _PERSISTENCE) * fresh)
        entry = Entry(
            patient=patient, follow_up=follow_up, age=min(int(age), 95), sex=sex, view=view, scan=scan, findings=()
        )
        yield entry, variables


def _pick(rng: np.random.Generator, weights: Sequence[float]) -> int:
    """Draw an index with a probability in proportion to its weight."""
    edges = np.cumsum(weights)
    return int(np.searchsorted(edges[:-1], rng.random() * edges[-1], side="right"))


def _view(rng: np.random.Generator) -> str:
    return "AP" if rng.random() < _PORTABLE else "PA"


_STREAMS = ("patient", "entry", "person", "visit", "picture")


def stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """The random stream of one purpose and one patient or image: independent of every other."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(purpose), *key)))


def _mix() -> NDArray[np.float64]:
    """The matrix that gives independent normal variables the correlations of the findings."""
    correlations = np.eye(len(FINDINGS))
    for row, values in enumerate(_CORRELATIONS):
        correlations[row, : len(values)] = values
        correlations[: len(values), row] = values
    return np.asarray(np.linalg.cholesky(correlations), np.float64)


_MIX = _mix()
