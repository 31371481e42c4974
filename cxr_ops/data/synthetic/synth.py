"""Generated radiographs in the layout of the NIH's ChestX-ray14: `cxr-ops data synth`.

A data set of people who do not exist, so that everything else can be tried without a download and without a patient.
The labels come from a model of the NIH's own labels, the pictures from `cxr_ops.data.synthetic.phantom`:

* A person has as many images as the NIH's patients with at most ten; sex, anatomy and the place of each finding stay.
* Each image has 14 correlated normal variables, of which a share is the person's. A finding is present where its
  variable is above a threshold (a multivariate probit model). The correlations give the NIH's co-occurrence, the
  thresholds its prevalences, or the least prevalence that was asked for.
* Findings depend on neither view, age nor sex, though the NIH's do: nobody can guess them without the picture.

Every random stream is keyed by the seed, the patient's number and the follow-up's. So a picture depends neither on how
many are made, nor on how many processes draw.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from cxr_ops.data.synthetic import phantom
from cxr_ops.errors import CxrError, SettingsError, StorageError
from cxr_ops.labels import BOX_NAMES, FINDINGS, NO_FINDING
from cxr_ops.records.base import Record, write_atomic

ENTRIES = "Data_Entry_2017.csv"
BOXES = "BBox_List_2017.csv"
SHEET = "synth.json"
# As released: three of the names hold a comma, and are not quoted.
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"

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

DEFAULT_SIZE = 192  # pixels; twice the demonstration's input, and enough to look at
MAX_PATIENTS = 99_999_999  # ids have eight digits
_BYTES_A_PIXEL = 1.05  # of a PNG, at most: noise does not compress
_CHUNK = 24  # images a worker draws at a time

NOTICE = (
    "Generated pictures of people who do not exist. For trying software only: not for clinical use, and no ground for "
    "any statement about patients."
)


class SynthSummary(Record):
    """What was made: the folder's data sheet, `synth.json`.

    Args:
        notice: what the data may not be used for.
        seed: of all random streams, with the patient's and the follow-up's number.
        images: how many.
        patients: how many.
        first_patient: number of the first patient; the others follow it.
        size: side of each picture in pixels.
        min_prevalence: least share of images with each finding that was asked for.
        prevalence: share of images with each finding.
        nih_prevalence: the NIH's own.
        no_finding: share of images without any.
        boxes: rows of `BBox_List_2017.csv`.
    """

    notice: str = NOTICE
    seed: int = Field(ge=0)
    images: int = Field(ge=1)
    patients: int = Field(ge=1)
    first_patient: int = Field(ge=1)
    size: int
    min_prevalence: float
    prevalence: dict[str, float]
    nih_prevalence: dict[str, float]
    no_finding: float
    boxes: int


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
        """The file's name, as the NIH names files."""
        return f"{self.patient:08d}_{self.follow_up:03d}.png"

    def row(self) -> str:
        """The row of `Data_Entry_2017.csv`; several findings stand in the order of the alphabet."""
        labels = "|".join(sorted(self.findings)) or NO_FINDING
        return f"{self.name},{labels},{self.follow_up},{self.patient},{self.age},{self.sex},{self.view},{self.scan}"


