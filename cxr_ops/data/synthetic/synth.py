"""Generated radiographs in the layout of the NIH's ChestX-ray14: `cxr-ops data synth`.

A data set of people who do not exist, so that everything else can be tried without a download and without a patient.
The labels come from a model of the NIH's own labels, the pictures from `cxr_ops.data.synthetic.phantom`:

* A person has as many images as the NIH's patients with at most ten; sex, anatomy and the place of each finding stay.
* Each image has 14 correlated normal variables, of which a share is the person's. A finding is present where its
  variable is above a threshold (a multivariate probit model). The correlations give the NIH's co-occurrence, the
  thresholds its prevalences, or the least prevalence that was asked for.
* Findings depend on neither view, age nor sex, though the NIH's do: nobody can guess them without the picture.

Ids begin with `generated-`, which no source's do, and `ingest` gives the data a source of their own: they are a data
set of their own, and never mix with real patients.

Every random stream is keyed by the seed, the patient's number and the follow-up's. So a picture depends neither on how
many are made, nor on how many processes draw.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, closing
from functools import partial
from itertools import groupby
from pathlib import Path

import cv2
from pydantic import Field

from cxr_ops.data.synthetic import phantom
from cxr_ops.data.synthetic.entries import NIH_IMAGES, NIH_POSITIVES, Entry, draw_entries, stream
from cxr_ops.errors import CxrError, SettingsError, StorageError
from cxr_ops.labels import BOX_NAMES, FINDINGS
from cxr_ops.records.base import Record, write_atomic
from cxr_ops.records.data import GENERATED_ID, NOTICE

ENTRIES = "Data_Entry_2017.csv"
BOXES = "BBox_List_2017.csv"
SHEET = "synth.json"
# As released: three of the names hold a comma, and are not quoted.
ENTRY_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"

DEFAULT_SIZE = 192  # pixels; twice the demonstration's input, and enough to look at
MAX_PATIENTS = 99_999_999  # ids have eight digits
_BYTES_A_PIXEL = 1.05  # of a PNG, at most: noise does not compress
_CHUNK = 24  # images a worker draws at a time


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
        ids: what every id of an image and of a patient begins with; "" in folders that version 0.1 drew.
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
    ids: str = ""


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
            person = person or phantom.draw_person(stream(seed, "person", patient), female=entry.sex == "F")
            visit = phantom.draw_visit(stream(seed, "visit", patient, entry.follow_up), portable=entry.view == "AP")
            picture = phantom.render(
                person, visit, entry.findings, stream(seed, "picture", patient, entry.follow_up), size
            )
            _, png = cv2.imencode(".png", picture.pixels, (cv2.IMWRITE_PNG_COMPRESSION, 1))
            (folder / entry.name).write_bytes(png.tobytes())
            rows += [_box_row(entry.name, finding, box) for finding, box in picture.boxes]
    return len(entries), rows


def _box_row(name: str, finding: str, box: phantom.Box) -> str:
    label = _TO_BOX_NAME.get(finding, finding)
    return ",".join((name, label, *(f"{value:.6f}" for value in box))) + ",,,"


_TO_BOX_NAME = {finding: name for name, finding in BOX_NAMES.items()}


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
        ids=GENERATED_ID,
    )