def synthesize(
    out: Path,
    *,
    images: int,
    seed: int,
    min_prevalence: float = 0.08,
    size: int = DEFAULT_SIZE,
    first_patient: int = 1,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SynthSummary:
    """Write a folder of generated radiographs in the layout of the NIH release.

    Args:
        out: a folder that is new or empty.
        images: how many, at least 1.
        seed: at least 0. The same seed gives the same bytes, with the same numpy and OpenCV on one kind of processor.
        min_prevalence: each finding is in at least this share of the images, from 0 (the NIH's own prevalences) to 0.5.
        size: side of each picture in pixels, from 64 to 1024.
        first_patient: number of the first patient. Another batch for the same data set starts after the last one's.
        processes: how many draw, or None for one a core.
        progress: called with the images written so far and their number.

    Returns:
        What was made; also written to `out/synth.json`.

    Raises:
        SettingsError: a setting is out of range.
        StorageError: the folder is not empty or cannot be written, or the disk has too little room.
        CxrError: a process that drew was killed, as happens when memory runs out.
    """
    _check(images=images, seed=seed, min_prevalence=min_prevalence, size=size, first=first_patient, processes=processes)
    _claim(out, images * (round(size * size * _BYTES_A_PIXEL) + 1024))
    entries = draw_entries(images=images, seed=seed, min_prevalence=min_prevalence, first_patient=first_patient)
    workers = processes or len(os.sched_getaffinity(0))
    try:
        with ExitStack() as undo:
            # The table of entries comes last: nothing takes an unfinished folder for a data set, and it is emptied.
            undo.callback(_empty, out)
            (out / "images").mkdir()
            boxes: list[str] = []
            done = 0
            with closing(_draw_all(out / "images", entries, seed, size, workers)) as chunks:
                for drawn, rows in chunks:
                    boxes += rows
                    done += drawn
                    if progress:
                        progress(done, images)
            summary = _summarize(entries, seed, min_prevalence, size, first_patient, len(boxes))
            write_atomic(out / BOXES, "\n".join([BOX_HEADER, *boxes, ""]).encode())
            summary.write(out / SHEET)
            write_atomic(out / ENTRIES, "\n".join([ENTRY_HEADER, *(entry.row() for entry in entries), ""]).encode())
            undo.pop_all()
    except BrokenProcessPool as error:
        raise CxrError("a process that drew pictures was killed", where=out, fix="give fewer processes") from error
    except OSError as error:
        raise StorageError(
            f"the folder cannot be written: {error.strerror or error}",
            where=out,
            fix="free some room, or name another folder",
        ) from error
    return summary


def _check(*, images: int, seed: int, min_prevalence: float, size: int, first: int, processes: int | None) -> None:
    rules = (
        (images >= 1, "images", images, "at least 1"),
        (seed >= 0, "seed", seed, "at least 0"),
        (0 <= min_prevalence <= 0.5, "min_prevalence", min_prevalence, "from 0 to 0.5"),
        (64 <= size <= 1024, "size", size, "from 64 to 1024"),
        (1 <= first <= MAX_PATIENTS - images, "first_patient", first, f"from 1 to {MAX_PATIENTS - images}"),
        (processes is None or processes >= 1, "processes", processes, "at least 1"),
    )
    for holds, name, value, range_ in rules:
        if not holds:
            raise SettingsError(f"{name} must be {range_}, not {value}", where="data synth", fix=f"give another {name}")


# ---------------------------------------------------------------------------------------------------- labels


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
    rng = _stream(seed, "patient", patient)
    visits = 1 + _pick(rng, _IMAGES_A_PATIENT)
    sex = "M" if rng.random() < _MALE else "F"
    age = float(np.interp(rng.random(), *_AGES))
    usual = _view(rng) if rng.random() < _SAME_VIEW else None
    own = rng.standard_normal(len(FINDINGS))
    for follow_up in range(visits):
        rng = _stream(seed, "entry", patient, follow_up)
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


def _stream(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """The random stream of one purpose and one patient or image: independent of every other."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAMS.index(purpose), *key)))


def _mix() -> NDArray[np.float64]:
    """The matrix that gives independent normal variables the correlations of the findings."""
    correlations = np.eye(len(FINDINGS))
    for row, values in enumerate(_CORRELATIONS):
        correlations[row, : len(values)] = values
        correlations[: len(values), row] = values
    return np.asarray(np.linalg.cholesky(correlations), np.float64)


# -------------------------------------------------------------------------------------------------- pictures


def _draw_all(
    folder: Path, entries: Sequence[Entry], seed: int, size: int, processes: int
) -> Generator[tuple[int, list[str]]]:
    """Draw and write all pictures; yield for each chunk, in order, how many it has and its rows of boxes."""
    chunks = list(_chunks(entries))
    draw = partial(_draw_chunk, folder, seed, size)
    if processes == 1 or len(chunks) == 1:
        yield from map(draw, chunks)
        return
    # Spawned, not forked: a fork of a process with threads can lock up.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(processes, len(chunks)), context, initializer=cv2.setNumThreads, initargs=(1,)
    ) as pool:
        yield from pool.map(draw, chunks)


def _chunks(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut the entries into pieces of about `_CHUNK`, whole patients together."""
    chunk: list[Entry] = []
    for _, visits in groupby(entries, key=lambda entry: entry.patient):
        chunk += visits
        if len(chunk) >= _CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _draw_chunk(folder: Path, seed: int, size: int, entries: Sequence[Entry]) -> tuple[int, list[str]]:
    """Draw and write some pictures; return their number and their rows of `BBox_List_2017.csv`."""
    rows = []
    for patient, visits in groupby(entries, key=lambda entry: entry.patient):
        person: phantom.Person | None = None
        for entry in visits:
            person = person or phantom.draw_person(_stream(seed, "person", patient), female=entry.sex == "F")
            visit = phantom.draw_visit(_stream(seed, "visit", patient, entry.follow_up), portable=entry.view == "AP")
            picture = phantom.render(
                person, visit, entry.findings, _stream(seed, "picture", patient, entry.follow_up), size
            )
            _, png = cv2.imencode(".png", picture.pixels, (cv2.IMWRITE_PNG_COMPRESSION, 1))
            (folder / entry.name).write_bytes(png.tobytes())
            rows += [_box_row(entry.name, finding, box) for finding, box in picture.boxes]
    return len(entries), rows


def _box_row(name: str, finding: str, box: phantom.Box) -> str:
    label = _TO_BOX_NAME.get(finding, finding)
    return ",".join((name, label, *(f"{value:.6f}" for value in box))) + ",,,"


_TO_BOX_NAME = {finding: name for name, finding in BOX_NAMES.items()}
_MIX = _mix()


# ---------------------------------------------------------------------------------------------------- folder


def _claim(out: Path, needed: int) -> None:
    """Make the folder, or take an empty one; refuse any other, and a disk with too little room."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        occupied = next(out.iterdir(), None)
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise StorageError(
            f"the folder cannot be made: {error.strerror}", where=out, fix="name a folder of yours"
        ) from error
    if occupied is not None:
        raise StorageError("the folder is not empty", where=out, fix="name a new folder, or remove this one")
    if not os.access(out, os.W_OK | os.X_OK):
        raise StorageError("the folder cannot be written", where=out, fix="name a folder of yours")
    if free < needed:
        raise StorageError(
            f"the disk has {free / 1e6:.0f} MB free, and the pictures may need {needed / 1e6:.0f} MB",
            where=out, fix="free some room, name a folder on another disk, or ask for fewer or smaller images",
        )  # fmt: skip


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _summarize(
    entries: Sequence[Entry], seed: int, min_prevalence: float, size: int, first_patient: int, boxes: int
) -> SynthSummary:
    count = len(entries)
    return SynthSummary(
        seed=seed,
        images=count,
        patients=len({entry.patient for entry in entries}),
        first_patient=first_patient,
        size=size,
        min_prevalence=min_prevalence,
        prevalence={name: sum(name in entry.findings for entry in entries) / count for name in FINDINGS},
        nih_prevalence={name: round(n / NIH_IMAGES, 5) for name, n in zip(FINDINGS, NIH_POSITIVES, strict=True)},
        no_finding=sum(not entry.findings for entry in entries) / count,
        boxes=boxes,
    )
